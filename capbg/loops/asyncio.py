"""Drive an app from an asyncio loop, uvloop's as well: what ``async with app:`` does where such a loop runs.

The end of a terminating grace period cancels the task that entered the block, much as ``asyncio.timeout`` does: its
``finally`` blocks run, and behind them, at the end of the block, SystemExit is raised. What was rejected: to let
SystemExit out of the reader's callback. It breaks off ``run_until_complete`` at once, and the task's ``finally`` blocks
would run, if at all, in a loop that is being torn down.
"""

import asyncio
from types import TracebackType
from typing import Generic, TypeVar

from capbg.loops import Driven, has_work

_Driven = TypeVar("_Driven", bound=Driven)


class driving(Generic[_Driven]):  # noqa: N801 - read as a verb: `async with driving(app)`
    """Enter ``app`` and have the running loop drive it; the block's value is the app. For the main thread's loop.

    When a terminating grace period is over, the task that entered the block is cancelled, and the end of the block
    raises SystemExit with the contract's status; also if the task has swallowed the cancellation and comes there later.
    An exception on its way out goes on instead, and so does a cancellation by somebody else. A block that is left while
    tasks run ends when they have; the loop turns meanwhile.
    """

    def __init__(self, app: _Driven) -> None:
        self._app = app
        self._fd = -1
        self._cancelled = False
        self._end: BaseException | None = None
        """What came out of ``pump()``."""
        self._settled: asyncio.Future[None] | None = None
        """What our ``__aexit__`` waits for, once the program is there."""

    async def __aenter__(self) -> _Driven:
        task = asyncio.current_task()
        assert task is not None, "coroutines run in tasks"
        self._task, self._cancelling = task, task.cancelling()
        self._loop = asyncio.get_running_loop()
        self._fd = self._app.enter_driven()
        try:
            self._loop.add_reader(self._fd, self._turn)
        except BaseException as error:
            self._app.__exit__(type(error), error, error.__traceback__)
            raise
        return self._app

    async def __aexit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        leaving_by = error
        try:
            if self._end is None and has_work(self._app):
                self._settled = self._loop.create_future()
                await self._settled
        except asyncio.CancelledError as cancelled:  # by somebody else: it waits no more, App.__exit__ does
            leaving_by = cancelled
        self._stop_watching()
        ours = self._cancelled and self._task.uncancel() <= self._cancelling  # and nobody else's as well
        if ours and isinstance(leaving_by, asyncio.CancelledError):
            leaving_by = None
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

    def _turn(self) -> None:
        try:
            self._app.pump()
        except BaseException as end:  # noqa: BLE001 - for __aexit__ to raise: the loop would log it, or break off
            self._end = end
            self._stop_watching()
            if self._settled is None:
                self._cancelled = self._task.cancel()
        if (
            self._settled is not None
            and not self._settled.done()
            and (self._end is not None or not has_work(self._app))
        ):
            self._settled.set_result(None)

    def _stop_watching(self) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            self._fd = -1
