"""The task as its callback sees it: what it may ask and say in its worker.

This file must not know how a worker lives (``worker.py``), nor load what only a worker needs: it comes with the app.
"""

import fcntl
import logging
import math
import os
import socket
import sys
import termios
import time
from _thread import allocate_lock
from collections.abc import Callable
from dataclasses import dataclass
from os import getpid
from typing import Protocol

from capbg._core import wire
from capbg._core.budget import Limits
from capbg._core.wire import ACKNOWLEDGED, FINISH
from capbg._core.words import NS, Progress
from capbg.errors import InvalidArgumentError, UnknownTaskError, WrongTypeError

log = logging.getLogger("capbg")

APP_GONE = 70
"""Exit code of a worker whose app was gone before it could begin or be heard (EX_SOFTWARE)."""

_PROGRESS_UNREAD_MOST = 65_536
"""Bytes of unread words beyond which progress is not sent. A socket's buffer takes three times that (wmem_default), so
a finish always fits in: it counts even if the app is stopped and the worker is dead by the time it is read."""


@dataclass(frozen=True, slots=True)
class Order:
    """What a worker is to do. Under spawn and forkserver it travels by dill, so it holds nothing of the app's."""

    task_id: str
    task_name: str
    app_name: str
    callback: Callable[..., object]
    takes_task: bool
    is_coroutine: bool
    returning_finishes: bool
    on_expire: Callable[["Task"], object] | None
    limits: Limits
    kill_after_ns: int
    proctitle: bool


class Expiry(Protocol):
    """What a task needs of its worker's deadlines."""

    soft_ns: int
    hard_ns: int
    begun: bool

    def hold(self) -> None:
        """Keep the expiry back, if this is the main thread."""
        ...

    def release(self) -> None:
        """Let it strike again, as often as it was held."""
        ...

    def finishing(self) -> None:
        """The word has been said."""
        ...

    def finished(self) -> None:
        """The word has been acknowledged."""
        ...


class Task:
    """The task this worker runs, as its callback sees it. Its methods may be called from any thread of the worker."""

    def __init__(self, order: Order, pipe: socket.socket, expiry: Expiry) -> None:
        self._order = order
        self._pipe = pipe
        self._expiry = expiry
        self._pid = getpid()
        self._lock = allocate_lock()
        self._finished = False

    def __repr__(self) -> str:
        return f"<Task {self.id!r}{' expiring' if self.expiring else ''}>"

    @property
    def id(self) -> str:
        """The id ``before_exit`` returned."""
        return self._order.task_id

    @property
    def name(self) -> str:
        """The name the task was registered with."""
        return self._order.task_name

    @property
    def expiring(self) -> bool:
        """Whether the task has been told to come to an end."""
        return self._expiry.begun

    def time_remaining(self) -> float:
        """Seconds until the soft expiry, or once that has begun until the kernel ends the worker; never negative."""
        until = self._expiry.hard_ns if self._expiry.begun else self._expiry.soft_ns
        return max(0.0, (until - time.monotonic_ns()) / NS)

    def finish(self) -> None:
        """Say that the task is done; returns when the app has acknowledged it, and then nothing can change that.

        Afterwards the worker has ``kill_after`` seconds to leave. A second call does nothing but warn in the log.
        Raises UnknownTaskError in a process that the worker has forked: only the task itself knows that it is done.
        """
        if getpid() != self._pid:
            raise UnknownTaskError(
                f"task {self.id!r} cannot be finished from process {os.getpid()}: finish it in its own worker, "
                f"process {self._pid}",
                task_id=self.id,
            )
        expiry = self._expiry
        expiry.hold()
        try:
            with self._lock:
                if self._finished:
                    log.warning("task %r has finished already: this finish() changes nothing", self.id)
                    return
                # Blocking on purpose: it counts once it is acknowledged. The kernel's timer ends a wait without an
                # answer.
                self._pipe.sendall(FINISH)
                expiry.finishing()
                if self._pipe.recv(1) != ACKNOWLEDGED:
                    os._exit(APP_GONE)  # the app is gone, and with it whoever could take the word
                self._finished = True
                expiry.finished()
        finally:
            expiry.release()

    def progress(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """Say how far the task is, for systemd's status and the report. Never blocks: a busy app misses it.

        ``done`` and ``total`` are finite numbers in a unit of your own; ``message`` is cut to 200 bytes.
        """
        _number(done, "done")
        if total is not None:
            _number(total, "total")
        if message is not None and not isinstance(message, str):
            raise WrongTypeError(f"progress(message) must be text, not {type(message).__name__}")
        packet = wire.encode(wire.ProgressMade(Progress(float(done), None if total is None else float(total), message)))
        self._expiry.hold()
        try:
            with self._lock:
                if self._unread_bytes() < _PROGRESS_UNREAD_MOST:
                    self._say(packet)
        finally:
            self._expiry.release()

    def _unread_bytes(self) -> int:
        """What of our words the app has yet to read, as the kernel counts it (SIOCOUTQ)."""
        try:
            return int.from_bytes(fcntl.ioctl(self._pipe.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)
        except OSError:
            return 0  # the task has closed every descriptor it found; what is said next is lost, and no more than that

    def _note(self, text: str) -> None:
        self._say(wire.encode(wire.Note(text)))

    def _say(self, packet: bytes) -> None:
        try:
            self._pipe.send(packet, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            pass  # the app has a queue full of our words unread: the next one tells it as much
        except OSError:
            pass  # the app has closed our pipe: it has killed us, or is gone, and the kernel is about to act


def _number(value: object, parameter: str) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise WrongTypeError(f"progress({parameter}) must be a number, not {type(value).__name__} ({value!r})")
    try:
        finite = math.isfinite(value)
    except OverflowError:  # an int beyond every float
        finite = False
    if not finite:
        raise InvalidArgumentError(f"progress({parameter}) must be finite, not {value!r}")


_current: Task | None = None


def set_current(task: Task) -> None:
    """This process is the worker of ``task``."""
    global _current
    _current = task


def current_task() -> Task | None:
    """The task this process runs; None in every process that is not a worker."""
    return _current if _current is not None and _current._pid == os.getpid() else None


def finish_current(task_id: object) -> None:
    """Finish the task this worker runs, named by its id. Raises UnknownTaskError if it is another one."""
    task = _current
    assert task is not None
    if task_id != task.id:
        raise UnknownTaskError(
            f"this worker runs task {task.id!r} and cannot finish {task_id!r}: each task is finished in its own worker",
            task_id=task_id,
        )
    task.finish()
