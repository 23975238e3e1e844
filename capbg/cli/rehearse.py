"""``capbg rehearse``: its options and words."""

import functools
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import click
from click.core import ParameterSource
from rich.console import Console

from capbg.cli.rehearsal import lines, report, script
from capbg.cli.rehearsal.played import Played, play
from capbg.cli.rehearsal.record import Entry, Report, Settings
from capbg.cli.rehearsal.run import AUTO_S, InterruptedRehearsalError, Rehearsal
from capbg.cli.rehearsal.screen import Screen
from capbg.cli.rehearsal.tree import CannotStartError
from capbg.cli.units import values
from capbg.cli.units.load import UnitFileError, load

_OPTIONS = {
    "type": "kind",
    "notify_access": "notify_access",
    "kill_mode": "kill_mode",
    "timeout_start_s": "start_timeout",
    "timeout_stop_s": "stop_timeout",
    "timeout_abort_s": "abort_timeout",
    "failure_mode": "failure_mode",
    "watchdog_s": "watchdog",
    "send_sigkill": "no_sigkill",
    "success_statuses": "statuses",
}
"""Which parameter says what of the settings."""

LOST, UNUSABLE = 1, 2
"""Exit statuses: something was lost; nothing could be rehearsed."""


def _seconds(ctx: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    try:
        return None if value is None else values.span(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is no length of time: write 90, 0.5, 3min or infinity") from None


def _timespan(name: str, default: str | None, text: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """An option that takes a length of time as systemd.time(7) has it."""
    return click.option(name, default=default, show_default=True, metavar="SECONDS", callback=_seconds, help=text)


def _exit_statuses(ctx: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> tuple[int, ...]:
    for word in given:
        found, _ = values.exit_statuses(word)
        if not found or max(found) > 255:
            raise click.BadParameter(f"{word!r}: write an exit status, as 75 or TEMPFAIL; signals are not played")
    return tuple(sorted(values.exit_statuses(" ".join(given))[0]))


@click.command(no_args_is_help=True, context_settings={"allow_interspersed_args": False})
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[--] COMMAND...")
@click.option(
    "--unit",
    "unit_name",
    metavar="UNIT",
    help="Take COMMAND, the environment and what the options below mean from a service: a file, or an installed one's "
    "name. What you give all the same counts.",
)
@click.option(
    "--signal",
    "signame",
    type=click.Choice(["TERM", "TSTP", "INT"], case_sensitive=False),
    metavar="TERM|TSTP|INT",
    default="TERM",
    show_default=True,
    help="TERM, INT: a stop (INT as with KillSignal=SIGINT). TSTP: a suspension, a resume, a stop.",
)
@_timespan("--after", "1", "From the start to the signal.")
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
    type=click.Choice(["auto", "notify", "exec", "simple"]),
    default="auto",
    show_default=True,
    help=f"Type=: notify waits for READY=1; exec and simple do not; auto waits for {AUTO_S:g} s and then takes it for "
    "exec.",
)
@_timespan("--stop-timeout", "90", "TimeoutStopSec=.")
@_timespan("--start-timeout", "90", "TimeoutStartSec=.")
@_timespan("--abort-timeout", None, "TimeoutAbortSec=; as --stop-timeout unless given.")
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
@_timespan("--watchdog", "0", "WatchdogSec=; 0 is off.")
@click.option(
    "--success-status",
    "statuses",
    multiple=True,
    metavar="STATUS",
    callback=_exit_statuses,
    help="SuccessExitStatus=: an exit status that systemd calls a success (work left behind is told all the same).",
)
@click.option("--no-sigkill", is_flag=True, help="SendSIGKILL=no: what does not leave is left.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON, and nothing else, to stdout.")
@click.option("--svg", type=click.Path(dir_okay=False, path_type=Path), help="Draw the timeline into this file.")
@click.pass_context
def rehearse(  # noqa: PLR0917 - click calls it by keywords
    ctx: click.Context,
    command: tuple[str, ...],
    unit_name: str | None,
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
      capbg rehearse --unit ./kiosk.service
      capbg rehearse --stop-timeout 20 --watchdog 5 --svg a.svg -- python3 app.py
      capbg rehearse --script "TSTP@2 CONT@5 TERM@8" -- python3 app.py
      capbg rehearse --type exec -- nginx -g "daemon off;"
      capbg rehearse --json -- env CAPBG_GRACE=10 python3 app.py | jq .verdict

    What differs from a service: COMMAND runs as you, here, in your environment (systemd starts it in / with next to
    nothing), outside any sandbox and cgroup; a timer of systemd's may strike up to 0.25 s later.
    """
    settings = Settings(
        type="exec" if kind == "simple" else kind,  # they differ in a start that fails
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
    played = Played(command, settings, {}, getattr(signal, f"SIG{signame.upper()}"), ())
    if unit_name is not None:
        played = _over(ctx, _of_unit(unit_name), played)
    if steps is not None and (_is_given(ctx, "signame") or _is_given(ctx, "after")):
        raise click.UsageError("--script says what comes and when: leave out --signal and --after")
    if not played.command:
        raise click.UsageError("give a command behind --, or a service by --unit")
    if svg is not None and not svg.parent.is_dir():
        raise click.BadParameter(f"there is no folder {str(svg.parent)!r} to write it into", param_hint="'--svg'")
    outcome = _run(played, _steps(steps, played.kill_signal, after), quiet=as_json)
    try:
        if as_json:
            click.echo(report.to_json(outcome))
        else:
            report.show(outcome, Console())
    except KeyboardInterrupt:  # not click's "Aborted!" and 1, which would mean that something was lost
        sys.exit(128 + signal.SIGINT)
    if svg is not None:
        from capbg.cli.rehearsal import picture  # half of what the command's start would take

        try:
            svg.write_text(picture.draw(outcome), encoding="utf-8")
        except OSError as error:
            _give_up(f"{svg} cannot be written: {error.strerror}")
    sys.exit(0 if outcome.passed else LOST)


def _give_up(text: str, status: int = UNUSABLE) -> NoReturn:
    click.echo(f"capbg rehearse: {text}", err=True)
    sys.exit(status)


def _steps(text: str | None, kill_signal: signal.Signals, after: float) -> tuple[script.Step, ...]:
    if text is None:
        if after == float("inf"):
            raise click.BadParameter("the signal has to come some time: write 90 or 0.5", param_hint="'--after'")
        return script.of_signal(kill_signal, after)
    try:
        return script.parse(text)
    except script.ScriptError as error:
        raise click.BadParameter(str(error), param_hint="'--script'") from None


def _of_unit(name: str) -> Played:
    try:
        found = play(load(name))
    except UnitFileError as error:
        _give_up(str(error))
    if found.not_played:
        click.echo(f"capbg rehearse: not played of {name}: {', '.join(found.not_played)}", err=True)
    return found


def _is_given(ctx: click.Context, parameter: str) -> bool:
    return ctx.get_parameter_source(parameter) is ParameterSource.COMMANDLINE


def _over(ctx: click.Context, unit: Played, given: Played) -> Played:
    """The unit, and over it what was given on the command line."""
    changes = {field: getattr(given.settings, field) for field, option in _OPTIONS.items() if _is_given(ctx, option)}
    return replace(
        unit,
        command=given.command or unit.command,
        settings=replace(unit.settings, **changes),
        kill_signal=given.kill_signal if _is_given(ctx, "signame") else unit.kill_signal,
    )


def _run(played: Played, steps: tuple[script.Step, ...], *, quiet: bool) -> Report:
    console = Console()
    start = functools.partial(Rehearsal, played.command, played.settings, steps, environ=played.environ)
    try:
        if quiet:
            return start(heard=_nothing).run()
        if console.is_terminal and not console.is_dumb_terminal:
            with Screen(console) as screen:
                return start(heard=_nothing, look=screen.show).run()
        return start(heard=lines.Lines(click.echo, encoding=console.encoding).entry).run()
    except CannotStartError as error:
        _give_up(str(error))
    except InterruptedRehearsalError as error:
        _give_up(str(error), 128 + error.signum)


def _nothing(entry: Entry, began_ns: int) -> None:
    """The report tells it."""
