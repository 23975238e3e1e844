"""Signals: handlers, masks, the wake-up pipe, and stopping oneself. No policy.

How a signal reaches the app
============================

``signal.set_wakeup_fd`` makes Python's C handler write one byte, the signal's number, into a pipe at once, even while
the main thread is in C. Those bytes are the truth about the *order* of signals: Python runs its own handlers by number,
so a SIGTSTP before a SIGCONT would be heard the other way round, and the program would be suspended for good.

The wake-up descriptor is one a process, and somebody else (asyncio, a GUI toolkit's binding) may own it. It is shared:
* Entering leaves it to whoever has it. Their byte makes their loop turn; then Python runs our handler, which puts the
  byte where C did not (:meth:`Signals.handled`).
* Once a loop drives us it is ours, for the order's sake, and each byte is passed on (:meth:`Signals.take_over`).

What was rejected: signalfd (needs blocked signals, which leak into every thread and child), a thread in sigwait (no
threads in a guest's house, and forks beside it).
"""

import _signal  # what `signal` wraps: there every number becomes an enum and back, which a worker's first moments feel
import os
import signal
from collections.abc import Callable
from types import FrameType

from capbg._os import fds

Handler = Callable[[int, FrameType | None], object]

APP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGTSTP, signal.SIGCONT)
"""What the app listens to."""

TURN = EXPIRE = signal.SIGRTMAX - 2
"""A real-time signal of our own. To the app: take a turn. To a worker: come to an end. Out of the way of SIGALRM and
SIGUSR1, which belong to the program."""

_BLOCKED = frozenset({*APP_SIGNALS, TURN, signal.SIGHUP})
_ALL = frozenset(map(int, signal.valid_signals()))

_Disposition = Handler | int | signal.Handlers | None


def block() -> set[signal.Signals]:
    """Block our signals in this thread (a fork inherits that); return the mask to :func:`restore_mask`."""
    return signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)  # type: ignore[return-value]


def block_all() -> set[signal.Signals]:
    """Block every signal in this thread, the program's too: a handler that raises must not come between forks."""
    return _signal.pthread_sigmask(signal.SIG_BLOCK, _ALL)  # type: ignore[no-any-return]


def restore_mask(mask: set[signal.Signals]) -> None:
    """Put back the mask that one of the two above returned; what is pending is delivered before this returns."""
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


class Signals:
    """The app's handlers and its wake-up pipe, from :meth:`install` to :meth:`uninstall`."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._old: dict[int, _Disposition] = {}
        self._others: tuple[int, int, int] | None = None
        """Whose the wake-up descriptor was: the number, and what it was open on then (st_dev, st_ino)."""
        self._unmatched: dict[int, int] = {}
        """Signals whose byte has been read and whose Python handler has yet to run."""
        self._noted: list[int] = []
        """Signals whose Python handler has run, and whose byte has yet to be looked for."""
        self._draining = False
        self.read_fd, self.write_fd = fds.wake_pipe()
        self._pending: list[int] = []

    def install(self) -> None:
        """Install the handlers. With our signals blocked: half of them would be a trap."""
        owner = signal.set_wakeup_fd(self.write_fd, warn_on_full_buffer=False)
        if owner != -1:
            try:
                signal.set_wakeup_fd(owner)
            except (OSError, ValueError):
                pass  # closed while it was in force; the number is nobody's, or another file's. So it is ours
        for signum in (*APP_SIGNALS, TURN):
            self._old[signum] = signal.signal(signum, self._handler)

    def take_over(self) -> None:
        """Make the wake-up descriptor ours, whoever has it now, and pass on to them what it tells."""
        owner = signal.set_wakeup_fd(self.write_fd, warn_on_full_buffer=False)
        if owner not in {self.write_fd, -1}:
            try:
                found = os.fstat(owner)
            except OSError:  # closed while it was in force
                self._others = None
            else:
                self._others = owner, found.st_dev, found.st_ino

    def _others_fd(self) -> int:
        """Their descriptor; -1 if they have none or have closed it: the number may be a file by now."""
        if self._others is None:
            return -1
        fd, *file = self._others
        try:
            found = os.fstat(fd)
        except OSError:
            return -1
        return fd if file == [found.st_dev, found.st_ino] else -1

    def hand_back(self) -> None:
        """Give the wake-up descriptor back to whoever had it, and pass on what has come: no more turns are taken."""
        owner = _give_wakeup_to(self._others_fd())
        if owner != self.write_fd:
            _give_wakeup_to(owner)  # it was never ours, or somebody took it over meanwhile
        self._drain()
        self._stay_readable()

    def uninstall(self, *, leaving: bool) -> None:
        """Put back what was there, with our signals blocked; what is pending then goes to the old handlers.

        ``leaving``: the program is on its way out by a signal. A SIGTERM or SIGINT that comes on top of that must not
        kill it in the middle of its ``finally`` blocks, so where the default was in force they are ignored from now on.
        """
        if self._old:
            # This throws away one that is pending: the default action of a real-time signal is to kill.
            signal.signal(TURN, signal.SIG_IGN)
        for signum, old in self._old.items():
            if leaving and _is_default(old) and signum in {signal.SIGTERM, signal.SIGINT}:
                signal.signal(signum, signal.SIG_IGN)
            elif old is not None:  # None: it was installed from C, and Python cannot put it back
                signal.signal(signum, old)
        self._old.clear()
        self.hand_back()
        self._close()

    def forget_in_child(self) -> None:
        """In any forked child: it is not the app. The wake-up pipe is the parent's, and so are the handlers."""
        signal.set_wakeup_fd(-1)  # whoever's it is: a child must not write into its parent's pipe
        for signum, old in self._old.items():
            if old is not None:
                signal.signal(signum, old)
        self._old.clear()
        self._close()

    def _close(self) -> None:
        self.read_fd = fds.close(self.read_fd)
        self.write_fd = fds.close(self.write_fd)

    def wake(self) -> None:
        """Make the pipe readable, from any thread. A full pipe is readable already."""
        try:
            os.write(self.write_fd, b"\0")
        except BlockingIOError:
            pass
        except OSError:
            if self.write_fd >= 0:
                raise
            # The main thread has left the app just now: nobody waits any more.

    def handled(self, signum: int) -> bool:
        """Call this from the Python handler: note the signal if C's byte went elsewhere, so that none is lost.

        False: the handler has interrupted one of these methods, and must leave to its caller what is to be done.
        """
        self._noted.append(signum)
        if self._draining:
            # Were this one to go first, a SIGCONT would be heard before the SIGTSTP whose byte is in the other's hands,
            # and the program be suspended for good.
            return False
        self._drain()
        self._stay_readable()
        return True

    def take(self) -> list[int]:
        """The signals that came since the last call, in their order."""
        self._drain()
        taken, self._pending = self._pending, []
        return taken

    def pending(self) -> bool:
        """Whether :meth:`take` would return something."""
        self._drain()
        self._stay_readable()
        return bool(self._pending)

    def _stay_readable(self) -> None:
        # The byte has been read, the signal not been taken yet: whoever waits for the descriptor waits for it still.
        if self._pending:
            self.wake()

    def _drain(self) -> None:
        self._draining = True
        try:
            while True:
                # Taken before the bytes are read: the byte of a handler that has run was written before.
                noted, self._noted = self._noted, []
                self._read()
                for signum in noted:
                    if self._unmatched.pop(signum, 0) == 0:
                        self._append_unordered(signum)
                if not self._noted:
                    return
        finally:
            self._draining = False

    def _append_unordered(self, signum: int) -> None:
        """Without C's bytes the order is lost: Python runs handlers by number, SIGCONT's before SIGTSTP's."""
        if signum == signal.SIGTSTP and signal.SIGCONT in self._pending:
            # To be awake is the safe one of the two: a Ctrl-Z can be repeated, a suspended kiosk stays dark.
            self._pending.insert(self._pending.index(signal.SIGCONT), signum)
        else:
            self._pending.append(signum)

    def _pass_on(self, data: bytes) -> None:
        fd = self._others_fd()
        told = data.replace(b"\0", b"")
        if fd >= 0 and told:
            try:
                os.write(fd, told)
            except OSError:
                pass  # full: then it is readable all the same

    def _read(self) -> None:
        try:
            while data := os.read(self.read_fd, 4096):
                self._pass_on(data)
                for number in data:
                    if number:
                        self._pending.append(number)
                        self._unmatched[number] = self._unmatched.get(number, 0) + 1
        except BlockingIOError:
            pass


def _give_wakeup_to(fd: int) -> int:
    """Set the wake-up descriptor and return whose it was; where ``fd`` was closed by its owner, there is none then."""
    try:
        return signal.set_wakeup_fd(fd)
    except (OSError, ValueError):  # nobody's number, or by now another file's, which blocks
        return signal.set_wakeup_fd(-1)


def _is_default(disposition: _Disposition) -> bool:
    """Whether nobody has asked for anything else: also if asyncio or trio stands in for it while its loop runs."""
    if disposition in {signal.SIG_DFL, signal.default_int_handler}:
        return True
    function = getattr(disposition, "func", disposition)  # asyncio's is a functools.partial
    return getattr(function, "__module__", None) in {"asyncio.runners", "trio._core._ki"}


def stop_self(heard: Signals) -> bool:
    """Stop this process until SIGCONT, and return True then; False, at once, if a signal has come just now.

    SIGSTOP and not SIGTSTP: the default action of SIGTSTP is void in an orphaned process group, which every service is
    in. Sent to this very thread, so that not another one runs on for a moment. A pending SIGCONT would be thrown away
    by SIGSTOP (signal(7)), and the process would sleep although it was told to go on: so look first.
    """
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)
    try:
        if heard.pending() or signal.sigpending() & _BLOCKED:
            return False
        signal.raise_signal(signal.SIGSTOP)
        return True
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _nothing(_signum: int, _frame: FrameType | None) -> None:
    """Survive. A handler and not SIG_IGN: an exec resets it, so that a task's own children can be terminated."""


_IGNORED, _DEFAULT = int(signal.SIG_IGN), int(signal.SIG_DFL)
_SIGXCPU, _SIGCHLD = int(signal.SIGXCPU), int(signal.SIGCHLD)
_HEARD_ONLY = tuple(map(int, (signal.SIGTERM, signal.SIGINT, signal.SIGTSTP, signal.SIGHUP)))
_EXPIRY = (int(EXPIRE), _SIGXCPU)

_marked: tuple[int, ...] = ()
_to_restore: tuple[tuple[int, int], ...] = ()


def survey() -> None:
    """Look at what is handled and what ignored here, once for all the workers that are about to be forked."""
    global _marked, _to_restore
    found = {signum: _signal.getsignal(signum) for signum in range(1, signal.NSIG)}
    marked = {*_HEARD_ONLY, *_EXPIRY, *map(int, APP_SIGNALS), *(each for each in found if callable(found[each]))}
    _marked = tuple(sorted(marked))
    restored = {each: _IGNORED if found[each] == _IGNORED else _DEFAULT for each in marked}
    if found[_SIGCHLD] == _IGNORED:
        restored[_SIGCHLD] = _DEFAULT  # ignored, it would break the waits of a task's own children
    _to_restore = tuple((each, how) for each, how in restored.items() if each not in {*_HEARD_ONLY, *_EXPIRY})


def reset_in_worker(on_expiry: Handler) -> None:
    """In a worker, our signals still blocked: forget the app's handlers, then unblock everything.

    SIGTERM, SIGINT, SIGTSTP and SIGHUP do nothing in a worker: a service manager may send them to every process of the
    service, but the word of when to stop comes from the app. ``on_expiry`` gets :data:`EXPIRE` and SIGXCPU.
    """
    if not _marked:
        survey()  # a process of its own, made by spawn or the fork server
    set_handler = _signal.signal
    _signal.set_wakeup_fd(-1)
    # The fork may come out of a Python handler whose signal was not alone (systemd sends SIGTERM and SIGCONT together).
    # CPython then leaves the others marked as arrived in the child, where the next signal would call them, too: a turn
    # of the app's would be taken for the expiry. So let all that is marked run into nothing, behind one signal of ours.
    for signum in _marked:
        set_handler(signum, _nothing)
    _signal.pthread_sigmask(signal.SIG_UNBLOCK, (_SIGXCPU,))
    _signal.raise_signal(_SIGXCPU)
    for signum, how in _to_restore:
        set_handler(signum, how)
    for signum in _HEARD_ONLY:
        _signal.siginterrupt(signum, False)
    for signum in _EXPIRY:
        set_handler(signum, on_expiry)
    _signal.pthread_sigmask(signal.SIG_SETMASK, ())
