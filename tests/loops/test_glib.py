"""Programs inside GLib's main loop: alone, and with a window of GTK 3 and of GTK 4."""

import functools
import signal
from pathlib import Path

import pytest

from tests.loops import checks
from tests.loops.kits import GTK3, GTK4, MAIN_LOOP, Kit, environment
from tests.notify_socket import NotifySocket
from tests.probe import Launcher, Probe, process_state


@pytest.mark.parametrize("kit", [MAIN_LOOP, GTK3, GTK4], ids=lambda kit: kit.name)
def test_a_life_in_the_loop(kit: Kit, launch: Launcher, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Signals wake the idle loop, its window is painted beside the workers, it stops, resumes and leaves by itself."""
    checks.check_life(kit, launch, tmp_path, environment(kit, request))


def test_a_signal_before_the_loop_runs_ends_it_all_the_same(launch: Launcher, tmp_path: Path) -> None:
    """GLib forgets a ``quit`` that comes before ``run``, so the loop is asked again; the status is 75."""
    checks.check_early(MAIN_LOOP, launch, tmp_path, {})


def test_the_watchdog_is_fed_by_the_loop_alone(launch: Launcher, tmp_path: Path, notify_socket: NotifySocket) -> None:
    """An idle loop feeds it, a callback that hangs is found out, and other signals' handlers are not kept waiting."""
    checks.check_watchdog(MAIN_LOOP, launch, tmp_path, {}, notify_socket)


def test_what_a_callback_raises_is_not_lost(launch: Launcher, tmp_path: Path) -> None:
    """PyGObject prints what callbacks raise, or ends the process: here it comes out of the block."""
    checks.check_nothing_is_dropped(MAIN_LOOP, launch, tmp_path, {})


def test_a_window_closed_in_the_grace_period_leaves_when_the_tasks_are_done(
    launch: Launcher, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """``Application.run`` returns 0 when its last window is closed; the contract's status comes behind the tasks."""
    checks.check_closed(GTK3, launch, tmp_path, environment(GTK3, request))


def printed(program: Probe, times: int) -> bool:
    """Whether PyGObject has printed what the handler raised so many times."""
    return times == program.stderr.count("LookupError: by the program")


def test_a_signal_handler_that_raises_does_not_make_it_deaf(launch: Launcher, tmp_path: Path) -> None:
    """What another signal's handler raises comes out of our callback, which PyGObject then calls no more."""
    program = MAIN_LOOP.start(
        launch,
        tmp_path,
        """
        def raises(*_):
            say("RAISES")
            raise LookupError("by the program")

        app = capbg.App("deaf", grace=60)
        signal.signal(signal.SIGUSR1, raises)
        with drive(app):
            once(100, lambda: say("READY"))
            run()
            say("LEFT THE LOOP")
        """,
        env={},
    )
    program.expect("READY")
    for number in range(1, 4):
        program.wait_until(lambda: process_state(program.pid) == "S")
        program.send(signal.SIGUSR1)
        program.expect("RAISES")
        program.wait_until(functools.partial(printed, program, number))
    program.send(signal.SIGTERM)
    program.expect("LEFT THE LOOP")
    assert 0 == program.wait(), program.stderr


@pytest.mark.parametrize("kit", [GTK3, GTK4], ids=lambda kit: kit.name)
def test_a_worker_that_uses_the_display_fails_alone(
    kit: Kit, launch: Launcher, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """GDK ends a worker whose display is gone, and the app's own connection is as it was."""
    checks.check_touched(kit, launch, tmp_path, environment(kit, request))


def test_pygobjects_own_signal_handling_is_there_before_and_behind(launch: Launcher, tmp_path: Path) -> None:
    """Ctrl-C in the loop raises KeyboardInterrupt without capbg, is the app's inside the block, and theirs again."""
    program = MAIN_LOOP.start(
        launch,
        tmp_path,
        """
        app = capbg.App("put-back", grace=60)
        signal.signal(signal.SIGUSR1, lambda *_: say("USR1"))

        def interrupted():
            once(0, lambda: say("READY"))
            try:
                run()
                say("RETURNED")
            except KeyboardInterrupt:
                say("INTERRUPTED")
            say(signal.getsignal(signal.SIGINT) is signal.default_int_handler, signal.set_wakeup_fd(-1))

        interrupted()
        with drive(app):
            once(0, quit)
            run()
            once(0, quit)
            run()
        interrupted()
        app.add_listener("graceEnded", lambda report: say("ENDED", report.reason.name))
        try:
            with drive(app):
                once(0, lambda: say("READY"))
                run()
        finally:
            say("RESTORED", signal.set_wakeup_fd(-1))
        """,
        env={},
    )
    for _ in range(2):
        program.expect("READY")
        program.send(signal.SIGUSR1)
        program.expect("USR1")
        program.send(signal.SIGINT)
        program.expect("INTERRUPTED")
        program.expect("True -1")
    program.expect("READY")
    program.send(signal.SIGUSR1)
    program.expect("USR1")
    program.send(signal.SIGINT)
    assert "INTERRUPT" == program.expect("ENDED")
    assert "-1" == program.expect("RESTORED")
    assert 0 == program.wait(), program.stderr
