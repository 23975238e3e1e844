"""The app's phases: the table whole, each move, and the histories that are worth a test with a name."""

from collections.abc import Callable

import pytest

from capbg._core import wire
from capbg._core.events import (
    AcknowledgeFinish,
    Action,
    Announced,
    CancelRequested,
    Continued,
    Event,
    ExpireWorker,
    FinishRequested,
    GarbageArrived,
    KillWorker,
    Leave,
    Notify,
    PacketArrived,
    Registration,
    StartFailed,
    StopProcess,
    StopRequested,
    SuspendRequested,
    TellEnded,
    TellSettled,
    Tick,
    Warn,
    WorkerExited,
    WorkerStarted,
)
from capbg._core.grace import DUPLICATE_NS, EX_OK, EX_TEMPFAIL, PHASES, RETRY_NS, Grace, Move, Signal, make_grace
from capbg._core.notices import BEAT_NS
from capbg._core.task import Exit, IllegalInputError
from capbg._core.words import NS, Outcome, Phase, Progress, Reason, TaskState
from capbg.errors import UnknownTaskError, WrongPhaseError

SIGNALS: dict[Signal, Event] = {
    Signal.STOP: StopRequested(Reason.TERMINATE),
    Signal.SUSPEND: SuspendRequested(),
    Signal.CONTINUE: Continued(),
}

CAN_BE = [
    (Phase.ACTIVE, False),
    (Phase.BACKGROUND, False),
    (Phase.BACKGROUND, True),
    (Phase.SUSPENDED, False),
    (Phase.TERMINATED, True),
]
"""What (phase, because of a stop?) can be."""

GRACE_S, KILL_AFTER_S = 30.0, 2.0


class Driver:
    """Hands events to a :class:`Grace` under a clock that is set by hand."""

    def __init__(self, *, max_workers: int | None = None, watchdog_ns: int | None = None) -> None:
        self.core = make_grace(
            grace_s=GRACE_S, kill_after_s=KILL_AFTER_S, max_workers=max_workers, watchdog_ns=watchdog_ns
        )
        self.now = 1_000 * NS
        self.done: list[Action] = []

    def __call__(self, *events: Event, after_s: float = 0.0) -> list[Action]:
        """Hand over events ``after_s`` seconds later; return what comes of them, and keep it in ``done``."""
        self.now += round(after_s * NS) + 1
        actions = [action for event in events for action in self.core.step(event, self.now)]
        self.done += actions
        return actions

    def background(self, event: Event) -> None:
        """A signal, the listeners, the end of the turn."""
        self(event, Announced(), Tick())

    def start(self) -> str:
        """Start the worker whose turn it is."""
        [run] = self.core.next_starts(self.now, 1)
        self(WorkerStarted(run.id, 4711))
        return run.id

    def finish(self, task_id: str) -> None:
        """The worker finishes and leaves."""
        self(PacketArrived(task_id, wire.Finish()), WorkerExited(task_id, Exit(exit_code=0)))

    def told(self, kind: type[Action]) -> list[Action]:
        """Every action of a kind so far."""
        return [action for action in self.done if isinstance(action, kind)]

    def states(self) -> dict[str, TaskState]:
        return {row.id: row.state for row in self.core.tasks()}

    def outcomes(self) -> list[tuple[str, Outcome]]:
        """What was told of settled tasks, in order."""
        return [(each.result.id, each.result.outcome) for each in self.done if isinstance(each, TellSettled)]


def task(task_id: str = "save", *, once: bool = True, limit_s: float | None = None) -> Registration:
    return Registration(task_id, task_id, None if limit_s is None else round(limit_s * NS), once)


def at(phase: Phase, stops: bool) -> Driver:
    """A driver brought to a phase by signals."""
    drive = Driver()
    if phase is not Phase.ACTIVE:
        drive(task("slow", once=False))
        drive.background(SIGNALS[Signal.STOP if stops else Signal.SUSPEND])
    if phase in {Phase.SUSPENDED, Phase.TERMINATED}:
        drive.finish(drive.start())
        drive(Tick())
    assert (phase, stops) == (drive.core.phase, drive.core.reason.stops)
    return drive


# -------------------------------------------------------------------------------------------------------- the table


def test_the_table_is_total_over_what_can_be() -> None:
    """Every phase that can be has an entry for every signal, and there is nothing else in it."""
    assert {(*where, signal) for where in CAN_BE for signal in Signal} == set(PHASES)
    assert set(Move) == {move for _, move in PHASES.values()}


def test_no_signal_leads_from_a_stop_to_anything_but_its_end() -> None:
    """SIGTERM wins: neither SIGTSTP nor SIGCONT moves an app that is to stop; nor does SIGTSTP a suspended one."""
    for (phase, stops, signal), (to, move) in PHASES.items():
        if stops:
            assert phase is to
            assert move is (Move.AGAIN if (phase, signal) == (Phase.BACKGROUND, Signal.STOP) else Move.STAY)
        elif signal is Signal.STOP:
            assert Phase.BACKGROUND is to
        elif phase is not Phase.ACTIVE and signal is Signal.SUSPEND:
            assert (phase, Move.STAY) == (to, move)


@pytest.mark.parametrize("signal", Signal, ids=lambda each: each.name)
@pytest.mark.parametrize(("phase", "stops"), CAN_BE, ids=lambda each: getattr(each, "name", f"stops={each}"))
def test_each_entry_is_what_the_app_does(phase: Phase, stops: bool, signal: Signal) -> None:
    """The phase is the table's, listeners are told of moves alone, and a stay does nothing at all."""
    drive = at(phase, stops)
    to, move = PHASES[phase, stops, signal]
    actions = drive(SIGNALS[signal], after_s=0.1)
    assert to is drive.core.phase
    announcement = drive.core.announcement
    if move in {Move.STAY, Move.AGAIN}:
        assert [] == actions
        assert announcement is None
        return
    assert isinstance(actions[0], Notify)
    assert announcement is not None
    assert drive.core.state == announcement
    assert (to is Phase.ACTIVE) == announcement.is_active == announcement.isActive
    reasons = {Signal.STOP: Reason.TERMINATE, Signal.SUSPEND: Reason.SUSPEND, Signal.CONTINUE: Reason.RESUME}
    assert reasons[signal] is announcement.reason
    assert ("STOPPING=1" in actions[0].text) == (signal is Signal.STOP)


# ------------------------------------------------------------------------------------------------------------ stops


def test_a_duplicate_stop_within_a_second_is_ignored_and_a_later_one_hurries() -> None:
    """A terminal and a supervisor often both send one; whoever sends another after a second means it."""
    drive = Driver()
    drive(task("runs"), task("waits"))
    drive.background(StopRequested(Reason.TERMINATE))
    began = drive.now
    assert "runs" == drive.start()
    drive.now = began + DUPLICATE_NS - 1
    assert [] == drive(StopRequested(Reason.INTERRUPT))
    assert Reason.TERMINATE is drive.core.reason
    actions = drive(StopRequested(Reason.TERMINATE))
    assert ExpireWorker("runs") in actions
    assert [("waits", Outcome.REFUSED)] == drive.outcomes()
    assert [] == drive(StopRequested(Reason.TERMINATE), after_s=0.5)
    assert drive.core.is_too_late(drive.now)
    drive(task("late"))
    assert [("waits", Outcome.REFUSED), ("late", Outcome.REFUSED)] == drive.outcomes()
    drive(WorkerExited("runs", Exit(exit_code=0)), Tick())
    assert [Leave(EX_TEMPFAIL)] == drive.told(Leave)


def test_a_second_stop_before_the_listeners_were_told_starts_nothing() -> None:
    """A program that holds its critical block for seconds can be hurried, too."""
    drive = Driver()
    drive(task())
    drive(StopRequested(Reason.TERMINATE))
    drive(StopRequested(Reason.TERMINATE), after_s=1.1)
    drive(Announced(), Tick())
    assert [("save", Outcome.REFUSED)] == drive.outcomes()
    drive(Tick())
    assert [Leave(EX_TEMPFAIL)] == drive.told(Leave)


def test_sigcont_right_behind_sigterm_does_not_undo_the_stop() -> None:
    """systemd sends SIGCONT behind SIGTERM, and a shell may send SIGTSTP: the stop goes on, and its tasks run."""
    drive = Driver()
    drive(task())
    drive(StopRequested(Reason.TERMINATE), Continued(), SuspendRequested(), Continued())
    drive(Announced(), Continued(), Tick())
    drive.finish(drive.start())
    drive(Tick())
    assert [Leave(EX_OK)] == drive.told(Leave)
    assert [] == drive.told(StopProcess)


def test_a_stop_in_the_grace_period_of_a_suspension_leaves_and_does_not_suspend() -> None:
    """SIGTERM during the grace period of a SIGTSTP turns it: one report, one way out, a whole budget."""
    drive = Driver()
    drive(task("slow"))
    drive.background(SuspendRequested())
    drive.start()
    drive(task("queued"))
    drive(StopRequested(Reason.TERMINATE), after_s=20.0)
    turned = drive.now
    assert [] == drive.core.next_starts(drive.now, 1)  # the listeners have yet to be told, and may cancel it
    drive(Announced(), Tick())
    [run] = drive.core.next_starts(drive.now, 9)
    assert ("queued", turned + round(GRACE_S * NS)) == (run.id, run.last_start_ns)
    drive.start()
    drive.finish("queued")
    drive.finish("slow")
    drive(Tick())
    assert [Leave(EX_OK)] == drive.told(Leave)
    assert [] == drive.told(StopProcess)
    (ended,) = drive.told(TellEnded)
    assert isinstance(ended, TellEnded)
    assert ["queued", "slow"] == [each.id for each in ended.report.results]


@pytest.mark.parametrize(
    ("finished", "errors", "status"),
    [(True, (), EX_OK), (False, (), EX_TEMPFAIL), (True, ("it raised",), EX_TEMPFAIL)],
)
def test_the_exit_status_is_0_only_if_nothing_was_lost(finished: bool, errors: tuple[str, ...], status: int) -> None:
    """A task that did not finish, or a listener that raised before it could register its own, makes it 75."""
    drive = Driver()
    drive(task())
    drive(StopRequested(Reason.TERMINATE), Announced(errors), Tick())
    task_id = drive.start()
    drive.finish(task_id) if finished else drive(WorkerExited(task_id, Exit(exit_code=0)))
    drive(Tick())
    assert [Leave(status)] == drive.told(Leave)


def test_an_app_without_tasks_leaves_at_once_with_0() -> None:
    """Nothing to finish: the first turn is the last one, but the listeners are told first."""
    drive = Driver()
    drive(StopRequested(Reason.INTERRUPT), Tick())
    assert [] == drive.told(Leave)
    drive(Announced(), Tick())
    assert [Leave(EX_OK)] == drive.told(Leave)
    assert None is drive.core.next_deadline()


def test_registering_once_terminated_raises_and_changes_nothing() -> None:
    """No worker starts any more, and the program is told so instead of a task being forgotten."""
    drive = at(Phase.TERMINATED, stops=True)
    before = drive.core.tasks(), drive.core.last_report, drive.core.next_deadline()
    with pytest.raises(WrongPhaseError, match="task 'save' cannot be registered: the app has terminated"):
        drive(task())
    assert before == (drive.core.tasks(), drive.core.last_report, drive.core.next_deadline())


@pytest.mark.parametrize("signal", [StopRequested(Reason.TERMINATE), SuspendRequested()])
def test_what_is_registered_too_late_is_refused_and_not_forgotten(signal: Event) -> None:
    """Behind the end of the budget nothing starts: whoever asks is told, and whoever does not gets a REFUSED."""
    drive = Driver()
    drive(task("slow"))
    assert not drive.core.is_too_late(drive.now)
    drive(signal)
    assert not drive.core.is_too_late(drive.now)
    drive(Announced(), Tick())
    drive.start()
    assert not drive.core.is_too_late(drive.now)
    drive(Tick(), after_s=GRACE_S)
    assert drive.core.is_too_late(drive.now)
    drive(task(), Tick())
    assert [] == drive.core.next_starts(drive.now, 1)
    assert [("save", Outcome.REFUSED)] == drive.outcomes()


# ----------------------------------------------------------------------------------------------- suspending, resuming


def test_a_suspension_ends_with_the_process_stopped_and_a_resume_begins_again() -> None:
    """SIGTSTP, tasks, SIGSTOP to itself; SIGCONT; and the next time the same tasks run again, with a report each."""
    drive = Driver()
    drive(task("every", once=False), task("once"))
    for round_, ids in enumerate([["every", "once"], ["every"]], start=1):
        drive.background(SuspendRequested())
        for task_id in ids:
            assert task_id == drive.start()
            drive.finish(task_id)
        assert [] == drive.told(StopProcess)[round_ - 1 :]
        drive(Tick())
        assert Phase.SUSPENDED is drive.core.phase
        assert [StopProcess()] * round_ == drive.told(StopProcess)
        assert drive.core.last_report is not None
        assert ids == [each.id for each in drive.core.last_report.results]
        drive(Continued(), Announced(), Tick())
        assert Phase.ACTIVE is drive.core.state.phase
    assert [] == drive.told(Leave)


def test_a_resume_before_the_listeners_were_told_tells_them_nothing() -> None:
    """Whoever never heard of the background need not hear that it is over; nothing starts, nothing is reported."""
    drive = Driver()
    drive(task())
    drive(SuspendRequested(), Continued())
    assert drive.core.announcement is None
    drive(Tick())
    assert [] == drive.core.next_starts(drive.now, 1)
    assert None is drive.core.next_deadline()
    assert [] == drive.told(TellEnded)
    assert {"save": TaskState.REGISTERED} == drive.states()


def test_a_resume_is_told_to_listeners_who_know_of_an_earlier_suspension_only() -> None:
    """SIGCONT, SIGTSTP, SIGCONT while a critical block holds the news back: listeners still hear that it is over."""
    drive = Driver()
    drive.background(SuspendRequested())
    drive(Continued(), SuspendRequested(), Continued())
    announcement = drive.core.announcement
    assert announcement is not None
    assert (True, Reason.RESUME) == (announcement.is_active, announcement.reason)


def test_a_resume_during_the_grace_period_lets_tasks_go_on_and_does_not_stop_the_process() -> None:
    """SIGCONT while tasks run: back to work; they keep their deadlines, queued ones start, and one report is made."""
    drive = Driver(max_workers=1)
    drive(task("first", limit_s=10.0), task("second"))
    drive.background(SuspendRequested())
    drive.start()
    due = drive.core.next_deadline()
    drive(Continued(), Announced(), Tick(), after_s=0.2)
    assert Phase.ACTIVE is drive.core.phase
    assert due == drive.core.next_deadline()
    drive.finish("first")
    assert "second" == drive.start()
    drive.finish("second")
    drive(Tick())
    assert [] == drive.told(StopProcess)
    (ended,) = drive.told(TellEnded)
    assert isinstance(ended, TellEnded)
    assert ended.report == drive.core.last_report
    assert Reason.SUSPEND is ended.report.reason
    assert ["first", "second"] == [each.id for each in ended.report.results]
    assert None is drive.core.next_deadline()


def test_a_task_still_running_from_a_suspension_runs_again_at_the_next_backgrounding() -> None:
    """Its worker sees the program as it was back then: so it runs once more behind that run, and never beside it."""
    drive = Driver()
    drive(task(once=False))
    drive.background(SuspendRequested())
    drive.start()
    drive(Continued(), Announced(), Tick())
    drive.background(StopRequested(Reason.TERMINATE))
    assert [] == drive.core.next_starts(drive.now, 1)
    drive.finish("save")
    drive(Tick())
    assert [] == drive.told(Leave)
    assert "save" == drive.start()
    drive(PacketArrived("save", wire.Raised("OSError", "no", "Traceback")), WorkerExited("save", Exit(exit_code=1)))
    drive(Tick())
    assert [("save", Outcome.FINISHED), ("save", Outcome.FAILED)] == drive.outcomes()
    assert [Leave(EX_TEMPFAIL)] == drive.told(Leave)
    assert drive.core.last_report is not None
    assert [("save", Outcome.FAILED)] == [(each.id, each.outcome) for each in drive.core.last_report.results]


@pytest.mark.parametrize("undo", [Continued(), CancelRequested("save")])
def test_a_run_behind_another_is_dropped_when_its_backgrounding_is_over_or_it_is_cancelled(undo: Event) -> None:
    """The second run is owed to the second signal: a resume takes it back, and a cancelled task runs no more."""
    drive = Driver()
    drive(task(once=False))
    drive.background(SuspendRequested())
    drive.start()
    drive(Continued(), Announced(), Tick())
    drive.background(SuspendRequested())
    drive(undo, Announced(), Tick())
    drive.finish("save")
    assert [] == drive.core.next_starts(drive.now, 1)
    drive(Tick())
    assert not drive.core.live
    assert 1 == len(drive.told(TellEnded))


def test_a_suspension_that_is_never_told_loses_nothing_of_the_one_before() -> None:
    """SIGTSTP and SIGCONT at once, and meanwhile the last task of an earlier suspension ends: that one is reported."""
    drive = Driver()
    drive(task())
    drive.background(SuspendRequested())
    drive.start()
    drive(Continued(), Announced(), Tick())
    drive(SuspendRequested())
    drive.finish("save")
    drive(Continued(), Tick())
    assert drive.core.last_report is not None
    assert ["save"] == [each.id for each in drive.core.last_report.results]
    assert [] == drive.told(StopProcess)


def test_a_task_is_one_task_in_the_rows_and_the_status_however_often_it_runs() -> None:
    """While it runs for the second time its first run is neither listed nor counted beside it."""
    drive = Driver()
    drive(task(once=False))
    drive.background(SuspendRequested())
    drive.finish(drive.start())
    actions = drive(StopRequested(Reason.TERMINATE), Announced())
    drive.start()
    assert {"save": TaskState.RUNNING} == drive.states()
    assert 1 == len(drive.core.tasks())
    last = [each.text for each in actions if isinstance(each, Notify)][-1]
    assert "STATUS=backgrounded: 0 of 1 task finished, 30 s left" == last


def test_what_a_resumed_grace_period_has_settled_is_still_reported() -> None:
    """A new signal before the last task of a resumed suspension has ended loses none of its results."""
    drive = Driver()
    drive(task("fails"), task("slow"))
    drive.background(SuspendRequested())
    drive.start()
    drive(WorkerExited("fails", Exit(exit_code=1)))
    drive.start()
    drive(Continued(), Announced(), Tick())
    drive.background(StopRequested(Reason.TERMINATE))
    drive.finish("slow")
    drive(Tick())
    assert drive.core.last_report is not None
    assert ["fails", "slow"] == [each.id for each in drive.core.last_report.results]
    assert [Leave(EX_TEMPFAIL)] == drive.told(Leave)


def test_a_one_shot_runs_at_one_backgrounding_only() -> None:
    """Once it has run it is gone, and one registered while suspended waits for the next signal."""
    drive = at(Phase.SUSPENDED, stops=False)
    drive(task())
    assert TaskState.REGISTERED is drive.states()["save"]
    drive(Continued(), Announced(), Tick())
    assert [] == drive.core.next_starts(drive.now, 1)
    drive.background(SuspendRequested())
    assert {"slow", "save"} == {drive.start(), drive.start()}
    assert 0 == drive.core.registered_once


# ------------------------------------------------------------------------------------------------------------- starts


def test_no_worker_starts_before_the_listeners_have_returned() -> None:
    """A listener may register, or cancel, what then starts."""
    drive = Driver()
    drive(task("before"))
    drive(StopRequested(Reason.TERMINATE), task("in-listener"))
    assert [] == drive.core.next_starts(drive.now, 1)
    drive(CancelRequested("before"), Announced())
    assert "in-listener" == drive.start()
    assert [] == drive.core.next_starts(drive.now, 1)
    assert [] == drive.outcomes()


def test_no_more_workers_than_allowed_run_at_a_time() -> None:
    """A worker that has yet to leave counts; the next one starts when it is gone."""
    drive = Driver(max_workers=2)
    drive(task("a"), task("b"), task("c"))
    drive.background(StopRequested(Reason.TERMINATE))
    drive.start()
    drive.start()
    assert [] == drive.core.next_starts(drive.now, 1)
    drive(PacketArrived("a", wire.Finish()))
    assert [] == drive.core.next_starts(drive.now, 1)
    drive(WorkerExited("a", Exit(exit_code=0)))
    assert "c" == drive.start()


def test_a_shortage_is_tried_again_until_the_end_of_the_grace_period() -> None:
    """EAGAIN is no refusal while there is time: it is waited for without a busy loop, and then said so."""
    drive = Driver()
    drive(task())
    drive.background(StopRequested(Reason.TERMINATE))
    drive(StartFailed("save", "EAGAIN", shortage=True))
    assert [] == drive.core.next_starts(drive.now, 1)
    assert drive.now + RETRY_NS == drive.core.next_deadline()
    drive.now += RETRY_NS
    assert drive.core.next_starts(drive.now, 1)
    drive(Tick())
    deadline = drive.core.next_deadline()
    assert deadline is not None
    assert deadline > drive.now
    drive(Tick(), after_s=GRACE_S)
    assert [("save", Outcome.REFUSED)] == drive.outcomes()
    (settled,) = drive.told(TellSettled)
    assert isinstance(settled, TellSettled)
    assert "no worker could be started in time: EAGAIN" == settled.result.reason


def test_what_a_task_leaves_behind_is_tried_for_at_once() -> None:
    """When a worker ends while another task waits for a place, nobody waits for the clock."""
    drive = Driver()
    drive(task("runs"), task("waits"))
    drive.background(StopRequested(Reason.TERMINATE))
    drive.start()
    drive(StartFailed("waits", "EAGAIN", shortage=True))
    assert [] == drive.core.next_starts(drive.now, 1)
    drive.finish("runs")
    assert "waits" == drive.start()


def test_a_refusal_that_waiting_does_not_cure_settles_the_task_at_once() -> None:
    """EPERM today is EPERM tomorrow: REFUSED, with the reason."""
    drive = Driver()
    drive(task())
    drive.background(StopRequested(Reason.TERMINATE))
    (told,) = drive(StartFailed("save", "EPERM", shortage=False))
    assert isinstance(told, TellSettled)
    assert (Outcome.REFUSED, "no worker could be started: EPERM") == (told.result.outcome, told.result.reason)


# -------------------------------------------------------------------------------------------- finish, cancel, packets


def test_the_app_can_finish_what_runs_and_what_waits() -> None:
    """The app's own word settles a task as FINISHED; a running one is told that it may leave."""
    drive = Driver(max_workers=1)
    drive(task("runs"), task("waits"))
    drive.background(StopRequested(Reason.TERMINATE))
    drive.start()
    assert AcknowledgeFinish("runs") in drive(FinishRequested("runs"))
    drive(FinishRequested("waits"), WorkerExited("runs", Exit(signal=9)), Tick())
    assert [("waits", Outcome.FINISHED), ("runs", Outcome.FINISHED)] == drive.outcomes()
    assert [Leave(EX_OK)] == drive.told(Leave)


@pytest.mark.parametrize("word", [wire.Finish(), wire.Returned()])
def test_the_apps_finish_of_what_is_decided_warns_and_harms_nobody(word: wire.Packet) -> None:
    """A second finish is a no-op with a warning: the worker that is about to leave is not killed for it."""
    drive = Driver()
    drive(task())
    drive.background(StopRequested(Reason.TERMINATE))
    drive.start()
    drive(PacketArrived("save", word))
    (warning,) = drive(FinishRequested("save"))
    assert Warn("task 'save' is settled already: this finish() changes nothing") == warning
    drive(WorkerExited("save", Exit(exit_code=0)))
    (warning,) = drive(FinishRequested("save"))
    assert isinstance(warning, Warn)
    assert [] == drive.told(KillWorker)


def test_finish_and_cancel_of_what_is_not_there_raise() -> None:
    """An unknown id, and a task that has not started: each says what to do instead."""
    drive = Driver()
    drive(task())
    with pytest.raises(UnknownTaskError) as caught:
        drive(FinishRequested("nobody"))
    assert "nobody" == caught.value.task_id
    with pytest.raises(UnknownTaskError):
        drive(CancelRequested("nobody"))
    with pytest.raises(WrongPhaseError, match="task 'save' has not started"):
        drive(FinishRequested("save"))
    drive(CancelRequested("save"))
    assert {} == drive.states()


def test_what_comes_from_a_worker_that_is_not_there_raises_and_changes_nothing() -> None:
    """No event of a worker is possible for a task that waits for one, and no second start for one that runs."""
    drive = Driver()
    drive(task("waits"), task("runs"))
    drive.background(StopRequested(Reason.TERMINATE))
    drive.start()
    before = drive.core.tasks(), drive.core.next_deadline()
    impossible: list[Event] = [
        *(
            PacketArrived("runs", packet)
            for packet in (wire.Finish(), wire.ProgressMade(Progress(1.0)), wire.Note("?"))
        ),
        PacketArrived("runs", wire.Raised("E", "", "")),
        GarbageArrived("runs", "?"),
        WorkerExited("runs", Exit(exit_code=0)),
        WorkerStarted("waits", 4712),
        StartFailed("waits", "EAGAIN", shortage=True),
        StartFailed("waits", "EPERM", shortage=False),
    ]
    for event in impossible:
        with pytest.raises(IllegalInputError):
            drive(event)
    with pytest.raises(KeyError):
        drive(WorkerExited("nobody", Exit(exit_code=0)))
    assert before == (drive.core.tasks(), drive.core.next_deadline())


def test_nonsense_from_one_worker_harms_nobody_else() -> None:
    """A packet that does not parse kills its worker, CRASHED with a reason, and no other."""
    drive = Driver()
    drive(task("bad"), task("good"))
    drive.background(StopRequested(Reason.TERMINATE))
    drive.start()
    drive.start()
    assert KillWorker("bad") in drive(GarbageArrived("bad", "its worker sent nonsense"))
    drive(WorkerExited("bad", Exit(signal=9)))
    drive.finish("good")
    assert [("bad", Outcome.CRASHED), ("good", Outcome.FINISHED)] == drive.outcomes()


def test_a_finished_task_stays_finished_whatever_its_worker_does_then() -> None:
    """An exception, garbage, a crash, a kill behind the finish: FINISHED, and the log has the exception."""
    for then in (
        PacketArrived("save", wire.Raised("ValueError", "late", "Traceback")),
        GarbageArrived("save", "nonsense"),
        CancelRequested("save"),
        PacketArrived("save", wire.Returned()),
    ):
        drive = Driver()
        drive(task())
        drive.background(StopRequested(Reason.TERMINATE))
        drive.start()
        drive(PacketArrived("save", wire.Finish()))
        actions = drive(then)
        warnings = [each.text for each in actions if isinstance(each, Warn)]
        raised = isinstance(then, PacketArrived) and isinstance(then.packet, wire.Raised)
        assert raised == any("had finished, but then it raised ValueError: late" in text for text in warnings)
        drive(Tick(), after_s=KILL_AFTER_S)
        drive(WorkerExited("save", Exit(signal=11)), Tick())
        assert [("save", Outcome.FINISHED)] == drive.outcomes()
        assert [Leave(EX_OK)] == drive.told(Leave)


@pytest.mark.parametrize(
    ("end", "before", "outcome", "reason"),
    [
        (Exit(signal=9), None, Outcome.CRASHED, "killed by SIGKILL that capbg did not send"),
        (Exit(signal=11), None, Outcome.CRASHED, "died of signal 11"),
        (Exit(exit_code=3), None, Outcome.CRASHED, "left with exit code 3 without a word"),
        (Exit(), None, Outcome.CRASHED, "its exit status was taken by another wait in this process"),
        (Exit(signal=9, cpu_ns=6 * NS), None, Outcome.KILLED, "the kernel killed it at its CPU limit"),
        (Exit(signal=24, cpu_ns=6 * NS), None, Outcome.KILLED, "the kernel killed it at its CPU limit"),
        (Exit(signal=9, cpu_ns=NS), None, Outcome.CRASHED, "killed by SIGKILL that capbg did not send"),
        (Exit(exit_code=0), wire.ExpiryBegun(wire.Cause.CPU), Outcome.EXPIRED, "its CPU limit was reached; "),
        (Exit(exit_code=0), wire.Unarmed("EPERM"), Outcome.REFUSED, "a limit could not be set: EPERM"),
    ],
)
def test_how_a_worker_ended_is_told(end: Exit, before: wire.Packet | None, outcome: Outcome, reason: str) -> None:
    """The kernel's kill at a limit is told from an operator's, and the reason is for people."""
    drive = Driver()
    drive(Registration("save", "save", cpu_hard_ns=6 * NS))
    drive.background(StopRequested(Reason.TERMINATE))
    drive.start()
    if before is not None:
        drive(PacketArrived("save", before))
    drive(WorkerExited("save", end))
    (settled,) = drive.told(TellSettled)
    assert isinstance(settled, TellSettled)
    assert outcome is settled.result.outcome
    assert settled.result.reason.startswith(reason)
    assert (4711, end.signal, end.exit_code) == (settled.result.pid, settled.result.signal, settled.result.exit_code)


@pytest.mark.parametrize(
    ("limit_s", "why"), [(10.0, "its deadline of 10 s was over"), (None, "the grace period was over")]
)
def test_a_deadline_expires_then_kills_and_says_which_it_was(limit_s: float | None, why: str) -> None:
    """Soft expiry at the deadline, SIGKILL ``kill_after`` later; the worker's own timer counts the same."""
    drive = Driver()
    drive(task(limit_s=limit_s))
    drive.background(StopRequested(Reason.TERMINATE))
    drive.start()
    (run,) = [each for each in drive.core.tasks() if each.state is TaskState.RUNNING]
    assert ExpireWorker(run.id) in drive(Tick(), after_s=limit_s or GRACE_S)
    assert KillWorker(run.id) in drive(Tick(), after_s=KILL_AFTER_S)
    drive(WorkerExited(run.id, Exit(signal=9)), Tick())
    (settled,) = drive.told(TellSettled)
    assert isinstance(settled, TellSettled)
    assert Outcome.KILLED is settled.result.outcome
    assert f"{why}; it was killed at its hard expiry, 2 s later" == settled.result.reason


def test_the_kernel_may_be_first_at_the_hard_deadline() -> None:
    """A worker found dead by SIGKILL behind its hard deadline was killed by it, not by an operator."""
    drive = Driver()
    drive(task(limit_s=1.0))
    drive.background(StopRequested(Reason.TERMINATE))
    drive.start()
    drive(WorkerExited("save", Exit(signal=9)), after_s=1.0 + KILL_AFTER_S)
    (settled,) = drive.told(TellSettled)
    assert isinstance(settled, TellSettled)
    assert (Outcome.KILLED, "the kernel killed it at its hard deadline") == (
        settled.result.outcome,
        settled.result.reason,
    )


def test_a_death_on_the_way_to_the_hard_deadline_is_expired() -> None:
    """SIGKILL between the soft expiry and the hard one was not the deadline's."""
    drive = Driver()
    drive(task(limit_s=1.0))
    drive.background(StopRequested(Reason.TERMINATE))
    drive.start()
    drive(Tick(), after_s=1.0)
    drive(WorkerExited("save", Exit(signal=9)), after_s=0.5)
    assert [("save", Outcome.EXPIRED)] == drive.outcomes()


# ------------------------------------------------------------------------------------------------ what people are told


def test_the_status_tells_a_person_what_is_going_on() -> None:
    """How many of how many, how far each is, how long it may take: at every beat, and the title beside it."""
    drive = Driver()
    drive(task("upload"), task("save"), task("mail"))
    drive.background(StopRequested(Reason.TERMINATE))
    for _ in range(3):
        drive.start()
    drive.finish("save")
    drive(PacketArrived("upload", wire.ProgressMade(Progress(2.0, 5.0))))
    drive(PacketArrived("mail", wire.ProgressMade(Progress(7.0))))
    actions = drive(Tick(), after_s=BEAT_NS / NS)
    (notice,) = [each.text for each in actions if isinstance(each, Notify)]
    assert "STATUS=backgrounded: 1 of 3 tasks finished, upload 40 %, mail 7, 29 s left" == notice.splitlines()[-1]
    assert notice.startswith("EXTEND_TIMEOUT_USEC=10000000\n")


def test_a_suspension_never_says_stopping_and_never_extends() -> None:
    """From SIGTSTP to SIGCONT systemd hears of a status and of the watchdog, and of nothing that means a stop."""
    drive = Driver(watchdog_ns=4 * NS)
    drive(task())
    drive.background(SuspendRequested())
    first = next(each for each in drive.done if isinstance(each, Notify))
    assert first.text.startswith("WATCHDOG_USEC=0\n")
    drive.start()
    for _ in range(3):
        drive(Tick(), after_s=1.5)
    drive.finish("save")
    drive(Tick())
    drive(Continued(), Announced(), Tick())
    texts = [each.text for each in drive.done if isinstance(each, Notify)]
    assert not [text for text in texts if "STOPPING" in text or "EXTEND" in text]
    resumed = [text for text in texts if text.startswith("WATCHDOG_USEC=4000000\nWATCHDOG=1\n")]
    assert 1 == len(resumed)


def test_systemd_is_kept_waiting_while_the_listeners_are() -> None:
    """A critical block that holds the stop up, with nothing running yet: the beat goes on, for as long as it may."""
    drive = Driver()
    drive(StopRequested(Reason.TERMINATE), Tick())
    for second in range(1, 36):
        due = drive.core.next_deadline()
        assert due is not None
        assert due <= drive.now + BEAT_NS
        actions = drive(Tick(), after_s=1.0)
        texts = [each.text for each in actions if isinstance(each, Notify)]
        assert [second <= GRACE_S + KILL_AFTER_S - 1] == [text.startswith("EXTEND_TIMEOUT_USEC=") for text in texts]


def test_extensions_come_with_every_beat_while_a_task_is_inside_its_deadlines_and_then_no_more() -> None:
    """A worker that does not die of SIGKILL is waited for, but not at systemd's expense."""
    drive = Driver()
    drive(task(limit_s=3.0))
    drive.background(StopRequested(Reason.TERMINATE))
    drive.start()
    extended: list[bool] = []
    for _ in range(8):
        actions = drive(Tick(), after_s=1.0)
        texts = [each.text for each in actions if isinstance(each, Notify)]
        extended.append(any(text.startswith("EXTEND_TIMEOUT_USEC=") for text in texts))
    assert [True] * 4 + [False] * 4 == extended


def _nothing(_drive: Driver) -> None:
    pass


def _hold(drive: Driver) -> None:
    drive(StopRequested(Reason.TERMINATE))


@pytest.mark.parametrize("prepare", [_nothing, _hold], ids=["active", "not announced"])
def test_waiting_costs_nothing(prepare: Callable[[Driver], None]) -> None:
    """An app that waits, for a signal or for the end of a critical block, is woken by the beat alone."""
    drive = Driver()
    drive(task())
    prepare(drive)
    drive(Tick())
    due = drive.core.next_deadline()
    assert due is None or due >= drive.now + BEAT_NS - 2


def test_what_is_registered_can_be_given_back() -> None:
    """An app that is left without a signal keeps its tasks for its next life, each once."""
    drive = Driver()
    drive(task("a"), task("b", once=False))
    assert ["a", "b"] == list(drive.core.give_back())
    assert [TaskState.REGISTERED] * 2 == [row.state for row in Grace.listed(drive.core.give_back().values())]
    assert not drive.core.live


def test_a_critical_block_may_hold_backgrounding_back_until_the_budget_is_spent() -> None:
    """The instant is the signal's plus the whole grace period, however late it is asked for."""
    drive = Driver()
    drive(StopRequested(Reason.TERMINATE))
    ends = drive.now + round(GRACE_S * NS)
    assert ends == drive.core.hold_ends_ns
    drive(Tick(), after_s=5.0)
    assert ends == drive.core.hold_ends_ns
