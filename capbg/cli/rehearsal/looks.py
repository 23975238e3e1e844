"""What the screen, the report and the picture share: colours by meaning, words for states, lengths of time, clean text.

It knows nothing of terminals and of how a rehearsal came about. The colours are those of the 256 whose contrast is
between 3 and 7 on white and on black alike. A terminal of 16 colours has others for them (:func:`legible`).
"""

import re

from rich.cells import cell_len, set_cell_size

from capbg._core.words import NS
from capbg.cli.rehearsal.record import NEVER, Entry, TaskSeen, Tone, Who

GOOD, BAD, WARN, CALM, ASIDE, FAINT = "color(28)", "color(160)", "color(130)", "color(32)", "color(127)", "color(243)"

SIXTEEN = {
    f"bold {GOOD}": "green",
    GOOD: "green",
    BAD: "red",
    WARN: "magenta",
    CALM: "bright_blue",
    ASIDE: "default",
    FAINT: "bright_black",
}
"""What stands for them among 16. The nearest, which rich would take, are cyan and yellow for two of them, and those are
pale on white, as white is; blue is lost on black. A bold green is a light green on many a terminal: pale, too."""

STATES = {
    "start": ("starting", CALM),
    "running": ("at work", GOOD),
    "suspended": ("stopped by itself, until SIGCONT", ASIDE),
    "stop-sigterm": ("told to stop", CALM),
    "stop-sigkill": ("killed, on its way out", BAD),
    "stop-watchdog": ("the watchdog's signal is out", BAD),
    "final-sigterm": ("what is left is told to stop", WARN),
    "final-sigkill": ("what is left is killed", BAD),
    "final-watchdog": ("what is left has the watchdog's signal", BAD),
    "dead": ("over", FAINT),
    "failed": ("over", BAD),
}
"""systemd's states: what they mean to a person, and a colour."""

WHO = {Who.SYSTEMD: CALM, Who.NOTIFY: ASIDE, Who.PROGRAM: FAINT, Who.TASK: WARN}
TONES = {Tone.PLAIN: "", Tone.GOOD: GOOD, Tone.BAD: BAD}
OPEN_TASKS = {"queued": FAINT, "registered": FAINT, "running": CALM, "expiring": WARN, "dying": BAD}
"""Tasks that are not settled; any other state is one of those on the way out after a finish."""

_UNSHOWN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


def legible(style: str, color_system: str | None) -> str:
    """``style`` for a terminal with rich's ``color_system``: one of 16 colours gets what can be read on any ground."""
    if color_system not in {"standard", "windows"}:
        return style
    for many, few in SIXTEEN.items():
        style = style.replace(many, few)
    return style


def clean(text: str, encoding: str = "utf-8") -> str:
    """``text`` as one line that a terminal shows and does not obey: escapes are spelt out, as is what it cannot say."""
    shown = _UNSHOWN.sub(lambda found: " " if found[0] == "\t" else _spelt(found[0]), text)
    return shown if encoding == "utf-8" else shown.encode(encoding, "backslashreplace").decode(encoding)


def _spelt(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def fit(text: str, cells: int, *, right: bool = False, more: str = "…") -> str:
    """``text`` in exactly ``cells`` columns of a terminal: cut with ``more`` or padded, on its left if ``right``."""
    spare = cells - cell_len(text)
    if spare >= 0:
        return " " * spare + text if right else text + " " * spare
    if cells <= len(more):
        return set_cell_size(text, cells)
    return set_cell_size(text, cells - len(more)) + more


def length(ns: int) -> str:
    """A length of time for a person: ``0.31 s``, ``8.3 s``, ``2 min 05 s``, ``1 h 05 min``; NEVER: ``no limit``."""
    if ns >= NEVER // 2:
        return "no limit"
    if ns <= 0:
        return "0 s"
    if ns < NS * 0.995:
        return f"{ns / NS:.2f} s"
    if ns < NS * 59.95:
        return f"{ns / NS:.1f} s"
    seconds = round(ns / NS)
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02} min"


def instant(seconds: float) -> str:
    """An instant as it is written everywhere, ``+2.31``."""
    return f"{seconds:+.2f}"


def task_colour(task: TaskSeen) -> str:
    """By what became of it, or what it is about to become."""
    if task.settled:
        return BAD if task.lost else GOOD
    return OPEN_TASKS.get(task.state, GOOD)


def told(entry: Entry) -> str:
    """An entry's text and, behind it, those fields of a notification that the text does not quote already."""
    fields = (f"{key}={value}" for key, value in entry.fields.items())
    return "  ".join([entry.text, *(field for field in fields if field not in entry.text)])


def count(number: int, thing: str, plural: str | None = None) -> str:
    """``1 task``, ``4 tasks``; ``plural`` where it is not made by an s."""
    return f"{number} {thing if number == 1 else plural or thing + 's'}"
