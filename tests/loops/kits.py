"""The toolkits that are driven in the same way, and the programs their tests share: one text for each test, in which
``drive(app)``, ``run()``, ``quit``, ``once(ms, call)``, ``idle_once(call)`` and ``repaint()`` are the toolkit's own.
"""

import dataclasses
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import multiprocess
import pytest

import capbg
from tests.loops import needs
from tests.probe import PREAMBLE, Launcher, Probe

DEBIAN = "/usr/bin/python3"
"""PyGObject is Debian's, so its programs are run by Debian's Python, with our packages on its path."""


@dataclasses.dataclass(frozen=True)
class Kit:
    """One toolkit: how its programs begin, what runs them, what it needs."""

    name: str
    source: str
    needed: tuple[str, ...]
    python: str = sys.executable
    window: bool = True

    def start(
        self, launch: Launcher, folder: Path, source: str, *arguments: str, env: Mapping[str, str], **options: Any
    ) -> Probe:
        """Start a program of this toolkit."""
        for statement in self.needed:
            needs.statement(statement, python=self.python)
        path = folder / "program.py"
        path.write_text(PREAMBLE + textwrap.dedent(self.source) + textwrap.dedent(source))
        ours = {"PYTHONPATH": ":".join(str(Path(str(each.__file__)).parents[1]) for each in (capbg, multiprocess))}
        headless = {"GDK_BACKEND": "x11", "GSK_RENDERER": "cairo", "GTK_A11Y": "none", "NO_AT_BRIDGE": "1"}
        headless |= {"GSETTINGS_BACKEND": "memory", "DBUS_SESSION_BUS_ADDRESS": "disabled:"}
        return launch.start([self.python, str(path), *arguments], env={**ours, **headless, **env}, **options)


_GLIB = """
from gi.repository import GLib
from capbg.loops.glib import driving

def once(ms, call):
    GLib.timeout_add(ms, lambda: call() and False)

def idle_once(call):
    GLib.idle_add(lambda: call() and False)

def iterate():
    GLib.MainContext.default().iteration(True)
"""

_MAIN_LOOP = """
painted = [0]
loop = GLib.MainLoop()
run, quit = loop.run, loop.quit

def repaint():
    GLib.idle_add(lambda: painted.__setitem__(0, painted[0] + 1), priority=120)  # where GTK redraws

def drive(app, quit=quit):
    return driving(app, quit=quit)
"""

_GTK = """
painted = [0]
application = Gtk.Application(flags=Gio.ApplicationFlags.NON_UNIQUE)
quit = application.quit

def run():
    say("STATUS", application.run())

def painted_one(*_):
    painted[0] += 1

def activate(_):
    global area, window
    window = Gtk.ApplicationWindow(application=application)
    area = Gtk.DrawingArea(width_request=200, height_request=100)
    show(window, area)
    area.get_frame_clock().connect("after-paint", painted_one)  # to draw by ourselves would need cairo's binding

application.connect("activate", activate)

def repaint():
    area.queue_draw()

def close():
    window.close()

def touch():
    Gdk.Display.get_default().sync()

def drive(app, quit=quit):
    return driving(app, quit=quit)
"""

_GTK3 = """
import gi
gi.require_version("Gtk", "3.0")
from gi.repository import Gio, Gtk, Gdk

def show(window, area):
    window.add(area)
    window.show_all()
"""

_GTK4 = """
import gi
gi.require_version("Gtk", "4.0")
from gi.repository import Gio, Gtk, Gdk

def show(window, area):
    window.set_child(area)
    window.present()
"""

_TK = """
import tkinter
from capbg.loops.tk import driving

painted = [0]
root = tkinter.Tk()
label = tkinter.Label(root)
label.pack()
run, quit, once, idle_once, iterate, close = (
    root.mainloop, root.quit, root.after, root.after_idle, lambda: root.tk.dooneevent(0), root.destroy
)

def count():
    painted[0] += 1

def touch():
    label.winfo_toplevel().winfo_pointerxy()  # asks the server

def repaint():
    label.config(text=str(painted[0]))
    root.after_idle(count)  # Tk redraws then, behind all that is readable

def drive(app, quit=None):
    return driving(app, root, quit=quit)
"""

_SAME_PYTHON = f"import sys; assert sys.version_info[:2] == {sys.version_info[:2]}, sys.version"
_GI = (_SAME_PYTHON, "import gi.repository.GLib")

MAIN_LOOP = Kit("GLib.MainLoop", _GLIB + _MAIN_LOOP, _GI, DEBIAN, window=False)
GTK3 = Kit("GTK 3", _GLIB + _GTK3 + _GTK, (*_GI, "import gi; gi.require_version('Gtk', '3.0')"), DEBIAN)
GTK4 = Kit("GTK 4", _GLIB + _GTK4 + _GTK, (*_GI, "import gi; gi.require_version('Gtk', '4.0')"), DEBIAN)
TK = Kit("Tk", _TK, ("import tkinter",))


def environment(kit: Kit, request: pytest.FixtureRequest) -> dict[str, str]:
    """The display a kit needs; none for one that shows no window."""
    found: dict[str, str] = request.getfixturevalue("display") if kit.window else {}
    return found


LIVES = """
class App(capbg.App):
    longest = 0.0

    def pump(self):
        begun = time.monotonic()
        try:
            super().pump()
        finally:
            self.longest = max(self.longest, time.monotonic() - begun)

app = App("life", grace=90)
lives = 0

@app.background_task()
def work(task):
    say("WORKER", lives)
    while not os.path.exists(f"{sys.argv[1]}/go{lives}"):
        time.sleep(0.01)

def paint_on(left):
    repaint()
    if left:
        once(5, lambda: paint_on(left - 1))
    else:
        say("PAINTED", painted[0])

def changed(state):
    global lives
    say("STATE", state.is_active, state.reason.name, time.monotonic())
    lives += not state.is_active
    painted[0], app.longest = 0, 0.0
    if not state.is_active:
        paint_on(120)

app.add_listener("appStateChange", changed)
try:
    with drive(app):
        try:
            once(200, lambda: say("READY"))  # from here on nothing but a signal wakes the loop up
            run()
            say("LEFT THE LOOP")
        finally:
            say("CLEANED UP", app.longest)
finally:
    report(app)
"""
"""A program that lives through a suspension and a stop: its window goes on, and it leaves by the loop's own way out."""

EARLY = """
app = capbg.App("early", grace=60)
app.before_exit(lambda: say("NEVER FINISHES"), name="forgetful")
asked = 0

def ask():
    global asked
    asked += 1
    quit()

with drive(app, quit=ask):
    os.kill(os.getpid(), signal.SIGTERM)
    while not asked:
        iterate()  # what a splash screen does
    say("ASKED TOO EARLY")
    try:
        run()
    finally:
        say("LEFT", asked > 1)
"""
"""A program that is told to stop between entering its app and running its loop; its task is never finished."""

HANGS = """
import socket
os.environ["WATCHDOG_PID"] = str(os.getpid())
app = capbg.App("hangs", grace=60)

def hang():
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.sendto(b"STATUS=hung", os.environ["NOTIFY_SOCKET"])
    time.sleep(600)

signal.signal(signal.SIGUSR1, lambda *_: once(0, hang))
with drive(app):
    once(0, lambda: say("READY"))
    run()
"""
"""A program whose loop hangs from SIGUSR1 on."""

DROPS_NOTHING = """
import logging
logging.basicConfig()

class Always:
    # Readable all the time; what pump() does is given.
    def __init__(self, *raised):
        self.raised = raised
    def fileno(self):
        return self.read
    def pump(self):
        for error in self.raised:
            raise error
    def enter_driven(self):
        self.read, self.write = os.pipe()
        os.write(self.write, b"x")
        return self.read
    def __exit__(self, *exc):
        say("EXIT", exc[0] and exc[0].__name__)
        os.close(self.read)
        os.close(self.write)

def attempt(*raised, quit=quit, wish=lambda: None):
    try:
        with drive(Always(*raised), quit=quit):
            idle_once(wish)
            run()
            say("LEFT THE LOOP")
    except BaseException as error:
        say("RAISED", repr(error))

attempt(wish=quit)
attempt(OSError("no turn"))
attempt(SystemExit(3))  # of a signal handler of the program's own
calls = []
def breaks():
    calls.append(1)
    if len(calls) == 2:
        quit()
    else:
        raise LookupError("no way out")
attempt(SystemExit(0), quit=breaks)
say("CALLED", len(calls))
once(400, lambda: (say("UNDISTURBED"), quit()))
run()
"""
"""What leaves a callback is not lost, a descriptor that is always readable starves nobody, and nothing stays behind."""

CLOSED = """
app = capbg.App("closed", grace=60, max_workers=1)

@app.background_task()
def work(task):
    while not os.path.exists(sys.argv[1]):
        time.sleep(0.01)

@app.background_task(deadline=20)
def careless(task):
    touch()

app.add_listener("pause", lambda: once(50, close))
try:
    with drive(app):
        once(100, lambda: say("READY"))
        run()
        say("WINDOW CLOSED", app.get_state().phase.name)
finally:
    report(app)
"""
"""A program whose window is closed by the user while the grace period runs."""

TOUCHES = """
app = capbg.App("touches", grace=60)

@app.background_task(deadline=20)
def careless(task):
    touch()

@app.background_task()
def careful(task):
    while not os.path.exists(sys.argv[1]):
        time.sleep(0.01)

def settled(result):
    say("SETTLED", result.name, result.outcome.name)
    touch()
    say("TOUCHED")

app.add_listener("taskSettled", settled)
with drive(app):
    once(100, lambda: say("READY"))
    run()
"""
"""A program one of whose workers uses the connection to the display."""
