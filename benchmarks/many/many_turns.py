"""capbg, driven by a loop of its own: N workers that tell of their progress, started as ``python many_turns.py N S``.

How long each call of ``pump()`` took, apart from the fork in it: what a window would stand still for.
"""

import os
import select
import sys
import time

import capbg

NUMBER, SECONDS = int(sys.argv[1]), float(sys.argv[2])

forking = [0, 0]
"""Time and CPU time spent in forks."""
before = [0, 0]


def _clocks() -> list[int]:
    return [time.monotonic_ns(), time.thread_time_ns()]


def _before() -> None:
    before[:] = _clocks()


def _after() -> None:
    forking[:] = [spent + now - then for spent, now, then in zip(forking, _clocks(), before, strict=True)]


def work(task: capbg.Task) -> None:
    end = time.monotonic() + SECONDS
    done = 0
    while time.monotonic() < end:
        done += 1
        task.progress(done)


app = capbg.App("turns", grace=60)
for _ in range(NUMBER):
    app.background_task()(work)
# Registered before the app's own: these run last before the fork, and first behind it.
os.register_at_fork(before=_before, after_in_parent=_after)
turns: list[list[float]] = []
try:
    with app:
        poll = select.poll()
        poll.register(app.fileno(), select.POLLIN)
        os.write(1, b"READY\n")
        while True:
            poll.poll()
            began, forked = _clocks(), list(forking)
            try:
                app.pump()
            finally:
                spent = zip(_clocks(), began, forking, forked, strict=True)
                turns.append([(now - then - (fork - earlier)) / 1e6 for now, then, fork, earlier in spent])
finally:
    walls, cpus = map(sorted, zip(*turns, strict=True))
    figures = len(turns), walls[len(turns) // 2], walls[int(len(turns) * 0.99)], cpus[-1]
    os.write(1, f"TURNS {' '.join(map(str, figures))}\n".encode())
