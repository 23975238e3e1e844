"""capbg: a moment to finish, for Linux programs that are told to stop or to suspend.

The public names. They are loaded when first used (PEP 562), so that ``import capbg`` costs next to nothing.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from capbg._core.budget import Limits
    from capbg._core.words import (
        AppState,
        GraceReport,
        Outcome,
        Phase,
        Progress,
        Reason,
        TaskInfo,
        TaskResult,
        TaskState,
    )
    from capbg.app import App, ListenerHandle
    from capbg.errors import (
        CapbgError,
        InvalidArgumentError,
        InvalidEnvironmentError,
        OperatorError,
        TaskExpired,
        UnknownEventError,
        UnknownTaskError,
        UnpicklableTaskError,
        UsageError,
        WrongPhaseError,
        WrongProcessError,
        WrongThreadError,
        WrongTypeError,
    )
    from capbg.task import Task, current_task

__version__ = "0.1.0"

__all__ = [
    "App",
    "AppState",
    "CapbgError",
    "GraceReport",
    "InvalidArgumentError",
    "InvalidEnvironmentError",
    "Limits",
    "ListenerHandle",
    "OperatorError",
    "Outcome",
    "Phase",
    "Progress",
    "Reason",
    "Task",
    "TaskExpired",
    "TaskInfo",
    "TaskResult",
    "TaskState",
    "UnknownEventError",
    "UnknownTaskError",
    "UnpicklableTaskError",
    "UsageError",
    "WrongPhaseError",
    "WrongProcessError",
    "WrongThreadError",
    "WrongTypeError",
    "current_task",
]

_HOMES = {
    "App": "capbg.app",
    "ListenerHandle": "capbg.app",
    "Limits": "capbg._core.budget",
    "Task": "capbg.task",
    "current_task": "capbg.task",
    **dict.fromkeys(
        (
            "AppState",
            "GraceReport",
            "Outcome",
            "Phase",
            "Progress",
            "Reason",
            "TaskInfo",
            "TaskResult",
            "TaskState",
        ),
        "capbg._core.words",
    ),
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'capbg' has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(_HOMES.get(name, "capbg.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
