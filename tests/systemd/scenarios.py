"""What the rehearsal is held against systemd with: units, programs, and how systemd 252 ends them.

The numbers of the comments are those of the measurements in systemd's own terms: every rule here was seen on a real
systemd before it was written down, and is seen there again by the test.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.probe import PREAMBLE

Action = tuple[Any, ...]
"""(seconds behind what it answers, what, words...), as tests/systemd/puppet.py knows them."""
Verdict = tuple[str, str, int]
"""Result=, how the main process ended, its exit status or signal."""

CLEAN: Verdict = ("success", "exited", 0)
KILLED: Verdict = ("timeout", "killed", 9)
BITTEN: Verdict = ("watchdog", "killed", 6)
TERMED: Verdict = ("success", "killed", 15)


@dataclass(frozen=True, slots=True)
class Scenario:
    """A unit, a program, what is done to it and what comes out."""

    name: str
    verdict: Verdict
    script: Mapping[str, Sequence[Action]] = field(default_factory=dict)
    """For the puppet."""
    source: str = ""
    """Another program, in its stead."""
    unit: Mapping[str, Any] = field(default_factory=dict)
    """Settings beside Type=notify, KillMode=mixed and TimeoutStopSec=1."""
    hand: Sequence[str] = ()
    """Signals to the main process by hand, half a second between each and before the stop."""
    stop: bool = True
    """Whether it is stopped; else it comes to its end by itself."""
    stop_counts: bool = True
    """Whether its end is timed from that stop; else that finds it on its way down, and no times are compared."""
    status: str = ""
    """The last STATUS= that counts."""


def tell(at: float, *lines: str) -> Action:
    """One datagram."""
    return at, "tell", "\n".join(lines)


def each(interval: float, until: float, *lines: str, at: float = 0) -> list[Action]:
    """The same datagram again and again, the last time at or before ``until``."""
    count = int((until - at) / interval + 1e-6) + 1
    return [tell(at + number * interval, *lines) for number in range(count)]


def leave(at: float, status: int = 0) -> Action:
    """Exit."""
    return at, "leave", status


def extend(seconds: float) -> str:
    """The line that extends."""
    return f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}"


READY = tell(0, "READY=1")
PING = "WATCHDOG=1"


def on_stop(*actions: Action, start: Sequence[Action] = (READY,)) -> dict[str, Sequence[Action]]:
    """A program that is ready at once and answers SIGTERM so."""
    return {"start": start, "SIGTERM": actions}


def _watched(**more: Any) -> dict[str, Any]:
    return {"WatchdogSec": 2, "TimeoutStopSec": 8, **more}


EXTENSIONS = [
    Scenario("in good time", CLEAN, on_stop(*each(0.4, 2.8, extend(0.8)), leave(3))),
    Scenario("none", KILLED, on_stop(leave(3))),
    Scenario("before the stop", KILLED, on_stop(leave(3), start=[READY, tell(0, extend(60))])),
    Scenario("too short", KILLED, on_stop(*each(0.9, 2.7, extend(0.6)), leave(3))),
    Scenario("too late", KILLED, on_stop(tell(1.5, extend(9)), leave(3))),
    Scenario("counts from its arrival", KILLED, on_stop(tell(0.5, extend(2)), leave(5))),
    Scenario("one that is long", CLEAN, on_stop(tell(0, extend(8)), leave(3))),
    Scenario("they cease", KILLED, on_stop(*each(0.4, 1.6, extend(0.8)), leave(4))),
    Scenario("never shortens", KILLED, on_stop(tell(0, extend(2)), tell(0.5, extend(0.1)), leave(4))),
    Scenario("2^64 - 2", CLEAN, on_stop(tell(0, f"EXTEND_TIMEOUT_USEC={2**64 - 2}"), leave(2.5))),
    Scenario("2^64 - 1", KILLED, on_stop(tell(0, f"EXTEND_TIMEOUT_USEC={2**64 - 1}"), leave(2.5))),
    Scenario("twice in one datagram", KILLED, on_stop(tell(0, extend(0.1), extend(9)), leave(2.5))),
    Scenario("no limit", CLEAN, on_stop(tell(0, extend(0.5)), leave(2)), unit={"TimeoutStopSec": "infinity"}),
    Scenario("no limit, by 0", CLEAN, on_stop(tell(0, extend(0.5)), leave(2)), unit={"TimeoutStopSec": 0}),
]
"""EXTEND_TIMEOUT_USEC= in a stop."""

NUMBERS = [
    Scenario(f"extends by {text!r}", verdict, on_stop(tell(0, f"EXTEND_TIMEOUT_USEC={text}"), leave(1.8)))
    for text, verdict in {
        "infinity": KILLED,
        "8000000.0": KILLED,
        "-1": KILLED,
        "0": KILLED,
        "0x7A1200": CLEAN,
        "0b11110100001001000000000": CLEAN,
        "0O36440000": CLEAN,
        "010000000": CLEAN,  # octal: 2097152
        "03600000": KILLED,  # octal: 0.98 s
        " +8000000": CLEAN,
        "8000000 ": KILLED,
    }.items()
]
"""Numbers as systemd reads them."""

STARTS = [
    Scenario(
        "a start that is extended",
        CLEAN,
        {"start": [*each(0.4, 2.4, extend(0.8)), tell(2.5, "READY=1")], "SIGTERM": [leave(0.2)]},
        unit={"TimeoutStartSec": 1},
    ),
    Scenario(
        "a start too slow",
        ("timeout", "exited", 0),
        {"start": [tell(3, "READY=1")], "SIGTERM": [leave(0.5)]},
        unit={"TimeoutStartSec": 1},
        stop=False,
    ),
    Scenario(
        "a start too slow and deaf",
        KILLED,
        {"start": [tell(5, "READY=1")], "SIGTERM": []},
        unit={"TimeoutStartSec": 1},
        stop=False,
    ),
    Scenario(
        "a start too slow that dies of it",
        ("timeout", "killed", 15),
        {"start": [tell(5, "READY=1")]},
        unit={"TimeoutStartSec": 1},
        stop=False,
    ),
    Scenario("leaves with 0 before READY", ("protocol", "exited", 0), {"start": [leave(0.3)]}, stop=False),
    Scenario("leaves with 3 before READY", ("exit-code", "exited", 3), {"start": [leave(0.3, 3)]}, stop=False),
    Scenario("dies before READY", ("signal", "killed", 9), {"start": [(0.3, "die", 9)]}, stop=False),
    Scenario("dies cleanly before READY", ("protocol", "killed", 15), {"start": [(0.3, "die", 15)]}, stop=False),
    Scenario(
        "leaves a child before READY",
        ("protocol", "exited", 0),
        {"start": [(0, "fork", "deaf"), leave(0.3)]},
        unit={"KillMode": "control-group"},
        stop=False,
    ),
    Scenario("leaves by itself with 0", CLEAN, {"start": [READY, leave(0.6)]}, stop=False),
    Scenario("leaves by itself with 3", ("exit-code", "exited", 3), {"start": [READY, leave(0.6, 3)]}, stop=False),
    Scenario("leaves a child by itself", CLEAN, {"start": [READY, (0, "fork", "deaf"), leave(0.6)]}, stop=False),
    Scenario(
        "leaves a child that is asked",
        ("timeout", "exited", 0),
        {"start": [READY, (0, "fork", "deaf"), leave(0.6)]},
        unit={"KillMode": "control-group"},
        stop=False,
    ),
    Scenario("is not waited for", CLEAN, {"start": [], "SIGTERM": [leave(0.4)]}, unit={"Type": "exec"}),
    Scenario(
        "STOPPING before READY", CLEAN, {"start": [tell(0, "STOPPING=1"), tell(0.4, "READY=1"), leave(1)]}, stop=False
    ),
    Scenario(
        "STOPPING, then READY in one",
        ("timeout", "killed", 9),
        {"start": [tell(0, "READY=1"), tell(0.3, "STOPPING=1", "READY=1"), tell(1.2, "STOPPING=1"), leave(4)]},
        stop=False,
    ),
    Scenario(
        "READY, then STOPPING in one",
        ("timeout", "exited", 0),
        {"start": [tell(0, "READY=1", "STOPPING=1")], "SIGTERM": [leave(0.2)]},
        unit={"TimeoutStartSec": 1},
        stop=False,
    ),
]
"""From the start to READY=1, and ends that nobody has asked for."""

FED = [READY, *each(0.3, 30, PING)]

WATCHDOG = [
    Scenario("silent in the stop", CLEAN, on_stop(leave(3.5), start=FED), unit=_watched()),
    Scenario("pings, then falls silent", BITTEN, on_stop(*each(0.3, 0.6, PING), leave(5), start=FED), unit=_watched()),
    Scenario("pings to the end", CLEAN, on_stop(*each(0.3, 3.3, PING), leave(3.5), start=FED), unit=_watched()),
    Scenario(
        "a ping, then extensions",
        CLEAN,
        on_stop(tell(0, PING), *each(0.4, 3.2, extend(0.9), at=0.4), leave(3.5), start=FED),
        unit=_watched(),
    ),
    Scenario(
        "set anew in the stop", BITTEN, on_stop(tell(0.2, "WATCHDOG_USEC=700000"), leave(4), start=FED), unit=_watched()
    ),
    Scenario(
        "off in the stop",
        CLEAN,
        on_stop(tell(0, PING), tell(0.2, "WATCHDOG_USEC=0"), tell(0.4, PING), leave(3.5), start=FED),
        unit=_watched(),
    ),
    Scenario("not before READY", BITTEN, {"start": [tell(1.6, "READY=1")]}, unit=_watched(WatchdogSec=1), stop=False),
    Scenario(
        "a ping before READY",
        BITTEN,
        {"start": [tell(0, PING), tell(2.5, "READY=1")]},
        unit=_watched(WatchdogSec=1),
        stop=False,
    ),
    Scenario("trigger while running", BITTEN, {"start": [READY, tell(0.5, "WATCHDOG=trigger")]}, stop=False),
    Scenario(
        "trigger in the stop", BITTEN, on_stop(tell(0.5, "WATCHDOG=trigger"), leave(3)), unit={"TimeoutStopSec": 8}
    ),
    Scenario(
        "a new limit",
        BITTEN,
        {"start": [READY, tell(0.5, "WATCHDOG_USEC=1700000")]},
        unit=_watched(WatchdogSec=1),
        stop=False,
    ),
    Scenario(
        "0 is off",
        CLEAN,
        {"start": [READY, tell(0, "WATCHDOG_USEC=0"), leave(2.2)]},
        unit=_watched(WatchdogSec=1),
        stop=False,
    ),
    Scenario(
        "2^64 - 1 is off",
        CLEAN,
        {"start": [READY, tell(0, f"WATCHDOG_USEC={2**64 - 1}"), leave(2.2)]},
        unit=_watched(WatchdogSec=1),
        stop=False,
    ),
    Scenario(
        "infinity does not parse",
        BITTEN,
        {"start": [READY, tell(0, "WATCHDOG_USEC=infinity"), leave(3)]},
        unit=_watched(WatchdogSec=1),
        stop=False,
    ),
    Scenario(
        "set without WatchdogSec=", BITTEN, {"start": [READY, tell(0, "WATCHDOG_USEC=700000"), leave(3)]}, stop=False
    ),
    Scenario("pings without WatchdogSec=", CLEAN, {"start": [READY, tell(0, PING), leave(1.8)]}, stop=False),
    Scenario(
        "an extension while running",
        BITTEN,
        {"start": [READY, tell(0.4, extend(1.8)), leave(4)]},
        unit=_watched(WatchdogSec=1),
        stop=False,
    ),
    Scenario(
        "the ping behind it wins",
        BITTEN,
        {"start": [READY, tell(0.4, extend(2.8)), tell(0.5, PING), leave(5)]},
        unit=_watched(WatchdogSec=1),
        stop=False,
    ),
    Scenario(
        "the ping beside it wins",
        BITTEN,
        {"start": [READY, tell(0.4, PING, extend(2.8)), leave(5)]},
        unit=_watched(WatchdogSec=1),
        stop=False,
    ),
    Scenario(
        "extensions in place of pings",
        CLEAN,
        {"start": [READY, *each(0.4, 2.4, extend(0.9)), leave(2.5)]},
        unit=_watched(WatchdogSec=1),
        stop=False,
    ),
    Scenario(
        "SIGABRT is caught",
        ("watchdog", "killed", 9),
        {"start": [READY], "SIGABRT": [leave(4)]},
        unit=_watched(WatchdogSec=1, TimeoutAbortSec=1),
        stop=False,
    ),
    Scenario(
        "SIGABRT is answered",
        ("watchdog", "exited", 0),
        {"start": [READY], "SIGABRT": [leave(0.5)]},
        unit=_watched(WatchdogSec=1),
        stop=False,
    ),
    Scenario(
        "a stop behind SIGABRT",
        ("watchdog", "exited", 4),
        {"start": [READY, tell(0, "WATCHDOG=trigger")], "SIGABRT": [], "SIGTERM": [leave(0.3, 4)]},
        unit={"TimeoutStopSec": 8},
        stop_counts=False,
    ),
    Scenario("stopped by itself", BITTEN, {"start": [READY, (0, "stop")]}, unit=_watched(WatchdogSec=1), stop=False),
    Scenario(
        "off, then stopped by itself",
        CLEAN,
        on_stop(leave(0.4), start=[READY, tell(0, "WATCHDOG_USEC=0"), (0.5, "stop")]),
        unit=_watched(WatchdogSec=1),
        hand=["SIGWINCH"] * 4,
    ),
    Scenario(
        "TimeoutAbortSec=0",
        ("watchdog", "killed", 9),
        {"start": [READY], "SIGABRT": [leave(2)]},
        unit=_watched(WatchdogSec=1, TimeoutAbortSec=0),
        stop=False,
    ),
    Scenario("WatchdogSec=infinity", CLEAN, on_stop(leave(0.3), start=FED), unit=_watched(WatchdogSec="infinity")),
]
"""WatchdogSec=, WATCHDOG= and WATCHDOG_USEC=."""

DEAF, PLAIN, SESSION = (0, "fork", "deaf"), (0, "fork", "plain"), (0, "fork", "session")
_WAITS = on_stop((0, "wait"), leave(3), start=[READY, PLAIN])
_EARLY = on_stop(leave(0.3), start=[READY, DEAF, SESSION])
_LATE = on_stop(leave(3), start=[READY, DEAF])
_CRASH = {"start": [READY, DEAF, PLAIN, (0.5, "die", 9)]}

KILL_MODES = [
    Scenario("its child is asked", CLEAN, _WAITS, unit={"KillMode": "control-group"}),
    Scenario("its child is not asked", KILLED, _WAITS),
    Scenario("its child is never asked", KILLED, _WAITS, unit={"KillMode": "process"}),
    Scenario("it leaves children, control-group", ("timeout", "exited", 0), _EARLY, unit={"KillMode": "control-group"}),
    Scenario("it leaves children, mixed", CLEAN, _EARLY),
    Scenario("it leaves children, process", CLEAN, _EARLY, unit={"KillMode": "process"}),
    Scenario("it is too late, control-group", KILLED, _LATE, unit={"KillMode": "control-group"}),
    Scenario("it is too late, mixed", KILLED, _LATE),
    Scenario("it is too late, process", KILLED, _LATE, unit={"KillMode": "process"}),
    Scenario(
        "no SIGKILL and children, control-group",
        ("timeout", "exited", 0),
        _EARLY,
        unit={"KillMode": "control-group", "SendSIGKILL": "no"},
    ),
    Scenario("no SIGKILL and children, mixed", CLEAN, _EARLY, unit={"SendSIGKILL": "no"}),
    Scenario("no SIGKILL and children, process", CLEAN, _EARLY, unit={"KillMode": "process", "SendSIGKILL": "no"}),
    Scenario("no SIGKILL and too late", ("timeout", "", 0), on_stop(leave(9)), unit={"SendSIGKILL": "no"}),
    Scenario(
        "it crashes, control-group", ("signal", "killed", 9), _CRASH, unit={"KillMode": "control-group"}, stop=False
    ),
    Scenario("it crashes, mixed", ("signal", "killed", 9), _CRASH, stop=False),
    Scenario("it crashes, process", ("signal", "killed", 9), _CRASH, unit={"KillMode": "process"}, stop=False),
    Scenario("KillMode=none", ("success", "", 0), on_stop(leave(9), start=[READY, PLAIN]), unit={"KillMode": "none"}),
]
"""KillMode= and SendSIGKILL=."""

_ABORT = {"TimeoutStopFailureMode": "abort", "TimeoutAbortSec": 1.4}
_SECOND = {"start": [READY], "SIGTERM": [], "SIGABRT": [tell(0, extend(2)), leave(1.8)]}

ENDS = [
    Scenario("status 1", ("exit-code", "exited", 1), on_stop(leave(0.1, 1))),
    Scenario("status 75", ("exit-code", "exited", 75), on_stop(leave(0.1, 75))),
    Scenario(
        "status 75 is a success", ("success", "exited", 75), on_stop(leave(0.1, 75)), unit={"SuccessExitStatus": "75"}
    ),
    Scenario("status 143", ("exit-code", "exited", 143), on_stop(leave(0.1, 143))),
    Scenario("dies of SIGTERM", TERMED, {"start": [READY]}),
    Scenario("dies of SIGINT", ("success", "killed", 2), {"start": [READY]}, unit={"KillSignal": "SIGINT"}),
    Scenario("dies of SIGHUP", ("success", "killed", 1), on_stop((0.1, "die", 1))),
    Scenario("dies of SIGUSR1", ("signal", "killed", 10), on_stop((0.1, "die", 10))),
    Scenario("dies of SIGSEGV", ("signal", "killed", 11), on_stop((0.1, "die", 11))),
    Scenario("ignores SIGTERM", KILLED, {"start": [(0, "ignore", 15), READY]}),
    Scenario("abort", ("timeout", "killed", 6), {"start": [READY], "SIGTERM": []}, unit=_ABORT),
    Scenario("abort is too late", KILLED, {"start": [READY], "SIGTERM": [], "SIGABRT": [leave(3)]}, unit=_ABORT),
    Scenario("abort is extended", ("timeout", "exited", 0), _SECOND, unit=_ABORT),
    Scenario(
        "abort, as long as the stop",
        KILLED,
        {"start": [READY], "SIGTERM": [], "SIGABRT": [leave(5)]},
        unit={"TimeoutStopFailureMode": "abort"},
    ),
    Scenario("kill", ("timeout", "killed", 9), on_stop(leave(3)), unit={"TimeoutStopFailureMode": "kill"}),
    Scenario(
        "abort with children",
        ("timeout", "killed", 6),
        {"start": [READY, DEAF], "SIGTERM": []},
        unit={**_ABORT, "KillMode": "control-group"},
    ),
    Scenario(
        "abort of children",
        ("timeout", "exited", 0),
        on_stop(leave(0.3), start=[READY, DEAF]),
        unit={**_ABORT, "KillMode": "control-group"},
    ),
]
"""Exit statuses, deaths, TimeoutStopFailureMode=."""

MESSAGES = [
    Scenario(
        "STOPPING while running",
        KILLED,
        {"start": [READY, tell(0.3, "STOPPING=1"), leave(4)], "SIGTERM": [leave(0, 5)]},
        stop=False,
    ),
    Scenario(
        "STOPPING, then a stop",
        CLEAN,
        {"start": [READY, tell(0, "STOPPING=1"), leave(3)], "SIGTERM": [leave(0, 5)]},
        unit={"TimeoutStopSec": 8},
        stop_counts=False,
    ),
    Scenario("STOPPING in the stop", KILLED, on_stop(tell(0.5, "STOPPING=1"), leave(3))),
    Scenario(
        "SIGTERM by hand",
        CLEAN,
        {"start": [READY], "SIGTERM": [leave(1.6)]},
        unit={"TimeoutStopSec": 8},
        hand=["SIGTERM"],
    ),
    Scenario(
        "its status",
        CLEAN,
        on_stop(tell(0, "STATUS=one"), tell(0.1, "STATUS=two", "STATUS=three"), leave(0.2)),
        status="two",
    ),
    Scenario("its status is emptied", CLEAN, on_stop(tell(0, "STATUS=one"), tell(0.1, "STATUS="), leave(0.2))),
    Scenario(
        "a status that is no text",
        CLEAN,
        on_stop(tell(0, "STATUS=one"), tell(0.1, "STATUS=\udcff"), leave(0.2)),
        status="",
    ),
    Scenario("lines end in CR, too", CLEAN, on_stop(tell(0, f"STATUS=one\r{extend(9)}\r"), leave(1.8)), status="one"),
    Scenario("4096 bytes", CLEAN, on_stop(tell(0, extend(9).ljust(4095, "\n") + "\n"), leave(1.8))),
    Scenario("4097 bytes", KILLED, on_stop(tell(0, extend(9).ljust(4096, "\n") + "\n"), leave(1.8))),
    Scenario("a NUL behind it", CLEAN, on_stop(tell(0, extend(9) + "\0"), leave(1.8))),
    Scenario("a NUL in it", KILLED, on_stop(tell(0, extend(9) + "\0\n"), leave(1.8))),
    Scenario(
        "a child's word is dropped",
        KILLED,
        on_stop((0, "fork", "plain", f"STATUS=child\n{extend(9)}"), leave(2)),
        status="",
    ),
    Scenario(
        "a child's word is dropped, exec",
        CLEAN,
        {"start": [(0, "fork", "plain", "STATUS=child")], "SIGTERM": [leave(0.3)]},
        unit={"Type": "exec"},
    ),
    Scenario(
        "a child's word counts",
        CLEAN,
        on_stop((0, "fork", "plain", f"STATUS=child\n{extend(9)}"), leave(2)),
        unit={"NotifyAccess": "all"},
        status="child",
    ),
    Scenario(
        "nobody may speak, so the main process may",
        CLEAN,
        on_stop(tell(0, extend(9)), leave(1.8)),
        unit={"NotifyAccess": "none"},
    ),
    Scenario("MAINPID is its child", TERMED, on_stop(leave(0.5), start=[READY, (0, "hand over")])),
    Scenario("MAINPID in the stop", CLEAN, on_stop((0, "hand over"), leave(0.5))),
    Scenario("READY once more", KILLED, on_stop(tell(0.5, "READY=1"), leave(3))),
    Scenario("a reload in the stop", KILLED, on_stop(tell(0.5, "RELOADING=1"), leave(3))),
    Scenario("SIGTSTP by default", TERMED, {"start": [READY]}, hand=["SIGTSTP"]),
    Scenario(
        "SIGTSTP is caught",
        CLEAN,
        {"start": [READY], "SIGTSTP": [(0, "stop")], "SIGCONT": [], "SIGTERM": [leave(0.4)]},
        hand=["SIGTSTP"],
    ),
    Scenario(
        "SIGTSTP and back",
        CLEAN,
        {"start": [READY], "SIGTSTP": [(0, "stop")], "SIGCONT": [tell(0, "STATUS=back")], "SIGTERM": [leave(0.4)]},
        hand=["SIGTSTP", "SIGCONT"],
        status="back",
    ),
]
"""STOPPING=1, STATUS=, NotifyAccess=, MAINPID=, signals by hand."""

TOLD = "backgrounded: 1 of 1 task finished"


def _app(work: str, *, grace: float = 30, kill_after: float = 1, loop: str = "idle()", behind: str = "pass") -> str:
    """A program that uses capbg: a task that does ``work``, the main loop, and what comes behind the block."""
    return f"""{PREAMBLE}
app = capbg.App("kiosk", grace={grace}, kill_after={kill_after})

@app.background_task()
def save(task):
    {work}

def feed():
    while True:
        app.heartbeat()
        time.sleep(0.05)

try:
    with app:
        if "UP" in os.environ:
            open(os.environ.pop("UP"), "w").close()
        {loop}
finally:
    {behind}
"""


_WORK = _app("time.sleep(2.5)")
_HANGS = """while True:
        try:
            time.sleep(60)
        except BaseException:
            pass"""

CAPBG = [
    Scenario("work within its timeout", CLEAN, source=_app("time.sleep(0.3)"), unit={"TimeoutStopSec": 3}, status=TOLD),
    Scenario("work beyond its timeout", CLEAN, source=_WORK, status=TOLD),
    Scenario("by the default KillMode=", CLEAN, source=_WORK, unit={"KillMode": "control-group"}, status=TOLD),
    Scenario("by SIGINT", CLEAN, source=_WORK, unit={"KillSignal": "SIGINT"}, status=TOLD),
    Scenario("under a watchdog", CLEAN, source=_app("time.sleep(4)", loop="feed()"), unit=_watched(), status=TOLD),
    Scenario(
        "work that hangs",
        ("exit-code", "exited", 75),
        source=_app(_HANGS, grace=1.5),
        status="backgrounded: 0 of 1 task finished",
    ),
    Scenario("it lingers behind its tasks", KILLED, source=_app("pass", behind="idle()"), status=TOLD),
    Scenario(
        "its main loop hangs", BITTEN, source=_app("pass", loop="idle()"), unit=_watched(), stop=False, status="active"
    ),
    Scenario(
        "stopped while suspended",
        CLEAN,
        source=_app("time.sleep(0.2)", loop="feed()"),
        unit={"WatchdogSec": 3, "TimeoutStopSec": 3},
        hand=["SIGTSTP", "SIGWINCH", "SIGWINCH"],
        status=TOLD,
    ),
    Scenario(
        "suspended, and back",
        CLEAN,
        source=_app("time.sleep(0.2)", loop="feed()"),
        unit={"WatchdogSec": 3, "TimeoutStopSec": 3},
        hand=["SIGTSTP", "SIGWINCH", "SIGWINCH", "SIGCONT", "SIGWINCH"],
        status=TOLD,
    ),
]
"""Programs that use capbg."""
