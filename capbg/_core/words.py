"""The words of the contract as values: phases, reasons, outcomes, results.

Everything here is immutable and knows nothing of clocks, processes or signals. Seconds are floats, for people.
"""

from dataclasses import dataclass, field
from enum import Enum

NS = 1_000_000_000
"""Nanoseconds in a second: inside, every instant is an integer of CLOCK_MONOTONIC nanoseconds."""


class Phase(Enum):
    """Where the app is in its life."""

    ACTIVE = "active"
    BACKGROUND = "background"
    SUSPENDED = "suspended"
    TERMINATED = "terminated"


class Reason(Enum):
    """Why the app is in its phase."""

    START = "start"
    """It has just been entered."""
    TERMINATE = "terminate"
    """SIGTERM."""
    INTERRUPT = "interrupt"
    """SIGINT, Ctrl-C."""
    SUSPEND = "suspend"
    """SIGTSTP, Ctrl-Z."""
    RESUME = "resume"
    """SIGCONT."""

    @property
    def stops(self) -> bool:
        """Whether the program leaves at the end of this reason's grace period."""
        return self in {Reason.TERMINATE, Reason.INTERRUPT}


class Outcome(Enum):
    """How a task ended: exactly one per task, always."""

    FINISHED = "finished"
    """It said finish, and the app acknowledged it."""
    UNFINISHED = "unfinished"
    """It returned without having said finish."""
    FAILED = "failed"
    """It raised."""
    EXPIRED = "expired"
    """It left after its soft expiry."""
    KILLED = "killed"
    """It was killed at its hard expiry, or by one of its limits."""
    CRASHED = "crashed"
    """It died by itself, or what it sent made no sense."""
    CANCELLED = "cancelled"
    """The program cancelled it."""
    REFUSED = "refused"
    """No worker could be started for it in time."""


class TaskState(Enum):
    """Where a task is, for :meth:`capbg.App.tasks`."""

    REGISTERED = "registered"
    QUEUED = "queued"
    RUNNING = "running"
    EXPIRING = "expiring"
    LEAVING = "leaving"
    SETTLED = "settled"


@dataclass(frozen=True, slots=True)
class AppState:
    """What listeners of ``appStateChange`` get, and what ``get_state()`` returns."""

    is_active: bool
    reason: Reason
    phase: Phase

    @property
    def isActive(self) -> bool:
        """Capacitor's spelling of :attr:`is_active`."""
        return self.is_active


@dataclass(frozen=True, slots=True)
class Progress:
    """The last word of a task on how far it is."""

    done: float
    total: float | None = None
    message: str | None = None

    @property
    def percent(self) -> float | None:
        """``done`` of ``total`` in percent, between 0 and 100; None without a total."""
        if not self.total:
            return None
        return min(100.0, max(0.0, 100.0 * self.done / self.total))


@dataclass(frozen=True, slots=True)
class TaskResult:
    """How one task ended.

    ``started`` is in seconds after the signal that began the grace period (None: it never started); ``duration`` in
    seconds from the worker's start to its end; ``cpu_time`` in seconds and ``max_rss`` in bytes as the kernel counted
    them (getrusage(2); None where the kernel told somebody else: under ``start_method="forkserver"``, or after a
    foreign ``waitpid(-1)``). ``exit_code`` and ``signal`` are the worker's; at most one of them is set.
    """

    id: str
    name: str
    outcome: Outcome
    reason: str
    pid: int | None = None
    started: float | None = None
    duration: float | None = None
    cpu_time: float | None = None
    max_rss: int | None = None
    exit_code: int | None = None
    signal: int | None = None
    progress: Progress | None = None
    error_type: str | None = None
    error_message: str | None = None
    traceback: str | None = None


@dataclass(frozen=True, slots=True)
class GraceReport:
    """What came of one grace period: one result for each task, in the order in which they were settled.

    ``duration`` is in seconds from the signal. ``listener_errors`` holds one line for each listener that raised.
    """

    reason: Reason
    duration: float
    results: tuple[TaskResult, ...] = ()
    listener_errors: tuple[str, ...] = field(default=())

    @property
    def all_finished(self) -> bool:
        """Whether nothing was lost: every task finished, and no listener raised before it could register its own."""
        return not self.listener_errors and all(r.outcome is Outcome.FINISHED for r in self.results)


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """One row of :meth:`capbg.App.tasks`. ``result`` is set once the task is settled."""

    id: str
    name: str
    state: TaskState
    progress: Progress | None = None
    result: TaskResult | None = None
