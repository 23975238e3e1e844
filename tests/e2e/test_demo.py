"""The examples, as a reader would run them: the demo passes, notices what is broken, and leaves nothing behind."""

import os
import re
import signal
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

from tests.notify_socket import NotifySocket
from tests.probe import Launcher, Probe, session_members

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
LEFT_BEFORE = [f"000{number}.jpg" for number in range(1, 6)]
"""The photos the demo puts into the outbox."""


def play(launch: Launcher, folder: Path, *options: str) -> tuple[int, str]:
    """Run the demo; return its exit status and what it printed. Whatever came of it, it has to clean up."""
    temporary = folder / "tmp"
    temporary.mkdir()
    places = {"TMPDIR": str(temporary), "XDG_RUNTIME_DIR": str(temporary)}
    demo = launch.start([sys.executable, str(EXAMPLES / "demo.py"), *options], env=places)
    status = demo.wait(patience=120)
    # It left no process, whatever session that is in: its programs have their files in the folder.
    demo.wait_until(lambda: not session_members(demo.pid) and not named_by(str(temporary)))
    assert [] == os.listdir(temporary), "it left its folder, or the rehearsal its socket"
    assert "" == demo.stderr
    assert [] == [line for line in demo.lines if "\033" in line], "no plain text"
    return status, "\n".join(demo.lines)


def named_by(text: str) -> list[str]:
    """Command lines of living processes that hold this text."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        found += [command] if text in command else []
    return found


def outcomes(text: str) -> dict[str, str]:
    """What the rehearsal told of each task last."""
    return dict(re.findall(r"^ *\+[\d.]+  task +(\S+) (\w+)", text, re.MULTILINE))


def start_server(launch: Launcher, folder: Path, *options: str) -> str:
    """Start a photo server; return its address."""
    command = [sys.executable, str(EXAMPLES / "photo_server.py"), "--port", "0", "--folder", str(folder), *options]
    return launch.start(command).expect("listening on ")


def start_kiosk(launch: Launcher, notify_socket: NotifySocket, folder: Path, server: str) -> Probe:
    """Start a kiosk that takes one photo; return it when that is done."""
    state = {"STATE_DIRECTORY": str(folder), "KIOSK_SERVER": server, **notify_socket.env}
    options = ["--every", "3600", "--photo-size", "100000"]
    kiosk = launch.start([sys.executable, str(EXAMPLES / "kiosk.py"), *options], env=state)
    notify_socket.expect("READY", "1")
    kiosk.wait_until(lambda: "took " in kiosk.stderr)
    return kiosk


def test_the_demo_passes(launch: Launcher, tmp_path: Path) -> None:
    """The demo ends with 0 and a verdict: nothing was lost, every photo is delivered, and extensions were needed."""
    status, text = play(launch, tmp_path)
    assert (0, []) == (status, re.findall("^  WRONG.*", text, re.MULTILINE)), text
    assert "Verdict: PASSED" in text.splitlines()[-1]
    assert "PASSED: nothing was lost." in text
    found = outcomes(text)
    assert {"finished"} == set(found.values())
    assert {"journal", LEFT_BEFORE[-1]} <= found.keys()  # the first ones went in the active phase
    assert re.search(r"\.jpg \d+ %", text), "no progress was shown"


def test_the_demo_tells_what_hangs(launch: Launcher, tmp_path: Path) -> None:
    """A printer that never answers is killed at its deadline, and named; all else is saved."""
    status, text = play(launch, tmp_path, "--printer-hangs")
    assert 1 == status, text
    assert ["  WRONG nothing was lost, says the rehearsal: exit status 1"] == re.findall("^  WRONG.*", text, re.M)
    assert "Task receipt was killed" in " ".join(text.split())
    found = outcomes(text)
    assert "killed" == found.pop("receipt")
    assert {"finished"} == set(found.values())


def test_the_demo_notices_a_server_that_refuses(launch: Launcher, tmp_path: Path) -> None:
    """With a broken server the demo fails, the rehearsal tells which uploads are left, and they still exist."""
    status, text = play(launch, tmp_path, "--break-server")
    assert 1 == status, text
    assert "Verdict: FAILED" in text.splitlines()[-1]
    found = outcomes(text)
    assert "finished" == found.pop("journal")
    assert {"failed"} == set(found.values())
    assert set(LEFT_BEFORE) < found.keys()
    assert f"left in the outbox: {', '.join(LEFT_BEFORE)}" in " ".join(text.split())


def test_the_demo_notices_a_kiosk_that_is_killed(launch: Launcher, tmp_path: Path) -> None:
    """A manager that grants no extension sends SIGKILL at TimeoutStopSec=, and the demo says that this is wrong."""
    status, text = play(launch, tmp_path, "--no-extensions")
    assert 1 == status, text
    assert "Result=timeout" in text
    assert "WRONG extensions kept the kiosk alive" in text
    assert "Verdict: FAILED" in text.splitlines()[-1]


def test_what_a_kiosk_could_not_send_is_sent_after_a_restart(
    launch: Launcher, notify_socket: NotifySocket, tmp_path: Path
) -> None:
    """A photo that is refused stays in the outbox, the kiosk leaves with 75, and the next start delivers it."""
    outbox, store = tmp_path / "outbox", tmp_path / "store"
    kiosk = start_kiosk(launch, notify_socket, tmp_path, start_server(launch, store, "--refuse"))
    kiosk.send(signal.SIGTERM)
    assert 75 == kiosk.wait(), kiosk.stderr
    (photo,) = outbox.iterdir()
    content = photo.read_bytes()
    assert [] == os.listdir(store)

    kiosk = start_kiosk(launch, notify_socket, tmp_path, start_server(launch, store))
    kiosk.wait_until(lambda: not list(outbox.iterdir()))
    kiosk.send(signal.SIGTERM)
    assert 0 == kiosk.wait(), kiosk.stderr
    assert content == (store / photo.name).read_bytes()
    with closing(sqlite3.connect(tmp_path / "journal.sqlite")) as journal:
        rows = {name for (name,) in journal.execute("SELECT photo FROM visits")}
    assert set(os.listdir(store)) == rows
    assert 2 == len(rows)
