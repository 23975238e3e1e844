"""The loop: wait -> translate -> step -> perform.

It waits in ONE place (:meth:`Supervisor.turn`), until the earliest absolute deadline, and never asks "which state": it
hands what happened to the core and performs the actions that come back. Within a turn the order is: words of workers,
exits, signals, the clock. So a finish that has arrived counts even if its deadline has passed meanwhile: after a
SIGCONT nobody is killed who had long been done.

This file must not know what listeners do, nor how a phase is left.
"""

import errno
import functools
import gc
import logging
import signal
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

from capbg import worker
from capbg._core import teller, wire
from capbg._core.budget import cpu_limits
from capbg._core.events import (
    AbandonWorker,
    AcknowledgeFinish,
    Action,
    Announced,
    Continued,
    Event,
    ExpireWorker,
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
from capbg._core.grace import Grace
from capbg._core.task import Run, State
from capbg._core.words import NS, AppState, GraceReport, Outcome, Phase, Reason, TaskResult
from capbg._os import fds, limits, signals, threads, workers
from capbg._os.clock import SignalTimer, TimerFd, now_ns
from capbg._os.notify import Notifier
from capbg._os.title import Title
from capbg.errors import WrongPhaseError
from capbg.task import Order

log = logging.getLogger("capbg")

_T = TypeVar("_T")

_EVENTS: dict[int, Event] = {
    signal.SIGTERM: StopRequested(Reason.TERMINATE),
    signal.SIGINT: StopRequested(Reason.INTERRUPT),
    signal.SIGTSTP: SuspendRequested(),
    signal.SIGCONT: Continued(),
}

_STOPS = {signal.SIGTERM, signal.SIGINT}


def _heard(signums: list[int]) -> list[int]:
    """SIGTERM wins over what came with it.

    systemd sends SIGCONT right behind SIGTERM. Where both are pending the kernel lets SIGCONT's handler run first: a
    program that is suspending or suspended would be told that it is back, its watchdog armed, all for nothing.
    """
    return signums if _STOPS.isdisjoint(signums) else [each for each in signums if each in _STOPS]


_SHORTAGES = {errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOSPC, errno.EINTR}
"""What may pass: processes, memory, descriptors, watches."""

_PACKETS_A_ROUND = 64
"""Packets read from one worker before the others have their turn and the clock is looked at."""

_BATCH = 32
"""Workers forked in one go. In a parent of 10 MB that takes 20 to 40 ms, during which nobody is heard."""

_PACKETS_LEFT = 4096
"""More than a dead worker can have left: a socket's buffer holds some hundred packets (wmem_default)."""

_NEVER = 1 << 63
_EXIT_SOON_NS = NS // 100
_SOON_NS = NS // 1000
_RESEND_NS = NS // 5
_UNSENT_MOST = 16


def _why_failed(run: Run, error: Exception) -> StartFailed:
    if not isinstance(error, OSError):
        return StartFailed(run.id, f"{type(error).__name__}: {error}", shortage=False)
    why = f"{error.strerror or error} ({errno.errorcode.get(error.errno or 0, 'no errno')})"
    return StartFailed(run.id, why, shortage=error.errno in _SHORTAGES)


def _any_end_is_missed() -> bool:
    """Whether something exists that does more on its end than to free memory: a file with a buffer, a ``__del__``.

    In a cycle, as most of what belongs to a program is, that end is the collector's doing. The standard streams' is
    not; the interpreter flushes them.
    """
    streams = (sys.stdin, sys.stdout, sys.stderr)
    buffers = [getattr(stream, "buffer", None) for stream in streams]
    known = {id(each): each for each in (*streams, *buffers, *(getattr(buffer, "raw", None) for buffer in buffers))}
    found = Counter(map(type, gc.get_objects()))  # by kinds, for there are a hundred times as many objects
    found.subtract(Counter(map(type, filter(gc.is_tracked, known.values()))))
    return any(number > 0 and hasattr(kind, "__del__") for kind, number in found.items())


class Listeners(Protocol):
    """What the supervisor needs of whoever holds the listeners. Each method returns one line a listener that raised."""

    def state_changed(self, state: AppState) -> list[str]:
        """The app went to the background, or came back."""
        ...

    def task_settled(self, result: TaskResult) -> list[str]:
        """A task is over."""
        ...

    def grace_ended(self, report: GraceReport) -> list[str]:
        """A grace period is over."""
        ...


class Supervisor:
    """Drives one entered app. All but :meth:`submit`, :meth:`hold` and :meth:`release` is for the main thread."""

    def __init__(
        self,
        core: Grace,
        *,
        method: str,
        order_of: Callable[[str], Order],
        listeners: Listeners,
        title: Title,
        handler: signals.Handler,
        environ: Mapping[str, str],
    ) -> None:
        self.core = core
        self.leaving: int | None = None
        """The exit status, once the program is to leave."""
        self.in_turn = False
        self.forking = False
        """Whether workers are being forked just now."""
        self.held_by_main = 0
        self._held = 0
        self._method = method
        self._order_of = order_of
        self._listeners = listeners
        self._title = title
        self._lock = threading.Lock()
        """Guards the core, for :meth:`submit` from any thread. Never held over a listener, a system call or a fork."""
        self._forking = threading.RLock()
        """Held over a fork, so that :meth:`hold` in another thread cannot begin in the middle of one. In this thread it
        can, by a fork hook of the program's or a ``__del__``."""
        self._todo: deque[Action] = deque()
        self._records: deque[tuple[int, str]] = deque()
        self._workers: dict[str, workers.Worker] = {}
        self._unheard: deque[Callable[[], None]] = deque()
        """What is left to be heard of the round that the last wait began."""
        self._turn_ends_ns = 0
        self._hung_up: set[str] = set()
        self._unsent: deque[str] = deque(maxlen=_UNSENT_MOST)
        self._stop_process = False
        self._frozen = False
        self._watched = False
        self._outer_found = False
        """Whether the event loop that drives the app has been looked for, in this grace period."""
        self._threads_told = False
        self._poller = fds.Poller()
        self._timer = TimerFd()
        fds.own(self._timer.fd)
        self._turn_timer = SignalTimer(signals.TURN, to_this_thread=True)
        self.signals = signals.Signals(handler)
        self._notifier = Notifier(environ)
        self._poller.add(self._timer.fd, self._timer.clear)
        self._poller.add(self.signals.read_fd, lambda: None)  # read in every turn anyway

    def fileno(self) -> int:
        """One descriptor that is readable whenever a turn is due."""
        self._watched = True
        return self._poller.fileno()

    # ------------------------------------------------------------------------------------------ from any thread

    def submit(self, event: Event) -> None:
        """Hand an event to the core; what comes of it is performed in the main thread's next turn."""
        with self._lock:
            if isinstance(event, Registration) and self.core.is_too_late(now_ns()):
                # Not a refusal: a listener of taskSettled that registers again what failed would never come to an end.
                raise WrongPhaseError(
                    f"task {event.name!r} cannot be registered: the grace period is over, no worker starts any more"
                )
            actions = self.core.step(event, now_ns())
            self._todo.extend(actions)
            wanted = bool(actions) or bool(self.core.next_starts(now_ns(), 1))
        if wanted:
            self.signals.wake()

    def read(self, question: Callable[[], _T]) -> _T:
        """Ask the core something while nobody changes it."""
        with self._lock:
            return question()

    def hold(self) -> None:
        """Backgrounding waits from here on: no listener is told, no worker forked."""
        with self._forking:
            self._held += 1

    def release(self) -> None:
        """Backgrounding goes on, once as many have released as have held."""
        with self._forking:
            self._held -= 1
        self.signals.wake()

    @property
    def has_work(self) -> bool:
        """Whether a turn has something to do that no descriptor tells of."""
        # The announcement: what a critical() block of the main thread's, over now, has kept back.
        return bool(self._todo) or (self.core.announcement is not None and not self.held_by_main)

    # ---------------------------------------------------------------------------------------------------- turns

    def drive(self) -> None:
        """Take turns until the app is active again, or is to leave. Blocks."""
        self.turn(block=False)
        while self.leaving is None and self.core.phase in {Phase.BACKGROUND, Phase.SUSPENDED}:
            self.turn(block=True)

    def drain(self) -> None:
        """Take turns until no task runs any more and the app need not stay. Blocks, until the last hard deadline."""
        self.drive()
        while self.leaving is None and self.core.live:
            self.turn(block=True)
            self.drive()

    def turn(self, *, block: bool, starts: int = _BATCH, work_ns: int | None = None) -> None:
        """Take one turn; wait for something to happen if ``block``. At most ``starts`` workers are started in it.

        After ``work_ns`` what has arrived is left for the next turns, for a window has to be painted meanwhile. The
        clock is looked at when all of it has been heard: nobody is to be killed whose finish lies in the queue.
        """
        if self.in_turn:
            return
        self.in_turn = True
        try:
            self._turn_ends_ns = _NEVER if work_ns is None else now_ns() + work_ns
            if not self._unheard:
                self._unheard.extend(self._poller.wait(block=block and not self._todo))
            while self._unheard and now_ns() < self._turn_ends_ns:
                self._unheard.popleft()()
            for signum in _heard(self.signals.take()):
                event = _EVENTS.get(signum)
                if event is not None:
                    self._step(event)
                    self._announce()
            self._resend()
            self._perform()
            if self._unheard:
                self.signals.wake()
            else:
                self._finish_turn(starts)
            if self._stop_process:
                self._stop()  # in the turn still: a SIGCONT that is heard between here and the stop must prevent it
        finally:
            self.in_turn = False

    def _stop(self) -> None:
        # A signal that has come just now is heard first, in the next turn. If it changes nothing, such as a second
        # SIGTSTP, the stop is made up for then: otherwise the program would be suspended by its own word only.
        self._stop_process = self.core.phase is Phase.SUSPENDED and not signals.stop_self(self.signals)
        if self._stop_process:
            self.signals.wake()

    def _finish_turn(self, starts: int) -> None:
        self._announce()
        self._start_workers(starts)
        while self.leaving is None and self._step(Tick()):
            self._announce()
        with self._lock:
            more = bool(self.core.next_starts(now_ns(), 1)) and not self._held
        if more:
            self.signals.wake()
        self._timer.set(self._next_instant())

    def _next_instant(self) -> int | None:
        with self._lock:
            due = self.core.next_deadline()
        instants = [] if due is None else [due]
        if self._unsent:
            instants.append(now_ns() + _RESEND_NS)
        if self.core.announcement is not None and self.core.phase is Phase.BACKGROUND and self._holding():
            instants.append(self.core.hold_ends_ns)
        return min(instants, default=None)

    def leave_to_program(self) -> None:
        """The main thread goes back to the program, which does not drive us: have signals call for turns.

        What else could: a thread (none in a guest's house), or nobody (then a task that outlived its suspension could
        not finish before the next signal).
        """
        for each in self._workers.values():
            each.signal_packets()
        self.turn(block=False)  # what came before the signals were asked for
        due = self._next_instant()
        if self._hung_up:  # its pipe is closed, its end is near: there is no signal for that
            soon = now_ns() + _EXIT_SOON_NS
            due = soon if due is None else min(due, soon)
        self._turn_timer.set(due)

    def turn_soon(self) -> None:
        """Have a signal call for a turn in a moment."""
        self._turn_timer.set(now_ns() + _SOON_NS)

    def ping(self) -> None:
        """The main loop is alive: feed systemd's watchdog, while the app is active."""
        if self.core.phase is Phase.ACTIVE:
            text = self.core.notices.ping(now_ns())
            if text is not None:
                self._notify(text)

    def expect_ping(self) -> None:
        """Be readable again when the next ping is due: the loop that drives us feeds the watchdog by its turns."""
        due = self.core.notices.ping_due_ns(now_ns()) if self.core.phase is Phase.ACTIVE else None
        instant = self._next_instant()
        if due is not None:
            instant = due if instant is None else min(due, instant)
        self._timer.set(instant)

    # --------------------------------------------------------------------------------------------- wait, translate

    def _on_packets(self, each: workers.Worker, most: int = _PACKETS_A_ROUND) -> None:
        if self._workers.get(each.task_id) is not each:
            return  # its exit came earlier in this round: whoever else held its end of the pipe let go of it later
        for number in range(most):
            if number and now_ns() >= self._turn_ends_ns:
                self._unheard.appendleft(functools.partial(self._on_packets, each, most - number))
                return
            data = each.receive()
            if data is None:
                return
            if not data:
                # Nothing more comes from there. It may still live on; its pidfd tells.
                self._poller.remove(each.pipe_fd)
                self._hung_up.add(each.task_id)
                return
            try:
                event: Event = PacketArrived(each.task_id, wire.decode(data))
            except wire.GarbageError as error:
                event = GarbageArrived(each.task_id, f"its worker sent {error}")
            self._step(event)
            if each.task_id not in self._workers:
                return

    def _on_exit(self, each: workers.Worker) -> None:
        if self._workers.get(each.task_id) is not each:
            return
        self._on_packets(each, _PACKETS_LEFT)  # the last word of a worker comes before its end
        if self._unheard and now_ns() >= self._turn_ends_ns:
            self._unheard.append(functools.partial(self._on_exit, each))
            return
        if each.task_id not in self._workers:
            return
        found = each.reap()
        if found is not None:
            self._forget(each)
            self._step(WorkerExited(each.task_id, found))

    def _forget(self, each: workers.Worker) -> None:
        del self._workers[each.task_id]
        self._hung_up.discard(each.task_id)
        self._poller.remove(each.pipe_fd)
        self._poller.remove(each.pidfd)
        each.close()

    def _announce(self) -> None:
        while (state := self.core.announcement) is not None and not self._holding():
            if state.is_active:
                self._thaw()
            errors = self._listeners.state_changed(state)
            # A listener may have been the one during which SIGCONT came: then there is another state to tell.
            self._step(Announced(tuple(errors)))

    def _holding(self) -> bool:
        """Whether a critical block keeps backgrounding back. One that never ends does so until the grace period's end:
        then the listeners are told all the same, and what they register is refused."""
        return self._held > 0 and (self.core.phase is not Phase.BACKGROUND or now_ns() < self.core.hold_ends_ns)

    def _start_workers(self, most: int) -> None:
        with self._lock:
            runs = self.core.next_starts(now_ns(), most)
        if not runs:
            return
        self._prepare_fork()
        starts = [workers.Start(run.id, run.name, self._order_of(run.id)) for run in runs]
        with self._forking:
            if self._held:
                return
            self.forking = True  # what this thread forks from here on are workers
            try:
                found = workers.launch(self._method, starts, target=worker.main)
            finally:
                self.forking = False
        for run, each in zip(runs, found, strict=False):
            if isinstance(each, workers.Worker):
                self._started(run, each)
            else:
                self._step_start(run, _why_failed(run, each))

    def _started(self, run: Run, started: workers.Worker) -> None:
        try:
            self._poller.add(started.pipe_fd, functools.partial(self._on_packets, started))
            self._poller.add(started.pidfd, functools.partial(self._on_exit, started))
        except OSError as error:  # epoll's own limits: it has not begun, so it can be undone
            self._undo_start(started)
            self._step_start(run, StartFailed(run.id, f"epoll: {error.strerror}", shortage=True))
            return
        now = now_ns()
        soft_ns, hard_ns = run.deadlines_if_started(now)
        self._workers[run.id] = started
        if self._step_start(run, WorkerStarted(run.id, started.pid), now=now):
            started.send(wire.encode_go(soft_ns=soft_ns, hard_ns=hard_ns, cpu_s=self._cpu_limits(run, hard_ns - now)))
        else:
            del self._workers[run.id]
            self._undo_start(started)

    def _cpu_limits(self, run: Run, until_hard_ns: int) -> tuple[int, int]:
        order = self._order_of(run.id)
        return cpu_limits(
            order.limits,
            until_hard_ns=until_hard_ns,
            kill_after_ns=order.kill_after_ns,
            usable_cpus=limits.usable_cpus(),
        )

    def _step_start(self, run: Run, event: Event, *, now: int | None = None) -> bool:
        """Step, unless another thread has settled the run (cancel, finish) while its worker was being started."""
        with self._lock:
            if run.state is not State.QUEUED:
                return False
            self._todo.extend(self.core.step(event, now_ns() if now is None else now))
        self._perform()
        return True

    def _undo_start(self, started: workers.Worker) -> None:
        self._poller.remove(started.pipe_fd)
        self._poller.remove(started.pidfd)
        started.discard()

    def _prepare_fork(self) -> None:
        fds.fill_standard()  # the program may have closed one since
        if self._method != "fork":
            return
        if not self._threads_told:
            self._threads_told = True
            others = threads.others()
            if others:
                names = ", ".join(f"{count} {name}" if count > 1 else name for name, count in Counter(others).items())
                self.record(
                    logging.WARNING,
                    f"workers are forked beside other threads ({names}): a lock one of them holds now stays locked in "
                    'the workers. Use App(start_method="forkserver"), or end the threads in a listener of '
                    "appStateChange (docs/forking.md)",
                )
        if not self._frozen and gc.get_freeze_count() == 0:
            # What exists now is not looked at by the collector any more: it would dirty, and so copy, every page of
            # it in every worker (measured: half the time of a small program's stop).
            gc.freeze()
            self._frozen = True
        if self._watched and not self._outer_found:
            self._outer_found = fds.find_outer(self._poller.fileno())

    def _thaw(self) -> None:
        self._outer_found = False
        if self._frozen:
            gc.unfreeze()
            self._frozen = False

    # --------------------------------------------------------------------------------------------- step, perform

    def _step(self, event: Event, *, now: int | None = None) -> bool:
        """Hand one event to the core and perform what comes of it; return whether something did."""
        with self._lock:
            actions = self.core.step(event, now_ns() if now is None else now)
            self._todo.extend(actions)
        self._perform()
        return bool(actions)

    def begin(self) -> None:
        """The app has been entered."""
        self._todo.extend(self.core.enter())
        self._perform()

    def _perform(self) -> None:
        while self._todo:
            self._perform_one(self._todo.popleft())

    def _perform_one(self, action: Action) -> None:  # noqa: PLR0912 - one arm an action
        match action:
            case AcknowledgeFinish(task_id):
                if (each := self._workers.get(task_id)) is not None:
                    each.send(wire.ACKNOWLEDGED)
            case Notify(text):
                self._notify(text)
            case Retitle(text):
                self._title.show(text)
            case ExpireWorker(task_id):
                if (each := self._workers.get(task_id)) is not None:
                    each.expire()
            case KillWorker(task_id):
                if (each := self._workers.get(task_id)) is not None:
                    each.kill()
            case AbandonWorker(task_id):
                if (each := self._workers.get(task_id)) is not None:
                    self.record(logging.ERROR, f"task {task_id!r}: SIGKILL does not end process {each.pid}: given up")
                    self._forget(each)
            case TellSettled(result):
                if result.outcome is not Outcome.FINISHED:
                    text = f"task {result.id!r} {result.outcome.value}: {result.reason}"
                    self.record(logging.WARNING, f"{text}\n{result.traceback}" if result.traceback else text)
                self._listeners.task_settled(result)
            case TellEnded(report):
                finished = sum(result.outcome is Outcome.FINISHED for result in report.results)
                text = f"grace period over after {report.duration:.2f} s: {finished} of {len(report.results)} finished"
                self.record(logging.INFO, text)
                self._listeners.grace_ended(report)
            case Warn(text):
                self.record(logging.WARNING, text)
            case StopProcess():
                self._stop_process = True
            case Leave(status):
                self.leaving = status

    def _notify(self, text: str) -> None:
        if not self._notifier.send(text) and not text.startswith(("STATUS=", teller.FIELD)):
            self._unsent.append(text)  # a line for people is soon followed by another; this would be missed

    def _resend(self) -> None:
        while self._unsent:
            if not self._notifier.send(self._unsent[0]):
                return
            self._unsent.popleft()

    # -------------------------------------------------------------------------------------------------- records

    def record(self, level: int, text: str) -> None:
        """Keep a log record until the main thread is out of its signal handler: logging there can deadlock."""
        self._records.append((level, text))

    def write_records(self) -> None:
        """Write the records that were kept. Not from a signal handler."""
        while self._records:
            level, text = self._records.popleft()
            log.log(level, "%s", text)

    # --------------------------------------------------------------------------------------------- way in, way out

    def close(self) -> None:
        """Close every descriptor and put away what was prepared. Our signals are blocked."""
        if self._frozen:
            self._thaw()
            if self.leaving is not None and not _any_end_is_missed():
                gc.freeze()  # the interpreter is about to end: it need not be searched for cycles again
        for each in list(self._workers.values()):  # only after an error on the way in or out: nothing may be left
            each.kill()
            self._forget(each)
        self._turn_timer.close()
        self._resend()
        self._notifier.close()
        self._poller.close()
        self._timer.close()
        self._title.restore()
        workers.put_away()

    def forget_in_child(self) -> None:
        """In a forked child: nothing of this is the child's."""
        self.signals.forget_in_child()
        self._lock = threading.Lock()
        self._forking = threading.RLock()
        for each in self._workers.values():
            each.forget_in_child()
        self._poller.close()
        self._timer.close()
        self._notifier.close()
        workers.forget_in_child()
