"""The photo booth with a window, as a reader would run it, without a screen."""

import re
import signal
import struct
import sys
from pathlib import Path

from tests.loops import needs
from tests.probe import Launcher, Probe

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def start_server(launch: Launcher, folder: Path, *options: str) -> str:
    """Start a photo server; return its address."""
    command = [sys.executable, str(EXAMPLES / "photo_server.py"), "--port", "0", "--folder", str(folder), *options]
    return launch.start(command).expect("listening on ")


def start_booth(launch: Launcher, *options: str) -> Probe:
    """Start a booth; return it when its loop runs."""
    needs.module("PySide6.QtWidgets")
    command = [sys.executable, str(EXAMPLES / "kiosk_window.py"), *options]
    booth = launch.start(command, env={"QT_QPA_PLATFORM": "offscreen"})
    booth.expect("open")
    return booth


def test_the_window_is_painted_until_the_last_photo_is_sent(launch: Launcher, tmp_path: Path) -> None:
    """Every photo is delivered, frames go by meanwhile, and the picture of the window is one of its size."""
    outbox, store, picture = tmp_path / "outbox", tmp_path / "store", tmp_path / "window.png"
    server = start_server(launch, store, "--rate", "600000")
    options = ["--outbox", str(outbox), "--server", server, "--photos", "4", "--picture", str(picture)]
    booth = start_booth(launch, *options)
    photos = {path.name: path.read_bytes() for path in outbox.iterdir()}
    booth.send(signal.SIGTERM)
    told = re.fullmatch(r"of 4 photos sent, (\d+) frames painted meanwhile", booth.expect("4 "))
    assert told is not None, booth.lines
    assert 10 <= int(told[1])
    assert 0 == booth.wait(), booth.stderr
    assert photos == {path.name: path.read_bytes() for path in store.iterdir()}
    assert [] == list(outbox.iterdir())
    png = picture.read_bytes()
    assert (b"\x89PNG\r\n\x1a\n", 800, 480) == (png[:8], *struct.unpack(">II", png[16:24]))


def test_what_could_not_be_sent_waits_for_the_next_start(launch: Launcher, tmp_path: Path) -> None:
    """A refused photo stays in the outbox, the booth leaves with 75, and the next one delivers it."""
    outbox, store = tmp_path / "outbox", tmp_path / "store"
    server = start_server(launch, store, "--refuse")
    booth = start_booth(launch, "--outbox", str(outbox), "--server", server, "--photos", "1")
    booth.send(signal.SIGTERM)
    booth.expect("0 of 1 photos sent")
    assert 75 == booth.wait(), booth.stderr
    (photo,) = outbox.iterdir()
    booth = start_booth(launch, "--outbox", str(outbox), "--server", start_server(launch, store))
    booth.send(signal.SIGTERM)
    booth.expect("1 of 1 photos sent")
    assert 0 == booth.wait(), booth.stderr
    assert [store / photo.name] == list(store.iterdir())
