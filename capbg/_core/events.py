"""What goes into the core and what comes out: events (past tense) and actions (imperative), as values.

This file must not know what follows from what: that is ``grace.py``'s.
"""

from dataclasses import dataclass

from capbg._core import wire
from capbg._core.task import Exit
from capbg._core.words import GraceReport, Reason, TaskResult

# ----------------------------------------------------------------------------------------------------------- events


@dataclass(frozen=True, slots=True)
class StopRequested:
    """SIGTERM or SIGINT came."""

    reason: Reason


@dataclass(frozen=True, slots=True)
class SuspendRequested:
    """SIGTSTP came."""


@dataclass(frozen=True, slots=True)
class Continued:
    """SIGCONT came."""


@dataclass(frozen=True, slots=True)
class Announced:
    """The listeners have returned; ``errors`` holds one line for each that raised."""

    errors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Registration:
    """A task was registered. ``once``: it runs at one backgrounding only."""

    id: str
    name: str
    limit_ns: int | None = None
    once: bool = True
    cpu_hard_ns: int | None = None


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """The program cancels a task."""

    id: str


@dataclass(frozen=True, slots=True)
class FinishRequested:
    """The app itself says that a task is done."""

    id: str


@dataclass(frozen=True, slots=True)
class WorkerStarted:
    """A worker runs."""

    id: str
    pid: int


@dataclass(frozen=True, slots=True)
class StartFailed:
    """No worker could be started; ``shortage``: the machine is short of something, so that later it may work."""

    id: str
    why: str
    shortage: bool


@dataclass(frozen=True, slots=True)
class PacketArrived:
    """A worker spoke."""

    id: str
    packet: wire.Packet


@dataclass(frozen=True, slots=True)
class GarbageArrived:
    """A worker sent what does not parse."""

    id: str
    why: str


@dataclass(frozen=True, slots=True)
class WorkerExited:
    """A worker is gone."""

    id: str
    exit: Exit


@dataclass(frozen=True, slots=True)
class Tick:
    """The turn is over: look at the clock."""


Event = (
    StopRequested
    | SuspendRequested
    | Continued
    | Announced
    | Registration
    | CancelRequested
    | FinishRequested
    | WorkerStarted
    | StartFailed
    | PacketArrived
    | GarbageArrived
    | WorkerExited
    | Tick
)

# --------------------------------------------------------------------------------------------------------- actions


@dataclass(frozen=True, slots=True)
class Notify:
    """Send a datagram to systemd."""

    text: str


@dataclass(frozen=True, slots=True)
class Retitle:
    """Show this behind the app's name in the process title."""

    text: str


@dataclass(frozen=True, slots=True)
class AcknowledgeFinish:
    """Tell the worker that its finish counts."""

    id: str


@dataclass(frozen=True, slots=True)
class ExpireWorker:
    """Tell the worker to come to an end."""

    id: str


@dataclass(frozen=True, slots=True)
class KillWorker:
    """SIGKILL to the worker's process group."""

    id: str


@dataclass(frozen=True, slots=True)
class AbandonWorker:
    """Stop waiting for the worker: not even SIGKILL ended it."""

    id: str


@dataclass(frozen=True, slots=True)
class TellSettled:
    """Tell the listeners of ``taskSettled``."""

    result: TaskResult


@dataclass(frozen=True, slots=True)
class TellEnded:
    """Tell the listeners of ``graceEnded``."""

    report: GraceReport


@dataclass(frozen=True, slots=True)
class Warn:
    """Write a warning to the log."""

    text: str


@dataclass(frozen=True, slots=True)
class StopProcess:
    """Stop this process (SIGSTOP)."""


@dataclass(frozen=True, slots=True)
class Leave:
    """Leave the program with this exit status."""

    status: int


Action = (
    Notify
    | Retitle
    | AcknowledgeFinish
    | ExpireWorker
    | KillWorker
    | AbandonWorker
    | TellSettled
    | TellEnded
    | Warn
    | StopProcess
    | Leave
)
