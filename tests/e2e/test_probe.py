"""What the tests' own probe can bear of the machine around it."""

import sys

from tests.probe import Launcher, process_state

NAMED = r"""
import time

with open("/proc/self/comm", "wb") as comm:
    comm.write(b"a) \xff")
print("READY", flush=True)
time.sleep(1000)
"""


def test_probe_can_read_of_a_process_whose_name_is_no_text(launch: Launcher) -> None:
    """Any process of the machine may have a name that is not UTF-8: no test that looks for its own may fail of it."""
    named = launch.start([sys.executable, "-c", NAMED])
    named.expect("READY")
    assert process_state(named.pid) in {"R", "S"}
