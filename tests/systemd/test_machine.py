"""What surrounds a service: the machine goes down, the parent is killed, nobody listens, another systemd manages it."""

import signal
import sys
import textwrap
from typing import Any

import pytest

from tests.probe import PREAMBLE

from .bed import Bed
from .programs import WORKING, await_gone, ended, process_gone, service, spoken, start, stop

SAVING = """
    def keep(text):
        # To a file: at the end of a shutdown nobody reads our output any more.
        with open(os.environ["KEPT"], "a") as kept:
            kept.write(text + "\\n")

    app = capbg.App("kiosk", grace=120, kill_after=30)

    @app.background_task()
    def save(task):
        time.sleep(2)
        keep("at work")
        try:
            time.sleep(int(os.environ["WORK_S"]))
            keep("saved")
        except capbg.TaskExpired:
            keep("cut short")
            raise

    try:
        with app:
            say("WORKING")
            idle()
    except SystemExit as leaving:
        keep(f"left with {leaving.code}")
        raise
"""
"""A program that keeps a record of its stop in a file, and works for 2 s and ``WORK_S`` more."""


def test_a_poweroff_waits_for_the_work(own_bed: Bed) -> None:
    """`systemctl poweroff` with TimeoutStopSec=3 and 4 s of work: the machine goes off behind the work."""
    kept = own_bed.scratch / "kept"
    saving = service(own_bed, "saving", SAVING, work_s=2, TimeoutStopSec=3, Environment=[f"KEPT={kept}"])
    start(saving)

    own_bed.poweroff()

    assert "at work\nsaved\nleft with 0\n" == kept.read_text()
    assert f"{saving.unit}: Deactivated successfully." in [entry["MESSAGE"] for entry in saving.journal()]


def test_work_outlives_the_notify_socket(own_bed: Bed) -> None:
    """When systemd gives way to systemd-shutdown, socket and output vanish, in mid-stop too: work is done or tidied up.

    That is `poweroff --force`, and what every poweroff comes to after 30 minutes: SIGTERM to all processes, and nobody
    listens any more. To a service in mid-stop this is the second SIGTERM: hurry.
    """
    kept, kept_in_stop = own_bed.scratch / "kept", own_bed.scratch / "kept-in-stop"
    saving = service(own_bed, "saving", SAVING, work_s=1, TimeoutStopSec=60, Environment=[f"KEPT={kept}"])
    stopped = service(own_bed, "stopped", SAVING, work_s=99, TimeoutStopSec=60, Environment=[f"KEPT={kept_in_stop}"])
    start(saving, stopped)
    stop(stopped, wait=False)
    own_bed.wait_for(kept_in_stop.exists, "the stop, more than a second ago")

    own_bed.run("systemctl", "poweroff", "--force", check=False)
    own_bed.wait_off()

    assert "at work\nsaved\nleft with 0\n" == kept.read_text()
    assert "at work\ncut short\nleft with 75\n" == kept_in_stop.read_text()


@pytest.mark.parametrize("mode", ["mixed", "process"])
def test_no_worker_survives_its_killed_parent(bed: Bed, mode: str) -> None:
    """SIGKILL to the parent in mid-grace: its workers end with it, also where systemd leaves that to the kernel."""
    source = """
    app = capbg.App("kiosk", grace=300)

    @app.background_task()
    def quiet(task):
        say("PID", os.getpid())
        time.sleep(250)

    @app.background_task()
    def busy(task):
        say("PID", os.getpid())
        while True:
            pass

    with app:
        say("WORKING")
        idle()
    """
    orphaning = service(bed, "orphaning", source, KillMode=mode, TimeoutStopSec="10min")
    start(orphaning)
    stop(orphaning, wait=False)
    bed.wait_for(lambda: len(spoken(orphaning, "PID")) == 2, "both workers")
    workers = [line.split()[1] for line in spoken(orphaning, "PID")]
    assert not any(process_gone(bed, pid) for pid in workers)

    orphaning.kill(signal.SIGKILL)

    assert ("signal", "killed", signal.SIGKILL) == ended(orphaning.wait())
    await_gone(bed, workers)


def test_without_a_notify_socket_everything_else_works(bed: Bed) -> None:
    """NotifyAccess=none: systemd gives no socket; within TimeoutStopSec= the stop is the same, but for the status."""
    source = 'say("SOCKET", os.environ.get("NOTIFY_SOCKET"))\n' + textwrap.dedent(WORKING)
    settings: dict[str, Any] = {"Type": "exec", "NotifyAccess": "none", "TimeoutStopSec": 60}
    unheard = service(bed, "unheard", source, work_s=2, **settings)
    start(unheard)

    stop(unheard)

    assert ("success", "exited", 0) == ended(unheard.result())
    assert ["SOCKET None", "SAVED"] == spoken(unheard, "SOCKET", "SAVED")
    assert "" == unheard.result().status_text


def test_a_user_service_is_waited_for_but_not_by_the_machine(own_bed: Bed) -> None:
    """`systemctl --user stop` is kept waiting; the end of the user's systemd is not: its TimeoutStopSec= is the cap."""
    kept = own_bed.scratch / "kept"
    program = own_bed.scratch / "user.py"
    program.write_text(PREAMBLE + textwrap.dedent(SAVING))
    units = own_bed.root / "etc/systemd/user"
    for name, work_s in (("short", 2), ("long", 99)):
        (units / f"{name}.service").write_text(
            f"[Service]\nType=notify\nKillMode=mixed\nTimeoutStopSec=3\nExecStart={sys.executable} -u {program}\n"
            f"Environment=WORK_S={work_s} KEPT={kept}-{name}\n"
        )
    # Without PAM's module nobody else sets the variable.
    own_bed.unit("user@0.service.d/bed.conf", "[Service]\nEnvironment=XDG_RUNTIME_DIR=/run/user/%i\nTimeoutStopSec=2\n")
    own_bed.start("user@0.service")
    manager = ("env", "XDG_RUNTIME_DIR=/run/user/0", "systemctl", "--user")
    own_bed.run(*manager, "start", "short.service", "long.service")

    own_bed.run(*manager, "stop", "short.service")
    own_bed.stop("user@0.service")

    assert "at work\nsaved\nleft with 0\n" == (own_bed.scratch / "kept-short").read_text()
    assert "timeout" == own_bed.show("user@0.service", "Result")["Result"]
    kept_long = own_bed.scratch / "kept-long"
    assert not kept_long.exists() or "at work\n" == kept_long.read_text()
