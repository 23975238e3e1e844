"""What stands between systemd and a program: shells and runners, and which of them stay.

Pure functions of an argument list. Of the shells and of what comes with coreutils, util-linux, dbus, xvfb, strace and
make it was tried which of them replace themselves, and what becomes of SIGTERM at the others: Debian 12, dash 0.5.12,
bash 5.2, coreutils 9.1, util-linux 2.38. poetry, pipenv (both call os.exec on Linux) and pdm (it forwards) were read;
conda goes by its issue 10351, micromamba by its pull request 3152, the rest by their manuals.
"""

import re
import shlex
from dataclasses import dataclass
from enum import Enum

SHELLS = frozenset({"sh", "dash", "bash", "ksh", "mksh", "zsh", "ash", "fish", "busybox"})

_REPLACING = {
    "env": "-u --unset -C --chdir -S --split-string",
    "nice": "-n --adjustment",
    "nohup": "",
    "stdbuf": "-i -o -e --input --output --error",
    "setpriv": "--reuid --regid --groups --inh-caps --ambient-caps --bounding-set --securebits --pdeathsig --ruid "
    "--euid --rgid --egid --selinux-label --apparmor-profile",
    "ionice": "-c -n --class --classdata",
    "chrt": "-T -P -D --sched-runtime --sched-period --sched-deadline",
    "taskset": "",
    "prlimit": "",
    "setarch": "",
    "linux64": "",
    "linux32": "",
    "numactl": "-N -m -C -i --cpunodebind --membind --physcpubind --interleave",
    "cgexec": "-g",
    "chpst": "-u -U -b -e -/ -n -l -L -m -d -o -p -f -c -t",
    "setuidgid": "",
    "gosu": "",
    "su-exec": "",
    "systemd-cat": "-t -p --identifier --priority",
    "chroot": "",
    "nsenter": "-t --target",
    "unshare": "",
    "poetry": "",
    "pipenv": "",
}
"""What becomes the program it is told to run, and which of its options take a value of their own."""

_OPERANDS = {"taskset": 1, "chrt": 1, "setarch": 1, "chroot": 1, "setuidgid": 1, "gosu": 1, "su-exec": 1}
_OPERANDS |= {"poetry": 1, "pipenv": 1}
"""How many words stand before the program: a mask, a priority, a directory, a user, ``run``."""

_INTERPRETER = re.compile(r"(python|pypy|perl|ruby|node|php|lua|java|[a-z]*sh)[\d.]*")

_START_IT = "Start the program itself, without {name}."
_BY_ITS_PYTHON = "Start it by its environment's own interpreter: ExecStart=/path/to/venv/bin/python app.py."
_USER = "Write User= in [Service], and start the program itself."


class Manner(Enum):
    """What becomes of SIGTERM at a wrapper."""

    PASSES = "passes SIGTERM on"
    KILLS = "passes SIGTERM on, and kills the program 2 s later"
    DIES = "dies of SIGTERM, and passes nothing on"
    HOLDS = "waits for the program, and passes no signal on"
    LEAVES = "leaves at once, and the program behind"
    DEPENDS = "becomes the last command of its text if it is bash 5, and else stays and dies of SIGTERM"


_FAMILIES = [
    (Manner.PASSES, "sudo doas", _USER),
    (Manner.KILLS, "su runuser", _USER),
    (Manner.PASSES, "timeout", "Start the program itself; TimeoutStopSec= limits its stop, RuntimeMaxSec= its life."),
    (Manner.DIES, "flock", "Start the program itself: systemd never runs a service twice."),
    (Manner.KILLS, "script", _START_IT),
    (Manner.DIES, "unbuffer", _START_IT),
    (Manner.DIES, "xvfb-run", "Make a service of Xvfb, order this one After= it, and set Environment=DISPLAY=:99."),
    (Manner.DIES, "dbus-run-session", "Make it a user's service: systemctl --user has a session bus."),
    (Manner.DIES, "xargs npx npm yarn pnpm", _START_IT),
    (Manner.LEAVES, "setsid start-stop-daemon screen tmux", _START_IT),
    (Manner.HOLDS, "systemd-inhibit systemd-run strace gdb firejail bwrap", _START_IT),
    (Manner.DIES, "conda hatch", _BY_ITS_PYTHON),
    (Manner.PASSES, "tini dumb-init catatonit", "Start the program itself: systemd reaps what is left."),
    (Manner.PASSES, "make nodemon watchfiles supervisord", _START_IT),
    (Manner.PASSES, "uv uvx pdm mamba micromamba", _BY_ITS_PYTHON),
    (Manner.PASSES, "docker docker-compose", "Let the container's own tools run it; its patience is --stop-timeout."),
]
_STAYING = {name: (manner, fix) for manner, names, fix in _FAMILIES for name in names.split()}
_ONLY_WITH = {
    "docker": {"run", "start", "exec", "up"},
    "docker-compose": {"up", "run"},
    "uv": {"run"},
    "hatch": {"run"},
    "pdm": {"run"},
    "conda": {"run"},
    "mamba": {"run"},
    "micromamba": {"run"},
    "npm": {"start", "run", "exec", "run-script"},
    "yarn": {"start", "run", "exec"},
    "pnpm": {"start", "run", "exec"},
}
"""Programs of many commands: only these start something and wait for it."""


@dataclass(frozen=True, slots=True)
class Wrapper:
    """Something that stays between systemd and the program."""

    name: str
    manner: Manner
    fix: str
    """What to write instead, as a sentence."""


def wrapper(argv: tuple[str, ...]) -> Wrapper | None:
    """Return what stays between systemd and the program that is meant; None: systemd starts it itself."""
    name = _name(argv)
    words = list(argv[1:])
    if name in SHELLS:
        text = _command_text(name, words)
        return None if text is None else _of_shell(name, text)
    if name == "unshare" and {"-f", "--fork"} & set(words):
        return Wrapper(name, Manner.HOLDS, "Take --fork out, or use systemd's own Private...= settings.")
    if name in _STAYING:
        if name in _ONLY_WITH and not _ONLY_WITH[name] & set(words[:3]):
            return None
        manner, fix = _STAYING[name]
        return Wrapper(name, manner, fix.format(name=name))
    inner = _inner(name, words)
    return wrapper(inner) if inner else None


def program(argv: tuple[str, ...]) -> tuple[str, ...]:
    """Return the argument list of the program that is meant, wrappers that replace themselves taken off."""
    inner = _inner(_name(argv), list(argv[1:]))
    return program(inner) if inner else argv


def called(argv: tuple[str, ...]) -> list[list[str]]:
    """Return the simple commands that a command line runs: those of a shell's text, or the program that is meant."""
    name, *words = program(argv)
    shell = name.rpartition("/")[2]
    text = _command_text(shell, words) if shell in SHELLS else None
    if text is None:
        return [[name, *words]]
    found = [_command(tokens) for tokens in _simple_commands(text)]
    return [list(program(tuple(words[words[0] == "exec" :]))) for words in found if words not in ([], ["exec"])]


def script(argv: tuple[str, ...]) -> str:
    """Return the file that an interpreter is given to run; empty: it is none, or is given a text or a module."""
    name, *words = program(argv)
    if not _INTERPRETER.fullmatch(name.rpartition("/")[2]):
        return ""
    for before, word in zip(["", *words], words, strict=False):
        if re.fullmatch(r"-\w*[cm]", word):
            return ""
        if not word.startswith("-") and before not in {"-W", "-X"}:
            return word
    return ""


def script_wrapper(name: str, text: str) -> Wrapper | None:
    """Return the wrapper that a shell script is, from its text; None: some line of it ends in ``exec``."""
    commands = _simple_commands(text)
    if any(_executes(tokens) for tokens in commands):
        return None
    traps = any(tokens[0] == "trap" for tokens in commands)
    return Wrapper(name, Manner.HOLDS if traps else Manner.DIES, "Write exec in front of the script's last command.")


def _name(argv: tuple[str, ...]) -> str:
    return argv[0].rpartition("/")[2]


def _inner(name: str, words: list[str]) -> tuple[str, ...] | None:
    """What a wrapper that replaces itself is told to run; None: it is no such wrapper, or is told nothing."""
    if name not in _REPLACING:
        return None
    with_value, operands = _REPLACING[name].split(), _OPERANDS.get(name, 0)
    while words:
        word = words.pop(0)
        if word == "--":
            break
        if word.startswith("-"):
            if word in with_value and words:
                words.pop(0)
        elif operands:
            operands -= 1
        elif not (name == "env" and "=" in word):
            return (word, *words)
    return tuple(words) or None


def _command_text(name: str, words: list[str]) -> str | None:
    """What follows ``-c``, also in ``-lc``; a script's name is none."""
    if name == "busybox":
        words = words[1:] if words[:1] == ["sh"] else []
    for number, word in enumerate(words):
        if re.fullmatch(r"-\w*c\w*", word):
            return words[number + 1] if number + 1 < len(words) else None
        if not word.startswith(("-", "+")):
            return None
    return None


def _of_shell(name: str, text: str) -> Wrapper | None:
    commands, separators = _simple_commands(text), _separators(text)
    if not commands:
        return None
    last = commands[-1]
    fix = "Start the program itself; or, if it must be a shell, write exec in front of the program."
    if len(commands) > 1:
        fix = "Put what comes first into ExecStartPre=; or write exec in front of the program, the last command."
    if separators[-1:] == ["&"]:
        return Wrapper(name, Manner.LEAVES, "Start the program itself, in the foreground.")
    if "|" in separators:
        return Wrapper(name, Manner.DIES, "Start the program itself; StandardOutput= says where its output goes.")
    if _executes(last):
        inner = tuple(last[last.index("exec") + 1 :])
        return wrapper(inner) if inner else None
    if "trap" in {tokens[0] for tokens in commands}:
        return Wrapper(name, Manner.HOLDS, fix)
    redirected = any(set(token) <= set("<>&0123456789") and set(token) & set("<>") for token in last)
    return Wrapper(name, Manner.DEPENDS if name in {"bash", "zsh"} and not redirected else Manner.DIES, fix)


_SEPARATORS = frozenset({";", "&&", "||", "|", "&", "|&", ";;"})


def _tokens(text: str) -> list[str]:
    lexer = shlex.shlex(text.replace("\n", " ; "), posix=True, punctuation_chars=";&|<>()")
    lexer.whitespace_split = True
    lexer.commenters = "#"
    try:
        return list(lexer)
    except ValueError:  # quotes that are not closed: no shell would run it either
        return text.split()


def _simple_commands(text: str) -> list[list[str]]:
    """The words of each simple command, in order."""
    found: list[list[str]] = [[]]
    for line in text.replace("\\\n", " ").splitlines():
        for token in [*_tokens(line), ";"]:
            if token in _SEPARATORS:
                found.append([])
            else:
                found[-1].append(token)
    return [tokens for tokens in found if tokens]


def _separators(text: str) -> list[str]:
    return [token for token in _tokens(text.strip()) if token in _SEPARATORS]


_BEFORE_A_COMMAND = frozenset({"then", "else", "do", "{", "(", "!"})


def _command(tokens: list[str]) -> list[str]:
    """The command itself, without what a shell lets stand before it."""
    rest = list(tokens)
    while rest and (rest[0] in _BEFORE_A_COMMAND or re.match(r"[A-Za-z_]\w*=", rest[0])):
        rest.pop(0)
    return rest


def _executes(tokens: list[str]) -> bool:
    """``exec COMMAND``, and not the ``exec >log`` that only redirects."""
    rest = _command(tokens)
    return rest[:1] == ["exec"] and len(rest) > 1 and not re.fullmatch(r"\d*[<>&]+", rest[1])
