"""``capbg.systemd``: what systemd has told a process, asked in real processes; in real units: tests/systemd."""

import signal

import pytest

from tests.probe import Launcher, Probe

BECOMES = """
from capbg import systemd

def answers():
    return systemd.is_service(), systemd.watchdog_interval(), systemd.unit_grace()

if sys.argv[1:]:
    # Become another program, as what systemd starts does: so a process has its own pid in its environment.
    for name in ("SYSTEMD_EXEC_PID", "INVOCATION_ID"):
        os.environ.pop(name, None)
    for name, value in (pair.split("=") for pair in sys.argv[1:]):
        os.environ[name] = value.replace("me", str(os.getpid()))
    os.execv(sys.executable, [sys.executable, sys.argv[0]])
"""
"""The arguments become the environment; the value ``me`` is the process's own pid."""


def _ask(launch: Launcher, *environment: str, source: str = 'say("ANSWERS", *answers())') -> Probe:
    return launch(f"{BECOMES}{source}\n", "PATH=/usr/bin:/bin", *environment)


@pytest.mark.parametrize(
    ("environment", "answers"),
    [
        ("", "False None None"),
        ("SYSTEMD_EXEC_PID=me INVOCATION_ID=4f5a", "True None None"),
        ("SYSTEMD_EXEC_PID=1 INVOCATION_ID=4f5a", "False None None"),
        ("SYSTEMD_EXEC_PID= INVOCATION_ID=4f5a", "False None None"),
        ("INVOCATION_ID=4f5a", "False None None"),
        ("WATCHDOG_PID=me WATCHDOG_USEC=1500000", "False 1.5 None"),
        ("WATCHDOG_USEC=30000000", "False 30.0 None"),
        ("WATCHDOG_PID=1 WATCHDOG_USEC=30000000", "False None None"),
        ("WATCHDOG_PID=me WATCHDOG_USEC=soon", "False None None"),
        ("CAPBG_GRACE=90.5", "False None 90.5"),
    ],
)
def test_it_answers_for_this_very_process(launch: Launcher, environment: str, answers: str) -> None:
    """Each variable is believed only if it means this process: not its parent, not the service it was started by."""
    assert answers == _ask(launch, *environment.split()).expect("ANSWERS")


@pytest.mark.parametrize("value", ["soon", "", "0", "-1", "nan", "inf", "1e99"])
def test_a_grace_that_cannot_be_used_is_refused_as_the_app_does(launch: Launcher, value: str) -> None:
    """``unit_grace()`` and ``App()`` refuse the same values by the same exception, in the same words."""
    program = _ask(
        launch,
        f"CAPBG_GRACE={value}",
        source="""
for ask in (systemd.unit_grace, capbg.App):
    try:
        say("TAKEN", ask())
    except capbg.InvalidEnvironmentError as error:
        say("REFUSED", error)
""",
    )
    by_module, by_app = program.expect("REFUSED"), program.expect("REFUSED")
    assert "CAPBG_GRACE" in by_module
    assert by_app == by_module


def test_a_worker_is_no_service_and_the_app_stays_one(launch: Launcher) -> None:
    """In a worker: no service, no watchdog, the unit's grace all the same; the app's own answers do not change."""
    program = _ask(
        launch,
        "SYSTEMD_EXEC_PID=me",
        "WATCHDOG_PID=me",
        "WATCHDOG_USEC=30000000",
        "CAPBG_GRACE=90",
        source="""
app = capbg.App("kiosk")
app.background_task(name="ask")(lambda: say("WORKER", *answers()))
app.add_listener("graceEnded", lambda report: say("APP", *answers()))
with app:
    say("READY")
    idle()
""",
    )
    program.expect("READY")
    program.send(signal.SIGTERM)
    assert "False None 90.0" == program.expect("WORKER")
    assert "True 30.0 90.0" == program.expect("APP")
    assert 0 == program.wait()


def test_the_environment_is_read_when_it_is_asked(launch: Launcher) -> None:
    """A program that sets the variable itself, or loses it, is told so: nothing is remembered from the import."""
    program = _ask(
        launch,
        "CAPBG_GRACE=90",
        source="""
os.environ["CAPBG_GRACE"] = "60"
say("FIRST", *answers())
del os.environ["CAPBG_GRACE"]
say("THEN", *answers())
""",
    )
    assert "False None 60.0" == program.expect("FIRST")
    assert "False None None" == program.expect("THEN")
