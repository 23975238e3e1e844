"""The boxes that the tests in this folder run in.

Where no box can boot, the tests skip and say why; with CAPBG_REQUIRE_SYSTEMD=1 in the environment they fail.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from .bed import Bed, BedUnavailableError


@pytest.fixture(scope="session")
def shared_bed() -> Iterator[Bed]:
    """One booted systemd for the whole run (with xdist: for each worker)."""
    with ExitStack() as stack:
        try:
            booted = stack.enter_context(Bed())
        except BedUnavailableError as reason:
            if os.environ.get("CAPBG_REQUIRE_SYSTEMD") == "1":
                pytest.fail(f"CAPBG_REQUIRE_SYSTEMD=1, but no systemd: {reason}", pytrace=False)
            pytest.skip(f"no systemd to test with: {reason}")
        yield booted


@pytest.fixture
def bed(shared_bed: Bed) -> Iterator[Bed]:
    """The shared systemd, for one test: its units are killed and forgotten at the end.

    Their journal is printed, which pytest shows when the test has failed.
    """
    yield shared_bed
    print(shared_bed.clear())


@pytest.fixture
def own_bed(shared_bed: Bed) -> Iterator[Bed]:
    """A systemd for one test, to be powered off or broken.

    It asks for the shared one to be skipped where no box can boot; a failure of its own is then a real one.
    """
    with Bed() as booted:
        yield booted
        print(booted.journal_text())
