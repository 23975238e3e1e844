"""How late a deadline kills: seen from outside, by a pidfd of each task's process.

A task says in one line who it is and when it began; how late it was killed is the instant at which its pidfd became
readable, less its beginning, less its deadline. The parent that holds the deadline is left alone, stopped by SIGSTOP or
killed by SIGKILL just after the tasks have begun.
"""

import os
import select
import signal
import statistics
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from benchmarks.measure import Bar, Plan, Program, Section

CONTENDERS = {
    "capbg": "kill_capbg.py",
    "bare pidfd + SIGKILL": "kill_pidfd.py",
    "multiprocess": "kill_multiprocess.py",
    "pynisher": "kill_pynisher.py",
    "pebble.ProcessPool": "kill_pebble_pool.py",
    "pebble.concurrent": "kill_pebble_concurrent.py",
    "billiard": "kill_billiard.py",
}
KINDS = {
    "sleeps": ("sleeps", 1),
    "ignores SIGTERM": ("ignores", 1),
    "in one C call": ("computes", 1),
    "SIGSTOPped": ("stopped", 1),
    "four stuck at once": ("ignores", 4),
}
"""What the task does, and how many of it run at once."""
PARENTS = ("", "parent stopped", "parent killed")
ROWS = [(parent, kind) for parent in PARENTS for kind in KINDS]
"""What a point of the series belongs to, by its index: the kinds with the parent left alone come first."""
DEADLINES_S = (0.95, 1.03)
"""On neither side of a tenth of a second: whoever looks ten times a second is neither favoured nor put off."""
PATIENCE_S = 15.0
PATIENCE_WITHOUT_PARENT_S = 3.0
PATIENCE_QUICK_S = 1.0
_APART_S = 0.03
_BUSY = "in one C call"


@dataclass(frozen=True)
class Case:
    """One run of one contender."""

    contender: str
    kind: str
    parent: str
    deadline_s: float
    patience_s: float
    """How long after the deadline a task that still runs counts as not killed."""


@dataclass(frozen=True)
class Found:
    """What came of it: ms after the deadline for each task, None for one that was not killed."""

    late_ms: tuple[float | None, ...] = ()
    refused: str = ""

    @property
    def latest_ms(self) -> float | None:
        """The last of them; None if one was not killed."""
        known = [each for each in self.late_ms if each is not None]
        return max(known) if known and len(known) == len(self.late_ms) else None

    @property
    def with_parent(self) -> bool:
        """Whether they died long before the deadline, with their parent."""
        return self.latest_ms is not None and self.latest_ms < -100

    def shown(self) -> str:
        """As it stands in the table."""
        if self.refused:
            return self.refused
        if self.with_parent:
            return "dies with it"
        return "not killed" if self.latest_ms is None else f"{self.latest_ms:.1f}"


def measure(plan: Plan) -> list[Section]:
    """Measure every contender in every case."""
    deadlines = (0.3,) if plan.quick else DEADLINES_S
    kinds = ("ignores SIGTERM",) if plan.quick else tuple(KINDS)
    cases = [
        Case(contender, kind, parent, deadline_s, _patience_s(plan, parent))
        for contender in CONTENDERS
        for parent in PARENTS
        for kind in kinds
        for deadline_s in deadlines
    ]
    found: dict[Case, list[Found]] = {case: [] for case in cases}
    if plan.quick:
        for case, one in together(cases).items():
            found[case].append(one)
    for contender in () if plan.quick else CONTENDERS:
        for _ in range(min(plan.rounds, 3) if contender == "capbg" else 1):
            for case, one in _run([case for case in cases if case.contender == contender]).items():
                found[case].append(one)
    return [_section(found)]


def _patience_s(plan: Plan, parent: str) -> float:
    if plan.quick:
        return PATIENCE_QUICK_S
    return PATIENCE_WITHOUT_PARENT_S if parent else PATIENCE_S


def _run(cases: Sequence[Case]) -> dict[Case, Found]:
    """All that sleep side by side. Those that keep a CPU busy one by one, where it is the kill that is measured."""
    quiet = [case for case in cases if case.kind != _BUSY]
    busy = [case for case in cases if case.kind == _BUSY]
    kept = [case for case in busy if not case.parent or case.contender == "capbg"]
    left = [case for case in busy if case not in kept]
    found = together(quiet)
    for case in kept:
        found |= together([case])
    return found | together(left)


def together(cases: Sequence[Case]) -> dict[Case, Found]:
    """Run these side by side: none begins before the programs of all are ready, and then one after the other."""
    if not cases:
        return {}
    ready = threading.Barrier(len(cases))
    with ThreadPoolExecutor(len(cases)) as pool:
        runs = {case: pool.submit(_run_one, case, ready, number * _APART_S) for number, case in enumerate(cases)}
        return {case: run.result() for case, run in runs.items()}


def _run_one(case: Case, ready: threading.Barrier, wait_s: float) -> Found:
    kind, number = KINDS[case.kind]
    program = Program(f"stuck/{CONTENDERS[case.contender]}", kind, case.deadline_s, number)
    try:
        program.ready()
        ready.wait()
        time.sleep(wait_s)
        program.signal()
        try:
            lines = [program.line("TASK").split() for _ in range(number)]
        except EOFError:
            if not any(line.startswith("REFUSED") for line in program.lines):
                raise
            return Found(refused="refused")
        return Found(tuple(_watch(case, program, {int(pid): int(began) for pid, began in lines})))
    except BaseException:
        ready.abort()
        raise
    finally:
        program.close()


def _watch(case: Case, program: Program, began: dict[int, int]) -> Iterable[float | None]:
    """Return for each process how many ms after its deadline it died."""
    pidfds = {os.pidfd_open(pid): pid for pid in began}
    poll = select.poll()
    for pidfd in pidfds:
        poll.register(pidfd, select.POLLIN)
    if case.parent:
        os.kill(program.pid, signal.SIGSTOP if case.parent == "parent stopped" else signal.SIGKILL)
    end = max(began.values()) / 1e9 + case.deadline_s + case.patience_s
    died: dict[int, int] = {}
    while len(died) < len(pidfds) and (left := end - time.monotonic()) > 0:
        events = poll.poll(left * 1000)
        now = time.monotonic_ns()
        for pidfd, _ in events:
            died[pidfds[pidfd]] = now
            poll.unregister(pidfd)
    for pidfd in pidfds:
        os.close(pidfd)
    return [(died[pid] - began[pid]) / 1e6 - case.deadline_s * 1e3 if pid in died else None for pid in began]


def _section(found: dict[Case, list[Found]]) -> Section:
    deadlines = " / ".join(f"{each:g} s" for each in sorted({case.deadline_s for case in found}))
    patience = " or ".join(f"{each:g} s" for each in sorted({case.patience_s for case in found}))
    section = Section(
        title="How late a deadline kills",
        how=(
            f"ms from the deadline ({deadlines}, counted from the task's own first instruction) to the death of its "
            f"process, of four the last one. *not killed*: not within {patience} (with the parent stopped or dead the "
            "shorter). *refused*: the contender takes no such deadline. capbg: the median of its runs; it counts from "
            "the start of the worker, so it may be early by what lies between that and the task."
        ),
        columns=["", *CONTENDERS],
    )
    rows = list(dict.fromkeys((case.parent, case.kind) for case in found))
    for parent, kind in rows:
        cells = [
            " / ".join(_typical(runs).shown() for case, runs in found.items() if _row(case) == (parent, kind, name))
            for name in CONTENDERS
        ]
        section.rows.append([f"{kind}, {parent}" if parent else kind, *cells])
    for name in CONTENDERS:
        section.series[name] = [
            (float(ROWS.index((case.parent, case.kind))), late)
            for case, runs in found.items()
            if case.contender == name and (late := _plotted(_typical(runs))) is not None
        ]
    section.bars += _bars(found)
    return section


def _row(case: Case) -> tuple[str, str, str]:
    return case.parent, case.kind, case.contender


def _typical(runs: Sequence[Found]) -> Found:
    """The median run; one that was not killed counts as the latest of all."""
    ordered = sorted(runs, key=lambda each: float("inf") if each.latest_ms is None else each.latest_ms)
    return ordered[len(ordered) // 2]


def _plotted(found: Found) -> float | None:
    """Infinite: never killed. None: there was nothing to measure."""
    if found.refused:
        return None
    if found.with_parent:
        return 0.0
    return float("inf") if found.latest_ms is None else found.latest_ms


def _bars(found: dict[Case, list[Found]]) -> list[Bar]:
    off = [_off(_typical(runs)) for case, runs in found.items() if case.contender == "capbg"]
    four = [_off(run) for case, runs in found.items() if _is(case, "four stuck at once") for run in runs]
    one = [_off(run) for case, runs in found.items() if _is(case, "ignores SIGTERM") for run in runs]
    bars = [Bar("hard deadline, every case: off by", 10.0, max(off), "ms")]
    if four and one:
        later = statistics.median(four) - statistics.median(one)
        bars.append(Bar("four stuck at once: later than one by", 1.0, later, "ms"))
    return bars


def _is(case: Case, kind: str) -> bool:
    return case.contender == "capbg" and case.kind == kind and case.parent != "parent killed"


def _off(found: Found) -> float:
    """How far from its deadline, on either side, in ms; dying with the parent is in time."""
    if found.with_parent:
        return 0.0
    return float("inf") if found.latest_ms is None else abs(found.latest_ms)
