"""Broken on purpose: it asks for more time, in steps that are too short, and is killed in the gap between two.

Mend: extend first of all and generously, then again long before each extension ends; or TimeoutStopSec= for all of it.
"""

import os
import signal
import socket
import sys
import time


def notify(text: str) -> None:
    """Tell systemd (sd_notify(3))."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        path = os.environ["NOTIFY_SOCKET"]
        sock.sendto(text.encode(), f"\0{path[1:]}" if path.startswith("@") else path)


def stop(signum: int, frame: object) -> None:
    """Six seconds of work, and a word to systemd every two, for one second each."""
    notify("STOPPING=1")
    for _ in range(3):
        time.sleep(2)
        notify("EXTEND_TIMEOUT_USEC=1000000")
    sys.exit(0)


signal.signal(signal.SIGTERM, stop)
notify("READY=1")
while True:
    time.sleep(0.1)
