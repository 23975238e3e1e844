"""Broken on purpose: it wants not to be disturbed and ignores SIGTERM, so all it gets is SIGKILL.

Mend: take the signal (a handler, capbg.App), finish, leave.
"""

import signal
import time

signal.signal(signal.SIGTERM, signal.SIG_IGN)
while True:
    time.sleep(0.1)
