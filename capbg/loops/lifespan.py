"""Servers that install signal handlers of their own: uvicorn, gunicorn with uvicorn workers, aiohttp.

::

    web = FastAPI(lifespan=lifespan(app))                   # ASGI: Starlette, FastAPI
    web.cleanup_ctx.insert(0, cleanup_context(app))         # aiohttp

The stop signal is for both, in this order: the app hears it (the grace period counts, systemd is told), then the server
does, which drains. A ``critical()`` block of ours keeps listeners and workers back until it has. Then the tasks run
while the loop turns, and at the grace period's end the process leaves.

The block is held while the app is active, too: a signal that comes in the middle of ``pump()`` is heard in that very
turn. (Taking it in the signal handler was rejected: the handler may interrupt the code that owns the block's lock.)
A suspension is no reason to drain: for that the block is let go, and requests in flight stand still with the process.

How the process leaves
======================

A callback raises SystemExit into the loop, which every loop lets through: ``asyncio.run`` cancels what is left and ends
with that status. What lost: SystemExit in the lifespan itself (uvicorn takes it for an application without a lifespan,
and dies of the signal it raises again); taking the signal off uvicorn's list (private); ``os._exit`` (``finally``
blocks).

This file must not know the servers: it imports none of them.
"""

import asyncio
import functools
import logging
import signal
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from types import FrameType
from typing import Any, Protocol

from capbg._core.grace import DUPLICATE_NS
from capbg._core.words import AppState, Phase
from capbg._os import signals
from capbg.loops import Driven

log = logging.getLogger("capbg")

_STOPS = (signal.SIGTERM, signal.SIGINT)

_Handler = Callable[[int, FrameType | None], object]


class Removable(Protocol):
    """What adding a listener returns."""

    def remove(self) -> None:
        """Take the listener off again."""
        ...


class Served(Driven, Protocol):
    """What a server's integration needs of a :class:`capbg.App`."""

    def critical(self) -> AbstractContextManager[None]:
        """A block in which backgrounding waits."""
        ...

    def add_listener(self, event: str, cb: Callable[..., object], /) -> Removable:
        """Call ``cb`` at an event."""
        ...


def lifespan(
    app: Served,
    own: Callable[[Any], AbstractAsyncContextManager[Any]] | None = None,
    *,
    stop_on_shutdown: bool = False,
) -> Callable[[Any], AbstractAsyncContextManager[Any]]:
    """Make a lifespan for ``FastAPI(lifespan=...)`` or ``Starlette(lifespan=...)`` that enters ``app`` and leaves it.

    ``own``
        the program's own lifespan. It is inside: at a stop the server drains, ``own`` is left, then the tasks run; all
        of it within the one grace period. The lifespan made here must be the outermost: behind it the process leaves.
    ``stop_on_shutdown``
        whether a shutdown without a signal (gunicorn's ``max_requests``, uvicorn's ``limit_max_requests``) counts as
        SIGTERM. If not, it is ``with app:`` left normally: what is registered does not run.

    Once told to stop, the process leaves by SystemExit: status 0, or 75 if a task is unfinished, or 1 if ``own`` failed
    and no task did. If the grace period ends first, or a second signal says hurry, it leaves without waiting for the
    requests in flight. In a server that runs in another thread than the main one, as in Starlette's ``TestClient``,
    the app is not entered, and a warning says so.
    """

    @asynccontextmanager
    async def running(server_app: Any) -> AsyncIterator[Any]:
        async with _serving(app, leave=_leave_now, stop_on_shutdown=stop_on_shutdown):
            if own is None:
                yield
            else:
                async with own(server_app) as state:
                    yield state

    return running


def cleanup_context(app: Served, *, stop_on_shutdown: bool = False) -> Callable[[Any], AsyncIterator[None]]:
    """Make a context for aiohttp's ``web_app.cleanup_ctx`` that enters ``app`` and leaves it; see :func:`lifespan`.

    Put it first: contexts are left in reverse order, so the tasks run when the others have been cleaned up. The
    process leaves when the asyncio task that serves has ended.
    """

    async def context(web_app: Any) -> AsyncIterator[None]:
        async with _serving(app, leave=_leave_behind_task, stop_on_shutdown=stop_on_shutdown) as service:
            if service is not None:
                web_app.on_shutdown.append(service.take_signals)
            yield

    return context


def _raise(error: SystemExit, *_done: object) -> None:
    raise error


def _nothing() -> None:
    """What asyncio does at a signal that is the app's alone."""


async def _leave_now(error: SystemExit) -> None:
    """Raise, and come back when what is left is cancelled.

    The server must not hear before that its shutdown is complete: uvicorn's next step is to raise the signal again,
    and uvloop takes one more round when a callback has raised.
    """
    loop = asyncio.get_running_loop()
    loop.call_soon(_raise, error)
    try:
        await loop.create_future()
    except asyncio.CancelledError:
        pass  # the end of the loop, which we asked for; what comes behind us in the lifespan may still run


async def _leave_behind_task(error: SystemExit) -> None:
    """Raise when the task that serves has ended: aiohttp's gunicorn worker would not let it go on once it is raised."""
    task = asyncio.current_task()
    assert task is not None
    task.add_done_callback(functools.partial(_raise, error))


@asynccontextmanager
async def _serving(
    app: Served, *, leave: Callable[[SystemExit], Awaitable[None]], stop_on_shutdown: bool
) -> AsyncIterator["_Service | None"]:
    if threading.current_thread() is not threading.main_thread():
        log.warning(
            "the app is not entered and its tasks will not run: the server is in the thread %r, and signals belong to "
            "the main thread",
            threading.current_thread().name,
        )
        yield None
        return
    service = _Service(app, asyncio.get_running_loop())
    service.enter()
    failed: BaseException | None = None
    try:
        yield service
    except BaseException as error:
        failed = error
        raise
    finally:
        leaving = await service.shut_down(failed, stop_on_shutdown=stop_on_shutdown)
        if leaving is not None:
            await leave(leaving)


class _Service:
    """One app beside one server, from the server's startup to its shutdown."""

    def __init__(self, app: Served, loop: asyncio.AbstractEventLoop) -> None:
        self._app = app
        self._loop = loop
        self._block: AbstractContextManager[None] | None = None
        """The critical block, while it is held."""
        self._draining = True
        """Whether a server has requests yet that backgrounding must wait for."""
        self._shutting_down = False
        """Whether the server has drained, and waits for us."""
        self._stop_heard = False
        self._stop_taken_ns: int | None = None
        """When the app had surely taken note of the first stop signal (CLOCK_MONOTONIC)."""
        self._told_active = True
        """What the listeners were last told."""
        self._listener: Removable | None = None
        self._fd = -1
        self._left = False
        self._ended: asyncio.Future[BaseException] = loop.create_future()
        """What came out of ``pump()`` in the end."""

    def enter(self) -> None:
        """Enter the app behind the server's handlers, and have the loop drive it."""
        servers = {signum: signal.getsignal(signum) for signum in _STOPS}
        mask = signals.block()  # until a signal reaches both
        try:
            self._fd = self._app.enter_driven()
            try:
                self._listener = self._app.add_listener("appStateChange", self._told)
                for signum in _STOPS:
                    signal.signal(signum, self._chained(signal.getsignal(signum), servers[signum]))
                self._hold_or_let_go()
                self._loop.add_reader(self._fd, self._turn)
            except BaseException as error:
                self._leave_app(error)
                raise
        finally:
            signals.restore_mask(mask)

    def _told(self, state: AppState) -> None:
        self._told_active = state.is_active

    def _chained(self, apps: object, servers: object) -> _Handler:
        assert callable(apps)
        # asyncio's own does nothing: such a server hears by the wake-up descriptor, to which the app passes signals on.
        has_server = callable(servers) and servers is not signal.default_int_handler

        def handler(signum: int, frame: FrameType | None) -> None:
            apps(signum, frame)
            first, self._stop_heard = not self._stop_heard, True
            if first and has_server and self._draining:
                assert callable(servers)
                servers(signum, frame)
            elif first:
                self._draining = False  # nobody has told a server: it would be waited for in vain
            elif self._stop_taken_ns is not None and time.monotonic_ns() - self._stop_taken_ns > DUPLICATE_NS:
                self._draining = False  # hurry. The server is not told: uvicorn would leave by itself, before the app

        return handler

    async def take_signals(self, _web_app: Any) -> None:
        """aiohttp has begun to stop: from here on signals are the app's alone.

        Its handlers are the loop's, called by what the wake-up descriptor tells: a second one would break off the
        drain, and what is left would end with status 1.
        """
        if self._stop_heard:
            for signum in _STOPS:
                ours = signal.getsignal(signum)
                self._loop.add_signal_handler(signum, _nothing)
                signal.signal(signum, ours)

    # ---------------------------------------------------------------------------------------------------- turns

    def _turn(self) -> None:
        self._hold_or_let_go()
        try:
            self._app.pump()
        except BaseException as error:  # noqa: BLE001 - raised by whoever waits for it
            self._end(error)
            return
        if self._stop_taken_ns is None and self._app.get_state().reason.stops:
            self._stop_taken_ns = time.monotonic_ns()
            if not self._stop_heard:
                # Another thread took the signal while ours were blocked and the server was yet to be asked in.
                self._stop_heard, self._draining = True, False
        self._hold_or_let_go()

    def _hold_or_let_go(self) -> None:
        state = self._app.get_state()
        stops = self._stop_heard or state.reason.stops
        # While listeners have yet to be told that the app is back, a block would keep that from them.
        wanted = self._draining and (stops or (state.phase is Phase.ACTIVE and self._told_active))
        if wanted and self._block is None:
            self._block = self._app.critical()
            self._block.__enter__()
        elif not wanted and self._block is not None:
            block, self._block = self._block, None
            block.__exit__(None, None, None)

    def _end(self, error: BaseException) -> None:
        self._loop.remove_reader(self._fd)
        self._ended.set_result(error)
        if not self._shutting_down:
            # The budget is spent, or a second signal said hurry, and the server drains still.
            self._leave_app(error)
            if isinstance(error, SystemExit):
                raise error
            log.error("the app cannot go on, the server is stopped", exc_info=error)
            signal.raise_signal(signal.SIGTERM)  # the handler is the server's again

    # ------------------------------------------------------------------------------------------------- way out

    async def shut_down(self, failed: BaseException | None, *, stop_on_shutdown: bool) -> SystemExit | None:
        """The server has drained, or been cancelled: let the grace period come to its end.

        Return what the process is to leave by, or None: nobody has told it to.
        """
        self._draining, self._shutting_down = False, True
        if not self._left:
            if stop_on_shutdown and not self._stop_heard:
                signal.raise_signal(signal.SIGTERM)  # the app's alone: the server knows
            if self._stop_heard:
                self._hold_or_let_go()
                await self._wait_for_end()
            try:
                self._leave_app(self._ended.result() if self._ended.done() else failed)
            except SystemExit as leaving:  # a signal that came on the way out
                return leaving
            if not self._ended.done():
                return None
        elif isinstance(self._ended.result(), SystemExit):
            return None  # raised already
        error = self._ended.result()
        if not isinstance(error, SystemExit):
            raise error
        # Not for a server that has given up (GeneratorExit, CancelledError): that is nobody's failure.
        return SystemExit(1) if isinstance(failed, Exception) and not error.code else error

    async def _wait_for_end(self) -> None:
        """Also if the server cancels us: only a second stop signal makes the grace period shorter."""
        cancelled: asyncio.CancelledError | None = None
        while not self._ended.done():
            try:
                await asyncio.wait({self._ended})
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            log.warning("the server cancelled its shutdown: the grace period was seen to its end all the same")

    def _leave_app(self, error: BaseException | None) -> None:
        self._left = True
        if self._fd != -1:
            self._loop.remove_reader(self._fd)
        if self._listener is not None:
            self._listener.remove()
        self._draining = False
        self._hold_or_let_go()
        self._app.__exit__(type(error) if error is not None else None, error, error.__traceback__ if error else None)
