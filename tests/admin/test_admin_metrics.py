"""The text of metrics, read by the official parser; and histograms."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jackfield.metrics import Family, Histogram, exposition

parser = pytest.importorskip("prometheus_client.parser", reason="the official parser: pip install prometheus-client")

LABELS = st.dictionaries(st.sampled_from(["server", "reason", "name"]), st.text(max_size=20), max_size=3)


def read(text: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    return {
        sample.name: [(s.labels, s.value) for s in family.samples if s.name == sample.name]
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
    }


@given(LABELS, st.one_of(st.integers(0, 2**62), st.floats(allow_nan=False)))
def test_what_is_written_is_what_is_read(labels: dict[str, str], value: Any) -> None:
    """Whatever a label has in it: backslashes, quotation marks, ends of lines."""
    family = Family("things_total", "counter", 'a "help"\nof two lines \\')
    family.add(value, **labels)
    ((told, number),) = read(exposition([family]))["jackfield_things_total"]
    assert told == labels
    assert number == pytest.approx(float(value)) or number == float(value)


def test_the_parser_finds_a_fault() -> None:
    """The broken case: a label that is not escaped."""
    with pytest.raises(ValueError):
        read('jackfield_things_total{reason="a"b"} 1\n')


@given(st.lists(st.floats(0, 1e6)))
def test_a_histogram_has_each_value_once(values: list[float]) -> None:
    histogram = Histogram((0.1, 1.0, 10.0))
    for value in values:
        histogram.add(value)
    family = Family("seconds", "histogram", "seconds")
    family.add(histogram, server="0")
    told = read(exposition([family]))
    buckets = {labels["le"]: value for labels, value in told["jackfield_seconds_bucket"]}
    assert list(buckets.values()) == sorted(buckets.values())
    assert buckets["+Inf"] == told["jackfield_seconds_count"][0][1] == len(values)
    for bound in histogram.bounds:
        assert buckets[repr(bound)] == sum(value <= bound for value in values)
    assert told["jackfield_seconds_sum"][0][1] == pytest.approx(math.fsum(values))


@given(st.lists(st.floats(0, 20), min_size=1), st.floats(0.01, 1.0))
def test_a_quantile_is_a_bound_that_so_many_keep(values: list[float], part: float) -> None:
    histogram = Histogram((0.1, 1.0, 10.0))
    for value in values:
        histogram.add(value)
    bound = histogram.quantile(part)
    assert bound is not None
    assert sum(value <= bound for value in values) >= part * len(values) - 1e-9
    lower = [one for one in histogram.bounds if one < bound]
    assert not lower or sum(value <= lower[-1] for value in values) < math.ceil(part * len(values))


def test_a_quantile_of_nothing_is_none() -> None:
    assert Histogram((1.0,)).quantile(0.5) is None


@given(st.lists(st.floats(0, 20)), st.lists(st.floats(0, 20)))
def test_histograms_add_up(ours: list[float], theirs: list[float]) -> None:
    all_of_them, one, other = Histogram((1.0, 10.0)), Histogram((1.0, 10.0)), Histogram((1.0, 10.0))
    for value in ours:
        one.add(value)
        all_of_them.add(value)
    for value in theirs:
        other.add(value)
        all_of_them.add(value)
    one.merge(other)
    assert one.counts == all_of_them.counts
    assert one.sum == pytest.approx(all_of_them.sum)
