"""``loky``: its reusable executor, of as many processes as tasks. It starts fresh interpreters."""

import frame
import loky


def stop(number: int) -> None:
    with loky.get_reusable_executor(max_workers=number) as pool:
        for future in [pool.submit(frame.work) for _ in range(number)]:
            future.result()


if __name__ == "__main__":
    frame.run(stop)
