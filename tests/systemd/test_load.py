"""Stops on a machine that has no time for them: what systemd hears of them, by its own log, and how late.

With CAPBG_LONG_TESTS=1 it is the full measure: 20 stops of 20 s, and next to no memory left. `-rP` shows the figures.
"""

import time
from itertools import pairwise
from pathlib import Path

import pytest

from tests.probe import PREAMBLE

from .bed import Bed, Service
from .programs import LONG, ended, service, spoken, start, stop

UNITS, WORK_S = (20, 20) if LONG else (5, 5)
HOGS = 4

HOG = """
import mmap

CHUNK = 64 << 20

def available():
    with open("/proc/meminfo") as lines:
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))

def take():
    taken = mmap.mmap(-1, CHUNK, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    taken.madvise(mmap.MADV_HUGEPAGE)
    for offset in range(0, CHUNK, mmap.PAGESIZE):
        taken[offset] = 1
    return taken

def read(folder):
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                with open(os.path.join(parent, name), "rb") as file:
                    while file.read(1 << 20):
                        pass
            except OSError:
                continue

held = []
full = False
while True:
    if len(held) * CHUNK < int(os.environ["MOST"]) and available() > int(os.environ["LEAVE"]) + CHUNK:
        held.append(take())
        continue
    if not full:
        full = True
        for _ in range(int(os.environ["HOGS"])):
            if os.fork() == 0:
                while True:
                    pass
        if os.environ["READ"] and os.fork() == 0:
            while True:
                read(os.environ["READ"])
        say("FULL", len(held) * CHUNK >> 20, "MiB")
    if held:  # give a piece back and take another: the kernel never comes to rest
        held.pop(0).close()
"""
"""Keeps all cores busy, and memory; what is left of that goes to a reader of files, whose pages drive others out.

The first to be killed should memory run out.
"""


@pytest.mark.timeout(600)  # to fill a machine's memory takes a while
def test_stops_under_load_are_all_waited_for(bed: Bed) -> None:
    """TimeoutStopSec=3, four hogs on the cores and one on the memory: every stop goes on to the end of its work."""
    services = [service(bed, f"kiosk{number}", work_s=WORK_S, TimeoutStopSec=3) for number in range(UNITS)]
    start(*services)
    most, leave = (1 << 40, 1 << 29) if LONG else (1 << 28, 1 << 31)
    load = [f"HOGS={HOGS}", f"MOST={most}", f"LEAVE={leave}", f"READ={'/usr' if LONG else ''}"]
    hog = bed.python_service("hog", PREAMBLE + HOG, OOMScoreAdjust=1000, Environment=load)
    hog.start()
    full = hog.says("FULL", deadline_s=300)

    before = _stalled_s()
    bed.systemctl("log-level", "debug")  # then systemd logs every message it takes in
    try:
        began = time.monotonic()
        stop(*services)
        took_s = time.monotonic() - began
    finally:
        bed.systemctl("log-level", "info")
    stalled = {what: f"{100 * (_stalled_s()[what] - before[what]) / took_s:.0f} %" for what in before}

    outcomes = [(*ended(each.result()), *spoken(each, "SAVED")) for each in services]
    assert [("success", "exited", 0, "SAVED")] * UNITS == outcomes
    heard = [_heard(each) for each in services]
    print(f"{UNITS} stops of {WORK_S} s; of that time somebody waited for {stalled}; {full}")
    print(f"longest from SIGTERM to the first message: {max(instants[1] - instants[0] for instants in heard):.3f} s")
    print(f"longest between two messages: {max(b - a for each in heard for a, b in pairwise(each[1:])):.3f} s")
    assert "active" == hog.result().state


def _heard(stopped: Service) -> list[float]:
    """When systemd sent SIGTERM, and when it took in each extension; the first one said all at once. In seconds."""
    told = [entry for entry in stopped.journal() if "_SOURCE_REALTIME_TIMESTAMP" in entry]
    beginning = next(index for index, entry in enumerate(told) if "running -> stop-sigterm" in entry["MESSAGE"])
    messages = [entry for entry in told[beginning:] if "Got notification message" in entry["MESSAGE"]]
    assert all(field in messages[0]["MESSAGE"] for field in ("(STOPPING=1", "EXTEND_TIMEOUT_USEC=", "STATUS="))
    extensions = [entry for entry in messages if "EXTEND_TIMEOUT_USEC=" in entry["MESSAGE"]]
    return [int(entry["_SOURCE_REALTIME_TIMESTAMP"]) / 1e6 for entry in (told[beginning], *extensions)]


def _stalled_s() -> dict[str, float]:
    """For how long somebody on this machine has waited for a core, or for memory (PSI); nothing on old kernels."""
    pressure = {what: Path("/proc/pressure") / what for what in ("cpu", "memory")}
    return {
        what: int(path.read_text().splitlines()[0].rpartition("=")[2]) / 1e6
        for what, path in pressure.items()
        if path.exists()
    }
