"""The figures in the README and in docs/benchmarks.md are those of the run that is kept beside them."""

from __future__ import annotations

import copy

import benchmark_page
import pytest


def test_the_pages_and_the_drawing_are_made_of_the_kept_run() -> None:
    for path, text in benchmark_page.pages(benchmark_page.document()).items():
        assert path.read_text() == text, f"run python tests/docs/benchmark_page.py: {path.name} tells something else"


def test_the_kept_run_is_a_whole_one() -> None:
    found = benchmark_page.document()
    assert found["rounds"] >= 3 and found["native"] is True
    groups = [row["group"] for row in found["rows"]]
    assert list(dict.fromkeys(groups)) == [
        "echo", "pure", "churn", "udp", "memory", "idle", "large", "file", "latency", "fairness",
    ]  # fmt: skip
    assert not [row["title"] for row in found["rows"] if row.get("not_measured")]
    assert not [entry for row in found["rows"] for entry in row["servers"] if entry["void"]]


def test_another_figure_would_be_found_out() -> None:
    """The broken case."""
    found = copy.deepcopy(benchmark_page.document())
    found["rows"][0]["servers"][1]["median"] += 1
    differing = [path for path, text in benchmark_page.pages(found).items() if path.read_text() != text]
    assert {benchmark_page.PAGE, benchmark_page.README} <= set(differing)


def test_a_page_without_its_place_is_told() -> None:
    with pytest.raises(ValueError, match="there has to be one"):
        benchmark_page.filled("no place", "figures")
