"""systemd as the referee: what capbg tells it is worth what a real one makes of it."""

import signal
from typing import Any

import pytest

from .bed import Bed, Service

KIOSK = """
import os, time
import capbg

if os.environ.get("SILENT"):
    del os.environ["NOTIFY_SOCKET"]  # the same program, but systemd hears nothing of it

app = capbg.App("kiosk", grace=30, kill_after=2)

@app.background_task()
def save(task):
    for second in range(8):
        task.progress(second, 8)
        time.sleep(1)
    os.write(1, b"SAVED\\n")

with app:
    os.write(1, b"WORKING\\n")
    while True:
        time.sleep(0.05)
"""


def _unit(bed: Bed, name: str, source: str = KIOSK, **settings: Any) -> Service:
    return bed.python_service(name, source, KillMode="mixed", NotifyAccess="main", **settings)


def test_work_beyond_the_stop_timeout_is_finished(bed: Bed) -> None:
    """TimeoutStopSec=3 and a task of 8 s: systemd is kept waiting, the task finishes, Result=success."""
    service = _unit(bed, "kiosk", Type="notify", TimeoutStopSec=3)
    service.start()
    service.says("WORKING")
    outcome = service.stop()

    assert ("success", "exited", 0) == (outcome.result, outcome.code, outcome.status)
    assert outcome.stopping_s > 7
    assert "SAVED" in service.output()
    assert "backgrounded: 1 of 1 task finished" == outcome.status_text


def test_the_same_unit_without_the_messages_is_killed(bed: Bed) -> None:
    """The same program and unit, but systemd hears nothing: Result=timeout, and the work is lost."""
    service = _unit(bed, "silent", Type="exec", TimeoutStopSec=3, Environment=["SILENT=1"])
    service.start()
    service.says("WORKING")
    outcome = service.stop()

    assert ("timeout", "killed", signal.SIGKILL) == (outcome.result, outcome.code, outcome.status)
    assert "SAVED" not in service.output()


@pytest.mark.parametrize(("clean", "result"), [("75", "success"), ("", "exit-code")])
def test_a_task_that_hangs_is_left_behind_and_told(bed: Bed, clean: str, result: str) -> None:
    """A hanging task is killed on time; the unit fails with status 75, or is clean where 75 counts as success."""
    source = """
    import os, time
    import capbg

    app = capbg.App("kiosk", grace=30, kill_after=1)

    @app.background_task()
    def save(task):
        os.write(1, b"SAVED\\n")

    @app.background_task(deadline=1)
    def hang(task):
        while True:
            try:
                time.sleep(60)
            except BaseException:
                pass

    with app:
        os.write(1, b"WORKING\\n")
        while True:
            time.sleep(0.05)
    """
    service = _unit(bed, "hanging", source, Type="notify", TimeoutStopSec=60, SuccessExitStatus=clean)
    service.start()
    service.says("WORKING")
    outcome = service.stop()

    assert (result, "exited", 75) == (outcome.result, outcome.code, outcome.status)
    assert "SAVED" in service.output()
    assert "backgrounded: 1 of 2 tasks finished" == outcome.status_text


def test_a_suspended_service_stays_active_under_a_watchdog_and_stops_cleanly(bed: Bed) -> None:
    """SIGTSTP with WatchdogSec=2: silent for longer than that and still active; then a stop finishes the task."""
    source = """
    import os, time
    import capbg

    app = capbg.App("kiosk", grace=30)
    app.background_task()(lambda: os.write(1, b"SAVED\\n"))

    with app:
        os.write(1, b"WORKING\\n")
        while True:
            app.heartbeat()
            time.sleep(0.05)
    """
    service = _unit(bed, "suspended", source, Type="notify", TimeoutStopSec=60, WatchdogSec=2)
    service.start()
    service.says("WORKING")
    service.kill(signal.SIGTSTP)
    service.says("SAVED")
    bed.wait_for(lambda: service.show("StatusText")["StatusText"].startswith("suspended"), "the suspension")
    bed.run("sleep", "5")  # the subject of this test is a silence, and that is nothing one could wait for
    assert "active" == service.show("ActiveState")["ActiveState"]
    outcome = service.stop()

    assert ("success", "exited", 0) == (outcome.result, outcome.code, outcome.status)
    assert ["SAVED", "SAVED"] == [line for line in service.output() if line == "SAVED"]


def test_workers_survive_the_default_kill_mode(bed: Bed) -> None:
    """KillMode=control-group sends SIGTERM to the workers, too: they are not ended by it."""
    service = bed.python_service("group", KIOSK, Type="notify", KillMode="control-group", TimeoutStopSec=60)
    service.start()
    service.says("WORKING")
    outcome = service.stop()

    assert ("success", "exited", 0) == (outcome.result, outcome.code, outcome.status)
    assert "SAVED" in service.output()
