"""Capacitor's App and BackgroundTask plugins, name for name, over one default app.

``from capbg.capacitor import App, BackgroundTask``. The default app is :data:`app`; a program enters it like any
other: ``with app: ...``. What differs from JavaScript: ``beforeExit`` returns the id itself and not a promise of it,
and listeners are plain functions (the callbacks given to ``beforeExit`` may be ``async def``).

::

    def changed(state):
        if not state.isActive:
            def work():
                upload_the_rest()
                BackgroundTask.finish({"taskId": task_id})
            task_id = BackgroundTask.beforeExit(work)

    App.addListener("appStateChange", changed)
    with app:
        main_loop()
"""

from collections.abc import Callable, Mapping

import capbg.app
from capbg._core.budget import Limits
from capbg._core.words import AppState
from capbg.app import ListenerHandle
from capbg.errors import WrongTypeError
from capbg.task import Task

__all__ = ["App", "BackgroundTask", "app"]

app = capbg.app.App()
"""The default app, named after the program."""


class _App:
    """Capacitor's App plugin: its events and its state."""

    def addListener(self, event: str, callback: Callable[..., object]) -> ListenerHandle:
        """Call ``callback`` at an event (``appStateChange``, ``pause``, ``resume``); see ``capbg.App.add_listener``."""
        return app.add_listener(event, callback)

    def removeAllListeners(self) -> None:
        """Remove every listener of every event."""
        app.remove_all_listeners()

    def getState(self) -> AppState:
        """The state, with ``isActive``."""
        return app.get_state()

    add_listener = addListener
    remove_all_listeners = removeAllListeners
    get_state = getState


class _BackgroundTask:
    """Capacitor's BackgroundTask plugin."""

    def beforeExit(
        self,
        callback: Callable[..., object],
        *,
        name: str | None = None,
        deadline: float | None = None,
        limits: Limits | None = None,
        on_expire: Callable[[Task], object] | None = None,
    ) -> str:
        """Register a task for the next or the current backgrounding and return its id, always before it runs.

        The options are those of ``capbg.App.before_exit``.
        """
        return app.before_exit(callback, name=name, deadline=deadline, limits=limits, on_expire=on_expire)

    def finish(self, options: Mapping[str, str] | str) -> None:
        """Say that the task is done: ``finish({"taskId": task_id})`` or ``finish(task_id)``."""
        if isinstance(options, Mapping):
            if "taskId" not in options:
                raise WrongTypeError(f'finish() takes {{"taskId": id}} or the id itself, not {dict(options)!r}')
            options = options["taskId"]
        app.finish(options)

    before_exit = beforeExit


App = _App()
BackgroundTask = _BackgroundTask()
