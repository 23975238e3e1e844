"""A unit file for a program that uses capbg, each setting with a line that says why.

The model is systemd/kiosk.service and kiosk-hardened.service; systemd/README.md is the contract behind all three. This
file knows which settings a service gets. It must not know how a command is found or quoted (``command.py``), nor
options and streams.
"""

import math
import pwd
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from capbg.errors import OperatorError

from . import lockdown
from .command import HOMES, TEMPORARY, Command, exec_start, quoted
from .findings import Finding, Level
from .load import Unit
from .lockdown import Pair
from .rules import check_unit
from .syntax import parse
from .values import digits

DEFAULT_GRACE_S = 180.0
USER_GRACE_S = 108.0
"""What fits, with 12 s to leave, into the 120 s that ``user@.service`` leaves to all services of a user."""
LEAVING_S = 12
"""2 s from a task's deadline to its SIGKILL (App(kill_after=...)), and 10 s to leave."""
POWEROFF_S = 1800
"""JobTimeoutSec= of poweroff.target and reboot.target."""
USER_MANAGER_S = 120
"""TimeoutStopSec= of user@.service."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_USER_NAME = re.compile(r"[a-z_][a-z0-9_-]{0,30}")
_LONGEST_NAME = 255
_SYSTEM_UNITS = Path("/usr/lib/systemd/system")


class UnusableError(OperatorError):
    """No good unit can be written so. The message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What the unit shall be."""

    name: str
    """Without ``.service``."""
    command: Command
    description: str
    grace_s: float
    watchdog_s: float | None = None
    hardened: bool = False
    user: bool = False

    @property
    def stop_timeout_s(self) -> int:
        """The grace period, and the time to leave."""
        return math.ceil(self.grace_s + LEAVING_S)


@dataclass(frozen=True, slots=True)
class Written:
    """A unit file, and what the person should know about it."""

    text: str
    warnings: tuple[str, ...]


def service_name(name: str) -> str:
    """Return the name of a service without ``.service``.

    Raises:
        UnusableError: it is no good name, or a template's.
    """
    bare = name.removesuffix(".service")
    if "@" in bare:
        raise UnusableError(
            f"{name!r} names a template, and one command does not make a family of services: "
            "take systemd/capbg@.service of capbg as a model"
        )
    if not _NAME.fullmatch(bare):
        raise UnusableError(
            f"{name!r} is no good name for a service: it becomes the name of a file, of a directory and of a user; "
            "begin with a letter or a digit, and go on with those and . _ -"
        )
    if bare.endswith((".socket", ".timer", ".target", ".path", ".mount", ".slice", ".scope", ".device", ".swap")):
        raise UnusableError(f"{name!r} names another kind of unit: this command writes services, such as kiosk.service")
    if len(bare) + len(".service") > _LONGEST_NAME:
        raise UnusableError(f"the name has {len(bare)} characters, and systemd takes {_LONGEST_NAME - len('.service')}")
    return bare


def description(text: str) -> str:
    """Return a value for Description= that shows exactly this text.

    Raises:
        UnusableError: it is empty, or holds what cannot stand there.
    """
    if not text.strip():
        raise UnusableError("the description is empty: say what the service is, in a few words")
    if bad := [char for char in text if not (char.isprintable() or char == " ")]:
        raise UnusableError(f"the description holds {bad[0]!r}: one line of plain text can stand there")
    if text.endswith("\\"):
        raise UnusableError("the description ends with a backslash, which would swallow the next line of the unit")
    return text.strip().replace("%", "%%")


def write(wish: Wish) -> Written:
    """Return the unit file.

    Raises:
        CommandError: the command cannot stand in a unit.
        UnusableError: a shell or a runner would stand between systemd and the program, or it cannot be reached.
    """
    warnings = [*wish.command.doubts, *_warnings(wish)]
    text = "\n".join([_head(wish), _unit(wish), _service(wish, warnings), _install(wish)])
    for finding in _judged(text, wish):
        sentence = f"{finding.what}: {finding.why} {finding.fix}"
        if finding.rule == "wrapper":
            raise UnusableError(sentence)
        if finding.rule != "stop-cap":  # told above, with the numbers
            warnings.append(sentence)
    return Written(text, tuple(warnings))


def _judged(text: str, wish: Wish) -> list[Finding]:
    """What `capbg check` has against the unit, notes left out."""
    name = f"{wish.name}.service"
    settings, findings = parse(text.encode(), name)
    unit = Unit(name, Path(name), wish.user, settings=tuple(settings), findings=tuple(findings), installed=True)
    return [finding for finding in check_unit(unit) if finding.level is not Level.NOTE]


def _warnings(wish: Wish) -> Iterator[str]:
    if wish.user and wish.stop_timeout_s > USER_MANAGER_S:
        yield (
            f"at logout and shutdown user@.service ends after {USER_MANAGER_S} s, and every service in it with it: "
            f"{wish.stop_timeout_s} s need `sudo systemctl edit user@.service` with [Service] and "
            f"TimeoutStopSec={wish.stop_timeout_s + 10}"
        )
    if not wish.user and wish.stop_timeout_s > POWEROFF_S:
        yield (
            f"poweroff.target and reboot.target force the machine down after 30 min: {wish.stop_timeout_s} s need "
            f"`systemctl edit` of both with [Unit] and JobTimeoutSec={wish.stop_timeout_s + 60}"
        )
    if not wish.user and (_SYSTEM_UNITS / f"{wish.name}.service").exists():
        yield f"there is a {wish.name}.service in {_SYSTEM_UNITS}: this one would take its place"


def _lines(*pairs: Pair) -> str:
    return "".join(f"# {why}\n" + (f"{setting}\n" if setting else "") for why, setting in pairs)


def _head(wish: Wish) -> str:
    what = "locked in, and " if wish.hardened else ""
    whose = f"~/.config/systemd/user/{wish.name}.service" if wish.user else f"/etc/systemd/system/{wish.name}.service"
    return f"# {whose}: {what}given a moment to finish. Written by `capbg unit`.\n"


def _unit(wish: Wish) -> str:
    text = f"[Unit]\nDescription={wish.description}\n"
    if not wish.user:
        text += _lines(
            ("Without this line nothing need bring the network up to begin with.", "Wants=network-online.target"),
            (
                "A shutdown stops in reverse order: the network is still there while tasks finish.",
                "After=network.target network-online.target",
            ),
        )
    return text


def _install(wish: Wish) -> str:
    if wish.user:
        return "[Install]\n" + _lines(
            (
                "Started with the user's systemd: at login, or at boot after `loginctl enable-linger`.",
                "WantedBy=default.target",
            ),
        )
    return "[Install]\n" + _lines(("Started at boot.", "WantedBy=multi-user.target"))


def _service(wish: Wish, warnings: list[str]) -> str:
    command = wish.command
    moved = "".join(f"\n# {quoted(old)} was made absolute: systemd starts in /." for old, _ in command.moved)
    text = "[Service]\n" + _lines(
        (
            "The program itself, no shell around it: systemd signals and hears the process it has started, no child "
            f"of that.{moved}",
            f"ExecStart={exec_start(command.argv)}",
        )
    )
    if command.folder is not None:
        text += _lines(
            ("Python looks for the module where it is started.", f"WorkingDirectory={_folder(command.folder)}")
        )
    text += ("\n# --- The moment to finish\n" if wish.hardened else "") + _moment(wish)
    return text + (_hardened(wish, warnings) if wish.hardened else _decent(wish, warnings))


def _folder(folder: Path) -> str:
    text = str(folder)
    if not text.isprintable() or text != text.strip() or text.endswith("\\"):
        raise UnusableError(f"the module lies in {text!r}, a path that cannot stand in a unit: move it")
    return text.replace("%", "%%")


def _moment(wish: Wish) -> str:
    all_of_it = "The grace, 2 s until hanging tasks are killed, 10 s to leave. All of it: a daemon-reload forgets every"
    return _lines(
        ("Started means READY=1, which capbg sends once no signal can be missed any more.", "Type=notify"),
        ("The app alone speaks to systemd; what a worker or a program it calls sends is dropped.", "NotifyAccess=main"),
        (
            "SIGTERM to the app alone. With the default, control-group, it hits workers' own children, and kills them.",
            "KillMode=mixed",
        ),
        (
            "The grace period in seconds. systemd does not tell a service its TimeoutStopSec=, so it stands here.",
            f"Environment=CAPBG_GRACE={digits(wish.grace_s)}",
        ),
        (f"{all_of_it}\n# extension.{_cap(wish)}", f"TimeoutStopSec={wish.stop_timeout_s}"),
        _watchdog(wish),
        ("After a crash or a watchdog's kill; never after a stop, whatever came of it.", "Restart=on-failure"),
        ("A pause between two starts, so that five crashes in a row do not use up the start limit.", "RestartSec=5"),
        ("No SuccessExitStatus=75: a stop that leaves a task unfinished shows as failed, until you know better.", None),
        (
            "A worker killed for want of memory is one task lost. The default, stop, would kill the others with it.",
            "OOMPolicy=continue",
        ),
    )


def _watchdog(wish: Wish) -> Pair:
    if wish.watchdog_s is None:
        return "No WatchdogSec=: it would kill a program whose main loop calls no heartbeat() or pump() in time.", None
    return (
        "No sign of life for so long, by heartbeat() or pump() in its main loop: restarted.",
        f"WatchdogSec={digits(wish.watchdog_s)}",
    )


def _cap(wish: Wish) -> str:
    if wish.user and wish.stop_timeout_s > USER_MANAGER_S:
        return f" At logout and shutdown user@.service ends it after {USER_MANAGER_S} s, unless its own is raised."
    if not wish.user and wish.stop_timeout_s > POWEROFF_S:
        return " At poweroff and reboot all ends after 30 min, unless JobTimeoutSec= of both targets is raised."
    return ""


# ---------------------------------------------------------------------------------------------- who it is, what it sees


def _decent(wish: Wish, warnings: list[str]) -> str:
    if wish.user:
        return _lines(_state(wish))
    who, dynamic = _identity(wish, warnings)
    # DynamicUser= brings a /tmp of its own.
    return _lines(*who, _state(wish), *(_handed_in(wish, warnings) if dynamic else ()))


def _state(wish: Wish) -> Pair:
    if wish.user:
        return (
            f"~/.config/{wish.name} (~/.local/state/{wish.name} from systemd 254 on); the program finds the path in "
            "$STATE_DIRECTORY.",
            f"StateDirectory={wish.name}",
        )
    return (
        f"/var/lib/{wish.name}, the program's to write; it finds the path in $STATE_DIRECTORY.",
        f"StateDirectory={wish.name}",
    )


def _identity(wish: Wish, warnings: list[str]) -> tuple[list[Pair], bool]:
    """Who the service runs as, and whether that is a user made for it."""
    closed = wish.command.closed_to_others()
    if closed is not None:
        path, owner = closed
        warnings.append(
            f"{path} is closed to all but {owner}, so the service runs as {owner}: install the program in /opt or /usr "
            "for a user of its own"
        )
        return [
            (
                f"{_said(path)} is closed to all others. In /opt the program could have a user of its own.",
                f"User={owner}",
            )
        ], False
    pairs: list[Pair] = [("An unprivileged user that exists while the program runs.", "DynamicUser=yes")]
    if name := _free_user_name(wish.name):
        pairs.append(("Its name, for ps and ls.", f"User={name}"))
    return pairs, True


def _free_user_name(name: str) -> str | None:
    """A name that no user of this machine has: with one of those DynamicUser= would run the service as him."""
    for candidate in (name, f"svc-{name}"):
        if _USER_NAME.fullmatch(candidate):
            try:
                pwd.getpwnam(candidate)
            except KeyError:
                return candidate
    return None


def _said(path: Path) -> str:
    text = str(path)
    return text if text.isprintable() else repr(text)


def _handed_in(wish: Wish, warnings: list[str]) -> list[Pair]:
    """What of /tmp the service would not see, because it has one of its own."""
    tops = []
    for place in wish.command.below(TEMPORARY):
        root = next(each for each in TEMPORARY if place.is_relative_to(each))
        if place == root:
            raise UnusableError(f"the program is to be started in {root}, and the service has one of its own: move it")
        top = root / place.relative_to(root).parts[0]
        if top not in tops:
            tops.append(top)
    if not tops:
        return []
    words = " ".join(map(str, tops))
    if any(not re.fullmatch(r"[A-Za-z0-9_./=,@+-]+", str(top)) for top in tops):
        raise UnusableError(
            f"{words} cannot be handed to a service that has a /tmp of its own: move the program to /opt"
        )
    warnings.append(f"{words} is emptied when the machine starts, or by age: install the program in /opt")
    return [
        (
            "The program lies where the service has a directory of its own: it is handed in.",
            f"BindReadOnlyPaths={words}",
        )
    ]


def _hardened(wish: Wish, warnings: list[str]) -> str:
    if wish.user:
        return (
            "\n# --- What a user's own systemd, which has no privileges, can take away\n"
            + _lines(*lockdown.USER_LIMITS, _state(wish), *lockdown.STATE_MODES)
            + "\n# --- What it may ask of the kernel\n"
            + _lines(*lockdown.NETWORK, *lockdown.CALLS)
        )
    who, _ = _identity(wish, warnings)
    homes = wish.command.below(HOMES)
    home = (
        ("The program lies below a home directory: homes are seen, not written.", "ProtectHome=read-only")
        if homes
        else ("An interpreter below a home directory (pyenv, uv) would not be found under this.", "ProtectHome=yes")
    )
    return (
        "\n# --- Who it is\n"
        + _lines(*who, *lockdown.POWERLESS)
        + "\n# --- What it sees\n"
        + _lines(
            _state(wish),
            *lockdown.STATE_MODES,
            ("Everything else is read-only.", "ProtectSystem=strict"),
            home,
            ("A /tmp of its own, gone with it.", "PrivateTmp=yes"),
            *_handed_in(wish, warnings),
            *lockdown.SIGHT,
        )
        + "\n# --- What it reaches\n"
        + _lines(*lockdown.NETWORK)
        + "\n# --- What it may ask of the kernel\n"
        + _lines(*lockdown.CALLS, *lockdown.MACHINE)
    )
