"""Signals that came together with the one that backgrounds the app, seen from the workers forked in its handler."""

import signal

from tests.probe import Launcher

TOGETHER = """
app = capbg.App("together", grace=30)

@app.background_task()
def save(task):
    # Any signal makes CPython look at what is marked as arrived; this one does nothing in a worker.
    signal.raise_signal(signal.SIGTERM)
    say("EXPIRING", task.expiring)

try:
    with app:
        say("READY")
        signal.signal(signal.SIGUSR1, lambda *_: say("USER", os.getpid() == app_pid))
        app_pid = os.getpid()
        together = {signal.SIGTERM, signal.SIGCONT, signal.SIGUSR1, signal.SIGRTMAX - 2}
        # All at once: CPython marks them all, then calls the handlers one by one, by number.
        signal.pthread_sigmask(signal.SIG_BLOCK, together)
        for signum in together:
            os.kill(os.getpid(), signum)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, together)
        idle()
finally:
    report(app)
"""


def test_what_came_together_with_a_stop_is_not_heard_again_in_a_worker(launch: Launcher) -> None:
    """SIGCONT, a turn's signal and the program's own, behind SIGTERM, neither expire a task nor are complained of."""
    program = launch(TOGETHER)
    report = program.report()
    assert 0 == program.wait(), program.stderr
    assert {"save": "FINISHED"} == report["outcomes"], report
    assert "EXPIRING False" in program.lines
    assert "USER False" not in program.lines
    assert "race condition" not in program.stderr


def test_a_signal_the_program_ignores_stays_ignored_in_a_worker(launch: Launcher) -> None:
    """What a program ignores is ignored in its workers, too; what it handles has the default there."""
    program = launch(
        """
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        app = capbg.App("ignoring", grace=30)
        watched = (signal.SIGPIPE, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT)
        app.background_task()(lambda: say("HANDLERS", *(signal.getsignal(each).name for each in watched)))
        with app:
            say("READY")
            signal.signal(signal.SIGUSR1, print)
            idle()
        """
    )
    program.expect("READY")
    program.send(signal.SIGTERM)
    assert "SIG_IGN SIG_DFL SIG_IGN SIG_DFL" == program.expect("HANDLERS")
    assert 0 == program.wait()
