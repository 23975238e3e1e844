"""Broken on purpose: SIGTERM ends it wherever it stands, and what it had in memory is gone.

Mend: `with capbg.App("notes") as app:` around the loop, and the writing as a task; or a handler of its own.
"""

import time

notes = []
while True:
    notes.append(f"{time.time()}: something worth keeping")  # to be written every hundred notes
    if len(notes) == 100:
        with open("/dev/null", "a") as file:
            file.write("\n".join(notes))
        notes.clear()
    time.sleep(0.1)
