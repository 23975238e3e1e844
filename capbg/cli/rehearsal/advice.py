"""Each fault of a rehearsal, and its mend. The reasons are those of ``systemd/README.md``.

Every rule is a function of :class:`Case` that yields what it finds. This file must not know how anything was observed.
"""

import signal
from collections.abc import Callable, Iterator

from capbg._core.words import NS
from capbg.cli.rehearsal.case import PAUSES, SHELLS, Case, count, one, program_of
from capbg.cli.rehearsal.losses import EX_TEMPFAIL
from capbg.cli.rehearsal.record import Advice
from capbg.cli.rehearsal.service import exit_text, seconds_text

_NEAR_S = 1.0
"""A margin below this is worth a word: systemd's own timers have a slack of 0.25 s, and a busy machine more."""
_NAMED_MOST = 3


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
    if case.evidence.stop_asked or not case.was_ready or case.service.result == "watchdog":
        return
    service = case.service
    how = f"exit status {service.status}" if service.code == "exited" else exit_text(service.code, service.status)
    yield Advice(
        f"It had ended by itself, with {how}, before the stop was asked for.",
        "See what it printed for the reason, if it should have stayed; a program that does end by itself is stopped "
        "earlier by --after (seconds from the start), and is Type=oneshot if that is all it does.",
    )


def _shell(case: Case) -> Iterator[Advice]:
    if not case.is_shell or case.main is None:
        return
    child = next(each for each in case.children if program_of(each) not in PAUSES)
    if not case.died_unasked:
        came = "the shell does not pass it on"
    elif case.settings.kill_mode == "control-group":
        came = (
            "the shell died of it, and with the main process gone systemd hears no extension and no exit status any "
            "more: what the child does with its own SIGTERM has TimeoutStopSec= and no longer"
        )
    else:
        came = "the shell died of it, and for systemd that was the program's end"
    yield Advice(
        f"The main process is a shell ({case.main.name}) and the work is done by its child, {one(child)}: systemd "
        f"signals and hears the shell; {came}.",
        "Let the shell become the program: `exec` in front of its last command; or name the program itself in "
        "ExecStart=, and put what has to happen before into ExecStartPre=.",
    )


def _not_caught(case: Case) -> Iterator[Advice]:
    main = case.main
    if main is None or case.is_shell or case.reaction != "default" or not case.died_unasked or not case.was_ready:
        return
    name = case.service.kill_signal.name
    program = program_of(main)
    if "python" in program:
        how = "with a capbg.App: `with app: ...`"
    elif program in SHELLS:
        how = f"by a trap that finishes the work and leaves: trap 'finish; exit 0' {name.removeprefix('SIG')}"
    else:
        how = "by a handler (sigaction(2)) that finishes the work"
    unknown = (
        " systemd calls that a clean exit, so nobody will ever be told." if case.service.result == "success" else ""
    )
    yield Advice(
        f"{name} is not caught: the program died of it on the spot, whatever it was doing.{unknown}",
        f"Catch {name} {how}.",
    )


def _killed_outright(case: Case) -> Iterator[Advice]:
    if case.service.kill_signal == signal.SIGKILL:
        yield Advice(
            "KillSignal=SIGKILL: nobody is asked to stop, and nothing can be finished.",
            "Take KillSignal= out: systemd then sends SIGTERM.",
        )


def _unheard(case: Case) -> Iterator[Advice]:
    main = case.main
    if not case.timed_out or main is None or case.is_shell:
        return
    name = case.service.kill_signal.name
    if case.reaction == "ignored":
        yield Advice(
            f"{name} is ignored (SIG_IGN): systemd waited for all of "
            f"TimeoutStopSec={seconds_text(case.settings.timeout_stop_s)}"
            f"{', then killed it' if case.killed else ''}.",
            "Take the signal's SIG_IGN out, or put a handler in its place; if whoever starts the program ignores it, "
            "reset it there: an exec(2) keeps what is ignored.",
        )
    elif case.reaction == "blocked" and not case.extensions:
        yield Advice(
            f"{name} is blocked in the main thread, and nothing took it from a signalfd(2) or sigwait(3) in time.",
            "Unblock it, or read it.",
        )


def _extensions(case: Case) -> Iterator[Advice]:
    main = case.main
    if not case.timed_out or case.is_shell or main is None or case.reaction == "ignored":
        return
    if not any(each.pid == main.pid for each in case.killed):
        return  # it had left by itself; who was killed are its children
    if case.stubborn and not case.extensions:
        return  # that is what it waited for
    stop_s = seconds_text(case.settings.timeout_stop_s)
    if case.settings.notify_access == "none":
        yield Advice(
            "It still had work, and systemd does not listen (NotifyAccess=none): "
            f"TimeoutStopSec={stop_s} was all it had.",
            "NotifyAccess=main and Type=notify, so that it can ask for more; and TimeoutStopSec= for the longest time "
            "the work may take.",
        )
    elif case.evidence.refused_extensions:
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
    if not case.killed_children or case.is_shell or case.main is None or case.reaction == "ignored":
        return
    main_killed = any(each.pid == case.evidence.main_pid for each in case.killed)
    stuck = (*case.stubborn, *case.killed_children)[0]
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
            f"A child outlived the main process and was killed{when}: {one(stuck)}; {reaction}.",
            "End children before leaving, with all that they have started (each in a process group of its own, "
            "killpg(2)): ask, wait with a limit, then kill. Work worth finishing belongs into the main process's time.",
        )
    elif case.timed_out and case.stubborn and not case.extensions:
        yield Advice(
            f"A child hangs: {one(stuck)} was still there when systemd's patience ended; {reaction}.",
            "Wait for children with a limit, and then kill what does not answer, with all that it has started "
            "(killpg(2)), before TimeoutStopSec= does it to all.",
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
    late = [task for task in case.tasks if task.state in {"expired", "killed"} and "CPU limit" not in task.reason]
    if late:
        yield Advice(
            f"{count(len(late), 'task')} ran out of time: {', '.join(task.name for task in late[:_NAMED_MOST])}.",
            "Give more of it (deadline=, grace or CAPBG_GRACE, and TimeoutStopSec= to match), or do less in a stop.",
        )
    unfinished = [task for task in case.tasks if task.state == "unfinished"]
    if unfinished:
        yield Advice(
            f"{count(len(unfinished), 'task')} returned without a finish: {unfinished[0].name}.",
            "Call task.finish() where the work is done; a callback of before_exit() has to say so itself.",
        )
    broken = [task for task in case.tasks if task.state in {"failed", "crashed", "refused"}]
    if broken:
        yield Advice(
            f"{count(len(broken), 'task')} broke down, the first {broken[0].name}: {broken[0].reason or 'no reason'}.",
            "Mend what the program's log (logging.getLogger('capbg')) tells with a traceback; keep what may fail now "
            "and then for the next start.",
        )


def _exit_status(case: Case) -> Iterator[Advice]:
    service = case.service
    if service.code != "exited" or service.result != "exit-code" or not case.evidence.stop_asked:
        return
    if service.status == EX_TEMPFAIL:
        yield Advice(
            "Exit status 75 makes systemd call the unit failed.",
            "If what is left waits for the next start, and that is no failure: SuccessExitStatus=75 "
            "(--success-status 75). What was lost is told all the same.",
        )
    else:
        yield Advice(
            f"It left with exit status {service.status}, and systemd calls every status but 0 a failure.",
            f"See what it printed for the reason; if {service.status} is its way to say that all is well: "
            f"SuccessExitStatus={service.status} (--success-status {service.status}).",
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
            f"{count(case.evidence.refused, 'message')} came from others than the main process and did not count.",
            "Let the main process alone speak: take NOTIFY_SOCKET and WATCHDOG_* out of what children inherit.",
        )


def _left(case: Case) -> Iterator[Advice]:
    if not case.left:
        return
    if not case.settings.send_sigkill:
        yield Advice(
            "SendSIGKILL=no: what does not leave in time is left running, and meets the next start.",
            "Take SendSIGKILL= out.",
        )
    else:
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
    *(_never_ready, _ended_early, _shell, _not_caught, _killed_outright, _unheard, _children, _extensions, _watchdog),
    *(_suspension, _tasks, _exit_status, _alien, _refused, _left, _near, _auto),
)
"""In the order in which they are shown: what cost the work comes first."""


def advice(case: Case) -> Iterator[Advice]:
    """What to mend."""
    for rule in RULES:
        yield from rule(case)
