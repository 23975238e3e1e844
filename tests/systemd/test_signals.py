"""Signals as an operator, or systemd itself, sends them to a service: stop, suspend, resume, and once more."""

import signal

from .bed import Bed
from .programs import await_suspended, ended, service, spoken, start, stop


def test_a_service_that_is_stopped_while_suspended_finishes_its_work(bed: Bed) -> None:
    """systemd's SIGCONT behind its SIGTERM resumes nothing: 4 s of work under TimeoutStopSec=3, then a clean end."""
    source = """
    app = capbg.App("kiosk", grace=60)
    app.add_listener("appStateChange", lambda state: say("STATE", state.phase.name, state.reason.name))

    @app.background_task()
    def save(task):
        # Nothing to do for the suspension: it comes first, and leaves this mark.
        if os.path.exists(os.environ["MARK"]):
            time.sleep(4)
            say("SAVED")
        open(os.environ["MARK"], "w").close()

    with app:
        say("WORKING")
        while True:
            app.heartbeat()
            time.sleep(0.05)
    """
    mark = bed.scratch / "suspended-once"
    suspended = service(bed, "suspended", source, WatchdogSec=5, TimeoutStopSec=3, Environment=[f"MARK={mark}"])
    start(suspended)
    suspended.kill(signal.SIGTSTP)
    await_suspended(suspended)

    stop(suspended)

    assert ("success", "exited", 0) == ended(suspended.result())
    assert suspended.result().stopping_s > 3.5
    assert ["SAVED"] == spoken(suspended, "SAVED")
    assert ["STATE BACKGROUND SUSPEND", "STATE BACKGROUND TERMINATE"] == spoken(suspended, "STATE")


def test_sigterm_by_hand_reaches_a_suspended_service_with_sigcont(bed: Bed) -> None:
    """`systemctl kill` sends no SIGCONT: the SIGTERM waits for one, and then wins over it."""
    suspended = service(bed, "suspended", work_s=1, TimeoutStopSec=60)
    start(suspended)
    suspended.kill(signal.SIGTSTP)
    await_suspended(suspended)

    suspended.kill(signal.SIGTERM)
    await_suspended(suspended)
    suspended.kill(signal.SIGCONT)

    assert ("success", "exited", 0) == ended(suspended.wait())
    assert ["SAVED", "SAVED"] == spoken(suspended, "SAVED")


def test_suspend_resume_suspend_stop(bed: Bed) -> None:
    """SIGTSTP, SIGCONT, SIGTSTP, stop: three grace periods, three times the work, active in between, a clean end."""
    source = """
    app = capbg.App("kiosk", grace=60)
    app.add_listener("appStateChange", lambda state: say("STATE", state.phase.name, state.reason.name))
    app.background_task()(lambda: say("SAVED"))

    with app:
        say("WORKING")
        while True:
            app.heartbeat()
            time.sleep(0.05)
    """
    moved = service(bed, "moved", source, WatchdogSec=5, TimeoutStopSec=60)
    start(moved)
    moved.kill(signal.SIGTSTP)
    await_suspended(moved)
    moved.kill(signal.SIGCONT)
    bed.wait_for(lambda: moved.show("StatusText")["StatusText"] == "active", "the return")
    moved.kill(signal.SIGTSTP)
    await_suspended(moved)
    assert "active" == moved.show("ActiveState")["ActiveState"]

    stop(moved)

    assert ("success", "exited", 0) == ended(moved.result())
    told = ["BACKGROUND SUSPEND", "ACTIVE RESUME", "BACKGROUND SUSPEND", "BACKGROUND TERMINATE"]
    assert [f"STATE {each}" for each in told] == spoken(moved, "STATE")
    assert ["SAVED"] * 3 == spoken(moved, "SAVED")


def test_a_burst_of_signals_ends_in_the_stop(bed: Bed) -> None:
    """SIGTSTP, SIGCONT, SIGTSTP and a stop on each other's heels: whatever phase each one meets, the stop wins."""
    hurried = service(bed, "hurried", work_s=1, TimeoutStopSec=60)
    start(hurried)
    pid = hurried.show("MainPID")["MainPID"]

    burst = f"kill -TSTP {pid}; kill -CONT {pid}; kill -TSTP {pid}; systemctl stop {hurried.unit}"
    bed.run("sh", "-c", burst)

    assert ("success", "exited", 0) == ended(hurried.result())
    assert "SAVED" == spoken(hurried, "SAVED")[-1]
    assert "backgrounded: 1 of 1 task finished" == hurried.result().status_text


def test_sigterm_by_hand_becomes_a_real_stop(bed: Bed) -> None:
    """`systemctl kill` alone would leave the unit active: told of the stop, systemd waits, and does not restart it."""
    killed = service(bed, "killed", work_s=4, TimeoutStopSec=3, WatchdogSec=4, Restart="on-failure")
    start(killed)

    killed.kill(signal.SIGTERM)

    assert ("success", "exited", 0) == ended(killed.wait())
    assert killed.result().stopping_s > 3.5
    assert ["SAVED"] == spoken(killed, "SAVED")
    assert {"ActiveState": "inactive", "NRestarts": "0"} == killed.show("ActiveState", "NRestarts")


HURRIED = """
    app = capbg.App("kiosk", grace=300, kill_after=30)

    @app.background_task()
    def save(task):
        time.sleep(2)
        say("LATER")  # than a second behind the first signal
        try:
            time.sleep(int(os.environ["WORK_S"]))
            say("SAVED")
        finally:
            say("TIDY")

    with app:
        say("WORKING")
        idle()
"""


def test_a_second_sigterm_means_hurry(bed: Bed) -> None:
    """A SIGTERM by hand in mid-stop: the task expires now, in 250 s' stead, tidies up, and the unit tells 75."""
    hurried = service(bed, "hurried", HURRIED, work_s=250, TimeoutStopSec="10min")
    start(hurried)
    stop(hurried, wait=False)
    hurried.says("LATER")

    hurried.kill(signal.SIGTERM)

    assert ("exit-code", "exited", 75) == ended(hurried.wait())
    assert ["TIDY"] == spoken(hurried, "SAVED", "TIDY")


def test_a_second_stop_just_waits(bed: Bed) -> None:
    """`systemctl stop` in mid-stop sends no second SIGTERM: nobody is hurried."""
    stopped = service(bed, "stopped", HURRIED, work_s=2, TimeoutStopSec=60)
    start(stopped)
    stop(stopped, wait=False)
    stopped.says("LATER")

    stop(stopped)

    assert ("success", "exited", 0) == ended(stopped.result())
    assert ["SAVED", "TIDY"] == spoken(stopped, "SAVED", "TIDY")
