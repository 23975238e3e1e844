"""What systemd does with one service, as a calculator: what happened goes in, what to do comes out.

The rules are those of systemd 252, ``src/core/service.c``, found by reading and by experiment; the tests on a real
systemd hold this file against it. The names of states and results are systemd's own (``SubState=``, ``Result=``).

* There is one timer. Every state sets it anew, so an extension that came before the stop is lost.
* EXTEND_TIMEOUT_USEC= counts from its arrival and only ever lengthens; it moves the watchdog, too.
* Leaving ``running`` switches the watchdog off, but WATCHDOG=1 or WATCHDOG_USEC= switch it on again in any state.
* The first failure is the result: a program that exits with 0 behind its timeout is still ``timeout``.
* SIGCONT comes right behind every signal but SIGKILL.

What is not played: ExecStop= and its like, Restart=, RuntimeMaxSec=, FDSTORE=, RELOADING=1, a ``daemon-reload`` in
mid-stop. A timer of systemd's may be up to 0.25 s late (the default accuracy of sd-event); here it strikes on time.

This file must not know of processes, descriptors or clocks: instants are arguments, and so is how many processes the
service has beside its main one.
"""

import re
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

from capbg._core.words import NS
from capbg.cli.rehearsal.record import NEVER, Settings
from capbg.cli.units.values import EXIT_NAMES

_INFINITY = (1 << 64) - 1
"""USEC_INFINITY: as an extension it is ignored, as a watchdog it is none."""


class State(Enum):
    """systemd's ``SubState=``."""

    START = "start"
    RUNNING = "running"
    STOP_WATCHDOG = "stop-watchdog"
    STOP_SIGTERM = "stop-sigterm"
    STOP_SIGKILL = "stop-sigkill"
    FINAL_WATCHDOG = "final-watchdog"
    FINAL_SIGTERM = "final-sigterm"
    FINAL_SIGKILL = "final-sigkill"
    DEAD = "dead"
    FAILED = "failed"

    @property
    def over(self) -> bool:
        """Whether the service is down."""
        return self in {State.DEAD, State.FAILED}

    @property
    def stopping(self) -> bool:
        """Whether it is on its way down."""
        return self not in {State.START, State.RUNNING, State.DEAD, State.FAILED}


_NUMBER = re.compile(
    r"[ \t\r\n]*\+?(?:0[xX](?P<x>[0-9a-fA-F]+)|0[bB](?P<b>[01]+)|0[oO]?(?P<o>[0-7]*)|(?P<d>[1-9][0-9]*))"
)
_BASES = {"x": 16, "b": 2, "o": 8, "d": 10}
_STATES = ("READY", "STOPPING")

_STOPS = {State.STOP_WATCHDOG, State.STOP_SIGTERM, State.STOP_SIGKILL}
_SIGKILLS = {State.STOP_SIGKILL, State.FINAL_SIGKILL}
_WATCHDOGS = {State.STOP_WATCHDOG, State.FINAL_WATCHDOG}
_CLEAN_SIGNALS = {signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE}
"""A death by one of these is a clean exit of a daemon (systemd.service(5), SuccessExitStatus=)."""


@dataclass(frozen=True, slots=True)
class Send:
    """Send a signal, with SIGCONT behind it unless it is SIGKILL: to the main process, to all others, or to both."""

    signum: signal.Signals
    main: bool
    others: bool


@dataclass(frozen=True, slots=True)
class Say:
    """What systemd would log. ``bad``: a warning or an error."""

    text: str
    bad: bool = False


Action = Send | Say


class Service:
    """One service from its start to its end. Each method is an event, and yields what is to be done, in order.

    ``others`` is how many processes the service has beside its main one: systemd waits only where somebody was
    signalled.
    """

    def __init__(self, settings: Settings, *, kill_signal: signal.Signals = signal.SIGTERM) -> None:
        self.settings = settings
        self.kill_signal = kill_signal
        self.state = State.START
        self.result = "success"
        self.code = ""
        """How the main process ended: exited, killed, dumped."""
        self.status = 0
        self.status_text = ""
        self.main_alive = True
        self.main_alien = False
        """Whether the main process is not systemd's own child, by MAINPID=. Then nobody waits for it."""
        self.until_ns = NEVER
        """When the timer strikes; NEVER: not at all."""
        self.timer_why = ""
        self.watchdog_ns: int | None = None
        """When the watchdog bites; None: it is off."""
        self.watchdog_usec = 0 if settings.watchdog_s == float("inf") else round(settings.watchdog_s * 1e6)
        self.was_running = False
        self.watchdog_in_stop = False
        """Whether it was in a stop that the watchdog bit."""
        self._stopping_told = False
        """STOPPING=1 came before READY=1, and nothing else since."""

    # ------------------------------------------------------------------------------------------------------ events

    def started(self, now: int) -> Iterator[Action]:
        """The main process has been started: its exec(2) has worked."""
        if self.settings.type == "exec":
            yield from self._enter_start_post(now, others=0)
        else:
            self._arm(now, self.settings.timeout_start_s, "TimeoutStartSec")

    def taken_for_exec(self, now: int, *, others: int) -> Iterator[Action]:
        """Type=auto, and READY=1 has not come: go on as for Type=exec."""
        if self.state is State.START:
            yield from self._enter_start_post(now, others=others)

    def stop_asked(self, now: int, *, others: int) -> Iterator[Action]:
        """``systemctl stop``. In a stop it changes nothing, unless that is the watchdog's."""
        if self.state in {State.START, State.RUNNING, State.STOP_WATCHDOG}:
            yield from self._enter_signal(State.STOP_SIGTERM, "success", now, others)

    def message(self, fields: Mapping[str, str], now: int, *, others: int) -> Iterator[Action]:
        """A datagram from somebody who may notify. The fields are taken in systemd's order, not in that of the text."""
        # Of these the last one wins; the others of the same datagram are not even looked at.
        told = next((key for key in reversed(list(fields)) if key in _STATES and fields[key] == "1"), "")
        if told:
            self._stopping_told = told == "STOPPING"
        if told == "READY" and self.state is State.START and self.settings.type != "exec":
            yield from self._enter_start_post(now, others=others)
        elif told == "STOPPING" and self.state is State.RUNNING:
            self._stop_by_notify(now)
        if "STATUS" in fields:
            self.status_text = fields["STATUS"]
        if (value := fields.get("EXTEND_TIMEOUT_USEC")) is not None:
            yield from self._extend(value, now)
        if fields.get("WATCHDOG") == "1":
            self._reset_watchdog(now)
        elif fields.get("WATCHDOG") == "trigger":
            yield Say(f"Watchdog request (last status: {self.status_text or '<unset>'})!", bad=True)
            yield from self._enter_signal(State.STOP_WATCHDOG, "watchdog", now, others)
        if (value := fields.get("WATCHDOG_USEC")) is not None:
            if (number := usec(value)) is None:
                yield Say(f"Failed to parse WATCHDOG_USEC={value}", bad=True)
            else:
                self.watchdog_usec = number
                self._reset_watchdog(now)

    def main_exited(self, code: str, status: int, now: int, *, others: int) -> Iterator[Action]:
        """The main process has ended: ``exited`` with a status, ``killed`` or ``dumped`` by a signal.

        Of one that is not systemd's own child nobody may ever tell: then this never comes, but :meth:`main_lost`.
        """
        self.main_alive = False
        self.code, self.status = code, status
        failure = self._judge(code, status)
        yield Say(f"Main process exited, code={code}, status={exit_text(code, status)}", bad=failure != "success")
        self._note(failure)
        match self.state:
            case State.START if self.settings.type == "notify":
                # Only READY=1 leads to running: a program that ends before has broken its word.
                failure = "protocol" if failure == "success" else failure
                yield from self._enter_signal(State.STOP_SIGTERM, failure, now, others)
            case State.START | State.RUNNING:
                self.was_running = True  # by Type=exec's rules, for which it was going to be taken
                yield from self._enter_running(failure, now, others)
            case _ if self.state in _STOPS:
                yield from self._enter_signal(State.FINAL_SIGTERM, failure, now, others)
            case _ if self.state.stopping:
                yield from self._enter_dead(failure)

    def main_lost(self) -> None:
        """The main process has ended, which only its parent was told: systemd notices when the last process has."""
        self.main_alive = False

    def emptied(self, now: int) -> Iterator[Action]:
        """Its last process has ended."""
        if self.main_alive:
            return  # its exit is still to be told
        if self.state is State.RUNNING:
            yield from self._enter_running("success", now, 0)
        elif self.state in _STOPS:
            yield from self._enter_signal(State.FINAL_SIGTERM, "success", now, 0)
        elif self.state.stopping:
            yield from self._enter_dead("success")

    def clock(self, now: int, *, others: int) -> Iterator[Action]:
        """See whether the timer or the watchdog has struck."""
        if self.until_ns <= now:
            yield from self._timed_out(now, others)
        elif self.watchdog_ns is not None and self.watchdog_ns <= now:
            self.watchdog_ns = None
            self.watchdog_in_stop = self.state.stopping
            yield Say(f"Watchdog timeout (limit {seconds_text(self.watchdog_usec / 1e6)})!", bad=True)
            yield from self._enter_signal(State.STOP_WATCHDOG, "watchdog", now, others)

    def next_deadline(self) -> int:
        """The earliest instant at which :meth:`clock` has something to do; NEVER: none."""
        return self.until_ns if self.watchdog_ns is None else min(self.until_ns, self.watchdog_ns)

    # ------------------------------------------------------------------------------------------------------ states

    def _enter_start_post(self, now: int, *, others: int) -> Iterator[Action]:
        self._reset_watchdog(now)
        yield from self._enter_running("success", now, others)

    def _enter_running(self, failure: str, now: int, others: int) -> Iterator[Action]:
        self._note(failure)
        if self.result != "success":
            yield from self._enter_signal(State.STOP_SIGTERM, failure, now, others)
        elif not self.main_alive:
            yield from self._enter_signal(State.STOP_SIGTERM, "success", now, others)
        elif self._stopping_told:
            self.was_running = True
            self._stop_by_notify(now)
        elif self.state is not State.RUNNING:
            self.state = State.RUNNING
            self.was_running = True
            self._disarm()
            yield Say("Started")

    def _stop_by_notify(self, now: int) -> None:
        # As if it had been sent SIGTERM; nobody sends one any more.
        self._arm(now, self.settings.timeout_stop_s, "TimeoutStopSec")
        self._set(State.STOP_SIGTERM)

    def _enter_signal(self, state: State, failure: str, now: int, others: int) -> Iterator[Action]:
        self._note(failure)
        send = self._send_for(state, others)
        if send is not None:
            yield send
        waits = send is not None and ((send.main and not self.main_alien) or (send.others and others > 0))
        kills = self.settings.send_sigkill
        if waits:
            abort_s = self.settings.timeout_abort_s
            if state in _WATCHDOGS and abort_s == 0:  # unlike the others, that is no infinity
                self.until_ns, self.timer_why = now, "TimeoutAbortSec=0"
            elif state in _WATCHDOGS and abort_s is not None:
                self._arm(now, abort_s, "TimeoutAbortSec")
            else:
                self._arm(now, self.settings.timeout_stop_s, "TimeoutStopSec")
            self._set(state)
        elif state in {State.STOP_WATCHDOG, State.STOP_SIGTERM} and kills:
            yield from self._enter_signal(State.STOP_SIGKILL, "success", now, others)
        elif state in _STOPS:
            yield from self._enter_signal(State.FINAL_SIGTERM, "success", now, others)
        elif state in {State.FINAL_WATCHDOG, State.FINAL_SIGTERM} and kills:
            yield from self._enter_signal(State.FINAL_SIGKILL, "success", now, others)
        else:
            yield from self._enter_dead("success")

    def _send_for(self, state: State, others: int) -> Send | None:
        mode = self.settings.kill_mode
        if mode == "none":
            return None
        signum = signal.SIGKILL if state in _SIGKILLS else signal.SIGABRT if state in _WATCHDOGS else self.kill_signal
        to_others = others > 0 and (mode == "control-group" or (mode == "mixed" and state in _SIGKILLS))
        if not self.main_alive and not to_others:
            return None
        return Send(signum, main=self.main_alive, others=to_others)

    def _enter_dead(self, failure: str) -> Iterator[Action]:
        self._note(failure)
        self._disarm()
        self.state = State.DEAD if self.result == "success" else State.FAILED
        self.watchdog_ns = None
        if self.result == "success":
            yield Say("Deactivated successfully.")
        else:
            yield Say(f"Failed with result '{self.result}'.", bad=True)

    def _timed_out(self, now: int, others: int) -> Iterator[Action]:
        self._disarm()
        if self.state is State.START:
            yield Say("start operation timed out. Terminating.", bad=True)
            yield from self._enter_signal(State.STOP_SIGTERM, "timeout", now, others)
        elif self.state in {State.STOP_SIGTERM, State.FINAL_SIGTERM} and self.settings.failure_mode == "abort":
            yield Say(f"State '{self.state.value}' timed out. Aborting.", bad=True)
            final = self.state is State.FINAL_SIGTERM
            yield from self._enter_signal(
                State.FINAL_WATCHDOG if final else State.STOP_WATCHDOG, "timeout", now, others
            )
        elif self.state in _SIGKILLS:
            yield Say("Processes still around after SIGKILL. Ignoring.", bad=True)
            yield from self._give_up(now, others)
        elif self.settings.send_sigkill:
            yield Say(f"State '{self.state.value}' timed out. Killing.", bad=True)
            final = self.state not in _STOPS
            yield from self._enter_signal(State.FINAL_SIGKILL if final else State.STOP_SIGKILL, "timeout", now, others)
        else:
            yield Say(f"State '{self.state.value}' timed out. Skipping SIGKILL.", bad=True)
            yield from self._give_up(now, others)

    def _give_up(self, now: int, others: int) -> Iterator[Action]:
        if self.state in _STOPS:
            yield from self._enter_signal(State.FINAL_SIGTERM, "timeout", now, others)
        else:
            yield from self._enter_dead("timeout")

    def _set(self, state: State) -> None:
        self.state = state
        if state.stopping:
            self.watchdog_ns = None

    # ------------------------------------------------------------------------------------------------------ timers

    def _arm(self, now: int, duration_s: float, what: str) -> None:
        # 0 means infinity (systemd.service(5)).
        self.until_ns = NEVER if duration_s in {0.0, float("inf")} else now + round(duration_s * NS)
        self.timer_why = f"{what}={seconds_text(duration_s)}"

    def _disarm(self) -> None:
        self.until_ns = NEVER
        self.timer_why = ""

    def _extend(self, value: str, now: int) -> Iterator[Action]:
        number = usec(value)
        if number is None:
            yield Say(f"Failed to parse EXTEND_TIMEOUT_USEC={value}", bad=True)
        elif number not in {0, _INFINITY}:
            until = now + number * 1000
            if self.until_ns != NEVER and until > self.until_ns:
                self.until_ns = until
                self.timer_why = f"extended by {seconds_text(number / 1e6)}"
            if self.watchdog_ns is not None:
                self.watchdog_ns = max(self.watchdog_ns, until)

    def _reset_watchdog(self, now: int) -> None:
        off = self.watchdog_usec in {0, _INFINITY}
        self.watchdog_ns = None if off else now + self.watchdog_usec * 1000

    # ----------------------------------------------------------------------------------------------------- results

    def _note(self, failure: str) -> None:
        if self.result == "success":
            self.result = failure

    def _judge(self, code: str, status: int) -> str:
        if code == "exited":
            return "success" if status in {0, *self.settings.success_statuses} else "exit-code"
        if code == "killed":
            return "success" if status in _CLEAN_SIGNALS else "signal"
        return "core-dump"


def usec(value: str) -> int | None:
    """A number of microseconds as systemd's safe_atou64() takes it; None: it does not parse.

    It is read as strtoull(3) reads one of base 0: 0x7f is one, too, and 010 is 8.
    """
    found = _NUMBER.fullmatch(value)
    if found is None or found.lastgroup is None:
        return None
    number = int(found[found.lastgroup] or "0", _BASES[found.lastgroup])
    return number if number <= _INFINITY else None


def seconds_text(duration_s: float) -> str:
    """A duration as systemd writes it: ``3s``, ``1min 30s``, ``500ms``, ``infinity``."""
    if duration_s == float("inf"):
        return "infinity"
    if duration_s == 0:
        return "0"
    usec = round(duration_s * 1e6)
    parts = []
    for unit, size in (("h", 3_600_000_000), ("min", 60_000_000), ("s", 1_000_000), ("ms", 1000), ("us", 1)):
        count, usec = divmod(usec, size)
        if count:
            parts.append(f"{count}{unit}")
    return " ".join(parts)


def exit_text(code: str, status: int) -> str:
    """As ``systemctl status`` shows it: ``9/KILL``, ``75/TEMPFAIL``, ``0/SUCCESS``, ``3/NOTIMPLEMENTED``."""
    if code != "exited":
        return f"{status}/{signal_name(status).removeprefix('SIG')}" if status else "?"
    name = next((name for name, number in EXIT_NAMES.items() if number == status), "n/a")
    return f"{status}/{name}"


def signal_name(number: int) -> str:
    """``SIGTERM``, ``SIGRTMIN+3``: every number has one, and Python knows but two of the real-time ones."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"
