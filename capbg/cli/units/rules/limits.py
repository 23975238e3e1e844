"""Limits under which workers cannot start or do not live: systemd.exec(5), systemd.resource-control(5)."""

import math
from collections.abc import Iterator

from capbg.cli.units import values
from capbg.cli.units.findings import Finding, Level
from capbg.cli.units.load import Unit

from .facts import found, on, text

_FEW_TASKS = 10
_FEW_FILES = 64
_SMALL_SPACE = 256 * 2.0**20
"""CPython's own libraries and one thread's stack reserve about that much address space."""
_SMALL_MEMORY = 64 * 2.0**20


_MEASURES = {
    "TasksMax": values.number,
    "LimitNPROC": values.number,
    "LimitNOFILE": values.number,
    "LimitCPU": values.span,
    "LimitAS": values.size,
    "MemoryMax": values.size,
}


def _of(unit: Unit, key: str) -> float:
    setting = unit.last("Service", key)
    if not setting or setting.value.endswith("%"):
        return math.inf
    return values.rlimit(setting.value, of=_MEASURES[key])


def _is_root(unit: Unit) -> bool:
    """Whom RLIMIT_NPROC does not bind: getrlimit(2)."""
    return not unit.user and text(unit, "User", "root") in {"root", "0"} and not on(unit, "DynamicUser")


def processes(unit: Unit) -> Iterator[Finding]:
    """Each task is a process."""
    for key, of_whom in (("TasksMax", "this service"), ("LimitNPROC", "this user")):
        number, setting = _of(unit, key), unit.last("Service", key)
        if key == "LimitNPROC" and _is_root(unit):
            continue
        if setting and number < _FEW_TASKS:
            yield found(
                Level.ERROR if number <= 1 else Level.WARNING,
                "processes",
                setting,
                f"Each task runs in a process of its own, and the programs it calls count as well: with {number:g} for "
                f"{of_whom}, tasks are refused in a stop.",
                fix=f"Write {key}=64, or as many as tasks and their programs need.",
            )


def files(unit: Unit) -> Iterator[Finding]:
    """Each running task takes descriptors in the app."""
    number, setting = _of(unit, "LimitNOFILE"), unit.last("Service", "LimitNOFILE")
    if setting and number < _FEW_FILES:
        yield found(
            Level.WARNING,
            "files",
            setting,
            "Each running task takes a few descriptors in the app, beside the program's own: in a stop, tasks are "
            "refused.",
            fix="Write LimitNOFILE=1024, or take it out.",
        )


def processor_time(unit: Unit) -> Iterator[Finding]:
    """A limit on CPU time ends every program that lives long enough."""
    number, setting = _of(unit, "LimitCPU"), unit.last("Service", "LimitCPU")
    if setting and number < math.inf:
        yield found(
            Level.WARNING,
            "cpu-limit",
            setting,
            f"After {number:g} s of processor time, however many days that takes, the kernel ends the program in the "
            "middle of its work.",
            fix="Take LimitCPU= out; a task's own limit is Limits(cpu=...).",
        )


def memory(unit: Unit) -> Iterator[Finding]:
    """Workers are copies of the app."""
    for key, small in (("LimitAS", _SMALL_SPACE), ("MemoryMax", _SMALL_MEMORY)):
        number, setting = _of(unit, key), unit.last("Service", key)
        if setting and number < small:
            yield found(
                Level.WARNING,
                "memory",
                setting,
                "Little for an interpreter, and each worker is a copy of it: tasks fail for want of memory.",
                fix=f"Write {key}={small / 2**20:g}M or more; a task's own limit is Limits(memory=...).",
            )
