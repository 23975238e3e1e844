"""`capbg unit` as a person meets it: what it writes, what it makes of a command, and what it refuses."""

import contextlib
import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from capbg.cli.unit import unit
from capbg.cli.units import values
from capbg.cli.units.command import CommandError, exec_start, look_up
from capbg.cli.units.findings import Level
from capbg.cli.units.load import load
from capbg.cli.units.rules import check_unit

MODES: list[list[str]] = [
    [],
    ["--hardened"],
    ["--user"],
    ["--user", "--hardened"],
    ["--watchdog", "1min", "--grace", "2.5", "--description", '100 % photos; "$HOME"'],
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory that others may enter, as far as this test can see to it."""
    tmp_path.chmod(0o755)
    return tmp_path


@dataclass(frozen=True)
class Done:
    """What the command came to."""

    returncode: int
    stdout: str
    stderr: str


def capbg_unit(*arguments: str, folder: Path) -> Done:
    """Run the command in a directory, in this process: starting Python for each costs more than the tests do."""
    with contextlib.chdir(folder):
        result = CliRunner().invoke(unit, arguments, prog_name="capbg unit")
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return Done(result.exit_code, result.stdout, result.stderr)


def test_it_is_a_command_of_capbg(folder: Path) -> None:
    """`python -m capbg.cli unit`: the unit in UTF-8 whatever the locale, and what to know about it beside it."""
    (folder / "café").touch()
    done = subprocess.run(
        [sys.executable, "-m", "capbg.cli", "unit", "--name", "x", "--", "/usr/bin/env", "café"],
        check=False,
        capture_output=True,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2]), "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
    )

    assert done.returncode == 0, done.stderr
    assert [f'/usr/bin/env "{folder}/café"'] == setting(done.stdout.decode(), "ExecStart")
    assert b"systemd starts in /" in done.stderr


def setting(text: str, key: str) -> list[str]:
    """The values of a setting in a unit's text."""
    return [line.partition("=")[2] for line in text.splitlines() if line.startswith(f"{key}=")]


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: "".join(mode[:3]) or "plain")
def test_what_is_written_passes_both_checks(folder: Path, mode: list[str]) -> None:
    """`capbg check` has nothing worse than a note, `systemd-analyze verify` nothing at all; the checkers themselves can
    fail.
    """
    file = folder / "kiosk.service"
    done = capbg_unit("--name", "kiosk", *mode, "-o", str(file), "--", "/usr/bin/env", "%h", "a b", folder=folder)
    found = [each for each in check_unit(load(file, user="--user" in mode)) if each.level is not Level.NOTE]

    assert (0, "", "") == (done.returncode, done.stdout, done.stderr)
    assert [] == found
    assert (0, "") == verified(file, user="--user" in mode)
    file.write_text(file.read_text().replace("KillMode=", "KillMod="))
    assert verified(file, user="--user" in mode)[0] == 1


def verified(file: Path, *, user: bool) -> tuple[int, str]:
    """What `systemd-analyze verify` says; without the tool (and without being told to demand it) that it is well."""
    tool = shutil.which("systemd-analyze")
    if tool is None and os.environ.get("CAPBG_REQUIRE_SYSTEMD") != "1":
        pytest.skip("no systemd-analyze on this machine")
    assert tool is not None
    runtime = file.parent / "runtime"
    runtime.mkdir(mode=0o700, exist_ok=True)
    done = subprocess.run(
        [tool, "--user" if user else "--system", "verify", "--recursive-errors=no", str(file)],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | {"XDG_RUNTIME_DIR": str(runtime)},
    )
    return done.returncode, done.stdout + done.stderr


def test_the_stop_is_as_long_as_the_grace_and_the_way_out(folder: Path) -> None:
    """TimeoutStopSec= is the grace, 2 s and 10 s, rounded up; a time may be written as systemd does."""
    told = {
        grace: setting(capbg_unit("--name", "n", *grace, "--", "/usr/bin/env", folder=folder).stdout, "TimeoutStopSec")
        + setting(capbg_unit("--name", "n", *grace, "--", "/usr/bin/env", folder=folder).stdout, "Environment")
        for grace in ((), ("--user",), ("--grace", "2.5"), ("--grace", "3min 1s"))
    }

    assert {
        (): ["192", "CAPBG_GRACE=180"],
        ("--user",): ["120", "CAPBG_GRACE=108"],
        ("--grace", "2.5"): ["15", "CAPBG_GRACE=2.5"],
        ("--grace", "3min 1s"): ["193", "CAPBG_GRACE=181"],
    } == told


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--grace", "1h"], "poweroff.target and reboot.target force the machine down after 30 min"),
        (["--user", "--grace", "180"], "user@.service ends after 120 s"),
    ],
)
def test_a_grace_that_others_cap_is_warned_of(folder: Path, arguments: list[str], sentence: str) -> None:
    """What the machine's or the user's systemd does not wait for is said, with the way out."""
    done = capbg_unit("--name", "n", *arguments, "--", "/usr/bin/env", folder=folder)

    assert done.returncode == 0
    assert "warning" in done.stderr
    assert sentence in done.stderr


REFUSED: list[tuple[list[str], str]] = [
    (["--name", "x@", "--", "/usr/bin/env"], "names a template"),
    (["--name", "a/b", "--", "/usr/bin/env"], "no good name"),
    (["--name=-x", "--", "/usr/bin/env"], "no good name"),
    (["--name", "", "--", "/usr/bin/env"], "no good name"),
    (["--name", "x.socket", "--", "/usr/bin/env"], "another kind of unit"),
    (["--name", "x" * 250, "--", "/usr/bin/env"], "250 characters"),
    (["--name", "x"], "COMMAND"),
    (["--name", "x", "--grace", "0", "--", "/usr/bin/env"], "no time above zero"),
    (["--name", "x", "--grace", "infinity", "--", "/usr/bin/env"], "no time above zero"),
    (["--name", "x", "--watchdog", "-1", "--", "/usr/bin/env"], "no time above zero"),
    (["--name", "x", "--description", "a\nUser=root", "--", "/usr/bin/env"], "one line of plain text"),
    (["--name", "x", "--description", "a\\", "--", "/usr/bin/env"], "ends with a backslash"),
    (["--name", "x", "--", "no-such-program"], "no program 'no-such-program' is in the PATH"),
    (["--name", "x", "--", "app.py"], "write ./app.py"),
    (["--name", "x", "--", "./app.py"], "not executable"),
    (["--name", "x", "--", "./nothing"], "there is no program"),
    (["--name", "x", "--", "./"], "is a directory"),
    (["--name", "x", "--", "/usr/bin/env", "\udcff"], "no text"),
    (["--name", "x", "--", "/usr/bin/env", "\ufffe"], "no text"),
    (["--name", "x", "--", "sh", "-c", "python app.py"], "sh stands between systemd and the program"),
    (["--name", "x", "--", "./start.sh"], "start.sh stands between systemd and the program"),
    (["--name", "x", "-o", "app.py", "--", "/usr/bin/env"], "is there already: --force"),
    (["--name", "x", "-o", ".", "--force", "--", "/usr/bin/env"], "is a directory"),
    (["--name", "x", "-o", "no/x.service", "--", "/usr/bin/env"], "cannot be written"),
    (["--name", "x", "-o", "x" * 300, "--", "/usr/bin/env"], "cannot be written: file name too long"),
]


@pytest.mark.parametrize(("arguments", "sentence"), REFUSED)
def test_what_cannot_be_good_is_refused(folder: Path, arguments: list[str], sentence: str) -> None:
    """Exit status 2, a sentence on standard error, nothing on standard output, and no file touched."""
    (folder / "app.py").write_text("print()\n")
    (folder / "start.sh").write_text("#!/bin/sh\ncd /\npython3 app.py\n")
    (folder / "start.sh").chmod(0o755)

    done = capbg_unit(*arguments, folder=folder)

    assert (2, "") == (done.returncode, done.stdout)
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert {"app.py": "print()\n"} == {path.name: path.read_text() for path in folder.iterdir() if path.suffix != ".sh"}


def test_a_directory_that_is_gone_is_said_to_be(folder: Path) -> None:
    """Nothing can be made absolute from there."""
    (folder / "gone").mkdir()
    with contextlib.chdir(folder / "gone"):
        (folder / "gone").rmdir()
        result = CliRunner().invoke(unit, ["--name", "x", "--", "/usr/bin/env"])
        os.chdir(folder)  # or chdir() could not come back

    assert (2, "capbg unit: the directory you are in is gone: change to another one\n") == (
        result.exit_code,
        result.stderr,
    )


def test_a_file_is_written_over_only_by_force(folder: Path) -> None:
    """`-o FILE --force` replaces what is there."""
    (folder / "x.service").write_text("old")

    done = capbg_unit("--name", "x", "-o", "x.service", "--force", "--", "/usr/bin/env", folder=folder)

    assert (0, "") == (done.returncode, done.stdout)
    assert ["/usr/bin/env"] == setting((folder / "x.service").read_text(), "ExecStart")


# --------------------------------------------------------------------------------------------- what a command becomes


def looked_up(folder: Path, *words: str, search: str = os.defpath) -> Sequence[str]:
    """The command as systemd would start it."""
    return look_up(words, folder=folder, search=search).argv


def program(path: Path, text: str = "#!/usr/bin/python3\n") -> Path:
    """An executable file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def test_names_of_files_are_made_absolute(folder: Path) -> None:
    """The program from PATH or from here, and arguments that are files, also behind an option's =; nothing else."""
    tool = program(folder / "bin/tool")
    (folder / "app.toml").touch()
    (folder / "data").mkdir()

    assert (str(tool), f"{folder}/app.toml", f"--config={folder}/app.toml", "data", "none.toml", "", "-v") == looked_up(
        folder,
        "tool",
        "./app.toml",
        "--config=app.toml",
        "data",
        "none.toml",
        "",
        "-v",
        search=f"/nowhere:{folder}/bin",
    )
    assert (str(tool), f"{folder}/app.toml") == looked_up(folder / "bin", "./tool", "../app.toml")
    assert (str(tool), "x" * 5000) == looked_up(folder / "bin", "./tool", "x" * 5000)


def test_symbolic_links_stay(folder: Path) -> None:
    """A virtual environment's python is a link, and knows its environment by it; a .. behind a link is no shortcut."""
    real = program(folder / "opt/deep/python3.11")
    (folder / "venv").mkdir()
    (folder / "venv/python").symlink_to(real)
    (folder / "short").symlink_to(folder / "opt/deep")
    tool = program(folder / "opt/tool")

    command = look_up(["venv/python"], folder=folder, search="")
    assert (f"{folder}/venv/python",) == command.argv
    assert real in command.places
    assert (str(tool.resolve()),) == looked_up(folder, "short/../tool")


def test_a_module_is_started_where_it_is_found(folder: Path) -> None:
    """`python -m app` finds the module in the current directory, so the unit starts there; with another it does not."""
    (folder / "app.py").touch()

    here = capbg_unit("--name", "x", "--", sys.executable, "-u", "-m", "app", folder=folder).stdout
    elsewhere = capbg_unit("--name", "x", "--", sys.executable, "-m", "http.server", folder=folder).stdout

    assert [str(folder)] == setting(here, "WorkingDirectory")
    assert [] == setting(elsewhere, "WorkingDirectory")


def test_a_shim_is_kept_with_a_word(folder: Path) -> None:
    """A version manager's shim works, and depends on settings that a service may not have."""
    shim = program(folder / "shims/python", '#!/bin/sh\nexec /usr/bin/python3 "$@"\n')

    command = look_up(["python"], folder=folder, search=str(shim.parent))

    assert (str(shim),) == command.argv
    assert ["is a shim"] == [word for word in ("is a shim",) if word in command.doubts[0]]


@pytest.mark.parametrize("name", ["a'b", 'a"b', "a\\b", "a$b", "a\nb"])
def test_a_program_that_systemd_cannot_start_is_refused(folder: Path, name: str) -> None:
    """Quotes, backslashes and control characters in the program's own path."""
    program(folder / name)

    with pytest.raises(CommandError, match="systemd starts no program with"):
        looked_up(folder, f"./{name}")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_closed_program_runs_as_its_owner() -> None:
    """A user made for the service could not get at what is closed to others: the owner's name is taken, and said."""
    owner = next(each for each in pwd.getpwall() if each.pw_uid != 0)
    with tempfile.TemporaryDirectory(dir="/tmp") as name:  # pytest's own directories are closed further up
        folder = Path(name)
        folder.chmod(0o755)
        tool = program(folder / "closed/tool")
        os.chown(tool.parent, owner.pw_uid, -1)
        tool.parent.chmod(0o700)
        done = capbg_unit("--name", "x", "--", str(tool), folder=folder)
        tool.parent.chmod(0o755)
        opened = capbg_unit("--name", "x", "--", str(tool), folder=folder)

    assert [owner.pw_name] == setting(done.stdout, "User")
    assert [] == setting(done.stdout, "DynamicUser")
    assert f"{tool.parent} is closed to all but {owner.pw_name}" in done.stderr
    assert (["yes"], ["x"]) == (setting(opened.stdout, "DynamicUser"), setting(opened.stdout, "User"))
    assert [str(folder)] == setting(opened.stdout, "BindReadOnlyPaths")  # it has a /tmp of its own
    assert f"{folder} is emptied" in opened.stderr


def test_a_user_that_exists_is_not_taken(folder: Path) -> None:
    """DynamicUser= with the name of a real user would run the service as him: root, at worst."""
    assert ["svc-root"] == setting(capbg_unit("--name", "root", "--", "/usr/bin/env", folder=folder).stdout, "User")


NO_TEXT = re.compile(
    "[\0\ud800-\udfff\ufdd0-\ufdef" + "".join(chr(p * 0x10000 + n) for p in range(17) for n in (0xFFFE, 0xFFFF)) + "]"
)
TEXT = st.text(max_size=20)
AWKWARD = st.sampled_from(
    [
        "",
        ";",
        "\\;",
        "%",
        "%%h",
        "$",
        "$HOME",
        "${HOME}",
        "$$",
        "'",
        '"',
        "\\",
        "\\n",
        "a\nb",
        "\t",
        " ",
        "-",
        "@",
        "#",
        "é",
        "\u2028",
        "\x85",
        "\x7f",
        "\U0001f4f7",
    ]
)


@settings(deadline=None)
@given(st.lists(st.one_of(TEXT, AWKWARD), max_size=6))
def test_a_command_line_says_what_was_typed(arguments: list[str]) -> None:
    """Quoted for ExecStart= and read again by `capbg check`; tests/systemd asks systemd itself the same."""
    assume(not any(NO_TEXT.search(word) for word in arguments))
    line = exec_start(["/usr/bin/env", *arguments])
    (parsed,) = values.commands(line)

    assert line.isprintable()
    assert ("/usr/bin/env", *arguments) == tuple(
        re.sub(r"%%|\$\$", lambda two: two[0][0], word) for word in parsed.argv
    )


@given(st.sampled_from(["\0", "\ud800", "\udcff", "\ufdd0", "\ufdef", "\ufffe", "\uffff", "\U0010ffff"]), TEXT, TEXT)
def test_what_is_no_text_is_refused(bad: str, before: str, after: str) -> None:
    """Bytes that are not UTF-8, Unicode's noncharacters and NUL: systemd's bus, or the kernel, carries none of them."""
    with pytest.raises(CommandError):
        looked_up(Path("/"), "/usr/bin/env", before + bad + after)
