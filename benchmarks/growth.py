"""Growth, and load: many tasks, many words, busy CPUs; and whether systemd goes on hearing of the app meanwhile."""

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks import lateness
from benchmarks.measure import Bar, Plan, Section, compiled, median, running
from benchmarks.notify_socket import NotifySocket

_WORKERS = 32
_TALKERS = 32
_LIMITS = {f"{_WORKERS} workers at a time": _WORKERS, "no limit of workers": 0}
_FIGURES = ("settled (left), ms", "CPU ms a task", "peak, MB")


def measure(plan: Plan) -> list[Section]:
    """Measure what more of everything costs."""
    with compiled():
        _run(1, 0)  # what is compiled there leaves memory behind, which would stay in the peak
        return [_tasks(plan), _words(plan)]


# ------------------------------------------------------------------------------------------------------------ tasks


@dataclass(frozen=True)
class _Run:
    """One run of N tasks: ms from the signal until all were settled and it had left, CPU ms, MB at the peak."""

    settled_ms: float
    exit_ms: float
    cpu_ms: float
    peak_mb: float


def _tasks(plan: Plan) -> Section:
    sizes = (1, 10, 20) if plan.quick else (1, 10, 100, 1000, 2000)
    rounds = 1 if plan.quick else min(plan.rounds, 3)
    section = Section(
        title="Growth: 1 to 2,000 tasks",
        how=(
            f"No-op tasks, medians of {rounds}. Time from the signal until the last is settled (and until the program "
            "has left), CPU time with that of the workers, and the most memory the app ever held. The second thousand "
            "against the first: what runs of 2,000 take on top of runs of 1,000, against the latter; for time and CPU "
            f"time by the least of {rounds} each."
        ),
        columns=["tasks", *(f"{name}: {what}" for name in _LIMITS for what in _FIGURES)],
    )
    found: dict[str, dict[int, list[_Run]]] = {name: {size: [] for size in sizes} for name in _LIMITS}
    for _ in range(rounds):
        for size in sizes:
            for name, most in _LIMITS.items():
                found[name][size].append(_run(size, most))
    for size in sizes:
        cells = []
        for name in _LIMITS:
            runs = found[name][size]
            left = median([run.exit_ms for run in runs])
            cpu = median([run.cpu_ms for run in runs]) / size
            cells += [
                f"{median([run.settled_ms for run in runs]):.0f} ({left:.0f})",
                f"{cpu:.1f}",
                f"{_peak(runs):.1f}",
            ]
        section.rows.append([f"{size:,}", *cells])
    for name, by_size in found.items():
        section.series[name] = [(size, median([run.settled_ms for run in runs])) for size, runs in by_size.items()]
        if not plan.quick:
            section.bars += _bars(name, by_size)
    return section


def _bars(name: str, found: dict[int, list[_Run]]) -> list[Bar]:
    one, thousand, two = found[1], found[1000], found[2000]
    wall = min(run.settled_ms for run in two) / min(run.settled_ms for run in thousand) - 1
    cpu = min(run.cpu_ms for run in two) / min(run.cpu_ms for run in thousand) - 1
    first, second = _peak(thousand) - _peak(one), _peak(two) - _peak(thousand)
    what = f"2,000 tasks, {name}: %s of the second thousand over the first"
    return [
        Bar(what % "time", 1.2, wall, why="whatever else the machine does is in it, and not in the CPU time"),
        Bar(what % "CPU time", 1.2, cpu),
        Bar(what % "memory", 1.2, second / first),
    ]


def _peak(runs: list[_Run]) -> float:
    return median([run.peak_mb for run in runs])


def _run(number: int, most: int) -> _Run:
    with running("many/many_tasks.py", number, most) as program:
        signalled = program.signal()
        settled = int(program.line("SETTLED"))
        cpu_ms, peak_mb = float(program.line("CPU")), int(program.line("PEAK")) / 1024
        return _Run((settled - signalled) / 1e6, (program.wait() - signalled) / 1e6, cpu_ms, peak_mb)


# ------------------------------------------------------------------------------------------- words, keep-alives, load


@dataclass(frozen=True)
class _Talk:
    """One stop with talkative workers: how many of their packets were taken in, and what systemd heard meanwhile."""

    packets_per_s: float
    beats: int
    longest_gap_s: float
    least_left_s: float
    """Of what had been promised, when the next keep-alive or the exit came: negative would be a missed one."""


def _words(plan: Plan) -> Section:
    seconds = 1.0 if plan.quick else 4.0
    cpus = len(os.sched_getaffinity(0))
    section = Section(
        title="Many words, and both cores busy: is systemd kept waiting, are deadlines kept",
        how=(
            f"{_TALKERS} workers tell of their progress for {seconds:g} s. Keep-alives are the EXTEND_TIMEOUT_USEC "
            "datagrams at a real notify socket; a gap is from the signal to the first, between two, and from the last "
            f"to the exit. Under load: {cpus} loops that never sleep beside it, one a CPU."
        ),
        columns=["figure", "value"],
    )
    section.rows += _rows("as fast as they can", _talk("flood", seconds))
    section.rows += _rows("20 a second each", _talk("trickle", seconds))
    section.rows += _turns(seconds)
    with _busy(cpus):
        section.rows += _rows("20 a second each, under load", _talk("trickle", seconds))
        section.rows += _rows("as fast as they can, under load", _talk("flood", seconds))
        section.rows += _deadlines(plan)
    return section


def _rows(how: str, talk: _Talk) -> list[tuple[str, str]]:
    return [
        (f"progress messages taken in per second, {how}", f"{talk.packets_per_s:,.0f}"),
        (
            f"keep-alives meanwhile, {how}",
            f"{talk.beats}; longest gap {talk.longest_gap_s:.2f} s, {talk.least_left_s:.1f} s of the promise left",
        ),
    ]


def _turns(seconds: float) -> list[tuple[str, str]]:
    with running("many/many_turns.py", _TALKERS, seconds) as program:
        program.signal()
        number, middle, nearly_all, most_cpu = program.line("TURNS").split()
        program.wait()
    return [
        ("turns of pump() in an event loop meanwhile, as fast as they can", number),
        ("one turn, apart from the fork in it: median, 99 %", f"{float(middle):.2f}, {float(nearly_all):.1f} ms"),
        ("the longest turn in CPU time, apart from the fork", f"{float(most_cpu):.1f} ms"),
    ]


def _talk(how: str, seconds: float) -> _Talk:
    with NotifySocket() as notify, running("many/many_words.py", _TALKERS, seconds, how, env=notify.env) as program:
        signalled = program.signal()
        taken = int(program.line("TAKEN"))
        left = program.wait()
    beats = [(instant, int(fields[_EXTEND])) for instant, fields in notify.heard if _EXTEND in fields]
    instants = [signalled, *(instant for instant, _ in beats), left]
    gaps = [(later - earlier) / 1e9 for earlier, later in itertools.pairwise(instants)]
    promises = [usec / 1e6 for _, usec in beats]
    return _Talk(
        packets_per_s=taken / ((left - signalled) / 1e9),
        beats=len(beats),
        longest_gap_s=max(gaps),
        least_left_s=min(promise - gap for promise, gap in zip(promises, gaps[1:], strict=True)),
    )


def _deadlines(plan: Plan) -> Iterator[tuple[str, str]]:
    deadline_s = 0.3 if plan.quick else lateness.DEADLINES_S[0]
    rounds = 1 if plan.quick else min(plan.rounds, 3)
    for parent in ("", "parent stopped"):
        late = [
            run.latest_ms
            for _ in range(rounds)
            for run in lateness.together(
                [
                    lateness.Case("capbg", kind, parent, deadline_s, lateness.PATIENCE_S)
                    for kind in ("sleeps", "ignores SIGTERM", "SIGSTOPped", "four stuck at once")
                ]
            ).values()
        ]
        known = [each for each in late if each is not None]
        shown = f"{median(known):.1f} (median), {max(known):.1f} (latest of {len(late)})" if known else ""
        if len(known) < len(late):
            shown += f" and {len(late) - len(known)} not killed"
        yield f"hard deadline under load{', ' if parent else ''}{parent}: late by, ms", shown


@contextmanager
def _busy(number: int) -> Iterator[None]:
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        time.sleep(0.2)  # they have begun to turn
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


_EXTEND = "EXTEND_TIMEOUT_USEC"
