"""What would go wrong in a stop: one table of rules, each a pure function of a unit.

A rule reads the unit, and where it says so the files that the unit names; it starts nothing and asks no systemd. Facts
behind the texts were measured on systemd 252: systemd/README.md.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from capbg.cli.units.findings import Finding, Level
from capbg.cli.units.load import Unit

from . import command, limits, masked, missing, notify, order, outcome, sandbox, stop, syscalls

_ORDER = [Level.ERROR, Level.WARNING, Level.NOTE]


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing that is looked at."""

    check: Callable[[Unit], Iterator[Finding]]
    plain: Level | None = None
    """For a program that does not use capbg: the worst level that its findings keep; None: left out."""


RULES = [
    Rule(command.command_line, Level.ERROR),
    Rule(command.exec_start, Level.ERROR),
    Rule(command.not_found, Level.WARNING),
    Rule(missing.identity, Level.WARNING),
    Rule(missing.environment_files, Level.WARNING),
    Rule(missing.working_directory, Level.WARNING),
    Rule(command.relative_script, Level.WARNING),
    Rule(command.in_between, Level.WARNING),
    Rule(command.ignored_status),
    Rule(command.variables, Level.WARNING),
    Rule(notify.service_type),
    Rule(notify.refused_type, Level.ERROR),
    Rule(notify.notify_access),
    Rule(notify.main_pid, Level.NOTE),
    Rule(notify.pid_file),
    Rule(notify.watchdog),
    Rule(notify.watchdog_signal, Level.NOTE),
    Rule(notify.watchdog_without_restart),
    Rule(command.heartbeat),
    Rule(stop.kill_mode),
    Rule(stop.kill_mode_process, Level.NOTE),
    Rule(stop.kill_mode_none, Level.ERROR),
    Rule(stop.kill_signal),
    Rule(stop.kill_signal_kill, Level.ERROR),
    Rule(stop.last_word, Level.NOTE),
    Rule(stop.hangup),
    Rule(stop.grace_value),
    Rule(stop.stop_covers_grace),
    Rule(stop.stop_cap, Level.NOTE),
    Rule(stop.failure_mode),
    Rule(stop.exec_stop),
    Rule(stop.exec_stop_kills, Level.ERROR),
    Rule(stop.reload_hangup),
    Rule(outcome.unfinished_status),
    Rule(outcome.restart),
    Rule(outcome.start_limit),
    Rule(outcome.forced_restart),
    Rule(outcome.lifetime, Level.NOTE),
    Rule(outcome.out_of_memory),
    Rule(outcome.after_the_end),
    Rule(sandbox.address_families, Level.ERROR),
    Rule(sandbox.hidden, Level.ERROR),
    Rule(sandbox.not_executable, Level.ERROR),
    Rule(sandbox.raised_privileges, Level.ERROR),
    Rule(syscalls.filtered),
    Rule(limits.processes),
    Rule(limits.files),
    Rule(limits.processor_time, Level.NOTE),
    Rule(limits.memory),
    Rule(order.network),
    Rule(order.network_online, Level.NOTE),
    Rule(order.dependencies, Level.NOTE),
    Rule(order.job_timeout),
]


def check_unit(unit: Unit, *, plain: bool = False) -> list[Finding]:
    """Return everything that would go wrong in a stop of this service, the worst first.

    ``plain``: its program does not use capbg; advice that holds for capbg alone is left out.
    """
    if unit.masked:
        return [masked.masked(unit)]
    findings = list(unit.findings)
    for rule in RULES:
        for finding in rule.check(unit):
            if not plain:
                findings.append(finding)
            elif rule.plain is not None:
                findings.append(replace(finding, level=max(finding.level, rule.plain, key=_ORDER.index)))
    return sorted(findings, key=lambda each: (_ORDER.index(each.level), each.line is None, each.where, each.line or 0))
