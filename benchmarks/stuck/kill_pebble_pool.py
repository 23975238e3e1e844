"""``pebble.ProcessPool``: a timeout for each task."""

import multiprocessing
from concurrent.futures import wait

import stuck_task
from pebble import ProcessPool


def stop(kind: str, deadline: float, number: int) -> None:
    with ProcessPool(number, context=multiprocessing.get_context("fork")) as pool:
        wait([pool.schedule(stuck_task.get_stuck, (kind,), timeout=deadline) for _ in range(number)])


stuck_task.run(stop)
