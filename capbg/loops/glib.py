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
from capbg.loops._entered import entered
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
    # In this order: leaving the app may start what is left of its tasks.
    with without_display(), entered(app), Turns(app, quit) as turns:
        watch = _Watch(app.fileno(), turns)
        try:
            yield
        finally:
            watch.close()


class _Watch:
    """Takes turns when they are due; always by two sources, either of which sets both up again.

    PyGObject removes a source whose callback raises. What a signal handler of the program's own raises comes out of
    whatever Python code is run next, and that is a callback of ours, for the signal has woken the loop up by our
    descriptor: we would be deaf from then on. As it is, the other source has its turn behind it.
    """

    def __init__(self, fd: int, turns: Turns) -> None:
        self._fd = fd
        self._turns = turns
        self._sources: list[int] = []
        self._set_up(None)

    def _turn(self, *_: object) -> bool:
        self._set_up(self._turns.take())
        return bool(GLib.SOURCE_CONTINUE)  # of a source that is gone already

    def _set_up(self, wait_ms: int | None) -> None:
        self.close()
        for _ in range(2):
            if wait_ms is None:
                source = GLib.io_add_watch(self._fd, GLib.PRIORITY_DEFAULT, GLib.IOCondition.IN, self._turn)
            else:
                source = GLib.timeout_add(wait_ms, self._turn)
            self._sources.append(source)

    def close(self) -> None:
        """Stop watching."""
        while self._sources:
            source = GLib.MainContext.default().find_source_by_id(self._sources.pop())
            if source is not None:
                source.destroy()
