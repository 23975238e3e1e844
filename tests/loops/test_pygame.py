"""The example of a program with a loop of its own: it goes on drawing, and leaves by its own frames."""

import re
import signal
import sys
from pathlib import Path

from tests.loops import needs
from tests.probe import Launcher, Probe

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "pygame_frame.py"
BAR, DONE = bytes([40, 160, 240]), bytes([110, 190, 70])
"""The colours of a booking under way and of a finished one, as a bitmap has them: blue, green, red."""


def start(launch: Launcher, folder: Path, *options: str, grace: str) -> Probe:
    """Start it with two tickets left from yesterday; return it when it has sold its first one."""
    needs.module("pygame")
    for number in (1, 2):
        (folder / f"ticket-000{number}.json").write_text("{}")
    command = [sys.executable, str(EXAMPLE), "--folder", str(folder), *options]
    program = launch.start(command, env={"SDL_VIDEODRIVER": "dummy", "SDL_AUDIODRIVER": "dummy", "CAPBG_GRACE": grace})
    program.wait_until(lambda: len(tickets(folder)) >= 3)
    return program


def tickets(folder: Path) -> list[Path]:
    """What is left to book."""
    return sorted(folder.glob("*.json"))


def verdict(program: Probe) -> tuple[int, int, int]:
    """Sold, left to book, and frames drawn in grace periods, as its ``finally`` block tells."""
    found = re.fullmatch(r"(\d+) sold, (\d+) left to book, (\d+) frames .*", program.lines[-1])
    assert found is not None, program.lines
    sold, left, frames = map(int, found.groups())
    return sold, left, frames


def filled(picture: Path) -> int:
    """Pixels of the bars, in a bitmap of 24 bits whose rows need no padding."""
    data = picture.read_bytes()
    pixels = data[int.from_bytes(data[10:14], "little") :]
    return sum(pixels[at : at + 3] in {BAR, DONE} for at in range(0, len(pixels), 3))


def test_it_draws_how_far_the_workers_are_and_leaves(launch: Launcher, tmp_path: Path) -> None:
    """Told to stop it draws on, the bars of its pictures grow to their full length, and all tickets are booked."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    program = start(launch, tmp_path, "--every", "3600", "--line", "1.5", "--pictures", str(pictures), grace="90")
    program.send(signal.SIGTERM)
    assert 0 == program.wait(), program.stderr
    sold, left, frames = verdict(program)
    assert (1, 0) == (sold, left)
    assert 20 <= frames  # of 90
    lengths = [filled(each) for each in sorted(pictures.iterdir())]
    assert sorted(lengths) == lengths
    assert 3 <= len(set(lengths)), lengths


def test_it_is_suspended_sells_again_and_keeps_what_is_not_booked(launch: Launcher, tmp_path: Path) -> None:
    """Behind a suspension its loop goes on; with tickets left its status is 75, and its ``finally`` block has run."""
    program = start(launch, tmp_path, "--every", "2", "--line", "600", grace="1")
    program.send(signal.SIGTSTP)
    program.wait_stopped()
    before = len(tickets(tmp_path))
    program.send(signal.SIGCONT)
    program.wait_until(lambda: len(tickets(tmp_path)) > before)
    program.send(signal.SIGTERM)
    assert 75 == program.wait(), program.stderr
    sold, left, _ = verdict(program)
    assert sold + 2 == left == len(tickets(tmp_path))
