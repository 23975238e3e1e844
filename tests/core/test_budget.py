"""What users may ask for: durations, sizes, names, limits; every refusal names the parameter."""

import math
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capbg._core import budget
from capbg._core.budget import LONGEST_S, NO_LIMITS, Limits, cpu_limits
from capbg._core.words import NS
from capbg.errors import (
    CapbgError,
    InvalidArgumentError,
    InvalidEnvironmentError,
    OperatorError,
    UsageError,
    WrongTypeError,
)

PURE = settings(deadline=None, database=None)


class OddFloat(float):
    """A subclass, such as numpy's float64 is one."""


@pytest.mark.parametrize("value", [1, 0.001, LONGEST_S, int(LONGEST_S), 5e-324, OddFloat(2.5)])
def test_a_duration_is_any_positive_number_of_seconds_up_to_a_year(value: float) -> None:
    """Ints and floats alike, and what comes back is a float."""
    assert float(value) == budget.seconds(value, "App(grace)")


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf, -1, -0.001, 0, 0.0, -0.0, LONGEST_S + 1, 10**400, -(10**400)]
)
def test_a_duration_that_cannot_be_waited_for_is_refused_by_name(value: float) -> None:
    """NaN, infinity, negative, nothing, more than a year, beyond every float: the message names the parameter."""
    with pytest.raises(InvalidArgumentError, match=r"^App\(grace\) must be "):
        budget.seconds(value, "App(grace)")


def test_zero_is_a_duration_only_where_it_makes_sense() -> None:
    """``kill_after=0`` is at once; ``grace=0`` would be no grace period."""
    assert 0.0 == budget.seconds(0, "App(kill_after)", zero=True)
    with pytest.raises(InvalidArgumentError, match="0 or more seconds"):
        budget.seconds(-1e-9, "App(kill_after)", zero=True)


@pytest.mark.parametrize("value", [True, False, "5", None, b"5", [5], 5j, object()])
def test_a_duration_that_is_no_number_is_a_type_error_by_name(value: object) -> None:
    """A bool is no number of seconds, and text is not guessed at."""
    with pytest.raises(WrongTypeError, match=r"^before_exit\(deadline\) must be a number of seconds, not "):
        budget.seconds(value, "before_exit(deadline)")


@pytest.mark.parametrize("text", ["", "soon", "0", "-1", "nan", "inf", "1e400", "5 s"])
def test_a_duration_from_the_environment_is_the_operators_to_mend(text: str) -> None:
    """The error names the variable and its value, and tells what would do."""
    with pytest.raises(InvalidEnvironmentError, match="CAPBG_GRACE") as caught:
        budget.seconds_from_environment(text, "CAPBG_GRACE")
    assert repr(text) in str(caught.value)
    assert isinstance(caught.value, OperatorError)
    assert 2.5 == budget.seconds_from_environment(" 2.5 ", "CAPBG_GRACE")


@PURE
@given(st.floats(min_value=0, max_value=LONGEST_S))
def test_seconds_become_whole_nanoseconds(value_s: float) -> None:
    """What is above zero stays above zero, to a float's precision, and a year is far from the kernel's limit."""
    found = budget.nanoseconds(value_s)
    assert (found == 0) == (value_s == 0)
    exact = Fraction(value_s) * NS
    assert abs(found - exact) <= 1 + exact / 2**52
    assert found * 100 < 2**63


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (1, 1),
        ("1", 1),
        ("256M", 256 << 20),
        ("256m", 256 << 20),
        ("256 MB", 256 << 20),
        ("256MiB", 256 << 20),
        (" 1.5 G ", 3 << 29),
        ("2T", 2 << 40),
        ("64K", 64 << 10),
        ("100B", 100),
        ((1 << 62) - 1, (1 << 62) - 1),
    ],
)
def test_a_size_is_bytes_or_text(value: object, size: int) -> None:
    """K, M, G and T are powers of 1024, however they are spelled."""
    found = budget.size(value, "Limits(memory)")
    assert size == found
    assert int is type(found)


@pytest.mark.parametrize(
    "value", ["", "M", "-1M", "0x10", "1e3", "256 X", "1,5G", "nan", "inf", "1M1M", "0", "0.1", 0, -1]
)
def test_a_size_that_is_none_is_refused_by_name(value: object) -> None:
    """Text that is no size, and sizes of less than a byte."""
    with pytest.raises(InvalidArgumentError, match=r"^Limits\(memory\) must be "):
        budget.size(value, "Limits(memory)")


@pytest.mark.parametrize("value", [1 << 62, "9999999999T", "9" * 400, "9" * 400 + "T"])
def test_a_size_beyond_every_machine_is_refused(value: object) -> None:
    """setrlimit takes 63 bits: more is an error of the program's, not an OverflowError of ours."""
    with pytest.raises(InvalidArgumentError, match=r"^Limits\(memory\) must be "):
        budget.size(value, "Limits(memory)")


@pytest.mark.parametrize("value", [1.5, True, None, b"1M"])
def test_a_size_of_a_wrong_type_is_a_type_error(value: object) -> None:
    """Half a byte is no size, and a bool is no number."""
    with pytest.raises(WrongTypeError, match=r"^Limits\(memory\) must be "):
        budget.size(value, "Limits(memory)")


@PURE
@given(st.text(max_size=30))
def test_any_text_is_a_size_or_is_refused(text: str) -> None:
    """No text gets through as nonsense, or out as another error."""
    try:
        found = budget.size(text, "Limits(memory)")
    except InvalidArgumentError:
        return
    assert 1 <= found < 1 << 62


@pytest.mark.parametrize("value", ["a", "photo upload", "Größe €", "x" * 200])
def test_a_name_is_one_printable_line(value: str) -> None:
    """Whatever a person can read in ``ps`` and in a log line."""
    assert value == budget.name(value, "App(name)")


@pytest.mark.parametrize("value", ["", "  ", "a\nb", "a\0b", "\x1b[31m", "x" * 201, "\udcff", "a\tb"])
def test_a_name_that_would_break_a_line_is_refused_by_name(value: str) -> None:
    """Newlines would forge fields of systemd's, escapes colour the operator's terminal."""
    with pytest.raises(InvalidArgumentError, match=r"^App\(name\) must be one printable line"):
        budget.name(value, "App(name)")


@pytest.mark.parametrize("value", [None, 5, b"name", ["name"]])
def test_a_name_that_is_no_text_is_a_type_error(value: object) -> None:
    """Bytes are no name."""
    with pytest.raises(WrongTypeError, match=r"^App\(name\) must be text"):
        budget.name(value, "App(name)")


@pytest.mark.parametrize(
    ("parameter", "value", "error"),
    [
        ("cpu", 0, InvalidArgumentError),
        ("cpu", -1.0, InvalidArgumentError),
        ("cpu", math.nan, InvalidArgumentError),
        ("cpu", True, WrongTypeError),
        ("cpu", "5", WrongTypeError),
        ("memory", 0, InvalidArgumentError),
        ("memory", "lots", InvalidArgumentError),
        ("memory", 1.5, WrongTypeError),
        ("files", 0, InvalidArgumentError),
        ("files", (1 << 20) + 1, InvalidArgumentError),
        ("files", 5.0, WrongTypeError),
        ("file_size", "-5M", InvalidArgumentError),
        ("file_size", [], WrongTypeError),
        ("nice", 20, InvalidArgumentError),
        ("nice", -21, InvalidArgumentError),
        ("nice", False, WrongTypeError),
        ("nice", 1.0, WrongTypeError),
    ],
)
def test_a_bad_limit_raises_when_it_is_made_and_names_the_parameter(
    parameter: str, value: object, error: type[CapbgError]
) -> None:
    """The program learns of it where it wrote it, not at the signal."""
    options: dict[str, Any] = {parameter: value}
    with pytest.raises(error, match=rf"^Limits\({parameter}\) must be ") as caught:
        Limits(**options)
    assert isinstance(caught.value, UsageError)
    assert isinstance(caught.value, TypeError if error is WrongTypeError else ValueError)


def test_limits_are_kept_in_bytes() -> None:
    """Text is understood once, where it is checked."""
    limits = Limits(cpu=2.5, memory="256M", files=16, file_size="1G", nice=-5)
    assert (256 << 20, 1 << 30) == (limits.memory_bytes, limits.file_size_bytes)
    assert (256 << 20, 1 << 30) == (limits.memory, limits.file_size)
    assert (None, None) == (NO_LIMITS.memory_bytes, NO_LIMITS.file_size_bytes)


@PURE
@given(
    until_hard_ns=st.integers(0, 400 * 24 * 3600 * NS),
    kill_after_ns=st.integers(0, 1000 * NS),
    usable_cpus=st.integers(1, 4096),
)
def test_without_a_limit_no_worker_inside_its_deadline_reaches_the_backstop(
    until_hard_ns: int, kill_after_ns: int, usable_cpus: int
) -> None:
    """Every usable CPU busy from now to the hard deadline costs less CPU time than the backstop allows."""
    soft, hard = cpu_limits(
        NO_LIMITS, until_hard_ns=until_hard_ns, kill_after_ns=kill_after_ns, usable_cpus=usable_cpus
    )
    assert soft < hard
    assert soft * NS > until_hard_ns * usable_cpus
    assert hard < 2**63


@pytest.mark.parametrize(
    ("cpu", "kill_after_ns", "limits"),
    [
        (5.0, 2 * NS, (5, 7)),
        (4.2, 2 * NS, (5, 7)),
        (5.0, 2 * NS + 1, (5, 8)),
        (5.0, 0, (5, 6)),
        (0.01, NS // 2, (1, 2)),
    ],
)
def test_a_cpu_limit_is_rounded_up_and_warns_before_it_kills(
    cpu: float, kill_after_ns: int, limits: tuple[int, int]
) -> None:
    """The kernel counts whole seconds; soft below hard, so that SIGXCPU comes first."""
    assert limits == cpu_limits(Limits(cpu=cpu), until_hard_ns=99 * NS, kill_after_ns=kill_after_ns, usable_cpus=2)
