"""A Process and a Pipe a task, by whichever of the libraries that share this interface."""

from typing import Any

import frame


def _child(pipe: Any) -> None:
    frame.work()
    pipe.send_bytes(b"F")
    pipe.recv_bytes()


def run(library: Any, connection: Any) -> None:
    """Be the contender that ``library`` makes, with its module ``connection``."""
    context = library.get_context("fork")

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
