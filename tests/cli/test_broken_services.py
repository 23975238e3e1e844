"""Five services that are broken in the ways services are: the rehearsal names each fault, and its mend."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.probe import Launcher, clean_environment

BROKEN = Path(__file__).resolve().parents[2] / "examples/broken"

MENDS: dict[str, tuple[list[str], str, str]] = {
    "shell_wrapper.sh": (
        ["--type", "exec", "--kill-mode", "mixed"],
        "The main process is a shell",
        "`exec` in front of its last command",
    ),
    "no_handlers.py": (["--type", "exec"], "SIGTERM is not caught", "Catch SIGTERM with a capbg.App"),
    "ignores_sigterm.py": (["--type", "exec"], "SIGTERM is ignored", "Take the signal's SIG_IGN out"),
    "extends_too_late.py": (["--type", "notify"], "It extended too late", "Send each while the one before has"),
    "child_hangs.py": (["--type", "exec"], "A child hangs", "Wait for children with a limit"),
}
"""File name: how to rehearse it, and what begins the fault and the mend."""


def rehearse(launch: Launcher, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Rehearse a command; return the exit status and the report."""
    path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    env = {**clean_environment(), "PATH": path}
    probe = launch.start([sys.executable, "-m", "capbg.cli", "rehearse", "--json", *arguments], env=env)
    status = probe.wait(patience=120)
    assert probe.lines, probe.stderr
    report: dict[str, Any] = json.loads("\n".join(probe.lines))
    return status, report


@pytest.mark.parametrize("name", MENDS)
def test_a_broken_service_is_named_with_its_mend(launch: Launcher, tmp_path: Path, name: str) -> None:
    """Exit status 1; the first advice is the fault's own, with what to do."""
    options, fault, mend = MENDS[name]
    program = [str(BROKEN / name)] if name.endswith(".sh") else [sys.executable, str(BROKEN / name)]
    stop = ["--stop-timeout", "2"] if name == "child_hangs.py" else ["--stop-timeout", "3"]

    # The start of an interpreter on a busy machine takes a while, and nothing tells when it is done.
    status, report = rehearse(launch, *options, *stop, "--after", "2.5", "--", "env", f"TMPDIR={tmp_path}", *program)

    assert (1, False) == (status, report["passed"])
    assert report["lost"]
    assert report["advice"], report
    first = report["advice"][0]
    assert first["fault"].startswith(fault), report["advice"]
    assert mend in first["mend"], report["advice"]


def test_a_service_in_good_order_passes_without_a_word(launch: Launcher, tmp_path: Path) -> None:
    """A capbg program whose task finishes: exit status 0, nothing lost, no advice."""
    program = tmp_path / "good.py"
    program.write_text(
        "import time, capbg\n"
        "app = capbg.App('good', grace=30)\n"
        "app.background_task()(lambda: None)\n"
        "with app:\n    while True:\n        time.sleep(0.02)\n"
    )

    status, report = rehearse(launch, "--kill-mode", "mixed", "--", sys.executable, str(program))

    assert (0, True, [], []) == (status, report["passed"], report["lost"], report["advice"])
    assert [("finished", "")] == [(task["state"], task["message"]) for task in report["tasks"]]
