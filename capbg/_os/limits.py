"""What the kernel enforces on a worker: rlimits, niceness, the parent-death signal. Called in the worker itself.

Raises OSError (or ValueError, from ``resource``) where the kernel refuses; what that means is decided elsewhere.
"""

import ctypes
import fcntl
import os
import resource
import select
import signal
from os import getppid
from resource import RLIM_INFINITY, RLIMIT_CPU, getrlimit, setrlimit

from capbg._core.budget import Limits

_PR_SET_PDEATHSIG = 1
_SIGKILL = int(signal.SIGKILL)
_prctl = ctypes.CDLL(None, use_errno=True).prctl
_prctl.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)


def die_with_parent(parent: int) -> bool:
    """Have the kernel send SIGKILL when the parent's forking thread ends (prctl(2)); False: it has ended already.

    The parent may have died before the call, and then the signal never comes: so the parent's id is checked after it.
    """
    if _prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return getppid() == parent


def die_with_writer(read_fd: int) -> bool:
    """Have the kernel send SIGKILL when the last writer of a pipe is gone; False: it is gone already.

    For a worker whose parent is a fork server and not the app. The kernel signals the owner of the *open file*
    (fcntl(2), F_SETSIG), so it is opened anew: the inherited one is shared with other workers.
    """
    own = os.open(f"/proc/self/fd/{read_fd}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.fcntl(own, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(own, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(own, fcntl.F_SETFL, fcntl.fcntl(own, fcntl.F_GETFL) | os.O_ASYNC)
    poll = select.poll()
    poll.register(own, 0)
    return not any(events & select.POLLHUP for _, events in poll.poll(0))


def set_cpu(soft_s: int, hard_s: int) -> None:
    """RLIMIT_CPU, never above the hard limit there is."""
    _lower(RLIMIT_CPU, soft_s, hard_s)


def set_asked_for(limits: Limits) -> None:
    """Set what the user asked for, except CPU time."""
    if limits.nice is not None:
        os.nice(limits.nice)
    if limits.file_size_bytes is not None:
        _lower(resource.RLIMIT_FSIZE, limits.file_size_bytes, limits.file_size_bytes)
    if limits.files is not None:
        highest = max(int(name) for name in os.listdir("/proc/self/fd"))
        _lower(resource.RLIMIT_NOFILE, highest + 1 + limits.files, highest + 1 + limits.files)
    if limits.memory_bytes is not None:
        with open("/proc/self/statm", "rb") as statm:
            inherited = int(statm.read().split()[0]) * resource.getpagesize()
        _lower(resource.RLIMIT_AS, inherited + limits.memory_bytes, inherited + limits.memory_bytes)


def _lower(which: int, soft: int, hard: int) -> None:
    # Raising a hard limit needs CAP_SYS_RESOURCE; what is there already is stricter, and stays.
    _, most = getrlimit(which)
    if most != RLIM_INFINITY:
        soft, hard = min(soft, most), min(hard, most)
    setrlimit(which, (soft, hard))


def usable_cpus() -> int:
    """How many CPUs this process may run on (sched_getaffinity(2))."""
    return len(os.sched_getaffinity(0))


def niceness_is_allowed(value: int) -> bool:
    """Whether this process may add ``value`` to its niceness: upwards always, downwards as RLIMIT_NICE allows."""
    if value >= 0 or os.geteuid() == 0:
        return True
    soft, _ = resource.getrlimit(resource.RLIMIT_NICE)
    return os.getpriority(os.PRIO_PROCESS, 0) + value >= 20 - soft
