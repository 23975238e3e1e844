"""What was lost, and each fault with its mend: read from what a rehearsal has written down.

Every rule is a function of :class:`Case` that yields what it finds. The reasons are those of ``systemd/README.md``.

This file must not know how anything was observed.
"""

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from capbg._core.words import NS
from capbg.cli.rehearsal.record import Advice, ProcessSeen, Settings, TaskSeen
from capbg.cli.rehearsal.service import Service, exit_text, seconds_text

SHELLS = frozenset({"sh", "bash", "dash", "ash", "busybox", "zsh", "ksh", "fish"})
_NAMED_MOST = 3
_NEAR_S = 1.0
"""A margin below this is worth a word: systemd's own timers have a slack of 0.25 s, and a busy machine more."""


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
    main_ended_ns: int | None = None
    left: tuple[ProcessSeen, ...] = ()
    """What outlived the service: KillMode=process or none."""
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
    def children(self) -> tuple[ProcessSeen, ...]:
        """Its children at the stop."""
        return tuple(each for each in self.evidence.at_stop if each.parent == self.evidence.main_pid)

    @property
    def stubborn(self) -> tuple[ProcessSeen, ...]:
        """Children that had to be killed although they had been asked, or would not have heard."""
        asked = self.settings.kill_mode == "control-group"
        others = (each for each in self.killed if each.pid != self.evidence.main_pid)
        return tuple(each for each in others if asked or each.on_sigterm != "default")

    @property
    def is_shell(self) -> bool:
        """Whether the main process is a shell that has started something."""
        return self.main is not None and _program(self.main) in SHELLS and bool(self.children)

    @property
    def extensions(self) -> list[tuple[int, int]]:
        """(when it came, how long it lasts in ns) of each extension that counted for the stop."""
        found = []
        for at_ns, fields in self.evidence.heard:
            value = fields.get("EXTEND_TIMEOUT_USEC", "")
            if value.isascii() and value.isdigit() and self.stop_ns is not None and at_ns >= self.stop_ns:
                found.append((at_ns, int(value) * 1000))
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


# ------------------------------------------------------------------------------------------------------ what was lost


def losses(case: Case) -> Iterator[str]:
    """What was lost, one sentence each."""
    service = case.service
    if case.stop_ns is None or not case.was_ready:
        yield "No stop was rehearsed: " + (
            "it ended by itself before." if case.was_ready else "it was never ready, and so never active."
        )
    by_its_word = service.code == "exited" and service.result in {"success", "exit-code"}
    if not by_its_word:
        yield from _verdict(service)
    for task in case.tasks:
        if task.lost:
            yield f"Task {task.name} was {task.state}{f': {task.reason}' if task.reason else ''}."
        elif not task.settled:
            yield f"Task {task.name} was {task.state} when it was last heard of: its end was never told."
    if by_its_word:  # what its exit status stands for comes first
        yield from _verdict(service)
    if case.killed:
        yield f"SIGKILL had to end {_named(case.killed)}."
    if case.evidence.left:
        yield (
            f"KillMode={case.settings.kill_mode} leaves {_named(case.evidence.left)} running, outside any unit "
            "(the rehearsal has ended it)."
        )
    if case.evidence.suspension_asked and not case.evidence.suspended:
        yield "It was told to suspend (SIGTSTP) and did not stop itself."


def _verdict(service: Service) -> Iterator[str]:
    if service.result != "success":
        yield (
            f"systemd calls it failed: Result={service.result}, "
            f"main process {service.code or 'gone'}, status={exit_text(service.code, service.status)}."
        )
    elif service.code == "killed":
        yield f"It died of {signal.Signals(service.status).name}: no line of its own ran to finish anything."
    elif service.status:
        yield f"It left with exit status {service.status}: by its own word, work is left."


# ------------------------------------------------------------------------------------------------------- what to mend


def _never_ready(case: Case) -> Iterator[Advice]:
    service = case.service
    if case.was_ready:
        return
    if service.result == "timeout":
        yield Advice(
            f"READY=1 did not come within TimeoutStartSec={seconds_text(case.settings.timeout_start_s)}.",
            "Send READY=1 once the program is up (capbg does so on entering `with app:`), or rehearse, and run, it "
            "with Type=exec (--type exec).",
        )
    elif service.result == "protocol":
        yield Advice(
            "It ended with success before it had sent READY=1: a Type=notify service must stay and say so.",
            "Keep the program running and have it send READY=1; one that does its work and ends is Type=oneshot.",
        )


def _ended_early(case: Case) -> Iterator[Advice]:
    if case.was_ready and case.stop_ns is not None and not case.evidence.at_stop and not case.evidence.heard:
        yield Advice(
            "It had ended before the stop was asked for.",
            "Rehearse a program that stays, or stop it earlier: --after takes seconds from the start.",
        )


def _shell(case: Case) -> Iterator[Advice]:
    if not case.is_shell or case.main is None:
        return
    child = case.children[0]
    if case.service.code == "killed" and case.service.status == signal.SIGTERM:
        came = "the shell died of it, and for systemd that was the program's end"
    else:
        came = "the shell does not pass it on"
    yield Advice(
        f"The main process is a shell ({case.main.name}) and the work is done by its child, {_one(child)}: systemd "
        f"signals and hears the shell alone; {came}.",
        "Let the shell become the program: `exec` in front of its last command; or name the program itself in "
        "ExecStart=, and put what has to happen before into ExecStartPre=.",
    )


def _not_caught(case: Case) -> Iterator[Advice]:
    main = case.main
    if main is None or case.is_shell or main.on_sigterm != "default":
        return
    if case.service.code == "killed" and case.service.status in {signal.SIGTERM, signal.SIGINT}:
        name = signal.Signals(case.service.status).name
        python = "python" in _program(main)
        how = "with a capbg.App: `with app: ...`" if python else "by a handler (sigaction(2)) that finishes the work"
        yield Advice(
            f"{name} is not caught: the program died of it on the spot, whatever it was doing. systemd calls that a "
            "clean exit, so nobody will ever be told.",
            f"Catch {name} {how}.",
        )


def _unheard(case: Case) -> Iterator[Advice]:
    main = case.main
    if not case.timed_out or main is None or case.is_shell:
        return
    if main.on_sigterm == "ignored":
        yield Advice(
            "SIGTERM is ignored (SIG_IGN): systemd waited for all of "
            f"TimeoutStopSec={seconds_text(case.settings.timeout_stop_s)}, then killed it.",
            "Take the signal's SIG_IGN out, or put a handler in its place; if whoever starts the program ignores it, "
            "reset it there: an exec(2) keeps what is ignored.",
        )
    elif main.on_sigterm == "blocked" and not case.extensions:
        yield Advice(
            "SIGTERM is blocked in the main thread, and nothing took it from a signalfd(2) or sigwait(3) in time.",
            "Unblock it, or read it.",
        )


def _extensions(case: Case) -> Iterator[Advice]:
    main = case.main
    if not case.timed_out or case.is_shell or main is None or main.on_sigterm == "ignored":
        return
    if not any(each.pid == main.pid for each in case.killed):
        return  # it had left by itself; who was killed are its children
    if case.stubborn and not case.extensions:
        return  # that is what it waited for
    stop_s = seconds_text(case.settings.timeout_stop_s)
    if case.evidence.refused_extensions:
        yield Advice(
            f"{case.evidence.refused_extensions} extensions came from another process than the main one, and systemd "
            f"drops those (NotifyAccess={case.settings.notify_access}).",
            "Let the main process alone notify; or NotifyAccess=all, which lets every child say that the unit stops.",
        )
    elif case.early_extension:
        yield Advice(
            "EXTEND_TIMEOUT_USEC= came before the stop only: entering the stop sets the clock anew, and it was lost.",
            "Send it in answer to SIGTERM, first of all, together with STOPPING=1.",
        )
    elif not case.extensions:
        yield Advice(
            f"It still had work, and no EXTEND_TIMEOUT_USEC= came within TimeoutStopSec={stop_s}: one that would have "
            "come later is too late.",
            "Send STOPPING=1 and EXTEND_TIMEOUT_USEC= first of all, and again in good time; or give TimeoutStopSec= "
            "the longest time the work may take. It should cover that anyway: a daemon-reload drops extensions.",
        )
    else:
        at_ns, length_ns = case.extensions[-1]
        yield Advice(
            f"It extended too late: the last extension came {case.after_stop(at_ns)} and lasts "
            f"{seconds_text(length_ns / NS)} from its arrival; the next one did not come before systemd's patience "
            "ended.",
            "Send each while the one before has two thirds of its time left, longer ones if need be, and the first "
            "within TimeoutStopSec=; raise that to what the work takes.",
        )


def _children(case: Case) -> Iterator[Advice]:
    main_pid = case.evidence.main_pid
    others = [each for each in case.killed if each.pid != main_pid]
    if not others or case.is_shell or case.main is None:
        return
    main_killed = any(each.pid == main_pid for each in case.killed)
    stuck = (*case.stubborn, *others)[0]
    reaction = {
        "default": "SIGTERM would have ended it, and nobody sent it one",
        "ignored": "it ignores SIGTERM",
        "blocked": "it blocks SIGTERM",
        "caught": "it catches SIGTERM and does not leave",
    }[stuck.on_sigterm]
    if stuck.on_sigterm == "default" and case.settings.kill_mode == "control-group":
        reaction = "its SIGTERM did not end it in time" if stuck.state != "D" else "it hangs in a system call (state D)"
    if not main_killed:
        when = " at once" if case.settings.kill_mode == "mixed" else " after TimeoutStopSec="
        yield Advice(
            f"A child outlived the main process and was killed{when}: {_one(stuck)}; {reaction}.",
            "End children before leaving: ask each to stop, wait with a limit, then kill. Work worth finishing "
            "belongs into the main process's own time.",
        )
    elif case.timed_out and case.stubborn and not case.extensions:
        yield Advice(
            f"A child hangs: {_one(stuck)} was still there when systemd's patience ended; {reaction}.",
            "Wait for children with a limit, and kill what does not answer, before TimeoutStopSec= does it to all.",
        )


def _watchdog(case: Case) -> Iterator[Advice]:
    if case.service.result != "watchdog":
        return
    asked = [at_ns for at_ns, fields in case.evidence.heard if fields.get("WATCHDOG") == "trigger"]
    if asked:
        yield Advice("The program asked for its own abort (WATCHDOG=trigger).", "Look into its output for the reason.")
    elif case.service.watchdog_in_stop:
        yield Advice(
            "The watchdog bit in the stop: it is off there, until a WATCHDOG=1 or WATCHDOG_USEC= sets it going again, "
            "and then it wants to be fed to the very end.",
            "Send WATCHDOG_USEC=0 with the first word of the stop, or ping (or extend) without a gap until the exit.",
        )
    else:
        yield Advice(
            "The watchdog bit while the program was active: no WATCHDOG=1 for "
            f"{seconds_text(case.settings.watchdog_s)}.",
            "Ping from the main loop every half of WatchdogSec= (capbg: app.heartbeat(), or pump()); a loop that may "
            "be busy for longer needs a longer one.",
        )


def _suspension(case: Case) -> Iterator[Advice]:
    if case.evidence.suspension_asked and not case.evidence.suspended:
        yield Advice(
            "SIGTSTP did not suspend it: a service's process group is orphaned, and there the kernel drops the "
            "default SIGTSTP.",
            "Catch SIGTSTP, put the work away, then stop by SIGSTOP (capbg does exactly that).",
        )


def _tasks(case: Case) -> Iterator[Advice]:
    late = [task for task in case.tasks if task.state in {"expired", "killed"}]
    if late:
        yield Advice(
            f"{_count(len(late), 'task')} ran out of time: {', '.join(task.name for task in late[:_NAMED_MOST])}.",
            "Give more of it (deadline=, grace or CAPBG_GRACE, and TimeoutStopSec= to match), or do less in a stop.",
        )
    unfinished = [task for task in case.tasks if task.state == "unfinished"]
    if unfinished:
        yield Advice(
            f"{_count(len(unfinished), 'task')} returned without a finish: {unfinished[0].name}.",
            "Call task.finish() where the work is done; a callback of before_exit() has to say so itself.",
        )


def _alien(case: Case) -> Iterator[Advice]:
    if case.evidence.alien_main:
        yield Advice(
            "MAINPID= named a process that is not systemd's own child: its stop has no TimeoutStopSec= at all, SIGKILL "
            "follows SIGTERM within 10 ms.",
            "Never send MAINPID=: stay the process that systemd has started.",
        )


def _refused(case: Case) -> Iterator[Advice]:
    if case.evidence.refused and not case.evidence.refused_extensions and not case.is_shell:
        yield Advice(
            f"{_count(case.evidence.refused, 'message')} came from others than the main process and did not count.",
            "Let the main process alone speak: take NOTIFY_SOCKET and WATCHDOG_* out of what children inherit.",
        )


def _left(case: Case) -> Iterator[Advice]:
    if case.evidence.left:
        yield Advice(
            f"KillMode={case.settings.kill_mode} signals the main process at most: whatever it leaves, stays.",
            "KillMode=mixed: SIGTERM to the main process, and nothing is left behind at the end.",
        )


def _near(case: Case) -> Iterator[Advice]:
    if case.margin_ns is None or case.timed_out or case.service.code == "killed":
        return
    if case.margin_ns < _NEAR_S * NS and case.margin_ns < case.settings.timeout_stop_s * NS / 2:
        yield Advice(
            f"It was {case.margin_ns / NS:.2f} s from being killed; systemd's own timers have a slack of 0.25 s, and a "
            "busy device takes longer.",
            "Raise TimeoutStopSec=, or extend earlier.",
        )


def _auto(case: Case) -> Iterator[Advice]:
    if not case.evidence.taken_for_exec:
        return
    if any(fields.get("READY") == "1" for _, fields in case.evidence.heard):
        yield Advice(
            "READY=1 came late, when the program had been taken for Type=exec already.",
            "Say --type notify: then it is awaited for as long as TimeoutStartSec= lasts (--start-timeout).",
        )
    else:
        yield Advice(
            "READY=1 never came, so it was taken for Type=exec: active the moment it is started, ready for a stop or "
            "not.",
            "Say --type exec if that is what its unit says; a program that sends READY=1 can be Type=notify.",
        )


RULES: tuple[Callable[[Case], Iterator[Advice]], ...] = (
    *(_never_ready, _ended_early, _shell, _not_caught, _unheard, _children, _extensions, _watchdog, _suspension),
    *(_tasks, _alien, _refused, _left, _near, _auto),
)
"""In the order in which they are shown: what cost the work comes first."""


def judge(case: Case) -> tuple[tuple[str, ...], tuple[Advice, ...]]:
    """What was lost, and what to mend."""
    return tuple(losses(case)), tuple(advice for rule in RULES for advice in rule(case))


def _program(process: ProcessSeen) -> str:
    return os.path.basename(process.name.split(" ")[0]).lstrip("-")


def _one(process: ProcessSeen) -> str:
    return f"PID {process.pid} ({process.name})"


def _named(processes: tuple[ProcessSeen, ...]) -> str:
    shown = ", ".join(_one(each) for each in processes[:_NAMED_MOST])
    more = len(processes) - _NAMED_MOST
    return f"{_count(len(processes), 'process')}: {shown}{f' and {more} more' if more > 0 else ''}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}{'es' if what.endswith('s') else 's'}"
