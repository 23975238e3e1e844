"""The demo: a service manager in one file starts the kiosk, stops it, and looks at what came of it.

A photo server and the kiosk run as real programs on 127.0.0.1 and in a temporary folder. This program plays systemd:
it listens on a notify socket, sends SIGTERM, grants every extension the kiosk asks for and sends SIGKILL when none is
left. Exit status 0 only if everything came out as it should.

    python examples/demo.py                     about ten seconds
    python examples/demo.py --break-server      the server refuses every photo: what is left is told
    python examples/demo.py --no-extensions     the manager grants none: what a plain TimeoutStopSec= does
"""

import argparse
import contextlib
import hashlib
import json
import os
import selectors
import shutil
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

HERE = Path(__file__).resolve().parent

LIMIT_S = 60.0
"""For the whole demo, whatever happens."""
TIMEOUT_STOP_S, TIMEOUT_STOP_ALONE_S = 5.0, 2.0
"""TimeoutStopSec=, with extensions and without. Less than the printer's 6 s: only extensions keep the kiosk alive."""
PRINTER_S = 4.0 + 2.0
"""The printer task's deadline, and what comes between that and SIGKILL."""
SLACK_S = 10.0
"""How late a busy machine may be. The printer would hang for ever."""
RATE = 600_000
SIZES = (1_300_000, 1_500_000, 1_700_000, 1_400_000, 1_600_000)
WIDTH = 80
EX_TEMPFAIL = 75
NEVER = 2**64 - 1

BOLD, DIM, RED, GREEN, YELLOW, CYAN = "1", "2", "31", "32", "33", "36"
COLOURS = {"systemd": BOLD, "notify": CYAN, "kiosk": YELLOW, "server": DIM}
OUTCOMES = {"finished": GREEN, "killed": YELLOW}


class DemoError(Exception):
    """The demo cannot go on."""


class Screen:
    """Lines of at most 80 columns, coloured only on a terminal."""

    def __init__(self) -> None:
        self._colours = sys.stdout.isatty() and os.environ.get("TERM") != "dumb" and "NO_COLOR" not in os.environ
        self._began = time.monotonic()

    def paint(self, text: str, colour: str) -> str:
        return f"\033[{colour}m{text}\033[0m" if self._colours else text

    def line(self, text: str = "") -> None:
        print(text, flush=True)

    def title(self, text: str) -> None:
        self.line(f"\n{self.paint(text, BOLD)}")

    def clock(self, instant: float) -> str:
        return f"{instant - self._began:+.2f}"

    def event(self, who: str, *paragraphs: str, instant: float | None = None) -> None:
        """One thing that happened: when, who, what."""
        head = f"{self.clock(time.monotonic() if instant is None else instant):>7}  {who:<9}"
        for paragraph in paragraphs:
            # "40 %" stays on one line.
            for text in textwrap.wrap(paragraph.replace(" %", "\N{NO-BREAK SPACE}%"), WIDTH - 18):
                words = text.replace("\N{NO-BREAK SPACE}", " ")
                self.line(self.paint(head, DIM) + self.paint(words, COLOURS[who]))
                head = " " * 18

    def row(self, cells: tuple[str, str, str, str], *, colour: str = "") -> None:
        task, outcome, took, reason = cells
        first, *more = textwrap.wrap(reason, WIDTH - 39) or [""]
        self.line(f"  {task:<17} {self.paint(f'{outcome:<10}', colour)} {took:>6}  {first}")
        for text in more:
            self.line(" " * 39 + text)

    def check(self, text: str, *, right: bool) -> None:
        mark = self.paint("  ok    ", GREEN) if right else self.paint("  WRONG ", RED)
        first, *more = textwrap.wrap(text, WIDTH - 8)
        self.line(mark + first)
        for rest in more:
            self.line(" " * 8 + rest)


class Lines:
    """Lines from a pipe, read when the selector says that there is something."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._fd = pipe.fileno()
        self._rest = b""

    def fileno(self) -> int:
        return self._fd

    def read(self) -> tuple[list[str], bool]:
        """What has come, and whether that was the end."""
        data = os.read(self._fd, 65536)
        *lines, self._rest = (self._rest + (data or b"\n")).split(b"\n")
        return [line.decode(errors="replace") for line in lines if line], not data


class NotifySocket:
    """The manager's side of sd_notify(3)."""

    def __init__(self, name: str) -> None:
        self.path = f"@{name}"  # an abstract address: a path below a long $TMPDIR would not fit into 108 bytes
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind(f"\0{name}")

    def fileno(self) -> int:
        return self._socket.fileno()

    def read(self) -> tuple[int, list[str]] | None:
        """The next datagram's sender and lines."""
        try:
            data, ancillary, _, _ = self._socket.recvmsg(65536, socket.CMSG_SPACE(struct.calcsize("3i")))
        except BlockingIOError:
            return None
        pid, _, _ = struct.unpack("3i", ancillary[0][2])
        return pid, data.decode(errors="replace").splitlines()

    def close(self) -> None:
        self._socket.close()


class Demo:
    """The manager, and everything it has started."""

    def __init__(self, folder: Path, screen: Screen, asked: argparse.Namespace) -> None:
        self.screen = screen
        self.asked = asked
        self.timeout_stop_s = TIMEOUT_STOP_ALONE_S if asked.no_extensions else TIMEOUT_STOP_S
        self.outbox, self.store = folder / "outbox", folder / "store"
        self.database, self.report = folder / "journal.sqlite", folder / "report.json"
        self.expected: dict[str, str] = {}
        """Checksums of the photos that must not be lost, by name."""
        self.heard: list[str] = []
        """What the server said."""
        self.broken = ""
        """What has ended before its time."""
        self.ready = False
        self.strangers = 0
        """Datagrams from others than the main process, which systemd drops (NotifyAccess=main)."""
        self.kill_at: float | None = None
        """When TimeoutStopSec= and the extensions are over; None: the kiosk is not being stopped."""
        self.killed = False
        self.lived_s = 0.0
        """How long the kiosk lived from SIGTERM on."""
        self._end = time.monotonic() + LIMIT_S
        self._stack = contextlib.ExitStack()
        self._selector = self._stack.enter_context(selectors.DefaultSelector())
        self._notify = self._stack.enter_context(contextlib.closing(NotifySocket(f"capbg-demo-{os.getpid()}")))
        self._kiosk: subprocess.Popen[bytes] | None = None

    def close(self) -> None:
        """End what was started, and nothing else."""
        self._stack.close()

    # ------------------------------------------------------------------------------------------------- starting

    def _start(self, program: str, *arguments: object, env: dict[str, str], **pipes: Any) -> subprocess.Popen[bytes]:
        # A process group of its own: Ctrl-C at the demo is for the demo, which then ends what it started.
        command = [sys.executable, str(HERE / program), *map(str, arguments)]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=env, process_group=0, **pipes)
        self._stack.callback(_end_process, process)
        return process

    def start_server(self) -> str:
        """Start the photo server and return its address."""
        options = ["--port", 0, "--folder", self.store, "--rate", RATE]
        options += ["--refuse"] if self.asked.break_server else []
        server = self._start("photo_server.py", *options, env=_environment(), stdout=subprocess.PIPE)
        assert server.stdout is not None
        self._watch(Lines(server.stdout), self._on_server)
        self.wait(lambda: self.heard, "the server does not listen")
        return self.heard.pop().removeprefix("listening on ")

    def fill_outbox(self) -> None:
        """Photos that an earlier run could not send."""
        self.outbox.mkdir()
        for number, size in enumerate(SIZES, 1):
            content = b"\xff\xd8\xff\xe0" + os.urandom(size) + b"\xff\xd9"
            photo = self.outbox / f"{number:04}.jpg"
            photo.write_bytes(content)
            self.expected[photo.name] = hashlib.sha256(content).hexdigest()

    def start_kiosk(self, server: str) -> None:
        """Start the kiosk as systemd would a Type=notify service."""
        options = ["--outbox", self.outbox, "--database", self.database, "--server", server, "--report", self.report]
        options += ["--grace", 40, "--every", 2, "--printer-hangs"]
        env = {**_environment(), "NOTIFY_SOCKET": self._notify.path}
        self._kiosk = self._start("kiosk.py", *options, env=env, stderr=subprocess.PIPE)
        assert self._kiosk.stderr is not None
        self._watch(self._notify, self._on_notify)
        self._watch(Lines(self._kiosk.stderr), self._on_kiosk)
        pidfd = os.pidfd_open(self._kiosk.pid)
        self._stack.callback(os.close, pidfd)
        self._watch(pidfd, self._on_exit)
        self.screen.event("systemd", f"started the kiosk, process {self._kiosk.pid}")
        self.wait(lambda: self.ready, "the kiosk does not get ready")

    # ------------------------------------------------------------------------------------------------ listening

    def _watch(self, source: Any, call: Callable[[Any], None]) -> None:
        self._selector.register(source, selectors.EVENT_READ, lambda: call(source))

    def wait(self, condition: Callable[[], object], complaint: str, *, patience: float = LIMIT_S) -> bool:
        """Show what happens until ``condition`` holds, or ``patience`` is over: then False. Bounded by LIMIT_S."""
        until = time.monotonic() + patience
        while not condition():
            now = time.monotonic()
            if self.broken:
                raise DemoError(self.broken)
            if now >= self._end:
                raise DemoError(f"after {LIMIT_S:g} s {complaint}")
            if now >= until:
                return False
            instants = [until, self._end, *([] if self.kill_at is None else [self.kill_at])]
            for key, _ in self._selector.select(max(0.0, min(instants) - now)):
                key.data()
            # In this order: an extension that has arrived counts, even if this program was late to read it.
            if self.kill_at is not None and time.monotonic() >= self.kill_at and not self._exited():
                self._kill()
        return True

    def _on_server(self, source: Lines) -> None:
        lines, ended = source.read()
        if ended:
            self._selector.unregister(source)
            self.broken = "the server has ended"
        self.heard += lines
        for line in lines:
            self.screen.event("server", line)

    def _on_kiosk(self, source: Lines) -> None:
        lines, ended = source.read()
        if ended:
            self._selector.unregister(source)
        for line in lines:
            self.screen.event("kiosk", line)

    def _on_exit(self, pidfd: int) -> None:
        self._selector.unregister(pidfd)
        if self.kill_at is None and not self.killed:
            self.broken = "the kiosk has ended before it was told to"

    def _on_notify(self, source: NotifySocket) -> None:
        assert self._kiosk is not None
        while (datagram := source.read()) is not None:
            arrived = time.monotonic()
            pid, lines = datagram
            if pid != self._kiosk.pid:
                self.strangers += 1
                continue
            for line in lines:
                self._obey(line, arrived)
            plain = [line for line in lines if not line.startswith("STATUS=")]
            if any(line.startswith("EXTEND_") for line in plain) and self.kill_at is not None:
                plain.append(f"(SIGKILL at {self.screen.clock(self.kill_at)})")
            self.screen.event(
                "notify", *filter(None, ["  ".join(plain)]), *(line for line in lines if line.startswith("STATUS="))
            )

    def _obey(self, line: str, arrived: float) -> None:
        field, _, value = line.partition("=")
        if field == "READY" and value == "1":
            self.ready = True
        if field != "EXTEND_TIMEOUT_USEC" or self.asked.no_extensions or self.kill_at is None:
            return  # one that came before the stop is lost: entering the stop sets the timer anew
        if value.isdecimal() and 0 < int(value) < NEVER:
            self.kill_at = max(self.kill_at, arrived + int(value) / 1e6)  # it only ever lengthens

    # ------------------------------------------------------------------------------------------------- stopping

    def _exited(self) -> bool:
        assert self._kiosk is not None
        return self._kiosk.poll() is not None

    def _kill(self) -> None:
        assert self._kiosk is not None
        self.kill_at = None
        self.killed = True
        self.screen.event("systemd", "State 'stop-sigterm' timed out. Killing: SIGKILL")
        self._kiosk.kill()

    def stop_kiosk(self) -> None:
        """Do what ``systemctl stop`` does, and wait for the end."""
        assert self._kiosk is not None
        self.screen.event("systemd", f"SIGTERM, with SIGCONT behind it; TimeoutStopSec={self.timeout_stop_s:g}")
        began = time.monotonic()
        self.kill_at = began + self.timeout_stop_s
        self._kiosk.send_signal(signal.SIGTERM)
        self._kiosk.send_signal(signal.SIGCONT)
        self.wait(self._exited, "the kiosk does not leave")
        left = time.monotonic()
        self.lived_s = left - began
        self.wait(lambda: False, "", patience=0.2)  # the last words
        text = f"the kiosk has left, {self.lived_s:.2f} s after SIGTERM: {self._exit_text()}"
        self.screen.event("systemd", text, instant=left)

    def _exit_text(self) -> str:
        assert self._kiosk is not None
        status = self._kiosk.returncode
        if status < 0:
            return f"killed by {signal.Signals(-status).name}"
        return f"exit status {status}{' (EX_TEMPFAIL: something is left)' if status == EX_TEMPFAIL else ''}"

    # -------------------------------------------------------------------------------------------------- judging

    def judge(self) -> bool:
        """Show what came of it, and return whether all of it is right."""
        results = self._results()
        self.screen.title("How each task ended, in the order of their ends")
        self.screen.row(("task", "outcome", "took", "reason"))
        for each in results:
            took = "" if each["duration"] is None else f"{each['duration']:.2f} s"
            colour = OUTCOMES.get(each["outcome"], RED)
            self.screen.row((each["name"], each["outcome"].upper(), took, each["reason"]), colour=colour)
        if not results:
            self.screen.line("  nothing is known: the kiosk left no report")

        self.screen.title("Is everything as it should be?")
        checks = [*self._photos(), self._printer(results), self._journal(), *self._kiosk_itself()]
        for text, right in checks:
            self.screen.check(text, right=right)
        return all(right for _, right in checks)

    def _results(self) -> list[dict[str, Any]]:
        if not self.report.exists():
            return []
        found: list[dict[str, Any]] = json.loads(self.report.read_text())["results"]
        return found

    def _rows(self) -> dict[str, str]:
        with contextlib.closing(sqlite3.connect(self.database)) as connection:
            try:
                return dict(connection.execute("SELECT photo, sha256 FROM visits"))
            except sqlite3.OperationalError:
                return {}

    def _photos(self) -> list[tuple[str, bool]]:
        left = sorted(photo.name for photo in self.outbox.glob("*.jpg"))
        stored = {photo.name: _checksum(photo) for photo in self.store.glob("*.jpg")}
        expected = {**self._rows(), **self.expected}  # the journal knows the checksums of those taken meanwhile
        same = sum(stored.get(name) == digest for name, digest in expected.items())
        yes = f"the server has every photo with its checksum: {same} of {len(expected)}"
        return [(yes, same == len(expected)), (f"left in the outbox: {', '.join(left) or 'nothing'}", not left)]

    def _printer(self, results: list[dict[str, Any]]) -> tuple[str, bool]:
        receipt = next((each for each in results if each["name"] == "receipt"), None)
        if receipt is None or receipt["duration"] is None:
            return "the printer that hangs was killed in time: nothing is known", False
        took = receipt["duration"]
        right = receipt["outcome"] == "killed" and PRINTER_S <= took < PRINTER_S + SLACK_S
        return f"the printer that hangs was killed after {PRINTER_S:g} s: {receipt['outcome']} at {took:.2f} s", right

    def _journal(self) -> tuple[str, bool]:
        rows = self._rows()
        taken = {photo.name for folder in (self.outbox, self.store) for photo in folder.glob("*.jpg")}
        taken -= self.expected.keys()
        text = f"the SQLite journal holds each photo that was taken: {len(rows)} of {len(taken)}"
        return text, bool(rows) and rows.keys() == taken

    def _kiosk_itself(self) -> list[tuple[str, bool]]:
        assert self._kiosk is not None
        status = self._kiosk.returncode
        lived = (
            f"extensions kept the kiosk alive beyond {self.timeout_stop_s:g} s, until it was done: {self.lived_s:.2f} s"
        )
        return [
            (lived, not self.killed and self.lived_s > self.timeout_stop_s),
            (
                f"it left by itself with status 75, for the receipt is not printed: {status}",
                status == EX_TEMPFAIL,
            ),
            (f"nobody but the main process talked to the manager: {self.strangers} datagrams", not self.strangers),
        ]


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _environment() -> dict[str, str]:
    """This one without what another service manager, or an operator, put into it."""
    dropped = ("NOTIFY_SOCKET", "WATCHDOG_", "CAPBG_", "KIOSK_", "STATE_DIRECTORY")
    return {key: value for key, value in os.environ.items() if not key.startswith(dropped)}


def _end_process(process: subprocess.Popen[bytes]) -> None:
    process.kill()  # the kiosk's workers die with it: the kernel sees to that
    process.wait()
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


def play(folder: Path, screen: Screen, asked: argparse.Namespace) -> bool:
    """Play the demo in ``folder`` and return whether everything came out as it should."""
    demo = Demo(folder, screen, asked)
    try:
        demo.fill_outbox()
        server = demo.start_server()
        demo.start_kiosk(server)
        # Until the first photo is through (or refused), and a little longer, so that the next one is half sent.
        demo.wait(lambda: demo.heard, "the server hears of no photo")
        demo.wait(lambda: False, "", patience=1.0)
        demo.stop_kiosk()
        return demo.judge()
    finally:
        demo.close()


def main() -> int:
    parser = argparse.ArgumentParser(description="Watch a photo kiosk finish its work after SIGTERM.")
    parser.add_argument("--break-server", action="store_true", help="the server refuses every photo")
    parser.add_argument("--no-extensions", action="store_true", help="the manager grants no extension")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that this program, too, ends what it has started
    screen = Screen()
    screen.line(screen.paint("A photo kiosk is told to stop while it still has work to do", BOLD))
    screen.line(
        f"{len(SIZES)} photos wait in its outbox, its line is slow, its receipt printer hangs. This\n"
        "program plays systemd, with a TimeoutStopSec= that alone would be too short.\n"
    )
    folder = Path(tempfile.mkdtemp(prefix="capbg-demo-"))
    try:
        right = play(folder, screen, asked)
    except DemoError as error:
        screen.line(f"\n{screen.paint('Verdict: FAILED', RED)}. The demo could not be played: {error}.")
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if not right:
        screen.line(f"\n{screen.paint('Verdict: FAILED', RED)}. What is marked WRONG is not as it should be.")
        return 1
    verdict = screen.paint("Verdict: PASSED", GREEN)
    screen.line(f"\n{verdict}. Nothing was lost, and what hung did not hold up the rest.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
