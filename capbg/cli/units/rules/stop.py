"""How a stop is asked for and how it ends: kill mode, signals, timeouts. systemd.kill(5); systemd/README.md."""

import math
import os
import signal
from collections.abc import Iterator
from itertools import zip_longest

from capbg.cli.units import values
from capbg.cli.units.findings import Finding, Level
from capbg.cli.units.load import Unit, find

from .facts import (
    GRACE_S,
    KILL_AFTER_S,
    LEAVING_S,
    commands,
    found,
    grace,
    has_notify_socket,
    kind,
    no_stop_timeout,
    on,
    stop_timeout,
    text,
)
from .wrappers import called

_POWEROFF_S = 30 * 60.0
"""JobTimeoutSec= of poweroff.target and reboot.target."""
_USER_MANAGER_S = 120.0
"""TimeoutStopSec= of user@.service."""
_USER_GRACE_S = _USER_MANAGER_S - KILL_AFTER_S - LEAVING_S
_HARMLESS = {signal.SIGCHLD, signal.SIGURG, signal.SIGWINCH, signal.SIGCONT}
_HARMLESS |= {signal.SIGSTOP, signal.SIGTTIN, signal.SIGTTOU}
"""What is ignored, or only stops a process, unless it is handled: signal(7). SIGCONT follows the signal of a stop."""


def kill_mode(unit: Unit) -> Iterator[Finding]:
    """Workers must not be hit by the signal that is meant for the app."""
    if text(unit, "KillMode", "control-group") == "control-group":
        yield found(
            Level.WARNING,
            "kill-mode",
            unit.last("Service", "KillMode") or unit,
            "SIGTERM goes to every process of the service at once. capbg's workers survive it; the programs that they "
            "call do not, and their work is lost in the middle.",
            fix="Write KillMode=mixed.",
            what="KillMode=control-group" if unit.last("Service", "KillMode") else "no KillMode=: control-group holds",
        )


def kill_mode_process(unit: Unit) -> Iterator[Finding]:
    """What is left running must be meant to be."""
    setting = unit.last("Service", "KillMode")
    if setting and setting.value == "process":
        yield found(
            Level.WARNING,
            "kill-mode",
            setting,
            "What the main process has started and not ended itself is left running after a stop, a worker that hangs "
            "among it, outside any deadline.",
            fix="Write KillMode=mixed, which ends it, unless it is meant to stay.",
        )


def kill_mode_none(unit: Unit) -> Iterator[Finding]:
    """Nobody is told to stop."""
    setting = unit.last("Service", "KillMode")
    if setting and setting.value == "none":
        yield found(
            Level.ERROR,
            "kill-mode",
            setting,
            "A stop signals nobody and returns at once; everything is left running until the machine goes down.",
            fix="Write KillMode=mixed.",
        )


def grace_value(unit: Unit) -> Iterator[Finding]:
    """A grace period that is no number fails the start."""
    variable, length = grace(unit)
    if variable and length is None:
        yield found(
            Level.ERROR,
            "grace",
            variable.at,
            "It must be a number of seconds above 0: the program ends with status 1 at its start.",
            fix=f"Write CAPBG_GRACE={_in_seconds(variable.value)}.",
            what=f"CAPBG_GRACE={variable.value}",
        )


def _in_seconds(text: str) -> str:
    """A span such as ``3min`` as the number that was meant; 180 where nothing can be made of it."""
    try:
        meant = values.span(text)
    except ValueError:
        meant = 0.0
    return values.digits(meant if 0 < meant < math.inf else GRACE_S)


def stop_covers_grace(unit: Unit) -> Iterator[Finding]:
    """TimeoutStopSec= covers the longest grace by itself."""
    setting, timeout = stop_timeout(unit)
    variable, length = grace(unit)
    if length is None or timeout >= length + KILL_AFTER_S + LEAVING_S:
        return
    needed = length + KILL_AFTER_S + LEAVING_S
    is_set = variable is not None or unit.grace is not None
    of_whom = "capbg's default grace, no CAPBG_GRACE= being set,"
    if is_set:
        of_whom = "CAPBG_GRACE" if variable else "CAPBG_GRACE of the process that runs"
    extended = has_notify_socket(unit)
    yield found(
        Level.WARNING if extended else Level.ERROR,
        "stop-timeout",
        setting or unit,
        f"{of_whom} is {length:g} s, and with {KILL_AFTER_S:g} s until hanging tasks are killed and {LEAVING_S:g} s to "
        f"leave a stop may take {needed:g} s; "
        + (
            "capbg has systemd extend the time, but every daemon-reload, which package upgrades make at any moment, "
            "drops the extension, and then everything is killed."
            if extended
            else f"without a notify socket nothing extends it: after {timeout:g} s everything is killed."
        ),
        fix=f"Write TimeoutStopSec={values.digits(math.ceil(needed))}"
        + ("" if is_set else ", or the grace that you mean: Environment=CAPBG_GRACE=SECONDS")
        + ".",
        what="" if setting else no_stop_timeout(unit, timeout),
    )


def stop_cap(unit: Unit) -> Iterator[Finding]:
    """What ends a stop whatever the unit says: the shutdown's own patience."""
    setting, timeout = stop_timeout(unit)
    variable, length = grace(unit)
    at = setting or (variable.at if variable else None)
    longest = max(timeout, length or 0)
    cap = _cap(unit)
    if timeout == math.inf:
        ends = f"at a logout all is killed after the {cap:g} s of user@.service."
        if not unit.user:
            ends = f"a poweroff waits {cap / 60:g} minutes, then forces it."
        needed = math.ceil((length or (_USER_GRACE_S if unit.user else GRACE_S)) + KILL_AFTER_S + LEAVING_S)
        yield found(
            Level.WARNING,
            "stop-timeout",
            setting or unit,
            "Nothing ever ends a stop that hangs" + (f"; {ends}" if cap < math.inf else "."),
            fix=f"Write the longest time that a stop may take: TimeoutStopSec={needed}.",
            what="" if setting else no_stop_timeout(unit, timeout),
        )
    elif unit.user and longest > cap:
        yield found(
            Level.WARNING,
            "stop-cap",
            at or unit,
            f"At logout and at a shutdown user@.service is killed after its own {cap:g} s, with every service in it, "
            "whatever they extend.",
            fix=f"A drop-in for user@.service with TimeoutStopSec={values.digits(longest)}, or a shorter grace.",
            what="" if at else f"a grace of {longest:g} s in a user's service",
        )
    elif not unit.user and longest > cap:
        yield found(
            Level.WARNING,
            "stop-cap",
            at or unit,
            f"JobTimeoutSec= of poweroff.target and reboot.target, {cap / 60:g} min, ends a shutdown by force: 90 s "
            "later the last process is killed, whatever is extended.",
            fix="A drop-in for both targets with a longer JobTimeoutSec=, or a shorter grace.",
        )


def _cap(unit: Unit) -> float:
    """Return after how many seconds a logout or a shutdown ends a stop by force: this machine's if it is installed."""
    if unit.user:
        above = find(f"user@{os.getuid()}.service") if unit.installed else None
        return stop_timeout(above)[1] if above else _USER_MANAGER_S
    targets = [find(name) for name in ("poweroff.target", "reboot.target")] if unit.installed else []
    return min((_job_timeout(each) for each in targets if each), default=_POWEROFF_S)


def _job_timeout(target: Unit) -> float:
    """Seconds until it acts by force; JobTimeoutAction=none only fails the job: systemd.unit(5)."""
    if text(target, "JobTimeoutAction", "none", section="Unit") == "none":
        return math.inf
    return values.span(text(target, "JobTimeoutSec", "infinity", section="Unit")) or math.inf


def kill_signal(unit: Unit) -> Iterator[Finding]:
    """The signal of a stop is one that capbg knows."""
    for key, verb in (("KillSignal", "stop"), ("RestartKillSignal", "restart")):
        setting = unit.last("Service", key)
        if not setting or values.signum(setting.value) in {signal.SIGTERM, signal.SIGINT, signal.SIGKILL}:
            continue
        number = values.signum(setting.value)
        why = (
            f"capbg stops on SIGTERM and SIGINT; unless the program handles {values.signal_name(number)} itself, "
            + ("nothing comes of it: systemd waits" if number in _HARMLESS else "it ends on the spot")
            + (" until the timeout, then kills it." if number in _HARMLESS else f", and a {verb} runs no task.")
        )
        if number == signal.SIGTSTP:
            why = "capbg suspends on SIGTSTP and does not leave: systemd kills it at the end of the timeout."
        yield found(Level.ERROR, "kill-signal", setting, why, fix=f"Take {key}= out: SIGTERM is the default.")


def kill_signal_kill(unit: Unit) -> Iterator[Finding]:
    """A stop by SIGKILL leaves nobody a moment."""
    for key, verb in (("KillSignal", "stop"), ("RestartKillSignal", "restart")):
        setting = unit.last("Service", key)
        if setting and values.signum(setting.value) == signal.SIGKILL:
            yield found(
                Level.ERROR,
                "kill-signal",
                setting,
                f"A {verb} kills the program at once: nothing can be finished.",
                fix=f"Take {key}= out: SIGTERM is the default.",
            )


def last_word(unit: Unit) -> Iterator[Finding]:
    """What hangs must be killed in the end."""
    setting = unit.last("Service", "FinalKillSignal")
    if setting and values.signum(setting.value) != signal.SIGKILL:
        yield found(
            Level.WARNING,
            "final-kill",
            setting,
            "It takes the place of SIGKILL. Any other signal can be caught, and then nothing is ever really killed.",
            fix="Take FinalKillSignal= out.",
        )
    setting = unit.last("Service", "SendSIGKILL")
    if setting and not on(unit, "SendSIGKILL", default=True):
        yield found(
            Level.WARNING,
            "final-kill",
            setting,
            "What hangs is left running after the stop, and meets the next start.",
            fix="Take SendSIGKILL= out.",
        )


def hangup(unit: Unit) -> Iterator[Finding]:
    """SIGHUP behind SIGTERM ends a program that does not handle it."""
    setting = unit.last("Service", "SendSIGHUP")
    if setting and on(unit, "SendSIGHUP"):
        yield found(
            Level.ERROR,
            "send-sighup",
            setting,
            "SIGHUP follows SIGTERM at once. capbg leaves it alone, and by default it ends the program on the spot.",
            fix="Take SendSIGHUP= out; it is for login shells.",
        )


def failure_mode(unit: Unit) -> Iterator[Finding]:
    """An abort at the timeout is no last call for tasks."""
    setting = unit.last("Service", "TimeoutStopFailureMode")
    if setting and setting.value == "abort":
        yield found(
            Level.NOTE,
            "stop-failure-mode",
            setting,
            "At the timeout the app gets WatchdogSignal= (SIGABRT), dumps core and ends; its workers end with it.",
            fix="Leave it if you want that core; no task gains time by it.",
        )


def exec_stop(unit: Unit) -> Iterator[Finding]:
    """ExecStop= comes before the signal."""
    for setting, command in commands(unit, "ExecStop"):
        sent = _signal_sent(command.argv)
        if sent in {signal.SIGTERM, signal.SIGINT}:
            yield found(
                Level.WARNING,
                "exec-stop",
                setting,
                "systemd sends SIGTERM itself, right behind ExecStop=. The first signal starts the grace period; a "
                "second one, more than 1 s later, means hurry, and every task expires.",
                fix="Take ExecStop= out.",
            )
        elif sent not in {None, signal.SIGKILL}:
            yield found(
                Level.ERROR,
                "exec-stop",
                setting,
                f"capbg stops on SIGTERM and SIGINT; {values.signal_name(sent or 0)} may end the program on the spot.",
                fix="Take ExecStop= out: systemd sends SIGTERM by itself.",
            )
        elif sent is None:
            yield found(
                Level.NOTE,
                "exec-stop",
                setting,
                "It runs before SIGTERM: until it returns, the app has not been told to stop.",
                fix="What is to happen after the stop belongs into ExecStopPost=.",
            )


def exec_stop_kills(unit: Unit) -> Iterator[Finding]:
    """Nobody may be killed before being asked."""
    for setting, command in commands(unit, "ExecStop"):
        killer = _killer(command.argv)
        if _signal_sent(command.argv) == signal.SIGKILL:
            yield found(
                Level.ERROR,
                "exec-stop-kills",
                setting,
                "It runs before SIGTERM is sent: the program is killed before it has been told to stop.",
                fix="Take ExecStop= out: systemd sends SIGTERM by itself.",
            )
        elif killer and killer[0] != "kill":
            yield found(
                Level.WARNING,
                "exec-stop-kills",
                setting,
                "It goes by a name: it hits workers, and anything else on this machine that is called so.",
                fix="Take ExecStop= out: systemd signals the main process of this service by itself.",
            )


def _signal_sent(argv: tuple[str, ...]) -> int | None:
    """The signal that a command sends by ``kill``; also behind a shell. None: it sends none."""
    words = _killer(argv)
    if words is None:
        return None
    for option, following in zip_longest(words[1:], words[2:], fillvalue=""):
        asked = following if option in {"-s", "--signal", "-n"} else option.removeprefix("--signal=").removeprefix("-")
        if option.startswith("-"):
            try:
                return values.signum(asked)
            except ValueError:
                continue
    return signal.SIGTERM


def _killer(argv: tuple[str, ...]) -> list[str] | None:
    """Return the first of the commands that is ``kill`` or its like; ``docker kill`` is another thing."""
    for words in called(argv):
        if (name := words[0].rpartition("/")[2]) in {"kill", "killall", "pkill"} and "-0" not in words:  # only asks
            return [name, *words[1:]]
    return None


def reload_hangup(unit: Unit) -> Iterator[Finding]:
    """A reload by SIGHUP ends a program that does not handle it."""
    for setting, command in commands(unit, "ExecReload"):
        if _signal_sent(command.argv) == signal.SIGHUP:
            yield found(
                Level.NOTE,
                "reload",
                setting,
                "capbg leaves SIGHUP alone: unless the program handles it itself, a reload ends it without a grace.",
                fix="Take ExecReload= out unless the program reads its settings anew on SIGHUP.",
            )
    if kind(unit) == "notify-reload" and (at := unit.last("Service", "Type")):
        yield found(
            Level.WARNING,
            "reload",
            at,
            "A reload sends SIGHUP and waits for RELOADING=1; capbg leaves SIGHUP alone, and it ends the program.",
            fix="Write Type=notify, unless the program does this itself.",
        )
