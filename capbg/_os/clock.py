"""CLOCK_MONOTONIC, and the kernel's timers on it.

The standard library (before 3.13) makes neither timerfds nor POSIX timers, so this is a few lines of ctypes over
timerfd_create(2) and timer_create(2). Every instant is absolute, in nanoseconds: a duration would start to run at a
moment nobody chose. CLOCK_MONOTONIC stands still while the machine sleeps, and runs on while a process is stopped.
"""

import ctypes
import os
import struct
import time
from threading import get_native_id
from typing import NoReturn

from capbg._core.words import NS
from capbg._os import fds

_CLOCK_MONOTONIC = 1
_TIMER_ABSTIME = 1
_TFD_FLAGS = os.O_CLOEXEC | os.O_NONBLOCK
_SIGEV_SIGNAL = 0
_SIGEV_THREAD_ID = 4

_libc = ctypes.CDLL(None, use_errno=True)
_TimerId, _byref = ctypes.c_void_p, ctypes.byref
# Looked up here and not at the first call, which is a worker's: there each step costs a page.
_timer_create, _timer_settime, _timer_delete = _libc.timer_create, _libc.timer_settime, _libc.timer_delete


def now_ns() -> int:
    """The instant, in nanoseconds of CLOCK_MONOTONIC."""
    return time.monotonic_ns()


_ITIMERSPEC = struct.Struct("@llll").pack
"""it_interval, it_value: seconds and nanoseconds each."""
_SIGEVENT = struct.Struct("@Piii44x").pack
"""sigev_value, the signal, the kind, the thread; 64 bytes with the padding (sigevent(7))."""


def _once_at(instant_ns: int | None) -> bytes:
    if instant_ns is None:
        return _ITIMERSPEC(0, 0, 0, 0)
    # All zero would disarm: an instant in the distant past is one nanosecond after the clock's origin.
    return _ITIMERSPEC(0, 0, *divmod(max(1, instant_ns), NS))


def _fail(call: str) -> NoReturn:
    number = ctypes.get_errno()
    raise OSError(number, f"{call}: {os.strerror(number)}")


class TimerFd:
    """A descriptor that is readable from an instant on (timerfd_create(2)); close-on-exec, non-blocking."""

    def __init__(self) -> None:
        self.fd = _libc.timerfd_create(_CLOCK_MONOTONIC, _TFD_FLAGS)
        if self.fd < 0:
            _fail("timerfd_create")
        self._armed_ns: int | None = None

    def set(self, instant_ns: int | None) -> None:
        """Be readable from ``instant_ns`` on; None: never."""
        if instant_ns == self._armed_ns:
            return
        if _libc.timerfd_settime(self.fd, _TIMER_ABSTIME, _once_at(instant_ns), None) < 0:
            _fail("timerfd_settime")
        self._armed_ns = instant_ns

    def clear(self) -> None:
        """Read the expiry, so that the descriptor is not readable any more; the timer is then disarmed."""
        try:
            os.read(self.fd, 8)
        except BlockingIOError:
            return
        self._armed_ns = None

    def close(self) -> None:
        """Close the descriptor."""
        self.fd = fds.close(self.fd)


class SignalTimer:
    """A POSIX timer that sends a signal at an instant, to this process or to the calling thread (timer_create(2)).

    To the thread: since Linux 6.4 a timer's signal goes to whichever thread is running just then. Python's handler runs
    in the main thread, which nothing would wake up if that were another one.

    With SIGKILL nothing this process does or suffers can prevent it: it dies in a busy loop with every signal blocked,
    and while stopped by SIGSTOP. A timer is not inherited over fork(2): a worker makes its own.
    """

    def __init__(self, signum: int, *, to_this_thread: bool = False) -> None:
        kind, thread = (_SIGEV_THREAD_ID, get_native_id()) if to_this_thread else (_SIGEV_SIGNAL, 0)
        self._id = _TimerId()
        event = _SIGEVENT(0, signum, kind, thread)
        if _timer_create(_CLOCK_MONOTONIC, event, _byref(self._id)) < 0:
            _fail("timer_create")

    def set(self, instant_ns: int | None) -> None:
        """Send the signal at ``instant_ns``, at once if it has passed; None: never."""
        if _timer_settime(self._id, _TIMER_ABSTIME, _once_at(instant_ns), None) < 0:
            _fail("timer_settime")

    def close(self) -> None:
        """Delete the timer."""
        _timer_delete(self._id)
