"""Packets between the app and a worker, as bytes.

One packet is one SOCK_SEQPACKET message: it arrives whole or not at all. Nothing is ever unpickled: a packet is one
kind byte and a body of fixed layout, and whatever does not parse raises :class:`GarbageError`. Text is UTF-8 and cut
to a limit, so that a packet fits any socket buffer. This file must not know what a packet leads to.
"""

import math
import struct
from enum import Enum

from capbg._core.value import Value
from capbg._core.words import Progress

LARGEST = 65_536
"""Bytes of the largest packet. A reader asks for one more, so that an oversized one is seen as garbage."""

_NAME_LIMIT = 200
_MESSAGE_LIMIT = 4_000
_TRACEBACK_LIMIT = 40_000
_PROGRESS = struct.Struct("!dd?")
_LENGTHS = struct.Struct("!HHH")
_GO = struct.Struct("!qqqq")
_unpack_go = _GO.unpack_from

GO_SIZE = 1 + _GO.size
"""Bytes of the app's first packet."""


class GarbageError(ValueError):
    """The bytes are no packet."""


class Cause(Enum):
    """Why a worker expires softly."""

    DEADLINE = b"d"
    CPU = b"c"


class Finish(Value):
    """Worker to app: the task is done. The worker waits for :data:`ACKNOWLEDGED`."""


class Returned(Value):
    """Worker to app: the callback returned, or left by TaskExpired; the worker leaves now."""


class Raised(Value):
    """Worker to app: the callback raised; the worker leaves now."""

    type: str
    message: str
    traceback: str


class Unarmed(Value):
    """Worker to app: a limit the user asked for could not be set, so the callback was never called."""

    reason: str


class ExpiryBegun(Value):
    """Worker to app: the soft expiry has begun by the worker's own timers."""

    cause: Cause


class Note(Value):
    """Worker to app: a line for the log."""

    text: str


class ProgressMade(Value):
    """Worker to app: how far it is."""

    progress: Progress


Packet = Finish | Returned | Raised | Unarmed | ExpiryBegun | Note | ProgressMade

ACKNOWLEDGED = b"A"
FINISH = b"F"
"""Ready-made, so that a worker at its memory limit needs no allocation to finish."""
RETURNED = b"R"

_BARE: dict[bytes, Packet] = {FINISH: Finish(), RETURNED: Returned()}


def _text(text: str, limit: int, *, tail: bool = False) -> bytes:
    data = text.encode("utf-8", "backslashreplace")
    if len(data) <= limit:
        return data
    cut = data[-limit:] if tail else data[:limit]
    return cut.decode("utf-8", "ignore").encode()


def encode(packet: Packet) -> bytes:  # noqa: PLR0911 - one arm a packet
    """Return the packet's bytes; text beyond the limits is cut (a traceback keeps its end)."""
    match packet:
        case Finish():
            return FINISH
        case Returned():
            return RETURNED
        case ExpiryBegun(cause):
            return b"E" + cause.value
        case Note(text):
            return b"N" + _text(text, _MESSAGE_LIMIT)
        case Unarmed(reason):
            return b"U" + _text(reason, _MESSAGE_LIMIT)
        case ProgressMade(Progress(done, total, message)):
            head = _PROGRESS.pack(done, total if total is not None else 0.0, total is not None)
            return b"P" + head + (b"" if message is None else b"m" + _text(message, _NAME_LIMIT))
        case Raised(kind, message, traceback):
            parts = (
                _text(kind, _NAME_LIMIT),
                _text(message, _MESSAGE_LIMIT),
                _text(traceback, _TRACEBACK_LIMIT, tail=True),
            )
            return b"X" + _LENGTHS.pack(*map(len, parts)) + b"".join(parts)


def decode(data: bytes) -> Packet:
    """Return the packet in ``data``, or raise :class:`GarbageError`."""
    bare = _BARE.get(data)
    if bare is not None:
        return bare
    if len(data) > LARGEST:
        raise GarbageError(f"a packet of more than {LARGEST} bytes")
    kind, body = data[:1], data[1:]
    try:
        match kind:
            case b"E":
                return ExpiryBegun(Cause(body))
            case b"N":
                return Note(body.decode())
            case b"U":
                return Unarmed(body.decode())
            case b"P":
                return ProgressMade(_progress(body))
            case b"X":
                return _raised(body)
    except (ValueError, struct.error) as error:
        raise GarbageError(f"a packet of kind {kind!r} that does not parse: {error}") from error
    raise GarbageError(f"a packet of unknown kind ({data[:16]!r}, {len(data)} bytes)")


def _progress(body: bytes) -> Progress:
    done, total, has_total = _PROGRESS.unpack(body[: _PROGRESS.size])
    rest = body[_PROGRESS.size :]
    if not (math.isfinite(done) and math.isfinite(total)):
        raise ValueError("not a finite number")
    if rest and rest[:1] != b"m":
        raise ValueError("trailing bytes")
    return Progress(done, total if has_total else None, rest[1:].decode() if rest else None)


def _raised(body: bytes) -> Raised:
    lengths = _LENGTHS.unpack(body[: _LENGTHS.size])
    rest = body[_LENGTHS.size :]
    if sum(lengths) != len(rest):
        raise ValueError("lengths do not add up")
    first, second = lengths[0], lengths[0] + lengths[1]
    return Raised(rest[:first].decode(), rest[first:second].decode(), rest[second:].decode())


def encode_go(*, soft_ns: int, hard_ns: int, cpu_s: tuple[int, int]) -> bytes:
    """Return the bytes of the app's only word to a worker before the acknowledgement: start, and keep these limits.

    Two instants of CLOCK_MONOTONIC, in ns, and RLIMIT_CPU, soft and hard, in seconds.
    """
    return b"G" + _GO.pack(soft_ns, hard_ns, *cpu_s)


def decode_go(data: bytes) -> tuple[int, int, int, int]:
    """Return the four numbers of :func:`encode_go`, in order, or raise :class:`GarbageError`."""
    if data[:1] != b"G" or len(data) != GO_SIZE:
        raise GarbageError(f"not the app's first packet: {data[:16]!r}")
    # A plain tuple: a worker unpacks it on its way to the task, where each object of another type costs.
    return _unpack_go(data, 1)
