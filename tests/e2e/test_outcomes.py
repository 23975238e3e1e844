"""How a task can end: every outcome reached by a real program, with what its result says."""

import signal

from tests.e2e.running import stop
from tests.probe import Launcher, is_alive


def test_every_kind_of_callback_can_finish(launch: Launcher) -> None:
    """Whatever can be called finishes: in so many words, by returning, from a coroutine or from a thread."""
    _, report, status = stop(
        launch,
        """
        import functools
        app = capbg.App("finish", grace=30)

        def in_words(task):
            task.finish()

        def by_id():
            app.finish(own_id)

        async def coroutine(task):
            import asyncio
            await asyncio.sleep(0.01)
            task.finish()

        def from_a_thread(task):
            thread = threading.Thread(target=task.finish)
            thread.start()
            thread.join()

        class Saver:
            def __call__(self, task):
                task.finish()
            def method(self, task):
                task.finish()

        class AsyncSaver:
            async def __call__(self, task):
                task.finish()

        def bound(what, task):
            assert what == "what"
            task.finish()

        def current():
            task = capbg.current_task()
            assert task.id == current_id and task.name == "current"
            task.finish()

        assert capbg.current_task() is None
        app.before_exit(in_words)
        own_id = app.before_exit(by_id)
        app.before_exit(coroutine)
        app.before_exit(from_a_thread)
        app.before_exit(Saver(), name="object")
        app.before_exit(Saver().method, name="method")
        app.before_exit(AsyncSaver(), name="async object")
        app.before_exit(functools.partial(bound, "what"), name="partial")
        app.before_exit(functools.partial(coroutine), name="async partial")
        app.before_exit(lambda task: coroutine(task), name="lambda of a coroutine")
        app.before_exit(lambda: app.finish(lambda_id), name="lambda")
        current_id = app.before_exit(current)
        lambda_id = app.tasks()[10].id

        @app.background_task()
        def returns():
            return "anything"

        @app.background_task()
        async def coroutine_returns(task):
            pass
        """,
    )
    assert {"FINISHED"} == set(report["outcomes"].values()), report
    assert 14 == len(report["results"])
    assert 14 == len({each["pid"] for each in report["results"]})
    for each in report["results"]:
        assert (0, None, None) == (each["exit_code"], each["signal"], each["error_type"])
        assert each["started"] >= 0
        assert each["duration"] > 0
        assert each["cpu_time"] > 0
        assert each["max_rss"] > 1 << 20
        assert "its finish was acknowledged" == each["reason"]
    assert 0 == status


def test_returning_or_leaving_without_finish_is_unfinished(launch: Launcher) -> None:
    """A one-shot task that returns, and any task that leaves by sys.exit(0), has not said that it is done."""
    _, report, status = stop(
        launch,
        """
        app = capbg.App("unfinished", grace=30)
        app.before_exit(lambda: None, name="returns")

        @app.background_task()
        def leaves():
            sys.exit(0)
        """,
    )
    assert {"returns": "UNFINISHED", "leaves": "UNFINISHED"} == report["outcomes"]
    for each in report["results"]:
        assert "it returned without having called finish()" == each["reason"]
        assert (0, None) == (each["exit_code"], each["signal"])
    assert 75 == status


def test_what_a_task_raised_is_in_its_result_and_in_the_log(launch: Launcher) -> None:
    """FAILED keeps type, message and traceback, whatever the exception is and however badly it behaves."""
    program, report, status = stop(
        launch,
        """
        app = capbg.App("failed", grace=30)

        class Mute(Exception):
            def __str__(self):
                raise RuntimeError("no words")

        class Outer:
            class Odd(BaseException):
                pass

        def deep():
            deep()

        def task(raised):
            def raising():
                raise raised
            return raising

        async def coroutine():
            raise LookupError("async")

        for name, raised in {
            "plain": ValueError("boom"), "mute": Mute(), "base": Outer.Odd("odd"), "interrupt": KeyboardInterrupt(),
            "exit 3": SystemExit(3), "exit text": SystemExit("text"), "huge": ValueError("x" * 1_000_000),
            "surrogate": ValueError("caf\\udce9"),
        }.items():
            app.background_task(name=name)(task(raised))
        app.background_task(name="deep")(deep)
        app.background_task(name="coroutine")(coroutine)
        """,
    )
    assert {"FAILED"} == set(report["outcomes"].values()), report
    found = {name: (each["error_type"], each["error_message"]) for name, each in report["by_name"].items()}
    assert ("ValueError", "boom") == found["plain"]
    assert ("Mute", "(its message could not be made)") == found["mute"]
    assert ("Outer.Odd", "odd") == found["base"]
    assert ("KeyboardInterrupt", "") == found["interrupt"]
    assert ("SystemExit", "3") == found["exit 3"]
    assert ("SystemExit", "text") == found["exit text"]
    assert ("ValueError", "x" * 4000) == found["huge"]
    assert ("ValueError", "caf\\udce9") == found["surrogate"]
    assert "RecursionError" == found["deep"][0]
    assert ("LookupError", "async") == found["coroutine"]
    plain = report["by_name"]["plain"]
    assert "it raised ValueError: boom" == plain["reason"]
    assert "it raised KeyboardInterrupt" == report["by_name"]["interrupt"]["reason"]
    assert plain["traceback"].endswith("raise raised\nValueError: boom\n")
    assert f"task 'plain-1' failed: {plain['reason']}\n{plain['traceback']}" in program.stderr
    assert {(1, None)} == {(each["exit_code"], each["signal"]) for each in report["results"]}
    assert 75 == status


def test_a_soft_expiry_lets_cleanup_code_run(launch: Launcher) -> None:
    """At its deadline a task is told by on_expire and then by TaskExpired (a coroutine by its cancellation)."""
    program, report, status = stop(
        launch,
        """
        import asyncio
        app = capbg.App("expired", grace=3, kill_after=30)

        def on_expire(task):
            say("ON_EXPIRE", task.name, task.expiring)

        def cleans(task):
            assert not task.expiring
            try:
                idle()
            except capbg.TaskExpired as expired:
                say("EXPIRED", repr(task.id) in str(expired), 0 < task.time_remaining() <= 30)
            finally:
                say("CLEANUP")

        def swallows():
            while True:
                try:
                    idle()
                except Exception:
                    say("NEVER")

        async def cancelled():
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                await asyncio.sleep(0.01)
                say("CANCELLED")
                raise

        async def absorbs():
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                return "a value"

        def raises():
            try:
                idle()
            finally:
                raise ValueError("in the cleanup")

        def broken(task):
            raise ValueError("not well")

        def finishes_late(task):
            try:
                idle()
            finally:
                task.finish()

        def waits_for_a_thread():
            threading.Thread(target=idle).start()

        app.background_task(deadline=2, on_expire=on_expire)(cleans)
        app.background_task(deadline=2)(swallows)
        app.background_task(deadline=2, on_expire=on_expire)(cancelled)
        app.background_task(deadline=2)(absorbs)
        app.background_task(deadline=2)(raises)
        app.background_task(deadline=2, name="on_expire raises", on_expire=broken)(lambda: idle())
        app.background_task(deadline=2)(finishes_late)
        app.background_task(deadline=2, name="on_expire finishes", on_expire=lambda task: task.finish())(idle)
        app.background_task(deadline=2)(waits_for_a_thread)
        app.background_task(name="no deadline")(idle)
        app.background_task(name="a later deadline", deadline=3000)(idle)
        """,
    )
    finished = {"finishes_late", "on_expire finishes"}
    assert finished == {name for name, outcome in report["outcomes"].items() if outcome == "FINISHED"}
    by_grace = {"no deadline", "a later deadline"}
    for name in by_grace:
        assert ("EXPIRED", "the grace period was over") == (report["outcomes"][name], report["by_name"][name]["reason"])
    assert 3 <= report["duration"] < 30
    expired = {name: each for name, each in report["by_name"].items() if name not in finished | by_grace}
    assert {"EXPIRED"} == {each["outcome"] for each in expired.values()}, report
    assert 7 == len(expired)
    for each in expired.values():
        assert each["reason"].startswith("its deadline of 2 s was over"), each
        assert 2 <= each["duration"] < 30
        assert each["signal"] is None
    told = [line for line in program.lines if line.startswith(("ON_EXPIRE cleans", "EXPIRED", "CLEANUP"))]
    assert ["ON_EXPIRE cleans True", "EXPIRED True True", "CLEANUP"] == told
    told = [line for line in program.lines if line.startswith(("ON_EXPIRE cancelled", "CANCELLED"))]
    assert ["ON_EXPIRE cancelled True", "CANCELLED"] == told
    assert "NEVER" not in program.lines
    assert ("ValueError", "in the cleanup") == (expired["raises"]["error_type"], expired["raises"]["error_message"])
    assert "on_expire raised ValueError: not well" in program.stderr
    assert 75 == status


def test_stuck_tasks_are_killed_side_by_side(launch: Launcher) -> None:
    """What ignores its expiry, sits in one long C call or has blocked every signal is killed, all at the same time."""
    program, report, status = stop(
        launch,
        """
        app = capbg.App("stuck", grace=60, kill_after=1)

        def ignores():
            while True:
                try:
                    idle()
                except BaseException:
                    pass

        def in_c():
            sum(range(10 ** 11))

        def deaf():
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            time.sleep(600)

        def stopped():
            os.kill(os.getpid(), signal.SIGSTOP)

        def leaves_a_child():
            ready, tell = os.pipe()
            if os.fork() == 0:
                signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
                say("LEFTOVER", os.getpid())
                os.write(tell, b"x")
                while True:
                    time.sleep(0.1)
            os.read(ready, 1)
            ignores()

        app.background_task(deadline=2)(leaves_a_child)
        for callback in (in_c, ignores, ignores, deaf, deaf, stopped, stopped):
            app.background_task(name=f"{callback.__name__} {len(app.tasks())}", deadline=2)(callback)
        """,
    )
    assert 8 == len(report["results"])
    assert {"KILLED"} == set(report["outcomes"].values()), report
    for each in report["results"]:
        assert (None, signal.SIGKILL) == (each["exit_code"], each["signal"])
        assert each["reason"].startswith(("its deadline of 2 s was over; ", "the kernel killed it at its hard")), each
        assert 3 <= each["duration"] < 30
    ends = [each["started"] + each["duration"] for each in report["results"]]
    # In turn, a second each, they would end seven seconds apart.
    assert max(ends) - min(ends) < 5
    leftover = next(int(line.split()[1]) for line in program.lines if line.startswith("LEFTOVER"))
    program.wait_until(lambda: not is_alive(leftover))
    assert 75 == status


def test_a_death_of_its_own_is_a_crash_and_harms_nobody_else(launch: Launcher) -> None:
    """Exit codes and signals are told, and what does not parse ends the worker that sent it, and only that one."""
    _, report, status = stop(
        launch,
        """
        app = capbg.App("crashed", grace=60, kill_after=30)

        def task(name, act):
            app.background_task(name=name)(act)

        def says(data):
            def act(task):
                task._pipe.send(data)
                idle()
            return act

        task("_exit", lambda: os._exit(3))
        task("_exit 0", lambda: os._exit(0))
        task("SIGSEGV", lambda: os.kill(os.getpid(), signal.SIGSEGV))
        task("SIGKILL", lambda: os.kill(os.getpid(), signal.SIGKILL))
        task("garbage", says(b"hello"))
        task("oversize", says(b"F" * 70_000))
        task("truncated", says(b"X\\0\\1"))
        task("not a number", says(b"P" + b"\\x7f\\xf8" + b"\\0" * 15))
        task("finish with more", says(b"FF"))

        def bystander(task):
            time.sleep(0.5)
            task.finish()
        app.before_exit(bystander)
        """,
    )
    results = report["by_name"]
    assert "FINISHED" == results.pop("bystander")["outcome"]
    assert {"CRASHED"} == {each["outcome"] for each in results.values()}, report
    assert (3, "left with exit code 3 without a word") == (results["_exit"]["exit_code"], results["_exit"]["reason"])
    assert 0 == results["_exit 0"]["exit_code"]
    assert (signal.SIGSEGV, "died of signal 11") == (results["SIGSEGV"]["signal"], results["SIGSEGV"]["reason"])
    assert signal.SIGKILL == results["SIGKILL"]["signal"]
    assert "SIGKILL that capbg did not send" in results["SIGKILL"]["reason"]
    for name in ("garbage", "oversize", "truncated", "not a number", "finish with more"):
        assert results[name]["reason"].startswith("its worker sent a packet of "), results[name]
        assert signal.SIGKILL == results[name]["signal"]
        assert results[name]["duration"] < 30
    assert 75 == status


def test_cancelling_what_is_registered_queued_and_running(launch: Launcher) -> None:
    """Cancelled before the stop it never runs; queued it never starts; running it is expired and cleans up."""
    program, report, status = stop(
        launch,
        """
        app = capbg.App("cancelled", grace=60, kill_after=30, max_workers=1)
        ready, tell = os.pipe()

        def running():
            try:
                os.write(tell, b"x")
                idle()
            finally:
                say("CLEANUP")

        def cancels():
            os.read(ready, 1)
            say("STATES", *[row.state.name for row in app.tasks()])
            app.cancel(queued_id)
            app.cancel(running_id)

        app.cancel(app.before_exit(lambda: say("NEVER"), name="registered"))
        running_id = app.before_exit(running, on_expire=lambda task: say("ON_EXPIRE"))
        queued_id = app.before_exit(lambda: say("NEVER"), name="queued")
        app.before_exit(lambda task: task.finish(), name="last")
        threading.Thread(target=cancels).start()
        """,
    )
    assert {"running": "CANCELLED", "queued": "CANCELLED", "last": "FINISHED"} == report["outcomes"]
    running, queued = report["by_name"]["running"], report["by_name"]["queued"]
    assert ("cancelled by the program", 0, None) == (running["reason"], running["exit_code"], running["signal"])
    assert "cancelled before it started" == queued["reason"]
    assert {None} == {queued[key] for key in ("pid", "started", "duration", "exit_code", "signal")}
    assert "STATES RUNNING QUEUED QUEUED" in program.lines
    assert ["ON_EXPIRE", "CLEANUP"] == [line for line in program.lines if line in {"ON_EXPIRE", "CLEANUP", "NEVER"}]
    assert 75 == status


def test_another_thread_may_settle_a_task_while_its_worker_is_being_started(launch: Launcher) -> None:
    """A cancel or a finish that comes between a start's decision and its end counts, and the worker does nothing."""
    program, report, _ = stop(
        launch,
        """
        app = capbg.App("raced", grace=60, start_method="spawn")

        class Raced:
            def __init__(self, act=None):
                self.act = act
            def __reduce__(self):
                if app.get_state().phase is capbg.Phase.BACKGROUND:
                    thread = threading.Thread(target=self.act)
                    thread.start()
                    thread.join()
                return Raced, ()
            def __call__(self):
                say("NEVER")

        cancelled = app.before_exit(Raced(lambda: app.cancel(cancelled)), name="cancelled")
        finished = app.before_exit(Raced(lambda: app.finish(finished)), name="finished")
        app.before_exit(lambda task: task.finish(), name="last")
        """,
    )
    assert {"cancelled": "CANCELLED", "finished": "FINISHED", "last": "FINISHED"} == report["outcomes"]
    assert "NEVER" not in program.lines


def test_the_app_can_finish_a_running_task_itself(launch: Launcher) -> None:
    """finish() in the app's process settles a task that runs; the worker has kill_after to leave and then goes."""
    _, report, status = stop(
        launch,
        """
        app = capbg.App("by the app", grace=60, kill_after=0.3)
        ready, tell = os.pipe()

        def runs():
            os.write(tell, b"x")
            idle()

        def finishes():
            os.read(ready, 1)
            app.finish(task_id)

        task_id = app.before_exit(runs)
        threading.Thread(target=finishes).start()
        """,
    )
    assert {"runs": "FINISHED"} == report["outcomes"]
    assert ("finished by the app", signal.SIGKILL) == (report["results"][0]["reason"], report["results"][0]["signal"])
    assert report["duration"] < 30
    assert 0 == status


def test_nothing_changes_an_acknowledged_finish(launch: Launcher) -> None:
    """Raise, hang, crash or talk nonsense behind it: the task stays FINISHED, and a hang lasts kill_after seconds."""
    program, report, status = stop(
        launch,
        """
        app = capbg.App("done", grace=120, kill_after=3)

        def finish_and(act):
            def callback(task):
                task.finish()
                act(task)
            return callback

        def fail(task):
            raise ValueError("too late")

        app.before_exit(finish_and(fail), name="raises")
        app.before_exit(finish_and(lambda task: idle()), name="hangs")
        app.before_exit(finish_and(lambda task: os._exit(9)), name="exits")
        app.before_exit(finish_and(lambda task: os.kill(os.getpid(), signal.SIGKILL)), name="dies")
        app.before_exit(finish_and(lambda task: task._pipe.send(b"hello")), name="babbles")
        app.before_exit(finish_and(lambda task: task.finish()), name="twice")
        app.background_task(name="twice by returning")(lambda task: task.finish())
        """,
    )
    assert {"FINISHED"} == set(report["outcomes"].values()), report
    assert 7 == len(report["results"])
    results = report["by_name"]
    assert {None} == {each["error_type"] for each in report["results"]}
    assert (1, None) == (results["raises"]["exit_code"], results["raises"]["signal"])
    assert "ValueError: too late" in program.stderr
    assert (None, signal.SIGKILL) == (results["hangs"]["exit_code"], results["hangs"]["signal"])
    assert 3 <= results["hangs"]["duration"] < 30
    assert 9 == results["exits"]["exit_code"]
    assert signal.SIGKILL == results["dies"]["signal"]
    assert program.stderr.count("has finished already") == 1
    assert 0 == status


def test_only_its_worker_and_its_app_can_finish_a_task(launch: Launcher) -> None:
    """A wrong id, another worker, a fork of the worker and a fork of the app all raise where finish was called."""
    program, report, status = stop(
        launch,
        """
        app = capbg.App("whose", grace=60)

        def attempt(who, act):
            try:
                act()
            except capbg.UnknownTaskError as error:
                say("REFUSED", who, error.task_id)
            except BaseException as error:
                say("WRONG", who, repr(error))
            else:
                say("ACCEPTED", who)

        def in_a_fork(who, act):
            pid = os.fork()
            if pid == 0:
                attempt(who, act)
                os._exit(0)
            os.waitpid(pid, 0)

        def wrong(task):
            attempt("unknown", lambda: app.finish("no-such-task"))
            attempt("other's", lambda: app.finish(other))
            attempt("no id", lambda: app.finish(None))
            in_a_fork("task.finish in a fork", task.finish)
            in_a_fork("app.finish in a fork", lambda: app.finish(task.id))
            in_a_fork("current_task", lambda: say("CURRENT", capbg.current_task()))

        other = app.before_exit(lambda task: task.finish(), name="other")
        app.before_exit(wrong)

        @app.background_task()
        def unwinds():
            # A fork that forgets os._exit comes out of the callback; it must not speak for the task.
            pid = os.fork()
            if pid == 0:
                return
            os.waitpid(pid, 0)
            os._exit(4)

        attempt("unknown to the app", lambda: app.finish("no-such-task"))
        in_a_fork("a fork of the app", lambda: app.finish(other))
        """,
    )
    assert {"other": "FINISHED", "wrong": "UNFINISHED", "unwinds": "CRASHED"} == report["outcomes"]
    wrong_id = next(each["id"] for each in report["results"] if each["name"] == "wrong")
    other_id = next(each["id"] for each in report["results"] if each["name"] == "other")
    assert {
        "REFUSED unknown no-such-task",
        f"REFUSED other's {other_id}",
        "REFUSED no id None",
        f"REFUSED task.finish in a fork {wrong_id}",
        f"REFUSED app.finish in a fork {wrong_id}",
        "CURRENT None",
        "ACCEPTED current_task",
        "REFUSED unknown to the app no-such-task",
        f"REFUSED a fork of the app {other_id}",
    } == {line for line in program.lines if line.startswith(("REFUSED", "WRONG", "ACCEPTED", "CURRENT"))}
    assert 75 == status


def test_a_task_runs_until_its_threads_have_ended_and_not_its_daemons(launch: Launcher) -> None:
    """A thread left running belongs to the task, and may finish it; a daemon thread does not keep it."""
    program, report, _ = stop(
        launch,
        """
        app = capbg.App("threads", grace=60)

        def later(task):
            time.sleep(0.3)
            say("THREAD")
            task.finish()

        app.before_exit(lambda task: threading.Thread(target=later, args=(task,)).start(), name="thread")

        @app.background_task()
        def daemon():
            threading.Thread(target=idle, daemon=True).start()
        """,
    )
    assert {"thread": "FINISHED", "daemon": "FINISHED"} == report["outcomes"]
    assert "THREAD" in program.lines
    assert report["by_name"]["daemon"]["duration"] < 30


def test_nothing_of_a_task_outlives_its_worker(launch: Launcher) -> None:
    """What is left in a worker's process group is killed when the worker is gone, however that came about."""
    program, report, _ = stop(
        launch,
        """
        app = capbg.App("leftovers", grace=60, kill_after=30)

        def daemonise():
            # A double fork, as daemons do it, deaf to whatever can be blocked or handled.
            ready, tell = os.pipe()
            if os.fork() == 0:
                if os.fork() == 0:
                    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
                    say("LEFTOVER", os.getpid())
                    os.write(tell, b"x")
                    while True:
                        time.sleep(0.1)
                os._exit(0)
            os.wait()
            os.read(ready, 1)

        @app.background_task()
        def returns():
            daemonise()

        @app.background_task()
        def crashes():
            daemonise()
            os.kill(os.getpid(), signal.SIGKILL)
        """,
    )
    assert {"returns": "FINISHED", "crashes": "CRASHED"} == report["outcomes"]
    leftovers = [int(line.split()[1]) for line in program.lines if line.startswith("LEFTOVER")]
    assert 2 == len(leftovers)
    for pid in leftovers:
        program.wait_until(lambda pid=pid: not is_alive(pid))  # type: ignore[misc]


def test_progress_neither_blocks_nor_loses_the_finish(launch: Launcher) -> None:
    """The last progress is in the result, and a hundred thousand of them are no reason to miss a finish."""
    _, report, status = stop(
        launch,
        """
        app = capbg.App("progress", grace=60)

        def some(task):
            task.progress(1)
            task.progress(2, 4, "halfway \\u00bd" + "x" * 300)
            assert task.time_remaining() > 0
            task.finish()

        def floods(task):
            for done in range(100_000):
                task.progress(done, 100_000)
            task.finish()

        def refuses(task):
            for bad in (dict(done=True), dict(done="1"), dict(done=None), dict(done=float("nan")), dict(done=10**400),
                        dict(done=1, total=float("inf")), dict(done=1, message=5)):
                try:
                    task.progress(**bad)
                except (capbg.WrongTypeError, capbg.InvalidArgumentError) as error:
                    assert "progress(" in str(error)
                else:
                    raise AssertionError(bad)
            task.finish()

        for callback in (some, floods, refuses):
            app.before_exit(callback)
        """,
    )
    assert {"some": "FINISHED", "floods": "FINISHED", "refuses": "FINISHED"} == report["outcomes"], report
    done, total, message = report["by_name"]["some"]["progress"]
    assert (2, 4) == (done, total)
    assert message.startswith("halfway ½xxx")
    assert 200 == len(message.encode())
    assert 100_000 == report["by_name"]["floods"]["progress"][1]
    assert report["by_name"]["refuses"]["progress"] is None
    assert 0 == status


def test_a_finished_task_is_not_concerned_by_its_deadline(launch: Launcher) -> None:
    """Behind an acknowledged finish nothing expires, and the time remaining runs down to zero and never below."""
    program, report, status = stop(
        launch,
        """
        app = capbg.App("time", grace=60, kill_after=30)

        @app.background_task(deadline=2, on_expire=lambda task: say("NEVER"))
        def counts(task):
            last = task.time_remaining()
            say("FIRST", 0 < last <= 2)
            task.finish()
            while last:
                left = task.time_remaining()
                assert 0 <= left <= last
                last = left
                time.sleep(0.01)
            for _ in range(20):
                assert task.time_remaining() == 0
                time.sleep(0.01)
            say("UNDISTURBED", task.expiring)
        """,
    )
    assert {"counts": "FINISHED"} == report["outcomes"]
    assert ["FIRST True", "UNDISTURBED False"] == [line for line in program.lines if not line.startswith(("RE",))]
    assert (0, None) == (report["results"][0]["exit_code"], report["results"][0]["signal"])
    assert 0 == status
