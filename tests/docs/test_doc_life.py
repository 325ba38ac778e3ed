"""What docs/reliability.md says of workers' clients is of the run that is kept beside it."""

from __future__ import annotations

import copy

import life_page
import pytest


def test_the_page_is_made_of_the_kept_run() -> None:
    kept = life_page.PAGE.read_text()
    assert kept == life_page.page(life_page.document()), "run python tests/docs/life_page.py"


def test_the_kept_run_is_of_every_mode_and_of_a_server_as_it_is() -> None:
    found = life_page.document()
    assert not found["broken"]
    assert [row["mode"] for row in found["rows"]] == list(life_page.MODES)


def test_the_kept_run_is_a_whole_one() -> None:
    found = life_page.document()
    if found["quick"]:
        pytest.skip("a quick one is kept: run python benchmarks/life.py --json docs/life.json where nothing else runs")
    assert found["connections"] == 200
    assert all((row["reloads"], row["upgrades"], row["kills"]) == (20, 5, 10) for row in found["rows"])


def test_nobody_has_noticed_anything_in_it() -> None:
    """Only those of killed workers."""
    assert not [row for row in life_page.document()["rows"] if life_page.is_bad(row)]


def test_another_figure_would_be_found_out() -> None:
    """The broken case."""
    found = copy.deepcopy(life_page.document())
    found["rows"][0]["lost"] += 1
    assert life_page.PAGE.read_text() != life_page.page(found)
    assert life_page.is_bad(found["rows"][0])
