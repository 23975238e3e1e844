"""Broken on purpose: it waits for its child, and the child never ends.

Mend: wait with a limit, then kill it: `child.wait(timeout=5)`, `child.kill()`.
"""

import signal
import subprocess
import sys
import time

HANGING = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(3600)"

child = subprocess.Popen([sys.executable, "-c", HANGING])


def stop(signum: int, frame: object) -> None:
    """End the child, and leave behind it."""
    child.terminate()
    sys.exit(child.wait())


signal.signal(signal.SIGTERM, stop)
while True:
    time.sleep(0.1)
