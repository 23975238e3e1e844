"""A photo booth with a window that goes on painting while it is being closed.

Each touch takes a picture and puts it into the outbox. Told to stop (SIGTERM, or its window is closed) or to suspend
(SIGTSTP), it sends what is in there over a slow line, each photo in a worker of its own, and shows how far they are.
What cannot be sent in time stays for the next start, and the exit status is 75 (EX_TEMPFAIL).

    python examples/photo_server.py --port 8000 --rate 300000 &
    python examples/kiosk_window.py --server http://127.0.0.1:8000 --photos 6

It needs ``pip install 'capbg[qt]'``; without a screen, QT_QPA_PLATFORM=offscreen and ``--picture``.
"""

import argparse
import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PySide6.QtCore import QPointF, QRectF, Qt, QTimer
from PySide6.QtGui import (
    QCloseEvent,
    QColor,
    QFont,
    QImage,
    QLinearGradient,
    QMouseEvent,
    QPainter,
    QPainterPath,
    QPaintEvent,
    QPen,
    QPolygonF,
)
from PySide6.QtWidgets import QApplication, QWidget

import capbg
from capbg.loops.qt import driving

if TYPE_CHECKING:
    from examples.kiosk import upload, waiting
else:
    from kiosk import upload, waiting

UPLOAD_DEADLINE_S = 60.0
FRAME_MS = 40
ROWS = 5
"""How many photos fit on the screen at a time."""

GROUND, PANEL, TRACK = QColor("#10141c"), QColor("#1a202c"), QColor("#2d3748")
TEXT, FAINT = QColor("#f5f7fa"), QColor("#9aa8bd")
BUSY, DONE, LOST = QColor("#4da3ff"), QColor("#3ecf8e"), QColor("#f5a623")
LEFT, RIGHT = Qt.AlignmentFlag.AlignLeft, Qt.AlignmentFlag.AlignRight


@dataclass
class Photo:
    """One photo on the screen."""

    path: Path
    size: int
    small: QImage
    label: str


def play_camera() -> QImage:
    """Paint what the camera sees: a sky, a sun, hills, and the grain that makes a picture of a megabyte of it."""
    image = QImage(1280, 960, QImage.Format.Format_RGB32)
    painter = QPainter(image)
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    hue = random.randrange(360)
    sky = QLinearGradient(0, 0, 0, 960)
    sky.setColorAt(0, QColor.fromHsv(hue, 150, 235))
    sky.setColorAt(1, QColor.fromHsv((hue + 40) % 360, 60, 255))
    painter.fillRect(image.rect(), sky)
    painter.setPen(Qt.PenStyle.NoPen)
    painter.setBrush(QColor(255, 250, 225))
    painter.drawEllipse(QPointF(random.uniform(250, 1030), random.uniform(200, 380)), 105, 105)
    for depth in range(3):
        painter.setBrush(QColor.fromHsv((hue + 180) % 360, 70 + 40 * depth, 190 - 55 * depth))
        tops = [QPointF(160 * step, 520 + 130 * depth + random.uniform(-90, 90)) for step in range(-1, 10)]
        painter.drawPolygon(QPolygonF([QPointF(-160, 960), *tops, QPointF(1440, 960)]))
    painter.setOpacity(0.1)
    painter.drawImage(0, 0, QImage(random.randbytes(1280 * 960), 1280, 960, 1280, QImage.Format.Format_Grayscale8))
    painter.end()
    return image


class Booth(QWidget):
    """The window. It draws what ``app.tasks()`` says, many times a second, and keeps no account of its own."""

    def __init__(self, app: capbg.App, outbox: Path, server: str, picture: Path | None) -> None:
        super().__init__()
        self.setWindowTitle("Photo booth")
        self.setFixedSize(800, 480)
        self.frames = 0
        self._app, self._outbox, self._server, self._picture = app, outbox, server, picture
        self._view = play_camera()
        self._photos = {path.name: show(path) for path in waiting(outbox)}  # what the last run could not send
        self._began = 0.0
        app.add_listener("appStateChange", self._state_changed)
        app.add_listener("graceEnded", self._grace_ended)
        frames = QTimer(self, interval=FRAME_MS)
        frames.timeout.connect(self._next_frame)
        frames.start()

    # ------------------------------------------------------------------------------------------- the booth's work

    def take_photo(self) -> None:
        """Put what the camera sees into the outbox, whole or not at all."""
        name = f"{time.time_ns() // 1_000_000:x}.jpg"  # milliseconds: sorted by name is sorted by age
        part = self._outbox / "part.jpeg"
        self._view.save(str(part), quality=97)
        part.rename(self._outbox / name)
        self._photos[name] = show(self._outbox / name)
        self._view = play_camera()

    def _state_changed(self, state: capbg.AppState) -> None:
        if state.is_active:  # back from a suspension
            left = {path.name for path in waiting(self._outbox)}
            self._photos = {name: photo for name, photo in self._photos.items() if name in left}
            return
        self._began = time.monotonic()
        for photo in self._photos.values():
            self._app.before_exit(rest(photo.path, self._server), name=photo.path.name, deadline=UPLOAD_DEADLINE_S)

    def _grace_ended(self, report: capbg.GraceReport) -> None:
        finished = sum(result.outcome is capbg.Outcome.FINISHED for result in report.results)
        say(f"{finished} of {len(report.results)} photos sent, {self.frames} frames painted meanwhile")

    # ------------------------------------------------------------------------------------------- touches, frames

    def mousePressEvent(self, event: QMouseEvent) -> None:
        if self._app.get_state().is_active:
            self.take_photo()

    def closeEvent(self, event: QCloseEvent) -> None:
        event.ignore()  # whoever closes the window gets the same farewell as a service manager
        signal.raise_signal(signal.SIGTERM)

    def _next_frame(self) -> None:
        self.update()
        if self._picture is not None and not self._app.get_state().is_active:
            settled = [row.state is capbg.TaskState.SETTLED for row in self._app.tasks()]
            if settled.count(True) >= min(2, len(settled)):  # two are through, and the others not yet
                self.grab().save(str(self._picture))
                self._picture = None

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHints(QPainter.RenderHint.Antialiasing | QPainter.RenderHint.SmoothPixmapTransform)
        painter.fillRect(self.rect(), GROUND)
        if self._app.get_state().is_active:
            self._paint_booth(painter)
        else:
            self.frames += 1
            self._paint_farewell(painter, self._app.tasks())
        painter.end()

    def _paint_booth(self, painter: QPainter) -> None:
        paint_image(painter, QRectF(24, 24, 576, 432), self._view, radius=14)
        write(painter, QRectF(624, 28, 160, 40), "Photo booth", 22, bold=True)
        write(painter, QRectF(624, 64, 160, 30), time.strftime("%H:%M"), 18, color=FAINT)
        write(painter, QRectF(624, 190, 160, 60), "Touch to take\na picture", 17)
        count = len(self._photos)
        left = "no photo waits" if not count else "1 photo waits" if count == 1 else f"{count} photos wait"
        write(painter, QRectF(624, 412, 160, 44), f"{left}\nto be sent", 14, color=FAINT)

    def _paint_farewell(self, painter: QPainter, tasks: tuple[capbg.TaskInfo, ...]) -> None:
        write(painter, QRectF(32, 24, 660, 44), "Your photos are on their way", 28, bold=True)
        write(painter, QRectF(32, 68, 660, 26), "The booth closes as soon as they are sent.", 15, color=FAINT)
        painter.setPen(QPen(BUSY, 5, c=Qt.PenCapStyle.RoundCap))
        painter.drawArc(QRectF(720, 34, 44, 44), -int(time.monotonic() * 360 % 360 * 16), 270 * 16)
        # Those that are through give way to those that are not.
        rows = [row for row in tasks if row.name in self._photos]
        first = max(0, min(sum(row.state is capbg.TaskState.SETTLED for row in rows) - 2, len(rows) - ROWS))
        rows.sort(key=lambda row: row.name)
        for place, row in enumerate(rows[first : first + ROWS]):
            self._paint_row(painter, QRectF(24, 112 + 60 * place, 752, 54), row, self._photos[row.name])
        self._paint_totals(painter, rows)

    def _paint_row(self, painter: QPainter, place: QRectF, row: capbg.TaskInfo, photo: Photo) -> None:
        done, color, text = sent_bytes(row, photo), BUSY, ""
        if row.result is not None:
            sent = row.result.outcome is capbg.Outcome.FINISHED
            color, text = (DONE, "sent") if sent else (LOST, "kept for later")
        elif row.state is capbg.TaskState.QUEUED:
            text = "waits for the line"
        else:
            text = f"{done / 1e6:.1f} of {photo.size / 1e6:.1f} MB"
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(PANEL)
        painter.drawRoundedRect(place, 10, 10)
        paint_image(painter, QRectF(place.x() + 8, place.y() + 6, 56, 42), photo.small, radius=5)
        write(painter, QRectF(place.x() + 78, place.y(), 120, 54), photo.label, 15)
        bar = QRectF(place.x() + 200, place.y() + 21, 370, 12)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(TRACK)
        painter.drawRoundedRect(bar, 6, 6)
        if done:
            painter.setBrush(color)
            painter.drawRoundedRect(QRectF(bar.x(), bar.y(), max(12.0, bar.width() * done / photo.size), 12), 6, 6)
        write(
            painter, QRectF(place.right() - 172, place.y(), 158, 54), text, 15, color=color if done else FAINT, to=RIGHT
        )

    def _paint_totals(self, painter: QPainter, rows: list[capbg.TaskInfo]) -> None:
        sent = sum(row.result is not None and row.result.outcome is capbg.Outcome.FINISHED for row in rows)
        write(painter, QRectF(32, 420, 300, 44), f"{sent} of {len(rows)} sent", 18, bold=True)
        passed = time.monotonic() - self._began
        left = f"{max(0.0, self._app.grace - passed):.0f} s at most"
        done = sum(sent_bytes(row, self._photos[row.name]) for row in rows)
        ahead = sum(
            self._photos[row.name].size - sent_bytes(row, self._photos[row.name]) for row in rows if row.result is None
        )
        if done and passed > 1:  # before that the speed is anybody's guess
            left = f"about {ahead * passed / done:.0f} s left, {left}"
        write(painter, QRectF(340, 420, 428, 44), left, 18, color=FAINT, to=RIGHT)


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def show(path: Path) -> Photo:
    """How a photo in the outbox is shown."""
    small = QImage(str(path)).scaledToHeight(84, Qt.TransformationMode.SmoothTransformation)
    taken = path.stat()
    return Photo(path, taken.st_size, small, time.strftime("%H:%M:%S", time.localtime(taken.st_mtime)))


def rest(path: Path, server: str) -> Callable[[capbg.Task], None]:
    """What a worker does about one photo. It runs in a fork of this program: files and sockets, and nothing of Qt."""

    def send(task: capbg.Task) -> None:
        upload(path, server, patience=lambda: max(0.1, task.time_remaining()), progress=task.progress)
        task.finish()

    return send


def sent_bytes(row: capbg.TaskInfo, photo: Photo) -> float:
    """What of a photo has left this machine."""
    if row.result is not None:
        return photo.size if row.result.outcome is capbg.Outcome.FINISHED else 0
    return row.progress.done if row.progress is not None else 0


def write(
    painter: QPainter,
    place: QRectF,
    text: str,
    pixels: int,
    *,
    bold: bool = False,
    color: QColor = TEXT,
    to: Qt.AlignmentFlag = LEFT,
) -> None:
    font = QFont("sans-serif")
    font.setPixelSize(pixels)
    font.setBold(bold)
    painter.setFont(font)
    painter.setPen(color)
    painter.drawText(place, to | Qt.AlignmentFlag.AlignVCenter, text)


def paint_image(painter: QPainter, place: QRectF, image: QImage, *, radius: float) -> None:
    shape = QPainterPath()
    shape.addRoundedRect(place, radius, radius)
    painter.save()
    painter.setClipPath(shape)
    painter.drawImage(place, image)
    painter.restore()


def settings() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A photo booth with a window.")
    parser.add_argument("--outbox", type=Path, default=Path("outbox"), help="where photos wait to be sent")
    parser.add_argument("--server", default="http://127.0.0.1:8000", help="where they are sent to")
    parser.add_argument("--grace", type=float, default=60.0, help="seconds to finish in; CAPBG_GRACE overrides it")
    parser.add_argument("--photos", type=int, default=0, help="take so many at the start")
    parser.add_argument("--picture", type=Path, help="save the window to this file once two photos are settled")
    return parser.parse_args()


def main() -> None:
    asked = settings()
    asked.outbox.mkdir(parents=True, exist_ok=True)
    qt = QApplication(sys.argv[:1])
    app = capbg.App("photo-booth", grace=asked.grace, max_workers=2)  # two at a time: the line is a slow one
    booth = Booth(app, asked.outbox, asked.server, asked.picture)
    for _ in range(asked.photos):
        booth.take_photo()
    booth.show()
    with driving(app):
        QTimer.singleShot(0, lambda: say(f"open, with {asked.outbox} as its outbox"))
        qt.exec()


if __name__ == "__main__":
    main()
