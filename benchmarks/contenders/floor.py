"""The floor: bare ``os.fork``, a socket pair a worker, ``poll``. Nothing is guarded, bounded or told to anybody.

With modules named in ``BENCH_MODULES`` it holds those as well, as a program that uses them would.
"""

import importlib
import os
import select
import socket

import frame

for name in os.environ.get("BENCH_MODULES", "").split():
    importlib.import_module(name)


def _child(pipe: socket.socket) -> None:
    try:
        frame.work()
        pipe.send(b"F")
        pipe.recv(1)
    finally:
        os._exit(0)


def stop(number: int) -> None:
    poll = select.poll()
    waiting = {}
    for _ in range(number):
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            _child(theirs)
        theirs.close()
        poll.register(ours, select.POLLIN)
        waiting[ours.fileno()] = ours, pid
    while waiting:
        for fd, _ in poll.poll():
            ours, pid = waiting.pop(fd)
            ours.recv(1)
            ours.send(b"A")
            poll.unregister(fd)
            ours.close()
            os.waitpid(pid, 0)


frame.run(stop)
