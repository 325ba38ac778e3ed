"""``benchmarks/life.py``: that it finds a server that loses connections, and blames none for what a kill has broken.

Nothing that is timed is asserted.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from benchmarks_support import SCRIPTS

sys.path.append(str(SCRIPTS))
import life

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(life, "STEP", 0.3)


def test_nothing_is_lost(tmp_path: Path) -> None:
    row = life.trial("thread", 40, 1, 1, 1, 0.02)
    assert not life.is_bad(row), row
    assert row["connects"] >= 40 and row["exchanges"] >= 100
    assert (row["reloads"], row["upgrades"], row["kills"]) == (1, 0, 1)


def test_in_process_mode_what_breaks_is_the_killed_workers() -> None:
    """Its clients are served by its children, whose numbers nobody was told."""
    row = life.trial("process", 40, 0, 0, 2, 0.02, "--reuse-port")  # so that the kernel gives each of them some
    assert not life.is_bad(row), row
    assert row["of_killed"], "the killed ones had clients"


def test_workers_that_cut_are_found() -> None:
    row = life.trial("thread", 40, 1, 0, 0, 0.02, broken="cuts")
    assert row["lost"] and life.is_bad(row), row


def test_a_supervisor_that_does_not_listen_for_a_while_is_found() -> None:
    row = life.trial("thread", 40, 1, 0, 0, 0.02, broken="closes")
    assert row["refused"] and life.is_bad(row), row


def test_the_exit_status_tells(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    good: dict[str, Any] = {
        "mode": "green", "seconds": 1.0, "reloads": 1, "upgrades": 1, "kills": 1, "connects": 1, "exchanges": 1,
        "refused": 0, "wrong": 0, "lost": 0, "of_killed": 3, "longest_connect": 0.1, "longest_exchange": 0.1,
        "replaced": 0.01, "slowest_replaced": 0.02, "zombies": 0,
    }  # fmt: skip
    for change, status in (({}, 0), *(({what: 1}, 1) for what in ("lost", "refused", "wrong", "zombies"))):
        monkeypatch.setattr(life, "trial", lambda *_, row={**good, **change}, **__: row)
        monkeypatch.setattr(sys, "argv", ["life.py", "--modes", "green", "--json", str(tmp_path / "life.json")])
        assert life.main() == status
        assert '"of_killed": 3' in (tmp_path / "life.json").read_text()
