"""`capbg rehearse` and programs, terminals and surroundings that mean it no good: no crash, no lie, nothing left."""

import array
import fcntl
import os
import signal
import socket
import termios
import time
from pathlib import Path

import pytest

from capbg.cli.rehearsal.case import Case, Evidence
from capbg.cli.rehearsal.losses import losses
from capbg.cli.rehearsal.notify import NotifySocket
from capbg.cli.rehearsal.record import ProcessSeen, Settings
from capbg.cli.rehearsal.run import InterruptedRehearsalError
from capbg.cli.rehearsal.service import Service
from tests.cli.test_rehearse import FAMILY, await_end, family, program, rehearse, start
from tests.e2e.test_demo import named_by
from tests.probe import Launcher, Probe, is_alive

NOTIFY = """
import os, signal, socket, sys, time

def notify(text):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.sendto(text.encode(), os.environ["NOTIFY_SOCKET"])

def stay():
    notify("READY=1")
    while True:
        time.sleep(0.05)

signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
"""
QUICK = ["--type", "notify", "--after", "0.1"]


@pytest.mark.parametrize("nonsense", ["9" * 4400, "9" * 4000, "9" * 19, "1e999", "nan", "-1", "²", "0x10", "1_0", ""])
def test_nonsense_about_tasks_is_survived(launch: Launcher, tmp_path: Path, nonsense: str) -> None:
    """Numbers that are none, or none of this world: the report stands, as JSON and as a picture, and lists the task."""
    columns = "'1', 'odd', 'running', N, N, N, '', N, N, 'message', 'reason'"
    source = f"N = {nonsense!r}\nnotify('X_CAPBG_TASK=' + chr(9).join([{columns}]))\n"
    source += "notify('X_CAPBG_TASK=too' + chr(9) + 'few')\nstay()\n"
    picture = tmp_path / "a.svg"

    status, found = rehearse(launch, [*QUICK, "--svg", str(picture)], program(tmp_path, NOTIFY + source))

    assert (1, ["odd"]) == (status, [each["name"] for each in found["tasks"]])
    assert picture.read_text().startswith("<svg")


def test_a_long_message_is_not_let_in_behind_a_word_about_a_task(launch: Launcher, tmp_path: Path) -> None:
    """systemd drops what is longer than 4096 bytes, whatever it begins with."""
    source = "notify('X_CAPBG_TASK=' + 'x' * 5000 + chr(10) + 'STATUS=smuggled')\nstay()\n"

    _, found = rehearse(launch, QUICK, program(tmp_path, NOTIFY + source))

    assert "" == found["status_text"]


def test_messages_without_end_leave_time_for_all_else() -> None:
    """Who sends faster than this can take them in does not keep it from its clock."""
    with NotifySocket() as notify, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.connect(str(notify.path))
        sender.send(b"STATUS=0")
        taken = 0
        for _ in notify.read():
            taken += 1
            if taken == 20_000:
                break
            sender.send(b"STATUS=more")

    assert taken < 20_000


def test_a_process_that_forks_and_leaves_without_end_is_ended(launch: Launcher, tmp_path: Path) -> None:
    """None of its generations lives for long enough to be found alive: it is ended all the same, and told."""
    source = """
import subprocess
chain = "$SIG{TERM} = 'IGNORE'; my $end = time + 20; while (time < $end) { exit 0 if fork }"
subprocess.run(["perl", "-e", chain, sys.argv[1]])
stay()
"""
    mark = str(tmp_path / "mark")
    status, found = rehearse(launch, [*QUICK, "--kill-mode", "mixed"], [*program(tmp_path, NOTIFY + source), mark])

    assert (1, "success") == (status, found["result"]), found["lost"]
    assert any("SIGKILL had to end" in each for each in found["lost"]), found["lost"]
    assert [] == named_by(mark)


def test_a_process_whose_first_thread_has_ended_is_seen(launch: Launcher, tmp_path: Path) -> None:
    """/proc calls it a zombie, and it works on: it is ended, and told."""
    source = """
import ctypes, threading

def work():
    with open(sys.argv[1], "w") as file:
        file.write(str(os.getpid()))
    while True:
        time.sleep(0.05)

if os.fork() == 0:
    threading.Thread(target=work).start()
    ctypes.CDLL(None).pthread_exit(None)
while not os.path.exists(sys.argv[1]) or not open(sys.argv[1]).read():
    time.sleep(0.01)
stay()
"""
    pid = tmp_path / "pid"
    status, found = rehearse(launch, [*QUICK, "--kill-mode", "mixed"], [*program(tmp_path, NOTIFY + source), str(pid)])

    assert (1, [int(pid.read_text())]) == (status, [each["pid"] for each in found["killed"]]), found["lost"]
    assert not is_alive(int(pid.read_text()))


def test_a_name_that_is_no_text_is_survived(launch: Launcher, tmp_path: Path) -> None:
    """prctl(PR_SET_NAME) takes any bytes."""
    source = r"""
import ctypes
ctypes.CDLL(None).prctl(15, b"\xff)\xfe\n", 0, 0, 0)
stay()
"""
    assert 0 == rehearse(launch, QUICK, program(tmp_path, NOTIFY + source))[0]


def test_a_program_may_clear_away_its_socket(launch: Launcher, tmp_path: Path) -> None:
    """`rm -rf $TMPDIR/*` takes the socket's folder along; nothing more comes of it."""
    source = """
import shutil
notify("READY=1")
shutil.rmtree(os.path.dirname(os.environ["NOTIFY_SOCKET"]))
while True:
    time.sleep(0.05)
"""
    assert 0 == rehearse(launch, QUICK, program(tmp_path, NOTIFY + source))[0]


def test_a_handler_that_ends_by_the_signal_itself_has_lost_nothing(launch: Launcher, tmp_path: Path) -> None:
    """Caught, finished, then raised again with its default action, as uvicorn does: systemd calls that clean, too."""
    source = """
def stop(signum, frame):
    signal.signal(signum, signal.SIG_DFL)
    signal.raise_signal(signum)

signal.signal(signal.SIGTERM, stop)
stay()
"""
    status, found = rehearse(launch, QUICK, program(tmp_path, NOTIFY + source))

    assert (0, "killed", signal.SIGTERM, []) == (status, found["code"], found["status"], found["lost"])


def test_what_is_told_of_a_signal_is_told_of_the_one_that_stops(launch: Launcher) -> None:
    """--signal INT, and a program that ignores SIGINT alone."""
    script = "trap '' INT; while :; do sleep 0.05; done"
    options = ["--type", "exec", "--signal", "INT", "--after", "0.5", "--stop-timeout", "0.5"]
    status, found = rehearse(launch, options, ["sh", "-c", script])

    assert (1, "timeout") == (status, found["result"])
    assert found["advice"][0]["fault"].startswith("SIGINT is ignored"), found["advice"]


def test_signals_that_come_while_it_ends_change_nothing(launch: Launcher, tmp_path: Path) -> None:
    """Ctrl-C, and again, and SIGTERM: three hundred deaf children take a while to end, and all of them are ended."""
    source = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for _ in range(300):
    if os.fork() == 0:
        time.sleep(600)
        os._exit(0)
print("UP", os.getpgrp(), flush=True)
stay()
"""
    probe = start(launch, ["--type", "exec", "--after", "600"], program(tmp_path, NOTIFY + source))
    probe.expect("")
    while " UP " not in probe.lines[-1]:
        probe.expect("")
    group = int(probe.lines[-1].split()[-1])

    probe.send(signal.SIGINT)
    while probe.process.poll() is None:
        probe.send(signal.SIGTERM)

    # The last one may have come when all was done, and its default action was back.
    assert probe.process.wait() in {128 + signal.SIGINT, 128 + signal.SIGTERM, -signal.SIGTERM}
    with pytest.raises(ProcessLookupError):
        os.killpg(group, 0)


def test_a_reader_that_does_not_read_does_not_keep_it_from_ending(launch: Launcher, tmp_path: Path) -> None:
    """`| less`: the pipe is full and the next line blocks; SIGTERM ends it all the same."""
    pids = tmp_path / "pids"
    source = FAMILY.replace("time.sleep(0.05)\n", "os.write(1, b'no end of lines' * 4000 + b'\\n')\n")
    probe = start(launch, ["--type", "exec", "--after", "600"], [*program(tmp_path, source), str(pids)])
    probe.wait_until(lambda: len(family(pids)) == 5 and _is_full(probe))

    probe.send(signal.SIGTERM)

    assert 128 + signal.SIGTERM == probe.process.wait(60)
    await_end(probe, family(pids))


def _is_full(probe: Probe) -> bool:
    """Whether there is no room in its standard output for another line."""
    waiting = array.array("i", [0])
    assert probe.process.stdout is not None
    fcntl.ioctl(probe.process.stdout, termios.FIONREAD, waiting)
    return waiting[0] > 32_000


def test_it_does_not_pause(launch: Launcher) -> None:
    """Ctrl-Z is passed over: a rehearsal that is stopped itself is late for everything that systemd would do."""
    probe = start(launch, ["--type", "exec", "--after", "600"], ["sleep", "600"])
    probe.expect("")

    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{probe.pid}/status").read_text().splitlines())
    probe.send(signal.SIGTERM)

    assert int(status["SigIgn"], 16) & 1 << (signal.SIGTSTP - 1)
    assert 128 + signal.SIGTERM == probe.wait(), probe.stderr


def test_who_was_held_up_vouches_for_nothing(launch: Launcher, tmp_path: Path) -> None:
    """Stopped itself, it finds a program that left with 0 long after its time: that is no success."""
    source = """
def stop(*_):
    while not os.path.exists(sys.argv[1]):
        time.sleep(0.01)
    os._exit(0)

signal.signal(signal.SIGTERM, stop)
stay()
"""
    go = tmp_path / "go"
    probe = start(launch, [*QUICK, "--stop-timeout", "3"], [*program(tmp_path, NOTIFY + source), str(go)])
    pid = int(probe.expect("").split("started process ")[1].split(":")[0])
    while "SIGTERM to process" not in probe.lines[-1]:
        probe.expect("")
    probe.wait_until(lambda: "S (sleeping)" in Path(f"/proc/{probe.pid}/status").read_text())  # for what comes next
    asked = time.monotonic()

    probe.send(signal.SIGSTOP)
    probe.wait_until(lambda: time.monotonic() > asked + 4.5)  # 3 s, and more than one behind them
    go.touch()
    probe.wait_until(lambda: not is_alive(pid))
    probe.send(signal.SIGCONT)

    assert 1 == probe.wait(), probe.lines
    assert any("held up, past a deadline by" in line and line.startswith("lost") for line in probe.lines), probe.lines


def test_what_would_not_end_is_not_called_ended() -> None:
    """Another user's process, say: it is told as what it is, and not as left by KillMode=."""
    process = ProcessSeen(pid=4711, parent=1, name="deaf", state="S", on_sigterm="ignored")
    case = Case(
        evidence=Evidence(left=(process,), unended=(4711,), stop_asked=True),
        service=Service(Settings(type="exec")),
        settings=Settings(type="exec"),
        tasks=(),
        killed=(process,),
        stop_ns=1,
        began_ns=0,
        margin_ns=None,
    )

    told = " ".join(losses(case))

    assert "SIGKILL did not end 1 process (PID 4711)" in told
    assert "has ended it" not in told
    assert "had to end" not in told
    assert "SIGKILL did not end 2 processes (PID 4711, 12)" in str(InterruptedRehearsalError(signal.SIGINT, (4711, 12)))


@pytest.mark.parametrize("closed", [[0], [1], [2], [0, 1, 2]], ids=["stdin", "stdout", "stderr", "all"])
def test_what_is_closed_is_not_missed(launch: Launcher, tmp_path: Path, closed: list[int]) -> None:
    """Started without one of the standard descriptors, as some daemons start their children."""

    def close() -> None:
        for fd in closed:
            os.close(fd)

    probe = start(launch, QUICK, program(tmp_path, NOTIFY + "stay()\n"), preexec_fn=close)

    assert 0 == probe.process.wait(60)


def test_a_relative_runtime_directory_is_no_place_for_a_socket(launch: Launcher, tmp_path: Path) -> None:
    """XDG_RUNTIME_DIR has to be absolute (its specification): a program that changes its directory finds it still."""
    (tmp_path / "run").mkdir()
    source = "os.chdir('/')\nstay()\n"
    env = {"XDG_RUNTIME_DIR": "run"}

    assert 0 == rehearse(launch, QUICK, program(tmp_path, NOTIFY + source), env=env, cwd=tmp_path)[0]
