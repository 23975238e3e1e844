"""`capbg rehearse` against systemd itself: the same programs in both, the same ends, the same times.

A box that can boot is the judge. All services of a group are started and stopped at once, while the rehearsals of the
same programs run beside it.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.probe import clean_environment

from . import puppet
from .bed import CHECKOUT, CLD_NAMES, Bed, Service
from .scenarios import CAPBG, ENDS, EXTENSIONS, KILL_MODES, MESSAGES, NUMBERS, STARTS, WATCHDOG, Scenario, Verdict

NEAR_S = 0.3
"""How far apart the two may be: systemd's timers have a slack of 0.25 s, by design."""
ROUNDS = 3
"""A machine may be busy at the wrong moment; a rule that is played wrongly is wrong every time."""
AT_ONCE = 30
PAUSE_S = 0.5
"""Between what is done by hand."""
SETTINGS = {"Type": "notify", "KillMode": "mixed", "TimeoutStopSec": 1, "NotifyAccess": "main"}
OPTIONS = {
    "Type": "--type",
    "KillMode": "--kill-mode",
    "NotifyAccess": "--notify-access",
    "TimeoutStopSec": "--stop-timeout",
    "TimeoutStartSec": "--start-timeout",
    "TimeoutAbortSec": "--abort-timeout",
    "TimeoutStopFailureMode": "--failure-mode",
    "WatchdogSec": "--watchdog",
    "SuccessExitStatus": "--success-status",
}
TIMES = ("ActiveEnterTimestampMonotonic", "ActiveExitTimestampMonotonic", "InactiveExitTimestampMonotonic",
         "InactiveEnterTimestampMonotonic", "ExecMainExitTimestampMonotonic")  # fmt: skip

REHEARSALS = """
import json, os, resource, sys
from capbg.cli.__main__ import main
import capbg.cli.rehearse

resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
jobs = json.load(sys.stdin)
running = 0

def reap():
    pid, status = os.wait()
    if os.waitstatus_to_exitcode(status) not in {0, 1}:
        print("a rehearsal came to", status)

for arguments, to in jobs:
    if running == int(sys.argv[1]):
        reap()
        running -= 1
    if os.fork() == 0:
        os.dup2(os.open(to, os.O_WRONLY | os.O_CREAT, 0o600), 1)
        sys.argv = ["capbg", "rehearse", *arguments]
        main()
    running += 1
for _ in range(running):
    reap()
"""
"""The command line, imported once and forked for each rehearsal: all those imports would keep the machine busy."""


@dataclass(frozen=True, slots=True)
class Seen:
    """How one of the two saw a scenario end."""

    verdict: Verdict
    status: str
    """StatusText=."""
    left: int
    """How many processes were left running."""
    times: Mapping[str, float]
    """Seconds: from the stop (or from a start that came to nothing) to the main process's end and to the service's;
    and how long it was active, where it was not for us to say."""


@pytest.mark.parametrize(
    "scenarios",
    [
        pytest.param(group, id=name)
        for name, group in {
            "extensions": EXTENSIONS,
            "numbers": NUMBERS,
            "starts": STARTS,
            "watchdog": WATCHDOG,
            "kill-modes": KILL_MODES,
            "ends": ENDS,
            "messages": MESSAGES,
            "capbg": CAPBG,
        }.items()
    ],
)
def test_a_rehearsal_ends_as_systemd_would_end_it(bed: Bed, tmp_path: Path, scenarios: list[Scenario]) -> None:
    """Result=, exit status, status text, what is left and when the kills strike: in a rehearsal as in systemd."""
    waiting, wrong = scenarios, []
    for number in range(ROUNDS):
        folder = tmp_path / str(number)
        folder.mkdir()
        seen = list(_both(bed, folder, waiting))
        differ = [each for each in seen if not _same(*each)]
        wrong = [f"{each.name}: {each.verdict}; systemd {real}; rehearsal {ours}" for each, real, ours in differ]
        waiting = [each for each, real, ours in seen if not (_same(each, real, ours) and _close(each, real, ours))]
        if not waiting:
            break
    assert [] == wrong, "every time"
    assert [] == [each.name for each in waiting], "their times differ, every time"


def _same(scenario: Scenario, real: Seen, ours: Seen) -> bool:
    return (scenario.verdict, scenario.status) == (real.verdict, real.status) and (
        (real.verdict, real.status, real.left) == (ours.verdict, ours.status, ours.left)
    )


def _close(scenario: Scenario, seen: Seen, rehearsed: Seen) -> bool:
    real, ours = seen.times, rehearsed.times
    return real.keys() == ours.keys() and (
        not scenario.stop_counts or all(abs(real[what] - ours[what]) <= NEAR_S for what in real)
    )


def _both(bed: Bed, folder: Path, scenarios: Sequence[Scenario]) -> Iterator[tuple[Scenario, Seen, Seen]]:
    with ThreadPoolExecutor(1) as pool:
        rehearsed = pool.submit(_rehearse, scenarios, folder)
        real = _run(bed, scenarios)
        ours = rehearsed.result()
    print()
    for scenario, one, other in zip(scenarios, real, ours, strict=True):
        mark = "" if _same(scenario, one, other) else "  DIFFERENT"
        mark += "" if _close(scenario, one, other) else "  TIMES"
        print(f"{scenario.name:42} {_text(one):58} | {_text(other)}{mark}")
        yield scenario, one, other


def _text(seen: Seen) -> str:
    result, code, number = seen.verdict
    times = "  ".join(f"{what} {at:.2f}" for what, at in seen.times.items())
    return f"{result} {code} {number}  {times}  {seen.status}" + (f"  left {seen.left}" if seen.left else "")


def _source(scenario: Scenario) -> str:
    return scenario.source or f"{Path(puppet.__file__).read_text()}\n\nplay({dict(scenario.script)!r})\n"


# ------------------------------------------------------------------------------------------------------------ rehearsal


def _rehearse(scenarios: Sequence[Scenario], folder: Path) -> list[Seen]:
    jobs = []
    for number, scenario in enumerate(scenarios):
        program = folder / f"{number}.py"
        program.write_text(_source(scenario))
        arguments = ["--json", *_options(scenario), "--", sys.executable, str(program)]
        jobs.append((arguments, str(program.with_suffix(".json"))))
    done = subprocess.run(
        [sys.executable, "-c", REHEARSALS, str(AT_ONCE)],
        input=json.dumps(jobs),
        cwd=CHECKOUT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert (0, "") == (done.returncode, done.stdout + done.stderr)
    return [_rehearsed(each, Path(to).read_text()) for each, (_, to) in zip(scenarios, jobs, strict=True)]


def _options(scenario: Scenario) -> list[str]:
    unit = SETTINGS | dict(scenario.unit)
    options = [f"{option}={unit[key]}" for key, option in OPTIONS.items() if key in unit]
    options += ["--no-sigkill"] if unit.get("SendSIGKILL") == "no" else []
    stop = str(unit.get("KillSignal", "SIGTERM")).removeprefix("SIG")
    if not scenario.stop:
        return [*options, "--after=30"]
    if unit["Type"] == "exec":
        return [*options, "--after=2.5"]  # nobody tells when it can hear
    if scenario.hand:
        hand = [f"kill:{each}@{(number + 1) * PAUSE_S}" for number, each in enumerate(scenario.hand)]
        return [*options, f"--script={' '.join(hand)} {stop}@{(len(hand) + 1) * PAUSE_S}"]
    return [*options, "--after=0.4", f"--signal={stop}"]


def _rehearsed(scenario: Scenario, text: str) -> Seen:
    report = json.loads(text)
    spans = {state: [each for each in report["spans"] if each["state"] == state] for state in ("running", "suspended")}
    active = spans["running"] + spans["suspended"]
    stop = 0.0 if report["stop"] is not None else max((each["end"] for each in active), default=0.0)
    base = stop if active else report["began"]
    times = {"end": report["ended"] - base}
    for entry in report["entries"]:
        if entry["who"] == "systemd" and entry["text"].startswith("Main process exited"):
            times["main"] = entry["at"] - base
    if active and not scenario.stop:
        times["active"] = base - min(each["begin"] for each in active)
    left = [int(found[1]) for each in report["lost"] if (found := re.match(r"\S+ leaves (\d+)", each))]
    return Seen((report["result"], report["code"], report["status"]), report["status_text"], sum(left), times)


# ------------------------------------------------------------------------------------------------------------- systemd


def _run(bed: Bed, scenarios: Sequence[Scenario]) -> list[Seen]:
    chosen = [
        {key: str(value) for key, value in (SETTINGS | {"LimitCORE": 0} | dict(each.unit)).items()}
        for each in scenarios
    ]
    services = [
        bed.python_service(
            re.sub(r"\W+", "-", scenario.name),
            _source(scenario),
            Environment=f"UP={bed.scratch}/up-{number}",
            unit={},
            **settings,
        )
        for number, (scenario, settings) in enumerate(zip(scenarios, chosen, strict=True))
    ]
    marks = [bed.scratch / f"up-{number}" for number in range(len(scenarios))]
    bed.systemctl("start", "--no-block", *(each.unit for each in services))

    def up() -> bool:
        shown = _show(bed, services, "ActiveState")
        return all(
            not scenario.stop or (mark.exists() and each["ActiveState"] != "activating")
            for scenario, each, mark in zip(scenarios, shown, marks, strict=True)
        )

    bed.wait_for(up, "all services to be up")
    for mark in marks:
        mark.unlink(missing_ok=True)
    now = [each.unit for scenario, each in zip(scenarios, services, strict=True) if scenario.stop and not scenario.hand]
    by_hand = [
        f"for each in {' '.join(scenario.hand)}; do sleep {PAUSE_S}; "
        f"systemctl kill --kill-who=main -s $each {each.unit}; done; "
        f"sleep {PAUSE_S}; exec systemctl stop --no-block {each.unit}"
        for scenario, each in zip(scenarios, services, strict=True)
        if scenario.hand
    ]
    if now:
        bed.systemctl("stop", "--no-block", *now)
    with ThreadPoolExecutor(max(1, len(by_hand))) as pool:
        list(pool.map(lambda script: bed.run("sh", "-c", script), by_hand))
    ends = {"inactive", "failed"}
    bed.wait_for(lambda: {each["ActiveState"] for each in _show(bed, services, "ActiveState")} <= ends, "their ends")
    shown = _show(bed, services, "Result", "ExecMainCode", "ExecMainStatus", "StatusText", *TIMES)
    return [
        _seen(bed, scenario, service, told) for scenario, service, told in zip(scenarios, services, shown, strict=True)
    ]


def _seen(bed: Bed, scenario: Scenario, service: Service, told: Mapping[str, str]) -> Seen:
    began, ended, left, down, main = (
        int(told[f"{what}TimestampMonotonic"]) / 1e6
        for what in ("ActiveEnter", "ActiveExit", "InactiveExit", "InactiveEnter", "ExecMainExit")
    )
    base = ended or left
    times = {"end": down - base}
    if main:
        times["main"] = main - base
    if ended and not scenario.stop:
        times["active"] = ended - began
    verdict = told["Result"], CLD_NAMES[int(told["ExecMainCode"])], int(told["ExecMainStatus"])
    members = bed.root / "sys/fs/cgroup/system.slice" / service.unit / "cgroup.procs"
    alive = len(members.read_text().split()) if members.exists() else 0
    return Seen(verdict, told["StatusText"], alive, times)


def _show(bed: Bed, services: Sequence[Service], *properties: str) -> list[dict[str, str]]:
    """What systemd says of each, in one question."""
    told = bed.systemctl("show", f"--property=Id,{','.join(properties)}", *(each.unit for each in services))
    blocks = [dict(line.split("=", 1) for line in block.splitlines()) for block in told.strip().split("\n\n")]
    by_id = {each["Id"]: each for each in blocks}
    return [by_id[each.unit] for each in services]
