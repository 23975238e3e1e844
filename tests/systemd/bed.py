"""A real systemd for the tests: boots one in systemd-nspawn over an overlay of this machine.

It must not know capbg: it runs programs as services and says what systemd made of them.

How a box lives and dies:

    pytest -> unshare -> systemd-nspawn, PID 1 of a pid namespace -> systemd, PID 1 of the box

The first two arrows are PR_SET_PDEATHSIG=SIGKILL, the third is the end of a pid namespace: the kernel ends
the box whatever ends pytest, SIGKILL included. All mounts are in a mount namespace that dies with it. Two
things cannot die that way, a directory in /run and an empty cgroup. Their name holds the owner's pid and
start time, and the next bed sweeps what a dead owner has left.

Rejected: finalizers alone (a SIGKILLed pytest runs none); PR_SET_PDEATHSIG on nspawn without a pid namespace
around it (systemd outlives its nspawn); a process that watches pytest's pidfd (one more interpreter to boot).

PR_SET_PDEATHSIG follows the thread: a box lives no longer than the thread that booted it.
"""

import contextlib
import errno
import itertools
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

T = TypeVar("T")

CHECKOUT = Path(__file__).resolve().parents[2]
# Not below /tmp: PrivateTmp= would hide the scratch directory from the service under test.
RUN = Path("/run")
NAME = re.compile(r"capbg-bed-(?P<pid>\d+)-(?P<start_time>\d+)-\d+")
TOOLS = ("systemd-nspawn", "journalctl", "setpriv", "unshare", "nsenter", "mount", "sh")
CLD_NAMES = {0: "", os.CLD_EXITED: "exited", os.CLD_KILLED: "killed", os.CLD_DUMPED: "dumped"}

_serial = itertools.count()

UNSHARE = (
    *("setpriv", "--pdeathsig=KILL"),
    *("unshare", "--pid", "--fork", "--kill-child", "--mount", "--propagation=private", "--mount-proc", "--"),
)

# Runs as PID 1 of the outer pid namespace, with mounts of its own.
BOOT = r"""
set -e
umask 022

# A pure v2 machine, even where the host is hybrid. And a cgroup for each box: with --keep-unit nspawn makes
# "payload" and "supervisor" inside the caller's cgroup, which two boxes would share. It is also the gate:
# once the cgroup is swept, a straggler fails here.
mount --bind "$CGROUPS" /sys/fs/cgroup
echo 0 > "/sys/fs/cgroup/$NAME/cgroup.procs"

# nspawn leaves its lock files and propagation directories behind.
mkdir -p /run/systemd/nspawn
mount -t tmpfs bed /run/systemd/nspawn

cd "$DIRECTORY/box"
mount -t tmpfs bed .
cd "$DIRECTORY/box"
mkdir upper work root
mount -t overlay -o lowerdir=/,upperdir=upper,workdir=work bed root

# Not the host's default.target: what else it runs (databases, timers, sshd) is no business of the tests.
cat > root/etc/systemd/system/bed.target <<END
[Unit]
Requires=sysinit.target
Wants=dbus.socket
After=sysinit.target dbus.socket
END

# Volatile: nothing to flush at boot, and written to the very end of a shutdown. The directory is bound.
mkdir -p root/etc/systemd/journald.conf.d
cat > root/etc/systemd/journald.conf.d/zz-bed.conf <<END
[Journal]
Storage=volatile
RuntimeMaxUse=64M
RuntimeKeepFree=0
RateLimitIntervalSec=0
END

# Without an id systemd takes this for a first boot and enables every preset.
echo "$MACHINE_ID" > root/etc/machine-id
: > root/etc/fstab

exec systemd-nspawn "$@"
"""


class BedUnavailableError(Exception):
    """This machine cannot boot a box: the message says why. Tests skip."""


class BedError(Exception):
    """The box, or a unit in it, did not do what was asked. The message holds what systemd said."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How systemd judges a service's last run."""

    result: str
    """`Result=`: success, exit-code, signal, timeout, watchdog, core-dump..."""
    state: str
    """`ActiveState=`: inactive and failed are final."""
    code: str
    """How the main process ended: exited, killed, dumped, or nothing while it runs."""
    status: int
    """Its exit status, or the number of the signal that killed it."""
    status_text: str
    """The last `STATUS=` it sent."""
    stopping_s: float
    """From leaving `active` to `inactive` or `failed`, by systemd's monotonic clock."""


class Bed:
    """One booted systemd. A context manager: the box lives inside the block.

    `scratch` is a directory that both sides see under the same path; it outlives a poweroff, not the block.
    /tmp is the box's own. The interpreter, its environment and the checkout are read-only in there.
    """

    def __init__(self, *, boot_deadline_s: float = 60.0) -> None:
        self.name = f"capbg-bed-{os.getpid()}-{_start_time(os.getpid())}-{next(_serial)}"
        self.directory = RUN / self.name
        self.scratch = self.directory / "scratch"
        self.binds = _outermost(Path(sys.prefix), Path(sys.base_prefix), CHECKOUT)
        self.leader = 0
        """The box's PID 1, as this side numbers it."""
        self._boot_deadline_s = boot_deadline_s
        self._owner = os.getpid()
        self._unshare: subprocess.Popen[bytes] | None = None
        self._units: dict[str, Path] = {}
        self._services = itertools.count()

    def __enter__(self) -> Self:
        _require_tools()
        sweep()
        try:
            self._boot()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kill the box and remove every trace of it. Does nothing the second time, or in a forked child."""
        if os.getpid() != self._owner:
            return
        if self._unshare is not None:
            self._unshare.kill()
            self._unshare.wait()
            self._unshare = None
        _remove(self.name)

    # --- Units

    def unit(self, name: str, text: str) -> None:
        """Write a unit into /etc/systemd/system (or a drop-in: `x.service.d/grace.conf`); reload systemd.

        A template is neither pinned nor cleared: stop its instances.
        """
        path = self._unit_files / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(text))
        if "/" not in name and "@." not in name:
            # systemd forgets a unit after a clean stop, and `show` then answers from a blank one (exit status
            # 0, no status text). What an active unit is ordered after stays loaded.
            pin = self._pin(name)
            pin.parent.mkdir(exist_ok=True)
            pin.write_text(f"[Unit]\nAfter={name}\n")
            self._units[name] = path
        self.systemctl("daemon-reload")

    def python_service(
        self,
        name: str,
        source: str,
        *,
        unit: Mapping[str, str | Sequence[str]] | None = None,
        **settings: str | int | Sequence[str],
    ) -> "Service":
        """Make a service that runs a Python program with this interpreter.

        `settings` go to [Service] (`TimeoutStopSec=3`; a list repeats the key), `unit` to [Unit]. Type=exec
        unless given. The unit's name gets a number, so that tests cannot meet under one name.
        """
        full_name = f"{name}-{next(self._services)}.service"
        program = self.scratch / f"{full_name}.py"
        program.write_text(textwrap.dedent(source))
        program.chmod(0o644)
        service = {"Type": "exec", "ExecStart": f"{_quoted(sys.executable)} -u {_quoted(str(program))}"}
        sections = ["[Unit]", *_lines(unit or {}), "[Service]", *_lines(service | settings)]
        self.unit(full_name, "\n".join(sections) + "\n")
        return Service(self, full_name)

    def start(self, unit: str) -> None:
        """Start a unit and wait until systemd calls it started. Raises with its journal if it fails."""
        done = self.run("systemctl", "start", unit, check=False)
        if done.returncode != 0:
            raise BedError(f"{unit} did not start: {done.stderr.strip()}\n{self.journal_text(unit)}")

    def stop(self, unit: str) -> None:
        """Stop a unit and wait until it is down."""
        self.systemctl("stop", unit)

    def show(self, unit: str, *properties: str) -> dict[str, str]:
        """Return properties as `systemctl show` tells them; all of them when none is named."""
        chosen = [f"--property={','.join(properties)}"] if properties else []
        pairs = (line.partition("=") for line in self.systemctl("show", *chosen, "--", unit).splitlines())
        return {key: value for key, equals, value in pairs if equals}

    def journal(self, unit: str | None = None) -> list[dict[str, str]]:
        """Return the journal's entries, oldest first. Works after a poweroff too."""
        if self.running:
            # Returns once journald has drained the services' stdout too. No check: the box may just go off.
            self.run("journalctl", "--sync", check=False)
        command = ["journalctl", f"--directory={self.directory / 'journal'}", "-o", "json", "-a", "-q"]
        done = _run([*command, *([f"--unit={unit}"] if unit else [])], deadline_s=60.0)
        if done.returncode != 0 and done.stderr:
            raise BedError(f"journalctl: {done.stderr.strip()}")
        entries = (json.loads(line) for line in done.stdout.splitlines())
        return [{key: _field(value) for key, value in entry.items()} for entry in entries]

    def journal_text(self, unit: str | None = None) -> str:
        """Return the journal for a person to read: seconds, who, what."""
        return "\n".join(
            f"{int(entry['__MONOTONIC_TIMESTAMP']) / 1e6:.3f} "
            f"{entry.get('SYSLOG_IDENTIFIER', '?')}: {entry.get('MESSAGE', '')}"
            for entry in self.journal(unit)
        )

    def clear(self) -> str:
        """Kill and forget the units written so far, and return their journal."""
        if not self._units:
            return ""
        # The stop job comes first: under Restart=always a mere kill would start the service again.
        for verb in (["stop", "--no-block"], ["kill", "--signal=KILL"], ["stop"], ["reset-failed"]):
            self.run("systemctl", *verb, *self._units, check=False)
        told = "\n".join(self.journal_text(unit) for unit in self._units)
        for unit, path in self._units.items():
            path.unlink()
            self._pin(unit).unlink()
            shutil.rmtree(f"{path}.d", ignore_errors=True)
        self._units.clear()
        self.systemctl("daemon-reload")
        return told

    # --- The box

    @property
    def running(self) -> bool:
        """Is the box up?"""
        return self._unshare is not None and self._unshare.poll() is None

    @property
    def root(self) -> Path:
        """The box's file system as this side reaches it. Absolute symlinks in it lead back to this side."""
        return Path(f"/proc/{self.leader}/root")

    def run(
        self,
        *argv: str,
        check: bool = True,
        deadline_s: float = 120.0,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the box, as root, and return what it said."""
        if not self.running:
            # With the box gone, its pid may be somebody else's, and we would enter his namespaces.
            raise BedError(f"the box is off: cannot run {' '.join(argv)}")
        enter = ["nsenter", f"--target={self.leader}", "-m", "-u", "-i", "-n", "-p", "-C", "--"]
        done = _run([*enter, *argv], deadline_s=deadline_s)
        if check and done.returncode != 0:
            said = done.stderr.strip() or done.stdout.strip()
            raise BedError(f"{' '.join(argv)}: exit status {done.returncode}: {said}")
        return done

    def systemctl(self, *arguments: str) -> str:
        """Run systemctl in the box and return its output. Raises when it fails."""
        return self.run("systemctl", *arguments).stdout

    def poweroff(self, *, deadline_s: float = 120.0) -> None:
        """Shut the box down by `systemctl poweroff`, wait until it is off. Scratch and journal stay."""
        # No check: the box may take the command down with it.
        self.run("systemctl", "poweroff", check=False)
        self.wait_off(deadline_s=deadline_s)

    def wait_off(self, *, deadline_s: float = 120.0) -> None:
        """Wait until the box is off, whatever shuts it down."""
        if self._unshare is not None:
            try:
                self._unshare.wait(deadline_s)
            except subprocess.TimeoutExpired:
                raise BedError(f"the box is still on after {deadline_s} s\n{self._console()}") from None

    def wait_for(self, condition: Callable[[], T | None], what: str, *, deadline_s: float = 60.0) -> T:
        """Return the first true value of `condition`. The deadline, and `what`, matter on failure only."""
        deadline = time.monotonic() + deadline_s
        while not (value := condition()):
            if time.monotonic() > deadline:
                raise BedError(f"waited {deadline_s} s for {what}; last seen: {value!r}")
            # A pace, not a wait: asking costs a process each time, and both cores may be busy.
            time.sleep(0.02)
        return value

    @property
    def _unit_files(self) -> Path:
        return self.root / "etc/systemd/system"

    def _pin(self, unit: str) -> Path:
        return self._unit_files / "bed.target.d" / f"{unit}.conf"

    def _boot(self) -> None:
        try:
            (cgroups() / self.name).mkdir()
            self.directory.mkdir()
        except OSError as error:  # a container's root may do less than root
            raise BedUnavailableError(f"no place for a box: {error}") from error
        for part, mode in (("", 0o755), ("scratch", 0o1777), ("journal", 0o755), ("box", 0o755)):
            (self.directory / part).mkdir(exist_ok=True)
            (self.directory / part).chmod(mode)  # whatever the umask
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices,
            (self.directory / "console").open("wb") as console,
        ):
            notices.bind("")  # the kernel picks an abstract name
            self._unshare = subprocess.Popen(
                [*UNSHARE, "sh", "-c", BOOT, "boot", *self._nspawn_arguments()],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,  # Ctrl-C is for pytest, which then closes the box
                env=_environment()
                | {
                    "NOTIFY_SOCKET": "@" + notices.getsockname()[1:].decode(),
                    "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1",
                    "SYSTEMD_LOG_TARGET": "console",  # being a PID 1, nspawn would log to the kernel
                    "CGROUPS": str(cgroups()),
                    "NAME": self.name,
                    "DIRECTORY": str(self.directory),
                    "MACHINE_ID": uuid.uuid4().hex,
                },
            )
            self.leader = self._await_ready(self._unshare.pid, notices)
        # An unprivileged service must get to the interpreter, be it below a closed home directory. This
        # changes the overlay only. Done inside: through `root` an absolute symlink would lead back out.
        self.run("chmod", "a+x", *{str(parent) for path in self.binds for parent in path.parents})

    def _nspawn_arguments(self) -> list[str]:
        return [
            "--quiet",
            "--boot",
            "--keep-unit",
            "--register=no",
            "--settings=no",
            f"--machine={self.name}",
            f"--directory={self.directory / 'box/root'}",
            f"--bind={self.scratch}",
            f"--bind={self.directory / 'journal'}:/run/log/journal",
            *(f"--bind-ro={path}" for path in self.binds),
            "--private-network",  # this machine's listening services must not be in the way
            "--link-journal=no",
            "--resolv-conf=off",
            "--timezone=off",
            "--console=read-only",  # needs no terminal, and shows the console where "pipe" does not
            "--notify-ready=yes",
            "--",
            "systemd.unit=bed.target",
        ]

    def _await_ready(self, unshare: int, notices: socket.socket) -> int:
        """Wait for nspawn's word that systemd has finished booting, and return systemd's pid."""
        deadline = time.monotonic() + self._boot_deadline_s
        told: dict[str, str] = {}
        ended = os.pidfd_open(unshare)
        try:
            watched = select.poll()
            watched.register(notices, select.POLLIN)
            watched.register(ended, select.POLLIN)
            while "READY" not in told:
                ready = dict(watched.poll(max(0.0, deadline - time.monotonic()) * 1000))
                if not ready:
                    reason = f"the box did not boot in {self._boot_deadline_s} s"
                    raise BedUnavailableError(f"{reason}\n{self._console()}")
                if notices.fileno() not in ready:
                    raise BedUnavailableError(f"the box ended while booting\n{self._console()}")
                lines = notices.recv(4096).decode().splitlines()
                told.update({key: value for key, _, value in (line.partition("=") for line in lines)})
        finally:
            os.close(ended)
        for pid in processes(self.name):
            # nspawn counts in its own pid namespace.
            if _namespace_pids(pid)[-2:] == [told["X_NSPAWN_LEADER_PID"], "1"]:
                return pid
        raise BedUnavailableError(f"the box ended while booting\n{self._console()}")

    def _console(self) -> str:
        return (self.directory / "console").read_text(errors="replace")[-4000:]


@dataclass(frozen=True, slots=True)
class Service:
    """A service in a box."""

    bed: Bed
    unit: str

    def start(self) -> None:
        """Start it and wait until systemd calls it started. Raises with its journal if it fails."""
        self.bed.start(self.unit)

    def stop(self) -> Outcome:
        """Stop it, wait until it is down, and return how that went."""
        self.bed.stop(self.unit)
        return self.result()

    def kill(self, number: signal.Signals, *, whom: str = "main") -> None:
        """Send a signal: to the `main` process, or to `all`."""
        self.bed.systemctl("kill", f"--kill-who={whom}", f"--signal={number.name}", self.unit)

    def wait(self, *, deadline_s: float = 60.0) -> Outcome:
        """Wait until it has ended by itself, and return how."""

        def ended() -> Outcome | None:
            outcome = self.result()
            return outcome if outcome.state in ("inactive", "failed") else None

        return self.bed.wait_for(ended, f"the end of {self.unit}", deadline_s=deadline_s)

    def says(self, text: str, *, deadline_s: float = 60.0) -> str:
        """Wait until it has printed a line with this text, and return that line."""

        def said() -> str | None:
            return next((line for line in self.output() if text in line), None)

        return self.bed.wait_for(said, f"{text!r} from {self.unit}", deadline_s=deadline_s)

    def result(self) -> Outcome:
        """Return how the last run went, or goes."""
        told = self.show(
            *("Result", "ActiveState", "ExecMainCode", "ExecMainStatus", "StatusText"),
            *("ActiveExitTimestampMonotonic", "InactiveEnterTimestampMonotonic"),
        )
        left_usec = int(told["ActiveExitTimestampMonotonic"])
        down_usec = int(told["InactiveEnterTimestampMonotonic"])
        return Outcome(
            result=told["Result"],
            state=told["ActiveState"],
            code=CLD_NAMES[int(told["ExecMainCode"])],
            status=int(told["ExecMainStatus"]),
            status_text=told["StatusText"],
            stopping_s=(down_usec - left_usec) / 1e6 if 0 < left_usec < down_usec else 0.0,
        )

    def show(self, *properties: str) -> dict[str, str]:
        """Return properties as `systemctl show` tells them."""
        return self.bed.show(self.unit, *properties)

    def journal(self) -> list[dict[str, str]]:
        """Return the journal of this service: its own lines and what systemd says of it."""
        return self.bed.journal(self.unit)

    def output(self) -> list[str]:
        """Return the lines it printed, to stdout or stderr."""
        return [entry["MESSAGE"] for entry in self.journal() if entry.get("_TRANSPORT") == "stdout"]


def sweep() -> None:
    """Remove what the beds of dead runs have left."""
    for name in {path.name for place in (RUN, cgroups()) for path in place.iterdir()}:
        if (owner := NAME.fullmatch(name)) and _start_time(int(owner["pid"])) != owner["start_time"]:
            _remove(name)


def processes(name: str) -> list[int]:
    """Return what runs in a box, as the kernel lists it: all that is in its cgroup."""
    pids: list[int] = []
    for members in (cgroups() / name).rglob("cgroup.procs"):
        with _vanishing():
            pids += [int(pid) for pid in members.read_text().split()]
    return pids


def cgroups() -> Path:
    """Where the v2 hierarchy is mounted: /sys/fs/cgroup, on a hybrid machine /sys/fs/cgroup/unified."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        mount, _, kind = line.partition(" - ")
        if kind.startswith("cgroup2 "):
            return Path(mount.split()[4])
    raise BedUnavailableError("no cgroup v2 hierarchy is mounted")


def _remove(name: str) -> None:
    """Kill what is in a box's cgroup, remove cgroup and directory. Another sweeper may do so meanwhile."""
    cgroup = cgroups() / name
    with _vanishing():
        (cgroup / "cgroup.kill").write_text("1")
        _await_empty(cgroup / "cgroup.events", deadline_s=60.0)
    for directory, _, _ in os.walk(cgroup, topdown=False):
        with _vanishing():
            os.rmdir(directory)
    with _vanishing():
        # Were the box's root ever mounted on this side, this fails, before anything in it could be deleted.
        os.rmdir(RUN / name / "box")
    shutil.rmtree(RUN / name, ignore_errors=True)


def _await_empty(events: Path, *, deadline_s: float) -> None:
    deadline = time.monotonic() + deadline_s
    with events.open("rb", buffering=0) as file:
        changed = select.poll()
        changed.register(file, select.POLLPRI)
        while b"populated 0" not in os.pread(file.fileno(), 4096, 0):
            if not changed.poll(max(0.0, deadline - time.monotonic()) * 1000):
                left = processes(events.parent.name)
                raise BedError(f"alive {deadline_s} s after SIGKILL: {left}")


@contextlib.contextmanager
def _vanishing() -> Iterator[None]:
    """Pass over what is gone already, or (ENODEV) goes while its file is open."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ESRCH, errno.ENODEV):
            raise


def _require_tools() -> None:
    if os.geteuid() != 0:
        raise BedUnavailableError("booting a systemd needs root")
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        raise BedUnavailableError(f"not installed: {', '.join(missing)} (Debian package systemd-container)")


def _start_time(pid: int) -> str:
    """When a living process started, in the kernel's ticks. With the pid it names a process for good."""
    with _vanishing():
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        if state != "Z":  # a killed run may stay a zombie for long, if nobody reaps it
            return fields[18]
    return ""


def _namespace_pids(pid: int) -> list[str]:
    """The pids of a process, from this pid namespace down to its own."""
    with _vanishing():
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("NSpid:"):
                return line.split()[1:]
    return []


def _outermost(*paths: Path) -> list[Path]:
    """Leave out what another path holds, and /usr, which the box has by the overlay."""
    chosen: list[Path] = []
    for path in sorted(paths):  # a directory sorts before what it holds
        if path != Path("/") and not any(path.is_relative_to(held) for held in (Path("/usr"), *chosen)):
            chosen.append(path)
    return chosen


def _run(command: Sequence[str], *, deadline_s: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=deadline_s,
        env=_environment(),
    )


def _environment() -> dict[str, str]:
    """Nothing else of pytest's environment reaches the box: no NOTIFY_SOCKET, no bus address."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8", "SYSTEMD_COLORS": "0"}


def _lines(settings: Mapping[str, str | int | Sequence[str]]) -> Iterator[str]:
    for key, value in settings.items():
        for one in [value] if isinstance(value, str | int) else value:
            yield f"{key}={one}"


def _quoted(word: str) -> str:
    """Quote a word for ExecStart=."""
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%") + '"'


def _field(value: object) -> str:
    """A journal field as text: bytes that are no text come as numbers, a repeated field as a list."""
    if isinstance(value, list):
        if all(isinstance(byte, int) for byte in value):
            return bytes(value).decode(errors="replace")
        return "\n".join(_field(one) for one in value)
    return str(value)
