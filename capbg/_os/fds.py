"""Descriptors: one owner each, close-on-exec, non-blocking, and known by number so that a worker can close them.

Everything the app keeps open is in :data:`OWNED`; a freshly forked worker closes the lot, except its own end of its
pipe. This file must not know what a descriptor is for.
"""

import os
import select
import socket
from collections.abc import Callable

# By name: a worker that looks a function up in its module copies a page for the module and one for the name.
from os import O_CLOEXEC, O_RDWR, closerange, devnull, dup, dup2
from os import close as _close
from os import open as _open

OWNED: set[int] = set()
"""Descriptors that belong to the app and that no worker may keep."""


def own(fd: int) -> int:
    """Note ``fd`` as the app's, to be closed in workers."""
    OWNED.add(fd)
    return fd


def forget_all() -> None:
    """On entering an app: what is noted was a parent's, or another life's, and the numbers are anybody's by now."""
    global _outer
    OWNED.clear()
    _outer = ()


def close(fd: int) -> int:
    """Close ``fd`` unless that has been done; return -1, for the owner to keep instead."""
    if fd >= 0:
        OWNED.discard(fd)
        os.close(fd)
    return -1


def close_owned(keep: int = -1) -> None:
    """In a worker: close everything of the app's but ``keep``, run by run (close_range(2) takes one run a call)."""
    first = last = -2
    for fd in [*sorted(OWNED), -1]:
        if fd == keep:
            continue
        if fd != last + 1:
            if last >= 0:
                closerange(first, last + 1)
            first = fd
        last = fd


def packet_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of a pipe for packets: SOCK_SEQPACKET keeps their borders. Both are close-on-exec."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    return ours, theirs


def wake_pipe() -> tuple[int, int]:
    """A pipe of single bytes, both ends non-blocking and close-on-exec (pipe2(2))."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    return own(read_end), own(write_end)


_outer: tuple[int, ...] = ()
"""Epoll descriptors of the event loops that watch the app's."""


def find_outer(fd: int) -> bool:
    """Look for whoever watches ``fd``, the app's descriptor, with an epoll descriptor (proc_pid_fdinfo(5)).

    For :func:`leave_outer` in the workers that are forked next. False: there was no looking, for want of a descriptor
    or of /proc.
    """
    global _outer
    watching = []
    try:
        names = os.listdir("/proc/self/fd")
    except OSError:
        return False
    for name in names:
        try:
            if os.readlink(f"/proc/self/fd/{name}") != "anon_inode:[eventpoll]":
                continue
            with open(f"/proc/self/fdinfo/{name}", "rb") as info:
                if any(line.split()[1] == b"%d" % fd for line in info if line.startswith(b"tfd:")):
                    watching.append(int(name))
        except OSError:
            continue  # another thread has closed it meanwhile
    _outer = tuple(watching)
    return True


def leave_outer() -> None:
    """In a worker: put an empty epoll in the place of each that the app's event loop waits with.

    A fork shares the set itself. A callback that closes what it has inherited (a connection, a client, the loop) would
    take it out of the set the app waits with, and the app would never hear of it again. Merely closing the descriptor
    is not enough: its number would soon be another file's, and the loop's object would act on that.
    """
    if _outer:
        empty = select.epoll()
        for fd in _outer:
            os.dup2(empty.fileno(), fd, inheritable=False)
        empty.close()


class Poller:
    """The one place to wait: an epoll descriptor and what to call for each descriptor in it (epoll(7))."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._calls: dict[int, Callable[[], None]] = {}
        own(self._epoll.fileno())

    def fileno(self) -> int:
        """The epoll descriptor: readable whenever one in it is."""
        return self._epoll.fileno()

    def add(self, fd: int, call: Callable[[], None]) -> None:
        """Call ``call`` in every turn in which ``fd`` is readable or hung up."""
        self._epoll.register(fd, select.EPOLLIN)
        self._calls[fd] = call

    def remove(self, fd: int) -> None:
        """Forget ``fd``. Before it is closed: a child that still holds it would keep it in the epoll set."""
        if self._calls.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def wait(self, *, block: bool) -> list[Callable[[], None]]:
        """Return what to call. Blocks until there is something if ``block``; there is no timeout: use a timer."""
        # All of them: the clock is looked at behind it, and whoever was not heard would be too late.
        found = self._epoll.poll(-1 if block else 0, max(1, len(self._calls)))
        return [self._calls[fd] for fd, _ in found if fd in self._calls]

    def close(self) -> None:
        """Close the epoll descriptor."""
        OWNED.discard(self._epoll.fileno())
        self._epoll.close()


def fill_standard() -> None:
    """Open /dev/null where 0, 1 or 2 is closed: else a pipe of ours would be somebody's stdout.

    Without a free descriptor it does nothing: then nothing of ours can be opened in those places, either.
    """
    try:
        while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
            os.set_inheritable(fd, True)
        os.close(fd)
    except OSError:
        pass


def redirect_in_worker(streams: tuple[object, ...]) -> None:
    """In a worker: read nothing from the terminal, and throw away what the app had buffered for stdout and stderr.

    A background process group would be stopped for reading (SIGTTIN). And what is buffered is the app's to write:
    without this its half-written line comes out once more in every worker. Flushing in the app *before* the fork would
    do, too, but it blocks for ever on a full pipe that nobody reads. So the buffer is flushed here, into /dev/null, and
    the descriptor is put back.
    """
    null = _open(devnull, O_RDWR | O_CLOEXEC)
    try:
        dup2(null, 0)
        for stream in streams:
            try:
                fd = stream.fileno()  # type: ignore[attr-defined]
            except (AttributeError, OSError, ValueError):
                continue  # closed, None, or no file: nothing of ours is buffered for a descriptor
            saved = dup(fd)
            try:
                dup2(null, fd)
                stream.flush()  # type: ignore[attr-defined]
            except (OSError, ValueError, RuntimeError):
                pass  # RuntimeError: the signal came in the middle of a print; that buffer is lost to us, not written
            finally:
                dup2(saved, fd)
                _close(saved)
    finally:
        if null != 0:
            _close(null)
