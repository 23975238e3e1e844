"""How each task is getting on, for a rehearsal that asks for it (``CAPBG_TELL_TASKS=1`` in the environment).

systemd is told a line for people, however many tasks there are. Whoever rehearses a stop wants a bar for each: they
are told in datagrams of their own, beside those for systemd, by a field that systemd passes over, as it does with
every field it does not know. A datagram that is not taken is not sent again: the next one tells more.

This file must not know how a datagram is sent.
"""

from collections.abc import Iterable

from capbg._core.task import Run
from capbg._core.words import NS

FIELD = "X_CAPBG_TASK"
"""The datagram's field, once for each task told; systemd wants private ones to begin with X_ (sd_notify(3))."""

COLUMNS = ("id", "name", "state", "started", "soft", "hard", "ended", "done", "total", "message", "reason")
"""What stands in the field, separated by tabs. Instants are nanoseconds of CLOCK_MONOTONIC; empty: there is none."""

PACE_NS = NS // 10
"""How often changes are told, at most and while a grace period is on."""

_A_DATAGRAM = 48 * 1024
"""Bytes told in one: below what a socket's buffer holds (net.core.wmem_default, 208 kB), and few datagrams,
for as few as ten may wait to be read (net.unix.max_dgram_qlen)."""
_LONGEST = 200
"""Characters kept of a name, a message, a reason."""


class Teller:
    """Remembers what it has told, and tells what is new."""

    def __init__(self) -> None:
        self.due_ns = 0
        """When changes may be told again."""
        self._told: dict[str, str] = {}

    def tell(self, runs: Iterable[Run], now: int) -> list[str]:
        """Return datagrams for the runs that differ from what was told of them."""
        self.due_ns = now + PACE_NS
        lines = []
        for run in runs:
            line = _line(run)
            if self._told.get(run.id) != line:
                self._told[run.id] = line
                lines.append(f"{FIELD}={line}")
        return _packed(lines)

    def tell_all(self, runs: Iterable[Run], now: int) -> list[str]:
        """Return datagrams for all of them: the last word, whatever was lost before."""
        self._told.clear()
        return self.tell(runs, now)


def _packed(lines: Iterable[str]) -> list[str]:
    packed: list[list[str]] = []
    space = 0
    for line in lines:
        size = len(line.encode("utf-8", "replace")) + 1
        space -= size
        if space < 0:
            packed.append([])
            space = _A_DATAGRAM - size
        packed[-1].append(line)
    return ["\n".join(each) for each in packed]


def _line(run: Run) -> str:
    settled = run.settled_ns is not None and run.outcome is not None
    progress = run.progress
    cells = (
        run.id,
        run.name,
        run.outcome.value if settled and run.outcome is not None else run.state.name.lower(),
        run.started_ns,
        run.soft_ns,
        run.hard_ns,
        run.settled_ns,
        None if progress is None else progress.done,
        None if progress is None else progress.total,
        None if progress is None else progress.message,
        run.reason,
    )
    return "\t".join("" if cell is None else " ".join(str(cell).split())[:_LONGEST] for cell in cells)
