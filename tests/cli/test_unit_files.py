"""Unit files are read as systemd reads them: by what the installed systemd itself says of the same files."""

import math
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from capbg.cli.units import values
from capbg.cli.units.load import Unit, UnitFileError, load
from capbg.cli.units.vocabulary import KNOWN

from .test_check_pid import as_other_user

SYSTEMD = next((path for path in ("/usr/lib/systemd/systemd", "/lib/systemd/systemd") if os.path.exists(path)), None)


def systemd(*command: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run one of systemd's tools; without it the test is skipped, or fails where it must not be."""
    if not SYSTEMD or not shutil.which("systemd-analyze"):
        if os.environ.get("CAPBG_REQUIRE_SYSTEMD") == "1":
            pytest.fail("CAPBG_REQUIRE_SYSTEMD=1, but there is no systemd-analyze", pytrace=False)
        pytest.skip("no systemd to compare with")
    program = SYSTEMD if command[0] == "systemd" else command[0]
    return subprocess.run([program, *command[1:]], capture_output=True, text=True, timeout=60, check=False, cwd=cwd)


def write(path: Path, content: str | bytes) -> Path:
    """Write a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def service(folder: Path, text: str | bytes) -> Unit:
    """Read a service with this text."""
    return load(write(folder / "it.service", text))


def values_of(unit: Unit, key: str, section: str = "Service") -> list[str]:
    """The values that hold."""
    return [each.value for each in unit.all(section, key)]


IGNORED = b"""\
\xef\xbb\xbf# A byte order mark makes a setting of a comment. What is before any section, or is none
Stray=1
[Unit]
Description=all that systemd logs and skips
TimeoutStopSec=5
[Servcie]
KillMode=mixed
[X-Own]
Anything=goes
[Service]
   Type=notify
X-Mine=1
no equals sign here
=value
KillMode=mixed  # why
KillMode = mixed
TimeoutStopSec=3min 12s
TimeoutStopSec=
TimeoutStopSec=abc
TimeoutStopSec=1h ; why
TimeoutStopSec=1.
TimeoutStopSec=5 S
TimeoutStopSec=1e3
TimeoutStopSec=Infinity
Restart=On-Failure
SendSIGKILL=maybe
KillSignal=SIGFOO
KillSignal=sigterm
KillSignal=0
KillSignal=RTMAX+1
KillSignal=
KillMode=
WatchdogSec=1 fortnight
ExecStart=/bin/sleep 5
TimoutStopSec=5
Type=notfy
NotifyAccess=
OOMPolicy=Continue
RestartSec=-1
TasksMax=1K
TasksMax=
TasksMax=50%
LimitNOFILE=20:10
LimitNOFILE=10:20
LimitCPU=x
MemoryMax=1GB
MemoryMax=1G
StartLimitIntervalSec=3
ProtectSystem=foo
ProtectHome=tmpfs
TimeoutStopFailureMode=foo
ExitType=foo
Description=in the wrong place
"""


def test_what_systemd_skips_is_found_on_its_line(tmp_path: Path) -> None:
    """The lines with a finding are those that `systemd-analyze verify` complains of, no more and no fewer."""
    path = write(tmp_path / "it.service", IGNORED)
    told = systemd("systemd-analyze", "verify", "--man=no", "./it.service", cwd=tmp_path).stderr
    theirs = {int(line) for line in re.findall(r"it\.service:(\d+): ", told)}

    # systemd complains of a section that it does not know, we of what is lost in it.
    assert len(theirs) > 25, told
    assert {7 if line == 6 else line for line in theirs} == {finding.line for finding in load(path).findings}


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"[Service]\nExecStart=/bin/sleep 5\n[Install\nWantedBy=multi-user.target\n", 3),
        (b"[Unit]\nDescription=caf\xe9\n[Service]\nExecStart=/bin/sleep 5\n", 2),
    ],
)
def test_a_file_that_systemd_gives_up_is_told_in_a_sentence(tmp_path: Path, content: bytes, line: int) -> None:
    """A broken section header and a value that is not UTF-8 lose the whole unit, for systemd and for us."""
    write(tmp_path / "it.service", content)
    verified = systemd("systemd-analyze", "verify", "--man=no", "./it.service", cwd=tmp_path)
    with pytest.raises(UnitFileError, match=rf"it\.service:{line}: .*; systemd does not load the unit"):
        load(tmp_path / "it.service")

    assert verified.returncode != 0


def test_a_drop_in_that_systemd_gives_up_breaks_no_unit(tmp_path: Path) -> None:
    """What stands before the broken line holds; the rest, a dead link and a directory are told."""
    write(tmp_path / "it.service", "[Service]\nExecStart=/bin/true\n")
    folder = tmp_path / "it.service.d"
    write(folder / "1.conf", "[Service]\nKillMode=mixed\n[Install\n[Service]\nKillMode=none\n")
    (folder / "2.conf").symlink_to("nowhere")
    (folder / "3.conf").mkdir()
    write(folder / ".4.conf", "[Service]\nKillMode=none\n")
    unit = load(tmp_path / "it.service")

    assert ["mixed"] == values_of(unit, "KillMode")
    assert [
        ("1.conf", 3, "a section's name without its closing bracket: [Install"),
        ("2.conf", None, "a link that leads nowhere: nowhere"),
        ("3.conf", None, "no regular file"),
    ] == [(Path(each.where).name, each.line, each.what) for each in unit.findings]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
@pytest.mark.parametrize("closed", ["folder", "it.service", "it.service.d", "it.service.d/1.conf"])
def test_what_is_closed_to_us_is_no_absence(tmp_path: Path, closed: str) -> None:
    """A file, a drop-in or a directory that only root may read: never taken for one that is not there."""
    folder = tmp_path / "folder"
    write(folder / "it.service", "[Service]\nExecStart=/bin/true\n")
    write(folder / "it.service.d/1.conf", "[Service]\nKillMode=none\n")
    path = folder if closed == "folder" else folder / closed
    path.chmod(0)

    told = as_other_user(lambda: said_of("./it.service"), first=lambda: os.chdir(folder))

    assert isinstance(told, str)
    assert re.fullmatch(r".* cannot be read: permission denied; try it as root", told)


def said_of(name: str) -> str:
    """What keeps a unit from being read."""
    try:
        return f"it is read: {load(name)}"
    except UnitFileError as error:
        return str(error)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("Environment=A=1 \\\n# a comment inside\n   ; another\n  B=2\n", ["A=1    B=2"]),
        ("Environment=A=1 \\\n\nKillMode=mixed\n", ["A=1"]),
        ("Environment=A=1\\\\\nKillMode=mixed\n", ["A=1\\\\"]),
        ("Environment=A=1 \\", ["A=1"]),
        ("Environment=A=1\nEnvironment=B=2\n", ["A=1", "B=2"]),
        ("Environment=A=1\nEnvironment=\nEnvironment=B=2\n", ["B=2"]),
        ("Environment=A=1\r\nKillMode=mixed\r\n", ["A=1"]),
        ("Environment=A=1\0KillMode=mixed\n", ["A=1"]),
        ("  Environment \t=  A=1  \n", ["A=1"]),
    ],
)
def test_lines_are_joined_reset_and_trimmed(tmp_path: Path, written: str, read: list[str]) -> None:
    """Continuations, comments in them, repeated keys, resets, other line ends: the values are systemd's."""
    unit = service(tmp_path, f"[Service]\n{written}")

    assert read == values_of(unit, "Environment")
    assert ("KillMode=mixed" in written) == bool(unit.last("Service", "KillMode"))


def test_a_line_number_is_that_of_the_first_line(tmp_path: Path) -> None:
    """A continued value stands where it begins; a comment inside counts as a line."""
    unit = service(tmp_path, "[Service]\nExecStart=/bin/sleep \\\n# how long\n  5\nKillMode=mixed\n")

    assert [2, 5] == [setting.line for setting in unit.settings]


def test_the_last_valid_value_holds(tmp_path: Path) -> None:
    """An invalid value leaves the one before it; dependencies cannot be reset; a byte order mark is no part of it."""
    text = "\ufeff[Unit]\nAfter=a.service\nAfter=\nAfter=b.service\n[Service]\nKillMode=mixed\nKillMode=mixt\n"
    unit = service(tmp_path, text)

    assert ["mixed"] == values_of(unit, "KillMode")
    assert ["a.service", "b.service"] == values_of(unit, "After", "Unit")


@pytest.mark.parametrize("mask", ["empty", "link"])
def test_a_masked_unit_is_known(tmp_path: Path, mask: str) -> None:
    """An empty file and a link to /dev/null are both a mask."""
    if mask == "link":
        (tmp_path / "it.service").symlink_to("/dev/null")
    else:
        write(tmp_path / "it.service", "")

    assert load(tmp_path / "it.service").masked


def test_drop_ins_apply_by_their_names_over_all_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By file name; of two with one name the earlier directory's; a link to /dev/null takes one away."""
    early, late = tmp_path / "early", tmp_path / "late"
    monkeypatch.setenv("SYSTEMD_UNIT_PATH", f"{early}:{late}")
    write(late / "a-b@.service", "[Service]\nExecStart=/bin/sleep %i\nEnvironment=FROM=unit\n")
    for folder, where in (
        (early, "service.d/10-type.conf"),
        (late, "a-.service.d/20-prefix.conf"),
        (late, "a-b@.service.d/30-template.conf"),
        (early, "a-b@x.service.d/05-instance.conf"),
        (early, "a-b@.service.d/40-twice.conf"),
        (late, "a-b@x.service.d/40-twice.conf"),
        (late, "a-b@x.service.d/50-masked.conf"),
    ):
        write(folder / where, f"[Service]\nEnvironment=FROM={folder.name}/{where}\n")
    (early / "a-b@x.service.d/50-masked.conf").symlink_to("/dev/null")
    write(early / "a-b@x.service.d/60-no.txt", "[Service]\nEnvironment=FROM=no.conf\n")
    unit = load("a-b@x.service")

    assert [
        "unit",
        "early/a-b@x.service.d/05-instance.conf",
        "early/service.d/10-type.conf",
        "late/a-.service.d/20-prefix.conf",
        "late/a-b@.service.d/30-template.conf",
        "early/a-b@.service.d/40-twice.conf",
    ] == [value.removeprefix("FROM=") for value in values_of(unit, "Environment")]
    assert "50-masked.conf" not in [path.name for path in unit.drop_ins]
    assert "/bin/sleep x" == unit.expand(values_of(unit, "ExecStart")[0])


def test_a_file_elsewhere_gets_the_drop_ins_beside_it_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What this machine adds to a unit of that name is no part of a file in a checkout; by its name it is."""
    installed, checkout = tmp_path / "installed", tmp_path / "checkout"
    monkeypatch.setenv("SYSTEMD_UNIT_PATH", str(installed))
    for folder in (installed, checkout):
        write(folder / "it.service", "[Service]\nExecStart=/bin/true\n")
        write(folder / "it.service.d/own.conf", f"[Service]\nEnvironment=FROM={folder.name}\n")
    write(installed / "service.d/all.conf", "[Service]\nEnvironment=FROM=all\n")

    assert ["FROM=checkout"] == values_of(load(checkout / "it.service"), "Environment")
    assert ["FROM=all", "FROM=installed"] == values_of(load("it"), "Environment")
    assert ["FROM=all", "FROM=installed"] == values_of(load(installed / "it.service"), "Environment")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("./gone.service", "there is no file gone.service"),
        ("./gone@x.service", "there is no file gone@x.service and no gone@.service"),
        ("folder.service/", "folder.service is a directory: name the unit files in it"),
        ("./it.socket", "it.socket is a socket: only services"),
        ("./it", "it is no unit's name: only services"),
        ("folder.service", "folder.service is a directory: name the unit files in it, folder.service/"),
        ("./astray.service", "astray.service is a link that leads nowhere: nowhere"),
        ("astray.service", "astray.service is a link that leads nowhere: nowhere"),
        ("k", "no k.service in /.*; give a path if it is not installed"),
        ("it.automount", "it.automount is an automount: only services"),
        ("kioks", r"no kioks.service in /.*; did you mean kiosk.service\?"),
        ("nothing-like-it", "no nothing-like-it.service in /.*; give a path if it is not installed"),
    ],
)
def test_what_cannot_be_read_is_told_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, sentence: str
) -> None:
    """Each names the thing, and the way out where there is one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SYSTEMD_UNIT_PATH", str(tmp_path / "installed"))
    write(tmp_path / "installed/kiosk.service", "[Service]\n")
    write(tmp_path / "it.socket", "[Socket]\n")
    write(tmp_path / "it", "[Service]\n")
    (tmp_path / "folder.service").mkdir()
    (tmp_path / "astray.service").symlink_to("nowhere")
    with pytest.raises(UnitFileError, match=sentence):
        load(name)


def test_time_spans_are_systemds() -> None:
    """Each comes to the microseconds that `systemd-analyze timespan` tells."""
    spans = ["192", "3min 12s", "1.5h", ".5", "1 2", "1min3", "5min 20s 100ms", "2us", "1M 1m", "1w 2d", "+5", "1y"]
    told = systemd("systemd-analyze", "timespan", *spans).stdout
    theirs = [int(each) for each in re.findall(r"μs: (\d+)", told)]

    assert theirs == [round(values.span(each) * 1e6) for each in spans]
    assert math.inf == values.span("infinity")


@pytest.mark.parametrize(
    ("line", "argvs"),
    [
        ('/bin/sh -c "a ; b" ; /bin/true', [("/bin/sh", "-c", "a ; b"), ("/bin/true",)]),
        ("@/bin/true other \\; 'b c'\"d\"", [("/bin/true", ";", "b cd")]),
        ("-+/bin/echo \\x41 \\q \"it's\" ''", [("/bin/echo", "A", "\\q", "it's", "")]),
        ("sleep 5", [("sleep", "5")]),
        ('/bin/true ";" x', [("/bin/true", ";", "x")]),
        ("/bin/true a;b ;", [("/bin/true", "a;b")]),
    ],
)
def test_command_lines_are_split_as_systemd_does(line: str, argvs: list[tuple[str, ...]]) -> None:
    """Quotes, escapes, prefixes and several commands in a line: systemd.service(5), "Command lines"."""
    assert argvs == [command.argv for command in values.commands(line)]


@pytest.mark.parametrize("line", ["bin/sleep 5", '/bin/sleep "5', "/bin/ 5", "/bin/true a\\"])
def test_a_command_line_that_systemd_refuses_raises(line: str) -> None:
    """No absolute path, an open quote, a directory, a backslash at the end."""
    with pytest.raises(ValueError):
        values.commands(line)


def test_every_setting_of_the_installed_systemd_is_known() -> None:
    """No setting that it takes is called unknown; later versions may have more than the list."""
    version = int(systemd("systemd-analyze", "--version").stdout.split()[1])
    if version > 257:
        pytest.skip(f"systemd {version} is newer than the list")
    dump = systemd("systemd", "--dump-configuration-items").stdout
    theirs: dict[str, set[str]] = {}
    section = ""
    for line in dump.splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif "=" in line:
            theirs.setdefault(section, set()).add(line.partition("=")[0].strip())

    assert len(theirs["Service"]) > 200
    assert {} == {name: missing for name in KNOWN if (missing := theirs[name] - KNOWN[name])}
