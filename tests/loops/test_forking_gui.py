"""What a worker that was forked out of a GUI program may do and what not: what docs/forking.md says, shown."""

import signal
from pathlib import Path

from tests.loops import needs
from tests.probe import Launcher

OFFSCREEN = {"QT_QPA_PLATFORM": "offscreen"}


def test_a_forked_worker_that_touches_qt_is_told_and_values_are_not_qt(launch: Launcher, tmp_path: Path) -> None:
    """Each use of a QObject fails with a sentence that names it and the way out; images, files and Python do not."""
    needs.module("PySide6.QtWidgets")
    program = launch(
        """
        from PySide6.QtCore import QByteArray, QCoreApplication, QEventLoop, QRect, QTimer, QUrl, Qt, Signal
        from PySide6.QtGui import QColor, QImage, QPainter
        from PySide6.QtWidgets import QApplication, QLabel
        from capbg.loops.qt import driving

        qt = QApplication([])

        class Window(QLabel):
            sent = Signal(int)
            left = ("a.jpg", "b.jpg")

            def __init__(self):
                super().__init__("window")
                self.folder = sys.argv[1]

            def save(self):  # a method of the window's own, that keeps to data
                assert isinstance(self, Window) and len(self.left) == 2
                image = QImage(64, 64, QImage.Format.Format_RGB32)
                image.fill(Qt.GlobalColor.white)
                painter = QPainter(image)
                painter.fillRect(QRect(8, 8, 16, 16), QColor("red"))
                painter.end()
                assert image.save(os.path.join(self.folder, "image.png"))
                assert QUrl("http://host/path").host() == "host" and bytes(QByteArray(b"x").toHex()) == b"78"

        window = Window()
        window.show()
        app = capbg.App("touches", grace=60)
        for name, touch in {
            "Window.setText": lambda: window.setText("sent"),
            "Window.sent": lambda: window.sent.emit(1),
            "QLabel.setText": lambda: QLabel.setText(window, "sent"),
            "QTimer()": lambda: QTimer(),
            "QEventLoop()": lambda: QEventLoop(),
            "Window()": lambda: Window(),
            "QTimer.singleShot": lambda: QTimer.singleShot(0, print),
            "QApplication.processEvents": lambda: QApplication.processEvents(),
            "QCoreApplication.exit": lambda: QCoreApplication.exit(1),
            "fine": window.save,
        }.items():
            app.background_task(name=name)(touch)
        try:
            with driving(app):
                QTimer.singleShot(0, lambda: say("READY"))
                qt.exec()
        finally:
            report(app)
            window.setText("still a window")
            say("TEXT", window.text())
        """,
        str(tmp_path),
        env=OFFSCREEN,
    )
    program.expect("READY")
    program.send(signal.SIGTERM)
    report = program.report()
    fine = report["by_name"].pop("fine")
    assert "FINISHED" == fine["outcome"], fine
    assert (tmp_path / "image.png").read_bytes().startswith(b"\x89PNG")
    assert 9 == len(report["by_name"])
    for name, each in report["by_name"].items():
        assert ("FAILED", "WrongProcessError") == (each["outcome"], each["error_type"]), each
        assert each["error_message"].startswith(f"{name} cannot be used in the worker of task '{name}-"), each
        assert 'App(start_method="forkserver")' in each["error_message"]
    assert "still a window" == program.expect("TEXT")
    assert 75 == program.wait(), program.stderr


def test_a_worker_of_a_fork_server_may_have_a_qt_of_its_own(launch: Launcher, tmp_path: Path) -> None:
    """It makes an application, runs a loop and paints, beside an app that has a window; nothing of that is shared."""
    needs.module("PySide6.QtWidgets")
    program = launch(
        """
        from PySide6.QtCore import QTimer
        from PySide6.QtGui import QGuiApplication, QImage, QPainter

        def draw_ticket(path):
            def draw(task):
                assert QGuiApplication.instance() is None
                own = QGuiApplication([])
                image = QImage(2000, 2000, QImage.Format.Format_RGB32)
                image.fill(0xFFFFFF)
                painter = QPainter(image)
                painter.drawText(20, 40, "TICKET 1")
                painter.end()
                image.scaled(900, 900).save(path)
                QTimer.singleShot(0, lambda: own.exit(7))
                assert own.exec() == 7
                task.finish()
            return draw

        if __name__ == "__main__":  # the server's workers import this file, and must not open a window
            from PySide6.QtWidgets import QApplication, QLabel
            from capbg.loops.qt import driving

            qt = QApplication([])
            window = QLabel("window")
            window.show()
            app = capbg.App("server", grace=120, start_method="forkserver")
            app.before_exit(draw_ticket(sys.argv[1]), name="ticket")
            try:
                with driving(app):
                    QTimer.singleShot(0, lambda: say("READY"))
                    qt.exec()
            finally:
                report(app)
        """,
        str(tmp_path / "ticket.png"),
        env=OFFSCREEN,
    )
    program.expect("READY")
    program.send(signal.SIGTERM)
    report = program.report()
    assert {"ticket": "FINISHED"} == report["outcomes"], report
    assert 0 == program.wait(), program.stderr
    assert (tmp_path / "ticket.png").read_bytes().startswith(b"\x89PNG")


def test_a_worker_that_waits_for_threads_of_qt_is_ended_by_its_deadline(launch: Launcher) -> None:
    """Qt scales large images in threads it keeps: in a fork they do not exist, the call never returns, and the kernel
    ends that worker alone. (On a single CPU Qt has no such threads, and then it finishes.)"""
    needs.module("PySide6.QtGui")
    program = launch(
        """
        from PySide6.QtCore import QTimer, Qt
        from PySide6.QtGui import QGuiApplication, QImage
        from capbg.loops.qt import driving

        qt = QGuiApplication([])
        image = QImage(2000, 2000, QImage.Format.Format_RGB32)
        image.fill(0)

        def scale():
            mode = Qt.TransformationMode.SmoothTransformation
            image.scaled(900, 900, Qt.AspectRatioMode.KeepAspectRatio, mode)

        scale()
        app = capbg.App("scales", grace=60, kill_after=0.5)
        app.add_listener("appStateChange", lambda state: scale())  # Qt's threads leave after half a minute of rest
        app.background_task(deadline=2)(scale)
        app.background_task(name="other")(lambda: None)
        try:
            with driving(app):
                say("READY", len(os.listdir("/proc/self/task")) - 1)
                qt.exec()
        finally:
            report(app)
        """,
        env=OFFSCREEN,
    )
    threads = int(program.expect("READY"))
    program.send(signal.SIGTERM)
    assert {"scale": "KILLED" if threads else "FINISHED", "other": "FINISHED"} == program.report()["outcomes"]
    assert (75 if threads else 0) == program.wait(), program.stderr
    assert ("Thread (pooled) (native)" in program.stderr) == bool(threads)  # the log has named them


def test_a_display_that_is_shared_with_a_fork_is_lost(launch: Launcher, display: dict[str, str]) -> None:
    """Why workers are kept from it: a child that asks the display one thing ends the parent with its window."""
    needs.module("tkinter")
    program = launch(
        """
        import tkinter
        root = tkinter.Tk()
        root.update()
        pid = os.fork()
        if pid == 0:
            try:
                root.winfo_pointerxy()
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        for _ in range(50):
            root.winfo_pointerxy()
            root.update()
        say("LIVES")
        """,
        env=display,
    )
    assert 0 != program.wait()
    assert [] == program.lines


def test_a_connection_to_a_display_leads_nowhere_in_a_worker_and_others_lead_where_they_did(
    launch: Launcher, tmp_path: Path
) -> None:
    """Wayland's and X11's sockets are told by their names; the app's own ends are as they were."""
    program = launch(
        """
        import socket
        from capbg.loops.forked import without_display

        os.environ["WAYLAND_DISPLAY"] = os.path.join(sys.argv[1], "compositor")
        os.mkdir(os.path.join(sys.argv[1], ".X11-unix"))
        served, clients = {}, {}
        for name in ("wayland-1", "compositor", ".X11-unix/X7", "database"):
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(os.path.join(sys.argv[1], name))
            listener.listen()
            clients[name] = socket.socket(socket.AF_UNIX)
            clients[name].connect(listener.getsockname())
            served[name] = listener.accept()[0]

        app = capbg.App("displays", grace=60)

        @app.background_task()
        def talk():
            for name, client in clients.items():
                try:
                    client.send(b"from the worker ")
                except BrokenPipeError:
                    say("BROKEN", name)

        try:
            with without_display(), app:
                os.kill(os.getpid(), signal.SIGTERM)
                idle()
        finally:
            for name, client in clients.items():
                client.sendall(b"from the app")
                client.shutdown(socket.SHUT_WR)
                say("SERVED", name, *iter(lambda: served[name].recv(100).decode(), ""))
        """,
        str(tmp_path),
    )
    assert 0 == program.wait(), program.stderr
    assert {
        "BROKEN wayland-1",
        "BROKEN compositor",
        "BROKEN .X11-unix/X7",
        "SERVED wayland-1 from the app",
        "SERVED compositor from the app",
        "SERVED .X11-unix/X7 from the app",
        "SERVED database from the worker from the app",
    } == set(program.lines)


def test_a_worker_that_draws_with_pygame_fails_alone(launch: Launcher, display: dict[str, str]) -> None:
    """With ``without_display()`` the program's own frames go on, and its other task finishes."""
    needs.module("pygame")
    program = launch(
        """
        import pygame
        from capbg.loops.forked import without_display

        pygame.display.init()
        screen = pygame.display.set_mode((200, 100))
        say("DRIVER", pygame.display.get_driver())

        def frame(number):
            screen.fill((number % 256, 0, 0))
            pygame.mouse.set_pos((number % 100, 10))
            pygame.display.flip()
            pygame.event.pump()

        app = capbg.App("frames", grace=60)
        app.background_task(name="draws")(lambda: [frame(number) for number in range(20)])
        app.background_task(name="saves")(lambda: None)
        try:
            with without_display(), app:
                say("READY")
                for number in range(1 << 60):
                    app.pump()
                    frame(number)
                    time.sleep(0.01)
        finally:
            report(app)
            frame(1)
            say("LIVES")
        """,
        env={**display, "SDL_VIDEODRIVER": "x11", "SDL_AUDIODRIVER": "dummy", "PYGAME_HIDE_SUPPORT_PROMPT": "1"},
    )
    assert "x11" == program.expect("DRIVER")
    program.expect("READY")
    program.send(signal.SIGTERM)
    outcomes = program.report()["outcomes"]
    assert ("FINISHED", True) == (outcomes["saves"], outcomes["draws"] in {"CRASHED", "FAILED"}), outcomes
    program.expect("LIVES")
    assert 75 == program.wait(), program.stderr
