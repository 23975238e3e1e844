"""CLOCK_MONOTONIC, and the kernel's timers on it.

The standard library (before 3.13) makes neither timerfds nor POSIX timers, so this is a few lines of ctypes over
timerfd_create(2) and timer_create(2). Every instant is absolute, in nanoseconds: a duration would start to run at a
moment nobody chose. CLOCK_MONOTONIC stands still while the machine sleeps, and runs on while a process is stopped.
"""

import ctypes
import os
import threading
import time

from capbg._core.words import NS
from capbg._os import fds

_CLOCK_MONOTONIC = 1
_TIMER_ABSTIME = 1
_TFD_FLAGS = os.O_CLOEXEC | os.O_NONBLOCK
_SIGEV_SIGNAL = 0
_SIGEV_THREAD_ID = 4

_libc = ctypes.CDLL(None, use_errno=True)


def now_ns() -> int:
    """The instant, in nanoseconds of CLOCK_MONOTONIC."""
    return time.monotonic_ns()


class _Timespec(ctypes.Structure):
    _fields_ = (("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("it_interval", _Timespec), ("it_value", _Timespec))


class _Sigevent(ctypes.Structure):
    # struct sigevent is 64 bytes: a union sigval, the signal, the kind, and padding (sigevent(7)).
    _fields_ = (
        ("sigev_value", ctypes.c_void_p),
        ("sigev_signo", ctypes.c_int),
        ("sigev_notify", ctypes.c_int),
        ("sigev_tid", ctypes.c_int),
        ("pad", ctypes.c_char * 44),
    )


def _once_at(instant_ns: int | None) -> _Itimerspec:
    spec = _Itimerspec()
    if instant_ns is not None:
        # All zero would disarm: an instant in the distant past is one nanosecond after the clock's origin.
        instant_ns = max(1, instant_ns)
        spec.it_value.tv_sec, spec.it_value.tv_nsec = divmod(instant_ns, NS)
    return spec


def _check(result: int, call: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")
    return result


class TimerFd:
    """A descriptor that is readable from an instant on (timerfd_create(2)); close-on-exec, non-blocking."""

    def __init__(self) -> None:
        self.fd = _check(_libc.timerfd_create(_CLOCK_MONOTONIC, _TFD_FLAGS), "timerfd_create")
        self._armed_ns: int | None = None

    def set(self, instant_ns: int | None) -> None:
        """Be readable from ``instant_ns`` on; None: never."""
        if instant_ns == self._armed_ns:
            return
        spec = _once_at(instant_ns)
        _check(_libc.timerfd_settime(self.fd, _TIMER_ABSTIME, ctypes.byref(spec), None), "timerfd_settime")
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
        event = _Sigevent(sigev_signo=signum, sigev_notify=_SIGEV_SIGNAL)
        if to_this_thread:
            event.sigev_notify, event.sigev_tid = _SIGEV_THREAD_ID, threading.get_native_id()
        self._id = ctypes.c_void_p()
        _check(_libc.timer_create(_CLOCK_MONOTONIC, ctypes.byref(event), ctypes.byref(self._id)), "timer_create")

    def set(self, instant_ns: int | None) -> None:
        """Send the signal at ``instant_ns``, at once if it has passed; None: never."""
        spec = _once_at(instant_ns)
        _check(_libc.timer_settime(self._id, _TIMER_ABSTIME, ctypes.byref(spec), None), "timer_settime")

    def close(self) -> None:
        """Delete the timer."""
        _libc.timer_delete(self._id)
