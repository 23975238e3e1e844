"""The end of a rehearsal, for a person (:func:`show`) and for a machine (:func:`to_json`).

For a person: the timeline drawn with characters, what became of each task, what SIGKILL had to end, the verdict, the
margin, what was lost, the faults with their mends, and PASSED or LOST in the last line. In 60 columns as in 250; on a
pipe without colour, and sentences are not wrapped there. It knows values only: no process, no clock.

What :func:`to_json` returns is one object. Seconds are floats behind the stop (before it: negative; without a stop:
behind the start), null stands for what is unknown or without limit. Keys are added but never change:

* ``schema``: 1; ``passed``: whether nothing was lost, as the exit status of ``capbg rehearse`` says; ``command``
* ``verdict``: the next three in a sentence: ``Result=timeout, killed by SIGKILL``
* ``result``: ``Result=`` as systemd would show it (``success``, ``exit-code``, ``signal``, ``timeout``...); ``code``:
  how the main process ended (``exited``, ``killed``, ``dumped``; empty: nobody knows); ``status``: its exit status, or
  the number of the signal that ended it; ``status_text``: the last ``STATUS=``
* ``began``, ``stop``, ``ended``: instants; ``stop`` is 0.0, or null if there was none
* ``margin``, ``margin_at``: the shortest time to a kill that the stop came to, and when; 0.0: its time was over
* ``lost``: sentences; ``advice``: each with ``fault`` and ``mend``, sentences
* ``settings``: ``type``, ``notify_access``, ``kill_mode``, ``failure_mode``, ``send_sigkill``, ``success_statuses``,
  and in seconds ``timeout_start``, ``timeout_stop``, ``timeout_abort``, ``watchdog`` (0.0: off)
* ``tasks``: each with ``id``, ``name``, ``state`` (of a settled one its outcome), ``settled``, ``lost``, ``done``,
  ``total``, ``percent``, ``message``, ``reason``, and the instants ``started``, ``deadline``, ``kill``, ``ended``
* ``spans``: systemd's states, each with ``state``, ``begin``, ``end``
* ``deadlines``: each with ``at``, ``until``, ``why``, ``watchdog`` (whether it is the watchdog's)
* ``signals``: each with ``at``, ``signal``, ``to``
* ``killed``: what SIGKILL had to end, each with ``pid``, ``parent``, ``name``, ``state``, ``on_sigterm``
* ``entries``: each with ``at``, ``who`` (``systemd``, ``notify``, ``program``, ``task``), ``text``, ``tone``,
  ``fields``
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.style import Style
from rich.text import Text

from capbg._core.words import NS
from capbg.cli.rehearsal.chart import Chart
from capbg.cli.rehearsal.looks import (
    BAD,
    FAINT,
    GOOD,
    TONES,
    WARN,
    WHO,
    clean,
    count,
    instant,
    legible,
    told,
)
from capbg.cli.rehearsal.record import NEVER, Entry, Report, Settings, TaskSeen
from capbg.cli.rehearsal.verdict import last_line, margin, status_lines, verdict

PIPE_WIDTH = 100
"""Columns of the chart where there is no terminal to ask."""
FIRST, LAST = 40, 160
"""So many entries from either end are printed when there are more: the rest is in the JSON."""


def show(report: Report, console: Console, *, entries: bool | None = None) -> None:
    """Print the report.

    ``entries``: with everything that happened, line by line; None: on a terminal, whose live screen is gone by now.
    """
    listed = console.is_terminal and not console.is_dumb_terminal if entries is None else entries
    _Page(report, console).print(listed=listed)


@dataclass(frozen=True, slots=True)
class _Page:
    report: Report
    console: Console

    def print(self, *, listed: bool) -> None:
        report = self.report
        if listed and report.entries:
            self._title("What happened")
            for line in self._entries():
                self._out(line, indent=20)
        self._title(f"Timeline: 0 is the {'start' if report.stop_ns is None else 'stop'}")
        width = self.console.width if self.console.is_terminal else max(self.console.width, PIPE_WIDTH)
        for row in Chart(report, width, encoding=self.console.encoding).rows():
            self._put(row, soft_wrap=True)
        self._reasons()
        if report.killed:
            self._title("What SIGKILL had to end")
            for process in report.killed:
                self._out(
                    Text.assemble(
                        f"  {process.pid}  ",
                        (self._clean(process.name), "bold"),
                        (f"  state {process.state}, SIGTERM {process.on_sigterm}", BAD),
                    ),
                    indent=4,
                )
        self._verdict()

    def _reasons(self) -> None:
        for task in self.report.tasks:
            if task.lost and task.reason:
                self._out(
                    Text.assemble(
                        "  ", (self._clean(task.name), "bold"), f": {task.state}: ", (self._clean(task.reason), BAD)
                    ),
                    indent=4,
                )

    def _verdict(self) -> None:
        report = self.report
        self._title("Verdict")
        colour = GOOD if report.result == "success" else BAD
        self._out(Text.assemble(("systemd  ", FAINT), (verdict(report), f"bold {colour}")), indent=9)
        self._out(Text.assemble(("status   ", FAINT), "; ".join(status_lines(report))), indent=9)
        self._out(Text.assemble(("margin   ", FAINT), margin(report)), indent=9)
        for sentence in report.lost:
            self._out(Text.assemble(("lost     ", FAINT), (self._clean(sentence), BAD)), indent=9)
        for advice in report.advice:
            self._out(Text(""))
            self._out(Text.assemble(("fault    ", f"bold {WARN}"), self._clean(advice.fault)), indent=9)
            self._out(Text.assemble(("mend     ", f"bold {GOOD}"), self._clean(advice.mend)), indent=9)
        self._out(Text(""))
        self._out(Text(self._clean(last_line(report)), f"bold {GOOD if report.passed else BAD}"))

    def _entries(self) -> Iterator[Text]:
        report = self.report
        whole = len(report.entries) <= FIRST + LAST
        for entry in report.entries if whole else report.entries[:FIRST]:
            yield self._entry(entry)
        if not whole:
            left_out = count(len(report.entries) - FIRST - LAST, "more entry", "more entries")
            yield Text(f"           ... {left_out}: see --json", FAINT)
            for entry in report.entries[-LAST:]:
                yield self._entry(entry)

    def _entry(self, entry: Entry) -> Text:
        return Text.assemble(
            (f"{instant(self.report.seconds(entry.at_ns)):>9}  ", FAINT),
            (f"{entry.who.value:<8} ", WHO[entry.who]),
            (self._clean(told(entry)), TONES[entry.tone]),
        )

    def _title(self, title: str) -> None:
        self._out(Text(""))
        self._out(Text(title, "bold underline"))

    def _out(self, text: Text, *, indent: int = 0) -> None:
        """Print a sentence: wrapped behind its first ``indent`` columns on a terminal, in one line on a pipe."""
        if not self.console.is_terminal:
            self._put(text, soft_wrap=True)
            return
        width = self.console.width
        if indent and text.cell_len > width > indent * 2:
            first, rest = text.divide([indent])
            lines = rest.wrap(self.console, width - indent)
            text = Text("\n").join(
                Text.assemble(first if number == 0 else " " * indent, line) for number, line in enumerate(lines)
            )
        self._put(text)

    def _put(self, text: Text, *, soft_wrap: bool = False) -> None:
        def seen(style: str | Style) -> str | Style:
            return legible(style, self.console.color_system) if isinstance(style, str) else style

        text.style = seen(text.style)
        text.spans = [span._replace(style=seen(span.style)) for span in text.spans]
        self.console.print(text, soft_wrap=soft_wrap)

    def _clean(self, text: str) -> str:
        return clean(text, self.console.encoding)


def to_json(report: Report) -> str:
    """The report as one JSON object, indented; see the head of this file for its keys."""
    plain = {
        "schema": 1,
        "passed": report.passed,
        "verdict": verdict(report),
        "command": list(report.command),
        "result": report.result,
        "code": report.code,
        "status": report.status,
        "status_text": report.status_text,
        **{key: _at(report, at) for key, at in _instants(report).items()},
        "margin": _seconds(report.margin_ns),
        "margin_at": _at(report, report.margin_at_ns),
        "lost": list(report.lost),
        "advice": [{"fault": advice.fault, "mend": advice.mend} for advice in report.advice],
        "settings": _settings(report.settings),
        "tasks": [_task(report, task) for task in report.tasks],
        "spans": [
            {"state": span.state, "begin": _at(report, span.begin_ns), "end": _at(report, span.end_ns)}
            for span in report.spans
        ],
        "deadlines": [
            {
                "at": _at(report, step.at_ns),
                "until": _at(report, step.until_ns),
                "why": step.why,
                "watchdog": step.watchdog,
            }
            for step in report.deadlines
        ],
        "signals": [{"at": _at(report, sent.at_ns), "signal": sent.signal, "to": sent.to} for sent in report.signals],
        "killed": [
            {
                "pid": process.pid,
                "parent": process.parent,
                "name": process.name,
                "state": process.state,
                "on_sigterm": process.on_sigterm,
            }
            for process in report.killed
        ],
        "entries": [
            {
                "at": _at(report, entry.at_ns),
                "who": entry.who.value,
                "text": entry.text,
                "tone": entry.tone.value,
                "fields": dict(entry.fields),
            }
            for entry in report.entries
        ],
    }
    return json.dumps(_writable(plain), indent=2, ensure_ascii=False, allow_nan=False)


def _instants(report: Report) -> dict[str, int | None]:
    return {"began": report.began_ns, "stop": report.stop_ns, "ended": report.ended_ns}


def _seconds(ns: int | None) -> float | None:
    return None if ns is None or ns >= NEVER // 2 else round(ns / NS, 6)


def _at(report: Report, instant_ns: int | None) -> float | None:
    return None if instant_ns is None or instant_ns >= NEVER else round(report.seconds(instant_ns), 6)


def _settings(settings: Settings) -> dict[str, object]:
    abort_s = settings.timeout_stop_s if settings.timeout_abort_s is None else settings.timeout_abort_s
    return {
        "type": settings.type,
        "notify_access": settings.notify_access,
        "kill_mode": settings.kill_mode,
        "timeout_start": settings.timeout_start_s,
        "timeout_stop": settings.timeout_stop_s,
        "timeout_abort": abort_s,
        "failure_mode": settings.failure_mode,
        "watchdog": settings.watchdog_s,
        "send_sigkill": settings.send_sigkill,
        "success_statuses": list(settings.success_statuses),
    }


def _task(report: Report, task: TaskSeen) -> dict[str, object]:
    return {
        "id": task.id,
        "name": task.name,
        "state": task.state,
        "settled": task.settled,
        "lost": task.lost,
        "started": _at(report, task.started_ns),
        "deadline": _at(report, task.soft_ns),
        "kill": _at(report, task.hard_ns),
        "ended": _at(report, task.ended_ns),
        "done": task.done,
        "total": task.total,
        "percent": task.percent,
        "message": task.message,
        "reason": task.reason,
    }


def _writable(value: object) -> object:
    """``value`` without what UTF-8 cannot say (bytes that are no text), and null for infinity."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, dict):
        return {_writable(key): _writable(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_writable(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
