"""The timeline of a rehearsal as a standalone SVG: systemd's states, signals, notifications, the time left, the tasks.

It has a background of its own, light or dark as the viewer's preference says, so that it can stand on any page. No
fonts are shipped and none can be measured here: texts are cut by an estimate that is rather too wide. Whatever has a
name stands in a gutter or in a row where nothing else stands; a cut text is whole in its tooltip.
"""

from collections import Counter
from collections.abc import Sequence
from html import escape
from itertools import groupby
from typing import Literal

import svg
from rich.cells import cell_len

from capbg.cli.rehearsal.looks import clean, count, instant, length
from capbg.cli.rehearsal.record import NEVER, Report, TaskSeen, Who
from capbg.cli.rehearsal.timeline import Left, alive, most, nearest, telling, tick, ticks, time_left, window
from capbg.cli.rehearsal.verdict import margin, verdict

WIDTH, EDGE = 960, 20
LEFT, RIGHT = 160, 790
"""The plot's edges: names stand on its left, what came of it on its right."""
FONT, SMALL, TITLE = 13, 11, 18
Side = Literal["start", "middle", "end"]
TASKS = 40
LABEL_ROWS = 5
LOST, ADVICE = 4, 5
"""So many tasks, rows of names below one another, sentences of what was lost and advices are shown; of more, how many.
"""
LINES = 4
"""A sentence has so many lines at most."""

LIGHT = {
    "page": "#ffffff",
    "ink": "#1f2328",
    "faint": "#59636e",
    "grid": "#d8dee4",
    "good": "#1a7f37",
    "bad": "#cf222e",
    "warn": "#9a6700",
    "calm": "#0969da",
    "aside": "#8250df",
}
DARK = {
    "page": "#0d1117",
    "ink": "#e6edf3",
    "faint": "#9198a1",
    "grid": "#30363d",
    "good": "#3fb950",
    "bad": "#f85149",
    "warn": "#d29922",
    "calm": "#4493f8",
    "aside": "#ab7df8",
}
STATES = {
    "start": "calm",
    "running": "good",
    "suspended": "aside",
    "stop-sigterm": "calm",
    "final-sigterm": "warn",
    "dead": "faint",
}
OUTCOMES = {"queued": "faint", "registered": "faint", "running": "calm", "expiring": "warn", "dying": "bad"}


def draw(report: Report) -> str:
    """The picture as the text of an SVG file."""
    return str(_Picture(report).drawn())


def text_width(text: str, size: float) -> float:
    """About how wide a text will be in a wide sans-serif face such as DejaVu Sans or Verdana, in pixels."""
    ems = 0.0
    for character in text:
        if character in " .,:;|!'ijl()[]/":
            ems += 0.4
        elif cell_len(character) > 1 or character in "mwMW%@—+−=<>&":
            ems += 1.02
        else:
            ems += 0.78 if character.isupper() else 0.63
    return ems * size


def _style(colours: dict[str, str]) -> str:
    named = "".join(
        f".{name}{{fill:{colour}}}.line-{name}{{stroke:{colour};fill:none}}" for name, colour in colours.items()
    )
    halo = f".halo{{stroke:{colours['page']};stroke-width:3px;paint-order:stroke}}"
    return f"text{{fill:{colours['ink']}}}{halo}.sheet{{fill:{colours['page']};stroke:{colours['grid']}}}{named}"


STYLE = (
    f'text{{font-family:system-ui,"DejaVu Sans",Verdana,Arial,sans-serif;font-size:{FONT}px}}'
    f".small{{font-size:{SMALL}px}}.title{{font-size:{TITLE}px;font-weight:bold}}.strong{{font-weight:bold}}.pale{{fill-opacity:.25}}"
    f".dashed{{stroke-dasharray:4 4}}{_style(LIGHT)}@media (prefers-color-scheme:dark){{{_style(DARK)}}}"
)


class _Picture:
    """Lanes, put below one another from the top."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._window = window(report)
        self._y: float = EDGE
        self._elements: list[svg.Element] = []

    def drawn(self) -> svg.SVG:
        report = self._report
        self._heading()
        first, top = len(self._elements), self._y
        self._y += 22
        self._states()
        self._signals()
        self._told()
        self._time_left("SIGKILL in", watchdog=False, high=60)
        self._time_left("watchdog in", watchdog=True, high=30)
        self._tasks()
        self._elements[first:first] = self._grid(top, self._y)
        self._footing()
        height = round(self._y + EDGE - 8)
        return svg.SVG(
            viewBox=svg.ViewBoxSpec(0, 0, WIDTH, height),
            width=WIDTH,
            height=height,
            elements=[
                svg.Title(text=_written(f"Rehearsal of {' '.join(report.command)}: {verdict(report)}")),
                svg.Style(text=STYLE),
                svg.Rect(x=0.5, y=0.5, width=WIDTH - 1, height=height - 1, rx=8, class_=["sheet"]),
                *self._elements,
            ],
        )

    def _heading(self) -> None:
        report = self._report
        word, colour = ("PASSED", "good") if report.passed else ("LOST", "bad")
        self._text(EDGE, f"{word}: {verdict(report)}", "title", colour, size=TITLE * 1.1, down=16)
        self._text(EDGE, " ".join(report.command), down=38)
        self._text(EDGE, margin(report), "faint", down=58)
        self._y += 76

    def _grid(self, top: float, bottom: float) -> list[svg.Element]:
        """The axis, its lines down through all lanes, and the stop's among them."""
        begin, end = (self._report.seconds(each) for each in (self._window.begin_ns, self._window.end_ns))
        found: list[svg.Element] = [_words(EDGE, top + 12, "seconds", "small", "faint")]
        for seconds in ticks(begin, end, 10):
            x = LEFT + (RIGHT - LEFT) * (seconds - begin) / (end - begin)
            kind = "line-faint" if seconds == 0 else "line-grid"
            found.append(svg.Line(x1=_round(x), y1=top + 18, x2=_round(x), y2=_round(bottom), class_=[kind]))
            found.append(_words(x, top + 12, tick(seconds), "small", "faint", anchor="middle"))
        return found

    def _states(self) -> None:
        self._label("systemd", down=15)
        unnamed: list[tuple[float, str, str]] = []
        for span in alive(self._report):
            begin, end = self._x(span.begin_ns), self._x(span.end_ns)
            if span.end_ns <= self._window.begin_ns:
                continue
            colour = STATES.get(span.state, "bad")
            box = svg.Rect(
                x=_round(begin), y=self._y, width=_round(max(1.5, end - begin)), height=22, class_=[colour, "pale"]
            )
            edge = svg.Rect(x=_round(begin), y=self._y, width=1.5, height=22, class_=[colour])
            self._elements += [_with_tooltip(f"{span.state} {length(span.end_ns - span.begin_ns)}", box), edge]
            if text_width(span.state, FONT) + 10 <= end - begin:
                self._text(begin + 6, span.state, down=15)
            else:
                unnamed.append((begin, span.state, colour))
        self._y += 26
        self._labels(unnamed)
        self._y += 6

    def _signals(self) -> None:
        sent = [each for each in self._report.signals if each.at_ns >= self._window.begin_ns]
        if sent:
            self._label("signals", down=12)
            fatal = {"SIGKILL", "SIGABRT"}
            marks = [(self._x(each.at_ns), each.signal, "bad" if each.signal in fatal else "ink") for each in sent]
            self._labels(list(dict.fromkeys(marks)))
            self._y += 8

    def _told(self) -> None:
        told = [entry for entry in self._report.entries if entry.who is Who.NOTIFY]
        told = [entry for entry in told if entry.at_ns >= self._window.begin_ns]
        if not told:
            return
        self._label("notify", down=12)
        self._beside(count(len(told), "message"), "faint", down=12)
        for x in dict.fromkeys(_round(self._x(entry.at_ns)) for entry in told):
            self._elements.append(svg.Line(x1=x, y1=self._y + 2, x2=x, y2=self._y + 14, class_=["line-aside"]))
        self._y += 18
        often = Counter(key for entry in told for key in entry.fields)
        first = {key: entry.at_ns for entry in reversed(told) for key in entry.fields}
        names = {key: key if number == 1 else f"{key} ×{number}" for key, number in often.items()}
        self._labels([(self._x(first[key]), names[key], "aside") for key in often])
        self._y += 8

    def _labels(self, marks: Sequence[tuple[float, str, str]]) -> None:
        """Names, each at a mark at its instant, in as few rows as they need; none covers another."""
        free: list[float] = []
        left_out = 0
        for x, name, colour in sorted(marks, key=lambda mark: mark[0]):
            shown = _cut(clean(name), RIGHT - LEFT - 20, SMALL)
            wide = text_width(shown, SMALL) + 8
            on_right = x + wide <= RIGHT
            begin, end = (x - 4, x + wide) if on_right else (x - wide, x + 4)
            row = next((row for row, until in enumerate(free) if until <= begin), len(free))
            if row == LABEL_ROWS or begin < LEFT - 4:
                left_out += 1
                continue
            free[row : row + 1] = [end + 4]
            y = self._y + row * 15
            anchor = svg.Polygon(
                points=[svg.Point(_round(x + dx), y + dy) for dx, dy in ((-4, 2), (4, 2), (0, 10))], class_=[colour]
            )
            side: Side = "start" if on_right else "end"
            words = _words(
                x + 6 if on_right else x - 6, y + 11, shown, "small", "halo", colour, anchor=side, whole=name
            )
            self._elements += [anchor, words]
        if left_out:
            self._beside(f"+{left_out} more", "faint", down=12)
        self._y += 15 * len(free)

    def _time_left(self, label: str, *, watchdog: bool, high: float) -> None:
        """How much time was left at each instant: it runs down, an extension lifts it, at the bottom it is over."""
        left = time_left(self._report, watchdog=watchdog)
        if not left:
            return
        whole = most(left)
        at_ns, least = nearest(self._report, left, watchdog=watchdog)
        self._label(label, down=14)
        if whole:
            self._text(EDGE, f"top: {length(whole)}", "small", "faint", size=SMALL, down=29, wide=LEFT - EDGE - 10)
        low = "bad" if least == 0 else "warn" if least < whole * 0.2 else "calm"
        beside = "no limit" if least >= NEVER else f"least: {length(least)}"
        self._beside(beside, "faint" if low == "calm" else low, down=14)
        bottom = self._y + high
        for run in _runs(left):
            if run[0][1] >= NEVER:
                y = self._y + 3
                x1, x2 = (_round(self._x(each[0])) for each in (run[0], run[-1]))
                self._elements.append(svg.Line(x1=x1, x2=x2, y1=y, y2=y, class_=["line-faint", "dashed"]))
                continue
            places = [(_round(self._x(at)), _round(bottom - (high - 4) * amount / max(1, whole))) for at, amount in run]
            line = [svg.Point(x, y) for x, y in _thinned(places)]
            area = [svg.Point(places[0][0], bottom), *line, svg.Point(places[-1][0], bottom)]
            self._elements.append(svg.Polygon(points=area, class_=["calm", "pale"]))
            self._elements.append(svg.Polyline(points=line, class_=["line-calm"], stroke_width=1.5))
        self._elements.append(svg.Line(x1=LEFT, y1=bottom, x2=RIGHT, y2=bottom, class_=["line-bad"]))
        if least < NEVER:
            y = bottom - (high - 4) * min(1.0, least / max(1, whole))
            self._elements.append(svg.Circle(cx=_round(self._x(at_ns)), cy=_round(y), r=4, class_=[low]))
        self._y = bottom + 14

    def _tasks(self) -> None:
        for task in telling(self._report.tasks, TASKS)[0]:
            self._task(task)
            self._y += 20

    def _task(self, task: TaskSeen) -> None:
        colour = ("bad" if task.lost else "good") if task.settled else OUTCOMES.get(task.state, "good")
        self._label(task.name, down=14)
        took = ""
        if task.started_ns is not None:
            end_ns = self._report.ended_ns if task.ended_ns is None else task.ended_ns
            begin, end = self._x(task.started_ns), self._x(end_ns)
            took = f" {length(end_ns - task.started_ns)}"
            if task.soft_ns is not None:
                soft = self._x(min(task.soft_ns, self._report.ended_ns))
                self._elements.append(
                    svg.Rect(
                        x=_round(begin),
                        y=self._y + 9,
                        width=_round(max(0, soft - begin)),
                        height=2,
                        class_=["faint", "pale"],
                    )
                )
            bar = svg.Rect(
                x=_round(begin), y=self._y + 4, width=_round(max(2, end - begin)), height=12, rx=2, class_=[colour]
            )
            self._elements.append(_with_tooltip(f"{task.name}: {task.state}{took} {task.reason}", bar))
            for instant_ns, mark in ((task.soft_ns, "ink"), (task.hard_ns, "bad")):
                if instant_ns is not None and self._window.begin_ns <= instant_ns <= self._window.end_ns:
                    x = _round(self._x(instant_ns) - 1)
                    self._elements.append(svg.Rect(x=x, y=self._y + 2, width=2, height=16, class_=[mark]))
        self._beside(f"{task.state}{took}", colour, down=14, whole=f"{task.state}{took} {task.reason}")

    def _footing(self) -> None:
        report = self._report
        self._y += 4
        rest = telling(report.tasks, TASKS)[1]
        if rest:
            self._text(
                EDGE, f"+{len(rest)} more tasks, {sum(task.lost for task in rest)} of them lost", "faint", down=14
            )
            self._y += 22
        if any(task.started_ns is not None for task in report.tasks):
            for x, name, colour in ((LEFT, "deadline", "ink"), (LEFT + 90, "killed at the latest", "bad")):
                self._elements.append(svg.Rect(x=x, y=self._y, width=2, height=12, class_=[colour]))
                self._text(x + 8, name, "small", "faint", size=SMALL, down=10)
            self._y += 22
        for sentence in report.lost[:LOST]:
            self._sentence(EDGE, sentence, "bad")
        for advice in report.advice[:ADVICE]:
            self._y += 6
            for name, colour, sentence in (("fault", "warn", advice.fault), ("mend", "good", advice.mend)):
                self._text(EDGE, name, "strong", colour, down=14)
                self._sentence(EDGE + 50, sentence, "ink")
        notes = []
        if len(report.lost) > LOST:
            notes.append(f"{len(report.lost) - LOST} more things were lost.")
        if len(report.advice) > ADVICE:
            notes.append(f"+{len(report.advice) - ADVICE} more faults, each with its mend: see the report.")
        if self._window.begin_ns > report.began_ns:
            notes.append(f"The start, at {instant(report.seconds(report.began_ns))} s, is not shown.")
        if notes:
            self._y += 6 * bool(report.advice)
            self._text(EDGE, " ".join(notes), "faint", down=14)
            self._y += 20

    def _sentence(self, x: float, text: str, colour: str) -> None:
        """A sentence over the page's width, wrapped; one that has too many lines is whole in its last one's tooltip."""
        wide = WIDTH - EDGE - x
        lines = _wrapped(clean(text), wide, FONT)
        if len(lines) > LINES:
            lines[LINES - 1 :] = [_cut(f"{lines[LINES - 1]} {lines[LINES]}", wide, FONT)]
        for number, line in enumerate(lines, 1):
            whole = text if number == LINES else line
            self._elements.append(_words(x, self._y + 14, line, colour, whole=whole))
            self._y += 18
        self._y += 2

    def _x(self, instant_ns: int) -> float:
        return LEFT + (RIGHT - LEFT) * self._window.share(instant_ns)

    def _label(self, text: str, *, down: float) -> None:
        self._text(EDGE, text, down=down, wide=LEFT - EDGE - 10)

    def _beside(self, text: str, colour: str, *, down: float, whole: str = "") -> None:
        self._text(RIGHT + 10, text, colour, down=down, whole=whole)

    def _text(
        self,
        x: float,
        text: str,
        *classes: str,
        size: float = FONT,
        down: float,
        wide: float | None = None,
        whole: str = "",
    ) -> None:
        shown = _cut(clean(text), WIDTH - EDGE / 2 - x if wide is None else wide, size)
        self._elements.append(_words(x, self._y + down, shown, *classes, whole=whole or text))


def _written(text: str) -> str:
    """``text`` as XML can hold it."""
    return escape(clean(text), quote=False)


def _cut(text: str, wide: float, size: float) -> str:
    """As much of ``text`` as fits."""
    if text_width(text, size) <= wide:
        return text
    while text and text_width(text + "…", size) > wide:
        text = text[:-1]
    return text.rstrip() + "…"


def _wrapped(text: str, wide: float, size: float) -> list[str]:
    """``text`` in lines that fit, broken between words where that can be."""
    lines = [""]
    for word in text.split():
        tried = f"{lines[-1]} {word}".strip()
        if text_width(tried, size) <= wide:
            lines[-1] = tried
            continue
        rest = word
        if lines[-1]:
            lines.append("")
        while text_width(rest, size) > wide:
            fits = next(n for n in range(len(rest), 0, -1) if text_width(rest[:n], size) <= wide)
            lines[-1:] = [rest[:fits], ""]
            rest = rest[fits:]
        lines[-1] = rest
    return lines


def _words(x: float, y: float, shown: str, *classes: str, anchor: Side | None = None, whole: str = "") -> svg.Element:
    words = svg.Text(x=_round(x), y=_round(y), text=_written(shown), class_=list(classes) or None, text_anchor=anchor)
    return words if not whole or shown == clean(whole) else _with_tooltip(whole, words)


def _with_tooltip(text: str, element: svg.Element) -> svg.Element:
    return svg.G(elements=[svg.Title(text=_written(text)), element])


def _round(number: float) -> float:
    return round(number, 1)


def _runs(left: Sequence[Left]) -> list[list[Left]]:
    """Stretches that have a limit, and stretches that have none."""
    return [list(run) for _, run in groupby(left, key=lambda each: each[1] >= NEVER)]


def _thinned(places: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most four of the ``places`` in each pixel column: a thousand pings need not be a thousand points."""
    kept: list[tuple[float, float]] = []
    for _, column in groupby(places, key=lambda place: round(place[0])):
        run = list(column)
        heights = sorted(run, key=lambda place: place[1])
        kept += run if len(run) <= 4 else [run[0], heights[0], heights[-1], run[-1]]
    return kept
