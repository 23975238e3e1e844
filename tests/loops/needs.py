"""What a test of an event loop needs of the machine: without it the test skips and says why.

With CAPBG_REQUIRE_LOOPS=1 in the environment it fails instead: a skip would hide that a promise was not looked at.
"""

import functools
import os
import shutil
import subprocess
import sys

import pytest


def module(name: str, *, python: str = sys.executable) -> None:
    """Need an interpreter that can import a module."""
    statement(f"import {name}", python=python)


def statement(text: str, *, python: str = sys.executable) -> None:
    """Need an interpreter in which a statement raises nothing, such as one about the version of a GObject library."""
    problem = _problem(text, python)
    if problem:
        _missing(f"{python} cannot do {text!r}: {problem}")


def command(name: str) -> str:
    """Need a program; return its path."""
    path = shutil.which(name)
    if path is None:
        _missing(f"there is no command {name}")
    return str(path)


@functools.cache
def _problem(text: str, python: str) -> str:
    try:
        # In a process of its own: what a toolkit starts when it is imported must not be in the test run's.
        tried = subprocess.run([python, "-c", text], capture_output=True, text=True, timeout=120, check=False)
    except OSError as error:
        return str(error)
    return "" if tried.returncode == 0 else (tried.stderr.strip().splitlines() or [f"exit {tried.returncode}"])[-1]


def _missing(reason: str) -> None:
    if os.environ.get("CAPBG_REQUIRE_LOOPS") == "1":
        pytest.fail(f"CAPBG_REQUIRE_LOOPS=1, but {reason}", pytrace=False)
    pytest.skip(reason)
