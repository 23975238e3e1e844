"""What systemd starts: ExecStart= and its kin, and what stands between it and the program. systemd.service(5)."""

import os
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from capbg.cli.units import values
from capbg.cli.units.findings import Finding, Level
from capbg.cli.units.load import Unit

from .facts import commands, found, kind, on, text, watchdog_s
from .wrappers import SHELLS, Manner, Wrapper, program, script, script_wrapper, wrapper

_KEYS = ("ExecCondition", "ExecStartPre", "ExecStart", "ExecStartPost", "ExecReload", "ExecStop", "ExecStopPost")
_OF_A_SHELL = frozenset({"|", "||", "&&", "&", ">", ">>", "<", "2>&1", "2>", ">&2"})
_SEARCH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
"""Where a bare name is looked for: systemd.service(5), "Command lines"."""
_IGNORED = re.compile(r"[\"']?[@:+!|]*-")
_LONGEST_SCRIPT = 1 << 20


def command_line(unit: Unit) -> Iterator[Finding]:
    """Every command can be read, and is no shell's."""
    for key in _KEYS:
        for setting in unit.all("Service", key):
            try:
                values.commands(setting.value)
            except ValueError as expected:
                refused = key == "ExecStart" or not _IGNORED.match(setting.value)
                yield found(
                    Level.ERROR if refused else Level.WARNING,
                    "command-line",
                    setting,
                    f"systemd expects {expected}, and "
                    + ("does not load the unit." if refused else "ignores the line because of its minus."),
                    fix="Mend the line; see COMMAND LINES in systemd.service(5).",
                )
                continue
            words = values.bare_words(setting.value)  # in quotes they are meant: jq ".a | .b"
            if "#" in words:
                yield found(
                    Level.WARNING,
                    "command-line",
                    setting,
                    "There are no comments behind a value: the program gets these words as arguments.",
                    fix="Put the comment in a line of its own.",
                )
            operators = [word for word in words if word in _OF_A_SHELL]
            if operators:
                yield found(
                    Level.WARNING,
                    "command-line",
                    setting,
                    f"No shell reads this line: the program gets {operators[0]} as an argument.",
                    fix="Use StandardOutput= and StandardError= for output, ExecStartPre= for what comes first.",
                )


def exec_start(unit: Unit) -> Iterator[Finding]:
    """There is one command, and its failure counts."""
    settings = unit.all("Service", "ExecStart")
    if not settings:
        if not (
            unit.last("Unit", "SuccessAction") or (unit.all("Service", "ExecStop") and on(unit, "RemainAfterExit"))
        ):
            yield found(
                Level.ERROR,
                "exec-start",
                unit,
                "systemd does not load a service that starts nothing.",
                fix="Write ExecStart= with the program's absolute path in [Service].",
                what="no ExecStart=",
            )
        return
    all_of_them = list(commands(unit, "ExecStart"))
    if len(all_of_them) > 1 and kind(unit) != "oneshot":
        yield found(
            Level.ERROR,
            "exec-start",
            all_of_them[1][0],
            "Only Type=oneshot may have more than one command; systemd does not load the unit.",
            fix="Use ExecStartPre= for what comes first. A drop-in that replaces the command begins with an empty "
            "ExecStart=.",
        )


def ignored_status(unit: Unit) -> Iterator[Finding]:
    """A minus hides every failure."""
    for setting, command in commands(unit, "ExecStart"):
        if "-" in command.prefixes:
            yield found(
                Level.WARNING,
                "exec-start-minus",
                setting,
                "The minus makes a success of every exit status and every crash: nobody sees what is left behind, and "
                "Restart=on-failure acts on the watchdog and on timeouts alone.",
                fix="Take the minus out; SuccessExitStatus=75 says which status is none of a failure.",
            )


def not_found(unit: Unit) -> Iterator[Finding]:
    """What is to be started is there."""
    if text(unit, "RootDirectory") or text(unit, "RootImage"):
        return
    level = Level.WARNING if unit.installed else Level.NOTE
    for setting, command in commands(unit, "ExecStart"):
        path = Path(command.program)
        if "%" in command.program or "$" in command.program:
            continue
        if not path.is_absolute():
            search = [word for each in unit.all("Service", "ExecSearchPath") for word in each.value.split(":")]
            if shutil.which(command.program, path=":".join(search or _SEARCH)) is None:
                yield found(
                    level,
                    "not-found",
                    setting,
                    f"systemd looks for it in {', '.join(search or _SEARCH)}, whatever your own PATH is: the start "
                    "fails with status 203/EXEC.",
                    fix="Write the program's absolute path.",
                    what=f"no {command.program} on this machine",
                )
            continue
        try:
            mode = path.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            what = f"no {path} on this machine"
        except OSError:
            continue  # not ours to see
        else:
            if stat.S_ISREG(mode) and mode & 0o111:
                continue
            what = f"{path} cannot be executed"
        why = "The start fails with status 203/EXEC."
        yield found(level, "not-found", setting, why, fix="Install it, or correct the path.", what=what)


def relative_script(unit: Unit) -> Iterator[Finding]:
    """What an interpreter is to run is looked for where systemd starts it."""
    if unit.last("Service", "WorkingDirectory"):
        return
    folder = "the home directory" if unit.user else "/"
    for setting, command in commands(unit, "ExecStart"):
        name = script(command.argv)
        if name.endswith(".py") and not name.startswith(("/", "$", "%")):
            yield found(
                Level.WARNING,
                "relative-path",
                setting,
                f"systemd starts the program in {folder}, and {name} is looked for there.",
                fix="Write its absolute path, or WorkingDirectory=.",
                what=f"{name} is a relative path, and there is no WorkingDirectory=",
            )


def in_between(unit: Unit) -> Iterator[Finding]:
    """systemd signals and hears the program itself."""
    if kind(unit) in {"oneshot", "forking"}:  # there it may well end before the program
        return
    for setting, command in commands(unit, "ExecStart"):
        stays = wrapper(command.argv) or _script(unit, command.argv)
        if stays:
            level, consequence = _consequence(unit, stays.manner)
            yield found(
                level,
                "wrapper",
                setting,
                f"systemd signals and hears {stays.name}, which {stays.manner.value}. {consequence}",
                fix=stays.fix,
                what=f"{stays.name} stands between systemd and the program",
            )


def _consequence(unit: Unit, manner: Manner) -> tuple[Level, str]:
    """How bad it is, and what comes of it: facts measured on systemd 252."""
    mode = text(unit, "KillMode", "control-group")
    unheard = kind(unit).startswith("notify") and text(unit, "NotifyAccess", "main") in {"main", "none"}
    level = Level.ERROR
    if manner is Manner.DEPENDS:
        return Level.WARNING, "With a shell that stays, a stop loses everything."
    if manner is Manner.PASSES:
        level, told = Level.NOTE, "Its exit status and its patience are what counts."
    elif manner is Manner.KILLS:
        told = "No grace period is longer than that."
    elif mode == "process":
        told = "The program never hears of the stop, and is left running."
    elif mode == "mixed" and manner is Manner.HOLDS:
        told = "The program never hears of the stop, and is killed at its end."
    elif mode == "mixed":
        told = "When it has gone, everything else is killed at once."
    else:
        level = Level.WARNING
        told = "The program is signalled along with it, and once more when it has gone; its exit status is never seen."
    if unheard:
        level = Level.ERROR
        told += " READY=1 and every extension come from its child and are dropped: the start times out."
    return level, told


def _script(unit: Unit, argv: tuple[str, ...]) -> Wrapper | None:
    """A shell script, whose text is on this machine."""
    inner = program(argv)
    name = inner[0].rpartition("/")[2]
    candidates = [word for word in inner[1:] if not word.startswith("-")][:1] if name in SHELLS else inner[:1]
    for each in candidates:
        path = Path(each)
        if not path.is_absolute() or not os.path.isfile(path) or path.stat().st_size > _LONGEST_SCRIPT:
            continue
        try:
            content = path.read_bytes()
        except OSError:
            continue  # not ours to read: what it does is not known
        first = content.split(b"\n", 1)[0].decode("utf-8", "replace")
        interpreter = {word.rpartition("/")[2] for word in first.removeprefix("#!").split()}
        if name in SHELLS or (first.startswith("#!") and interpreter & SHELLS):
            return script_wrapper(path.name, content.decode("utf-8", "replace"))
    return None


def variables(unit: Unit) -> Iterator[Finding]:
    """What Environment= says reaches the program."""
    for setting in unit.all("Service", "Environment"):
        try:
            _, bad = values.assignments(setting.value)
        except ValueError as expected:
            yield found(
                Level.WARNING,
                "environment",
                setting,
                f"systemd expects {expected}, and ignores the line from there on.",
                fix='Put quotes around the whole assignment: Environment="NAME=a value".',
            )
            continue
        if bad:
            yield found(
                Level.WARNING,
                "environment",
                setting,
                f"{bad[0]!r} is no assignment; systemd ignores it. There are no comments behind a value, and a value "
                "with spaces needs quotes.",
                fix='Put quotes around the whole assignment: Environment="NAME=a value".',
            )


def heartbeat(unit: Unit) -> Iterator[Finding]:
    """A watchdog needs a program that feeds it."""
    setting = unit.last("Service", "WatchdogSec")
    if not setting or not watchdog_s(unit):
        return
    for _, command in commands(unit, "ExecStart"):
        script = next((Path(word) for word in program(command.argv) if word.endswith(".py")), None)
        if (
            not script
            or not script.is_absolute()
            or not os.path.isfile(script)
            or script.stat().st_size > _LONGEST_SCRIPT
        ):
            continue
        try:
            source = script.read_text("utf-8", "replace")
        except OSError:
            continue  # not ours to read
        if "capbg" in source and not any(word in source for word in _FEEDING):
            yield found(
                Level.WARNING,
                "heartbeat",
                setting,
                f"Nothing in {script} calls heartbeat() or pump(), nor uses capbg.loops: the watchdog kills it.",
                fix="Call app.heartbeat() in the main loop, or take WatchdogSec= out.",
            )


_FEEDING = ("heartbeat", "pump", "loops", "fileno")
