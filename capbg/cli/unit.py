"""``capbg unit``: its options and words."""

import os
import sys
from pathlib import Path

import click

from capbg._core import budget
from capbg.errors import CapbgError

from .units import values, write
from .units.command import look_up

_EPILOG = """\b
Install what it writes, as root:
  capbg unit --name kiosk -- /opt/kiosk/venv/bin/python /opt/kiosk/kiosk.py \\
      > /etc/systemd/system/kiosk.service
  systemctl daemon-reload
  systemctl enable --now kiosk

\b
Or for yourself alone:
  mkdir -p ~/.config/systemd/user
  capbg unit --user --name kiosk -- python kiosk.py \\
      > ~/.config/systemd/user/kiosk.service
  systemctl --user daemon-reload
  systemctl --user enable --now kiosk
  loginctl enable-linger       # to run from boot on, and beyond your logout

\b
Look at it, and try a stop before it happens:
  capbg check kiosk.service
  capbg rehearse -- python kiosk.py

\b
Exit status:
  0  the unit is written
  2  it cannot be written so; the reason is on standard error
"""


def _seconds(context: click.Context, parameter: click.Parameter, given: str | None) -> float | None:
    """A time as systemd writes it, above zero and at most a year."""
    if given is None:
        return None
    try:
        return budget.seconds(values.span(given), "it")
    except ValueError:
        raise click.BadParameter(
            f"{given!r} is no time above zero and up to a year: write seconds, such as 180, or 3min",
            ctx=context,
            param=parameter,
        ) from None


@click.command(epilog=_EPILOG)
@click.option("--name", required=True, metavar="N", help="The service's name: letters, digits and . _ -")
@click.option("--description", metavar="TEXT", help="What it is, in a few words, for `systemctl status`.")
@click.option(
    "--grace",
    callback=_seconds,
    metavar="S",
    help="How long its tasks may take after a stop, in seconds; 180 unless given, with --user 108. TimeoutStopSec= "
    "becomes 12 s more.",
)
@click.option(
    "--watchdog",
    callback=_seconds,
    metavar="S",
    help="Restart it after so many seconds without a sign of life. Only for a program that calls heartbeat() or pump() "
    "at least twice in that time.",
)
@click.option(
    "--hardened",
    is_flag=True,
    help="Lock it in: a read-only system, no devices, few system calls. It keeps its network and /var/lib/N.",
)
@click.option("--user", is_flag=True, help="For a user's own systemd (`systemctl --user`) and not for the machine's.")
@click.option("-o", "--output", metavar="FILE", type=click.Path(path_type=Path), help="Write it there.")
@click.option("--force", is_flag=True, help="With -o: write over a file that is there.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, required=True)
def unit(
    *,
    name: str,
    description: str | None,
    grace: float | None,
    watchdog: float | None,
    hardened: bool,
    user: bool,
    output: Path | None,
    force: bool,
    command: tuple[str, ...],
) -> None:
    """Write a systemd unit for COMMAND, a program that uses capbg.

    systemd then waits for its tasks at every stop, restart and shutdown. Each setting has a comment that says why. The
    unit passes `capbg check` and `systemd-analyze verify`; it goes to standard output, what to know about it to
    standard error.

    COMMAND is written as in a shell: the program is looked up in your PATH, and its arguments that are names of files
    are made absolute, since systemd starts in /. Write -- in front of it. The program has to send READY=1, which an
    entered capbg.App does; without that its start fails after 90 s.
    """
    try:
        bare = write.service_name(name)
        wish = write.Wish(
            name=bare,
            command=look_up(command, folder=_here(), search=os.environ.get("PATH", os.defpath)),
            description=write.description(f"{bare}, with a moment to finish" if description is None else description),
            grace_s=(write.USER_GRACE_S if user else write.DEFAULT_GRACE_S) if grace is None else grace,
            watchdog_s=watchdog,
            hardened=hardened,
            user=user,
        )
        written = write.write(wish)
        for old, new in wish.command.moved:
            click.echo(f"capbg unit: {old} became {new}: systemd starts in /", err=True)
        _put(written.text, output, force=force)
    except CapbgError as error:
        click.echo(f"capbg unit: {error}", err=True)
        sys.exit(2)
    for warning in written.warnings:
        click.echo(f"capbg unit: warning: {warning}", err=True)


def _here() -> Path:
    try:
        return Path.cwd()
    except OSError as error:
        raise write.UnusableError("the directory you are in is gone: change to another one") from error


def _put(text: str, output: Path | None, *, force: bool) -> None:
    if output is None:
        click.echo(text.encode(), nl=False)
        return
    if os.path.isdir(output):  # Path.is_dir() raises where a name is too long, or closed to us
        raise write.UnusableError(f"{output} is a directory: name a file in it")
    try:
        with output.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise write.UnusableError(f"{output} is there already: --force writes over it") from None
    except OSError as error:
        raise write.UnusableError(
            f"{output} cannot be written: {(error.strerror or 'no reason given').lower()}"
        ) from error
