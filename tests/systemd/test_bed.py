"""The test bed itself: what a box promises to the tests of this folder, and that nothing of it is left."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from .bed import CHECKOUT, RUN, Bed, BedError, BedUnavailableError, Outcome, cgroups, processes, sweep

HERE = Path(__file__).parent

# Tells systemd its status on SIGTERM, and leaves by EX_TEMPFAIL.
POLITE = """
    import os, signal, socket, sys

    def stop(*_):
        systemd.sendto(b"STATUS=2 of 3 tasks saved", os.environ["NOTIFY_SOCKET"])
        sys.exit(75)

    systemd = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    signal.signal(signal.SIGTERM, stop)
    systemd.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
    while True:
        signal.pause()
"""

# Boots a box, says its name, and stays until a signal comes.
RUN_TO_INTERRUPT = f"""
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit it ignored
sys.path.insert(0, {str(HERE)!r})
from bed import Bed
with Bed() as box:
    print(box.name, flush=True)
    while True:
        signal.pause()
"""


def mounts(name: str) -> list[str]:
    """The mounts of a box, in whatever mount namespace."""
    found = []
    for table in Path("/proc").glob("[0-9]*/mountinfo"):
        try:
            found += [line for line in table.read_text().splitlines() if name in line]
        except OSError:  # the process has ended
            continue
    return found


def traces(name: str) -> list[object]:
    """What is left of a box, but for its processes."""
    return [*mounts(name), *(path for path in (RUN / name, cgroups() / name) if path.exists())]


@contextmanager
def pidfds(name: str) -> Iterator[list[int]]:
    """Hold all processes of a box by pidfd: unlike their pids, these cannot come to mean somebody else."""
    with ExitStack() as stack:
        held = []
        for pid in processes(name):
            try:
                held.append(os.pidfd_open(pid))
            except ProcessLookupError:
                continue
            stack.callback(os.close, held[-1])
        yield held


def survives(pidfd: int) -> bool:
    """Is the process still there after a time in which any killed one ends?

    A process leaves its cgroup shortly before its pidfd tells its end: with no time at all this is a race.
    """
    watched = select.poll()
    watched.register(pidfd, select.POLLIN)
    return not watched.poll(60_000)


def test_a_box_has_finished_booting(bed: Bed) -> None:
    """A box is handed over booted, with the real systemd as its PID 1."""
    state = bed.run("systemctl", "is-system-running", check=False).stdout.strip()

    assert state in ("running", "degraded")
    assert bed.run("cat", "/proc/1/comm").stdout == "systemd\n"


def test_a_result_is_readable_after_a_clean_stop(bed: Bed) -> None:
    """Result, exit status and status text of a service outlast its clean stop, and a reload."""
    service = bed.python_service("polite", POLITE, Type="notify", SuccessExitStatus=75)
    service.start()

    stopped = service.stop()
    bed.systemctl("daemon-reload")

    assert stopped == service.result()
    assert stopped == Outcome("success", "inactive", "exited", 75, "2 of 3 tasks saved", stopped.stopping_s)
    assert stopped.stopping_s > 0


def test_a_service_that_dies_is_seen_to_die(bed: Bed) -> None:
    """Waiting for a service's end tells which signal killed it."""
    service = bed.python_service("doomed", "import signal\nprint('here', flush=True)\nsignal.pause()")
    service.start()
    service.says("here")

    service.kill(signal.SIGKILL)
    ended = service.wait()

    assert (ended.result, ended.state, ended.code, ended.status) == ("signal", "failed", "killed", 9)


def test_a_failing_start_tells_why(bed: Bed) -> None:
    """A start that fails raises with what the service has said."""
    service = bed.python_service("broken", "raise SystemExit('no such kiosk')", Type="notify")

    with pytest.raises(BedError, match="no such kiosk"):
        service.start()


def test_a_service_runs_this_interpreter_and_this_checkout(bed: Bed) -> None:
    """Even an unprivileged service runs our interpreter, and sees our very files, not yesterday's copy."""
    paths = [sys.prefix, sys.base_prefix, str(CHECKOUT)]
    stats = [(path, os.stat(path)) for path in paths if not path.startswith("/usr")]
    files = [(path, stat.st_dev, stat.st_ino) for path, stat in stats]
    service = bed.python_service(
        "seeing",
        f"""
        import os, sys
        assert (sys.prefix, sys.base_prefix) == {(sys.prefix, sys.base_prefix)!r}
        assert os.getuid() != 0
        for path, *expected in {files!r}:
            assert [os.stat(path).st_dev, os.stat(path).st_ino] == expected, path
        """,
        Type="oneshot",
        User="nobody",
    )

    service.start()

    assert service.result().result == "success"


def test_clear_takes_away_what_a_test_left_running(bed: Bed) -> None:
    """A service that no stop can move and that is always restarted is gone, and forgotten, after `clear`."""
    service = bed.python_service(
        "stubborn",
        "import signal\nprint('deaf', flush=True)\nsignal.pause()",
        KillSignal="SIGCONT",
        TimeoutStopSec="infinity",
        Restart="always",
        RestartSec=0,
    )
    service.start()
    service.says("deaf")

    told = bed.clear()

    assert "deaf" in told
    assert service.show("LoadState", "ActiveState") == {"LoadState": "not-found", "ActiveState": "inactive"}


def test_two_boxes_live_side_by_side(bed: Bed) -> None:
    """Two boxes at once are two machines, each with units, processes and a scratch directory of its own."""
    service = bed.python_service("mine", "import signal; signal.pause()")
    service.start()

    with Bed() as other:
        assert other.scratch != bed.scratch
        assert not set(processes(bed.name)) & set(processes(other.name))
        assert other.show(service.unit, "LoadState") == {"LoadState": "not-found"}
        other.poweroff()

    assert service.result().state == "active"


def test_files_outlive_a_poweroff(own_bed: Bed) -> None:
    """What a service saves when the machine is shut down can be read with the box off; so can the journal."""
    saved = own_bed.scratch / "saved"
    service = own_bed.python_service(
        "saving",
        f"""
        import pathlib, signal
        signal.signal(signal.SIGTERM, lambda *_: pathlib.Path({str(saved)!r}).write_text("all of it"))
        print("ready", flush=True)
        signal.pause()
        """,
    )
    service.start()
    service.says("ready")

    own_bed.poweroff()

    assert not own_bed.running
    assert saved.read_text() == "all of it"
    assert any("Deactivated successfully" in entry["MESSAGE"] for entry in service.journal())
    with pytest.raises(BedError, match="the box is off"):
        own_bed.systemctl("status")


def test_a_closed_box_leaves_nothing(shared_bed: Bed) -> None:
    """After its block a box with a running service has no process, mount, cgroup or directory left."""
    with ExitStack() as stack:
        with Bed() as box:
            box.python_service("busy", "while True: pass").start()
            held = stack.enter_context(pidfds(box.name))
            assert len(held) >= 4  # nspawn, systemd, journald, the service
            assert len(traces(box.name)) > 2
        assert not [pidfd for pidfd in held if survives(pidfd)]
        assert traces(box.name) == []


def test_a_box_that_cannot_boot_leaves_nothing(shared_bed: Bed) -> None:
    """A boot that exceeds its deadline is given up with a reason, and swept away."""
    box = Bed(boot_deadline_s=0)

    with pytest.raises(BedUnavailableError, match="did not boot in 0 s"), box:
        pass

    assert traces(box.name) == []


def test_a_forked_child_cannot_close_the_box(bed: Bed) -> None:
    """A child forked from the test that runs into the fixtures' cleanup leaves its parent's box alone."""
    child = os.fork()
    if child == 0:
        try:
            bed.close()
        finally:
            os._exit(0)
    os.waitpid(child, 0)

    assert bed.run("true").returncode == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_run_leaves_nothing_once_swept(shared_bed: Bed, number: signal.Signals) -> None:
    """Whatever signal ends a run, the kernel ends its box, and the next run's sweep removes the rest."""
    command = [sys.executable, "-c", RUN_TO_INTERRUPT]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as run:
        assert run.stdout is not None
        name = run.stdout.readline().strip()
        try:
            with pidfds(name) as held:
                assert len(held) >= 3  # nspawn, systemd, journald

                run.send_signal(number)
                # Not reaped before the sweep: where nobody reaps orphans, a dead owner stays a zombie.
                os.waitid(os.P_PID, run.pid, os.WEXITED | os.WNOWAIT)

                assert not [pidfd for pidfd in held if survives(pidfd)]
            assert mounts(name) == []
            if number is not signal.SIGINT:  # a KeyboardInterrupt closes the box on its way out
                sweep()
            assert traces(name) == []
        finally:
            run.kill()


def test_the_sweep_spares_the_living(bed: Bed) -> None:
    """Sweeping does not touch a box whose owner runs."""
    sweep()

    assert bed.run("true").returncode == 0
    assert bed.scratch.is_dir()


@pytest.mark.parametrize(("required", "word"), [("0", "1 skipped"), ("1", "1 error")])
def test_without_systemd_tests_skip_or_fail(required: str, word: str) -> None:
    """Where no box can boot, tests skip and say why; with CAPBG_REQUIRE_SYSTEMD=1 they fail and say why."""
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-rs",
            "-p",
            "no:randomly",
            f"{__file__}::test_a_box_has_finished_booting",
        ],
        cwd=CHECKOUT,
        env={"PATH": "/nonexistent", "CAPBG_REQUIRE_SYSTEMD": required},
        check=False,
        capture_output=True,
        text=True,
    )

    assert word in run.stdout
    assert "systemd-nspawn" in run.stdout or "needs root" in run.stdout
