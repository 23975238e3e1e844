"""The service's processes: started, watched, signalled, reaped, and none left behind.

systemd knows them by their cgroup. Here this process makes itself their subreaper (prctl(2)), so that whatever forks,
starts a session of its own or loses its parent stays its descendant, and needs no privilege for that.

Rejected: a cgroup (needs root, or a delegated one); a pid namespace (needs root, and the program would see other pids
than its log); the process group alone (a daemon leaves it).

This file must not know when a signal is due.
"""

import contextlib
import ctypes
import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from capbg._os.clock import now_ns
from capbg._os.limits import die_with_parent
from capbg.cli.rehearsal.record import ProcessSeen

_PR_SET_CHILD_SUBREAPER = 36
_prctl = ctypes.CDLL(None, use_errno=True).prctl
_NAME_MOST = 120
_SHOWN_MOST = 2000
"""How many processes are looked at closely: a tenth of a millisecond each."""
_AWAITED_MOST = 200
"""A pidfd for each, while they die."""
_LOOKS = 10
"""How often processes are looked for at most, where some come and go all the time."""
_GROUP, _THREADS = 2, 17
"""Where they stand in what :func:`_stat` returns (proc(5): fields 5 and 20)."""
_KILL_ROUND_NS = 20_000_000
_KILL_NS = 5_000_000_000
"""How long the end of SIGKILLed processes is waited for: one in an uninterruptible system call may take for ever."""


class CannotStartError(Exception):
    """The command cannot be started: the message names it, and says why."""


class Tree:
    """All processes of one service. Make one of them in a process: whatever that has forked is taken for its own."""

    def __init__(self) -> None:
        if not os.path.exists(f"/proc/self/task/{os.getpid()}/children"):
            raise CannotStartError(
                "this machine does not tell who a process's children are: mount /proc, or take a kernel with "
                "CONFIG_PROC_CHILDREN (proc(5)), as distributions have it"
            )
        if _prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) < 0:
            number = ctypes.get_errno()
            raise OSError(number, f"prctl(PR_SET_CHILD_SUBREAPER): {os.strerror(number)}")
        self.main_pid = 0
        self.pidfd = -1
        """Readable once the main process has ended; -1: it has been reaped, or there is none."""

    def start(self, command: Sequence[str], environ: Mapping[str, str], *, stdout: int, stderr: int) -> None:
        """Start the main process as systemd does: a session of its own, no stdin, SIGPIPE ignored and no other signal.

        Raises:
            CannotStartError: there is no such program, or it cannot be executed.
        """
        program = shutil.which(command[0], path=environ.get("PATH", os.defpath))
        if program is None:
            what = "is no executable file" if "/" in command[0] else "is not found in PATH"
            raise CannotStartError(f"{command[0]!r} {what}: give the command as you would to a shell, or its full path")
        parent = os.getpid()
        told, tell = os.pipe()  # close-on-exec: its end means that exec(2) has worked
        pid = os.fork()
        if pid == 0:
            self._become(program, command, environ, parent, stdout, stderr, tell)
        os.close(tell)
        with open(told, "rb") as answer:
            why = answer.read()
        if why:
            os.waitpid(pid, 0)
            raise CannotStartError(f"{program!r} cannot be started: {os.strerror(int(why))}")
        self._set_main(pid)

    @staticmethod
    def _become(  # noqa: PLR0917 - a child's few lines, called once
        program: str,
        command: Sequence[str],
        environ: Mapping[str, str],
        parent: int,
        stdout: int,
        stderr: int,
        tell: int,
    ) -> None:
        """In the child: become the program, or say why not and leave."""
        try:
            os.setsid()
            # Should this rehearsal be killed, at least the main process ends with it. An exec of a set-user-ID
            # program takes that away (prctl(2)).
            if not die_with_parent(parent):
                os._exit(127)
            for signum in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
                with contextlib.suppress(OSError, ValueError):  # some real-time signals are the C library's own
                    signal.signal(signum, signal.SIG_DFL)
            signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # IgnoreSIGPIPE= is on unless a unit says otherwise
            signal.set_wakeup_fd(-1)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            null = os.open(os.devnull, os.O_RDWR)
            for fd, target in ((null, 0), (stdout, 1), (stderr, 2)):
                os.dup2(fd, target, inheritable=True)
            os.execve(program, list(command), {**environ, **_watchdog_pid(environ)})  # noqa: S606 - that is what it is for
        except OSError as error:
            os.write(tell, str(error.errno).encode())
        finally:
            os._exit(127)

    def _set_main(self, pid: int) -> None:
        pidfd = os.pidfd_open(pid)
        self.close()
        self.main_pid, self.pidfd = pid, pidfd

    def adopt_main(self, pid: int) -> bool:
        """Take another process of the service for the main one (MAINPID=); return whether it is one of the service's.

        Raises:
            OSError: it has ended meanwhile.
        """
        if pid not in self.members():
            return False
        self._set_main(pid)
        return True

    def is_child(self, pid: int) -> bool:
        """Whether this very process is its parent: then its exit is told here."""
        return _parent(pid) == os.getpid()

    def reap_main(self) -> tuple[str, int]:
        """The main process has ended: return how (exited, killed, dumped, or nothing if nobody knows) and with what."""
        pid = self.main_pid
        self.close()
        try:
            found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            return "", 0  # its parent, another process of the service, was told
        if found is None:
            return "", 0
        codes = {os.CLD_EXITED: "exited", os.CLD_KILLED: "killed", os.CLD_DUMPED: "dumped"}
        return codes[found.si_code], found.si_status

    def reap_others(self) -> None:
        """Reap what was left to this process and has ended."""
        self._reap(0 if self.pidfd < 0 else self.main_pid)

    @staticmethod
    def _reap(spared: int) -> None:
        for pid in _children(os.getpid()):
            if pid != spared:
                with contextlib.suppress(ChildProcessError):
                    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)

    def members(self) -> list[int]:
        """The pids of all processes that have not ended, parents before children; reap what has, but the main one.

        Looked for again until two looks agree: what loses its parent between two reads comes to this process, whose
        children had been read by then. If they never do, what has ended since the look before counts, too: of
        processes that fork and leave at once there is always one, and never for long enough to be found alive.
        """
        found, ended = self._look_around()
        for _ in range(_LOOKS):
            before = found, ended
            found, ended = self._look_around()
            if before == (found, ended):
                break
        return [pid for pid in found if pid not in ended & before[1]]

    def _look_around(self) -> tuple[list[int], set[int]]:
        """All there are, and who of them has ended."""
        self._reap(self.main_pid)
        found = self._descendants()
        return found, {pid for pid in found if _has_ended(_stat(pid))}

    @staticmethod
    def _descendants() -> list[int]:
        found: list[int] = []
        level = _children(os.getpid())
        while level:
            found += level
            level = [child for pid in level for child in _children(pid)]
        return found

    def others(self) -> int:
        """How many there are beside the main process."""
        return sum(pid != self.main_pid or self.pidfd < 0 for pid in self.members())

    def reaction(self, signum: signal.Signals) -> str:
        """What a signal does to the main process: caught, ignored, blocked or default; empty: it has ended."""
        if self.pidfd < 0 or (status := _status(self.main_pid)) is None:
            return ""
        return _reaction(status, signum)

    def seen(self) -> tuple[ProcessSeen, ...]:
        """Look at each of them, at the first 2000."""
        return tuple(found for pid in self.members()[:_SHOWN_MOST] if (found := _look(pid)) is not None)

    @property
    def stopped(self) -> bool:
        """Whether the main process is stopped by a signal."""
        return self.pidfd >= 0 and (_stat(self.main_pid) or [""])[0] == "T"

    def send(self, signum: signal.Signals, *, main: bool, others: bool, wake: bool = True) -> list[int]:
        """Send a signal to the main process, the others or both, SIGCONT behind it; return who was alive for it."""
        chosen = [pid for pid in self.members() if (main if pid == self.main_pid else others)]
        alive = [pid for pid in chosen if self._send_one(pid, signum, wake=wake)]
        if others and signum is signal.SIGKILL:  # which nobody is left out of, then
            self._kill_groups()
        return alive

    def _kill_groups(self) -> None:
        """SIGKILL to each process group: no fork(2) gets past that, as it does past signals to one after the other.

        A group's number is not given to anybody else as long as one of its processes has not been reaped.
        """
        found = (_stat(pid) for pid in self._descendants())
        for group in {int(fields[_GROUP]) for fields in found if fields is not None} - {0, os.getpgrp()}:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGKILL)

    def _send_one(self, pid: int, signum: signal.Signals, *, wake: bool) -> bool:
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            return False
        try:
            if not self._is_ours(pid):  # the pid may have gone round meanwhile
                return False
            signal.pidfd_send_signal(pidfd, signum)
            if wake and signum not in {signal.SIGKILL, signal.SIGCONT}:
                signal.pidfd_send_signal(pidfd, signal.SIGCONT)
        except ProcessLookupError:
            return False
        except PermissionError:
            return False  # it has become another user's; what systemd could do, this cannot
        finally:
            os.close(pidfd)
        return True

    def _is_ours(self, pid: int) -> bool:
        ours = os.getpid()
        while pid > 1:
            if pid == ours:
                return True
            pid = _parent(pid)
        return False

    def kill_all(self) -> list[int]:
        """SIGKILL to all, again and again until none is left, and reap them; return what will not end within 5 s."""
        end = now_ns() + _KILL_NS
        main, self.main_pid = self.main_pid, 0
        self.close()
        while left := self.members():
            for pid in left:
                self._send_one(pid, signal.SIGKILL, wake=False)
            self._kill_groups()
            self._await_one(left, _KILL_ROUND_NS)
            self.reap_others()
            if now_ns() > end:
                break
        self.reap_others()
        self.main_pid = main
        return left

    @staticmethod
    def _await_one(pids: Sequence[int], patience_ns: int) -> None:
        import select

        poll = select.poll()
        with contextlib.ExitStack() as stack:
            for pid in pids[:_AWAITED_MOST]:
                with contextlib.suppress(OSError):
                    pidfd = os.pidfd_open(pid)
                    stack.callback(os.close, pidfd)
                    poll.register(pidfd, select.POLLIN)
            poll.poll(patience_ns / 1e6)

    def close(self) -> None:
        """Close the pidfd."""
        if self.pidfd >= 0:
            fd, self.pidfd = self.pidfd, -1
            os.close(fd)


def _watchdog_pid(environ: Mapping[str, str]) -> dict[str, str]:
    watched = any(name.startswith("WATCHDOG_") for name in environ)
    return {"WATCHDOG_PID": str(os.getpid())} if watched else {}


def _has_ended(fields: Sequence[str] | None) -> bool:
    """Whether a process has ended, by what :func:`_stat` found: not while one of its threads outlives the first."""
    return fields is None or (fields[0] in {"Z", "X"} and int(fields[_THREADS]) <= 1)


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat behind the name: state, parent...; None: there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text[text.rindex(b")") + 2 :].decode().split()


def _parent(pid: int) -> int:
    fields = _stat(pid)
    return 0 if fields is None else int(fields[1])


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as children:
                found += map(int, children.read().split())
    return found


def _status(pid: int) -> dict[str, str] | None:
    """The lines of /proc/PID/status; None: there is no such process."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


def _reaction(status: Mapping[str, str], signum: signal.Signals) -> str:
    bit = 1 << (signum - 1)
    words = {"SigBlk": "blocked", "SigIgn": "ignored", "SigCgt": "caught"}
    return next((word for mask, word in words.items() if int(status[mask], 16) & bit), "default")


def _look(pid: int) -> ProcessSeen | None:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    if (status := _status(pid)) is None:
        return None
    name = " ".join(words) or f"[{status['Name']}]"
    return ProcessSeen(
        pid=pid,
        parent=int(status["PPid"]),
        name=name if len(name) <= _NAME_MOST else f"{name[: _NAME_MOST - 3]}...",
        state=status["State"][:1],
        on_sigterm=_reaction(status, signal.SIGTERM),
    )
