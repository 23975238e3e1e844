"""A unit file as a rehearsal plays it: its command, its settings, its environment, and what of it is not played.

This file must not know how a unit file is read, nor what is wrong with one (``capbg check`` says that).
"""

import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass

from capbg.cli.rehearsal.record import Settings
from capbg.cli.units import values
from capbg.cli.units.load import Unit, UnitFileError
from capbg.cli.units.rules import facts

_TYPES = {"notify": "notify", "notify-reload": "notify", "simple": "exec", "exec": "exec", "idle": "exec"}
_SETTINGS = """
ExecStartPre ExecStartPost ExecStop ExecStopPost ExecReload Restart RuntimeMaxSec User DynamicUser Group
WorkingDirectory RootDirectory SystemCallFilter ProtectSystem UMask Nice MemoryMax TasksMax WatchdogSignal
FinalKillSignal RestartKillSignal SendSIGHUP PIDFile
"""
_NOT_PLAYED = tuple(_SETTINGS.split())


@dataclass(frozen=True, slots=True)
class Played:
    """What is taken from a unit."""

    command: tuple[str, ...]
    settings: Settings
    environ: dict[str, str]
    """What the unit adds to the environment."""
    kill_signal: signal.Signals
    not_played: tuple[str, ...]
    """Settings that it has, and a rehearsal passes over."""


def play(unit: Unit) -> Played:
    """Take from a unit what a rehearsal can play.

    Raises:
        UnitFileError: it has no command, or it is of a type whose main process a rehearsal cannot know.
    """
    kind = facts.kind(unit)
    if kind not in _TYPES:
        raise UnitFileError(
            f"{unit.name} is Type={kind}: a rehearsal plays notify, exec and simple; give the command behind -- instead"
        )
    found = next(facts.commands(unit, "ExecStart"), None)
    if found is None:
        raise UnitFileError(
            f"{unit.name} has no ExecStart= that systemd would take: `capbg check {unit.path}` says why"
        )
    environ = {name: variable.value for name, variable in facts.environment(unit).items()}
    timeout_start = unit.last("Service", "TimeoutStartSec")
    timeout_abort = unit.last("Service", "TimeoutAbortSec")
    exits, _ = values.exit_statuses(" ".join(each.value for each in unit.all("Service", "SuccessExitStatus")))
    access = facts.text(unit, "NotifyAccess", "main" if facts.has_notify_socket(unit) else "none")
    settings = Settings(
        type=_TYPES[kind],
        notify_access="main" if access == "exec" else access,
        kill_mode=facts.text(unit, "KillMode", "control-group"),
        timeout_start_s=90.0 if timeout_start is None else values.span(timeout_start.value),
        timeout_stop_s=facts.stop_timeout(unit)[1],
        timeout_abort_s=None if timeout_abort is None else values.span(timeout_abort.value),
        failure_mode=facts.text(unit, "TimeoutStopFailureMode", "terminate"),
        watchdog_s=facts.watchdog_s(unit),
        send_sigkill=facts.on(unit, "SendSIGKILL", default=True),
        success_statuses=tuple(sorted(exits)),
    )
    return Played(
        command=_expanded(found[1].argv, environ),
        settings=settings,
        environ=environ,
        kill_signal=_kill_signal(unit),
        not_played=tuple(_not_played(unit)),
    )


def _kill_signal(unit: Unit) -> signal.Signals:
    text = facts.text(unit, "KillSignal", "SIGTERM")
    try:
        return signal.Signals(values.signum(text))
    except ValueError:
        raise UnitFileError(
            f"{unit.name} has KillSignal={text}: a rehearsal plays the signals up to SIGSYS, no real-time ones; "
            "rehearse the command behind -- with another one (--signal), if the program takes one"
        ) from None


def _not_played(unit: Unit) -> Iterator[str]:
    limits = sorted({each.key for each in unit.settings if each.section == "Service" and each.key.startswith("Limit")})
    yield from (f"{key}=" for key in (*_NOT_PLAYED, *limits) if unit.last("Service", key))
    if unit.last("Service", "EnvironmentFile") and not unit.installed:
        yield "EnvironmentFile="  # it is read for units that are installed here


def _expanded(argv: tuple[str, ...], environ: dict[str, str]) -> tuple[str, ...]:
    """Replace variables as systemd.service(5) has it: ${A} within a word, $A as a word of its own is split."""
    found: list[str] = []
    for word in argv:
        if re.fullmatch(r"\$[A-Za-z_]\w*", word):
            found += environ.get(word[1:], "").split()
        else:
            braced = re.sub(r"\$\{([A-Za-z_]\w*)\}", lambda match: environ.get(match[1], ""), word)
            found.append(braced.replace("$$", "$"))
    return tuple(found)
