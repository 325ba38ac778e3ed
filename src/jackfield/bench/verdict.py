"""What a run is held to (``--fail-if``), and how it differs from an earlier one (``--compare``)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from jackfield.config import parse_duration

__all__ = ["Condition", "ConditionError", "Difference", "compare", "measure_of", "other_conditions", "parse_condition"]

_CONDITION = re.compile(r"\s*(p[0-9]+(?:\.[0-9]+)?|[a-z]+)\s*(>=|<=|>|<)\s*([0-9][0-9.]*)\s*([a-z%]*)\s*", re.ASCII)

_LATENCIES = ("min", "mean", "stdev", "max")
_COUNTS = ("errors", "rate", "requests", "overdue")
_EXAMPLE = "write e.g. 'p99>50ms', 'errors>0.1%', 'rate<1000' or, with --compare, 'p99>1.2x'"


class ConditionError(ValueError):
    """This is no condition; the message, one line, says what to write."""


@dataclass(frozen=True)
class Condition:
    """One thing that must not come true.

    :param measure: ``p99``, ``mean``, ``rate``, ``errors`` …
    :param sign: ``>``, ``>=``, ``<`` or ``<=``.
    :param value: latencies in milliseconds; a share where `unit` is ``%``; times the old value where it is ``x``.
    :param text: as it was written.
    """

    measure: str
    sign: str
    value: float
    unit: str
    text: str

    @property
    def is_relative(self) -> bool:
        """Whether it is about an earlier run as well."""
        return self.unit == "x"

    def verdict(self, document: Mapping[str, Any], old: Mapping[str, Any] | None = None) -> str | None:
        """Why it came true, as one line; None where it did not.

        :param old: the earlier run, for a relative one.
        """
        found = measure_of(document, self.measure)
        limit = self.value
        if self.unit == "%":
            found = 100 * found / max(1, found + document["replies"])
        if self.is_relative:
            limit *= measure_of(old or {}, self.measure)
        true = {">": found > limit, ">=": found >= limit, "<": found < limit, "<=": found <= limit}[self.sign]
        # With no reply there is no latency, and 0 ms would pass for a good one.
        if self._is_latency and not document["requests"]:
            return f"{self.text}: there was no reply to measure"
        if not true:
            return None
        unit = "%" if self.unit == "%" else "ms" if self._is_latency else ""
        was = f", and was {measure_of(old or {}, self.measure):.6g}{unit}" if self.is_relative else ""
        return f"{self.text}: it is {found:.6g}{unit}{was}"

    @property
    def _is_latency(self) -> bool:
        return self.measure not in _COUNTS


def parse_condition(text: str) -> Condition:
    """``p99>50ms``, ``mean>=5ms``, ``errors>0``, ``errors>0.1%``, ``rate<1000``, ``p99>1.2x``.

    :raises ConditionError: it is none.
    """
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise ConditionError(f"no condition: {text!r}: {_EXAMPLE}")
    measure, sign, number, unit = match.groups()
    is_latency = measure in _LATENCIES or measure[1:2].isdigit()
    if not is_latency and measure not in _COUNTS:
        known = ", ".join(("p50 … p99.999", *_LATENCIES, *_COUNTS))
        raise ConditionError(f"nothing is measured that is called {measure!r} (there is {known}): {_EXAMPLE}")
    if measure[1:2].isdigit() and not 0 < float(measure[1:]) <= 100:
        raise ConditionError(f"{measure} is no percentile, which is above 0 and at most 100: {_EXAMPLE}")
    try:
        value = float(number)
        if unit == "x":
            pass
        elif is_latency:
            if not unit:
                raise ConditionError(f"{text!r} lacks the unit of its time: write {measure}{sign}{number}ms or …s")
            value = parse_duration(number + unit) * 1000
        elif unit and (unit, measure) != ("%", "errors"):
            raise ConditionError(f"{measure} has no {unit!r}: {_EXAMPLE}")
    except ConditionError:
        raise
    except ValueError:
        raise ConditionError(f"no value: {number + unit!r} in {text!r}: {_EXAMPLE}") from None
    return Condition(measure, sign, value, unit, text.strip())


def measure_of(document: Mapping[str, Any], measure: str) -> float:
    """What a run has of a measure; latencies in milliseconds. Percentiles without a name are looked up in the buckets.

    :raises ValueError: the document has nothing of it.
    """
    named: Mapping[str, Any] = document["latency_ms"]
    if measure in _COUNTS:
        found = {
            "errors": document["errors"]["total"], "rate": document["per_second"],
            "requests": document.get("requests", 0), "overdue": document.get("overdue", 0),
        }[measure]  # fmt: skip
        return float(found)
    if measure in named:
        return float(named[measure])
    buckets = document.get("histogram") or []
    wanted = max(1, math.ceil(round(float(measure[1:]) / 100 * sum(count for _, count in buckets), 6)))
    seen = 0
    for value, count in buckets:
        seen += count
        if seen >= wanted:
            return float(min(value, named["max"]))
    return float(named["max"])


class Difference(NamedTuple):
    """A measure in two runs."""

    measure: str
    old: float
    new: float

    @property
    def change(self) -> float | None:
        """By what share it grew; None where there was nothing before."""
        return self.new / self.old - 1 if self.old else None


COMPARED = ("rate", "mean", "p50", "p90", "p99", "p99.9", "max", "errors")


def compare(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Difference]:
    """Both runs side by side."""
    return [Difference(name, measure_of(old, name), measure_of(new, name)) for name in COMPARED]


def other_conditions(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What was asked otherwise in the earlier run, each as ``connections 50, was 10``: it explains differences."""
    before, after = old.get("plan") or {}, new["plan"]
    names = [name for name in after if name not in ("duration", "requests", "warmup") and name in before]
    return [f"{name} {after[name]}, was {before[name]}" for name in names if after[name] != before[name]]
