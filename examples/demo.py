"""The demo: the kiosk is rehearsed. It is stopped with photos still to upload, and then what came of it is looked at.

A photo server and the kiosk run as real programs on 127.0.0.1 and in a temporary folder. ``capbg rehearse`` plays
systemd to the kiosk, with a TimeoutStopSec= that alone would be too short. Exit status 0 only if everything came out
as it should: by the rehearsal's verdict, and by what lies on the disk.

    python examples/demo.py                     about fifteen seconds
    python examples/demo.py --printer-hangs     one task never ends: it is killed and told, the rest is saved
    python examples/demo.py --break-server      the server refuses every photo: what is left is told
    python examples/demo.py --no-extensions     systemd grants none: what a plain TimeoutStopSec= does
"""

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent

TIMEOUT_STOP_S = 3
"""TimeoutStopSec=: less than the uploads take. Only extensions keep the kiosk alive."""
AFTER_S = 3
"""When the stop comes: the first photo is through (or refused), the next one is half sent."""
RATE = 600_000
SIZES = (1_300_000, 1_500_000, 1_700_000, 1_400_000, 1_600_000)


def paint(text: str, colour: str) -> str:
    """Colour text on a terminal."""
    plain = not sys.stdout.isatty() or os.environ.get("TERM") == "dumb" or "NO_COLOR" in os.environ
    return text if plain else f"\033[{colour}m{text}\033[0m"


def say(text: str = "") -> None:
    """Print a line now, in front of what the next program prints."""
    print(text, flush=True)


class Kiosk:
    """The kiosk's folder: what it is given, and what is in there afterwards."""

    def __init__(self, folder: Path) -> None:
        self.outbox, self.store = folder / "outbox", folder / "store"
        self.database, self.report = folder / "journal.sqlite", folder / "report.json"
        self.expected: dict[str, str] = {}
        """Checksums of the photos that must not be lost, by name."""

    def fill_outbox(self) -> None:
        """Leave photos that an earlier run could not send."""
        self.outbox.mkdir()
        for number, size in enumerate(SIZES, 1):
            content = b"\xff\xd8\xff\xe0" + os.urandom(size) + b"\xff\xd9"
            photo = self.outbox / f"{number:04}.jpg"
            photo.write_bytes(content)
            self.expected[photo.name] = hashlib.sha256(content).hexdigest()

    def command(self, server: str, *, printer_hangs: bool) -> list[str]:
        """How it is started."""
        options = ["--outbox", self.outbox, "--database", self.database, "--server", server, "--report", self.report]
        options += ["--grace", 40, "--every", 2, *(["--printer-hangs"] if printer_hangs else [])]
        return [sys.executable, str(HERE / "kiosk.py"), *map(str, options)]

    def checks(self) -> Iterator[tuple[str, bool]]:
        """What should be so, and whether it is."""
        left = sorted(photo.name for photo in self.outbox.glob("*.jpg"))
        stored = {photo.name: _checksum(photo) for photo in self.store.glob("*.jpg")}
        visits = self._visits()
        expected = {**visits, **self.expected}  # the journal knows the checksums of those taken meanwhile
        same = sum(stored.get(name) == digest for name, digest in expected.items())
        yield f"the server has every photo with its checksum: {same} of {len(expected)}", same == len(expected)
        yield f"left in the outbox: {', '.join(left) or 'nothing'}", not left
        taken = {photo.name for folder in (self.outbox, self.store) for photo in folder.glob("*.jpg")}
        taken -= self.expected.keys()
        text = f"the SQLite journal holds each photo that was taken: {len(visits)} of {len(taken)}"
        yield text, bool(visits) and visits.keys() == taken
        lasted = self._grace_period_s()
        text = f"extensions kept the kiosk alive beyond {TIMEOUT_STOP_S} s, until it was done: "
        yield text + (f"{lasted:.2f} s" if lasted else "it left no report"), lasted > TIMEOUT_STOP_S

    def _visits(self) -> dict[str, str]:
        with contextlib.closing(sqlite3.connect(self.database)) as connection:
            try:
                return dict(connection.execute("SELECT photo, sha256 FROM visits"))
            except sqlite3.OperationalError:
                return {}

    def _grace_period_s(self) -> float:
        if not self.report.exists():
            return 0.0
        found: dict[str, Any] = json.loads(self.report.read_text())
        return float(found["duration"])


@contextlib.contextmanager
def serving(store: Path, *, refuse: bool) -> Iterator[str]:
    """Run the photo server; give its address."""
    options = ["--port", "0", "--folder", str(store), "--rate", str(RATE), *(["--refuse"] if refuse else [])]
    command = [sys.executable, str(HERE / "photo_server.py"), *options]
    # A process group of its own: Ctrl-C is for the demo, which then ends what it has started.
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, process_group=0) as server:
        try:
            assert server.stdout is not None
            yield server.stdout.readline().decode().removeprefix("listening on ").strip()
        finally:
            server.kill()


def rehearse(command: list[str], *, extensions: bool) -> int:
    """Rehearse a stop of this command, on this terminal; return the exit status."""
    unit = ["--kill-mode", "mixed", "--stop-timeout", str(TIMEOUT_STOP_S)]
    # A program that nobody listens to cannot say that it is ready, either.
    unit += ["--type", "notify", "--watchdog", "30"] if extensions else ["--type", "exec", "--notify-access", "none"]
    rehearsal = [sys.executable, "-m", "capbg.cli", "rehearse", *unit, "--after", str(AFTER_S), "--", *command]
    with subprocess.Popen(rehearsal, stdin=subprocess.DEVNULL, env=_environment()) as running:
        try:
            return running.wait()
        finally:
            running.terminate()  # it ends what it has started


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _environment() -> dict[str, str]:
    """This one without what an operator put into it for a kiosk of his own."""
    dropped = ("CAPBG_", "KIOSK_", "STATE_DIRECTORY")
    return {key: value for key, value in os.environ.items() if not key.startswith(dropped)}


def play(folder: Path, asked: argparse.Namespace) -> bool:
    """Play the demo in ``folder`` and return whether everything came out as it should."""
    kiosk = Kiosk(folder)
    kiosk.fill_outbox()
    with serving(kiosk.store, refuse=asked.break_server) as server:
        command = kiosk.command(server, printer_hangs=asked.printer_hangs)
        status = rehearse(command, extensions=not asked.no_extensions)
        say(paint("\nIs everything as it should be?", "1"))
        checks = [(f"nothing was lost, says the rehearsal: exit status {status}", status == 0), *kiosk.checks()]
    for text, right in checks:
        first, *more = textwrap.wrap(text, 72)
        say((paint("  ok    ", "32") if right else paint("  WRONG ", "31")) + first)
        for rest in more:
            say(" " * 8 + rest)
    return all(right for _, right in checks)


def main() -> int:
    """Parse, play, tell."""
    parser = argparse.ArgumentParser(description="Watch a photo kiosk finish its work when systemd stops it.")
    parser.add_argument("--printer-hangs", action="store_true", help="one task never ends")
    parser.add_argument("--break-server", action="store_true", help="the server refuses every photo")
    parser.add_argument("--no-extensions", action="store_true", help="systemd grants no extension")
    asked = parser.parse_args()
    for signum in (signal.SIGTERM, signal.SIGHUP):  # so that this program, too, ends what it has started
        signal.signal(signum, lambda signum, _: sys.exit(128 + signum))
    say(paint("A photo kiosk is told to stop while it still has work to do", "1"))
    say(f"{len(SIZES)} photos wait in its outbox and its line is slow; TimeoutStopSec= alone would be too short.\n")
    folder = Path(tempfile.mkdtemp(prefix="capbg-demo-"))
    try:
        right = play(folder, asked)
    except KeyboardInterrupt:
        return 130
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if not right:
        say(f"\n{paint('Verdict: FAILED', '31')}. What is marked WRONG is not as it should be.")
        return 1
    say(f"\n{paint('Verdict: PASSED', '32')}. Nothing was lost.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
