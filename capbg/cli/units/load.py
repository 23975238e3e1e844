"""Find a service's unit file and its drop-ins, and put them together as systemd does: systemd.unit(5).

It knows where files are and which assignment wins; it does not know what any setting is good for.
"""

import difflib
import os
import re
import socket
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from capbg.errors import OperatorError

from . import values
from .findings import Finding, Level
from .syntax import BrokenFileError, Setting, parse, parse_drop_in
from .vocabulary import KNOWN

SYSTEM = [
    *("/etc/systemd/system.control", "/run/systemd/system.control", "/run/systemd/transient"),
    *("/run/systemd/generator.early", "/etc/systemd/system", "/run/systemd/system", "/run/systemd/generator"),
    *("/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"),
    "/run/systemd/generator.late",
]
USER = ["/etc/systemd/user", "/run/systemd/user", "/usr/local/lib/systemd/user", "/usr/lib/systemd/user"]
"""Behind those in the user's own home."""

_DEPENDENCIES = """
After Before Wants Requires Requisite BindsTo PartOf Upholds Conflicts OnFailure OnSuccess PropagatesReloadTo
ReloadPropagatedFrom PropagatesStopTo StopPropagatedFrom JoinsNamespaceOf
"""
DEPENDENCIES = frozenset(_DEPENDENCIES.split())
"""Lists that an empty assignment does not reset: systemd.unit(5), "Example 2"."""


_OTHER_KINDS = frozenset(
    {"socket", "target", "timer", "mount", "automount", "swap", "path", "slice", "scope", "device"}
)
_TARGETS_OF_A_USER = frozenset(
    {"default.target", "basic.target", "sockets.target", "timers.target", "paths.target", "shutdown.target"}
    | {"graphical-session.target", "graphical-session-pre.target"}
)
_NEAR = 0.75
"""How alike two names must be for one to be a slip of the other, from 0 to 1."""


class UnitFileError(OperatorError):
    """A unit cannot be read, or systemd would not load it. The message names it and says what to do."""


@dataclass(frozen=True, slots=True)
class Unit:
    """A service as systemd would see it: its file, its drop-ins, and what they come to."""

    name: str
    """With its instance, if one is asked about: ``capbg@kiosk.service``."""
    path: Path
    """The unit file."""
    user: bool
    """It is a service of a user's own systemd."""
    drop_ins: tuple[Path, ...] = ()
    """In the order in which they are read."""
    settings: tuple[Setting, ...] = ()
    """All that systemd takes, in order, also what is overridden later."""
    findings: tuple[Finding, ...] = ()
    """What systemd would log and ignore."""
    installed: bool = False
    """It lies in the load path: what it names is looked for on this machine."""
    masked: bool = False
    """The file is empty, or a link to /dev/null: systemd refuses to start it."""
    grace: str | None = None
    """CAPBG_GRACE of a process of it that runs; it counts where the unit itself sets none."""

    def all(self, section: str, key: str) -> list[Setting]:
        """Return the assignments that hold, in order; an empty one drops those before it."""
        found: list[Setting] = []
        for setting in self.settings:
            if (setting.section, setting.key) == (section, key):
                if setting.value:
                    found.append(setting)
                elif key not in DEPENDENCIES:
                    found.clear()
        return found

    def last(self, section: str, key: str) -> Setting | None:
        """Return the assignment that holds, where only one can; None: systemd's default does."""
        return next(reversed(self.all(section, key)), None)

    def expand(self, text: str) -> str:
        """Return a value with its specifiers replaced; what only the running systemd knows stays as it is."""
        return re.sub(r"%(.)", lambda match: _specifiers(self).get(match[1], match[0]), text)


@dataclass(slots=True)
class _Reading:
    """What has been read so far."""

    settings: list[Setting] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def add(self, path: Path) -> None:
        """The unit file."""
        self._take(*_parse(path))

    def add_drop_in(self, path: Path) -> None:
        """A drop-in that is broken breaks no unit: systemd logs it and goes on with the next one."""

        def broken(line: int | None, what: str, why: str) -> None:
            fix = "Mend it, or take it out."
            self.findings.append(Finding(Level.WARNING, "drop-in", str(path), line, what, why, fix))

        if not os.path.isfile(path):
            what = f"a link that leads nowhere: {os.readlink(path)}" if os.path.islink(path) else "no regular file"
            broken(None, what, "systemd ignores it: nothing in it holds.")
            return
        settings, findings, error = parse_drop_in(content(path), str(path))
        self._take(settings, findings)
        if error:
            broken(error.line, str(error), "systemd ignores this line and all behind it; what stands before it holds.")

    def _take(self, settings: list[Setting], findings: list[Finding]) -> None:
        self.findings += findings
        for setting in settings:
            finding = _ignored(setting)
            if finding:
                self.findings.append(finding)
            else:
                self.settings.append(setting)


def load(unit: str | Path, *, user: bool = False) -> Unit:
    """Read a service and its drop-ins.

    What contains a ``/``, or is here, is a path. Lying in the load path it gets the drop-ins of the whole load path,
    lying elsewhere only those beside it: what this machine adds to a unit of that name is no part of the file. Lying
    where a user's own systemd looks, it is a user's service. A bare name is looked for in the load path, which
    ``SYSTEMD_UNIT_PATH`` overrides as it does for systemd.

    Raises:
        UnitFileError: there is no such file, it cannot be read, or it is not a service.
    """
    folders = load_path(user=user)
    given = Path(unit)
    if "/" in str(unit) or os.path.isfile(given) or (given.suffix == ".service" and os.path.lexists(given)):
        name, path = given.name, _beside(given)
        user = user or ("SYSTEMD_UNIT_PATH" not in os.environ and _lies_in(path, load_path(user=True)))
        folders = load_path(user=user)
        installed = _lies_in(path, folders)
        folders = folders if installed else [path.parent]
    else:
        has_kind = given.suffix.removeprefix(".") in {"service", *_OTHER_KINDS}
        name = str(unit) if has_kind else f"{unit}.service"
        path, installed = _look_up(_service_name(name), folders), True
    _service_name(name)
    found = _read(name, path, folders, user=user)
    return replace(found, installed=installed, user=user or (not installed and _is_meant_for_a_user(found)))


def find(name: str, *, user: bool = False) -> Unit | None:
    """Read an installed unit of any kind, such as ``poweroff.target``; None: there is none.

    Raises:
        UnitFileError: it cannot be read.
    """
    folders = load_path(user=user)
    path = _first(name, folders)
    return None if path is None else replace(_read(name, path, folders, user=user), installed=True)


def _read(name: str, path: Path, folders: list[Path], *, user: bool) -> Unit:
    if not os.access(path, os.R_OK):
        raise _closed(path)
    if is_null_or_empty(path):
        return Unit(name, path, user, masked=True)
    if not path.is_file():
        raise UnitFileError(f"{path} is no regular file")
    reading = _Reading()
    reading.add(path)
    drop_ins = tuple(_drop_ins(name, path, folders))
    for drop_in in drop_ins:
        reading.add_drop_in(drop_in)
    return Unit(name, path, user, drop_ins, tuple(reading.settings), tuple(reading.findings))


def _is_meant_for_a_user(unit: Unit) -> bool:
    """Whether a file that lies anywhere is for a user's own systemd: enabled there, and nothing that is not for one.

    A user's systemd has no targets of the system's (systemd.special(7)) and changes to no other user.
    """
    wanted = {word for each in unit.all("Install", "WantedBy") for word in each.value.split()}
    others = {word for key in DEPENDENCIES for each in unit.all("Unit", key) for word in each.value.split()}
    of_the_system = {each for each in others if each.endswith(".target")} - _TARGETS_OF_A_USER
    changes_user = any(unit.last("Service", key) for key in ("User", "Group", "DynamicUser"))
    return wanted == {"default.target"} and not of_the_system and not changes_user


def _lies_in(path: Path, folders: list[Path]) -> bool:
    return path.parent.resolve() in [folder.resolve() for folder in folders]


def load_path(*, user: bool = False, environ: Mapping[str, str] = os.environ) -> list[Path]:
    """Return the directories in which systemd looks for units, the first one first."""
    config = environ.get("XDG_CONFIG_HOME") or str(Path(environ.get("HOME", "/root")) / ".config")
    data = environ.get("XDG_DATA_HOME") or str(Path(environ.get("HOME", "/root")) / ".local/share")
    own = [f"{config}/systemd/user.control", f"{config}/systemd/user"]
    usual = [*own, *USER[:2], f"{data}/systemd/user", *USER[2:]] if user else SYSTEM
    asked = environ.get("SYSTEMD_UNIT_PATH")
    if asked is None:
        return [Path(each) for each in usual]
    return [Path(each) for each in asked.split(":") if each] + [Path(each) for each in usual if asked.endswith(":")]


def _service_name(name: str) -> str:
    kind = Path(name).suffix.removeprefix(".")
    if kind != "service":
        what = f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}" if kind in _OTHER_KINDS else "no unit's name"
        raise UnitFileError(
            f"{name} is {what}: only services (NAME.service) are checked, for only they are told to stop"
        )
    return name


def _template(name: str) -> str | None:
    """``capbg@.service`` for ``capbg@kiosk.service``."""
    bare, kind = os.path.splitext(name)
    prefix, at, instance = bare.partition("@")
    return f"{prefix}@{kind}" if at and instance else None


def _beside(given: Path) -> Path:
    if os.path.isdir(given):
        raise UnitFileError(f"{given} is a directory: name the unit files in it, {given / '*.service'}")
    template = _template(given.name)
    candidates = [given, *([given.with_name(template)] if template else [])]
    for path in candidates:
        try:
            path.stat()
        except PermissionError as error:
            raise _closed(path) from error
        except OSError:
            pass  # it is not there: said below
        else:
            return path
        if os.path.islink(path):
            raise UnitFileError(f"{path} is a link that leads nowhere: {os.readlink(path)}")
    raise UnitFileError(f"there is no file {' and no '.join(map(str, candidates))}")


def _closed(path: Path) -> UnitFileError:
    return UnitFileError(f"{path} cannot be read: permission denied; try it as root")


def _look_up(name: str, folders: list[Path]) -> Path:
    if path := _first(name, folders):
        return path
    there = {each.stem for folder in folders for each in folder.glob("*.service")}
    near = difflib.get_close_matches(name.removesuffix(".service"), there, 1, _NEAR)
    hint = f"did you mean {near[0]}.service?" if near else "give a path if it is not installed"
    raise UnitFileError(f"no {name} in {', '.join(_there(folders))}; {hint}")


def _first(name: str, folders: list[Path]) -> Path | None:
    template = _template(name)
    for each in [name, *([template] if template else [])]:
        for folder in folders:
            if os.path.exists(folder / each):
                return folder / each
    return None


def _there(folders: list[Path]) -> list[str]:
    """The directories that exist, each once: /lib is often a link to /usr/lib."""
    found: dict[Path, str] = {}
    for each in folders:
        if os.path.isdir(each):
            found.setdefault(each.resolve(), str(each))
    return list(found.values())


def _drop_ins(name: str, path: Path, folders: list[Path]) -> Iterator[Path]:
    """Sorted by their names alone; of two with the same name the one in the earlier folder."""
    kind = Path(name).suffix
    names = dict.fromkeys([name, *([path.resolve().name] if path.resolve().suffix == kind else [])])
    places = [folder / f"{each}.d" for one in names for folder in folders for each in _drop_in_names(one)]
    return conf_files([*places, *(folder / f"{kind.removeprefix('.')}.d" for folder in folders)])


def conf_files(places: list[Path]) -> Iterator[Path]:
    """Return the drop-ins in these directories, sorted by name; of two with one name the earlier directory's.

    Raises:
        UnitFileError: one of the directories is closed to us.
    """
    found: dict[str, Path] = {}
    for place in places:
        for drop_in in _conf_files(place):
            found.setdefault(drop_in.name, drop_in)
    for _, drop_in in sorted(found.items()):
        if not is_null_or_empty(drop_in):
            yield drop_in


def _conf_files(place: Path) -> list[Path]:
    """All but hidden ones. Not by Path.glob(), for which a directory that is closed to us is empty."""
    try:
        names = os.listdir(place)
    except PermissionError as error:
        raise _closed(place) from error
    except OSError:
        return []  # there is none
    return [place / name for name in names if name.endswith(".conf") and not name.startswith(".")]


def is_null_or_empty(path: Path) -> bool:
    """null_or_empty() of systemd: asked of the file itself, for a resolved path means nothing below /proc/PID/root."""
    try:
        found = path.stat()
    except OSError:
        return False  # reading it will tell
    return stat.S_ISCHR(found.st_mode) or (stat.S_ISREG(found.st_mode) and found.st_size == 0)


def _drop_in_names(name: str) -> Iterator[str]:
    """``a-b@c.service``, ``a-b@.service``, then ``a-.service``."""
    yield name
    template = _template(name)
    if template:
        yield template
    bare, kind = os.path.splitext(name)
    prefix = bare.partition("@")[0].removesuffix("-")
    while "-" in prefix:
        prefix = prefix.rpartition("-")[0]
        yield f"{prefix}-{kind}"


def _parse(path: Path) -> tuple[list[Setting], list[Finding]]:
    try:
        return parse(content(path), str(path))
    except BrokenFileError as error:
        raise UnitFileError(f"{path}:{error.line}: {error}; systemd does not load the unit") from error


def content(path: Path) -> bytes:
    """Return what is in a file.

    Raises:
        UnitFileError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except PermissionError as error:
        raise _closed(path) from error
    except OSError as error:
        raise UnitFileError(f"{path} cannot be read: {error.strerror}") from error


def _ignored(setting: Setting) -> Finding | None:
    """What systemd would log and skip; None: it takes it."""
    section, key, value = setting.section, setting.key, setting.value
    if section.startswith("X-") or key.startswith("X-"):
        return None

    def finding(rule: str, what: str, why: str, fix: str) -> Finding:
        return Finding(Level.WARNING, rule, setting.where, setting.line, what, why, fix)

    if section not in KNOWN:
        near = difflib.get_close_matches(section, KNOWN, 1)
        return finding(
            "unknown-section",
            f"{key}= is in [{section}]",
            "A service has no such section; systemd ignores all that is in it.",
            f"Write [{near[0]}]." if near else "Put it in [Service] or [Unit], or call the section [X-...].",
        )
    if key not in KNOWN[section]:
        home = next((other for other in KNOWN if key in KNOWN[other]), None)
        if home:
            why, fix = f"It belongs in [{home}]; here systemd ignores it.", f"Move the line to [{home}]."
        else:
            near = difflib.get_close_matches(key, KNOWN[section], 1, _NEAR)
            why = f"There is no {key}= in [{section}]; systemd ignores it."
            fix = f"Write {near[0]}=." if near else "Take it out; what is your own begins with X-."
        return finding("unknown-setting", f"{key}= in [{section}]", why, fix)
    expected = values.fault(key, value)
    if expected:
        instead = "ignores the line, and what was set before, or the default, holds."
        near = difflib.get_close_matches(value.lower(), re.split(r", | or ", expected), 1)
        why = f"systemd expects {expected}; it {instead}"
        fix = f"Write {key}={near[0]}." if near else "Correct it, or take the line out."
        if match := re.fullmatch(r"(.*?)\s+[#;].*", value):
            why = f"A comment behind a value is a part of the value. systemd {instead}"
            fix = f"Write {key}={match[1]}, and the comment in a line of its own."
        return finding("invalid-value", f"{key}={value}", why, fix)
    return None


def _specifiers(unit: Unit) -> dict[str, str]:
    """systemd.unit(5), "Specifiers": those whose meaning does not depend on the machine's state."""
    bare = unit.name.removesuffix(".service")
    prefix, at, instance = bare.partition("@")
    known = {"%": "%", "n": unit.name, "N": bare, "p": prefix, "P": _unescape(prefix), "H": socket.gethostname()}
    known |= {"j": prefix.rpartition("-")[2], "J": _unescape(prefix.rpartition("-")[2])}
    known |= {"T": "/tmp", "V": "/var/tmp"}  # noqa: S108 - these are what they stand for
    if not at or instance:
        known |= {"i": instance, "I": _unescape(instance)}
    if unit.user:
        home = os.environ.get("HOME", "/root")
        known |= {"h": home, "t": f"/run/user/{os.getuid()}", "S": f"{home}/.config", "E": f"{home}/.config"}
        return known | {"C": f"{home}/.cache", "L": f"{home}/.config/log", "U": str(os.getuid())}
    known |= {"h": "/root", "t": "/run", "S": "/var/lib", "C": "/var/cache", "L": "/var/log", "E": "/etc"}
    return known | {"u": "root", "U": "0"}


def _unescape(text: str) -> str:
    return re.sub(r"\\x([0-9a-f]{2})", lambda match: chr(int(match[1], 16)), text.replace("-", "/"))
