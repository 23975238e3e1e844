"""A rehearsal live on a terminal: how things stand, a bar for each limit and each task, the latest of what happened.

It draws what it is given, when it is told to: no thread, no clock, no signal. It has the terminal's other screen for
itself, so that a resize leaves no ruins, and gives it back as it was; what lasts is the report's to print.
Only the rows that are shown are built: the number of tasks and entries costs next to nothing.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.segment import Segment
from rich.style import Style

from capbg._core.words import NS
from capbg.cli.rehearsal.looks import (
    BAD,
    CALM,
    FAINT,
    GOOD,
    STATES,
    TONES,
    WARN,
    WHO,
    clean,
    count,
    fit,
    instant,
    legible,
    length,
    task_colour,
    told,
)
from capbg.cli.rehearsal.record import NEVER, Entry, Now, TaskSeen

LABEL = 20
"""Columns for what a limit's bar is of: ``SIGKILL in 2 min 05 s``, cut."""
OF = 16
"""Columns for what the limit is: `` of 2 min 05 s``. Fixed, so that bars can be compared."""
AIRY = 18
"""From so many rows on the parts are set apart by empty ones."""

Row = list[Segment]


class Screen:
    """Draws a rehearsal on a terminal, from :meth:`__enter__` to :meth:`__exit__`. Any size will do."""

    def __init__(self, console: Console) -> None:
        self._live = Live(
            console=console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def show(self, now: Now) -> None:
        """Draw how things stand, at the size that the terminal has at this moment."""
        self._live.update(_Picture(now), refresh=True)


@dataclass(frozen=True, slots=True)
class _Picture:
    """One look at a rehearsal, as rich renders it."""

    now: Now

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width, height = options.size
        drawing = _Drawing(self.now, console, options, width)
        for row in drawing.rows(height):
            yield from drawing.cut(row)
            yield Segment.line()


@dataclass(frozen=True, slots=True)
class _Drawing:
    now: Now
    console: Console
    options: ConsoleOptions
    width: int

    def rows(self, height: int) -> list[Row]:
        """The most telling ones that fit: entries give way to tasks, both to the head (which rich cuts if need be)."""
        now, airy = self.now, height >= AIRY
        head = list(self._head(titled=airy))
        foot = list(self._next())
        parts = bool(now.tasks) + bool(now.entries) + bool(foot)
        room = max(0, height - len(head) - len(foot) - parts * airy)
        for_entries = min(len(now.entries), max(2, room // 3))
        tasks = list(self._tasks(max(0, room - for_entries)))
        entries = now.entries[max(0, len(now.entries) - (room - len(tasks))) :] if room > len(tasks) else ()
        rows = head
        for part in (tasks, foot, [self._entry(entry) for entry in entries]):
            if part and airy:
                rows.append([])
            rows += part
        return rows

    def cut(self, row: Row) -> Row:
        """A row that fits: of one that is too long it can be seen that it goes on."""
        if Segment.get_line_length(row) <= self.width:
            return row
        kept = Segment.adjust_line_length(row, max(0, self.width - cell_len(self._more)))
        return [*kept, Segment(self._more, kept[-1].style if kept else None)]

    def _head(self, *, titled: bool) -> Iterator[Row]:
        now = self.now
        if titled:
            title, hint = f"capbg rehearse -- {' '.join(now.command)}", "Ctrl-C ends it"
            yield [
                self._say(fit(self._clean(title), max(8, self.width - len(hint) - 2), more=self._more), "bold"),
                self._say(f"  {hint}", FAINT),
            ]
        word, colour = STATES.get(now.state, ("", ""))
        since, what = (now.began_ns, "since the start") if now.stop_ns is None else (now.stop_ns, "since the stop")
        facts = [f"{length(now.now_ns - since)} {what}", count(now.processes, "process", "processes")]
        facts += [f"main PID {now.main_pid}"] * bool(now.main_pid)
        free = self.width - cell_len(now.state + word) - 2
        yield [
            self._say(now.state, f"bold {colour}"),
            self._say(f"  {word}", colour),
            *(self._say(fact) for fact in _as_fit((self._dot + fact for fact in facts), free)),
        ]
        yield self._limit(self._patience(), now.kill_from_ns, now.kill_ns)
        if now.watchdog_ns is not None:
            fed_ns = now.watchdog_from_ns
            if fed_ns is None:
                fed_ns = now.watchdog_ns - round(now.settings.watchdog_s * NS)
            yield self._limit("watchdog", fed_ns, now.watchdog_ns)
        if now.status_text:
            yield [self._say("status  ", FAINT), self._say(self._clean(now.status_text))]

    def _patience(self) -> str:
        now, settings = self.now, self.now.settings
        if now.state == "start":
            return "start fails"
        if now.state == "stop-sigterm" and settings.failure_mode == "abort":
            return "SIGABRT"
        return "SIGKILL" if settings.send_sigkill else "given up"

    def _limit(self, what: str, from_ns: int | None, until_ns: int | None) -> Row:
        """A bar of what is left of a limit, full at first."""
        if until_ns is None or from_ns is None:
            return [self._say(f"{what}: not due", FAINT)]
        if until_ns >= NEVER:
            return [self._say(f"{what}: no limit", FAINT)]
        whole, left = max(1, until_ns - from_ns), max(0, until_ns - self.now.now_ns)
        share = min(1.0, left / whole)
        colour = GOOD if share > 0.5 else WARN if share > 0.2 else BAD
        of = f" of {length(whole)}"
        return [
            self._say(fit(f"{what} in {length(left)}", LABEL + 1, more=self._more), f"bold {colour}"),
            self._say(" "),
            *self._bar(min(60, self.width - LABEL - 2 - OF), share, colour),
            self._say(of, FAINT),
        ]

    def _next(self) -> Iterator[Row]:
        now = self.now
        if now.next_step:
            when = "" if now.next_step_ns is None else f" in {length(now.next_step_ns - now.now_ns)}"
            yield [self._say("next    ", FAINT), self._say(self._clean(now.next_step), CALM), self._say(when)]

    def _tasks(self, rows: int) -> Iterator[Row]:
        tasks = self.now.tasks
        if not tasks or not rows:
            return
        shown, rest = _foremost(tasks, rows if len(tasks) <= rows else rows - 1)
        wide = max((len(task.name) for task in shown), default=0)
        name_cells = max(4, min(wide, 28, self.width // 4))
        bar_cells = max(4, min(40, (self.width - name_cells - 37) // 3))
        for task in shown:
            yield self._task(task, name_cells, bar_cells)
        if rest:
            more, states = f"+{len(rest)} more", Counter(task.state for task in rest).most_common()
            parts = (f"{',' if index else ':'} {number} {state}" for index, (state, number) in enumerate(states))
            yield [self._say(more + "".join(_as_fit(parts, self.width - len(more))), FAINT)]

    def _task(self, task: TaskSeen, name_cells: int, bar_cells: int) -> Row:
        colour = task_colour(task)
        figure = "" if task.done is None else f"{task.done:.6g}" if task.percent is None else f"{task.percent:.0f} %"
        share = None if task.percent is None else task.percent / 100
        going = not task.settled and task.started_ns is not None
        if share is None and not going:
            share = 1.0 if task.settled and not task.lost else 0.0
        says = task.reason if task.lost and task.reason else task.message
        return [
            self._say(fit(self._clean(task.name), name_cells, more=self._more), "bold"),
            self._say(f" {fit(task.state, 12, more=self._more)} ", colour),
            *self._bar(bar_cells, share, colour),
            self._say(f" {fit(figure, 6, right=True, more=self._more)} "),
            self._say(fit(self._left(task), 16, more=self._more), "" if task.settled else colour),
            self._say(f" {self._clean(says)}" if says else "", BAD if task.lost else ""),
        ]

    def _left(self, task: TaskSeen) -> str:
        """What a task's clock says."""
        now_ns = self.now.now_ns
        if task.settled:
            known = task.ended_ns is not None and task.started_ns is not None
            return f"took {length((task.ended_ns or 0) - (task.started_ns or 0))}" if known else ""
        if task.soft_ns is not None and task.soft_ns > now_ns and task.state in {"running", "queued"}:
            return "no limit" if task.soft_ns >= NEVER else f"{length(task.soft_ns - now_ns)} left"
        return "" if task.hard_ns is None or task.hard_ns >= NEVER else f"killed in {length(task.hard_ns - now_ns)}"

    def _entry(self, entry: Entry) -> Row:
        return [
            self._say(f"{instant((entry.at_ns - self.now.began_ns) / NS):>9}  ", FAINT),
            self._say(f"{entry.who.value:<8} ", WHO[entry.who]),
            self._say(self._clean(told(entry)), TONES[entry.tone]),
        ]

    def _bar(self, cells: int, share: float | None, colour: str) -> Sequence[Segment]:
        """A bar that is full to its ``share``; None: nobody knows how far, it only shows that something is going on."""
        if cells < 4:
            return ()
        bar = ProgressBar(
            total=None if share is None else 1.0,
            completed=share or 0.0,
            width=cells,
            pulse=share is None,
            animation_time=self.now.now_ns / NS,
            style=self._style(FAINT),
            complete_style=self._style(colour),
            finished_style=self._style(colour),
            pulse_style=self._style(colour),
        )
        segments = list(self.console.render(bar, self.options.update(width=cells)))
        return Segment.adjust_line_length(segments, cells)  # without colour rich leaves out the empty rest

    def _clean(self, text: str) -> str:
        return clean(text, self.options.encoding)

    def _say(self, text: str, style: str = "") -> Segment:
        return Segment(text, self._style(style) if style else None)

    def _style(self, style: str) -> Style:
        return Style.parse(legible(style, self.console.color_system))

    @property
    def _more(self) -> str:
        return "..." if self.options.ascii_only else "…"

    @property
    def _dot(self) -> str:
        return ", " if self.options.ascii_only else " · "


def _as_fit(parts: Iterable[str], cells: int) -> Iterator[str]:
    """The first of ``parts``, as many as fit into ``cells`` columns whole."""
    for part in parts:
        cells -= cell_len(part)
        if cells < 0:
            return
        yield part


def _foremost(tasks: Sequence[TaskSeen], number: int) -> tuple[list[TaskSeen], list[TaskSeen]]:
    """The ``number`` tasks that say most, in their order, and the rest: at work, then lost, then queued, then done."""

    def rank(task: TaskSeen) -> int:
        if task.settled:
            return 1 if task.lost else 3
        return 2 if task.started_ns is None else 0

    order = sorted(range(len(tasks)), key=lambda index: rank(tasks[index]))
    chosen = set(order[:number])
    return [tasks[index] for index in sorted(chosen)], [task for index, task in enumerate(tasks) if index not in chosen]
