"""Entering an app that a loop will drive, without a moment in which nobody has said so yet.

An app that has been entered and not been asked for its descriptor takes a signal for a plain program's: the handler
would run the whole grace period on the spot, and the window not be painted once. READY=1 has been sent by then, so that
a service manager may well send SIGTERM right there.

This file must not know any toolkit.
"""

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from capbg.loops import Driven

_HEARD = (signal.SIGTERM, signal.SIGINT, signal.SIGTSTP, signal.SIGCONT)


def enter(app: Driven) -> int:
    """Enter ``app``, say that a loop drives it, and return its descriptor. In the main thread."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)
    try:
        app.__enter__()
        try:
            return app.fileno()
        except BaseException as error:
            app.__exit__(type(error), error, error.__traceback__)
            raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@contextmanager
def entered(app: Driven) -> Iterator[None]:
    """The same as a block, which leaves the app at its end."""
    with ExitStack() as left:
        enter(app)
        left.push(app)
        yield
