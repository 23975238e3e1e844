"""A program that does as it is told and nothing else: what each of the rehearsal's and systemd's rules is tried on.

:func:`play` gets, for the start and for each signal, what to do and so many seconds behind it; a signal
ends what was still to come for the one before. The signals it is told
of are taken by sigtimedwait(2), so that nothing of what it does waits for an interpreter; all others have their default
action. It runs as a file of its own (this text, and one call below it) and must not import anything of the project.
"""

import heapq
import itertools
import os
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

LIFE_S = 40.0
"""So long, and neither it nor a child of it is left, whatever has become of the test."""


def tell(text: str) -> None:
    """One datagram to the notify socket."""
    path = os.environ["NOTIFY_SOCKET"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.connect("\0" + path[1:] if path[0] == "@" else path)
        sender.send(text.encode("utf-8", "surrogateescape"))


def fork(kind: str, *told: str) -> int:
    """A child: it ignores SIGTERM if it is ``deaf``, lasts as long as this program if ``plain``, or tells something."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return pid
    if kind == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if kind == "session":
        os.setsid()
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for text in told:
        tell(text)
    time.sleep(LIFE_S)
    os._exit(0)


def act(what: str, *words: Any) -> None:
    """Do one thing."""
    match what:
        case "tell":
            tell(*words)
        case "leave":
            os._exit(*words)
        case "die":
            os.kill(os.getpid(), *words)
            time.sleep(LIFE_S)
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "ignore":
            signal.signal(words[0], signal.SIG_IGN)
        case "fork":
            fork(*words)
        case "hand over":
            pid = fork("plain")
            tell(f"MAINPID={pid}")
        case "wait":
            os.wait()
            os._exit(0)
        case "hang":
            time.sleep(LIFE_S)


def play(script: Mapping[str, Sequence[tuple[Any, ...]]]) -> NoReturn:
    """``script``: "start" and names of signals, each with a list of (seconds, what, words...)."""
    awaited = {getattr(signal, name) for name in script if name != "start"}
    signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    end = time.monotonic() + LIFE_S
    number = itertools.count()
    due: list[tuple[float, int, list[Any]]] = []

    def begin(name: str) -> None:
        now = time.monotonic()
        if name != "SIGCONT":  # which comes right behind another
            due.clear()
        for at, *action in script.get(name, ()):
            heapq.heappush(due, (now + at, next(number), action))

    begin("start")
    up = os.environ.pop("UP", "")
    while (now := time.monotonic()) < end:
        if due and due[0][0] <= now:
            act(*heapq.heappop(due)[2])
            continue
        if up:
            open(up, "w").close()
            up = ""
        wait = (min(due[0][0], end) if due else end) - now
        if not awaited:
            time.sleep(wait)
        elif (found := signal.sigtimedwait(awaited, wait)) is not None:
            begin(signal.Signals(found.si_signo).name)
    os._exit(99)
