"""capbg itself, in a plain program."""

import signal

import frame

import capbg

number, mebibytes = frame.arguments()
held = frame.hold(mebibytes)
app = capbg.App("bench")
for _ in range(number):
    app.background_task()(frame.work)
with app:
    frame.say("READY")
    while True:
        signal.pause()
