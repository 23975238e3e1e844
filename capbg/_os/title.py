"""The process title, as ``ps`` shows it. The only place that calls ``setproctitle``."""

import functools
import os
from collections.abc import Callable


@functools.cache
def _setproctitle() -> Callable[[str], object]:
    import setproctitle

    set_title: Callable[[str], object] = setproctitle.setproctitle
    return set_title


def show_worker(app_name: str, task_name: str) -> None:
    """``capbg: NAME/TASK``, in a worker."""
    _setproctitle()(f"capbg: {app_name}/{task_name}")


class Title:
    """The app's title from :meth:`take` to :meth:`restore`; with ``enabled=False`` nothing is touched."""

    def __init__(self, name: str, *, enabled: bool) -> None:
        self.name = name
        self.enabled = enabled
        self._old: str | None = None

    def take(self) -> None:
        """Load setproctitle and remember the title there is."""
        if not self.enabled:
            return
        # Without this its first use overwrites /proc/PID/environ, where operators look (measured with 1.3.8).
        before = os.environ.get("SPT_NOENV")
        os.environ["SPT_NOENV"] = "1"
        try:
            import setproctitle

            self._old = setproctitle.getproctitle()
            setproctitle.setproctitle(self._old)
        finally:
            if before is None:
                del os.environ["SPT_NOENV"]

    def show(self, text: str) -> None:
        """``capbg: NAME [text]``"""
        self._set(f"capbg: {self.name} [{text}]")

    def restore(self) -> None:
        """Put back the title that was there."""
        if self._old is not None:
            self._set(self._old)
            self._old = None

    def _set(self, text: str) -> None:
        if self.enabled:
            _setproctitle()(text)
