"""Bad input: a clear error that names the thing, where it was given, and nothing lost."""

import functools
import math
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

import capbg
from tests.probe import Launcher, clean_environment


def nothing() -> None:
    """A task."""


async def nothing_async() -> None:
    """A coroutine function."""


BAD: list[tuple[str, Callable[[capbg.App], Any], type[Exception], str]] = [
    ("deadline text", lambda app: app.before_exit(nothing, deadline="5"), capbg.WrongTypeError, "deadline"),  # type: ignore[arg-type]
    ("deadline bool", lambda app: app.before_exit(nothing, deadline=True), capbg.WrongTypeError, "deadline"),
    ("deadline negative", lambda app: app.before_exit(nothing, deadline=-1), capbg.InvalidArgumentError, "deadline"),
    ("deadline zero", lambda app: app.before_exit(nothing, deadline=0), capbg.InvalidArgumentError, "deadline"),
    ("deadline NaN", lambda app: app.before_exit(nothing, deadline=math.nan), capbg.InvalidArgumentError, "deadline"),
    ("deadline inf", lambda app: app.before_exit(nothing, deadline=math.inf), capbg.InvalidArgumentError, "deadline"),
    ("deadline huge", lambda app: app.before_exit(nothing, deadline=10**400), capbg.InvalidArgumentError, "deadline"),
    ("name empty", lambda app: app.before_exit(nothing, name=" "), capbg.InvalidArgumentError, "name"),
    ("name of two lines", lambda app: app.before_exit(nothing, name="a\nb"), capbg.InvalidArgumentError, "name"),
    ("name of bytes", lambda app: app.before_exit(nothing, name=b"a"), capbg.WrongTypeError, "name"),  # type: ignore[arg-type]
    ("limits dict", lambda app: app.before_exit(nothing, limits={"cpu": 1}), capbg.WrongTypeError, "limits"),  # type: ignore[arg-type]
    ("no callable", lambda app: app.before_exit(42), capbg.WrongTypeError, "42"),  # type: ignore[arg-type]
    ("three arguments", lambda app: app.before_exit(lambda a, b, c: None), capbg.WrongTypeError, "a, b, c"),
    ("keyword needed", lambda app: app.before_exit(_needs_keyword), capbg.WrongTypeError, "_needs_keyword"),
    ("on_expire", lambda app: app.before_exit(nothing, on_expire=nothing), capbg.WrongTypeError, "on_expire"),  # type: ignore[arg-type]
    ("on_expire async", lambda app: app.before_exit(nothing, on_expire=_async_one), capbg.WrongTypeError, "on_expire"),
    ("decorator", lambda app: app.background_task(deadline=-1)(nothing), capbg.InvalidArgumentError, "deadline"),
    ("event", lambda app: app.add_listener("appStateChanged", nothing), capbg.UnknownEventError, "appStateChanged"),
    ("event None", lambda app: app.add_listener(None, nothing), capbg.UnknownEventError, "None"),  # type: ignore[arg-type]
    ("listener", lambda app: app.add_listener("pause", 3), capbg.WrongTypeError, "pause"),  # type: ignore[arg-type]
    ("listener's argument", lambda app: app.add_listener("pause", lambda state: None), capbg.WrongTypeError, "no arg"),
    ("listener's arguments", lambda app: app.add_listener("taskSettled", nothing), capbg.WrongTypeError, "TaskResult"),
    ("async listener", lambda app: app.add_listener("pause", nothing_async), capbg.WrongTypeError, "nothing_async"),
    ("finish unknown", lambda app: app.finish("nobody-7"), capbg.UnknownTaskError, "nobody-7"),
    ("finish None", lambda app: app.finish(None), capbg.UnknownTaskError, "None"),  # type: ignore[arg-type]
    ("cancel unknown", lambda app: app.cancel("nobody-7"), capbg.UnknownTaskError, "nobody-7"),
    ("pump outside", lambda app: app.pump(), capbg.WrongPhaseError, "pump"),
    ("fileno outside", lambda app: app.fileno(), capbg.WrongPhaseError, "fileno"),
    ("heartbeat outside", lambda app: app.heartbeat(), capbg.WrongPhaseError, "heartbeat"),
]


def _needs_keyword(*, path: str) -> None:
    """A callback that nobody can call."""


async def _async_one(task: capbg.Task) -> None:
    """No on_expire: nothing would await it."""


@pytest.mark.parametrize(("call", "error", "named"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_a_bad_argument_is_named_and_loses_nothing(
    call: Callable[[capbg.App], Any], error: type[Exception], named: str
) -> None:
    """The error says which argument, and what was registered before is still there, and nothing else."""
    app = capbg.App("kiosk")
    kept = app.before_exit(nothing)

    with pytest.raises(error, match=named):
        call(app)

    assert [kept] == [row.id for row in app.tasks()]


@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        ({"name": ""}, capbg.InvalidArgumentError, "name"),
        ({"name": 3}, capbg.WrongTypeError, "name"),
        ({"grace": 0}, capbg.InvalidArgumentError, "grace"),
        ({"grace": math.nan}, capbg.InvalidArgumentError, "grace"),
        ({"grace": "3"}, capbg.WrongTypeError, "grace"),
        ({"kill_after": -0.1}, capbg.InvalidArgumentError, "kill_after"),
        ({"max_workers": 0}, capbg.InvalidArgumentError, "max_workers"),
        ({"max_workers": 1.5}, capbg.WrongTypeError, "max_workers"),
        ({"start_method": "thread"}, capbg.InvalidArgumentError, "start_method"),
        ({"proctitle": "no"}, capbg.WrongTypeError, "proctitle"),
    ],
)
def test_a_bad_option_of_the_app_is_named(arguments: dict[str, Any], error: type[Exception], named: str) -> None:
    """App() refuses what cannot work, by name."""
    with pytest.raises(error, match=named):
        capbg.App(**arguments)


@pytest.mark.parametrize("value", ["", "soon", "-5", "0", "nan", "inf", "3,5"])
def test_a_bad_grace_in_the_environment_is_an_error_for_the_operator(value: str) -> None:
    """CAPBG_GRACE with a value that cannot be used ends the program at its start, in a sentence that names it."""
    ended = subprocess.run(
        [sys.executable, "-c", "import capbg; capbg.App('kiosk')"],
        env={**clean_environment(), "CAPBG_GRACE": value},
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.returncode == 1
    assert "InvalidEnvironmentError" in ended.stderr
    assert "CAPBG_GRACE" in ended.stderr.splitlines()[-1]


def test_the_grace_in_the_environment_wins() -> None:
    """CAPBG_GRACE is what the operator set beside TimeoutStopSec=, so it overrides the program's own."""
    ended = subprocess.run(
        [sys.executable, "-c", "import capbg; print(capbg.App('kiosk', grace=5).grace)"],
        env={**clean_environment(), "CAPBG_GRACE": "600"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert "600.0\n" == ended.stdout


@pytest.mark.parametrize("callback", [nothing, nothing_async, functools.partial(print, "x"), print, lambda task: None])
def test_what_can_be_called_is_taken(callback: Callable[..., object]) -> None:
    """Functions, coroutine functions, partials, builtins and callbacks of one argument can be registered."""
    app = capbg.App("kiosk")

    task_id = app.before_exit(callback)

    assert [task_id] == [row.id for row in app.tasks()]


def test_entering_is_for_the_main_thread() -> None:
    """An app entered from another thread would get no signals: it says so."""
    caught: list[BaseException] = []

    def enter() -> None:
        try:
            with capbg.App("kiosk"):
                pass
        except capbg.WrongThreadError as error:
            caught.append(error)

    thread = threading.Thread(target=enter, name="not-the-main-one")
    thread.start()
    thread.join()

    assert "not-the-main-one" in str(caught[0])


def test_apps_do_not_nest(launch: Launcher) -> None:
    """A second `with app`, or another app's, is refused by name, and the first goes on to work."""
    program = launch(
        """
        app, other = capbg.App("first"), capbg.App("second")
        app.background_task()(lambda: None)
        try:
            with app:
                for each in (app, other):
                    try:
                        with each:
                            say("ENTERED")
                    except capbg.WrongPhaseError as error:
                        say("REFUSED", error)
                say("READY")
                idle()
        finally:
            report(app)
        """
    )
    assert "this app is entered already" in program.expect("REFUSED")
    assert "'first'" in program.expect("REFUSED")
    program.expect("READY")
    program.send(signal.SIGTERM)
    assert {"lambda": "FINISHED"} == program.report()["outcomes"]
    assert 0 == program.wait()


@pytest.mark.parametrize(
    "garbage",
    [
        "b''.join([b'Z'] * 10)",
        "b'P'",
        "b'X' + b'\\xff' * 6",
        "b'F' * 2",
        "b'N\\xff\\xfe'",
        "b'A' * 70000",
        "os.urandom(64)",
    ],
)
def test_a_packet_of_garbage_ends_that_worker_alone(launch: Launcher, garbage: str) -> None:
    """What does not parse is that worker's end, the reason says so, and its neighbour finishes."""
    program = launch(
        f"""
        app = capbg.App("kiosk", grace=60)

        @app.background_task()
        def bad(task):
            task._pipe.send({garbage})
            time.sleep(60)

        @app.background_task()
        def good(task):
            task.progress(1, 2)

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

    assert {"bad": "CRASHED", "good": "FINISHED"} == report["outcomes"]
    assert "packet" in report["by_name"]["bad"]["reason"]
    assert 75 == program.wait()


def test_calls_of_the_app_in_a_worker_say_where_they_belong(launch: Launcher) -> None:
    """Registering, cancelling and entering inside a worker raise an error that names the worker's task."""
    program = launch(
        """
        app = capbg.App("kiosk")

        @app.background_task()
        def save(task):
            for call in (lambda: app.before_exit(print), lambda: app.cancel(task.id), lambda: app.critical(),
                         lambda: app.add_listener("pause", print), lambda: capbg.App("x").__enter__()):
                try:
                    call()
                except capbg.WrongProcessError as error:
                    say("REFUSED", error)

        with app:
            say("READY")
            idle()
        """
    )
    program.expect("READY")
    program.send(signal.SIGTERM)
    for _ in range(5):
        assert "worker" in program.expect("REFUSED")
    assert 0 == program.wait()
