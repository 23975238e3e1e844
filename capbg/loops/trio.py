"""Drive an app from trio or anyio: what ``async with app:`` does where trio runs. One file for both, by anyio.

The end of a terminating grace period cancels what is inside of the block: ``finally`` blocks run, and behind them, at
the end of the block, SystemExit is raised. A nursery wraps what comes out of it into an exception group, SystemExit as
well, and then the exit status is 1: so enter the app outside of nurseries.
"""

from types import TracebackType
from typing import Generic, TypeVar

import anyio

from capbg.loops import Driven, has_work

_Driven = TypeVar("_Driven", bound=Driven)


class driving(Generic[_Driven]):  # noqa: N801 - read as a verb: `async with driving(app)`
    """Enter ``app`` and have the running loop drive it; the block's value is the app. For the main thread's loop.

    When a terminating grace period is over, the block is cancelled, and its end raises SystemExit with the contract's
    status. An exception on its way out goes on instead, unwrapped, and so does a cancellation from further out. A block
    that is left while tasks run ends when they have; the loop turns meanwhile.
    """

    def __init__(self, app: _Driven) -> None:
        self._app = app
        self._end: BaseException | None = None
        """What came out of ``pump()``."""
        self._settled: anyio.Event | None = None
        """What our ``__aexit__`` waits for, once the program is there."""

    async def __aenter__(self) -> _Driven:
        self._watcher = anyio.create_task_group()
        self._block = anyio.CancelScope()  # beside the group's own, for that would wrap what the program raises
        fd = self._app.enter_driven()
        try:
            await self._watcher.__aenter__()
        except BaseException as error:
            self._app.__exit__(type(error), error, error.__traceback__)
            raise
        self._watcher.start_soon(self._watch, fd, name="capbg")
        self._block.__enter__()
        return self._app

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        leaving_by = error
        try:
            if self._block.__exit__(kind, error, traceback):
                leaving_by = None
        except BaseException as rest:  # noqa: BLE001 - what is left of a group without the cancellations that are ours
            leaving_by = rest
        try:
            if self._end is None and has_work(self._app):
                self._settled = anyio.Event()
                await self._settled.wait()
        except anyio.get_cancelled_exc_class() as cancelled:  # from further out: App.__exit__ waits instead
            leaving_by = cancelled
        self._watcher.cancel_scope.cancel()
        try:
            await self._watcher.__aexit__(None, None, None)
        except anyio.get_cancelled_exc_class() as cancelled:  # from further out, too
            leaving_by = leaving_by or cancelled
        if self._end is not None and not isinstance(self._end, SystemExit):
            leaving_by = self._end
        self._app.__exit__(
            None if leaving_by is None else type(leaving_by),
            leaving_by,
            None if leaving_by is None else leaving_by.__traceback__,
        )
        if leaving_by is None and self._end is not None:
            raise self._end  # not the app's SystemExit, which it has raised just now, but a signal handler's
        if leaving_by is not None and leaving_by is not error:
            raise leaving_by
        return leaving_by is None

    async def _watch(self, fd: int) -> None:
        while self._end is None:
            await anyio.wait_readable(fd)
            try:
                self._app.pump()
            except BaseException as end:  # noqa: BLE001 - for __aexit__ to raise: the group would wrap it
                self._end = end
                self._block.cancel()
            if self._settled is not None and (self._end is not None or not has_work(self._app)):
                self._settled.set()
