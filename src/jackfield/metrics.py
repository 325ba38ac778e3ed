"""Metrics: figures with names, and the text in which Prometheus reads them. Pure: values in, text out.

The text is the exposition format 0.0.4, which every scraper understands. A peer's address is never a label: each one
would be a series of its own, kept for as long as the scraper remembers.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["CONTENT_TYPE", "Family", "Histogram", "exposition"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels = Mapping[str, str]


class Histogram:
    """How many values were at most each of ``bounds``, and how many there were; sums of them add up over workers."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float], counts: Iterable[int] = (), sum: float = 0.0) -> None:
        self.bounds = tuple(bounds)
        #: How many fell between the bound before and this one; the last are above all.
        self.counts = list(counts) or [0] * (len(self.bounds) + 1)
        self.sum = sum

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def merge(self, other: Histogram) -> None:
        """Have what ``other``, which has the same bounds, has counted as well."""
        self.counts = [mine + its for mine, its in zip(self.counts, other.counts, strict=True)]
        self.sum += other.sum

    @property
    def count(self) -> int:
        return sum(self.counts)

    def quantile(self, part: float) -> float | None:
        """The bound below which at least ``part`` of the values are (0.99: ninety-nine of a hundred); None of none,
        infinity above all bounds."""
        wanted, seen = math.ceil(part * self.count), 0
        if not wanted:
            return None
        for bound, count in zip((*self.bounds, math.inf), self.counts, strict=True):
            seen += count
            if seen >= wanted:
                return bound
        raise AssertionError("a part is at most 1")


@dataclass
class Family:
    """One metric: its name, without the prefix of all; what it is, in one sentence; and its figures by labels."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    samples: list[tuple[Labels, float | Histogram]] = field(default_factory=list)

    def add(self, value: float | Histogram | None, **labels: str) -> None:
        """One figure more; None is none."""
        if value is not None:
            self.samples.append((labels, value))


def exposition(families: Iterable[Family], prefix: str = "jackfield_") -> str:
    """All of it as text; families without a figure are left out."""
    lines = []
    for family in families:
        if not family.samples:
            continue
        name = prefix + family.name
        lines += [f"# HELP {name} {_escape(family.help)}", f"# TYPE {name} {family.kind}"]
        for labels, value in family.samples:
            lines += _lines(name, labels, value)
    return "".join(f"{line}\n" for line in lines)


def _lines(name: str, labels: Labels, value: float | Histogram) -> Iterable[str]:
    if not isinstance(value, Histogram):
        yield f"{name}{_braces(labels)} {_number(value)}"
        return
    seen = 0
    for bound, count in zip((*value.bounds, math.inf), value.counts, strict=True):
        seen += count  # each bucket has those of the ones before it
        yield f"{name}_bucket{_braces({**labels, 'le': _number(bound)})} {seen}"
    yield f"{name}_sum{_braces(labels)} {_number(value.sum)}"
    yield f"{name}_count{_braces(labels)} {seen}"


def _braces(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escape(value, quote=True)}"' for name, value in labels.items()) + "}"


def _number(value: float) -> str:
    if isinstance(value, int):
        return str(int(value))
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return repr(value)


def _escape(text: str, *, quote: bool = False) -> str:
    text = text.replace("\\", r"\\").replace("\n", r"\n")
    return text.replace('"', r"\"") if quote else text
