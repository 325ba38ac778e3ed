"""``benchmarks/soak.py`` in seconds: what is lost and what leaks is found, and nothing where nothing is."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest
from benchmarks_support import SCRIPTS, run

sys.path.append(str(SCRIPTS))
from soak import slope

#: A few seconds say nothing of memory, whose slope in MiB an hour is what a worker takes that is new.
SHORT = ["--seconds", "6", "--connections", "20", "--slope", "50000"]


def test_a_straight_line_is_laid_through_memory() -> None:
    rising = [(float(second), 10 + second / 3600) for second in range(100)]
    steep, error = slope([rising])
    assert steep == pytest.approx(1.0) and error == pytest.approx(0.0, abs=1e-6)


def test_each_worker_has_a_height_of_its_own() -> None:
    """One that begins later with less is no fall."""
    lines = [[(float(second), height + 2 * second / 3600) for second in range(at, at + 60)] for at, height in
             ((0, 30), (60, 20))]  # fmt: skip
    assert slope(lines)[0] == pytest.approx(2.0)


def test_what_goes_up_and_down_has_an_error() -> None:
    steep, error = slope([[(float(second), second % 2) for second in range(100)]])
    assert abs(steep) < error


def test_too_few_points_say_nothing() -> None:
    assert slope([[(0.0, 1.0), (1.0, 2.0)]]) == (0.0, math.inf)
    assert slope([]) == (0.0, math.inf)


def test_a_short_one(tmp_path: Path) -> None:
    done = run("soak.py", *SHORT, "--json", tmp_path / "found.json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stdout.splitlines()) == 1 and done.stdout.endswith("held\n")
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["kills"] >= 1 and found["exchanges"] > 100
    assert found["lost"] == found["refused"] == found["wrong"] == 0


def test_a_worker_that_leaks_is_found() -> None:
    """64 KiB for each message, of which there are hundreds a second."""
    short = ["--seconds", "8", "--connections", "20", "--slope", "2000"]
    done = run("soak.py", *short, "--mode", "thread", "--broken", "leak")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "memory of the workers" in done.stdout


def test_exchanges_that_are_lost_are_found() -> None:
    done = run("soak.py", *SHORT, "--broken", "lose")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "missed: " in done.stdout and " lost" in done.stdout


def test_what_cannot_be_is_told() -> None:
    done = run("soak.py", "--seconds", "0")
    assert done.returncode == 2
    assert "at least 1 second" in done.stderr
