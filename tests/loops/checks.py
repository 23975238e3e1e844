"""What every loop of a toolkit in C has to do, checked in the same way for each."""

import signal
import time
from pathlib import Path

import pytest

from tests.loops import kits
from tests.loops.kits import Kit
from tests.notify_socket import NotifySocket
from tests.probe import Launcher, process_state


def check_life(kit: Kit, launch: Launcher, folder: Path, env: dict[str, str]) -> None:
    """Woken while idle in C; painted while the worker runs; suspended, resumed, stopped, left by its own frames."""
    program = kit.start(launch, folder, kits.LIVES, str(folder), env=env)
    for number, (signum, reason) in enumerate([(signal.SIGTSTP, "SUSPEND"), (signal.SIGTERM, "TERMINATE")], 1):
        if number == 1:
            program.expect("READY")
        program.wait_until(lambda: process_state(program.pid) == "S")
        sent = time.monotonic()
        program.send(signum)
        active, why, heard = program.expect("STATE").split()
        assert ("False", reason) == (active, why)
        print(f"{kit.name}: {why} heard after {1000 * (float(heard) - sent):.1f} ms")
        assert 10 > float(heard) - sent  # nothing else would ever have woken it
        program.expect(f"WORKER {number}")
        painted = int(program.expect("PAINTED"))
        print(f"{kit.name}: painted {painted} times while the worker ran")
        assert 10 <= painted  # of 120 times it was wished for, or of some 40 frames
        (folder / f"go{number}").touch()
        if number == 1:
            program.wait_stopped()
            program.send(signal.SIGCONT)
            assert program.expect("STATE").startswith("True RESUME")
    program.expect("LEFT THE LOOP")
    longest = float(program.expect("CLEANED UP"))
    print(f"{kit.name}: the longest turn took {1000 * longest:.1f} ms")
    assert 2 > longest
    assert {"work": "FINISHED"} == program.report()["outcomes"]
    assert 0 == program.wait(), program.stderr


def check_early(kit: Kit, launch: Launcher, folder: Path, env: dict[str, str]) -> None:
    """It leaves though its loop was asked to end before it ran, with the status for a task that was not finished."""
    program = kit.start(launch, folder, kits.EARLY, env=env)
    program.expect("ASKED TOO EARLY")
    assert "True" == program.expect("LEFT")
    assert 75 == program.wait(), program.stderr


def check_watchdog(kit: Kit, launch: Launcher, folder: Path, env: dict[str, str], notify_socket: NotifySocket) -> None:
    """Pings come from an idle loop, and none from one that hangs."""
    service = {**env, **notify_socket.env, "WATCHDOG_USEC": "400000"}
    program = kit.start(launch, folder, kits.HANGS, env=service)
    program.expect("READY")
    for _ in range(4):
        notify_socket.expect("WATCHDOG", "1")
    program.send(signal.SIGUSR1)
    notify_socket.expect("STATUS", "hung")
    with pytest.raises(AssertionError):
        notify_socket.expect("WATCHDOG", patience=0.8)  # eight pings are due in that time


def check_nothing_is_dropped(kit: Kit, launch: Launcher, folder: Path, env: dict[str, str]) -> None:
    """A descriptor that stays readable starves nobody; errors end the loop and come out; it is left as it was."""
    program = kit.start(launch, folder, kits.DROPS_NOTHING, env=env)
    assert 0 == program.wait(), program.stderr
    assert [
        *("LEFT THE LOOP", "EXIT None"),
        *("LEFT THE LOOP", "EXIT OSError", "RAISED OSError('no turn')"),
        *("LEFT THE LOOP", "EXIT SystemExit", "RAISED SystemExit(3)"),
        *("LEFT THE LOOP", "EXIT LookupError", "RAISED LookupError('no way out')"),
        *("CALLED 2", "UNDISTURBED"),
    ] == program.lines
    assert "cannot be asked to end" in program.stderr


def check_closed(kit: Kit, launch: Launcher, folder: Path, env: dict[str, str]) -> None:
    """The user closes the window in the grace period: the tasks are waited for behind it, the status is theirs."""
    program = kit.start(launch, folder, kits.CLOSED, str(folder / "go"), env=env)
    program.expect("READY")
    program.send(signal.SIGTERM)
    assert "BACKGROUND" == program.expect("WINDOW CLOSED")
    (folder / "go").touch()
    outcomes = program.report()["outcomes"]
    assert "FINISHED" == outcomes["work"]
    assert outcomes["careless"] in {"CRASHED", "FAILED"}  # started behind the loop, and without a display all the same
    assert 75 == program.wait(), program.stderr


def check_touched(kit: Kit, launch: Launcher, folder: Path, env: dict[str, str]) -> None:
    """A worker that uses the display fails alone: the window goes on, and so does the other task."""
    program = kit.start(launch, folder, kits.TOUCHES, str(folder / "go"), env=env)
    program.expect("READY")
    program.send(signal.SIGTERM)
    name, outcome = program.expect("SETTLED").split()
    assert "careless" == name
    assert outcome in {"CRASHED", "FAILED"}, program.stderr
    program.expect("TOUCHED")
    (folder / "go").touch()
    assert "careful FINISHED" == program.expect("SETTLED")
    assert 75 == program.wait(), program.stderr
