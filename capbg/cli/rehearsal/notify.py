"""The service manager's end of the notify socket, and what the program is told about it.

This file must not know what a message means.
"""

import array
import contextlib
import math
import os
import shutil
import socket
import struct
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from capbg._core.teller import COLUMNS, FIELD
from capbg.cli.rehearsal.record import Settings, TaskSeen

_CREDENTIALS = struct.Struct("3i")
_MOST_FDS = 253
"""SCM_MAX_FD: what one datagram can carry (unix(7))."""
_LONGEST = 4096
"""NOTIFY_BUFFER_MAX: systemd drops a longer message. What capbg tells of its tasks is not for systemd, and longer."""
_MOST_AT_ONCE = 1000
"""More than a queue holds (net.unix.max_dgram_qlen; systemd sets 512): nothing is left that had come before."""
_DIGITS = 20
"""An instant of so many is none: 63 bits have nineteen, and int() refuses thousands."""
_STATES = ("READY", "STOPPING", "RELOADING")
_OURS = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "CAPBG_TELL_TASKS")


@dataclass(frozen=True, slots=True)
class Datagram:
    """One message: the process that sent it, by the kernel's word, and its lines."""

    pid: int
    lines: tuple[str, ...]
    dropped: str = ""
    """Why systemd would not take it, or a part of it, as it stands."""

    @property
    def fields(self) -> dict[str, str]:
        """The assignments: the first of two for the same field counts, but the last READY=1, STOPPING=1 or RELOADING=1.

        As in systemd; of those three the last stands last.
        """
        found: dict[str, str] = {}
        for line in self.lines:
            key, equals, value = line.partition("=")
            if key in _STATES and value == "1":
                found.pop(key, None)
                found[key] = value
            elif equals and key != FIELD:
                found.setdefault(key, value)
        return found

    @property
    def tasks(self) -> tuple[TaskSeen, ...]:
        """What a capbg program tells of its tasks."""
        rows = (line.removeprefix(f"{FIELD}=").split("\t") for line in self.lines if line.startswith(f"{FIELD}="))
        return tuple(_task(dict(zip(COLUMNS, row, strict=True))) for row in rows if len(row) == len(COLUMNS))


def _task(row: dict[str, str]) -> TaskSeen:
    # The sender may be any program that knows the field's name: what is no number is none.
    def instant(column: str) -> int | None:
        text = row[column]
        return int(text) if text.isascii() and text.isdigit() and len(text) < _DIGITS else None

    def number(column: str) -> float | None:
        with contextlib.suppress(ValueError):
            if math.isfinite(found := float(row[column])):
                return found
        return None

    return TaskSeen(
        id=row["id"],
        name=row["name"],
        state=row["state"],
        settled=instant("ended") is not None,
        started_ns=instant("started"),
        soft_ns=instant("soft"),
        hard_ns=instant("hard"),
        ended_ns=instant("ended"),
        done=number("done"),
        total=number("total"),
        message=row["message"],
        reason=row["reason"],
    )


class NotifySocket:
    """A datagram socket in a directory of its own, removed on the way out. Never blocks.

    A path and not an abstract name: some programs' own few lines for sd_notify(3) know no other.
    """

    def __init__(self) -> None:
        runtime = os.environ.get("XDG_RUNTIME_DIR", "")
        # The program may be somewhere else: a relative path leads it astray. Root's is closed to others, and a program
        # that root starts often becomes somebody else.
        fits = os.path.isabs(runtime) and os.path.isdir(runtime) and os.access(runtime, os.W_OK | os.X_OK)
        base = runtime if fits and os.geteuid() != 0 else None
        self._folder = Path(tempfile.mkdtemp(prefix="capbg-", dir=base))
        self._folder.chmod(0o711)  # the program may run as somebody else
        self.path = self._folder / "notify"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        try:
            self._socket.bind(str(self.path))
        except OSError:  # a path of more than 107 bytes: an abstract name, then
            self._socket.bind(f"\0{self._folder.name}")
            self.path = Path(f"@{self._folder.name}")
        else:
            self.path.chmod(0o777)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._socket.close()
        with contextlib.suppress(FileNotFoundError):  # the program may have cleared its TMPDIR
            shutil.rmtree(self._folder)

    def fileno(self) -> int:
        """Readable when a datagram has come."""
        return self._socket.fileno()

    def read(self) -> Iterator[Datagram]:
        """Take in what has come: at most a thousand, for somebody may send faster than they are taken.

        Descriptors that came along are closed: that is systemd's answer to BARRIER=1, for which sd_notify_barrier(3)
        waits.
        """
        space = socket.CMSG_SPACE(_CREDENTIALS.size) + socket.CMSG_SPACE(_MOST_FDS * array.array("i").itemsize)
        for _ in range(_MOST_AT_ONCE):
            try:
                data, ancillary, _, _ = self._socket.recvmsg(1 << 18, space)
            except BlockingIOError:
                return
            pid = 0
            for level, kind, content in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
                    pid = _CREDENTIALS.unpack(content[: _CREDENTIALS.size])[0]
                elif level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    received = array.array("i")
                    received.frombytes(content[: len(content) - len(content) % received.itemsize])
                    for fd in received:
                        os.close(fd)
            yield _datagram(pid, data)


def _datagram(pid: int, data: bytes) -> Datagram:
    """Read it as manager_dispatch_notify_fd() and service_notify_message() do."""
    if len(data) > _LONGEST and not all(line.startswith(f"{FIELD}=".encode()) for line in data.split(b"\n")):
        return Datagram(pid, (), f"{len(data)} bytes, and {_LONGEST} is the most")
    if b"\0" in data[:-1]:
        return Datagram(pid, (), "there is a NUL byte in it")
    lines, dropped = [], ""
    for line in data.removesuffix(b"\0").replace(b"\r", b"\n").split(b"\n"):
        try:
            text = line.decode()
        except UnicodeDecodeError:
            text = line.decode(errors="replace")
            if line.startswith(b"STATUS="):
                text, dropped = "STATUS=", "STATUS= is not UTF-8, and now it has none"
        if text:
            lines.append(text)
    return Datagram(pid, tuple(lines), dropped)


def environment(settings: Settings, path: Path, added: Mapping[str, str]) -> dict[str, str]:
    """The environment of the program: this one's and ``added``, with what systemd tells, and nothing of an outer one.

    WATCHDOG_PID is added by whoever knows the pid.
    """
    made = {key: value for key, value in {**os.environ, **added}.items() if key not in _OURS}
    if settings.notify_access != "none":
        made |= {"NOTIFY_SOCKET": str(path), "CAPBG_TELL_TASKS": "1"}
    if settings.watchdog_s not in {0, float("inf")}:
        made["WATCHDOG_USEC"] = str(round(settings.watchdog_s * 1e6))
    return made
