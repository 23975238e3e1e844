"""One small adapter per event loop, each on ``fileno()`` and ``pump()``, for apps that live inside somebody's loop.

While such a loop sits in C, Python runs no signal handler (measured with Qt: 2.9 s late). So the loop itself watches
one descriptor. ``import capbg`` loads none of this; each adapter imports its toolkit when it is imported.

This folder must not know more of an app than :class:`Driven` says.
"""

from typing import Protocol, Self


class Driven(Protocol):
    """What an adapter needs of a :class:`capbg.App`."""

    def fileno(self) -> int:
        """The descriptor that is readable whenever a turn is due."""
        ...

    def pump(self) -> None:
        """Take that turn; SystemExit at the end of a terminating grace period."""
        ...

    def __enter__(self) -> Self:
        """Install the signals."""
        ...

    def __exit__(self, *exc: object) -> None:
        """Undo that, or leave by SystemExit."""
        ...
