"""What the values of settings mean: systemd.time(7), systemd.service(5) and systemd.exec(5) as functions of a string.

It knows values, not units: no file is read here. A value that systemd would refuse raises ``ValueError`` with what it
expects, as the end of a sentence.
"""

import math
import re
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

_UNITS = {
    1e-6: "usec us µs μs",
    1e-3: "msec ms",
    1.0: "seconds second sec s",
    60.0: "minutes minute min m",
    3600.0: "hours hour hr h",
    86400.0: "days day d",
    604800.0: "weeks week w",
    2629800.0: "months month M",
    31557600.0: "years year y",
}
_FACTOR = {name: factor for factor, names in _UNITS.items() for name in names.split()}
_SPAN = re.compile(r"\s*\+?(\d+(?:\.\d+)?|\.\d+)\s*([^\W\d_]*)")
TRUE = frozenset({"1", "yes", "y", "true", "t", "on"})
FALSE = frozenset({"0", "no", "n", "false", "f", "off"})
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGTPE]?)")
_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "s": " "}
_ESCAPES |= {"\\": "\\", '"': '"', "'": "'"}
_CODE = re.compile(r"x([0-9A-Fa-f]{2})|([0-7]{3})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})")
_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)

_OF_THE_C_LIBRARY = "SUCCESS FAILURE"
_OF_LSB = "INVALIDARGUMENT NOTIMPLEMENTED NOPERMISSION NOTINSTALLED NOTCONFIGURED NOTRUNNING"
_OF_SYSEXITS = """
USAGE DATAERR NOINPUT NOUSER NOHOST UNAVAILABLE SOFTWARE OSERR OSFILE CANTCREAT IOERR TEMPFAIL PROTOCOL NOPERM CONFIG
"""
EXIT_NAMES = {name: number for number, name in enumerate(f"{_OF_THE_C_LIBRARY} {_OF_LSB}".split())}
EXIT_NAMES |= {name: number for number, name in enumerate(_OF_SYSEXITS.split(), 64)}
"""Names of exit statuses, without systemd's own from 200 on (systemd.exec(5), "Process exit codes")."""


def span(text: str, *, unit: float = 1.0) -> float:
    """Return a time span in seconds: ``3min 12s``, ``192``, ``1.5h``, ``infinity``. A bare number counts ``unit``."""
    if text.strip() == "infinity":
        return math.inf
    total, end = 0.0, 0
    while match := _SPAN.match(text, end):
        number, name = match.groups()
        if name and name not in _FACTOR:
            break
        total += float(number) * (_FACTOR[name] if name else unit)
        end = match.end()
    if not end or text[end:].strip():
        raise ValueError("a time span such as 192, 3min 12s or infinity")
    return total


def digits(seconds: float) -> str:
    """Return a time as systemd and capbg read it: digits to the microsecond and no exponent, or ``infinity``."""
    if seconds == math.inf:
        return "infinity"
    return str(int(seconds)) if seconds == int(seconds) else f"{seconds:.6f}".rstrip("0")


def boolean(text: str) -> bool:
    """Return a yes or no, in any of systemd's spellings."""
    if text.lower() in TRUE | FALSE:
        return text.lower() in TRUE
    raise ValueError("yes or no")


def signum(text: str) -> int:
    """Return a signal's number: ``SIGTERM``, ``TERM``, ``15``, ``RTMIN+1``."""
    name = text.removeprefix("SIG")
    if name.isdecimal() and 1 <= int(name) <= signal.SIGRTMAX:
        return int(name)
    if match := re.fullmatch(r"RTMIN(\+\d+)?|RTMAX(-\d+)?", name):
        number = (signal.SIGRTMIN if name.startswith("RTMIN") else signal.SIGRTMAX) + int(match[1] or match[2] or 0)
        if signal.SIGRTMIN <= number <= signal.SIGRTMAX:
            return number
    if f"SIG{name}" in signal.Signals.__members__:
        return signal.Signals[f"SIG{name}"]
    raise ValueError("a signal such as SIGTERM")


def signal_name(number: int) -> str:
    """Return a signal's name: ``SIGTERM``, ``SIGRTMIN+1``."""
    if number in set(signal.Signals):
        return signal.Signals(number).name
    return f"SIGRTMIN+{number - signal.SIGRTMIN}" if number > signal.SIGRTMIN else f"signal {number}"


def size(text: str) -> float:
    """Return a number of bytes, or of anything else that may be counted in K, M or G (of 1024): ``256M``, ``infinity``.

    A percentage raises: what it is a part of is not known here.
    """
    if text == "infinity":
        return math.inf
    if match := _SIZE.fullmatch(text):
        return float(match[1]) * 2.0 ** (10 * " KMGTPE".index(match[2] or " "))
    raise ValueError("a size such as 256M")


def words(text: str) -> list[str]:
    """Split a value into words, quotes and C escapes undone, as extract_first_word() does.

    Raises:
        ValueError: a quote is not closed, or a backslash ends the value.
    """
    return [word for _, word in _words(text)]


def bare_words(text: str) -> list[str]:
    """Return the words of a value that are written without quotes and escapes.

    Raises:
        ValueError: as :func:`words`.
    """
    return [word for raw, word in _words(text) if raw == word]


def _words(text: str) -> list[tuple[str, str]]:
    """Each word as it is written, and what it means."""
    found: list[tuple[str, str]] = []
    word: list[str] | None = None
    quote, at, start = "", 0, 0
    while at < len(text):
        char = text[at]
        if word is None:
            if char in " \t\n\r":
                at += 1
                continue
            word, start = [], at
        at += 1
        if char == "\\":
            if at == len(text):
                raise ValueError("something behind its last backslash")
            length, meaning = _escape(text[at:])
            word.append(meaning)
            at += length
        elif quote and char == quote:
            quote = ""
        elif not quote and char in "'\"":
            quote = char
        elif not quote and char in " \t\n\r":
            found.append((text[start : at - 1], "".join(word)))
            word = None
        else:
            word.append(char)
    if quote:
        raise ValueError("every quote closed")
    return found if word is None else [*found, (text[start:], "".join(word))]


def _escape(rest: str) -> tuple[int, str]:
    """What stands behind a backslash: how long it is, and what it means. An unknown one stays as it is."""
    if match := _CODE.match(rest):
        code = next(int(each, 8 if number == 1 else 16) for number, each in enumerate(match.groups()) if each)
        return match.end(), chr(code) if code <= sys.maxunicode else f"\\{match[0]}"
    return 1, _ESCAPES.get(rest[0], f"\\{rest[0]}")


@dataclass(frozen=True, slots=True)
class Command:
    """One command of an Exec setting."""

    prefixes: str
    """What of ``@ - : + !`` stands in front of it."""
    argv: tuple[str, ...]
    """The program as it is written, then its arguments; behind ``@``, without the name it is given."""

    @property
    def program(self) -> str:
        """The program's path, or its name if it is to be looked for."""
        return self.argv[0]


def commands(text: str) -> list[Command]:
    """Return the commands of one Exec setting: ``;`` as a word of its own divides them.

    Raises:
        ValueError: systemd would refuse to load the unit.
    """
    groups: list[list[str]] = [[]]
    for raw, word in _words(text):
        if raw == ";":
            groups.append([])
        else:
            groups[-1].append(";" if raw == "\\;" else word)
    found = []
    for first, *rest in filter(None, groups):
        program = first.lstrip("@-:+!|")
        prefixes = first[: len(first) - len(program)]
        if not program or program.endswith("/") or ("/" in program and program[0] not in "/%"):
            raise ValueError("an absolute path, or the bare name of a program in /usr/bin and the like")
        arguments = rest[1:] if "@" in prefixes else rest
        found.append(Command(prefixes, (program, *arguments)))
    return found


def assignments(text: str) -> tuple[dict[str, str], list[str]]:
    """Return the variables of an Environment= line, and the words in it that are none."""
    found: dict[str, str] = {}
    bad = []
    for word in words(text):
        name, equals, value = word.partition("=")
        if equals and _NAME.fullmatch(name):
            found[name] = value
        else:
            bad.append(word)
    return found, bad


def environment_file(text: str) -> dict[str, str]:
    """Return the variables of a file that EnvironmentFile= names."""
    found = {}
    for line in re.sub(r"\\\n", "", text).splitlines():
        name, equals, value = line.strip().partition("=")
        if equals and name[0] not in "#;" and _NAME.fullmatch(name.strip()):
            value = value.strip()
            if value[:1] in {"'", '"'} and value[-1:] == value[:1] and len(value) > 1:
                value = value[1:-1]
            found[name.strip()] = value
    return found


def exit_statuses(text: str) -> tuple[set[int], set[int]]:
    """Return the exit statuses and the signals of a SuccessExitStatus= line; what is neither is left out."""
    statuses: set[int] = set()
    signals: set[int] = set()
    for word in text.split():
        if word.isdecimal():
            statuses.add(int(word))
        elif word in EXIT_NAMES:
            statuses.add(EXIT_NAMES[word])
        else:
            try:
                signals.add(signum(word))
            except ValueError:  # one of the many names of statuses that are not looked at here
                continue
    return statuses, signals


def number(text: str) -> float:
    """Return a whole number, or ``infinity``."""
    if text != "infinity" and not text.isdecimal():
        raise ValueError("a number or infinity")
    return float(text)


def rlimit(text: str, *, of: Callable[[str], float]) -> float:
    """Return the soft value of a resource limit: ``SOFT:HARD``, or one for both."""
    soft, _, hard = text.partition(":")
    if hard and of(soft) > of(hard):
        raise ValueError("a soft limit that is no higher than the hard one")
    return of(soft)


# ------------------------------------------------------------------------------------ what systemd would refuse


def _one_of(*names: str) -> Callable[[str], object]:
    def check(text: str) -> None:
        if text not in names:
            raise ValueError(f"{', '.join(names[:-1])} or {names[-1]}")

    return check


def _boolean_or(*names: str) -> Callable[[str], object]:
    def check(text: str) -> None:
        if text not in names and text.lower() not in TRUE | FALSE:
            raise ValueError(f"yes, no or {' or '.join(names)}")

    return check


def _or_a_part(check: Callable[[str], object]) -> Callable[[str], object]:
    return lambda text: re.fullmatch(r"\d+(\.\d+)?%", text) or check(text)


def _or_nothing(check: Callable[[str], object]) -> Callable[[str], object]:
    return lambda text: text == "" or check(text)


_FAILURE = _one_of("terminate", "abort", "kill")
_KINDS: dict[Callable[[str], object], str] = {
    span: "TimeoutStopSec TimeoutSec TimeoutStartSec RestartSec RuntimeMaxSec RuntimeRandomizedExtraSec WatchdogSec "
    "RestartMaxDelaySec StartLimitIntervalSec StartLimitInterval JobTimeoutSec JobRunningTimeoutSec",
    _or_nothing(span): "TimeoutAbortSec",
    boolean: "RemainAfterExit GuessMainPID NonBlocking DynamicUser RemoveIPC NoNewPrivileges MemoryDenyWriteExecute "
    "RestrictRealtime RestrictSUIDSGID LockPersonality PrivateDevices ProtectKernelTunables ProtectKernelModules "
    "ProtectKernelLogs ProtectClock PrivateNetwork PrivateMounts PrivateIPC IgnoreSIGPIPE SendSIGKILL SendSIGHUP "
    "DefaultDependencies StopWhenUnneeded RefuseManualStart RefuseManualStop",
    signum: "KillSignal RestartKillSignal FinalKillSignal WatchdogSignal",
    _or_nothing(_or_a_part(number)): "TasksMax",
    _or_nothing(_or_a_part(size)): "MemoryMax MemoryHigh MemoryLimit MemorySwapMax",
    _one_of("simple", "exec", "forking", "oneshot", "dbus", "notify", "notify-reload", "idle"): "Type",
    _one_of("none", "main", "exec", "all"): "NotifyAccess",
    _or_nothing(_one_of("control-group", "mixed", "process", "none")): "KillMode",
    _one_of("no", "always", "on-success", "on-failure", "on-abnormal", "on-watchdog", "on-abort"): "Restart",
    _one_of("continue", "stop", "kill"): "OOMPolicy",
    _one_of("main", "cgroup"): "ExitType",
    _FAILURE: "TimeoutStartFailureMode TimeoutStopFailureMode",
    _boolean_or("read-only", "tmpfs"): "ProtectHome",
    _boolean_or("full", "strict"): "ProtectSystem",
    _boolean_or("disconnected"): "PrivateTmp",
    partial(rlimit, of=span): "LimitCPU",
    partial(rlimit, of=number): "LimitNOFILE LimitNPROC",
    partial(rlimit, of=size): "LimitAS LimitFSIZE LimitDATA LimitRSS",
}
_CHECKS = {key: check for check, keys in _KINDS.items() for key in keys.split()}


def fault(key: str, value: str) -> str | None:
    """Return what systemd expects of this setting if it would refuse the value, else None; not every one is known."""
    try:
        _CHECKS.get(key, str)(value)
    except ValueError as expected:
        return str(expected)
    return None
