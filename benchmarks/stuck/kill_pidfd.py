"""The floor: bare ``os.fork``, a poll on pidfds until the deadline, SIGKILL through the pidfd."""

import os
import select
import signal
import time

import stuck_task


def stop(kind: str, deadline: float, number: int) -> None:
    end = time.monotonic() + deadline
    poll = select.poll()
    alive = set()
    for _ in range(number):
        pid = os.fork()
        if pid == 0:
            try:
                stuck_task.get_stuck(kind)
            finally:
                os._exit(0)
        pidfd = os.pidfd_open(pid)
        poll.register(pidfd, select.POLLIN)
        alive.add(pidfd)
    while alive and (left := end - time.monotonic()) > 0:
        for pidfd, _ in poll.poll(left * 1000):
            poll.unregister(pidfd)
            alive.discard(pidfd)
    for pidfd in alive:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)


stuck_task.run(stop)
