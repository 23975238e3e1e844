"""Tk's main loop: it watches the app's descriptor. For ``tkinter``.

    with driving(app, root):
        root.mainloop()

The timer and the file handler are Tcl's own, not ``after`` and what belongs to the window: they outlive it, for the
user may close it while a grace period runs.
"""

import tkinter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from capbg.loops import Driven
from capbg.loops._entered import entered
from capbg.loops._turns import Turns
from capbg.loops.forked import without_display


@contextmanager
def driving(app: Driven, root: tkinter.Tk, *, quit: Callable[[], object] | None = None) -> Iterator[None]:
    """Enter ``app`` and have the loop of ``root`` drive it; call ``root.mainloop()`` inside the block.

    ``quit`` ends that loop at the end of a terminating grace period; None: ``root.quit``. ``root.destroy`` also ends a
    dialog that waits (``wait_window``, ``messagebox``). It is called in the loop, and again every 50 ms until the block
    is left; then SystemExit goes on with the status of the contract. From the main thread. A forked worker has no
    connection to the display.

    Raises what entering the app raises, and on the way out what ``pump`` or ``quit`` raised in the loop.
    """
    tk = root.tk
    # In this order: leaving the app may start what is left of its tasks.
    with without_display(), entered(app), Turns(app, root.quit if quit is None else quit) as turns:
        fd = app.fileno()
        timer = None

        def watch(wait_ms: int | None) -> None:
            nonlocal timer
            unwatch()
            if wait_ms is None:
                tk.createfilehandler(fd, tkinter.READABLE, turn)
            else:
                timer = tk.createtimerhandler(wait_ms, turn)

        def unwatch() -> None:
            nonlocal timer
            tk.deletefilehandler(fd)
            if timer is not None:
                timer.deletetimerhandler()
                timer = None

        def turn(*_: object) -> None:
            watch(turns.take())

        watch(None)
        try:
            yield
        finally:
            unwatch()
