"""Worker processes: started, watched, signalled, killed as a group and reaped by pidfd, under every start method."""

import contextlib
import errno
import os
import resource
import select
import signal
import socket
import time
from typing import Any, NoReturn

import pytest
from multiprocess import connection, process

from capbg._os import fds, workers
from tests.probe import PATIENCE_S, Launcher, is_alive, process_group

METHODS = ("fork", "forkserver", "spawn")


def echo(order: object, pipe: socket.socket, parent: int, lifeline: int | None) -> NoReturn:
    """Send back one packet and leave with 7."""
    pipe.send(pipe.recv(100))
    os._exit(7)


def wait_for_ever(order: object, pipe: socket.socket, parent: int, lifeline: int | None) -> NoReturn:
    while True:
        time.sleep(1)


def speak(order: object, pipe: socket.socket, parent: int, lifeline: int | None) -> NoReturn:
    pipe.send(b"word")
    os._exit(0)


def leave_a_child(order: object, pipe: socket.socket, parent: int, lifeline: int | None) -> NoReturn:
    """Leave with 0, and with a child that holds every descriptor and is told of by its pid."""
    os.setpgid(0, 0)
    pid = os.fork()
    if pid == 0:
        time.sleep(PATIENCE_S)  # and not for ever: if it is not killed, it must not hold up whoever reads our output
        os._exit(0)
    pipe.send(str(pid).encode())
    os._exit(0)


def hold_or_leave(order: object, pipe: socket.socket, parent: int, lifeline: int | None) -> NoReturn:
    """Hold nothing but the own pipe, tell the number, and stay, unless it is 3."""
    fds.close_owned(keep=pipe.fileno())
    pipe.send(str(order).encode())
    while order != 3:
        time.sleep(1)
    os._exit(0)


def started(found: workers.Worker | Exception) -> workers.Worker:
    assert isinstance(found, workers.Worker), found
    return found


def launch_worker(target: Any, order: object = None) -> workers.Worker:
    [found] = workers.launch("fork", [workers.Start("id", "worker", order)], target=target)
    return started(found)


def wait_readable(fd: int) -> None:
    assert select.select([fd], [], [], PATIENCE_S)[0]


def test_a_worker_is_heard_and_reaped() -> None:
    """Packets go both ways, in a process group of its own; its end, its exit code and its costs are told once."""
    worker = launch_worker(echo)
    try:
        assert worker.pid == process_group(worker.pid)
        assert {worker.pidfd, worker.pipe_fd} <= fds.OWNED
        assert worker.receive() is None
        assert worker.reap() is None
        assert worker.send(b"hello")
        wait_readable(worker.pipe_fd)
        assert worker.receive() == b"hello"
        wait_readable(worker.pidfd)
        assert worker.receive() == b""
        found = worker.reap()
        assert found is not None
        assert (7, None) == (found.exit_code, found.signal)
        assert found.cpu_ns is not None
        assert found.max_rss is not None
        assert found.cpu_ns > 0
        assert found.max_rss > 1 << 20
        assert not worker.send(b"nobody is there")
        worker.kill()  # nor to be killed
        worker.expire()
    finally:
        worker.close()
    assert (-1, -1) == (worker.pidfd, worker.pipe_fd)
    assert not fds.OWNED


def test_what_a_worker_said_before_it_was_killed_is_still_heard() -> None:
    """SIGKILL ends it, twice does no harm, unread words of ours do not hide its own, and the signal is its exit."""
    worker = launch_worker(speak)
    try:
        worker.send(b"never read")
        wait_readable(worker.pidfd)
        assert worker.receive() == b"word"
        assert worker.receive() == b""
    finally:
        worker.discard()
    worker = launch_worker(wait_for_ever)
    try:
        worker.kill()
        worker.kill()
        wait_readable(worker.pidfd)
        found = worker.reap()
        assert found is not None
        assert (None, signal.SIGKILL) == (found.exit_code, found.signal)
    finally:
        worker.close()


def test_what_a_worker_leaves_in_its_group_is_killed_when_it_is_reaped() -> None:
    """Its end is seen although a child of it holds every descriptor, and the child does not outlive the reaping."""
    worker = launch_worker(leave_a_child)
    try:
        assert connection.wait([worker.pidfd], PATIENCE_S)
        left = os.pidfd_open(int(worker.receive() or b""))
        try:
            assert not select.select([left], [], [], 0)[0]
            assert worker.reap() is not None
            assert select.select([left], [], [], PATIENCE_S / 2)[0]
        finally:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(left, signal.SIGKILL)
            os.close(left)
    finally:
        worker.close()


def name_itself(order: object, pipe: socket.socket, parent: int, lifeline: int | None) -> NoReturn:
    """Tell what multiprocess makes of a worker."""
    me = process.current_process()
    pipe.send(f"{me.name} {me.pid == os.getpid()} {me.daemon} {len(process.active_children())}".encode())
    os._exit(0)


def test_multiprocess_knows_a_worker_as_a_process_and_the_app_has_no_child_of_its_making() -> None:
    """In the worker ``current_process()`` is it; in the app ``active_children()``, which reaps, does not tell of it."""
    worker = launch_worker(name_itself)
    try:
        wait_readable(worker.pidfd)
        assert [] == process.active_children()
        assert b"worker True False 0" == worker.receive()
        assert worker.reap() is not None
    finally:
        worker.close()


def test_a_batch_shares_no_pipe() -> None:
    """Of eight workers forked in one go each is heard on its own pipe, and its end seen there while seven live on."""
    starts = [workers.Start(f"id-{number}", "worker", number) for number in range(8)]
    batch = [started(each) for each in workers.launch("fork", starts, target=hold_or_leave)]
    try:
        for number, each in enumerate(batch):
            wait_readable(each.pipe_fd)
            assert (f"id-{number}", str(number).encode()) == (each.task_id, each.receive())
        wait_readable(batch[3].pidfd)
        wait_readable(batch[3].pipe_fd)
        assert b"" == batch[3].receive()
        assert [None] * 7 == [each.reap() for each in batch if each is not batch[3]]
    finally:
        for each in batch:
            each.discard()


def test_what_does_not_fit_into_a_batch_fails_behind_what_does() -> None:
    """With descriptors for three, three of eight are started, and the fourth is told why it was not."""
    starts = [workers.Start(f"id-{number}", "worker", number) for number in range(8)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    free = highest + 1 - len(os.listdir("/proc/self/fd"))
    holes = [os.open(os.devnull, os.O_RDONLY) for _ in range(free + 1)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(*holes, highest) + 1 + 7, hard))
    try:
        found = workers.launch("fork", starts, target=hold_or_leave)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in holes:
            os.close(fd)
    *some, last = found
    for each in some:
        started(each).discard()
    assert 3 == len(some)
    assert isinstance(last, OSError)
    assert errno.EMFILE == last.errno
    assert not fds.OWNED


def test_a_worker_that_left_its_group_for_ours_is_killed_alone(launch: Launcher) -> None:
    """A group that is not the worker's own is never signalled, ours least of all."""
    program = launch(
        """
        from capbg._os import workers

        def joins(order, pipe, parent, lifeline):
            pipe.recv(1)  # not before its parent has seen to its group
            os.setpgid(0, os.getpgid(parent))
            while True:
                time.sleep(1)

        [worker] = workers.launch("fork", [workers.Start("id", "joins", None)], target=joins)
        worker.send(b"x")
        while os.getpgid(worker.pid) != os.getpgrp():
            time.sleep(0.001)
        worker.kill()
        while worker.reap() is None:
            time.sleep(0.001)
        worker.close()
        say("SURVIVED")
        """
    )
    assert 0 == program.wait()
    assert "SURVIVED" in program.lines


@pytest.mark.parametrize("thief", ["signal.signal(signal.SIGCHLD, signal.SIG_IGN)", "stolen = os.wait()[0]"])
def test_a_status_that_somebody_else_has_taken_is_no_error(launch: Launcher, thief: str) -> None:
    """SIGCHLD ignored, or a foreign wait: the end is seen, how it ended is not known, the leftovers are killed."""
    program = launch(
        f"""
        import select
        from capbg._core.task import Exit
        from capbg._os import workers

        def leaves(order, pipe, parent, lifeline):
            os.setpgid(0, 0)
            if os.fork() == 0:
                say("LEFT", os.getpid())
                os.kill(os.getppid(), signal.SIGKILL)
                while True:
                    time.sleep(1)
            while True:
                time.sleep(1)

        ignoring = {thief.startswith("signal")}
        if ignoring:
            {thief if thief.startswith("signal") else "pass"}
        [worker] = workers.launch("fork", [workers.Start("id", "leaves", None)], target=leaves)
        select.select([worker.pidfd], [], [])
        if not ignoring:
            {thief if not thief.startswith("signal") else "pass"}
        while os.path.exists(f"/proc/{{worker.pid}}"):
            time.sleep(0.001)
        say("FOUND", worker.reap() == Exit())
        worker.kill()
        worker.close()
        """
    )
    left = int(program.expect("LEFT"))
    assert "True" == program.expect("FOUND")
    program.wait_until(lambda: not is_alive(left))
    assert 0 == program.wait()


@pytest.mark.parametrize(("method", "count"), [("fork", 200), ("forkserver", 60), ("spawn", 10)])
def test_launches_leave_nothing_behind(launch: Launcher, method: str, count: int) -> None:
    """Reaped, killed, discarded, or not started for want of descriptors: no descriptor, child or note of one stays."""
    program = launch(
        """
        import errno, resource, select
        from multiprocess import process
        from capbg._os import fds, workers

        method, count = sys.argv[1], int(sys.argv[2])

        def leave(order, pipe, parent, lifeline):
            pipe.recv(1)  # as a worker does: until then it is watched
            os._exit(0)

        def stay(order, pipe, parent, lifeline):
            while True:
                time.sleep(1)

        def kinds():
            return sorted(os.readlink(f"/proc/self/fd/{name}").split(":")[0] for name in os.listdir("/proc/self/fd")
                          if os.path.exists(f"/proc/self/fd/{name}") or os.path.islink(f"/proc/self/fd/{name}"))

        def state():
            with open(f"/proc/self/task/{os.getpid()}/children") as children:
                return kinds(), len(fds.OWNED), len(process._children), len(children.read().split())

        def start(target):
            [found] = workers.launch(method, [workers.Start("id", "worker", None)], target=target)
            if isinstance(found, Exception):
                raise found
            found.send(b"G")
            return found

        def end(worker, kill):
            if kill:
                worker.kill()
            select.select([worker.pidfd], [], [])
            found = worker.reap()
            worker.close()
            return found

        if __name__ == "__main__":
            workers.prepare(method)
            end(start(leave), False)  # what is made at the first start stays
            before = state()

            for number in range(count):
                end(start(stay if number % 4 == 0 else leave), number % 4 == 0)
            start(stay).discard()
            say("LAUNCHED", state() == before)

            many = [start(leave) for _ in range(count // 10)]
            for worker in reversed(many):
                end(worker, False)
            say("AT ONCE", state() == before)

            failed = []
            free = os.open("/dev/null", os.O_RDONLY)
            os.close(free)
            hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            for places in range(30):
                resource.setrlimit(resource.RLIMIT_NOFILE, (free + places, hard))
                try:
                    worker = start(leave)
                except OSError as error:
                    failed.append(error.errno)
                    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
                else:
                    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
                    end(worker, False)
                now = state()
                if now != before:
                    say("LOST with", places, now, before)
                if len(failed) < places:
                    break
            say("FAILED", len(failed), set(failed) == {errno.EMFILE})
            workers.put_away()
        """,
        method,
        str(count),
    )
    assert "True" == program.expect("LAUNCHED")
    assert "True" == program.expect("AT ONCE")
    failed, only_emfile = program.expect("FAILED").split()
    assert not [line for line in program.lines if line.startswith("LOST")]
    assert 2 <= int(failed) < 28
    assert "True" == only_emfile
    assert 0 == program.wait()


def test_everything_that_is_readable_is_heard_in_one_turn() -> None:
    """However many workers have spoken: the clock is looked at behind all of their words, or some would be too late."""
    poller = fds.Poller()
    pipes = [os.pipe() for _ in range(400)]
    heard: list[int] = []
    try:
        for read_end, write_end in pipes:
            poller.add(read_end, lambda fd=read_end: heard.append(fd))  # type: ignore[misc]
            os.write(write_end, b"x")
        for call in poller.wait(block=True):
            call()
        assert {read_end for read_end, _ in pipes} == set(heard)
    finally:
        poller.close()
        for pair in pipes:
            for fd in pair:
                os.close(fd)


def test_a_handler_that_raises_in_the_middle_of_a_batch_leaves_no_worker_behind(launch: Launcher) -> None:
    """What was forked until then is ended and reaped, and no number stays noted that may be another file's later."""
    program = launch(
        """
        import ctypes, functools
        from capbg._os import fds, workers

        class Alarm(Exception):
            pass

        def ring(*_):
            raise Alarm

        # From C, and so not within a hook in Python, where what a handler raises would be dropped.
        kill = functools.partial(ctypes.CDLL(None).kill, os.getpid(), signal.SIGALRM)
        signal.signal(signal.SIGALRM, ring)
        os.register_at_fork(after_in_parent=kill)
        try:
            starts = [workers.Start(f"id-{number}", "worker", number) for number in range(8)]
            workers.launch("fork", starts, target=lambda *_: idle())
        except Alarm:
            say("ALARM", fds.OWNED)
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            say("NO CHILD")
        """
    )
    assert 0 == program.wait(), program.stderr
    assert ["ALARM set()", "NO CHILD"] == program.lines
