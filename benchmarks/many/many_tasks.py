"""N no-op tasks at M workers a time (0: without a limit), started as ``python many_tasks.py N M``.

Says when the last task was settled (``SETTLED NS``, CLOCK_MONOTONIC) and, at the end, the CPU time it and its workers
took since it was ready (``CPU MS``) and the most memory it ever held (``PEAK KB``).
"""

import os
import signal
import sys
import time

import capbg


def work() -> None:
    pass


def settled(_result: capbg.TaskResult) -> None:
    global last_ns
    last_ns = time.monotonic_ns()


def peak_kb() -> int:
    """VmHWM of this process, unlike ru_maxrss not inherited from whoever started it."""
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def cpu_s() -> float:
    """CPU time of this process and of the children it has reaped."""
    return sum(os.times()[:4])


number, most = int(sys.argv[1]), int(sys.argv[2])
last_ns = 0
app = capbg.App("bench", grace=600, max_workers=most or None)
for _ in range(number):
    app.background_task()(work)
app.add_listener("taskSettled", settled)
try:
    with app:
        began_s = cpu_s()
        os.write(1, b"READY\n")
        while True:
            signal.pause()
finally:
    os.write(1, f"SETTLED {last_ns}\nCPU {(cpu_s() - began_s) * 1e3}\nPEAK {peak_kb()}\n".encode())
