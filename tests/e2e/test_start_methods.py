"""``start_method``: the same life of a task, whether its worker was forked, spawned or made by a fork server."""

import os
import signal
from pathlib import Path

import pytest

from tests.e2e.running import start, stop
from tests.probe import Launcher, Probe, is_alive, process_state, session_members

METHODS = ("fork", "forkserver", "spawn")
SENT = ("forkserver", "spawn")
"""Where the order travels by dill."""


def fork_servers_of(program: Probe) -> list[int]:
    """The pids of an app's fork servers, as soon as they are that."""
    return [pid for pid in program.children() if b"multiprocess.forkserver" in command_line(pid)]


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return b""


EVERY_OUTCOME = """
app = capbg.App("methods", grace=600, kill_after=3, start_method=sys.argv[1])

def fails():
    raise LookupError("not there")

def deaf():
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    say("IN")
    time.sleep(600)

def register(app, word):
    def by_id():
        say("WORD", word)
        app.finish(task_id)
    task_id = app.before_exit(by_id)

    async def coroutine(task):
        import asyncio
        await asyncio.sleep(0.01)
        task.progress(1, 2, word)
        task.finish()
    app.before_exit(coroutine)

    def expires(task):
        try:
            say("IN")
            idle()
        finally:
            say("CLEANUP", word)
    app.before_exit(expires, on_expire=lambda task: say("ON_EXPIRE", word))

if __name__ == "__main__":
    register(app, "closed over")
    app.background_task(name="lambda")(lambda: None)
    app.before_exit(lambda: None, name="unfinished")
    app.background_task()(fails)
    app.before_exit(lambda: os._exit(3), name="exits")
    app.before_exit(deaf)
    app.before_exit(idle, name="deadline", deadline=1)
    app.add_listener("taskSettled", lambda result: say("SETTLED", result.name))
"""


def test_the_outcomes_are_the_same_under_every_start_method(launch: Launcher) -> None:
    """Closures over the id, lambdas, coroutines, progress, errors, expiry and death: wherever the worker is from."""
    programs = {method: start(launch, EVERY_OUTCOME, method) for method in METHODS}
    for program in programs.values():
        program.send(signal.SIGTERM)
    for program in programs.values():
        for _ in range(7):  # one of them after its second: the next signal is no duplicate of the first
            program.expect("SETTLED")
        while program.lines.count("IN") < 2:
            program.expect("IN")
    for program in programs.values():
        program.send(signal.SIGTERM)
    for method, program in programs.items():
        check_every_outcome(program, method)


def check_every_outcome(program: Probe, method: str) -> None:
    report = program.report()
    deadline = report["outcomes"].pop("deadline")
    assert {
        "by_id": "FINISHED",
        "coroutine": "FINISHED",
        "lambda": "FINISHED",
        "unfinished": "UNFINISHED",
        "fails": "FAILED",
        "exits": "CRASHED",
        "expires": "EXPIRED",
        "deaf": "KILLED",
    } == report["outcomes"], report
    results = report["by_name"]
    assert [1, 2, "closed over"] == results["coroutine"]["progress"]
    assert ("LookupError", "not there") == (results["fails"]["error_type"], results["fails"]["error_message"])
    assert results["fails"]["traceback"].rstrip().endswith("LookupError: not there")
    assert "told to hurry by a second stop signal" == results["expires"]["reason"]
    assert results["deaf"]["reason"].startswith("told to hurry by a second stop signal; it was killed at its hard")
    if deadline == "EXPIRED":
        assert "its deadline of 1 s was over" == results["deadline"]["reason"]
    else:  # an interpreter that takes four seconds to start is killed while it does
        assert "KILLED" == deadline, report
    assert {"WORD closed over", "CLEANUP closed over", "ON_EXPIRE closed over"} <= set(program.lines)
    if method != "forkserver":  # there the server is asked for the status, and may be slow to answer
        assert (3, signal.SIGKILL) == (results["exits"]["exit_code"], results["deaf"]["signal"])
        assert 0 < results["lambda"]["cpu_time"]
        assert 0 < results["lambda"]["max_rss"]
    assert 75 == program.wait()


@pytest.mark.parametrize("method", SENT)
def test_what_cannot_be_sent_is_refused_at_registration(launch: Launcher, method: str) -> None:
    """An open file, a lock, a socket: the error names the task, and neither that nor a thread or descriptor stays."""
    program = launch(
        """
        import io, socket
        import multiprocess
        app = capbg.App("unpicklable", start_method=sys.argv[1])

        class Holder:
            def __init__(self, held):
                self.held = held
            def save(self, task):
                task.finish()

        class Hostile:
            def __reduce__(self):
                raise RuntimeError("never")
            def __call__(self):
                pass

        def try_all(name, held):
            for register in (
                lambda: app.before_exit(lambda: held, name=name),
                lambda: app.before_exit(Holder(held).save, name=name),
                lambda: app.background_task(name=name, on_expire=lambda task: held)(lambda: None),
            ):
                try:
                    register()
                except capbg.UnpicklableTaskError as error:
                    assert f"task {name!r}" in str(error), error
                    assert isinstance(error, capbg.UsageError) and isinstance(error, TypeError)
                else:
                    say("ACCEPTED", name)

        with open(__file__) as file, open(__file__, "rb", buffering=0) as raw, socket.socket() as sock:
            before = sorted(os.listdir("/proc/self/fd"))
            for name, held in {"file": file, "raw": raw, "lock": threading.Lock(), "rlock": threading.RLock(),
                               "condition": threading.Condition(), "socket": sock, "stdout": sys.stdout,
                               "generator": (x for x in ()), "hostile": Hostile()}.items():
                try_all(name, held)
            app.before_exit(Holder(io.BytesIO(b"data")).save)
            ours, theirs = multiprocess.Pipe()
            app.before_exit(Holder(theirs).save)
            ours.close(), theirs.close()
            after = sorted(os.listdir("/proc/self/fd"))
        say("TASKS", *[row.name for row in app.tasks()])
        say("THREADS", threading.active_count())
        say("DESCRIPTORS", len(after) - len(before))
        """,
        method,
    )
    assert 0 == program.wait()
    assert ["TASKS save save", "THREADS 1", "DESCRIPTORS 0"] == program.lines


@pytest.mark.parametrize("method", METHODS)
def test_an_order_of_twenty_megabytes_gets_there(launch: Launcher, method: str) -> None:
    """What a callback closes over may be large: it travels whole, and nobody blocks on a full pipe."""
    program, report, status = stop(
        launch,
        """
        import hashlib
        app = capbg.App("large", grace=120, start_method=sys.argv[1])

        def register(data):
            def run(task):
                say("WORKER", len(data), hashlib.sha256(data).hexdigest())
                task.finish()
            app.before_exit(run)
            say("APP", len(data), hashlib.sha256(data).hexdigest())

        if __name__ == "__main__":
            register(os.urandom(20 << 20))
        """,
        method,
    )
    said = [line.split() for line in program.lines if line.startswith(("APP", "WORKER"))]
    assert ["APP", "WORKER"] == [words[0] for words in said]
    assert said[0][1:] == said[1][1:]
    assert {"run": "FINISHED"} == report["outcomes"]
    assert 0 == status


@pytest.mark.parametrize("method", METHODS)
def test_a_stop_of_every_process_of_the_service_loses_nothing(launch: Launcher, tmp_path: Path, method: str) -> None:
    """SIGTERM, SIGINT, SIGTSTP and SIGHUP to whatever runs beside the app, young or old, do not end or stop it."""
    go = tmp_path / "go"
    program = start(
        launch,
        """
        app = capbg.App("control-group", grace=600, start_method=sys.argv[1])

        def task(go):
            def run(task):
                say("WORKER", os.getpid())
                while not os.path.exists(go):
                    time.sleep(0.01)
                task.finish()
            return run

        if __name__ == "__main__":
            for number in range(4):
                app.before_exit(task(sys.argv[2]), name=f"task {number}")
        """,
        method,
        str(go),
    )

    def to_the_others(*signums: int) -> None:
        for pid in session_members(program.pid):
            for signum in signums:
                if pid != program.pid and is_alive(pid):
                    os.kill(pid, signum)

    to_the_others(signal.SIGTERM)
    program.send(signal.SIGTERM)
    for _ in range(4):
        to_the_others(signal.SIGTERM, signal.SIGINT, signal.SIGTSTP, signal.SIGHUP)
        program.expect("WORKER")
    to_the_others(signal.SIGTERM, signal.SIGINT, signal.SIGTSTP, signal.SIGHUP)
    go.touch()
    assert {f"task {number}": "FINISHED" for number in range(4)} == program.report()["outcomes"]
    assert 0 == program.wait()
    program.wait_until(lambda: not session_members(program.pid))


def test_a_fork_server_killed_right_before_the_stop_is_started_again(launch: Launcher, tmp_path: Path) -> None:
    """Whatever the moment at which its end is noticed, every task still runs, and the new one is as deaf as the old."""
    go = tmp_path / "go"
    program = start(
        launch,
        """
        app = capbg.App("killed server", grace=600, start_method="forkserver")

        def task(go):
            def run(task):
                say("WORKER")
                while not os.path.exists(go):
                    time.sleep(0.01)
                task.finish()
            return run

        if __name__ == "__main__":
            for number in range(4):
                app.before_exit(task(sys.argv[1]), name=f"task {number}")
        """,
        str(go),
    )
    program.wait_until(lambda: fork_servers_of(program))
    (server,) = fork_servers_of(program)
    os.kill(server, signal.SIGKILL)
    program.send(signal.SIGTERM)
    for _ in range(4):
        program.expect("WORKER")
    (another,) = fork_servers_of(program)
    assert server != another
    status = Path(f"/proc/{another}/status").read_text()
    blocked = int(next(line.split()[1] for line in status.splitlines() if line.startswith("SigBlk")), 16)
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGTSTP, signal.SIGHUP):
        assert blocked & 1 << (signum - 1), signum
    go.touch()
    assert {f"task {number}": "FINISHED" for number in range(4)} == program.report()["outcomes"]
    assert 0 == program.wait()
    program.wait_until(lambda: not session_members(program.pid))


def test_a_fork_server_that_does_not_answer_is_no_reason_to_hang(launch: Launcher) -> None:
    """The tasks are refused at the end of the grace period, and the reason says what they waited for."""
    program = start(
        launch,
        """
        app = capbg.App("stopped server", grace=0.5, start_method="forkserver")
        app.before_exit(lambda task: task.finish(), name="first")
        app.before_exit(lambda task: task.finish(), name="second")
        """,
    )
    program.wait_until(lambda: fork_servers_of(program))
    for pid in fork_servers_of(program):
        os.kill(pid, signal.SIGSTOP)
    program.send(signal.SIGTERM)
    report = program.report()
    assert {"first": "REFUSED", "second": "REFUSED"} == report["outcomes"]
    assert "no worker could be started in time: the fork server does not answer (EAGAIN)" in {
        each["reason"] for each in report["results"]
    }
    assert 75 == program.wait()
    program.wait_until(lambda: not session_members(program.pid))


@pytest.mark.parametrize("method", SENT)
def test_ctrl_z_stops_the_app_and_not_what_starts_its_workers(launch: Launcher, method: str) -> None:
    """SIGTSTP to a whole foreground process group suspends behind the tasks; the tasks run again at the next stop."""
    program = launch(
        """
        app = capbg.App("ctrl-z", grace=600, start_method=sys.argv[1])

        if __name__ == "__main__":
            app.background_task(name="task")(lambda: say("WORKER"))
            pid = os.fork()
            if pid:
                # As a shell: in the same session, but in another process group, which is so no orphan.
                os.setpgid(pid, pid)
                status = os.waitpid(pid, 0)[1]
                os._exit(os.waitstatus_to_exitcode(status))
            os.setpgid(0, 0)
            app.add_listener("resume", lambda: say("RESUMED"))
            with app:
                say("APP", os.getpid())
                idle()
        """,
        method,
    )
    app = int(program.expect("APP"))
    os.killpg(app, signal.SIGTSTP)
    program.expect("WORKER")
    program.wait_until(lambda: process_state(app) == "T")
    others = [pid for pid in session_members(program.pid) if pid not in {app, program.pid}]
    assert "T" not in {process_state(pid) for pid in others}
    os.killpg(app, signal.SIGCONT)
    program.expect("RESUMED")
    os.kill(app, signal.SIGTERM)
    program.expect("WORKER")
    assert 0 == program.wait()


def test_a_cpu_limit_under_a_fork_server_is_not_taken_for_a_stranger(launch: Launcher) -> None:
    """There nobody tells the CPU time of a worker, and yet its kill at the limit is no crash."""
    _, report, _ = stop(
        launch,
        """
        app = capbg.App("cpu", grace=600, kill_after=1, start_method="forkserver")
        app.before_exit(lambda: sum(range(10 ** 11)), name="in C", limits=capbg.Limits(cpu=1))
        """,
    )
    assert {"in C": "KILLED"} == report["outcomes"], report
    assert "CPU limit" in report["results"][0]["reason"]
