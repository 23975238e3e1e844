"""``multiprocessing``: a Process and a Pipe a task."""

import frame
import multiprocessing
from multiprocessing import connection

context = multiprocessing.get_context("fork")


def _child(pipe: connection.Connection) -> None:
    frame.work()
    pipe.send_bytes(b"F")
    pipe.recv_bytes()


def stop(number: int) -> None:
    waiting = {}
    for _ in range(number):
        ours, theirs = context.Pipe()
        process = context.Process(target=_child, args=(theirs,))
        process.start()
        theirs.close()
        waiting[ours] = process
    while waiting:
        for ours in connection.wait(list(waiting)):
            ours.recv_bytes()
            ours.send_bytes(b"A")
            waiting.pop(ours).join()


frame.run(stop)
