"""The lines of a unit file, read as systemd reads them: it knows no setting, no directory, and no rule.

What systemd would log and skip is skipped here, too, and becomes a finding; what makes it give up the file raises
:class:`BrokenFileError`. The rules are those of systemd.syntax(7) and of config_parse() in systemd's conf-parser.c
(252).

Rejected: configparser and what is built on it (``systemdunitparser``), because lines, repeated keys and resets get
lost; ``systemd-unit-edit``, because it refuses a whole file for one bad line, where systemd goes on, and tells no line
numbers.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from .findings import Finding, Level

LONGEST_LINE = 1 << 20
"""LONG_LINE_MAX of systemd, in bytes; it gives up a file with a longer line."""

_BLANK = b" \t\n\r"
_LINE_END = re.compile(rb"(?:\r\n|\n\r|\n|\r)\0?|\0")  # read_line_full(): a NUL ends a line, too
_BOM = b"\xef\xbb\xbf"


class BrokenFileError(Exception):
    """systemd gives up this file altogether. ``line`` is where."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


@dataclass(frozen=True, slots=True)
class Setting:
    """One assignment, where it stands."""

    section: str
    key: str
    value: str
    where: str
    """The file."""
    line: int
    """Its first line, counted from 1."""


def parse(content: bytes, where: str) -> tuple[list[Setting], list[Finding]]:
    """Return the assignments of a file in their order, and the lines that systemd skips.

    Raises:
        BrokenFileError: systemd would not load a unit with this file.
    """
    settings, findings, broken = parse_drop_in(content, where)
    if broken:
        raise broken
    return settings, findings


def parse_drop_in(content: bytes, where: str) -> tuple[list[Setting], list[Finding], BrokenFileError | None]:
    """Return the same of a drop-in, and where systemd gives it up, if it does: what stands before that line holds."""
    settings: list[Setting] = []
    findings: list[Finding] = []
    try:
        _read(content, where, settings, findings)
    except BrokenFileError as error:
        return settings, findings, error
    return settings, findings, None


def _read(content: bytes, where: str, settings: list[Setting], findings: list[Finding]) -> None:
    section: str | None = None

    def skipped(line: int, what: str, why: str, fix: str) -> None:
        findings.append(Finding(Level.WARNING, "syntax", where, line, what, why, fix))

    for number, raw in _logical_lines(content):
        try:
            text = raw.decode("utf-8").strip(" \t\n\r")
        except UnicodeDecodeError as error:
            raise BrokenFileError(f"not UTF-8: {_shown(raw.decode('utf-8', 'replace'))}", number) from error
        if not text:
            continue
        if text.startswith("["):
            if not text.endswith("]"):
                raise BrokenFileError(f"a section's name without its closing bracket: {_shown(text)}", number)
            section = text[1:-1]
            continue
        key, equals, value = (part.strip(" \t\n\r") for part in text.partition("="))
        if section is None:
            skipped(
                number,
                f"before any section: {_shown(text)}",
                "systemd skips what is in no section.",
                "Put it below [Service] or [Unit].",
            )
        elif not equals:
            skipped(
                number,
                f"no setting: {_shown(text)}",
                'There is no "=" in it, so systemd skips the line.',
                "Write KEY=VALUE, or # in front of a comment. A value goes on in the next line after a backslash.",
            )
        elif not key:
            skipped(
                number,
                f"a value without a key: {_shown(text)}",
                "systemd skips the line.",
                "Write the setting's name in front.",
            )
        else:
            settings.append(Setting(section, key, value, where, number))


def _logical_lines(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Comments are gone, also those within a continued value, which an empty line ends; the number is the first line's.

    A byte order mark is no blank: it makes a setting of a comment behind it.
    """
    held, start = b"", 0
    for number, line in enumerate(_LINE_END.split(content), 1):
        if len(held) + len(line) > LONGEST_LINE:
            raise BrokenFileError("a line of more than 1 MiB", number)
        if line.lstrip(_BLANK)[:1] in {b"#", b";"}:
            continue
        start = start if held else number
        whole = held + (line.removeprefix(_BOM) if number == 1 else line)
        if (len(whole) - len(whole.rstrip(b"\\"))) % 2:
            held = whole[:-1] + b" "
        else:
            yield start, whole
            held = b""
    if held:
        yield start, held


def _shown(text: str) -> str:
    text = text.strip()
    return text if len(text) <= 60 else f"{text[:57]}..."
