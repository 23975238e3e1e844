"""The same program without capbg: it waits in ``pause``, and on SIGTERM forks a child that says ``TASK PID`` and waits.

With modules named in ``BENCH_MODULES`` it holds those as well.
"""

import os
import signal
import sys

for name in os.environ.get("BENCH_MODULES", "").split():
    try:
        __import__(name)
    except ImportError:
        assert name.startswith("_") or "." in name, name  # made at run time by another module


class Told(BaseException):
    pass


def _raise_told(_signum: int, _frame: object) -> None:
    raise Told


def work() -> None:
    os.write(1, f"TASK {os.getpid()}\n".encode())
    while True:
        signal.pause()


try:
    signal.signal(signal.SIGTERM, _raise_told)
    os.write(1, b"READY\n")
    while True:
        signal.pause()
except Told:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
for _ in range(int(os.environ.get("BENCH_TASKS", "1"))):
    if os.fork() == 0:
        work()
os.wait()
sys.exit(1)
