"""What a check has found: values, and no knowledge of how they were found or are shown."""

from dataclasses import dataclass
from enum import Enum


class Level(Enum):
    """How bad it is."""

    ERROR = "error"
    """A stop will lose work, or the service does not even start."""
    WARNING = "warning"
    """A stop loses work in some cases, or tells people the wrong thing."""
    NOTE = "note"
    """Worth knowing; nothing is wrong with it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that would go wrong, why, and what to do."""

    level: Level
    rule: str
    """The rule's name, for scripts: ``kill-mode``, ``stop-timeout``..."""
    where: str
    """The file that says so, or ``process 123``."""
    line: int | None
    """The line in that file; None: it is what is missing there."""
    what: str
    """The setting or fact as it stands: ``KillMode=process``."""
    why: str
    """What comes of it, in a sentence."""
    fix: str
    """What to do, in a sentence or as the line to write."""
