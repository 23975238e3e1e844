"""A photo kiosk that loses nothing when it is told to stop.

It takes photos into an outbox folder and uploads them, oldest first, over a slow line. Told to stop (SIGTERM) or to
suspend (SIGTSTP), it lets capbg send what is left, each photo in a worker of its own, and write the journal. What
cannot be sent in time stays in the outbox for the next start, and the exit status is 75 (EX_TEMPFAIL).

    python examples/photo_server.py --port 8000 &
    python examples/kiosk.py --server http://127.0.0.1:8000

As a service it needs Type=notify, KillMode=mixed and a TimeoutStopSec= above the grace; WatchdogSec= above 20 s.
"""

import argparse
import contextlib
import dataclasses
import hashlib
import http.client
import json
import logging
import os
import signal
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import capbg

log = logging.getLogger("kiosk")

LINE_PATIENCE_S = 10.0
"""How long the line may be silent while the kiosk is at work. No heartbeat meanwhile: keep WatchdogSec= above it."""
RETRY_S = 5.0
UPLOAD_DEADLINE_S, JOURNAL_DEADLINE_S, RECEIPT_DEADLINE_S = 60.0, 10.0, 4.0
BATCH = 50
"""How many visits are written at a time while the kiosk is at work."""


class LineOverSocket(http.client.HTTPConnection):
    """HTTP over a Unix socket: the way out of a service without a network (systemd/kiosk-hardened.service)."""

    socket_path = ""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.socket_path)


def line_to(server: str, *, timeout: float) -> http.client.HTTPConnection:
    """A connection yet to be opened, to http://HOST:PORT or unix:/PATH/OF/A/SOCKET."""
    url = urlsplit(server)
    if url.scheme != "unix":
        return http.client.HTTPConnection(url.hostname or "", url.port, timeout=timeout)
    line = LineOverSocket(url.hostname or "localhost", timeout=timeout)
    line.socket_path = url.path
    return line


def upload(photo: Path, server: str, *, patience: Callable[[], float], progress: Callable[[int, int], object]) -> None:
    """Send one photo. It leaves the outbox when the server has confirmed its checksum, and not before."""
    try:
        content = photo.read_bytes()
    except FileNotFoundError:
        return  # delivered meanwhile: after a suspension a worker and the main loop may be at the same photo
    digest = hashlib.sha256(content).hexdigest()
    connection = line_to(server, timeout=patience())
    with contextlib.closing(connection):
        connection.connect()
        # A small buffer: progress then tells what has left this machine, not what its kernel has yet to send.
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)

        def parts() -> Iterator[bytes]:
            for start in range(0, len(content), 1 << 15):
                progress(start, len(content))
                connection.sock.settimeout(patience())
                yield content[start : start + (1 << 15)]

        headers = {"Content-Length": str(len(content)), "X-Checksum-Sha256": digest}
        connection.request("PUT", f"/photos/{photo.name}", body=parts(), headers=headers)
        connection.sock.settimeout(patience())
        answer = connection.getresponse()
        confirmed = answer.read().decode(errors="replace").strip()
    if answer.status != http.client.CREATED or confirmed != digest:
        raise ConnectionError(f"the server answered {answer.status} {answer.reason}")
    photo.unlink(missing_ok=True)
    progress(len(content), len(content))


def waiting(outbox: Path) -> list[Path]:
    """The photos in the outbox, oldest first. None is half written: they are renamed when they are whole."""
    return sorted(outbox.glob("*.jpg"))


def take_photo(outbox: Path, size: int) -> tuple[str, float, str]:
    """Play the camera. Return the line for the journal: name, time, checksum."""
    content = b"\xff\xd8\xff\xe0" + os.urandom(size) + b"\xff\xd9"
    name = f"{time.time_ns() // 1_000_000:x}.jpg"  # milliseconds: sorted by name is sorted by age
    part = outbox / f"{name}.part"
    part.write_bytes(content)
    part.rename(outbox / name)
    return name, time.time(), hashlib.sha256(content).hexdigest()


def write_journal(database: Path, visits: list[tuple[str, float, str]]) -> None:
    """Commit visits. Twice does no harm: after a suspension they may have been written by a worker already."""
    # A connection for this once: SQLite's must not be carried over a fork (https://sqlite.org/howtocorrupt.html, 2.6).
    with contextlib.closing(sqlite3.connect(database, timeout=JOURNAL_DEADLINE_S / 2)) as connection, connection:
        connection.execute("CREATE TABLE IF NOT EXISTS visits (photo TEXT PRIMARY KEY, taken REAL, sha256 TEXT)")
        connection.executemany("INSERT OR IGNORE INTO visits VALUES (?, ?, ?)", visits)


def settings() -> argparse.Namespace:
    state = Path(os.environ.get("STATE_DIRECTORY", "."))  # systemd sets it for StateDirectory=
    env = os.environ.get
    parser = argparse.ArgumentParser(description="A photo kiosk. Each variable in brackets gives an option's default.")
    parser.add_argument("--outbox", type=Path, default=env("KIOSK_OUTBOX", state / "outbox"), help="[KIOSK_OUTBOX]")
    parser.add_argument(
        "--database", type=Path, default=env("KIOSK_DATABASE", state / "journal.sqlite"), help="[KIOSK_DATABASE]"
    )
    parser.add_argument("--server", default=env("KIOSK_SERVER", "http://127.0.0.1:8000"), help="[KIOSK_SERVER]")
    parser.add_argument("--grace", type=float, default=180.0, help="seconds to finish in; CAPBG_GRACE overrides it")
    parser.add_argument("--every", type=float, default=20.0, help="seconds between two visitors")
    parser.add_argument("--photo-size", type=int, default=1_500_000, help="bytes of a photo")
    parser.add_argument("--report", type=Path, help="write what came of the grace period to this file, as JSON")
    parser.add_argument("--printer-hangs", action="store_true", help="have a receipt printer that does not answer")
    return parser.parse_args()


def main() -> None:
    asked = settings()
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # the journal knows the time
    asked.outbox.mkdir(parents=True, exist_ok=True)
    visits: list[tuple[str, float, str]] = []  # in memory, written in batches: memory cards wear out
    # Four uploads at a time are enough for a slow line, however full the outbox is.
    app = capbg.App("kiosk", grace=asked.grace, max_workers=4)

    @app.background_task(deadline=JOURNAL_DEADLINE_S)
    def journal() -> None:
        write_journal(asked.database, visits)

    if asked.printer_hangs:

        @app.background_task(deadline=RECEIPT_DEADLINE_S)
        def receipt() -> None:
            # What bad drivers do: they wait for ever, and no signal but SIGKILL gets through to them.
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            ours, _printer = socket.socketpair()
            ours.recv(1)

    def rest(photo: Path) -> Callable[[capbg.Task], None]:
        def send(task: capbg.Task) -> None:
            # Never 0: that would make the socket a non-blocking one.
            upload(photo, asked.server, patience=lambda: max(0.1, task.time_remaining()), progress=task.progress)
            task.finish()  # only now: whatever raised above leaves the photo in the outbox, and the task failed

        return send

    def state_changed(state: capbg.AppState) -> None:
        # No logging in listeners: they may be called in the middle of a log call of the main loop.
        if not state.is_active:
            for photo in waiting(asked.outbox):
                app.before_exit(rest(photo), name=photo.name, deadline=UPLOAD_DEADLINE_S)

    def grace_ended(report: capbg.GraceReport) -> None:
        if asked.report is not None:
            asked.report.write_text(json.dumps(dataclasses.asdict(report), default=lambda enum: enum.value, indent=1))

    app.add_listener("appStateChange", state_changed)
    app.add_listener("graceEnded", grace_ended)

    with app:
        next_visit = next_try = time.monotonic()
        while True:
            app.heartbeat()
            now = time.monotonic()
            if now >= next_visit:
                next_visit = now + asked.every
                # Or workers could be forked between a photo and its visit, or while we hold the database's lock.
                with app.critical():
                    visit = take_photo(asked.outbox, asked.photo_size)
                    visits.append(visit)
                    if len(visits) >= BATCH:
                        with contextlib.suppress(sqlite3.OperationalError):  # locked: again with the next visit
                            write_journal(asked.database, visits)
                            visits.clear()
                log.info("took %s", visit[0])
            elif now >= next_try and (photos := waiting(asked.outbox)):
                try:
                    upload(
                        photos[0], asked.server, patience=lambda: LINE_PATIENCE_S, progress=lambda *_: app.heartbeat()
                    )
                    log.info("uploaded %s", photos[0].name)
                except (OSError, http.client.HTTPException) as error:
                    next_try = now + RETRY_S
                    log.warning("%s is not uploaded, next try in %g s: %s", photos[0].name, RETRY_S, error)
            else:
                time.sleep(0.05)


if __name__ == "__main__":
    main()
