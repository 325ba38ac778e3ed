"""docs/differences.md: each row has a test of its name, and each test in test_differences_*.py a row."""

from __future__ import annotations

import ast
import re
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TABLE = ROOT / "docs" / "differences.md"
ROW = re.compile(r"^\| `([a-z0-9_]+)` \|.*\| `([^`|]+)` \|$")


def nodes() -> set[str]:
    """The tests of the rows, as pytest names them."""
    found = set()
    for path in HERE.glob("test_differences_*.py"):
        for thing in ast.parse(path.read_text()).body:
            if isinstance(thing, ast.FunctionDef) and thing.name.startswith("test_"):
                found.add(f"{path.relative_to(ROOT)}::{thing.name}")
    return found


def faults_of(table: str, tests: set[str]) -> list[str]:
    """What is wrong with a table of differences, given the tests that there are."""
    rows = [ROW.match(line) for line in table.splitlines() if line.startswith("| `")]
    faults = [f"row {index} is not | `name` | … | `test` |" for index, row in enumerate(rows) if row is None]
    seen: set[str] = set()
    named: set[str] = set()
    for row in filter(None, rows):
        name, node = row.groups()
        if name in seen:
            faults.append(f"{name} is there twice")
        seen.add(name)
        named.add(node)
        if node not in tests or not node.endswith(f"::test_{name}"):
            faults.append(f"{name}: there is no test {node}")
        if row[0].count(" | ") != 4 or "|  |" in row[0]:
            faults.append(f"{name}: a cell is missing or empty")
    return faults + [f"{node} has no row" for node in sorted(tests - named)]


def test_table_and_tests_agree() -> None:
    assert len(nodes()) > 40
    assert faults_of(TABLE.read_text(), nodes()) == []


def test_a_table_with_faults_is_refused() -> None:
    def row(name: str, test: str) -> str:
        return f"| `{name}` | there | here | safe | `t.py::{test}` |\n"

    good = row("a", "test_a") + row("b", "test_b")
    both = {"t.py::test_a", "t.py::test_b"}
    assert faults_of(good, both) == []
    assert faults_of(good, {"t.py::test_a"}) == ["b: there is no test t.py::test_b"]
    assert faults_of(good, both | {"t.py::test_c"}) == ["t.py::test_c has no row"]
    assert faults_of(good + row("a", "test_a"), both) == ["a is there twice"]
    assert faults_of(good + "| `c` | there |\n", both) == ["row 2 is not | `name` | … | `test` |"]
    assert "a: there is no test t.py::test_b" in faults_of(row("a", "test_b"), both)
    assert faults_of("| `a` | there | safe | `t.py::test_a` |\n", {"t.py::test_a"}) == ["a: a cell is missing or empty"]
