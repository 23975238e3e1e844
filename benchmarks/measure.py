"""How everything here is measured: real programs, in turn, as ratios of pairs.

The machines this runs on are shared, and their speed drifts by half within a minute. So no figure stands alone: in each
round every contender runs once, in an order that rotates, and a ratio is the median over the rounds of the ratios
within one round. Nothing here asserts a time.
"""

import os
import platform
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
PATIENCE_S = 120.0
"""How long a program may take for what it must do. Only a failure waits that long."""


@dataclass(frozen=True)
class Plan:
    """How much to measure."""

    rounds: int
    quick: bool
    """Whether this only shows that the benchmark runs: few rounds, small sizes."""


@dataclass(frozen=True)
class Bar:
    """Where a figure must arrive, and where it did."""

    figure: str
    limit: float
    reached: float
    unit: str = "x"
    why: str = ""
    """If it is missed: the reason."""

    @property
    def met(self) -> bool:
        """Whether it did, to the digits shown."""
        return round(self.reached, 2) <= self.limit


@dataclass
class Section:
    """One table of the results."""

    title: str
    how: str
    columns: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    series: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    """What a plot shows: by contender."""


def in_turn(rounds: int, contenders: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Run each contender once a round, after a round that does not count; return what each run returned."""
    found: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for number in range(rounds + 1):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            value = contenders[name]()
            if number:
                found[name].append(value)
    return found


def ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """The median of the ratios of pairs."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def median(values: Sequence[float]) -> float:
    """The median."""
    return statistics.median(values)


class Program:
    """A program under measurement: started, waited for until it is ready and asleep, signalled, timed to its end."""

    def __init__(self, script: str, *arguments: object, env: Mapping[str, str] | None = None) -> None:
        self.lines: list[str] = []
        self._rest = b""
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / script), *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
        self.pid = self.process.pid
        self.pidfd = os.pidfd_open(self.pid)

    def line(self, start: str) -> str:
        """Read until a line begins so; return what follows."""
        assert self.process.stdout is not None
        end = time.monotonic() + PATIENCE_S
        while True:
            while b"\n" not in self._rest:
                if not select.select([self.process.stdout], [], [], max(0.0, end - time.monotonic()))[0]:
                    raise TimeoutError(f"{self.process.args!r} says no {start!r}; it said {self.lines!r}")
                data = os.read(self.process.stdout.fileno(), 65536)
                if not data:
                    raise EOFError(f"{self.process.args!r} says no {start!r}; it said {self.lines!r}")
                self._rest += data
            head, self._rest = self._rest.split(b"\n", 1)
            self.lines.append(head.decode())
            if self.lines[-1].startswith(start):
                return self.lines[-1][len(start) :].strip()

    def ready(self) -> None:
        """Wait until it has said READY and sleeps: a signal now finds it as it would be found."""
        self.line("READY")
        end = time.monotonic() + PATIENCE_S
        while state(self.pid) != "S" and time.monotonic() < end:
            time.sleep(0.001)
        time.sleep(0.01)

    def signal(self, signum: int = signal.SIGTERM) -> int:
        """Send it; return the instant before, in ns of CLOCK_MONOTONIC."""
        now = time.monotonic_ns()
        os.kill(self.pid, signum)
        return now

    def wait(self, *, status: int | None = 0) -> int:
        """Wait for its end; return the instant of it. Any exit status but the one demanded is an error."""
        if not select.select([self.pidfd], [], [], PATIENCE_S)[0]:
            raise TimeoutError(f"{self.process.args!r} does not leave")
        now = time.monotonic_ns()
        found = self.process.wait()
        if status is not None and found != status:
            raise RuntimeError(f"{self.process.args!r} left with {found}; it said {self.lines!r}")
        return now

    def close(self) -> None:
        """End it and whatever it left behind in its session, if it is still there."""
        for pid in session(self.pid):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait()
        os.close(self.pidfd)
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextmanager
def running(script: str, *arguments: object, env: Mapping[str, str] | None = None) -> Iterator[Program]:
    """A program that is ready, and gone afterwards."""
    program = Program(script, *arguments, env=env)
    try:
        program.ready()
        yield program
    finally:
        program.close()


@contextmanager
def compiled() -> Iterator[None]:
    """Have programs keep what they compile on import, as it is kept of whatever is installed, in a place of their own.

    The first to import something compiles it: there has to be a round that does not count.
    """
    names = ("PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX")
    before = {name: os.environ.pop(name, None) for name in names}
    try:
        with tempfile.TemporaryDirectory() as cache:
            os.environ["PYTHONPYCACHEPREFIX"] = cache
            yield
    finally:
        os.environ.pop("PYTHONPYCACHEPREFIX", None)
        os.environ.update({name: value for name, value in before.items() if value is not None})


def stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat behind the name; empty: there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def state(pid: int) -> str:
    """R, S, T, Z...; empty: gone."""
    fields = stat(pid)
    return fields[0] if fields else ""


def session(leader: int) -> list[int]:
    """The processes of a session, zombies left out."""
    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [pid for pid in pids if (fields := stat(pid)) and int(fields[3]) == leader and fields[0] != "Z"]


def machine() -> str:
    """What this was measured on, in a paragraph."""
    cpu = next((ln.partition(":")[2].strip() for ln in _lines("/proc/cpuinfo") if ln.startswith("model name")), "?")
    memory = int(next((line.split()[1] for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), "0"))
    virtual = " (virtual)" if any("hypervisor" in line for line in _lines("/proc/cpuinfo")) else ""
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    return (
        f"{len(os.sched_getaffinity(0))} CPUs, {cpu}{virtual}; {memory / 1024**2:.0f} GiB; Linux {platform.release()}; "
        f"{platform.python_implementation()} {platform.python_version()}; load average at the start {load}"
    )


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
