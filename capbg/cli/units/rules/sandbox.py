"""What a sandbox hides from the program or refuses it: systemd.exec(5)."""

import os
from collections.abc import Iterator
from pathlib import Path

from capbg.cli.units import values
from capbg.cli.units.findings import Finding, Level
from capbg.cli.units.load import Unit
from capbg.cli.units.syntax import Setting

from .facts import commands, found, has_notify_socket, on, text
from .wrappers import program, script

_HOMES = ("/home", "/root", "/run/user")
_TMPS = ("/tmp", "/var/tmp")  # noqa: S108 - these are what PrivateTmp= replaces
_EMPTY = {"PrivateTmp", "DynamicUser", "TemporaryFileSystem"}


def address_families(unit: Unit) -> Iterator[Finding]:
    """The notify socket is a Unix socket."""
    allowed: set[str] | None = None
    refused: set[str] = set()
    settings = unit.all("Service", "RestrictAddressFamilies")
    for setting in settings:
        if setting.value == "none":
            allowed, refused = set(), set()
            continue
        names = set(setting.value.removeprefix("~").split())
        inverted = setting.value.startswith("~")
        if setting is settings[0] and not inverted:
            allowed = set()
        if allowed is not None:
            allowed = allowed - names if inverted else allowed | names
        else:
            refused = refused | names if inverted else refused - names
    if not settings or not has_notify_socket(unit):
        return
    if "AF_UNIX" in refused or (allowed is not None and "AF_UNIX" not in allowed):
        yield found(
            Level.ERROR,
            "address-families",
            settings[-1],
            "The notify socket is a Unix socket: READY=1 cannot be sent, and the start times out; no stop is extended.",
            fix="Add AF_UNIX." if "AF_UNIX" not in refused else "Take AF_UNIX out of it.",
        )


def hidden(unit: Unit) -> Iterator[Finding]:
    """The program and its directory can be seen from within."""
    bound = handed_in(unit)
    told = set()
    for at, path, through in _named(unit):
        if any(path.is_relative_to(each) for each in bound):
            continue
        for folder, setting in hiding(unit):
            if path == folder and (setting.key in _EMPTY or setting.value == "tmpfs"):
                continue  # an empty directory in its place is a directory
            if path.is_relative_to(folder) and (at, setting) not in told:
                told.add((at, setting))
                yield found(
                    Level.ERROR,
                    "hidden",
                    at,
                    f"{setting.key}={setting.value} hides {folder} from the service: it does not start.",
                    fix=f"Put it in /opt or /usr, or hand it in: BindReadOnlyPaths={path.parent}.",
                    what=f"{path}{through} is below {folder}",
                )


def handed_in(unit: Unit) -> list[Path]:
    """Return where BindPaths= shows something else."""
    words = [
        word
        for key in ("BindPaths", "BindReadOnlyPaths")
        for each in unit.all("Service", key)
        for word in each.value.split()
    ]
    return [_destination(unit.expand(word)) for word in words]


def _destination(bound: str) -> Path:
    """Where a word of BindPaths= shows: ``SOURCE``, or ``SOURCE:DESTINATION:OPTIONS``."""
    source, *rest = bound.removeprefix("-").split(":")
    return Path(rest[0] if rest else source)


def _named(unit: Unit) -> Iterator[tuple[Setting, Path, str]]:
    """The paths that a service needs to start, and those that a virtual environment's interpreter leads to.

    An argument is one if a file is there now; else it may be what the program makes itself: a socket in its own /tmp.
    """
    for setting, command in commands(unit, "ExecStart"):
        for word in command.argv:
            if word.startswith("/") and (word in _started(command.argv) or os.path.isfile(word)):
                yield setting, Path(word), ""
        path = Path(command.program)
        if path.is_absolute() and os.path.isfile(path) and path.resolve().parent != path.parent:
            yield setting, path.resolve(), f", where {path} leads to,"
    directory = unit.last("Service", "WorkingDirectory")
    if directory and not directory.value.startswith("-"):
        value = unit.expand(directory.value)
        if value.startswith("/"):
            yield directory, Path(value), ""


def _started(argv: tuple[str, ...]) -> tuple[str, ...]:
    """The program, what it becomes, and the script that an interpreter is given."""
    return argv[0], program(argv)[0], script(argv)


def hiding(unit: Unit) -> Iterator[tuple[Path, Setting]]:
    """Return the directories that are not there for the service, and what says so."""
    home = unit.last("Service", "ProtectHome")
    if home and on(unit, "ProtectHome") and home.value != "read-only":
        yield from ((Path(each), home) for each in _HOMES)
    for key in ("PrivateTmp", "DynamicUser"):
        setting = unit.last("Service", key)
        if setting and on(unit, key):
            yield from ((Path(each), setting) for each in _TMPS)
            break
    for key in ("InaccessiblePaths", "InaccessibleDirectories", "TemporaryFileSystem"):
        for setting in unit.all("Service", key):
            for word in setting.value.split():
                path = Path(unit.expand(word).lstrip("-+").partition(":")[0])
                if path != Path("/"):
                    yield path, setting


def not_executable(unit: Unit) -> Iterator[Finding]:
    """The program may be executed."""
    allowed = [Path(word.lstrip("-+")) for each in unit.all("Service", "ExecPaths") for word in each.value.split()]
    for setting in unit.all("Service", "NoExecPaths"):
        for word in setting.value.split():
            for at, command in commands(unit, "ExecStart"):
                path = Path(command.program)
                if path.is_relative_to(word.lstrip("-+")) and not any(path.is_relative_to(each) for each in allowed):
                    yield found(
                        Level.ERROR,
                        "not-executable",
                        at,
                        f"NoExecPaths={setting.value} forbids it: the start fails with status 203/EXEC.",
                        fix=f"Write ExecPaths={path.parent} and the directories of its libraries.",
                    )


def raised_privileges(unit: Unit) -> Iterator[Finding]:
    """sudo cannot raise what may not be raised."""
    setting = unit.last("Service", "NoNewPrivileges")
    if not setting or not values.boolean(setting.value) or text(unit, "User", "root") == "root":
        return
    for at, command in commands(unit, "ExecStart"):
        if command.program.rpartition("/")[2] in {"sudo", "su", "doas"}:
            yield found(
                Level.ERROR,
                "privileges",
                at,
                "NoNewPrivileges=yes keeps set-user-ID programs from raising anything: the start fails.",
                fix="Write User= in [Service], and start the program itself.",
            )
