"""A program with an entered app that has nothing to do: waiting in ``pause``, or driven by a poll loop (``driven``).

On SIGTERM its one worker says ``TASK PID`` and waits. It says what modules it holds, for a bare one to hold the same.
"""

import os
import select
import signal
import sys

import capbg


def work() -> None:
    os.write(1, f"TASK {os.getpid()}\n".encode())
    while True:
        signal.pause()


app = capbg.App("bench")
for _ in range(int(os.environ.get("BENCH_TASKS", "1"))):
    app.background_task()(work)
with app:
    modules = [name for name in sys.modules if not name.startswith(("capbg", "__main__", "__mp_main__"))]
    os.write(1, f"MODULES {' '.join(modules)}\n".encode())
    if "driven" in sys.argv:
        poll = select.poll()
        poll.register(app.fileno(), select.POLLIN)
        os.write(1, b"READY\n")
        while True:
            poll.poll()
            app.pump()
    os.write(1, b"READY\n")
    while True:
        signal.pause()
