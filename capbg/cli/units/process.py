"""What a stop would do to a running process: ``capbg check --pid``.

It judges what ``proc.py`` has read, by the rules of signal(7) and by systemd's own (systemd/README.md). It must not
know how findings are shown. What it says holds for this moment: a program may install its handlers a second later.
"""

import contextlib
import math
import os
import signal
from collections.abc import Callable, Iterator

from capbg._core.budget import seconds_from_environment
from capbg.errors import InvalidEnvironmentError

from . import proc
from .findings import Finding, Level
from .load import UnitFileError, load
from .proc import Process, ProcessError
from .rules.facts import KILL_AFTER_S, LEAVING_S, stop_timeout
from .rules.wrappers import SHELLS, Wrapper, wrapper

__all__ = ["ProcessError", "check_process", "grace_of", "is_user_unit", "service_in", "unit_of"]

APP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGTSTP, signal.SIGCONT, signal.SIGRTMAX - 2})
"""What an entered capbg.App catches (capbg/_os/signals.py): all five together are its mark."""

FILES_LOW, FILES_NONE = 32, 3
"""A worker takes about three descriptors to start: this many left are for ten tasks, and for not even one."""
PROCESSES_LOW = 8
MEMORY_LOW = 32 << 20

Rule = Callable[[Process], Iterator[Finding]]


def check_process(pid: int) -> list[Finding]:
    """Return what would go wrong if this process were told to stop or to suspend now.

    Raises:
        ProcessError: it cannot be judged: there is no such process, or it is the kernel's, or the service manager.
    """
    process = proc.read(pid)
    if process.kernel_thread:
        raise ProcessError(f"process {pid} ({process.name}) is a thread of the kernel's: nobody stops it")
    if process.is_init and process.name in {"systemd", "init"}:
        raise ProcessError(
            f"process {pid} ({process.name}) is the service manager itself: name a process of a service, "
            "as `systemctl show --property=MainPID NAME` tells it"
        )
    if process.state in {"Z", "X"} and len(process.threads) <= 1:  # others may outlive the first thread
        return [_zombie(process)]
    return [finding for rule in RULES for finding in rule(process)]


def unit_of(pid: int) -> str | None:
    """Return the service that a process belongs to by its cgroup, such as ``kiosk.service``; None: to none.

    None also for a process in a container, whose unit file is not to be found here.

    Raises:
        ProcessError: there is no such process.
    """
    return service_in(proc.cgroup_of(pid)) if _is_here(pid) else None


def is_user_unit(pid: int) -> bool:
    """Tell whether its service is one of a user's own systemd.

    Raises:
        ProcessError: there is no such process.
    """
    parts = proc.cgroup_of(pid).split("/")
    return any(part.startswith("user@") and part.endswith(".service") for part in parts[:-1])


def grace_of(pid: int) -> str | None:
    """Return the CAPBG_GRACE that a process was started with; None: it has none, or it is closed to us.

    Raises:
        ProcessError: there is no such process.
    """
    return (proc.read(pid).environment or {}).get("CAPBG_GRACE")


def _is_here(pid: int) -> bool:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid") == os.readlink("/proc/self/ns/pid")
    except OSError:
        return True  # closed to us: the same, as far as can be seen


def service_in(cgroup: str) -> str | None:
    """Return the service that a cgroup path lies in; below its own a service may have others (Delegate=)."""
    for part in reversed(cgroup.split("/")):
        name = part.removeprefix("_")  # systemd's escape for names that the kernel has taken, cg_escape()
        if name.endswith((".service", ".scope")):
            return name if name.endswith(".service") and not name.startswith("user@") else None
    return None


def _finding(process: Process, level: Level, rule: str, *, what: str, why: str, fix: str) -> Finding:
    return Finding(level, rule, f"process {process.pid}", None, what, why, fix)


def _zombie(process: Process) -> Finding:
    return _finding(
        process,
        Level.ERROR,
        "state",
        what=f"{process.name} has ended already (state Z)",
        why="It is a zombie: nothing of it runs, its parent has not yet asked how it ended.",
        fix="Look at its parent, and at what the log says of its end.",
    )


# ---------------------------------------------------------------------------------------------------- told to stop


def _is_app(process: Process) -> bool:
    return process.caught >= APP_SIGNALS


def _is_worker(process: Process) -> bool:
    """By the title capbg gives its workers: ``capbg: APP/TASK``."""
    return bool(process.command) and process.command[0].startswith("capbg: ") and "/" in process.command[0]


def _is_shell(process: Process) -> bool:
    return process.name in SHELLS or (process.program or "").rpartition("/")[2] in SHELLS


def _is_deaf(process: Process, number: int) -> bool:
    """Blocked in every thread, and no signalfd takes it. A thread in sigwait has it unblocked meanwhile."""
    by_descriptor = process.signalfd is None or number in process.signalfd
    return not by_descriptor and all(number in thread.blocked for thread in process.threads)


def _is_taken(process: Process, number: int) -> bool:
    """Something in the program hears of this signal."""
    if number in process.ignored:
        return False
    waits = any(number in thread.waited_for for thread in process.threads)
    by_descriptor = number in (process.signalfd or ()) and all(number in thread.blocked for thread in process.threads)
    return waits or by_descriptor or number in process.caught


def _told(process: Process) -> Iterator[Finding]:
    """SIGTERM: what `systemctl stop`, `docker stop` and `kill` send."""
    if _is_wrapper(process):
        return
    error = Level.ERROR
    if _is_deaf(process, signal.SIGTERM) and signal.SIGTERM in process.caught:
        # A program that stops itself with SIGSTOP keeps signals out meanwhile, as a suspended capbg app does.
        if process.state != "T":
            yield _finding(
                process,
                Level.WARNING,
                "sigterm",
                what=f"SIGTERM is caught, and at this moment blocked in {_all_threads(process)}",
                why="If that lasts, nobody hears of a stop: it is waited for until TimeoutStopSec=, then killed.",
                fix="Look again: for a moment it is good practice. If it stays so, unblock it in the main thread.",
            )
    elif _is_deaf(process, signal.SIGTERM):
        sent = signal.SIGTERM in process.pending
        yield _finding(
            process,
            error,
            "sigterm",
            what=f"SIGTERM is blocked in {_all_threads(process)}" + (" and waits there already" if sent else ""),
            why="Nobody hears of a stop: it is waited for until TimeoutStopSec= (90 s unless set), then comes SIGKILL.",
            fix="Unblock it in the main thread, at the start: a mask may come from the parent (execve keeps it).",
        )
    elif signal.SIGTERM in process.ignored:
        yield _finding(
            process,
            error,
            "sigterm",
            what="SIGTERM is ignored",
            why="Nobody hears of a stop: it is waited for until TimeoutStopSec= (90 s unless set), then comes SIGKILL.",
            fix="Install a handler for SIGTERM, or enter a capbg.App. If the program never ignores it, its parent did "
            "(execve keeps that): look for `trap '' TERM`.",
        )
    elif not _is_taken(process, signal.SIGTERM) and process.is_init:
        yield _finding(
            process,
            error,
            "sigterm",
            what="SIGTERM is not caught, by PID 1" + ("" if process.pid == 1 else " of a container"),
            why="The kernel keeps from PID 1 what it does not catch: a stop is waited for in vain, then comes SIGKILL.",
            fix="Install a handler for SIGTERM, or enter a capbg.App.",
        )
    elif not _is_taken(process, signal.SIGTERM):
        yield _finding(
            process,
            error,
            "sigterm",
            what="SIGTERM is not caught",
            why="It dies of it at once: nothing under way is finished, no cleanup code runs"
            + (" (Python turns SIGINT into an exception, but not SIGTERM)." if _is_python(process) else "."),
            fix="Enter a capbg.App, or install a handler for SIGTERM.",
        )


def _all_threads(process: Process) -> str:
    count = len(process.threads)
    return "its only thread" if count == 1 else f"all of its {count} threads"


def _is_python(process: Process) -> bool:
    return (process.program or "").rpartition("/")[2].startswith(("python", "pypy"))


def _runner(process: Process) -> Wrapper | None:
    """What it is by its command line, as long as it has a child."""
    return wrapper(process.command) if process.children and process.command and not _is_shell(process) else None


def _is_wrapper(process: Process) -> bool:
    return bool(process.children) and (_is_shell(process) or _runner(process) is not None)


def _wrapper(process: Process) -> Iterator[Finding]:
    """A shell or a runner stands between the service manager and the program."""
    if not _is_wrapper(process):
        return
    kept = _listed([f"{child.name} ({child.pid})" for child in process.children])
    if runner := _runner(process):
        yield _finding(
            process,
            Level.WARNING,
            "wrapper",
            what=f"{runner.name} stays and runs {kept}",
            why=f"The stop and the watchdog are addressed to {runner.name}, which {runner.manner.value}.",
            fix=runner.fix,
        )
    elif _is_taken(process, signal.SIGTERM):
        yield _finding(
            process,
            Level.WARNING,
            "wrapper",
            what=f"the shell {process.name} stays and runs {kept}; it has a trap for SIGTERM",
            why="A shell runs a trap only when the program in its foreground has ended; READY=1 and the watchdog are "
            "not the program's to send, because it is not the main process.",
            fix="Let the shell's last command be `exec PROGRAM`, or move what it prepares into ExecStartPre=.",
        )
    else:
        heard = process.ignored | frozenset().union(*(thread.blocked for thread in process.threads))
        yield _finding(
            process,
            Level.ERROR,
            "wrapper",
            what=f"the shell {process.name} stays and runs {kept}",
            why="The signal goes to the shell, which does not pass it on: "
            + (
                "it takes no notice of it, and both are killed at the end of TimeoutStopSec=."
                if signal.SIGTERM in heard
                else "it dies, and the rest is killed at once (KillMode=mixed) or left without its parent."
            ),
            fix="Let the shell's last command be `exec PROGRAM`, or move what it prepares into ExecStartPre=.",
        )


def _state(process: Process) -> Iterator[Finding]:
    if process.state == "T":
        yield _finding(
            process,
            Level.NOTE,
            "state",
            what="it is stopped (state T)" + ("; SIGTERM is pending" if signal.SIGTERM in process.pending else ""),
            why="`systemctl stop` wakes it by a SIGCONT behind its SIGTERM; `kill` and `systemctl kill` do not.",
            fix=f"Wake it: kill -CONT {process.pid}",
        )
    elif process.state == "t":
        yield _finding(
            process,
            Level.WARNING,
            "state",
            what="a debugger holds it (state t)",
            why="Each signal goes to the debugger first: a stop waits for that until TimeoutStopSec=, then kills both.",
            fix="Let it run on, or detach the debugger.",
        )
    elif process.state == "D":
        yield _finding(
            process,
            Level.WARNING,
            "state",
            what="it waits in the kernel (state D)",
            why="While that lasts no signal reaches it, not even SIGKILL: storage, local or remote, does not answer.",
            fix="Look again; if it stays so, look at the storage.",
        )


# ------------------------------------------------------------------------------------------- suspended, interrupted


def _suspend(process: Process) -> Iterator[Finding]:
    """Of interest only where SIGTERM is well: else there is something to mend first."""
    if not _is_taken(process, signal.SIGTERM):
        return
    if not _is_taken(process, signal.SIGTSTP):
        told = "ignored" if signal.SIGTSTP in process.ignored else "not caught"
        yield _finding(
            process,
            Level.NOTE,
            "sigtstp",
            what=f"SIGTSTP is {told}",
            why="It cannot be suspended in good order: nothing is saved, and in a service nothing even stops, because "
            "the kernel drops an uncaught SIGTSTP in an orphaned process group.",
            fix="Nothing, unless it shall be suspended; then enter a capbg.App.",
        )
    elif not _is_taken(process, signal.SIGCONT):
        yield _finding(
            process,
            Level.NOTE,
            "sigcont",
            what="SIGTSTP is caught, SIGCONT is not",
            why="It runs on after a suspension without hearing of it.",
            fix="Nothing, if it resumes where it has stopped itself; else install a handler for SIGCONT.",
        )
    if signal.SIGINT in process.ignored:
        yield _finding(
            process,
            Level.NOTE,
            "sigint",
            what="SIGINT is ignored",
            why="Ctrl-C and KillSignal=SIGINT do nothing to it. A shell starts background jobs so.",
            fix="Nothing, if only SIGTERM is to stop it.",
        )
    elif not _is_taken(process, signal.SIGINT):
        yield _finding(
            process,
            Level.NOTE,
            "sigint",
            what="SIGTERM is caught, SIGINT is not",
            why="Ctrl-C in a terminal ends it at once, without what SIGTERM would have had finished.",
            fix="Give SIGINT the same handler.",
        )


def _hangup(process: Process) -> Iterator[Finding]:
    if process.terminal and not _is_taken(process, signal.SIGHUP) and signal.SIGHUP not in process.ignored:
        yield _finding(
            process,
            Level.NOTE,
            "sighup",
            what="it has a terminal, and SIGHUP is not caught",
            why="When the terminal closes it dies at once, and nothing is finished.",
            fix="Run it as a service (`capbg unit` writes one), or under setsid.",
        )


# ------------------------------------------------------------------------------------------------- what it can say


def _notify(process: Process) -> Iterator[Finding]:
    environment = process.environment
    if environment is None or _is_worker(process):
        return
    app = _is_app(process)
    if not environment.get("NOTIFY_SOCKET"):
        if service_in(process.cgroup) is not None:
            yield _finding(
                process,
                Level.WARNING if app else Level.NOTE,
                "notify-socket",
                what="NOTIFY_SOCKET is not in its environment",
                why="It cannot keep systemd waiting: at the end of TimeoutStopSec= it is killed, whatever it does; "
                "nor does anybody see how far a stop is.",
                fix="Type=notify in its unit" + ("." if app else ", if it speaks sd_notify(3) or uses capbg."),
            )
    elif not process.datagram_sockets and process.datagram_sockets is not None and not _is_wrapper(process):
        yield _finding(
            process,
            Level.WARNING if app else Level.NOTE,
            "notify-socket",
            what="it has a NOTIFY_SOCKET and no connected datagram socket",
            why="Either it connects for each message, as sd_notify(3) does, or it tells systemd nothing.",
            fix="Nothing, if its unit shows a status text: systemctl show --property=StatusText UNIT.",
        )


def _addressed(process: Process) -> Iterator[Finding]:
    """systemd names the process it has started; in another one its variables are an inheritance."""
    environment = process.environment
    if environment is None or _is_worker(process) or process.is_init or process.same_namespace is False:
        return
    me = str(process.pid)
    watched = environment.get("WATCHDOG_PID")
    if (
        watched
        and watched != me
        and any(name.startswith("WATCHDOG_") and name != "WATCHDOG_PID" for name in environment)
    ):
        yield _finding(
            process,
            Level.WARNING,
            "watchdog",
            what=f"the watchdog in its environment is for process {watched}",
            why="Its own signs of life are not asked for; if that process sends none, the service is killed.",
            fix="Let systemd start the program itself: no shell and no runner around it.",
        )
    started = environment.get("SYSTEMD_EXEC_PID", "")
    unit = service_in(process.cgroup)
    if started.isdecimal() and started != me and unit is not None and _shares_cgroup(int(started), process):
        yield _finding(
            process,
            Level.NOTE,
            "main-process",
            what=f"systemd has started process {started}, and this one is not it",
            why="With KillMode=mixed SIGTERM goes to that process alone, and this one is killed when it has left.",
            fix=f"Look at that one: capbg check --pid {started}",
        )


def _shares_cgroup(pid: int, process: Process) -> bool:
    try:
        return proc.cgroup_of(pid) == process.cgroup
    except ProcessError:
        return False


# ---------------------------------------------------------------------------------------------- room for its workers


def _threads(process: Process) -> Iterator[Finding]:
    others = [thread.name for thread in process.threads if thread.tid != process.pid]
    if others:
        yield _finding(
            process,
            Level.NOTE,
            "threads",
            what=f"it has {len(others)} other thread{'s' if len(others) > 1 else ''}: {_listed(others)}",
            why="A worker forked beside threads inherits the locks they hold at that moment, and can hang on one.",
            fix='With capbg: App(start_method="forkserver"), or have a listener end the threads first.',
        )


def _descriptors(process: Process) -> Iterator[Finding]:
    room = process.descriptors
    if room is not None and room.left < FILES_LOW:
        yield _finding(
            process,
            Level.ERROR if room.left < FILES_NONE else Level.WARNING,
            "descriptors",
            what=f"{room.used} of {room.most} descriptors are open",
            why="A stop needs about 3 for each task; "
            f"{room.left} are left: further tasks are refused, their work is lost.",
            fix=f"Raise LimitNOFILE= in its unit, or find out what it leaves open: ls -l /proc/{process.pid}/fd",
        )


def _processes(process: Process) -> Iterator[Finding]:
    for room in process.processes:
        if room.left < PROCESSES_LOW:
            yield _finding(
                process,
                Level.ERROR if room.left == 0 else Level.WARNING,
                "processes",
                what=f"{room.used} of {room.most} processes and threads run, by {room.where}",
                why=f"A stop starts one process for each task, and {room.left} are left: then tasks are refused.",
                fix="Raise LimitNPROC= in its unit, or run it as a user of its own."
                if "NPROC" in room.where
                else "Raise TasksMax= in its unit or slice.",
            )


def _memory(process: Process) -> Iterator[Finding]:
    for room in process.memory:
        if room.left < MEMORY_LOW:
            yield _finding(
                process,
                Level.WARNING,
                "memory",
                what=f"{room.used >> 20} of {room.most >> 20} MiB are in use, by {room.where}",
                why=f"Workers share the program's memory until they write to it; {room.left >> 20} MiB are left for "
                "that, and what goes beyond is killed.",
                fix="Raise MemoryMax= in its unit; OOMPolicy=continue keeps one killed worker from ending the rest.",
            )


def _children(process: Process) -> Iterator[Finding]:
    if process.children and not _is_wrapper(process):
        beside = sum(child.group != process.group for child in process.children)
        groups = f"; {beside} in process groups of their own" if beside else ""
        yield _finding(
            process,
            Level.NOTE,
            "children",
            what=f"it has children: {_listed([f'{child.name} ({child.pid})' for child in process.children])}{groups}",
            why="With KillMode=mixed they get no SIGTERM, and are killed when the main process has left.",
            fix="Nothing, if the program ends them itself or can lose them.",
        )


def _filter(process: Process) -> Iterator[Finding]:
    if process.seccomp_filter:
        yield _finding(
            process,
            Level.NOTE,
            "seccomp",
            what="its system calls are filtered (seccomp)",
            why="What the filter allows cannot be seen from outside.",
            fix="Check its unit: SystemCallFilter= needs what forking, signals, timers and rlimits need.",
        )


# ------------------------------------------------------------------------------------------------------- where it is


def _worker(process: Process) -> Iterator[Finding]:
    if _is_worker(process):
        yield _finding(
            process,
            Level.NOTE,
            "worker",
            what=f"it is a worker of a capbg app ({process.command[0].removeprefix('capbg: ')})",
            why="A stop is not told to it but to the app, which is its parent.",
            fix="Look at the app instead.",
        )


def _unit(process: Process) -> Iterator[Finding]:
    name = service_in(process.cgroup)
    if name is None:
        yield _finding(
            process,
            Level.NOTE,
            "unit",
            what="it belongs to no service",
            why="Nobody waits for it, nobody keeps it to a time: whoever stops it decides that; at a shutdown it has "
            "what systemd leaves to all (90 s), often less.",
            fix="Run it as a service: `capbg unit` writes one.",
        )
    elif process.same_namespace is False:
        yield _finding(
            process,
            Level.NOTE,
            "unit",
            what=f"it belongs to {name} of another systemd, in a container",
            why="Its unit file is in there, and so is what decides its stop; the container's own stop is often 10 s.",
            fix=f"Run `capbg check {name}` in the container.",
        )
    else:
        user = " --user" if _is_users(process) else ""
        yield _finding(
            process,
            Level.NOTE,
            "unit",
            what=f"it belongs to {name}",
            why="How long it is waited for, and what is killed with it, stands in its unit.",
            fix=f"capbg check{user} {name}",
        )


def _is_users(process: Process) -> bool:
    return any(part.startswith("user@") for part in process.cgroup.split("/")[:-1])


def _grace(process: Process) -> Iterator[Finding]:
    """CAPBG_GRACE as the process was started with, against the unit as it is now."""
    name = service_in(process.cgroup)
    text = (process.environment or {}).get("CAPBG_GRACE")
    if name is None or text is None or process.same_namespace is False:
        return
    # What cannot be read is reported by the check of the unit; there is nothing to compare with then.
    with contextlib.suppress(UnitFileError, InvalidEnvironmentError, ValueError):
        grace = seconds_from_environment(text, "CAPBG_GRACE")
        _, timeout = stop_timeout(load(name, user=_is_users(process)))
        if timeout < grace + KILL_AFTER_S + LEAVING_S:
            yield _finding(
                process,
                Level.WARNING,
                "grace",
                what=f"its grace period is {grace:g} s (CAPBG_GRACE), and {name} waits {timeout:g} s",
                why="Beyond that only extensions keep it alive, and a daemon-reload forgets them: then it is killed.",
                fix=f"TimeoutStopSec={math.ceil(grace + KILL_AFTER_S + LEAVING_S)} in its unit.",
            )


def _unseen(process: Process) -> Iterator[Finding]:
    if process.unseen:
        why, fix = _closed(process)
        yield _finding(
            process,
            Level.NOTE,
            "unseen",
            what=f"not looked at: {' and '.join(process.unseen)} (permission denied)",
            why=why,
            fix=fix,
        )


def _closed(process: Process) -> tuple[str, str]:
    """Why it may not be looked at, and what helps: ptrace(2), "Ptrace access mode checking"."""
    as_root = f"sudo capbg check --pid {process.pid}"
    if os.geteuid() != 0 and process.user != os.geteuid():
        return f"It is a process of another user ({process.user}), and only root may look into it.", as_root
    if os.geteuid() != 0:
        return "It has privileges that you do not have, or keeps its own user out (PR_SET_DUMPABLE).", as_root
    if proc.in_user_namespace():
        return (
            "You are root of a user namespace alone, as in a rootless container, and it belongs to another one.",
            "Look as root of the machine, outside of the container.",
        )
    if not proc.may_trace():
        return (
            "You are root without CAP_SYS_PTRACE, as in a container, and it has privileges that you do not have, "
            "another user, or keeps others out.",
            "Look from outside of the container, or start that with --cap-add=SYS_PTRACE; in a service, add it to "
            "CapabilityBoundingSet=.",
        )
    return (
        "You are root with CAP_SYS_PTRACE, and the kernel refuses it all the same: by a security module (AppArmor, "
        "SELinux), or because the machine is a sandbox whose own process this is.",
        "If it is your own program, look for the refusal in the kernel's log: journalctl --dmesg --grep=denied",
    )


def _listed(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


RULES: tuple[Rule, ...] = (
    *(_told, _wrapper, _state, _descriptors, _processes, _memory, _grace, _notify, _addressed),
    *(_threads, _children, _suspend, _hangup, _filter, _worker, _unit, _unseen),
)
"""In the order in which people want to read: what loses work first."""
