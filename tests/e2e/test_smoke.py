"""The shortest program there is."""

import signal

from tests.probe import Launcher


def test_a_stop_runs_what_was_registered_and_leaves_with_0(launch: Launcher) -> None:
    """SIGTERM runs the task in a worker, and the program leaves with status 0 behind its finally blocks."""
    program = launch(
        """
        app = capbg.App("smoke")

        @app.background_task()
        def save(task):
            say("WORKER", os.getpid())

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
    assert int(program.expect("WORKER")) != program.pid
    assert program.report()["outcomes"] == {"save": "FINISHED"}
    assert program.wait() == 0
