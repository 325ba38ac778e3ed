"""Latencies counted in buckets: little memory for any number of them, and an error whose bound is known.

Every value below 256 ns has a bucket of its own, and each power of two above it is cut into 256 equal ones, as an HDR
histogram does it. A bucket answers with its greatest value: a quantile is never told too low, and never too high by
more than one part in 256 (0.4 %). Least, greatest, mean and deviation are of the values themselves.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

__all__ = ["ERROR", "PRECISION", "Histogram", "bucket_of", "greatest_in"]

PRECISION = 8
"""Buckets for each power of two, as a power of two. As in native/loading.c."""

ERROR = 2.0**-PRECISION
"""By what part of itself a quantile may be told too high at most."""


def bucket_of(value: int) -> int:
    """The number of the bucket that a value, in whole nanoseconds, belongs to."""
    shift = max(0, value.bit_length() - 1 - PRECISION)
    return (shift << PRECISION) + (value >> shift)


def greatest_in(bucket: int) -> int:
    """The greatest value of a bucket."""
    if bucket < 2 << PRECISION:
        return bucket
    shift = (bucket >> PRECISION) - 1
    return ((bucket - (shift << PRECISION) + 1) << shift) - 1


class Histogram:
    """Latencies in nanoseconds.

    :ivar count: how many there are.
    :ivar least: the shortest, 0 where there is none.
    :ivar most: the longest, 0 where there is none.
    """

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self.count = 0
        self.least = 0
        self.most = 0
        self._sum = 0.0
        self._squares = 0.0

    @classmethod
    def of(
        cls, counts: Mapping[int, int], total: float = 0.0, squares: float = 0.0, least: int = 0, most: int = 0
    ) -> Histogram:
        """The histogram of counted buckets, their sum, the sum of their squares, the shortest and the longest."""
        made = cls()
        made._counts = dict(counts)
        made.count = sum(counts.values())
        made._sum, made._squares, made.least, made.most = total, squares, least, most
        return made

    def record(self, value: int) -> None:
        """Count one; below zero is zero."""
        value = max(0, value)
        bucket = bucket_of(value)
        self._counts[bucket] = self._counts.get(bucket, 0) + 1
        self.least = value if self.count == 0 else min(self.least, value)
        self.most = max(self.most, value)
        self.count += 1
        self._sum += value
        self._squares += float(value) * value

    def add(self, other: Histogram) -> None:
        """Count all of another's as well: what two processes measured becomes one."""
        if not other.count:
            return
        for bucket, count in other._counts.items():
            self._counts[bucket] = self._counts.get(bucket, 0) + count
        self.least = min(self.least, other.least) if self.count else other.least
        self.most = max(self.most, other.most)
        self.count += other.count
        self._sum += other._sum
        self._squares += other._squares

    def quantile(self, share: float) -> int:
        """What a share of them, from 0 to 1, did not exceed: the nearest-rank quantile, or at most 0.4 % more."""
        if not self.count:
            return 0
        # A share such as 0.999 is no binary fraction: 0.999 x 1000 is 999.0000000000001 and would be the 1000th.
        rank = max(1, math.ceil(round(share * self.count, 6)))
        if rank >= self.count:
            return self.most
        for bucket, seen in self._cumulated():
            if seen >= rank:
                return min(greatest_in(bucket), self.most)
        return self.most

    def mean(self) -> float:
        """Their mean, 0 where there is none."""
        return self._sum / self.count if self.count else 0.0

    def deviation(self) -> float:
        """Their standard deviation, 0 where there is none."""
        return math.sqrt(max(0.0, self._squares / self.count - self.mean() ** 2)) if self.count else 0.0

    def total(self) -> float:
        """Their sum."""
        return self._sum

    def squares(self) -> float:
        """The sum of their squares."""
        return self._squares

    def buckets(self) -> list[tuple[int, int]]:
        """Each bucket that is not empty: the greatest value that belongs to it, and how many there are."""
        return [(greatest_in(bucket), self._counts[bucket]) for bucket in sorted(self._counts)]

    def counts(self) -> dict[int, int]:
        """How many there are by the number of the bucket."""
        return dict(self._counts)

    def _cumulated(self) -> Iterator[tuple[int, int]]:
        seen = 0
        for bucket in sorted(self._counts):
            seen += self._counts[bucket]
            yield bucket, seen


def merged(histograms: Iterable[Histogram]) -> Histogram:
    """All of them as one."""
    whole = Histogram()
    for histogram in histograms:
        whole.add(histogram)
    return whole
