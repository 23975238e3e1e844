"""The app's phases over all tasks: what happened goes in, what to do comes out.

Rules
=====

* :meth:`Grace.step` takes one event and the instant, and returns actions in the order in which to perform them. An
  event that cannot happen raises and changes nothing.
* SIGTERM wins, from any phase and for good: no event leads from BACKGROUND-because-of-a-stop to anything but
  TERMINATED.
* Workers start only once the listeners have been told (``announcement`` is None again): a listener may register more.
* A run of an earlier grace period that is still going (the app was resumed meanwhile) belongs to the next one, too. A
  task registered for every backgrounding runs again behind it, since its worker sees the app as it was back then.
* The end of a grace period is looked for in :class:`Tick` alone, the last event of every turn: whatever was registered
  by a listener in that turn is in by then.

Theory
======

There are two tables. :data:`PHASES` is the app's: (phase, signal) -> phase. The other is ``task.TABLE``, one instance
of it for each run. They are coupled in one direction: a phase creates runs (``_begin``) and hurries them; when no run
is left, :meth:`Grace._end` leaves the phase.

This file must not know of descriptors, pids' meaning, or systemd's field names.
"""

from collections.abc import Iterable
from enum import Enum

from capbg._core import wire
from capbg._core.budget import nanoseconds
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
    Retitle,
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
from capbg._core.notices import BEAT_NS, Notices
from capbg._core.task import Action as RunAction
from capbg._core.task import Exit, IllegalInputError, Input, Run, State
from capbg._core.teller import Teller
from capbg._core.words import NS, AppState, GraceReport, Outcome, Phase, Reason, TaskInfo, TaskState
from capbg.errors import UnknownTaskError, WrongPhaseError

EX_OK, EX_TEMPFAIL = 0, 75
"""Exit statuses (sysexits.h): every task finished, or something is left to be done another time."""

DUPLICATE_NS = NS
"""A second stop signal this soon is a duplicate: a terminal and a supervisor often both send one."""

RETRY_NS = NS // 10
"""How long to wait before starting a worker is tried again, when the machine is short and nothing is running."""


class Signal(Enum):
    """What a signal means to the app."""

    STOP = "SIGTERM, SIGINT"
    SUSPEND = "SIGTSTP"
    CONTINUE = "SIGCONT"


class Move(Enum):
    """What a signal does to the phase."""

    STAY = "nothing"
    BEGIN = "a grace period begins"
    TURN = "the grace period of a suspension becomes one of a stop"
    RESUME = "back to work"
    AGAIN = "within a second: nothing; later: every task expires now"


PHASES: dict[tuple[Phase, bool, Signal], tuple[Phase, Move]] = {
    # (phase, because of a stop?, signal)
    (Phase.ACTIVE, False, Signal.STOP): (Phase.BACKGROUND, Move.BEGIN),
    (Phase.ACTIVE, False, Signal.SUSPEND): (Phase.BACKGROUND, Move.BEGIN),
    (Phase.ACTIVE, False, Signal.CONTINUE): (Phase.ACTIVE, Move.STAY),
    (Phase.BACKGROUND, False, Signal.STOP): (Phase.BACKGROUND, Move.TURN),
    (Phase.BACKGROUND, False, Signal.SUSPEND): (Phase.BACKGROUND, Move.STAY),
    (Phase.BACKGROUND, False, Signal.CONTINUE): (Phase.ACTIVE, Move.RESUME),
    (Phase.BACKGROUND, True, Signal.STOP): (Phase.BACKGROUND, Move.AGAIN),
    (Phase.BACKGROUND, True, Signal.SUSPEND): (Phase.BACKGROUND, Move.STAY),
    (Phase.BACKGROUND, True, Signal.CONTINUE): (Phase.BACKGROUND, Move.STAY),
    (Phase.SUSPENDED, False, Signal.STOP): (Phase.BACKGROUND, Move.BEGIN),
    (Phase.SUSPENDED, False, Signal.SUSPEND): (Phase.SUSPENDED, Move.STAY),
    (Phase.SUSPENDED, False, Signal.CONTINUE): (Phase.ACTIVE, Move.RESUME),
    (Phase.TERMINATED, True, Signal.STOP): (Phase.TERMINATED, Move.STAY),
    (Phase.TERMINATED, True, Signal.SUSPEND): (Phase.TERMINATED, Move.STAY),
    (Phase.TERMINATED, True, Signal.CONTINUE): (Phase.TERMINATED, Move.STAY),
}
"""Total over what can be: an app is ACTIVE or SUSPENDED never because of a stop, TERMINATED always."""

_INPUTS: dict[type, Input] = {
    wire.Finish: Input.FINISH,
    wire.Returned: Input.RETURNED,
    wire.Raised: Input.RAISED,
    wire.Unarmed: Input.UNARMED,
    wire.ExpiryBegun: Input.EXPIRY_BEGUN,
}

_RUN_ACTIONS: dict[RunAction, type[AcknowledgeFinish | ExpireWorker | KillWorker | AbandonWorker]] = {
    RunAction.ACKNOWLEDGE: AcknowledgeFinish,
    RunAction.EXPIRE: ExpireWorker,
    RunAction.KILL: KillWorker,
    RunAction.ABANDON: AbandonWorker,
}


class Grace:
    """The app's phases and its tasks. ``grace_ns`` and ``kill_after_ns`` are durations."""

    def __init__(
        self,
        *,
        grace_ns: int,
        kill_after_ns: int,
        max_workers: int | None,
        watchdog_ns: int | None = None,
        tell_tasks: bool = False,
    ) -> None:
        self.phase = Phase.ACTIVE
        self.reason = Reason.START
        self.announcement: AppState | None = None
        """What the listeners have yet to be told. Whoever tells them reports back with :class:`Announced`."""
        self._told_active = True
        """What the listeners were last told."""
        self.last_report: GraceReport | None = None
        self.notices = Notices(watchdog_ns)
        self._teller = Teller() if tell_tasks else None
        self._grace_ns = grace_ns
        self._kill_after_ns = kill_after_ns
        self._max_workers = max_workers
        self._registered: dict[str, Registration] = {}
        self._runs: dict[str, Run] = {}
        """Live runs by task id. Each is in one of the next two as well: there may be thousands that wait."""
        self._queued: dict[str, Run] = {}
        """What waits for a worker. All of these are due at the same instant, the end of the grace period."""
        self._alive: dict[str, Run] = {}
        """What has one."""
        self._again: dict[str, Registration] = {}
        """What has to run once more behind a run of an earlier grace period."""
        self._settled: dict[str, Run] = {}
        """Settled runs of this grace period (or, while active, of the last one)."""
        self._listener_errors: list[str] = []
        self._began_ns = 0
        self._stop_ns = 0
        """When the first stop signal came, for the second one's meaning."""
        self._open = False
        """A grace period is on, its report not yet made; it may outlast the phase (SIGCONT while tasks run)."""
        self._retry_ns = 0
        self._beat_ns = 0
        self._shown: tuple[str, str] = ("", "")
        self._hurried = False
        """Whether a second stop signal came: nothing starts any more."""

    # ------------------------------------------------------------------------------------------------ questions

    @property
    def state(self) -> AppState:
        """What listeners are told."""
        return AppState(self.phase is Phase.ACTIVE, self.reason, self.phase)

    @property
    def live(self) -> bool:
        """Whether a run is not settled yet."""
        return bool(self._runs or self._again)

    @property
    def registered_once(self) -> int:
        """How many one-shot tasks wait for a backgrounding."""
        return sum(registration.once for registration in self._registered.values())

    def give_back(self) -> "dict[str, Registration]":
        """What is registered, for another life of the app."""
        return dict(self._registered)

    @staticmethod
    def listed(registrations: "Iterable[Registration]") -> tuple[TaskInfo, ...]:
        """Registrations as rows of :meth:`tasks`."""
        return tuple(TaskInfo(each.id, each.name, TaskState.REGISTERED) for each in registrations)

    def tasks(self) -> tuple[TaskInfo, ...]:
        """What is registered, running and settled, as values."""
        rows = [
            TaskInfo(r.id, r.name, r.public_state, r.progress, r.result(self._began_ns)) for r in self._settled.values()
        ]
        rows += [TaskInfo(r.id, r.name, r.public_state, r.progress) for r in self._runs.values()]
        busy = {row.id for row in rows if row.state is not TaskState.SETTLED}
        rows += [TaskInfo(r.id, r.name, TaskState.REGISTERED) for r in self._registered.values() if r.id not in busy]
        return tuple(rows)

    def next_starts(self, now: int, most: int) -> list[Run]:
        """The runs whose workers should be started now, at most that many."""
        if self.announcement is not None or now < self._retry_ns:
            return []
        if self._max_workers is not None:
            most = min(most, self._max_workers - len(self._alive))
        queued = (run for run in self._queued.values() if now < run.last_start_ns)
        return [run for run, _ in zip(queued, range(most), strict=False)]

    def _first_queued(self) -> Run | None:
        return next(iter(self._queued.values()), None)

    def is_too_late(self, now: int) -> bool:
        """Whether a task registered now could only be refused: the budget is spent, or a second signal said hurry."""
        spent = self._hurried or now >= self._began_ns + self._grace_ns
        return self.phase is Phase.BACKGROUND and self.announcement is None and spent

    @property
    def hold_ends_ns(self) -> int:
        """Until when a critical block may keep backgrounding back: a grace period always ends."""
        return self._began_ns + self._grace_ns

    def next_deadline(self) -> int | None:
        """The earliest instant at which :class:`Tick` has something to do."""
        instants = [run.due_ns for run in self._alive.values()]
        if self._open:
            instants.append(self._beat_ns)
            if self._teller is not None:
                instants.append(self._teller.due_ns)
        first = self._first_queued()
        if first is not None:
            instants.append(first.due_ns)
            if self._retry_ns:
                instants.append(self._retry_ns)
        return min(instants, default=None)

    # ----------------------------------------------------------------------------------------------------- steps

    def enter(self) -> list[Action]:
        """The program is up."""
        self._shown = ("active", "")
        return [Notify(self.notices.ready("active")), Retitle("active")]

    def step(self, event: Event, now: int) -> list[Action]:  # noqa: PLR0911, PLR0912 - one arm an event
        """Take one event; return what to do, in order."""
        match event:
            # First what a worker waits for: each arm before it is looked at, cold, after every fork.
            case PacketArrived(task_id, packet):
                return self._packet(self._working(task_id), packet, now)
            case WorkerExited(task_id, end):
                return self._exited(self._working(task_id), end, now)
            case Tick():
                return self._tick(now)
            case StopRequested(reason):
                return self._signal(Signal.STOP, reason, now)
            case SuspendRequested():
                return self._signal(Signal.SUSPEND, Reason.SUSPEND, now)
            case Continued():
                return self._signal(Signal.CONTINUE, Reason.RESUME, now)
            case Announced(errors):
                return self._announced(errors, now)
            case Registration():
                return self._register(event, now)
            case CancelRequested(task_id):
                return self._cancel(task_id, now)
            case FinishRequested(task_id):
                return self._finish(task_id, now)
            case WorkerStarted(task_id, pid):
                run = self._run(task_id)
                actions = self._input(run, Input.STARTED, now)
                run.pid = pid
                self._retry_ns = 0
                return actions
            case StartFailed(task_id, why, shortage):
                return self._start_failed(self._run(task_id), why, shortage=shortage, now=now)
            case GarbageArrived(task_id, why):
                return self._input(self._working(task_id), Input.GARBAGE, now, why)

    def _signal(self, signal: Signal, reason: Reason, now: int) -> list[Action]:
        self.phase, move = PHASES[self.phase, self.reason.stops, signal]
        match move:
            case Move.STAY:
                return []
            case Move.AGAIN:
                return self._hurry(now) if now - self._stop_ns > DUPLICATE_NS else []
            case Move.RESUME:
                self.reason = reason
                self._again.clear()  # the next backgrounding runs them all
                self._announce()
                self._shown = ("", self._status(now))
                return [Notify(self.notices.resumed(now=now, status=self._shown[1])), *self._show(now)]
        self.reason = reason
        self._announce()
        if reason.stops:
            self._stop_ns = now
        if move is Move.BEGIN and not self._open:  # what an unfinished one has settled is still to be reported
            self._settled = {}
            self._listener_errors = []
            self._hurried = False
        self._open = True
        self._began_ns = now
        self._beat_ns = now + BEAT_NS
        for run in self._queued.values():
            run.last_start_ns = run.due_ns = now + self._grace_ns
        status = self._status(now)
        first = (
            self.notices.stopping(now=now, end_ns=self._end_ns(), status=status)
            if reason.stops
            else self.notices.suspending(status)
        )
        self._shown = ("", status)
        return [Notify(first), *self._show(now)]

    def _announce(self) -> None:
        state = self.state
        # The app never heard that it was in the background: that it is back is no news either.
        self.announcement = None if state.is_active and self._told_active else state
        if self.announcement is None and not self._runs and not self._settled:
            self._open = False

    def _announced(self, errors: Iterable[str], now: int) -> list[Action]:
        told, self.announcement = self.announcement, None
        self._listener_errors += errors
        if told is None:
            return []
        self._told_active = told.is_active
        if told.is_active:
            return []
        actions: list[Action] = []
        for registration in list(self._registered.values()):
            actions += self._due(registration, now)
        return actions + self._show(now)

    def _register(self, registration: Registration, now: int) -> list[Action]:
        if self.phase is Phase.TERMINATED:
            raise WrongPhaseError(
                f"task {registration.name!r} cannot be registered: the app has terminated, no worker starts any more"
            )
        self._registered[registration.id] = registration
        if self.phase is Phase.BACKGROUND and self.announcement is None:
            return self._due(registration, now)
        return []

    def _due(self, registration: Registration, now: int) -> list[Action]:
        if registration.once:
            del self._registered[registration.id]
        run = self._runs.get(registration.id)
        if run is None:
            return self._enqueue(registration, now)
        if run.queued_ns < self._began_ns and run.alive:
            self._again[registration.id] = registration
        return []

    def _enqueue(self, registration: Registration, now: int) -> list[Action]:
        self._settled.pop(registration.id, None)  # a task that runs twice (see _again) is told by its last run
        run = self._runs[registration.id] = self._queued[registration.id] = Run(
            id=registration.id,
            name=registration.name,
            queued_ns=self._began_ns,
            last_start_ns=self._began_ns + self._grace_ns,
            limit_ns=registration.limit_ns,
            kill_after_ns=self._kill_after_ns,
            cpu_hard_ns=registration.cpu_hard_ns,
        )
        return self._input(run, Input.HURRY, now) if self._hurried else []

    def _cancel(self, task_id: str, now: int) -> list[Action]:
        self._known(task_id)
        self._registered.pop(task_id, None)
        self._again.pop(task_id, None)
        run = self._runs.get(task_id)
        return [] if run is None else self._input(run, Input.CANCEL, now, "cancelled by the program")

    def _finish(self, task_id: str, now: int) -> list[Action]:
        self._known(task_id)
        run = self._runs.get(task_id)
        if run is not None and run.outcome is None:
            return self._input(run, Input.FINISH, now, "finished by the app")
        if run is not None or task_id in self._settled:
            return [Warn(f"task {task_id!r} is settled already: this finish() changes nothing")]
        raise WrongPhaseError(f"task {task_id!r} has not started: cancel() unregisters it, finish() is for its worker")

    def _known(self, task_id: str) -> None:
        if not any(task_id in where for where in (self._registered, self._runs, self._settled)):
            raise UnknownTaskError(f"no task has the id {task_id!r}: tasks() lists those there are", task_id=task_id)

    def _hurry(self, now: int) -> list[Action]:
        self._hurried = True
        actions: list[Action] = []
        for run in list(self._runs.values()):
            actions += self._input(run, Input.HURRY, now, "told to hurry by a second stop signal")
        return actions

    def _start_failed(self, run: Run, why: str, *, shortage: bool, now: int) -> list[Action]:
        if not shortage:
            return self._input(run, Input.REFUSED, now, f"no worker could be started: {why}")
        if run.state is not State.QUEUED:
            raise IllegalInputError(f"task {run.id!r} does not wait for a worker")
        run.waited_for = why
        self._retry_ns = now + RETRY_NS
        return []

    def _packet(self, run: Run, packet: wire.Packet, now: int) -> list[Action]:
        match packet:
            case wire.Finish():
                why = "its finish was acknowledged"
            case wire.ProgressMade(progress):
                run.progress = progress
                return []
            case wire.Note(text):
                return [Warn(f"task {run.id!r}: {text}")]
            case wire.Raised(kind, message, traceback):
                why = f"it raised {kind}: {message}" if message else f"it raised {kind}"
                if run.state is State.ACKNOWLEDGED:
                    return [Warn(f"task {run.id!r} had finished, but then {why}\n{traceback}")]
                run.error = (kind, message, traceback)
            case wire.Unarmed(reason):
                why = f"a limit could not be set: {reason}"
            case wire.ExpiryBegun(cause):
                why = self._deadline_text(run) if cause is wire.Cause.DEADLINE else "its CPU limit was reached"
            case wire.Returned():
                why = ""
        return self._input(run, _INPUTS[type(packet)], now, why)

    def _exited(self, run: Run, end: Exit, now: int) -> list[Action]:
        run.exit = end
        what, why = _cause_of_death(run, now)
        return self._input(run, what, now, why)

    def _run(self, task_id: str) -> Run:
        return self._runs[task_id]

    def _working(self, task_id: str) -> Run:
        run = self._runs[task_id]
        if not run.alive:
            raise IllegalInputError(f"task {task_id!r} has no worker that something could come from")
        return run

    def _deadline_text(self, run: Run) -> str:
        if run.limit_ns is not None and run.soft_ns < run.last_start_ns:
            return f"its deadline of {run.limit_ns / NS:g} s was over"
        return "the grace period was over"

    def _input(self, run: Run, what: Input, now: int, why: str = "") -> list[Action]:
        if what is Input.DUE and run.state is State.RUNNING:
            why = self._deadline_text(run)
        elif what is Input.DUE and run.state is State.EXPIRING:
            why = f"it was killed at its hard expiry, {run.kill_after_ns / NS:g} s later"
        todo = run.step(what, now, why=why)
        if run.state is not State.QUEUED and self._queued.pop(run.id, None) is not None:
            self._alive[run.id] = run
        actions: list[Action] = [_RUN_ACTIONS[each](run.id) for each in todo]
        if run.state is State.SETTLED:
            actions += self._settle(run, now)
        return actions

    def _settle(self, run: Run, now: int) -> list[Action]:
        del self._runs[run.id], self._alive[run.id]
        self._settled[run.id] = run
        self._retry_ns = 0  # what it held is free for the next one
        again = self._again.pop(run.id, None)
        return [TellSettled(run.result(self._began_ns)), *([] if again is None else self._enqueue(again, now))]

    def _tick(self, now: int) -> list[Action]:
        actions: list[Action] = []
        if self._retry_ns <= now:
            self._retry_ns = 0
        due = [run for run in self._alive.values() if run.due_ns <= now]
        first = self._first_queued()
        if first is not None and first.due_ns <= now:
            due += self._queued.values()
        for run in due:
            actions += self._input(run, Input.DUE, now)
        if self._open and self.announcement is None and not self.live and not actions:
            return self._end(now)
        if self._open and now >= self._beat_ns:
            self._beat_ns = now + BEAT_NS
            actions += self._show(now, beat=True)
        if self._open and self._teller is not None and now >= self._teller.due_ns:
            actions += map(Notify, self._teller.tell((*self._settled.values(), *self._runs.values()), now))
        return actions

    def _end(self, now: int) -> list[Action]:
        last_words = [] if self._teller is None else map(Notify, self._teller.tell_all(self._settled.values(), now))
        return [*last_words, *self._report(now)]

    def _report(self, now: int) -> list[Action]:
        self._open = False
        # An app that was resumed while tasks ran reports on the suspension they belonged to.
        reason = Reason.SUSPEND if self.phase is Phase.ACTIVE else self.reason
        report = GraceReport(
            reason,
            (now - self._began_ns) / NS,
            tuple(run.result(self._began_ns) for run in self._settled.values()),
            tuple(self._listener_errors),
        )
        self.last_report = report
        if self.phase is Phase.ACTIVE:
            return [*self._show(now), TellEnded(report)]
        status = self._status(now)
        if self.reason.stops:
            self.phase = Phase.TERMINATED
            leave = Leave(EX_OK if report.all_finished else EX_TEMPFAIL)
            return [Notify(self.notices.stopped(status)), Retitle("terminated"), TellEnded(report), leave]
        self.phase = Phase.SUSPENDED
        status = status.replace("backgrounded", "suspended", 1)
        return [Notify(self.notices.status(status)), Retitle("suspended"), TellEnded(report), StopProcess()]

    # ---------------------------------------------------------------------------------------------- what people see

    def _end_ns(self) -> int:
        """The last hard expiry possible."""
        ends = [self._began_ns + self._grace_ns + self._kill_after_ns] if self.announcement is not None else []
        for run in self._runs.values():
            ends.append(run.due_ns if run.hard_ns is None else run.hard_ns)
            if run.hard_ns is None:
                ends[-1] += run.kill_after_ns
        return max(ends, default=self._began_ns)

    def _left_s(self, now: int) -> int:
        """Seconds until the last task's soft expiry, rounded up."""
        ends = [run.soft_ns for run in self._runs.values()]
        if self.announcement is not None or not ends:
            ends.append(self._began_ns + self._grace_ns)
        return max(0, -(-(max(ends) - now) // NS))

    def _counts(self) -> tuple[int, int]:
        finished = sum(run.outcome is Outcome.FINISHED for run in (*self._settled.values(), *self._runs.values()))
        total = len(self._settled) + len(self._runs)
        if self.announcement is not None:  # what is registered is about to be due
            total += sum(task_id not in self._runs and task_id not in self._settled for task_id in self._registered)
        return finished, total

    def _status(self, now: int) -> str:
        if not self._open and self.phase is Phase.ACTIVE:
            return "active"
        finished, total = self._counts()
        head = "backgrounded" if self.phase is not Phase.ACTIVE else "active again"
        parts = [f"{finished} of {total} tasks finished" if total != 1 else f"{finished} of 1 task finished"]
        going = [run for run in self._runs.values() if run.progress is not None and run.alive]
        for run in going[:3]:
            assert run.progress is not None
            parts.append(f"{run.name} {_progress_text(run.progress.percent, run.progress.done)}")
        if self._runs or self.announcement is not None:
            parts.append(f"{self._left_s(now)} s left")
        return f"{head}: {', '.join(parts)}"

    def _title(self, now: int) -> str:
        if not self._open and self.phase is Phase.ACTIVE:
            return "active"
        finished, total = self._counts()
        word = "active" if self.phase is Phase.ACTIVE else "background"
        return f"{word} {finished}/{total}, {self._left_s(now)} s left"

    def _show(self, now: int, *, beat: bool = False) -> list[Action]:
        status, title = self._status(now), self._title(now)
        actions: list[Action] = []
        if beat and self.reason.stops:
            actions.append(Notify(self.notices.extending(now=now, end_ns=self._end_ns(), status=status)))
        elif status != self._shown[1]:
            actions.append(Notify(self.notices.status(status)))
        if title != self._shown[0]:
            actions.append(Retitle(title))
        self._shown = (title, status)
        return actions


def _progress_text(percent: float | None, done: float) -> str:
    return f"{done:g}" if percent is None else f"{percent:.0f} %"


def _cause_of_death(run: Run, now: int) -> tuple[Input, str]:
    """Tell a kernel's kill at the deadline or limit from any other death."""
    end = run.exit
    killed = end.signal in {9, 24}  # SIGKILL, SIGXCPU on every Linux architecture
    overdue = run.hard_ns is not None and now >= run.hard_ns
    spent_ns, guess = end.cpu_ns, ""
    if spent_ns is None and run.started_ns is not None and not overdue:
        spent_ns, guess = now - run.started_ns, " as far as can be told: a fork server tells no CPU time"
    # The kernel limits what it counts by ticks, and tells what it has measured: they differ where others hold the CPU.
    if killed and run.cpu_hard_ns is not None and spent_ns is not None and spent_ns >= run.cpu_hard_ns * 3 // 4:
        return Input.EXIT_BY_LIMIT, f"the kernel killed it at its CPU limit{guess}"
    if end.signal == 9 and overdue:
        return Input.EXIT_BY_LIMIT, "the kernel killed it at its hard deadline"
    if end.signal == 9:
        return Input.EXIT, "killed by SIGKILL that capbg did not send (out of memory, or an operator?)"
    if end.signal is not None:
        return Input.EXIT, f"died of signal {end.signal}"
    if end.exit_code is None:
        return Input.EXIT, "its exit status was taken by another wait in this process"
    return Input.EXIT, f"left with exit code {end.exit_code} without a word"


def make_grace(
    *, grace_s: float, kill_after_s: float, max_workers: int | None, watchdog_ns: int | None, tell_tasks: bool = False
) -> Grace:
    """A :class:`Grace` from seconds."""
    return Grace(
        grace_ns=nanoseconds(grace_s),
        kill_after_ns=nanoseconds(kill_after_s),
        max_workers=max_workers,
        watchdog_ns=watchdog_ns,
        tell_tasks=tell_tasks,
    )
