"""Worker processes: started through ``multiprocess``, watched, signalled and reaped by pidfd. No policy.

A worker is a process as ``multiprocess`` knows them (its ``current_process()`` is one, its orders travel by its
pickler, its fork server and its spawn command start it), but ``Process.start()`` is never called. What that cures:

* It polls all other children, and so reaps them behind a supervisor's back; here only :meth:`_Started.reap` does.
* Its sentinel is a pipe that a grandchild can hold open; a pidfd belongs to one process (pidfd_open(2)).
* It flushes stdout first, and blocks if nobody reads it; under spawn it writes the pickled order into a pipe, and
  blocks for ever if the child dies young. Here nothing is flushed, and the order is put into a memfd.

A new worker waits for the app's first packet before it does anything of the user's. So whatever goes wrong between
the fork and the pidfd (a table of descriptors that is full), the worker is ended and nothing has happened twice.

What a fork costs
=================

After a fork both sides share every page, and whoever writes to one first pays for a copy (measured: 4 to 7 us a page).
CPython writes wherever it looks, for it counts references. So the app forks in batches: whatever can be done before
the first fork or behind the last one is done there, and between two forks it touches next to nothing; and a worker's
way to its task is short and looks at few objects.
"""

import _thread
import errno
import fcntl
import io
import os
import select
import signal
import socket
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from multiprocess import forkserver, process, reduction, resource_tracker, spawn, util
from multiprocess.context import set_spawning_popen

from capbg._core import wire
from capbg._core.task import Exit
from capbg._core.words import NS
from capbg._os import fds, signals

START_METHODS = ("fork", "spawn", "forkserver")

_SERVER_PATIENCE_MS = 2_000
"""How long the fork server may take to answer before the start counts as failed for now."""
_STATUS_PATIENCE_MS = 200
"""How long the fork server may take to pass on the exit status of a worker that is gone."""

_SERVER_PLACES = 5
"""How many descriptors multiprocess opens at a time to ask the fork server for a process."""

_DISCARD_PATIENCE_MS = 2_000
"""How long a worker that has not begun may take to die of SIGKILL."""

_WAIT = os.WEXITED | os.WNOHANG | os.WNOWAIT


class InheritedFd:
    """A descriptor that goes along to a worker under every start method."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __reduce__(self) -> tuple[Callable[[Any], "InheritedFd"], tuple[Any]]:
        return _inherit, (reduction.DupFd(self.fd),)


def _inherit(dup: Any) -> InheritedFd:
    return InheritedFd(dup.detach())


_finalizers, _after_forkers = util._finalizer_registry, util._afterfork_registry


@dataclass(frozen=True, slots=True)
class Start:
    """What to start: a task's id and name, and what its worker is to do."""

    task_id: str
    name: str
    order: object


Target = Callable[[Any, socket.socket, int, "int | None"], NoReturn]
"""What a worker calls: the order, its end of the pipe, the app's pid, and under forkserver the lifeline."""


class _Started:
    """A worker's process as the app sees it, whatever started it."""

    pid = 0
    pidfd = -1

    def reap(self) -> Exit | None:
        """Return how it ended, None while it has not. Afterwards the pid may be somebody else's."""
        try:
            pid, status, usage = os.wait4(self.pid, os.WNOHANG)
        except ChildProcessError:  # SIGCHLD is ignored in this program, or it waits for any child: both steal statuses
            return Exit()
        if pid == 0:
            return None
        return _exit(
            os.waitstatus_to_exitcode(status),
            cpu_ns=round((usage.ru_utime + usage.ru_stime) * NS),
            max_rss=usage.ru_maxrss * 1024,
        )

    def is_unreaped(self) -> bool:
        """Whether the process, dead or alive, still has its pid to itself."""
        try:
            os.waitid(os.P_PIDFD, self.pidfd, _WAIT)
        except ChildProcessError:
            return False
        return True

    def _watch(self) -> None:
        try:
            self.pidfd = fds.own(os.pidfd_open(self.pid))
        except OSError:
            self._end_unwatched()
            raise

    def _end_unwatched(self) -> None:
        # It waits for its first packet and has done nothing. Not reaped yet, so the pid is its own.
        try:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass  # SIGCHLD is ignored in this program, or it waits for any child: why it is not watched is still said


class Worker:
    """The app's handle on one worker: its pipe and its pidfd. One owner, closed by :meth:`close`."""

    def __init__(self, task_id: str, started: "_Started", pipe: socket.socket) -> None:
        self.task_id = task_id
        self._started = started
        self.pid = started.pid
        self.pidfd = started.pidfd
        self._pipe = pipe

    @property
    def pipe_fd(self) -> int:
        """The descriptor packets arrive at; -1 once closed."""
        return self._pipe.fileno()

    def send(self, data: bytes) -> bool:
        """Send a packet; False if the worker is gone or does not read. Never blocks, never raises SIGPIPE."""
        try:
            self._pipe.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError:
            return False
        return True

    def receive(self) -> bytes | None:
        """The next packet; None if there is none now, empty if there will be none any more."""
        for _ in range(2):
            try:
                return self._pipe.recv(wire.LARGEST + 1, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return None
            except ConnectionResetError:
                # It left without reading all of ours. The kernel says so before it hands out what came from there.
                continue
        return b""

    def signal_packets(self) -> None:
        """Have the kernel send us :data:`signals.TURN` when a packet arrives or the worker goes (fcntl(2), O_ASYNC)."""
        fd = self._pipe.fileno()
        fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(fd, fcntl.F_SETSIG, signals.TURN)
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)

    def expire(self) -> None:
        """Tell the worker to come to an end."""
        self._signal(signals.EXPIRE)

    def kill(self) -> None:
        """SIGKILL to the worker and its process group."""
        self._kill_group()
        self._signal(signal.SIGKILL)

    def _signal(self, signum: int) -> None:
        try:
            signal.pidfd_send_signal(self.pidfd, signum)
        except (ProcessLookupError, PermissionError):
            pass  # gone, or it has taken another user's identity: then all that is left is to stop waiting for it

    def _kill_group(self) -> None:
        """Only while the group's number cannot be another's: its leader is not reaped, or is gone without a trace."""
        try:
            if self._started.is_unreaped():
                ours = os.getpgid(self.pid) == self.pid
            else:
                # A group outlives its leader, and keeps the number from being given to a new process meanwhile.
                ours = not os.path.exists(f"/proc/{self.pid}")
            if ours and self.pid > 1 and self.pid != os.getpgrp():
                os.killpg(self.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass

    def reap(self) -> Exit | None:
        """Kill what is left of its process group, and return how it ended; None while it has not."""
        if not _readable(self.pidfd, 0):
            return None
        self._kill_group()  # before the leader's number is free
        return self._started.reap()

    def discard(self) -> None:
        """End a worker that was never told to go: it has done nothing yet, so it dies at once."""
        self.kill()
        if _readable(self.pidfd, _DISCARD_PATIENCE_MS):
            self._started.reap()
        self.close()

    def close(self) -> None:
        """Close its descriptors."""
        fds.OWNED.discard(self._pipe.fileno())
        self._pipe.close()
        self.pidfd = self._started.pidfd = fds.close(self.pidfd)

    def forget_in_child(self) -> None:
        """In a forked child: the numbers are closed as a lot; this object must not close them once more."""
        self._pipe.detach()
        self.pidfd = self._started.pidfd = -1


# ------------------------------------------------------------------------------------------------------------- fork


class _Forked(_Started):
    def __init__(self, start: Start) -> None:
        self.start = start
        self.process = process.BaseProcess(name=start.name, daemon=False)
        self.ours, self.theirs = fds.packet_pair()
        # Both, for the other workers of the batch are to hold neither.
        fds.own(self.ours.fileno())
        fds.own(self.theirs.fileno())

    def watch(self) -> Worker:
        """In the app: give up what is the worker's, which frees a place for the pidfd."""
        self._close_theirs()
        try:
            os.setpgid(self.pid, self.pid)  # on both sides: neither knows who is first
        except OSError:
            pass
        try:
            self._watch()
        except OSError:
            self._close_ours()
            raise
        return Worker(self.start.task_id, self, self.ours)

    def end(self) -> None:
        """It was forked, and has not begun."""
        self.pidfd = fds.close(self.pidfd)
        self._end_unwatched()

    def drop(self) -> None:
        """Give up both ends: it was not forked, or is gone."""
        self._close_theirs()
        self._close_ours()

    def _close_theirs(self) -> None:
        fds.OWNED.discard(self.theirs.fileno())
        self.theirs.close()

    def _close_ours(self) -> None:
        fds.OWNED.discard(self.ours.fileno())
        self.ours.close()


def _launch_forks(starts: Sequence[Start], target: Target) -> list[Worker | Exception]:
    made: list[_Forked] = []
    try:
        return _launch_batch(starts, target, made)
    except BaseException:  # a signal handler of the program's own has raised, at the latest when it was let through
        _abandon(made)
        raise


def _launch_batch(starts: Sequence[Start], target: Target, made: list[_Forked]) -> list[Worker | Exception]:
    problem: Exception | None = None
    found: list[Worker | Exception] = []
    parent = os.getpid()
    signals.survey()
    try:
        for start in starts:
            made.append(_Forked(start))
    except OSError as error:
        problem = error
    mask = signals.block_all()
    try:
        try:
            for each in made:  # nothing in between: see above
                pid = _fork()
                if pid == 0:
                    _run_in_fork(each, target, parent)
                each.pid = pid
        except OSError as error:
            problem = error
        for each in made:
            if not each.pid:
                each.drop()
                continue
            try:
                found.append(each.watch())
            except OSError as error:
                found.append(error)
    finally:
        signals.restore_mask(mask)
    if problem is not None:
        found.append(problem)
    return found


def _abandon(made: Sequence[_Forked]) -> None:
    """Nobody will tell these workers to go, and they wait for that: end them."""
    for each in made:
        if each.pid:
            each.end()
        each.drop()


def _fork() -> int:
    if sys.version_info < (3, 12):
        return os.fork()
    # The warning about threads is said once, in full and in the log, by whoever calls us.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _run_in_fork(forked: _Forked, target: Target, parent: int) -> NoReturn:
    """The child's side of a fork: what of ``multiprocess``'s bootstrap a worker needs, then the work."""
    try:
        process._current_process = forked.process
        if process._children:
            process._children = set()
        if _finalizers:
            _finalizers.clear()
        if _after_forkers.data:
            util._run_after_forkers()
        target(forked.start.order, forked.theirs, parent, None)
    finally:
        os._exit(os.EX_SOFTWARE)


# ------------------------------------------------------------------------------------------------ spawn, forkserver


class _Ordered(_Started):
    """Spawn and forkserver: the order is pickled into a memfd, which never blocks, whatever its size."""

    method: str

    def __init__(self, start: Start, target: Target) -> None:
        self._fds: list[int] = []
        self._spare = -1
        lifeline = None if _lifeline is None else InheritedFd(_lifeline[0])
        self.ours, theirs = fds.packet_pair()
        fds.own(self.ours.fileno())
        try:
            args = (target, start.order, InheritedFd(theirs.fileno()), os.getpid(), lifeline)
            made = process.BaseProcess(target=_run_order, name=start.name, daemon=False)
            made._start_method = self.method  # what the worker's own multiprocess goes by
            self._launch(made, args)
        except BaseException:
            fds.OWNED.discard(self.ours.fileno())
            self.ours.close()
            raise
        finally:
            theirs.close()

    def _launch(self, made: Any, args: tuple[object, ...]) -> None:
        raise NotImplementedError

    def _write_order(self, made: Any, args: tuple[object, ...]) -> tuple[int, bytes]:
        """Return the order's memfd, and the few bytes that make ``multiprocess``'s own bootstrap read it."""
        order = os.memfd_create("capbg-order", os.MFD_CLOEXEC)
        set_spawning_popen(self)
        try:
            with open(order, "wb", closefd=False) as file:
                reduction.dump(args, file)
            os.lseek(order, 0, os.SEEK_SET)
            made._args = (InheritedFd(order),)
            small = io.BytesIO()
            reduction.dump(spawn.get_preparation_data(made._name), small)
            reduction.dump(made, small)
        except BaseException:
            os.close(order)
            raise
        finally:
            set_spawning_popen(None)
        return order, small.getvalue()

    def _keep_a_place(self) -> None:
        """Keep a place in the table of descriptors for the pidfd: better fail before the start than behind it."""
        self._spare = fds.own(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))

    def _free_the_place(self) -> None:
        self._spare = fds.close(self._spare)


class _Spawned(_Ordered):
    method = "spawn"

    class DupFd:
        def __init__(self, fd: int) -> None:
            self.fd = fd

        def detach(self) -> int:
            return self.fd

    def duplicate_for_child(self, fd: int) -> int:
        self._fds.append(fd)
        return fd

    def _launch(self, made: Any, args: tuple[object, ...]) -> None:
        tracker = resource_tracker.getfd()  # before the block: starting one would unblock SIGTERM and SIGINT
        order, small = self._write_order(made, args)
        head = -1
        mask = signals.block()
        try:
            self._keep_a_place()
            head = os.memfd_create("capbg-start", os.MFD_CLOEXEC)
            os.write(head, small)
            os.lseek(head, 0, os.SEEK_SET)
            self._fds += [tracker, head]
            command = spawn.get_command_line(tracker_fd=tracker, pipe_handle=head)
            self.pid = util.spawnv_passfds(spawn.get_executable(), command, self._fds)
            self._free_the_place()
            self._watch()
        finally:
            self._free_the_place()
            for fd in (order, head):
                if fd >= 0:
                    os.close(fd)
            signals.restore_mask(mask)


class _Served(_Ordered):
    method = "forkserver"

    class DupFd:
        def __init__(self, index: int) -> None:
            self.index = index

        def detach(self) -> int:
            fd: int = forkserver.get_inherited_fds()[self.index]
            return fd

    _status = -1

    def duplicate_for_child(self, fd: int) -> int:
        self._fds.append(fd)
        return len(self._fds) - 1

    def _launch(self, made: Any, args: tuple[object, ...]) -> None:
        order, small = self._write_order(made, args)
        try:
            self._keep_a_place()
            self._status = fds.own(_ask_server(self._fds, small))
            if not _readable(self._status, _SERVER_PATIENCE_MS):
                raise BlockingIOError(errno.EAGAIN, "the fork server does not answer")
            try:
                self.pid = forkserver.read_signed(self._status)
            except EOFError as error:
                raise BlockingIOError(errno.EAGAIN, "the fork server has gone away") from error
            self._free_the_place()
            self._watch()
        except BaseException:
            # The worker, if there is one, finds its pipe closed and leaves.
            self._status = fds.close(self._status)
            raise
        finally:
            self._free_the_place()
            os.close(order)

    def reap(self) -> Exit | None:
        if not _readable(self.pidfd, 0):
            return None
        found = Exit()
        if _readable(self._status, _STATUS_PATIENCE_MS):
            try:
                found = _exit(forkserver.read_signed(self._status))
            except (EOFError, OSError):
                pass  # the server is gone, and the status with it
        self._status = fds.close(self._status)
        return found

    def is_unreaped(self) -> bool:
        return not _readable(self.pidfd, 0)  # its parent, the server, reaps it at once

    def _end_unwatched(self) -> None:
        pass  # not our child: it leaves by itself, see above


def _exit(returncode: int, *, cpu_ns: int | None = None, max_rss: int | None = None) -> Exit:
    if returncode < 0:
        return Exit(signal=-returncode, cpu_ns=cpu_ns, max_rss=max_rss)
    return Exit(exit_code=returncode, cpu_ns=cpu_ns, max_rss=max_rss)


def _readable(fd: int, timeout_ms: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(timeout_ms))


def _run_order(order: InheritedFd) -> None:
    with open(order.fd, "rb") as file:
        target, what, pipe, parent, lifeline = reduction.ForkingPickler.loads(file.read())
    theirs = socket.socket(fileno=pipe.fd)
    theirs.setblocking(True)
    theirs.set_inheritable(False)
    target(what, theirs, parent, None if lifeline is None else lifeline.fd)


_ORDERED: dict[str, type[_Ordered]] = {each.method: each for each in (_Spawned, _Served)}


def launch(method: str, starts: Sequence[Start], *, target: Target) -> list[Worker | Exception]:
    """Start a worker for each of ``starts`` and return the handles, in their order; main thread only.

    In the place of a worker that could not be started is why: an OSError where the machine or its policy does not
    allow it now, or what pickling its order raised. Nothing is tried behind the first one that fails: the list may
    be shorter.
    """
    if method == "fork":
        return _launch_forks(starts, target)
    found: list[Worker | Exception] = []
    for start in starts:
        try:
            started = _ORDERED[method](start, target)
        except Exception as error:  # noqa: BLE001 - pickling runs the user's own __reduce__ and __getstate__
            return [*found, error]
        found.append(Worker(start.task_id, started, started.ours))
    return found


_server: Any = None
_lifeline: tuple[int, int] | None = None


def prepare(method: str) -> None:
    """Start early what a start method needs: the fork server while the program is small and has no threads.

    Our signals are blocked in both helpers for good: a service manager that signals every process of the service, or
    Ctrl-Z, must not end or stop them just when they are needed.
    """
    global _server, _lifeline
    fds.forget_all()
    if method == "fork":
        return
    mask = signals.block()
    try:
        resource_tracker.ensure_running()  # unblocks SIGTERM and SIGINT on its way: hence the second block
        signals.block()
        if method == "forkserver":
            _server = forkserver.ForkServer()
            _server.set_forkserver_preload(["capbg.worker"])
            _server.ensure_running()
            _lifeline = os.pipe2(os.O_CLOEXEC)
            fds.own(_lifeline[1])
            fds.own(_lifeline[0])
    finally:
        signals.restore_mask(mask)


def _ask_server(shared: list[int], small: bytes) -> int:
    """Ask the fork server, or a new one if it has died, for a process; return the descriptor at which it answers."""
    assert _server is not None, "the fork server is started when the app is entered"
    resource_tracker.ensure_running()  # see prepare() for the order
    mask = signals.block()
    try:
        _need_places(_SERVER_PLACES)
        status, write_end = _server.connect_to_new_process(shared)
        try:
            os.write(write_end, small)
        except OSError:
            os.close(status)
            raise
        finally:
            os.close(write_end)
    except ChildProcessError as error:  # it is gone, and another wait of this program has taken its status
        os.close(_server._forkserver_alive_fd)
        _server._forkserver_address = _server._forkserver_alive_fd = _server._forkserver_pid = None
        raise BlockingIOError(errno.EAGAIN, "the fork server has gone away") from error
    except (ConnectionError, FileNotFoundError) as error:  # it is dying: the next time it is known to be dead
        raise BlockingIOError(errno.EAGAIN, "the fork server has gone away") from error
    finally:
        signals.restore_mask(mask)
    return int(status)


def _need_places(count: int) -> None:
    """Raise OSError unless that many descriptors can be opened now: multiprocess loses some where it fails halfway."""
    opened: list[int] = []
    try:
        while len(opened) < count:
            opened.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    finally:
        for fd in opened:
            os.close(fd)


def put_away() -> None:
    """End the fork server. By SIGKILL: it has nothing to tidy up, and a grandchild may hold the pipe it waits for."""
    global _server, _lifeline
    if _server is not None and _server._forkserver_pid is not None:
        pid, address = _server._forkserver_pid, _server._forkserver_address
        os.close(_server._forkserver_alive_fd)
        os.kill(pid, signal.SIGKILL)
        try:
            os.waitpid(pid, 0)
        except ChildProcessError:
            pass  # reaped by another wait of this program
        if not util.is_abstract_socket_namespace(address):
            try:
                os.unlink(address)
            except FileNotFoundError:
                pass
    if _lifeline is not None:
        fds.close(_lifeline[0])
        fds.close(_lifeline[1])
    _server = _lifeline = None


def forget_in_child() -> None:
    """In a forked child: the fork server is the parent's."""
    global _server, _lifeline
    _server = _lifeline = None


_BELONG_HERE = (io.FileIO, io.BufferedIOBase, io.TextIOWrapper, socket.socket, _thread.LockType, _thread.RLock)
"""What dill would copy, or open once more, although a worker's copy is not the thing: a lock that locks nobody out."""


class _TrialPickler(reduction.ForkingPickler):
    def persistent_id(self, found: object) -> None:
        if isinstance(found, _BELONG_HERE) and not isinstance(found, io.BytesIO):
            raise TypeError(f"cannot send {type(found).__module__}.{type(found).__qualname__} object")


class _TrialPopen:
    """Stands in for a start: without one, multiprocess shares a descriptor by a thread that it starts for that."""

    DupFd = _Spawned.DupFd

    def duplicate_for_child(self, fd: int) -> int:
        return fd


def pickling_problem(*objects: object) -> str | None:
    """Why these cannot go to a worker under spawn or forkserver; None if they can."""
    set_spawning_popen(_TrialPopen())
    try:
        _TrialPickler.dumps(objects)
    except Exception as error:  # noqa: BLE001 - whatever a pickler or an object's own __reduce__ raises
        return f"{type(error).__name__}: {error}"
    finally:
        set_spawning_popen(None)
    return None
