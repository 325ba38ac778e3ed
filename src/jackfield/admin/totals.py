"""The figures of several processes as those of one server: sums, and the worst where there is no sum."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from ..metrics import Histogram
from .meter import DURATIONS
from .visible import MOST_PEERS

__all__ = ["totals"]

_SUMS = (
    "limit", "connections", "accepted", "refused", "handler_errors", "datagrams", "dropped", "kernel_dropped",
    "withheld", "received", "sent", "seconds", "entering",
)  # fmt: skip
_MAPS = ("ends", "refusals", "errors", "peers")

#: From what is well to what is not, as a server of several processes is what most of them are not yet.
_STATES = ("serving", "suspended", "new", "draining", "stopped", "failed")


def totals(stats: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """``servers``, each as one over all processes, and ``runtime`` of all: from the ``stats`` of their desks."""
    stats = list(stats)
    rows = zip(*(one["servers"] for one in stats), strict=False)
    return {
        "servers": [_server(row) for row in rows],
        "runtime": {
            name: sum(one["runtime"][name] or 0 for one in stats)
            for name in ("resident", "cpu", "threads", "descriptors")
        },
        "processes": len(stats),
    }


def _server(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    first = rows[0]
    durations = Histogram(DURATIONS)
    for row in rows:
        durations.merge(Histogram(DURATIONS, row["durations"], row["seconds"]))
    merged: dict[str, Any] = {name: sum(row[name] for row in rows) for name in _SUMS}
    for name in _MAPS:
        counts: Counter[str] = Counter()
        for row in rows:
            counts.update(row[name])
        merged[name] = dict(counts.most_common(MOST_PEERS) if name == "peers" else sorted(counts.items()))
    return {
        **{name: first[name] for name in ("name", "mode", "addresses", "certificates")},
        **merged,
        "state": max((row["state"] for row in rows), key=_STATES.index),
        "uptime": max(row["uptime"] for row in rows),
        "durations": durations.counts,
        "p50": _finite(durations.quantile(0.5)),
        "p99": _finite(durations.quantile(0.99)),
        "listeners": [_listener(same) for same in zip(*(row["listeners"] for row in rows), strict=False)],
        "lag": {name: _worst(row["lag"][name] for row in rows) for name in ("last", "longest", "waiting")},
    }


def _listener(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Workers have one socket, and so one queue."""
    return {**rows[0], "waiting": _worst(row["waiting"] for row in rows)}


def _worst(values: Iterable[Any]) -> Any:
    return max((value for value in values if value is not None), default=None)


def _finite(value: float | None) -> float | None:
    """JSON has no infinity: what is longer than all bounds is said by the largest of them."""
    return DURATIONS[-1] if value is not None and math.isinf(value) else value
