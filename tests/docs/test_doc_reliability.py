"""The figures in docs/reliability.md are those of the run that is kept beside it."""

from __future__ import annotations

import copy
import re

import reliability_page
from benchmark_page import ROOT
from reliability_attacks.rows import ROWS, TABLE_ROW


def test_the_page_is_made_of_the_kept_run() -> None:
    kept = reliability_page.PAGE.read_text()
    assert kept == reliability_page.page(reliability_page.document()), "run python tests/docs/reliability_page.py"


def test_the_kept_run_is_a_whole_one() -> None:
    found = reliability_page.document()
    assert not found["quick"]
    assert [row["number"] for row in found["rows"]] == [*(row.number for row in ROWS), TABLE_ROW]
    assert not [row["title"] for row in found["rows"] if row.get("not_measured")]
    assert not [(row["title"], entry) for row in found["rows"] for entry in row["servers"] if entry.get("void")]


def test_another_figure_would_be_found_out() -> None:
    """The broken case."""
    found = copy.deepcopy(reliability_page.document())
    found["rows"][0]["servers"][0]["found"]["attackers"] += 1
    assert reliability_page.PAGE.read_text() != reliability_page.page(found)


def names_of_tests(page: str) -> set[str]:
    return set(re.findall(r"`(test_\w+)`", page))


def test_the_tests_that_are_named_are_there() -> None:
    there = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    named = names_of_tests(reliability_page.PAGE.read_text())
    assert len(named) > 10
    assert [name for name in named if f"def {name}(" not in there] == []
    assert f"def {min(names_of_tests('`test_that_is_not`'))}(" not in there
