"""Values: frozen, compared by type and fields, matched by position.

What ``dataclass(frozen=True)`` makes as well, but by compiling four functions for each class: 0.7 ms each, 35 classes,
and every program pays that on entering its app. Here they share one of each. For what users see, and for what has
defaults to compute, a dataclass it is.
"""

from typing import Never, dataclass_transform


@dataclass_transform(frozen_default=True)
class Value:
    """Fields are the annotations of the class, in order; class attributes of the same name are defaults."""

    __match_args__: tuple[str, ...] = ()

    def __init_subclass__(cls) -> None:
        cls.__match_args__ = tuple(cls.__annotations__)  # type: ignore[misc]  # what it makes of the decorator above

    def __init__(self, *values: object, **named: object) -> None:
        fields = self.__match_args__
        state = self.__dict__
        if len(values) > len(fields):
            raise TypeError(f"{type(self).__name__} takes {len(fields)} values, not {len(values)}")
        state.update(zip(fields, values))  # noqa: B905 - the rest are named or have defaults
        if named or len(values) < len(fields):
            for name, value in named.items():
                if name not in fields or name in state:
                    raise TypeError(f"{type(self).__name__} takes no {name!r} here")
                state[name] = value
            for name in fields:
                if name not in state:
                    if not hasattr(type(self), name):
                        raise TypeError(f"{type(self).__name__} needs {name!r}")
                    state[name] = getattr(type(self), name)

    def __setattr__(self, name: str, value: object) -> Never:
        raise AttributeError(f"{type(self).__name__} is a value: {name!r} cannot be set")

    def __eq__(self, other: object) -> bool:
        return self.__dict__ == other.__dict__ if type(other) is type(self) else NotImplemented

    def __hash__(self) -> int:
        return hash((type(self), *map(self.__dict__.get, self.__match_args__)))

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in self.__dict__.items())
        return f"{type(self).__name__}({fields})"
