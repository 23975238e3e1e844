"""`capbg check`: each fault in a unit is found on its line, by its name, and nothing else is."""

import json
import os
import pty
import re
import shutil
import subprocess
import sys
import tempfile
import termios
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capbg.cli.units.findings import Finding, Level
from capbg.cli.units.load import load
from capbg.cli.units.rules import check_unit
from capbg.cli.units.rules.syscalls import GROUPS, NICE, PURPOSES
from capbg.cli.units.rules.wrappers import script_wrapper, wrapper

from .test_check_pid import as_other_user
from .test_unit_files import systemd, write

SHIPPED = Path(__file__).resolve().parents[2] / "systemd"
ERROR, WARNING, NOTE = Level.ERROR, Level.WARNING, Level.NOTE
PATIENCE_S = 60.0
"""How long a program may take; it only matters when it fails."""

GOOD = """\
[Unit]
Description=nothing is wrong with it
After=network.target
[Service]
Type=notify
NotifyAccess=main
ExecStart=/bin/sleep 5
KillMode=mixed
Environment=CAPBG_GRACE=180
TimeoutStopSec=192
WatchdogSec=60
Restart=on-failure
RestartSec=5
SuccessExitStatus=75
OOMPolicy=continue
"""


def changed(*lines: str) -> str:
    """The good unit, in which these lines take the place of those with the same key, or stand at its end.

    ``KEY`` alone takes a setting out; what begins with ``+`` is added to what is there; ``[Unit]KEY=`` goes to [Unit].
    """
    text, added = GOOD, ""
    for line in lines:
        key = line.lstrip("+").partition("=")[0]
        if line.startswith("[Unit]"):
            text = text.replace("[Unit]\n", f"[Unit]\n{line.removeprefix('[Unit]')}\n")
            continue
        if not line.startswith("+"):
            text = re.sub(rf"^{re.escape(key)}=.*\n", "", text, flags=re.MULTILINE)
        if "=" in line:
            added += line.lstrip("+") + "\n"
    return text + added


def found(folder: Path, text: str, *, plain: bool = False) -> list[Finding]:
    """What is found in a service with this text."""
    return check_unit(load(write(folder / "it.service", text)), plain=plain)


def named(findings: list[Finding]) -> list[tuple[str, Level]]:
    """Rules and levels, in the order of their names."""
    return sorted(((each.rule, each.level) for each in findings), key=lambda each: (each[0], each[1].value))


FAULTS: list[tuple[str, list[tuple[str, Level]]]] = [
    # notify
    ("Type=simple", [("type", WARNING), ("watchdog", WARNING)]),
    ("Type", [("type", WARNING), ("watchdog", WARNING)]),
    ("Type=exec", [("type", WARNING), ("watchdog", WARNING)]),
    ("Type=forking", [("main-pid", NOTE), ("type", ERROR)]),
    ("Type=oneshot", [("type", WARNING)]),
    ("Type=dbus", [("refused", ERROR), ("type", WARNING)]),
    ("Type=dbus\nBusName=a.b", [("type", WARNING)]),
    ("Type=oneshot\nRestart=always", [("refused", ERROR), ("type", WARNING)]),
    ("Type=notify-reload", [("reload", WARNING)]),
    ("NotifyAccess=all", [("notify-access", WARNING)]),
    ("PIDFile=/run/it.pid", [("main-pid", WARNING)]),
    ("WatchdogSec=500ms", [("watchdog", WARNING)]),
    ("WatchdogSignal=SIGKILL", [("watchdog-signal", NOTE)]),
    # stop
    ("KillMode", [("kill-mode", WARNING)]),
    ("KillMode=control-group", [("kill-mode", WARNING)]),
    ("KillMode=process", [("kill-mode", WARNING)]),
    ("KillMode=none", [("kill-mode", ERROR)]),
    ("TimeoutStopSec", [("stop-timeout", WARNING)]),
    ("TimeoutStopSec=191", [("stop-timeout", WARNING)]),
    ("+TimeoutSec=30", [("stop-timeout", WARNING)]),
    ("TimeoutStopSec=infinity", [("stop-timeout", WARNING)]),
    ("TimeoutStopSec=0", [("stop-timeout", WARNING)]),
    ("TimeoutStopSec=31min", [("stop-cap", WARNING)]),
    ("Environment=CAPBG_GRACE=181", [("stop-timeout", WARNING)]),
    ("Environment=CAPBG_GRACE=3min", [("grace", ERROR)]),
    ("Environment=CAPBG_GRACE=0", [("grace", ERROR)]),
    ("KillSignal=SIGQUIT", [("kill-signal", ERROR)]),
    ("KillSignal=SIGTSTP", [("kill-signal", ERROR)]),
    ("KillSignal=9", [("kill-signal", ERROR)]),
    ("RestartKillSignal=HUP", [("kill-signal", ERROR)]),
    ("FinalKillSignal=SIGQUIT", [("final-kill", WARNING)]),
    ("SendSIGKILL=off", [("final-kill", WARNING)]),
    ("SendSIGHUP=yes", [("send-sighup", ERROR)]),
    ("TimeoutStopFailureMode=abort", [("stop-failure-mode", NOTE)]),
    ("ExecStop=/bin/sh -c 'echo bye'", [("exec-stop", NOTE)]),
    ("ExecStop=/bin/sh -c 'kill -TERM $MAINPID'", [("exec-stop", WARNING)]),
    ("ExecStop=/bin/kill $MAINPID", [("exec-stop", WARNING)]),
    ("ExecStop=/bin/kill -s QUIT $MAINPID", [("exec-stop", ERROR)]),
    ("ExecStop=/bin/kill -9 $MAINPID", [("exec-stop-kills", ERROR)]),
    ("ExecStop=/usr/bin/pkill -f kiosk", [("exec-stop", WARNING), ("exec-stop-kills", WARNING)]),
    ("ExecReload=/bin/kill -HUP $MAINPID", [("reload", NOTE)]),
    ("ExecStop=/usr/bin/docker kill it", [("exec-stop", NOTE)]),
    ("ExecStop=/bin/sh -c 'docker kill -s KILL it; echo pkill'", [("exec-stop", NOTE)]),
    ("ExecStop=/bin/sh -c 'test -e /run/it && exec env A=1 /bin/kill -KILL $MAINPID'", [("exec-stop-kills", ERROR)]),
    ("ExecStop=/bin/kill -0 $MAINPID", [("exec-stop", NOTE)]),
    # missing
    ("User=no-such-user", [("not-found", NOTE)]),
    ("User=4294967000", [("not-found", NOTE)]),
    ("User=no-such-user\nDynamicUser=yes", []),
    ("User=nobody\nGroup=0", []),
    ("Group=no-such-group", [("not-found", NOTE)]),
    ("SupplementaryGroups=root no-such-group\nDynamicUser=yes", [("not-found", NOTE)]),
    ("EnvironmentFile=/nowhere/it.env", [("not-found", NOTE)]),
    ("EnvironmentFile=-/nowhere/it.env", []),
    ("EnvironmentFile=/nowhere/*.env", [("not-found", NOTE)]),
    ("EnvironmentFile=/etc/*ass*", []),
    ("EnvironmentFile=/etc", [("not-found", NOTE)]),
    ("WorkingDirectory=/nowhere", [("not-found", NOTE)]),
    ("WorkingDirectory=-/nowhere", []),
    ("WorkingDirectory=~", []),
    ("WorkingDirectory=/etc/passwd", [("not-found", NOTE)]),
    ("WorkingDirectory=%S/no-such-dir\nStateDirectory=no-such-dir/deep:link", []),
    ("WorkingDirectory=/nowhere\nRootDirectory=/srv", []),
    # outcome
    ("SuccessExitStatus", [("success-status", NOTE)]),
    ("SuccessExitStatus=TEMPFAIL", []),
    ("Restart", [("restart", NOTE), ("watchdog-restart", WARNING)]),
    ("RestartSec", [("start-limit", NOTE)]),
    ("RestartForceExitStatus=75", [("restart-force", NOTE)]),
    ("RuntimeMaxSec=1d", [("runtime-max", WARNING)]),
    ("OOMPolicy", [("oom-policy", WARNING)]),
    ("OOMPolicy=kill", [("oom-policy", WARNING)]),
    ("OOMPolicy\nDelegate=yes", []),
    ("RestartSec\nStartLimitInterval=0", []),
    ("RemainAfterExit=yes", [("remain-after-exit", WARNING)]),
    ("ExitType=cgroup", [("exit-type", WARNING)]),
    # command
    ("ExecStart", [("exec-start", ERROR)]),
    ("ExecStart=bin/kiosk", [("command-line", ERROR)]),
    ('ExecStart=/bin/sleep "5', [("command-line", ERROR)]),
    ("ExecStartPre=bin/kiosk", [("command-line", ERROR)]),
    ("ExecStartPre=-bin/kiosk", [("command-line", WARNING)]),
    ("ExecStart=-bin/kiosk", [("command-line", ERROR)]),
    ("+ExecStart=/bin/sleep 5", [("exec-start", ERROR)]),
    ("ExecStart=/bin/sleep 5 # why", [("command-line", WARNING)]),
    ("ExecStart=/bin/sleep 5 >> /tmp/log", [("command-line", WARNING)]),
    ('ExecStart=/bin/grep -e "|" \'#\' "&&" \\x3e', []),
    ("ExecStart=-/bin/sleep 5", [("exec-start-minus", WARNING)]),
    ("ExecStart=/nowhere/kiosk", [("not-found", NOTE)]),
    ("ExecStart=/etc/passwd", [("not-found", NOTE)]),
    ("ExecStart=no-such-program-anywhere", [("not-found", NOTE)]),
    ("ExecStart=no-such-program-anywhere\nExecSearchPath=/nowhere:/etc", [("not-found", NOTE)]),
    ("ExecStart=sleep 5", []),
    ("ExecStart=/usr/bin/env -u A python3 -u -W ignore it.py", [("relative-path", WARNING)]),
    ("ExecStart=/usr/bin/env python3 it.py\nWorkingDirectory=/srv", []),
    ("ExecStart=/usr/bin/env python3 -m http.server it.py", []),
    ("ExecStart=/bin/sh -c 'mkdir -p /run/it; /bin/sleep 5'", [("wrapper", ERROR)]),
    ("ExecStart=/bin/sh -c '/bin/sleep 5'", [("wrapper", ERROR)]),
    ("ExecStart=/bin/sh -c '/bin/sleep 5 &'\nType=forking\nPIDFile=/run/it.pid", [("type", ERROR)]),
    ("ExecStart=/bin/bash -c 'cd /; sleep 5'", [("wrapper", WARNING)]),
    ("ExecStart=/bin/sh -c 'mkdir -p /run/it && exec /bin/sleep 5'", []),
    ("ExecStart=/bin/sh -c 'exec timeout 9 /bin/sleep 5'", [("wrapper", ERROR)]),
    ("ExecStart=/usr/bin/env -i nice -n 5 timeout 9 sleep 5", [("wrapper", ERROR)]),
    ("ExecStart=/usr/bin/env A=1 nice -n 5 sleep 5", []),
    ("+Environment=A=1 B", [("environment", WARNING)]),
    # sandbox
    ("RestrictAddressFamilies=AF_INET AF_INET6", [("address-families", ERROR)]),
    ("RestrictAddressFamilies=none", [("address-families", ERROR)]),
    ("RestrictAddressFamilies=~AF_UNIX AF_PACKET", [("address-families", ERROR)]),
    ("RestrictAddressFamilies=AF_UNIX\nRestrictAddressFamilies=none", [("address-families", ERROR)]),
    ("RestrictAddressFamilies=AF_INET\nRestrictAddressFamilies=AF_UNIX", []),
    ("RestrictAddressFamilies=~AF_PACKET", []),
    ("WorkingDirectory=/home/kiosk\nProtectHome=yes", [("hidden", ERROR)]),
    ("WorkingDirectory=/home/no-such-user\nProtectHome=read-only", [("not-found", NOTE)]),
    ("WorkingDirectory=/home/kiosk\nProtectHome=tmpfs\nBindPaths=/home/kiosk", []),
    ("WorkingDirectory=/home/kiosk\nProtectHome=yes\nBindPaths=/srv/kiosk:/home/kiosk:rbind", []),
    ("WorkingDirectory=/home/it\nProtectHome=yes\nBindReadOnlyPaths=/home/%N", []),
    ("ExecStart=/bin/sleep --pid-file /tmp/it.pid /tmp/it.sock\nPrivateTmp=yes", []),
    ("ExecStart=/bin/sh -e /tmp/it\nPrivateTmp=yes", [("hidden", ERROR)]),
    ("WorkingDirectory=/var/tmp/kiosk\nDynamicUser=yes", [("hidden", ERROR)]),
    ("WorkingDirectory=/var/tmp\nDynamicUser=yes", []),
    ("WorkingDirectory=/home\nProtectHome=tmpfs", []),
    ("WorkingDirectory=/srv/kiosk\nInaccessiblePaths=-/srv", [("hidden", ERROR)]),
    ("NoExecPaths=/", [("not-executable", ERROR)]),
    ("ExecStart=/bin/su kiosk\nUser=nobody\nNoNewPrivileges=yes", [("privileges", ERROR), ("wrapper", ERROR)]),
    ("SystemCallFilter=@system-service\nSystemCallErrorNumber=EPERM", []),
    ("SystemCallFilter=@system-service", [("system-call-error", WARNING)]),
    ("SystemCallFilter=@system-service\nSystemCallErrorNumber=kill", [("system-call-error", WARNING)]),
    (
        "SystemCallFilter=@system-service\nSystemCallFilter=~@process\nSystemCallErrorNumber=EPERM",
        [("system-calls", ERROR)],
    ),
    ("SystemCallFilter=@basic-io @file-system\nSystemCallErrorNumber=EPERM", [("system-calls", ERROR)]),
    (
        "SystemCallFilter=@basic-io @file-system @io-event @network-io @process @signal @timer\n"
        "SystemCallFilter=ioctl setpgid setpriority\nSystemCallErrorNumber=EPERM",
        [],
    ),
    ("SystemCallFilter=~@timer\nSystemCallErrorNumber=EPERM", [("system-calls", ERROR)]),
    ("SystemCallFilter=~kill:EPERM\nSystemCallFilter=kill\nSystemCallErrorNumber=EPERM", []),
    ("SystemCallFilter=~@resources\nSystemCallErrorNumber=EPERM", [("system-calls", NOTE)]),
    ("SystemCallFilter=~@process\nSystemCallFilter=\nSystemCallErrorNumber=EPERM", []),
    # limits
    ("TasksMax=1", [("processes", ERROR)]),
    ("LimitNPROC=5", []),
    ("LimitNPROC=5\nUser=nobody", [("processes", WARNING)]),
    ("TasksMax=10%", []),
    ("LimitNOFILE=20", [("files", WARNING)]),
    ("LimitCPU=1h", [("cpu-limit", WARNING)]),
    ("LimitAS=100M", [("memory", WARNING)]),
    ("MemoryMax=20M", [("memory", WARNING)]),
    # order
    ("After", [("network", NOTE)]),
    ("After\nPrivateNetwork=yes", []),
    ("[Unit]After=network-online.target", [("network-online", NOTE)]),
    ("[Unit]DefaultDependencies=no", [("default-dependencies", WARNING)]),
    ("[Unit]JobTimeoutSec=10", [("job-timeout", NOTE)]),
    # what systemd ignores
    ("TimoutStopSec=192", [("unknown-setting", WARNING)]),
    ("[Unit]TimeoutStopSec=192", [("unknown-setting", WARNING)]),
    ("KillMode=mixed  # why", [("invalid-value", WARNING), ("kill-mode", WARNING)]),
    ("[Servcie]\nKillMode=mixed", [("kill-mode", WARNING), ("unknown-section", WARNING)]),
    ("no setting", [("syntax", WARNING)]),
]


@pytest.mark.parametrize(("change", "expected"), FAULTS, ids=[change.replace("\n", " ") for change, _ in FAULTS])
def test_each_fault_is_found_and_nothing_else(tmp_path: Path, change: str, expected: list[tuple[str, Level]]) -> None:
    """One change to a good unit: the rules that speak, and how loudly; a setting is told with its line."""
    lines = change.split("\n")
    text = GOOD + "no setting\n" if change == "no setting" else changed(*lines)
    if change.startswith("[Servcie]"):
        text = changed("KillMode") + change + "\n"
    findings = found(tmp_path, text)

    assert expected == named(findings)
    for finding in findings:
        if finding.line is not None:
            key = re.match(r"\w+", text.splitlines()[finding.line - 1])
            assert key, finding
            assert key[0] in finding.what + finding.why + "".join(lines), finding
        assert finding.why.endswith("."), finding
        assert finding.fix.endswith("."), finding


def test_the_good_unit_is_good(tmp_path: Path) -> None:
    """Nothing is found where nothing is wrong: every row above stands on this."""
    assert [] == found(tmp_path, GOOD)


@pytest.mark.parametrize("name", ["kiosk.service", "kiosk-hardened.service", "capbg@.service", "capbg@kiosk.service"])
def test_the_shipped_units_are_clean(name: str) -> None:
    """No error and no warning in what we tell people to copy, and at most two notes."""
    findings = check_unit(load(SHIPPED / name))

    assert [] == [each for each in findings if each.level is not NOTE]
    assert len(findings) <= 2


def test_a_program_without_capbg_is_spared_what_holds_for_capbg(tmp_path: Path) -> None:
    """With --plain: the shipped line, and a plain unit, are clean; what is wrong for every program is still found."""
    plain = "[Service]\nExecStart=/bin/sleep 5\n"

    assert [] == check_unit(load(SHIPPED / "kiosk-line.service"), plain=True)
    assert [] == found(tmp_path, plain, plain=True)
    assert [("kill-mode", ERROR)] == named(found(tmp_path, plain + "KillMode=none\n", plain=True))
    assert [("invalid-value", WARNING)] == named(found(tmp_path, plain + "KillMode=mixt\n", plain=True))
    assert {"type", "kill-mode", "stop-timeout", "oom-policy"} < {each.rule for each in found(tmp_path, plain)}


def test_the_timeout_is_judged_by_what_can_extend_it(tmp_path: Path) -> None:
    """Too short with a notify socket is a warning that names daemon-reload; without one it is an error."""
    (extended,) = found(tmp_path, changed("TimeoutStopSec=30"))
    fixed = next(
        each
        for each in found(tmp_path, changed("TimeoutStopSec=30", "Type", "NotifyAccess", "WatchdogSec"))
        if each.rule == "stop-timeout"
    )

    (never,) = found(tmp_path, changed("TimeoutStopSec=0"))

    assert (WARNING, ERROR) == (extended.level, fixed.level)
    assert never.why.startswith("Nothing ever ends a stop that hangs")
    assert "daemon-reload" in extended.why
    assert "after 30 s everything is killed" in fixed.why
    assert "Write TimeoutStopSec=192." == extended.fix == fixed.fix


def test_what_a_fix_says_is_what_mends_it(tmp_path: Path) -> None:
    """A time is written in digits that systemd reads, rounded up: the unit with it is clean."""
    for grace in ("1234567", "180.1234567", "0.5"):
        unit = changed(f"Environment=CAPBG_GRACE={grace}", "TimeoutStopSec=2")
        finding = next(each for each in found(tmp_path, unit) if each.rule == "stop-timeout")
        mended = unit.replace("TimeoutStopSec=2", re.findall(r"TimeoutStopSec=[^ ]*\d", finding.fix)[0])

        assert [] == [each for each in found(tmp_path, mended) if each.rule == "stop-timeout"]

    (endless,) = check_unit(load(write(tmp_path / "it.service", changed("TimeoutStopSec=infinity")), user=True))
    assert "Write the longest time that a stop may take: TimeoutStopSec=192." == endless.fix


def test_a_signal_that_does_nothing_is_not_said_to_kill(tmp_path: Path) -> None:
    """signal(7): some end a program that does not handle them, others are ignored, and the stop waits in vain."""
    (ends,), (ignored,) = (found(tmp_path, changed(f"KillSignal={each}")) for each in ("SIGQUIT", "SIGWINCH"))

    assert "it ends on the spot" in ends.why
    assert "systemd waits until the timeout" in ignored.why


def test_the_grace_is_taken_from_wherever_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file wins over Environment=; a variable that may come from elsewhere is not guessed at."""
    monkeypatch.setenv("SYSTEMD_UNIT_PATH", str(tmp_path))
    defaults = write(tmp_path / "defaults", "# the grace\nCAPBG_GRACE='600'\n")
    told = {
        "a file": found(tmp_path, changed(f"EnvironmentFile=-{defaults}")),
        "no file": found(tmp_path, changed("EnvironmentFile=-/nowhere", "Environment", "TimeoutStopSec=30")),
        "passed": found(tmp_path, changed("PassEnvironment=CAPBG_GRACE", "Environment", "TimeoutStopSec=30")),
        "unset": found(tmp_path, changed("+UnsetEnvironment=CAPBG_GRACE", "Environment=CAPBG_GRACE=600")),
    }

    assert {"a file": ["stop-timeout"], "no file": [], "passed": [], "unset": []} == {
        name: [each.rule for each in findings] for name, findings in told.items()
    }
    assert "Write TimeoutStopSec=612." == told["a file"][0].fix


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
def test_a_file_that_is_closed_to_us_may_hold_the_grace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """EnvironmentFile= often holds secrets: what is in one that only root may read is not guessed at."""
    monkeypatch.setenv("SYSTEMD_UNIT_PATH", str(tmp_path))
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        secrets = write(Path(folder) / "secrets", "CAPBG_GRACE=8\n")
        secrets.chmod(0o600)
        lines = (f"EnvironmentFile={secrets}", "Environment", "TimeoutStopSec=30")
        unit = load(write(tmp_path / "it.service", changed(*lines)))

        told = as_other_user(lambda: [os.path.isfile(secrets), [each.rule for each in check_unit(unit)]])

    assert [True, []] == told


def test_a_users_service_ends_with_its_manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond 120 s a user's own service, also known by where it lies, is killed with user@.service; others are not."""
    path = write(tmp_path / "it.service", GOOD)
    own = write(tmp_path / "systemd/user/it.service", GOOD)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("SYSTEMD_UNIT_PATH", raising=False)

    assert [("stop-cap", WARNING)] == named(check_unit(load(path, user=True)))
    assert [("stop-cap", WARNING)] == named(check_unit(load(own)))
    assert [] == check_unit(load(path))


def test_a_drop_in_is_told_where_it_stands(tmp_path: Path) -> None:
    """What a drop-in breaks is told with its file and line; what it mends is not told."""
    drop_in = write(tmp_path / "it.service.d/bad.conf", "[Service]\n# why\nKillMode=none\nTimeoutStopSec=192\n")
    (finding,) = found(tmp_path, changed("TimeoutStopSec"))

    assert (str(drop_in), 3, "KillMode=none") == (finding.where, finding.line, finding.what)


def test_a_masked_unit_is_one_note(tmp_path: Path) -> None:
    """Nothing of it can be wrong, for nothing of it runs."""
    (tmp_path / "it.service").symlink_to("/dev/null")

    assert [("masked", NOTE)] == named(check_unit(load(tmp_path / "it.service")))


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("User=no-such-user", "217/USER"),
        ("Group=no-such-group", "216/GROUP"),
        ("EnvironmentFile=/nowhere/it.env", "Result=resources"),
        ("WorkingDirectory=/nowhere", "200/CHDIR"),
    ],
)
def test_an_installed_unit_is_warned_of_what_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, status: str
) -> None:
    """Also without capbg; what lies in /run may come in time, and is a note."""
    monkeypatch.setenv("SYSTEMD_UNIT_PATH", str(tmp_path))
    (plain,) = found(tmp_path, changed(line), plain=True)
    (finding,) = found(tmp_path, changed(line))
    later = found(tmp_path, changed(line.replace("/nowhere", "/run/no-such-dir")))

    assert ("not-found", WARNING, "not-found", WARNING) == (finding.rule, finding.level, plain.rule, plain.level)
    assert status in finding.why
    assert [("not-found", NOTE if "/nowhere" in line else WARNING)] == named(later)


TARGET = "[Unit]\nJobTimeoutSec=30min\nJobTimeoutAction=poweroff-force\n"


def test_a_cap_that_this_machine_has_raised_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The drop-ins that `stop-cap` asks for silence it, both targets' and no sooner; so does that of user@.service."""
    monkeypatch.setenv("SYSTEMD_UNIT_PATH", str(tmp_path))
    for name in ("poweroff.target", "reboot.target"):
        write(tmp_path / name, TARGET)
    write(tmp_path / "user@.service", "[Service]\nExecStart=/bin/true\nTimeoutStopSec=120s\n")
    path = write(tmp_path / "it.service", changed("TimeoutStopSec=31min"))

    assert [("stop-cap", WARNING)] == named(check_unit(load(path)))
    write(tmp_path / "poweroff.target.d/long.conf", "[Unit]\nJobTimeoutSec=1h\n")
    assert [("stop-cap", WARNING)] == named(check_unit(load(path)))
    write(tmp_path / "reboot.target.d/long.conf", "[Unit]\nJobTimeoutSec=31min\n")
    assert [] == named(check_unit(load(path)))

    (finding,) = check_unit(load(path, user=True))
    assert "its own 120 s" in finding.why
    (wanted,) = re.findall(r"TimeoutStopSec=\d+", finding.fix)
    write(tmp_path / "user@.service.d/long.conf", f"[Service]\n{wanted}\n")
    assert [] == check_unit(load(path, user=True))


def test_the_machines_own_default_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DefaultTimeoutStopSec= holds for what is installed and sets none itself; what is no time is passed over."""
    system, user = tmp_path / "systemd/system", tmp_path / "systemd/user"
    monkeypatch.setenv("SYSTEMD_UNIT_PATH", f"{system}:{user}")
    path, own = (write(folder / "it.service", changed("TimeoutStopSec")) for folder in (system, user))
    (before,) = check_unit(load(path))
    write(tmp_path / "systemd/system.conf", "[Manager]\nDefaultTimeoutStopSec=5min\n")
    drop_in = write(tmp_path / "systemd/system.conf.d/a.conf", "[Manager]\nDefaultTimeoutStopSec=1min 40s\n")
    write(tmp_path / "systemd/system.conf.d/b.conf", "[Manager]\nDefaultTimeoutStopSec=\nDefaultTimeoutStopSec=soon\n")
    write(tmp_path / "systemd/user.conf", "[Manager]\nDefaultTimeoutStopSec=infinity\n")
    elsewhere = write(tmp_path / "it.service", changed("TimeoutStopSec"))
    (short,), (endless,), (other,) = (check_unit(load(each, user=each == own)) for each in (path, own, elsewhere))

    assert "no TimeoutStopSec=: systemd's default holds, 90 s" == before.what == other.what
    assert f"no TimeoutStopSec=: DefaultTimeoutStopSec=1min 40s of {drop_in} holds" == short.what
    assert "Nothing ever ends a stop that hangs" in endless.why
    write(drop_in, "[Manager]\nDefaultTimeoutStopSec=192\n")
    assert [] == check_unit(load(path))


def test_a_users_unit_is_known_wherever_it_lies(tmp_path: Path) -> None:
    """What `capbg unit --user` writes is wanted by default.target alone: it is spared advice for the system's."""
    command = [sys.executable, "-m", "capbg.cli", "unit", "--user", "--name", "it", "--", "/bin/sleep", "5"]
    text = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=True).stdout

    assert ["success-status"] == [each.rule for each in found(tmp_path, text)]
    assert "network" in [each.rule for each in found(tmp_path, text + "User=nobody\n[Service]\nUser=nobody\n")]
    assert not load(write(tmp_path / "it.service", changed("[Unit]Wants=multi-user.target"))).user


KEYS = sorted(
    {line.lstrip("+").partition("=")[0] for change, _ in FAULTS for line in change.split("\n")}
    - {"no setting", "[Servcie]"}
)
STRANGE = ["", "%", '"', "\\", "\\U0011ffff x", "-", "@", "@ x", ":", "5:3", "~", "~@process", "=x", "CAPBG_GRACE=nan"]
STRANGE += [
    "CAPBG_GRACE=1e400",
    'A="',
    "/bin/sh -c",
    '/bin/sh -c "| |"',
    '/bin/sh -c "exec"',
    "/bin/sh /etc/passwd",
    "1" * 400,
]
STRANGE += [
    "/usr/bin/env -u",
    "/usr/bin/env env",
    "/bin/kill -s",
    "/bin/kill -0 x",
    "RTMIN+30",
    "RTMIN+99",
    "SIGRTMAX-1",
]
VALUES = st.sampled_from(STRANGE) | st.sampled_from(
    [line.partition("=")[2] for change, _ in FAULTS for line in change.split("\n")]
)


LINES = st.builds("{}={}{}".format, st.sampled_from(KEYS), VALUES, st.sampled_from(["", "", " # why", "\\"]))


@settings(deadline=None, database=None)
@given(st.lists(LINES), st.booleans())
def test_no_unit_is_too_strange(lines: list[str], plain: bool) -> None:
    """Whatever stands in it: findings, and never an exception."""
    text = "\n".join([*(line for line in lines if line.startswith("[Unit]")), "[Service]", *lines])
    with tempfile.TemporaryDirectory() as folder:
        for finding in found(Path(folder), text.replace("[Unit]", "[Unit]\n"), plain=plain):
            assert finding.what
            assert finding.rule


# ------------------------------------------------------------------------------------------------ wrappers


WRITES_ITS_PID = 'import os, sys; open(sys.argv[1], "w").write(str(os.getpid()))'
WRAPPED: list[list[str]] = [
    ["{}"],
    ["sh", "-c", "{}; true"],
    ["sh", "-c", "exec {}"],
    ["dash", "-c", "true && exec {}"],
    ["bash", "-c", "exec {}"],
    ["bash", "-c", "{} | cat"],
    ["env", "A=1", "{}"],
    ["env", "-u", "A", "nice", "-n", "1", "{}"],
    ["nohup", "{}"],
    ["stdbuf", "-o", "L", "{}"],
    ["setpriv", "--nnp", "{}"],
    ["ionice", "-c", "3", "{}"],
    ["taskset", "-c", "0", "{}"],
    ["prlimit", "{}"],
    ["timeout", "60", "{}"],
    ["flock", "{lock}", "{}"],
    ["xargs", "-a", "/dev/null", "{}"],
]


@pytest.mark.parametrize("command", WRAPPED, ids=[" ".join(each) for each in WRAPPED])
def test_what_stays_in_between_is_known(tmp_path: Path, command: list[str]) -> None:
    """The program is the very process that was started, or is not: as the table of wrappers has it."""
    if command[0] != "{}" and not shutil.which(command[0]):
        pytest.skip(f"no {command[0]} here")
    told = tmp_path / "pid"
    program = write(
        tmp_path / "program", f"#!{sys.executable}\n{WRITES_ITS_PID.replace('sys.argv[1]', repr(str(told)))}\n"
    )
    program.chmod(0o755)
    argv = [word.replace("{lock}", str(tmp_path / "lock")).replace("{}", str(program)) for word in command]
    with subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        process.wait(PATIENCE_S)

    assert (int(told.read_text()) == process.pid) == (wrapper(tuple(argv)) is None)


@pytest.mark.parametrize(
    ("script", "stays"),
    [
        ("cd /srv\nexec python3 app.py\n", False),
        ("if [ -e x ]; then\n  exec a\nelse\n  exec b\nfi\n", False),
        ("cd /srv\npython3 app.py\n", True),
        ("exec >/var/log/it 2>&1\npython3 app.py\n", True),
        ("# exec python3 app.py\npython3 app.py\n", True),
        ("echo exec; python3 app.py \\\n  --exec\n", True),
        ("trap 'kill $child' TERM\npython3 app.py &\nchild=$!\nwait\n", True),
    ],
)
def test_a_script_is_read(tmp_path: Path, script: str, stays: bool) -> None:
    """A shell script that ExecStart= names is looked into: one that ends in exec is as good as the program."""
    path = write(tmp_path / "start", f"#!/bin/sh\n{script}")
    path.chmod(0o755)

    assert stays == (script_wrapper("start", script) is not None)
    assert stays == ("wrapper" in {each.rule for each in found(tmp_path, changed(f"ExecStart={path}"))})


@pytest.mark.parametrize("argv", ["poetry run python app.py", "uv sync", "docker ps", "python3 app.py", "nginx -g x"])
def test_what_does_not_stay_is_let_alone(argv: str) -> None:
    """poetry becomes the program, some commands of a runner run nothing, and most programs are no wrapper."""
    assert wrapper(tuple(argv.split())) is None


# ------------------------------------------------------------------------------------------------ system calls


def test_the_groups_of_system_calls_are_systemds() -> None:
    """Of the calls that are needed, each group contains what `systemd-analyze syscall-filter` tells, no more."""
    listing = systemd("systemd-analyze", "syscall-filter").stdout
    members: dict[str, set[str]] = {}
    group = ""
    for line in listing.splitlines():
        if line.startswith("@"):
            group = line.strip()
        elif line.strip() and not line.strip().startswith("#"):
            members.setdefault(group, set()).add(line.strip())

    def calls(name: str) -> set[str]:
        return {call for each in members[name] for call in (calls(each) if each.startswith("@") else {each})}

    needed = {*PURPOSES, NICE}
    theirs = {name: calls(name) & needed for name in members if name != "@known"}
    assert {name: found for name, found in theirs.items() if found} == GROUPS


# ------------------------------------------------------------------------------------------------ the command


def check(*arguments: str, cwd: Path, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run ``capbg check`` on a pipe."""
    return subprocess.run(
        [sys.executable, "-m", "capbg.cli", "check", *arguments],
        cwd=cwd,
        env={**os.environ, "COLUMNS": "80", **(env or {})},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def on_a_terminal(*arguments: str, cwd: Path, env: Mapping[str, str] | None = None) -> str:
    """Run ``capbg check`` on a terminal of 80 columns, and return all that it has written there."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    kept = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "NO_COLOR", "FORCE_COLOR"}}
    written = b""
    with subprocess.Popen(
        [sys.executable, "-m", "capbg.cli", "check", *arguments],
        cwd=cwd,
        env={**kept, "TERM": "xterm-256color", **(env or {})},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ):
        os.close(theirs)
        try:
            while block := os.read(ours, 65536):
                written += block
        except OSError:  # EIO: the other side is closed
            pass
        finally:
            os.close(ours)
    return written.decode()


BROKEN = changed("KillMode=none", "RestrictAddressFamilies=AF_INET AF_INET6", "OOMPolicy", "SuccessExitStatus")


def test_a_pipe_gets_plain_lines(tmp_path: Path) -> None:
    """One line is one line, without colours: where, level, what, rule; then why, then the fix; last a count."""
    write(tmp_path / "it.service", BROKEN)
    write(tmp_path / "it.service.d/more.conf", "[Service]\nSendSIGHUP=yes\n")
    done = check("it.service", cwd=tmp_path)
    lines = done.stdout.splitlines()
    number = BROKEN.splitlines().index("KillMode=none") + 1

    assert (1, "") == (done.returncode, done.stderr)
    assert "\x1b" not in done.stdout
    at = lines.index(f"it.service:{number}: error: KillMode=none [kill-mode]")
    assert lines[at + 1].startswith("    A stop signals nobody")
    assert lines[at + 2] == "    fix: Write KillMode=mixed."
    assert "it.service.d/more.conf:2: error: SendSIGHUP=yes [send-sighup]" in lines
    assert "it.service: warning: no OOMPolicy=: stop holds [oom-policy]" in lines
    assert "3 errors, 1 warning, 1 note in it.service and 1 drop-in" == lines[-2]
    assert "3 of these hold only for programs that use capbg; for others: --plain" == lines[-1]


def test_a_terminal_gets_its_width_and_colours(tmp_path: Path) -> None:
    """Nothing is wider than the terminal; colours carry meaning, are none of the pale ones, and NO_COLOR is heard."""
    write(tmp_path / "it.service", BROKEN)
    coloured = on_a_terminal("it.service", cwd=tmp_path)
    bare = on_a_terminal("it.service", cwd=tmp_path, env={"NO_COLOR": "1"})
    plain = re.sub(r"\x1b\[[0-9;]*m", "", coloured)
    codes = {code for each in re.findall(r"\x1b\[([0-9;]*)m", coloured) for code in each.split(";")}

    assert {"1", "31", "35"} <= codes <= {"0", "1", "31", "35"}
    assert not {"31", "35"} & {code for each in re.findall(r"\x1b\[([0-9;]*)m", bare) for code in each.split(";")}
    assert re.sub(r"\x1b\[[0-9;]*m", "", bare) == plain
    assert 60 < max(map(len, plain.splitlines())) <= 80
    assert "    fix: Write KillMode=mixed." in plain.splitlines()
    assert not [line for line in plain.splitlines() if line.endswith(" ")]


def test_nothing_in_a_unit_moves_the_cursor(tmp_path: Path) -> None:
    """Escape sequences in values and names are shown, not obeyed."""
    write(tmp_path / "it\x1b[2J.service", changed("KillMode=\x1b[31mnone\a"))
    done = check("it\x1b[2J.service", "./gone\x1b[2J.service", cwd=tmp_path)

    assert 2 == done.returncode
    assert "KillMode=\\x1b[31mnone\\x07 [invalid-value]" in done.stdout
    assert not [char for char in done.stdout + done.stderr if not char.isprintable() and char != "\n"]


def test_scripts_get_one_document(tmp_path: Path) -> None:
    """--json: every field of every finding, what was looked at, what could not be read; the same exit status."""
    write(tmp_path / "it.service", BROKEN)
    done = check("--json", "it.service", "gone.service", "./gone.service", cwd=tmp_path)
    told = json.loads(done.stdout)
    first = told["checked"][0]["findings"][0]

    assert 2 == done.returncode
    assert ["it.service"] == [each["name"] for each in told["checked"]]
    assert ["it.service"] == told["checked"][0]["files"]
    assert {"level", "rule", "where", "line", "what", "why", "fix"} == first.keys()
    assert {"error", "warning", "note"} == {each["level"] for each in told["checked"][0]["findings"]}
    assert 2 == len(told["unread"])


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["good.service"], 0, "nothing found: good.service, by "),
        (["warning.service"], 1, "1 warning in warning.service"),
        (["good.service", "gone.service"], 2, "capbg check: no gone.service in "),
        (["./it.socket"], 2, "capbg check: it.socket is a socket: only services"),
        ([], 2, "Error: name a unit file, an installed service, or --pid PID"),
        (["--pid", "0"], 2, "capbg check: 0 is no process"),
        (["--help"], 0, "Exit status:\n    0  nothing worse than a note\n"),
    ],
)
def test_the_exit_status_tells_the_worst(tmp_path: Path, arguments: list[str], status: int, said: str) -> None:
    """0: a note at most; 1: a warning or an error; 2: something could not be read, said in a sentence."""
    write(tmp_path / "good.service", GOOD)
    write(tmp_path / "warning.service", changed("KillMode"))
    write(tmp_path / "it.socket", "[Socket]\n")
    done = check(*arguments, cwd=tmp_path, env={"SYSTEMD_UNIT_PATH": str(tmp_path / "installed")})

    assert status == done.returncode, done
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_running_process_is_looked_at(tmp_path: Path) -> None:
    """--pid leads to what is said of a process, in the same words and with the same exit status."""
    done = check("--json", "--pid", str(os.getpid()), cwd=tmp_path)
    told = json.loads(done.stdout)

    assert [f"process {os.getpid()}"] == [each["name"] for each in told["checked"]]
    assert done.returncode in {0, 1}


def test_the_distributions_services_are_no_trouble() -> None:
    """Every service that this machine has installed is read without a traceback, and few are found fault with."""
    units = sorted(Path("/usr/lib/systemd/system").glob("*.service"))
    if len(units) < 20:
        pytest.skip("hardly any services here")
    findings = [each for unit in units for each in check_unit(load(unit), plain=True)]
    loud = [each for each in findings if each.level is not NOTE and each.rule not in {"masked", "not-found"}]

    assert len(loud) <= len(units) // 20, loud
