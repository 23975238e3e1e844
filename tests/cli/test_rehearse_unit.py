"""``capbg rehearse --unit``: a unit file is played, what is given beside it counts, and what is not played is said."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.probe import Launcher, Probe

PROGRAM = """
import os, sys, capbg, json, time
app = capbg.App("played")
app.background_task()(lambda: print("SAVED", flush=True))
with app:
    print(json.dumps([sys.argv[1:], app.grace, os.environ.get("WATCHDOG_USEC")]), flush=True)
    while True:
        app.heartbeat()
        time.sleep(0.02)
"""


def unit(folder: Path, *settings: str) -> Path:
    """Write a unit that runs the program."""
    program = folder / "program.py"
    program.write_text(PROGRAM)
    path = folder / "played.service"
    start = f"ExecStart={sys.executable} {program} ${{ONE}} $TWO %N 100%%"
    path.write_text("\n".join(["[Service]", start, *settings, ""]))
    return path


def rehearse(launch: Launcher, path: Path, *options: str) -> tuple[Probe, dict[str, Any]]:
    """Rehearse the unit; return the finished command and its report."""
    command = [sys.executable, "-m", "capbg.cli", "rehearse", "--json", "--after", "0.1", "--unit", str(path)]
    probe = launch.start([*command, *options])
    probe.wait(patience=120)
    assert probe.lines, probe.stderr
    report: dict[str, Any] = json.loads("\n".join(probe.lines))
    return probe, report


def test_a_unit_is_played(launch: Launcher, tmp_path: Path) -> None:
    """Its command, environment and settings are; a drop-in counts; User= is not, and that is told."""
    path = unit(
        tmp_path,
        *("Type=notify", "KillMode=mixed", "TimeoutStopSec=1min", "WatchdogSec=30", "SuccessExitStatus=75 TEMPFAIL 3"),
        *('Environment=CAPBG_GRACE=7 "ONE=a b" "TWO=c d"', "KillSignal=SIGINT", "User=nobody", "LimitNOFILE=99"),
        "EnvironmentFile=-/no/such/file",
    )
    (tmp_path / "played.service.d").mkdir()
    (tmp_path / "played.service.d/stop.conf").write_text("[Service]\nTimeoutStopSec=50\n")

    probe, report = rehearse(launch, path)

    assert (0, True) == (probe.process.returncode, report["passed"]), probe.lines
    printed = [entry["text"] for entry in report["entries"] if entry["who"] == "program"]
    assert [["a b", "c", "d", "played", "100%"], 7.0, "30000000"] == json.loads(printed[0])
    assert "SAVED" in printed
    settings = report["settings"]
    assert ("notify", "main", "mixed", 50.0, 30.0) == tuple(
        settings[key] for key in ("type", "notify_access", "kill_mode", "timeout_stop", "watchdog")
    )
    assert [3, 75] == settings["success_statuses"]
    assert "SIGINT" == report["signals"][0]["signal"]
    assert f"not played of {path}: User=, LimitNOFILE=, EnvironmentFile=" in probe.stderr


def test_what_is_given_beside_a_unit_counts(launch: Launcher, tmp_path: Path) -> None:
    """An option goes before the unit's setting; what is not given stays the unit's."""
    path = unit(tmp_path, "Type=notify", "KillMode=mixed", "TimeoutStopSec=50")

    _, report = rehearse(launch, path, "--stop-timeout", "20")

    assert (20.0, "mixed") == (report["settings"]["timeout_stop"], report["settings"]["kill_mode"])
    assert report["passed"]


def test_a_signal_of_the_units_own_is_told_by_its_name(launch: Launcher, tmp_path: Path) -> None:
    """KillSignal=SIGUSR1, and a program that does not catch it."""
    path = unit(tmp_path, "Type=notify", "KillMode=mixed", "KillSignal=SIGUSR1")

    _, report = rehearse(launch, path, "--type", "exec", "--", "sleep", "60")

    assert "signal" == report["result"]
    assert report["advice"][0]["fault"].startswith("SIGUSR1 is not caught"), report["advice"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("Type=forking",), "is Type=forking: a rehearsal plays notify, exec and simple"),
        (("ExecStart=",), "is Type=oneshot: a rehearsal plays"),
        (
            ("Type=exec", "KillSignal=SIGRTMIN+3"),
            "has KillSignal=SIGRTMIN+3: a rehearsal plays the signals up to SIGSYS",
        ),
        (("Type=exec", "ExecStart=", "ExecStart=bin/relative"), "has no ExecStart= that systemd would take"),
    ],
)
def test_a_unit_that_cannot_be_played_is_refused(
    launch: Launcher, tmp_path: Path, settings: tuple[str, ...], said: str
) -> None:
    """Exit status 2, and a sentence that says why."""
    path = unit(tmp_path, *settings)

    probe = launch.start([sys.executable, "-m", "capbg.cli", "rehearse", "--unit", str(path)])

    assert 2 == probe.wait()
    assert said in probe.stderr
    assert [] == probe.lines
