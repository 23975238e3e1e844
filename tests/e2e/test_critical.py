"""``critical()``: no worker is forked from half-changed data; and signals in the middle of any call of ours."""

import signal
from pathlib import Path

import pytest

from tests.e2e.lives import lives
from tests.notify_socket import NotifySocket
from tests.probe import Launcher

DATA = """
data = ["half"]

def app_with_a_task():
    app = capbg.App("critical", grace=60)

    @app.background_task()
    def save(task):
        say("WORKER", *data)

    app.add_listener("appStateChange", lambda state: say("STATE", state.is_active, *data))
    return app
"""


@pytest.mark.parametrize("driven", [False, True])
def test_backgrounding_waits_for_the_end_of_the_outermost_block(
    launch: Launcher, tmp_path: Path, notify_socket: NotifySocket, driven: bool
) -> None:
    """Signalled in a critical block, the app tells systemd at once, and its listeners and workers behind the block."""
    program = launch(
        lives(
            DATA,
            """
            app = app_with_a_task()
            driven = sys.argv[2:] == ["True"]

            def turn():
                if driven:
                    app.pump()
                time.sleep(0.01)

            with app:
                if driven:
                    app.fileno()
                with app.critical():
                    say("READY")
                    while not os.path.exists(sys.argv[1]):
                        turn()
                    with app.critical():
                        app.tasks()
                    for _ in range(10):
                        turn()
                    data.append("whole")
                    say("END OF BLOCK", app.get_state().reason.name)
                if not driven:
                    say("NEVER")  # the grace period begins at the end of the block, not at the next signal or beat
                while True:
                    turn()
            """,
        ),
        str(tmp_path / "go"),
        str(driven),
        env=notify_socket.env,
    )
    program.expect("READY")
    program.send(signal.SIGTERM)
    notify_socket.expect("STOPPING", "1")
    (tmp_path / "go").touch()
    assert 0 == program.wait()
    assert ["END OF BLOCK TERMINATE", "STATE False half whole", "WORKER half whole"] == program.lines[1:]


@pytest.mark.parametrize("driven", [False, True])
def test_backgrounding_waits_for_a_block_in_another_thread(
    launch: Launcher, tmp_path: Path, notify_socket: NotifySocket, driven: bool
) -> None:
    """Whoever is in the block: systemd hears of the stop at once, the workers see what the thread has completed."""
    program = launch(
        lives(
            DATA,
            """
            import select

            app = app_with_a_task()

            def change():
                with app.critical():
                    data.append("of it")
                    say("READY")
                    wait_for(sys.argv[1])
                    data.append("whole")
                    say("END OF BLOCK", app.get_state().reason.name)

            with app:
                threading.Thread(target=change).start()
                if sys.argv[2:] == ["False"]:
                    idle()
                poll = select.poll()
                poll.register(app.fileno(), select.POLLIN)
                while True:
                    poll.poll()
                    app.pump()
            """,
        ),
        str(tmp_path / "go"),
        str(driven),
        env=notify_socket.env,
    )
    program.expect("READY")
    program.send(signal.SIGTERM)
    notify_socket.expect("STOPPING", "1")
    (tmp_path / "go").touch()
    assert 0 == program.wait()
    assert ["END OF BLOCK TERMINATE", "STATE False half of it whole", "WORKER half of it whole"] == program.lines[1:]


def test_a_suspension_that_is_over_before_the_block_is_told_to_nobody(launch: Launcher) -> None:
    """SIGTSTP and SIGCONT within one critical block: no listener hears of it, nothing runs, nothing stops."""
    program = launch(
        lives(
            DATA,
            """
            app = app_with_a_task()
            with app:
                with app.critical():
                    os.kill(os.getpid(), signal.SIGTSTP)
                    say("HELD", app.get_state().phase.name)
                    os.kill(os.getpid(), signal.SIGCONT)
                say("PHASE", app.get_state().phase.name, app.last_report)
            """,
        )
    )
    assert 0 == program.wait()
    assert ["HELD BACKGROUND", "PHASE ACTIVE None"] == program.lines


def test_a_signal_at_any_step_of_any_call_is_heard_when_the_call_is_over(launch: Launcher) -> None:
    """Wherever SIGTERM strikes in a call of ours, it neither deadlocks nor raises anything but SystemExit, once."""
    program = launch(
        lives(
            """
            def calls(app):
                task_id = app.before_exit(lambda task: task.finish(), name="kept")
                with app.critical():
                    app.tasks()
                    with app.critical():
                        app.get_state()
                app.cancel(task_id)

            def call(told, number):
                app = capbg.App("calls", grace=30)
                try:
                    with app:
                        at_step(number, signal.SIGTERM)
                        calls(app)
                        sys.setprofile(None)
                        os.write(told, b"i")
                except SystemExit as leaving:
                    finished = [each.outcome.name for each in app.last_report.results]
                    os.write(told, b"l" if finished in ([], ["FINISHED"]) and leaving.code == 0 else b"?")

            number, words = 0, ""
            while words != "i":
                number += 1
                life = Life(call, number)
                words, status = life.hear(100), life.end()
                # "il": Python drops what is raised while a generator is closed, so it was raised once more.
                if (words, status) not in {("l", 0), ("il", 0), ("i", 0)}:
                    say("WRONG", number, words, status)
            say("STEPS", number)
            """
        )
    )
    assert int(program.expect("STEPS", patience=150)) > 100
    assert [] == [line for line in program.lines if line.startswith("WRONG")], program.stderr
    assert 0 == program.wait()


def test_a_stop_in_code_whose_exceptions_python_drops_is_a_stop_all_the_same(launch: Launcher) -> None:
    """SystemExit that is raised into a ``__del__`` goes nowhere, so it is raised once more; the hook is put back."""
    program = launch(
        """
        class Doomed:
            def __del__(self):
                os.kill(os.getpid(), signal.SIGTERM)
                while not app.get_state().reason.stops:
                    pass

        app = capbg.App("dropped", grace=30)
        hook = sys.unraisablehook
        try:
            with app:
                Doomed()
                say("BEHIND")
                idle()
        finally:
            say("HOOK", sys.unraisablehook is hook)
        """
    )
    assert 0 == program.wait(), program.stderr
    assert ["BEHIND", "HOOK True"] == program.lines
    assert "" == program.stderr


def test_calls_from_every_thread_under_a_storm_of_signals_leave_the_app_in_order(launch: Launcher) -> None:
    """Hundreds of registrations, lists and critical blocks, hit by SIGCONT all the while, and then a stop."""
    program = launch(
        lives(
            """
            app = capbg.App("storm", grace=60)

            @app.background_task()
            def save(task):
                pass

            def call(times):
                for _ in range(times):
                    task_id = app.before_exit(lambda: None)
                    app.tasks()
                    with app.critical():
                        app.cancel(task_id)

            me = os.getpid()

            def storm(told):
                for _ in range(200):
                    os.kill(me, signal.SIGCONT)
                    time.sleep(0.001)

            with app:
                life = Life(storm)
                threads = [threading.Thread(target=call, args=(200,)) for _ in range(2)]
                for thread in threads:
                    thread.start()
                call(400)
                for thread in threads:
                    thread.join()
                assert life.end() == 0
                say("LEFT OVER", *(row.name for row in app.tasks()))
                say("READY")
                while True:
                    call(1)
            """
        )
    )
    assert "save" == program.expect("LEFT OVER")
    program.expect("READY")
    program.send(signal.SIGTERM)
    assert program.wait() in {0, 75}  # 75 where it struck between the registration and its cancellation
