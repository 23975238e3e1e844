"""N workers that tell of their progress for S seconds: ``python many_words.py N S HOW``.

HOW is ``flood``: as fast as they can; or ``trickle``: 20 times a second each.
Says how many packets the app has taken in (``TAKEN NUMBER``), counted where they are decoded.
"""

import os
import signal
import sys
import time

import capbg

number, seconds, hurry = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3] == "flood"
taken = 0


def count_packets() -> None:
    """Nothing in the app's interface tells of each: a task's result keeps the last."""
    from capbg._core import wire

    decode = wire.decode

    def counted(data: bytes) -> wire.Packet:
        global taken
        taken += 1
        return decode(data)

    wire.decode = counted


def talk(task: capbg.Task) -> None:
    end = time.monotonic() + seconds
    done = 0
    while time.monotonic() < end:
        task.progress(done)
        done += 1
        if not hurry:
            time.sleep(0.05)


app = capbg.App("bench", grace=60)
for _ in range(number):
    app.background_task()(talk)
try:
    with app:
        count_packets()
        os.write(1, b"READY\n")
        while True:
            signal.pause()
finally:
    os.write(1, f"TAKEN {taken}\n".encode())
