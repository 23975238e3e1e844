"""One small adapter per event loop, each on ``fileno()`` and ``pump()``, for apps that live inside somebody's loop.

While such a loop sits in C, Python runs no signal handler (measured with Qt: 2.9 s late). So the loop itself watches
one descriptor. ``import capbg`` loads none of this; each adapter imports its toolkit when it is imported.

This folder must not know more of an app than :class:`Driven` says.
"""

from types import TracebackType
from typing import Protocol

from capbg._core.words import AppState, TaskInfo, TaskState

_UNDER_WAY = {TaskState.QUEUED, TaskState.RUNNING, TaskState.EXPIRING, TaskState.LEAVING}


class Driven(Protocol):
    """What an adapter needs of a :class:`capbg.App`."""

    def fileno(self) -> int:
        """The descriptor that is readable whenever a turn is due."""
        ...

    def pump(self) -> None:
        """Take that turn; SystemExit at the end of a terminating grace period."""
        ...

    def enter_driven(self) -> int:
        """Install the signals, driven from the first moment on, and return the descriptor."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        """Undo that, or leave by SystemExit."""
        ...

    def get_state(self) -> AppState:
        """The phase."""
        ...

    def tasks(self) -> tuple[TaskInfo, ...]:
        """What is registered, running and settled."""
        ...


def has_work(app: Driven) -> bool:
    """Whether a grace period or a task is under way: to leave the app now would stop the loop until it is over."""
    return not app.get_state().is_active or any(task.state in _UNDER_WAY for task in app.tasks())
