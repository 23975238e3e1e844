"""The timeline of a rehearsal drawn with characters, at any width from 50 columns on, a lane below the other.

It makes rich texts and prints nothing. Without colour every lane can still be told apart, and without UTF-8, too.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rich.cells import cell_len
from rich.text import Text

from capbg.cli.rehearsal.looks import ASIDE, BAD, FAINT, GOOD, STATES, WARN, clean, count, fit, length, task_colour
from capbg.cli.rehearsal.record import NEVER, Report, TaskSeen, Who
from capbg.cli.rehearsal.timeline import Window, alive, lowest, most, nearest, telling, tick, ticks, time_left, window

TASKS = 40
"""So many have a lane; of more, those that were lost come first."""
LABEL_ROWS = 4
"""Names of signals and of short states are put below one another in so many rows at most."""
BESIDE = 21
"""Columns on the right: what came of it."""


@dataclass(frozen=True, slots=True)
class _Glyphs:
    edge: str
    end: str
    line: str
    bar: str
    over: str
    spare: str
    kill: str
    mark: str
    below: str
    below_left: str
    tick: str
    levels: str
    endless: str
    more: str


UTF8 = _Glyphs("├", "┤", "─", "━", "╋", "·", "╳", "▼", "╰", "╯", "╷", "▁▂▃▄▅▆▇█", "∞", "…")
ASCII = _Glyphs("|", "|", "-", "=", "|", ".", "x", "v", "`", "'", "'", "0123456789", "*", "...")


class Chart:
    """The rows of a chart, ``width`` columns wide."""

    def __init__(self, report: Report, width: int, *, encoding: str = "utf-8") -> None:
        self._report = report
        self._width = width
        self._encoding = encoding
        self._glyphs = UTF8 if encoding.startswith("utf") else ASCII
        self._window: Window = window(report)
        names = [cell_len(clean(task.name, encoding)) for task in report.tasks]
        self._label = max(11, min(max(names, default=0), 24, width // 5))
        self._plot = max(16, min(width - self._label - BESIDE - 3, 180))

    def rows(self) -> Iterator[Text]:
        """From the axis to the last task."""
        yield self._axis()
        yield from self._states()
        yield from self._signals()
        yield from self._told()
        yield from self._left("SIGKILL in", watchdog=False)
        yield from self._left("watchdog in", watchdog=True)
        shown, rest = telling(self._report.tasks, TASKS)
        for task in shown:
            yield self._task(task)
        yield from self._legend(shown)
        if rest:
            done = sum(not task.lost for task in rest)
            yield Text(f"+{count(len(rest), 'more task')}, {done} of them finished", FAINT)

    def _row(self, label: str, plot: Text, beside: str = "", style: str = "", label_style: str = FAINT) -> Text:
        row = Text(fit(clean(label, self._encoding), self._label, more=self._glyphs.more) + "  ", label_style, end="")
        plot.align("left", self._plot)
        row = Text.assemble(row, plot, " ", (beside, style))
        row.rstrip()
        return row

    def _column(self, instant_ns: int) -> int:
        return min(self._plot - 1, int(self._window.share(instant_ns) * self._plot))

    def _axis(self) -> Text:
        begin, end = (self._report.seconds(each) for each in (self._window.begin_ns, self._window.end_ns))
        cells = [" "] * self._plot
        free = 0
        for seconds in ticks(begin, end, max(2, self._plot // 10)):
            number = tick(seconds) if self._glyphs is UTF8 else tick(seconds).replace("−", "-")
            column = min(self._plot - len(number), int((seconds - begin) / (end - begin) * self._plot))
            if column >= free:
                cells[column : column + len(number)] = number
                free = column + len(number) + 1
        return self._row("seconds", Text("".join(cells), FAINT))

    def _states(self) -> Iterator[Text]:
        plot = Text()
        unnamed: list[tuple[int, str, str]] = []
        shown = [span for span in alive(self._report) if span.end_ns >= self._window.begin_ns]
        for number, span in enumerate(shown):
            begin = max(len(plot), self._column(span.begin_ns))
            end = self._column(shown[number + 1].begin_ns) if number + 1 < len(shown) else self._column(span.end_ns) + 1
            end = max(end, begin + 1)
            colour = STATES.get(span.state, ("", ""))[1]
            name = span.state if len(span.state) < end - begin else ""
            if not name:
                unnamed.append((begin, span.state, colour))
            plot.append(" " * (begin - len(plot)))
            plot.append(self._glyphs.edge + name + self._glyphs.line * (end - begin - 1 - len(name)), colour)
        plot.truncate(self._plot)
        yield self._row("systemd", plot)
        yield from self._labels("", self._glyphs.below + self._glyphs.below_left, unnamed)

    def _signals(self) -> Iterator[Text]:
        marks: list[tuple[int, str, str]] = []
        for sent in self._report.signals:
            colour = BAD if sent.signal in {"SIGKILL", "SIGABRT"} else ""
            marks.append((self._column(sent.at_ns), clean(sent.signal, self._encoding), colour))
        yield from self._labels("signals", self._glyphs.mark * 2, list(dict.fromkeys(marks)))

    def _labels(self, label: str, mark: str, marks: Iterable[tuple[int, str, str]]) -> Iterator[Text]:
        """Names, each behind (at the right edge: before) a mark in its column, in few rows; ``mark``: both marks."""
        rows: list[tuple[int, Text]] = []
        left_out = 0
        for column, name, style in sorted(marks, key=lambda each: each[0]):
            text = mark[0] + name
            begin = column
            if begin + cell_len(text) > self._plot:
                text, begin = name + mark[1], column - cell_len(name)
            row = next((number for number, (free, _) in enumerate(rows) if free <= begin), len(rows))
            if row == LABEL_ROWS or begin < 0:
                left_out += 1
                continue
            if row == len(rows):
                rows.append((0, Text()))
            plot = rows[row][1]
            plot.append(" " * (begin - plot.cell_len))
            plot.append(text, style)
            rows[row] = (begin + cell_len(text) + 1, plot)
        for number, (_, plot) in enumerate(rows):
            beside = f"+{left_out} more" if left_out and number == len(rows) - 1 else ""
            yield self._row(label if number == 0 else "", plot, beside, FAINT)

    def _told(self) -> Iterator[Text]:
        told = [entry for entry in self._report.entries if entry.who is Who.NOTIFY]
        if told:
            columns = {self._column(entry.at_ns) for entry in told if entry.at_ns >= self._window.begin_ns}
            plot = Text("".join(self._glyphs.tick if n in columns else " " for n in range(self._plot)), ASIDE)
            yield self._row("notify", plot, count(len(told), "message"), FAINT)

    def _left(self, label: str, *, watchdog: bool) -> Iterator[Text]:
        left = time_left(self._report, watchdog=watchdog)
        if not left:
            return
        whole = most(left)
        plot, span = Text(), self._window.end_ns - self._window.begin_ns
        for column in range(self._plot):
            begin, end = (self._window.begin_ns + span * n // self._plot for n in (column, column + 1))
            plot.append(*self._level(lowest(left, begin, end), whole))
        _, least = nearest(self._report, left, watchdog=watchdog)
        colour = BAD if least == 0 else WARN if least < whole * 0.2 else ""
        yield self._row(label, plot, "no limit" if least >= NEVER else f"least {length(least)}", colour)

    def _level(self, amount: int | None, whole: int) -> tuple[str, str]:
        if amount is None:
            return " ", ""
        if amount >= NEVER:
            return self._glyphs.endless, FAINT
        share = amount / max(1, whole)
        levels = self._glyphs.levels
        level = levels[min(len(levels) - 1, int(share * len(levels)))]
        return level, GOOD if share > 0.5 else WARN if share > 0.2 else BAD

    def _task(self, task: TaskSeen) -> Text:
        plot, colour, took = Text(), task_colour(task), ""
        if task.started_ns is not None:
            over = self._column(self._report.ended_ns) + 1  # nothing of a task lies behind the end but its deadlines
            begin = self._column(task.started_ns)
            end = max(begin + 1, over if task.ended_ns is None else self._column(task.ended_ns) + 1)
            soft, hard = (self._mark(each) for each in (task.soft_ns, task.hard_ns))
            cells = [" "] * self._plot
            cells[begin:end] = self._glyphs.bar * (end - begin)
            if task.soft_ns is not None:
                spare = range(end, over if soft is None else min(soft, over))
                cells[end : end + len(spare)] = self._glyphs.spare * len(spare)
            if soft is not None and soft > begin:
                cells[soft] = self._glyphs.over if soft < end else self._glyphs.end
            if hard is not None and hard > begin:
                cells[hard] = self._glyphs.kill
            plot.append("".join(cells[:end]), colour)
            plot.append("".join(cells[end:]).rstrip(), FAINT)
            if hard is not None and hard > begin:
                plot.stylize(BAD, hard, hard + 1)
            took = "" if task.ended_ns is None else f" {length(task.ended_ns - task.started_ns)}"
        return self._row(task.name, plot, task.state + took, colour, "bold")

    def _mark(self, instant_ns: int | None) -> int | None:
        return None if instant_ns is None or instant_ns > self._window.end_ns else self._column(instant_ns)

    def _legend(self, tasks: Iterable[TaskSeen]) -> Iterator[Text]:
        """What the marks in the lanes of tasks mean."""
        if any(task.started_ns is not None for task in tasks):
            glyphs = self._glyphs
            deadline = glyphs.end if glyphs.end == glyphs.over else f"{glyphs.end} {glyphs.over}"
            marks = f"{glyphs.spare} time left  {deadline} deadline  {glyphs.kill} killed at the latest"
            yield Text(" " * max(0, min(self._label + 2, self._width - cell_len(marks))) + marks, FAINT)
