"""``_os/signals.py``: the order of signals, whoever owns the wake-up descriptor; stopping oneself; and putting back."""

from pathlib import Path

import pytest

from tests.e2e.lives import lives
from tests.probe import Launcher

SIGNALS = """
from capbg._os import signals
from capbg._os.signals import TURN, Signals, stop_self

def readable(heard):
    return bool(select.select([heard.read_fd], [], [], 0)[0])

def installed():
    def handler(signum, frame):
        handled.append(signum)
        heard.handled(signum)

    handled = []
    heard = Signals(handler)
    heard.install()
    return heard, handled

def names(numbers):
    return ",".join("TURN" if number == TURN else signal.Signals(number).name for number in numbers) or "-"
"""


@pytest.mark.parametrize("owner", ["ours", "foreign"])
def test_signals_are_taken_in_their_order_and_none_is_lost(launch: Launcher, owner: str) -> None:
    """The pipe keeps the order that Python's handlers do not; where C's byte goes elsewhere, the handler makes up."""
    program = launch(
        lives(
            SIGNALS,
            """
            heard, handled = installed()
            if sys.argv[1] == "foreign":
                _, theirs = os.pipe2(os.O_NONBLOCK)
                signal.set_wakeup_fd(theirs, warn_on_full_buffer=False)
            at_once(signal.SIGTSTP, signal.SIGCONT, signal.SIGTERM, signal.SIGINT)
            say("HANDLED", names(handled))
            say("READABLE", readable(heard), heard.pending(), readable(heard))
            say("TAKEN", names(heard.take()))
            say("AFTER", readable(heard), heard.pending(), names(heard.take()))
            for signum in (signal.SIGTSTP, signal.SIGCONT):  # one by one the order holds in any case
                os.kill(os.getpid(), signum)
            say("TAKEN", names(heard.take()))
            heard.wake()
            say("WOKEN", readable(heard), heard.pending(), names(heard.take()), readable(heard))
            """,
        ),
        owner,
    )
    assert 0 == program.wait(), program.stderr
    assert [
        "HANDLED SIGINT,SIGTERM,SIGCONT,SIGTSTP",  # by number
        "READABLE True True True",
        # Where the order is lost, the one to be awake comes last.
        f"TAKEN {'SIGTSTP,SIGCONT,SIGTERM,SIGINT' if owner == 'ours' else 'SIGINT,SIGTERM,SIGTSTP,SIGCONT'}",
        "AFTER False False -",
        "TAKEN SIGTSTP,SIGCONT",
        "WOKEN True False - False",
    ] == program.lines


def test_the_wakeup_descriptor_is_left_to_its_owner_then_shared_and_given_back(
    launch: Launcher, tmp_path: Path
) -> None:
    """Taken over, each byte is passed on to whoever had it last, and never into a file that has their number by now."""
    program = launch(
        lives(
            SIGNALS,
            """
            def current():
                fd = signal.set_wakeup_fd(-1)
                signal.set_wakeup_fd(fd)
                return {first: "FIRST", second: "SECOND", heard.write_fd: "OURS", -1: "NONE"}[fd]

            def arrived(fd):
                try:
                    return ",".join(signal.Signals(number).name for number in os.read(fd, 100))
                except BlockingIOError:
                    return "-"

            first_end, first = os.pipe2(os.O_NONBLOCK)
            second_end, second = os.pipe2(os.O_NONBLOCK)
            signal.signal(signal.SIGUSR1, lambda *_: None)
            signal.set_wakeup_fd(first, warn_on_full_buffer=False)
            heard, handled = installed()
            say("INSTALLED", current())
            at_once(signal.SIGTERM, signal.SIGUSR1)
            say("LEFT", arrived(first_end), names(heard.take()))
            heard.take_over()
            heard.take_over()
            say("TAKEN OVER", current())
            at_once(signal.SIGTERM, signal.SIGUSR1)
            say("PASSED ON", names(heard.take()), arrived(first_end))
            signal.set_wakeup_fd(second, warn_on_full_buffer=False)
            heard.take_over()
            at_once(signal.SIGTERM, signal.SIGUSR1)
            say("PASSED ON", names(heard.take()), arrived(first_end), arrived(second_end))
            heard.uninstall(leaving=False)
            say("GIVEN BACK", current())
            heard, handled = installed()
            heard.take_over()
            file = open(sys.argv[1], "wb")
            os.dup2(file.fileno(), second)
            at_once(signal.SIGUSR1)
            heard.take()
            say("FILE", os.path.getsize(sys.argv[1]))
            heard.uninstall(leaving=False)
            say("GIVEN BACK", current())
            """,
        ),
        str(tmp_path / "file"),
    )
    assert 0 == program.wait(), program.stderr
    assert [
        "INSTALLED FIRST",
        "LEFT SIGTERM,SIGUSR1 SIGTERM",
        "TAKEN OVER OURS",
        "PASSED ON SIGTERM,SIGUSR1 SIGTERM,SIGUSR1",
        "PASSED ON SIGTERM,SIGUSR1 - SIGTERM,SIGUSR1",
        "GIVEN BACK SECOND",
        "FILE 0",
        "GIVEN BACK NONE",
    ] == program.lines


def test_a_pipe_that_is_full_blocks_nobody_and_loses_no_signal(launch: Launcher) -> None:
    """Waking a pipe that nobody has read for long does nothing, and the handler makes up for the byte that was lost."""
    program = launch(
        lives(
            SIGNALS,
            """
            heard, handled = installed()
            try:
                while True:
                    os.write(heard.write_fd, bytes(4096))
            except BlockingIOError:
                pass
            heard.wake()
            os.kill(os.getpid(), signal.SIGTERM)
            say("TAKEN", names(heard.take()), readable(heard))
            """,
        )
    )
    assert 0 == program.wait(), program.stderr
    assert ["TAKEN SIGTERM False"] == program.lines
    assert "" == program.stderr


def test_stop_self_stops_unless_a_signal_is_waiting(launch: Launcher) -> None:
    """A signal that has been heard but not taken, or is pending in the kernel, keeps it from stopping itself."""
    program = launch(
        lives(
            SIGNALS,
            """
            def stop(told, before, taken):
                heard, handled = installed()
                before()
                if taken:
                    heard.take()
                stopped = stop_self(heard)
                mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
                os.write(told, f"{stopped} {names(heard.take())} {len(mask)}".encode())

            def hear():
                os.kill(os.getpid(), signal.SIGCONT)

            def keep_pending():
                signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCONT})
                hear()

            for before, taken in ((hear, False), (keep_pending, True), (hear, True), (lambda: None, False)):
                life = Life(stop, before, taken)
                words = life.hear()
                if life.state() == "T":
                    life.send(signal.SIGCONT)
                    words = "STOPPED " + life.hear()
                say(words)
                life.end()
            """,
        )
    )
    assert 0 == program.wait(), program.stderr
    assert ["False SIGCONT 0", "False - 1", *["STOPPED True SIGCONT 0"] * 2] == program.lines


@pytest.mark.parametrize("leaving", [False, True])
def test_uninstalling_puts_back_what_was_there(launch: Launcher, leaving: bool) -> None:
    """Old handlers and the old wake-up descriptor return, a pending signal goes to them, and TURN is thrown away."""
    program = launch(
        lives(
            SIGNALS,
            """
            def old(signum, frame):
                say("OLD", names([signum]))

            leaving = sys.argv[1] == "True"
            signal.signal(signal.SIGCONT, old)
            _, theirs = os.pipe2(os.O_NONBLOCK)
            signal.set_wakeup_fd(theirs)
            heard, handled = installed()
            mask = signals.block()
            at_once(signal.SIGCONT, TURN, *([signal.SIGTERM, signal.SIGINT] if leaving else []))
            heard.uninstall(leaving=leaving)
            signals.restore_mask(mask)
            say("HANDLED", names(handled), signal.set_wakeup_fd(-1) == theirs, heard.read_fd, heard.write_fd)
            for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGTSTP, TURN):
                handler = signal.getsignal(signum)
                say(names([signum]), handler.name if isinstance(handler, signal.Handlers) else handler.__name__)
            """,
        ),
        str(leaving),
    )
    assert 0 == program.wait(), program.stderr
    term, interrupt = ("SIG_IGN", "SIG_IGN") if leaving else ("SIG_DFL", "default_int_handler")
    assert [
        "OLD SIGCONT",
        "HANDLED - True -1 -1",
        f"SIGTERM {term}",
        f"SIGINT {interrupt}",
        "SIGTSTP SIG_DFL",
        "TURN SIG_DFL",
    ] == program.lines


def test_a_wakeup_descriptor_that_was_taken_over_meanwhile_is_left_to_its_new_owner(launch: Launcher) -> None:
    """Uninstalling restores the old descriptor only where ours is still in force."""
    program = launch(
        lives(
            SIGNALS,
            """
            heard, handled = installed()
            _, theirs = os.pipe2(os.O_NONBLOCK)
            signal.set_wakeup_fd(theirs)
            heard.uninstall(leaving=False)
            say(signal.set_wakeup_fd(-1) == theirs)
            """,
        )
    )
    assert 0 == program.wait(), program.stderr
    assert ["True"] == program.lines


@pytest.mark.parametrize("when", ["before", "inside", "reused"])
def test_a_wakeup_descriptor_that_its_owner_has_closed_does_no_harm(launch: Launcher, when: str) -> None:
    """A number left in force is nobody's, or another file's: the app enters, hears, and leaves all the same."""
    program = launch(
        """
        import select

        _, theirs = os.pipe2(os.O_NONBLOCK)
        app = capbg.App("shared", grace=30)

        def close():
            signal.set_wakeup_fd(theirs)
            os.close(theirs)
            if when == "reused":
                os.dup2(1, theirs)

        when = sys.argv[1]
        if when == "before":
            close()
        with app:
            if when != "before":
                close()
            watched = app.fileno()
            os.kill(os.getpid(), signal.SIGTERM)
            while True:
                select.select([watched], [], [])
                app.pump()
        """,
        when,
    )
    assert 0 == program.wait(), program.stderr
    assert "" == program.stderr


def test_waking_an_app_that_is_being_left_is_no_error(launch: Launcher) -> None:
    """Another thread that cancels, finishes or registers just then is not met with a closed descriptor."""
    program = launch(
        lives(
            SIGNALS,
            """
            heard, handled = installed()
            heard.uninstall(leaving=False)
            heard.wake()
            say("QUIET")
            """,
        )
    )
    assert 0 == program.wait(), program.stderr
    assert ["QUIET"] == program.lines
