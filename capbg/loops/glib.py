"""GLib's main loop, and so GTK 3 and 4: it watches the app's descriptor. For PyGObject 3.42 and later.

    with driving(app, quit=loop.quit):
        loop.run()

PyGObject's ``run`` brings a wakeup descriptor of its own. Both go on working: capbg passes on what it hears, and puts
back what it found. It leaves SIGINT alone, since the app handles that.

What was rejected: ``GLib.unix_signal_add`` (its handler replaces ours, and the order of signals is lost);
``GLib.unix_fd_add_full`` (newer GLibs have moved it to another namespace, ``io_add_watch`` has always been where it
is); a priority below that of redrawing (a program with a busy source of its own would never hear its SIGTERM).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gi.repository import GLib

from capbg.loops import Driven
from capbg.loops._turns import Turns
from capbg.loops.forked import without_display


@contextmanager
def driving(app: Driven, *, quit: Callable[[], object]) -> Iterator[None]:
    """Enter ``app`` and have GLib's default main context drive it; run the loop inside the block.

    ``quit`` ends that loop at the end of a terminating grace period: ``loop.quit``, ``application.quit`` or, in GTK 3,
    ``Gtk.main_quit``. It is called in the loop, and again every 50 ms until the block is left; then SystemExit goes on
    with the status of the contract. From the main thread. A forked worker has no connection to the display.

    Raises what entering the app raises, and on the way out what ``pump`` or ``quit`` raised in the loop.
    """
    with without_display(), app:  # in this order: leaving the app may start what is left of its tasks
        turns = Turns(app, quit)
        source = 0

        def watch(wait_ms: int | None) -> None:
            nonlocal source
            if source:
                GLib.source_remove(source)
            if wait_ms is None:
                source = GLib.io_add_watch(app.fileno(), GLib.PRIORITY_DEFAULT, GLib.IOCondition.IN, turn)
            else:
                source = GLib.timeout_add(wait_ms, turn)

        def turn(*_: object) -> bool:
            watch(turns.take())
            return bool(GLib.SOURCE_CONTINUE)  # of the source that is gone: to have it removed twice is an error

        watch(None)
        try:
            yield
        finally:
            GLib.source_remove(source)
            turns.raise_kept()
