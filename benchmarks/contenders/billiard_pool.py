"""``billiard.Pool``: a pool of as many processes as tasks, one task each."""

import billiard
import frame

context = billiard.get_context("fork")


def stop(number: int) -> None:
    with context.Pool(number, maxtasksperchild=1) as pool:
        for result in [pool.apply_async(frame.work) for _ in range(number)]:
            result.get()


frame.run(stop)
