"""What holds when the app cannot act: it is stopped, or gone, and the kernel keeps the deadlines and the promises."""

import os
import re
import signal
import time
from pathlib import Path

import pytest

from tests.e2e.running import start
from tests.probe import Launcher, is_alive, process_group, process_state, session_members

METHODS = ("fork", "forkserver", "spawn")


def test_the_kernel_keeps_the_deadlines_of_a_stopped_app(launch: Launcher) -> None:
    """With the app stopped a task cleans up at its soft expiry, and a stuck one is killed at its hard one."""
    program = start(
        launch,
        """
        app = capbg.App("stopped", grace=600, kill_after=1)

        def in_c():
            sum(range(10 ** 11))

        def ignores():
            while True:
                try:
                    idle()
                except BaseException:
                    pass

        def deaf():
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            time.sleep(600)

        def stopped():
            os.kill(os.getpid(), signal.SIGSTOP)

        def cleans():
            try:
                idle()
            finally:
                say("CLEANUP")

        def task(act):
            def run():
                say("WORKER", os.getpid())
                act()
            app.background_task(name=act.__name__, deadline=2.5)(run)

        for act in (in_c, ignores, deaf, stopped, cleans):
            task(act)
        """,
    )
    program.send(signal.SIGTERM)
    workers = [int(program.expect("WORKER")) for _ in range(5)]
    program.send(signal.SIGSTOP)
    program.wait_stopped()
    program.expect("CLEANUP")
    for pid in workers:
        program.wait_until(lambda pid=pid: not is_alive(pid))  # type: ignore[misc]
    assert "T" == process_state(program.pid)
    program.send(signal.SIGCONT)
    report = program.report()
    assert "EXPIRED" == report["outcomes"].pop("cleans")
    assert {"KILLED"} == set(report["outcomes"].values()), report
    assert 4 == len(report["outcomes"])
    for each in report["results"]:
        if each["name"] != "cleans":
            assert "the kernel killed it at its hard deadline" in each["reason"], each
            assert 3.5 <= each["duration"]
    assert 75 == program.wait()


@pytest.mark.parametrize("method", METHODS)
def test_no_worker_survives_its_app(launch: Launcher, method: str) -> None:
    """SIGKILL to the app ends every worker, even a deaf or stopped one, and whatever helped to start them."""
    program = start(
        launch,
        """
        app = capbg.App("killed", grace=600, start_method=sys.argv[1])

        def deaf():
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            say("WORKER", os.getpid())
            while True:
                time.sleep(1)

        def stopped():
            say("WORKER", os.getpid())
            os.kill(os.getpid(), signal.SIGSTOP)

        for copy in range(3):
            app.before_exit(deaf)
            app.before_exit(stopped)
        """,
        method,
    )
    program.send(signal.SIGTERM)
    workers = [int(program.expect("WORKER")) for _ in range(6)]
    assert all(is_alive(pid) for pid in workers)
    program.send(signal.SIGKILL)
    assert -signal.SIGKILL == program.wait()
    program.wait_until(lambda: not any(map(is_alive, workers)))
    program.wait_until(lambda: not session_members(program.pid))


@pytest.mark.parametrize("method", METHODS)
def test_a_worker_is_on_its_own_and_has_a_cpu_limit_as_a_backstop(
    launch: Launcher, tmp_path: Path, method: str
) -> None:
    """Its process group is its own, and RLIMIT_CPU allows every usable CPU until the hard deadline and not more."""
    go = tmp_path / "go"
    program = start(
        launch,
        """
        app = capbg.App("backstop", grace=100, kill_after=20, start_method=sys.argv[1])

        def worker(go):
            def run(task):
                say("WORKER", os.getpid())
                while not os.path.exists(go):
                    time.sleep(0.01)
                task.finish()
            return run

        app.before_exit(worker(sys.argv[2]), name="whole")
        app.before_exit(worker(sys.argv[2]), name="short", deadline=40)
        """,
        method,
        str(go),
    )
    program.send(signal.SIGTERM)
    workers = [int(program.expect("WORKER")) for _ in range(2)]
    cpus = len(os.sched_getaffinity(0))
    found = []
    for pid in workers:
        assert pid == process_group(pid)
        limits = re.search(r"Max cpu time +(\d+) +(\d+)", Path(f"/proc/{pid}/limits").read_text())
        assert limits is not None
        soft, hard = map(int, limits.groups())
        assert soft + 1 == hard
        found.append(soft)
    short, whole = sorted(found)
    # A worker that took half a minute to get there would be given as much less.
    assert 90 * cpus <= whole <= 120 * cpus + 1
    assert 30 * cpus <= short <= 60 * cpus + 1
    go.touch()
    assert {"whole": "FINISHED", "short": "FINISHED"} == program.report()["outcomes"]
    assert 0 == program.wait()


def test_a_finish_that_waits_for_a_stopped_app_is_not_rolled_back_by_its_deadline(
    launch: Launcher, tmp_path: Path
) -> None:
    """finish waits for its answer while the deadline passes: it counts, and no TaskExpired comes behind it."""
    go = tmp_path / "go"
    program = start(
        launch,
        """
        app = capbg.App("waits", grace=600, kill_after=60)

        @app.background_task(deadline=3, on_expire=lambda task: say("NEVER"))
        def late(task):
            say("SOFT", time.monotonic() + task.time_remaining())
            while not os.path.exists(sys.argv[1]):
                time.sleep(0.01)
            try:
                say("FINISHING")
                task.finish()
                say("RETURNED", time.monotonic())
                for _ in range(20):
                    time.sleep(0.01)
                say("UNDISTURBED")
            except BaseException as error:
                say("ROLLBACK", repr(error))
        """,
        str(go),
    )
    program.send(signal.SIGTERM)
    soft = float(program.expect("SOFT"))
    program.send(signal.SIGSTOP)
    program.wait_stopped()
    go.touch()
    program.expect("FINISHING")
    program.wait_until(lambda: time.monotonic() > soft + 0.2)
    went_on = time.monotonic()
    program.send(signal.SIGCONT)
    assert went_on <= float(program.expect("RETURNED"))
    report = program.report()
    assert {"late": "FINISHED"} == report["outcomes"]
    assert (0, None) == (report["results"][0]["exit_code"], report["results"][0]["signal"])
    assert ["UNDISTURBED"] == [line for line in program.lines if line.startswith(("UNDI", "ROLLBACK", "NEVER"))]
    assert 0 == program.wait()


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_what_happened_while_the_app_was_stopped_counts_when_it_goes_on(
    launch: Launcher, tmp_path: Path, method: str
) -> None:
    """A finish that was sent counts even past the hard deadline, deaths are told, and leftovers are killed."""
    go = tmp_path / "go"
    program = start(
        launch,
        """
        app = capbg.App("goes on", grace=600, kill_after=1, start_method=sys.argv[1])

        def finishes(task):
            task.finish()

        def talks(task):
            for done in range(1000):
                task.progress(done)
            task.finish()

        def returns():
            pass

        def raises():
            raise ValueError("unheard")

        def crashes():
            os.kill(os.getpid(), signal.SIGSEGV)

        def leaves():
            ready, tell = os.pipe()
            if os.fork() == 0:
                say("LEFTOVER", os.getpid())
                os.write(tell, b"x")
                while True:
                    time.sleep(0.1)
            os.read(ready, 1)
            os._exit(0)

        def task(act, takes_task):
            def run(task):
                say("WORKER", os.getpid())
                while not os.path.exists(sys.argv[2]):
                    time.sleep(0.01)
                act(*[task] * takes_task)
            app.before_exit(run, name=act.__name__, deadline=8 if takes_task else None)

        if sys.argv[1] == "fork":  # they stay until their deadlines, which a slow start might overrun
            task(finishes, True)
            task(talks, True)
        for act in (returns, raises, crashes, leaves):
            task(act, False)
        """,
        method,
        str(go),
    )
    program.send(signal.SIGTERM)
    waiting = {"finishes": "FINISHED", "talks": "FINISHED"} if method == "fork" else {}
    workers = [int(program.expect("WORKER")) for _ in range(4 + len(waiting))]
    program.send(signal.SIGSTOP)
    program.wait_stopped()
    go.touch()
    leftover = int(program.expect("LEFTOVER"))
    for pid in workers:
        program.wait_until(lambda pid=pid: not is_alive(pid))  # type: ignore[misc]
    assert is_alive(leftover)
    program.send(signal.SIGCONT)
    report = program.report()
    assert {
        **waiting,
        "returns": "UNFINISHED",
        "raises": "FAILED",
        "crashes": "CRASHED",
        "leaves": "CRASHED",
    } == report["outcomes"], report
    assert "ValueError" == report["by_name"]["raises"]["error_type"]
    if method != "forkserver":  # there the server is asked for the status, and may be slow to answer
        assert signal.SIGSEGV == report["by_name"]["crashes"]["signal"]
    program.wait_until(lambda: not is_alive(leftover))
    assert 75 == program.wait()


@pytest.mark.skipif(not os.path.exists("/proc/self/timers"), reason="this kernel does not tell a process's timers")
def test_the_kernels_timers_are_addressed_as_they_must_be(launch: Launcher) -> None:
    """SIGKILL goes to the process; the soft expiry to the main thread alone, for only there does Python hear it."""
    program = launch(
        """
        app = capbg.App("timers", grace=60, kill_after=30)

        @app.background_task()
        def work():
            text = open("/proc/self/timers").read().replace(str(os.getpid()), "MAIN")
            found = [line.split(": ")[1] for line in text.splitlines() if line.startswith(("signal", "notify"))]
            say("TIMERS", *sorted(f"{a.split('/')[0]}:{b}" for a, b in zip(found[::2], found[1::2])))

        with app:
            os.kill(os.getpid(), signal.SIGTERM)
            idle()
        """
    )
    assert f"{signal.SIGRTMAX - 2}:signal/tid.MAIN 9:signal/pid.MAIN" == program.expect("TIMERS")
    assert 0 == program.wait()
