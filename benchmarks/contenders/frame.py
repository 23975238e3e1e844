"""What every contender has in common: memory held by the parent, the wait for SIGTERM, and the way out.

A contender is a program of its own, started as ``python NAME.py N MB``. It loads its library, touches MB mebibytes,
prints READY, waits for SIGTERM, has N no-op tasks run and acknowledged, each in its own process, and exits with 0.
"""

import os
import signal
import sys
import time
from collections.abc import Callable

_PIECE = 1 << 20


class _Told(BaseException):
    pass


def _raise_told(_signum: int, _frame: object) -> None:
    raise _Told


def hold(mebibytes: int) -> list[bytearray]:
    """Return that much memory, each page of it touched: a fork has to copy its page tables."""
    return [bytearray(b"x") * _PIECE for _ in range(mebibytes)]


def say(text: str) -> None:
    """Print a line in one write."""
    os.write(1, f"{text}\n".encode())


def work() -> None:
    """The task of every contender: nothing, or to tell when it began."""
    if os.environ.get("BENCH_FIRST"):
        say(f"FIRST {time.monotonic_ns()}")


def wait_turn(turn: int) -> None:
    """Wait until the workers before this one have had their turn."""
    if turn:
        time.sleep(0.1 + turn * 0.01)


def arguments() -> tuple[int, int]:
    """Return N and MB."""
    return int(sys.argv[1]), int(sys.argv[2])


def run(stop: Callable[[int], None]) -> None:
    """Wait for SIGTERM, then call ``stop(N)`` and exit with 0."""
    number, mebibytes = arguments()
    held = hold(mebibytes)
    try:
        signal.signal(signal.SIGTERM, _raise_told)
        say("READY")
        while True:
            signal.pause()
    except _Told:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    stop(number)
    sys.exit(0 if len(held) == mebibytes else 1)
