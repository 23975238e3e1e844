"""What programs do wrong in their last seconds: none of it may lose data, or hold up the stop for ever."""

import signal
import sys
from pathlib import Path

import pytest

from tests.probe import PREAMBLE, Launcher


def test_a_listener_that_registers_what_failed_again_comes_to_an_end(launch: Launcher) -> None:
    """A retry in taskSettled goes on until the budget is spent, and no longer."""
    program = launch(
        """
        app = capbg.App("retry", grace=1, kill_after=0.3)
        def work():
            raise OSError("no network")
        app.add_listener("taskSettled", lambda result: app.before_exit(work))
        app.before_exit(work)
        try:
            with app:
                say("READY")
                idle()
        finally:
            report(app)
        """
    )
    program.expect("READY")
    program.send(signal.SIGTERM)
    assert "FINISHED" not in program.report()["outcomes"].values()
    assert 75 == program.wait()


def test_a_critical_block_that_never_ends_does_not_hold_up_the_stop_for_ever(launch: Launcher) -> None:
    """A thread that hangs in critical() keeps backgrounding back until the budget is spent, and the report says so."""
    program = launch(
        """
        app = capbg.App("held", grace=1, kill_after=0.3)
        app.background_task(name="save")(lambda: None)
        try:
            with app:
                def hang():
                    with app.critical():
                        say("READY")
                        time.sleep(600)
                threading.Thread(target=hang, daemon=True).start()
                idle()
        finally:
            report(app)
        """
    )
    program.expect("READY")
    program.send(signal.SIGTERM)
    assert {"save": "REFUSED"} == program.report()["outcomes"]
    assert 75 == program.wait()


def test_a_swallowed_exit_is_raised_again_by_the_next_stop(launch: Launcher) -> None:
    """A bare except takes the SystemExit: the next SIGTERM raises it anew, and finally blocks are left in peace."""
    program = launch(
        """
        app = capbg.App("swallow", grace=30)
        with app:
            try:
                say("READY")
                idle()
            except BaseException:
                pass
            say("SWALLOWED")
            idle()
        """
    )
    program.expect("READY")
    program.send(signal.SIGTERM)
    program.expect("SWALLOWED")
    program.send(signal.SIGTERM)
    assert 0 == program.wait()


def test_threads_started_by_threads_keep_a_task_running(launch: Launcher) -> None:
    """A task ends when its last thread does, also one that another thread has started; an idle pool does not count."""
    program = launch(
        """
        from concurrent.futures import ThreadPoolExecutor
        app = capbg.App("threads", grace=60)

        @app.background_task()
        def chain():
            def second():
                time.sleep(0.3)
                say("SECOND")
            def first():
                time.sleep(0.1)
                threading.Thread(target=second).start()
            threading.Thread(target=first).start()

        @app.background_task()
        def pool():
            global executor
            executor = ThreadPoolExecutor()
            executor.submit(say, "POOLED")

        try:
            with app:
                say("READY")
                idle()
        finally:
            report(app)
        """
    )
    program.expect("READY")
    program.send(signal.SIGTERM)
    report = program.report()
    assert {"chain": "FINISHED", "pool": "FINISHED"} == report["outcomes"]
    assert report["by_name"]["pool"]["duration"] < 30
    assert 1 == program.lines.count("SECOND")
    assert 0 == program.wait()


def test_leaving_with_success_does_not_hide_a_task_that_failed(launch: Launcher) -> None:
    """sys.exit(0) while a task still runs, and then a stop whose task fails: the status is 75."""
    program = launch(
        """
        app = capbg.App("hidden", grace=30)
        @app.background_task()
        def fail():
            say("STARTED")
            time.sleep(2)
            raise OSError("disk full")
        with app:
            say("READY")
            while app.get_state().reason is not capbg.Reason.RESUME:
                time.sleep(0.02)
            say("LEAVING")
            sys.exit(0)
        """
    )
    program.expect("READY")
    program.send(signal.SIGTSTP)
    program.expect("STARTED")
    program.send(signal.SIGCONT)
    program.expect("LEAVING")
    program.send(signal.SIGTERM)
    assert 75 == program.wait()


@pytest.mark.parametrize("where", ["before", "inside"])
def test_closed_standard_descriptors_do_not_become_our_pipes(launch: Launcher, where: str) -> None:
    """A program that has closed 0, 1 and 2 gets its tasks done: what they print goes nowhere, not into the pipe."""
    program = launch(
        f"""
        out = os.dup(1)
        def say(*words):
            os.write(out, (" ".join(map(str, words)) + "\\n").encode())
        def close():
            for fd in range(3):
                os.close(fd)
        app = capbg.App("closed", grace=30)
        @app.background_task()
        def save():
            print("hello", flush=True)
            sys.stderr.write("hello")
        if {where!r} == "before":
            close()
        with app:
            if {where!r} == "inside":
                close()
            app.add_listener("graceEnded", lambda r: say("OUTCOMES", *[t.outcome.name for t in r.results]))
            say("READY")
            idle()
        """
    )
    program.expect("READY")
    program.send(signal.SIGTERM)
    assert "FINISHED" == program.expect("OUTCOMES")
    program.wait()


def test_what_a_coroutine_leaves_behind_expires_like_the_coroutine(launch: Launcher) -> None:
    """A job in the loop's executor outlasts the coroutine: at the deadline on_expire runs and the task is EXPIRED."""
    program = launch(
        """
        import asyncio
        app = capbg.App("left", grace=60, kill_after=20)

        @app.background_task(deadline=0.5, on_expire=lambda task: say("EXPIRING"))
        async def work():
            asyncio.get_running_loop().run_in_executor(None, time.sleep, 3)

        try:
            with app:
                say("READY")
                idle()
        finally:
            report(app)
        """
    )
    program.expect("READY")
    program.send(signal.SIGTERM)
    program.expect("EXPIRING")
    assert {"work": "EXPIRED"} == program.report()["outcomes"]
    assert 75 == program.wait()


def test_orders_of_tasks_that_are_gone_are_forgotten(launch: Launcher) -> None:
    """A service that registers and cancels for each job does not grow."""
    program = launch(
        """
        app = capbg.App("jobs", grace=30)
        for _ in range(50):
            app.cancel(app.before_exit(lambda: None))
        for _ in range(50):
            app.before_exit(lambda: None)
        with app:
            signal.raise_signal(signal.SIGTSTP)
            say("LEFT", len(app._orders))
        """
    )
    program.wait_stopped()
    program.send(signal.SIGCONT)
    assert "0" == program.expect("LEFT")
    assert 0 == program.wait()


def test_a_program_on_standard_input_is_named_python(launch: Launcher) -> None:
    """`python -c` has no name of its own; the app is called python then."""
    program = launch.start([sys.executable, "-c", PREAMBLE + "\nsay(capbg.App().name)"])
    assert "python" == program.expect("")
    assert 0 == program.wait()


def test_a_pipe_that_outlives_its_worker_is_not_read_behind_the_exit(launch: Launcher, tmp_path: Path) -> None:
    """The worker dies, its child lets go of the pipe later, and the app hears of both in one turn: no error."""
    program = launch(
        """
        from pathlib import Path
        where = Path(sys.argv[1])
        app = capbg.App("late", grace=60, kill_after=30)

        def wait_for(name):
            while not (where / name).exists():
                time.sleep(0.005)

        @app.background_task()
        def quick():
            pass

        @app.background_task()
        def dies():
            wait_for("busy")
            me = os.getpid()
            if os.fork() == 0:
                os.setsid()  # out of the group that is killed with the worker
                (where / "child").touch()
                while os.getppid() == me:
                    time.sleep(0.005)
                os.closerange(3, 256)
                (where / "closed").touch()
                os._exit(0)
            wait_for("child")
            os.kill(me, signal.SIGKILL)

        def settled(result):
            if result.name == "quick":
                (where / "busy").touch()
                wait_for("closed")

        app.add_listener("taskSettled", settled)
        app.add_listener("graceEnded", lambda _: report(app))
        with app:
            say("READY")
            idle()
        """,
        str(tmp_path),
    )
    program.expect("READY")
    program.send(signal.SIGTERM)
    assert {"quick": "FINISHED", "dies": "CRASHED"} == program.report()["outcomes"]
    assert 75 == program.wait()
