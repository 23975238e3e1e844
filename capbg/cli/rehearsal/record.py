"""What a rehearsal writes down: values, and no knowledge of how they came about or are shown.

Every instant is an integer of CLOCK_MONOTONIC nanoseconds, as everywhere inside; seconds are for people.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from capbg._core.words import NS

NEVER = 1 << 63
"""The instant of a deadline that does not exist: ``infinity``."""


class Who(Enum):
    """Whose doing it was."""

    SYSTEMD = "systemd"
    """What systemd would do and say: here, the rehearsal."""
    NOTIFY = "notify"
    """What the program told the notify socket."""
    PROGRAM = "program"
    """What it printed."""
    TASK = "task"
    """What one of its capbg tasks came to."""


class Tone(Enum):
    """How it is to be taken."""

    PLAIN = "plain"
    GOOD = "good"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that happened."""

    at_ns: int
    who: Who
    text: str
    """One line for a person."""
    tone: Tone = Tone.PLAIN
    fields: Mapping[str, str] = field(default_factory=dict)
    """NOTIFY: the datagram's fields, as they came."""


@dataclass(frozen=True, slots=True)
class TaskSeen:
    """A capbg task as the program last told of it (a program that does not use capbg has none)."""

    id: str
    name: str
    state: str
    """queued, running, expiring, acknowledged, leaving, dying; or, once settled, its outcome: finished, killed..."""
    settled: bool
    started_ns: int | None = None
    soft_ns: int | None = None
    """Its deadline, when it is told to come to an end."""
    hard_ns: int | None = None
    """When it is killed."""
    ended_ns: int | None = None
    done: float | None = None
    total: float | None = None
    message: str = ""
    reason: str = ""
    """Why it ended so."""

    @property
    def percent(self) -> float | None:
        """``done`` of ``total`` in percent, between 0 and 100; None without a total."""
        if self.done is None or not self.total:
            return None
        return min(100.0, max(0.0, 100.0 * self.done / self.total))

    @property
    def lost(self) -> bool:
        """Whether it ended in another way than by its finish."""
        return self.settled and self.state != "finished"


@dataclass(frozen=True, slots=True)
class ProcessSeen:
    """A process of the service as /proc showed it at one instant."""

    pid: int
    parent: int
    name: str
    """Its command line, shortened; the process title of a capbg worker."""
    state: str
    """R, S, D, T..., as in proc(5)."""
    on_sigterm: str
    """caught, ignored, blocked or default: what SIGTERM does to it."""


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time in one of systemd's states (``SubState=``), or ``suspended`` while running and stopped."""

    state: str
    begin_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True)
class DeadlineSet:
    """At an instant it became known until when systemd waits before it kills: a step of a staircase."""

    at_ns: int
    until_ns: int
    """NEVER: without end."""
    why: str
    """``TimeoutStopSec=3``, ``extended by 10 s``, ``WatchdogSec=2``..."""
    watchdog: bool = False
    """Whether it is the watchdog's (NEVER: it was switched off) and not the limit of the present state."""


@dataclass(frozen=True, slots=True)
class SignalSent:
    """A signal of the script, or of systemd's rules."""

    at_ns: int
    signal: str
    """``SIGTERM``."""
    to: str = ""
    """Whom: ``main process``, ``4 processes``; empty: not worth a word."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The unit that is played, with systemd's names for the options and its defaults. Seconds; infinity is no limit."""

    type: str = "auto"
    """notify, exec, or auto: notify once READY=1 comes, exec if nothing has come for a while."""
    notify_access: str = "main"
    kill_mode: str = "control-group"
    timeout_start_s: float = 90.0
    timeout_stop_s: float = 90.0
    timeout_abort_s: float | None = None
    """None: as long as ``timeout_stop_s``."""
    failure_mode: str = "terminate"
    """TimeoutStopFailureMode=: terminate, abort or kill."""
    watchdog_s: float = 0.0
    send_sigkill: bool = True
    success_statuses: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Now:
    """How things stand, for a live screen. It is made anew for each look."""

    now_ns: int
    began_ns: int
    """When the program was started."""
    command: tuple[str, ...]
    settings: Settings
    state: str
    """As in :class:`Span`: start, running, suspended, stop-sigterm, stop-sigkill, stop-watchdog, final-..., dead."""
    main_pid: int
    processes: int
    """How many processes the service has, its main process among them."""
    status_text: str
    """The last STATUS=."""
    kill_from_ns: int | None
    """When the present deadline was set; None: none is running (then ``kill_ns`` is None, too)."""
    kill_ns: int | None
    """When systemd's patience ends: SIGKILL, or in state start a failed start. NEVER: without end."""
    watchdog_ns: int | None
    """When the watchdog bites; None: it is off."""
    next_step: str
    """What the script does next: ``SIGTERM``; empty: nothing."""
    next_step_ns: int | None
    tasks: tuple[TaskSeen, ...]
    entries: tuple[Entry, ...]
    """All so far, oldest first."""
    stop_ns: int | None = None
    """When the stop began; None: it has not."""
    watchdog_from_ns: int | None = None
    """When the watchdog was last fed or set; None: nobody knows."""


@dataclass(frozen=True, slots=True)
class Advice:
    """A fault, and its mend."""

    fault: str
    """What went wrong, or nearly did, in a sentence."""
    mend: str
    """What to do, in a sentence."""


@dataclass(frozen=True, slots=True)
class Report:
    """All that is known of a rehearsal that is over."""

    command: tuple[str, ...]
    settings: Settings
    began_ns: int
    stop_ns: int | None
    """When the stop began; None: it ended before it was told to."""
    ended_ns: int
    result: str
    """``Result=`` as systemd would show it: success, exit-code, signal, timeout, watchdog, protocol, core-dump."""
    code: str
    """How the main process ended: exited, killed, dumped; empty: nobody knows."""
    status: int
    """Its exit status, or the number of the signal that killed it."""
    status_text: str
    margin_ns: int | None
    """The shortest time to its kill that the stop ever came to: at its end, or when it was extended; 0: it was killed.
    None: no deadline was ever running in a stop."""
    margin_at_ns: int | None
    """When that was."""
    lost: tuple[str, ...]
    """What was lost, one sentence each; empty: nothing, and the exit status is 0."""
    advice: tuple[Advice, ...]
    killed: tuple[ProcessSeen, ...]
    """What SIGKILL had to end."""
    tasks: tuple[TaskSeen, ...]
    spans: tuple[Span, ...]
    deadlines: tuple[DeadlineSet, ...]
    entries: tuple[Entry, ...]
    signals: tuple[SignalSent, ...] = ()
    """Oldest first."""

    @property
    def passed(self) -> bool:
        """Whether nothing was lost."""
        return not self.lost

    def seconds(self, instant_ns: int) -> float:
        """An instant as seconds behind the stop, or, where there was none, behind the start: negative is before."""
        return (instant_ns - (self.began_ns if self.stop_ns is None else self.stop_ns)) / NS
