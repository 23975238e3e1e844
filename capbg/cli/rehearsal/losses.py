"""What was lost in a rehearsal, one sentence each. Nothing lost: the exit status is 0.

This file must not know how anything was observed, nor what to do about it (``advice.py``).
"""

import signal
from collections.abc import Iterator, Sequence

from capbg._core.words import NS
from capbg.cli.rehearsal.case import Case, count, named
from capbg.cli.rehearsal.record import TaskSeen
from capbg.cli.rehearsal.service import exit_text

EX_TEMPFAIL = 75
"""What a capbg program leaves with when work is left (sysexits.h), whether the unit calls that a success or not."""
_NAMED_MOST = 3
_ENDED_ITSELF = frozenset({"failed", "crashed", "expired"})


def losses(case: Case) -> Iterator[str]:
    """What was lost."""
    service = case.service
    if not case.was_ready:
        yield "No stop was rehearsed: it was never ready, and so never active."
    elif not case.evidence.stop_asked:
        yield "No stop was rehearsed: it ended by itself before."
    by_its_word = service.code == "exited" and service.result in {"success", "exit-code"}
    if not by_its_word:
        yield from _verdict(case)
    yield from (_task(task) for task in case.tasks if task.lost or not task.settled)
    if by_its_word:  # what its exit status stands for comes first
        yield from _verdict(case)
    unended = case.evidence.unended
    if killed := tuple(each for each in case.killed if each.pid not in unended):
        yield f"SIGKILL had to end {named(killed)}."
    if case.left:
        setting = f"KillMode={case.settings.kill_mode}" if case.settings.send_sigkill else "SendSIGKILL=no"
        yield f"{setting} leaves {named(case.left)} running, outside any unit (the rehearsal has ended it)."
    if unended:
        yield f"{unended_text(unended)}."
    if case.evidence.held_up_ns:
        yield (
            f"This rehearsal was itself held up, past a deadline by {case.evidence.held_up_ns / NS:.1f} s (stopped, or "
            "on a busy machine, or its output was not read): what came of it proves nothing, rehearse again."
        )
    if case.evidence.suspension_asked and not case.evidence.suspended:
        yield "It was told to suspend (SIGTSTP) and did not stop itself."


def unended_text(pids: Sequence[int]) -> str:
    """What would not end, whatever was done."""
    some = ", ".join(map(str, pids[:_NAMED_MOST])) + (", ..." if len(pids) > _NAMED_MOST else "")
    return (
        f"SIGKILL did not end {count(len(pids), 'process')} (PID {some}): another user's, or in a system call that "
        "does not return, or forked faster than they can be found"
    )


def _task(task: TaskSeen) -> str:
    if not task.settled:
        return f"Task {task.name} was {task.state} when it was last heard of: its end was never told."
    word = task.state if task.state in _ENDED_ITSELF else f"was {task.state}"
    return f"Task {task.name} {word}{f': {task.reason}' if task.reason else ''}."


def _verdict(case: Case) -> Iterator[str]:
    service = case.service
    if service.result != "success":
        running = any(each.pid == case.evidence.main_pid for each in case.evidence.left)
        how = f"{service.code}, status={exit_text(service.code, service.status)}" if service.code else "gone"
        yield f"systemd calls it failed: Result={service.result}, main process {'still there' if running else how}."
    elif service.code == "killed" and case.evidence.reactions.get(service.status) != "caught":
        # A handler that ends with the signal's default action says by what it was ended: a good custom.
        name = signal.Signals(service.status).name
        who = "The shell" if case.is_shell else "It"
        yield f"{who} died of {name}: no line of its own ran to finish anything."
    elif service.status == EX_TEMPFAIL:
        yield "It left with exit status 75 (EX_TEMPFAIL): by its own word, work is left."
