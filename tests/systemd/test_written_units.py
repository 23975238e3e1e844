"""What `capbg unit` writes, put to work as it is by a real systemd; and running services looked at from within."""

import json
import re
import shlex
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from capbg.cli.units.command import exec_start
from tests.probe import PREAMBLE

from .bed import Bed, Service
from .programs import ended, spoken, start, stop

SAVING = """
    app = capbg.App("kiosk")

    @app.background_task()
    def save(task):
        with open(os.environ["STATE_DIRECTORY"] + "/saved", "w") as saved:
            time.sleep(float(sys.argv[1]))
            saved.write("all of it")
        say("SAVED")

    with app:
        say("WORKING", *sys.argv[1:])
        idle()
"""
"""A program with so many seconds of work at its stop, and a file to keep."""

CHECK = """
import json, sys
from capbg.cli.units.process import check_process, is_user_unit, unit_of
pid = int(sys.argv[1])
found = [[each.level.value, each.rule, each.what] for each in check_process(pid)]
print(json.dumps({"unit": unit_of(pid), "user": is_user_unit(pid), "found": found}))
"""


def write_unit(bed: Bed, folder: Path, *arguments: str) -> str:
    """Run the real command in the box, in a directory."""
    command = shlex.join([sys.executable, "-m", "capbg.cli", "unit", *arguments])
    return bed.run("sh", "-c", f"cd {shlex.quote(str(folder))} && exec {command}").stdout


def exposure(bed: Bed, unit: str) -> float:
    """What `systemd-analyze security` thinks of an installed unit: 0 is locked in, 10 is open."""
    command = ("systemd-analyze", "security", "--offline=true", f"/etc/systemd/system/{unit}")
    score = bed.run(*command, check=False).stdout
    match = re.search(r"Overall exposure level for \S+: (\d+\.\d)", score)
    assert match, score
    return float(match[1])


def look(bed: Bed, pid: str) -> dict[str, Any]:
    """Look at a process, in the box."""
    told: dict[str, Any] = json.loads(bed.run(sys.executable, "-c", CHECK, pid).stdout)
    return told


def found_at(bed: Bed, pid: str) -> dict[str, tuple[str, str]]:
    """What was found, by rule."""
    return {rule: (level, what) for level, rule, what in look(bed, pid)["found"]}


@pytest.fixture
def program(bed: Bed) -> Iterator[Path]:
    """The program, in a directory that every service sees."""
    folder = bed.scratch / "program"
    folder.mkdir(exist_ok=True)
    path = folder / "app.py"
    path.write_text(PREAMBLE + textwrap.dedent(SAVING))
    yield path
    names = [f"/var/lib/{part}{name}" for name in ("plain", "locked") for part in ("", "private/")]
    bed.run("rm", "-rf", *names)


def test_a_written_unit_keeps_what_it_promises(bed: Bed, program: Path) -> None:
    """Plain and hardened: started, found in good order by `check --pid`, stopped with 4 s of work, all of it saved.

    Hardened it scores 1.2 by `systemd-analyze security`, and 1.3 where a home directory must be seen because the
    interpreter lies there; what remains is the network that it keeps.
    """
    words = ["--", sys.executable, "-u", "app.py", "4", "100 % of $HOME"]
    services = []
    for name, mode in (("plain", []), ("locked", ["--hardened"])):
        bed.unit(f"{name}.service", write_unit(bed, program.parent, "--name", name, *mode, *words))
        services.append(Service(bed, f"{name}.service"))
    verified = [
        bed.run("systemd-analyze", "verify", "--recursive-errors=no", f"/etc/systemd/system/{each.unit}", check=False)
        for each in services
    ]

    scores = [exposure(bed, each.unit) for each in services]

    start(*services)
    looked_at = [look(bed, each.show("MainPID")["MainPID"]) for each in services]
    pid = services[0].show("MainPID")["MainPID"]
    checked = json.loads(bed.run(sys.executable, "-m", "capbg.cli", "check", "--json", "--pid", pid).stdout)
    stop(*services)

    assert [f"process {pid}", "plain.service"] == [each["name"] for each in checked["checked"]]
    assert [(0, "", "")] * 2 == [(each.returncode, each.stdout, each.stderr) for each in verified]
    assert scores[1] <= 1.3 < 5 < scores[0], scores
    assert ["plain.service", "locked.service"] == [told["unit"] for told in looked_at]
    assert [{"note"}] * 2 == [{level for level, _, _ in told["found"]} for told in looked_at], looked_at
    for each in services:
        outcome = each.result()
        assert ("success", "exited", 0) == ended(outcome), bed.journal_text(each.unit)
        assert outcome.stopping_s >= 4
        assert ["WORKING 4 100 % of $HOME", "SAVED"] == spoken(each, "WORKING", "SAVED")
        saved = f"/var/lib/private/{each.unit.removesuffix('.service')}/saved"
        assert "all of it" == bed.run("cat", saved).stdout


def test_a_written_user_unit_keeps_what_it_promises(own_bed: Bed) -> None:
    """`systemctl --user` of an unprivileged user, plain and hardened: the same, in what time user@.service leaves."""
    bed, uid = own_bed, "1"  # daemon, who is on every machine and may do nothing
    home, runtime = bed.scratch / "home", f"/run/user/{uid}"
    units = home / "config/systemd/user"
    units.mkdir(parents=True)
    (home / "app.py").write_text(PREAMBLE + textwrap.dedent(SAVING))
    # Without PAM's module nobody else sets the first one.
    variables = f"XDG_RUNTIME_DIR={runtime} HOME={home} XDG_CONFIG_HOME={home}/config"
    bed.unit(f"user@{uid}.service.d/bed.conf", f"[Service]\nEnvironment={variables}\n")
    names = {"plain.service": [], "locked.service": ["--hardened"]}
    for name, mode in names.items():
        text = write_unit(bed, home, "--user", "--name", name, *mode, "--", sys.executable, "-u", "app.py", "1")
        (units / name).write_text(text)
    bed.run("chown", "-R", uid, str(home))
    bed.start(f"user@{uid}.service")
    as_user = ("setpriv", "--reuid", uid, "--clear-groups", "env", f"XDG_RUNTIME_DIR={runtime}")

    def systemctl(*arguments: str) -> list[str]:
        return bed.run(*as_user, "systemctl", "--user", *arguments).stdout.split()

    systemctl("enable", "--now", *names)
    looked_at = [look(bed, pid) for pid in systemctl("show", "--property=MainPID", "--value", *names)]
    systemctl("stop", *names)

    assert [(name, True) for name in names] == [(told["unit"], told["user"]) for told in looked_at]
    assert [{"note"}] * 2 == [{level for level, _, _ in told["found"]} for told in looked_at], looked_at
    assert ["all of it"] * 2 == [(home / f"config/{name.split('.')[0]}/saved").read_text() for name in names]
    assert ["success"] * 2 == systemctl("show", "--property=Result", "--value", *names)


# ----------------------------------------------------------------------------------------------- services in bad order


def test_a_grace_that_the_unit_does_not_wait_for_is_seen(bed: Bed) -> None:
    """CAPBG_GRACE against TimeoutStopSec=, and no notify socket to make up for it: told, with the unit's name."""
    source = PREAMBLE + 'with capbg.App("brief"):\n    say("WORKING")\n    idle()\n'
    brief = bed.python_service("brief", source, KillMode="mixed", TimeoutStopSec=20, Environment="CAPBG_GRACE=180")
    start(brief)

    found = found_at(bed, brief.show("MainPID")["MainPID"])

    assert ("warning", f"its grace period is 180 s (CAPBG_GRACE), and {brief.unit} waits 20 s") == found["grace"]
    assert ("warning", "NOTIFY_SOCKET is not in its environment") == found["notify-socket"]
    assert ("note", f"it belongs to {brief.unit}") == found["unit"]


def test_a_process_and_its_unit_are_told_one_time_to_write(bed: Bed) -> None:
    """A grace that only the process knows, here from systemd's own environment, is not contradicted by its unit."""
    source = PREAMBLE + 'with capbg.App("brief"):\n    say("WORKING")\n    idle()\n'
    brief = bed.python_service("brief", source, KillMode="mixed", TimeoutStopSec=10)
    bed.systemctl("set-environment", "CAPBG_GRACE=8")
    try:
        start(brief)
        pid = brief.show("MainPID")["MainPID"]
    finally:
        bed.systemctl("unset-environment", "CAPBG_GRACE")
    done = bed.run(sys.executable, "-m", "capbg.cli", "check", "--json", "--pid", pid, check=False)
    findings = [finding for each in json.loads(done.stdout)["checked"] for finding in each["findings"]]

    assert ["20"] == [time for each in findings for time in re.findall(r"TimeoutStopSec=(\d+)", each["fix"])]


def test_the_child_of_a_shell_is_told_who_is_in_its_way(bed: Bed) -> None:
    """A shell script in ExecStart=: seen at the shell, which systemd signals, and at the program, which it does not."""
    script, source = bed.scratch / "wrapper.sh", bed.scratch / "wrapped.py"
    source.write_text(PREAMBLE + 'with capbg.App("wrapped"):\n    say("WORKING", os.getpid())\n    idle()\n')
    script.write_text(f"{sys.executable} {source}\ntrue\n")
    wrapped = bed.python_service("wrapped", "", ExecStart=f"/bin/sh {script}")
    start(wrapped)
    shell, (_, child) = wrapped.show("MainPID")["MainPID"], spoken(wrapped, "WORKING")[0].split()

    at_the_shell = found_at(bed, shell)
    at_the_program = found_at(bed, child)

    assert ("error", "the shell sh stays and runs ") == (at_the_shell["wrapper"][0], at_the_shell["wrapper"][1][:28])
    assert f"({child})" in at_the_shell["wrapper"][1]
    assert ("note", f"systemd has started process {shell}, and this one is not it") == at_the_program["main-process"]


# ----------------------------------------------------------------------------------------------------------- quoting

AWKWARD = st.sampled_from(
    [
        *(
            "",
            ";",
            "\\;",
            "%",
            "%%",
            "%h",
            "%i",
            "$",
            "$$",
            "$HOME",
            "${HOME}",
            "$$HOME",
            "'",
            '"',
            "\\",
            "\\\\",
            "\\n",
        ),
        *(
            "\\x41",
            "a\nb",
            "\t",
            "\r",
            " ",
            "  a  ",
            "-",
            "@",
            "!",
            "+",
            ":",
            "#",
            "=",
            "\u00e9",
            "\u2028",
            "\x85",
            "\x7f",
        ),
        *("\ufeff", "\U0001f4f7", "trailing\\", "/a b/c", "a;b", "'\"\\"),
    ]
)
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cn"], exclude_characters="\0"), max_size=12)
DUMP = "import json, sys\nopen(sys.argv[1], 'w').write(json.dumps(sys.argv[2:]))\n"


@settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],  # shrinking 200 arguments, one service after the other, would take minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(st.one_of(AWKWARD, TEXT), min_size=150, max_size=200))
def test_systemd_hands_over_what_was_typed(bed: Bed, arguments: list[str]) -> None:
    """A command line as it is written into ExecStart=: the program gets each argument as it was, byte for byte."""
    out = bed.scratch / "arguments.json"
    (bed.scratch / "dump it.py").write_text(DUMP)
    command = [sys.executable, "-S", "-E", str(bed.scratch / "dump it.py"), str(out), *arguments]
    bed.unit("quoted.service", f"[Service]\nType=oneshot\nExecStart={exec_start(command)}\n")

    bed.start("quoted.service")

    assert arguments == json.loads(out.read_text())
