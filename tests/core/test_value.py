"""``_core/value.py``: values behave as frozen dataclasses do."""

import pytest

from capbg._core.value import Value


class Point(Value):
    """Two fields, one with a default."""

    x: int
    y: int = 7


class Place(Value):
    """The same fields, another type."""

    x: int
    y: int = 7


class Nothing(Value):
    """No field."""


def test_fields_come_by_position_by_name_and_by_default() -> None:
    """All three ways make the same value, equal, of one hash, and shown by its fields."""
    values = [Point(1), Point(1, 7), Point(y=7, x=1), Point(1, y=7)]
    assert [Point(1, 7)] * 4 == values
    assert 1 == len(set(values))
    assert "Point(x=1, y=7)" == repr(values[0])
    assert "Nothing()" == repr(Nothing())


def test_values_of_another_type_or_with_other_fields_differ() -> None:
    """A killed worker is not an expired one, though both are told by an id."""
    assert Point(1) != Place(1)
    assert Point(1) != Point(2)
    assert Point(1) != (1, 7)
    assert Nothing() == Nothing()
    assert 2 == len({Point(1), Place(1)})


def test_they_are_matched_by_position_and_do_not_change() -> None:
    """``case Point(x, y)`` binds the fields in their order; setting one raises."""
    match Point(1, 2):
        case Place():
            found = None
        case Point(x, y):
            found = x, y
    assert (1, 2) == found
    with pytest.raises(AttributeError, match="'x' cannot be set"):
        Point(1).x = 2  # type: ignore[misc]


@pytest.mark.parametrize(
    ("values", "named", "text"),
    [
        ((), {}, "needs 'x'"),
        ((1, 2, 3), {}, "takes 2 values, not 3"),
        ((1,), {"z": 1}, "takes no 'z' here"),
        ((1,), {"x": 1}, "takes no 'x' here"),
    ],
)
def test_what_does_not_fit_raises(values: tuple[int, ...], named: dict[str, int], text: str) -> None:
    """Too few, too many, an unknown name, the same field twice: the error names it."""
    with pytest.raises(TypeError, match=text):
        Point(*values, **named)
