"""The order of the house: imports only go down, no cycle, packages only hand names on, no module holds two ideas.

The rules are functions of a tree of files, so that each of them is also shown a tree that breaks it.
"""

from __future__ import annotations

import ast
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = "jackfield"
SOURCE = Path(__file__).resolve().parent.parent / "src" / PACKAGE

# From the ground up.  What stands beside one another may import one another as long as no circle comes of it.
LEVELS: list[set[str]] = [
    {"errors", "clock", "address", "addressoptions"},
    {"events"},
    {"config", "lifecycle", "limits", "admission", "proxyheader", "proxyproto", "metrics", "journal"},
    {"reactor"},
    {"messages", "socket", "streams", "sync", "adopt"},
    {"door", "beginning", "connecting", "tls"},
    {
        "handlers", "modes", "connections", "deadlines", "draining", "endings", "guard", "gate", "datagramgate",
        "replies", "gathering",
    },
    {"baseserver", "mixins", "socketserver", "serving", "server", "signals"},
    {"supervisor", "admin", "bench"},
    # The face of the package.  It hands on names of every level; only what stands above it may ask it for one.
    {"__init__"},
    {"cli", "testing"},
    {"__main__"},
]
LEVEL_OF = {room: number for number, rooms in enumerate(LEVELS) for room in rooms}

MOST_LINES = 499


class Import(NamedTuple):
    """One module names another."""

    importer: str
    target: str
    line: int
    for_types_only: bool

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.target}"


# --- reading a tree -------------------------------------------------------------------------------------------------


def modules(root: Path) -> dict[str, Path]:
    """``jackfield.reactor.core`` -> its file; a package is its ``__init__.py``, a native module its stub."""
    found = {}
    for path in sorted([*root.rglob("*.py"), *root.rglob("*.pyi")]):
        parts = [PACKAGE, *path.relative_to(root).with_suffix("").parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def room(module: str) -> str:
    """The name in the table of levels that a module belongs to."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imports(root: Path) -> list[Import]:
    """Every import of one module of the package by another, also inside functions and for type checkers only."""
    files = modules(root)
    found = []
    for module, path in files.items():
        is_package = path.name == "__init__.py"
        for node, for_types_only in _walk(ast.parse(path.read_text("utf-8"), str(path)), False):
            for name in _names(node, module, is_package):
                target = _existing(name, files)
                if target is not None:
                    found.append(Import(module, target, getattr(node, "lineno", 0), for_types_only))
    return found


def _walk(node: ast.AST, for_types_only: bool) -> Iterator[tuple[ast.AST, bool]]:
    yield node, for_types_only
    guarded = node.body if isinstance(node, ast.If) and _is_type_checking(node.test) else []
    for child in ast.iter_child_nodes(node):
        yield from _walk(child, for_types_only or child in guarded)


def _is_type_checking(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def _names(node: ast.AST, module: str, is_package: bool) -> list[str]:
    """The dotted names an import statement, or a call of ``import_module`` with a fixed name, may mean."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            here = module.split(".")
            # In an __init__ one dot is the package itself; in a module it is the package around it.
            here = here[: len(here) - node.level + is_package]
            base = ".".join([*here, *([node.module] if node.module else [])])
        return [f"{base}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if function in ("import_module", "__import__") and isinstance(node.args[0].value, str):
            name = node.args[0].value
            return [f"{module if is_package else module.rpartition('.')[0]}{name}" if name.startswith(".") else name]
    return []


def _existing(name: str, files: dict[str, Path]) -> str | None:
    """The module that a dotted name is or lies in: ``jackfield.errors.AddressError`` is in ``jackfield.errors``."""
    if name.split(".")[0] != PACKAGE:
        return None
    while name and name not in files:
        name = name.rpartition(".")[0]
    return name or None


# --- the rules ------------------------------------------------------------------------------------------------------


def without_a_level(root: Path) -> list[str]:
    """Modules that the table of levels does not know."""
    return [f"{module} has no level" for module in modules(root) if room(module) not in LEVEL_OF]


def upward(root: Path) -> list[str]:
    """Imports from a lower level to a higher one, those for type checkers included; not those of the face."""
    return [
        f"{found} (level {LEVEL_OF[room(found.importer)]} to {LEVEL_OF[room(found.target)]})"
        for found in imports(root)
        if found.importer != PACKAGE
        and room(found.importer) in LEVEL_OF  # one that has no level is another rule's
        and room(found.target) in LEVEL_OF
        and LEVEL_OF[room(found.importer)] < LEVEL_OF[room(found.target)]
    ]


def cycles(root: Path) -> list[str]:
    """Circles of modules, and circles of rooms; imports for type checkers only are left out, they never run."""
    between_modules: dict[str, set[str]] = {}
    between_rooms: dict[str, set[str]] = {}
    for found in imports(root):
        if found.for_types_only:
            continue
        between_modules.setdefault(found.importer, set()).add(found.target)
        if room(found.importer) != room(found.target):
            between_rooms.setdefault(room(found.importer), set()).add(room(found.target))
    return [*_circles(between_modules), *_circles(between_rooms)]


def _circles(graph: dict[str, set[str]]) -> list[str]:
    found: list[str] = []
    done: set[str] = set()
    path: list[str] = []

    def visit(node: str) -> None:
        if node in path:
            circle = path[path.index(node) :]
            first = circle.index(min(circle))
            found.append(" -> ".join([*circle[first:], *circle[: first + 1]]))
        elif node not in done:
            path.append(node)
            for following in sorted(graph.get(node, ())):
                visit(following)
            path.pop()
            done.add(node)

    for start in sorted(graph):
        visit(start)
    return found


def packages_that_do_more(root: Path) -> list[str]:
    """Definitions in an ``__init__.py``, other than the two that a lazy package needs (PEP 562)."""
    found = []
    for module, path in modules(root).items():
        if path.name != "__init__.py":
            continue
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name in ("__getattr__", "__dir__"):
                continue
            for inner in ast.walk(node):
                if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
                    name = getattr(inner, "name", "a lambda")
                    found.append(f"{module}:{inner.lineno} defines {name}: put it in a module of the package")
    return found


def too_long(root: Path) -> list[str]:
    """Modules of 500 lines and more: two ideas."""
    lengths = {module: len(path.read_text("utf-8").splitlines()) for module, path in modules(root).items()}
    return [f"{module} has {length} lines" for module, length in lengths.items() if length > MOST_LINES]


def confused_with_the_stdlib(root: Path) -> list[str]:
    """``import socket`` where we have a ``socket`` too: the reader cannot tell which one it is."""
    ours = {name.split(".")[1] for name in modules(root) if "." in name} & sys.stdlib_module_names
    found = []
    for module, path in modules(root).items():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Import):
                continue
            for alias in node.names:
                if alias.name in ours and alias.asname in (None, alias.name):
                    found.append(f"{module}:{node.lineno}: write import {alias.name} as _{alias.name}_std")
    return found


RULES = [without_a_level, upward, cycles, packages_that_do_more, too_long, confused_with_the_stdlib]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_house_is_in_order(rule: object) -> None:
    assert callable(rule)
    broken = rule(SOURCE)
    assert not broken, "\n".join(broken)


def test_the_whole_house_is_read() -> None:
    assert {f"{PACKAGE}.errors", f"{PACKAGE}.address", PACKAGE} <= modules(SOURCE).keys()
    assert any(found.target == f"{PACKAGE}.errors" for found in imports(SOURCE))


# --- each rule can fail ---------------------------------------------------------------------------------------------

IN_ORDER = {
    "__init__.py": '''
        """Names."""
        __version__ = "1"
        from typing import TYPE_CHECKING
        if TYPE_CHECKING:
            from . import testing
        def __getattr__(name):
            from jackfield import server
            return getattr(server, name)
        def __dir__():
            return ["serve"]
    ''',
    "errors.py": "class E(Exception): pass",
    "clock.py": "",
    "address.py": "import socket as _socket_std\nfrom jackfield.errors import E",
    "events.py": "from jackfield import errors",
    "socket.py": "from socket import *\nfrom jackfield.reactor import wait",
    "streams.py": "from jackfield import socket",
    "reactor/__init__.py": "from jackfield.reactor.core import wait\nfrom .core import wait as wait_too",
    "reactor/core.py": "from ..errors import E\nfrom . import poller\ndef wait(): pass",
    "reactor/poller.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .core import wait",
    "server.py": "def f():\n    import jackfield.door.accept\n    import subprocess",
    "testing.py": "from jackfield import __version__",
    "door/__init__.py": "",
    "door/accept.py": "import jackfield.socket",
}

BROKEN = {
    "no level": (without_a_level, {"attic.py": ""}, "jackfield.attic has no level"),
    "no level for a package": (without_a_level, {"attic/__init__.py": ""}, "jackfield.attic has no level"),
    "up, with something without a level": (
        upward,
        {"attic.py": "from . import server", "clock.py": "from . import attic", "errors.py": "from . import server"},
        "jackfield.errors:1",
    ),
    "up": (upward, {"errors.py": "import jackfield.server"}, "jackfield.errors:1 imports jackfield.server"),
    "up by a name": (upward, {"errors.py": "\nfrom jackfield import server"}, "jackfield.errors:2"),
    "up by a dot": (upward, {"errors.py": "from .door import accept"}, "imports jackfield.door.accept"),
    "up by two dots": (upward, {"reactor/core.py": "from ..socket import socket"}, "imports jackfield.socket"),
    "up by dots alone": (upward, {"reactor/core.py": "from .. import socket"}, "jackfield.socket"),
    "up from a package": (upward, {"reactor/__init__.py": "from ..streams import x"}, "jackfield.reactor:1"),
    "up in a function": (upward, {"errors.py": "def f():\n  from jackfield.socket import x"}, "jackfield.errors:2"),
    "up for types": (upward, {"errors.py": "if TYPE_CHECKING:\n  from jackfield.socket import x"}, "jackfield.socket"),
    "up in an else": (upward, {"errors.py": "if x: pass\nelse:\n  import jackfield.socket"}, "jackfield.socket"),
    "up to the face": (upward, {"server.py": "from jackfield import __version__"}, "level 7 to 9"),
    "up by a call": (upward, {"errors.py": "importlib.import_module('jackfield.socket')"}, "jackfield.socket"),
    "up by a call with a dot": (upward, {"errors.py": "import_module('.socket', 'jackfield')"}, "jackfield.socket"),
    "up by __import__": (upward, {"errors.py": "__import__('jackfield.socket')"}, "jackfield.socket"),
    "the face and what it hands on, when that asks back": (
        cycles,
        {"__init__.py": "from jackfield.testing import check", "testing.py": "from jackfield import __version__"},
        "jackfield -> jackfield.testing -> jackfield",
    ),
    "two in a circle": (
        cycles,
        {"clock.py": "import jackfield.address", "address.py": "import jackfield.clock"},
        "jackfield.address -> jackfield.clock -> jackfield.address",
    ),
    "three in a circle": (
        cycles,
        {"clock.py": "from . import address", "address.py": "from . import errors", "errors.py": "from . import clock"},
        "jackfield.address -> jackfield.errors -> jackfield.clock -> jackfield.address",
    ),
    "a circle in a function": (
        cycles,
        {"clock.py": "def f():\n    import jackfield.address", "address.py": "import jackfield.clock"},
        "jackfield.address -> jackfield.clock -> jackfield.address",
    ),
    "a circle that only type checkers do not see": (
        cycles,
        {"clock.py": "if TYPE_CHECKING: pass\nelse:\n  import jackfield.address", "address.py": "from .clock import x"},
        "jackfield.address -> jackfield.clock -> jackfield.address",
    ),
    "a module that asks its own package": (
        cycles,
        {"reactor/core.py": "from jackfield.reactor import wait"},
        "jackfield.reactor -> jackfield.reactor.core -> jackfield.reactor",
    ),
    "rooms in a circle, not modules": (
        cycles,
        {
            "cli/__init__.py": "",
            "cli/a.py": "import jackfield.testing.a",
            "cli/b.py": "",
            "testing/__init__.py": "",
            "testing/a.py": "",
            "testing/b.py": "import jackfield.cli.b",
        },
        "cli -> testing -> cli",
    ),
    "itself": (cycles, {"clock.py": "import jackfield.clock"}, "jackfield.clock -> jackfield.clock"),
    "a class": (packages_that_do_more, {"door/__init__.py": "class A: pass"}, "jackfield.door:1 defines A"),
    "a function": (packages_that_do_more, {"__init__.py": "def serve(): pass"}, "jackfield:1 defines serve"),
    "a coroutine": (packages_that_do_more, {"door/__init__.py": "async def f(): pass"}, "defines f"),
    "under an if": (packages_that_do_more, {"door/__init__.py": "if 1:\n    def f(): pass"}, "jackfield.door:2"),
    "a lambda": (packages_that_do_more, {"door/__init__.py": "f = lambda: 1"}, "defines a lambda"),
    "long": (too_long, {"clock.py": "#\n" * 500}, "jackfield.clock has 500 lines"),
    "whose socket": (confused_with_the_stdlib, {"door/accept.py": "\nimport socket"}, "jackfield.door.accept:2"),
    "whose socket, in a function": (confused_with_the_stdlib, {"clock.py": "def f():\n  import os, socket"}, "clock:2"),
}


def write(root: Path, files: dict[str, str]) -> Path:
    """A package of these files."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), "utf-8")
    return root


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_small_house_in_order_passes(rule: object, tmp_path: Path) -> None:
    assert callable(rule)
    assert rule(write(tmp_path, IN_ORDER)) == []


@pytest.mark.parametrize("case", BROKEN)
def test_each_rule_can_fail(case: str, tmp_path: Path) -> None:
    rule, files, said = BROKEN[case]
    broken = rule(write(tmp_path, {**IN_ORDER, **files}))
    assert any(said in line for line in broken), broken


def test_the_longest_module_allowed_passes(tmp_path: Path) -> None:
    assert too_long(write(tmp_path, {"clock.py": "#\n" * 499})) == []


def test_the_rules_see_every_import_they_should(tmp_path: Path) -> None:
    seen = {(found.importer, found.target, found.for_types_only) for found in imports(write(tmp_path, IN_ORDER))}
    assert seen == {
        ("jackfield", "jackfield.server", False),
        ("jackfield", "jackfield.testing", True),
        ("jackfield.testing", "jackfield", False),
        ("jackfield.address", "jackfield.errors", False),
        ("jackfield.events", "jackfield.errors", False),
        ("jackfield.socket", "jackfield.reactor", False),
        ("jackfield.streams", "jackfield.socket", False),
        ("jackfield.reactor", "jackfield.reactor.core", False),
        ("jackfield.reactor.core", "jackfield.errors", False),
        ("jackfield.reactor.core", "jackfield.reactor.poller", False),
        ("jackfield.reactor.poller", "jackfield.reactor.core", True),
        ("jackfield.server", "jackfield.door.accept", False),
        ("jackfield.door.accept", "jackfield.socket", False),
    }
