"""What happens inside a worker, from its first instruction to ``_exit``.

The order is the guarantee. Nothing of the user's runs before all of this holds: the worker is in a process group of
its own; it dies with the app; it holds no descriptor and no handler of the app's; it has the app's word to go; and the
kernel holds its deadlines. The rest of its life is one callback, and the ways in which that can end.

Expiry
======

A timer of the kernel's sends the worker a signal at its soft deadline (the app sends the same one when it is told to
hurry or to cancel). The handler runs ``on_expire`` and raises TaskExpired into the callback. While the main thread is
between the request and the answer of a finish the handler only takes note: a finish that the app has counted must not
be met by a roll-back. Before the callback has begun and after it has ended there is nothing to raise into.

This file must not know of other tasks, phases or systemd.
"""

import signal
import socket
import sys
import threading
from _thread import get_ident
from collections.abc import Callable, Coroutine
from os import _exit, getpid, setpgid
from time import monotonic_ns
from types import FrameType
from typing import Any, NoReturn

from capbg._core import wire
from capbg._core.budget import NO_LIMITS

# By name: a worker that looks a function up in its module copies a page for the module and one for the name.
from capbg._core.wire import GO_SIZE, decode_go
from capbg._os.clock import SignalTimer
from capbg._os.fds import close_owned, leave_outer, redirect_in_worker
from capbg._os.limits import die_with_parent, die_with_writer, set_asked_for, set_cpu
from capbg._os.notify import forget_in_worker
from capbg._os.signals import EXPIRE, reset_in_worker
from capbg._os.title import show_worker
from capbg.errors import TaskExpired
from capbg.task import APP_GONE, Order, Task, set_current

_LOOK_UP_S = 0.2
_EXPIRE, _SIGKILL = int(EXPIRE), int(signal.SIGKILL)

before_task: list[Callable[[], object]] = []
"""What a forked worker does right before its callback: here the adapters put their toolkits out of its reach."""


class _Expiry:
    """The soft expiry of this worker: the handler, and where it may strike."""

    soft_ns = hard_ns = sys.maxsize
    begun = False
    task: Task | None = None
    timers: tuple[SignalTimer, SignalTimer] | None = None
    _held = 0
    _pending = False
    _told = False
    _striking = False
    _cancel: Callable[[], object] | None = None

    def __init__(self, order: Order) -> None:
        self._order = order
        self._main = get_ident()

    def handle(self, signum: int, _frame: FrameType | None) -> None:
        """The signal handler."""
        if self.begun:
            return
        self.begun = True
        now = monotonic_ns()
        self.hard_ns = min(self.hard_ns, now + self._order.kill_after_ns)
        if signum != signal.SIGXCPU:
            # There the hard RLIMIT_CPU is the kernel's part. The app counts from when it hears of it, a moment later:
            # it would take an earlier SIGKILL for somebody else's.
            self._set_hard()
        if self.task is not None and (signum == signal.SIGXCPU or now >= self.soft_ns):
            cause = wire.Cause.CPU if signum == signal.SIGXCPU else wire.Cause.DEADLINE
            self.task._say(wire.encode(wire.ExpiryBegun(cause)))
        if self._held:
            self._pending = True
        else:
            self._strike()

    def _set_hard(self) -> None:
        if self.timers is not None:
            self.timers[1].set(self.hard_ns)

    def _strike(self) -> None:
        if not self._striking or self.task is None or self.task._finished:
            return
        if self._order.on_expire is not None and not self._told:
            self._told = True  # a coroutine is struck once more, for the threads it has left behind
            try:
                self._order.on_expire(self.task)
            except Exception as error:  # noqa: BLE001 - the user's code; the task must expire all the same
                self.task._note(f"on_expire raised {type(error).__name__}: {error}")
        if self._cancel is not None:
            self._cancel()
        else:
            raise TaskExpired(f"task {self._order.task_id!r} has expired")

    def finishing(self) -> None:
        """The task has said its word: its deadline does not concern it any more. The hard one does until the answer."""
        if self.timers is not None:
            self.timers[0].set(None)

    def finished(self) -> None:
        """The task is settled: it has ``kill_after`` to leave."""
        self.hard_ns = min(self.hard_ns, monotonic_ns() + self._order.kill_after_ns)
        self._set_hard()

    def hold(self) -> None:
        """Keep the expiry back, if this is the main thread: nowhere else does it strike."""
        if get_ident() == self._main:
            self._held += 1

    def release(self) -> None:
        """Let it strike again, as often as it was held."""
        if get_ident() == self._main:
            self._held -= 1
            if self._pending and not self._held:
                self._pending = False
                self._strike()

    def striking(self, cancel: Callable[[], object] | None = None) -> "_Expiry":
        """Let the expiry strike in the block behind ``with``: by ``cancel``, or else by raising TaskExpired."""
        self._cancel = cancel
        return self

    def __enter__(self) -> None:
        self._striking = True
        if self.begun:  # it came before there was anything to strike
            self._strike()

    def __exit__(self, *_exc: object) -> None:
        self._striking = False


# ------------------------------------------------------------------------------------------------------ the worker


def main(order: Order, pipe: socket.socket, parent: int, lifeline: int | None) -> NoReturn:
    """Run one task and leave."""
    code = APP_GONE
    try:
        code = _live(order, pipe, parent, lifeline)
    except BaseException:  # noqa: BLE001 - a worker never unwinds into the app's frames
        # Not our callback's: that is caught further in. Say it where an operator looks.
        sys.excepthook(*sys.exc_info())
    finally:
        _flush()
        _exit(code)


def _live(order: Order, pipe: socket.socket, parent: int, lifeline: int | None) -> int:
    try:
        setpgid(0, 0)
    except PermissionError:
        pass  # a session leader is a group leader already
    alive = die_with_parent(parent) if lifeline is None else die_with_writer(lifeline)
    if not alive:
        return APP_GONE
    close_owned(keep=pipe.fileno())
    leave_outer()
    redirect_in_worker((sys.stdout, sys.stderr))
    forget_in_worker()

    expiry = _Expiry(order)
    reset_in_worker(expiry.handle)
    data = pipe.recv(GO_SIZE + 1)
    if not data:
        return APP_GONE  # the app could not watch us, and has given up on this start
    soft_ns, hard_ns, cpu_soft_s, cpu_hard_s = decode_go(data)
    expiry.soft_ns, expiry.hard_ns = soft_ns, min(hard_ns, expiry.hard_ns)
    task = expiry.task = Task(order, pipe, expiry)

    notes: list[str] = []
    try:
        expiry.timers = SignalTimer(_EXPIRE, to_this_thread=True), SignalTimer(_SIGKILL)
    except OSError as error:  # RLIMIT_SIGPENDING is spent; the app holds the deadline, too
        notes.append(f"the kernel's timers could not be made, the app alone holds the deadline: {error}")
    else:
        expiry.timers[1].set(expiry.hard_ns)
        expiry.timers[0].set(soft_ns)
    try:
        set_cpu(cpu_soft_s, cpu_hard_s)
        if order.limits is not NO_LIMITS:
            set_asked_for(order.limits)
    except (OSError, ValueError) as error:
        # Outside the box that was asked for, a task may harm the machine: it does not run.
        task._say(wire.encode(wire.Unarmed(str(error))))
        return 1
    if order.proctitle:
        show_worker(order.app_name, order.task_name)
    for note in notes:
        task._note(note)
    set_current(task)
    _forget_loops()

    return _run(order, task, expiry)


_kept: list[object] = []


def _forget_loops() -> None:
    """Have an event loop that ran in the app at the fork not seem to run here.

    Its descriptors are the app's: epoll_ctl(2) by way of an inherited descriptor changes the very set the app waits
    for. asyncio notices the fork by itself; it just must not clean up. trio and what asks sniffio do not notice.
    """
    modules = sys.modules
    if (sniffio := modules.get("sniffio")) is not None:
        sniffio.thread_local.name = None
        sniffio.current_async_library_cvar.set(None)
    context = getattr(modules.get("trio._core._run"), "GLOBAL_RUN_CONTEXT", None)
    if context is not None:
        vars(context).clear()
    # A loop that is idle has perhaps no other owner than asyncio's policy. Once another is set here it could be
    # collected, and its __del__ would take its self-pipe out of the app's epoll set.
    policy = getattr(modules.get("asyncio.events"), "_event_loop_policy", None)
    _kept.append(getattr(getattr(policy, "_local", None), "_loop", None))


def _run(order: Order, task: Task, expiry: _Expiry) -> int:
    """Call the callback, and tell the app how it ended."""
    arguments = (task,) if order.takes_task else ()
    try:
        for prepare in before_task:
            prepare()
        try:
            if order.is_coroutine:
                _run_coroutine(order.callback(*arguments), expiry)
            else:
                with expiry.striking():
                    result = order.callback(*arguments)
                    _join_threads()
                if result is not None and isinstance(result, Coroutine):
                    # A plain function that returned a coroutine, such as functools.partial or a lambda over one.
                    _run_coroutine(result, expiry)
            if order.returning_finishes and not task._finished and not expiry.begun:
                task.finish()
        except TaskExpired:
            pass
        except SystemExit as leaving:
            if leaving.code not in (None, 0):
                raise
    except BaseException as error:  # noqa: BLE001 - this is where a task's exceptions end
        _tell_last(task, _raised(error))
        return 1
    _tell_last(task, wire.RETURNED)
    return 0


def _run_coroutine(coroutine: Any, expiry: _Expiry) -> None:
    """Run a coroutine to completion on a loop of its own; the expiry cancels it."""
    import asyncio

    async def run() -> None:
        inner = asyncio.ensure_future(coroutine)
        loop = asyncio.get_running_loop()
        cancelled = False

        def cancel() -> None:
            nonlocal cancelled
            cancelled = True
            loop.call_soon_threadsafe(inner.cancel)  # thread-safe also means: from a signal handler, it wakes the loop

        with expiry.striking(cancel):
            try:
                await inner
            except asyncio.CancelledError:
                if not cancelled:
                    raise

    runner = asyncio.Runner()
    try:
        runner.run(run())
    finally:
        if expiry.begun:
            runner.close()
        else:
            with expiry.striking():  # what the coroutine has left behind may take as long as it did
                runner.close()
    with expiry.striking():
        _join_threads()


def _join_threads() -> None:
    """Wait for the threads the callback left running: until they end, so does the task."""
    pools = sys.modules.get("concurrent.futures.thread")
    if pools is not None:
        pools._python_exit()  # as the interpreter does on its way out: idle threads of a pool wait for work for ever
    while threading.active_count() > 1:
        running = [t for t in threading.enumerate() if t is not threading.main_thread() and not t.daemon]
        if not running:
            return
        for thread in running:  # each may start more
            thread.join(_LOOK_UP_S)  # and look up: a signal that another thread has caught does not end a wait


def _tell_last(task: Task, packet: bytes) -> None:
    if getpid() != task._pid:
        return  # a fork of the worker that came out of the callback: it does not speak for the task
    try:
        task._pipe.send(packet, socket.MSG_NOSIGNAL)  # blocks while the app is busy; the kernel's timer bounds it
    except OSError:
        pass  # the app is gone: the exit code says the same


_OUT_OF_MEMORY = wire.encode(wire.Raised("MemoryError", "", ""))


def _raised(error: BaseException) -> bytes:
    try:
        return _raised_in_full(error)
    except MemoryError:
        return _OUT_OF_MEMORY  # made before there was a limit


def _raised_in_full(error: BaseException) -> bytes:
    import traceback

    try:
        message = str(error)
    except BaseException:  # noqa: BLE001 - an exception whose __str__ raises, whatever
        message = "(its message could not be made)"
    try:
        text = "".join(traceback.format_exception(error))
    except BaseException:  # noqa: BLE001
        text = ""
    return wire.encode(wire.Raised(type(error).__qualname__, message, text))


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError, RuntimeError):
            pass  # closed, None, or a reader that is gone: there is nobody left to tell
