"""`capbg check` reads units, and what this machine adds to them, as the running systemd does: by what that tells."""

import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from capbg.cli.units import values
from capbg.cli.units.load import load
from capbg.cli.units.rules import check_unit
from capbg.cli.units.rules.facts import stop_timeout

from .bed import Bed

UNIT = """\
[Unit]
After=a.target
After=
After=b.target
[Service]
Type=notify
Type=notfy
KillMode=mixed  # why
TimeoutStopSec=3min 12s
Environment="A=1 2" \\
# a comment inside
  B=x\\x41
ExecStart=/bin/sleep \\
  %i
ExecStart=
ExecStart=/bin/sh -c "sleep 5 ; :" "it's" %%n $$HOME %i
RestartSec=5

[Servcie]
Restart=always
"""

DROP_INS = {
    "etc/systemd/system/service.d/10-capbg-type.conf": "TimeoutStopSec=7",
    "run/systemd/system/loading-.service.d/20-capbg-prefix.conf": "KillMode=process",
    "etc/systemd/system/loading-case@.service.d/30-capbg-template.conf": "Environment=C=3\nKillMode=mixed",
    "run/systemd/system/loading-case@one.service.d/30-capbg-template.conf": "Environment=C=hidden",
    "run/systemd/system/loading-case@one.service.d/05-capbg-instance.conf": "Environment=A=instance\nTimeoutStartSec=9",
    "run/systemd/system/loading-case@one.service.d/40-capbg-masked.conf": "Environment=C=masked",
    "run/systemd/system/loading-case@one.service.d/45-capbg-broken.conf": "TimeoutStopSec=11\n[S\n[Service]\nType=exec",
    "run/systemd/system/loading-case@one.service.d/.50-capbg-hidden.conf": "TimeoutStopSec=13",
}
FOLDERS = ["etc/systemd/system", "run/systemd/system", "usr/lib/systemd/system"]
MASK = "etc/systemd/system/loading-case@one.service.d/40-capbg-masked.conf"


@contextmanager
def installed(bed: Bed) -> Iterator[None]:
    """The template and its drop-ins are in the box for a while: one of them holds for every service in it."""
    files = {"etc/systemd/system/loading-case@.service": UNIT}
    files |= {where: f"[Service]\n{text}\n" for where, text in DROP_INS.items()}
    paths = [bed.root / where for where in (*files, MASK)]
    try:
        for path, text in zip(paths, files.values(), strict=False):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        paths[-1].parent.mkdir(parents=True, exist_ok=True)
        paths[-1].symlink_to("/dev/null")
        bed.systemctl("daemon-reload")
        yield
    finally:
        for path in paths:
            path.unlink(missing_ok=True)
        bed.systemctl("daemon-reload")


def test_a_unit_is_put_together_as_systemd_does(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drop-ins, resets, invalid values, quotes and specifiers come to what the running systemd has loaded."""
    monkeypatch.setenv("SYSTEMD_UNIT_PATH", ":".join(str(bed.root / folder) for folder in FOLDERS))
    with installed(bed):
        theirs = bed.show("loading-case@one.service")
        unit = load("loading-case@one.service")

    ours = {key: setting.value for key in ("Type", "KillMode", "Restart") if (setting := unit.last("Service", key))}
    variables: dict[str, str] = {}
    for setting in unit.all("Service", "Environment"):
        variables |= values.assignments(setting.value)[0]
    (start,) = (command for each in unit.all("Service", "ExecStart") for command in values.commands(each.value))
    (argv,) = re.findall(r"argv\[\]=(.*?) ; ignore_errors", theirs["ExecStart"])
    spans = {key: unit.last("Service", key) for key in ("TimeoutStopSec", "RestartSec", "TimeoutStartSec")}
    own = [path for path in theirs["DropInPaths"].split() if "capbg" in path and "masked" not in path]

    assert own == ["/" + str(path.relative_to(bed.root)) for path in unit.drop_ins if "capbg" in path.name]
    assert {"Type": "notify", "KillMode": "mixed"} == ours == {key: theirs[key] for key in ours}
    assert "no" == theirs["Restart"]
    assert theirs["Environment"] == " ".join(
        f'"{name}={value}"' if " " in value else f"{name}={value}" for name, value in variables.items()
    )
    assert argv == " ".join(unit.expand(word) for word in start.argv)
    for key, setting in spans.items():
        assert setting is not None
        assert values.span(theirs[key.replace("Sec", "USec")]) == values.span(setting.value)
    assert "a.target" in theirs["After"]
    assert {"a.target", "b.target"} == {each.value for each in unit.all("Unit", "After")}


STARTS = {
    "User=no-such-user": "217/USER",
    "User=54321": "217/USER",
    "Group=no-such-group": "216/GROUP",
    "SupplementaryGroups=no-such-group\nDynamicUser=yes": "216/GROUP",
    "EnvironmentFile=/nowhere/it.env": "Result=resources",
    "EnvironmentFile=/nowhere/*.env": "Result=resources",
    "EnvironmentFile=/etc": "Result=resources",
    "WorkingDirectory=/nowhere": "200/CHDIR",
    "WorkingDirectory=/etc/passwd": "200/CHDIR",
    "User=capbg-dynamic\nDynamicUser=yes": "",
    "User=nobody\nGroup=root": "",
    "EnvironmentFile=-/nowhere/it.env": "",
    "EnvironmentFile=relative.env": "",
    "WorkingDirectory=-/nowhere": "",
    "WorkingDirectory=/run/capbg-starts/deep\nRuntimeDirectory=capbg-starts/deep/er": "",
    "WorkingDirectory=/srv/capbg-starts\nBindPaths=/etc:/srv/capbg-starts": "",
}
"""Settings, and how a start ends; empty: well."""


def test_what_is_not_there_fails_the_start_as_is_told(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Users, groups, files, directories: the status that is foretold comes, and no other start fails."""
    monkeypatch.setenv("SYSTEMD_UNIT_PATH", ":".join(str(bed.root / folder) for folder in FOLDERS))
    names = {f"starts-{number}.service": line for number, line in enumerate(STARTS)}
    for name, line in names.items():
        bed.unit(name, f"[Service]\nType=exec\nExecStart=/bin/sleep 600\n{line}\n")
    bed.run("systemctl", "start", *names, check=False)

    for name, line in names.items():
        theirs = bed.show(name, "ActiveState", "Result", "ExecMainStatus")
        told = [each for each in check_unit(load(name), plain=True) if each.rule == "not-found"]
        number = STARTS[line].partition("/")[0]

        assert ("failed" if STARTS[line] else "active") == theirs["ActiveState"], (line, theirs)
        assert (number if number.isdecimal() else "0") == theirs["ExecMainStatus"], (line, theirs)
        assert (STARTS[line] == "Result=resources") == (theirs["Result"] == "resources"), (line, theirs)
        assert [True] * bool(STARTS[line]) == [STARTS[line] in each.why for each in told], (line, told)


def test_the_default_of_the_machine_is_the_one_that_holds(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    """DefaultTimeoutStopSec=, from wherever systemd takes it, in the order in which it does."""
    monkeypatch.setenv("SYSTEMD_UNIT_PATH", ":".join(str(bed.root / folder) for folder in FOLDERS))
    bed.unit("default.service", "[Service]\nExecStart=/bin/sleep 600\n")
    steps = [
        ("usr/lib/systemd/system.conf.d/50-capbg.conf", "21"),
        ("run/systemd/system.conf.d/40-capbg.conf", "22"),
        ("run/systemd/system.conf.d/50-capbg.conf", "1min 3s"),
        ("etc/systemd/system.conf.d/60-capbg.conf", "0"),
        ("etc/systemd/system.conf.d/60-capbg.conf", "soon"),
        ("etc/systemd/system.conf.d/60-capbg.conf", ""),
    ]
    seen = []
    try:
        for where, value in steps:
            path = bed.root / where
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"[Manager]\nDefaultTimeoutStopSec={value}\n")
            bed.systemctl("daemon-reload")
            theirs = bed.show("default.service", "TimeoutStopUSec")["TimeoutStopUSec"]
            seen.append((values.span(theirs), stop_timeout(load("default.service"))[1]))
    finally:
        for where, _ in steps:
            (bed.root / where).unlink(missing_ok=True)
        bed.systemctl("daemon-reload")

    assert [21, 21, 63, float("inf"), 63, 63] == [ours for _, ours in seen]
    assert [theirs for theirs, _ in seen] == [ours for _, ours in seen]


@pytest.mark.parametrize("folder", ["etc/systemd/system", "run/systemd/system", "usr/lib/systemd/system"])
def test_a_mask_is_ended_by_what_is_told(bed: Bed, folder: str) -> None:
    """`systemctl unmask` where that is advised; where it does nothing, a unit file in the place that is named."""
    name = "capbg-masked.service"
    own = bed.root / "etc/systemd/system" / name
    mask = bed.root / folder / name

    def state() -> str:
        bed.systemctl("daemon-reload")
        return bed.show(name, "LoadState")["LoadState"]

    try:
        mask.symlink_to("/dev/null")
        before = state()
        told = json.loads(bed.run(sys.executable, "-m", "capbg.cli", "check", "--json", name).stdout)
        (finding,) = told["checked"][0]["findings"]
        command = re.match(rf"systemctl unmask [^,]*{name}", finding["fix"])
        if command:
            bed.run(*command[0].split())
        else:
            bed.systemctl("unmask", name)
            assert "masked" == state()
            assert f"/etc/systemd/system/{name}" in finding["fix"]
            own.write_text("[Service]\nExecStart=/bin/sleep 5\n")
        after = state()
    finally:
        own.unlink(missing_ok=True)
        mask.unlink(missing_ok=True)
        bed.systemctl("daemon-reload")

    assert ("masked", "note", "masked") == (before, finding["level"], finding["rule"])
    assert after in {"not-found", "loaded"}
    assert (command is None) == folder.startswith("usr/")
