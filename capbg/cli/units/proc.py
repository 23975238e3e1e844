"""What ``/proc`` and the cgroup file system tell about one process: read at one moment, into a value. proc(5).

It must not know what any of it means for a stop. What may not be looked at (another user's environment, descriptors)
is None, and named in ``Process.unseen``: nothing is taken for empty because it was closed to us.
"""

import os
import platform
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from capbg.errors import OperatorError

T = TypeVar("T")

_CAP_SYS_PTRACE = 19  # include/uapi/linux/capability.h
_PF_KTHREAD = 0x00200000  # include/linux/sched.h
_SIGTIMEDWAIT = {"x86_64": "128", "aarch64": "137", "riscv64": "137"}.get(platform.machine())
_NO_LIMIT = 1 << 62  # cgroup v1 says "no limit" by a number near 2**63


class ProcessError(OperatorError):
    """There is no such process to look at. The message is a sentence that says so, and what to do."""


@dataclass(frozen=True, slots=True)
class Thread:
    """One thread. Masks are sets of signal numbers."""

    tid: int
    name: str
    blocked: frozenset[int]
    pending: frozenset[int]
    waited_for: frozenset[int]
    """Signals it is waiting for at this moment by sigwait(3): the kernel shows those as not blocked meanwhile."""


@dataclass(frozen=True, slots=True)
class Child:
    """A direct child that is no zombie."""

    pid: int
    name: str
    group: int
    """Its process group."""


@dataclass(frozen=True, slots=True)
class Room:
    """What is left of one limit: ``used`` of ``most``."""

    where: str
    """The file or limit that says so."""
    used: int
    most: int

    @property
    def left(self) -> int:
        """Never below 0."""
        return max(0, self.most - self.used)


@dataclass(frozen=True, slots=True)
class Process:
    """One process at one moment. Signals are numbers."""

    pid: int
    name: str
    """``comm``: at most 15 bytes."""
    command: tuple[str, ...]
    state: str
    """R, S, D, T, t, Z..."""
    group: int
    terminal: bool
    """It has a controlling terminal."""
    kernel_thread: bool
    is_init: bool
    """It is PID 1 of its own pid namespace, as in a container."""
    same_namespace: bool | None
    """Its pid namespace is this process's; None: not to be seen."""
    seccomp_filter: bool
    user: int
    """Its real user id."""
    caught: frozenset[int]
    ignored: frozenset[int]
    pending: frozenset[int]
    """Sent to the process as a whole and not taken yet."""
    threads: tuple[Thread, ...]
    children: tuple[Child, ...]
    cgroup: str
    """The path that systemd knows it by; empty: none."""
    program: str | None
    """``exe``."""
    environment: Mapping[str, str] | None
    """As at its start: what it has changed since is not seen."""
    signalfd: frozenset[int] | None
    """Signals that one of its signalfds takes."""
    datagram_sockets: int | None
    """Connected datagram Unix sockets it holds open."""
    descriptors: Room | None
    processes: tuple[Room, ...]
    """Room for more processes and threads, by each limit that counts them."""
    memory: tuple[Room, ...]
    """Room in bytes, by each cgroup with a limit; cache that the kernel can drop does not count as used."""
    unseen: tuple[str, ...]
    """What could not be looked at."""


def read(pid: int) -> Process:
    """Look at a process.

    Raises :class:`ProcessError` when there is none, when it ends meanwhile, or when ``pid`` is a thread's number.
    """
    if pid <= 0:
        raise ProcessError(f"{pid} is no process id: those are numbers from 1 on, as `pgrep NAME` shows them")
    try:
        return _read(pid)
    except (FileNotFoundError, ProcessLookupError):
        raise ProcessError(
            f"there is no process {pid}: it may have just ended, or /proc hides other users' processes (hidepid)"
        ) from None
    except PermissionError:
        how = "look from outside of the container, or with CAP_SYS_PTRACE" if os.geteuid() == 0 else "look as root"
        raise ProcessError(f"process {pid} is closed to you (/proc is mounted with hidepid): {how}") from None


def cgroup_of(pid: int) -> str:
    """Return the path that systemd knows a process by; empty where there is none.

    Raises :class:`ProcessError` when there is no such process.
    """
    try:
        return _cgroups(Path(f"/proc/{pid}"))[0]
    except (FileNotFoundError, ProcessLookupError):
        raise ProcessError(f"there is no process {pid}") from None


def may_trace() -> bool:
    """Whether this process has CAP_SYS_PTRACE, in its own user namespace."""
    return bool(int(_status(Path("/proc/self/status"))["CapEff"], 16) >> _CAP_SYS_PTRACE & 1)


def in_user_namespace() -> bool:
    """Whether this process lives in a user namespace that is not the machine's: its root is not that one's."""
    return Path("/proc/self/uid_map").read_text().split() != ["0", "0", "4294967295"]


def _read(pid: int) -> Process:
    place = Path(f"/proc/{pid}")
    status = _status(place / "status")
    if int(status["Tgid"]) != pid:
        raise ProcessError(f"{pid} is a thread of process {status['Tgid']}: look at that one")
    _, stat = _stat(place)
    cgroup, controllers = _cgroups(place)
    environment = _closed_is_none(lambda: _environment(place))
    files = _closed_is_none(lambda: _descriptors(place))
    own = _link(place / "ns/pid")
    return Process(
        pid=pid,
        name=status["Name"],
        command=tuple(_text(word) for word in (place / "cmdline").read_bytes().rstrip(b"\0").split(b"\0") if word),
        state=stat[0],
        group=int(stat[2]),
        terminal=int(stat[4]) != 0,
        kernel_thread=bool(int(stat[6]) & _PF_KTHREAD),
        is_init=status["NSpid"].split()[-1] == "1",
        same_namespace=None if own is None else own == os.readlink("/proc/self/ns/pid"),
        seccomp_filter=status.get("Seccomp") == "2",
        user=int(status["Uid"].split()[0]),
        caught=_signals(status["SigCgt"]),
        ignored=_signals(status["SigIgn"]),
        pending=_signals(status["ShdPnd"]),
        threads=tuple(_threads(place)),
        children=tuple(_children(place)),
        cgroup=cgroup,
        program=_link(place / "exe"),
        environment=environment,
        signalfd=None if files is None else _signalfds(place, files),
        datagram_sockets=None if files is None else _datagram_sockets(place, files),
        descriptors=None if files is None else _descriptor_room(place, len(files)),
        processes=(*_counted(controllers, "pids"), *_user_room(place, int(status["Uid"].split()[0]))),
        memory=tuple(_counted(controllers, "memory")),
        unseen=tuple(
            what for what, found in (("its environment", environment), ("its open descriptors", files)) if found is None
        ),
    )


def _closed_is_none(look: Callable[[], T]) -> T | None:
    try:
        return look()
    except PermissionError:
        return None


def _link(path: Path) -> str | None:
    """Where it leads; None: closed to us, or (a kernel thread, a zombie) it leads nowhere."""
    try:
        return os.readlink(path)
    except OSError:
        return None


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _status(path: Path) -> dict[str, str]:
    pairs = (line.partition(":") for line in path.read_text(errors="surrogateescape").splitlines())
    return {key: value.strip() for key, _, value in pairs}


def _stat(place: Path) -> tuple[str, list[str]]:
    """The name, and the fields from the state on: the name may hold blanks and brackets."""
    name, _, fields = (place / "stat").read_text(errors="surrogateescape").partition(" (")[2].rpartition(") ")
    return name, fields.split()


def _signals(mask: str) -> frozenset[int]:
    bits = int(mask, 16)
    return frozenset(number for number in range(1, 65) if bits >> (number - 1) & 1)


def _threads(place: Path) -> Iterator[Thread]:
    for task in sorted((place / "task").iterdir(), key=lambda path: int(path.name)):
        try:
            status = _status(task / "status")
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended since
        blocked, pending = _signals(status["SigBlk"]), _signals(status["SigPnd"])
        yield Thread(int(task.name), status["Name"], blocked, pending, _waited_for(task))


def _waited_for(task: Path) -> frozenset[int]:
    """Signals in the set that a thread has handed to rt_sigtimedwait(2), which is what sigwait(3) is made of."""
    try:
        call = (task / "syscall").read_text().split()
        if len(call) < 2 or call[0] != _SIGTIMEDWAIT:
            return frozenset()
        with (task / "mem").open("rb", buffering=0) as memory:
            mask = os.pread(memory.fileno(), 8, int(call[1], 16))
    except OSError:
        return frozenset()  # closed to us, or it has moved on
    return _signals(f"{int.from_bytes(mask, 'little'):x}")


def _children(place: Path) -> Iterator[Child]:
    for path in (place / "task").glob("*/children"):
        try:
            pids = path.read_text().split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        for pid in pids:
            try:
                name, fields = _stat(Path(f"/proc/{pid}"))
            except (FileNotFoundError, ProcessLookupError, PermissionError):  # hidepid=1: another user's
                continue
            if fields[0] not in {"Z", "X"}:
                yield Child(int(pid), name, int(fields[2]))


def _environment(place: Path) -> dict[str, str]:
    try:
        entries = (place / "environ").read_bytes().split(b"\0")
    except ProcessLookupError:
        return {}  # a zombie, or a kernel thread: no memory is left that could hold one
    pairs = (_text(entry).partition("=") for entry in entries)
    return {key: value for key, equals, value in pairs if equals}


def _descriptors(place: Path) -> dict[str, str]:
    """What each descriptor is open on."""
    found = {}
    for entry in os.listdir(place / "fd"):
        try:
            found[entry] = os.readlink(place / "fd" / entry)
        except FileNotFoundError:
            continue
    return found


def _signalfds(place: Path, files: Mapping[str, str]) -> frozenset[int]:
    taken: set[int] = set()
    for number, target in files.items():
        if target == "anon_inode:[signalfd]":
            try:
                taken |= _signals(_status(place / "fdinfo" / number)["sigmask"])
            except FileNotFoundError:
                continue
    return frozenset(taken)


def _datagram_sockets(place: Path, files: Mapping[str, str]) -> int:
    inodes = {target[len("socket:[") : -1] for target in files.values() if target.startswith("socket:[")}
    if not inodes:
        return 0
    # unix(7) sockets of its own network namespace: ... type (0002: datagram), state (03: connected), inode, path
    rows = (line.split() for line in (place / "net/unix").read_text(errors="replace").splitlines())
    return sum(row[4:6] == ["0002", "03"] and row[6] in inodes for row in rows if len(row) > 6)


def _limit(place: Path, name: str) -> int | None:
    """A soft rlimit, None: unlimited."""
    for line in (place / "limits").read_text().splitlines():
        if line.startswith(name):
            soft = line[len(name) :].split()[0]
            return None if soft == "unlimited" else int(soft)
    return None


def _descriptor_room(place: Path, used: int) -> Room | None:
    most = _limit(place, "Max open files")
    return None if most is None else Room("RLIMIT_NOFILE (LimitNOFILE=)", used, most)


def _user_room(place: Path, uid: int) -> Iterator[Room]:
    """RLIMIT_NPROC counts every thread of a user, and binds all users but root (getrlimit(2))."""
    most = _closed_is_none(lambda: _limit(place, "Max processes"))
    if uid == 0 or most is None:
        return
    used = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                status = _status(entry / "status")
            except (FileNotFoundError, ProcessLookupError, PermissionError):  # hidepid=1: another user's
                continue
            if status["Uid"].split()[0] == str(uid):
                used += int(status.get("Threads", "0"))
    yield Room("RLIMIT_NPROC (LimitNPROC=)", used, most)


def _cgroups(place: Path) -> tuple[str, dict[str, str]]:
    """The path that systemd knows it by, and the path by controller; the unified hierarchy's name is empty."""
    paths = {}
    for line in (place / "cgroup").read_text(errors="surrogateescape").splitlines():
        _, controllers, path = line.split(":", 2)
        paths.update(dict.fromkeys(controllers.split(","), path))
    named = paths.get("name=systemd", "/")
    return (named if named != "/" else paths.get("", "")), paths


def _counted(paths: Mapping[str, str], controller: str) -> Iterator[Room]:
    """Room in each cgroup from the process's own up to the root, where a limit is set."""
    unified = controller not in paths
    root = _mounted("" if unified else controller)
    path = paths.get("" if unified else controller, "/")
    if root is None or "/.." in path:  # it lies outside of what is mounted here
        return
    folder = root / path.lstrip("/")
    while folder != root:
        most, used = _usage(folder, controller, unified=unified)
        if most is not None and used is not None and most < _NO_LIMIT:
            yield Room(str(folder), used, most)
        folder = folder.parent


def _usage(folder: Path, controller: str, *, unified: bool) -> tuple[int | None, int | None]:
    if controller == "pids":
        return _number(folder / "pids.max"), _number(folder / "pids.current")
    most, used, cache = (
        ("memory.max", "memory.current", "inactive_file")
        if unified
        else ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    )
    total = _number(folder / used)
    try:
        droppable = re.search(rf"^{cache} (\d+)$", (folder / "memory.stat").read_text(), re.MULTILINE)
    except OSError:
        droppable = None
    return _number(folder / most), None if total is None else total - (int(droppable[1]) if droppable else 0)


def _number(path: Path) -> int | None:
    """A number in a file; None: "max", or no such file because the controller is not enabled there."""
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _mounted(controller: str) -> Path | None:
    """Where the hierarchy of a controller is mounted, or for "" the unified one."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        mount, _, kind = line.partition(" - ")
        name, _, options = kind.split(" ", 2)
        if (name == "cgroup2" and not controller) or (name == "cgroup" and controller in options.split(",")):
            return Path(mount.split()[4])
    return None
