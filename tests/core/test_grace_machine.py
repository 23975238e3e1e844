"""The phases and the runs under histories that nobody wrote down: a hypothesis state machine drives ``Grace``.

The machine around it is honest, and no more: workers say what they like when they like, leave or hang, and SIGKILL ends
them except where the kernel cannot. What must hold all the same stands where events are handed over and actions are
taken, and in the invariants.
"""

from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import Phase as Step
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from capbg._core import wire
from capbg._core.events import (
    AbandonWorker,
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
from capbg._core.grace import Grace
from capbg._core.notices import BEAT_NS
from capbg._core.task import GIVE_UP_NS, Exit
from capbg._core.words import NS, GraceReport, Outcome, Phase, Progress, Reason, TaskResult, TaskState
from capbg.errors import UnknownTaskError, WrongPhaseError

CPU_HARD_NS = 7 * NS


@dataclass
class FakeWorker:
    """A worker as the kernel would see it."""

    id: str
    pid: int
    hard_ns: int
    """When the kernel's own timer would end it."""
    mortal: bool
    facts: set[str] = field(default_factory=set)
    killed_ns: int | None = None


# What must have happened to a worker before its run may be told to have ended so. A run without a worker: see _settled.
EVIDENCE: dict[Outcome, set[str]] = {
    Outcome.FINISHED: {"acknowledged"},
    Outcome.UNFINISHED: {"returned"},
    Outcome.FAILED: {"raised"},
    Outcome.EXPIRED: {"expired"},
    Outcome.KILLED: {"killed", "kernel"},
    Outcome.CRASHED: {"garbage", "gone"},
    Outcome.CANCELLED: {"cancelled"},
    Outcome.REFUSED: {"unarmed"},
}

PACKETS = st.sampled_from(
    [
        wire.Finish(),
        wire.Returned(),
        wire.Raised("ValueError", "no", "Traceback"),
        wire.Unarmed("EPERM"),
        wire.ExpiryBegun(wire.Cause.DEADLINE),
        wire.ExpiryBegun(wire.Cause.CPU),
        wire.Note("by the way"),
        wire.ProgressMade(Progress(1.0, 2.0)),
        wire.ProgressMade(Progress(3.0)),
    ]
)
_WORDS = {wire.Returned: "returned", wire.Raised: "raised", wire.Unarmed: "unarmed", wire.ExpiryBegun: "expired"}

EXITS = st.one_of(
    st.builds(Exit, exit_code=st.sampled_from([0, 1, 70])),
    st.builds(Exit, signal=st.sampled_from([9, 11, 15, 24]), cpu_ns=st.sampled_from([None, 0, CPU_HARD_NS])),
    st.just(Exit()),
)
ANY = st.integers(0, 10_000)
DURATIONS = st.sampled_from([1, NS // 10, NS // 2, NS, NS + 1, 2 * NS, 5 * NS, 10 * NS, 40 * NS])


class GraceMachine(RuleBasedStateMachine):
    """Random histories, with an account of its own of what may be asked for and what must have been told."""

    @initialize(
        grace_ns=st.sampled_from([NS // 2, 3 * NS, 30 * NS]),
        kill_after_ns=st.sampled_from([0, NS // 2, 2 * NS]),
        max_workers=st.sampled_from([None, 1, 2]),
        watchdog_ns=st.sampled_from([None, 4 * NS]),
        tasks=st.lists(st.tuples(st.booleans(), st.none() | DURATIONS), min_size=1, max_size=4),
        first=st.sampled_from(["stop", "suspend", "suspend", "nothing"]),
    )
    def build(
        self,
        grace_ns: int,
        kill_after_ns: int,
        max_workers: int | None,
        watchdog_ns: int | None,
        tasks: list[tuple[bool, int | None]],
        first: str,
    ) -> None:
        self.now = 1_000 * NS
        self.kill_after_ns = kill_after_ns
        self.max_workers = max_workers
        self.core = Grace(
            grace_ns=grace_ns, kill_after_ns=kill_after_ns, max_workers=max_workers, watchdog_ns=watchdog_ns
        )
        self.ids: list[str] = []
        self.once: set[str] = set()
        self.workers: dict[str, FakeWorker] = {}
        self.gone: dict[int, FakeWorker] = {}
        self.app_finished: set[str] = set()
        self.cancelled: set[str] = set()
        self.told_active = True
        self.stop_came = False
        self.stop_ns = 0
        self.stopping_said = 0
        self.busy: Counter[str] = Counter()
        self.begun: Counter[str] = Counter()
        self.told: Counter[str] = Counter()
        self.told_pids: set[int] = set()
        self.unreported: dict[str, TaskResult] = {}
        self.listener_errors: list[str] = []
        self.left: list[int] = []
        self.pids = 100
        self._perform(self.core.enter())
        for once, limit_ns in tasks:
            self.register(once, limit_ns, cpu=False)
        if first != "nothing":
            self.background(stop=first == "stop", starts=3, mortal=True)

    # ------------------------------------------------------------------------------------------- what happens

    @rule(once=st.booleans(), limit_ns=st.none() | DURATIONS, cpu=st.booleans())
    def register(self, once: bool, limit_ns: int | None, cpu: bool) -> None:
        task_id = f"task-{len(self.ids)}"
        event = Registration(task_id, task_id, limit_ns, once, CPU_HARD_NS if cpu else None)
        if self.core.phase is Phase.TERMINATED:
            before = self.core.tasks(), self.core.next_deadline()
            with pytest.raises(WrongPhaseError):
                self.core.step(event, self.now)
            assert before == (self.core.tasks(), self.core.next_deadline())
            return
        self.ids.append(task_id)
        if once:
            self.once.add(task_id)
        self.step(event)

    @rule(reason=st.sampled_from([Reason.TERMINATE, Reason.INTERRUPT]))
    def stop(self, reason: Reason) -> None:
        first = not self.stop_came
        if first:
            self.stop_came, self.stop_ns = True, self.now
        actions = self.step(StopRequested(reason))
        if first:
            assert isinstance(actions[0], Notify)
            assert actions[0].text.startswith("STOPPING=1\n")
        elif self.now - self.stop_ns <= NS:
            assert not actions, "a duplicate"
        else:
            assert [] == self.core.next_starts(self.now, 1), "told to hurry"
            assert all(each.facts - {""} for each in self.workers.values())

    @rule()
    def suspend(self) -> None:
        self.step(SuspendRequested())

    @rule()
    def carry_on(self) -> None:
        self.step(Continued())

    @precondition(lambda self: self.core.announcement is not None)
    @rule(fails=st.sampled_from([False, False, False, True]))
    def listeners_return(self, fails: bool) -> None:
        assert self.core.announcement is not None
        errors = ("the listener raised",) if fails else ()
        self.told_active = self.core.announcement.is_active
        self.listener_errors += errors
        self.step(Announced(errors))

    @precondition(lambda self: self.core.next_starts(self.now, 1))
    @rule(how=st.sampled_from(["ok", "ok", "ok", "short", "refused"]), mortal=st.sampled_from([True, True, False]))
    def start(self, how: str, mortal: bool) -> None:
        [run] = self.core.next_starts(self.now, 1)
        if how != "ok":
            self.step(StartFailed(run.id, "EAGAIN", shortage=how == "short"))
            return
        soft_ns, hard_ns = run.deadlines_if_started(self.now)
        assert soft_ns + self.kill_after_ns == hard_ns
        self.pids += 1
        self.workers[run.id] = FakeWorker(run.id, self.pids, hard_ns, mortal)
        self.step(WorkerStarted(run.id, self.pids))

    @precondition(lambda self: self.workers)
    @rule(which=ANY, packet=PACKETS)
    def speak(self, which: int, packet: wire.Packet) -> None:
        self._speak(self._one(which), packet)

    def _speak(self, worker: FakeWorker, packet: wire.Packet) -> None:
        before = set(worker.facts)
        worker.facts.add(_WORDS.get(type(packet), ""))
        if before & {"returned", "raised", "unarmed"}:
            worker.facts.add("garbage")  # nothing comes behind the last word
        self.step(PacketArrived(worker.id, packet))
        if isinstance(packet, wire.Finish) and not before & {"returned", "raised", "unarmed", "garbage", "killed"}:
            assert "acknowledged" in worker.facts
        if worker.facts & set(_WORDS.values()):
            worker.hard_ns = min(worker.hard_ns, self.now + self.kill_after_ns)

    @precondition(lambda self: self.workers)
    @rule(which=ANY)
    def babble(self, which: int) -> None:
        worker = self._one(which)
        worker.facts.add("garbage")
        self.step(GarbageArrived(worker.id, "its worker sent garbage"))
        assert worker.killed_ns is not None

    @precondition(lambda self: self.workers)
    @rule(which=ANY, end=EXITS)
    def exit(self, which: int, end: Exit) -> None:
        self._exit(self._one(which), end)

    @precondition(lambda self: self.ids)
    @rule(which=ANY)
    def cancel(self, which: int) -> None:
        task_id = self._id(which)
        if task_id not in self._known():
            with pytest.raises(UnknownTaskError):
                self.core.step(CancelRequested(task_id), self.now)
            return
        self.cancelled.add(task_id)
        if task_id in self.workers:
            self.workers[task_id].facts.add("cancelled")
        self.step(CancelRequested(task_id))

    @precondition(lambda self: self.ids)
    @rule(which=ANY)
    def finish_by_app(self, which: int) -> None:
        task_id = self._id(which)
        if task_id not in self._known():
            with pytest.raises(UnknownTaskError):
                self.core.step(FinishRequested(task_id), self.now)
        elif self._known()[task_id] is TaskState.REGISTERED:
            with pytest.raises(WrongPhaseError):
                self.core.step(FinishRequested(task_id), self.now)
        else:
            worker = self.workers.get(task_id)
            killed = worker is not None and worker.killed_ns is not None
            self.app_finished.add(task_id)
            self.step(FinishRequested(task_id))
            # It may be too late, but the word of the app itself is never held against a worker.
            assert worker is None or killed == (worker.killed_ns is not None)

    @rule(duration_ns=DURATIONS)
    def time_passes(self, duration_ns: int) -> None:
        self.now += duration_ns

    @precondition(lambda self: self.core.next_deadline() is not None)
    @rule(late_ns=st.sampled_from([-1, 0, 0, 1]))
    def deadline_comes(self, late_ns: int) -> None:
        due = self.core.next_deadline()
        assert due is not None
        self.now = max(self.now, due + late_ns)

    @rule()
    def turn_ends(self) -> None:
        self._settle_turn()

    @rule(stop=st.booleans(), starts=st.integers(0, 3), mortal=st.sampled_from([True, True, False]))
    def background(self, stop: bool, starts: int, mortal: bool) -> None:
        """The usual way, in one step: a signal, the listeners, some workers, the end of the turn."""
        if stop:
            self.stop(Reason.TERMINATE)
        else:
            self.suspend()
        if self.core.announcement is not None:
            self.listeners_return(fails=False)
        for _ in range(starts):
            if self.core.next_starts(self.now, 1):
                self.start("ok", mortal)
        self._settle_turn()

    @precondition(lambda self: self.workers or self.core.next_starts(self.now, 1))
    @rule(
        which=ANY,
        mortal=st.sampled_from([True, True, False]),
        words=st.lists(PACKETS, min_size=1, max_size=3),
        then=st.none() | EXITS,
        late=st.booleans(),
    )
    def live(self, which: int, mortal: bool, words: list[wire.Packet], then: Exit | None, late: bool) -> None:
        """The usual life of a worker, in one step: a start, some words, and perhaps an end."""
        if self.core.next_starts(self.now, 1):
            self.start("ok", mortal)
        worker = self._one(which)
        if late:  # it is told to come to an end, and half of what it then has is over
            self.now = max(self.now, worker.hard_ns - self.kill_after_ns)
            self._settle_turn()
            self.now += self.kill_after_ns // 2
            if worker.pid in self.gone:
                return
        for packet in words:
            self._speak(worker, packet)
        if then is not None:
            self._exit(worker, then)
        elif late:
            self._outstay(worker)

    @precondition(lambda self: self.workers)
    @rule(which=ANY)
    def outstay(self, which: int) -> None:
        """A worker stays until its end has come, whatever it has said, and a while longer."""
        self._outstay(self._one(which))

    def _outstay(self, worker: FakeWorker) -> None:
        for until_ns in (worker.hard_ns - 1, worker.hard_ns):
            self.now = max(self.now, until_ns)
            self._settle_turn()
        assert worker.killed_ns is not None
        self.now = max(self.now, worker.killed_ns + GIVE_UP_NS)
        self._settle_turn()
        assert self.gone[worker.pid] is worker

    # --------------------------------------------------------------------------------------- what must hold always

    @invariant()
    def listeners_believe_what_is_true(self) -> None:
        if self.core.announcement is None:
            assert self.told_active == (self.core.phase is Phase.ACTIVE)

    @invariant()
    def a_stop_is_for_good(self) -> None:
        if self.stop_came:
            assert self.core.phase in {Phase.BACKGROUND, Phase.TERMINATED}
            assert self.core.reason.stops
        assert self.stop_came == (self.stopping_said == 1)
        assert (self.core.phase is Phase.TERMINATED) == (len(self.left) == 1)

    @invariant()
    def nothing_starts_unannounced_or_beyond_the_limit(self) -> None:
        if self.core.announcement is not None:
            assert [] == self.core.next_starts(self.now, 1)
        if self.max_workers is not None:
            assert len(self.workers) <= self.max_workers

    @invariant()
    def every_worker_has_its_run(self) -> None:
        assert set(self.workers) <= set(self.busy)
        assert bool(self.busy) <= self.core.live

    def teardown(self) -> None:
        """Whatever has happened: once the machine goes on honestly, the grace period ends."""
        for _ in range(300):
            self._settle_turn()
            if self.core.announcement is not None:
                self.listeners_return(fails=False)
                continue
            if self.core.next_starts(self.now, 1):
                self.start("ok", mortal=True)
                continue
            dying = [each for each in self.workers.values() if each.mortal and each.killed_ns is not None]
            for each in dying:
                self._exit(each, Exit(signal=9))
            if dying:
                continue
            due = self.core.next_deadline()
            if due is None:
                break
            self.now = due
        assert self.core.next_deadline() is None
        assert self.core.phase is not Phase.BACKGROUND
        assert not self.core.live
        assert not self.workers
        assert not self.unreported
        assert self.begun == self.told
        assert self.stop_came == bool(self.left)

    # ------------------------------------------------------------------------------------------------- bookkeeping

    def step(self, event: Event) -> list[Action]:
        """Hand an event over, perform what comes of it, and balance the books."""
        unheard = self.told_active and self.core.phase is Phase.BACKGROUND and self.core.announcement is not None
        phase = self.core.phase
        actions = self.core.step(event, self.now)
        told_before = self.told.copy()
        self._perform(actions)
        stops = sum(isinstance(action, StopProcess) for action in actions)
        if isinstance(event, Tick) and phase is not self.core.phase:
            assert stops == (self.core.phase is Phase.SUSPENDED)
        elif not isinstance(event, SuspendRequested):
            assert stops == 0
        live = Counter(
            row.id for row in self.core.tasks() if row.state not in {TaskState.REGISTERED, TaskState.SETTLED}
        )
        assert all(count == 1 for count in live.values())
        for task_id in {*live, *self.busy, *self.told}:
            begun = live[task_id] - self.busy[task_id] + self.told[task_id] - told_before[task_id]
            assert begun >= 0
            self.begun[task_id] += begun
            if task_id in self.once:
                assert self.begun[task_id] <= 1
            if unheard and not isinstance(event, Announced):
                assert begun == 0
            if phase is self.core.phase is not Phase.BACKGROUND or task_id in self.cancelled:
                assert begun == 0
        self.busy = live
        rows = [(row.id, row.state is TaskState.SETTLED) for row in self.core.tasks()]
        assert len(set(rows)) == len(rows)
        return actions

    def _perform(self, actions: list[Action]) -> None:
        for action in actions:
            assert not self.left or isinstance(action, Warn), "something was to be done after the leaving"
            match action:
                case Notify(text):
                    self.stopping_said += "STOPPING=1" in text
                case AcknowledgeFinish(task_id):
                    self.workers[task_id].facts.add("acknowledged")
                    self._must_leave(task_id)
                case ExpireWorker(task_id):
                    self.workers[task_id].facts.add("expired")
                    self._must_leave(task_id)
                case KillWorker(task_id):
                    worker = self.workers[task_id]
                    assert worker.killed_ns is None
                    assert worker.hard_ns <= self.now or "garbage" in worker.facts
                    worker.killed_ns = self.now
                    worker.facts.add("killed")
                case AbandonWorker(task_id):
                    worker = self.workers[task_id]
                    assert worker.killed_ns is not None
                    assert worker.killed_ns + GIVE_UP_NS <= self.now
                    self._gone(worker)
                case TellSettled(result):
                    self._settled(result)
                case TellEnded(report):
                    self._ended(report)
                case Leave(status):
                    last = self.core.last_report
                    assert last is not None
                    assert not self.workers
                    finished = all(result.outcome is Outcome.FINISHED for result in last.results)
                    assert (status == 0) == (finished and not last.listener_errors)
                    assert status in {0, 75}
                    self.left.append(status)
                case StopProcess():
                    assert not self.workers

    def _settled(self, result: TaskResult) -> None:
        self.told[result.id] += 1
        self.unreported.pop(result.id, None)
        self.unreported[result.id] = result
        if result.pid is None:
            assert result.id not in self.workers
            assert result.outcome in {Outcome.REFUSED, Outcome.CANCELLED, Outcome.FINISHED}
            assert result.outcome is not Outcome.CANCELLED or result.id in self.cancelled
            assert result.outcome is not Outcome.FINISHED or result.id in self.app_finished
            return
        worker = self.gone[result.pid]
        assert worker.id == result.id
        assert result.pid not in self.told_pids, "one run was told twice"
        self.told_pids.add(result.pid)
        assert EVIDENCE[result.outcome] & worker.facts
        assert (result.outcome is Outcome.FINISHED) == ("acknowledged" in worker.facts)

    def _ended(self, report: GraceReport) -> None:
        assert [(each.id, each.pid, each.outcome) for each in report.results] == [
            (each.id, each.pid, each.outcome) for each in self.unreported.values()
        ]
        assert not self.busy or all(self.told[task_id] for task_id in self.busy)
        self.unreported.clear()

    def _settle_turn(self) -> None:
        """The end of a turn: the clock is looked at until there is nothing left to do."""
        for _ in range(20):
            if not self.step(Tick()):
                break
        else:
            raise AssertionError("Tick never comes to an end")
        due = self.core.next_deadline()
        assert due is None or due > self.now, "a busy loop"
        if self.core.phase is Phase.BACKGROUND:
            assert due is not None
            assert due <= self.now + BEAT_NS, "nobody hears of it for a while"
        for each in self.workers.values():
            assert each.killed_ns is not None or each.hard_ns > self.now, "it outlives its hard deadline"
            assert each.killed_ns is None or each.killed_ns + GIVE_UP_NS > self.now, "it is waited for for ever"

    def _must_leave(self, task_id: str) -> None:
        worker = self.workers[task_id]
        worker.hard_ns = min(worker.hard_ns, self.now + self.kill_after_ns)

    def _exit(self, worker: FakeWorker, end: Exit) -> None:
        if end.signal in {9, 24}:
            worker.facts.add("kernel")
        self._gone(worker)
        self.step(WorkerExited(worker.id, end))
        assert worker.pid in self.told_pids

    def _gone(self, worker: FakeWorker) -> None:
        worker.facts.add("gone")
        del self.workers[worker.id]
        self.gone[worker.pid] = worker

    def _one(self, which: int) -> FakeWorker:
        workers = list(self.workers.values())
        return workers[which % len(workers)]

    def _id(self, which: int) -> str:
        return self.ids[which % len(self.ids)]

    def _known(self) -> dict[str, TaskState]:
        # A task for every backgrounding has a row for its last run and one for the next: the run comes first.
        return {row.id: row.state for row in reversed(self.core.tasks())}


@pytest.mark.timeout(600)  # only a failure takes long: a history is shortened before it is shown
def test_no_history_breaks_a_promise() -> None:
    """Every task has one outcome, nothing outlives its hard deadline, and every grace period ends."""
    run_state_machine_as_test(
        GraceMachine,
        settings=settings(
            max_examples=300,
            stateful_step_count=50,
            deadline=None,
            database=None,
            report_multiple_bugs=False,
            phases=[Step.generate, Step.shrink],
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
        ),
    )
