"""`capbg check` puts a unit and its drop-ins together as the running systemd does: by what `systemctl show` tells."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from capbg.cli.units import values
from capbg.cli.units.load import load

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
