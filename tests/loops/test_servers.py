"""Real servers and a real client, with requests in flight while the signal comes: uvicorn, gunicorn, aiohttp."""

import http.client
import json
import re
import signal
import socket
import sqlite3
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from tests.loops import needs
from tests.notify_socket import NotifySocket
from tests.probe import PATIENCE_S, PREAMBLE, Launcher, Probe

SERVICE = """
import asyncio, socket
from contextlib import asynccontextmanager
from capbg.loops.lifespan import cleanup_context, lifespan

class App(capbg.App):
    def pump(self):
        super().pump()
        if os.path.exists(f"{folder}/broken"):
            raise LookupError("no turn")

folder, options = os.environ["FOLDER"], os.environ.get("OPTIONS", "").split()
app = App("service", grace=60)
served = []

@app.background_task()
def flush(task):
    say("FLUSH", *sorted(served))
    if "fail" in options:
        raise OSError("the disk is full")

app.add_listener("appStateChange", lambda state: say("STATE", state.is_active, state.reason.name))

def hold(report):
    # Another thread is in a block when the process stops.
    held = threading.Event()

    def block():
        with app.critical():
            held.set()
            while not os.path.exists(f"{folder}/go"):
                time.sleep(0.01)

    threading.Thread(target=block).start()
    held.wait()

if "hold" in options:
    app.add_listener("graceEnded", hold)

async def serve(name):
    say("IN", name)
    if name == "strike":
        sys.setprofile(strike)
        os.kill(os.getpid(), signal.SIGCONT)  # it has a turn taken, and changes nothing
    if name == "twice":
        os.kill(os.getpid(), signal.SIGTERM)  # its handler runs before the next one comes
        os.kill(os.getpid(), signal.SIGINT)
    while name != "quick" and not os.path.exists(f"{folder}/go"):
        await asyncio.sleep(0.01)
    served.append(name)
    return f"served {name}"

def strike(frame, event, argument):
    if event == "call" and frame.f_code.co_name == "turn" and frame.f_code.co_filename.endswith("supervisor.py"):
        sys.setprofile(None)
        os.kill(os.getpid(), signal.SIGTERM)
"""

ASGI = """
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

@asynccontextmanager
async def own(web):
    yield {"kept": "state"}
    say("OWN LEFT", *sorted(served))
    if "own-fails" in options:
        raise OSError("it cannot be closed")

async def answer(request):
    assert request.state.kept == "state"
    return PlainTextResponse(await serve(request.path_params["name"]))

whole = lifespan(app, own, stop_on_shutdown="stop_on_shutdown" in options)
web = Starlette(routes=[Route("/{name}", answer)], lifespan=whole)
"""

AIOHTTP = """
from aiohttp import web

async def answer(request):
    return web.Response(text=await serve(request.match_info["name"]))

async def own(_):
    yield
    await asyncio.sleep(0)
    say("OWN LEFT", *sorted(served))

site = web.Application()
site.cleanup_ctx.extend([cleanup_context(app), own])
site.router.add_get("/{name}", answer)
if __name__ == "__main__":
    web.run_app(site, sock=socket.socket(fileno=int(sys.argv[1])), print=None)
"""

UVICORN = ["-m", "uvicorn", "service:web", "--log-level", "info", "--no-access-log", "--fd", "{fd}"]
GUNICORN = ["-m", "gunicorn", "--bind", "fd://{fd}", "--timeout", "120", "--graceful-timeout", "100"]
SERVERS = {
    "uvicorn": (ASGI, [*UVICORN, "--loop", "asyncio"], ["starlette", "uvicorn"]),
    "uvicorn-uvloop": (ASGI, [*UVICORN, "--loop", "uvloop"], ["starlette", "uvicorn", "uvloop"]),
    "gunicorn": (
        ASGI,
        [*GUNICORN, "-k", "uvicorn_worker.UvicornWorker", "service:web"],
        ["starlette", "gunicorn", "uvicorn_worker"],
    ),
    "aiohttp": (AIOHTTP, ["service.py", "{fd}"], ["aiohttp"]),
    "gunicorn-aiohttp": (
        AIOHTTP,
        [*GUNICORN, "-k", "aiohttp.GunicornWebWorker", "service:site"],
        ["aiohttp", "gunicorn"],
    ),
}


class Service:
    """A running server, and a client of it."""

    def __init__(self, launch: Launcher, folder: Path) -> None:
        self._launch, self._folder = launch, folder
        self._threads = ThreadPoolExecutor(8)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.set_inheritable(True)

    def start(self, server: str, *options: str, env: dict[str, str] | None = None, more: tuple[str, ...] = ()) -> Probe:
        """Start the server on a socket that listens already: a request is answered once it is up."""
        source, command, packages = SERVERS[server]
        for package in packages:
            needs.module(package)
        (self._folder / "service.py").write_text(PREAMBLE + SERVICE + source)
        fd = self._socket.fileno()
        return self._launch.start(
            [sys.executable, *(each.format(fd=fd) for each in command), *more],
            env={"FOLDER": str(self._folder), "OPTIONS": " ".join(options), **(env or {})},
            cwd=self._folder,
            pass_fds=[fd],
        )

    def ask(self, *names: str) -> list[Future[str]]:
        """Ask for these at once, each on a connection of its own."""
        return [self._threads.submit(self._get, name) for name in names]

    def _get(self, name: str) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self._socket.getsockname()[1], timeout=100)
        try:
            connection.request("GET", f"/{name}")
            answer = connection.getresponse()
            return f"{answer.status} {answer.read().decode()}"
        finally:
            connection.close()

    def let_go(self) -> None:
        """Let the requests come to their end."""
        (self._folder / "go").touch()

    def break_turns(self) -> None:
        """Have the app's next turn raise LookupError."""
        (self._folder / "broken").touch()

    def close(self) -> None:
        self._socket.close()
        self._threads.shutdown()


@pytest.fixture
def service(launch: Launcher, tmp_path: Path) -> Iterator[Service]:
    made = Service(launch, tmp_path)
    try:
        yield made
    finally:
        launch.close()  # first: so that no request is left without an answer
        made.close()


def expect_all(program: Probe, *lines: str) -> None:
    """Wait for these lines in any order."""
    program.wait_until(lambda: program.expect("IN") and set(lines) <= set(program.lines))


@pytest.mark.parametrize("server", SERVERS)
def test_no_request_is_lost_and_the_tasks_see_what_they_did(
    service: Service, notify_socket: NotifySocket, server: str
) -> None:
    """systemd hears at the signal; the server drains; then its own lifespan is left, the tasks run, and it leaves."""
    program = service.start(server, env=notify_socket.env)
    asked = service.ask("one", "two", "three")
    expect_all(program, "IN one", "IN two", "IN three")
    program.send(signal.SIGTERM)
    assert "EXTEND_TIMEOUT_USEC" in notify_socket.expect("STOPPING", "1")
    service.let_go()
    assert {"200 served one", "200 served two", "200 served three"} == {each.result() for each in asked}
    assert 0 == program.wait(), program.stderr
    everything = "one three two"
    assert [f"OWN LEFT {everything}", "STATE False TERMINATE", f"FLUSH {everything}"] == program.lines[3:]
    assert "Traceback" not in program.stderr


@pytest.mark.parametrize("server", SERVERS)
def test_an_unfinished_task_makes_the_status_75(service: Service, server: str) -> None:
    """The process leaves with the contract's status, not with the server's; gunicorn's arbiter logs the worker's."""
    program = service.start(server, "fail")
    assert ["200 served quick"] == [each.result() for each in service.ask("quick")]
    program.send(signal.SIGTERM)
    status = program.wait()
    assert ["IN quick", "OWN LEFT quick", "STATE False TERMINATE", "FLUSH quick"] == program.lines
    if server.startswith("gunicorn"):
        assert (0, True) == (status, "exited with code 75" in program.stderr), program.stderr
    else:
        assert 75 == status, program.stderr


@pytest.mark.parametrize("server", ["uvicorn", "uvicorn-uvloop", "aiohttp"])
def test_a_suspension_leaves_the_requests_where_they_are(service: Service, server: str) -> None:
    """SIGTSTP does not wait for requests in flight: they stand still with the process, and are answered later."""
    program = service.start(server)
    (asked,) = service.ask("slow")
    program.expect("IN slow")
    for _ in range(2):
        program.send(signal.SIGTSTP)
        program.wait_stopped()
        program.send(signal.SIGCONT)
        assert "RESUME" == program.expect("STATE True")
    assert not asked.done()
    program.send(signal.SIGTERM)
    service.let_go()
    assert "200 served slow" == asked.result()
    assert 0 == program.wait(), program.stderr
    suspension = ["STATE False SUSPEND", "FLUSH", "STATE True RESUME"]
    assert [*suspension, *suspension, "OWN LEFT slow", "STATE False TERMINATE", "FLUSH slow"] == program.lines[1:]


def test_a_block_of_the_programs_own_keeps_a_resumption_back_no_longer_than_it_lasts(service: Service) -> None:
    """The server's block is not taken again before the listeners have been told that the app is back."""
    program = service.start("uvicorn", "hold")
    assert ["200 served quick"] == [each.result() for each in service.ask("quick")]
    program.send(signal.SIGTSTP)
    program.wait_stopped()
    program.send(signal.SIGCONT)
    assert ["200 served quick"] == [each.result() for each in service.ask("quick")]  # so it has heard of that
    service.let_go()
    assert "RESUME" == program.expect("STATE True")
    program.send(signal.SIGTERM)
    assert 0 == program.wait(), program.stderr


@pytest.mark.parametrize("how", ["strike", "twice"])
def test_no_way_for_a_signal_to_come_loses_requests(service: Service, how: str) -> None:
    """One in the middle of ``pump()``, heard in that very turn, starts no worker; a SIGINT right behind is no hurry."""
    program = service.start("uvicorn")
    asked = service.ask("slow")
    program.expect("IN slow")
    asked += service.ask(how)
    program.wait_until(lambda: "Waiting for connections to close" in program.stderr)
    service.let_go()
    assert ["200 served slow", f"200 served {how}"] == [each.result() for each in asked]
    assert 0 == program.wait(), program.stderr
    assert f"FLUSH {' '.join(sorted([how, 'slow']))}" == program.lines[-1]


@pytest.mark.parametrize("server", ["uvicorn", "uvicorn-uvloop", "aiohttp"])
def test_a_second_signal_leaves_without_the_requests(
    service: Service, notify_socket: NotifySocket, server: str
) -> None:
    """Hurry: the tasks expire and the process leaves with 75, whatever is in flight."""
    program = service.start(server, env=notify_socket.env)
    service.ask("never")
    program.expect("IN never")
    program.send(signal.SIGINT)
    notify_socket.expect("STOPPING", "1")
    heard = time.monotonic()
    program.wait_until(lambda: time.monotonic() > heard + 2)  # within 1 s it would be a duplicate
    program.send(signal.SIGINT)
    assert 75 == program.wait(), program.stderr
    assert "STATE False INTERRUPT" in program.lines


@pytest.mark.parametrize("server", ["uvicorn", "aiohttp"])
def test_a_spent_budget_leaves_without_the_requests(service: Service, server: str) -> None:
    """Draining and tasks share one grace period: at its end the process leaves with 75, though a request hangs."""
    program = service.start(server, env={"CAPBG_GRACE": "0.5"})
    service.ask("never")
    program.expect("IN never")
    program.send(signal.SIGTERM)
    assert 75 == program.wait(), program.stderr
    assert not [line for line in program.lines if line.startswith("FLUSH")]


@pytest.mark.parametrize("options", [(), ("stop_on_shutdown",)])
def test_a_shutdown_without_a_signal_runs_tasks_if_it_was_told_to(service: Service, options: tuple[str, ...]) -> None:
    """uvicorn's limit of requests: the app is left as ``with app:`` is, unless a shutdown counts as SIGTERM."""
    program = service.start("uvicorn", *options, more=("--limit-max-requests", "1"))
    assert ["200 served quick"] == [each.result() for each in service.ask("quick")]
    assert 0 == program.wait(), program.stderr
    told = ["STATE False TERMINATE", "FLUSH quick"] if options else []
    assert ["IN quick", "OWN LEFT quick", *told] == program.lines


def test_a_lifespan_that_fails_is_no_success(service: Service) -> None:
    """The tasks run and finish, the server logs the error, and the status is 1."""
    program = service.start("uvicorn", "own-fails")
    assert ["200 served quick"] == [each.result() for each in service.ask("quick")]
    program.send(signal.SIGTERM)
    assert 1 == program.wait(), program.stderr
    assert "FLUSH quick" == program.lines[-1]
    assert "OSError: it cannot be closed" in program.stderr


def test_an_error_out_of_a_turn_stops_the_server_and_is_not_lost(service: Service) -> None:
    """What ``pump()`` raises ends the server in its own way, requests in flight are answered, the log has it."""
    program = service.start("uvicorn")
    (asked,) = service.ask("slow")
    program.expect("IN slow")
    service.break_turns()
    program.send(signal.SIGCONT)
    program.wait_until(lambda: "Waiting for connections to close" in program.stderr)
    service.let_go()
    assert "200 served slow" == asked.result()
    assert -signal.SIGTERM == program.wait(), program.stderr
    assert "Application shutdown failed" in program.stderr
    assert "LookupError: no turn" in program.stderr


def test_in_another_thread_the_app_is_not_entered(launch: Launcher, tmp_path: Path) -> None:
    """Starlette's TestClient runs the lifespan in a thread of its own: that works, and a warning says what will not."""
    needs.module("starlette")
    source = """
    from starlette.testclient import TestClient
    with TestClient(web) as client:
        say("ANSWER", client.get("/quick").text)
    say("PHASE", app.get_state().phase.name, app)
    """
    program = launch(
        SERVICE + ASGI + "\n" + "\n".join(line[4:] for line in source.splitlines()), env={"FOLDER": str(tmp_path)}
    )
    assert 0 == program.wait(), program.stderr
    assert ["IN quick", "ANSWER served quick", "OWN LEFT quick"] == program.lines[:3]
    assert re.search("the app is not entered and its tasks will not run", program.stderr)


def start_example(launch: Launcher, *options: str, env: dict[str, str]) -> tuple[Probe, int]:
    """Start the example with FastAPI; return it and its port."""
    needs.module("fastapi")
    needs.module("uvicorn")
    path = Path(__file__).resolve().parents[2] / "examples" / "fastapi_service.py"
    program = launch.start([sys.executable, str(path), "--port", "0", "--every", "3600", *options], env=env)
    program.wait_until(lambda: re.search(r"running on \S+:\d+", program.stderr))
    return program, int(re.findall(r"running on \S+:(\d+)", program.stderr)[0])


def post(port: int, sensor: str) -> int:
    """Send a reading; return the status of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        body = json.dumps({"sensor": sensor, "value": 1})
        connection.request("POST", "/readings", body, {"Content-Type": "application/json"})
        return connection.getresponse().status
    finally:
        connection.close()


def test_the_fastapi_example_writes_every_reading_it_was_sent(
    launch: Launcher, tmp_path: Path, notify_socket: NotifySocket
) -> None:
    """Also the one whose body was on its way when the signal came."""
    database = tmp_path / "readings.sqlite"
    program, port = start_example(launch, "--database", str(database), env=notify_socket.env)
    assert [201, 201] == [post(port, sensor) for sensor in ("door", "roof")]
    body = b'{"sensor": "late", "value": 2}'
    head = f"POST /readings HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as line, line.makefile("rb") as answers:
        line.sendall(head.encode() + b"Expect: 100-continue\r\n\r\n")
        assert b"HTTP/1.1 100 Continue\r\n" == answers.readline()
        program.send(signal.SIGTERM)
        notify_socket.expect("STOPPING", "1")
        line.sendall(body)
        assert b"HTTP/1.1 201 Created\r\n" in answers.readlines()
    assert 0 == program.wait(), program.stderr
    with closing(sqlite3.connect(database)) as connection:
        found = connection.execute("SELECT sensor FROM readings ORDER BY sensor").fetchall()
    assert [("door",), ("late",), ("roof",)] == found


def test_the_fastapi_example_says_when_the_rest_could_not_be_written(launch: Launcher, tmp_path: Path) -> None:
    """A database that cannot be opened makes the status 75, and the log says why."""
    program, port = start_example(launch, "--database", str(tmp_path / "none" / "readings.sqlite"), env={})
    assert 201 == post(port, "door")
    program.send(signal.SIGTERM)
    assert 75 == program.wait(), program.stderr
    assert "unable to open database file" in program.stderr
