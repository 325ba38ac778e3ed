"""Durations and sizes: what is taken, what is refused, and that a refusal says what to write."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jackfield.config import parse_duration, parse_size


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("500ms", 0.5),
        ("5s", 5.0),
        ("2m", 120.0),
        ("1h", 3600.0),
        ("5", 5.0),
        (5, 5.0),
        (0.25, 0.25),
        ("0", 0.0),
        (0, 0.0),
        ("1.5s", 1.5),
        ("0.5h", 1800.0),
        ("007s", 7.0),
    ],
)
def test_a_duration_is_seconds(written: str | int | float, seconds: float) -> None:
    result = parse_duration(written)
    assert result == pytest.approx(seconds)
    assert type(result) is float


@pytest.mark.parametrize(
    "written",
    ["", "s", "5x", "5S", "5 s", " 5s", "5s\n", "-5", "+5", "1_0", "1e3", ".5", "5.", "1h30m", "nan", "inf", "٥s"]
    + ["9" * 5000]
    + [-1, -0.001, math.nan, math.inf, -math.inf, 10**5000, -(10**5000), 10**12, True, None, b"5s", [5]],
    ids=lambda value: ascii(value)[:20] if not isinstance(value, int) else hex(value)[:20],
)
def test_what_is_no_duration_is_refused_with_the_fix(written: Any) -> None:
    with pytest.raises(ValueError, match=r"write e\.g\. 500ms, 5s, 2m or 1h") as caught:
        parse_duration(written)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    ("written", "size"),
    [
        ("64k", 65536),
        ("64K", 65536),
        ("1M", 1048576),
        ("1m", 1048576),
        ("2G", 2147483648),
        ("0", 0),
        ("123", 123),
        (123, 123),
        (2**63 - 1, 2**63 - 1),
    ],
)
def test_a_size_is_bytes(written: str | int, size: int) -> None:
    result = parse_size(written)
    assert result == size
    assert type(result) is int


@pytest.mark.parametrize(
    "written",
    ["", "k", "64kb", "64 k", "1.5M", "-1", "+1", "1_0", "٥", "64k\n", "999999999999G", "9" * 5000]
    + [-1, 2**63, 10**5000, 1.0, True, None, b"64k"],
    ids=lambda value: ascii(value)[:20] if not isinstance(value, int) else hex(value)[:20],
)
def test_what_is_no_size_is_refused_with_the_fix(written: Any) -> None:
    with pytest.raises(ValueError, match=r"write e\.g\. 64k, 1M") as caught:
        parse_size(written)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 250


@given(st.text() | st.integers() | st.floats())
def test_any_duration_is_finite_seconds_or_a_value_error(value: str | int | float) -> None:
    try:
        seconds = parse_duration(value)
    except ValueError:
        return
    assert 0 <= seconds < math.inf


@given(st.text(alphabet="0123456789kKmMgG.- ") | st.integers())
def test_any_size_fits_the_kernel_or_is_a_value_error(value: str | int) -> None:
    try:
        size = parse_size(value)
    except ValueError:
        return
    assert 0 <= size < 2**63


@given(st.integers(0, 10**9), st.sampled_from([("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)]))
def test_every_unit_is_a_multiple_of_a_millisecond(count: int, unit: tuple[str, int]) -> None:
    if count * unit[1] <= 10**12:
        assert parse_duration(f"{count}{unit[0]}") == pytest.approx(count * unit[1] / 1000)
