"""``trio.run_process``: a program a task, the smallest there is: trio does not fork."""

import frame
import trio


def stop(number: int) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(number):
                nursery.start_soon(trio.run_process, ["/bin/true"])

    trio.run(main)


frame.run(stop)
