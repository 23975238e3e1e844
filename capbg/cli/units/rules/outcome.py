"""What comes out of a stop, and what follows: exit statuses, restarts, memory. systemd.service(5)."""

import math
from collections.abc import Iterator

from capbg.cli.units import values
from capbg.cli.units.findings import Finding, Level
from capbg.cli.units.load import Unit

from .facts import found, kind, on, text

_RESTARTED = {"always", "on-failure", "on-abnormal", "on-watchdog", "on-abort", "on-success"}


def unfinished_status(unit: Unit) -> Iterator[Finding]:
    """75 is a stop on time with work left behind."""
    lists = unit.all("Service", "SuccessExitStatus")
    if not any(75 in values.exit_statuses(each.value)[0] for each in lists):
        yield found(
            Level.NOTE,
            "success-status",
            lists[-1] if lists else unit,
            "Status 75 means stopped on time, but some task has not finished. The unit then shows as failed.",
            fix="Write SuccessExitStatus=75 if what is left behind waits for the next start.",
            what="" if lists else "no SuccessExitStatus=75",
        )


def restart(unit: Unit) -> Iterator[Finding]:
    """A crash is not the end of it."""
    value, setting = text(unit, "Restart", "no"), unit.last("Service", "Restart")
    if value in {"no", "on-success"} and kind(unit) != "oneshot":
        yield found(
            Level.NOTE,
            "restart",
            setting or unit,
            "After a crash it stays down until somebody looks.",
            fix="Write Restart=on-failure; a stop is never followed by a restart.",
            what="" if setting else "no Restart=",
        )


def start_limit(unit: Unit) -> Iterator[Finding]:
    """Five quick crashes must not end it for good."""
    setting = unit.last("Service", "Restart")
    if not setting or setting.value not in _RESTARTED:
        return
    delay = values.span(text(unit, "RestartSec", "0.1"))
    interval = values.span(
        text(unit, "StartLimitIntervalSec", section="Unit")
        or text(unit, "StartLimitInterval", section="Unit")
        or text(unit, "StartLimitInterval", "10")
    )
    burst = text(unit, "StartLimitBurst", text(unit, "StartLimitBurst", "5"), section="Unit")
    if not burst.isdecimal() or interval == math.inf or not interval or not int(burst):
        return
    if delay * int(burst) < interval:
        yield found(
            Level.NOTE,
            "start-limit",
            unit.last("Service", "RestartSec") or setting,
            f"{burst} crashes within {interval:g} s, {delay:g} s apart, and systemd gives up for good.",
            fix="Write RestartSec=5.",
        )


def forced_restart(unit: Unit) -> Iterator[Finding]:
    """A status of a stop that starts the program again."""
    for setting in unit.all("Service", "RestartForceExitStatus"):
        if {0, 75} & values.exit_statuses(setting.value)[0]:
            yield found(
                Level.NOTE,
                "restart-force",
                setting,
                "0 and 75 are the statuses of a stop: after a SIGTERM by hand, the program comes back. After "
                "`systemctl stop` it does not.",
                fix="Leave it if that is meant.",
            )


def lifetime(unit: Unit) -> Iterator[Finding]:
    """A planned end that looks like a failure."""
    setting = unit.last("Service", "RuntimeMaxSec")
    if setting and 0 < values.span(setting.value) < math.inf:
        yield found(
            Level.WARNING,
            "runtime-max",
            setting,
            "It is a stop like any other, with the whole grace period, but its result is timeout: the unit is failed "
            "even if every task has finished.",
            fix="Have a timer restart it (systemctl restart), and take RuntimeMaxSec= out.",
        )


def out_of_memory(unit: Unit) -> Iterator[Finding]:
    """One worker out of memory is one task lost, not all."""
    setting = unit.last("Service", "OOMPolicy")
    policy = text(unit, "OOMPolicy", "continue" if on(unit, "Delegate") else "stop")  # systemd.service(5)
    if policy != "continue":
        yield found(
            Level.WARNING,
            "oom-policy",
            setting or unit,
            "When the kernel kills one worker for want of memory, the app and all other workers are killed with it.",
            fix="Write OOMPolicy=continue.",
            what="" if setting else "no OOMPolicy=: stop holds",
        )


def after_the_end(unit: Unit) -> Iterator[Finding]:
    """When the app has left, the service has ended."""
    setting = unit.last("Service", "RemainAfterExit")
    if setting and on(unit, "RemainAfterExit") and kind(unit) != "oneshot":
        yield found(
            Level.WARNING,
            "remain-after-exit",
            setting,
            "The unit stays active when the program has left: nobody sees that it is gone.",
            fix="Take RemainAfterExit= out.",
        )
    setting = unit.last("Service", "ExitType")
    if setting and setting.value == "cgroup":
        yield found(
            Level.WARNING,
            "exit-type",
            setting,
            "The service lasts as long as any process in it: the app's end does not end it while it is active, and a "
            "crash of the app goes unseen.",
            fix="Take ExitType= out.",
        )
