"""The rehearsal: wait -> translate -> step -> perform -> write down.

It waits in ONE place, until the earliest deadline. Within a turn the order is systemd's: datagrams, then exits, then
the clock; so an extension that has arrived counts, even if this program was late to read it.

This file must not know how a rehearsal is shown, nor what is to be thought of it (``losses.py``, ``advice.py``).
"""

import contextlib
import dataclasses
import functools
import os
import selectors
import signal
import socket
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import FrameType

from capbg._core.words import NS
from capbg._os.clock import now_ns
from capbg.cli.rehearsal.advice import advice
from capbg.cli.rehearsal.case import Case, Evidence
from capbg.cli.rehearsal.losses import losses, unended_text
from capbg.cli.rehearsal.notify import Datagram, NotifySocket, environment
from capbg.cli.rehearsal.record import (
    NEVER,
    DeadlineSet,
    Entry,
    Now,
    ProcessSeen,
    Report,
    Settings,
    SignalSent,
    Span,
    TaskSeen,
    Tone,
    Who,
)
from capbg.cli.rehearsal.script import Anchor, Step
from capbg.cli.rehearsal.service import Action, Say, Send, Service, State, seconds_text
from capbg.cli.rehearsal.tree import Tree

AUTO_S = 5.0
"""Type=auto: how long READY=1 is waited for before the program is taken for Type=exec."""
LOOK_NS = NS // 10
"""How often a live screen is drawn."""
_LATE_NS = NS
"""Later than that for a deadline of systemd's, which has a slack of its own, nothing can be vouched for."""
_POLL_NS = NS // 2
"""The longest wait: a stranger's exit, or a stop by a signal, might have been missed."""
_FIELD_MOST = 300
_LINE_MOST = 65536
_KEPT_MOST = {Who.PROGRAM: 2000, Who.NOTIFY: 5000, Who.SYSTEMD: 5000, Who.TASK: 20_000}
"""How many entries of each kind are kept: a program may print, or notify, without end."""
_ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_ENDING = {signal.SIGTERM, signal.SIGINT, signal.SIGKILL, signal.SIGHUP, signal.SIGQUIT, signal.SIGABRT}
"""What ends a program by default, sent by hand."""
_HEARD = (*_ENDS, signal.SIGCHLD, signal.SIGWINCH)


class InterruptedRehearsalError(Exception):
    """A signal has ended the rehearsal, and all it had started: ``unended`` are the pids of what would not end."""

    def __init__(self, signum: signal.Signals, unended: Sequence[int] = ()) -> None:
        told = f"; {unended_text(unended)}" if unended else ", with everything that was started"
        super().__init__(f"ended by {signum.name}{told}")
        self.signum = signum


class Lines:
    """Whole lines from a pipe."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._rest = b""

    def read(self) -> tuple[list[str], bool]:
        """Read once; return the lines that are whole, and whether this was the end."""
        try:
            data = os.read(self.fd, 65536)
        except BlockingIOError:
            return [], False
        *lines, self._rest = (self._rest + data).split(b"\n")
        if (not data and self._rest) or len(self._rest) > _LINE_MOST:
            lines.append(self._rest)
            self._rest = b""
        return [line.decode(errors="replace").rstrip("\r") for line in lines], not data


class Rehearsal:
    """Runs one command through a script, once. For the main thread of a program that has no other children.

    ``environ`` is added to this process's own environment. ``heard`` gets every entry as it is made, and when the
    program was started; ``look`` is called with how things stand at every event and ten times a second (None: nobody
    looks, and nothing wakes up for it).
    """

    def __init__(
        self,
        command: Sequence[str],
        settings: Settings,
        script: Iterable[Step],
        *,
        environ: Mapping[str, str] | None = None,
        heard: Callable[[Entry, int], None],
        look: Callable[[Now], None] | None = None,
    ) -> None:
        if settings.notify_access == "none" and (settings.type == "notify" or settings.watchdog_s):
            settings = dataclasses.replace(settings, notify_access="main")  # which both imply (systemd.service(5))
        self._command = tuple(command)
        self._settings = settings
        self._environ = environ or {}
        self._steps = deque(script)
        self._heard = heard
        self._look = look
        kill_signal = next((step.signum for step in self._steps if step.stop), signal.SIGTERM)
        self._service = Service(settings, kill_signal=kill_signal)
        self._tree = Tree()
        self._stack = contextlib.ExitStack()
        self._selector = selectors.DefaultSelector()
        self._entries: list[Entry] = []
        self._counts: Counter[Who] = Counter()
        self._tasks: dict[str, TaskSeen] = {}
        self._earlier: list[TaskSeen] = []
        self._spans: list[Span] = []
        self._span: tuple[str, int] = ("start", 0)
        self._deadlines: list[DeadlineSet] = []
        self._kill_from_ns = 0
        self._watchdog_from_ns = 0
        self._signals: list[SignalSent] = []
        self._killed: dict[int, ProcessSeen] = {}
        self._evidence = Evidence()
        self._margin: tuple[int, int] | None = None
        self._began_ns = 0
        self._ready_ns: int | None = None
        self._step_ns = 0
        """When the last step was done."""
        self._suspending_ns: int | None = None
        """When SIGTSTP was sent."""
        self._suspended_ns: int | None = None
        self._stop_ns: int | None = None
        self._is_main_lost = False
        """Whether a main process that is not this one's child has ended, and its parent may still leave it here."""
        self._woken: int = 0
        self._ended_by: signal.Signals | None = None
        self._is_telling = False
        """Whether somebody else is at work just now, who may block: a reader of the lines that does not read."""
        self._unended: list[int] = []
        self._shown_ns = 0

    def run(self) -> Report:
        """Run it from the start to the end.

        Raises:
            CannotStartError: the command cannot be started.
            InterruptedRehearsalError: SIGINT, SIGTERM, SIGHUP or SIGQUIT came; nothing that was started is left, or it
                says what.
        """
        try:
            with self._stack:
                self._stack.callback(self._selector.close)
                self._listen()
                # Whatever happens: nothing is left running. A signal that comes meanwhile has to wait.
                self._stack.callback(self._end_all)
                self._start()
                while not self._service.state.over:
                    self._turn()
                left, ended_ns = self._tree.seen(), now_ns()
                self._end_all()
                self._last_words()
                return self._report(left, ended_ns)
        except InterruptedRehearsalError as interrupted:
            raise InterruptedRehearsalError(interrupted.signum, self._unended) from None

    def _end_all(self) -> None:
        if not self._unended:
            self._unended = self._tree.kill_all()

    # -------------------------------------------------------------------------------------------------- way in

    def _listen(self) -> None:
        read, write = socket.socketpair()
        for end in (read, write):
            end.setblocking(False)
            self._stack.callback(end.close)
        before = {signum: signal.signal(signum, self._hear) for signum in _HEARD}
        # Ctrl-Z: systemd does not pause, and a rehearsal that did would be late for everything.
        before[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, signal.SIG_IGN)
        self._stack.callback(lambda: [signal.signal(signum, handler) for signum, handler in before.items()])
        old = signal.set_wakeup_fd(write.fileno(), warn_on_full_buffer=False)
        self._stack.callback(signal.set_wakeup_fd, old)
        self._woken = read.fileno()
        self._selector.register(read, selectors.EVENT_READ, self._on_signals)

    def _start(self) -> None:
        notify = self._stack.enter_context(NotifySocket())
        self._selector.register(notify, selectors.EVENT_READ, lambda: self._on_datagrams(notify))
        outputs = []
        for _ in ("stdout", "stderr"):
            read, write = os.pipe()
            self._stack.callback(os.close, read)
            os.set_blocking(read, False)
            lines = Lines(read)
            self._selector.register(read, selectors.EVENT_READ, lambda lines=lines: self._on_output(lines))
            outputs.append(write)
        self._began_ns = now_ns()
        self._span = (self._service.state.value, self._began_ns)
        try:
            environ = environment(self._settings, notify.path, self._environ)
            self._tree.start(self._command, environ, stdout=outputs[0], stderr=outputs[1])
        finally:
            for fd in outputs:
                os.close(fd)
        self._watch_main()
        self._enter(Who.SYSTEMD, f"started process {self._tree.main_pid}: {' '.join(self._command)}")
        self._perform(self._service.started(now_ns()))

    def _watch_main(self) -> None:
        self._selector.register(self._tree.pidfd, selectors.EVENT_READ, self._on_exit)

    # --------------------------------------------------------------------------------------------------- turns

    def _turn(self) -> None:
        self._show()
        due_ns = self._service.next_deadline()
        timeout_s = max(0, self._next_ns() - now_ns()) / NS
        # Python does not ask again what is ready where a signal has interrupted the wait, and its time is over by then:
        # an extension that has come would count for nothing.
        found = self._selector.select(timeout_s) or self._selector.select(0)
        ready = [key.data for key, _ in found]
        if self._ended_by is not None:
            raise InterruptedRehearsalError(self._ended_by)
        if ready:
            self._note_lateness(now_ns() - due_ns)
        # Datagrams first, then exits: in the order in which systemd takes them.
        order = (self._on_exit,)
        for call in sorted(ready, key=lambda call: call in order):
            call()
        if not self._service.state.over:
            self._look_at_processes()
            self._take_steps()
            if self._service.next_deadline() <= now_ns():
                self._perform(self._service.clock(now_ns(), others=self._tree.others()))

    def _next_ns(self) -> int:
        now = now_ns()
        instants = [now + (_POLL_NS if self._look is None else LOOK_NS), self._service.next_deadline()]
        if (step := self._next_step()) is not None:
            instants.append(step[1])
        if self._is_auto_waiting():
            instants.append(self._began_ns + round(AUTO_S * NS))
        return min(instants)

    def _is_auto_waiting(self) -> bool:
        return self._settings.type == "auto" and self._service.state is State.START

    def _look_at_processes(self) -> None:
        if self._is_main_lost and self._tree.is_child(self._tree.main_pid):
            self._is_main_lost = False
            self._tell_exit()
        self._tree.reap_others()
        if self._service.state.over:
            return
        if self._tree.pidfd < 0 and not self._tree.members():
            self._perform(self._service.emptied(now_ns()))
        stopped = self._suspending_ns is not None and self._tree.stopped
        if stopped and self._suspended_ns is None:
            self._suspended_ns = now_ns()
            self._evidence.suspended = True
            self._enter(Who.SYSTEMD, "it has stopped itself: suspended", Tone.GOOD)
            self._note_state("suspended")
        elif not stopped and self._suspended_ns is not None:
            self._suspended_ns = self._suspending_ns = None
            self._note_state(self._service.state.value)

    # --------------------------------------------------------------------------------------------------- script

    def _next_step(self) -> tuple[Step, int] | None:
        """The next step and its instant; None: nothing is left, or it waits for something without an instant."""
        if not self._steps or self._ready_ns is None:
            return None
        step = self._steps[0]
        match step.anchor:
            case Anchor.READY:
                base = self._ready_ns
            case Anchor.BEFORE:
                base = self._step_ns
            case Anchor.SUSPENDED if self._suspended_ns is not None:
                base = self._suspended_ns
            case Anchor.SUSPENDED:  # it has the time that a stop would have
                base = self._step_ns + round(min(self._settings.timeout_stop_s or 1e6, 1e6) * NS)
        return step, base + round(step.after_s * NS)

    def _take_steps(self) -> None:
        if self._is_auto_waiting() and now_ns() >= self._began_ns + round(AUTO_S * NS):
            self._enter(Who.SYSTEMD, f"no READY=1 for {AUTO_S:g} s: taken for Type=exec", Tone.BAD)
            self._evidence.taken_for_exec = True
            self._perform(self._service.taken_for_exec(now_ns(), others=self._tree.others()))
        while (found := self._next_step()) is not None and found[1] <= now_ns() and not self._service.state.over:
            step = self._steps.popleft()
            self._step_ns = now_ns()
            self._evidence.stop_asked |= step.stop or step.signum in _ENDING
            if step.stop:
                before = self._service.state
                if not before.stopping:
                    self._stop_ns = now_ns()
                already = before.stopping and before is not State.STOP_WATCHDOG
                more = "it is stopping already and gets no signal" if already else self._settings_text()
                self._enter(Who.SYSTEMD, f"stop asked for, as by systemctl stop ({more})")
                self._perform(self._service.stop_asked(now_ns(), others=self._tree.others()))
            else:
                self._by_hand(step.signum)

    def _settings_text(self) -> str:
        return f"KillMode={self._settings.kill_mode}, TimeoutStopSec={seconds_text(self._settings.timeout_stop_s)}"

    def _by_hand(self, signum: signal.Signals) -> None:
        if signum == signal.SIGTSTP:
            self._suspending_ns = now_ns()
            self._evidence.suspension_asked = True
        self._note_reaction(signum)
        alive = self._tree.send(signum, main=True, others=False, wake=False)
        who = f"process {self._tree.main_pid}" if alive else "nobody: the main process is gone"
        self._signals.append(SignalSent(now_ns(), signum.name, "main process, by hand" if alive else "nobody"))
        self._enter(Who.SYSTEMD, f"{signum.name} to {who}, by hand")

    # ---------------------------------------------------------------------------------------------------- hear

    def _hear(self, signum: int, frame: FrameType | None) -> None:
        """Python's handler of a signal; what waits has been woken up by the wake-up descriptor."""
        if signum in _ENDS:
            self._ended_by = signal.Signals(signum)
            for each in _ENDS:  # the next one must not break into the end of all that was started
                signal.signal(each, signal.SIG_IGN)
            if self._is_telling:
                raise InterruptedRehearsalError(self._ended_by)

    def _on_signals(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._woken, 4096)

    def _on_datagrams(self, notify: NotifySocket) -> None:
        for datagram in notify.read():
            now = now_ns()
            if datagram.tasks:
                self._take_tasks(datagram.tasks, now)
            if datagram.dropped:
                text = f"message from PID {datagram.pid} dropped: {datagram.dropped}"
                self._enter(Who.SYSTEMD, text, Tone.BAD)
            if not (fields := datagram.fields) or self._service.state.over:
                continue
            if self._refused(datagram):
                continue
            self._evidence.heard.append((now, fields))
            self._enter(Who.NOTIFY, _fields_text(fields), fields=fields)
            if "MAINPID" in fields:
                self._take_main_pid(fields["MAINPID"])
            # Counting costs a walk through /proc, and there may be many messages: only where the count is asked for.
            counts = "READY" in fields or fields.get("WATCHDOG") == "trigger"
            self._perform(self._service.message(fields, now, others=self._tree.others() if counts else 0))

    def _refused(self, datagram: Datagram) -> bool:
        access, pid = self._settings.notify_access, datagram.pid
        if access == "all":
            return False  # whoever knows the socket's name: it is in nobody else's environment
        if access != "none" and pid == self._tree.main_pid and self._tree.pidfd >= 0:
            return False
        reason = "reception is disabled" if access == "none" else f"only main PID {self._tree.main_pid} may notify"
        self._evidence.refused += 1
        self._evidence.refused_extensions += "EXTEND_TIMEOUT_USEC" in datagram.fields
        text = f"message from PID {pid} dropped, {reason}: {_fields_text(datagram.fields)}"
        self._enter(Who.SYSTEMD, text, Tone.BAD)
        return True

    def _take_main_pid(self, value: str) -> None:
        if self._service.state not in {State.START, State.RUNNING}:
            return
        pid = int(value) if value.isascii() and value.isdigit() else 0
        if pid == self._tree.main_pid:
            return
        old = self._tree.pidfd
        if old >= 0:
            self._selector.unregister(old)
        adopted = False
        with contextlib.suppress(OSError):
            adopted = self._tree.adopt_main(pid)
        if self._tree.pidfd >= 0:
            self._watch_main()
        if not adopted:
            self._enter(Who.SYSTEMD, f"MAINPID={value} is no process of this service: ignored", Tone.BAD)
            return
        self._service.main_alien = not self._tree.is_child(pid)
        self._evidence.alien_main = self._service.main_alien
        if self._service.main_alien:
            self._enter(Who.SYSTEMD, f"supervising process {pid}, which is not systemd's child", Tone.BAD)

    def _take_tasks(self, tasks: Iterable[TaskSeen], now: int) -> None:
        for task in tasks:
            before = self._tasks.get(task.id)
            self._tasks[task.id] = task
            if before is not None and before.settled and before != task:
                self._earlier.append(before)  # an earlier grace period's: the program was suspended, and came back
                before = None
            if before is not None and before.state == task.state:
                continue
            if task.state in {"acknowledged", "leaving", "dying"}:
                continue  # its outcome follows
            tone = Tone.BAD if task.lost else Tone.GOOD if task.settled else Tone.PLAIN
            reason = f": {task.reason}" if task.lost and task.reason else ""
            self._enter(Who.TASK, f"{task.name} {task.state}{reason}", tone, at_ns=now)

    def _on_output(self, lines: Lines) -> None:
        found, ended = lines.read()
        if ended:
            self._selector.unregister(lines.fd)
        for line in found:
            self._enter(Who.PROGRAM, line)

    def _on_exit(self) -> None:
        self._selector.unregister(self._tree.pidfd)
        self._note_margin()
        if not self._tree.is_child(self._tree.main_pid):
            # Its parent is told, not we: unless that leaves before it has reaped it.
            self._tree.close()
            self._is_main_lost = True
            self._service.main_lost()
            return
        self._tell_exit()

    def _tell_exit(self) -> None:
        code, status = self._tree.reap_main()
        self._perform(self._service.main_exited(code, status, now_ns(), others=self._tree.others()))

    def _last_words(self) -> None:
        """What is left in the pipes when all is over."""
        for key in list(self._selector.get_map().values()):
            if key.data not in {self._on_signals, self._on_exit}:
                key.data()

    # ------------------------------------------------------------------------------------------------- perform

    def _perform(self, actions: Iterable[Action]) -> None:
        service, at_ns = self._service, now_ns()
        before = service.state, service.until_ns, service.watchdog_ns
        if before[0].stopping:
            self._note_margin()
        for action in actions:
            match action:
                case Send():
                    self._send(action)
                case Say(text, bad):
                    self._enter(Who.SYSTEMD, text, Tone.BAD if bad else Tone.PLAIN)
        if service.state is not before[0]:
            self._note_state(service.state.value, at_ns)
            if service.state is State.RUNNING:
                self._ready_ns = at_ns
        if (service.until_ns, service.watchdog_ns) != before[1:]:
            self._note_deadline(before[1], before[2])

    def _send(self, send: Send) -> None:
        seen = self._tree.seen()
        if send.signum is signal.SIGKILL:
            chosen = [each for each in seen if (send.main if each.pid == self._tree.main_pid else send.others)]
            self._killed |= {each.pid: each for each in chosen}
        elif not self._evidence.at_stop:
            self._evidence.at_stop = seen
            self._evidence.main_pid = self._tree.main_pid
        self._note_reaction(send.signum)
        alive = self._tree.send(send.signum, main=send.main, others=send.others)
        main = f"process {self._tree.main_pid}" if self._tree.main_pid in alive else ""
        others = len(alive) - bool(main)
        count = "" if not others else f"{others} other{'s' if others > 1 else ''}" if main else _processes(others)
        whom = " and ".join(filter(None, (main, count))) or "nobody"
        told = whom.replace(main, "main process", 1) if main else whom
        self._signals.append(SignalSent(now_ns(), send.signum.name, told))
        behind = "" if send.signum is signal.SIGKILL else ", SIGCONT behind it"
        self._enter(Who.SYSTEMD, f"{send.signum.name} to {whom}{behind}", Tone.BAD if not behind else Tone.PLAIN)

    def _note_lateness(self, late_ns: int) -> None:
        """Nothing tells when what has come meanwhile did come: before the deadline, or long after it."""
        if late_ns > _LATE_NS:
            self._evidence.held_up_ns = max(self._evidence.held_up_ns, late_ns)
            text = f"this rehearsal was itself held up, past a deadline by {late_ns / NS:.1f} s"
            self._enter(Who.SYSTEMD, text, Tone.BAD)

    def _note_reaction(self, signum: signal.Signals) -> None:
        """What the main process does about a signal, just before it is sent for the first time."""
        reaction = self._tree.reaction(signum)
        if reaction:
            self._evidence.reactions.setdefault(signum, reaction)

    # ---------------------------------------------------------------------------------------------- write down

    def _enter(
        self,
        who: Who,
        text: str,
        tone: Tone = Tone.PLAIN,
        *,
        at_ns: int | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> None:
        entry = Entry(now_ns() if at_ns is None else at_ns, who, text, tone, fields or {})
        self._counts[who] += 1
        if self._counts[who] <= _KEPT_MOST[who]:
            self._entries.append(entry)
        elif self._counts[who] == _KEPT_MOST[who] + 1:
            text = f"more than {_KEPT_MOST[who]} entries of this kind: the rest is not kept"
            self._entries.append(Entry(entry.at_ns, who, text, Tone.BAD))
        self._tell(lambda: self._heard(entry, self._began_ns))

    def _tell(self, call: Callable[[], None]) -> None:
        self._is_telling = True
        try:
            call()
        finally:
            self._is_telling = False

    def _note_state(self, state: str, at_ns: int | None = None) -> None:
        now = now_ns() if at_ns is None else at_ns
        self._spans.append(Span(self._span[0], self._span[1], now))
        self._span = (state, now)
        if self._service.state.stopping and self._stop_ns is None:
            self._stop_ns = now

    def _note_deadline(self, until_ns: int, watchdog_ns: int | None) -> None:
        now, service = now_ns(), self._service
        if service.until_ns != until_ns:
            self._kill_from_ns = now
            if service.state.stopping:
                self._deadlines.append(DeadlineSet(now, service.until_ns, service.timer_why))
        if service.watchdog_ns != watchdog_ns:
            self._watchdog_from_ns = now
            if service.state.stopping:
                until = NEVER if service.watchdog_ns is None else service.watchdog_ns
                self._deadlines.append(DeadlineSet(now, until, "watchdog", watchdog=True))

    def _note_margin(self) -> None:
        """How near the kill is just now, in the part of a stop in which systemd waits for the program."""
        if self._service.state not in {State.STOP_SIGTERM, State.FINAL_SIGTERM}:
            return
        until = self._service.next_deadline()
        if until != NEVER:
            now = now_ns()
            left = max(0, until - now)
            if self._margin is None or left < self._margin[0]:
                self._margin = (left, now)

    def _show(self) -> None:
        service, now = self._service, now_ns()
        if self._look is None or now < self._shown_ns + LOOK_NS // 2:
            return
        self._shown_ns = now
        found = self._next_step()
        limited = service.timer_why != ""
        look = functools.partial(
            self._look,
            Now(
                now_ns=now,
                began_ns=self._began_ns,
                command=self._command,
                settings=self._settings,
                state=self._span[0],
                main_pid=self._tree.main_pid,
                processes=len(self._tree.members()),
                status_text=service.status_text,
                kill_from_ns=self._kill_from_ns if limited else None,
                kill_ns=service.until_ns if limited else None,
                watchdog_ns=service.watchdog_ns,
                next_step=found[0].text if found else "",
                next_step_ns=found[1] if found else None,
                tasks=tuple(self._tasks.values()),
                entries=tuple(self._entries),
                stop_ns=self._stop_ns,
                watchdog_from_ns=None if service.watchdog_ns is None else self._watchdog_from_ns,
            ),
        )
        self._tell(look)

    def _report(self, left: tuple[ProcessSeen, ...], ended_ns: int) -> Report:
        service = self._service
        self._note_state(service.state.value, ended_ns)
        self._evidence.left = left
        self._evidence.unended = tuple(self._unended)
        case = Case(
            evidence=self._evidence,
            service=service,
            settings=self._settings,
            tasks=(*self._earlier, *self._tasks.values()),
            killed=tuple(self._killed.values()),
            stop_ns=self._stop_ns,
            began_ns=self._began_ns,
            margin_ns=None if self._margin is None else self._margin[0],
        )
        return Report(
            command=self._command,
            settings=self._settings,
            began_ns=self._began_ns,
            stop_ns=self._stop_ns,
            ended_ns=ended_ns,
            result=service.result,
            code=service.code,
            status=service.status,
            status_text=service.status_text,
            margin_ns=None if self._margin is None else self._margin[0],
            margin_at_ns=None if self._margin is None else self._margin[1],
            lost=tuple(losses(case)),
            advice=tuple(advice(case)),
            killed=tuple(self._killed.values()),
            tasks=(*self._earlier, *self._tasks.values()),
            spans=tuple(self._spans),
            deadlines=tuple(self._deadlines),
            entries=tuple(self._entries),
            signals=tuple(self._signals),
        )


def _fields_text(fields: Mapping[str, str]) -> str:
    text = "  ".join(f"{key}={value}" for key, value in fields.items())
    return text if len(text) <= _FIELD_MOST else f"{text[: _FIELD_MOST - 3]}..."


def _processes(count: int) -> str:
    return "1 process" if count == 1 else f"{count} processes"
