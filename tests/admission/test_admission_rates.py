"""Rates and buckets: what a text means, and that no stretch of time ever has more than it may."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jackfield.admission.rates import Rate, TokenBucket, ticks


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("100/s", Rate(100)),
        ("100/s,200", Rate(100, 1.0, 200)),
        ("10/m", Rate(10, 60.0)),
        ("1/h", Rate(1, 3600.0)),
        ("5/10s", Rate(5, 10.0)),
        ("5/1.5s,7", Rate(5, 1.5, 7)),
        ("1/500ms", Rate(1, 0.5)),
    ],
)
def test_a_text_is_a_rate(text: str, rate: Rate) -> None:
    assert Rate.parse(text) == rate
    assert Rate.parse(str(rate)) == rate


@pytest.mark.parametrize(
    "text",
    ["", "100", "100/", "/s", "100/s,", "100/s,0", "0/s", "-1/s", "+1/s", "1_0/s", "1e3/s", "100/S", "100 /s", "1/s\n"]
    + ["١/s", "1/5", "1/0s", "1/.5s", "1/5.s", "1/1..s", "1/9999999h", "1/9999h", "99999999999/s", "1/s,9999999999"]
    + ["01/s", "9" * 5000 + "/s", None, 5, b"1/s"],
    ids=lambda text: ascii(text)[:20],
)
def test_what_is_no_rate_is_refused_with_the_fix(text: Any) -> None:
    with pytest.raises(ValueError, match=r"write e\.g\. 100/s") as caught:
        Rate.parse(text)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    "arguments",
    [(0,), (-1,), (True,), (1.5,), (10**5000,), (1, math.nan), (1, math.inf), (1, 0.0009), (1, 1, -1), (1, 1, 1.5)],
    ids=lambda arguments: ascii(arguments)[:20] if arguments[0] < 9 else "huge",
)
def test_a_rate_that_cannot_be_meant_is_refused(arguments: Any) -> None:
    with pytest.raises(ValueError, match=r"write e\.g\. 100/s"):
        Rate(*arguments)


rates = st.builds(
    Rate,
    st.integers(1, 1000),
    st.sampled_from([0.001, 0.1, 1 / 3, 1.0, 7.0, 60.0]),
    st.integers(1, 20),
)


@given(rates)
def test_a_rate_is_written_as_it_is_read(rate: Rate) -> None:
    assert Rate.parse(str(rate)) == rate


def most_in_a_window(times: list[float], rate: Rate) -> Fraction:
    """By how much the fullest stretch is fuller than it may be, in exact numbers."""
    excess = Fraction(-(10**9))
    for i, first in enumerate(times):
        for j in range(i, len(times)):
            length = Fraction(times[j]) - Fraction(first)
            allowed = rate.burst + length * rate.count / Fraction(rate.seconds)
            excess = max(excess, j - i + 1 - allowed)
    return excess


# Steps of eighths: of the period of the rate, so that many fall together with it, and around it.
@given(rates, st.lists(st.integers(0, 40), min_size=1, max_size=60), st.sampled_from([0.0, 12345.678, 3e7]))
def test_no_stretch_has_more_than_it_may(rate: Rate, steps: list[int], start: float) -> None:
    bucket = TokenBucket(rate)
    now, taken = start, []
    for step in steps:
        now += step / 8 * rate.seconds / rate.count
        if bucket.take(now):
            taken.append(now)
    # The clock of the bucket has ticks of 2**-40 s, and so rounds both ends of the stretch.
    assert most_in_a_window(taken, rate) <= Fraction(2, 2**40) * rate.count / Fraction(rate.seconds)


def test_that_property_can_fail() -> None:
    rate = Rate(1, 1.0, 1)
    assert most_in_a_window([0.0, 0.5], rate) > 0
    assert most_in_a_window([0.0, 1.0], rate) == 0


@given(rates, st.floats(0, 1e9))
def test_a_full_bucket_has_its_burst_and_no_more(rate: Rate, now: float) -> None:
    bucket = TokenBucket(rate)
    assert [bucket.take(now) for _ in range(rate.burst + 1)] == [True] * rate.burst + [False]
    assert not bucket.is_full(now)
    later = now + rate.seconds / rate.count * rate.burst * 1.001 + 1e-6
    assert bucket.is_full(later)
    assert [bucket.take(later) for _ in range(rate.burst + 1)] == [True] * rate.burst + [False]


@given(st.integers(1, 100_000), st.sampled_from([1.0, 60.0]))
def test_a_long_run_keeps_the_rate(count: int, seconds: float) -> None:
    rate = Rate(count, seconds, 1)
    bucket = TokenBucket(rate)
    # Asked a little later than the rate each time, after a year of idleness, nothing is refused.
    start, step = 3.2e7, seconds / count * 1.01
    assert all(bucket.take(start + n * step) for n in range(300))
    # And asked twice as often, only every second is let through.
    assert 150 <= sum(bucket.take(start + 300 * step + n * step / 2) for n in range(300)) <= 152


def test_another_rate_gives_no_second_burst_and_takes_no_more_than_it_has() -> None:
    bucket = TokenBucket(Rate.parse("10/h"))
    assert all(bucket.take(0.0) for _ in range(10))
    bucket.change(Rate.parse("100/s,5"), 1.0)
    assert not bucket.take(1.0)
    assert bucket.take(1.02)  # and need not wait for the hour


@given(st.floats(0, 2**13, exclude_max=True))
def test_ticks_lose_less_than_a_picosecond(seconds: float) -> None:
    assert 0 <= Fraction(seconds) - Fraction(ticks(seconds)) / 2**40 < Fraction(1, 10**12)
