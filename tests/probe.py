"""Real programs for tests: started, signalled, waited for, and never left behind.

A program prints a line when it has reached a point (READY above all, once it can no longer miss a signal), and a test
waits for that line, for a descriptor, or for an exit, with a deadline that only matters on failure. The kernel is the
oracle: ``/proc`` and ``waitid``.

A program under test loops over short sleeps (``idle()`` below) instead of one long one: a signal that comes in the
microsecond between Python's last look at its flags and the system call is heard when that call ends, in any Python
program.
"""

import json
import os
import select
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

PATIENCE_S = 60.0
"""How long to wait for what must happen. Only a failure ever waits that long."""

PREAMBLE = """
import json, os, signal, sys, threading, time
import capbg

def say(*words):
    # One write: lines of several processes do not mix.
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

def idle():
    while True:
        time.sleep(0.02)

def report(app):
    r = app.last_report
    say("REPORT", json.dumps({
        "reason": r.reason.name, "duration": r.duration, "listener_errors": list(r.listener_errors),
        "results": [{
            "id": t.id, "name": t.name, "outcome": t.outcome.name, "reason": t.reason, "pid": t.pid,
            "started": t.started, "duration": t.duration, "cpu_time": t.cpu_time, "max_rss": t.max_rss,
            "exit_code": t.exit_code, "signal": t.signal, "error_type": t.error_type,
            "error_message": t.error_message, "traceback": t.traceback,
            "progress": None if t.progress is None else [t.progress.done, t.progress.total, t.progress.message],
        } for t in r.results]}))
"""
"""What every program begins with. ``report(app)`` prints the last report for :meth:`Probe.report`."""


class Probe:
    """One running program. ``lines`` holds what it has printed so far; stderr goes to ``stderr_path``."""

    def __init__(self, command: list[str], *, env: Mapping[str, str], stderr_path: Path, **options: Any) -> None:
        self.lines: list[str] = []
        self.stderr_path = stderr_path
        self._rest = b""
        with stderr_path.open("wb") as stderr:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=dict(env),
                start_new_session=True,
                **options,
            )
        self.pid = self.process.pid

    @property
    def stderr(self) -> str:
        return self.stderr_path.read_text(errors="replace")

    def expect(self, start: str, *, patience: float = PATIENCE_S) -> str:
        """Read until a line starts with ``start`` and return what follows it."""
        end = time.monotonic() + patience
        while True:
            line = self._line(end)
            if line is None:
                raise AssertionError(f"no line {start!r}; it printed {self.lines!r}, stderr:\n{self.stderr}")
            if line.startswith(start):
                return line[len(start) :].strip()

    def _line(self, end: float) -> str | None:
        assert self.process.stdout is not None
        fd = self.process.stdout.fileno()
        while b"\n" not in self._rest:
            ready, _, _ = select.select([fd], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                return None
            data = os.read(fd, 65536)
            if not data:
                return None
            self._rest += data
        line, self._rest = self._rest.split(b"\n", 1)
        self.lines.append(line.decode(errors="replace"))
        return self.lines[-1]

    def report(self) -> dict[str, Any]:
        """The report the program prints with ``report(app)``; ``outcomes`` maps task names to outcomes."""
        found: dict[str, Any] = json.loads(self.expect("REPORT"))
        found["outcomes"] = {each["name"]: each["outcome"] for each in found["results"]}
        found["by_name"] = {each["name"]: each for each in found["results"]}
        return found

    def send(self, *signums: int) -> None:
        """Send signals to the program's main process, in this order."""
        for signum in signums:
            os.kill(self.pid, signum)

    def wait(self, *, patience: float = PATIENCE_S) -> int:
        """Read to the end of its output and return its exit status (negative: the signal it died of)."""
        end = time.monotonic() + patience
        pidfd = os.pidfd_open(self.pid)
        try:
            if not select.select([pidfd], [], [], patience)[0]:
                raise AssertionError(f"it does not leave; it printed {self.lines!r}, stderr:\n{self.stderr}")
        finally:
            os.close(pidfd)
        status = self.process.wait()
        # Not to the end of the pipe: a process it left behind may hold that, and then a test shall say so itself.
        while self._line(min(end, time.monotonic() + 0.2)) is not None:
            pass
        return status

    def wait_stopped(self) -> None:
        """Wait until the kernel says that it has stopped."""
        found = os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        if found is None or found.si_code != os.CLD_STOPPED:
            raise AssertionError(f"it has left instead; it printed {self.lines!r}, stderr:\n{self.stderr}")
        self.wait_until(lambda: process_state(self.pid) == "T")

    def wait_until(self, condition: Callable[[], object], *, patience: float = PATIENCE_S) -> None:
        """Look again and again until ``condition`` holds, for what no descriptor tells."""
        end = time.monotonic() + patience
        while not condition():
            assert time.monotonic() < end, f"it never came to that; it printed {self.lines!r}, stderr:\n{self.stderr}"
            time.sleep(0.005)

    def children(self) -> list[int]:
        """Pids of its children that are not zombies."""
        return [pid for pid in children(self.pid) if process_state(pid) not in {"Z", "X", None}]

    def kill(self) -> None:
        """End it and everything in its session, and reap it. Only what this probe started."""
        family = session_members(self.pid)
        if self.process.poll() is None:
            self.process.kill()
        for pid in family:
            if pid != self.pid:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


def _stat(pid: int) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")  # a name need not be UTF-8
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text[text.rindex(")") + 2 :].split()


def process_state(pid: int) -> str | None:
    """R, S, D, T, Z... as in /proc/PID/stat; None: there is no such process."""
    fields = _stat(pid)
    return None if fields is None else fields[0]


def is_alive(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    return process_state(pid) not in {"Z", "X", None}


def process_group(pid: int) -> int | None:
    fields = _stat(pid)
    return None if fields is None else int(fields[2])


def children(pid: int) -> list[int]:
    """Pids of the children of a process, zombies included."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += map(int, path.read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def session_members(session: int) -> list[int]:
    """Pids of every process of a session."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            fields = _stat(int(entry.name))
            if fields is not None and int(fields[3]) == session and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def clean_environment() -> dict[str, str]:
    """This environment without what a test run, a service manager or a coverage tool put into it."""
    dropped = ("NOTIFY_SOCKET", "WATCHDOG_", "CAPBG_", "PYTEST_", "PYTHONWARNINGS")
    return {key: value for key, value in os.environ.items() if not key.startswith(dropped)}


class Launcher:
    """What the ``launch`` fixture gives: starts programs, and ends them all with the test."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._probes: list[Probe] = []

    def __call__(self, source: str, *arguments: str, env: Mapping[str, str] | None = None, **options: Any) -> Probe:
        """Start a Python program: the preamble and ``source``, as a file of its own (spawn imports it again)."""
        path = self._folder / f"program_{len(self._probes)}.py"
        path.write_text(PREAMBLE + textwrap.dedent(source))
        return self.start([sys.executable, str(path), *arguments], env=env, **options)

    def start(self, command: list[str], *, env: Mapping[str, str] | None = None, **options: Any) -> Probe:
        """Start any program."""
        probe = Probe(
            command,
            env={**clean_environment(), **(env or {})},
            stderr_path=self._folder / f"stderr_{len(self._probes)}.txt",
            **options,
        )
        self._probes.append(probe)
        return probe

    def close(self) -> None:
        for probe in self._probes:
            probe.kill()
