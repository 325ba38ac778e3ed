"""What a load test has measured, all processes together, and its document: the JSON that `--json` prints.

The document is stable: names stay and keep their meaning, and new ones may come. Its reader is ``--compare``.
"""

from __future__ import annotations

import datetime
import itertools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jackfield.bench.histogram import ERROR, Histogram, merged
from jackfield.bench.load import SLOT
from jackfield.bench.loop import FAULTS
from jackfield.bench.plan import Plan

__all__ = ["FORMAT", "QUANTILES", "DocumentError", "Result", "read_document"]

FORMAT = 1
"""The number of the document's format, under ``jackfield_bench``."""

QUANTILES = (50.0, 75.0, 90.0, 95.0, 99.0, 99.9, 99.99, 99.999)
"""The percentiles that the document has under their names, such as ``p99.9``."""

LIMIT = 0.9
"""From what share of a processor on the load generator is called the limit."""

BACKLOG = 0.01
"""What share of an open loop's requests may still be due at the end before that is a backlog."""

NANOSECONDS = 1_000_000_000


class DocumentError(ValueError):
    """This is no document of ours; the message, one line, says what it is."""


@dataclass
class Result:
    """What came of a plan.

    :ivar seconds: how long was measured.
    :ivar counts: requests, replies and bytes of the whole run; warm-up included.
    :ivar errors: by :data:`jackfield.bench.loop.FAULTS`, of the whole run.
    :ivar reasons: of the first error of a kind: its number, or the reply that was wrong.
    :ivar timeline: replies and errors in each slot of `slot` seconds since the load began.
    :ivar processors: for each process, what share of a processor it used, and for what share of the time it waited for
        one.
    """

    plan: Plan
    latencies: Histogram
    seconds: float
    counts: dict[str, int]
    errors: dict[str, int]
    reasons: dict[str, Any]
    overdue: int
    slot: float
    timeline: list[tuple[int, int]]
    processors: list[tuple[float, float]]
    native: bool
    interrupted: bool = False
    date: str = field(default_factory=lambda: datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"))

    @classmethod
    def of(cls, plan: Plan, measured: Sequence[Mapping[str, Any]], interrupted: bool = False) -> Result:
        """Put together what each process measured (:func:`jackfield.bench.load.measure`)."""
        counts = [process["counts"] for process in measured]
        reasons: dict[str, Any] = {}
        for process in measured:
            reasons |= {name: reason for name, reason in process["reasons"].items() if reason and name not in reasons}
        slot, timeline = _over_time([process["entries"] for process in measured])
        return cls(
            plan=plan,
            latencies=merged(
                Histogram.of(
                    dict(process["buckets"]),
                    *(process["counts"][name] for name in ("sum", "squares", "least", "most")),
                )
                for process in measured
            ),
            seconds=max((process["window"] for process in measured), default=0) / NANOSECONDS,
            counts={
                name: sum(count[name] for count in counts)
                for name in ("asked", "replied", "opened", "sent", "received")
            },
            errors={name: sum(count[name] for count in counts) for name in FAULTS},
            reasons=reasons,
            overdue=sum(count["overdue"] for count in counts),
            slot=slot,
            timeline=timeline,
            processors=[(process["processor"], process["starved"]) for process in measured],
            native=all(process["native"] for process in measured),
            interrupted=interrupted,
        )

    @property
    def per_second(self) -> float:
        """Measured replies a second."""
        return self.latencies.count / self.seconds if self.seconds else 0.0

    @property
    def failed(self) -> int:
        """Requests without their reply."""
        return sum(self.errors.values())

    @property
    def error_share(self) -> float:
        """Those as a share of all that were sent."""
        return self.failed / max(1, self.failed + self.counts["replied"])

    @property
    def limited(self) -> bool:
        """Whether the busiest process of the load generator had as good as no processor time left."""
        return max((used + starved for used, starved in self.processors), default=0.0) >= LIMIT

    @property
    def backlogged(self) -> bool:
        """Whether an open loop's requests were due faster than they could be sent."""
        allowed = max(self.plan.connections, BACKLOG * (self.counts["asked"] + self.overdue))
        return self.plan.is_open and self.overdue > allowed

    def percentiles(self) -> dict[str, float]:
        """Latencies in milliseconds by name: ``min``, ``mean``, ``stdev``, ``p50`` … ``p99.999``, ``max``."""
        measured = self.latencies
        named = {f"p{quantile:g}": measured.quantile(quantile / 100) for quantile in QUANTILES}
        values = {"min": measured.least, "mean": measured.mean(), "stdev": measured.deviation()}
        return {name: value / 1e6 for name, value in {**values, **named, "max": measured.most}.items()}

    def document(self, version: str, warnings: Sequence[str] = ()) -> dict[str, Any]:
        """The document; see docs/bench.md for each name.

        :param version: Jackfield's.
        :param warnings: what has to be known to read the figures.
        """
        plan = self.plan
        return {
            "jackfield_bench": FORMAT,
            "version": version,
            "date": self.date,
            "address": str(plan.address),
            "plan": {
                "loop": "open" if plan.is_open else "closed",
                "connections": plan.connections,
                "workers": plan.workers,
                "duration": plan.duration,
                "requests": plan.requests,
                "rate": plan.rate or None,
                "pipeline": plan.pipeline,
                "framing": plan.framing,
                "expect": plan.expect if isinstance(plan.expect, str) else "text",
                "request_bytes": len(plan.request()),
                "connect_per_request": plan.connect_per_request,
                "warmup": plan.warmup,
                "ramp": plan.ramp,
                "timeout": plan.timeout,
            },
            "interrupted": self.interrupted,
            "seconds": round(self.seconds, 6),
            "requests": self.latencies.count,
            "replies": self.counts["replied"],
            "per_second": round(self.per_second, 3),
            "bytes_sent": self.counts["sent"],
            "bytes_received": self.counts["received"],
            "connections_opened": self.counts["opened"],
            "latency_ms": {name: round(value, 6) for name, value in self.percentiles().items()},
            "latency_error": ERROR,
            "errors": {"total": self.failed, **self.errors},
            "overdue": self.overdue,
            "generator": {
                "native": self.native,
                "processor": [round(used, 4) for used, _ in self.processors],
                "starved": [round(starved, 4) for _, starved in self.processors],
                "limit": self.limited,
            },
            "warnings": list(warnings),
            "timeline": {
                "slot": self.slot,
                "replies": [replied for replied, _ in self.timeline],
                "errors": [faults for _, faults in self.timeline],
            },
            "histogram": [[value / 1e6, count] for value, count in self.latencies.buckets()],
        }


def _over_time(processes: Sequence[Sequence[Sequence[int]]]) -> tuple[float, list[tuple[int, int]]]:
    """The seconds of a slot, and replies and errors in each, of what each process had in all by the end of a slot."""
    last = max((entries[-1][0] for entries in processes if entries), default=0)
    # A long run has entries for every second, fourth … slot only; the coarsest process is followed.
    longest = max((len(entries) for entries in processes), default=1)
    step = 1
    while last // step > max(longest, 1):
        step *= 2
    totals = [[0, 0] for _ in range(last // step + 2)]
    for entries in processes:
        place, seen = 0, (0, 0)
        for number in range(len(totals)):
            while place < len(entries) and entries[place][0] <= number * step:
                seen = (entries[place][1], entries[place][2])
                place += 1
            totals[number][0] += seen[0]
            totals[number][1] += seen[1]
    pairs = [(after[0] - before[0], after[1] - before[1]) for before, after in itertools.pairwise(totals)]
    while pairs and pairs[-1] == (0, 0):
        pairs.pop()
    return step * SLOT / NANOSECONDS, pairs


def read_document(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The document of an earlier run.

    :raises DocumentError: it is none.
    :raises OSError: it cannot be read.
    """
    try:
        with open(path, encoding="utf-8") as file:
            document = json.load(file)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise DocumentError(f"{os.fspath(path)} is no JSON ({error}): give it what 'bench --json' printed") from None
    if not isinstance(document, dict) or document.get("jackfield_bench") != FORMAT:
        raise DocumentError(f"{os.fspath(path)} is no document of this format: give it what 'bench --json' printed")
    latencies, errors = document.get("latency_ms"), document.get("errors")
    numbers = [document.get("per_second"), *(latencies.values() if isinstance(latencies, dict) else [None])]
    numbers += [errors.get("total") if isinstance(errors, dict) else None]
    if not all(isinstance(number, int | float) and not isinstance(number, bool) for number in numbers):
        raise DocumentError(f"{os.fspath(path)} lacks its figures: give it what 'bench --json' printed")
    return document
