"""What goes into the core and what comes out: events (past tense) and actions (imperative), as values.

This file must not know what follows from what: that is ``grace.py``'s.
"""

from capbg._core import wire
from capbg._core.task import Exit
from capbg._core.value import Value
from capbg._core.words import GraceReport, Reason, TaskResult

# ----------------------------------------------------------------------------------------------------------- events


class StopRequested(Value):
    """SIGTERM or SIGINT came."""

    reason: Reason


class SuspendRequested(Value):
    """SIGTSTP came."""


class Continued(Value):
    """SIGCONT came."""


class Announced(Value):
    """The listeners have returned; ``errors`` holds one line for each that raised."""

    errors: tuple[str, ...] = ()


class Registration(Value):
    """A task was registered. ``once``: it runs at one backgrounding only."""

    id: str
    name: str
    limit_ns: int | None = None
    once: bool = True
    cpu_hard_ns: int | None = None


class CancelRequested(Value):
    """The program cancels a task."""

    id: str


class FinishRequested(Value):
    """The app itself says that a task is done."""

    id: str


class WorkerStarted(Value):
    """A worker runs."""

    id: str
    pid: int


class StartFailed(Value):
    """No worker could be started; ``shortage``: the machine is short of something, so that later it may work."""

    id: str
    why: str
    shortage: bool


class PacketArrived(Value):
    """A worker spoke."""

    id: str
    packet: wire.Packet


class GarbageArrived(Value):
    """A worker sent what does not parse."""

    id: str
    why: str


class WorkerExited(Value):
    """A worker is gone."""

    id: str
    exit: Exit


class Tick(Value):
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


class Notify(Value):
    """Send a datagram to systemd."""

    text: str


class Retitle(Value):
    """Show this behind the app's name in the process title."""

    text: str


class AcknowledgeFinish(Value):
    """Tell the worker that its finish counts."""

    id: str


class ExpireWorker(Value):
    """Tell the worker to come to an end."""

    id: str


class KillWorker(Value):
    """SIGKILL to the worker's process group."""

    id: str


class AbandonWorker(Value):
    """Stop waiting for the worker: not even SIGKILL ended it."""

    id: str


class TellSettled(Value):
    """Tell the listeners of ``taskSettled``."""

    result: TaskResult


class TellEnded(Value):
    """Tell the listeners of ``graceEnded``."""

    report: GraceReport


class Warn(Value):
    """Write a warning to the log."""

    text: str


class StopProcess(Value):
    """Stop this process (SIGSTOP)."""


class Leave(Value):
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
