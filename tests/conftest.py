"""Fixtures for every test, and the guard that nothing leaks: children, descriptors, handlers, masks."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.notify_socket import NotifySocket
from tests.probe import Launcher, children, process_state


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launcher]:
    """Start real programs; they and their sessions are ended with the test."""
    launcher = Launcher(tmp_path)
    try:
        yield launcher
    finally:
        launcher.close()


@pytest.fixture
def notify_socket(tmp_path: Path) -> Iterator[NotifySocket]:
    """A real notify socket."""
    made = NotifySocket(tmp_path / "notify")
    try:
        yield made
    finally:
        made.close()


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts background jobs so; the programs under test would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)

_HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGTSTP, signal.SIGCONT, signal.SIGCHLD, signal.SIGRTMAX - 2)


def _children() -> set[int]:
    return {pid for pid in children(os.getpid()) if process_state(pid) is not None}


def _descriptors() -> dict[str, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue
    return found


@pytest.fixture(autouse=True)
def _nothing_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that leaves a child, a descriptor, a handler or a mask behind fails, and not the one after it."""
    if "bed" in request.fixturenames:  # the booted systemd is a child that lives for the whole run
        request.getfixturevalue("bed")
    before = _children(), _descriptors()
    handlers = [signal.getsignal(signum) for signum in _HANDLED]
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    yield
    assert [signal.getsignal(signum) for signum in _HANDLED] == handlers, "it left a signal handler"
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask, "it left signals blocked"
    assert not _children() - before[0], "it left a child"
    after = _descriptors()
    leaked = {fd: what for fd, what in after.items() if before[1].get(fd) != what}
    assert not leaked, f"it left descriptors: {leaked}"
