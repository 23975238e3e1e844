"""What the user may ask for, checked at the edge: durations, sizes, names and limits.

Pure: whether the *machine* grants a limit is asked elsewhere (``_os/limits.py``). Every refusal names the parameter.
"""

import math
import re
from dataclasses import dataclass

from capbg._core.words import NS
from capbg.errors import InvalidArgumentError, InvalidEnvironmentError, WrongTypeError

LONGEST_S = 366 * 24 * 3600.0
"""The longest duration taken, in seconds: a year. It keeps every sum of instants far from 2**63 nanoseconds."""

_UNITS = {"": 1, "B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"\s*(\d{1,20}(?:\.\d{1,20})?)\s*([KMGT]?)(?:i?B)?\s*", re.IGNORECASE)
_LARGEST_SIZE = (1 << 62) - 1


def seconds(value: object, parameter: str, *, zero: bool = False) -> float:
    """Return ``value`` as seconds: finite, positive (or zero where ``zero``), at most a year."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise WrongTypeError(f"{parameter} must be a number of seconds, not {type(value).__name__} ({value!r})")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if math.isnan(number) or math.isinf(number) or number > LONGEST_S:
        raise InvalidArgumentError(f"{parameter} must be a finite number of seconds, at most a year, not {value!r}")
    if number < 0 or (number == 0 and not zero):
        least = "0 or more" if zero else "more than 0"
        raise InvalidArgumentError(f"{parameter} must be {least} seconds, not {value!r}")
    return number


def seconds_from_environment(text: str, variable: str) -> float:
    """Return an environment variable's text as seconds: a number above 0, at most a year."""
    try:
        return seconds(float(text), variable)
    except ValueError as error:
        raise InvalidEnvironmentError(
            f"the environment variable {variable} must be a number of seconds above 0, such as 180, not {text!r}"
        ) from error


def nanoseconds(value_s: float) -> int:
    """Seconds as integer nanoseconds, at least one for anything above zero."""
    return math.ceil(value_s * NS)


def whole(value: object, parameter: str, *, least: int, most: int) -> int:
    """Return ``value`` as an int between ``least`` and ``most``."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise WrongTypeError(f"{parameter} must be a whole number, not {type(value).__name__} ({value!r})")
    if not least <= value <= most:
        raise InvalidArgumentError(f"{parameter} must be between {least} and {most}, not {value!r}")
    return value


def size(value: object, parameter: str) -> int:
    """Return ``value`` in bytes: an int, or text such as ``"256M"`` (K, M, G, T are powers of 1024)."""
    if isinstance(value, str):
        match = _SIZE.fullmatch(value)
        if match is None:
            raise InvalidArgumentError(f'{parameter} must be bytes or text such as "256M", not {value!r}')
        value = math.floor(float(match[1]) * _UNITS[match[2].upper()])
    return whole(value, parameter, least=1, most=_LARGEST_SIZE)


def name(value: object, parameter: str) -> str:
    """Return ``value`` if it can be a name in ``ps``, a log line and systemd's status: one printable line."""
    if not isinstance(value, str):
        raise WrongTypeError(f"{parameter} must be text, not {type(value).__name__} ({value!r})")
    if not value.strip() or not value.isprintable() or len(value) > 200:
        raise InvalidArgumentError(f"{parameter} must be one printable line of 1 to 200 characters, not {value!r}")
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one worker may use. The kernel enforces each of them (setrlimit(2), setpriority(2)).

    ``cpu``
        seconds of CPU time; at the limit the task expires softly, ``kill_after`` (rounded up to whole seconds) of CPU
        time later the kernel kills it. None: a backstop, enough for every usable CPU to be busy until the hard
        deadline. The kernel counts whole seconds, so fractions are rounded up.
    ``memory``
        bytes, or text such as ``"256M"``, of address space on top of what the worker inherited (RLIMIT_AS); beyond
        it an allocation fails with MemoryError.
    ``files``
        descriptors the task may have open on top of those it inherited (RLIMIT_NOFILE); beyond it EMFILE.
    ``file_size``
        bytes, or text, of the largest file it may write (RLIMIT_FSIZE); beyond it EFBIG.
    ``nice``
        added to the niceness of the process, -20 to 19; less than 0 needs CAP_SYS_NICE.

    Raises :class:`~capbg.WrongTypeError` or :class:`~capbg.InvalidArgumentError`, naming the parameter.
    """

    cpu: float | None = None
    memory: int | str | None = None
    files: int | None = None
    file_size: int | str | None = None
    nice: int | None = None

    def __post_init__(self) -> None:
        if self.cpu is not None:
            seconds(self.cpu, "Limits(cpu)")
        if self.memory is not None:
            object.__setattr__(self, "memory", size(self.memory, "Limits(memory)"))
        if self.files is not None:
            whole(self.files, "Limits(files)", least=1, most=1 << 20)
        if self.file_size is not None:
            object.__setattr__(self, "file_size", size(self.file_size, "Limits(file_size)"))
        if self.nice is not None:
            whole(self.nice, "Limits(nice)", least=-20, most=19)

    @property
    def memory_bytes(self) -> int | None:
        """``memory`` in bytes."""
        return None if self.memory is None else int(self.memory)

    @property
    def file_size_bytes(self) -> int | None:
        """``file_size`` in bytes."""
        return None if self.file_size is None else int(self.file_size)


NO_LIMITS = Limits()


def cpu_limits(limits: Limits, *, until_hard_ns: int, kill_after_ns: int, usable_cpus: int) -> tuple[int, int]:
    """RLIMIT_CPU for a worker: (soft, hard) in whole seconds, with soft < hard so that SIGXCPU comes first.

    Without a limit of the user's it is a backstop that no worker inside its deadline can reach: every usable CPU busy
    from now to the hard deadline, and a second more for the kernel's rounding.
    """
    if limits.cpu is None:
        soft = math.ceil(until_hard_ns / NS * usable_cpus) + 1
        return soft, soft + 1
    soft = math.ceil(limits.cpu)
    return soft, soft + max(1, math.ceil(kill_after_ns / NS))
