"""TimeoutStopSec=: work that goes on within its deadlines is waited for, whatever the unit says."""

from .bed import Bed
from .programs import ended, process_gone, service, spoken, start, stop

STUBBORN = """
    app = capbg.App("kiosk", grace=4, kill_after=2)

    @app.background_task()
    def hang(task):
        while True:
            try:
                time.sleep(60)
            except BaseException:
                say("EXPIRED")

    with app:
        say("WORKING")
        idle()
"""


def test_a_stop_within_at_and_far_beyond_its_timeout_ends_as_the_program_says(bed: Bed) -> None:
    """TimeoutStopSec=3 and work of 1, 3 and 20 s, also under a watchdog: all clean; a task that hangs costs a 75."""
    within = service(bed, "within", work_s=1, TimeoutStopSec=3)
    at = service(bed, "at", work_s=3, TimeoutStopSec=3)
    beyond = service(bed, "beyond", work_s=20, TimeoutStopSec=3)
    watched = service(bed, "watched", work_s=20, TimeoutStopSec=3, WatchdogSec=4)
    stubborn = service(bed, "stubborn", STUBBORN, TimeoutStopSec=3)
    start(within, at, beyond, watched, stubborn)

    stop(within, at, beyond, watched, stubborn)

    for each in (within, at, beyond, watched):
        assert ("success", "exited", 0) == ended(each.result())
        assert ["SAVED"] == spoken(each, "SAVED")
        assert "backgrounded: 1 of 1 task finished" == each.result().status_text
    assert min(beyond.result().stopping_s, watched.result().stopping_s) > 19
    assert ("exit-code", "exited", 75) == ended(stubborn.result())
    assert stubborn.result().stopping_s > 5.5  # its grace period of 4 s, and 2 s until the kill
    assert ["EXPIRED"] == spoken(stubborn, "EXPIRED")


def test_a_reload_in_mid_stop_does_no_harm(bed: Bed) -> None:
    """`daemon-reload` drops extensions: TimeoutStopSec= covers the work by itself, or the next message comes in time.

    Without either, that is once TimeoutStopSec= is over, the timer that the reload brings back has expired already,
    and whether the next message comes before systemd looks at it is a race: no test can tell how that ends.
    """
    covered = service(bed, "covered", work_s=8, TimeoutStopSec=60)
    renewed = service(bed, "renewed", work_s=8, TimeoutStopSec=6)
    start(covered, renewed)
    stop(covered, renewed, wait=False)
    renewed.says("STARTED")

    bed.systemctl("daemon-reload")

    assert ("success", "exited", 0) == ended(covered.wait())
    assert ("success", "exited", 0) == ended(renewed.wait())
    assert renewed.result().stopping_s > 7
    assert ["SAVED"] == spoken(covered, "SAVED") == spoken(renewed, "SAVED")


def test_a_restart_starts_the_new_instance_behind_the_old_ones_work(bed: Bed) -> None:
    """`systemctl restart` with TimeoutStopSec=3: the old instance finishes 4 s of work before the new one starts."""
    restarted = service(bed, "restarted", work_s=4, TimeoutStopSec=3)
    start(restarted)
    old = restarted.show("MainPID")["MainPID"]

    bed.systemctl("restart", restarted.unit)

    bed.wait_for(lambda: len(spoken(restarted, "WORKING")) == 2, "the new instance")
    assert ["WORKING", "STARTED", "SAVED", "WORKING"] == spoken(restarted, "WORKING", "STARTED", "SAVED")
    assert {"ActiveState": "active", "NRestarts": "0"} == restarted.show("ActiveState", "NRestarts")
    assert process_gone(bed, old)
