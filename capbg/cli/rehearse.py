"""``capbg rehearse``: its options and words."""

import math
import signal
import sys
from pathlib import Path

import click
from rich.console import Console

from capbg.cli.rehearsal import lines, picture, report, script
from capbg.cli.rehearsal.record import Entry, Report, Settings
from capbg.cli.rehearsal.run import AUTO_S, InterruptedRehearsalError, Rehearsal
from capbg.cli.rehearsal.screen import Screen
from capbg.cli.rehearsal.tree import CannotStartError

LOST, UNUSABLE = 1, 2
"""Exit statuses: something was lost; nothing could be rehearsed."""


SECONDS = click.FloatRange(min=0)
"""``inf`` is a number of seconds, too: no limit."""


@click.command(no_args_is_help=True)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option(
    "--signal",
    "signame",
    type=click.Choice(["TERM", "TSTP", "INT"], case_sensitive=False),
    default="TERM",
    show_default=True,
    help="TERM, INT: a stop (INT as with KillSignal=SIGINT). TSTP: a suspension, a resume, a stop.",
)
@click.option("--after", type=SECONDS, default=1.0, show_default=True, help="Seconds from the start to the signal.")
@click.option(
    "--script",
    "steps",
    metavar="STEPS",
    help='Several signals in place of --signal and --after: "TSTP@2 CONT@5 TERM@8", in seconds after the start. The '
    "first TERM or INT is a stop; every other signal, and kill:TERM@4, goes to the main process by hand.",
)
@click.option(
    "--type",
    "kind",
    type=click.Choice(["auto", "notify", "exec"]),
    default="auto",
    show_default=True,
    help=f"Type=: notify waits for READY=1; exec does not; auto waits for {AUTO_S:g} s and then takes it for exec.",
)
@click.option("--stop-timeout", type=SECONDS, default=90.0, show_default=True, help="TimeoutStopSec=.")
@click.option("--start-timeout", type=SECONDS, default=90.0, show_default=True, help="TimeoutStartSec=.")
@click.option("--abort-timeout", type=SECONDS, help="TimeoutAbortSec=; as --stop-timeout unless given.")
@click.option(
    "--failure-mode",
    type=click.Choice(["terminate", "abort", "kill"]),
    default="terminate",
    show_default=True,
    help="TimeoutStopFailureMode=: what comes at the end of --stop-timeout: SIGKILL, or SIGABRT first.",
)
@click.option(
    "--kill-mode",
    type=click.Choice(["control-group", "mixed", "process", "none"]),
    default="control-group",
    show_default=True,
    help="KillMode=: who is sent the signals. The default is systemd's; for capbg use mixed.",
)
@click.option(
    "--notify-access",
    type=click.Choice(["main", "all", "none"]),
    default="main",
    show_default=True,
    help="NotifyAccess=: whose messages count.",
)
@click.option("--watchdog", type=SECONDS, default=0.0, metavar="SECONDS", help="WatchdogSec=; 0, the default: none.")
@click.option(
    "--success-status",
    "statuses",
    type=click.IntRange(1, 255),
    multiple=True,
    metavar="STATUS",
    help="SuccessExitStatus=: an exit status that systemd calls a success (work left behind is told all the same).",
)
@click.option("--no-sigkill", is_flag=True, help="SendSIGKILL=no: what does not leave is left.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON, and nothing else, to stdout.")
@click.option("--svg", type=click.Path(dir_okay=False, path_type=Path), help="Draw the timeline into this file.")
def rehearse(  # noqa: PLR0917 - click calls it by keywords
    command: tuple[str, ...],
    signame: str,
    after: float,
    steps: str | None,
    kind: str,
    stop_timeout: float,
    start_timeout: float,
    abort_timeout: float | None,
    failure_mode: str,
    kill_mode: str,
    notify_access: str,
    watchdog: float,
    statuses: tuple[int, ...],
    no_sigkill: bool,
    as_json: bool,
    svg: Path | None,
) -> None:
    """Run COMMAND as systemd would run a service, stop it, and see what becomes of it.

    COMMAND gets a notify socket, and a watchdog if you ask for one. READY=1 is awaited; then comes the signal; then
    systemd's rules hold: the stop timeout, extensions (EXTEND_TIMEOUT_USEC=), SIGKILL for all that is left. Any program
    will do: it need not use capbg, nor be written in Python. For one that does, every task has a bar.

    On a terminal it is shown live; on a pipe, line by line. At the end stand the timeline, the outcomes, systemd's
    verdict and the margin: how near the stop came to a kill. Ctrl-C ends it, and everything it has started.

    \b
    Exit status:
      0    nothing was lost
      1    something was: the last lines say what, why, and what to do
      2    it could not be rehearsed: a wrong option, no such command
      130  Ctrl-C

    \b
    Examples:
      capbg rehearse -- python3 app.py
      capbg rehearse --stop-timeout 20 --watchdog 5 -- /opt/kiosk/venv/bin/python /opt/kiosk/kiosk.py
      capbg rehearse --script "TSTP@2 CONT@5 TERM@8" --svg stop.svg -- python3 app.py
      capbg rehearse --type exec --kill-mode control-group -- nginx -g "daemon off;"
      capbg rehearse --json -- env CAPBG_GRACE=10 python3 app.py | jq .verdict

    What differs from a service: COMMAND runs as you, here, in your environment (systemd starts it in / with next to
    nothing), outside any sandbox and cgroup; a timer of systemd's may strike up to 0.25 s later.
    """
    settings = Settings(
        type=kind,
        notify_access=notify_access,
        kill_mode=kill_mode,
        timeout_start_s=start_timeout,
        timeout_stop_s=stop_timeout,
        timeout_abort_s=abort_timeout,
        failure_mode=failure_mode,
        watchdog_s=watchdog,
        send_sigkill=not no_sigkill,
        success_statuses=statuses,
    )
    if steps is None:
        chosen = script.of_signal(getattr(signal, f"SIG{signame.upper()}"), after)
    else:
        try:
            chosen = script.parse(steps)
        except script.ScriptError as error:
            raise click.BadParameter(str(error), param_hint="'--script'") from None
    if any(map(math.isnan, (after, stop_timeout, start_timeout, abort_timeout or 0.0, watchdog))):
        raise click.UsageError("'nan' is no number of seconds: write 90, 0.5 or inf")
    if svg is not None and not svg.parent.is_dir():
        raise click.BadParameter(f"there is no folder {str(svg.parent)!r} to write it into", param_hint="'--svg'")
    try:
        found = _run(command, settings, chosen, quiet=as_json)
    except CannotStartError as error:
        click.echo(f"capbg rehearse: {error}", err=True)
        sys.exit(UNUSABLE)
    except InterruptedRehearsalError as error:
        click.echo(f"capbg rehearse: {error}", err=True)
        sys.exit(128 + error.signum)
    if as_json:
        click.echo(report.to_json(found))
    else:
        report.show(found, Console())
    if svg is not None:
        svg.write_text(picture.draw(found), encoding="utf-8")
    sys.exit(0 if found.passed else LOST)


def _run(command: tuple[str, ...], settings: Settings, steps: tuple[script.Step, ...], *, quiet: bool) -> Report:
    console = Console()
    if quiet:
        return Rehearsal(command, settings, steps, heard=_nothing).run()
    if console.is_terminal and not console.is_dumb_terminal:
        with Screen(console) as screen:
            return Rehearsal(command, settings, steps, heard=_nothing, look=screen.show).run()
    plain = lines.Lines(click.echo)
    return Rehearsal(command, settings, steps, heard=plain.entry).run()


def _nothing(entry: Entry, began_ns: int) -> None:
    """The report tells it."""
