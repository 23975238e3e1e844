"""A ticket machine drawn with pygame: a program with a loop of its own, which gives capbg a turn once a frame.

Each ticket that is sold has to be booked over a slow line. Told to stop (SIGTERM, or its window is closed) or to
suspend (SIGTSTP), it sells no more, lets capbg book what is left, each ticket in a worker of its own, and draws how far
they are. Then it leaves by SystemExit, through its own frames. What is not booked in time stays in the folder, and the
exit status is 75 (EX_TEMPFAIL).

    python examples/pygame_frame.py

Needs pygame 2. SDL handles SIGTERM and SIGINT only where nobody else does: they are capbg's, whoever comes first.
"""

import argparse
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")

import pygame

import capbg
from capbg.loops.forked import without_display

FRAMES_A_SECOND = 60
BOOKING_DEADLINE_S = 30.0
PARTS = 20
"""A booking is sent in so many parts."""

SIZE = (640, 400)
NIGHT, PAPER, BAR, DONE = (24, 26, 34), (236, 232, 220), (240, 160, 40), (70, 190, 110)


def book(ticket: Path, booked: Path, *, seconds: float, progress: Callable[[int, int], object]) -> None:
    """Play the slow line. The ticket is booked when its file lies in the other folder, and not before."""
    for part in range(PARTS):
        progress(part, PARTS)
        time.sleep(seconds / PARTS)
    ticket.rename(booked / ticket.name)
    progress(PARTS, PARTS)


class Screen:
    """What the customer sees."""

    def __init__(self) -> None:
        self._surface = pygame.display.set_mode(SIZE)
        pygame.display.set_caption("Tickets")
        self._large, self._small = pygame.font.Font(None, 40), pygame.font.Font(None, 26)

    def draw(self, app: capbg.App, *, sold: int, angle: float) -> None:
        """Draw one frame: a clock hand that turns as long as the loop does, and a bar for each booking under way."""
        state = app.get_state()
        self._surface.fill(NIGHT)
        headline = "Tickets, please" if state.is_active else "One moment: booking what is left"
        self._surface.blit(self._large.render(headline, True, PAPER), (40, 30))
        self._surface.blit(self._small.render(f"{sold} sold", True, PAPER), (40, 75))
        hand = pygame.Vector2(0, -30).rotate(angle)
        pygame.draw.circle(self._surface, PAPER, (580, 60), 36, 2)
        pygame.draw.line(self._surface, PAPER, (580, 60), (580 + hand.x, 60 + hand.y), 4)
        if not state.is_active:
            for row, task in enumerate(app.tasks()[:9]):
                self._draw_bar(task, y=120 + 30 * row)
        pygame.display.flip()

    def _draw_bar(self, task: capbg.TaskInfo, *, y: int) -> None:
        done = (task.progress.percent if task.progress else None) or 0.0
        finished = task.result is not None and task.result.outcome is capbg.Outcome.FINISHED
        self._surface.blit(self._small.render(task.name, True, PAPER), (40, y))
        pygame.draw.rect(self._surface, PAPER, (220, y, 380, 18), 1)
        pygame.draw.rect(self._surface, DONE if finished else BAR, (222, y + 2, round(376 * done / 100), 14))

    def save(self, path: Path) -> None:
        """Keep the frame as a picture."""
        pygame.image.save(self._surface, path)


def main() -> None:
    parser = argparse.ArgumentParser(description="A ticket machine.")
    parser.add_argument("--folder", type=Path, default=Path("tickets"), help="where tickets to book lie")
    parser.add_argument("--every", type=float, default=2.0, help="seconds between two customers")
    parser.add_argument("--line", type=float, default=3.0, help="seconds it takes to book a ticket")
    parser.add_argument("--grace", type=float, default=60.0, help="seconds to finish in; CAPBG_GRACE overrides it")
    parser.add_argument("--pictures", type=Path, help="save every tenth frame of the grace period in this folder")
    asked = parser.parse_args()
    booked = asked.folder / "booked"
    booked.mkdir(parents=True, exist_ok=True)
    if asked.pictures is not None:
        asked.pictures.mkdir(parents=True, exist_ok=True)
    app = capbg.App("tickets", grace=asked.grace, max_workers=3)

    def rest(ticket: Path) -> Callable[[capbg.Task], None]:
        def send(task: capbg.Task) -> None:
            book(ticket, booked, seconds=asked.line, progress=task.progress)
            task.finish()

        return send

    def state_changed(state: capbg.AppState) -> None:
        if not state.is_active:
            for ticket in sorted(asked.folder.glob("*.json")):
                app.before_exit(rest(ticket), name=ticket.stem, deadline=BOOKING_DEADLINE_S)

    app.add_listener("appStateChange", state_changed)
    pygame.display.init()
    pygame.font.init()
    sold = frames = 0
    try:
        # The workers draw nothing, and must not be able to: a display takes one program's word at a time.
        with without_display(), app:
            screen, clock, next_customer = Screen(), pygame.time.Clock(), time.monotonic()
            while True:
                app.pump()  # once a frame; SystemExit when the grace period is over
                for event in pygame.event.get():
                    if event.type == pygame.QUIT:
                        signal.raise_signal(signal.SIGTERM)  # the same as being told to stop
                if app.get_state().is_active:
                    if time.monotonic() >= next_customer:
                        next_customer = time.monotonic() + asked.every
                        sold += 1
                        part = asked.folder / f"ticket-{time.time_ns() // 1_000_000:x}.part"
                        part.write_text(json.dumps({"from": "Here", "to": "There"}))
                        part.rename(part.with_suffix(".json"))
                else:
                    frames += 1
                screen.draw(app, sold=sold, angle=time.monotonic() * 90 % 360)
                if asked.pictures is not None and frames % 10 == 1 and not app.get_state().is_active:
                    screen.save(asked.pictures / f"{frames:05}.bmp")
                clock.tick(FRAMES_A_SECOND)
    finally:
        pygame.quit()
        left = len(list(asked.folder.glob("*.json")))
        print(f"{sold} sold, {left} left to book, {frames} frames drawn beside the bookings", flush=True)


if __name__ == "__main__":
    main()
