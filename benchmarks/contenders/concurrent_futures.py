"""``concurrent.futures``: a pool of as many processes as tasks."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import frame

context = multiprocessing.get_context("fork")


def stop(number: int) -> None:
    with ProcessPoolExecutor(number, mp_context=context) as pool:
        for future in [pool.submit(frame.work) for _ in range(number)]:
            future.result()


frame.run(stop)
