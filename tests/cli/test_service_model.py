"""systemd's rules as a calculator: whatever happens, in whatever order, it holds to what a real systemd promises.

What each rule comes to is held against a real one in tests/systemd/test_rehearsal.py; here are the properties.
"""

import signal
from collections.abc import Iterable

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from capbg._core.words import NS
from capbg.cli.rehearsal.record import NEVER, Settings
from capbg.cli.rehearsal.service import Action, Say, Send, Service, State, exit_text, seconds_text

NUMBERS = st.sampled_from(["0", "1", "1500000", "4000000", str(2**64 - 2), str(2**64 - 1), str(2**64), "", "-1", "1e6"])
FIELDS = st.dictionaries(
    st.sampled_from(["READY", "STOPPING", "STATUS", "EXTEND_TIMEOUT_USEC", "WATCHDOG", "WATCHDOG_USEC", "X_OTHER"]),
    st.one_of(st.just("1"), st.just("trigger"), NUMBERS),
    max_size=4,
)
SETTINGS = st.builds(
    Settings,
    type=st.sampled_from(["notify", "exec"]),
    kill_mode=st.sampled_from(["control-group", "mixed", "process", "none"]),
    timeout_start_s=st.sampled_from([0.0, 2.0, float("inf")]),
    timeout_stop_s=st.sampled_from([0.0, 2.0, float("inf")]),
    timeout_abort_s=st.sampled_from([None, 0.0, 1.0]),
    failure_mode=st.sampled_from(["terminate", "abort", "kill"]),
    watchdog_s=st.sampled_from([0.0, 1.0, float("inf")]),
    send_sigkill=st.booleans(),
    success_statuses=st.sampled_from([(), (75,)]),
)


class Life(RuleBasedStateMachine):
    """A service and its processes, of which nobody knows what they will do next; SIGKILL is the one sure thing."""

    @initialize(chosen=SETTINGS, others=st.integers(0, 3))
    def begin(self, chosen: Settings, others: int) -> None:
        """Start it."""
        self.settings, self.others = chosen, others
        self.now = 1000 * NS
        self.service = Service(chosen)
        self.dying = False
        """Whether SIGKILL is on its way to the main process."""
        self.first = "success"
        self.do(self.service.started(self.now))

    def do(self, actions: Iterable[Action]) -> None:
        """Take the actions as the kernel would."""
        for action in actions:
            if isinstance(action, Say):
                assert action.text
                continue
            assert isinstance(action, Send)
            assert action.main <= self.service.main_alive, "a signal to a process that is gone"
            if action.signum is signal.SIGKILL:
                assert self.settings.send_sigkill
                self.dying |= action.main
                self.others = 0 if action.others else self.others
        if self.first != "success":
            assert self.first == self.service.result, "the first failure is the result"
        self.first = self.service.result

    def alive(self) -> bool:
        """Whether there is a service to whom something can happen."""
        return hasattr(self, "service") and not self.service.state.over

    @precondition(alive)
    @rule(fields=FIELDS)
    def speak(self, fields: dict[str, str]) -> None:
        """A datagram: it extends, and never shortens, unless it asks for the abort, which enters a state anew."""
        state, until = self.service.state, self.service.until_ns
        self.do(self.service.message(fields, self.now, others=self.others))
        if self.service.state is state and fields.get("WATCHDOG") != "trigger":
            assert self.service.until_ns >= until
            assert (self.service.until_ns == NEVER) == (until == NEVER), "an extension makes no limit, and lifts none"

    @precondition(alive)
    @rule()
    def stop(self) -> None:
        """`systemctl stop`, at any time."""
        self.do(self.service.stop_asked(self.now, others=self.others))
        assert self.service.state.stopping or self.service.state.over

    @precondition(lambda self: self.alive() and self.service.main_alive)
    @rule(
        how=st.sampled_from(
            [("exited", 0), ("exited", 75), ("killed", 15), ("killed", 9), ("dumped", 6), ("killed", 40)]
        )
    )
    def leave(self, how: tuple[str, int]) -> None:
        """Its main process ends, by itself or by the SIGKILL it was sent."""
        self.end_main(("killed", 9) if self.dying else how)

    def end_main(self, how: tuple[str, int]) -> None:
        """Its main process ends so."""
        self.do(self.service.main_exited(*how, self.now, others=self.others))
        assert self.service.state not in {State.START, State.RUNNING}

    @precondition(lambda self: self.alive() and self.others > 0)
    @rule()
    def lose_one(self) -> None:
        """Another process ends."""
        self.others -= 1
        self.look()

    def look(self) -> None:
        """See whether it is empty."""
        if not self.others and not self.service.main_alive and not self.service.state.over:
            self.do(self.service.emptied(self.now))

    @precondition(alive)
    @rule(seconds=st.sampled_from([0.1, 1.0, 2.5]))
    def wait(self, seconds: float) -> None:
        """Time goes by; a deadline strikes at its instant, and not before."""
        end = self.now + round(seconds * NS)
        while self.alive() and (due := self.service.next_deadline()) <= end:
            self.now = max(self.now, due)
            self.do(self.service.clock(self.now, others=self.others))
            assert (
                self.service.state.over or self.service.next_deadline() > self.now or self.settings.timeout_abort_s == 0
            )
        self.now = end
        if self.alive():
            assert [] == list(self.service.clock(self.now, others=self.others))

    @precondition(lambda self: not self.alive())
    @rule()
    def rest(self) -> None:
        """It is down, and nobody asks it anything any more."""

    @invariant()
    def over_is_over(self) -> None:
        """What is down has no deadline, and failed exactly when its result is a failure."""
        if hasattr(self, "service") and self.service.state.over:
            assert self.service.until_ns == NEVER
            assert (self.service.state is State.FAILED) == (self.service.result != "success")

    def teardown(self) -> None:
        """Whatever has happened: asked to stop, and left alone, it comes to its end, unless it has no limit."""
        if not self.alive() or self.settings.timeout_stop_s != 2.0:
            return
        self.do(self.service.stop_asked(self.now, others=self.others))
        for _ in range(12):
            if not self.alive():
                return
            if self.dying and self.service.main_alive:
                self.end_main(("killed", 9))
                continue
            self.look()
            if self.alive():
                self.now = max(self.now, self.service.next_deadline())
                self.do(self.service.clock(self.now, others=self.others))
        assert not self.alive(), f"it is still {self.service.state}"


Life.TestCase.settings = hypothesis_settings(max_examples=200, stateful_step_count=25, deadline=None)
TestLife = Life.TestCase


@pytest.mark.parametrize(
    ("text", "seconds"),
    {
        "8000000": 8.0,
        "0x7A1200": 8.0,
        "0X7a1200": 8.0,
        "+0x7A1200": 8.0,
        "0b11110100001001000000000": 8.0,
        "0B11110100001001000000000": 8.0,
        "0o36411000": 8.0,
        "0O36411000": 8.0,
        "036411000": 8.0,
        " \t8000000": 8.0,
        "+8000000": 8.0,
        "8000000 ": None,
        "08000000": None,
        "8e6": None,
        "8s": None,
        "8_000_000": None,
        "٨٠٠٠٠٠٠": None,
        "": None,
        "infinity": None,
        "-1": None,
        "18446744073709551616": None,
        "18446744073709551615": None,
        "0": None,
    }.items(),
)
def test_a_number_is_read_as_strtoull_reads_it(text: str, seconds: float | None) -> None:
    """safe_atou64() of base 0, as a real systemd was seen to take each of them; what is none extends nothing."""
    service = Service(Settings(type="exec", timeout_stop_s=2.0))
    list(service.started(0))
    list(service.stop_asked(0, others=0))

    list(service.message({"EXTEND_TIMEOUT_USEC": text}, NS // 2, others=0))

    assert (2 * NS if seconds is None else NS // 2 + round(seconds * NS)) == service.until_ns


def test_durations_and_ends_read_as_systemd_writes_them() -> None:
    """`1min 30s`, `500ms`, `9/KILL`, `75/TEMPFAIL`; a real-time signal has a number and no name in Python."""
    durations = [seconds_text(each) for each in (90.0, 0.5, 3.0, 3723.25, float("inf"), 0.0)]
    assert ["1min 30s", "500ms", "3s", "1h 2min 3s 250ms", "infinity", "0"] == durations
    ends = [exit_text(*each) for each in (("killed", 9), ("exited", 75), ("exited", 0), ("killed", 40), ("exited", 3))]
    assert ["9/KILL", "75/TEMPFAIL", "0/SUCCESS", "40/RTMIN+6", "3/NOTIMPLEMENTED"] == ends
    assert ["64/USAGE", "78/CONFIG", "200/n/a"] == [exit_text("exited", status) for status in (64, 78, 200)]
