"""What a worker forked out of a GUI program must not have of it: the connection to the display.

A worker that used it would write into the app's stream of requests. The app would then find answers it never asked
for (X11) or be disconnected (Wayland): one careless task, and the program ends in the middle of the grace period, with
every other task. See docs/forking.md.

This file must not know any toolkit.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from capbg import worker


@contextmanager
def without_display() -> Iterator[None]:
    """Workers that are forked in this block have no connection to the display: to use one ends the worker alone.

    The adapters for toolkits do this by themselves. For a program with a loop of its own (pygame)::

        with without_display(), app:
            ...

    Connections by a Unix socket are found, as good as all are; X11 by TCP is not.
    """
    worker.before_task.append(cut_display)
    try:
        yield
    finally:
        worker.before_task.remove(cut_display)


def cut_display() -> None:
    """In a forked worker: have every connection to a display lead to nobody."""
    for name in os.listdir("/proc/self/fd"):
        if _is_display(int(name)):
            ours, theirs = socket.socketpair()
            with ours, theirs:
                # In its place, so that the number does not become something else's that the toolkit then writes to.
                os.dup2(ours.fileno(), int(name), inheritable=False)


def _is_display(fd: int) -> bool:
    try:
        with socket.socket(fileno=os.dup(fd)) as found:
            peer = found.getpeername()
    except OSError:
        return False  # no socket, not connected, or the descriptor of the listing itself
    if found.family != socket.AF_UNIX:
        return False
    path = os.fsdecode(peer)
    wayland = os.path.basename(os.environ.get("WAYLAND_DISPLAY", ""))
    name = os.path.basename(path)
    return ".X11-unix/X" in path or name.startswith("wayland-") or (wayland != "" and name == wayland)
