"""The README tells the truth: its program runs as it stands."""

import re
import signal
import sys
from pathlib import Path

from tests.notify_socket import NotifySocket
from tests.probe import Launcher

README = Path(__file__).parents[2] / "README.md"


def test_the_shortest_program_runs_as_it_stands(launch: Launcher, notify_socket: NotifySocket, tmp_path: Path) -> None:
    """The README's program is ready, runs its task at SIGTERM, tells its progress and leaves with status 0."""
    (source,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    path = tmp_path / "kiosk.py"
    path.write_text(source)
    program = launch.start([sys.executable, str(path)], env=notify_socket.env)
    program.expect("ready")
    notify_socket.expect("READY", "1")
    program.send(signal.SIGTERM)
    notify_socket.expect("STOPPING", "1")
    assert 0 == program.wait()
    assert "backgrounded: 1 of 1 task finished" == notify_socket.read()[-1]["STATUS"]
    assert program.stderr.endswith(": 1 of 1 finished\n")


def test_the_two_commands_are_in_the_makefile() -> None:
    """`make demo` and `make test` exist under these names."""
    makefile = (README.parent / "Makefile").read_text()

    assert ["demo", "test"] == re.findall(r"^    make (\w+)", README.read_text(), re.MULTILINE)
    assert {"demo", "test"} <= set(re.findall(r"^(\w+):", makefile, re.MULTILINE))
