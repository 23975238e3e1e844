"""systemd's notify socket, by way of ``sdnotify``, so that it can neither block nor raise.

What ``sdnotify`` 0.3.2 does by itself, and what is done about it: it leaks a socket when NOTIFY_SOCKET is not set (it
is constructed only if it is); it drops what is not latin-1 and sends other accents as latin-1, where systemd wants
UTF-8 (the bytes go to its socket directly); it blocks on a full queue (the socket is made non-blocking); it is silent
for good once the socket was bound anew (it is constructed anew after an error).
"""

import os
import socket
from collections.abc import Mapping

from capbg._os import fds

VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
"""What systemd tells its own child and nobody else: a worker loses them (sd_notify(3), sd_watchdog_enabled(3))."""


_found: list[str] | None = None
"""Which of them this process has, once an app was entered in it."""


def forget_in_worker() -> None:
    """In a worker: lose them."""
    for variable in VARIABLES if _found is None else _found:
        os.environ.pop(variable, None)


def watchdog_ns(environ: Mapping[str, str]) -> int | None:
    """The watchdog interval systemd demands of this very process, in nanoseconds (sd_watchdog_enabled(3))."""
    pid = environ.get("WATCHDOG_PID", "")
    if pid and pid != str(os.getpid()):
        return None
    usec = environ.get("WATCHDOG_USEC", "")
    if not (usec.isascii() and usec.isdigit()) or not 0 < int(usec) < 2**63 // 1000:
        return None
    return int(usec) * 1000


def wants_tasks(environ: Mapping[str, str]) -> bool:
    """Whether the other end of the socket is a rehearsal that wants to hear of each task."""
    return environ.get("CAPBG_TELL_TASKS") == "1" and bool(environ.get("NOTIFY_SOCKET"))


class Notifier:
    """Sends datagrams to ``$NOTIFY_SOCKET`` as it was when this was made; does nothing where there is none."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        global _found
        _found = [variable for variable in VARIABLES if variable in environ]
        self.enabled = bool(environ.get("NOTIFY_SOCKET"))
        self._socket: socket.socket | None = None
        if self.enabled:
            # What is used on the way out is imported on the way in.
            import sdnotify

            self._make = sdnotify.SystemdNotifier
            self._connect()

    def send(self, text: str) -> bool:
        """Send one datagram; return whether it was taken. Never blocks, never raises."""
        if not self.enabled:
            return True
        data = text.encode("utf-8", "replace")
        if self._send(data):
            return True
        # The socket may have been bound anew since: try once more with a fresh connection.
        self.close()
        self._connect()
        return self._send(data)

    def _send(self, data: bytes) -> bool:
        if self._socket is None:
            return False
        try:
            self._socket.send(data)
        except OSError:
            return False
        return True

    def _connect(self) -> None:
        try:
            made: socket.socket = self._make(debug=True).socket
        except OSError:
            return  # gone for now; the next send tries again
        made.setblocking(False)
        fds.own(made.fileno())
        self._socket = made

    def close(self) -> None:
        """Close the socket; a later send makes a new one."""
        if self._socket is not None:
            fds.OWNED.discard(self._socket.fileno())
            self._socket.close()
            self._socket = None
