"""``pebble.concurrent``: a process a call, with a timeout."""

import multiprocessing
from concurrent.futures import wait

import stuck_task
from pebble import concurrent


def stop(kind: str, deadline: float, number: int) -> None:
    work = concurrent.process(timeout=deadline, mp_context=multiprocessing.get_context("fork"))(stuck_task.get_stuck)
    wait([work(kind) for _ in range(number)])


stuck_task.run(stop)
