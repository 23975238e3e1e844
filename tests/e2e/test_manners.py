"""A guest's manners: what capbg leaves alone in the program, in its other children, and in its workers."""

import signal
from pathlib import Path

import pytest

from tests.e2e.lives import lives
from tests.notify_socket import NotifySocket
from tests.probe import Launcher

# ------------------------------------------------------------------------------------------------- coming and going


def test_import_is_light_and_the_grace_period_imports_nothing(launch: Launcher) -> None:
    """``import capbg`` loads next to nothing, entering loads the rest, and no task's end needs more than is there."""
    program = launch(
        """
        heavy = {"multiprocess", "dill", "asyncio", "setproctitle", "sdnotify", "ctypes"}
        light = {"logging", "inspect", "socket", "capbg.app"}
        say("BARE", sorted((heavy | light) & set(sys.modules)))
        app = capbg.App("light", grace=60, kill_after=30)
        say("APP", sorted(heavy & set(sys.modules)))

        def new():
            say("NEW", sorted(set(sys.modules) - known))

        def finishes(task):
            task.progress(1, 2, "half")
            task.finish()
            new()

        def raises():
            try:
                raise ValueError("no")
            finally:
                new()

        async def waits(task):
            new()

        app.background_task()(finishes)
        app.background_task()(raises)
        app.background_task(deadline=0.1, on_expire=lambda task: new(), name="expires")(lambda: idle())
        app.background_task()(waits)
        app.add_listener("graceEnded", lambda report: new())
        with app:
            known = set(sys.modules)
            os.kill(os.getpid(), signal.SIGTERM)
            idle()
        """
    )
    assert 75 == program.wait()
    assert ["BARE []", "APP []", *["NEW []"] * 5] == program.lines, program.stderr


def test_leaving_puts_everything_back_and_the_app_can_be_entered_again(launch: Launcher) -> None:
    """Handlers, mask, wake-up descriptor, title, threads, descriptors and children are as they were before."""
    program = launch(
        """
        def old(*_):
            say("OLD")

        def picture():
            with open("/proc/self/cmdline") as cmdline:
                title = cmdline.read().replace("\\0", " ").strip()
            handlers = [signal.getsignal(number) for number in sorted(signal.valid_signals())]
            wakeup = signal.set_wakeup_fd(-1)
            signal.set_wakeup_fd(wakeup)
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
            fds = {}
            for fd in os.listdir("/proc/self/fd"):
                if os.path.exists(f"/proc/self/fd/{fd}"):  # not the listing's own
                    fds[fd] = os.readlink(f"/proc/self/fd/{fd}")
            children = open("/proc/self/task/%d/children" % os.getpid()).read()
            return title, handlers, wakeup, mask, fds, os.listdir("/proc/self/task"), children, dict(os.environ)

        signal.signal(signal.SIGTERM, old)
        signal.signal(signal.SIGTSTP, signal.SIG_IGN)
        signal.signal(signal.SIGCONT, old)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
        read_end, write_end = os.pipe2(os.O_NONBLOCK)
        signal.set_wakeup_fd(write_end)
        app = capbg.App("guest", grace=30)
        app.before_exit(lambda: None, name="once")
        title = picture()[0]
        with app:
            pass  # what is imported may keep a descriptor
        before = picture()
        # setproctitle keeps a byte of the old command line for itself.
        assert title.startswith(before[0]) and len(before[0]) >= len(title) - 1, (before[0], title)
        with app:
            say("THREADS", len(os.listdir("/proc/self/task")))
            os.kill(os.getpid(), signal.SIGTSTP)
            say("BACK", app.get_state().reason.name, app.last_report.results[0].name)
        assert picture() == before, (picture(), before)
        os.kill(os.getpid(), signal.SIGTERM)
        say("BYTES", *os.read(read_end, 100))
        with app:
            say("AGAIN", app.get_state().reason.name, len(app.tasks()))
        """
    )
    program.wait_stopped()
    program.send(signal.SIGCONT)
    assert 0 == program.wait(), program.stderr
    assert ["THREADS 1", "BACK RESUME once", "OLD", "BYTES 20 18 15", "AGAIN START 0"] == program.lines


def test_the_door_is_for_one_app_at_a_time_in_the_main_thread(launch: Launcher) -> None:
    """Entering twice, a second app, from a thread, after the end, in a worker: each says why not, and does no harm."""
    program = launch(
        """
        app, other = capbg.App("one", grace=30), capbg.App("two", grace=30)

        def enter(app):
            try:
                with app:
                    say("TAKEN")
            except Exception as error:
                say(type(error).__name__, error)

        @app.background_task()
        def save(task):
            enter(other)

        try:
            with app:
                enter(app)
                enter(other)
                thread = threading.Thread(target=enter, args=(app,), name="helper")
                thread.start()
                thread.join()
                os.kill(os.getpid(), signal.SIGTERM)
                idle()
        finally:
            enter(app)
            enter(other)
            report(app)
        """
    )
    report = program.report()
    once = "signals belong to one app at a time, leave it first"
    assert [
        f"WrongPhaseError this app is entered already: {once}",
        f"WrongPhaseError the app 'one' is entered already: {once}",
        "WrongThreadError entering an app belongs to the main thread (signals and forks do), and this is 'helper'",
        "WrongProcessError an app cannot be entered in a worker: it belongs to the program that was started",
        "WrongPhaseError the app 'one' has terminated and cannot be entered again",
        "TAKEN",
    ] == program.lines[:-1]
    assert {"save": "FINISHED"} == report["outcomes"]
    assert 0 == program.wait()


# ---------------------------------------------------------------------------------------------- the program's children


def test_a_child_the_program_forks_is_not_the_app(launch: Launcher) -> None:
    """SIGTERM ends such a child by its default action; where the child has a handler, the app does not hear of it."""
    program = launch(
        lives(
            """
            import multiprocessing, subprocess

            def sleep(told):
                os.write(told, b"r")
                idle()

            def listen(told):
                signal.signal(signal.SIGTERM, lambda *_: os.write(told, b"t"))
                sleep(told)

            def leave(told):
                raise SystemExit(7)

            def refused(told):
                for call in (lambda: app.before_exit(print), app.heartbeat, lambda: app.finish("x")):
                    try:
                        call()
                    except capbg.UsageError as error:
                        say("CHILD", type(error).__name__)

            def end(live, hear=True):
                life = Life(live)
                if hear:
                    life.hear()
                life.send(signal.SIGTERM)
                return life.end()

            app = capbg.App("parent", grace=30)
            app.add_listener("appStateChange", lambda state: say("STATE", state.reason.name))
            with app:
                say("FORKED", end(sleep))
                threading.Thread(target=lambda: say("FORKED", end(sleep))).start()
                life = Life(listen)
                life.hear()
                life.send(signal.SIGTERM)
                say("LISTENS", life.hear())
                os.kill(life.pid, signal.SIGKILL)
                say("KILLED", life.end())
                say("LEFT", Life(leave).end())
                Life(refused).end()
                # At once: before the child has come as far as to forget whose child it is.
                for _ in range(20):
                    child = subprocess.Popen(["sleep", "1000"])
                    child.terminate()
                    worker = multiprocessing.get_context("fork").Process(target=idle)
                    worker.start()
                    worker.terminate()
                    worker.join()
                    ends = {child.wait(), worker.exitcode, end(sleep, hear=False)}
                    assert ends == {-signal.SIGTERM}, ends
                say("PHASE", app.get_state().phase.name)
            """
        ),
        env={"PYTHONWARNINGS": "ignore::DeprecationWarning"},  # Python 3.12 has one for forks beside threads
    )
    assert 0 == program.wait()
    told = ["CHILD WrongProcessError"] * 2 + ["CHILD UnknownTaskError", "FORKED -15", "FORKED -15"]
    told += ["LISTENS t", "KILLED -9", "LEFT 7", "PHASE ACTIVE"]
    assert sorted(told) == sorted(program.lines), program.stderr
    assert "" == program.stderr  # Python complains there of a wake-up descriptor that is none


OWN_CHILDREN = """
import subprocess

app = capbg.App("reaps", grace=30)

@app.background_task()
def finishes(task):
    task.finish()

@app.background_task()
def returns(task):
    say("WORKER")

@app.background_task()
def dies(task):
    os._exit(3)
"""


def test_only_its_own_children_are_reaped(launch: Launcher) -> None:
    """The program's own subprocess, gone in the middle of a grace period, is still there to be waited for."""
    program = launch(
        OWN_CHILDREN
        + """
child = subprocess.Popen(["sh", "-c", "read line; exit 5"], stdin=subprocess.PIPE)

def paused():
    child.stdin.close()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)

app.add_listener("pause", paused)
try:
    with app:
        os.kill(os.getpid(), signal.SIGTERM)
        idle()
finally:
    say("CHILD", child.wait())
    report(app)
"""
    )
    assert "5" == program.expect("CHILD")
    report = program.report()
    assert {"finishes": "FINISHED", "returns": "FINISHED", "dies": "CRASHED"} == report["outcomes"]
    assert 3 == report["by_name"]["dies"]["exit_code"]
    assert 75 == program.wait()


@pytest.mark.parametrize("thief", ["ignore", "wait"])
def test_outcomes_hold_in_a_program_that_reaps_every_child_itself(launch: Launcher, thief: str) -> None:
    """With SIGCHLD ignored, or a thread in waitpid(-1), a finish counts, a crash is one, and nobody waits for ever."""
    program = launch(
        OWN_CHILDREN
        + """
def steal():
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            time.sleep(0.001)

if sys.argv[1] == "ignore":
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
else:
    threading.Thread(target=steal, daemon=True).start()
try:
    with app:
        os.kill(os.getpid(), signal.SIGTERM)
        idle()
finally:
    report(app)
""",
        thief,
    )
    report = program.report()
    assert {"finishes": "FINISHED", "returns": "FINISHED", "dies": "CRASHED"} == report["outcomes"]
    dead = report["by_name"]["dies"]
    # The thread may come too late for this one.
    assert dead["exit_code"] == 3 or "taken by another wait in this process" in dead["reason"]
    assert 75 == program.wait()
    assert [] == program.children()


# ------------------------------------------------------------------------------------------------------- the workers


def test_a_worker_starts_clean(launch: Launcher, notify_socket: NotifySocket) -> None:
    """It has the program's descriptors and its own pipe, default signals, no line to systemd; its children as well."""
    program = launch(
        """
        import fcntl, subprocess

        def fds():
            return {int(fd) for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")}

        def masks(pid="self"):
            fields = dict(line.split(":\\t") for line in open(f"/proc/{pid}/status") if line.startswith("Sig"))
            def numbers(name):
                return {n for n in range(1, 32) if int(fields[name], 16) >> (n - 1) & 1}
            return numbers("SigBlk"), numbers("SigIgn"), numbers("SigCgt")

        signal.signal(signal.SIGUSR1, lambda *_: None)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR2})
        app = capbg.App("clean", grace=30)
        os.environ["KEPT"] = "yes"
        before = fds()

        @app.background_task()
        def look(task):
            new = fds() - before
            say("NEW", len(new), [os.readlink(f"/proc/self/fd/{fd}").split(":")[0] for fd in new])
            say("CLOEXEC", [fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC for fd in new])
            blocked, ignored, caught = masks()
            ours = {signal.SIGTERM, signal.SIGINT, signal.SIGTSTP, signal.SIGHUP, signal.SIGXCPU}
            say("MASKS", blocked, ignored - {signal.SIGPIPE, signal.SIGXFSZ}, caught == ours)
            child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
            child.stdin.write(b"r")
            child.stdout.read(1)  # it has loaded its libraries, and holds none of them open
            say("CHILD", *masks(child.pid))
            say("HOLDS", len(os.listdir(f"/proc/{child.pid}/fd")))
            child.terminate()
            say("ENDS", child.wait())
            say("ENV", *(os.environ.get(name) for name in ("KEPT", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")))

        @app.background_task()  # a second worker, which has the first one's ends in reach
        def look_again(task):
            say("NEW", len(fds() - before), "['socket']")

        with app:
            app.fileno()
            say("ENTERED", [fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC for fd in fds() - before].count(0))
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
            os.kill(os.getpid(), signal.SIGTERM)
            while True:
                app.pump()
                time.sleep(0.01)
        """,
        env={**notify_socket.env, "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": ""},
    )
    assert 0 == program.wait(), program.stderr
    assert sorted(
        [
            "ENTERED 0",
            "NEW 1 ['socket']",
            "NEW 1 ['socket']",
            "CLOEXEC [1]",
            "MASKS set() set() True",
            "CHILD set() set() set()",
            "HOLDS 3",
            "ENDS -15",
            "ENV yes None None None",
        ]
    ) == sorted(program.lines)


BUFFERED = """
app = capbg.App("buffers", grace=60, kill_after=0.2 if sys.argv[1:] else 30)

for number in range(3):
    @app.background_task(name=f"task-{number}")
    def work(task):
        print("from the worker")
        task.finish()

try:
    with app:
        if sys.argv[1:]:
            real = os.dup(1)
            _, full = os.pipe2(os.O_NONBLOCK)
            try:
                while True:
                    os.write(full, bytes(4096))
            except BlockingIOError:
                os.set_blocking(full, True)
            os.dup2(full, 1)
        print("half a line", end="")
        os.kill(os.getpid(), signal.SIGTERM)
        idle()
finally:
    if sys.argv[1:]:
        os.dup2(real, 1)
        say("OUTCOMES", *(result.outcome.name for result in app.last_report.results))
    print(" and the other half")
"""


@pytest.mark.parametrize("full", [False, True])
def test_what_the_program_has_buffered_is_written_once_and_a_full_pipe_holds_nothing_up(
    launch: Launcher, full: bool
) -> None:
    """A half-written line comes out once, by the program; a stdout that nobody reads does not hold up the stop."""
    program = launch(BUFFERED, *(["full"] if full else []), env={"PYTHONUNBUFFERED": ""})
    assert 0 == program.wait()
    others = ["OUTCOMES FINISHED FINISHED FINISHED"] if full else ["from the worker"] * 3
    assert sorted([*others, "half a line and the other half"]) == sorted(program.lines)


def test_a_worker_that_dies_before_its_answer_does_not_end_a_program_with_sigpipe_at_its_default(
    launch: Launcher,
) -> None:
    """The acknowledgement goes to a pipe that nobody holds any more, and that is no reason to die of SIGPIPE."""
    program = launch(
        """
        import fcntl, termios
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        app = capbg.App("sigpipe", grace=30)

        @app.background_task()
        def quick(task):
            pass

        @app.background_task()
        def doomed(task):
            while not os.path.exists(sys.argv[0] + ".busy"):
                time.sleep(0.01)
            threading.Thread(target=task.finish, daemon=True).start()
            links = {fd: f"/proc/self/fd/{fd}" for fd in range(100)}
            [pipe] = [fd for fd, link in links.items() if os.path.exists(link) and "socket" in os.readlink(link)]
            while not any(fcntl.ioctl(pipe, termios.TIOCOUTQ, bytes(4))):  # bytes on their way
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)

        def settled(result):
            if result.name == "quick":  # while this runs, nobody reads what doomed says
                [pid] = [pid for pid in map(int, open(f"/proc/self/task/{os.getpid()}/children").read().split())]
                open(sys.argv[0] + ".busy", "w").close()
                os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)

        app.add_listener("taskSettled", settled)
        try:
            with app:
                os.kill(os.getpid(), signal.SIGTERM)
                idle()
        finally:
            report(app)
        """
    )
    assert {"quick": "FINISHED", "doomed": "FINISHED"} == program.report()["outcomes"]
    assert 0 == program.wait()


# ---------------------------------------------------------------------------------------------------- what people see


def test_threads_beside_a_fork_are_named_in_one_warning(launch: Launcher) -> None:
    """The log names the threads that are there when workers are forked, once, and says what to do."""
    program = launch(
        """
        app = capbg.App("threads", grace=30)

        for number in range(3):
            app.background_task(name=f"task-{number}")(lambda: None)

        for name in ("poller", "sender"):
            threading.Thread(target=idle, name=name, daemon=True).start()
        with app:
            os.kill(os.getpid(), signal.SIGTERM)
            idle()
        """
    )
    assert 0 == program.wait()
    [warning] = program.stderr.splitlines()
    assert "other threads (poller, sender)" in warning
    assert 'start_method="forkserver"' in warning


def test_log_records_are_kept_until_the_signal_handler_is_over(launch: Launcher) -> None:
    """A program that is signalled while it holds its log's lock does not deadlock, and gets every record afterwards."""
    program = launch(
        """
        import logging

        class Careful(logging.Handler):
            lock_of_mine = threading.Lock()

            def emit(self, record):
                free = self.lock_of_mine.acquire(blocking=False)
                say("RECORD" if free else "DEADLOCK", record.levelname, record.getMessage().splitlines()[0])
                if free:
                    self.lock_of_mine.release()

        logging.getLogger("capbg").addHandler(Careful())
        logging.getLogger("capbg").setLevel(logging.DEBUG)
        app = capbg.App("records", grace=30)

        @app.background_task()
        def fails():
            raise ValueError("no")

        def broken(state):
            raise ValueError("listener")

        app.add_listener("appStateChange", broken)
        with app:
            assert logging.getLogger("capbg").handlers == [*logging.getLogger("capbg").handlers][:1]
            with Careful.lock_of_mine:
                os.kill(os.getpid(), signal.SIGTSTP)
            say("HANDLED")
            app.heartbeat()
            say("BEAT")
            with Careful.lock_of_mine:
                os.kill(os.getpid(), signal.SIGTERM)
                idle()
        """
    )
    program.wait_stopped()
    program.send(signal.SIGCONT)
    assert 75 == program.wait()
    once = [
        "RECORD ERROR the listener 'broken' of appStateChange raised ValueError: listener",
        "RECORD WARNING task 'fails-1' failed: it raised ValueError: no",
        "RECORD INFO grace period over",
    ]
    lines = [line.split(" after ")[0] for line in program.lines]
    assert ["HANDLED", *once, once[0], "BEAT", *once] == lines, program.stderr


@pytest.mark.parametrize("proctitle", [True, False])
def test_ps_shows_what_is_going_on_unless_it_shall_not(launch: Launcher, tmp_path: Path, proctitle: bool) -> None:
    """The title tells the phase, how many tasks have finished and what is left; the environment stays readable."""

    def title(pid: int) -> str:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()

    def environment() -> list[str]:
        return Path(f"/proc/{program.pid}/environ").read_text().split("\0")

    program = launch(
        lives(
            f"""
            app = capbg.App("kiosk", grace=500, proctitle={proctitle})

            @app.background_task()
            def upload(task):
                say("WORKER", os.getpid())
                wait_for(sys.argv[1])

            @app.background_task()
            def quick(task):
                pass

            app.add_listener("taskSettled", lambda result: say("SETTLED"))
            with app:
                say("READY")
                idle()
            """
        ),
        str(tmp_path / "go"),
        env={"MARK": "kept"},
    )
    own = " ".join(map(str, program.process.args))  # type: ignore[arg-type]
    program.expect("READY")
    assert ("capbg: kiosk [active]" if proctitle else own) == title(program.pid)
    assert "MARK=kept" in environment()
    program.send(signal.SIGTERM)
    worker = int(program.expect("WORKER"))
    assert ("capbg: kiosk/upload" if proctitle else own) == title(worker)
    program.expect("SETTLED")
    if proctitle:
        program.wait_until(lambda: title(program.pid).startswith("capbg: kiosk [background 1/2, "))
        left = title(program.pid).removeprefix("capbg: kiosk [background 1/2, ").removesuffix(" s left]")
        assert 400 < int(left) <= 500
    else:
        assert own == title(program.pid)
    assert "MARK=kept" in environment()
    (tmp_path / "go").touch()
    assert 0 == program.wait()


def test_an_app_in_a_fork_of_a_worker_closes_nothing_of_the_programs_in_its_own_workers(launch: Launcher) -> None:
    """What the outer app had open there is closed long since: the numbers are the task's files by now."""
    program = launch(
        """
        outer = capbg.App("outer", grace=60)

        @outer.background_task()
        def save(task):
            files = [os.open("/dev/null", os.O_RDONLY) for _ in range(20)]
            if os.fork():
                os.wait()
                return
            inner = capbg.App("inner", grace=60)
            inner.background_task()(lambda: say("OPEN", [os.readlink(f"/proc/self/fd/{fd}") for fd in set(files)]))
            with inner:
                os.kill(os.getpid(), signal.SIGTERM)
                idle()

        with outer:
            os.kill(os.getpid(), signal.SIGTERM)
            idle()
        """
    )
    assert 0 == program.wait(), program.stderr
    assert ["OPEN " + str(["/dev/null"] * 20)] == program.lines, program.stderr


@pytest.mark.parametrize("what", ["file", "del"])
def test_what_exists_at_the_signal_has_its_end_when_the_interpreter_ends(launch: Launcher, what: str) -> None:
    """The collector that is frozen for the forks still finds a cycle with a buffered line, or with a ``__del__``."""
    program = launch(
        """
        class Keeper:
            def __init__(self):
                self.itself = self

        class Teller(Keeper):
            def __del__(self, write=os.write):
                write(1, b"the end\\n")

        if sys.argv[1] == "file":
            keeper = Keeper()
            keeper.file = open(os.dup(1), "w")
            keeper.file.write("the end\\n")
        else:
            keeper = Teller()
        app = capbg.App("ends", grace=30)
        app.before_exit(lambda task: task.finish())
        with app:
            os.kill(os.getpid(), signal.SIGTERM)
            idle()
        """,
        what,
    )
    assert 0 == program.wait(), program.stderr
    assert ["the end"] == program.lines
