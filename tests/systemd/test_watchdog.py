"""WatchdogSec=: what hangs is found out, in the active phase and in a stop; what works, or sleeps, is left alone."""

import signal
from typing import Any

from .bed import Bed
from .programs import LONG, await_gone, await_suspended, ended, service, spoken, start, stop

SILENCE_S = 60 if LONG else 6

BY_HEARTBEAT = """
    mark = os.environ["MARK"]
    first = not os.path.exists(mark)
    open(mark, "w").close()
    app = capbg.App("kiosk")
    with app:
        say("WORKING")
        began = time.monotonic()
        while time.monotonic() < began + 5 or not first:
            app.heartbeat()
            time.sleep(0.05)
        say("HANGING")
        idle()
"""
"""The first instance works for longer than its watchdog's interval, then its main loop hangs. The second works on."""

BY_TURNS = """
    import select
    app = capbg.App("kiosk")
    with app:
        say("WORKING")
        poller = select.poll()
        poller.register(app.fileno(), select.POLLIN)
        began = time.monotonic()
        told = False
        while True:
            poller.poll()
            app.pump()
            if time.monotonic() > began + 8 and not told:
                told = True
                say("HEALTHY")
"""


def test_a_main_loop_that_hangs_is_restarted_by_the_watchdog(bed: Bed) -> None:
    """The heartbeat ceases, and the watchdog restarts the service; an idle event loop feeds it by its turns alone."""
    mark = bed.scratch / "first-instance"
    hanging = service(bed, "hanging", BY_HEARTBEAT, WatchdogSec=4, Restart="on-failure", Environment=[f"MARK={mark}"])
    turning = service(bed, "turning", BY_TURNS, WatchdogSec=6)
    start(hanging, turning)

    bed.wait_for(lambda: spoken(hanging, "WORKING") == ["WORKING", "WORKING"], "the restart")
    turning.says("HEALTHY")

    said = [entry["MESSAGE"] for entry in hanging.journal()]
    assert f"{hanging.unit}: Failed with result 'watchdog'." in said[said.index("HANGING") :]
    assert {"ActiveState": "active", "NRestarts": "1"} == hanging.show("ActiveState", "NRestarts")
    assert {"ActiveState": "active", "NRestarts": "0"} == turning.show("ActiveState", "NRestarts")


HUNG = """
    app = capbg.App("kiosk", grace=300)

    @app.background_task()
    def slow(task):
        say("STARTED", os.getpid())
        time.sleep(250)

    @app.background_task()
    def quick(task):
        pass

    if os.environ["LISTENER"] == "hangs":
        app.add_listener("taskSettled", lambda result: idle())

    with app:
        say("WORKING")
        while True:
            app.heartbeat()
            time.sleep(0.05)
"""

CLEANING = """
    app = capbg.App("kiosk")
    try:
        with app:
            say("WORKING")
            while True:
                app.heartbeat()
                time.sleep(0.05)
    finally:
        began = time.monotonic()
        while time.monotonic() < began + 12:
            time.sleep(0.1)
        say("CLEAN")
"""

LINGERING = """
    app = capbg.App("kiosk", grace=1, kill_after=0.5)

    @app.background_task()
    def save(task):
        pass

    try:
        with app:
            say("WORKING")
            idle()
    finally:
        say("CLEANING")
        idle()
"""


def test_a_supervisor_that_hangs_in_a_stop_is_not_waited_for(bed: Bed) -> None:
    """TimeoutStopSec=10min: the watchdog ends it within seconds, but not a program that cleans up behind its tasks.

    Without a watchdog it ends when the last extension and TimeoutStopSec= have run out, and so does a program whose
    tasks are settled and that does not leave: nothing is extended for that. No worker outlives any of them.
    """
    watched: dict[str, Any] = {"WatchdogSec": 5, "TimeoutStopSec": "10min"}
    hung = service(bed, "hung", HUNG, Environment=["LISTENER=hangs"], **watched)
    halted = service(bed, "halted", HUNG, Environment=["LISTENER=none"], **watched)
    unwatched = service(bed, "unwatched", HUNG, Environment=["LISTENER=hangs"], TimeoutStopSec=3)
    cleaning = service(bed, "cleaning", CLEANING, **watched)
    lingering = service(bed, "lingering", LINGERING, TimeoutStopSec=3)
    start(hung, halted, unwatched, cleaning, lingering)
    stop(hung, halted, unwatched, cleaning, lingering, wait=False)
    workers = [each.says("STARTED").split()[1] for each in (hung, halted, unwatched)]

    halted.kill(signal.SIGSTOP)

    assert ("watchdog", "killed", signal.SIGABRT) == ended(hung.wait())
    assert ("watchdog", "killed", signal.SIGABRT) == ended(halted.wait())
    assert ("timeout", "killed", signal.SIGKILL) == ended(unwatched.wait())
    assert ("success", "exited", 0) == ended(cleaning.wait())
    assert ["CLEAN"] == spoken(cleaning, "CLEAN")
    assert ("timeout", "killed", signal.SIGKILL) == ended(lingering.wait())
    assert ["CLEANING"] == spoken(lingering, "CLEANING")
    await_gone(bed, workers)


def test_a_suspension_is_silent_and_the_watchdog_is_back_behind_it(bed: Bed) -> None:
    """WatchdogSec=2 lets a suspended service sleep for as long as it likes; resumed, it has to feed the dog again."""
    source = """
    app = capbg.App("kiosk", grace=30)

    with app:
        say("WORKING")
        os.kill(os.getpid(), signal.SIGTSTP)  # before a watchdog of 2 s could bite a loaded machine
        idle()
    """
    suspended = service(bed, "suspended", source, WatchdogSec=2, TimeoutStopSec=60)
    start(suspended)
    await_suspended(suspended)

    bed.run("sleep", str(SILENCE_S))  # the subject is a silence: there is nothing to wait for
    still = suspended.show("ActiveState", "SubState", "NRestarts")
    suspended.kill(signal.SIGCONT)

    assert {"ActiveState": "active", "SubState": "running", "NRestarts": "0"} == still
    assert ("watchdog", "killed", signal.SIGABRT) == ended(suspended.wait())
    assert "active" == suspended.result().status_text  # sent with the watchdog's return, and never before the resume
