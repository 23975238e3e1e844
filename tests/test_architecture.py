"""The floors of the house, held by reading its imports; and crooked houses, to show that it would be seen."""

import ast
import graphlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import capbg

FLOORS = {
    "errors": 0,
    "_core": 1,
    "_os": 2,
    "task": 2,
    "worker": 3,
    "supervisor": 3,
    "app": 4,
    "capacitor": 5,
    "systemd": 5,
    "loops": 3,
    "cli": 5,
}
"""By the first name below ``capbg``: a module imports from its own floor, without a cycle, and from those below it."""

CORE_MAY = {"collections.abc", "dataclasses", "enum", "math", "re", "struct", "types", "typing"}
"""What ``_core`` imports from the standard library: a calculator needs no clock, no descriptor, no signal, no log."""

OWNERS = {"multiprocess": "_os/workers.py", "sdnotify": "_os/notify.py", "setproctitle": "_os/title.py"}
"""Each package is used in one place."""

MAY_SAY_USEC = ("_core/notices.py", "_os/notify.py", "cli/")
"""Where systemd's fields, its environment variables and its units of time are known: the command line plays systemd."""

WAITS = re.compile(r"(os\.)?(wait3|waitpid|waitid|wait4)|os\.wait")
ANY_CHILD = {"", "-1", "0", "os.P_ALL", "os.P_PGID"}


def faults(root: Path) -> list[str]:
    """What is crooked in the package at ``root``, one line each."""
    files = {_module(path, root): path for path in sorted(root.rglob("*.py"))}
    found: list[str] = []
    graph: dict[str, set[str]] = {}
    for module, path in files.items():
        where, text = path.relative_to(root).as_posix(), path.read_text("utf-8")
        tree = ast.parse(text)
        if where == "__init__.py":  # loads the public names when they are first used, from wherever they are
            early = ast.Module([node for node in tree.body if not isinstance(node, (ast.FunctionDef, ast.If))], [])
            found += [f"{where} imports {name} at once" for name in _imports(early, path, root) if name != "typing"]
        else:
            graph[module] = set(_imports(tree, path, root)) & set(files) - {module}
            found += [
                f"{where} imports {fault}" for name in _imports(tree, path, root) for fault in _import(where, name)
            ]
        found += [f"{where} {fault}" for fault in _calls(where, tree)]
        if not where.startswith(MAY_SAY_USEC) and "usec" in text.lower():
            found.append(f'{where} says "usec"')
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        found.append(f"a cycle: {' <- '.join(error.args[1])}")
    return found


def _module(path: Path, root: Path) -> str:
    return ".".join(path.relative_to(root.parent).with_suffix("").parts).removesuffix(".__init__")


def _imports(tree: ast.AST, path: Path, root: Path) -> Iterator[str]:
    """Every import, wherever it stands: also one inside a function, or for the type checker alone."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = path.relative_to(root.parent).parts[: -node.level] if node.level else ()
            base = ".".join([*above, *filter(None, [node.module])])
            for alias in node.names:
                inside = root.parent.joinpath(*base.split("."), alias.name)
                is_module = base.startswith(root.name) and (inside.is_dir() or inside.with_suffix(".py").exists())
                yield f"{base}.{alias.name}" if is_module else base


def _floor(name: str) -> int | None:
    return FLOORS.get(name.partition(".")[0])


def _import(where: str, name: str) -> Iterator[str]:
    top, _, inside = name.partition(".")
    here = _floor(where.replace("/", ".").removesuffix(".py"))
    if top == "capbg":
        floor = _floor(inside)
        if floor is None or here is None or floor > here:
            yield f"{name}, which is not on a floor below"
    elif top not in sys.stdlib_module_names:
        if OWNERS.get(top, where) != where or (top not in OWNERS and not where.startswith(("loops/", "cli/"))):
            yield f"the package {top}"
    elif where.startswith("_core/") and name not in CORE_MAY:
        yield f"{name}: but _core is a calculator"


def _calls(where: str, tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
        if name == "sleep" or (name in {"import_module", "__import__"} and where != "__init__.py"):
            yield f"uses {name}"
        if isinstance(node, ast.Call) and WAITS.fullmatch(ast.unparse(node.func)):
            first = ast.unparse(node.args[0]) if node.args else ""
            if first in ANY_CHILD or ast.unparse(node.func).endswith("wait3"):
                yield f"waits for any child: {ast.unparse(node)}"


def test_every_module_stands_on_its_floor() -> None:
    """No module imports from above, in a circle, or what belongs to another; none waits for any child, none sleeps."""
    assert [] == faults(Path(capbg.__file__).parent)


STRAIGHT = {
    "__init__.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from capbg.app import App\n"
    "def __getattr__(name):\n    from importlib import import_module\n    return import_module('capbg.app')\n",
    "errors.py": "class E(Exception): pass\n",
    "_core/__init__.py": "",
    "_core/task.py": "import math\nfrom collections.abc import Callable\nfrom capbg.errors import E\n",
    "_core/notices.py": "from capbg._core import task\nUSEC = 1\n",
    "_os/__init__.py": "",
    "_os/workers.py": "import os\nfrom multiprocess import util\nfrom capbg._core.task import Run\nos.waitpid(5, 0)\n",
    "supervisor.py": "from . import worker\nfrom ._core import notices\nfrom capbg._os import workers\n",
    "worker.py": "def f():\n    from capbg._os import workers\n",
    "app.py": "import asyncio\nimport capbg.supervisor\n",
    "loops/trio.py": "import trio\nfrom capbg.errors import E\n",
}


@pytest.mark.parametrize(
    ("where", "line", "fault"),
    [
        ("errors.py", "from capbg._core import task", "errors.py imports capbg._core.task, which is not on a floor"),
        ("_core/task.py", "from capbg._os import workers", "_core/task.py imports capbg._os.workers, which is not"),
        ("_core/task.py", "import time", "_core/task.py imports time: but _core is a calculator"),
        ("_core/task.py", "from collections import deque", "_core/task.py imports collections: but _core"),
        ("_core/task.py", "def f():\n    import os", "_core/task.py imports os: but _core is a calculator"),
        ("_core/task.py", "from . import notices", "a cycle: "),
        ("_os/workers.py", "def f():\n    from capbg import worker", "_os/workers.py imports capbg.worker, which"),
        ("_os/workers.py", "import capbg", "_os/workers.py imports capbg, which is not on a floor below"),
        ("worker.py", "from capbg import App", "worker.py imports capbg, which is not on a floor below"),
        ("worker.py", "from capbg.app import App", "worker.py imports capbg.app, which is not on a floor below"),
        ("worker.py", "if 0:\n    from .app import App", "worker.py imports capbg.app, which is not on a floor below"),
        ("worker.py", "import capbg.supervisor", "a cycle: "),
        ("worker.py", "import dill", "worker.py imports the package dill"),
        ("worker.py", "from multiprocess import util", "worker.py imports the package multiprocess"),
        ("app.py", "def f():\n    import setproctitle", "app.py imports the package setproctitle"),
        ("loops/trio.py", "import sdnotify", "loops/trio.py imports the package sdnotify"),
        ("app.py", "from capbg import capacitor", "app.py imports capbg, which is not on a floor below"),
        ("helpers.py", "from capbg.errors import E", "helpers.py imports capbg.errors, which is not on a floor below"),
        ("__init__.py", "from capbg.app import App", "__init__.py imports capbg.app at once"),
        ("worker.py", "x = 'WATCHDOG_USEC'", 'worker.py says "usec"'),
        (
            "_os/workers.py",
            "os.waitpid(-1, os.WNOHANG)",
            "_os/workers.py waits for any child: os.waitpid(-1, os.WNOHANG)",
        ),
        (
            "_os/workers.py",
            "os.waitid(os.P_ALL, 0, 4)",
            "_os/workers.py waits for any child: os.waitid(os.P_ALL, 0, 4)",
        ),
        ("_os/workers.py", "os.wait()", "_os/workers.py waits for any child: os.wait()"),
        ("app.py", "import time\ntime.sleep(1)", "app.py uses sleep"),
        ("app.py", "__import__('capbg.capacitor')", "app.py uses __import__"),
    ],
)
def test_a_crooked_house_is_seen(tmp_path: Path, where: str, line: str, fault: str) -> None:
    """One line in the wrong place is found, and it alone (or the cycle it makes): a straight house has no fault."""
    root = tmp_path / "capbg"
    for name, text in STRAIGHT.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert [] == faults(root)
    crooked = root / where
    crooked.write_text(f"{STRAIGHT.get(where, '')}{line}\n")
    found = faults(root)
    assert [True] == [each.startswith(fault) for each in found if fault == "a cycle: " or "a cycle: " not in each]
