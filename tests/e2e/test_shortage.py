"""When the machine is short of descriptors, processes or places: tasks wait for their turn, and none is lost unsaid."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.running import start, stop
from tests.probe import Launcher

METHODS = ("fork", "forkserver", "spawn")


@pytest.fixture
def pids_cgroup() -> Iterator[Path]:
    """A cgroup of our own in which the number of processes can be limited (cgroup v1 or v2)."""
    for root in map(Path, ("/sys/fs/cgroup/pids", "/sys/fs/cgroup")):
        path = root / f"capbg-test-{os.getpid()}"
        try:
            path.mkdir()
        except OSError:
            continue
        if (path / "pids.max").exists():
            break
        path.rmdir()
    else:
        pytest.skip("no cgroup with a pids controller can be made here")
    try:
        yield path
    finally:
        while (path / "cgroup.procs").read_text():
            pass  # its last processes have been killed, and are on their way out
        path.rmdir()


def test_a_thousand_tasks_get_by_with_256_descriptors(launch: Launcher) -> None:
    """EMFILE means waiting for a worker to leave, not a lost task."""
    _, report, status = stop(
        launch,
        """
        import resource
        app = capbg.App("thousand", grace=600, kill_after=60)
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
        for number in range(1000):
            app.before_exit(lambda task: task.finish(), name=f"task {number}")
        """,
    )
    assert {f"task {number}": "FINISHED" for number in range(1000)} == report["outcomes"]
    assert 0 == status


def test_a_fork_server_gets_by_with_few_descriptors(launch: Launcher) -> None:
    """No descriptor is lost by a start that fails halfway: after hundreds of failures all have run."""
    _, report, status = stop(
        launch,
        """
        import resource
        app = capbg.App("few", grace=600, kill_after=60, start_method="forkserver")
        if __name__ == "__main__":
            for number in range(20):
                app.before_exit(lambda task: task.finish(), name=f"task {number}")

            def shorten(state):
                free = os.open("/dev/null", os.O_RDONLY)
                os.close(free)
                resource.setrlimit(resource.RLIMIT_NOFILE, (free + 10, free + 10))
            app.add_listener("appStateChange", shorten)
        """,
    )
    assert {f"task {number}": "FINISHED" for number in range(20)} == report["outcomes"]
    assert 0 == status


def test_tasks_wait_while_no_process_can_be_made(pids_cgroup: Path, launch: Launcher) -> None:
    """EAGAIN from fork means waiting for a place: with three of them twenty tasks finish."""
    (pids_cgroup / "pids.max").write_text("4")
    _, report, status = stop(
        launch,
        """
        with open(sys.argv[1], "w") as procs:
            procs.write(str(os.getpid()))
        app = capbg.App("pids", grace=600, kill_after=60)

        def short(task):
            time.sleep(0.01)
            task.finish()

        for number in range(20):
            app.before_exit(short, name=f"task {number}")
        """,
        str(pids_cgroup / "cgroup.procs"),
    )
    assert {f"task {number}": "FINISHED" for number in range(20)} == report["outcomes"]
    assert 0 == status
    assert "max 0" not in (pids_cgroup / "pids.events").read_text().splitlines()


def test_a_task_for_which_no_process_could_be_made_in_time_is_refused(pids_cgroup: Path, launch: Launcher) -> None:
    """It never looks like success: outcome, reason, exit status and log say what it waited for."""
    (pids_cgroup / "pids.max").write_text("1")
    program, report, status = stop(
        launch,
        """
        with open(sys.argv[1], "w") as procs:
            procs.write(str(os.getpid()))
        app = capbg.App("refused", grace=0.5)
        app.before_exit(lambda: say("NEVER"), name="task")
        """,
        str(pids_cgroup / "cgroup.procs"),
    )
    assert {"task": "REFUSED"} == report["outcomes"]
    result = report["results"][0]
    assert "no worker could be started in time: Resource temporarily unavailable (EAGAIN)" == result["reason"]
    assert {None} == {result[key] for key in ("pid", "started", "duration", "exit_code", "signal", "cpu_time")}
    assert "NEVER" not in program.lines
    assert "refused: no worker could be started in time" in program.stderr
    assert 75 == status


@pytest.mark.parametrize("method", METHODS)
def test_without_a_free_descriptor_tasks_are_refused_and_the_app_leaves(launch: Launcher, method: str) -> None:
    """With the table of descriptors full nothing hangs, raises into the program or is left behind."""
    _, report, status = stop(
        launch,
        """
        import resource
        app = capbg.App("full", grace=0.5, start_method=sys.argv[1])
        if __name__ == "__main__":
            app.before_exit(lambda task: task.finish(), name="first")
            app.before_exit(lambda task: task.finish(), name="second")

            def fill(state):
                free = os.open("/dev/null", os.O_RDONLY)
                os.close(free)
                resource.setrlimit(resource.RLIMIT_NOFILE, (free, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
            app.add_listener("appStateChange", fill)
        """,
        method,
    )
    assert {"first": "REFUSED", "second": "REFUSED"} == report["outcomes"]
    assert "no worker could be started in time: Too many open files (EMFILE)" == report["results"][0]["reason"]
    assert 75 == status


def test_never_more_workers_at_a_time_than_asked_for(launch: Launcher) -> None:
    """max_workers=2: of twenty tasks two run at any instant, and all of them do."""
    program, report, status = stop(
        launch,
        """
        app = capbg.App("two", grace=600, max_workers=2)

        def run(task):
            began = time.monotonic_ns()
            time.sleep(0.03)
            task.finish()
            say("RAN", began, time.monotonic_ns())

        for number in range(20):
            app.before_exit(run, name=f"task {number}")
        """,
    )
    assert {f"task {number}": "FINISHED" for number in range(20)} == report["outcomes"]
    ran = [tuple(map(int, line.split()[1:])) for line in program.lines if line.startswith("RAN")]
    assert 20 == len(ran)
    assert 2 >= max(sum(began <= instant <= ended for began, ended in ran) for instant, _ in ran)
    assert 0 == status


def test_a_deadline_counts_from_the_start_of_the_tasks_own_worker(launch: Launcher) -> None:
    """A task that had to wait for its turn longer than its deadline still has all of it."""
    program = start(
        launch,
        """
        app = capbg.App("turns", grace=600, max_workers=1)

        def first(task):
            time.sleep(3)
            task.finish()

        def second(task):
            say("LEFT", task.time_remaining())
            task.finish()

        app.before_exit(first)
        app.before_exit(second, deadline=2.9)
        """,
    )
    program.send(signal.SIGTERM)
    assert 0 < float(program.expect("LEFT")) <= 2.9
    report = program.report()
    assert {"first": "FINISHED", "second": "FINISHED"} == report["outcomes"]
    assert 3 <= report["by_name"]["second"]["started"]
    assert 0 == program.wait()
