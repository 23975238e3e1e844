"""Coroutines and loops in workers that were forked inside a loop: theirs are new, and the app's stays whole."""

import signal

import pytest

from tests.e2e.lives import lives
from tests.loops import needs
from tests.probe import Launcher

WORKER = """
import asyncio, functools, socket
import anyio, sniffio, trio
from capbg import current_task

def watched():
    # What each epoll set of this process holds, as the kernel tells: what the program's own loop waits for.
    sets = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{fd}") == "anon_inode:[eventpoll]":
                with open(f"/proc/self/fdinfo/{fd}") as info:
                    sets[int(fd)] = {int(line.split()[1]) for line in info if line.startswith("tfd:")}
        except FileNotFoundError:
            pass
    return sets

apps_loop = None

async def fresh(task):
    loop = asyncio.get_running_loop()
    assert loop is not apps_loop
    assert len(asyncio.all_tasks()) <= 2, asyncio.all_tasks()
    assert sniffio.current_async_library() == "asyncio"
    async with asyncio.timeout(task.time_remaining()):
        await anyio.sleep(0.01)
    # Signals, threads and children are heard by this loop, and by no other.
    heard = asyncio.Event()
    loop.add_signal_handler(signal.SIGUSR2, heard.set)
    os.kill(os.getpid(), signal.SIGUSR2)
    await heard.wait()
    await loop.run_in_executor(None, time.sleep, 0)
    assert await (await asyncio.create_subprocess_exec("true")).wait() == 0
    say("FRESH", type(loop).__module__.partition(".")[0])

async def expires(task):
    say("BEGUN")
    try:
        await asyncio.sleep(600)
    except asyncio.CancelledError:
        await asyncio.sleep(0.01)
        say("CANCELLED", task.expiring, current_task() is task)
        raise

async def timed(task):
    try:
        async with asyncio.timeout(task.time_remaining() - 19):
            await asyncio.sleep(600)
    except TimeoutError:
        say("TIMED OUT")

def by_asyncio():
    asyncio.run(asyncio.sleep(0.01))
    anyio.run(anyio.sleep, 0.01)

def by_trio():
    async def talk():
        ours, theirs = trio.socket.socketpair()
        await ours.send(b"x")
        assert await theirs.recv(1) == b"x"
        assert sniffio.current_async_library() == "trio"
    trio.run(talk)

app = capbg.App("callbacks", grace=60)
for callback in (fresh, by_asyncio, by_trio):
    app.background_task()(callback)
app.background_task(deadline=1)(expires)
app.background_task(deadline=20)(timed)
app.add_listener("graceEnded", lambda _: report(app))
"""

IN_ASYNCIO = """
if sys.argv[1] == "uvloop":
    import uvloop
    uvloop.install()

async def main():
    global apps_loop
    apps_loop = loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR2, say, "THE APP HEARD A WORKER'S SIGNAL")
    usr1 = asyncio.Event()
    loop.add_signal_handler(signal.SIGUSR1, usr1.set)
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=ours)
    theirs.send(b"before\\n")
    assert await reader.readline() == b"before\\n"

    @app.background_task()
    async def careless():
        # It closes what belongs to the app's loop: here only its own copy.
        writer.transport.abort()
        writer.close()
        await asyncio.sleep(0.01)

    back = asyncio.Event()
    app.add_listener("resume", back.set)
    async with app:
        await asyncio.sleep(0.01)
        before = watched()
        say("READY")
        await back.wait()
        while any(task.state is not capbg.TaskState.REGISTERED and task.result is None for task in app.tasks()):
            await asyncio.sleep(0.01)
        del before[app.fileno()]
        now = watched()
        say("CHANGED", {fd: before[fd] ^ now[fd] for fd in before if before[fd] != now[fd]})
        theirs.send(b"behind\\n")
        say("READ", (await reader.readline()).decode())
        call = functools.partial(asyncio.run_coroutine_threadsafe, word(), loop)
        say("CALLED", await loop.run_in_executor(None, lambda: call().result()))
        os.kill(os.getpid(), signal.SIGUSR1)
        await usr1.wait()
        say("WHOLE")
        writer.close()
        theirs.close()

async def word():
    return "from a thread"

asyncio.run(main())
"""

IN_TRIO = """
async def main():
    ours, theirs = trio.socket.socketpair()
    send, receive = trio.open_memory_channel(1)
    token = trio.lowlevel.current_trio_token()

    async def read():
        await send.send(await ours.recv(10))

    @app.background_task()
    def careless():
        # It closes what belongs to the app's loop: here only its own copy.
        async def close():
            ours.close()

        trio.run(close)

    back = trio.Event()
    app.add_listener("resume", back.set)
    async with app:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.sleep(0.01)
            before = watched()
            say("READY")
            await back.wait()
            while any(task.state is not capbg.TaskState.REGISTERED and task.result is None for task in app.tasks()):
                await trio.sleep(0.01)
            del before[app.fileno()]
            now = watched()
            say("CHANGED", {fd: before[fd] ^ now[fd] for fd in before if before[fd] != now[fd]})
            await theirs.send(b"behind")
            say("READ", (await receive.receive()).decode())
            say("CALLED", await trio.to_thread.run_sync(lambda: trio.from_thread.run_sync(str, "from a thread")))
            with trio.open_signal_receiver(signal.SIGUSR1) as signals:
                os.kill(os.getpid(), signal.SIGUSR1)
                async for _ in signals:
                    break
            say("WHOLE")

trio.run(main)
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop", "trio"])
def test_a_worker_forked_in_a_loop_has_loops_of_its_own(launch: Launcher, loop: str) -> None:
    """Coroutines, asyncio.run and trio.run work in it, expiry cancels, and the loop it came from is as it was."""
    for name in ("anyio", "trio", loop):
        needs.module(name)
    program = launch(WORKER + (IN_TRIO if loop == "trio" else IN_ASYNCIO), loop)
    program.expect("READY")
    program.send(signal.SIGTSTP)
    outcomes = program.report()["outcomes"]
    program.wait_stopped()
    program.send(signal.SIGCONT)
    assert "{}" == program.expect("CHANGED")
    assert "behind" == program.expect("READ")
    assert "from a thread" == program.expect("CALLED")
    program.expect("WHOLE")
    assert 0 == program.wait(), program.stderr
    finished = dict.fromkeys(("fresh", "by_asyncio", "by_trio", "timed", "careless"), "FINISHED")
    assert {**finished, "expires": "EXPIRED"} == outcomes, program.stderr
    for line in ("CANCELLED True True", "TIMED OUT", f"FRESH {'uvloop' if loop == 'uvloop' else 'asyncio'}"):
        assert line in program.lines
    assert "THE APP HEARD A WORKER'S SIGNAL" not in program.lines


def test_a_worker_does_not_close_a_loop_that_only_the_policy_holds(launch: Launcher) -> None:
    """A program that runs its loop now and then: workers that set loops of their own leave its epoll set alone."""
    needs.module("anyio")
    needs.module("trio")
    program = launch(
        lives(
            WORKER,
            """
            import gc
            gc.freeze()  # the program's own: then capbg freezes nothing, and what is newer can be collected in a worker
            asyncio.set_event_loop(asyncio.new_event_loop())

            @app.background_task()
            def collects():
                asyncio.run(asyncio.sleep(0))
                gc.collect()

            def run(make):
                # As older programs do; nobody but asyncio's policy keeps the loop meanwhile.
                loop = asyncio.get_event_loop_policy().get_event_loop()
                return loop.run_until_complete(make())

            async def from_a_thread():
                # The thread's result wakes the loop through its self-pipe.
                return await asyncio.get_running_loop().run_in_executor(None, time.sleep, 0.01)

            run(functools.partial(asyncio.sleep, 0))
            before = watched()
            with app:
                say("READY")
                while app.last_report is None or not app.get_state().is_active:
                    time.sleep(0.02)
            assert before == watched(), (before, watched())
            run(from_a_thread)
            say("WHOLE")
            """,
        )
    )
    program.expect("READY")
    program.send(signal.SIGTSTP)
    outcomes = program.report()["outcomes"]
    program.wait_stopped()
    program.send(signal.SIGCONT)
    program.expect("WHOLE")
    assert 0 == program.wait(), program.stderr
    finished = dict.fromkeys(("fresh", "by_asyncio", "by_trio", "timed", "collects"), "FINISHED")
    assert {**finished, "expires": "EXPIRED"} == outcomes, program.stderr
