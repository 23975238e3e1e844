"""The command line as a whole: it is there where its extra is, in nobody's way, and speaks in sentences."""

import subprocess
import sys
from pathlib import Path

import pytest


def run(*arguments: str, source: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run ``capbg`` with arguments, or a piece of Python."""
    command = ["-m", "capbg.cli", *arguments] if source is None else ["-c", source, *arguments]
    return subprocess.run([sys.executable, *command], check=False, capture_output=True, text=True, timeout=120)


def test_the_library_loads_none_of_it() -> None:
    """A program that enters an app has neither click nor rich nor any of the command line loaded."""
    source = (
        "import sys, capbg\n"
        "with capbg.App('light'):\n    pass\n"
        "extra = {'click', 'rich', 'svg'}\n"
        "print(sorted(name for name in sys.modules if name.split('.')[0] in extra or '.cli' in name))"
    )
    done = run(source=source)
    assert ("[]\n", 0) == (done.stdout, done.returncode), done.stderr


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_without_the_extra_it_says_what_is_missing(missing: str) -> None:
    """Exit status 2, as for every wrong use, and how to get it; no traceback."""
    source = f"import sys\nsys.modules[{missing!r}] = None\nfrom capbg.cli.__main__ import main\nmain()"
    done = run(source=source)
    assert (2, "") == (done.returncode, done.stdout)
    assert f"capbg: the command line needs {missing}: pip install 'capbg[cli]'\n" == done.stderr


@pytest.mark.parametrize("command", [["rehearse"], ["check"], ["unit"], []])
def test_help_fits_into_80_columns(command: list[str]) -> None:
    """Each command has a page of help; no line of it is cut by a terminal."""
    done = run(*command, "--help")
    assert 0 == done.returncode
    assert done.stdout.startswith("Usage: capbg")
    assert [] == [line for line in done.stdout.splitlines() if len(line) > 80]


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    """What cannot be printed is no traceback, and no success."""
    unit = tmp_path / "some.service"
    unit.write_text("[Service]\nExecStart=/bin/true\n")
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "capbg.cli", "check", str(unit)]
        done = subprocess.run(command, check=False, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)
    assert (2, "capbg: [Errno 28] No space left on device\n") == (done.returncode, done.stderr)
