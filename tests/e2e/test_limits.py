"""``Limits``: what the kernel enforces on a worker, and what its result says about it."""

import os
import signal
from pathlib import Path

import pytest

from tests.e2e.running import stop
from tests.probe import Launcher


def test_a_cpu_limit_expires_softly_and_then_kills(launch: Launcher) -> None:
    """At the limit SIGXCPU expires the task as a deadline does; what stays is killed, and CPU is the reason told."""
    program, report, status = stop(
        launch,
        """
        app = capbg.App("cpu", grace=600, kill_after=1)

        def burn():
            while True:
                pass

        def cleans(task):
            try:
                burn()
            finally:
                say("CLEANUP", task.expiring)

        def ignores():
            while True:
                try:
                    burn()
                except BaseException:
                    pass

        def in_c():
            sum(range(10 ** 11))

        for callback in (cleans, ignores, in_c):
            app.background_task(limits=capbg.Limits(cpu=0.5))(callback)
        app.background_task(name="light", limits=capbg.Limits(cpu=60))(lambda: None)
        """,
    )
    assert {"cleans": "EXPIRED", "ignores": "KILLED", "in_c": "KILLED", "light": "FINISHED"} == report["outcomes"]
    cleans, ignores, in_c = (report["by_name"][name] for name in ("cleans", "ignores", "in_c"))
    assert "its CPU limit was reached" == cleans["reason"]
    assert "CLEANUP True" in program.lines
    assert ignores["reason"].startswith("its CPU limit was reached; "), ignores
    assert "the kernel killed it at its CPU limit" == in_c["reason"]
    # The kernel counts whole seconds, by ticks: half a one is rounded up, and kill_after comes on top of it.
    assert 0.6 <= cleans["cpu_time"]
    assert 1.2 <= in_c["cpu_time"] < 10
    assert {signal.SIGKILL} == {ignores["signal"], in_c["signal"]}
    assert 75 == status


def test_a_memory_limit_raises_memory_error_and_leaves_room_to_finish(launch: Launcher) -> None:
    """The limit counts on top of what was inherited; a task that is out of memory can still say that it is done."""
    _, report, _ = stop(
        launch,
        """
        app = capbg.App("memory", grace=60)
        inherited = bytearray(200 << 20)

        def fits(task):
            bytearray(64 << 20)
            task.finish()

        def too_much():
            bytearray(256 << 20)

        def at_the_limit(task):
            kept = []
            for size in (1 << 20, 1 << 14):
                try:
                    while True:
                        kept.append(bytearray(size))
                except MemoryError:
                    say("FULL")
            task.progress(len(kept))
            task.finish()

        def raises_at_the_limit():
            kept = []
            while True:
                kept.append(bytearray(1 << 14))

        for callback in (fits, too_much, at_the_limit, raises_at_the_limit):
            app.before_exit(callback, limits=capbg.Limits(memory="128M"))
        """,
    )
    assert {
        "fits": "FINISHED",
        "too_much": "FAILED",
        "at_the_limit": "FINISHED",
        "raises_at_the_limit": "FAILED",
    } == report["outcomes"]
    assert "MemoryError" == report["by_name"]["too_much"]["error_type"]
    assert "MemoryError" == report["by_name"]["raises_at_the_limit"]["error_type"]
    assert 100 <= report["by_name"]["at_the_limit"]["progress"][0] < 20_000


def test_limits_of_files_file_size_and_niceness(launch: Launcher, tmp_path: Path) -> None:
    """Descriptors count on top of the inherited ones, a file ends at its limit, and niceness is added."""
    program, report, _ = stop(
        launch,
        """
        import resource
        app = capbg.App("files", grace=60)
        inherited = [os.open("/dev/null", os.O_RDONLY) for _ in range(50)]

        def opens():
            count = 0
            try:
                while True:
                    os.open("/dev/null", os.O_RDONLY)
                    count += 1
            finally:
                say("OPENED", count)

        def writes(name):
            def run():
                with open(f"{sys.argv[1]}/{name}", "wb", buffering=0) as file:
                    try:
                        while True:
                            file.write(bytes(10_000))
                    finally:
                        say("WROTE", name, file.tell())
            return run

        def inherits_a_stricter_one(state):
            resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

        niceness = os.getpriority(os.PRIO_PROCESS, 0)

        def nice(task):
            say("NICE", os.getpriority(os.PRIO_PROCESS, 0) - niceness)
            task.finish()

        app.before_exit(opens, limits=capbg.Limits(files=10))
        app.before_exit(writes("small"), name="small", limits=capbg.Limits(file_size="100K"))
        app.before_exit(writes("stricter"), name="stricter", limits=capbg.Limits(file_size="1M"))
        app.before_exit(nice, limits=capbg.Limits(nice=3))
        app.add_listener("appStateChange", inherits_a_stricter_one)
        """,
        str(tmp_path),
    )
    assert {"opens": "FAILED", "small": "FAILED", "stricter": "FAILED", "nice": "FINISHED"} == report["outcomes"]
    assert report["by_name"]["opens"]["error_message"].startswith("[Errno 24] ")
    assert report["by_name"]["small"]["error_message"].startswith("[Errno 27] ")
    # The places of the app's own descriptors, closed in a worker, come on top.
    opened = next(int(line.split()[1]) for line in program.lines if line.startswith("OPENED"))
    assert 10 <= opened < 30
    assert "WROTE small 102400" in program.lines
    assert "WROTE stricter 200000" in program.lines
    assert "NICE 3" in program.lines


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can register it and then lose the right to it")
def test_a_limit_that_cannot_be_set_refuses_the_task(launch: Launcher) -> None:
    """Without the right to it a negative niceness is an error at registration, and a refusal if it is lost later."""
    program, report, status = stop(
        launch,
        """
        app = capbg.App("refused", grace=60)

        def lose_rights(state):
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            try:
                app.before_exit(lambda: say("NEVER"), name="late", limits=capbg.Limits(nice=-5))
            except capbg.InvalidArgumentError as error:
                say("ERROR", error)

        others = capbg.Limits(nice=0, files=8, memory="1G", file_size="1M", cpu=60)
        app.before_exit(lambda task: task.finish(), name="asks", limits=capbg.Limits(nice=-5))
        app.before_exit(lambda task: task.finish(), name="does not ask", limits=others)
        app.add_listener("appStateChange", lose_rights)
        """,
    )
    assert {"asks": "REFUSED", "does not ask": "FINISHED"} == report["outcomes"]
    asks = report["by_name"]["asks"]
    assert asks["reason"].startswith("a limit could not be set: [Errno 1] "), asks
    error = next(line for line in program.lines if line.startswith("ERROR"))
    assert "before_exit(limits): nice=-5 needs CAP_SYS_NICE" in error
    assert 75 == status
