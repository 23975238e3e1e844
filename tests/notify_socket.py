"""A real notify socket, for programs under test to talk to: what a service manager would hear."""

import os
import select
import socket
import threading
import time
from pathlib import Path

from tests.probe import PATIENCE_S


class NotifySocket:
    """Binds ``path`` (or an abstract name) and keeps every datagram with the instant of its arrival.

    A thread reads all the time: the kernel queues no more than net.unix.max_dgram_qlen datagrams (10 by default), and
    what comes on top is lost.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = str(path)
        self.heard: list[tuple[float, dict[str, str]]] = []
        """(CLOCK_MONOTONIC seconds when it was read, its fields), in order."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + self.path[1:] if self.path.startswith("@") else self.path)
        self._socket.setblocking(False)
        self._news = threading.Condition()
        self._end_read, self._end_write = os.pipe()
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    @property
    def env(self) -> dict[str, str]:
        """The environment that names it."""
        return {"NOTIFY_SOCKET": self.path}

    def _listen(self) -> None:
        ends = [self._socket.fileno(), self._end_read]
        while self._end_read not in select.select(ends, [], [])[0]:
            self.read()

    def read(self) -> list[dict[str, str]]:
        """Take in what has come, and return everything heard so far."""
        with self._news:
            while True:
                try:
                    data = self._socket.recv(65536)
                except BlockingIOError:
                    self._news.notify_all()
                    return [fields for _, fields in self.heard]
                lines = data.decode("utf-8").splitlines()
                self.heard.append((time.monotonic(), dict(line.split("=", 1) for line in lines)))

    def expect(self, field: str, value: str | None = None, *, patience: float = PATIENCE_S) -> dict[str, str]:
        """Wait for the next datagram, behind those expected before, with this field (and value); return its fields."""
        end = time.monotonic() + patience
        while True:
            with self._news:
                for index in range(self._expected, len(self.heard)):
                    fields = self.heard[index][1]
                    if field in fields and (value is None or fields[field] == value):
                        self._expected = index + 1
                        return fields
                left = end - time.monotonic()
                assert left > 0, f"never heard {field}={value or '...'}; heard {[f for _, f in self.heard]!r}"
                self._news.wait(left)

    _expected = 0

    def close(self) -> None:
        """Stop listening, close and unlink it."""
        os.close(self._end_write)
        self._thread.join()
        os.close(self._end_read)
        self._socket.close()
        if not self.path.startswith("@") and os.path.exists(self.path):
            os.unlink(self.path)
