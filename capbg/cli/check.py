"""``capbg check``: its options and words. What is wrong is found by ``units/``; here it is shown."""

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace

import click
from rich.console import Console
from rich.text import Text

from capbg.errors import CapbgError

from .units.findings import Finding, Level
from .units.load import load
from .units.rules import RULES, check_unit

_STYLES = {Level.ERROR: "bold red", Level.WARNING: "bold magenta", Level.NOTE: "bold"}
"""Readable on black and on white: no yellow, cyan or white."""


@dataclass(slots=True)
class _Subject:
    """One unit or process that was looked at."""

    name: str
    files: list[str] = field(default_factory=list)
    """The unit file, then its drop-ins."""
    findings: list[Finding] = field(default_factory=list)
    of_capbg: int = 0
    """How many of them hold only for a program that uses capbg."""


@click.command()
@click.argument("units", nargs=-1, metavar="[UNIT]...")
@click.option("--user", is_flag=True, help="Look bare names up among the user's own services.")
@click.option("--plain", is_flag=True, help="The program does not use capbg: leave out advice for those that do.")
@click.option(
    "--pid", "pids", type=int, multiple=True, metavar="PID", help="Look at a running process, and at its service."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead.")
def check(units: tuple[str, ...], pids: tuple[int, ...], *, user: bool, plain: bool, as_json: bool) -> None:
    """Say what would go wrong when a service is told to stop.

    A UNIT is a file, or the name of an installed service. Its drop-ins are read with it, and put together as systemd
    does. For each fault there is the line, the reason and what to write instead. Nothing is started or changed, and no
    systemd need run.

    \b
    Levels:
      error    a stop loses work, or the service does not even start
      warning  a stop loses work in some cases, or tells people the wrong thing
      note     worth knowing

    \b
    Exit status:
      0  nothing worse than a note
      1  an error or a warning
      2  a unit could not be read, or the command line is wrong

    \b
    Examples:
      capbg check ./kiosk.service        a file, with ./kiosk.service.d/*.conf
      capbg check kiosk                  installed, with every drop-in there is
      capbg check capbg@kiosk.service    an instance of a template
      capbg check --plain nginx          a program that does not use capbg
      capbg check --pid 4711             a process that runs

    A file in a directory that systemd reads gets the drop-ins of them all; any other file only those beside it.
    SYSTEMD_UNIT_PATH overrides those directories, as it does for systemd.
    """
    if not units and not pids:
        raise click.UsageError("name a unit file, an installed service, or --pid PID")
    subjects: list[_Subject] = []
    unread: list[str] = []
    for name in units:
        try:
            subjects.append(_look_at_unit(name, user=user, plain=plain))
        except CapbgError as error:
            unread.append(str(error))
    for pid in pids:
        try:
            subjects += _look_at_process(pid, plain=plain)
        except CapbgError as error:
            unread.append(str(error))
    if as_json:
        click.echo(json.dumps({"checked": [_document(each) for each in subjects], "unread": unread}, indent=2))
    else:
        _show(subjects, rules=sum(rule.plain is not None for rule in RULES) if plain else len(RULES))
    for sentence in unread:
        click.echo(f"capbg check: {_visible(sentence)}", err=True)
    bad = any(finding.level is not Level.NOTE for each in subjects for finding in each.findings)
    sys.exit(2 if unread else int(bad))


def _look_at_unit(name: str, *, user: bool, plain: bool, grace: str | None = None) -> _Subject:
    unit = replace(load(name, user=user), grace=grace)
    findings = check_unit(unit, plain=plain)
    of_capbg = 0 if plain or "capbg" in unit.name else len(findings) - len(check_unit(unit, plain=True))
    files = [str(unit.path), *map(str, unit.drop_ins)]
    return _Subject(unit.name, files, findings, of_capbg)


def _look_at_process(pid: int, *, plain: bool) -> Iterator[_Subject]:
    """The process, and its service's unit where that can be read here (in a container's process it cannot)."""
    from .units.process import check_process, grace_of, is_user_unit, unit_of

    process = _Subject(f"process {pid}", findings=check_process(pid))
    yield process
    if (name := unit_of(pid)) is not None and name.endswith(".service"):
        with contextlib.suppress(CapbgError):
            unit = _look_at_unit(name, user=is_user_unit(pid), plain=plain, grace=grace_of(pid))
            if any(each.rule == "stop-timeout" for each in unit.findings):
                # The same is said of the unit, on its line and with what to write: once is enough.
                process.findings = [each for each in process.findings if each.rule != "grace"]
            yield unit


def _document(subject: _Subject) -> dict[str, object]:
    findings = [asdict(each) | {"level": each.level.value} for each in subject.findings]
    return {"name": subject.name, "files": subject.files, "findings": findings}


def _show(subjects: Sequence[_Subject], *, rules: int) -> None:
    """On a terminal in its width and in colours; elsewhere one line is one line."""
    console = Console(highlight=False)

    def line(text: Text, indent: int) -> None:
        # Wrapped here and not by a Padding, which fills every line with blanks up to the edge.
        parts = text.wrap(console, max(20, console.width - indent)) if console.is_terminal else [text]
        for part in parts:
            part.rstrip()
            console.print(Text(" " * indent) + part, soft_wrap=True)

    for subject in subjects:
        for finding in subject.findings:
            where = finding.where if finding.line is None else f"{finding.where}:{finding.line}"
            level = (finding.level.value, _STYLES[finding.level])
            what = (_visible(finding.what), "bold")
            line(Text.assemble(f"{_visible(where)}: ", level, ": ", what, f" [{finding.rule}]"), 0)
            line(Text(_visible(finding.why)), 4)
            line(Text.assemble(("fix: ", "bold"), _visible(finding.fix)), 4)
    if subjects:
        line(_summary(subjects, rules), 0)
    alien = [each for each in subjects if each.of_capbg]
    if alien:
        count = sum(each.of_capbg for each in alien)
        holds = "holds" if count == 1 else "hold"
        line(Text(f"{count} of these {holds} only for programs that use capbg; for others: --plain"), 0)


def _summary(subjects: Sequence[_Subject], rules: int) -> Text:
    """What was found, and where it was looked for."""
    findings = [finding for each in subjects for finding in each.findings]
    names = [_visible(each.name) for each in subjects]
    drop_ins = sum(max(0, len(each.files) - 1) for each in subjects)
    if len(names) > 4:
        names = [f"{len(names)} services"]
    looked_at = _and([*names, *([_counted(drop_ins, "drop-in")] if drop_ins else [])])
    counts = [
        (_counted(sum(each.level is level for each in findings), level.value), _STYLES[level])
        for level in Level
        if any(each.level is level for each in findings)
    ]
    if not counts:
        by_rules = f", by {rules} rules" if any(each.files for each in subjects) else ""
        return Text(f"nothing found: {looked_at}{by_rules}")
    told = Text(", ").join(Text(*each) for each in counts)
    return Text.assemble(told, f" in {looked_at}")


def _visible(text: str) -> str:
    """What a unit or a process is called may hold what moves a cursor: it is shown as an escape."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
