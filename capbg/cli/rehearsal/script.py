"""What a rehearsal does to the program, and when: ``TSTP@2 CONT@5 TERM@8``.

This file must not know how a signal is sent.
"""

import re
import signal
from dataclasses import dataclass
from enum import Enum

_STEP = re.compile(r"(?P<hand>kill:)?(?:SIG)?(?P<name>[A-Z0-9+]+)@(?P<at>\d+(?:\.\d+)?|\.\d+)s?", re.IGNORECASE)
_PAUSE_S = 1.0
"""Between steps that are added: long enough to be seen, and beyond capbg's second for duplicates."""


class Anchor(Enum):
    """What a step's time counts from."""

    READY = "the start"
    BEFORE = "the step before it"
    SUSPENDED = "the instant at which the main process has stopped, or has had its time for that"


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do."""

    signum: signal.Signals
    after_s: float
    stop: bool
    """``systemctl stop`` with this as KillSignal=; False: the signal alone, to the main process, by hand."""
    anchor: Anchor = Anchor.READY

    @property
    def text(self) -> str:
        """For a person."""
        return f"stop by {self.signum.name}" if self.stop else self.signum.name


class ScriptError(ValueError):
    """A script that does not parse: the message says where and what would."""


def parse(text: str) -> tuple[Step, ...]:
    """Read a script: words like ``TERM@8`` (a signal, and seconds after the start), in the order of their times.

    The first TERM or INT is a stop, as ``systemctl stop`` does it; any other signal, ``kill:TERM``, and what comes
    behind the stop are sent to the main process by hand, as ``systemctl kill --kill-whom=main`` does. A script without
    a stop gets one, a second behind its last step.

    Raises:
        ScriptError: a word is no signal and time, or the times go backwards.
    """
    steps: list[Step] = []
    stopped = False
    for word in text.replace(",", " ").split():
        found = _STEP.fullmatch(word)
        if found is None:
            raise ScriptError(f"{word!r} is no step: write a signal and seconds after the start, as in TERM@8")
        name = found["name"].upper()
        number = getattr(signal.Signals, f"SIG{name}", None)
        if number is None:
            raise ScriptError(f"{word!r}: there is no signal {name}: TERM, INT, TSTP, CONT, KILL, HUP, USR1...")
        after_s = float(found["at"])
        if steps and after_s < steps[-1].after_s:
            raise ScriptError(f"{word!r} comes before {steps[-1].after_s:g} s, the time of the step before it")
        stop = number in {signal.SIGTERM, signal.SIGINT} and found["hand"] is None and not stopped
        stopped = stopped or stop
        steps.append(Step(number, after_s, stop))
    if not steps:
        raise ScriptError("the script is empty: write a signal and seconds after the start, as in TERM@8")
    return tuple(steps) if stopped else (*steps, Step(signal.SIGTERM, _PAUSE_S, stop=True, anchor=Anchor.BEFORE))


def of_signal(signum: signal.Signals, after_s: float) -> tuple[Step, ...]:
    """The script of one signal: a stop; or a suspension with a resume and a stop behind it."""
    if signum is not signal.SIGTSTP:
        return (Step(signum, after_s, stop=True),)
    return (
        Step(signum, after_s, stop=False),
        Step(signal.SIGCONT, _PAUSE_S, stop=False, anchor=Anchor.SUSPENDED),
        Step(signal.SIGTERM, _PAUSE_S, stop=True, anchor=Anchor.BEFORE),
    )
