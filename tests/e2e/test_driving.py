"""Programs that drive capbg from an event loop of their own, by ``fileno()`` and ``pump()``; and the watchdog."""

import signal
from pathlib import Path

import pytest

from tests.e2e.lives import lives
from tests.notify_socket import NotifySocket
from tests.probe import Launcher

POLLED = """
import select
poll = select.poll()

def go_on(app, until=lambda: False):
    # The program's event loop: one descriptor, and how often it woke up.
    rounds = 0
    while not until():
        rounds += 1
        if poll.poll(20):
            global pumping
            pumping = True
            app.pump()
            pumping = False
    return rounds

def settle(app):
    # Until there is nothing to do any more.
    while poll.poll(0):
        app.pump()
"""


def test_a_poll_loop_hears_signals_and_runs_on_beside_the_workers(launch: Launcher, tmp_path: Path) -> None:
    """The descriptor wakes the loop, listeners run in ``pump``, the loop turns while workers run, ``pump`` leaves."""
    program = launch(
        lives(
            POLLED,
            """
            app = capbg.App("polled", grace=60)

            for name in ("one", "two", "three"):
                @app.background_task(name=name)
                def work(task):
                    say("WORKER", task.name)
                    wait_for(sys.argv[1])

            app.add_listener("appStateChange", lambda state: say("STATE", state.is_active, pumping))
            app.add_listener("taskSettled", lambda result: say("SETTLED", result.outcome.name, pumping))
            try:
                with app:
                    poll.register(app.fileno(), select.POLLIN)
                    settle(app)
                    say("READY")
                    running = lambda: [row.state.name for row in app.tasks()].count("RUNNING") == 3
                    go_on(app, until=running)
                    rounds = iter(range(10))
                    say("ROUNDS", go_on(app, until=lambda: next(rounds) == 9))
                    go_on(app)
            except SystemExit as leaving:
                say("LEAVES", leaving.code, pumping)
                raise
            """,
        ),
        str(tmp_path / "go"),
    )
    program.expect("READY")
    program.send(signal.SIGTERM)
    assert "False True" == program.expect("STATE")
    assert "9" == program.expect("ROUNDS")
    assert {"WORKER one", "WORKER two", "WORKER three"} <= set(program.lines)
    (tmp_path / "go").touch()
    assert "0 True" == program.expect("LEAVES")
    assert 3 == program.lines.count("SETTLED FINISHED True")
    assert 0 == program.wait()


def test_the_descriptor_wakes_a_loop_that_waits_for_ever(launch: Launcher) -> None:
    """A signal that interrupts the wait is not swallowed with the interruption, the first as little as a later one."""
    program = launch(
        lives(
            POLLED,
            """
            app = capbg.App("for-ever", grace=60)
            app.add_listener("appStateChange", lambda state: say("STATE", state.is_active))
            with app:
                poll.register(app.fileno(), select.POLLIN)
                settle(app)
                say("READY")
                while True:
                    poll.poll()  # no timeout
                    app.pump()
            """,
        )
    )
    program.expect("READY")
    for _ in range(2):
        program.wait_until(lambda: "S" == Path(f"/proc/{program.pid}/stat").read_text().rpartition(")")[2].split()[0])
        program.send(signal.SIGTSTP)
        program.wait_stopped()
        program.send(signal.SIGCONT)
        program.expect("STATE True")
    program.send(signal.SIGTERM)
    assert 0 == program.wait()


def test_an_idle_loop_is_not_woken_up(launch: Launcher) -> None:
    """Without a watchdog nothing happens by itself, before a suspension as behind it."""
    program = launch(
        lives(
            POLLED,
            """
            app = capbg.App("idle", grace=60)

            @app.background_task()
            def save(task):
                pass

            with app:
                poll.register(app.fileno(), select.POLLIN)
                settle(app)
                say("WOKEN", poll.poll(600))
                os.kill(os.getpid(), signal.SIGTSTP)
                go_on(app, until=lambda: app.last_report is not None and app.get_state().is_active)
                settle(app)
                say("WOKEN", poll.poll(600))
            """,
        )
    )
    assert "[]" == program.expect("WOKEN")
    program.wait_stopped()
    program.send(signal.SIGCONT)
    assert "[]" == program.expect("WOKEN")
    assert 0 == program.wait()


def test_asyncio_drives_it_and_may_own_the_wakeup_descriptor(launch: Launcher, tmp_path: Path) -> None:
    """With ``add_reader``, and with the loop's own signal handling installed behind ours, no signal is lost."""
    program = launch(
        lives(
            """
            import asyncio

            app = capbg.App("loop", grace=60)

            @app.background_task()
            async def save(task):
                say("WORKER")
                while not os.path.exists(sys.argv[1]):
                    await asyncio.sleep(0.01)

            app.add_listener("appStateChange", lambda state: say("STATE", state.is_active, state.reason.name))

            async def main():
                loop = asyncio.get_running_loop()
                loop.add_reader(app.fileno(), app.pump)
                loop.add_signal_handler(signal.SIGUSR1, say, "USR1")
                say("READY")
                try:
                    while True:
                        await asyncio.sleep(0.05)
                        if app.get_state().phase.name == "BACKGROUND":
                            say("BESIDE")
                finally:
                    os.kill(os.getpid(), signal.SIGTERM)
                    await asyncio.sleep(0.1)
                    say("CLEANED UP")

            try:
                with app:
                    asyncio.run(main())
            finally:
                report(app)
            """
        ),
        str(tmp_path / "go"),
    )
    program.expect("READY")
    program.send(signal.SIGUSR1)
    program.expect("USR1")
    program.send(signal.SIGTSTP)
    program.expect("WORKER")
    program.expect("BESIDE")
    program.send(signal.SIGCONT)
    program.expect("STATE True RESUME")
    program.send(signal.SIGTERM)
    program.expect("STATE False TERMINATE")
    (tmp_path / "go").touch()
    program.expect("CLEANED UP")
    assert {"save": "FINISHED"} == program.report()["outcomes"]
    assert 0 == program.wait(), program.stderr


def test_the_watchdog_is_fed_by_turns_of_the_loop_and_by_nothing_else(
    launch: Launcher, notify_socket: NotifySocket
) -> None:
    """The descriptor asks for a turn when a ping is due; a loop that does not take it is found out."""
    program = launch(
        lives(
            POLLED,
            """
            import socket
            os.environ["WATCHDOG_PID"] = str(os.getpid())
            app = capbg.App("fed", grace=60)
            with app:
                poll.register(app.fileno(), select.POLLIN)
                wanted = [False]
                signal.signal(signal.SIGUSR1, lambda *_: wanted.__setitem__(0, True))
                say("READY")
                go_on(app, until=lambda: wanted[0])
                with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
                    told.sendto(b"STATUS=hung", os.environ["NOTIFY_SOCKET"])
                idle()
            """,
        ),
        env={**notify_socket.env, "WATCHDOG_USEC": "200000"},
    )
    program.expect("READY")
    for _ in range(4):
        notify_socket.expect("WATCHDOG", "1")
    program.send(signal.SIGUSR1)
    notify_socket.expect("STATUS", "hung")
    with pytest.raises(AssertionError):
        notify_socket.expect("WATCHDOG", patience=0.8)  # four intervals


@pytest.mark.parametrize("ours", [True, False])
def test_heartbeat_feeds_the_watchdog_of_a_plain_program_at_its_own_rate(
    launch: Launcher, notify_socket: NotifySocket, ours: bool
) -> None:
    """However often it is called, it sends one ping in a quarter of the interval; none if WATCHDOG_PID differs."""
    program = launch(
        """
        os.environ["WATCHDOG_PID"] = sys.argv[1] or str(os.getpid())
        app = capbg.App("beats", grace=60)
        with app:
            begun = time.monotonic()
            for _ in range(5000):
                app.heartbeat()
            say("ELAPSED", time.monotonic() - begun)
        """,
        "" if ours else "1",
        env={**notify_socket.env, "WATCHDOG_USEC": "20000000"},
    )
    elapsed = float(program.expect("ELAPSED"))
    assert 0 == program.wait()
    pings = sum("WATCHDOG" in fields for fields in notify_socket.read())
    assert 1 <= pings <= 2 + elapsed / 5 if ours else not pings


def test_driving_from_another_thread_or_outside_of_the_block_is_refused(launch: Launcher) -> None:
    """``pump``, ``fileno`` and ``heartbeat`` belong to the main thread, inside ``with app``, and say so."""
    program = launch(
        """
        app = capbg.App("refuses", grace=60)

        def attempt(*calls):
            for call in calls:
                try:
                    call()
                except Exception as error:
                    say(type(error).__name__, error)
                else:
                    say("TAKEN")

        calls = app.pump, app.fileno, app.heartbeat
        attempt(*calls)
        with app:
            thread = threading.Thread(target=attempt, args=calls, name="helper")
            thread.start()
            thread.join()
        attempt(*calls)
        """
    )
    assert 0 == program.wait()
    names = ("pump", "fileno", "heartbeat")
    outside = [f"WrongPhaseError {name} needs an entered app: call it inside `with app:`" for name in names]
    why = "belongs to the main thread (signals and forks do), and this is 'helper'"
    assert [*outside, *(f"WrongThreadError {name} {why}" for name in names), *outside] == program.lines


def test_a_loop_with_no_descriptor_free_is_not_met_with_an_error(launch: Launcher) -> None:
    """The app looks for the loop's epoll descriptor in /proc: where that fails its task waits, and runs in the end."""
    program = launch(
        """
        import resource, select

        app = capbg.App("full", grace=60)
        app.before_exit(lambda task: task.finish())

        def fill(state):
            global free
            free = os.open("/dev/null", os.O_RDONLY)
            os.close(free)
            resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        app.add_listener("appStateChange", fill)
        with app, select.epoll() as loop:
            loop.register(app.fileno(), select.EPOLLIN)
            os.kill(os.getpid(), signal.SIGTERM)
            for turn in range(1000):
                loop.poll()
                app.pump()
                if turn == 5:
                    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        """
    )
    assert 0 == program.wait(), program.stderr
