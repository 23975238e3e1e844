"""What `capbg check --pid` says of real processes: five kinds of them first, then one fault each."""

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from capbg.cli.units.findings import Finding, Level
from capbg.cli.units.process import ProcessError, check_process, service_in, unit_of
from tests.notify_socket import NotifySocket
from tests.probe import PATIENCE_S, Launcher, Probe

GOOD_APP = """
app = capbg.App("kiosk")

@app.background_task()
def save(task):
    pass

with app:
    say("READY")
    idle()
"""

STUBBORN = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
say("READY")
idle()
"""

DEAF = """
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
threading.Thread(target=idle, daemon=True).start()
say("READY")
idle()
"""


def bad(findings: list[Finding]) -> list[tuple[str, str]]:
    """What is worse than a note: its rule and what it says."""
    return [(each.rule, each.what) for each in findings if each.level is not Level.NOTE]


def rules(findings: list[Finding]) -> dict[str, Level]:
    """Which rules have found something, and how bad it is."""
    return {each.rule: each.level for each in findings}


def started(launch: Launcher, source: str, **options: object) -> Probe:
    """A Python program that has printed READY."""
    probe = launch(source, **options)  # type: ignore[arg-type]
    probe.expect("READY")
    return probe


def test_a_shell_that_stays_is_named(launch: Launcher) -> None:
    """`sh -c "program; true"`: the shell gets the signal and dies, and the program is its child."""
    probe = launch.start(
        ["sh", "-c", f"{sys.executable} -c 'import time; print(\"READY\", flush=True); time.sleep(600)'; true"]
    )
    probe.expect("READY")
    (child,) = probe.children()

    (found,) = [each for each in check_process(probe.pid) if each.level is not Level.NOTE]

    assert (Level.ERROR, "wrapper", f"process {probe.pid}") == (found.level, found.rule, found.where)
    assert str(child) in found.what
    assert "exec" in found.fix


def test_a_shell_with_a_trap_is_warned_of(launch: Launcher) -> None:
    """A trap for SIGTERM runs only when the program in the foreground has ended."""
    probe = launch.start(["sh", "-c", "trap 'exit 0' TERM; sh -c 'echo READY; exec sleep 600'; true"])
    probe.expect("READY")

    assert {"wrapper": Level.WARNING} == rules(
        [each for each in check_process(probe.pid) if each.level is not Level.NOTE]
    )


def test_a_program_without_a_handler_dies_at_once(launch: Launcher) -> None:
    """Python by itself: SIGTERM is the end, and one finding says so."""
    probe = started(launch, 'say("READY")\nidle()')

    assert [("sigterm", "SIGTERM is not caught")] == bad(check_process(probe.pid))


def test_a_program_that_ignores_sigterm_is_waited_for_in_vain(launch: Launcher) -> None:
    """SIG_IGN: systemd waits, then kills."""
    probe = started(launch, STUBBORN)

    assert [("sigterm", "SIGTERM is ignored")] == bad(check_process(probe.pid))


def test_a_program_that_blocks_sigterm_is_waited_for_in_vain(launch: Launcher) -> None:
    """Blocked in each of two threads; and once it was sent it is seen to wait there."""
    probe = started(launch, DEAF)
    before = bad(check_process(probe.pid))
    probe.send(signal.SIGTERM)

    assert [("sigterm", "SIGTERM is blocked in all of its 2 threads")] == before
    assert [("sigterm", "SIGTERM is blocked in all of its 2 threads and waits there already")] == bad(
        check_process(probe.pid)
    )


def test_a_capbg_app_is_in_good_order(launch: Launcher, notify_socket: NotifySocket) -> None:
    """An entered app with a notify socket: nothing but the note that no service holds it."""
    probe = started(launch, GOOD_APP, env=notify_socket.env | {"CAPBG_GRACE": "5"})

    assert {"unit": Level.NOTE} == rules(check_process(probe.pid))


SIGNALFD = """
import ctypes
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
libc = ctypes.CDLL(None, use_errno=True)
mask = (ctypes.c_ulong * 16)()  # sigset_t
libc.sigaddset(mask, signal.SIGTERM)
fd = libc.signalfd(-1, mask, 0)
assert fd >= 0
say("READY")
idle()
"""

SIGWAIT = """
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
say("READY")
signal.sigwait({signal.SIGTERM})
"""


@pytest.mark.parametrize("source", [SIGNALFD, SIGWAIT], ids=["signalfd", "sigwait"])
def test_a_signal_taken_without_a_handler_is_taken(launch: Launcher, source: str) -> None:
    """signalfd(2) and sigwait(3) want the signal blocked and not caught: that is no fault."""
    probe = started(launch, source)

    # READY is printed just before sigwait is entered.
    probe.wait_until(lambda: bad(check_process(probe.pid)) == [])


def test_sigtstp_sigint_threads_and_children_are_noted(launch: Launcher) -> None:
    """A program with a SIGTERM handler alone: what else would happen to it is told, and nothing is called wrong."""
    probe = started(
        launch,
        """
        import subprocess
        signal.signal(signal.SIGTERM, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        threading.Thread(target=idle, daemon=True).start()
        child = subprocess.Popen(["sleep", "600"], process_group=0)
        say("READY")
        idle()
        """,
    )
    (child,) = probe.children()
    found = check_process(probe.pid)

    assert dict.fromkeys(("threads", "children", "sigtstp", "sigint", "unit"), Level.NOTE) == rules(found)
    assert f"sleep ({child}); 1 in process groups of their own" in next(
        each.what for each in found if each.rule == "children"
    )


def test_a_stopped_process_says_who_wakes_it(launch: Launcher) -> None:
    """State T, with a SIGTERM that waits for the SIGCONT."""
    probe = started(launch, GOOD_APP)
    os.kill(probe.pid, signal.SIGSTOP)
    probe.wait_stopped()
    probe.send(signal.SIGTERM)

    assert "it is stopped (state T); SIGTERM is pending" in [each.what for each in check_process(probe.pid)]


def test_a_suspended_app_is_in_good_order(launch: Launcher) -> None:
    """An app that has suspended itself on SIGTSTP is stopped, and that is no fault."""
    probe = started(launch, GOOD_APP)
    probe.send(signal.SIGTSTP)
    probe.wait_stopped()

    found = check_process(probe.pid)
    assert [] == bad(found)
    assert "state" in rules(found)


@pytest.mark.parametrize(("left", "level"), [(2, Level.ERROR), (10, Level.WARNING), (100, None)])
def test_few_descriptors_left_are_told(launch: Launcher, left: int, level: Level | None) -> None:
    """A stop needs some for each worker; with two not even one can start."""
    probe = started(
        launch,
        f"""
        import resource
        signal.signal(signal.SIGTERM, lambda *_: None)
        used = len(os.listdir("/proc/self/fd")) - 1
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + {left}, used + {left}))
        say("READY")
        idle()
        """,
    )

    assert level == rules(check_process(probe.pid)).get("descriptors")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts a program as another user")
def test_a_user_with_all_his_processes_is_told(launch: Launcher) -> None:
    """RLIMIT_NPROC counts a user's threads wherever they run: with one of one running, no worker can start."""
    probe = started(
        launch,
        """
        import resource
        signal.signal(signal.SIGTERM, lambda *_: None)
        resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
        os.setresuid(*[400_000 + os.getpid()] * 3)
        say("READY")
        idle()
        """,
    )

    assert Level.ERROR == rules(check_process(probe.pid)).get("processes")


@pytest.fixture
def limited() -> Iterator[Callable[[str, dict[str, str]], Path]]:
    """Make a cgroup with limits, in whichever hierarchy of this machine has the controller."""
    made: list[Path] = []

    def make(controller: str, limits: dict[str, str]) -> Path:
        place = _mount_of(controller)
        if place is None:
            pytest.skip(f"no cgroup of the {controller} controller can be made here")
        folder = place / f"capbg-check-{os.getpid()}-{len(made)}"
        try:
            folder.mkdir()
            made.append(folder)
            written = [(folder / name).write_text(value) for name, value in limits.items() if (folder / name).exists()]
        except OSError as error:
            pytest.skip(f"no cgroup can be made here: {error}")
        assert written, list(folder.iterdir())
        return folder

    yield make
    for folder in made:
        folder.rmdir()


def _mount_of(controller: str) -> Path | None:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        mount, _, kind = line.partition(" - ")
        place, (name, _, options) = Path(mount.split()[4]), kind.split(" ", 2)
        if name == "cgroup" and controller in options.split(","):
            return place
        if name == "cgroup2" and controller in (place / "cgroup.subtree_control").read_text().split():
            return place
    return None


def test_a_cgroup_that_is_nearly_full_is_told(limited: Callable[[str, dict[str, str]], Path], launch: Launcher) -> None:
    """TasksMax= and MemoryMax= as the kernel counts them, in cgroup v1 or v2: workers need room in both."""
    pids = limited("pids", {"pids.max": "1"})
    memory = limited("memory", {"memory.max": str(64 << 20), "memory.limit_in_bytes": str(64 << 20)})
    probe = started(
        launch,
        f"""
        for folder in {sorted({str(pids), str(memory)})}:
            with open(folder + "/cgroup.procs", "w") as procs:
                procs.write(str(os.getpid()))
        signal.signal(signal.SIGTERM, lambda *_: None)
        kept = bytearray(40 << 20)
        for page in range(0, len(kept), 4096):
            kept[page] = 1
        say("READY")
        idle()
        """,
    )

    found = {each.rule: each for each in check_process(probe.pid)}

    assert (Level.ERROR, f"1 of 1 processes and threads run, by {pids}") == (
        found["processes"].level,
        found["processes"].what,
    )
    assert Level.WARNING == found["memory"].level
    assert f" of 64 MiB are in use, by {memory}" in found["memory"].what


def test_a_watchdog_for_another_process_is_warned_of(launch: Launcher) -> None:
    """WATCHDOG_PID names the shell that systemd has started: this one's pings do not count."""
    probe = started(launch, GOOD_APP, env={"WATCHDOG_PID": "1", "WATCHDOG_USEC": "60000000"})

    assert [("watchdog", "the watchdog in its environment is for process 1")] == bad(check_process(probe.pid))


def test_a_worker_points_to_its_app(launch: Launcher) -> None:
    """Who asks about a worker is told that the app is the one to ask about."""
    probe = launch(
        """
        app = capbg.App("kiosk", grace=60)

        @app.background_task()
        def save(task):
            say("WORKER", os.getpid())
            idle()

        with app:
            say("READY")
            idle()
        """
    )
    probe.expect("READY")
    probe.send(signal.SIGTERM)
    worker = int(probe.expect("WORKER"))

    assert ["it is a worker of a capbg app (kiosk/save)"] == [
        each.what for each in check_process(worker) if each.rule == "worker"
    ]


# ------------------------------------------------------------------------------------------- what cannot be looked at


def as_other_user(question: Callable[[], object], *, first: Callable[[], object] = bool) -> object:
    """The answer, as JSON, of a fork of this process that has become somebody else; ``first`` is done as root."""
    read_fd, write_fd = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            first()
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            os.write(write_fd, json.dumps(question()).encode())
        except BaseException as error:
            os.write(write_fd, json.dumps(repr(error)).encode())
        finally:
            os._exit(0)
    os.close(write_fd)
    with os.fdopen(read_fd, "rb") as answers:
        answer = answers.read()
    os.waitpid(child, 0)
    return json.loads(answer)


def hide_others() -> None:
    """Mount a /proc, in a mount namespace of its own, whose directories are open to their owners alone: proc(5)."""
    new_namespace = 0x00020000  # CLONE_NEWNS
    if ctypes.CDLL(None).unshare(new_namespace):
        raise PermissionError("no mount namespace")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "-t", "proc", "-o", "hidepid=1", "proc", "/proc"], check=True)


def seen(pid: int) -> str:
    """What is said of a process in a sentence, or that it could be looked at."""
    try:
        check_process(pid)
    except ProcessError as error:
        return str(error)
    return "seen"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
def test_a_proc_that_hides_others_is_said_to(launch: Launcher) -> None:
    """With hidepid=1 another user's process is a sentence; one's own is looked at all the same."""
    probe = started(launch, GOOD_APP)
    answer = as_other_user(lambda: [seen(probe.pid), seen(os.getpid())], first=hide_others)
    if isinstance(answer, str) and ("no mount namespace" in answer or "CalledProcessError" in answer):
        pytest.skip(f"no /proc can be mounted here: {answer}")

    assert [f"process {probe.pid} is closed to you (/proc is mounted with hidepid): look as root", "seen"] == answer


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
def test_what_was_closed_to_us_is_said(launch: Launcher) -> None:
    """Of another user's process handlers are seen, environment and descriptors are not: no fault is made up of that."""
    probe = started(launch, GOOD_APP)

    told = as_other_user(lambda: [[each.level.value, each.rule, each.what] for each in check_process(probe.pid)])

    assert isinstance(told, list), told
    assert ["note", "unseen", "not looked at: its environment and its open descriptors (permission denied)"] in told
    assert {"note"} == {level for level, _, _ in told}


CONFINED = {
    "CAP_SYS_PTRACE": ("setpriv", "--bounding-set=-sys_ptrace"),
    "user namespace": ("unshare", "--user", "--map-root-user"),
}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be root without its powers")
@pytest.mark.parametrize("lacks", CONFINED)
def test_root_is_told_what_it_lacks(launch: Launcher, lacks: str) -> None:
    """Root of a container may not look at all: it is told why, and not to become root."""
    probe = started(launch, GOOD_APP)
    confined = CONFINED[lacks]
    if subprocess.run([*confined, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip(f"no {confined[0]} here")
    command = [*confined, sys.executable, "-m", "capbg.cli", "check", "--json", "--pid", str(probe.pid)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    (found,) = (each for each in json.loads(done.stdout)["checked"][0]["findings"] if each["rule"] == "unseen")

    assert lacks in found["why"]
    assert "sudo" not in found["fix"]
    assert "outside of the container" in found["fix"]


@pytest.fixture
def zombie() -> Iterator[int]:
    """A child of ours that has ended and was not asked how."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    yield pid
    os.waitpid(pid, 0)


def test_a_zombie_has_nothing_left_to_stop(zombie: int) -> None:
    """State Z: one finding, and none about signals that nobody can catch any more."""
    assert {"state": Level.ERROR} == rules(check_process(zombie))


def gone() -> int:
    """The pid of a process that is no more."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return pid


def test_a_process_without_its_first_thread_still_runs(launch: Launcher) -> None:
    """Its state is Z as that of a zombie, but a stop ends the threads that are left."""
    probe = launch("""
    import ctypes

    def last():
        while "Z" not in open(f"/proc/{os.getpid()}/stat").read().rpartition(") ")[2][:1]:
            time.sleep(0.01)
        say("READY")
        idle()

    threading.Thread(target=last).start()
    ctypes.CDLL(None).syscall({"x86_64": 60, "aarch64": 93}[os.uname().machine], 0)  # exit(2), of this thread alone
    """)
    probe.expect("READY")

    assert ("sigterm", "SIGTERM is not caught") in bad(check_process(probe.pid))


def test_a_process_that_is_gone_is_said_to_be(launch: Launcher) -> None:
    """No process, a number that cannot be one, and a thread's: a sentence each."""
    probe = started(launch, DEAF)
    thread = next(int(tid) for tid in os.listdir(f"/proc/{probe.pid}/task") if int(tid) != probe.pid)

    for pid, sentence in (
        (gone(), "there is no process"),
        (0, "0 is no process id"),
        (-5, "-5 is no process id"),
        (thread, f"{thread} is a thread of process {probe.pid}"),
    ):
        with pytest.raises(ProcessError, match=sentence):
            check_process(pid)


def test_a_kernel_thread_is_nobodys_to_stop() -> None:
    """kthreadd and its children take no signals."""
    kernel = next(
        (int(pid) for pid in os.listdir("/proc") if pid.isdecimal() and not _command(pid) and _parent(pid) == 2), None
    )
    if kernel is None:
        pytest.skip("no kernel thread is to be seen in this container")
    with pytest.raises(ProcessError, match="thread of the kernel"):
        check_process(kernel)


def _command(pid: str) -> bytes:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read()
    except OSError:
        return b"gone"


def _parent(pid: str) -> int:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return int(file.read().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def test_a_process_that_ends_while_it_is_looked_at_is_a_sentence() -> None:
    """Looked at again and again while it ends: findings or ProcessError, never another exception."""
    for _ in range(20):
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        end = time.monotonic() + PATIENCE_S
        reaped = False
        while time.monotonic() < end:
            try:
                check_process(pid)
            except ProcessError:
                break
            if not reaped:
                reaped = os.waitpid(pid, os.WNOHANG)[0] == pid
        assert reaped


@pytest.mark.parametrize(
    ("cgroup", "service"),
    [
        ("/system.slice/kiosk.service", "kiosk.service"),
        ("/system.slice/system-capbg.slice/capbg@shop.service", "capbg@shop.service"),
        ("/system.slice/kiosk.service/workers/3", "kiosk.service"),
        ("/system.slice/_cgroup.service", "cgroup.service"),
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/photos.service", "photos.service"),
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/vte-spawn-1.scope", None),
        ("/user.slice/user-1000.slice/user@1000.service/init.scope", None),
        ("/user.slice/user-1000.slice/session-3.scope", None),
        ("/", None),
        ("", None),
    ],
)
def test_the_service_is_read_from_the_cgroup(cgroup: str, service: str | None) -> None:
    """The innermost unit counts, also above cgroups of the service's own; a session's or a terminal's scope is none."""
    assert service == service_in(cgroup)


def test_this_very_process_belongs_where_its_cgroup_says() -> None:
    """Asked about a real process, the answer is that of its own /proc/PID/cgroup."""
    with open("/proc/self/cgroup") as file:
        paths = [line.rstrip("\n").split(":", 2)[2] for line in file]

    assert unit_of(os.getpid()) in {service_in(path) for path in paths}
