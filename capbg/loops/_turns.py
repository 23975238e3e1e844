"""The turns of an app inside a loop that drops what its callbacks raise, and that has to be told to end.

A toolkit written in C calls ``pump()`` from a callback. What comes out of it must not go on from there: the toolkit
would print or forget it, or end the process on the spot (PyErr_Print does, for SystemExit). So it is kept here, and the
loop is asked to end by its own way out.

It is asked again and again until the block around it is left: GLib's and Tk's quit are forgotten by a loop that has yet
to start (the signal came while the program was showing its splash screen), and by an inner loop they mean nothing.

This file must not know any toolkit.
"""

import logging
import select
from collections.abc import Callable
from types import TracebackType
from typing import Self

from capbg.loops import Driven

log = logging.getLogger("capbg")

_BREATH_MS = 2
"""How long the loop has for itself where the next turn is due at once (workers that say a lot, many to start): these
loops repaint only when no descriptor is readable."""

_ASK_AGAIN_MS = 50


class Turns:
    """Takes the turns of ``app``, and calls ``quit`` when it is to leave. An adapter calls :meth:`take` and obeys.

    A context manager around the loop: what was kept is raised when its block is left.
    """

    def __init__(self, app: Driven, quit: Callable[[], object]) -> None:
        self._app = app
        self._quit = quit
        self._readable = select.poll()
        self._readable.register(app.fileno(), select.POLLIN)
        self._kept: BaseException | None = None
        self._quit_has_worked = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        kept, self._kept = self._kept, None
        # Beside an error of the program's own, whether to leave by SystemExit is the app's affair.
        clean = error is None or (isinstance(error, SystemExit) and not error.code)
        if kept is not None and (clean or not isinstance(kept, SystemExit)):
            raise kept

    def take(self) -> int | None:
        """Take a turn. Return when to call again: in so many milliseconds, or, None, when the descriptor is readable.

        Nothing that ``pump`` or ``quit`` raises comes out of it.
        """
        if self._kept is None:
            try:
                self._app.pump()
            except BaseException as error:  # noqa: BLE001 - raised when the block is left
                self._kept = error
            else:
                return _BREATH_MS if self._readable.poll(0) else None
        self._ask()
        return _ASK_AGAIN_MS

    def _ask(self) -> None:
        try:
            self._quit()
            self._quit_has_worked = True
        except BaseException as error:
            if self._quit_has_worked:
                return  # what it ends is gone already: a window that was destroyed, say
            if self._kept is not error and isinstance(self._kept, SystemExit):
                self._kept = error
                # Told at once, for the block may never be left.
                log.exception("the loop cannot be asked to end: %r raised", self._quit)
