"""Which other threads this process has: a fork copies none of them, but whatever locks they hold."""

import os
import threading


def others() -> tuple[str, ...]:
    """Names of the threads beside the calling one; those Python does not know are named by the kernel (comm)."""
    me = threading.get_native_id()
    try:
        ids = {int(name) for name in os.listdir("/proc/self/task")} - {me}
    except OSError:  # /proc is hidden: Python's own threads are all that can be told
        return tuple(sorted(t.name for t in threading.enumerate() if t is not threading.current_thread()))
    if not ids:
        return ()
    known = {thread.native_id: thread.name for thread in threading.enumerate()}
    return tuple(sorted(known.get(tid) or f"{_comm(tid)} (native)" for tid in ids))


def _comm(tid: int) -> str:
    try:
        with open(f"/proc/self/task/{tid}/comm", encoding="utf-8", errors="replace") as comm:
            return comm.read().strip()
    except OSError:
        return str(tid)
