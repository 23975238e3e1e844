"""A display without a screen, for the toolkits that need one."""

import os
import select
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.loops import needs
from tests.probe import PATIENCE_S


@pytest.fixture
def display(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An X server of the test's own, on a display that was free; yields the environment that names it."""
    ours, theirs = os.pipe()
    # It takes the next free display and writes its number when it listens. Without -noreset it would begin anew
    # whenever its last client leaves, and the next one might come in the middle of that.
    command = [needs.command("Xvfb"), "-displayfd", str(theirs), "-screen", "0", "800x600x24"]
    with (tmp_path / "xvfb.txt").open("wb") as log:
        server = subprocess.Popen(
            [*command, "-nolisten", "tcp", "-noreset"],
            pass_fds=[theirs],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    os.close(theirs)
    try:
        yield {"DISPLAY": f":{_number(ours, tmp_path / 'xvfb.txt')}"}
    finally:
        os.close(ours)
        server.terminate()  # it takes its socket in /tmp/.X11-unix away
        try:
            server.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _number(fd: int, log: Path) -> str:
    told = b""
    while not told.endswith(b"\n"):
        ready, _, _ = select.select([fd], [], [], PATIENCE_S)
        data = os.read(fd, 64) if ready else b""
        assert data, f"Xvfb does not come up: {log.read_text(errors='replace')}"
        told += data
    return told.decode().strip()
