"""How a rehearsal ended, in sentences: what systemd would have shown, and how near the stop came to a kill.

Every sentence is read from what was seen (signals sent, states passed, the main process's end), never from what a
setting promises. It knows values only, and nothing of how they are shown.
"""

import signal

from capbg.cli.rehearsal.looks import instant, length
from capbg.cli.rehearsal.record import NEVER, Report, SignalSent
from capbg.cli.rehearsal.service import signal_name

_SIGKILLS, _WATCHDOGS = ("stop-sigkill", "final-sigkill"), ("stop-watchdog", "final-watchdog")


def verdict(report: Report) -> str:
    """What systemd would have shown: ``Result=timeout, killed by SIGKILL``."""
    if report.code == "exited":
        how = f"exit status {report.status}"
    elif report.code:
        how = f"{'dumped core on' if report.code == 'dumped' else 'killed by'} {signal_name(report.status)}"
    elif _was_left(report):
        how = "main process left to itself"
    else:  # MAINPID=: only its parent is told how it ended; or it hangs in the kernel
        how = "nobody knows how the main process ended"
    return f"Result={report.result}, {how}"


def status_lines(report: Report) -> list[str]:
    """The lines of ``systemctl status`` that tell the end, as systemd words them."""
    active = "inactive (dead)" if report.result == "success" else f"failed (Result: {report.result})"
    if not report.code:
        return [f"Active: {active}"]
    if report.code == "exited":
        how = f"status={report.status}" + {0: "/SUCCESS", 1: "/FAILURE"}.get(report.status, "")
    else:
        how = f"signal={signal_name(report.status).removeprefix('SIG')}"
    return [f"Active: {active}", f"Main PID: (code={report.code}, {how})"]


def margin(report: Report) -> str:
    """How near the stop came to being killed, in a sentence."""
    kills = [sent for sent in report.signals if sent.signal == "SIGKILL" and sent.to != "nobody"]
    by_hand = next((sent for sent in kills if _is_by_hand(sent)), None)
    by_rule = next((sent for sent in kills if not _is_by_hand(sent)), None)
    reason = _cut_short(report, by_hand, by_rule)
    if not reason and report.margin_ns == 0:
        reason = _time_over(report, by_rule)
    return f"No margin: {reason}." if reason else _time_left(report, by_rule)


def last_line(report: Report) -> str:
    """PASSED or LOST, and what."""
    if report.passed:
        return "PASSED: nothing was lost."
    more = f" (and {len(report.lost) - 1} more)" if len(report.lost) > 1 else ""
    return f"LOST: {report.lost[0]}{more}"


def _cut_short(report: Report, by_hand: SignalSent | None, by_rule: SignalSent | None) -> str:
    """What ended it without regard to any deadline of a stop; empty: nothing did."""
    if report.result == "watchdog":
        return f"the watchdog bit{_at(report, _entered(report, _WATCHDOGS))}{_and_killed(report, by_rule)}"
    if by_rule and _is_kill_signal(report, by_rule):
        return f"KillSignal=SIGKILL ended it{_at(report, by_rule.at_ns)}, with no time for anything"
    if report.code != "killed" or report.status != signal.SIGKILL:
        return ""
    if by_hand and (by_rule is None or by_hand.at_ns < by_rule.at_ns):
        return f"SIGKILL by hand, from the script, ended it{_at(report, by_hand.at_ns)}"
    if by_rule is None:
        return "a SIGKILL ended it that was neither systemd's nor the script's (its own, or the OOM killer's?)"
    return "" if report.margin_ns == 0 else f"it was killed{_at(report, by_rule.at_ns)}, and no deadline was running"


def _time_over(report: Report, by_rule: SignalSent | None) -> str:
    """What came when systemd's patience was over."""
    over = _at(report, report.margin_at_ns)
    if _entered(report, _WATCHDOGS) is not None:  # TimeoutStopFailureMode=abort
        return f"its time was over{over} and SIGABRT came{_and_killed(report, by_rule)}"
    if by_rule:
        what = "what was left of it" if report.code and report.status != signal.SIGKILL else "it"
        return f"{what} was killed{_at(report, by_rule.at_ns)}"
    if report.settings.kill_mode == "none" or not report.settings.send_sigkill:
        why = "KillMode=none" if report.settings.kill_mode == "none" else "SendSIGKILL=no"
        left = ", and it was left running" if _was_left(report) else ""
        return f"its time was over{over}; nobody killed it ({why}){left}"
    return f"it left when its time was over{over}, just before it was killed"


def _time_left(report: Report, by_rule: SignalSent | None) -> str:
    if report.margin_ns is None:
        return f"No deadline of a stop was ever running{_and_killed(report, by_rule)}."
    if report.margin_ns >= NEVER // 2:
        return "Without limit: systemd would have waited for ever."
    at = _at(report, report.margin_at_ns)
    kill = "being killed" if report.code == "exited" else "systemd's SIGKILL"  # what died of SIGTERM was killed, too
    rest = f"; what it left behind was killed{_at(report, by_rule.at_ns)}" if by_rule else ""
    return f"The nearest it came to {kill}: {length(report.margin_ns)} left{at and ','}{at}{rest}."


def _and_killed(report: Report, by_rule: SignalSent | None) -> str:
    return f"; SIGKILL came{_at(report, by_rule.at_ns)}" if by_rule else ""


def _at(report: Report, instant_ns: int | None) -> str:
    return "" if instant_ns is None else f" at {instant(report.seconds(instant_ns))} s"


def _entered(report: Report, states: tuple[str, ...]) -> int | None:
    return next((span.begin_ns for span in report.spans if span.state in states), None)


def _is_by_hand(sent: SignalSent) -> bool:
    return sent.to.endswith("by hand")


def _is_kill_signal(report: Report, kill: SignalSent) -> bool:
    """Whether a SIGKILL is what asks for the stop: nothing was sent before, and no state of killing had begun."""
    first = next(sent for sent in report.signals if not _is_by_hand(sent))
    killing_ns = _entered(report, _SIGKILLS)
    return first is kill and (killing_ns is None or kill.at_ns < killing_ns)


def _was_left(report: Report) -> bool:
    """Whether the main process may still run: nobody saw it end, and nobody would have made it."""
    return not report.code and (report.settings.kill_mode == "none" or not report.settings.send_sigkill)
