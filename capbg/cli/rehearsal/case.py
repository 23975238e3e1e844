"""The case that a rehearsal makes: what was noticed on the way, and the questions that a judgement asks of it.

This file must not know how anything was observed, nor what is to be said of it (``losses.py``, ``advice.py``).
"""

import os
import signal
from dataclasses import dataclass, field

from capbg._core.words import NS
from capbg.cli.rehearsal.record import ProcessSeen, Settings, TaskSeen
from capbg.cli.rehearsal.service import Service, usec

SHELLS = frozenset({"sh", "bash", "dash", "ash", "busybox", "zsh", "ksh", "fish"})
PAUSES = frozenset({"sleep", "read", "tail", "inotifywait"})
"""What a shell script that is a service of its own has for a child while it waits."""
_NAMED_MOST = 3


@dataclass(slots=True)
class Evidence:
    """What the rehearsal has noticed on its way, beside what the report holds anyway."""

    heard: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    """Each datagram that counted, with its instant."""
    refused: int = 0
    """Datagrams from processes that may not notify."""
    refused_extensions: int = 0
    at_stop: tuple[ProcessSeen, ...] = ()
    """The processes just before the first signal of the stop."""
    main_pid: int = 0
    """The main process's then."""
    reactions: dict[int, str] = field(default_factory=dict)
    """What the main process did about each signal when that was first sent: caught, ignored, blocked or default."""
    left: tuple[ProcessSeen, ...] = ()
    """What outlived the service: KillMode=process or none, SendSIGKILL=no."""
    unended: tuple[int, ...] = ()
    """What SIGKILL did not end, either."""
    held_up_ns: int = 0
    """How late the rehearsal was for a deadline, if that is too late to say what came first."""
    stop_asked: bool = False
    """Whether the script came to its stop, or to another signal that ends a program."""
    taken_for_exec: bool = False
    suspension_asked: bool = False
    suspended: bool = False
    alien_main: bool = False


@dataclass(frozen=True, slots=True)
class Case:
    """All there is to judge by."""

    evidence: Evidence
    service: Service
    settings: Settings
    tasks: tuple[TaskSeen, ...]
    killed: tuple[ProcessSeen, ...]
    stop_ns: int | None
    began_ns: int
    margin_ns: int | None

    @property
    def timed_out(self) -> bool:
        """Whether systemd's patience was over in the stop."""
        return self.service.result == "timeout" and self.stop_ns is not None and self.was_ready

    @property
    def was_ready(self) -> bool:
        """Whether it ever was active."""
        return self.service.was_running

    @property
    def main(self) -> ProcessSeen | None:
        """The main process at the stop."""
        return next((each for each in self.evidence.at_stop if each.pid == self.evidence.main_pid), None)

    @property
    def reaction(self) -> str:
        """What the main process did about the stop's signal; empty: it was not sent any."""
        return self.evidence.reactions.get(self.service.kill_signal, "")

    @property
    def children(self) -> tuple[ProcessSeen, ...]:
        """Its children at the stop."""
        return tuple(each for each in self.evidence.at_stop if each.parent == self.evidence.main_pid)

    @property
    def left(self) -> tuple[ProcessSeen, ...]:
        """What was left running, and could have been ended."""
        return tuple(each for each in self.evidence.left if each.pid not in self.evidence.unended)

    @property
    def killed_children(self) -> tuple[ProcessSeen, ...]:
        """What had to be killed beside the main process; not capbg's workers, which have deadlines of their own."""
        main_pid = self.evidence.main_pid
        return tuple(each for each in self.killed if each.pid != main_pid and not each.name.startswith("capbg: "))

    @property
    def stubborn(self) -> tuple[ProcessSeen, ...]:
        """Those of them that had been asked, or would not have heard."""
        asked = self.settings.kill_mode == "control-group"
        return tuple(each for each in self.killed_children if asked or each.on_sigterm != "default")

    @property
    def is_shell(self) -> bool:
        """Whether the main process is a shell that does nothing about SIGTERM while a child does the work."""
        main = self.main
        if main is None or program_of(main) not in SHELLS or self.reaction != "default":
            return False
        return any(program_of(each) not in PAUSES for each in self.children)

    @property
    def died_unasked(self) -> bool:
        """Whether a signal that asks for an end did it by its default action: SIGTERM, SIGINT, the unit's own."""
        status = self.service.status
        asked = status in {signal.SIGTERM, signal.SIGINT, self.service.kill_signal} - {signal.SIGKILL}
        return self.service.code in {"killed", "dumped"} and asked and self.evidence.reactions.get(status) != "caught"

    @property
    def extensions(self) -> list[tuple[int, int]]:
        """(when it came, how long it lasts in ns) of each extension that counted for the stop."""
        found = []
        for at_ns, fields in self.evidence.heard:
            number = usec(fields.get("EXTEND_TIMEOUT_USEC", ""))
            if number is not None and self.stop_ns is not None and at_ns >= self.stop_ns:
                found.append((at_ns, number * 1000))
        return found

    @property
    def early_extension(self) -> bool:
        """Whether one came before the stop, and none in it."""
        early = any("EXTEND_TIMEOUT_USEC" in fields for _, fields in self.evidence.heard)
        return early and not self.extensions

    def after_stop(self, instant_ns: int) -> str:
        """An instant for people."""
        assert self.stop_ns is not None
        return f"{(instant_ns - self.stop_ns) / NS:.2f} s after the stop began"


def program_of(process: ProcessSeen) -> str:
    return os.path.basename(process.name.split(" ")[0]).lstrip("-")


def one(process: ProcessSeen) -> str:
    return f"PID {process.pid} ({process.name})"


def named(processes: tuple[ProcessSeen, ...]) -> str:
    shown = ", ".join(one(each) for each in processes[:_NAMED_MOST])
    more = len(processes) - _NAMED_MOST
    return f"{count(len(processes), 'process')}: {shown}{f' and {more} more' if more > 0 else ''}"


def count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}{'es' if what.endswith('s') else 's'}"
