"""What is made of the figures: the document, conditions, comparison, CSV, warnings and the drawing."""

from __future__ import annotations

import csv
import io
import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from jackfield.address import parse_address
from jackfield.bench.histogram import ERROR, Histogram
from jackfield.bench.plan import Plan
from jackfield.bench.plot import svg
from jackfield.bench.report import COLUMNS, comparison, csv_text, explanations, percentile_table, text, warnings
from jackfield.bench.result import DocumentError, Result, read_document
from jackfield.bench.verdict import ConditionError, compare, measure_of, other_conditions, parse_condition

ADDRESS = parse_address("127.0.0.1:9999")


def measured(values: list[int], **other: Any) -> dict[str, Any]:
    """What a process would have measured, had it been these latencies in milliseconds."""
    histogram = Histogram()
    for value in values:
        histogram.record(value * 1_000_000)
    counts = dict.fromkeys(("connect", "closed", "wrong", "timeout", "lost", "overdue"), 0)
    counts |= {"asked": len(values), "replied": len(values), "measured": len(values), "opened": 1}
    counts |= {"sent": 64 * len(values), "received": 64 * len(values)}
    sums = {"sum": histogram.total(), "squares": histogram.squares()}
    sums |= {"least": histogram.least, "most": histogram.most}
    made = {
        "counts": counts | sums | other.pop("counts", {}),
        "buckets": [list(pair) for pair in histogram.counts().items()],
        "reasons": {"connect": 0, "closed": 0, "wrong": ""},
        "entries": [[1, len(values) // 2, 0], [2, len(values), 0]],
        "window": 2_000_000_000, "processor": 0.5, "starved": 0.0, "native": True,
    }  # fmt: skip
    return made | other


def result_of(*processes: dict[str, Any], **asked: Any) -> Result:
    return Result.of(Plan(ADDRESS, workers=len(processes), **asked), processes)


def document_of(*values: int, **other: Any) -> dict[str, Any]:
    return result_of(measured(list(values), **other)).document("1")


# -- putting together ----------------------------------------------------------------------------------------------


def test_processes_are_put_together() -> None:
    result = result_of(
        measured([1, 2, 3], counts={"wrong": 2}, entries=[[1, 1, 0], [2, 3, 2]]),
        measured([10], counts={"wrong": 1}, entries=[[1, 1, 1]], window=1_000_000_000, native=False, processor=0.8),
    )
    assert result.latencies.count == 4
    assert result.seconds == 2.0
    assert result.per_second == 2.0
    assert result.errors["wrong"] == result.failed == 3
    assert result.error_share == 3 / 7
    assert result.timeline == [(2, 1), (2, 2)]
    assert result.slot == 0.1
    assert not result.native
    assert [used for used, _ in result.processors] == [0.5, 0.8]


def test_over_time_every_reply_is_somewhere_also_where_entries_were_left_out() -> None:
    entries = [[slot, slot * 5, slot] for slot in range(4, 4001, 4)]
    result = result_of(measured([1], entries=entries))
    assert sum(replies for replies, _ in result.timeline) == 20000
    assert sum(errors for _, errors in result.timeline) == 4000
    assert result.slot == pytest.approx(0.4)


def test_the_document_is_json() -> None:
    document = json.loads(json.dumps(document_of(*range(1, 101))))
    assert document["latency_ms"]["p99"] == pytest.approx(99, rel=ERROR)
    assert document["latency_ms"]["max"] == 100
    assert sum(count for _, count in document["histogram"]) == document["requests"] == 100


def test_a_document_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    document = document_of(1, 2, 3)
    path.write_text(json.dumps(document))
    assert read_document(path) == json.loads(json.dumps(document))


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b"\xff", b'{"jackfield_bench": 1}', b"[" * 100_000,
                b'{"jackfield_bench": 1, "per_second": "x", "latency_ms": {}, "errors": {"total": 0}}',
                b'{"jackfield_bench": 2, "per_second": 1, "latency_ms": {}, "errors": {"total": 0}}'],
    ids=range(8),
)  # fmt: skip
def test_what_is_no_document_is_refused_in_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    path.write_bytes(content)
    with pytest.raises(DocumentError, match="bench --json") as refused:
        read_document(path)
    assert "\n" not in str(refused.value)


# -- conditions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("condition", "true"),
    [
        ("p99>50ms", True),
        ("p99>0.2s", False),
        ("p50<=51ms", True),
        ("p50 >= 49ms", True),
        ("max>100ms", False),
        ("max>=100ms", True),
        ("min<1ms", False),
        ("mean>50ms", True),
        ("p12.5>12ms", True),
        ("p12.5>14ms", False),
        ("rate<51", True),
        ("rate<50", False),
        ("errors>0", True),
        ("errors>4%", False),
        ("errors>3.8%", True),
        ("requests<100", False),
        ("overdue>0", False),
    ],
)
def test_conditions(condition: str, true: bool) -> None:
    document = document_of(*range(1, 101), counts={"wrong": 4})
    verdict = parse_condition(condition).verdict(document)
    assert (verdict is not None) is true
    assert verdict is None or verdict.startswith(condition.strip())


def test_a_condition_about_an_earlier_run() -> None:
    old, new = document_of(10, 10), document_of(12, 12)
    assert parse_condition("p99>1.1x").verdict(new, old) == "p99>1.1x: it is 12ms, and was 10ms"
    assert parse_condition("p99>1.3x").verdict(new, old) is None


def test_a_latency_of_no_reply_is_no_good_one() -> None:
    document = document_of()
    assert "no reply" in (parse_condition("p99>50ms").verdict(document) or "")
    assert "no reply" in (parse_condition("p99<50ms").verdict(document) or "")


@pytest.mark.parametrize(
    "written",
    ["", "p99", "p99>", "p99>50", "p99=50ms", "p99>50parsecs", "p0>1ms", "p100.1>1ms", "latency>5ms", "rate>5ms",
     "rate>5%", "errors>1.1.1", "p99>1e3ms", "p99>50ms extra", "p99>99999999999999999999ms", "x" * 1000, "p99>٣ms"],
)  # fmt: skip
def test_what_is_no_condition_is_refused_in_one_line(written: str) -> None:
    with pytest.raises(ConditionError) as refused:
        parse_condition(written)
    assert "\n" not in str(refused.value)


def test_runs_side_by_side() -> None:
    old, new = document_of(10, 20), document_of(20, 40, counts={"lost": 1})
    found = {difference.measure: difference for difference in compare(old, new)}
    assert found["max"].change == 1.0
    assert found["rate"].change == 0.0
    assert found["errors"].change is None
    shown = comparison(old, compare(old, new))
    assert "+100.0 %" in shown and "0.0 %" in shown
    assert other_conditions(old, new) == []
    other = Result.of(Plan(ADDRESS, connections=7), [measured([1])]).document("1")
    assert other_conditions(old, other) == ["connections 7, was 50"]


def test_any_percentile_is_found_in_the_buckets() -> None:
    document = document_of(*range(1, 101))
    for percent in range(1, 101):
        assert percent <= measure_of(document, f"p{percent}.0") <= percent * (1 + ERROR) + 1e-6


# -- what is shown -------------------------------------------------------------------------------------------------


def test_the_report_says_which_loop_it_was() -> None:
    assert "closed loop" in text(result_of(measured([1])))
    assert "from when each was sent" in text(result_of(measured([1])))
    assert "open loop at 100/s" in text(result_of(measured([1]), rate=100.0))
    assert "from when each was due" in text(result_of(measured([1]), rate=100.0))


def test_the_table_of_percentiles_says_how_many_were_slower() -> None:
    rows = [line.split() for line in percentile_table(result_of(measured(list(range(1, 1001))))).splitlines()[1:]]
    assert [(name, slower) for name, _, slower in rows][:6] == [
        ("50%", "500"), ("75%", "250"), ("90%", "100"), ("95%", "50"), ("99%", "10"), ("99.9%", "1"),
    ]  # fmt: skip


def test_csv_has_a_line_of_names_and_one_of_values() -> None:
    [names, values] = csv.reader(io.StringIO(csv_text(document_of(1, 2, 3, counts={"lost": 2}))))
    assert tuple(names) == COLUMNS
    row = dict(zip(names, values, strict=True))
    assert (row["requests"], row["errors"], row["lost"], row["rate"], row["loop"]) == ("3", "2", "2", "", "closed")
    assert float(row["p50_ms"]) == pytest.approx(2, rel=ERROR)


def test_the_generator_is_called_the_limit_from_nine_tenths_of_a_processor_on() -> None:
    assert not any("is the limit" in line for line in warnings(result_of(measured([1], processor=0.89)), 2))
    [line] = warnings(result_of(measured([1], processor=0.91)), 2)
    assert "the load generator is the limit" in line and "91 %" in line and "-w 2" in line
    [line] = warnings(result_of(measured([1], processor=0.91)), 1)
    assert "-w" not in line
    # What it waits for a processor is no better than what it uses of one.
    assert "the load generator is the limit" in warnings(result_of(measured([1], processor=0.5, starved=0.45)), 1)[0]


def test_a_rate_that_is_too_high_is_said_to_measure_the_backlog() -> None:
    behind = {"asked": 1000, "overdue": 500}
    assert any("backlog" in line for line in warnings(result_of(measured([1], counts=behind), rate=100.0), 1))
    assert not any("backlog" in line for line in warnings(result_of(measured([1], counts=behind)), 1))
    a_little = {"asked": 1000, "overdue": 50}  # as many as there are connections: they were on their way
    assert not any("backlog" in line for line in warnings(result_of(measured([1], counts=a_little), rate=100.0), 1))


@pytest.mark.parametrize(
    ("counts", "reasons", "said"),
    [
        ({"connect": 1}, {"connect": 111}, "nobody listens"),
        ({"connect": 1}, {"connect": 99}, "-R"),
        ({"connect": 1}, {"connect": 24}, "ulimit -n"),
        ({"connect": 1}, {"connect": 0}, "handshake"),
        ({"closed": 1}, {"closed": 0}, "--connect-per-request"),
        ({"closed": 1}, {"closed": 104}, "reset"),
        ({"wrong": 1}, {"wrong": "oops"}, "b'oops'"),
        ({"timeout": 1}, {}, "--framing line"),
        ({"lost": 1}, {}, "lost"),
    ],
)
def test_errors_are_explained(counts: dict[str, int], reasons: dict[str, Any], said: str) -> None:
    process = measured([1], counts=counts)
    process["reasons"] |= reasons
    [line] = explanations(result_of(process))
    assert said in line and "\n" not in line


# -- the drawing ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [[], [5], [1] * 3000, list(range(1, 2000))], ids=len)
def test_the_drawing_is_whole_and_nothing_leaves_it(values: list[int]) -> None:
    document = document_of(*values, entries=[[1, 3, 0], [2, 3, 4], [3, 9, 4]])
    drawn = svg(document, document_of(1, 50))
    root = ET.fromstring(drawn)
    width, height = (float(root.attrib[name]) for name in ("width", "height"))
    for shape in root.iter():
        for name, most in (("x", width), ("y", height)):
            assert 0 <= float(shape.attrib.get(name, 0)) <= most
        numbers = shape.attrib.get("d", "").replace("M", " ").replace("L", " ").replace("Z", "")
        if "H" not in numbers and "V" not in numbers:
            points = [float(number) for number in numbers.split()]
            assert all(0 <= x <= width for x in points[::2]) and all(0 <= y <= height for y in points[1::2])
    assert "prefers-color-scheme: dark" in drawn
    assert "http" not in drawn.replace("http://www.w3.org/2000/svg", "")
    assert "4 errors" in drawn


def test_what_is_drawn_is_escaped() -> None:
    document = document_of(1)
    document["address"] = "unix:/<script>&"
    assert "<script>" not in svg(document)
    ET.fromstring(svg(document))
