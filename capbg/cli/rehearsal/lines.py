"""A rehearsal as plain lines, one for each thing that happens: for a pipe, a file, CI. No colour, nothing is wrapped.

It knows nothing of terminals. The columns never move: seconds since the program's start, whose doing it was, the text.
"""

from collections.abc import Callable

from capbg._core.words import NS
from capbg.cli.rehearsal.looks import clean, instant, told
from capbg.cli.rehearsal.record import Entry, Now


class Lines:
    """Writes each entry once. ``write`` takes a line without its newline and should flush it, like ``click.echo``."""

    def __init__(self, write: Callable[[str], object], *, encoding: str = "utf-8") -> None:
        self._write = write
        self._encoding = encoding
        self._written = 0

    def entry(self, entry: Entry, began_ns: int) -> None:
        """Write one entry, ``began_ns`` being when the program was started."""
        at = instant((entry.at_ns - began_ns) / NS)
        self._write(clean(f"{at:>9}  {entry.who.value:<8} {told(entry)}", self._encoding).rstrip())

    def show(self, now: Now) -> None:
        """Write what has come since the last call: the face that a ``Screen`` has, too."""
        for entry in now.entries[self._written :]:
            self.entry(entry, now.began_ns)
        self._written = len(now.entries)
