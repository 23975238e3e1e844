"""The Capacitor face: code and habits carry over line by line."""

import signal

import capbg.app
from capbg import capacitor
from tests.probe import Launcher

SAMPLE = """
def changed(state):
    if not state.isActive:
        def work():
            upload_the_rest()
            BackgroundTask.finish({"taskId": task_id})      # also finish(task_id)
        task_id = BackgroundTask.beforeExit(work)

App.addListener("appStateChange", changed)
"""
"""The contract's sample, as it stands."""


def test_the_sample_runs_as_it_stands(launch: Launcher) -> None:
    """The sample's closure uses the id that beforeExit returns, in the listener and in the worker."""
    program = launch(
        "from capbg.capacitor import App, BackgroundTask\n"
        "import capbg.capacitor\n"
        "def upload_the_rest():\n    say('UPLOADING', os.getpid())\n" + SAMPLE + "\n"
        "try:\n"
        "    with capbg.capacitor.app:\n        say('READY')\n        idle()\n"
        "finally:\n    report(capbg.capacitor.app)\n"
    )
    program.expect("READY")
    program.send(signal.SIGTERM)
    assert int(program.expect("UPLOADING")) != program.pid
    assert {"work": "FINISHED"} == program.report()["outcomes"]
    assert 0 == program.wait()


def test_coroutines_and_both_ways_to_finish(launch: Launcher) -> None:
    """async callbacks run to completion, finish takes the id alone, and the snake_case spellings are the same."""
    program = launch(
        """
        import asyncio
        from capbg.capacitor import App, BackgroundTask, app

        async def work():
            await asyncio.sleep(0.01)
            BackgroundTask.finish(first)

        first = BackgroundTask.beforeExit(work)

        def more():
            BackgroundTask.finish(second)

        second = BackgroundTask.before_exit(more, deadline=30)
        say("STATE", App.getState().isActive, App.get_state().is_active)
        try:
            with app:
                say("READY")
                idle()
        finally:
            say("STATE", App.getState().isActive, App.getState().reason.name)
            report(app)
        """
    )
    assert "True True" == program.expect("STATE")
    program.expect("READY")
    program.send(signal.SIGTERM)
    assert "False TERMINATE" == program.expect("STATE")
    assert {"work": "FINISHED", "more": "FINISHED"} == program.report()["outcomes"]
    assert 0 == program.wait()


def test_listeners_come_and_go(launch: Launcher) -> None:
    """A handle's remove() takes one listener off, removeAllListeners() all; a task runs once and is gone."""
    program = launch(
        """
        from capbg.capacitor import App, BackgroundTask, app

        App.addListener("pause", lambda: say("PAUSE"))
        App.addListener("resume", lambda: say("RESUME"))
        removed = App.addListener("appStateChange", lambda state: say("REMOVED"))
        removed.remove()
        removed.remove()
        App.addListener("appStateChange", lambda state: say("CHANGED", state.isActive, state.reason.name))
        app.add_listener("graceEnded", lambda r: say("ENDED", len(r.results)))
        task = BackgroundTask.beforeExit(lambda: BackgroundTask.finish(task))
        with app:
            say("READY")
            while "end" not in sys.argv:
                time.sleep(0.02)
                if App.getState().reason.name == "RESUME":
                    break
            App.removeAllListeners()
            say("AGAIN")
            idle()
        """
    )
    program.expect("READY")
    program.send(signal.SIGTSTP)
    assert "False SUSPEND" == program.expect("CHANGED")
    program.expect("PAUSE")
    assert "1" == program.expect("ENDED")
    program.wait_stopped()
    program.send(signal.SIGCONT)
    assert "True RESUME" == program.expect("CHANGED")
    program.expect("RESUME")
    program.expect("AGAIN")
    program.send(signal.SIGTERM)
    assert 0 == program.wait()
    assert "AGAIN" == program.lines[-1], "no listener was left to speak"
    assert not [line for line in program.lines if line.startswith("REMOVED")]


def test_the_default_app_is_a_capbg_app() -> None:
    """capbg.capacitor.app is the app behind the plugins, named after the program."""
    assert isinstance(capacitor.app, capbg.app.App)
    assert capacitor.app.name
