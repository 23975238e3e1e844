"""The tables in ARCHITECTURE.md are the code's."""

import subprocess
import sys

import pytest

from capbg._core.grace import PHASES
from capbg._core.task import TABLE, State
from tests.state_tables import BEGIN, DOCUMENT, END, tables, written


def test_the_tables_in_the_document_are_those_of_the_code() -> None:
    """``python -m tests.state_tables --write`` brings them up to date."""
    document = DOCUMENT.read_text("utf-8")
    assert document == written(document), "run: python -m tests.state_tables --write"


def test_every_entry_of_both_tables_is_shown() -> None:
    """Nothing is left out on the way to Markdown: every pair of state and input stands in a row of that state."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in tables().splitlines() if line.startswith("|")]
    shown = {(row[0], what) for row in rows if row[0].startswith("**") for what in row[1].split(", ")}
    assert {(f"**{state.name}**", what.name) for state, what in TABLE} == shown
    phases = [
        row for row in rows if row[0] in {"ACTIVE", "SUSPENDED"} or row[0].startswith(("BACKGROUND", "TERMINATED"))
    ]
    assert len(PHASES) == sum(len(row) - 1 for row in phases)
    assert {state.name for state in State} <= {row[0] for row in rows}


def test_writing_touches_only_what_is_between_the_markers() -> None:
    """What people wrote around the tables stays as it is, and writing twice changes nothing."""
    once = written(f"# Title\n{BEGIN}\nold\n{END}\nbehind\n")
    assert once.startswith(f"# Title\n{BEGIN}\n")
    assert once.endswith(f"{END}\nbehind\n")
    assert "\nold\n" not in once
    assert once == written(once)


@pytest.mark.parametrize("document", ["", BEGIN, END, f"{END}\n{BEGIN}"])
def test_a_document_without_the_markers_is_refused(document: str) -> None:
    """Tables are not appended somewhere: the error names the markers."""
    with pytest.raises(ValueError, match="needs the markers"):
        written(document)


def test_the_command_prints_the_tables_and_knows_its_arguments() -> None:
    """``python -m tests.state_tables`` prints what ``--write`` would write; anything else is a usage error."""
    command = [sys.executable, "-m", "tests.state_tables"]
    printed = subprocess.run(command, cwd=DOCUMENT.parent, capture_output=True, text=True, check=True)
    assert f"{tables()}\n" == printed.stdout
    wrong = subprocess.run([*command, "--wrote"], cwd=DOCUMENT.parent, capture_output=True, text=True, check=False)
    assert (2, "usage: python -m tests.state_tables [--write]\n") == (wrong.returncode, wrong.stderr)
