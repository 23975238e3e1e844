"""What systemd is told, and when. The only file that says "usec".

The facts (measured on systemd 252 and read in its source, ``src/core/service.c``)
=================================================================================

* EXTEND_TIMEOUT_USEC= is relative to its arrival and only ever lengthens. One sent before SIGTERM is lost: entering the
  stop re-arms the timer. So it stands in the first datagram of a stop, and comes again and again.
* systemd forgets every extension on ``daemon-reload``: TimeoutStopSec= has to cover the longest grace by itself, an
  extension is a heartbeat on top of it.
* STOPPING=1 in a unit that is not being stopped makes systemd count it as stopping: never for a suspension.
* WATCHDOG=1 re-arms the watchdog even while stopping, and WATCHDOG_USEC= counts from its arrival; an extension moves
  the watchdog, too. So a stop sets the watchdog to at least one extension and then lives by extensions alone: a
  supervisor that hangs is found out, one that works is not bothered. At the end it is switched off, since nobody can
  feed it while the program's own ``finally`` blocks run.
* Where the unit has no watchdog, WATCHDOG_USEC= would switch one on: it is sent only where systemd gave us one.

This file must not know how a datagram is sent.
"""

from capbg._core.words import NS

EXTENSION_NS = 10 * NS
"""How long one extension lasts, unless the end is nearer."""
BEAT_NS = NS
"""How often systemd hears of us in a grace period: ten beats may be missed before an extension runs out."""
EXIT_MARGIN_NS = 3 * NS
"""What the last extension leaves beyond the last hard expiry: for the leaving itself, and for systemd's timer slack."""


def _usec(duration_ns: int) -> int:
    return max(1, -(-duration_ns // 1000))


def _datagram(*fields: str) -> str:
    return "\n".join(fields)


def _status(text: str) -> str:
    return "STATUS=" + " ".join(text.split())


class Notices:
    """The datagrams of one app. ``watchdog_ns``: the interval systemd demands (None: no watchdog)."""

    def __init__(self, watchdog_ns: int | None) -> None:
        self.watchdog_ns = watchdog_ns
        self._last_ping_ns: int | None = None

    def ready(self, status: str) -> str:
        """The program is up."""
        return _datagram("READY=1", _status(status))

    def stopping(self, *, now: int, end_ns: int, status: str) -> str:
        """First of all in a stop. ``end_ns``: the last hard expiry possible."""
        extend = f"EXTEND_TIMEOUT_USEC={_usec(self._extension(now, end_ns))}"
        if self.watchdog_ns is None:
            return _datagram("STOPPING=1", extend, _status(status))
        watchdog = f"WATCHDOG_USEC={_usec(max(self.watchdog_ns, EXTENSION_NS))}"
        return _datagram("STOPPING=1", watchdog, extend, _status(status))

    def extending(self, *, now: int, end_ns: int, status: str) -> str:
        """A beat of a stop: an extension while a task is inside its deadlines, and none beyond."""
        if end_ns <= now:
            return _status(status)
        return _datagram(f"EXTEND_TIMEOUT_USEC={_usec(self._extension(now, end_ns))}", _status(status))

    def stopped(self, status: str) -> str:
        """The last word of a stop."""
        if self.watchdog_ns is None:
            return _status(status)
        return _datagram("WATCHDOG_USEC=0", _status(status))

    def suspending(self, status: str) -> str:
        """First of all in a suspension, before anything slow: a stopped process cannot feed a watchdog."""
        if self.watchdog_ns is None:
            return _status(status)
        return _datagram("WATCHDOG_USEC=0", _status(status))

    def resumed(self, *, now: int, status: str) -> str:
        """Back to work: the watchdog is armed again."""
        if self.watchdog_ns is None:
            return _status(status)
        self._last_ping_ns = now
        return _datagram(f"WATCHDOG_USEC={_usec(self.watchdog_ns)}", "WATCHDOG=1", _status(status))

    def status(self, status: str) -> str:
        """A line for a person, nothing else."""
        return _status(status)

    def ping(self, now: int) -> str | None:
        """A proof of life, or None where none is wanted: no watchdog, or the last one is younger than a quarter."""
        if self.watchdog_ns is None:
            return None
        if self._last_ping_ns is not None and now - self._last_ping_ns < self.watchdog_ns // 4:
            return None
        self._last_ping_ns = now
        return "WATCHDOG=1"

    def ping_due_ns(self, now: int) -> int | None:
        """When a loop that drives the app should take a turn to ping: half an interval after the last ping."""
        if self.watchdog_ns is None:
            return None
        return now if self._last_ping_ns is None else self._last_ping_ns + self.watchdog_ns // 2

    def _extension(self, now: int, end_ns: int) -> int:
        return min(EXTENSION_NS, max(0, end_ns - now) + EXIT_MARGIN_NS)
