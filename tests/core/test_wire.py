"""Packets: there and back, and no bytes that are anything else than a packet or garbage."""

import pickle
import struct

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from capbg._core import wire
from capbg._core.words import Progress

PURE = settings(deadline=None, database=None)

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=300)
"""Text with everything in it, surrogates too: a file name that is not UTF-8 has some."""
SHORT = st.text(max_size=40)
"""Valid text, within every limit."""
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)

PACKETS: st.SearchStrategy[wire.Packet] = st.one_of(
    st.just(wire.Finish()),
    st.just(wire.Returned()),
    st.builds(wire.Raised, type=SHORT, message=SHORT, traceback=SHORT),
    st.builds(wire.Unarmed, reason=SHORT),
    st.builds(wire.ExpiryBegun, cause=st.sampled_from(wire.Cause)),
    st.builds(wire.Note, text=SHORT),
    st.builds(
        wire.ProgressMade,
        progress=st.builds(Progress, done=NUMBERS, total=st.none() | NUMBERS, message=st.none() | SHORT),
    ),
)

TALKATIVE: st.SearchStrategy[wire.Packet] = st.one_of(
    st.builds(wire.Raised, type=ANY_TEXT, message=ANY_TEXT, traceback=ANY_TEXT),
    st.builds(wire.Unarmed, reason=ANY_TEXT),
    st.builds(wire.Note, text=ANY_TEXT),
    st.builds(wire.ProgressMade, progress=st.builds(Progress, done=NUMBERS, message=ANY_TEXT)),
)


@PURE
@given(PACKETS)
def test_every_packet_comes_back_as_it_went(packet: wire.Packet) -> None:
    """What a worker says is what the app hears, an empty message apart from none, a total of 0 apart from none."""
    assert packet == wire.decode(wire.encode(packet))


@PURE
@given(TALKATIVE)
@example(wire.Note("\udcff\ud800 name"))
@example(wire.Raised("É" * 500, "\U0001f4f7" * 5_000, "line\n" * 50_000))
@example(wire.Raised("E", "\udcff" * 9_000, "\udcff" * 90_000))
def test_whatever_the_text_it_can_be_sent_and_fits(packet: wire.Packet) -> None:
    """No text makes ``encode`` raise, none makes a packet too large, and none is garbage to the app."""
    data = wire.encode(packet)
    assert len(data) <= wire.LARGEST
    assert type(packet) is type(wire.decode(data))


def test_long_text_keeps_the_end_of_a_traceback_and_the_beginning_of_the_rest() -> None:
    """The last lines of a traceback tell what happened, the first words of a message do; no character is cut in two."""
    packet = wire.decode(wire.encode(wire.Raised("T" * 300, "a" + "é" * 4_001, "first\n" + "ü" * 50_000 + "last!")))
    assert isinstance(packet, wire.Raised)
    assert "T" * 200 == packet.type
    assert "a" + "é" * 1_999 == packet.message
    assert packet.traceback.endswith("ülast!")
    assert not packet.traceback.startswith("first")
    assert 39_998 <= len(packet.traceback.encode()) <= 40_000
    progress = wire.decode(wire.encode(wire.ProgressMade(Progress(1.0, message="a" + "é" * 500))))
    assert wire.ProgressMade(Progress(1.0, message="a" + "é" * 99)) == progress


def test_a_surrogate_is_spelled_out() -> None:
    """What is not UTF-8 is shown as an escape, so that a person can read it."""
    assert wire.Note("caf\\udce9") == wire.decode(wire.encode(wire.Note("caf\udce9")))


KINDS = st.sampled_from(list(b"FRENUPXGA"))


@settings(PURE, max_examples=400)
@given(st.binary(max_size=200) | st.builds(lambda kind, body: bytes([kind]) + body, KINDS, st.binary(max_size=120)))
@example(b"")
@example(b"X" + struct.pack("!HHH", 0, 0, 1))
@example(b"X" + struct.pack("!HHH", 65535, 65535, 65535))
@example(b"P" + struct.pack("!dd?", float("nan"), 1.0, True))
@example(b"P" + struct.pack("!dd?", 1.0, float("inf"), False))
@example(b"P" + struct.pack("!dd?", 1.0, 1.0, True) + b"x")
@example(b"N\xff")
@example(b"FF")
@example(b"E")
@example(pickle.dumps(wire.Finish()))
def test_arbitrary_bytes_are_a_packet_or_garbage(data: bytes) -> None:
    """Nothing but :class:`GarbageError` comes out of bytes that are no packet, and what is one can be sent again."""
    try:
        packet = wire.decode(data)
    except wire.GarbageError:
        return
    assert packet == wire.decode(wire.encode(packet))
    # Only progress has more than one spelling: its flag is a byte, and a total that is not there has a value.
    assert isinstance(packet, wire.ProgressMade) or data == wire.encode(packet)


@pytest.mark.parametrize("length", [wire.LARGEST + 1, wire.LARGEST * 2])
def test_a_packet_that_is_too_large_is_garbage_whatever_it_holds(length: int) -> None:
    """The limit holds for the app, too: a worker cannot make it keep more."""
    with pytest.raises(wire.GarbageError, match=f"a packet of more than {wire.LARGEST} bytes"):
        wire.decode(b"N" + b"x" * (length - 1))
    assert wire.Note("x" * (wire.LARGEST - 1)) == wire.decode(b"N" + b"x" * (wire.LARGEST - 1))


@PURE
@given(PACKETS, st.integers(0, 10_000), st.binary(min_size=1, max_size=8))
def test_a_packet_that_was_cut_or_added_to_never_becomes_a_finish(packet: wire.Packet, cut: int, more: bytes) -> None:
    """Whatever happens to other words, none of them turns into the word that a task is done."""
    data = wire.encode(packet)
    for changed in (data[: cut % len(data)], data + more):
        try:
            found = wire.decode(changed)
        except wire.GarbageError:
            continue
        assert not isinstance(found, wire.Finish)


def test_the_ready_made_packets_are_the_packets() -> None:
    """What a worker at its memory limit sends without allocating is what ``encode`` would have made."""
    assert wire.FINISH == wire.encode(wire.Finish())
    assert wire.RETURNED == wire.encode(wire.Returned())
    assert 1 == len(wire.ACKNOWLEDGED)


INSTANTS = st.integers(-(2**63), 2**63 - 1)


@PURE
@given(INSTANTS, INSTANTS, INSTANTS, INSTANTS)
def test_the_first_packet_of_the_app_comes_back_as_it_went(
    soft_ns: int, hard_ns: int, soft_s: int, hard_s: int
) -> None:
    """The two instants a worker lives by arrive to the nanosecond, and so does its CPU time."""
    data = wire.encode_go(soft_ns=soft_ns, hard_ns=hard_ns, cpu_s=(soft_s, hard_s))
    assert wire.GO_SIZE == len(data)
    assert (soft_ns, hard_ns, soft_s, hard_s) == wire.decode_go(data)


@PURE
@given(st.binary(max_size=40))
@example(b"G")
@example(wire.encode_go(soft_ns=1, hard_ns=2, cpu_s=(3, 4)) + b"\0")
def test_a_first_packet_that_is_none_is_garbage(data: bytes) -> None:
    """A worker that gets anything else as its first packet does not begin."""
    if data[:1] == b"G" and len(data) == wire.GO_SIZE:
        soft_ns, hard_ns, *cpu_s = wire.decode_go(data)
        assert data == wire.encode_go(soft_ns=soft_ns, hard_ns=hard_ns, cpu_s=(cpu_s[0], cpu_s[1]))
        return
    with pytest.raises(wire.GarbageError):
        wire.decode_go(data)
