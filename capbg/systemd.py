"""``capbg.systemd``: what systemd has told this process, for the program itself.

An :class:`~capbg.App` asks all this on its own; a program needs it to choose its own rhythm and words (log without
timestamps under systemd, call ``heartbeat()`` often enough, fit its work into the operator's grace). Each function
reads the environment when it is called, changes nothing and sends nothing. From any thread.

This file must not know how systemd is talked to, nor what an app does with the answers.
"""

import os

from capbg._core.budget import seconds_from_environment
from capbg._core.words import NS
from capbg._os.notify import watchdog_ns

__all__ = ["is_service", "unit_grace", "watchdog_interval"]


def is_service() -> bool:
    """Tell whether systemd started this very process.

    False in workers and every other child, also in a program that a shell script in ``ExecStart=`` starts without
    ``exec``: to such a one neither signals nor the watchdog are addressed. By ``SYSTEMD_EXEC_PID`` (systemd.exec(5),
    since v248); where that is not set, a process with ``INVOCATION_ID`` whose parent is PID 1 counts as a service.
    """
    started = os.environ.get("SYSTEMD_EXEC_PID")
    if started is not None:
        return started == str(os.getpid())
    return bool(os.environ.get("INVOCATION_ID")) and os.getppid() == 1


def watchdog_interval() -> float | None:
    """Return the seconds within which systemd wants a sign of life of this very process; None: it wants none.

    ``WatchdogSec=`` of the unit, as the program was started. A main loop whose rounds call ``App.heartbeat()`` should
    take no longer than half of it for one round. None in workers, which lose the variables. ``sd_watchdog_enabled(3)``.
    """
    interval = watchdog_ns(os.environ)
    return None if interval is None else interval / NS


def unit_grace() -> float | None:
    """Return the grace period the operator has set for this unit, in seconds (``CAPBG_GRACE``); None: none is set.

    It overrides ``App(grace=...)``. systemd itself tells a service nothing of its ``TimeoutStopSec=``: the variable is
    what stands beside it in the unit.

    Raises :class:`~capbg.InvalidEnvironmentError` for a value that is no number of seconds above 0, as ``App`` does.
    """
    text = os.environ.get("CAPBG_GRACE")
    return None if text is None else seconds_from_environment(text, "CAPBG_GRACE")
