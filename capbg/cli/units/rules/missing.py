"""What a start needs of this machine beside the program: who it runs as, its directory, its files. systemd.exec(5).

What becomes of a start without them was measured on systemd 252.
"""

import glob
import grp
import os
import pwd
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from capbg.cli.units.findings import Finding, Level
from capbg.cli.units.load import Unit
from capbg.cli.units.syntax import Setting

from .facts import found, on, text
from .sandbox import handed_in, hiding

_ALWAYS_THERE = {"User": {"root", "nobody", "0", "65534"}, "Group": {"root", "0"}, "SupplementaryGroups": {"root", "0"}}
"""systemd knows them without asking the machine: nss-systemd(8)."""
_OWN = {"StateDirectory": "%S", "CacheDirectory": "%C", "LogsDirectory": "%L", "RuntimeDirectory": "%t"}
_OWN |= {"ConfigurationDirectory": "%E"}
"""Directories that systemd makes before it changes into one, and where."""
_MADE_LATER = tuple(map(Path, ("/run", "/var/run", "/tmp")))  # noqa: S108 - empty at boot
_ANOTHER_ROOT = ("RootDirectory", "RootImage", "MountImages", "ExtensionImages", "ExtensionDirectories")


def _missing(unit: Unit, at: Setting, what: str, why: str, *, fix: str, path: Path | None = None) -> Finding:
    """Of an installed unit it is a fault of this machine; what is below /run, something else may make in time."""
    made_later = path is not None and any(map(path.is_relative_to, _MADE_LATER))
    level = Level.WARNING if unit.installed and not made_later else Level.NOTE
    if made_later:
        why += " Something else may make it before that."
    return found(level, "not-found", at, why, fix=fix, what=what)


def identity(unit: Unit) -> Iterator[Finding]:
    """The user and the groups are there. A user's own systemd changes to none, and DynamicUser= makes them."""
    if unit.user:
        return
    for key, noun, status, exists in (
        ("User", "user", "217/USER", _is_user),
        ("Group", "group", "216/GROUP", _is_group),
        ("SupplementaryGroups", "group", "216/GROUP", _is_group),
    ):
        if key != "SupplementaryGroups" and on(unit, "DynamicUser"):
            continue
        settings = unit.all("Service", key)
        for setting in settings if key == "SupplementaryGroups" else settings[-1:]:
            for name in unit.expand(setting.value).split():
                if "%" in name or name in _ALWAYS_THERE[key] or exists(name):
                    continue
                make = f"Make it: {noun}add --system {name}"
                yield _missing(
                    unit,
                    setting,
                    f"no {noun} {name} on this machine",
                    f"The start fails with status {status}.",
                    fix=f"{make}; or write DynamicUser=yes." if key == "User" else f"{make}.",
                )


def _is_user(name: str) -> bool:
    return _is_known(lambda: pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name))


def _is_group(name: str) -> bool:
    return _is_known(lambda: grp.getgrgid(int(name)) if name.isdecimal() else grp.getgrnam(name))


def _is_known(ask: Callable[[], object]) -> bool:
    try:
        ask()
    except (KeyError, OverflowError):
        return False
    return True


def environment_files(unit: Unit) -> Iterator[Finding]:
    """Without its files nothing is started at all, ExecStartPre= neither."""
    for setting in unit.all("Service", "EnvironmentFile"):
        name = unit.expand(setting.value)
        if not name.startswith("/") or "%" in name:  # optional, not known, or (a relative path) ignored
            continue
        path = Path(name)
        if re.search(r"[*?\[]", name):
            lacks = f"no file {name}" if not glob.glob(name) and _can_be_searched(path) else ""
        else:
            lacks = _lack(path, "file", os.path.isdir, is_wanted=False)
        if lacks:
            yield _missing(
                unit,
                setting,
                f"{lacks} on this machine",
                "The start fails with Result=resources, before any command of the unit is run.",
                fix=f"Write the file, or EnvironmentFile=-{setting.value} if the program can do without.",
                path=path,
            )


def _can_be_searched(pattern: Path) -> bool:
    """Whether what does not match is not there: of a directory that is closed to us nothing is known."""
    folder = next(each for each in pattern.parents if not re.search(r"[*?\[]", str(each)))
    return not os.path.isdir(folder) or os.access(folder, os.R_OK | os.X_OK)


def _lack(path: Path, noun: str, is_directory: Callable[[Path], bool], *, is_wanted: bool) -> str:
    """What is not as it should be; empty: nothing, or it is not ours to see."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return f"no {noun} {path}"
    except OSError:
        return ""
    if is_directory(path) == is_wanted:
        return ""
    return f"{path} is {'no' if is_wanted else 'a'} directory"


def working_directory(unit: Unit) -> Iterator[Finding]:
    """The directory to start in is there when systemd changes into it."""
    setting = unit.last("Service", "WorkingDirectory")
    if setting is None or any(text(unit, key) for key in _ANOTHER_ROOT):
        return
    name = unit.expand(setting.value)
    if not name.startswith("/") or "%" in name:  # optional, ~, or not known
        return
    path = Path(name)
    made = [
        Path(unit.expand(place)) / unit.expand(word).partition(":")[0]
        for key, place in _OWN.items()
        for each in unit.all("Service", key)
        for word in each.value.split()
    ]
    if any(each.is_relative_to(path) for each in made) or any(map(path.is_relative_to, handed_in(unit))):
        return
    if any(path.is_relative_to(folder) for folder, _ in hiding(unit)):  # the rule "hidden" tells it
        return
    if lacks := _lack(path, "directory", os.path.isdir, is_wanted=True):
        yield _missing(
            unit,
            setting,
            f"{lacks} on this machine",
            "The start fails with status 200/CHDIR; so does ExecStartPre=, which cannot make it.",
            fix="Make it, or have systemd make one: StateDirectory=NAME and WorkingDirectory=%S/NAME.",
            path=path,
        )
