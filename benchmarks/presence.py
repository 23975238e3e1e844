"""What it costs that capbg is there, before anything has happened: imports, entering, memory, wake-ups."""

import functools
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.measure import Bar, Plan, Program, Section, compiled, in_turn, median, ratio, running
from benchmarks.notify_socket import NotifySocket

_WATCHDOG_S = 2.0

_ENTERING = """
import time
import capbg
began = time.perf_counter_ns()
with capbg.App("bench"):
    print(time.perf_counter_ns() - began)
"""

_SPLIT = """
import time
import capbg
instants = [time.perf_counter_ns()]
def lap():
    instants.append(time.perf_counter_ns())
import socket, select, ctypes, logging, inspect
lap()
from multiprocess import forkserver, reduction, resource_tracker, spawn, util
lap()
import setproctitle
lap()
import sdnotify
lap()
import capbg.supervisor
lap()
with capbg.App("bench"):
    lap()
print(*(b - a for a, b in zip(instants, instants[1:])))
"""
_PARTS = ("the standard library's", "multiprocess", "setproctitle", "sdnotify", "capbg's own", "entering as such")


def measure(plan: Plan) -> list[Section]:
    """Measure what a program pays for an app in which nothing happens."""
    section = Section(
        title="What it costs to be there",
        how=(
            "Medians; differences and ratios are those of pairs run in turn. Imports are compiled beforehand. USS: the "
            "memory a process shares with nobody (smaps_rollup); the only worker's counts what its parent has changed "
            "since the fork as well: nobody else keeps the old pages. Wake-ups: voluntary context switches."
        ),
        columns=["figure", "value"],
    )
    with compiled():
        _imports(plan, section)
        _memory(plan, section)
        _wake_ups(plan, section)
    return [section]


# ------------------------------------------------------------------------------------------------ imports, entering


def _imports(plan: Plan, section: Section) -> None:
    rounds = 2 if plan.quick else max(plan.rounds, 15)
    found = in_turn(
        rounds,
        {
            "bare": lambda: _took("pass"),
            "imported": lambda: _took("import capbg"),
            "entered": lambda: float(_says(_ENTERING)) / 1e6,
        },
    )
    over = median([b - a for a, b in zip(found["bare"], found["imported"], strict=True)])
    _says(_SPLIT)
    splits = [[int(part) / 1e6 for part in _says(_SPLIT).split()] for _ in range(rounds)]
    parts = ", ".join(
        f"{name} {median(each):.1f}" for name, each in zip(_PARTS, zip(*splits, strict=True), strict=True)
    )
    entered = median(found["entered"])
    section.rows += [
        ("`import capbg` over a bare interpreter", f"{over:.1f} ms (on {median(found['bare']):.1f})"),
        ("entering the app, after `import capbg`", f"{entered:.1f} ms"),
        ("of which, imported one by one, ms", parts),
    ]
    section.bars += [
        Bar("import capbg, over a bare interpreter", 10.0, over, "ms"),
        Bar("entering the app", 70.0, entered, "ms"),
    ]


def _took(code: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return (time.perf_counter() - began) * 1e3


def _says(code: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


# ----------------------------------------------------------------------------------------------------------- memory


_SCRIPTS = {"capbg": "idle/idle_capbg.py", "same": "idle/idle_bare.py", "bare": "idle/idle_bare.py"}
_ALONE, _TOGETHER = 1, 8


def _memory(plan: Plan, section: Section) -> None:
    rounds = 1 if plan.quick else max(plan.rounds, 5)
    with running(_SCRIPTS["capbg"]) as program:
        modules = next(line for line in program.lines if line.startswith("MODULES")).split()[1:]
    env = {"same": {"BENCH_MODULES": " ".join(modules)}}
    idle: dict[str, list[float]] = {name: [] for name in _SCRIPTS}

    def look(name: str, number: int) -> float:
        with running(_SCRIPTS[name], env={**env.get(name, {}), "BENCH_TASKS": str(number)}) as program:
            idle[name].append(_status(program.pid, "VmRSS") / 1024)
            program.signal()
            pids = [int(program.line("TASK")) for _ in range(number)]
            for pid in pids:
                _wait_at_rest(pid)
            return median([_private_kb(pid) / 1024 for pid in pids])

    worker = {
        number: in_turn(rounds, {name: functools.partial(look, name, number) for name in _SCRIPTS})
        for number in (_ALONE, _TOGETHER)
    }
    bare = median(idle["bare"])
    over, over_same = (median(idle["capbg"]) - median(idle[name]) for name in ("bare", "same"))
    section.rows += [
        ("resident memory of an idle app over the same program without capbg", f"{over:.1f} MB (on {bare:.1f})"),
        ("of which capbg's own, the rest being what it imports", f"{over_same:.1f} MB"),
    ]
    for number, found in worker.items():
        where = "the only worker" if number == _ALONE else f"a worker, one of {number}"
        capbg, same, bare = (median(found[name]) for name in _SCRIPTS)
        section.rows.append(
            (
                f"USS of {where}, in its task",
                f"{capbg:.2f} MB; bare fork {same:.2f} with the same modules, {bare:.2f} in a bare interpreter",
            )
        )
        times = ratio(found["capbg"], found["same"])
        section.bars.append(Bar(f"USS of {where}, over a bare fork's with the same modules", 1.2, times))


def _wait_at_rest(pid: int) -> None:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        before = _switches(pid)
        time.sleep(0.02)
        if _switches(pid) == before:
            return
    raise TimeoutError(f"the task in process {pid} does not come to rest")


def _private_kb(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Clean", "Private_Dirty")))


def _status(pid: int, name: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


# --------------------------------------------------------------------------------------------------------- wake-ups


def _wake_ups(plan: Plan, section: Section) -> None:
    seconds = 2.0 if plan.quick else 10.0
    with running("idle/idle_capbg.py") as program, _watched() as watched:
        found = _wakes(seconds, program, watched)
    without, with_watchdog = (each * 60 / seconds for each in found)
    section.rows += [
        ("wake-ups per minute while active, no watchdog", f"{without:.0f}"),
        (
            f"the same, driven, with a watchdog of {_WATCHDOG_S:g} s",
            f"{with_watchdog:.0f} ({with_watchdog / 60 * _WATCHDOG_S:.1f} a watchdog interval)",
        ),
    ]
    section.bars.append(Bar("wake-ups while active, no watchdog", 0.0, without, "/min"))


@contextmanager
def _watched() -> Iterator[Program]:
    """A driven app under a watchdog, with a notify socket that takes its pings."""
    with NotifySocket() as notify:
        env = {**notify.env, "WATCHDOG_USEC": str(int(_WATCHDOG_S * 1e6))}
        with running("idle/idle_capbg.py", "driven", env=env) as program:
            yield program


def _wakes(seconds: float, *programs: Program) -> list[int]:
    time.sleep(0.5)
    before = [_wake_count(program.pid) for program in programs]
    time.sleep(seconds)
    return [_wake_count(program.pid) - each for program, each in zip(programs, before, strict=True)]


def _switches(pid: int) -> int:
    return _status(pid, "voluntary_ctxt_switches") + _status(pid, "nonvoluntary_ctxt_switches")


def _wake_count(pid: int) -> int:
    """How often it has gone to sleep, and so been woken up."""
    return _status(pid, "voluntary_ctxt_switches")
