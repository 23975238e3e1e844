"""capbg itself. ``kill_after=0``: the deadline is the hard one."""

import functools
import logging
import signal

import stuck_task

import capbg

logging.getLogger("capbg").addHandler(logging.NullHandler())  # that they were killed is the point
kind, deadline, number = stuck_task.arguments()
app = capbg.App("bench", kill_after=0)
for _ in range(number):
    app.background_task(deadline=deadline)(functools.partial(stuck_task.get_stuck, kind))
with app:
    stuck_task.say("READY")
    while True:
        signal.pause()
