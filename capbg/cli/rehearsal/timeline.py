"""What the chart of characters and the picture share of a timeline: its window, its ticks, the time left to a kill.

It knows nothing of characters and pixels.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from capbg._core.words import NS
from capbg.cli.rehearsal.record import NEVER, Report, Span, TaskSeen

SHORTEST_NS = NS // 2
"""The least of a rehearsal with a stop that is shown, if need be with nothing in it at the end."""
Left = tuple[int, int]
"""An instant, and how much time was left to the kill at it; NEVER: without limit. Between two of them it is a line."""


@dataclass(frozen=True, slots=True)
class Window:
    """The stretch of time that is shown."""

    begin_ns: int
    end_ns: int

    def share(self, instant_ns: int) -> float:
        """Where an instant is: 0 at the beginning, 1 at the end; what lies outside is at the edge."""
        return min(1.0, max(0.0, (instant_ns - self.begin_ns) / (self.end_ns - self.begin_ns)))


def window(report: Report) -> Window:
    """From the start to the end; of a long time in which nothing happened before the stop only the end.

    What comes from the stop on has at least half of the width: one of 3 ms is to look short, and its names want room.
    Deadlines of tasks that lie a little behind the end are shown, too.
    """
    begin, end = report.began_ns, max(report.ended_ns, report.began_ns)
    stop = report.stop_ns
    if stop is not None:
        beginnings = [
            stop,
            *(sent.at_ns for sent in report.signals),
            *(task.started_ns or stop for task in report.tasks),
        ]
        first = min(each for each in beginnings if each >= begin)
        begin = max(begin, first - max(end - first, NS // 10))
        end = max(end, begin + SHORTEST_NS)
    reach = end + (end - begin) * 3 // 10
    deadlines = (each for task in report.tasks for each in (task.soft_ns, task.hard_ns) if task.started_ns is not None)
    end = max([end, *(each for each in deadlines if each is not None and each <= reach)])
    return Window(begin, max(end + (end - begin) // 50, begin + NS // 100))


def alive(report: Report) -> list[Span]:
    """Its states but the last: that it is over at the end goes without saying."""
    return [span for span in report.spans if span.state not in {"dead", "failed"}]


def ticks(begin_s: float, end_s: float, at_most: int) -> list[float]:
    """Round numbers between two instants, a 1, 2 or 5 of some power of ten apart."""
    rough = max(1e-6, (end_s - begin_s) / max(1, at_most))
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.ceil(begin_s / step - 1e-6), math.floor(end_s / step + 1e-6)
    return [round(number * step, 9) for number in range(first, last + 1)]


def tick(seconds: float) -> str:
    """A tick's number."""
    return f"{seconds:.6g}".replace("-", "−") if seconds else "0"


def time_left(report: Report, *, watchdog: bool = False) -> list[Left]:
    """The time left to a kill, from the stop on (of a program that was never stopped: from its start on) until it came.

    ``watchdog``: that of the watchdog, which also watches before the stop.
    """
    since = report.began_ns if watchdog or report.stop_ns is None else report.stop_ns
    kills = [span.begin_ns for span in report.spans if span.state.endswith("sigkill")]
    until = min([report.ended_ns, *kills])
    steps = sorted((step for step in report.deadlines if step.watchdog is watchdog), key=lambda step: step.at_ns)
    left: list[Left] = []
    for step, following in zip(steps, [*(step.at_ns for step in steps[1:]), until], strict=False):
        begin, end = step.at_ns, min(following, until)
        if begin < since or begin > until or (left and begin == until):
            continue  # what the kill itself brings with it is no patience any more
        for at_ns in (begin, max(begin, end)):
            left.append((at_ns, NEVER if step.until_ns >= NEVER else max(0, step.until_ns - at_ns)))
    return left


def nearest(report: Report, left: Sequence[Left], *, watchdog: bool = False) -> Left:
    """When the least was left, and how much: of the kill, what the report says itself."""
    if not watchdog and report.margin_ns is not None and report.margin_at_ns is not None:
        return report.margin_at_ns, report.margin_ns
    return min(left, key=lambda each: each[1])


def lowest(left: Sequence[Left], begin_ns: int, end_ns: int) -> int | None:
    """The least that was left between two instants; None: no deadline was running."""
    found = [amount for at_ns, amount in left if begin_ns <= at_ns < end_ns]
    for (at_ns, amount), (next_ns, next_amount) in itertools.pairwise(left):
        if at_ns <= begin_ns <= next_ns and at_ns < next_ns:
            found.append(NEVER if NEVER in (amount, next_amount) else max(0, amount - (begin_ns - at_ns)))
    return min(found, default=None)


def most(left: Iterable[Left]) -> int:
    """The most that was left, among what has a limit."""
    return max((amount for _, amount in left if amount < NEVER), default=0)


def telling(tasks: Sequence[TaskSeen], number: int) -> tuple[list[TaskSeen], list[TaskSeen]]:
    """At most ``number`` tasks in their order, those that were lost before the others; and the rest."""
    chosen = set(sorted(range(len(tasks)), key=lambda index: not tasks[index].lost)[:number])
    return [task for index, task in enumerate(tasks) if index in chosen], [
        task for index, task in enumerate(tasks) if index not in chosen
    ]
