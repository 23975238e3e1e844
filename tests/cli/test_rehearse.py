"""`capbg rehearse` as a person or a script runs it: what comes out, what the program gets, and that nothing is left."""

import fcntl
import json
import os
import pty
import signal
import subprocess
import sys
import termios
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.probe import PREAMBLE, Launcher, Probe, clean_environment, is_alive

SETTABLE = sum(1 << (signum - 1) for signum in signal.valid_signals())
"""All signals but the two that the C library keeps for its threads: whoever has them ignored hands that on for ever."""

COMMAND = [sys.executable, "-m", "capbg.cli", "rehearse"]

FAMILY = """
import os, signal, sys, time

def child(*, session=False, twice=False, stop=False):
    if os.fork() == 0:
        if twice and os.fork():
            os._exit(0)
        if session:
            os.setsid()
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(signum, signal.SIG_IGN)
        with open(sys.argv[1], "a") as pids:
            pids.write(f"{os.getpid()}\\n")
        if stop:
            os.kill(os.getpid(), signal.SIGSTOP)
        while True:
            time.sleep(60)

signal.signal(signal.SIGTERM, signal.SIG_IGN)
child()
child(session=True)
child(twice=True, session=True)
child(stop=True)
with open(sys.argv[1], "a") as pids:
    pids.write(f"{os.getpid()}\\n")
while len(open(sys.argv[1]).read().split()) < 5:
    time.sleep(0.01)
while True:
    print("UP", flush=True)
    time.sleep(0.05)
"""
"""A program with five processes, none of which wants to end: its child, one with a session of its own, one that nobody
is the parent of, one that is stopped, and itself. Their pids stand in a file."""


def program(folder: Path, source: str) -> list[str]:
    """Write a program, and return the command that runs it."""
    path = folder / "program.py"
    path.write_text(textwrap.dedent(source))
    return [sys.executable, str(path)]


def start(launch: Launcher, options: Sequence[str], command: Sequence[str], **more: Any) -> Probe:
    """Start a rehearsal."""
    return launch.start([*COMMAND, *options, "--", *command], **more)


def rehearse(
    launch: Launcher, options: Sequence[str], command: Sequence[str], **more: Any
) -> tuple[int, dict[str, Any]]:
    """Run a rehearsal to its end; return its exit status and its report."""
    probe = start(launch, ["--json", *options], command, **more)
    text, _ = probe.process.communicate(timeout=120)
    status = probe.process.wait()
    assert text, probe.stderr
    found: dict[str, Any] = json.loads(text)
    assert found["passed"] == (status == 0)
    return status, found


def family(path: Path) -> list[int]:
    """The pids of FAMILY's processes, once all are there."""
    return [int(pid) for pid in path.read_text().split()] if path.exists() else []


def await_end(probe: Probe, pids: Sequence[int]) -> None:
    """Wait until none of these is left."""
    assert 5 == len(pids)
    probe.wait_until(lambda: not any(is_alive(pid) for pid in pids), patience=20)


# --------------------------------------------------------------------------------- nothing to rehearse


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--", "no-such-program"], "'no-such-program' is not found in PATH"),
        (["--", "/no/such/program"], "'/no/such/program' is no executable file"),
        (["--", "/etc/passwd"], "'/etc/passwd' is no executable file"),
        (["--", "/etc"], "'/etc' is no executable file"),
        (["--", "./plain"], "cannot be started: Exec format error"),
        (["--", "./lost"], "cannot be started: No such file or directory"),
        (["--script", "TERM", "--", "true"], "'TERM' is no step"),
        (["--script", "NOPE@1", "--", "true"], "there is no signal NOPE"),
        (["--script", "TERM@2 CONT@1", "--", "true"], "comes before 2 s"),
        (["--after", "soon", "--", "true"], "--after"),
        (["--after", "infinity", "--", "true"], "--after"),
        (["--success-status", "300", "--", "true"], "'300': write an exit status"),
        (["--success-status", "SIGTERM", "--", "true"], "'SIGTERM': write an exit status"),
        (["--success-status", "TEMPFIAL", "--", "true"], "'TEMPFIAL': write an exit status"),
        (["--watchdog", "-1", "--", "true"], "--watchdog"),
        (["--svg", "/no/such/folder/a.svg", "--", "true"], "no folder '/no/such/folder'"),
        (["--json"], "give a command"),
    ],
)
def test_what_cannot_be_rehearsed_is_told_in_a_sentence(
    launch: Launcher, tmp_path: Path, arguments: list[str], words: str
) -> None:
    """Exit status 2, a sentence that names what is wrong, and never a traceback."""
    for name, text in (("plain", "echo nothing says who runs this\n"), ("lost", "#!/no/such/interpreter\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    probe = launch.start([*COMMAND, *arguments], cwd=tmp_path)

    assert 2 == probe.wait(), probe.stderr

    assert words in probe.stderr + "\n".join(probe.lines)
    assert "Traceback" not in probe.stderr


# ------------------------------------------------------------------------------------- nothing is left


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_ends_the_rehearsal_and_everything_it_started(
    launch: Launcher, tmp_path: Path, signum: signal.Signals
) -> None:
    """128 and the signal's number; no process is left, be it deaf, stopped, an orphan; and no socket's folder."""
    pids, run = tmp_path / "pids", tmp_path / "run"
    run.mkdir()
    command = [*program(tmp_path, FAMILY), str(pids)]
    probe = start(
        launch, ["--type", "exec", "--after", "600"], command, env={"TMPDIR": str(run), "XDG_RUNTIME_DIR": str(run)}
    )
    probe.wait_until(lambda: len(family(pids)) == 5)
    assert [each.name for each in run.iterdir()]

    probe.send(signum)

    assert 128 + signum == probe.wait(), probe.stderr
    await_end(probe, family(pids))
    assert [] == list(run.iterdir())
    assert "Traceback" not in probe.stderr


def test_ctrl_c_on_a_terminal_ends_everything(launch: Launcher, tmp_path: Path) -> None:
    """^C as the terminal sends it, with the live screen on: exit status 130, and no process is left."""
    pids = tmp_path / "pids"
    master, slave = pty.openpty()
    shown = bytearray()
    try:
        process = subprocess.Popen(
            [*COMMAND, "--type", "exec", "--after", "600", "--", *program(tmp_path, FAMILY), str(pids)],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**clean_environment(), "TERM": "xterm"},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - one thread
        )
        os.close(slave)
        try:
            asked = False
            while True:
                try:
                    data = os.read(master, 65536)
                except OSError:  # EIO: nobody has it open any more
                    break
                shown += data
                if not asked and len(family(pids)) == 5:
                    os.write(master, b"\x03")
                    asked = True
            assert 130 == process.wait(60), shown.decode(errors="replace")[-2000:]
        finally:
            process.kill()
            process.wait()
    finally:
        os.close(master)
    await_end(launch.start(["true"]), family(pids))
    assert b"Traceback" not in shown


def test_a_reader_that_leaves_ends_the_rehearsal_and_everything_it_started(launch: Launcher, tmp_path: Path) -> None:
    """`| head -1`: the next line finds no reader; no process is left, and no traceback."""
    pids = tmp_path / "pids"
    probe = start(launch, ["--type", "exec", "--after", "600"], [*program(tmp_path, FAMILY), str(pids)])
    probe.wait_until(lambda: len(family(pids)) == 5)

    assert probe.process.stdout is not None
    probe.process.stdout.close()

    assert 0 != probe.process.wait(60)
    await_end(probe, family(pids))
    assert "Traceback" not in probe.stderr


def test_a_killed_rehearsal_takes_the_main_process_along(launch: Launcher, tmp_path: Path) -> None:
    """SIGKILL leaves no time for anything; the kernel ends the main process for it."""
    probe = start(launch, ["--type", "exec", "--after", "600"], ["sh", "-c", "echo SHELL $$; exec sleep 600"])
    pid = int(_until(probe, "SHELL").split()[-1])

    probe.process.kill()

    probe.wait_until(lambda: not is_alive(pid), patience=20)


def _until(probe: Probe, word: str) -> str:
    """Read lines until one holds what the program printed; return it from there."""
    while not (probe.lines and word in probe.lines[-1] and "started" not in probe.lines[-1]):
        probe.expect("")
    return probe.lines[-1].partition(word)[2]


def test_five_hundred_deaf_children_are_ended(launch: Launcher, tmp_path: Path) -> None:
    """KillMode=mixed: the main process leaves at once, and 500 children that ignore SIGTERM go with it."""
    source = """
    import os, signal, sys, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for _ in range(500):
        if os.fork() == 0:
            time.sleep(600)
            os._exit(0)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    import socket
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.connect(os.environ["NOTIFY_SOCKET"])
        sender.send(b"READY=1")
    while True:
        time.sleep(0.05)
    """
    options = ["--type", "notify", "--after", "0.1", "--kill-mode", "mixed"]
    status, found = rehearse(launch, options, program(tmp_path, source))

    assert (1, "success", "exited", 0) == (status, found["result"], found["code"], found["status"])
    assert any("500 processes" in each for each in found["lost"]), found["lost"]
    assert not any(is_alive(each["pid"]) for each in found["killed"])


# --------------------------------------------------------------------------------- what a program gets


@pytest.mark.parametrize("watchdog", [600, 0])
def test_the_program_gets_what_systemd_gives_and_nothing_of_an_outer_service(
    launch: Launcher, tmp_path: Path, watchdog: int
) -> None:
    """Its own socket and watchdog, no stdin, a session of its own; no signal ignored but SIGPIPE, none blocked."""
    source = """
    import json, os, sys, time
    status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
    told = {key: value for key, value in os.environ.items() if key.startswith(("NOTIFY", "WATCHDOG", "CAPBG"))}
    fds = sorted(int(name) for name in os.listdir("/proc/self/fd"))
    print("GOT", json.dumps({
        "env": told, "pid": os.getpid(), "sid": os.getsid(0), "stdin": os.readlink("/proc/self/fd/0"),
        "ignored": int(status["SigIgn"], 16), "blocked": int(status["SigBlk"], 16), "fds": fds[:-1],
    }), flush=True)
    time.sleep(60)
    """
    outer = {"NOTIFY_SOCKET": "/outer", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "CAPBG_TELL_TASKS": "0"}

    def ignore() -> None:
        for signum in (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
            signal.signal(signum, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGTERM})

    options = ["--type", "exec", "--after", "600", "--watchdog", str(watchdog)]
    probe = start(launch, options, program(tmp_path, source), env=outer, preexec_fn=ignore)
    got = json.loads(_until(probe, "GOT"))

    own = got["env"].pop("NOTIFY_SOCKET")
    assert own != "/outer"
    assert os.path.exists(own)
    fed = {"WATCHDOG_USEC": "600000000", "WATCHDOG_PID": str(got["pid"])} if watchdog else {}
    assert {**fed, "CAPBG_TELL_TASKS": "1"} == got["env"]
    assert (got["pid"], "/dev/null", [0, 1, 2]) == (got["sid"], got["stdin"], got["fds"])
    # Python itself ignores SIGPIPE and SIGXFSZ, whatever it was started with.
    assert (1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1), 0) == (got["ignored"] & SETTABLE, got["blocked"])
    probe.send(signal.SIGHUP)
    assert 128 + signal.SIGHUP == probe.wait()


def test_a_program_that_is_not_python_sees_sigpipe_alone_ignored(launch: Launcher) -> None:
    """As IgnoreSIGPIPE= has it; read by sh from its own /proc entry."""
    script = "grep SigIgn /proc/self/status; exec sleep 60"
    probe = start(launch, ["--type", "exec", "--after", "0.3"], ["sh", "-c", script])

    assert 1 << (signal.SIGPIPE - 1) == int(_until(probe, "SigIgn:").split()[-1], 16) & SETTABLE
    assert 1 == probe.wait()


def test_barriers_are_answered_and_floods_are_survived(launch: Launcher, tmp_path: Path) -> None:
    """2000 descriptors behind BARRIER=1 are closed, each in turn; 20000 messages and 30 MB of output harm nothing."""
    source = r"""
    import array, os, select, signal, socket, sys
    done = []
    signal.signal(signal.SIGTERM, lambda *_: done.append(1))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.connect(os.environ["NOTIFY_SOCKET"])
        for _ in range(2000):
            read, write = os.pipe()
            sender.sendmsg([b"BARRIER=1"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [write]))])
            os.close(write)
            if not select.select([read], [], [], 60)[0]:
                os._exit(9)
            os.close(read)
        for number in range(20000):
            sender.send(b"STATUS=%d" % number)
        for _ in range(10):
            os.write(1, bytes(range(256)) * 4096)
            os.write(2, b"no end of a line " * 65536)
            os.write(1, b"a line\n" * 150000)
        sender.send(b"READY=1\nSTATUS=flooded")
    while not done:
        signal.sigtimedwait([], 0.05)
    """
    status, found = rehearse(launch, ["--type", "notify", "--after", "0.1"], program(tmp_path, source))

    assert (0, "success", "exited", 0, "flooded") == (
        status, found["result"], found["code"], found["status"], found["status_text"],
    )  # fmt: skip
    assert len(found["entries"]) < 30000


@pytest.mark.parametrize(
    ("command", "verdict"),
    [
        (["sleep", "600"], (1, "success", "killed", 15)),
        (["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.05; done"], (0, "success", "exited", 0)),
        (["sh", "-c", "trap 'exit 3' TERM; while :; do sleep 0.05; done"], (1, "exit-code", "exited", 3)),
        (["sh", "-c", "sleep 0.1; kill -40 $$"], (1, "signal", "killed", 40)),
        (["perl", "-e", "$SIG{TERM} = sub { exit 0 }; sleep 1 while 1"], (0, "success", "exited", 0)),
        (["sh", "-c", "exit 0"], (1, "success", "exited", 0)),
    ],
    ids=["default", "trap", "status", "real-time-signal", "perl", "ends-by-itself"],
)
def test_any_program_will_do(launch: Launcher, command: list[str], verdict: tuple[int, str, str, int]) -> None:
    """Programs that are not Python, and know nothing of notify sockets."""
    status, found = rehearse(launch, ["--type", "exec", "--after", "1"], command)

    assert verdict == (status, found["result"], found["code"], found["status"]), found["lost"]


# -------------------------------------------------------------------------------------- capbg programs

APP = (
    PREAMBLE
    + """
app = capbg.App("kiosk", grace=20, kill_after=0.3)
"""
)
LOOP = """
with app:
    idle()
"""


def test_tasks_of_every_outcome_are_told(launch: Launcher, tmp_path: Path) -> None:
    """Each task stands in the report by its name, with its outcome and why; one that is lost makes it a 1."""
    source = """
@app.background_task()
def finished(task):
    task.progress(3, 4, "nearly")

@app.background_task()
def failed(task):
    raise OSError("the disk is full")

@app.background_task()
def crashed(task):
    os.kill(os.getpid(), signal.SIGSEGV)

@app.background_task(deadline=0.3)
def expired(task):
    idle()

@app.background_task(deadline=0.3)
def killed(task):
    while True:
        try:
            idle()
        except BaseException:
            pass

app.before_exit(lambda task: None, name="unfinished")
"""
    status, found = rehearse(
        launch, ["--type", "notify", "--kill-mode", "mixed", "--after", "0.1"], program(tmp_path, APP + source + LOOP)
    )

    names = ["finished", "failed", "crashed", "expired", "killed", "unfinished"]
    told = {each["name"]: each for each in found["tasks"]}
    assert dict.fromkeys(names, True) == {
        name: each["state"] == name and each["settled"] for name, each in told.items()
    }
    assert ["finished"] == [name for name, each in told.items() if not each["lost"]]
    assert (75.0, "nearly") == (told["finished"]["percent"], told["finished"]["message"])
    assert "the disk is full" in told["failed"]["reason"]
    assert (1, "exit-code", "exited", 75) == (status, found["result"], found["code"], found["status"])


def test_three_hundred_tasks_are_all_heard_of(launch: Launcher, tmp_path: Path) -> None:
    """Every one of them is finished in the report."""
    source = """
for number in range(300):
    app.background_task(name=f"task-{number}")(lambda: None)
"""
    status, found = rehearse(
        launch, ["--type", "notify", "--kill-mode", "mixed", "--after", "0.1"], program(tmp_path, APP + source + LOOP)
    )

    assert {f"task-{number}": "finished" for number in range(300)} == {
        each["name"]: each["state"] for each in found["tasks"]
    }
    assert 0 == status, found["lost"]


def test_a_suspension_a_resume_and_a_stop_are_played(launch: Launcher, tmp_path: Path) -> None:
    """--signal TSTP: the program suspends itself, is resumed, and stops; its task finishes in both grace periods."""
    source = """
@app.background_task()
def save(task):
    pass
"""
    options = ["--type", "notify", "--kill-mode", "mixed", "--after", "0.1", "--signal", "TSTP"]
    status, found = rehearse(launch, options, program(tmp_path, APP + source + LOOP))

    assert 0 == status, found["lost"]
    assert ["start", "running", "suspended", "running", "stop-sigterm"] == [
        each["state"] for each in found["spans"] if each["state"] not in {"final-sigterm", "dead"}
    ]
    assert ["SIGTSTP", "SIGCONT", "SIGTERM"] == [each["signal"] for each in found["signals"]][:3]


def test_a_program_that_does_not_suspend_is_told_so(launch: Launcher) -> None:
    """A script of TSTP, CONT and TERM, and a program without a handler: the kernel drops SIGTSTP there."""
    status, found = rehearse(launch, ["--type", "exec", "--script", "TSTP@0.2 CONT@0.4 TERM@0.6"], ["sleep", "600"])

    assert 1 == status
    assert any("did not stop itself" in each for each in found["lost"]), found["lost"]
    assert any("SIGTSTP did not suspend it" in each["fault"] for each in found["advice"])


def test_the_watchdog_bites_a_program_that_hangs(launch: Launcher, tmp_path: Path) -> None:
    """--watchdog 1, and a main loop that feeds it once: Result=watchdog, with SIGABRT."""
    status, found = rehearse(
        launch,
        ["--type", "notify", "--kill-mode", "mixed", "--after", "60", "--watchdog", "1"],
        ["sh", "-c", 'ulimit -c 0; exec "$@"', "sh", *program(tmp_path, APP + LOOP)],
    )

    assert (1, "watchdog", "killed", signal.SIGABRT) == (status, found["result"], found["code"], found["status"])
