"""What several rules ask of a unit: its type, how long a stop may take, what is in its environment."""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from capbg._core.budget import seconds_from_environment
from capbg.cli.units import manager, values
from capbg.cli.units.findings import Finding, Level
from capbg.cli.units.load import Unit
from capbg.cli.units.syntax import Setting

KILL_AFTER_S = 2.0
"""``App(kill_after=...)``, its default."""
LEAVING_S = 10.0
"""What TimeoutStopSec= leaves beyond the last hard expiry: systemd/README.md, "Settings that matter"."""
GRACE_S = 180.0
"""``App(grace=...)``, its default."""
DEFAULT_STOP_S = 90.0
"""DefaultTimeoutStopSec= where nothing sets it: systemd-system.conf(5)."""
_LONGEST_SHOWN = 100


def found(level: Level, rule: str, at: Setting | Unit, why: str, *, fix: str, what: str = "") -> Finding:
    """Return a finding about a setting where it stands, or about what is missing in a unit."""
    if isinstance(at, Setting):
        shown = at.value if len(at.value) <= _LONGEST_SHOWN else f"{at.value[:_LONGEST_SHOWN]}..."
        return Finding(level, rule, at.where, at.line, what or f"{at.key}={shown}", why, fix)
    return Finding(level, rule, str(at.path), None, what, why, fix)


def text(unit: Unit, key: str, default: str = "", *, section: str = "Service") -> str:
    """Return the value that holds."""
    setting = unit.last(section, key)
    return setting.value if setting else default


def on(unit: Unit, key: str, *, default: bool = False, section: str = "Service") -> bool:
    """Return a yes or no. What is neither counts as yes: ``strict``, ``tmpfs``."""
    value = text(unit, key, section=section)
    return default if not value else value.lower() not in values.FALSE


def kind(unit: Unit) -> str:
    """Return Type=, or the default for what is set: systemd.service(5)."""
    implied = "dbus" if unit.last("Service", "BusName") else "simple"
    return text(unit, "Type", implied if unit.all("Service", "ExecStart") else "oneshot")


def has_notify_socket(unit: Unit) -> bool:
    """Whether the program is given one; service_notify_access() in systemd's service.c."""
    implied = (
        kind(unit).startswith("notify") or watchdog_s(unit) > 0 or text(unit, "FileDescriptorStoreMax", "0") != "0"
    )
    return implied or text(unit, "NotifyAccess", "none") != "none"


def watchdog_s(unit: Unit) -> float:
    """Return WatchdogSec= in seconds; 0 and infinity are both off, and 0 here."""
    seconds = values.span(text(unit, "WatchdogSec", "0"))
    return 0.0 if seconds == math.inf else seconds


def stop_timeout(unit: Unit) -> tuple[Setting | None, float]:
    """Return what in the unit says how long a stop may take, None for the default, and the seconds.

    The default is that of this machine if the unit is installed: DefaultTimeoutStopSec=.
    """
    both = [
        each for each in unit.settings if each.section == "Service" and each.key in {"TimeoutStopSec", "TimeoutSec"}
    ]
    if not both:
        default = default_stop(unit)
        return None, DEFAULT_STOP_S if default is None else values.span(default.value) or math.inf
    seconds = values.span(both[-1].value)
    return both[-1], seconds or math.inf


def default_stop(unit: Unit) -> Setting | None:
    """Return the DefaultTimeoutStopSec= that holds for this unit; None: systemd's own, or not known."""
    return manager.default_stop(user=unit.user) if unit.installed else None


def no_stop_timeout(unit: Unit, timeout: float) -> str:
    """Say of a unit without TimeoutStopSec= what holds instead."""
    default = default_stop(unit)
    if default is None:
        return f"no TimeoutStopSec=: systemd's default holds, {timeout:g} s"
    return f"no TimeoutStopSec=: DefaultTimeoutStopSec={default.value} of {default.where} holds"


@dataclass(frozen=True, slots=True)
class Variable:
    """One variable of the program's environment."""

    value: str
    at: Setting


def environment(unit: Unit) -> dict[str, Variable]:
    """Return what the unit itself puts into the environment; a file wins over Environment=, systemd.exec(5)."""
    known: dict[str, Variable] = {}
    for setting in unit.all("Service", "Environment"):
        try:
            pairs, _ = values.assignments(setting.value)
        except ValueError:
            continue  # the rule "environment" tells it
        known |= {name: Variable(unit.expand(value), setting) for name, value in pairs.items()}
    for setting in unit.all("Service", "EnvironmentFile"):
        path = Path(unit.expand(setting.value.removeprefix("-")))
        if unit.installed and os.path.isfile(path):
            try:
                pairs = values.environment_file(path.read_text("utf-8", "replace"))
            except OSError:
                continue  # not ours to read: what is in it is not known
            known |= {name: Variable(value, setting) for name, value in pairs.items()}
    for setting in unit.all("Service", "UnsetEnvironment"):
        for word in setting.value.split():
            known.pop(word.partition("=")[0], None)
    return known


def may_come_from_elsewhere(unit: Unit, name: str) -> bool:
    """Whether a variable may be set by what cannot be read here: a file, or systemd's own environment."""
    unread = [
        each
        for each in unit.all("Service", "EnvironmentFile")
        if not unit.installed or not _is_readable(unit.expand(each.value.removeprefix("-")))
    ]
    passed = any(name in each.value.split() for each in unit.all("Service", "PassEnvironment"))
    return bool(unread) or passed


def _is_readable(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.R_OK)


def grace(unit: Unit) -> tuple[Variable | None, float | None]:
    """Return who sets the grace period, None for capbg's default, and the seconds; None: not known, or no number."""
    variable = environment(unit).get("CAPBG_GRACE")
    if variable:
        try:
            return variable, seconds_from_environment(variable.value, "CAPBG_GRACE")
        except ValueError:
            return variable, None
    if unit.grace is not None:
        try:
            return None, seconds_from_environment(unit.grace, "CAPBG_GRACE")
        except ValueError:
            return None, None  # no app that reads it runs with that
    return None, None if may_come_from_elsewhere(unit, "CAPBG_GRACE") else GRACE_S


def commands(unit: Unit, key: str) -> Iterator[tuple[Setting, values.Command]]:
    """Return the commands of an Exec setting that systemd would accept, specifiers replaced."""
    for setting in unit.all("Service", key):
        try:
            parsed = values.commands(setting.value)
        except ValueError:
            continue  # the rule "command-line" tells it
        for each in parsed:
            yield setting, values.Command(each.prefixes, tuple(unit.expand(word) for word in each.argv))
