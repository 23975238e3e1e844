"""The state tables as Markdown, from the code: ``python -m tests.state_tables`` prints them.

With ``--write`` they go into ARCHITECTURE.md, between its two markers; a test fails when they are out of date there.
"""

import sys
from collections.abc import Iterable
from enum import Enum
from pathlib import Path

from capbg._core.grace import PHASES, Move, Signal
from capbg._core.task import TABLE, Action, Input, State, Transition

DOCUMENT = Path(__file__).parent.parent / "ARCHITECTURE.md"
BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"


def tables() -> str:
    """Return every table, as it stands in ARCHITECTURE.md."""
    return "\n\n".join(
        (
            "### The app's phases (`capbg/_core/grace.py`, `PHASES`)",
            _phases(),
            "### A run of a task (`capbg/_core/task.py`, `TABLE`)",
            _run(),
            "What is not in the table cannot happen: it raises, and changes nothing; nothing at all happens to a "
            "SETTLED run.\nEXPIRED becomes CANCELLED where the program has cancelled the task.",
            _words("state", State),
            _words("input", Input),
            _words("action", Action),
        )
    )


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    columns = list(head)
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _phases() -> str:
    befores = dict.fromkeys((phase, stops) for phase, stops, _ in PHASES)
    rows = []
    for phase, stops in befores:
        cells = [PHASES[phase, stops, signal] for signal in Signal]
        name = phase.name + (", because of a stop" if stops else "")
        rows.append([name, *("–" if move is Move.STAY else f"**{to.name}**: {move.value}" for to, move in cells)])
    return _table(["phase", *(signal.value for signal in Signal)], rows)


def _run() -> str:
    rows = []
    for state in State:
        inputs: dict[Transition, list[str]] = {}
        for what in Input:
            if (state, what) in TABLE:
                inputs.setdefault(TABLE[state, what], []).append(what.name)
        for to, names in inputs.items():
            rows.append([f"**{state.name}**", ", ".join(names), *_leads_to(state, to)])
    return _table(("state", "input", "next", "actions", "outcome"), rows)


def _leads_to(state: State, to: Transition) -> tuple[str, str, str]:
    return (
        "stays" if to.to is state else to.to.name,
        ", ".join(action.name for action in to.actions) or "–",
        "–" if to.outcome is None else to.outcome.name,
    )


def _words(kind: str, words: type[Enum]) -> str:
    return _table((kind, "what it means"), ([word.name, str(word.value)] for word in words))


def written(document: str) -> str:
    """Return the document with the tables as they are now between its markers."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the document needs the markers {BEGIN} and {END}, in this order")
    return f"{before}{BEGIN}\n\n{tables()}\n\n{END}{after}"


def main(arguments: list[str]) -> int:
    """Print the tables, or write them where they belong."""
    if arguments == ["--write"]:
        DOCUMENT.write_text(written(DOCUMENT.read_text("utf-8")), "utf-8")
    elif not arguments:
        sys.stdout.write(f"{tables()}\n")
    else:
        sys.stderr.write("usage: python -m tests.state_tables [--write]\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
