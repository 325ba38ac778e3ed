"""``benchmarks/reliability.py``: what it makes of figures, and that it finds out a server that does not hold.

No time and no amount of memory is asserted: few attackers on a machine that does other things say nothing.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from benchmarks_support import SCRIPTS, run

sys.path.append(str(SCRIPTS))
import reliability
from processes import Void
from reliability_attacks import conversation, logs, report
from reliability_attacks.honest import percentile
from reliability_attacks.rows import ROWS, Bar, Row, judged_honest, number, to_hold
from reliability_attacks.trial import Conditions, trial


def asked(p99: float | None, lost: int = 0) -> dict[str, Any]:
    return {"answered": 9, "lost": lost, "errors": {}, "p50_ms": p99, "p99_ms": p99, "max_ms": p99}


# -- figures -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sign", "value", "holds"), [("≤", 5, True), ("≤", 5.1, False), ("≥", 5, True), ("≥", 4.9, False), ("=", 6, False)]
)
def test_a_bar_holds_or_is_missed(sign: Any, value: float, holds: bool) -> None:
    missed = Bar("gone_s", sign, 5, "s").missed({"gone_s": value}, "green")
    assert (missed is None) is holds


def test_what_never_happened_is_missed() -> None:
    assert Bar("gone_s", "≤", 5, "s").missed({"gone_s": None}, "green") == "gone after never > 5 s"


def test_a_bar_is_only_for_the_servers_and_figures_that_have_it() -> None:
    bar = Bar("per_second", "≥", {"green": 7000})
    assert bar.missed({"per_second": 1}, "thread") is None
    assert bar.missed({}, "green") is None
    assert bar.missed({"per_second": 1}, "green") == "a second 1 < 7,000"


def test_a_bar_is_told_by_its_values() -> None:
    bars = (Bar("last_s", "≤", {"thread": 1.0, "green": 0.5, "async": 0.5}, "s"), Bar("wrong", "=", 0))
    assert to_hold(bars, "none") == "last answer after ≤ 1 s (thread), 0.5 s (green, async); wrong = 0"


def test_the_honest_client_may_wait_three_times_as_long() -> None:
    assert judged_honest(asked(10), asked(30)) == []
    assert judged_honest(asked(10), asked(30.5)) == ["honest p99 30.5 ms > 30 ms"]
    assert judged_honest(asked(1), asked(20)) == []
    assert judged_honest(asked(1), asked(None, lost=3)) == [
        "3 honest requests lost", "honest p99 none answered > 20 ms",
    ]  # fmt: skip
    assert judged_honest(None, None) == []


def test_percentiles_are_values_that_were_there() -> None:
    assert percentile([], 0.5) is None
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([float(value) for value in range(200)], 0.99) == 198.0


def test_the_middle_of_three_trials_counts_and_the_worse_of_two() -> None:
    entries = [{"beside": asked(p99)} for p99 in (50, 10, None)]
    assert reliability.middle(entries)["beside"]["p99_ms"] == 50
    assert reliability.middle(entries[:2])["beside"]["p99_ms"] == 50
    assert reliability.middle(entries[1:2])["trials"] == 1


def test_rows_that_are_measured_again_take_the_place_of_the_old_ones() -> None:
    rows = [{"number": "1", "title": "old"}, {"number": "2", "title": "old"}]
    new = {**reliability.row_document(ROWS[0]), "number": "2", "title": "new", "date": "now"}
    made = reliability.updated({"date": "then", "rows": rows}, {"commit": "abc", "rows": [new]})
    assert [row["title"] for row in made["rows"]] == ["old", "new"]
    assert made["date"] == "then"
    assert "Measured again, now, abc." in report.section(made["rows"][1])


def test_only_waiting_is_tried_again() -> None:
    assert reliability.only_waits({"missed": ["honest p99 30 ms > 20 ms"]})
    assert not reliability.only_waits({"missed": ["honest p99 30 ms > 20 ms", "wrong 1 ≠ 0"]})
    assert not reliability.only_waits({"missed": []})


@pytest.mark.parametrize(("value", "text"), [(0, "0"), (0.0123, "0.012"), (1.26, "1.3"), (12345.6, "12,346")])
def test_numbers_have_as_many_digits_as_tell_something(value: float, text: str) -> None:
    assert number(value) == text


def test_a_log_is_judged_by_its_characters() -> None:
    assert logs.judged(b"ERROR:x\n  fine\n") == {"controls": 0, "forged": 0, "log_in_attack": 15}
    raw = f"ERROR:x {logs.EVIL}\n".encode()
    assert logs.judged(raw)["forged"] == 1 and logs.judged(raw)["controls"] > 5


def test_lines_are_answered() -> None:
    assert list(conversation.answers(b"hello\n")) == [b"hello\n"]
    assert sum(map(len, conversation.answers(b"BLOB 100000\n"))) == 100_000  # type: ignore[arg-type]
    assert list(conversation.answers(b"SLEEP 0.5\n")) == [0.5, b"OK\n"]
    assert list(conversation.answers(b"SLEEP 1_0\n")) == [b"SLEEP 1_0\n"]
    with pytest.raises(RuntimeError, match="evil"):
        list(conversation.answers(b"RAISE " + b"evil".hex().encode() + b"\n"))


def test_every_row_can_be_told() -> None:
    assert len({row.number for row in ROWS}) == len(ROWS)
    for row in ROWS:
        assert row.about and row.bars and row.servers and row.seconds <= reliability.OF_A_ROW


def test_a_void_server_and_a_row_that_was_not_measured_are_told() -> None:
    row = {**reliability.row_document(ROWS[0]), "servers": [{"server": "green", "void": "no time was left"}]}
    assert "void: no time was left" in "\n".join(report.section(row))
    assert "Not measured: there is no strace." in report.section({**row, "not_measured": "there is no strace"})
    assert reliability.failures({"rows": [row]}) == ["1, green: void, no time was left"]


# -- whole runs --------------------------------------------------------------------------------------------------------


def attacked(folder: Path, *options: object, **conditions: Any) -> tuple[int, dict[str, Any]]:
    done = run("reliability.py", "--quick", "--json", folder / "found.json", *options, **conditions)
    assert (folder / "found.json").exists(), done.stdout + done.stderr
    found: dict[str, Any] = json.loads((folder / "found.json").read_text())
    return done.returncode, found


def only_entry(found: dict[str, Any]) -> dict[str, Any]:
    (row,) = found["rows"]
    (entry,) = row["servers"]
    assert not entry.get("void"), entry
    return dict(entry)


def test_a_server_of_ours_is_attacked(tmp_path: Path) -> None:
    _, found = attacked(tmp_path, "--rows", "13", "--servers", "green")
    entry = only_entry(found)
    assert entry["found"]["wrong"] == 0
    assert entry["alone"]["answered"] and entry["beside"]["answered"] and not entry["beside"]["lost"]
    assert not any("wrong" in text for text in entry["missed"])


def test_a_server_that_does_not_hold_is_found_out(tmp_path: Path) -> None:
    """The broken case: under its own names the standard library writes what it is told into the log."""
    code, found = attacked(tmp_path, "--rows", "26", "--servers", "stdlib-threading")
    assert code == 0, "only servers of ours have to hold"
    missed = only_entry(found)["missed"]
    assert any(text.startswith("control characters") for text in missed)
    assert any(text.startswith("forged") for text in missed)


def test_a_server_that_answers_nobody_is_not_judged() -> None:
    """It would hold to much: it lets nobody in. This one waits for a PROXY header that does not come."""
    row = Row("0", "none", logs.evil, (), options={"proxy_protocol": True})
    with pytest.raises(Void, match="it does not even answer when nobody attacks it"):
        trial(row, "green", Conditions(most=1, alone=0.1, server_processor=None, certificate=""), 5.0)


def test_few_descriptors_are_told(tmp_path: Path) -> None:
    _, found = attacked(tmp_path, "--rows", "12", "--servers", "green", descriptors=250)
    assert any("Attackers are cut to 130" in note for note in found["notes"])


def test_too_few_descriptors_are_told() -> None:
    done = run("reliability.py", "--quick", "--rows", "12", descriptors=150)
    assert done.returncode == 2
    assert "at least 220 descriptors are needed" in done.stderr


@pytest.mark.parametrize(("option", "value"), [("--rows", "1,99"), ("--servers", "green,nobody")])
def test_what_there_is_not_is_told(option: str, value: str) -> None:
    done = run("reliability.py", option, value)
    assert done.returncode == 2
    assert f"there is no {value.partition(',')[2]}" in done.stderr


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    attacked(tmp_path, "--rows", "31", "--servers", "green")
    assert os.listdir(tmp_path) == ["found.json"]
