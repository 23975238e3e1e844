"""What the tests on a real systemd share: programs that use the public API, and questions to systemd about them."""

import os
import textwrap
from collections.abc import Iterable
from typing import Any

from tests.probe import PREAMBLE

from .bed import Bed, Outcome, Service

LONG = os.environ.get("CAPBG_LONG_TESTS") == "1"
"""Whether tests may take minutes: the full silence, the full load."""

WORKING = """
    app = capbg.App("kiosk", grace=60)

    @app.background_task()
    def save(task):
        say("STARTED")
        for second in range(int(os.environ["WORK_S"])):
            task.progress(second, int(os.environ["WORK_S"]))
            time.sleep(1)
        say("SAVED")

    with app:
        say("WORKING")
        while True:
            app.heartbeat()
            time.sleep(0.05)
"""
"""A program with a task of ``WORK_S`` seconds, well inside its grace period."""


def service(bed: Bed, name: str, source: str = WORKING, *, work_s: int = 0, **settings: Any) -> Service:
    """Make a service as an operator would: Type=notify, KillMode=mixed, only the main process notifies."""
    chosen: dict[str, Any] = {"Type": "notify", "NotifyAccess": "main", "KillMode": "mixed", "LimitCORE": 0}
    environment = [f"WORK_S={work_s}", *settings.pop("Environment", ())]
    return bed.python_service(name, PREAMBLE + textwrap.dedent(source), Environment=environment, **(chosen | settings))


def start(*services: Service, line: str = "WORKING") -> None:
    """Start services and wait until each has printed this line."""
    services[0].bed.systemctl("start", *(each.unit for each in services))
    for each in services:
        each.says(line)


def stop(*services: Service, wait: bool = True) -> None:
    """Stop services, all at once; ``wait`` until they are down."""
    flags = [] if wait else ["--no-block"]
    services[0].bed.systemctl("stop", *flags, *(each.unit for each in services))


def ended(outcome: Outcome) -> tuple[str, str, int]:
    """What systemd thinks of it: Result=, how the main process ended, its exit status or signal."""
    return outcome.result, outcome.code, outcome.status


def process_gone(bed: Bed, pid: str) -> bool:
    """Whether no process has this pid in the box."""
    return not (bed.root / "proc" / pid).exists()


def await_gone(bed: Bed, pids: Iterable[str]) -> None:
    """Wait until none of these processes is left: long before they would end by themselves."""
    waiting = list(pids)
    bed.wait_for(lambda: all(process_gone(bed, pid) for pid in waiting), f"the end of {waiting}")


def await_suspended(service: Service) -> None:
    """Wait until it says that it is suspended, and the kernel says that it is stopped."""

    def suspended() -> bool:
        told = service.show("StatusText", "MainPID")
        status = (service.bed.root / "proc" / told["MainPID"] / "status").read_text()
        return told["StatusText"].startswith("suspended") and "\nState:\tT" in status

    service.bed.wait_for(suspended, f"the suspension of {service.unit}")


def spoken(service: Service, *words: str) -> list[str]:
    """Return the lines it has printed that begin with one of these words, in order."""
    return [line for line in service.output() if line.split()[:1] and line.split()[0] in words]
