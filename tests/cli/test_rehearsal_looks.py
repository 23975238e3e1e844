"""What a rehearsal looks like: on a real terminal (a pty, read by pyte), as lines, report, JSON and picture."""

import fcntl
import io
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import pyte
import pytest
from rich.cells import cell_len
from rich.console import Console

from capbg._core.words import NS
from capbg.cli.rehearsal import picture, report
from capbg.cli.rehearsal.chart import Chart
from capbg.cli.rehearsal.lines import Lines
from capbg.cli.rehearsal.record import Entry, Report, Who
from capbg.cli.rehearsal.timeline import window
from tests.cli import samples
from tests.probe import Launcher

ROOT = Path(__file__).parents[2]
DRAWER = """
import sys
from rich.console import Console
from capbg.cli.rehearsal.screen import Screen
from tests.cli import samples

print("before", flush=True)
with Screen(Console()) as screen:
    for turn, line in enumerate(sys.stdin):
        if line == "raise\\n":
            raise KeyboardInterrupt
        number = int(line)
        screen.show(samples.busy(number) if number >= 0 else samples.now(entries=samples.odd().entries))
        print(end=f"\\x1b]2;{turn}\\x07", flush=True)  # the window's title: this drawing is whole
print("after", flush=True)
"""


class Terminal:
    """A terminal with a program on it that draws a look at so many tasks for each line of its standard input."""

    def __init__(self, columns: int, rows: int, **environ: str) -> None:
        self.screen = pyte.Screen(columns, rows)
        self.raw = b""
        self._stream = pyte.ByteStream(self.screen)
        self._turn = 0
        self._fd, theirs = pty.openpty()
        self.resize(columns, rows)
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        environ = {"PATH": os.environ["PATH"], "PYTHONPATH": path, "TERM": "xterm-256color", **environ}
        command = [sys.executable, "-c", DRAWER]
        try:
            self._program = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=theirs,
                stderr=subprocess.DEVNULL,
                env=environ,
                cwd=ROOT,
                bufsize=0,
            )
        finally:
            os.close(theirs)

    def resize(self, columns: int, rows: int) -> None:
        """As if the window was dragged."""
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.screen.resize(rows, columns)

    def show(self, number: int) -> list[str]:
        """Have so many tasks drawn (-1: what is odd); the rows of the terminal."""
        self._order(f"{number}\n")
        while self.screen.title != str(self._turn):
            self._feed(os.read(self._fd, 65536))
        self._turn += 1
        return list(self.screen.display)

    def end(self, order: str = "") -> list[str]:
        """No more orders, or one that makes it fail: the rows when it is gone."""
        self._order(order)
        assert self._program.stdin is not None
        self._program.stdin.close()
        try:
            while data := os.read(self._fd, 65536):
                self._feed(data)
        except OSError as error:
            assert error.errno == 5  # noqa: PT017 - EIO: nobody has the other end any more
        return list(self.screen.display)

    def _order(self, order: str) -> None:
        assert self._program.stdin is not None
        self._program.stdin.write(order.encode())

    def _feed(self, data: bytes) -> None:
        self.raw += data
        self._stream.feed(data)

    def close(self) -> None:
        """Kill it if it is still there, and reap it."""
        self._program.kill()
        self._program.communicate()
        os.close(self._fd)


Terminals = Callable[..., Terminal]


@pytest.fixture
def terminal() -> Iterator[Terminals]:
    """Opens terminals that are closed at the end, whatever happens."""
    opened: list[Terminal] = []

    def open_one(columns: int, rows: int, **environ: str) -> Terminal:
        opened.append(Terminal(columns, rows, **environ))
        return opened[-1]

    yield open_one
    for each in opened:
        each.close()


def test_screen_says_it_all_and_leaves_the_terminal_clean(terminal: Terminals) -> None:
    """State, limits, status, each kind of task, the next step and the latest entry are drawn; then it is as before."""
    one = terminal(80, 30)
    rows = one.show(7)
    text = "\n".join(rows)
    for expected in (
        "capbg rehearse -- python examples/kiosk.py",
        r"stop-sigterm +told to stop · 3\.0 s since the stop · 8 processes · main PID 4711",
        r"SIGKILL in 8\.1 s +━+.* of 10\.0 s",
        r"watchdog in 1\.0 s +━+.* of 4\.0 s",
        r"status  backgrounded: 2 of 5 tasks finished, upload 40 %, 12 s left",
        r"upload +running +━+.* 40 % 17\.0 s left +part 3 of 7",
        r"thumbnails +expiring +━+ +killed in 1\.5 s",
        r"mail +finished +━+ +100 % took 1\.2 s",
        r"report +failed +━+ +took 2\.1 s +OSError: disk full",
        r"next +SIGCONT in 1\.2 s",
    ):
        assert re.search(expected, text), (expected, text)
    last = [row for row in rows if row.strip()][-1]
    assert ["+4.97", "program", "line", "39"] == last.split()
    assert one.screen.cursor.hidden
    end = one.end()
    assert not one.screen.cursor.hidden
    assert one.raw.rstrip().endswith(b"after")
    assert one.raw.rindex(b"\x1b[?1049h") < one.raw.rindex(b"\x1b[?1049l") < one.raw.rindex(b"after"), end


def test_screen_gives_the_terminal_back_after_an_exception(terminal: Terminals) -> None:
    """Ctrl-C in the middle of it: the cursor is there again, and the other screen is left."""
    one = terminal(80, 24)
    one.show(3)
    assert one.screen.cursor.hidden
    one.end("raise\n")
    assert not one.screen.cursor.hidden
    assert one.raw.rindex(b"\x1b[?1049h") < one.raw.rindex(b"\x1b[?1049l")


def test_screen_fits_every_size_and_survives_a_resize(terminal: Terminals) -> None:
    """From 60 × 10 to 250 × 70, up to 2000 tasks: the head stays in its place, the latest stays visible, no ruins."""
    one = terminal(250, 70)
    for columns, rows, number in (
        (250, 70, 2000),
        (60, 10, 40),
        (80, 24, 12),
        (100, 5, 0),
        (200, 50, 2000),
        (60, 10, 3),
    ):
        one.resize(columns, rows)
        display = one.show(number)
        shown = "\n".join(display)
        head = 1 if rows >= 18 else 0
        assert display[head].startswith("stop-sigterm  told to stop"), (columns, rows, shown)
        assert 1 == shown.count("told to stop"), shown
        assert 1 == shown.count("status  backgrounded"), shown
        names = sum(bool(re.match(r"(upload|thumbnails|mail|report|index|照|log|task-)", row)) for row in display)
        more = re.search(r"^\+(\d+) more: \d+ ", shown, re.MULTILINE)
        assert number == names + (int(more[1]) if more else 0), (columns, rows, shown)
        if rows > 5:
            assert "line 38" in shown, (columns, rows, shown)
            assert "line 39" in shown, (columns, rows, shown)


def test_screen_is_not_obeyed_by_what_a_program_says(terminal: Terminals) -> None:
    """Escapes and line ends of a status or an output are spelt out: they colour nothing, move nothing."""
    one = terminal(120, 24)
    rows = one.show(-1)
    assert any(r"\x1b[31mred\x1b[0m\rback\n<b>&amp; ünïcode" in row for row in rows), rows
    assert b"\x1b[31mred" not in one.raw
    assert 1 == sum("told to stop" in row for row in rows), rows


def test_screen_is_plain_where_it_has_to_be(terminal: Terminals) -> None:
    """NO_COLOR takes all colour away; an encoding without bars gets bars of ASCII, and what it cannot say spelt out."""
    plain = terminal(80, 24, NO_COLOR="1")
    plain.show(7)
    assert not re.search(rb"\x1b\[[0-9;]*(3[0-9]|38;5;\d+)m", plain.raw), plain.raw
    ascii_only = terminal(80, 24, PYTHONIOENCODING="ascii")
    rows = ascii_only.show(7)
    ascii_only.raw.decode("ascii")
    assert any(re.match(r"SIGKILL in 8\.1 s +--+ ", row) for row in rows), rows
    assert any(row.startswith(r"\u7167") for row in rows), rows


@pytest.mark.parametrize(("more", "environ"), [("…", {}), ("...", {"PYTHONIOENCODING": "ascii"})])
def test_screen_shows_where_a_line_goes_on(terminal: Terminals, more: str, environ: dict[str, str]) -> None:
    """In 60 columns a status, a task's message, its reason and an entry that do not fit end with an ellipsis."""
    one = terminal(60, 24, **environ)
    rows = one.show(7)
    for begin in ("status  backgrounded", "upload ", "report "):
        (row,) = (row for row in rows if row.startswith(begin))
        assert row.endswith(more), rows
    entries = [row for row in one.show(-1) if " notify " in row or " program " in row]
    assert any(row.endswith(more) for row in entries), entries


PALE = re.compile(rb"\x1b\[(?:[0-9;]*;)?(?:3[34678]|9[367])[;m]")
"""Yellow, blue, cyan, white, or one of more than 16 colours."""


def test_screen_of_16_colours_takes_those_that_can_be_read_on_any_ground(terminal: Terminals) -> None:
    """With TERM=xterm no word is yellow, cyan, white or dark blue, and no green is bold."""
    one = terminal(80, 24, TERM="xterm")
    one.show(0)
    one.show(7)
    words = re.sub(rb"\x1b\[[0-9;]*m[\xe2\x94\x81\xb8\xba\x95]+\x1b\[0m", b"", one.raw)  # the gradient of a bar
    assert not PALE.search(words), words
    assert b"\x1b[1;32m" not in words
    assert b"\x1b[31m" in words


@pytest.mark.parametrize("kind", samples.REPORTS)
def test_report_of_16_colours_takes_those_that_can_be_read_on_any_ground(kind: str) -> None:
    """As on the screen; with 256 colours it takes those."""
    coloured = {}
    for system in ("standard", "256"):
        file = io.StringIO()
        report.show(
            samples.REPORTS[kind](),
            Console(file=file, width=80, force_terminal=True, color_system=system, legacy_windows=False),
        )
        coloured[system] = file.getvalue().encode("utf-8", "backslashreplace")
    assert not PALE.search(coloured["standard"])
    assert b"\x1b[1;32m" not in coloured["standard"]
    assert PALE.search(coloured["256"])


def test_lines_are_one_for_each_entry_in_columns_that_never_move() -> None:
    """Time, who and text, nothing else; no entry is written twice, whatever it says it stays one line."""
    written: list[str] = []
    lines = Lines(written.append)
    kiosk = samples.kiosk().entries
    lines.show(samples.now(entries=kiosk[:3]))
    lines.show(samples.now(entries=kiosk[:4]))
    assert [
        "    +0.00  systemd  started: PID 4711",
        "    +0.10  program  kiosk: 12 photos to go",
        "    +0.60  notify   READY=1",
        "    +2.00  systemd  SIGTERM to the main process, then SIGCONT",
    ] == written
    quoted = Entry(samples.at(100), Who.NOTIFY, "asks for 10 s more", fields={"EXTEND_TIMEOUT_USEC": "10000000"})
    lines.entry(quoted, samples.BEGAN)
    assert "  +100.00  notify   asks for 10 s more  EXTEND_TIMEOUT_USEC=10000000" == written[-1]
    for entry in samples.odd().entries:
        lines.entry(entry, samples.BEGAN)
    assert all(len(line.splitlines()) == 1 and line.isprintable() for line in written), written


def shown(of: Report, width: int, *, is_terminal: bool = True, encoding: str = "utf-8", **options: bool) -> str:
    """The report as it is printed."""
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="")
    console = Console(file=file, width=width, force_terminal=is_terminal, color_system=None, legacy_windows=False)
    report.show(of, console, **options)
    file.seek(0)
    return re.sub(r"\x1b\[[0-9;]*m", "", file.read())


def test_report_of_a_kill_says_how_why_and_what_to_do() -> None:
    """The verdict in systemd's words, the margin, what was lost and killed, each fault with its mend, LOST last."""
    text = shown(samples.killed(), 100)
    for expected in (
        "systemd  Result=timeout, killed by SIGKILL",
        "Active: failed (Result: timeout); Main PID: (code=killed, signal=KILL)",
        "margin   No margin: it was killed at +3.00 s.",
        "lost     upload was lost at 40 %.",
        "upload: killed: its service was killed",
        "4712  python worker.py  state S, SIGTERM ignored",
        "fault    The shell, not the program, is what systemd signals",
        "mend     Write ExecStart=/usr/bin/python worker.py",
        "+3.00  systemd  TimeoutStopSec=3 is over: SIGKILL to 2 processes",
    ):
        assert expected in text, text
    assert "LOST: The service was killed before it had ended by itself. (and 1 more)" == text.splitlines()[-1]
    assert re.search(r"^fault    The shell, .*\n {9}\w.*\n {9}\w", shown(samples.killed(), 60), re.MULTILINE)


READY = """
import os, signal, socket, sys

if "ignore" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGABRT, signal.SIG_IGN)
if "child" in sys.argv:
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    if os.fork() == 0:
        while True:
            signal.pause()
path = os.environ["NOTIFY_SOCKET"].replace("@", "\\0", 1)
socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"READY=1", path)
while True:
    signal.pause()
"""
SLEEP = ["sleep", "1000"]


def ready(*arguments: str) -> list[str]:
    """A program that says READY=1 once it is as it is told to be."""
    return [sys.executable, "-c", READY, *arguments]


@pytest.mark.parametrize(
    ("options", "command", "expected"),
    [
        ("--type notify --watchdog 0.3 --after 60", ready(), r"No margin: the watchdog bit at \+0\.\d\d s\."),
        ("--type exec --script KILL@0.2", SLEEP, r"No margin: SIGKILL by hand, from the script, ended it at \+\d"),
        ("--unit {unit}", [], r"No margin: KillSignal=SIGKILL ended it at \+\d"),
        (
            "--type exec --after 60",
            ["sh", "-c", "kill -9 $$"],
            "No margin: a SIGKILL ended it that was neither systemd's nor the script's",
        ),
        (
            "--type notify --after 0.1 --stop-timeout 0.3",
            ready("ignore"),
            r"No margin: it was killed at \+\d+\.\d\d s\.\n",
        ),
        (
            "--type notify --after 0.1 --stop-timeout 0.3 --no-sigkill",
            ready("ignore"),
            r"Result=timeout, main process left to itself\nstatus   Active: failed \(Result: timeout\)\n"
            r"margin   No margin: its time was over at \+\S+ s; nobody killed it \(SendSIGKILL=no\), and it was left",
        ),
        (
            "--type notify --after 0.1 --stop-timeout 0.3 --failure-mode abort",
            ready("ignore"),
            r"No margin: its time was over at \+\S+ s and SIGABRT came; SIGKILL came at \+\S+ s\.",
        ),
        (
            "--type exec --after 0.1 --kill-mode none",
            SLEEP,
            r"Result=success, main process left to itself\n.*\n.*No deadline of a stop was ever running\.",
        ),
        (
            "--type notify --after 0.1 --kill-mode mixed",
            ready("child"),
            r"being killed: 1 min \d+ s left, at \+\S+ s; what it left behind was killed at \+",
        ),
        ("--type exec --after 0.1", SLEEP, r"The nearest it came to systemd's SIGKILL: 1 min \d+ s left, at"),
    ],
    ids=[
        "watchdog",
        "by hand",
        "KillSignal",
        "itself",
        "timeout",
        "no SIGKILL",
        "abort",
        "none",
        "left over",
        "SIGTERM",
    ],
)
def test_margin_is_true_of_however_it_ended(
    launch: Launcher, tmp_path: Path, options: str, command: list[str], expected: str
) -> None:
    """Who or what struck, when, and whether anybody was killed at all; a main process left running is not gone."""
    unit = tmp_path / "killed.service"
    unit.write_text("[Service]\nType=exec\nKillSignal=SIGKILL\nExecStart=/bin/sleep 1000\n")
    arguments = options.format(unit=unit).split()
    more = ["--", *command] if command else []
    probe = launch.start([sys.executable, "-m", "capbg.cli", "rehearse", *arguments, *more])
    output, _ = probe.process.communicate(timeout=120)
    text = output.decode()
    assert re.search(expected, text), text


def test_report_of_a_clean_stop_says_so() -> None:
    """Nothing lost: success, the margin and when it was, PASSED last; a chart row for each task with its outcome."""
    text = shown(samples.kiosk(), 80)
    assert "Result=success, exit status 0" in text
    assert "The nearest it came to being killed: 9.0 s left, at +1.05 s." in text
    assert re.search(r"^upload +━+·+ +finished 5\.6 s$", text, re.MULTILINE), text
    assert re.search(r"^mail +━+·+┤ +╳ finished 1\.0 s$", text, re.MULTILINE), text
    assert "PASSED: nothing was lost." == text.splitlines()[-1]


@pytest.mark.parametrize("width", [60, 80, 250])
@pytest.mark.parametrize("kind", samples.REPORTS)
def test_report_never_runs_over_a_terminal(kind: str, width: int) -> None:
    """No line of any report is wider than the terminal, and no word of the advice is lost by wrapping."""
    of = samples.REPORTS[kind]()
    text = shown(of, width)
    assert [] == [line for line in text.splitlines() if cell_len(line) > width]
    squeezed = "".join(text.split())
    for advice in of.advice if kind != "odd" else ():
        assert "".join(advice.mend.split()) in squeezed


def test_report_on_a_pipe_keeps_sentences_whole_and_repeats_no_entry() -> None:
    """No escape, one line a sentence however long, no second list of what the lines have told; ASCII where need be."""
    of = samples.odd()
    text = shown(of, 80, is_terminal=False)
    assert text.isprintable() or set(text) - {"\n"} == {each for each in text if each.isprintable()}
    assert f"lost     {of.lost[0]}" in text.splitlines()
    assert "What happened" not in text
    assert "What happened" in shown(of, 80, is_terminal=False, entries=True)
    assert shown(of, 80, is_terminal=False, encoding="ascii").isascii()
    assert re.search(r"^systemd +\|start--", shown(samples.kiosk(), 200, encoding="ascii"), re.MULTILINE)


def test_chart_puts_everything_where_it_happened() -> None:
    """In 160 columns: a signal stands at its second, the time left falls to its lowest level at the kill."""
    rows = {row.plain.split("  ")[0].strip() or "-": row.plain for row in Chart(samples.killed(), 160).rows()}
    zero, three = rows["seconds"].index(" 0 ") + 1, rows["seconds"].rindex("3")
    assert abs(rows["signals"].index("▼SIGTERM") - zero) <= 1
    assert abs(rows["systemd"].index("├stop-sigterm") - zero) <= 1
    assert abs(rows["SIGKILL in"].index("█") - zero) <= 1
    assert abs(rows["SIGKILL in"].rindex("▁") - three) <= 2
    (expired,) = (row.plain for row in Chart(samples.many(), 160).rows() if row.plain.startswith("task-3 "))
    assert re.search(r"^task-3 +━+╋━+ +╳ +expired 5\.0 s$", expired), expired
    crowded = [row.plain for row in Chart(samples.odd(), 160).rows() if "▼" in row.plain]
    assert 4 == len(crowded)
    left_out = re.search(r"\+(\d+) more$", crowded[-1])
    assert left_out is not None
    assert 18 >= sum(row.count("▼") for row in crowded) + int(left_out[1]) > 4
    levels = re.sub("[^▁▂▃▄▅▆▇█]", "", rows["SIGKILL in"])
    assert "█▇▆▅▄▃▂▁" == "".join(dict.fromkeys(levels))


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("width", [60, 80, 160])
def test_chart_explains_its_marks_and_no_task_outlasts_the_run(width: int, encoding: str) -> None:
    """One line of legend where there are tasks; bars and dots end where the last state does."""
    legend = re.compile(r"^ *[·.] time left  .* deadline  . killed at the latest$")
    for kind, make in samples.REPORTS.items():
        of = make()
        rows = [row.plain for row in Chart(of, width, encoding=encoding).rows()]
        assert any(task.started_ns for task in of.tasks) == sum(bool(legend.match(row)) for row in rows), (kind, rows)
    rows = [row.plain for row in Chart(samples.short(), width, encoding=encoding).rows()]
    (states,) = (row for row in rows if row.startswith("systemd"))
    (flush,) = (row for row in rows if row.startswith("flush"))
    assert len(states) == len(flush.removesuffix("finished 0.14 s").rstrip()), rows


@pytest.mark.parametrize(("stop", "end"), [(1.0, 1.003), (30.0, 30.2), (3600.0, 3600.03), (0.6, 5.0)])
def test_timeline_gives_a_stop_its_room(stop: float, end: float) -> None:
    """However long it ran, and however soon it left: from the stop on it has half of the width, of half a second."""
    of = samples.report(stop=stop, end=end, margin=(1, end))
    shown = window(of)
    assert shown.share(samples.at(stop)) <= 0.5
    assert shown.end_ns - shown.begin_ns >= NS // 2
    (signals,) = (row.plain for row in Chart(of, 100).rows() if row.plain.startswith("signals"))
    assert signals.index("▼SIGTERM") <= 13 + (100 - 13) // 2
    zero = next(box for words, box in boxes(ElementTree.fromstring(picture.draw(of))) if words == "0")
    assert (zero[0] + zero[2]) / 2 <= (picture.LEFT + picture.RIGHT) / 2


@pytest.mark.parametrize("kind", samples.REPORTS)
def test_json_can_be_read_back(kind: str) -> None:
    """Strict JSON of schema 1 with the same keys for every rehearsal; instants are seconds behind the stop."""
    of = samples.REPORTS[kind]()
    text = report.to_json(of)
    text.encode("utf-8")

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    read = json.loads(text, parse_constant=refuse)
    assert list(json.loads(report.to_json(samples.kiosk()))) == list(read)
    assert (1, of.passed, of.result, of.status) == tuple(read[key] for key in ("schema", "passed", "result", "status"))
    assert (len(of.tasks), len(of.entries)) == (len(read["tasks"]), len(read["entries"]))
    assert [task.lost for task in of.tasks] == [task["lost"] for task in read["tasks"]]
    assert (None if of.stop_ns is None else 0.0) == read["stop"]


def test_json_gives_seconds_behind_the_stop() -> None:
    """Instants, lengths, no limit as null, fields as they came, bytes that are no text spelt out."""
    read = json.loads(report.to_json(samples.kiosk()))
    assert (-2.0, 0.0, 6.0, 9.0, 1.05) == tuple(read[key] for key in ("began", "stop", "ended", "margin", "margin_at"))
    assert {"at": -1.4, "until": None, "why": "running", "watchdog": False} == read["deadlines"][1]
    assert {"started": 0.0, "deadline": 4.0, "kill": 6.0, "ended": 1.0}.items() <= read["tasks"][2].items()
    assert [{"at": 0.0, "signal": "SIGTERM", "to": "main process"}] == read["signals"]
    assert {"STOPPING": "1"}.items() <= read["entries"][4]["fields"].items()
    odd = json.loads(report.to_json(samples.odd()))
    assert (None, None) == (odd["settings"]["timeout_stop"], odd["tasks"][0]["done"])
    assert "caf\\udce9" == odd["command"][-1]


SVG = "{http://www.w3.org/2000/svg}"
Box = tuple[float, float, float, float]


def boxes(root: ElementTree.Element) -> Iterator[tuple[str, Box]]:
    """Each text of a picture and about where it is: left, top, right, bottom."""
    for text in root.iter(f"{SVG}text"):
        kinds = text.get("class", "").split()
        size = picture.TITLE if "title" in kinds else picture.SMALL if "small" in kinds else picture.FONT
        words = text.text or ""
        wide = picture.text_width(words, size)
        x, y = float(text.get("x", "0")), float(text.get("y", "0"))
        left = x - wide * {"start": 0.0, "middle": 0.5, "end": 1.0}[text.get("text-anchor", "start")]
        yield words, (left, y - size * 0.75, left + wide, y + size * 0.2)


@pytest.mark.parametrize("kind", samples.REPORTS)
def test_picture_is_well_formed_and_no_label_covers_another(kind: str) -> None:
    """Valid XML whatever the names say; every text and shape inside the page, no two texts in one place."""
    of = samples.REPORTS[kind]()
    root = ElementTree.fromstring(picture.draw(of))
    wide, high = float(root.get("width", "0")), float(root.get("height", "0"))
    found = list(boxes(root))
    outside = [(words, box) for words, box in found if box[0] < 0 or box[1] < 0 or box[2] > wide or box[3] > high]
    assert [] == outside
    covered = [
        (one, other)
        for (one, a), (other, b) in combinations(found, 2)
        if a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
    ]
    assert [] == covered
    for shape in root.iter(f"{SVG}rect"):
        x, y, width, height = (float(shape.get(key, "nan")) for key in ("x", "y", "width", "height"))
        assert 0 <= x <= x + width <= wide and 0 <= y <= y + height <= high, shape.attrib  # noqa: PT018
    names = [words for words, _ in found]
    assert names[0].startswith("PASSED: " if of.passed else "LOST: ")
    bars = [title for title in root.iter(f"{SVG}title") if (title.text or "").startswith("task-")]
    assert min(len(of.tasks), 40) * (kind in {"many", "hundred"}) == len(bars)
    assert ("+60 more tasks, 0 of them lost" in names) == (kind == "hundred")


def test_picture_puts_the_kill_and_the_margin_where_they_were() -> None:
    """The stop at 0, SIGKILL at 3 s, the time left a straight line down to the margin's mark on the bottom line."""
    root = ElementTree.fromstring(picture.draw(samples.killed()))
    at = {words: (box[0] + box[2]) / 2 for words, box in boxes(root)}
    (circle,) = root.iter(f"{SVG}circle")
    (line,) = root.iter(f"{SVG}polyline")
    points = [tuple(map(float, point.split(","))) for point in line.get("points", "").split()]
    assert abs(points[0][0] - at["0"]) < 2
    assert abs(points[-1][0] - at["3"]) < 2
    assert points[0][1] < points[-1][1]
    assert (float(circle.get("cx", "0")), float(circle.get("cy", "0"))) == pytest.approx(points[-1])
    assert "bad" == circle.get("class")
    text = picture.draw(samples.kiosk())
    assert "prefers-color-scheme:dark" in text


def test_picture_says_what_to_do() -> None:
    """Faults and mends stand below what was lost, whole, in as many lines as it takes: five, and how many more."""
    of = samples.advised()
    words = [text.text or "" for text in ElementTree.fromstring(picture.draw(of)).iter(f"{SVG}text")]
    begin = words.index("fault")
    assert any(line.startswith("It left its work behind") for line in words[:begin])
    told = words[begin:]
    assert (5, 5) == (told.count("fault"), told.count("mend"))
    whole = "".join("".join(told).split())
    expected = "".join(f"fault{each.fault}mend{each.mend}" for each in of.advice[: picture.ADVICE])
    assert whole.startswith("".join(expected.split())), told
    assert any(line.startswith("+2 more faults") for line in told)
