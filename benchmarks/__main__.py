"""``python -m benchmarks``: measure, print the tables, and write RESULTS.md and the two pictures beside it."""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import growth, lateness, presence, stop
from benchmarks.measure import HERE, Bar, Plan, Section, compiled, machine

PARTS: dict[str, Callable[[Plan], list[Section]]] = {
    "stop": stop.measure,
    "lateness": lateness.measure,
    "presence": presence.measure,
    "growth": growth.measure,
}
FINDINGS = HERE / "FINDINGS.md"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is asked for; exit status 0 also where a bar is missed: a shared machine is no judge."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="show that it runs: small; written only with --to")
    parser.add_argument("--rounds", type=int, default=15, help="counted rounds of each comparison (default: 15)")
    parser.add_argument("--only", choices=PARTS, help="one part; RESULTS.md is not written then")
    parser.add_argument("--to", type=Path, help="folder for RESULTS.md and the pictures (default: benchmarks)")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error(f"--rounds must be at least 1, not {options.rounds}")
    plan = Plan(rounds=1 if options.quick else options.rounds, quick=options.quick)
    described, began = machine(), time.monotonic()
    sections: list[Section] = []
    with compiled():
        for name, measure in PARTS.items():
            if options.only in {None, name}:
                print(f"measuring: {name}", file=sys.stderr, flush=True)
                for section in measure(plan):
                    sections.append(section)
                    print(f"\n{_section(section)}", flush=True)
    print(f"\n## Bars\n\n{_bars([bar for section in sections for bar in section.bars], plan)}")
    if options.only or (options.quick and options.to is None):
        return 0
    folder = options.to or HERE
    text = _results(sections, described, time.monotonic() - began, plan)
    (folder / "RESULTS.md").write_text(text)
    _draw(sections, folder)
    print(f"\nWritten: {folder / 'RESULTS.md'} and two pictures")
    return 0


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _section(section: Section) -> str:
    return f"## {section.title}\n\n{section.how}\n\n{_table(section.columns, section.rows)}"


def _bars(bars: Sequence[Bar], plan: Plan) -> str:
    rows = [[bar.figure, f"{bar.limit:g} {bar.unit}", f"{bar.reached:.2f} {bar.unit}", _said(bar)] for bar in bars]
    table = _table(["figure", "at most", "reached", ""], rows)
    return f"A single round tells nothing but that it runs.\n\n{table}" if plan.quick else table


def _said(bar: Bar) -> str:
    if bar.met:
        return "met"
    return f"**missed**: {bar.why}" if bar.why else "**missed**"


def _results(sections: Sequence[Section], described: str, took_s: float, plan: Plan) -> str:
    parts = [
        "# Results",
        "Written by `make bench`. Ratios are medians of pairs, run in turn in one sitting; times belong to this "
        "machine at that hour.",
        f"Machine: {described}. {datetime.now(UTC):%Y-%m-%d}, {plan.rounds} rounds, {took_s / 60:.0f} min.",
        "## Where it must arrive",
        _bars([bar for section in sections for bar in section.bars], plan),
        "![Signal to exit over the number of tasks](signal-to-exit.png)",
        "![How late a deadline kills, for each contender](lateness.png)",
        *map(_section, sections),
        FINDINGS.read_text().strip(),
    ]
    return "\n\n".join(parts) + "\n"


def _draw(sections: Sequence[Section], folder: Path) -> None:
    from benchmarks import plots

    drawn = [section for section in sections if section.series]
    plots.signal_to_exit(drawn[0].series, folder / "signal-to-exit.png")
    late = next(section for section in drawn if section.title.startswith("How late"))
    plots.lateness(late.series, list(lateness.KINDS), folder / "lateness.png")


if __name__ == "__main__":
    sys.exit(main())
