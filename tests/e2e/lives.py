"""Source for programs that live an app many times over: each life is a forked child, so that a hundred cost seconds."""

import textwrap

_LIVES = '''
import ctypes, functools, select, traceback
import capbg.app, capbg.supervisor, setproctitle, sdnotify  # once, and not in every life

_libc = ctypes.CDLL(None)

def wait_for(path):
    """For a task that lasts until the test says so, by a file."""
    while not os.path.exists(path):
        time.sleep(0.01)

def at_once(*signums):
    """Send ourselves signals so that all of them have arrived, in this order, before Python runs its first handler."""
    list(map(functools.partial(_libc.kill, os.getpid()), signums))

def at_step(number, signum):
    """Send ourselves ``signum`` at the n-th place from here on where capbg's own code can be met by a signal handler.

    Python looks for signals on entering a function and behind a call into C: so these are all the places there are.
    """
    folder, me, count = os.path.dirname(capbg.__file__), os.getpid(), 0

    def look(frame, event, argument):
        nonlocal count
        if os.getpid() != me:
            sys.setprofile(None)  # a worker
        elif event in ("call", "c_return") and frame.f_code.co_filename.startswith(folder):
            count += 1
            if count == number:
                sys.setprofile(None)
                os.kill(me, signum)

    sys.setprofile(look)

class Life:
    """A forked child that runs ``live(told, *arguments)``; what it writes into ``told`` is read from ``heard``."""

    def __init__(self, live, *arguments):
        self.heard, told = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            code = 99
            signal.alarm(60)
            try:
                os.close(self.heard)
                live(told, *arguments)
                code = 0
            except SystemExit as leaving:
                code = leaving.code or 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.setprofile(None)
                os._exit(code)
        os.close(told)

    def hear(self, count=1):
        """What it has told, at least ``count`` bytes; less if it has left, is stopped or hangs."""
        words, end = b"", time.monotonic() + 60
        while len(words) < count and time.monotonic() < end:
            stopped = self.state() == "T"  # looked at first: what it told before it was stopped is there then
            if select.select([self.heard], [], [], 0 if stopped else 0.05)[0]:
                word = os.read(self.heard, 100)
                if not word:
                    break
                words += word
            elif stopped:
                break
        return words.decode()

    def state(self):
        with open(f"/proc/{self.pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0]

    def send(self, *signums):
        for signum in signums:
            os.kill(self.pid, signum)

    def end(self):
        """How it ended: its exit status (-14: it hung), or "stopped". Afterwards it is gone."""
        _, status = os.waitpid(self.pid, os.WUNTRACED)
        if os.WIFSTOPPED(status):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.heard)
        return "stopped" if os.WIFSTOPPED(status) else os.waitstatus_to_exitcode(status)
'''


def lives(*sources: str) -> str:
    """A program for ``launch`` in which ``wait_for``, ``at_once``, ``at_step`` and ``Life`` are there."""
    return _LIVES + "".join(map(textwrap.dedent, sources))
