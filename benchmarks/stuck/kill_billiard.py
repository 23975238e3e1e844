"""``billiard.Pool``: its hard time limit."""

import billiard
import stuck_task

context = billiard.get_context("fork")


def stop(kind: str, deadline: float, number: int) -> None:
    with context.Pool(number, timeout=deadline) as pool:
        results = [pool.apply_async(stuck_task.get_stuck, (kind,)) for _ in range(number)]
        for result in results:
            result.wait()


stuck_task.run(stop)
