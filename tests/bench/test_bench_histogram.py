"""Latencies in buckets: what they answer is within the bound they promise, however they are put together."""

from __future__ import annotations

import math
import statistics

import pytest
from bench_support import Peer, attack, echo
from hypothesis import given
from hypothesis import strategies as st

from jackfield.bench.histogram import ERROR, PRECISION, Histogram, bucket_of, greatest_in, merged

VALUES = st.lists(st.integers(0, 2**50) | st.integers(0, 5000), min_size=1, max_size=200)
SHARES = st.sampled_from([0.0, 0.01, 0.5, 0.9, 0.99, 0.999, 1.0]) | st.floats(0, 1)


def histogram_of(values: list[int]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    return histogram


@given(st.integers(0, 2**63 - 1))
def test_a_value_is_in_a_bucket_that_is_hardly_wider_than_it(value: int) -> None:
    greatest = greatest_in(bucket_of(value))
    assert value <= greatest <= value * (1 + ERROR)
    assert bucket_of(greatest) == bucket_of(value)
    assert bucket_of(greatest + 1) == bucket_of(value) + 1


@given(VALUES, SHARES)
def test_a_quantile_is_never_too_low_and_hardly_too_high(values: list[int], share: float) -> None:
    rank = max(1, math.ceil(round(share * len(values), 6)))
    true = sorted(values)[rank - 1]
    assert true <= histogram_of(values).quantile(share) <= true * (1 + ERROR)


@given(st.lists(VALUES, min_size=1, max_size=4))
def test_put_together_they_are_as_if_they_had_been_one(parts: list[list[int]]) -> None:
    whole, one = merged(histogram_of(part) for part in parts), histogram_of([v for part in parts for v in part])
    assert whole.counts() == one.counts()
    assert (whole.count, whole.least, whole.most) == (one.count, one.least, one.most)
    assert whole.mean() == pytest.approx(one.mean())
    assert whole.deviation() == pytest.approx(one.deviation(), rel=1e-6, abs=1)


@given(VALUES)
def test_mean_deviation_and_ends_are_those_of_the_values(values: list[int]) -> None:
    histogram = histogram_of(values)
    assert (histogram.least, histogram.most) == (min(values), max(values))
    assert histogram.mean() == pytest.approx(statistics.fmean(values))
    assert histogram.deviation() == pytest.approx(statistics.pstdev(values), rel=1e-4, abs=1e-7 * max(values) + 1e-6)


@given(VALUES)
def test_its_parts_make_it_again(values: list[int]) -> None:
    first = histogram_of(values)
    again = Histogram.of(first.counts(), first.total(), first.squares(), first.least, first.most)
    assert again.buckets() == first.buckets()
    assert [again.quantile(share / 20) for share in range(21)] == [first.quantile(share / 20) for share in range(21)]


def test_nothing_measured_is_zero() -> None:
    empty = Histogram()
    assert (empty.quantile(0.5), empty.mean(), empty.deviation(), empty.least, empty.most) == (0, 0, 0, 0, 0)
    assert merged([empty, empty]).count == 0


def test_a_thousandth_is_the_thousandth() -> None:
    # 0.999 is no binary fraction: 0.999 * 1000 is more than 999.
    assert histogram_of(list(range(1, 1001))).quantile(0.999) <= 999 * (1 + ERROR)


def test_both_twins_have_the_same_buckets(twin: str) -> None:
    with Peer(echo) as peer:
        measured = attack(peer.address, requests=200, connections=2).latencies
    assert sum(measured.counts().values()) == measured.count == 200
    buckets = measured.counts()
    # Were a bucket of C another than of Python, its least or greatest would not be where they belong.
    assert min(buckets) == bucket_of(measured.least) and max(buckets) == bucket_of(measured.most)
    lowest = sum(count * (greatest_in(bucket) * (1 - ERROR) - 1) for bucket, count in buckets.items())
    highest = sum(count * greatest_in(bucket) for bucket, count in buckets.items())
    assert lowest <= measured.total() <= highest
    assert PRECISION == 8
