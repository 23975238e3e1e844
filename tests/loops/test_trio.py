"""trio, and anyio on either backend, drive an app: real loops, real signals, every way out of the block."""

import signal
import time
from pathlib import Path

import pytest

from tests.e2e.lives import lives
from tests.loops import needs
from tests.notify_socket import NotifySocket
from tests.probe import Launcher, process_state

ASYNC = """
import contextlib
import anyio, trio
import capbg.loops.trio

def run(main):
    if sys.argv[1] == "trio":
        return trio.run(main)
    return anyio.run(main)

def driven(app):
    # On anyio's asyncio `async with app:` is the business of capbg.loops.asyncio; anyio can do it as well.
    return capbg.loops.trio.driving(app) if sys.argv[1] == "anyio-asyncio" else app

async def until(condition):
    while not condition():
        await anyio.sleep(0.005)
"""


@pytest.fixture(params=["trio", "anyio-asyncio", "anyio-asyncio-by-app"])
def loop(request: pytest.FixtureRequest) -> str:
    """The name of a loop that is there."""
    needs.module("trio")
    needs.module("anyio")
    name: str = request.param
    return name


def test_a_life_in_the_loop(launch: Launcher, loop: str, tmp_path: Path) -> None:
    """Suspended, resumed, stopped: the loop turns beside the workers and hears its own signals, to the very end."""
    program = launch(
        lives(
            ASYNC,
            """
            app = capbg.App("loop", grace=120)
            heard = grace_periods = 0

            @app.background_task()
            def save(task):
                say("WORKER")
                wait_for(os.path.join(sys.argv[2], f"go{grace_periods}"))

            def changed(state):
                global grace_periods
                say("STATE", state.is_active, state.reason.name, time.monotonic())
                grace_periods += not state.is_active

            app.add_listener("appStateChange", changed)

            async def tick():
                for number in (1, 2):
                    while grace_periods < number:
                        await anyio.sleep(0.5)
                    for _ in range(40):
                        await anyio.sleep(0.005)
                    say("TICKED")
                await anyio.sleep_forever()

            async def hear():
                global heard
                with anyio.open_signal_receiver(signal.SIGUSR1) as signals:
                    say("BEFORE")
                    async for _ in signals:
                        heard += 1
                        say("USR1")

            async def main():
                async with anyio.create_task_group() as group:
                    group.start_soon(hear)
                    await until(lambda: heard == 1)
                    try:
                        await live()
                    except SystemExit as leaving:  # a group would wrap it
                        code = leaving.code
                    os.kill(os.getpid(), signal.SIGINT)  # once more: nobody cuts these blocks short
                    os.kill(os.getpid(), signal.SIGTERM)
                    await until(lambda: heard == 6)
                    group.cancel_scope.cancel()
                sys.exit(code)

            async def live():
                try:
                    async with driven(app) as entered:
                        say("READY", entered is app)
                        try:
                            async with anyio.create_task_group() as group:
                                group.start_soon(tick)
                        finally:
                            say("INNER", isinstance(sys.exc_info()[1], anyio.get_cancelled_exc_class()))
                            with anyio.CancelScope(shield=True):
                                await until(lambda: heard == 5)
                finally:
                    say("OUTER", repr(sys.exc_info()[1]))

            try:
                run(main)
            finally:
                report(app)
            """,
        ),
        loop,
        str(tmp_path),
        env={"PYTHONDEVMODE": "1", "PYTHONWARNINGS": "error"},
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
        assert 10 > float(at) - sent
        program.expect("TICKED")
        if number == 2:
            usr1()
        (tmp_path / f"go{number}").touch()
        if number == 1:
            program.wait_stopped()
            program.send(signal.SIGCONT)
            assert program.expect("STATE").startswith("True RESUME")
    assert "True" == program.expect("INNER")
    program.send(signal.SIGTERM)  # the program is leaving already
    usr1()
    assert "SystemExit(0)" == program.expect("OUTER")
    usr1()
    assert 2 == program.lines.count("WORKER")
    assert {"save": "FINISHED"} == program.report()["outcomes"]
    assert 0 == program.wait(), program.stderr
    assert "Traceback" not in program.stderr
    assert "Warning" not in program.stderr


WAYS = """
SLEEP = 60
app = None

class Broken(capbg.App):
    def pump(self):
        super().pump()
        raise OSError("no turn")

async def stop_soon():
    await anyio.sleep(0.02)
    os.kill(os.getpid(), signal.SIGTERM)

@contextlib.contextmanager
def telling(word):
    # What leaves the block is written down behind the word.
    try:
        yield
    finally:
        error = sys.exc_info()[1]
        cancelled = isinstance(error, anyio.get_cancelled_exc_class())
        tell(word, "" if error is None else "Cancelled" if cancelled else type(error).__name__)

async def stopped():
    # The program's work, until it is cancelled.
    async with anyio.create_task_group() as group:
        group.start_soon(stop_soon)
        with telling("work"):
            await anyio.sleep(SLEEP)

def failing():
    raise OSError("the line is down")

# -- each function is one life

async def returns():
    with telling("block"):
        async with driven(app):
            await anyio.sleep(0)

async def fails():
    app.background_task()(failing)
    with telling("block"):
        async with driven(app):
            try:
                await stopped()
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(0.01)
                tell("cleaned up")

async def shielded():
    with telling("block"):
        async with driven(app):
            with anyio.CancelScope(shield=True):
                async with anyio.create_task_group() as group:
                    group.start_soon(stop_soon)
                    await until(lambda: app.last_report is not None)
            tell("goes on")

async def timeout_around():
    with anyio.fail_after(SLEEP):
        await fails()

async def cancelled_by_another():
    with anyio.move_on_after(0.02):
        with telling("block"):
            async with driven(app):
                await anyio.sleep(SLEEP)
    tell("outside")

async def raises():
    with telling("block"):
        async with driven(app):
            try:
                await stopped()
            finally:
                raise LookupError

async def raises_in_a_group():
    with telling("block"):
        async with driven(app):
            async with anyio.create_task_group() as group:
                group.start_soon(stop_soon)
                try:
                    await anyio.sleep(SLEEP)
                finally:
                    raise LookupError

async def broken():
    global app
    app = Broken("broken", grace=30)
    with telling("block"):
        async with driven(app):
            with telling("work"):
                await anyio.sleep(SLEEP)

async def leave_in_grace_period(error=None, cancel=False):
    # The task finishes when the loop has ticked: it would wait for ever for one that is stopped.
    ticked, background = os.path.join(sys.argv[2], f"{sys.argv[1]}-{os.getpid()}"), False

    @app.background_task()
    def work():
        wait_for(ticked)

    async def tick(scope):
        while not background:
            await anyio.sleep(0.005)
        for _ in range(10):
            await anyio.sleep(0.005)
        open(ticked, "w").close()
        if cancel:
            scope.cancel()

    def changed(state):
        nonlocal background
        background = True

    app.add_listener("appStateChange", changed)
    try:
        async with anyio.create_task_group() as group:
            with anyio.CancelScope() as scope:
                group.start_soon(tick, scope)
                with telling("block"):
                    async with driven(app):
                        os.kill(os.getpid(), signal.SIGTERM)
                        await until(lambda: background)
                        if error is not None:
                            raise error
    except BaseExceptionGroup as group:
        tell(*(repr(each) for each in group.exceptions))

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
        run(way)
    finally:
        if app.last_report is not None:
            tell(*(result.outcome.name for result in app.last_report.results))

for way in (returns, fails, shielded, timeout_around, cancelled_by_another, raises, raises_in_a_group, broken,
            leaves_early, leaves_early_by_an_error, is_cancelled_while_it_waits):
    life = Life(live, way)
    say(way.__name__, life.hear(1 << 16), life.end())
"""


def test_every_way_out_of_the_block(launch: Launcher, loop: str, tmp_path: Path) -> None:
    """Cancelled, shielded, from further out, with an error (unwrapped), too early: the status is the contract's."""
    program = launch(lives(ASYNC, WAYS), loop, str(tmp_path))
    assert 0 == program.wait(), program.stderr
    failed = "workCancelled,cleaned up,blockSystemExit,FAILED,"
    assert [
        "returns block, 0",
        f"fails {failed} 75",
        # A shield of anyio's is none against a cancellation of asyncio's.
        f"shielded {'' if loop == 'anyio-asyncio-by-app' else 'goes on,'}blockSystemExit,, 0",
        f"timeout_around {failed} 75",
        "cancelled_by_another blockCancelled,outside, 0",
        "raises workCancelled,blockLookupError,, 99",
        "raises_in_a_group blockExceptionGroup,, 99",
        "broken workCancelled,blockOSError, 99",
        "leaves_early blockSystemExit,SystemExit(0),FINISHED, 0",
        "leaves_early_by_an_error blockLookupError,LookupError(),FINISHED, 0",
        "is_cancelled_while_it_waits blockCancelled,FINISHED, 0",
    ] == program.lines


def test_the_watchdog_is_fed_by_the_turns_of_the_loop(launch: Launcher, notify_socket: NotifySocket) -> None:
    """Pings come from an idle loop, and none from one that hangs in a task."""
    needs.module("trio")
    needs.module("anyio")
    program = launch(
        """
        import socket, trio
        os.environ["WATCHDOG_PID"] = str(os.getpid())

        async def main():
            async with capbg.App("fed", grace=60):
                with trio.open_signal_receiver(signal.SIGUSR1) as signals:
                    say("READY")
                    async for _ in signals:
                        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
                            told.sendto(b"STATUS=hung", os.environ["NOTIFY_SOCKET"])
                        idle()

        trio.run(main)
        """,
        env={**notify_socket.env, "WATCHDOG_USEC": "400000"},
    )
    program.expect("READY")
    for _ in range(4):
        notify_socket.expect("WATCHDOG", "1")
    program.send(signal.SIGUSR1)
    notify_socket.expect("STATUS", "hung")
    with pytest.raises(AssertionError):
        notify_socket.expect("WATCHDOG", patience=0.8)  # four are due in that time


def test_trio_without_anyio_is_told_what_to_install(launch: Launcher) -> None:
    """A program that has trio and no anyio gets a sentence that names what is missing."""
    needs.module("trio")
    program = launch(
        """
        import trio
        sys.modules["anyio"] = None  # as if it were not installed

        async def main():
            async with capbg.App("alone"):
                say("ENTERED")

        try:
            trio.run(main)
        except capbg.WrongPhaseError as error:
            say(error)
        """
    )
    assert 0 == program.wait(), program.stderr
    (line,) = program.lines
    assert "anyio" in line
    assert "install capbg[trio]" in line
