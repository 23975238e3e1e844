"""A real notify socket, for programs under test to talk to: what a service manager would hear."""

import os
import select
import socket
import time
from pathlib import Path

from tests.probe import PATIENCE_S


class NotifySocket:
    """Binds ``path`` (or an abstract name) and keeps every datagram with the instant of its arrival."""

    def __init__(self, path: Path | str) -> None:
        self.path = str(path)
        self.heard: list[tuple[float, dict[str, str]]] = []
        """(CLOCK_MONOTONIC seconds when it was read, its fields), in order."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + self.path[1:] if self.path.startswith("@") else self.path)
        self._socket.setblocking(False)

    @property
    def env(self) -> dict[str, str]:
        """The environment that names it."""
        return {"NOTIFY_SOCKET": self.path}

    def read(self) -> list[dict[str, str]]:
        """Take in what has come, and return everything heard so far."""
        while True:
            try:
                data = self._socket.recv(65536)
            except BlockingIOError:
                return [fields for _, fields in self.heard]
            lines = data.decode("utf-8").splitlines()
            self.heard.append((time.monotonic(), dict(line.split("=", 1) for line in lines)))

    def expect(self, field: str, value: str | None = None, *, patience: float = PATIENCE_S) -> dict[str, str]:
        """Wait for the next unread datagram with this field (and value), and return its fields."""
        end = time.monotonic() + patience
        seen = len(self.heard)
        while True:
            self.read()
            for _, fields in self.heard[seen:]:
                seen += 1
                if field in fields and (value is None or fields[field] == value):
                    return fields
            left = end - time.monotonic()
            assert left > 0, f"never heard {field}={value or '...'}; heard {[fields for _, fields in self.heard]!r}"
            select.select([self._socket], [], [], left)

    def close(self) -> None:
        """Close and unlink it."""
        self._socket.close()
        if not self.path.startswith("@") and os.path.exists(self.path):
            os.unlink(self.path)
