"""A real notify socket: what systemd would hear of a program under measurement."""

import os
import select
import socket
import tempfile
import threading
import time


class NotifySocket:
    """A notify socket, and what it has heard: (CLOCK_MONOTONIC ns, fields). A thread empties its short queue."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, dict[str, str]]] = []
        self._directory = tempfile.TemporaryDirectory()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self._path)
        self._end_read, self._end_write = os.pipe()
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    @property
    def _path(self) -> str:
        return f"{self._directory.name}/notify"

    @property
    def env(self) -> dict[str, str]:
        """The environment that names it."""
        return {"NOTIFY_SOCKET": self._path}

    def _listen(self) -> None:
        while self._end_read not in select.select([self._socket.fileno(), self._end_read], [], [])[0]:
            data = self._socket.recv(65536)
            self.heard.append((time.monotonic_ns(), dict(line.split("=", 1) for line in data.decode().splitlines())))

    def __enter__(self) -> "NotifySocket":
        return self

    def __exit__(self, *_exc: object) -> None:
        os.close(self._end_write)
        self._thread.join()
        os.close(self._end_read)
        self._socket.close()
        self._directory.cleanup()
