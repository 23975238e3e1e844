"""Whether the program and systemd hear each other: Type=, NotifyAccess=, the watchdog. systemd.service(5)."""

import signal
from collections.abc import Iterator

from capbg.cli.units import values
from capbg.cli.units.findings import Finding, Level
from capbg.cli.units.load import Unit

from .facts import found, has_notify_socket, kind, text, watchdog_s

_SHORT_WATCHDOG_S = 2.0


def service_type(unit: Unit) -> Iterator[Finding]:
    """Started means that the program is ready to be stopped."""
    now, at = kind(unit), unit.last("Service", "Type") or unit
    if now.startswith("notify"):
        return
    what = f"Type={now}" if unit.last("Service", "Type") else f"no Type=: {now} holds"
    if now == "forking":
        why = (
            "systemd waits until the first process has left; a program with capbg stays in the foreground, "
            "and the start times out."
        )
        yield found(Level.ERROR, "type", at, why, fix="Write Type=notify.", what=what)
        return
    if now == "oneshot":
        why = "It is for programs that end by themselves: while this one runs, the unit is still starting."
    else:
        why = "For systemd it has started before it can handle a signal: a stop at that moment ends it, no task runs."
    if not has_notify_socket(unit):
        why += " And there is no notify socket: no status, no READY=1, no extension of the stop."
    yield found(Level.WARNING, "type", at, why, fix="Write Type=notify; capbg sends READY=1.", what=what)


def refused_type(unit: Unit) -> Iterator[Finding]:
    """What goes with a type, and what does not."""
    setting, again = unit.last("Service", "Type"), unit.last("Service", "Restart")
    if setting and setting.value == "dbus" and not unit.last("Service", "BusName"):
        yield found(
            Level.ERROR,
            "refused",
            setting,
            "Without BusName= systemd does not load the unit.",
            fix="Write BusName=, or Type=notify.",
        )
    if again and kind(unit) == "oneshot" and again.value in {"always", "on-success"}:
        yield found(
            Level.ERROR,
            "refused",
            again,
            "With Type=oneshot systemd does not load the unit: it would never be done.",
            fix="Write Restart=on-failure, or another Type=.",
        )


def main_pid(unit: Unit) -> Iterator[Finding]:
    """systemd must know whom to signal."""
    if kind(unit) == "forking" and not unit.last("Service", "PIDFile"):
        yield found(
            Level.NOTE,
            "main-pid",
            unit.last("Service", "Type") or unit,
            "Without PIDFile= systemd guesses the main process, and knows none if two are left.",
            fix="Type=notify or exec and no daemonizing, or PIDFile=.",
        )


def pid_file(unit: Unit) -> Iterator[Finding]:
    """A main process by hearsay is none of systemd's own children."""
    setting = unit.last("Service", "PIDFile")
    if setting and kind(unit) != "forking":
        yield found(
            Level.WARNING,
            "main-pid",
            setting,
            "When the program leaves, what this file names becomes the main process; one that is not systemd's child "
            "is killed within 10 ms of its SIGTERM.",
            fix="Take PIDFile= out: systemd knows the process that it has started.",
        )


def notify_access(unit: Unit) -> Iterator[Finding]:
    """The app speaks, workers do not."""
    setting = unit.last("Service", "NotifyAccess")
    if setting and setting.value == "all":
        yield found(
            Level.WARNING,
            "notify-access",
            setting,
            "Any process of the service can then say that it is stopping, or that all is well while the app hangs.",
            fix="Write NotifyAccess=main.",
        )


def watchdog(unit: Unit) -> Iterator[Finding]:
    """A watchdog that does not bite what is well."""
    setting, interval = unit.last("Service", "WatchdogSec"), watchdog_s(unit)
    if not setting or not interval:
        return
    if interval < _SHORT_WATCHDOG_S:
        yield found(
            Level.WARNING,
            "watchdog",
            setting,
            "A pause of that length is no hang: swapping or a busy disk takes as long, and the program is killed with "
            "all its workers.",
            fix="Write WatchdogSec=30, and call heartbeat() or pump() more often than that.",
        )
    if kind(unit) in {"simple", "exec", "idle"}:
        yield found(
            Level.WARNING,
            "watchdog",
            setting,
            f"With Type={kind(unit)} it counts from the first instant: a slow start is killed.",
            fix="Write Type=notify: then it counts from READY=1.",
        )


def watchdog_signal(unit: Unit) -> Iterator[Finding]:
    """The watchdog's signal leaves a trace."""
    setting = unit.last("Service", "WatchdogSignal")
    if setting and values.signum(setting.value) == signal.SIGKILL:
        yield found(
            Level.NOTE,
            "watchdog-signal",
            setting,
            "What hung cannot be seen afterwards: no core, and no traceback of Python's faulthandler.",
            fix="Take WatchdogSignal= out: SIGABRT is the default.",
        )


def watchdog_without_restart(unit: Unit) -> Iterator[Finding]:
    """What the watchdog ends is to come back."""
    setting = unit.last("Service", "WatchdogSec")
    if setting and watchdog_s(unit) and text(unit, "Restart", "no") in {"no", "on-success", "on-abort"}:
        yield found(
            Level.WARNING,
            "watchdog-restart",
            unit.last("Service", "Restart") or setting,
            "The watchdog kills what hangs, and nothing starts it again.",
            fix="Write Restart=on-failure.",
            what=f"WatchdogSec={setting.value} with Restart={text(unit, 'Restart', 'no')}",
        )
