"""``pebble.concurrent``: a process a call."""

import multiprocessing

import frame
from pebble import concurrent

work = concurrent.process(context=multiprocessing.get_context("fork"))(frame.work)


def stop(number: int) -> None:
    for future in [work() for _ in range(number)]:
        future.result()


frame.run(stop)
