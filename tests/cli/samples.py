"""Rehearsals made by hand, of several kinds: what a screen, a report and a picture are given to show."""

import math
from collections.abc import Sequence
from dataclasses import replace

from capbg._core.words import NS
from capbg.cli.rehearsal.record import (
    NEVER,
    Advice,
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

BEGAN = 5_000 * NS
"""When every program here was started."""
HOSTILE = "\x1b[31mred\x1b[0m\rback\n<b>&amp; ünïcode 照片 [bold]"
"""A text that would move the cursor, colour what follows, end a line, or be markup."""


def at(seconds: float) -> int:
    """So many seconds after the start, as an instant."""
    return BEGAN + round(seconds * NS)


def notify(seconds: float, **fields: str) -> Entry:
    """A datagram to the notify socket."""
    return Entry(at(seconds), Who.NOTIFY, "  ".join(f"{key}={value}" for key, value in fields.items()), fields=fields)


def task(
    number: int,
    state: str = "finished",
    *,
    name: str = "",
    start: float | None = 2.0,
    end: float | None = None,
    soft: float = 22.0,
    percent: float | None = None,
    message: str = "",
    reason: str = "",
) -> TaskSeen:
    """A task whose instants are seconds after the start; one with an end is settled."""
    return TaskSeen(
        f"t{number}",
        name or f"task-{number}",
        state,
        settled=end is not None,
        started_ns=None if start is None else at(start),
        soft_ns=at(soft),
        hard_ns=at(soft + 2),
        ended_ns=None if end is None else at(end),
        done=None if percent is None else percent * 7,
        total=None if percent is None else 700.0,
        message=message,
        reason=reason,
    )


def extensions(first: float, last: float) -> tuple[DeadlineSet, ...]:
    """One each second, by 10 s."""
    steps = range(round(last - first) + 1)
    return tuple(DeadlineSet(at(first + step), at(first + step + 10), "extended by 10 s") for step in steps)


def report(
    *,
    stop: float | None = 2.0,
    end: float = 8.0,
    result: str = "success",
    code: str = "exited",
    status: int = 0,
    margin: tuple[float, float] | None = None,
    lost: Sequence[str] = (),
    advice: Sequence[Advice] = (),
    killed: Sequence[ProcessSeen] = (),
    tasks: Sequence[TaskSeen] = (),
    spans: Sequence[Span] | None = None,
    deadlines: Sequence[DeadlineSet] = (),
    entries: Sequence[Entry] = (),
    signals: Sequence[SignalSent] | None = None,
    command: Sequence[str] = ("python", "examples/kiosk.py"),
    settings: Settings | None = None,
) -> Report:
    """A report whose instants are seconds after the start; without spans and signals: a start, a run, a stop."""
    turn = end if stop is None else stop
    if spans is None:
        ready = turn * 0.3
        spans = [Span("start", at(0), at(ready)), Span("running", at(ready), at(turn))]
        spans += [] if stop is None else [Span("stop-sigterm", at(turn), at(end))]
    if signals is None:
        signals = [] if stop is None else [SignalSent(at(turn), "SIGTERM", "main process")]
    return Report(
        command=tuple(command),
        settings=settings or Settings(type="notify", kill_mode="mixed", timeout_stop_s=10.0),
        began_ns=at(0),
        stop_ns=None if stop is None else at(stop),
        ended_ns=at(end),
        result=result,
        code=code,
        status=status,
        status_text="",
        margin_ns=None if margin is None else round(margin[0] * NS),
        margin_at_ns=None if margin is None else at(margin[1]),
        lost=tuple(lost),
        advice=tuple(advice),
        killed=tuple(killed),
        tasks=tuple(tasks),
        spans=tuple(spans),
        deadlines=tuple(deadlines),
        entries=tuple(entries),
        signals=tuple(signals),
    )


def kiosk() -> Report:
    """Three tasks that finish under extensions: nothing is lost."""
    return report(
        margin=(9.0, 3.05),
        tasks=[
            task(1, name="upload", end=7.6, percent=100, message="part 7 of 7"),
            task(2, name="thumbnails", end=5.2),
            task(3, name="mail", end=3.0, soft=6.0),
        ],
        deadlines=[
            DeadlineSet(at(0), at(90), "TimeoutStartSec=90"),
            DeadlineSet(at(0.6), NEVER, "running"),
            DeadlineSet(at(2), at(12), "TimeoutStopSec=10"),
            *extensions(2.05, 7.05),
            DeadlineSet(at(0.6), at(60.6), "WatchdogSec=60", watchdog=True),
            *(DeadlineSet(at(1 + n), at(61 + n), "WatchdogSec=60", watchdog=True) for n in range(6)),
            DeadlineSet(at(7.7), NEVER, "switched off", watchdog=True),
        ],
        entries=[
            Entry(at(0), Who.SYSTEMD, "started: PID 4711"),
            Entry(at(0.1), Who.PROGRAM, "kiosk: 12 photos to go"),
            notify(0.6, READY="1"),
            Entry(at(2), Who.SYSTEMD, "SIGTERM to the main process, then SIGCONT"),
            notify(2.05, STOPPING="1", EXTEND_TIMEOUT_USEC="10000000", STATUS="backgrounded: 0 of 3 tasks finished"),
            *(notify(2.05 + n, EXTEND_TIMEOUT_USEC="10000000", STATUS=f"backgrounded: {n}") for n in range(1, 6)),
            Entry(at(3), Who.TASK, "mail: finished after 1.0 s", Tone.GOOD),
            Entry(at(5.2), Who.TASK, "thumbnails: finished after 3.2 s", Tone.GOOD),
            Entry(at(7.6), Who.TASK, "upload: finished after 5.6 s", Tone.GOOD),
            Entry(at(8), Who.SYSTEMD, "exited, status 0: Result=success", Tone.GOOD),
        ],
    )


def killed() -> Report:
    """It never extends, and is killed at TimeoutStopSec=3 with a child that ignores SIGTERM."""
    return report(
        end=5.1,
        result="timeout",
        code="killed",
        status=9,
        margin=(0.0, 5.0),
        command=("sh", "-c", "python worker.py; true"),
        lost=["The service was killed before it had ended by itself.", "upload was lost at 40 %."],
        advice=[
            Advice(
                "The shell, not the program, is what systemd signals: it waits for its child and passes nothing on.",
                "Write ExecStart=/usr/bin/python worker.py, or let the shell do `exec python worker.py`.",
            ),
            Advice("No extension was asked for.", "Send EXTEND_TIMEOUT_USEC= well before TimeoutStopSec=3 is over."),
        ],
        killed=[
            ProcessSeen(4711, 4700, "sh -c python worker.py; true", "S", "default"),
            ProcessSeen(4712, 4711, "python worker.py", "S", "ignored"),
        ],
        tasks=[task(1, "killed", name="upload", end=5.1, percent=40, reason="its service was killed", soft=20)],
        spans=[
            Span("start", at(0), at(0.2)),
            Span("running", at(0.2), at(2)),
            Span("stop-sigterm", at(2), at(5)),
            Span("stop-sigkill", at(5), at(5.1)),
        ],
        deadlines=[
            DeadlineSet(at(2), at(5), "TimeoutStopSec=3"),
            DeadlineSet(at(5), at(8), "TimeoutStopSec=3"),
        ],
        entries=[
            Entry(at(2), Who.SYSTEMD, "SIGTERM to 2 processes, then SIGCONT"),
            Entry(at(5), Who.SYSTEMD, "TimeoutStopSec=3 is over: SIGKILL to 2 processes", Tone.BAD),
        ],
        signals=[
            SignalSent(at(2), "SIGTERM", "2 processes"),
            SignalSent(at(2), "SIGCONT", "2 processes"),
            SignalSent(at(5), "SIGKILL", "2 processes"),
        ],
        settings=Settings(type="exec", timeout_stop_s=3.0),
    )


def suspension() -> Report:
    """SIGTSTP at 2, SIGCONT at 5, SIGTERM at 8."""
    return report(
        stop=8.0,
        end=9.5,
        margin=(8.6, 9.4),
        tasks=[task(1, name="save", start=2, end=3), task(2, name="save", start=8, end=9.4)],
        spans=[
            Span("start", at(0), at(0.3)),
            Span("running", at(0.3), at(3.1)),
            Span("suspended", at(3.1), at(5)),
            Span("running", at(5), at(8)),
            Span("stop-sigterm", at(8), at(9.5)),
        ],
        deadlines=[DeadlineSet(at(8), at(18), "TimeoutStopSec=10")],
        entries=[notify(0.3, READY="1"), notify(2, STATUS="suspending"), notify(8.02, STOPPING="1")],
        signals=[
            SignalSent(at(2), "SIGTSTP", "main process"),
            SignalSent(at(5), "SIGCONT", "main process"),
            SignalSent(at(8), "SIGTERM", "main process"),
            SignalSent(at(8), "SIGCONT", "main process"),
        ],
    )


def many(number: int = 40) -> Report:
    """So many tasks, every seventh lost."""
    tasks = [
        task(n, "expired", end=4 + n % 13, soft=3.4 + n % 13, reason="its deadline was over")
        if n % 7 == 3
        else task(n, end=2.5 + n % 11, start=2 + n % 3)
        for n in range(number)
    ]
    lost = [f"{each.name} was lost: {each.reason}." for each in tasks if each.lost]
    return report(
        end=17, result="exit-code", status=75, margin=(9.0, 9.0), lost=lost, tasks=tasks, deadlines=extensions(2, 17)
    )


def long_one() -> Report:
    """Three minutes of a stop, with an extension each second."""
    return report(
        stop=2.0,
        end=182.0,
        margin=(8.7, 120.0),
        tasks=[task(1, name="upload", end=181, soft=182)],
        deadlines=[DeadlineSet(at(2), at(92), "TimeoutStopSec=90"), *extensions(85, 181)],
        entries=[notify(2 + n, EXTEND_TIMEOUT_USEC="10000000") for n in range(179)],
    )


def short() -> Report:
    """A stop of 0.2 s after half a minute in which nothing happened."""
    return report(
        stop=30.0,
        end=30.2,
        margin=(89.8, 30.2),
        tasks=[task(1, name="flush", start=30.01, end=30.15, soft=50)],
        deadlines=[DeadlineSet(at(30), at(120), "TimeoutStopSec=90")],
    )


def empty() -> Report:
    """A program without capbg that dies of the first signal at once."""
    return report(end=2.003, code="killed", status=15, margin=(10.0, 2.0), lost=["All it had to save."])


def unstopped() -> Report:
    """It ended before it was told to stop."""
    return report(stop=None, end=0.3, result="exit-code", status=1, lost=["It ended before it was told to stop."])


def odd() -> Report:
    """Names as long, as foreign and as hostile as they come."""
    name = "a-very-long-name-of-a-task-that-nobody-would-give-but-somebody-will-" * 3
    return report(
        margin=(0.4, 3.0),
        settings=Settings(timeout_stop_s=math.inf),
        command=("python", "-c", HOSTILE, "--name=" + name, "caf\udce9"),
        lost=[f"{name} was lost.", HOSTILE],
        advice=[Advice(HOSTILE, name)],
        tasks=[
            replace(task(1, name=name, end=4), done=math.inf),
            task(2, "failed", name=HOSTILE, end=5, reason=HOSTILE),
            task(3, "crashed", name="照片を送る" * 9, end=6, reason="died: SIGSEGV"),
            task(4, "refused", name="&<>\"'", start=None, end=7, reason=name),
        ],
        deadlines=[DeadlineSet(at(2), NEVER, "TimeoutStopSec=infinity"), DeadlineSet(at(2.6), at(3.4), HOSTILE)],
        entries=[
            Entry(at(1), Who.PROGRAM, HOSTILE),
            notify(2.5, STATUS=HOSTILE, **{"X_" + "LONG" * 20: "1"}),
            *(notify(2.5 + n / 50, **{f"X_{n}": "1"}) for n in range(12)),
        ],
        signals=[SignalSent(at(2 + n / 40), name, HOSTILE) for n, name in enumerate(["SIGTERM", "SIGRTMIN+13"] * 9)],
    )


def advised(number: int = 7) -> Report:
    """So many faults, each of several lines; the first has a word that no line holds."""
    long = "x" * 150
    return report(
        result="exit-code",
        status=1,
        margin=(3.0, 4.0),
        lost=["It left its work behind, and what it left was this and that and the other thing, of all of which " * 2],
        advice=[
            Advice(
                f"Fault {n} {long * (n == 0)} is told in a sentence that takes more than the width of a page, as those "
                "of real life do: who was waited for, for how long, and why that was in vain.",
                f"Mend {n}: do this first of all, that behind it, and the third thing on every Monday of the year; or "
                "raise TimeoutStopSec= to what the work takes.",
            )
            for n in range(number)
        ],
    )


REPORTS = {
    "kiosk": kiosk,
    "killed": killed,
    "suspension": suspension,
    "many": many,
    "hundred": lambda: many(100),
    "long": long_one,
    "short": short,
    "empty": empty,
    "unstopped": unstopped,
    "advised": advised,
    "odd": odd,
}


def now(
    seconds: float = 5.0,
    *,
    tasks: Sequence[TaskSeen] = (),
    entries: Sequence[Entry] = (),
    state: str = "stop-sigterm",
    kill: tuple[float, float] | None = (3.05, 13.05),
    watchdog: float | None = None,
    status: str = "",
    following: str = "",
    command: Sequence[str] = ("python", "examples/kiosk.py"),
) -> Now:
    """How things stand so many seconds after the start."""
    return Now(
        now_ns=at(seconds),
        began_ns=at(0),
        command=tuple(command),
        settings=Settings(type="notify", kill_mode="mixed", timeout_stop_s=10.0, watchdog_s=4.0),
        state=state,
        main_pid=4711,
        processes=1 + len(tasks),
        status_text=status,
        kill_from_ns=None if kill is None else at(kill[0]),
        kill_ns=None if kill is None else at(kill[1]),
        watchdog_ns=None if watchdog is None else at(watchdog),
        next_step=following,
        next_step_ns=at(seconds + 1.2) if following else None,
        tasks=tuple(tasks),
        entries=tuple(entries),
        stop_ns=at(2) if state.startswith(("stop", "final")) else None,
    )


def busy(number: int = 5, *, seconds: float = 5.0) -> Now:
    """A stop in full swing: so many tasks in every state, all bars on."""
    kinds = [
        task(0, "running", name="upload", percent=40, message="part 3 of 7"),
        task(1, "expiring", name="thumbnails", soft=4.5),
        task(2, "finished", name="mail", end=3.2, percent=100),
        task(3, "failed", name="report", end=4.1, reason="OSError: disk full"),
        task(4, "queued", name="index", start=None),
        task(5, "running", name="照片"),
        task(6, "acknowledged", name="log", percent=100),
    ]
    tasks = [
        kinds[n] if n < len(kinds) else task(n, kinds[n % 7].state, end=(kinds[n % 7].settled and 4) or None)
        for n in range(number)
    ]
    return now(
        seconds,
        tasks=tasks,
        entries=[*kiosk().entries[:6], *(Entry(at(4 + n / 40), Who.PROGRAM, f"line {n}") for n in range(40))],
        watchdog=6.0,
        status="backgrounded: 2 of 5 tasks finished, upload 40 %, 12 s left",
        following="SIGCONT",
    )
