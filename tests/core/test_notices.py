"""What systemd is told: the fields of each datagram, and when there is none."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capbg._core.notices import BEAT_NS, EXIT_MARGIN_NS, EXTENSION_NS, Notices
from capbg._core.words import NS

PURE = settings(deadline=None, database=None)
NOW = 1_000 * NS
WATCHDOG = 4 * NS


def fields(datagram: str) -> list[tuple[str, str]]:
    return [(name, value) for name, _, value in (line.partition("=") for line in datagram.split("\n"))]


def names(datagram: str) -> list[str]:
    return [name for name, _ in fields(datagram)]


@pytest.mark.parametrize(
    ("watchdog_ns", "first"),
    [
        (None, [("STOPPING", "1"), ("EXTEND_TIMEOUT_USEC", "10000000")]),
        (WATCHDOG, [("STOPPING", "1"), ("WATCHDOG_USEC", "10000000"), ("EXTEND_TIMEOUT_USEC", "10000000")]),
        (60 * NS, [("STOPPING", "1"), ("WATCHDOG_USEC", "60000000"), ("EXTEND_TIMEOUT_USEC", "10000000")]),
    ],
)
def test_a_stop_begins_with_everything_in_one_datagram(watchdog_ns: int | None, first: list[tuple[str, str]]) -> None:
    """Stopping, an extension, and a watchdog that an extension covers: but only where systemd gave us one."""
    datagram = Notices(watchdog_ns).stopping(now=NOW, end_ns=NOW + 60 * NS, status="on our way")
    assert [*first, ("STATUS", "on our way")] == fields(datagram)


@pytest.mark.parametrize("watchdog_ns", [None, WATCHDOG])
def test_only_the_first_datagram_of_a_stop_says_stopping(watchdog_ns: int | None) -> None:
    """Never in a suspension or a resume: systemd would count the unit as stopping."""
    notices = Notices(watchdog_ns)
    others = [
        notices.ready("s"),
        notices.suspending("s"),
        notices.resumed(now=NOW, status="s"),
        notices.status("s"),
        notices.extending(now=NOW, end_ns=NOW + NS, status="s"),
        notices.stopped("s"),
        notices.ping(NOW + 99 * NS) or "",
    ]
    assert [] == [each for each in others if "STOPPING" in each]
    assert [True] + [False] * 6 == ["READY=1" in each.split("\n") for each in others]


def test_without_a_watchdog_none_is_switched_on() -> None:
    """WATCHDOG_USEC= in a unit that has no watchdog would arm one: nothing says the word."""
    notices = Notices(None)
    every = [
        notices.ready("s"),
        notices.stopping(now=NOW, end_ns=NOW + NS, status="s"),
        notices.extending(now=NOW, end_ns=NOW + NS, status="s"),
        notices.stopped("s"),
        notices.suspending("s"),
        notices.resumed(now=NOW, status="s"),
        notices.status("s"),
    ]
    assert [] == [each for each in every if "WATCHDOG" in each]
    assert None is notices.ping(NOW)
    assert None is notices.ping_due_ns(NOW)


def test_the_watchdog_is_off_while_suspended_and_armed_and_fed_on_resume() -> None:
    """A stopped process cannot feed it; the first datagram back re-arms it and is a ping at once."""
    notices = Notices(WATCHDOG)
    assert [("WATCHDOG_USEC", "0"), ("STATUS", "s")] == fields(notices.suspending("s"))
    armed = [("WATCHDOG_USEC", "4000000"), ("WATCHDOG", "1"), ("STATUS", "s")]
    assert armed == fields(notices.resumed(now=NOW, status="s"))
    assert None is notices.ping(NOW)
    assert NOW + WATCHDOG // 2 == notices.ping_due_ns(NOW)


def test_the_last_word_of_a_stop_switches_the_watchdog_off() -> None:
    """Nobody can feed it while the program's own ``finally`` blocks run."""
    assert [("WATCHDOG_USEC", "0"), ("STATUS", "done")] == fields(Notices(WATCHDOG).stopped("done"))
    assert [("STATUS", "done")] == fields(Notices(None).stopped("done"))


@PURE
@given(
    left_ns=st.integers(-100 * NS, 400 * NS),
    watchdog_ns=st.none() | st.integers(1, 300 * NS),
)
def test_an_extension_never_reaches_beyond_the_end_and_its_margin(left_ns: int, watchdog_ns: int | None) -> None:
    """In good time while a task is inside its deadlines, at most one extension long, and none once the end is past."""
    notices = Notices(watchdog_ns)
    beat = dict(fields(notices.extending(now=NOW, end_ns=NOW + left_ns, status="s")))
    assert ("EXTEND_TIMEOUT_USEC" in beat) == (left_ns > 0)
    first = dict(fields(notices.stopping(now=NOW, end_ns=NOW + left_ns, status="s")))
    for each in (beat, first):
        if "EXTEND_TIMEOUT_USEC" not in each:
            assert {"STATUS": "s"} == each
            continue
        extension_ns = int(each["EXTEND_TIMEOUT_USEC"]) * 1000
        assert extension_ns <= EXTENSION_NS
        assert extension_ns < max(0, left_ns) + EXIT_MARGIN_NS + 1000
        # Long enough for what is left, or for the next beats to renew it.
        assert extension_ns >= min(left_ns, 5 * BEAT_NS)
    if watchdog_ns is not None:
        assert int(first["WATCHDOG_USEC"]) * 1000 >= max(watchdog_ns, EXTENSION_NS)


@PURE
@given(st.text())
def test_a_status_is_one_line_whatever_is_in_it(text: str) -> None:
    """A newline would begin a field of its own: a task's name or message cannot forge one."""
    for watchdog_ns in (None, WATCHDOG):
        notices = Notices(watchdog_ns)
        for datagram, count in (
            (notices.status(text), 1),
            (notices.ready(text), 2),
            (notices.stopping(now=NOW, end_ns=NOW, status=text), 3 if watchdog_ns is None else 4),
        ):
            assert count == len(datagram.split("\n")) == len(datagram.splitlines())
            assert "STATUS" == names(datagram)[-1]


def test_pings_come_at_most_four_times_an_interval() -> None:
    """The main loop may call as often as it likes: most calls send nothing, and none is late."""
    notices = Notices(WATCHDOG)
    assert NOW == notices.ping_due_ns(NOW)
    sent = [tick for tick in range(100) if notices.ping(NOW + tick * NS // 10) is not None]
    assert list(range(0, 100, 10)) == sent
    assert "WATCHDOG=1" == notices.ping(NOW + 60 * NS)


@PURE
@given(watchdog_ns=st.integers(1, 10**12), late_ns=st.lists(st.integers(0, 10**9), max_size=10))
def test_a_loop_that_keeps_the_appointed_instants_feeds_the_watchdog_in_time(
    watchdog_ns: int, late_ns: list[int]
) -> None:
    """Whoever takes a turn when the next ping is due sends one then, half an interval before it is too late."""
    notices, now = Notices(watchdog_ns), NOW
    assert "WATCHDOG=1" == notices.ping(now)
    for late in late_ns:
        due = notices.ping_due_ns(now)
        assert due is not None
        assert now + watchdog_ns // 2 == due
        now = due + late
        assert "WATCHDOG=1" == notices.ping(now)
