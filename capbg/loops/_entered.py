"""Entering an app that a loop will drive, as a block.

This file must not know any toolkit.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from capbg.loops import Driven


@contextmanager
def entered(app: Driven) -> Iterator[None]:
    """Enter ``app``, driven from the first moment on, and leave it at the end of the block. In the main thread."""
    with ExitStack() as left:
        app.enter_driven()
        left.push(app.__exit__)
        yield
