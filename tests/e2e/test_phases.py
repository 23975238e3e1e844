"""The app's phases, in plain programs: what each signal does, alone, in pairs, and at every place it can arrive."""

import signal
from pathlib import Path

import pytest

from tests.e2e.lives import lives
from tests.notify_socket import NotifySocket
from tests.probe import Launcher, Probe, process_state

TERM, INT, TSTP, CONT = signal.SIGTERM, signal.SIGINT, signal.SIGTSTP, signal.SIGCONT


def pending(pid: int) -> set[int]:
    """The signals that are pending for a process, as the kernel counts them."""
    mask = 0
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(("SigPnd:", "ShdPnd:")):
            mask |= int(line.split()[1], 16)
    return {number for number in range(1, 65) if mask >> (number - 1) & 1}


def is_stopped(program: Probe) -> bool:
    return process_state(program.pid) == "T"


# ------------------------------------------------------------------------------------------------------------- a stop


@pytest.mark.parametrize(
    ("signum", "reason", "body", "status"),
    [(TERM, "TERMINATE", "pass", 0), (INT, "INTERRUPT", "raise ValueError('lost')", 75)],
)
def test_a_stop_leaves_through_every_block_with_a_status_that_says_whether_anything_was_lost(
    launch: Launcher, signum: int, reason: str, body: str, status: int
) -> None:
    """SIGTERM and SIGINT run the tasks, then the blocks, and the status is 0 if every task finished, else 75."""
    program = launch(
        f"""
        app = capbg.App("stop", grace=30)

        @app.background_task()
        def save(task):
            {body}

        try:
            with app:
                try:
                    say("READY")
                    idle()
                finally:
                    say("INSIDE", app.get_state().phase.name)
        except SystemExit as leaving:
            say("STATUS", leaving.code)
            raise
        finally:
            report(app)
        """
    )
    program.expect("READY")
    program.send(signum)
    assert "TERMINATED" == program.expect("INSIDE")
    assert str(status) == program.expect("STATUS")
    report = program.report()
    assert reason == report["reason"]
    assert {"save": "FAILED" if status else "FINISHED"} == report["outcomes"]
    assert status == program.wait()


def test_listeners_are_told_in_order_may_register_and_none_stops_the_others(launch: Launcher) -> None:
    """Listeners run in the order they were added, before any worker; one that raises is reported, and costs the 0."""
    program = launch(
        """
        app = capbg.App("listeners", grace=30)

        def first(state):
            say("FIRST", state.is_active, state.isActive, state.reason.name, state.phase.name)
            app.before_exit(lambda task: task.finish(), name="late")

        def broken(state):
            raise RuntimeError("no such luck")

        def settled(result):
            say("SETTLED", result.name, result.outcome.name)
            if result.name == "late":
                app.before_exit(lambda task: task.finish(), name="later")

        app.add_listener("appStateChange", first)
        app.add_listener("appStateChange", broken)
        app.add_listener("appStateChange", lambda state: say("THIRD"))
        app.add_listener("pause", lambda: say("PAUSE"))
        app.add_listener("resume", lambda: say("RESUME"))
        app.add_listener("taskSettled", settled)
        app.add_listener("graceEnded", lambda report: say("ENDED", len(report.results)))
        app.add_listener("appStateChange", lambda state: say("NEVER")).remove()

        try:
            with app:
                say("READY")
                idle()
        finally:
            report(app)
        """
    )
    program.expect("READY")
    program.send(TERM)
    report = program.report()
    told = ["FIRST False False TERMINATE BACKGROUND", "THIRD", "PAUSE", "SETTLED late FINISHED"]
    assert [*told, "SETTLED later FINISHED", "ENDED 2"] == program.lines[1:-1]
    [error] = report["listener_errors"]
    assert "'broken' of appStateChange raised RuntimeError: no such luck" in error
    assert 75 == program.wait()
    assert error in program.stderr


def test_a_signal_while_finally_blocks_run_does_not_cut_them_short(launch: Launcher) -> None:
    """Behind the grace period SIGTERM and SIGINT do nothing, inside the app's block as outside of it."""
    program = launch(
        """
        app = capbg.App("finally", grace=30)

        def clean_up(where):
            for signum in (signal.SIGCONT, signal.SIGTERM, signal.SIGINT):
                os.kill(os.getpid(), signum)
                time.sleep(0.02)
            try:
                app.before_exit(print)
            except capbg.WrongPhaseError as error:
                say("REFUSED", error)
            app.tasks()
            say("DONE", where)

        try:
            with app:
                try:
                    say("READY")
                    idle()
                finally:
                    clean_up("inside")
        finally:
            clean_up("outside")
        """
    )
    program.expect("READY")
    program.send(TERM)
    assert 0 == program.wait()
    for where in ("inside", "outside"):
        refused = program.lines.pop(1)
        assert refused.startswith("REFUSED task 'print' cannot be registered: the app has terminated")
        assert f"DONE {where}" == program.lines.pop(1)


def test_a_duplicate_stop_is_ignored_and_a_later_one_expires_every_task(launch: Launcher, tmp_path: Path) -> None:
    """SIGINT at SIGTERM's heels changes nothing; a SIGTERM more than a second later makes the tasks expire now."""
    program = launch(
        lives(
            """
        app = capbg.App("twice", grace=100, kill_after=30)

        @app.background_task(on_expire=lambda task: say("EXPIRES", task.expiring))
        def slow(task):
            say("WORKER")
            idle()

        @app.background_task()
        def patient(task):
            say("WORKER")
            wait_for(sys.argv[1])

        app.add_listener("taskSettled", lambda result: say("SETTLED", result.name, result.outcome.name))
        try:
            with app:
                at_once(signal.SIGTERM, signal.SIGINT)
                idle()
        finally:
            report(app)
            """
        ),
        str(tmp_path / "go"),
    )
    program.expect("WORKER")  # told to hurry before it started, it would have been refused
    program.expect("WORKER")
    (tmp_path / "go").touch()
    assert "patient FINISHED" == program.expect("SETTLED")
    with pytest.raises(AssertionError):
        program.expect("EXPIRES", patience=1.2)  # and more than a second has passed
    program.send(TERM)
    assert "True" == program.expect("EXPIRES")
    report = program.report()
    assert {"patient": "FINISHED", "slow": "EXPIRED"} == report["outcomes"]
    assert "told to hurry" in report["by_name"]["slow"]["reason"]
    assert "TERMINATE" == report["reason"]
    assert 75 == program.wait()


# ------------------------------------------------------------------------------------------------------- a suspension


def test_a_suspension_stops_the_process_after_its_tasks_and_sigcont_brings_it_back(launch: Launcher) -> None:
    """SIGTSTP runs the tasks and really stops the process, SIGCONT makes it active, again and again, until SIGTERM."""
    program = launch(
        """
        app = capbg.App("cycles", grace=30)
        app.before_exit(lambda task: task.finish(), name="once")

        @app.background_task()
        def always(task):
            say("WORKER")

        app.add_listener("appStateChange", lambda state: say("STATE", state.is_active, state.reason.name))
        app.add_listener("pause", lambda: say("PAUSE"))
        app.add_listener("resume", lambda: say("RESUME"))
        app.add_listener("graceEnded", lambda report: say("ENDED", *sorted(r.name for r in report.results)))
        assert os.getsid(0) == os.getpgrp() == os.getpid()  # a session leader, in an orphaned process group
        with app:
            say("READY")
            idle()
        """
    )
    program.expect("READY")
    for names in ("always once", "always", "always"):
        program.send(TSTP)
        program.wait_stopped()
        program.send(CONT)
        assert names == program.expect("ENDED")
        program.expect("RESUME")
        cycle = ["STATE False SUSPEND", "PAUSE", "WORKER", f"ENDED {names}", "STATE True RESUME", "RESUME"]
        assert cycle == program.lines[-6:]
    program.send(TERM)
    assert 0 == program.wait()
    assert ["STATE False TERMINATE", "PAUSE", "WORKER", "ENDED always"] == program.lines[-4:]


def test_ctrl_z_and_fg_on_a_real_terminal(launch: Launcher) -> None:
    """From a shell with job control: Ctrl-Z suspends the job after its tasks, fg brings it back, Ctrl-C stops it."""
    program = launch(
        lives(
            """
        import fcntl, termios

        def job(told):
            os.setpgid(0, 0)
            os.tcsetpgrp(terminal, os.getpid())
            signal.signal(signal.SIGTTOU, signal.SIG_DFL)
            os.dup2(terminal, 0)
            app = capbg.App("job", grace=30)

            @app.background_task()
            def save(task):
                say("WORKER", repr(sys.stdin.read()))  # from the terminal, it would be stopped for trying

            app.add_listener("resume", lambda: os.write(told, b"R"))
            with app:
                os.write(told, b"A")
                idle()

        signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # as a shell does
        keyboard, terminal = os.openpty()
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
        life = Life(job)
        assert life.hear() == "A"
        for _ in range(2):
            os.write(keyboard, b"\\x1a")
            _, status = os.waitpid(life.pid, os.WUNTRACED)
            say("STOPPED", os.WIFSTOPPED(status) and signal.Signals(os.WSTOPSIG(status)).name)
            os.tcsetpgrp(terminal, os.getpgrp())
            os.tcsetpgrp(terminal, life.pid)  # fg
            os.killpg(life.pid, signal.SIGCONT)
            say("BACK", life.hear())
        os.write(keyboard, b"\\x03")
        say("LEFT", life.end())
            """
        )
    )
    assert 0 == program.wait()
    once = ["WORKER ''", "STOPPED SIGSTOP", "BACK R"]
    assert [*once, *once, "WORKER ''", "LEFT 0"] == program.lines, program.stderr


def test_sigcont_in_a_suspending_grace_period_brings_a_plain_program_back_and_its_tasks_go_on(
    launch: Launcher, tmp_path: Path
) -> None:
    """The main loop runs again, nothing stops it later, and a task's finish is acknowledged while it only sleeps."""
    program = launch(
        lives(
            """
        app = capbg.App("back", grace=60, kill_after=30)

        @app.background_task()
        def slow(task):
            say("WORKER", os.getppid())
            wait_for(sys.argv[1])
            task.finish()
            say("ACKNOWLEDGED")

        app.add_listener("taskSettled", lambda result: say("SETTLED", result.outcome.name))
        app.add_listener("graceEnded", lambda report: say("ENDED", report.reason.name))
        with app:
            say("READY")
            while app.get_state().reason.name == "START":
                time.sleep(0.02)
            say("LOOP", app.get_state().phase.name, app.tasks()[0].state.name)
            idle()
            """
        ),
        str(tmp_path / "go"),
    )
    program.expect("READY")
    program.send(TSTP)
    program.expect("WORKER")
    program.send(CONT)
    assert "ACTIVE RUNNING" == program.expect("LOOP")
    (tmp_path / "go").touch()
    program.expect("ACKNOWLEDGED")
    assert "FINISHED" == program.expect("SETTLED")
    assert "SUSPEND" == program.expect("ENDED")
    with pytest.raises(AssertionError):
        program.expect("STOP", patience=0.3)
    assert not is_stopped(program)
    program.send(TERM)
    assert 0 == program.wait()


@pytest.mark.parametrize("first", [(TERM, CONT), (TERM,)])
def test_a_stop_of_a_suspended_program_runs_its_tasks(launch: Launcher, first: tuple[int, ...]) -> None:
    """SIGTERM for a stopped process waits for SIGCONT, and then it is a stop like any other."""
    program = launch(
        """
        app = capbg.App("asleep", grace=30)

        @app.background_task()
        def save(task):
            pass

        try:
            with app:
                say("READY")
                idle()
        finally:
            report(app)
        """
    )
    program.expect("READY")
    program.send(TSTP)
    program.wait_stopped()
    program.send(*first)
    if CONT not in first:
        program.wait_until(lambda: TERM in pending(program.pid))
        assert is_stopped(program)
        program.send(CONT)
    report = program.report()
    assert ("TERMINATE", {"save": "FINISHED"}) == (report["reason"], report["outcomes"])
    assert 0 == program.wait()


def test_a_stop_in_a_suspending_grace_period_takes_it_over(
    launch: Launcher, tmp_path: Path, notify_socket: NotifySocket
) -> None:
    """SIGTERM turns a suspension into a stop, at once: nobody hears of a resume in between, nothing is stopped."""
    program = launch(
        lives(
            """
        app = capbg.App("turned", grace=60)

        @app.background_task()
        def slow(task):
            say("WORKER")
            wait_for(sys.argv[1])

        app.add_listener("appStateChange", lambda state: say("STATE", state.is_active, state.reason.name))
        try:
            with app:
                say("READY")
                idle()
        finally:
            report(app)
            """
        ),
        str(tmp_path / "go"),
        env=notify_socket.env,
    )
    program.expect("READY")
    program.send(TSTP)
    program.expect("WORKER")
    assert not any("STOPPING" in each for each in notify_socket.read())
    program.send(TERM, CONT)
    notify_socket.expect("STOPPING", "1")
    program.send(TSTP)  # nothing any more
    (tmp_path / "go").touch()
    report = program.report()
    assert ("TERMINATE", {"slow": "FINISHED"}) == (report["reason"], report["outcomes"])
    told = ["STATE False SUSPEND", "WORKER", "STATE False TERMINATE", "WORKER"]  # behind the first one, with news
    assert told == program.lines[1:-1]
    assert 0 == program.wait()


@pytest.mark.parametrize("signum", [TSTP, signal.SIGUSR1])
def test_a_signal_in_the_last_moment_before_the_stop_does_not_prevent_it(launch: Launcher, signum: int) -> None:
    """A second SIGTSTP, or a signal of the program's own, puts the stop off for a turn and not for good."""
    program = launch(
        f"""
        app = capbg.App("last", grace=30)
        signal.signal(signal.SIGUSR1, lambda *_: say("USR1"))
        app.add_listener("graceEnded", lambda report: os.kill(os.getpid(), {int(signum)}))
        app.add_listener("resume", lambda: say("RESUME"))
        with app:
            say("READY")
            idle()
        """
    )
    program.expect("READY")
    program.send(TSTP)
    program.wait_stopped()
    program.send(CONT)
    program.expect("RESUME")
    program.send(TERM)
    assert 0 == program.wait()


# ------------------------------------------------------------------------------------------------ in pairs, in a hurry


def test_the_order_of_signals_decides_and_not_their_numbers(launch: Launcher) -> None:
    """SIGTSTP, SIGCONT leaves it active; SIGCONT, SIGTSTP suspends it: though Python calls handlers by number."""
    program = launch(
        lives(
            """
        def live(told, *signums):
            app = capbg.App("order", grace=30)
            app.add_listener("pause", lambda: os.write(told, b"p"))
            app.add_listener("resume", lambda: os.write(told, b"r"))
            with app:
                at_once(*signums)
                time.sleep(0.02)
                os.write(told, b"A" if app.get_state().is_active else b"?")

        for order in ((signal.SIGTSTP, signal.SIGCONT), (signal.SIGCONT, signal.SIGTSTP)):
            for extra in ((), order):
                life = Life(live, *order, *extra)
                words = life.hear(100)
                say(words, life.end())
            """
        )
    )
    assert 0 == program.wait()
    assert ["prA 0", "prprA 0", "p stopped", "prp stopped"] == program.lines, program.stderr


def test_sigterm_wins_whatever_comes_beside_it(launch: Launcher) -> None:
    """SIGTERM with SIGCONT (systemd sends both) or SIGTSTP at its heels, in any order, is a stop with its task run."""
    program = launch(
        lives(
            """
        import itertools

        def live(told):
            app = capbg.App("beside", grace=30)

            @app.background_task()
            def save(task):
                os.write(told, b"w")

            with app:
                os.write(told, b"r")
                idle()

        pairs = [(signal.SIGTERM, signal.SIGCONT), (signal.SIGCONT, signal.SIGTERM)] * 12
        triples = list(itertools.permutations((signal.SIGTERM, signal.SIGCONT, signal.SIGTSTP))) * 3
        for order in pairs + triples:
            life = Life(live)
            assert life.hear() == "r"
            life.send(*order)
            if order.index(signal.SIGTSTP) if signal.SIGTSTP in order else 0:
                # It may have been stopped before the last one was sent: somebody has to wake it, as systemd would.
                life.send(signal.SIGCONT)
            say("w" in life.hear(), life.end())
            """
        )
    )
    assert 0 == program.wait()
    assert {"True 0"} == set(program.lines), (program.lines, program.stderr)
    assert 42 == len(program.lines)


# --------------------------------------------------------------------------------------- at every place it can arrive


def test_a_stop_at_any_step_of_entering_and_leaving_is_heard_by_the_app_or_by_the_old_handler(launch: Launcher) -> None:
    """Wherever SIGTERM strikes in ``with app``, it is heard exactly once, and everything is put back behind it."""
    program = launch(
        lives(
            """
        def door(told, number):
            heard = []
            old = lambda *_: heard.append(1)
            signal.signal(signal.SIGTERM, old)
            app = capbg.App("door", grace=30)

            @app.background_task()
            def save(task):
                os.write(told, b"w")

            at_step(number, signal.SIGTERM)
            try:
                with app:
                    os.write(told, b"i")
            except SystemExit as leaving:
                os.write(told, b"l" if leaving.code == 0 else b"?")
            sys.setprofile(None)
            os.write(told, b"o" * len(heard))
            assert signal.getsignal(signal.SIGTERM) is old
            assert signal.getsignal(signal.SIGTSTP) == signal.SIG_DFL
            assert signal.set_wakeup_fd(-1) == -1
            assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())

        number, seen = 0, set()
        while "i" not in seen:  # the first life that no signal has struck
            number += 1
            life = Life(door, number)
            words = life.hear(100)
            seen.add(words)
            status = life.end()
            if status or words not in ("i", "io", "wl", "iwl"):
                say("WRONG", number, words, status)
        say("SEEN", number, *sorted(seen))
            """
        )
    )
    number, *seen = program.expect("SEEN", patience=150).split()
    assert [] == [line for line in program.lines if line.startswith("WRONG")], program.stderr
    assert ["i", "io", "iwl", "wl"] == seen
    assert int(number) > 50
    assert 0 == program.wait()


def test_a_sigcont_at_any_step_of_a_suspension_prevents_the_stop_or_ends_it(launch: Launcher) -> None:
    """A program that was told to go on is never left stopped, wherever it stood when it was told."""
    program = launch(
        lives(
            """
        def suspend(told, number):
            app = capbg.App("race", grace=30)
            app.add_listener("pause", lambda: os.write(told, b"p"))
            app.add_listener("resume", lambda: os.write(told, b"r"))
            with app:
                at_step(number, signal.SIGCONT)
                os.kill(os.getpid(), signal.SIGTSTP)
                sys.setprofile(None)
                os.write(told, b"A" if app.get_state().is_active else b"?")

        number, ends = 0, {"prA 0"}
        while ends == {"prA 0"}:
            number += 1
            life = Life(suspend, number)
            words = life.hear(100)
            ends.add(f"{words} {life.end()}")
        say("ENDS", number, *sorted(ends))
        life = Life(suspend, 10**9)
        say("STEPS", life.hear(100), life.end())
            """
        )
    )
    number, *ends = program.expect("ENDS", patience=150).split()
    # The one that was stopped is the first that had no step left at which to be told.
    assert ["p", "stopped", "prA", "0"] == ends, program.stderr
    assert int(number) > 100
    assert "p stopped" == program.expect("STEPS")
    assert 0 == program.wait()


def test_a_stop_at_any_step_of_handling_another_signal_is_heard(launch: Launcher) -> None:
    """SIGTERM in the middle of what a SIGCONT sets going neither deadlocks nor gets lost."""
    program = launch(
        lives(
            """
        def handle(told, number):
            app = capbg.App("nested", grace=30)

            @app.background_task()
            def save(task):
                os.write(told, b"w")

            with app:
                at_step(number, signal.SIGTERM)
                os.kill(os.getpid(), signal.SIGCONT)
                sys.setprofile(None)
                os.write(told, b"A")

        number, words = 0, ""
        while words != "A":
            number += 1
            life = Life(handle, number)
            words, status = life.hear(100), life.end()
            if status or words not in ("w", "A"):
                say("WRONG", number, words, status)
        say("STEPS", number)
            """
        )
    )
    assert int(program.expect("STEPS", patience=150)) > 50
    assert [] == [line for line in program.lines if line.startswith("WRONG")], program.stderr
    assert 0 == program.wait()


def test_a_signal_that_was_pending_on_the_way_in_is_a_stop_whose_warnings_reach_the_log(launch: Launcher) -> None:
    """A SIGTERM that waited while the app was entered runs the tasks, and nothing the app has to say is lost."""
    program = launch(
        """
        class Finder:
            def find_spec(self, name, *_):
                if name == "setproctitle":  # imported while the app is being entered, its signals blocked
                    os.kill(os.getpid(), signal.SIGTERM)

        sys.meta_path.insert(0, Finder())
        app = capbg.App("pending", grace=30)

        @app.background_task()
        def save(task):
            raise ValueError("lost")

        try:
            with app:
                say("NEVER")
        finally:
            report(app)
        """
    )
    assert {"save": "FAILED"} == program.report()["outcomes"]
    assert 75 == program.wait()
    assert 1 == len(program.lines)
    assert "task 'save-1' failed: it raised ValueError: lost" in program.stderr
