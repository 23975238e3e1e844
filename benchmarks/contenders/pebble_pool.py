"""``pebble.ProcessPool``: a pool of as many processes as tasks, one task each."""

import multiprocessing

import frame
from pebble import ProcessPool


def stop(number: int) -> None:
    with ProcessPool(number, max_tasks=1, context=multiprocessing.get_context("fork")) as pool:
        for future in [pool.schedule(frame.work) for _ in range(number)]:
            future.result()


frame.run(stop)
