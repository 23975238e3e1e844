"""capbg: from the call of ``finish()`` to its return.

N tasks: ``alone``, one worker at a time, or ``together``, forked at once and finishing in turn.
"""

import signal
import sys
import time

import frame

import capbg

TOGETHER = sys.argv[3] == "together"


def work(task: capbg.Task) -> None:
    frame.wait_turn(int(task.name) if TOGETHER else 0)
    before = time.monotonic_ns()
    task.finish()
    after = time.monotonic_ns()
    frame.say(f"ROUNDTRIP {after - before}")


number, mebibytes = frame.arguments()
held = frame.hold(mebibytes)
app = capbg.App("bench", max_workers=None if TOGETHER else 1)
for turn in range(number):
    app.background_task(name=str(turn))(work)
with app:
    frame.say("READY")
    while True:
        signal.pause()
