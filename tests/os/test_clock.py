"""Timers of the kernel: a descriptor that becomes readable, and a signal that comes whatever the process does."""

import select
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from capbg._core.words import NS
from capbg._os.clock import SignalTimer, TimerFd, now_ns
from tests.probe import PATIENCE_S, clean_environment


def readable(timer: TimerFd, timeout_s: float) -> bool:
    return bool(select.select([timer.fd], [], [], timeout_s)[0])


def child(source: str) -> "subprocess.Popen[str]":
    """A process of its own to be killed: SignalTimer strikes whoever made it."""
    head = """
        import os, signal, sys, time
        from capbg._os.clock import SignalTimer, now_ns
        def say(*words):
            os.write(1, (" ".join(map(str, words)) + "\\n").encode())
    """
    command = [sys.executable, "-c", textwrap.dedent(head) + textwrap.dedent(source)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=clean_environment())


def ended(process: "subprocess.Popen[str]") -> tuple[int, list[str]]:
    out, _ = process.communicate(timeout=PATIENCE_S)
    return process.returncode, out.splitlines()


def test_a_timer_descriptor_is_readable_from_its_instant_on() -> None:
    """Not before, then until it is cleared; an instant in the past is now; None is never."""
    timer = TimerFd()
    try:
        assert not readable(timer, 0)
        instant = now_ns() + NS // 5
        timer.set(instant)
        assert readable(timer, PATIENCE_S)
        assert now_ns() >= instant
        assert readable(timer, 0)
        timer.clear()
        assert not readable(timer, 0)
        timer.clear()  # nothing to clear: no harm, no wait

        for past in (now_ns() - NS, 1, 0, -NS):
            timer.set(past)
            assert readable(timer, PATIENCE_S), past
            timer.clear()

        timer.set(now_ns() + 3600 * NS)
        assert not readable(timer, 0)
        timer.set(now_ns() - 1)  # an earlier instant replaces a later one
        assert readable(timer, PATIENCE_S)
        timer.set(None)  # and never replaces even one that has come
        assert not readable(timer, 0)
    finally:
        timer.close()
    assert -1 == timer.fd
    timer.close()


def test_the_same_instant_set_again_after_it_was_cleared_comes_again() -> None:
    """Setting what is set already is no work, but a cleared timer is not set any more."""
    timer = TimerFd()
    try:
        instant = now_ns()
        timer.set(instant)
        assert readable(timer, PATIENCE_S)
        timer.clear()
        timer.set(instant)
        assert readable(timer, PATIENCE_S)
    finally:
        timer.close()


def test_a_signal_timer_sends_its_signal_at_its_instant() -> None:
    """Not before, at once for a past instant, never for None or once it is closed."""
    heard = []
    old = signal.signal(signal.SIGUSR1, lambda signum, frame: heard.append(now_ns()))
    timer = SignalTimer(signal.SIGUSR1)
    try:

        def wait_for(count: int) -> None:
            end = time.monotonic() + PATIENCE_S
            while len(heard) < count:
                assert time.monotonic() < end
                time.sleep(0.001)

        instant = now_ns() + NS // 5
        timer.set(instant)
        wait_for(1)
        assert heard[0] >= instant
        for count, past in enumerate((now_ns() - NS, 1, 0, -NS), start=2):
            timer.set(past)
            wait_for(count)
        # Two seconds, so that even a test that is not let run for long takes back what it set in time.
        timer.set(now_ns() + 2 * NS)
        timer.set(None)
        closed = SignalTimer(signal.SIGUSR1)
        closed.set(now_ns() + 2 * NS)
        closed.close()
        timer.set(now_ns() + 2 * NS + NS // 10)  # comes behind both that must not come
        wait_for(6)
        timer.close()
        assert 6 == len(heard)
    finally:
        signal.signal(signal.SIGUSR1, old)


@pytest.mark.parametrize(
    "fate",
    [
        "while True: pass",
        "sum(range(10 ** 11))",
        "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals()); time.sleep(600)",
        "os.kill(os.getpid(), signal.SIGSTOP)",
    ],
    ids=["busy", "in C", "deaf", "stopped"],
)
def test_a_sigkill_timer_kills_whatever_its_process_does(fate: str) -> None:
    """In a busy loop, in one long C call, with every signal blocked and while stopped: it dies, and not too early."""
    process = child(
        f"""
        instant = now_ns() + 500_000_000
        SignalTimer(signal.SIGKILL).set(instant)
        say("DUE", instant)
        {fate}
        """
    )
    status, lines = ended(process)
    assert -signal.SIGKILL == status
    assert now_ns() >= int(lines[0].split()[1])


def test_a_timer_is_not_inherited_over_a_fork() -> None:
    """The child of a process with a SIGKILL timer outlives it: a worker has to make its own."""
    process = child(
        """
        SignalTimer(signal.SIGKILL).set(now_ns() + 300_000_000)
        if os.fork() == 0:
            parent = os.getppid()
            while os.getppid() == parent:
                time.sleep(0.01)
            say("OUTLIVED")
            os._exit(0)
        while True:
            time.sleep(1)
        """
    )
    assert (-signal.SIGKILL, ["OUTLIVED"]) == ended(process)
