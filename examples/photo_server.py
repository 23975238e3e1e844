"""A small photo server for the kiosk: PUT /photos/NAME stores a photo, once its checksum is right.

    python examples/photo_server.py --port 8000 --folder photos --rate 600000

It listens on 127.0.0.1 only. ``--rate`` slows each upload down to so many bytes a second; ``--refuse`` plays a server
whose disk is full. Each line on standard output tells of one upload.
"""

import argparse
import hashlib
import os
import re
import socket
import sys
import tempfile
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

CHUNK = 1 << 14


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


class PhotoServer(ThreadingHTTPServer):
    def __init__(self, port: int, *, folder: Path, rate: float, refuse: bool) -> None:
        self.folder = folder
        self.rate = rate
        self.refuse = refuse
        super().__init__(("127.0.0.1", port), PhotoHandler)

    def server_bind(self) -> None:
        # Inherited by every connection. Small, or the kernel would take in whole photos however slowly we read.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        super().server_bind()

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A sender that leaves before it has its answer will send the photo again.
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class PhotoHandler(BaseHTTPRequestHandler):
    server: PhotoServer
    timeout = 30.0
    """Seconds without a byte after which a connection is dropped."""

    def do_PUT(self) -> None:
        name = re.fullmatch(r"/photos/(\w[\w.-]*)", self.path, re.ASCII)
        length = self.headers.get("Content-Length", "")
        if name is None or not length.isdecimal():
            self.send_error(HTTPStatus.BAD_REQUEST)
            return
        # A file of its own for each upload, renamed when it is whole: the same photo may come twice at a time.
        part = tempfile.NamedTemporaryFile(dir=self.server.folder, prefix=".", delete=False)  # noqa: SIM115
        try:
            with part:
                digest = self._receive(part.fileno(), name[1], int(length))
            if digest is not None:
                self._answer(name[1], Path(part.name), digest, int(length))
        finally:
            Path(part.name).unlink(missing_ok=True)

    def _receive(self, fd: int, name: str, length: int) -> str | None:
        sha256 = hashlib.sha256()
        began = time.monotonic()
        got = 0
        while got < length:
            try:
                chunk = self.rfile.read(min(CHUNK, length - got))
            except OSError:
                chunk = b""
            if not chunk:
                say(f"dropped {name}: the sender left after {got / 1e6:.1f} of {length / 1e6:.1f} MB")
                self.close_connection = True
                return None
            os.write(fd, chunk)
            sha256.update(chunk)
            got += len(chunk)
            if self.server.rate:
                time.sleep(max(0.0, began + got / self.server.rate - time.monotonic()))
        return sha256.hexdigest()

    def _answer(self, name: str, part: Path, digest: str, length: int) -> None:
        if self.server.refuse:
            say(f"refused {name}")
            self.send_error(HTTPStatus.INSUFFICIENT_STORAGE)
        elif digest != self.headers.get("X-Checksum-Sha256"):
            say(f"refused {name}: its checksum is wrong")
            self.send_error(HTTPStatus.UNPROCESSABLE_ENTITY)
        else:
            part.replace(self.server.folder / name)
            say(f"stored {name}, {length / 1e6:.1f} MB")
            self.send_response(HTTPStatus.CREATED)
            self.send_header("Content-Length", str(len(digest)))
            self.end_headers()
            self.wfile.write(digest.encode())

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: each upload has its line already."""


def main() -> None:
    parser = argparse.ArgumentParser(description="A small photo server on 127.0.0.1.")
    parser.add_argument("--port", type=int, default=8000, help="0: a free one")
    parser.add_argument("--folder", type=Path, default=Path("photos"), help="where photos are stored")
    parser.add_argument("--rate", type=float, default=0.0, help="bytes a second for each upload; 0: no limit")
    parser.add_argument("--refuse", action="store_true", help="refuse every upload: 507, the disk is full")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    with PhotoServer(asked.port, folder=asked.folder, rate=asked.rate, refuse=asked.refuse) as server:
        say(f"listening on http://127.0.0.1:{server.server_address[1]}")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main()
