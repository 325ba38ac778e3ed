"""``benchmarks/life_faults.py``: what it counts, in those of its rows that are no matter of speed."""

from __future__ import annotations

import sys

import pytest
from benchmarks_support import SCRIPTS, run

sys.path.append(str(SCRIPTS))
from life_faults import lost


@pytest.mark.parametrize(("row", "found"), [("23", "200 served, 0 reset, 0 half, exit 0"), ("24", "the long one kept")])
def test_nothing_is_lost(row: str, found: str) -> None:
    done = run("life_faults.py", "--rows", row)
    assert done.returncode == 0, done.stdout + done.stderr
    assert found in done.stdout and done.stdout.endswith("| held |\n")


def test_whatever_went_wrong_counts_as_lost() -> None:
    """The broken case."""
    found = {"refused": [1], "unanswered": [2, 3], "broken": [4], "wrong": [], "exchanges": 100}
    assert lost(found) == 4


def test_a_row_that_there_is_not_is_told() -> None:
    done = run("life_faults.py", "--rows", "99")
    assert done.returncode == 2
    assert "no such row: 99" in done.stderr
