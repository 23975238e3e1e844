"""The floor of a finish: one byte over a pipe and one back, between two Python processes.

N workers: ``alone``, each forked when the one before is gone, or ``together``, forked at once and finishing in turn.
"""

import os
import select
import sys
import time

import frame

TOGETHER = sys.argv[3] == "together"


def _fork(turn: int) -> tuple[int, int, int]:
    words, word = os.pipe()
    answers, answer = os.pipe()
    pid = os.fork()
    if pid == 0:
        frame.wait_turn(turn)
        before = time.monotonic_ns()
        os.write(word, b"F")
        os.read(answers, 1)
        after = time.monotonic_ns()
        frame.say(f"ROUNDTRIP {after - before}")
        os._exit(0)
    os.close(word)
    os.close(answers)
    return words, answer, pid


def stop(number: int) -> None:
    waiting = {}
    poll = select.poll()
    for turn in range(number):
        words, answer, pid = _fork(turn if TOGETHER else 0)
        waiting[words] = answer, pid
        poll.register(words, select.POLLIN)
        while waiting and (turn == number - 1 or not TOGETHER):
            for fd, _ in poll.poll():
                answer, pid = waiting.pop(fd)
                os.read(fd, 1)
                os.write(answer, b"A")
                poll.unregister(fd)
                os.close(fd)
                os.close(answer)
                os.waitpid(pid, 0)


frame.run(stop)
