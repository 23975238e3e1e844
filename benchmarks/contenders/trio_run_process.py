"""``trio.run_process``: a program a task, the smallest that Python can be: trio does not fork."""

import sys

import frame
import trio


def stop(number: int) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(number):
                nursery.start_soon(trio.run_process, [sys.executable, "-I", "-S", "-c", "pass"])

    trio.run(main)


frame.run(stop)
