"""One run of one task: a total table (state, input) -> (state, actions).

Rules
=====

* Everything that decides a run's state and outcome is in :data:`TABLE`; :meth:`Run.step` only looks it up and keeps
  the numbers. An input that the table calls illegal raises :class:`IllegalInputError` and changes nothing.
* A run has exactly one outcome, and it is decided once: :meth:`Run.step` never overwrites it.
* ``due_ns`` is the one instant at which the run wants :attr:`Input.DUE`; what that means depends on the state: the end
  of waiting (QUEUED), the soft expiry (RUNNING), the hard expiry (EXPIRING), the end of patience with a worker that
  has said its last word (ACKNOWLEDGED, LEAVING), and with one that not even SIGKILL ends (DYING: a process in
  uninterruptible sleep survives it).
* "Has said finish" is a state of its own (ACKNOWLEDGED), not a flag beside another state.

This file must not know of other runs, of the app's phases, of systemd, or of the clock.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from capbg._core.words import NS, Outcome, Progress, TaskResult, TaskState

GIVE_UP_NS = 5 * NS
"""How long a worker may take to die of SIGKILL before it is given up (uninterruptible sleep)."""


class State(Enum):
    """States of a run."""

    QUEUED = "waits for a worker"
    RUNNING = "its callback runs"
    EXPIRING = "was told to come to an end"
    ACKNOWLEDGED = "has finished; the worker has yet to leave"
    LEAVING = "has said its last word without a finish; the worker has yet to leave"
    DYING = "was sent SIGKILL"
    SETTLED = "is over"


class Input(Enum):
    """What can happen to a run."""

    STARTED = "a worker was started"
    REFUSED = "no worker can be started"
    FINISH = "finish"
    RETURNED = "the callback returned"
    RAISED = "the callback raised"
    UNARMED = "a limit could not be set"
    EXPIRY_BEGUN = "the worker's own timer expired it"
    GARBAGE = "a packet that does not parse"
    DUE = "its instant has come"
    CANCEL = "cancel"
    HURRY = "a second signal: expire now"
    EXIT = "the worker is gone"
    EXIT_BY_LIMIT = "the kernel killed the worker at its deadline or limit"


class Action(Enum):
    """What a run asks for."""

    ACKNOWLEDGE = "acknowledge the finish"
    EXPIRE = "tell the worker to come to an end"
    KILL = "SIGKILL to the worker's process group"
    ABANDON = "stop waiting for the worker"


class IllegalInputError(RuntimeError):
    """The input cannot happen in this state: a fault of the caller. The run is unchanged."""


@dataclass(frozen=True, slots=True)
class Transition:
    """Where an input leads, and the outcome it decides (EXPIRED becomes CANCELLED where the program cancelled)."""

    to: State
    actions: tuple[Action, ...] = ()
    outcome: Outcome | None = None


def _stay(state: State, *inputs: Input) -> dict[tuple[State, Input], Transition]:
    return {(state, each): Transition(state) for each in inputs}


_S, _I, _A, _O = State, Input, Action, Outcome

TABLE: dict[tuple[State, Input], Transition] = {
    # QUEUED: nothing runs yet, so every end is immediate.
    (_S.QUEUED, _I.STARTED): Transition(_S.RUNNING),
    (_S.QUEUED, _I.REFUSED): Transition(_S.SETTLED, (), _O.REFUSED),
    (_S.QUEUED, _I.DUE): Transition(_S.SETTLED, (), _O.REFUSED),
    (_S.QUEUED, _I.HURRY): Transition(_S.SETTLED, (), _O.REFUSED),
    (_S.QUEUED, _I.CANCEL): Transition(_S.SETTLED, (), _O.CANCELLED),
    (_S.QUEUED, _I.FINISH): Transition(_S.SETTLED, (), _O.FINISHED),
    # RUNNING
    (_S.RUNNING, _I.FINISH): Transition(_S.ACKNOWLEDGED, (_A.ACKNOWLEDGE,), _O.FINISHED),
    (_S.RUNNING, _I.RETURNED): Transition(_S.LEAVING, (), _O.UNFINISHED),
    (_S.RUNNING, _I.RAISED): Transition(_S.LEAVING, (), _O.FAILED),
    (_S.RUNNING, _I.UNARMED): Transition(_S.LEAVING, (), _O.REFUSED),
    (_S.RUNNING, _I.EXPIRY_BEGUN): Transition(_S.EXPIRING),
    (_S.RUNNING, _I.DUE): Transition(_S.EXPIRING, (_A.EXPIRE,)),
    (_S.RUNNING, _I.CANCEL): Transition(_S.EXPIRING, (_A.EXPIRE,)),
    (_S.RUNNING, _I.HURRY): Transition(_S.EXPIRING, (_A.EXPIRE,)),
    (_S.RUNNING, _I.GARBAGE): Transition(_S.DYING, (_A.KILL,), _O.CRASHED),
    (_S.RUNNING, _I.EXIT): Transition(_S.SETTLED, (), _O.CRASHED),
    (_S.RUNNING, _I.EXIT_BY_LIMIT): Transition(_S.SETTLED, (), _O.KILLED),
    # EXPIRING: a finish still counts; any other way of leaving is "expired" (or "cancelled": see Run.step).
    (_S.EXPIRING, _I.FINISH): Transition(_S.ACKNOWLEDGED, (_A.ACKNOWLEDGE,), _O.FINISHED),
    (_S.EXPIRING, _I.RETURNED): Transition(_S.LEAVING, (), _O.EXPIRED),
    (_S.EXPIRING, _I.RAISED): Transition(_S.LEAVING, (), _O.EXPIRED),
    (_S.EXPIRING, _I.UNARMED): Transition(_S.LEAVING, (), _O.REFUSED),
    (_S.EXPIRING, _I.DUE): Transition(_S.DYING, (_A.KILL,), _O.KILLED),
    (_S.EXPIRING, _I.GARBAGE): Transition(_S.DYING, (_A.KILL,), _O.CRASHED),
    (_S.EXPIRING, _I.EXIT): Transition(_S.SETTLED, (), _O.EXPIRED),
    (_S.EXPIRING, _I.EXIT_BY_LIMIT): Transition(_S.SETTLED, (), _O.KILLED),
    **_stay(_S.EXPIRING, _I.EXPIRY_BEGUN, _I.CANCEL, _I.HURRY),
    # ACKNOWLEDGED: nothing can change the outcome any more. A second finish is answered, or it would wait for ever.
    (_S.ACKNOWLEDGED, _I.FINISH): Transition(_S.ACKNOWLEDGED, (_A.ACKNOWLEDGE,)),
    (_S.ACKNOWLEDGED, _I.DUE): Transition(_S.DYING, (_A.KILL,)),
    (_S.ACKNOWLEDGED, _I.GARBAGE): Transition(_S.DYING, (_A.KILL,)),
    (_S.ACKNOWLEDGED, _I.EXIT): Transition(_S.SETTLED),
    (_S.ACKNOWLEDGED, _I.EXIT_BY_LIMIT): Transition(_S.SETTLED),
    **_stay(_S.ACKNOWLEDGED, _I.RETURNED, _I.RAISED, _I.UNARMED, _I.EXPIRY_BEGUN, _I.CANCEL, _I.HURRY),
    # LEAVING: the last word is said, whatever comes behind it is not from our worker code.
    (_S.LEAVING, _I.DUE): Transition(_S.DYING, (_A.KILL,)),
    (_S.LEAVING, _I.EXIT): Transition(_S.SETTLED),
    (_S.LEAVING, _I.EXIT_BY_LIMIT): Transition(_S.SETTLED),
    **{
        (_S.LEAVING, each): Transition(_S.DYING, (_A.KILL,))
        for each in (_I.FINISH, _I.RETURNED, _I.RAISED, _I.UNARMED, _I.GARBAGE)
    },
    **_stay(_S.LEAVING, _I.EXPIRY_BEGUN, _I.CANCEL, _I.HURRY),
    # DYING: only the kernel's word counts, or the end of patience.
    (_S.DYING, _I.DUE): Transition(_S.SETTLED, (_A.ABANDON,)),
    (_S.DYING, _I.EXIT): Transition(_S.SETTLED),
    (_S.DYING, _I.EXIT_BY_LIMIT): Transition(_S.SETTLED),
    **_stay(
        _S.DYING,
        _I.FINISH,
        _I.RETURNED,
        _I.RAISED,
        _I.UNARMED,
        _I.EXPIRY_BEGUN,
        _I.GARBAGE,
        _I.CANCEL,
        _I.HURRY,
    ),
}
"""Every pair that is not here is illegal: a worker's words without a worker, a second start, anything once settled."""

_PUBLIC_STATE = {
    State.QUEUED: TaskState.QUEUED,
    State.RUNNING: TaskState.RUNNING,
    State.EXPIRING: TaskState.EXPIRING,
    State.ACKNOWLEDGED: TaskState.LEAVING,
    State.LEAVING: TaskState.LEAVING,
    State.DYING: TaskState.LEAVING,
    State.SETTLED: TaskState.SETTLED,
}

Why = str | Callable[["Run"], str]

_REASONS: dict[tuple[State, Input], Why] = {
    (State.QUEUED, Input.DUE): lambda run: f"no worker could be started in time: {run.waited_for}",
    (State.QUEUED, Input.HURRY): lambda run: f"told to hurry before a worker could be started: {run.waited_for}",
    (State.QUEUED, Input.CANCEL): "cancelled before it started",
    (State.QUEUED, Input.FINISH): "finished by the app before it started",
    (State.RUNNING, Input.RETURNED): "it returned without having called finish()",
}


@dataclass(slots=True)
class Exit:
    """How a worker ended: exit code or signal, and what the kernel counted. All None: somebody else reaped it."""

    exit_code: int | None = None
    signal: int | None = None
    cpu_ns: int | None = None
    max_rss: int | None = None


@dataclass(slots=True)
class Run:
    """One run of one task. ``limit_ns`` and ``kill_after_ns`` are durations; every other ``_ns`` is an instant."""

    id: str
    name: str
    queued_ns: int
    last_start_ns: int
    """The grace period's end: when waiting for a worker is over, and what no soft expiry is later than."""
    limit_ns: int | None
    """The task's own deadline, counted from its start; None: the whole grace period."""
    kill_after_ns: int
    cpu_hard_ns: int | None = None
    """CPU time at which the kernel kills it, to tell that kill from another."""
    state: State = State.QUEUED
    outcome: Outcome | None = None
    reason: str = ""
    pid: int | None = None
    started_ns: int | None = None
    settled_ns: int | None = None
    due_ns: int = field(init=False)
    hard_ns: int | None = None
    """When the kernel kills it whatever happens here."""
    progress: Progress | None = None
    error: tuple[str, str, str] | None = None
    exit: Exit = field(default_factory=Exit)
    waited_for: str = "its turn had not come"
    why_expiring: str = ""
    cancelled: bool = False

    def __post_init__(self) -> None:
        self.due_ns = self.last_start_ns

    @property
    def alive(self) -> bool:
        """Whether it has a worker."""
        # No set: it is asked for every task in every turn, and hashing a member of an enum is a call into Python.
        return self.state is not State.QUEUED and self.state is not State.SETTLED

    @property
    def soft_ns(self) -> int:
        """When its callback is or was to end: the soft expiry, or for a queued run the latest one possible."""
        if self.started_ns is None or self.limit_ns is None:
            return self.last_start_ns
        return min(self.started_ns + self.limit_ns, self.last_start_ns)

    @property
    def public_state(self) -> TaskState:
        """The state as users know it."""
        return _PUBLIC_STATE[self.state]

    def deadlines_if_started(self, now: int) -> tuple[int, int]:
        """The (soft, hard) instants of a worker started now."""
        soft = self.last_start_ns if self.limit_ns is None else min(now + self.limit_ns, self.last_start_ns)
        return soft, soft + self.kill_after_ns

    def step(self, what: Input, now: int, *, why: str = "") -> tuple[Action, ...]:
        """Take one input and return what is to be done; ``why`` is for the result, if this decides the outcome."""
        transition = TABLE.get((self.state, what))
        if transition is None:
            raise IllegalInputError(f"task {self.id!r}: {what.name} cannot happen while {self.state.name}")
        before, self.state = self.state, transition.to
        if transition.outcome is not None:
            self._decide(transition.outcome, before, what, why)
        self._schedule(before, what, now, why)
        return transition.actions

    def _decide(self, outcome: Outcome, before: State, what: Input, why: str) -> None:
        if self.outcome is not None:
            return
        if outcome is Outcome.EXPIRED and self.cancelled:
            outcome = Outcome.CANCELLED
        self.outcome = outcome
        known = _REASONS.get((before, what))
        if known is not None:
            self.reason = known if isinstance(known, str) else known(self)
        elif before is State.EXPIRING and outcome is not Outcome.FINISHED:
            self.reason = f"{self.why_expiring}; {why}" if why else self.why_expiring
        else:
            self.reason = why

    def _schedule(self, before: State, what: Input, now: int, why: str) -> None:
        match self.state:
            case State.RUNNING if before is State.QUEUED:
                self.started_ns = now
                self.due_ns = self.soft_ns
                self.hard_ns = self.soft_ns + self.kill_after_ns
            case State.EXPIRING if before is State.RUNNING:
                self.why_expiring = why
                self.cancelled = what is Input.CANCEL
                # Counted from the deadline, not from when it was noticed: the kernel counts from there, too.
                begun = self.soft_ns if what is Input.DUE else now
                self.due_ns = min(begun, self.soft_ns) + self.kill_after_ns
                self.hard_ns = self.due_ns
            case State.ACKNOWLEDGED | State.LEAVING if before is not self.state:
                assert self.hard_ns is not None  # it has a worker
                # Never beyond the hard deadline: the kernel's timer in the worker is not put off, either.
                self.due_ns = min(now + self.kill_after_ns, self.hard_ns)
            case State.DYING if before is not State.DYING:
                self.due_ns = now + GIVE_UP_NS
            case State.SETTLED:
                self.settled_ns = now

    def result(self, grace_began_ns: int) -> TaskResult:
        """The settled run as a value."""
        if self.outcome is None:
            raise IllegalInputError(f"task {self.id!r} is not settled")
        started = self.started_ns
        error = self.error or (None, None, None)
        return TaskResult(
            id=self.id,
            name=self.name,
            outcome=self.outcome,
            reason=self.reason,
            pid=self.pid,
            started=None if started is None else max(0, started - grace_began_ns) / NS,
            duration=None if started is None or self.settled_ns is None else (self.settled_ns - started) / NS,
            cpu_time=None if self.exit.cpu_ns is None else self.exit.cpu_ns / NS,
            max_rss=self.exit.max_rss,
            exit_code=self.exit.exit_code,
            signal=self.exit.signal,
            progress=self.progress,
            error_type=error[0],
            error_message=error[1],
            traceback=error[2],
        )
