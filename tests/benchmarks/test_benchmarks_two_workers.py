"""``benchmarks/two_workers.py`` in a small form: it says what it has found, and an answer that is wrong makes it void.

No speed is asserted.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from benchmarks_support import SCRIPTS, run

sys.path.append(str(SCRIPTS))
from two_workers import row

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler on this machine: install gcc")


def test_the_median_counts_and_the_rest_is_computed() -> None:
    def found(a_second: float, server_us: float) -> dict[str, float]:
        return {"a_second": a_second, "server_us": server_us, "generator_us": 5.0}

    pairs = [(found(100, 10), found(90, 12)), (found(100, 10), found(110, 12)), (found(100, 10), found(120, 12))]
    said = row("green", pairs)
    assert (said["ratio"], said["lowest"], said["highest"]) == (1.1, 0.9, 1.2)
    assert said["alone"] == pytest.approx(2 * 10 / 12)


@needs_compiler
def test_a_short_one(tmp_path: Path) -> None:
    done = run("two_workers.py", "--modes", "green", "--rounds", 1, "--seconds", 0.2, "--json", tmp_path / "found.json")
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = json.loads((tmp_path / "found.json").read_text())
    assert found["one"] > 0 and found["two"] > 0 and found["one_us"] > 0 and found["generator_us"] >= 0
    assert "| green |" in done.stdout


@needs_compiler
def test_a_wrong_answer_makes_it_void() -> None:
    done = run("two_workers.py", "--modes", "green", "--rounds", 1, "--seconds", 0.2, "--broken")
    assert done.returncode == 1 and done.stdout == ""
    assert "void: mode green, 1 workers: " in done.stderr


def test_one_processor_is_not_enough() -> None:
    done = run("two_workers.py", "--modes", "green", processors=1)
    assert done.returncode == 2
    assert "two processors are needed" in done.stderr


def test_a_mode_that_there_is_not_is_told() -> None:
    done = run("two_workers.py", "--modes", "rowing")
    assert done.returncode == 2
    assert "no such mode: rowing" in done.stderr
