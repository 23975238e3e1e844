"""What a failed test of a rehearsal leaves is ended: its programs start sessions of their own and ignore much."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _nothing_runs_on(tmp_path: Path) -> Iterator[None]:
    """A rehearsal that is killed leaves its program's children; those of a test have its folder in their command."""
    yield
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(tmp_path) in path.read_bytes().decode(errors="replace"):
                os.kill(int(path.parent.name), signal.SIGKILL)
        except (FileNotFoundError, ProcessLookupError):
            continue
