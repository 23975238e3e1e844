"""What a rehearsal is told of each task: all that is new, none of it twice, in datagrams that a socket takes."""

from capbg._core.task import Run
from capbg._core.teller import COLUMNS, FIELD, PACE_NS, Teller

MOST = 64 * 1024
"""Bytes that any socket's buffer holds, with what the kernel adds."""


def run(number: int, name: str = "task") -> Run:
    """One run that waits for its worker."""
    return Run(f"id-{number}", name, queued_ns=0, last_start_ns=1000, limit_ns=None, kill_after_ns=10)


def test_only_what_is_new_is_told() -> None:
    """A run is told once for each change; at the end all are told once more."""
    teller, runs = Teller(), [run(1), run(2)]

    first, second = teller.tell(runs, 5), teller.tell(runs, 6)
    runs[1].reason = "changed"
    third, last = teller.tell(runs, 7), teller.tell_all(runs, 8)

    assert [2, 0, 1, 2] == ["\n".join(told).count(f"{FIELD}=") for told in (first, second, third, last)]
    assert "id-2" in third[0]
    assert 8 + PACE_NS == teller.due_ns


def test_a_datagram_fits_whatever_the_names_are() -> None:
    """Two thousand tasks with names of four bytes a character: counted in bytes, no datagram is too long."""
    runs = [run(number, "\U0001f600" * 200) for number in range(2000)]

    told = Teller().tell(runs, 0)

    assert max(len(each.encode()) for each in told) <= MOST
    assert [each.id for each in runs] == [line.split("=", 1)[1].split("\t")[0] for line in "\n".join(told).split("\n")]


def test_a_row_has_its_columns_whatever_stands_in_them() -> None:
    """Tabs and newlines are blanks, and a text is cut."""
    odd = run(1, "a\tb\nc=d")
    odd.reason = "long " * 100_000

    (told,) = Teller().tell([odd], 0)

    cells = told.removeprefix(f"{FIELD}=").split("\t")
    assert (len(COLUMNS), "a b c=d") == (len(cells), cells[1])
    assert "\n" not in told
    assert len(told) < 500
