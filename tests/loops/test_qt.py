"""Qt 6 drives an app: real programs with a real QApplication, without a screen."""

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.loops import needs
from tests.notify_socket import NotifySocket
from tests.probe import Launcher, Probe

QT = """
from PySide6.QtCore import QCoreApplication, QEventLoop, QSocketNotifier, QTimer
from PySide6.QtWidgets import QApplication, QDialog, QLabel
from capbg.loops.qt import driving

class Counted(capbg.App):
    pumps = 0
    longest = 0.0

    def pump(self):
        self.pumps += 1
        begun = time.monotonic()
        try:
            super().pump()
        finally:
            self.longest = max(self.longest, time.monotonic() - begun)

def wait_for(path):
    while not os.path.exists(path):
        time.sleep(0.005)

def soon(callback, wait_ms=0):
    QTimer.singleShot(wait_ms, callback)

qt = QApplication([])
"""


@pytest.fixture(autouse=True)
def _qt_is_there() -> None:
    needs.module("PySide6.QtWidgets")


def start(launch: Launcher, source: str, *arguments: str, env: Mapping[str, str] | None = None) -> Probe:
    """Start a program that has a QApplication; ``source`` is not indented."""
    return launch(QT + source, *arguments, env={"QT_QPA_PLATFORM": "offscreen", **(env or {})})


def test_a_signal_is_heard_at_once_by_a_loop_that_waits_in_c(launch: Launcher) -> None:
    """No timer, no input: the signal itself wakes Qt, each of three times, and the program ends by ``exec``."""
    program = start(
        launch,
        """
app = capbg.App("idle", grace=60)
app.add_listener("appStateChange", lambda state: say("STATE", state.is_active, time.monotonic()))
window = QLabel("idle")
window.show()
with driving(app):
    soon(lambda: say("READY"), 50)
    try:
        say("EXEC", qt.exec())
    finally:
        say("FINALLY")
""",
    )
    program.expect("READY")
    for signum, state in [(signal.SIGTSTP, "False"), (signal.SIGCONT, "True"), (signal.SIGTERM, "False")]:
        if signum == signal.SIGCONT:
            program.wait_stopped()
        program.wait_until(lambda: Path(f"/proc/{program.pid}/stat").read_text().rpartition(")")[2].split()[0] in "ST")
        begun = time.monotonic()
        program.send(signum)
        latency = float(program.expect(f"STATE {state}")) - begun
        print(f"{signum.name} was heard after {latency * 1000:.1f} ms")
        assert latency < 10  # without the descriptor: never
    assert "0" == program.expect("EXEC")
    program.expect("FINALLY")
    assert 0 == program.wait(), program.stderr


def test_the_window_is_painted_while_workers_run_and_talk(launch: Launcher, tmp_path: Path) -> None:
    """Fifty repaints go by while three workers say more than anybody can read; then each of them is heard."""
    program = start(
        launch,
        """
app = Counted("painted", grace=60)

for name in ("one", "two", "three"):
    @app.background_task(name=name)
    def work(task):
        parts = 0
        while not os.path.exists(sys.argv[1]):
            parts += 1
            task.progress(parts)

class Window(QLabel):
    painted = 0

    def paintEvent(self, event):
        super().paintEvent(event)
        rows = app.tasks()
        if [row.state.name for row in rows].count("RUNNING") == 3 and all(row.progress for row in rows):
            self.painted += 1
            if self.painted == 50:
                say("PAINTED")

window = Window("painted")
window.show()
ticks = QTimer(interval=5)
ticks.timeout.connect(window.update)
ticks.start()
with driving(app):
    soon(lambda: say("READY"))
    try:
        qt.exec()
    finally:
        report(app)
        say("LONGEST", app.longest)
""",
        str(tmp_path / "go"),
    )
    program.expect("READY")
    program.send(signal.SIGTERM)
    program.expect("PAINTED")
    (tmp_path / "go").touch()
    assert {"one": "FINISHED", "two": "FINISHED", "three": "FINISHED"} == program.report()["outcomes"]
    print(f"the longest turn, with its fork: {float(program.expect('LONGEST')) * 1000:.1f} ms")
    assert 0 == program.wait(), program.stderr


def test_a_program_in_a_dialog_leaves_by_exit_and_by_its_finally_blocks(launch: Launcher) -> None:
    """A loop within the loop ends as well, no window is asked, and the status says that a task has failed."""
    program = start(
        launch,
        """
app = capbg.App("nested", grace=60)

@app.background_task()
def fails():
    raise LookupError("not there")

class Stubborn(QDialog):
    def closeEvent(self, event):
        say("ASKED")
        event.ignore()

dialog = Stubborn()

def open_dialog():
    soon(lambda: say("READY"))
    try:
        dialog.exec()
    finally:
        say("DIALOG ENDED")

try:
    with driving(app):
        soon(open_dialog)
        try:
            code = qt.exec()
            say("EXEC", code)
        finally:
            say("FINALLY")
except SystemExit as leaving:
    say("LEAVES", leaving.code)
    raise
""",
    )
    program.expect("READY")
    program.send(signal.SIGTERM)
    assert 75 == program.wait(), program.stderr
    assert ["READY", "DIALOG ENDED", "EXEC 75", "FINALLY", "LEAVES 75"] == program.lines


def test_a_stop_before_the_loop_has_begun_ends_it(launch: Launcher) -> None:
    """Where ``exit`` would go unheard (``processEvents`` behind a splash screen), ``exec`` returns all the same."""
    program = start(
        launch,
        """
app = capbg.App("early", grace=60)
app.add_listener("graceEnded", lambda _: say("ENDED"))
with driving(app):
    os.kill(os.getpid(), signal.SIGTERM)
    while app.last_report is None:
        qt.processEvents()
    say("EXEC", qt.exec())
""",
    )
    assert 0 == program.wait(), program.stderr
    assert ["ENDED", "EXEC 0"] == program.lines


def test_a_stop_in_a_dialog_before_the_loop_ends_both(launch: Launcher) -> None:
    """A dialog that asks for a name first has a loop of its own: it ends, and so does ``exec`` behind it."""
    program = start(
        launch,
        """
app = capbg.App("asks", grace=60)
with driving(app):
    soon(lambda: os.kill(os.getpid(), signal.SIGTERM))
    say("DIALOG", QDialog().exec())
    say("EXEC", qt.exec())
""",
    )
    assert 0 == program.wait(), program.stderr
    assert ["DIALOG 0", "EXEC 0"] == program.lines


def test_a_signal_right_behind_the_entering_is_left_to_the_loop(launch: Launcher) -> None:
    """READY=1 has been sent, the loop not begun: the grace period waits for the loop, whichever thread it comes to."""
    program = start(
        launch,
        """
heard = []
other = threading.Thread(target=threading.Event().wait, daemon=True)
other.start()

class Stopped(Counted):
    def __enter__(self):
        super().__enter__()
        handler = signal.getsignal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, lambda *came: (heard.append(came), handler(*came)))
        signal.pthread_kill(other.ident, signal.SIGTERM)  # where the main thread's mask does not count
        while not heard:
            time.sleep(0.001)
        return self

app = Stopped("behind", grace=60)
app.add_listener("appStateChange", lambda state: say("TOLD IN TURN", app.pumps))
with driving(app):
    say("EXEC", qt.exec())
""",
    )
    assert 0 == program.wait(), program.stderr
    assert ["TOLD IN TURN 1", "EXEC 0"] == program.lines


def test_a_window_closed_during_the_grace_period_does_not_cut_it_short(launch: Launcher, tmp_path: Path) -> None:
    """When ``exec`` returns early the end of the block does the rest: the task still finishes."""
    program = start(
        launch,
        """
app = capbg.App("closed", grace=60)

@app.background_task()
def save():
    wait_for(sys.argv[1])

window = QLabel("closed")
window.show()
app.add_listener("appStateChange", lambda state: soon(window.close))
try:
    with driving(app):
        soon(lambda: say("READY"))
        say("EXEC", qt.exec())
finally:
    report(app)
""",
        str(tmp_path / "go"),
    )
    program.expect("READY")
    program.send(signal.SIGTERM)
    assert "0" == program.expect("EXEC")
    (tmp_path / "go").touch()
    assert {"save": "FINISHED"} == program.report()["outcomes"]
    assert 0 == program.wait(), program.stderr


def test_a_worker_that_starts_behind_the_loop_is_kept_from_qt_as_well(launch: Launcher, tmp_path: Path) -> None:
    """A window closed in the grace period leaves tasks to start on the way out: Qt is as forbidden to those."""
    program = start(
        launch,
        """
app = capbg.App("behind", grace=60, max_workers=1)
window = QLabel("behind")
window.show()

@app.background_task()
def first():
    wait_for(sys.argv[1])

@app.background_task()
def second():
    window.text()

app.add_listener("pause", lambda: soon(window.close))
try:
    with driving(app):
        soon(lambda: say("READY"))
        qt.exec()
        say("LEFT THE LOOP")
finally:
    report(app)
""",
        str(tmp_path / "go"),
    )
    program.expect("READY")
    program.send(signal.SIGTERM)
    program.expect("LEFT THE LOOP")
    (tmp_path / "go").touch()
    settled = program.report()["by_name"]
    assert "FINISHED" == settled["first"]["outcome"]
    assert "WrongProcessError" == settled["second"]["error_type"]
    assert 75 == program.wait(), program.stderr


def test_a_dialog_opened_by_a_listener_does_not_make_the_loop_spin(launch: Launcher, tmp_path: Path) -> None:
    """The turn is not over meanwhile: the descriptor is readable all the time, and must not be looked at."""
    program = start(
        launch,
        """
app = Counted("spins", grace=60)

@app.background_task()
def first():
    pass

@app.background_task()
def talks(task):
    for parts in range(1 << 60):
        task.progress(parts)
        if os.path.exists(sys.argv[1]):
            return

def ask(result):
    if result.name == "first":
        before = app.pumps
        dialog = QDialog()
        soon(dialog.accept, 300)
        dialog.exec()
        say("PUMPS", app.pumps - before)

app.add_listener("taskSettled", ask)
with driving(app):
    soon(lambda: say("READY"))
    qt.exec()
""",
        str(tmp_path / "go"),
    )
    program.expect("READY")
    program.send(signal.SIGTERM)
    assert "0" == program.expect("PUMPS")
    (tmp_path / "go").touch()
    assert 0 == program.wait(), program.stderr


def test_a_suspension_stops_the_process_and_the_loop_goes_on_behind_it(launch: Launcher) -> None:
    """SIGTSTP: tasks, then SIGSTOP. SIGCONT: the same loop is active again, and a later SIGTERM ends it."""
    program = start(
        launch,
        """
app = capbg.App("suspended", grace=60)

@app.background_task()
def save():
    say("WORKER")

app.add_listener("resume", lambda: soon(lambda: say("RESUMED", app.get_state().is_active)))
with driving(app):
    soon(lambda: say("READY"))
    qt.exec()
""",
    )
    program.expect("READY")
    for _ in range(2):
        program.send(signal.SIGTSTP)
        program.expect("WORKER")
        program.wait_stopped()
        program.send(signal.SIGCONT)
        assert "True" == program.expect("RESUMED")
    program.send(signal.SIGTERM)
    program.expect("WORKER")
    assert 0 == program.wait(), program.stderr


def test_the_watchdog_is_fed_by_turns_of_qt_and_a_slot_that_hangs_stops_that(
    launch: Launcher, notify_socket: NotifySocket, tmp_path: Path
) -> None:
    """An idle loop feeds it when a ping is due, however long nothing happens; one that sits in a slot does not."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    program = start(
        launch,
        """
import socket
os.environ["WATCHDOG_PID"] = str(os.getpid())
app = capbg.App("fed", grace=60)

def hang():
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.sendto(b"STATUS=hung", os.environ["NOTIFY_SOCKET"])
    idle()

fifo = os.open(sys.argv[1], os.O_RDONLY | os.O_NONBLOCK)
hear = QSocketNotifier(fifo, QSocketNotifier.Type.Read)
hear.activated.connect(hang)
with driving(app):
    soon(lambda: say("READY"))
    qt.exec()
""",
        str(fifo),
        env={**notify_socket.env, "WATCHDOG_USEC": "200000"},
    )
    program.expect("READY")
    for _ in range(4):
        notify_socket.expect("WATCHDOG", "1")
    fifo.write_text("hang")
    notify_socket.expect("STATUS", "hung")
    with pytest.raises(AssertionError):
        notify_socket.expect("WATCHDOG", patience=0.8)  # four intervals


def test_the_wakeup_descriptor_of_a_program_that_has_one_is_shared_and_given_back(launch: Launcher) -> None:
    """Such a program's own notifier hears its signals and ours, and owns the descriptor again at the end."""
    program = start(
        launch,
        """
import socket
ours, theirs = socket.socketpair()
ours.setblocking(False), theirs.setblocking(False)
signal.set_wakeup_fd(theirs.fileno())
signal.signal(signal.SIGUSR1, lambda *_: say("HANDLED"))
hear = QSocketNotifier(ours.fileno(), QSocketNotifier.Type.Read)
hear.activated.connect(lambda *_: say("WOKEN BY", *ours.recv(100)))
app = capbg.App("shared", grace=60)
app.add_listener("appStateChange", lambda state: say("STATE", state.is_active))
try:
    with driving(app):
        soon(lambda: say("READY"), 50)
        qt.exec()
finally:
    say("GIVEN BACK", signal.set_wakeup_fd(-1) == theirs.fileno())
""",
    )
    program.expect("READY")
    program.send(signal.SIGUSR1)
    assert str(int(signal.SIGUSR1)) == program.expect("WOKEN BY")
    assert "HANDLED" in program.lines
    program.send(signal.SIGTSTP)
    program.expect("STATE False")
    program.wait_stopped()
    program.send(signal.SIGCONT)
    program.expect("STATE True")
    program.send(signal.SIGTERM)
    assert "True" == program.expect("GIVEN BACK")
    assert 0 == program.wait(), program.stderr
    assert any(line.startswith("WOKEN BY") and str(int(signal.SIGTSTP)) in line.split() for line in program.lines)


def test_what_comes_out_of_a_turn_and_is_no_exit_ends_the_loop_and_is_raised(launch: Launcher) -> None:
    """PySide would print it and go on: here the block raises it. Without a QApplication the adapter says what to do."""
    program = launch(
        """
        from PySide6.QtCore import QCoreApplication
        from capbg.loops.qt import driving

        class Broken:
            def __init__(self, error=None):
                self.error = error
                self.read, self.write = os.pipe()
                os.write(self.write, b".")
            def fileno(self):
                return self.read
            def pump(self):
                raise self.error
            def enter_driven(self):
                return self.read
            def __exit__(self, *exc):
                say("LEFT", "nothing" if exc[0] is None else exc[0].__name__)

        try:
            with driving(Broken()):
                say("NEVER")
        except capbg.UsageError as error:
            say("REFUSED", error)
        qt = QCoreApplication([])
        try:
            with driving(Broken(LookupError("out of a turn"))):
                say("EXEC", qt.exec())
        except LookupError as error:
            say("RAISED", error)
        with driving(Broken(SystemExit(3))):  # not the app's own: the handler of another signal has raised it
            say("EXEC", qt.exec())
        """
    )
    assert 3 == program.wait(), program.stderr
    refused, *rest = program.lines
    assert refused.startswith("REFUSED Qt has nothing yet that could drive the app: make the QApplication before")
    assert ["EXEC 1", "LEFT LookupError", "RAISED out of a turn", "EXEC 3", "LEFT SystemExit"] == rest
