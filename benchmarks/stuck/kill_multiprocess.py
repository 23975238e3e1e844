"""``multiprocess``: a Process a task, a wait for the sentinels until the deadline, ``kill()``."""

import time

import multiprocess
import stuck_task
from multiprocess import connection

context = multiprocess.get_context("fork")


def stop(kind: str, deadline: float, number: int) -> None:
    end = time.monotonic() + deadline
    alive = {}
    for _ in range(number):
        process = context.Process(target=stuck_task.get_stuck, args=(kind,))
        process.start()
        alive[process.sentinel] = process
    while alive and (left := end - time.monotonic()) > 0:
        for sentinel in connection.wait(list(alive), left):
            alive.pop(sentinel).join()
    for process in alive.values():
        process.kill()
    for process in alive.values():
        process.join()


stuck_task.run(stop)
