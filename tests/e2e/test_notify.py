"""What a service manager hears: the first datagram, the beats, the silence behind the deadlines, and odd sockets."""

import os
import signal
import socket
from pathlib import Path

import pytest

from tests.notify_socket import NotifySocket
from tests.probe import Launcher

SLOW = """
app = capbg.App("kiosk", grace=60, kill_after=1)

@app.background_task()
def upload(task):
    for part in range(1, 11):
        task.progress(part * 10, 100)
        time.sleep(0.25)

try:
    with app:
        say("READY")
        idle()
finally:
    report(app)
"""


def test_a_stop_is_told_first_and_again_and_again(launch: Launcher, notify_socket: NotifySocket) -> None:
    """READY=1 once; STOPPING=1 with an extension and a status in one datagram; then beats that tell the progress."""
    program = launch(SLOW, env=notify_socket.env)
    program.expect("READY")
    notify_socket.expect("READY", "1")
    program.send(signal.SIGTERM)
    assert {"upload": "FINISHED"} == program.report()["outcomes"]
    assert 0 == program.wait()
    heard = notify_socket.read()

    first = heard[1]
    assert "1" == first["STOPPING"]
    assert int(first["EXTEND_TIMEOUT_USEC"]) == 10_000_000
    assert first["STATUS"].startswith("backgrounded: ")
    assert ["1"] == [fields["READY"] for fields in heard if "READY" in fields]
    assert ["1"] == [fields["STOPPING"] for fields in heard if "STOPPING" in fields]
    beats = [fields for fields in heard[2:] if "EXTEND_TIMEOUT_USEC" in fields]
    assert beats, "the task took 2.5 s and a beat comes every second"
    assert any("upload" in fields["STATUS"] and "%" in fields["STATUS"] for fields in beats)
    assert "backgrounded: 1 of 1 task finished" == heard[-1]["STATUS"]
    assert not [fields for fields in heard if "WATCHDOG_USEC" in fields], "there is no watchdog, so none is switched on"


def test_no_extension_reaches_far_beyond_the_hard_deadline(launch: Launcher, notify_socket: NotifySocket) -> None:
    """A task that ignores its expiry is extended for until it is killed and a margin to leave, and no longer."""
    program = launch(
        """
        app = capbg.App("kiosk", grace=1, kill_after=1)

        @app.background_task()
        def stuck(task):
            while True:
                try:
                    time.sleep(1)
                except BaseException:
                    pass

        with app:
            say("READY")
            idle()
        """,
        env=notify_socket.env,
    )
    program.expect("READY")
    notify_socket.expect("READY")
    program.send(signal.SIGTERM)
    notify_socket.expect("STOPPING")
    began = next(heard_at for heard_at, fields in notify_socket.heard if "STOPPING" in fields)
    assert 75 == program.wait()
    notify_socket.read()

    ends = [
        heard_at + int(fields["EXTEND_TIMEOUT_USEC"]) / 1e6
        for heard_at, fields in notify_socket.heard
        if "EXTEND_TIMEOUT_USEC" in fields
    ]
    # 1 s + 1 s + a margin of 3 s; what this test itself was late in hearing the first comes on top.
    assert max(ends) - began < 5 + 10
    assert int(notify_socket.heard[1][1]["EXTEND_TIMEOUT_USEC"]) <= 5_000_000


def test_a_suspension_disarms_the_watchdog_and_coming_back_arms_it(
    launch: Launcher, notify_socket: NotifySocket
) -> None:
    """SIGTSTP: WATCHDOG_USEC=0 and never STOPPING=1; SIGCONT: the interval again; a stop keeps it fed until off."""
    program = launch(
        "os.environ['WATCHDOG_PID'] = str(os.getpid())\n" + SLOW,
        env={**notify_socket.env, "WATCHDOG_USEC": "30000000"},
    )
    program.expect("READY")
    notify_socket.expect("READY")
    program.send(signal.SIGTSTP)
    assert "0" == notify_socket.expect("WATCHDOG_USEC")["WATCHDOG_USEC"]
    program.wait_stopped()
    assert not [fields for fields in notify_socket.read() if "STOPPING" in fields or "EXTEND_TIMEOUT_USEC" in fields]
    assert notify_socket.read()[-1]["STATUS"].startswith("suspended")
    program.send(signal.SIGCONT)
    back = notify_socket.expect("WATCHDOG_USEC")
    assert ("30000000", "1", "active") == (back["WATCHDOG_USEC"], back["WATCHDOG"], back["STATUS"])
    program.send(signal.SIGTERM)
    stop = notify_socket.expect("STOPPING")
    assert "30000000" == stop["WATCHDOG_USEC"]
    assert 0 == program.wait()
    assert "0" == notify_socket.read()[-1]["WATCHDOG_USEC"]
    assert "WATCHDOG" not in notify_socket.read()[-1]


def test_a_stop_while_suspended_does_not_arm_the_watchdog_again(launch: Launcher, notify_socket: NotifySocket) -> None:
    """SIGTERM and SIGCONT in one go, as systemd sends them: the watchdog is not handed back to a program that stops."""
    program = launch(
        "os.environ['WATCHDOG_PID'] = str(os.getpid())\n" + SLOW,
        env={**notify_socket.env, "WATCHDOG_USEC": "1000000"},
    )
    program.expect("READY")
    program.send(signal.SIGTSTP)
    program.wait_stopped()
    program.send(signal.SIGTERM, signal.SIGCONT)
    assert 0 == program.wait()
    heard = notify_socket.read()

    stop = next(index for index, fields in enumerate(heard) if "STOPPING" in fields)
    assert ["10000000", "0"] == [fields["WATCHDOG_USEC"] for fields in heard[stop:] if "WATCHDOG_USEC" in fields]
    assert not [fields for fields in heard[stop:] if "WATCHDOG" in fields]


def test_the_watchdog_of_another_process_is_left_alone(launch: Launcher, notify_socket: NotifySocket) -> None:
    """WATCHDOG_PID names another process: nothing is sent of watchdogs."""
    program = launch(SLOW, env={**notify_socket.env, "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"})
    program.expect("READY")
    program.send(signal.SIGTERM)
    assert 0 == program.wait()
    assert not [fields for fields in notify_socket.read() if "WATCHDOG_USEC" in fields or "WATCHDOG" in fields]


def test_names_that_are_not_latin_1_arrive_as_utf_8(launch: Launcher, notify_socket: NotifySocket) -> None:
    """A status with any letters is heard as it was written."""
    program = launch(
        SLOW.replace("@app.background_task()", '@app.background_task(name="Фото 写真")'), env=notify_socket.env
    )
    program.expect("READY")
    program.send(signal.SIGTERM)
    assert 0 == program.wait()
    assert any("Фото 写真" in fields["STATUS"] for fields in notify_socket.read() if "STATUS" in fields)


def test_an_abstract_socket_is_spoken_to(launch: Launcher) -> None:
    """NOTIFY_SOCKET=@name is a name in the abstract namespace."""
    there = NotifySocket(f"@capbg-test-{os.getpid()}")
    try:
        program = launch(SLOW, env=there.env)
        there.expect("READY", "1")
        program.send(signal.SIGTERM)
        there.expect("STOPPING", "1")
        assert 0 == program.wait()
    finally:
        there.close()


def _full_socket(path: Path) -> socket.socket:
    full = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    full.bind(str(path))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as filler:
        filler.setblocking(False)
        try:
            while True:
                filler.sendto(b"STATUS=x", str(path))
        except BlockingIOError:
            return full


@pytest.mark.parametrize("kind", ["full", "missing", "vanishing", "nonsense", "too long", "empty"])
def test_a_socket_that_does_not_hear_neither_blocks_nor_raises(launch: Launcher, tmp_path: Path, kind: str) -> None:
    """A full, missing, vanishing or impossible notify socket changes nothing for the tasks."""
    path, full, there = tmp_path / "odd", None, None
    value = {"nonsense": "vsock:2:1234", "too long": "/" + "x" * 300, "empty": ""}.get(kind, str(path))
    if kind == "full":
        full = _full_socket(path)
    elif kind == "vanishing":
        there = NotifySocket(path)
    program = launch(SLOW, env={"NOTIFY_SOCKET": value})
    program.expect("READY")
    program.send(signal.SIGTERM)
    if there is not None:
        there.expect("STOPPING")
        there.close()
    try:
        assert {"upload": "FINISHED"} == program.report()["outcomes"]
        assert 0 == program.wait()
        assert "" == program.stderr
    finally:
        if full is not None:
            full.close()


def test_a_socket_that_is_bound_anew_is_spoken_to_again(launch: Launcher, tmp_path: Path) -> None:
    """A service manager that was executed anew hears the next beat."""
    there = NotifySocket(tmp_path / "notify")
    program = launch(SLOW.replace("range(1, 11)", "range(1, 21)"), env=there.env)
    program.expect("READY")
    program.send(signal.SIGTERM)
    there.expect("STOPPING")
    there.close()
    there = NotifySocket(tmp_path / "notify")
    try:
        there.expect("EXTEND_TIMEOUT_USEC")
        assert 0 == program.wait()
    finally:
        there.close()


def test_what_must_be_heard_is_sent_again_once_there_is_room(launch: Launcher, tmp_path: Path) -> None:
    """STOPPING=1 that found the queue full is sent again, not dropped."""
    full = _full_socket(tmp_path / "full")
    try:
        program = launch(SLOW.replace("range(1, 11)", "range(1, 41)"), env={"NOTIFY_SOCKET": str(tmp_path / "full")})
        program.expect("READY")
        program.send(signal.SIGTERM)
        full.settimeout(60)
        heard = b""
        while b"STOPPING=1" not in heard:  # reading makes room
            heard = full.recv(65536)
        assert b"EXTEND_TIMEOUT_USEC=" in heard
        assert 0 == program.wait()
    finally:
        full.close()
