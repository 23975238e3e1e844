"""Programs that enter their ``app``, idle until they are signalled, and print their report on the way out."""

import signal
import textwrap
from typing import Any

from tests.probe import Launcher, Probe

ENTER = """
if __name__ == "__main__":
    try:
        with app:
            say("READY")
            idle()
    finally:
        report(app)
"""


def start(launch: Launcher, source: str, *arguments: str, **options: Any) -> Probe:
    """Start the program, and wait until it is ready."""
    program = launch(textwrap.dedent(source) + ENTER, *arguments, **options)
    program.expect("READY")
    return program


def stop(launch: Launcher, source: str, *arguments: str, **options: Any) -> tuple[Probe, dict[str, Any], int]:
    """Run the program through the grace period of a SIGTERM; return it with its report and its exit status."""
    program = start(launch, source, *arguments, **options)
    program.send(signal.SIGTERM)
    report = program.report()
    return program, report, program.wait()
