"""Programs inside Tk's main loop."""

import signal
from pathlib import Path

from tests.loops import checks
from tests.loops.kits import TK
from tests.notify_socket import NotifySocket
from tests.probe import Launcher


def test_a_life_in_the_loop(launch: Launcher, tmp_path: Path, display: dict[str, str]) -> None:
    """Signals wake the idle loop, its window is painted beside the workers, it stops, resumes and leaves by itself."""
    checks.check_life(TK, launch, tmp_path, display)


def test_a_signal_before_the_loop_runs_ends_it_all_the_same(
    launch: Launcher, tmp_path: Path, display: dict[str, str]
) -> None:
    """``mainloop`` forgets a ``quit`` that comes before it, so it is asked again; the status is 75."""
    checks.check_early(TK, launch, tmp_path, display)


def test_the_watchdog_is_fed_by_the_loop_alone(
    launch: Launcher, tmp_path: Path, display: dict[str, str], notify_socket: NotifySocket
) -> None:
    """An idle loop feeds it, a callback that hangs is found out, and other signals' handlers are not kept waiting."""
    checks.check_watchdog(TK, launch, tmp_path, display, notify_socket)


def test_what_a_callback_raises_is_not_lost(launch: Launcher, tmp_path: Path, display: dict[str, str]) -> None:
    """It comes out of the block, behind the loop's own way out."""
    checks.check_nothing_is_dropped(TK, launch, tmp_path, display)


def test_a_window_closed_in_the_grace_period_leaves_when_the_tasks_are_done(
    launch: Launcher, tmp_path: Path, display: dict[str, str]
) -> None:
    """``mainloop`` returns when its window is destroyed; the contract's status comes behind the tasks."""
    checks.check_closed(TK, launch, tmp_path, display)


def test_a_worker_that_uses_the_display_fails_alone(launch: Launcher, tmp_path: Path, display: dict[str, str]) -> None:
    """Xlib ends a worker whose display is gone, and the app's own connection is as it was."""
    checks.check_touched(TK, launch, tmp_path, display)


def test_a_dialog_that_waits_ends_with_its_window(launch: Launcher, tmp_path: Path, display: dict[str, str]) -> None:
    """``root.quit`` means nothing to a dialog's own loop; ``quit=root.destroy`` ends both, asked once or twice."""
    program = TK.start(
        launch,
        tmp_path,
        """
        app = capbg.App("dialog", grace=60)
        asked = 0

        def ask():
            dialog = tkinter.Toplevel(root)
            once(100, lambda: say("READY"))
            root.wait_window(dialog)
            say("DIALOG OVER")
            while asked < 2:
                iterate()  # the second time there is no window any more

        def destroy():
            global asked
            asked += 1
            root.destroy()

        with drive(app, quit=destroy):
            once(0, ask)
            run()
            say("LEFT THE LOOP")
        """,
        env=display,
    )
    program.expect("READY")
    program.send(signal.SIGTERM)
    program.expect("DIALOG OVER")
    program.expect("LEFT THE LOOP")
    assert 0 == program.wait(), program.stderr
    assert "" == program.stderr
