"""What gets stuck, the same for every contender: tasks that say when they began and then do not end.

A contender is a program of its own, started as ``python NAME.py KIND DEADLINE NUMBER``. It loads its library, prints
READY, waits for SIGTERM, and runs NUMBER tasks of that kind side by side, each in its own process, each with that
deadline in seconds. Nobody reads its exit status: whoever started it watches the tasks from outside, and ends it.
"""

import os
import signal
import sys
import time
from collections.abc import Callable

_AT_MOST_S = 20.0
"""When a task ends by itself, should nobody kill it."""
_LONG = 10**9
"""Numbers to sum up in one call: seconds on any machine of these years, about 20 on a slow one."""


class _Told(BaseException):
    pass


def _raise_told(_signum: int, _frame: object) -> None:
    raise _Told


def say(text: str) -> None:
    """Print a line in one write."""
    os.write(1, f"{text}\n".encode())


def arguments() -> tuple[str, float, int]:
    """Return KIND, DEADLINE and NUMBER."""
    return sys.argv[1], float(sys.argv[2]), int(sys.argv[3])


def get_stuck(kind: str) -> None:
    """The task of every contender."""
    if kind == "ignores":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    began = time.monotonic_ns()
    say(f"TASK {os.getpid()} {began}")
    if kind == "stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif kind == "computes":
        sum(range(_LONG))  # one call into C, which holds the GIL and looks at no signal
    while (left := began / 1e9 + _AT_MOST_S - time.monotonic()) > 0:
        time.sleep(left)


def run(stop: Callable[[str, float, int], None]) -> None:
    """Wait for SIGTERM, then call ``stop(KIND, DEADLINE, NUMBER)``."""
    try:
        signal.signal(signal.SIGTERM, _raise_told)
        say("READY")
        while True:
            signal.pause()
    except _Told:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    stop(*arguments())
