"""The example for asyncio, as a reader would run it: a service between meters and a store that comes and goes."""

import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.probe import Launcher, Probe

PROGRAM = [sys.executable, str(Path(__file__).resolve().parents[2] / "examples" / "async_service.py")]


def start(launch: Launcher, folder: Path, *, grace: float = 60) -> Probe:
    """Start the service and wait until it listens."""
    options = ["--store", str(folder / "store"), "--left", str(folder / "left.txt"), "--grace", str(grace)]
    service = launch.start([*PROGRAM, "serve", str(folder / "meters"), *options])
    service.expect("listening on")
    return service


@contextmanager
def meter(folder: Path) -> Iterator[socket.socket]:
    """Connect to the service."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(60)
        connection.connect(str(folder / "meters"))
        yield connection


def tell(connection: socket.socket, reading: str) -> str:
    """Send a reading; return the answer."""
    connection.sendall(f"{reading}\n".encode())
    return connection.makefile().readline().strip()


def test_what_is_left_is_sent_by_the_worker_when_the_store_is_there(launch: Launcher, tmp_path: Path) -> None:
    """Readings that were taken reach the store in the grace period, and those that come then are refused."""
    service = start(launch, tmp_path)
    with meter(tmp_path) as connection:
        assert ["taken"] * 25 == [tell(connection, f"meter{number} 1.5") for number in range(25)]
        service.send(signal.SIGTERM)
        service.wait_until(service.children)
        assert "later" == tell(connection, "meter99 1.5")
        store = launch.start([*PROGRAM, "store", str(tmp_path / "store")])
        for number in range(25):
            assert f"meter{number} 1.5" == store.expect("stored")
        assert 0 == service.wait(), service.stderr
    assert 25 == len(store.lines)
    assert "" == (tmp_path / "left.txt").read_text()
    assert "" == service.stderr


def test_what_cannot_be_sent_in_time_is_sent_after_the_next_start(launch: Launcher, tmp_path: Path) -> None:
    """Without a store the worker writes the readings to a file when it is cancelled; the next start delivers them."""
    service = start(launch, tmp_path, grace=1)
    with meter(tmp_path) as connection:
        assert "taken" == tell(connection, "meter1 20")
    service.send(signal.SIGTERM)
    assert 75 == service.wait(), service.stderr

    store = launch.start([*PROGRAM, "store", str(tmp_path / "store")])
    service = start(launch, tmp_path)
    assert "meter1 20" == store.expect("stored")
    service.send(signal.SIGTERM)
    assert 0 == service.wait(), service.stderr
    assert "" == (tmp_path / "left.txt").read_text()
