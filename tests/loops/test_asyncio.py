"""asyncio and uvloop drive an app by ``async with app:``: real loops, real signals, every way out of the block."""

import signal
import time
from pathlib import Path

import pytest

from tests.e2e.lives import lives
from tests.loops import needs
from tests.notify_socket import NotifySocket
from tests.probe import Launcher, process_state

ASYNC = """
import asyncio

def run(coroutine):
    if sys.argv[1] == "uvloop":
        import uvloop
        return uvloop.run(coroutine)
    return asyncio.run(coroutine)

async def until(condition):
    while not condition():
        await asyncio.sleep(0.005)
"""

DEBUG = {"PYTHONDEVMODE": "1", "PYTHONASYNCIODEBUG": "1", "PYTHONWARNINGS": "error"}


@pytest.fixture(params=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> str:
    """The name of a loop that is there."""
    name: str = request.param
    needs.module(name)
    return name


def test_a_life_in_the_loop(launch: Launcher, loop: str, tmp_path: Path) -> None:
    """Suspended, resumed, stopped: the loop turns beside the workers and hears its own signals, to the very end."""
    program = launch(
        lives(
            ASYNC,
            """
            import contextvars

            class Timed(capbg.App):
                longest = 0.0

                def pump(self):
                    begun = time.monotonic()
                    try:
                        super().pump()
                    finally:
                        self.longest = max(self.longest, time.monotonic() - begun)

            app = Timed("loop", grace=120)
            who = contextvars.ContextVar("who", default="nobody")
            heard = grace_periods = 0
            ticker = None

            @app.background_task()
            def save(task):
                say("WORKER", who.get())
                wait_for(os.path.join(sys.argv[2], f"go{grace_periods}"))

            def changed(state):
                global grace_periods, ticker
                say("STATE", state.is_active, state.reason.name, time.monotonic())
                if not state.is_active:
                    grace_periods += 1
                    ticker = asyncio.create_task(tick())

            async def tick():
                for _ in range(40):
                    await asyncio.sleep(0.005)
                say("TICKED")

            def usr1():
                global heard
                heard += 1
                say("USR1")

            app.add_listener("appStateChange", changed)

            async def main():
                asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, usr1)
                say("BEFORE")
                await until(lambda: heard == 1)
                who.set("main")
                try:
                    async with app as entered:
                        say("READY", entered is app)
                        try:
                            await asyncio.Event().wait()
                        finally:
                            say("INNER", type(sys.exc_info()[1]).__name__)
                            await until(lambda: heard == 6)
                finally:
                    say("OUTER", repr(sys.exc_info()[1]), asyncio.current_task().cancelling())
                    os.kill(os.getpid(), signal.SIGINT)  # once more: nobody cuts these blocks short
                    os.kill(os.getpid(), signal.SIGTERM)
                    await until(lambda: heard == 7)
                    say("LONGEST", app.longest)

            try:
                run(main())
            finally:
                report(app)
            """,
        ),
        loop,
        str(tmp_path),
        env=DEBUG,
    )

    def usr1() -> None:
        program.send(signal.SIGUSR1)
        program.expect("USR1")

    program.expect("BEFORE")
    usr1()
    assert "True" == program.expect("READY")
    for number, signum in enumerate([signal.SIGTSTP, signal.SIGTERM], 1):
        program.wait_until(lambda: process_state(program.pid) == "S")
        usr1()
        program.wait_until(lambda: process_state(program.pid) == "S")
        sent = time.monotonic()
        program.send(signum)
        active, reason, at = program.expect("STATE").split()
        assert ("False", "SUSPEND" if number == 1 else "TERMINATE") == (active, reason)
        print(f"{loop}: heard after {1000 * (float(at) - sent):.1f} ms")
        assert 10 > float(at) - sent  # nothing else would ever have woken it
        program.expect("TICKED")
        if number == 2:
            usr1()
        (tmp_path / f"go{number}").touch()
        if number == 1:
            program.wait_stopped()
            program.send(signal.SIGCONT)
            assert program.expect("STATE").startswith("True RESUME")
    assert "CancelledError" == program.expect("INNER")
    usr1()
    program.send(signal.SIGTERM)  # the program is leaving already
    usr1()
    assert "SystemExit(0) 0" == program.expect("OUTER")
    usr1()
    longest = float(program.expect("LONGEST"))
    print(f"{loop}: the longest turn took {1000 * longest:.1f} ms")
    assert 2 == sum(line == "WORKER main" for line in program.lines)
    assert {"save": "FINISHED"} == program.report()["outcomes"]
    assert 0 == program.wait(), program.stderr
    assert "Traceback" not in program.stderr
    assert "Warning" not in program.stderr


WAYS = """
import importlib
importlib.import_module(sys.argv[1])  # once, and not in every life
import capbg.loops.asyncio

SLEEP = 60
app = None

class Broken(capbg.App):
    def pump(self):
        super().pump()
        raise OSError("no turn")

async def stop_soon():
    await asyncio.sleep(0.02)
    os.kill(os.getpid(), signal.SIGTERM)

@contextlib.contextmanager
def telling(word):
    # What leaves the block is written down behind the word.
    try:
        yield
    finally:
        error = sys.exc_info()[1]
        tell(word, "" if error is None else type(error).__name__)

async def stopped():
    # The program's work, until it is cancelled.
    asyncio.create_task(stop_soon())
    with telling("work"):
        await asyncio.sleep(SLEEP)

def failing():
    raise OSError("the line is down")

# -- each function is one life

async def returns():
    with telling("block"):
        async with app:
            await asyncio.sleep(0)

async def fails():
    app.background_task()(failing)
    with telling("block"):
        async with app:
            try:
                await stopped()
            finally:
                await asyncio.sleep(0.01)
                tell("cleaned up")

async def swallows():
    app.background_task()(failing)
    with telling("block"):
        async with app:
            try:
                async with asyncio.timeout(SLEEP):
                    await stopped()
            except asyncio.CancelledError:
                pass
            await asyncio.sleep(0.01)
            tell("goes on")

async def timeout_around():
    async with asyncio.timeout(SLEEP):
        await fails()

async def group_inside():
    async with app:
        async with asyncio.TaskGroup() as group:
            group.create_task(stopped())
            with telling("body"):
                await asyncio.sleep(SLEEP)

async def group_around():
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(SLEEP))
        async with app:
            await stopped()

async def child():
    task = asyncio.create_task(fails())
    with telling("main"):
        await asyncio.sleep(SLEEP)

async def cancelled_by_another():
    with telling("block"):
        async with app:
            asyncio.get_running_loop().call_later(0.02, asyncio.current_task().cancel)
            await asyncio.sleep(SLEEP)

async def cancelled_by_both():
    try:
        with telling("block"):
            async with app:
                try:
                    await stopped()
                finally:
                    asyncio.current_task().cancel()
    finally:
        tell(asyncio.current_task().cancelling())

async def raises():
    with telling("block"):
        async with app:
            try:
                await stopped()
            finally:
                raise LookupError

class Exits(capbg.App):
    # As if the handler of another signal had raised in the middle of a turn.
    def pump(self):
        raise SystemExit(7)

async def exits():
    await broken(Exits)

async def broken(kind=Broken):
    global app
    app = kind("broken", grace=30)
    with telling("block"):
        async with app:
            with telling("work"):
                await asyncio.sleep(SLEEP)

async def leave_in_grace_period(error=None, cancel=False):
    # The task finishes when the loop has ticked: it would wait for ever for one that is stopped.
    leave, ticked, me = asyncio.Event(), os.path.join(sys.argv[2], str(os.getpid())), asyncio.current_task()

    @app.background_task()
    def work():
        wait_for(ticked)

    async def tick():
        for _ in range(10):
            await asyncio.sleep(0.005)
        open(ticked, "w").close()
        if cancel:
            me.cancel()

    def changed(state):
        leave.set()
        asyncio.create_task(tick())

    app.add_listener("appStateChange", changed)
    with telling("block"):
        async with app:
            asyncio.create_task(stop_soon())
            await leave.wait()
            if error is not None:
                raise error

async def leaves_early():
    await leave_in_grace_period()

async def leaves_early_by_an_error():
    await leave_in_grace_period(LookupError())

async def is_cancelled_while_it_waits():
    await leave_in_grace_period(cancel=True)

# --

def live(told, way):
    global app, tell
    tell = lambda *words: os.write(told, ("".join(map(str, words)) + ",").encode())
    app = capbg.App(way.__name__, grace=30)
    sys.stderr = open(os.devnull, "w")
    try:
        run(way())
    finally:
        if app.last_report is not None:
            tell(*(result.outcome.name for result in app.last_report.results))

for way in (returns, fails, swallows, timeout_around, group_inside, group_around, child, cancelled_by_another,
            cancelled_by_both, raises, broken, exits, leaves_early,
            leaves_early_by_an_error, is_cancelled_while_it_waits):
    life = Life(live, way)
    say(way.__name__, life.hear(1 << 16), life.end())
"""


def test_every_way_out_of_the_block(launch: Launcher, loop: str, tmp_path: Path) -> None:
    """Cancelled, swallowed, grouped, by somebody else, with an error, too early: the status is the contract's."""
    program = launch(lives("import contextlib\n", ASYNC, WAYS), loop, str(tmp_path))
    assert 0 == program.wait(), program.stderr
    failed = "workCancelledError,cleaned up,blockSystemExit,FAILED,"
    assert [
        "returns block, 0",
        f"fails {failed} 75",
        "swallows workCancelledError,goes on,blockSystemExit,FAILED, 75",
        f"timeout_around {failed} 75",
        "group_inside bodyCancelledError,workCancelledError,, 0",
        "group_around workCancelledError,, 0",
        f"child {failed.replace('FAILED', 'mainCancelledError,FAILED')} 75",
        "cancelled_by_another blockCancelledError, 99",
        "cancelled_by_both workCancelledError,blockCancelledError,1,, 99",
        "raises workCancelledError,blockLookupError,, 99",
        "broken workCancelledError,blockOSError, 99",
        "exits workCancelledError,blockSystemExit, 7",
        "leaves_early blockSystemExit,FINISHED, 0",
        "leaves_early_by_an_error blockLookupError,FINISHED, 99",
        "is_cancelled_while_it_waits blockCancelledError,FINISHED, 99",
    ] == program.lines


def test_the_watchdog_is_fed_by_the_turns_of_the_loop(launch: Launcher, loop: str, notify_socket: NotifySocket) -> None:
    """Pings come from an idle loop, and none from one that hangs in a callback."""
    program = launch(
        ASYNC
        + """
import socket
os.environ["WATCHDOG_PID"] = str(os.getpid())

def hang():
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.sendto(b"STATUS=hung", os.environ["NOTIFY_SOCKET"])
    idle()

async def main():
    async with capbg.App("fed", grace=60):
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, hang)
        say("READY")
        await asyncio.Event().wait()

run(main())
""",
        loop,
        env={**notify_socket.env, "WATCHDOG_USEC": "400000"},
    )
    program.expect("READY")
    for _ in range(4):
        notify_socket.expect("WATCHDOG", "1")
    program.send(signal.SIGUSR1)
    notify_socket.expect("STATUS", "hung")
    with pytest.raises(AssertionError):
        notify_socket.expect("WATCHDOG", patience=0.8)  # four are due in that time


def test_a_block_without_a_loop_says_what_is_needed(launch: Launcher) -> None:
    """No loop, a loop of an unknown kind, or one in another thread: a sentence, and the app is not entered."""
    program = launch(
        """
        import asyncio

        app = capbg.App("refuses", grace=60)

        async def enter():
            async with app:
                say("ENTERED")

        def attempt(call):
            try:
                call()
            except capbg.CapbgError as error:
                say(type(error).__name__, error)

        attempt(lambda: enter().send(None))
        thread = threading.Thread(target=attempt, args=[lambda: asyncio.run(enter())], name="helper")
        thread.start()
        thread.join()
        asyncio.run(enter())
        asyncio.run(enter())
        """
    )
    assert 0 == program.wait(), program.stderr
    assert [
        "WrongPhaseError `async with app:` needs a running asyncio (uvloop) or trio loop, and there is none: call it "
        "inside of asyncio.run() or trio.run(), or use `with app:` and have your loop watch app.fileno() and call "
        "app.pump()",
        "WrongThreadError entering an app belongs to the main thread (signals and forks do), and this is 'helper'",
        "ENTERED",
        "ENTERED",
    ] == program.lines


CHATTY = """
class Measured(capbg.App):
    turns = 0
    longest_cpu = 0.0

    def pump(self):
        begun = time.thread_time()
        try:
            super().pump()
        finally:
            took = time.thread_time() - begun
            self.turns += 1
            if all(task.state is not capbg.TaskState.QUEUED for task in self.tasks()):  # a turn that forked nothing
                self.longest_cpu = max(self.longest_cpu, took)

app = Measured("chatty", grace=120, kill_after=0.3)
"""


def test_chatty_workers_do_not_stop_the_loop(launch: Launcher) -> None:
    """Beside 32 workers that talk all the time the loop goes on ticking, and every finish counts."""
    program = launch(
        ASYNC
        + CHATTY
        + """
def chat(task):
    os.nice(10)  # the machine of a test is small
    end = time.monotonic() + 1
    while time.monotonic() < end:
        for _ in range(20):
            task.progress(1, 2, "x" * 50)

for number in range(32):
    app.background_task(name=f"chat-{number}")(chat)

ticks = 0

async def main():
    global ticks
    async with app:
        say("READY")
        while True:
            await asyncio.sleep(0.005)
            ticks += not app.get_state().is_active

try:
    run(main())
finally:
    say("TICKS", ticks, app.turns, app.longest_cpu)
    report(app)
""",
        "asyncio",
    )
    program.expect("READY")
    program.send(signal.SIGTERM)
    ticks, turns, longest = program.expect("TICKS").split()
    report = program.report()
    print(f"{ticks} ticks in {report['duration']:.2f} s, {turns} turns, at most {float(longest) * 1000:.1f} ms")
    assert {"FINISHED"} == set(report["outcomes"].values())
    assert 32 == len(report["outcomes"])
    assert int(ticks) >= 10  # of some 150; a turn that goes on while they talk leaves none
    assert 0 == program.wait()


def test_a_finish_behind_many_words_counts_though_its_deadline_is_over(launch: Launcher, tmp_path: Path) -> None:
    """The loop hangs over the deadlines of tasks that have talked a lot and finished: all that is heard first."""
    program = launch(
        ASYNC
        + CHATTY
        + """
@app.background_task(name="first", deadline=3)
def chat(task):
    while not os.path.exists(sys.argv[2]):
        time.sleep(0.005)
    for _ in range(300):
        task.progress(1, 2, "x" * 50)

for number in range(15):
    app.background_task(name=f"chat-{number}", deadline=3)(chat)

async def main():
    async with app:
        say("READY")
        await until(lambda: [task.state.name for task in app.tasks()].count("RUNNING") == 16)
        open(sys.argv[2], "w").close()
        time.sleep(4)  # over the hard deadlines, too: the kernel has killed them while they waited for the answer
        say("TURNS BEFORE", app.turns)
        await until(lambda: False)

try:
    run(main())
finally:
    say("TURNS", app.turns)
    report(app)
""",
        "asyncio",
        str(tmp_path / "go"),
    )
    program.expect("READY")
    program.send(signal.SIGTERM)
    before = int(program.expect("TURNS BEFORE"))
    after = int(program.expect("TURNS"))
    assert after - before >= 2  # of 7: their words do not fit into one turn
    assert 16 * ["FINISHED"] == list(program.report()["outcomes"].values())
    assert 0 == program.wait()


def test_a_block_that_forgot_its_async_says_so(launch: Launcher) -> None:
    """A plain ``with app:`` in a coroutine runs the tasks, the loop stands still, and the log tells the mend."""
    program = launch(
        """
        import asyncio

        async def main():
            app = capbg.App("forgot", grace=30)
            app.background_task(name="work")(lambda: say("WORK"))
            with app:
                say("READY")
                while True:
                    await asyncio.sleep(0.01)

        asyncio.run(main())
        """
    )
    program.expect("READY")
    program.send(signal.SIGTERM)
    program.expect("WORK")
    assert 0 == program.wait()
    assert "use `async with app:`" in program.stderr
