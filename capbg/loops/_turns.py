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

from capbg.loops import Driven

log = logging.getLogger("capbg")

_BREATH_MS = 2
"""How long the loop has for itself where the next turn is due at once (workers that say a lot, many to start): these
loops repaint only when no descriptor is readable."""

_ASK_AGAIN_MS = 50


class Turns:
    """Takes the turns of ``app``, and calls ``quit`` when it is to leave. An adapter calls :meth:`take` and obeys."""

    def __init__(self, app: Driven, quit: Callable[[], object]) -> None:
        self._app = app
        self._quit = quit
        self._readable = select.poll()
        self._readable.register(app.fileno(), select.POLLIN)
        self._leaving = False
        self._quit_has_worked = False
        self._error: BaseException | None = None

    def take(self) -> int | None:
        """Take a turn. Return when to call again: in so many milliseconds, or, None, when the descriptor is readable.

        Never raises.
        """
        if not self._leaving:
            try:
                self._app.pump()
            except SystemExit:
                self._leaving = True  # the app raises it again when its block is left
            except BaseException as error:  # noqa: BLE001 - raised by raise_kept()
                self._leaving, self._error = True, error
            else:
                return _BREATH_MS if self._readable.poll(0) else None
        self._ask()
        return _ASK_AGAIN_MS

    def _ask(self) -> None:
        try:
            self._quit()
            self._quit_has_worked = True
        except BaseException as error:  # raised by raise_kept(); and told now, lest nobody leaves
            if self._quit_has_worked:
                return  # what it ends is gone already: a window that was destroyed, say
            if self._error is None:
                self._error = error
                log.exception("the loop cannot be asked to end: %r raised", self._quit)

    def raise_kept(self) -> None:
        """Raise what came out of a callback and was no SystemExit. For the way out of the block."""
        error, self._error = self._error, None
        if error is not None:
            raise error
