"""A command as a person types it in a shell, made into one that systemd starts the same way.

systemd starts in ``/``, with a ``PATH`` and perhaps a user of its own, and reads a command line by rules that are not a
shell's: systemd.service(5), "Command lines". This file must not know what else a unit holds.
"""

import contextlib
import itertools
import os
import pwd
import re
import shutil
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from capbg.errors import OperatorError

HOMES = tuple(map(Path, ("/home", "/root", "/run/user")))
"""What ProtectHome= hides."""
TEMPORARY = tuple(map(Path, ("/tmp", "/var/tmp")))  # noqa: S108 - named, not written to
"""What PrivateTmp= replaces, and DynamicUser= with it."""
LONGEST_LINE = 1 << 20
"""LONG_LINE_MAX of systemd: it gives up a file with a longer line."""

_PLAIN = re.compile(r"[A-Za-z0-9_./:=,@+-]+")
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t", "%": "%%", "$": "$$"}
_MOST_LINKS = 40
"""As many symbolic links as the kernel follows: path_resolution(7)."""
_MOST_INTERPRETERS = 5
"""As deep as the kernel goes where an interpreter is a script itself: execve(2)."""


class CommandError(OperatorError):
    """systemd could not start this command. The message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command that does not depend on where and by whom it is started."""

    argv: tuple[str, ...]
    """The program by its absolute path, then its arguments."""
    moved: tuple[tuple[str, str], ...]
    """Arguments that named a file by a relative path, and what they are now."""
    folder: Path | None
    """Where it has to be started; None: anywhere."""
    places: tuple[Path, ...]
    """Where it has to get to: the program, what that is a link to, its interpreter, the paths among its arguments."""
    doubts: tuple[str, ...]
    """Sentences for the person: it works, but."""

    def below(self, folders: Sequence[Path]) -> list[Path]:
        """Return the places that lie below one of these directories, each once."""
        return list(dict.fromkeys(place for place in self.places if any(map(place.is_relative_to, folders))))

    def closed_to_others(self) -> tuple[Path, str] | None:
        """Return the first file or directory that only its owner can use, and the owner's name; None: there is none.

        Permissions are looked at, not access control lists.

        Raises:
            CommandError: its owner has no name.
        """
        for place in self.places:
            for path in (*reversed(place.parents), place):
                status = path.stat()
                needed = stat.S_IXOTH if stat.S_ISDIR(status.st_mode) or place == Path(self.argv[0]) else stat.S_IROTH
                if not status.st_mode & needed:
                    try:
                        return path, pwd.getpwuid(status.st_uid).pw_name
                    except KeyError:
                        raise CommandError(f"{path} belongs to user {status.st_uid}, who has no name here") from None
        return None


def look_up(words: Sequence[str], *, folder: Path, search: str) -> Command:
    """Find the program and make what names files absolute. ``search`` is a PATH, ``folder`` the current directory.

    Symbolic links stay: by its link a Python knows its virtual environment.

    Raises:
        CommandError: there is no such program, or systemd could not be told to start it.
    """
    if not words:
        raise CommandError("there is no command: write it behind --, as in `capbg unit --name N -- python app.py`")
    program = _program(words[0], folder, search)
    for word in words:
        _refuse_what_is_no_text(word)
    arguments, moved, doubts = [], [], []
    for word in words[1:]:
        absolute = _absolute(word, folder)
        arguments.append(absolute)
        if absolute != word:
            moved.append((word, absolute))
        elif word and not word.startswith(("-", "/")) and os.path.isdir(folder / word):
            doubts.append(f"{word!r} is left as it is: it names a directory here, but systemd starts the program in /")
    if "/shims/" in program:
        name = program.rpartition("/")[2]
        doubts.append(
            f"{program} is a shim, which looks for the program at each start, by settings that a service may not "
            f"have; name the program itself: `pyenv which {name}`, `asdf which {name}`"
        )
    start_in = folder if _is_module_here(program, arguments, folder) else None
    named = [Path(word) for word in arguments if word.startswith("/") and os.path.exists(word)]
    places = [place for path in (Path(program), *named) for place in _leads_to(path)]
    if start_in is not None:
        places.append(start_in)
    return Command((program, *arguments), tuple(moved), start_in, tuple(dict.fromkeys(places)), tuple(doubts))


def exec_start(argv: Sequence[str]) -> str:
    """Return the value of ExecStart= that starts exactly this.

    Raises:
        CommandError: it is longer than a line of a unit may be.
    """
    line = " ".join(quoted(word) for word in argv)
    if len(line.encode()) + len("ExecStart=\n") > LONGEST_LINE:
        raise CommandError("the command is longer than 1 MiB, and systemd gives up on such a line: put it into a file")
    return line


def quoted(word: str) -> str:
    """Return a word for a command line of a unit: ``%`` and ``$`` doubled, the rest in double quotes and C escapes."""
    if _PLAIN.fullmatch(word):
        return word
    return f'"{"".join(map(_escaped, word))}"'


def _escaped(char: str) -> str:
    if char in _ESCAPES:
        return _ESCAPES[char]
    if char == " " or char.isprintable():
        return char
    # Also what people cannot see: a file should show what it says.
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _refuse_what_is_no_text(word: str) -> None:
    """systemd's bus carries UTF-8 only, without Unicode's noncharacters: `systemctl status` would fail with others."""
    for char in word:
        code = ord(char)
        if 0xD800 <= code <= 0xDFFF or 0xFDD0 <= code <= 0xFDEF or code & 0xFFFE == 0xFFFE:
            raise CommandError(f"the argument {word!r} is no text (UTF-8), and systemd takes nothing else")
        if not code:
            raise CommandError(f"the argument {word!r} holds a NUL, which no program can be given")


def _program(word: str, folder: Path, search: str) -> str:
    if not word:
        raise CommandError("the command's first word, the program, is empty")
    if "/" in word:
        path = _simple(folder / word)
        if not os.path.lexists(path):
            raise CommandError(f"there is no program {path}")
        if not path.exists():
            raise CommandError(f"{path} is a link that leads nowhere")
        if path.is_dir():
            raise CommandError(f"{path} is a directory, not a program")
        if not os.access(path, os.X_OK):
            raise CommandError(
                f"{path} is not executable: put its interpreter in front of it, as in `-- python {word}`, "
                f"or make it a program by chmod +x and a first line such as #!/usr/bin/python3"
            )
    else:
        found = shutil.which(word, path=search)
        if found is None:
            here = f"; there is a file of that name here: write ./{word}" if os.path.isfile(folder / word) else ""
            raise CommandError(f"no program {word!r} is in the PATH ({search}){here}")
        path = _simple(folder / found)
    if unusable := [char for char in str(path) if char in "\"'\\$" or char < " " or char == "\x7f"]:
        raise CommandError(f"systemd starts no program with {unusable[0]!r} in its path: {str(path)!r}; move it")
    return str(path)


def _absolute(word: str, folder: Path) -> str:
    """The word, with the path made absolute if it is one, or an option's, that leads to a file from here."""
    # Not Path.is_file(), here and above: it raises where a word is too long for a path.
    option, equals, value = word.partition("=") if word.startswith("-") else ("", "", word)
    if not value or value.startswith(("/", "-")) or not os.path.isfile(folder / value):
        return word
    return f"{option}{equals}{_simple(folder / value)}"


def _simple(path: Path) -> Path:
    """Without ``.`` and ``..``. A ``..`` behind a symbolic link leads elsewhere than it looks: path_resolution(7)."""
    simple = Path(os.path.abspath(path))
    if ".." in path.parts and not (simple.exists() and path.exists() and simple.samefile(path)):
        return path.parent.resolve() / path.name
    return simple


def _is_module_here(program: str, arguments: Sequence[str], folder: Path) -> bool:
    """Whether it is ``python -m MODULE`` with a module of the current directory, where Python looks first."""
    if not program.rpartition("/")[2].startswith(("python", "pypy")):
        return False
    for word, following in itertools.pairwise(arguments):
        if word == "-m":
            top = folder / following.partition(".")[0]
            return os.path.isdir(top) or os.path.isfile(f"{top}.py")
        if not word.startswith("-"):
            return False
    return False


def _leads_to(path: Path, depth: int = 0) -> Iterator[Path]:
    """The file, each link on the way to what it is, and what interprets it."""
    start = path
    for _ in range(_MOST_LINKS):
        yield path
        if not path.is_symlink():
            break
        path = _simple(path.parent / path.readlink())
    yield path.resolve()
    for interpreter in _interpreters(start):
        if depth < _MOST_INTERPRETERS and interpreter.exists():
            yield from _leads_to(interpreter, depth + 1)


def _interpreters(path: Path) -> Iterator[Path]:
    """What a script names in its first line, and what a virtual environment's Python names as its base."""
    # What is closed to whoever writes the unit is not looked into; closed_to_others() will say so.
    with contextlib.suppress(OSError):
        with path.open("rb") as file:
            first = file.readline(256)
        if match := re.match(rb"#!\s*(/[^\s\0]+)", first):
            yield Path(os.fsdecode(match[1]))
    with contextlib.suppress(OSError):
        settings = (path.parent.parent / "pyvenv.cfg").read_text(errors="surrogateescape")
        if path.name.startswith("python") and (match_home := re.search(r"^home *= *(/.+)$", settings, re.MULTILINE)):
            yield Path(match_home[1], path.name)
