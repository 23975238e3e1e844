"""From the signal to the exit, to the first line of a task, and from a finish to its acknowledgement."""

import functools
import subprocess
import sys

from benchmarks.measure import Bar, Plan, Section, in_turn, median, ratio, running

CAPBG, SAME, BARE = "capbg", "floor, same modules", "floor, bare interpreter"

SCRIPTS = {
    CAPBG: "capbg_app",
    SAME: "floor",
    BARE: "floor",
    "multiprocessing": "multiprocessing_pipe",
    "multiprocess": "multiprocess_pipe",
    "billiard": "billiard_pipe",
    "concurrent.futures": "concurrent_futures",
    "pebble.concurrent": "pebble_concurrent",
    "trio.run_process": "trio_run_process",
    "pebble.ProcessPool": "pebble_pool",
    "loky": "loky_executor",
    "billiard.Pool": "billiard_pool",
}
FORKS = (CAPBG, SAME, BARE)
SLOW = ("pebble.ProcessPool", "loky", "billiard.Pool")
"""Their figures are so far off that three rounds tell them, and 128 of them tell nothing more."""

AT_MOST = {1: 0.6, 8: 0.8, 32: 1.0, 128: 1.1}
AT_MOST_BARE = {1: 1.5, 32: 2.0}
AT_MOST_1000_MB = 1.0

WHY_MISSED = "each worker copies the pages its guarantees touch"
WHY_ONE_MISSED = "what a file in a cycle has buffered is not given up for it"
WHY_SLOW_FINISH = "both sides run code that they have not run since the fork"


@functools.cache
def modules() -> str:
    """What a program holds that has entered an app, by name, without capbg itself."""
    program = (
        "import sys, capbg\nwith capbg.App('x'): pass\n"
        "print(*(name for name in sys.modules if name != '__main__' and not name.startswith(('capbg', '__editable'))))"
    )
    return subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout


def _environment(name: str) -> dict[str, str]:
    return {"BENCH_MODULES": modules()} if name == SAME else {}


def signal_to_exit(name: str, number: int, mebibytes: int) -> float:
    """Milliseconds from SIGTERM until the program is gone with exit status 0."""
    with running(f"contenders/{SCRIPTS[name]}.py", number, mebibytes, env=_environment(name)) as program:
        sent = program.signal()
        return (program.wait() - sent) / 1e6


def signal_to_first_line(name: str) -> float:
    """Milliseconds from SIGTERM to the first line of the only task."""
    environment = _environment(name) | {"BENCH_FIRST": "1"}
    with running(f"contenders/{SCRIPTS[name]}.py", 1, 10, env=environment) as program:
        sent = program.signal()
        began = int(program.line("FIRST"))
        program.wait()
        return (began - sent) / 1e6


def finish_to_acknowledged(script: str, how: str, number: int) -> float:
    """Microseconds from a finish to its answer, the median of ``number`` workers in a program."""
    with running(f"contenders/{script}.py", number, 10, how, env=_environment(SAME)) as program:
        program.signal()
        found = [int(program.line("ROUNDTRIP")) / 1e3 for _ in range(number)]
        program.wait()
        return median(found)


def _rounds(plan: Plan, number: int) -> int:
    return plan.rounds if number < 128 else max(3, plan.rounds // 2)


def over_number(plan: Plan) -> Section:
    """N tasks in a parent of 10 MB."""
    numbers = (1, 8) if plan.quick else (1, 8, 32, 128)
    section = Section(
        "Signal to exit, 10 MB parent",
        "SIGTERM, then N no-op tasks, each in a process of its own, all acknowledged, then exit status 0, the end of "
        "the interpreter included. Libraries are imported before the signal. Median ms, and the ratio to the floor "
        "with the same modules.",
        ["", *(f"N={number}" for number in numbers)],
    )
    cells: dict[str, list[str]] = {name: [] for name in SCRIPTS}
    for number in numbers:
        fast = {name: functools.partial(signal_to_exit, name, number, 10) for name in SCRIPTS if name not in SLOW}
        found = in_turn(_rounds(plan, number), fast)
        if number < 128:
            few = {name: functools.partial(signal_to_exit, name, number, 10) for name in (SAME, *SLOW)}
            slow = in_turn(1 if plan.quick else 3, few)
        else:
            slow = {}
        for name in SCRIPTS:
            against = slow if name in SLOW else found
            if name not in against:
                cells[name].append("–")
                continue
            cells[name].append(f"{median(against[name]):.0f} ({ratio(against[name], against[SAME]):.2f} x)")
            section.series.setdefault(name, []).append((number, median(against[name])))
        mine, why = found[CAPBG], WHY_ONE_MISSED if number == 1 else WHY_MISSED
        section.bars.append(
            Bar(
                f"signal to exit, N={number}, to the same modules",
                AT_MOST[number],
                ratio(mine, found[SAME]),
                "x",
                why,
            )
        )
        if number in AT_MOST_BARE:
            section.bars.append(
                Bar(
                    f"signal to exit, N={number}, to the bare interpreter",
                    AT_MOST_BARE[number],
                    ratio(mine, found[BARE]),
                    "x",
                    why,
                )
            )
        peers = {name: each for name, each in found.items() if name not in FORKS}
        nearest = min(peers, key=lambda name: median(peers[name]))
        section.bars.append(
            Bar(
                f"ahead of every peer, N={number} (the nearest: {nearest})",
                1.0,
                ratio(mine, peers[nearest]),
                "x",
                why,
            )
        )
    section.rows = [[name, *row] for name, row in cells.items()]
    return section


def over_memory(plan: Plan) -> Section:
    """Eight tasks in larger parents."""
    sizes = (10, 100) if plan.quick else (10, 100, 400, 1000)
    section = Section(
        "Signal to exit over the parent's memory, N=8",
        "The same with 8 tasks in parents that hold 10 to 1000 MB more than they need.",
        ["", *(f"{size} MB" for size in sizes)],
    )
    names = (
        CAPBG,
        SAME,
        BARE,
        "multiprocessing",
        "multiprocess",
        "billiard",
        "concurrent.futures",
        "pebble.concurrent",
    )
    cells: dict[str, list[str]] = {name: [] for name in names}
    for size in sizes:
        found = in_turn(
            max(3, plan.rounds // 2) if size > 10 else plan.rounds,
            {name: functools.partial(signal_to_exit, name, 8, size) for name in names},
        )
        for name in names:
            cells[name].append(f"{median(found[name]):.0f} ({ratio(found[name], found[SAME]):.2f} x)")
        if size == 1000:
            reached = ratio(found[CAPBG], found[SAME])
            section.bars.append(Bar("signal to exit, N=8, 1000 MB parent", AT_MOST_1000_MB, reached, "x", WHY_MISSED))
    section.rows = [[name, *row] for name, row in cells.items()]
    return section


def words(plan: Plan) -> Section:
    """The first line of a task, and what a finish takes."""
    section = Section(
        "The first line, and a finish",
        "Signal to the first line of a single task, in ms. A finish from its call to its return in the worker, "
        "against one byte over a pipe and one back between two Python processes, in us: the median of 20 workers, "
        "which were forked together and finish in turn, or alone, each forked when the one before is gone.",
        ["", "capbg", "floor, same modules", "ratio", "bare interpreter"],
    )
    first = in_turn(plan.rounds, {name: functools.partial(signal_to_first_line, name) for name in FORKS})
    section.rows.append(
        [
            "signal to first line, ms",
            f"{median(first[CAPBG]):.1f}",
            f"{median(first[SAME]):.1f}",
            f"{ratio(first[CAPBG], first[SAME]):.2f} x",
            f"{median(first[BARE]):.1f}",
        ]
    )
    number = 5 if plan.quick else 20
    for how in ("together", "alone") if not plan.quick else ("alone",):
        finish = in_turn(
            plan.rounds,
            {
                CAPBG: functools.partial(finish_to_acknowledged, "roundtrip_capbg", how, number),
                SAME: functools.partial(finish_to_acknowledged, "roundtrip_floor", how, number),
            },
        )
        reached = ratio(finish[CAPBG], finish[SAME])
        section.rows.append(
            [
                f"finish to acknowledged, {how}, us",
                f"{median(finish[CAPBG]):.0f}",
                f"{median(finish[SAME]):.0f}",
                f"{reached:.2f} x",
                "–",
            ]
        )
        section.bars.append(Bar(f"finish to acknowledged, workers {how}", 2.0, reached, "x", WHY_SLOW_FINISH))
    return section


def measure(plan: Plan) -> list[Section]:
    """The three of them."""
    return [over_number(plan), over_memory(plan), words(plan)]
