"""``pynisher``: a wall time for each call, the calls in threads, since each of them blocks."""

import threading

import pynisher
import stuck_task


def stop(kind: str, deadline: float, number: int) -> None:
    try:
        # Typed for whole seconds; in the guise of a pair it would be rounded to them.
        work = pynisher.Pynisher(stuck_task.get_stuck, wall_time=deadline, raises=False, context="fork")  # type: ignore[call-overload]
    except ValueError as error:  # it takes no less than a second
        stuck_task.say(f"REFUSED {error}")
        return
    threads = [threading.Thread(target=work, args=(kind,)) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


stuck_task.run(stop)
