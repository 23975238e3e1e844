"""Which of the system calls that capbg needs a SystemCallFilter= refuses: systemd.exec(5).

The needed calls were recorded by strace from a stop with three tasks, one each that finishes, expires and is killed,
under CPython 3.11 on x86-64. What is in which group was recorded from ``systemd-analyze syscall-filter`` of 252, and a
test compares it with the one that is installed.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from capbg.cli.units.findings import Finding, Level
from capbg.cli.units.load import Unit
from capbg.cli.units.syntax import Setting

from .facts import found, text

_NEEDED = {
    "the interpreter": "read write openat close lseek newfstatat getdents64 ioctl readlink munmap mmap execve futex",
    "starting a worker": "clone setpgid",
    "ending a worker": "kill pidfd_open pidfd_send_signal waitid wait4",
    "a worker's end with its parent": "prctl",
    "signals": "rt_sigaction rt_sigprocmask",
    "deadlines": "timer_create timer_settime timer_delete timerfd_create timerfd_settime",
    "limits": "prlimit64",
    "waiting": "epoll_create1 epoll_ctl epoll_wait",
    "the pipe to a task": "socketpair sendto recvfrom fcntl close_range",
    "the notify socket": "socket connect",
}
PURPOSES = {call: purpose for purpose, calls in _NEEDED.items() for call in calls.split()}
"""The needed calls, and what for."""

NICE = "setpriority"
"""Only for ``Limits(nice=...)``."""

_GROUPS = {
    "@default": "execve futex mmap munmap prlimit64",
    "@basic-io": "close close_range lseek read write",
    "@file-system": "close fcntl getdents64 newfstatat openat readlink",
    "@io-event": "epoll_create1 epoll_ctl epoll_wait",
    "@network-io": "connect recvfrom sendto socket socketpair",
    "@process": "clone kill pidfd_open pidfd_send_signal prctl wait4 waitid",
    "@signal": "rt_sigaction rt_sigprocmask",
    "@timer": "timer_create timer_delete timer_settime timerfd_create timerfd_settime",
    "@resources": NICE,
    "@system-service": " ".join([*PURPOSES, NICE]),
}
GROUPS = {group: frozenset(calls.split()) for group, calls in _GROUPS.items()}
"""What of that is in each of systemd's groups; the other groups contain none of it."""


@dataclass(slots=True)
class Filter:
    """A filter as far as the needed calls go."""

    is_allow_list: bool = False
    named: frozenset[str] = frozenset()
    """What is allowed by an allow-list, or refused by a deny-list."""
    with_error: frozenset[str] = frozenset()
    """What is refused with an error number of its own: ``~@process:EPERM``."""
    last: Setting | None = None
    """The line that removed something last."""

    def refuses(self, call: str) -> bool:
        """Whether a call is refused."""
        return (call in self.named) != self.is_allow_list


def read_filter(settings: list[Setting]) -> Filter | None:
    """Return what all lines come to; None: there is no filter.

    The first line says whether it is an allow-list, which begins with @default, or, with ``~``, a deny-list. Every
    further line adds to it or takes away from it.
    """
    result: Filter | None = None
    for setting in settings:
        inverted = setting.value.startswith("~")
        if result is None:
            result = Filter(not inverted, frozenset() if inverted else GROUPS["@default"], last=setting)
        takes_away = inverted
        for word in setting.value.removeprefix("~").split():
            name, _, error = word.partition(":")
            calls = GROUPS.get(name, frozenset()) if name.startswith("@") else frozenset({name})
            if takes_away == result.is_allow_list:
                result.named -= calls
            else:
                result.named |= calls
            if takes_away and error:
                result.with_error |= calls
            if takes_away and calls & {*PURPOSES, NICE}:
                result.last = setting
    return result


def filtered(unit: Unit) -> Iterator[Finding]:
    """Every call that a stop needs is allowed."""
    settings = unit.all("Service", "SystemCallFilter")
    seen = read_filter(settings)
    if not seen or not seen.last:
        return
    refused = [call for call in PURPOSES if seen.refuses(call)]
    with_error = text(unit, "SystemCallErrorNumber", "kill") != "kill"
    kills = not with_error and not set(refused) <= seen.with_error
    if refused:
        purposes = list(dict.fromkeys(PURPOSES[call] for call in refused))
        yield found(
            Level.ERROR,
            "system-calls",
            seen.last,
            f"{_and(refused[:4] + (['others'] if len(refused) > 4 else []))} "
            f"{'is' if len(refused) == 1 else 'are'} refused, needed for {_and(purposes[:3])}"
            f"{' and more' if len(purposes) > 3 else ''}: "
            + (
                "the kernel kills the program by SIGSYS."
                if kills
                else "tasks are refused, or the program does not start."
            ),
            fix="Write SystemCallFilter=@system-service as the first line, take away no more than @privileged and "
            "@resources, and write SystemCallErrorNumber=EPERM.",
        )
    if refused:
        return
    if not with_error:
        yield found(
            Level.WARNING,
            "system-call-error",
            seen.last,
            "A refused call kills the process by SIGSYS without a word: in a stop, one call too many ends a task or "
            "the app.",
            fix="Write SystemCallErrorNumber=EPERM: Python reports it as an error.",
            what="SystemCallFilter= without SystemCallErrorNumber=",
        )
    elif seen.refuses(NICE):
        yield found(
            Level.NOTE,
            "system-calls",
            seen.last,
            "setpriority is refused: a task with Limits(nice=...) runs without it.",
            fix="Write SystemCallFilter=setpriority behind it if tasks use that.",
        )


def _and(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
