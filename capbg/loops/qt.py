"""Qt 6, by PySide6: the application's own loop drives, and is left by its own way out.

While Qt waits it sits in C, where Python runs no signal handler. A QSocketNotifier makes Qt itself watch the app's
descriptor, between input and repaints like everything else it watches.

What was rejected: a QTimer that lets Python look for signals (it wakes the machine up all day, and is late all the
same); a thread (a fork copies none, but whatever locks it holds).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import BuiltinFunctionType, MethodDescriptorType
from typing import Any

from PySide6.QtCore import QCoreApplication, QObject, QSocketNotifier, QThread, QTimer, Signal, SignalInstance

from capbg import worker
from capbg.errors import UsageError, WrongProcessError
from capbg.loops import Driven
from capbg.loops._entered import entered
from capbg.loops.forked import without_display
from capbg.task import current_task

_AGAIN_MS = 20
_FAILED = 1


@contextmanager
def driving(app: Driven) -> Iterator[None]:
    """Enter ``app`` and have Qt's event loop drive it, until the block is left.

    ::

        qt = QApplication(sys.argv)
        with driving(app):
            qt.exec()

    In the main thread, after the QApplication (a QGuiApplication or QCoreApplication will do) has been made. At the end
    of a terminating grace period ``exec()`` returns, by ``QCoreApplication.exit(status)``, from every nested loop as
    well; no window is asked whether it wants to be closed. The block is then left by SystemExit, with the same status.

    A program that turns Qt by ``processEvents()`` has no loop that could end: it calls ``app.pump()`` itself.

    In a forked worker whatever is a QObject raises :class:`~capbg.WrongProcessError` when it is used (docs/forking.md).

    Raises :class:`~capbg.UsageError` without a QCoreApplication, and whatever :meth:`~capbg.App.pump` raised.
    """
    if QCoreApplication.instance() is None:
        raise UsageError("Qt has nothing yet that could drive the app: make the QApplication before driving(app)")
    # In this order: leaving the app may start what is left of its tasks.
    with _without_qt(), without_display(), entered(app):
        watch = _Watch(app)
        try:
            yield
        finally:
            watch.close()
            if watch.raised is not None:
                raise watch.raised
        if watch.left_by is not None:
            raise watch.left_by


class _Watch:
    """Qt's look-out for turns that are due. Nothing may leave a slot: PySide would print it, and for SystemExit
    end the process on the spot, without a ``finally`` block."""

    def __init__(self, app: Driven) -> None:
        self.raised: BaseException | None = None
        """What came out of a turn and is no SystemExit."""
        self.left_by: SystemExit | None = None
        """The one that did: the app's, or that of a signal handler of the program's own."""
        self._pump = app.pump
        self._status = 0
        self._notifier = QSocketNotifier(app.fileno(), QSocketNotifier.Type.Read)
        self._notifier.activated.connect(self._turn)
        self._again = QTimer()
        self._again.setSingleShot(True)
        self._again.setInterval(_AGAIN_MS)
        self._again.timeout.connect(self._leave)

    def _turn(self) -> None:
        # Off meanwhile: a listener may open a dialog, whose loop would find the descriptor readable all the time.
        self._notifier.setEnabled(False)
        try:
            self._pump()
        except SystemExit as leaving:
            self.left_by = leaving
            self._status = leaving.code if isinstance(leaving.code, int) else _FAILED
            self._leave()
        except BaseException as error:  # noqa: BLE001 - raised again in the frames of the program
            self.raised = error
            self._status = _FAILED
            self._leave()
        else:
            self._notifier.setEnabled(True)

    def _leave(self) -> None:
        if QThread.currentThread().loopLevel():
            QCoreApplication.exit(self._status)
        # Again and again until the block is left: in a processEvents() before exec() it has no effect, and where a
        # dialog is shown before exec() it ends that dialog's loop alone.
        self._again.start()

    def close(self) -> None:
        """Stop watching."""
        self._notifier.setEnabled(False)
        self._again.stop()


# --------------------------------------------------------------------------------------------------- in a worker


@contextmanager
def _without_qt() -> Iterator[None]:
    worker.before_task.append(_forbid_qt)
    try:
        yield
    finally:
        worker.before_task.remove(_forbid_qt)


def _forbid_qt() -> None:
    """In a forked worker: have whatever is a QObject say that it must not be used there.

    It would seem to work: a label takes its text, a signal is emitted, a timer starts. But nothing of it reaches the
    window; loops and network classes share the app's wake-up descriptors, and wait for threads that a fork does not
    copy. Values (QImage, QByteArray, QUrl) are no QObjects and stay usable, and so does what a program's own
    subclasses have in Python: attributes, and methods that use no more than these.
    """
    kind: Any = type(QObject)
    root: Any = QObject
    make, of_class, of_object = kind.__call__, kind.__getattribute__, root.__getattribute__

    def made(cls: type, *arguments: Any, **options: Any) -> Any:
        if issubclass(cls, QObject):
            raise _forbidden(f"{cls.__name__}()")
        return make(cls, *arguments, **options)

    def found_in_class(cls: type, name: str) -> Any:
        found = of_class(cls, name)
        if isinstance(found, _QT_CODE) and not name.startswith("__") and issubclass(cls, QObject):
            raise _forbidden(f"{cls.__name__}.{name}")
        return found

    def found_in_object(each: QObject, name: str) -> Any:
        found = of_object(each, name)
        if isinstance(found, _QT_CODE) and not name.startswith("__") and getattr(found, "__self__", each) is each:
            raise _forbidden(f"{type(each).__name__}.{name}")
        return found

    kind.__call__, kind.__getattribute__, root.__getattribute__ = made, found_in_class, found_in_object


_QT_CODE = (BuiltinFunctionType, MethodDescriptorType, Signal, SignalInstance)
"""What a look-up finds where Qt's own code is about to be called."""


def _forbidden(what: str) -> WrongProcessError:
    task = current_task()
    whose = "a worker" if task is None else f"the worker of task {task.id!r}"
    return WrongProcessError(
        f"{what} cannot be used in {whose}: Qt's objects belong to the app's own process. Let the app show what "
        'task.progress() says, or use App(start_method="forkserver"), whose workers can have a QGuiApplication of '
        "their own (docs/forking.md)"
    )
