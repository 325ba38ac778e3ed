"""The figures of several processes as those of one server: sums, and the worst where there is no sum."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from ..metrics import Histogram
from .meter import DURATIONS
from .visible import MOST_PEERS

__all__ = ["Past", "totals"]

_SUMS = (
    "limit", "connections", "accepted", "refused", "handler_errors", "datagrams", "dropped", "kernel_dropped",
    "withheld", "received", "sent", "seconds", "entering",
)  # fmt: skip
#: Those of them that are of this moment, and go with the process.
_NOW = ("limit", "connections", "entering")
_MAPS = ("ends", "refusals", "errors", "peers")

#: From what is well to what is not, as a server of several processes is what most of them are not yet.
_STATES = ("serving", "suspended", "new", "draining", "stopped", "failed")


class Past:
    """What processes have counted that are no more: a sum over workers would fall when one ends, and who reads it would
    take that for a new beginning."""

    def __init__(self) -> None:
        self._servers: list[dict[str, Any]] = []

    def add(self, stats: dict[str, Any]) -> None:
        """The last figures of a process that has ended."""
        gone = [{**server, **dict.fromkeys(_NOW, 0), "peers": {}} for server in stats["servers"]]
        if len(gone) == len(self._servers):
            gone = [_summed([before, one]) for before, one in zip(self._servers, gone, strict=True)]
        self._servers = gone

    def of(self, number: int) -> list[dict[str, Any]]:
        """Those of one server, if there are any."""
        return self._servers[number : number + 1]


def totals(stats: Iterable[dict[str, Any]], past: Past | None = None) -> dict[str, Any]:
    """``servers``, each as one over all processes, and ``runtime`` of all: from the ``stats`` of their desks."""
    stats = list(stats)
    past = past or Past()
    rows = zip(*(one["servers"] for one in stats), strict=False)
    return {
        "servers": [_server(row, past.of(number)) for number, row in enumerate(rows)],
        "runtime": {
            name: sum(one["runtime"][name] or 0 for one in stats)
            for name in ("resident", "cpu", "threads", "descriptors")
        },
        "processes": len(stats),
    }


def _summed(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What has a sum."""
    merged: dict[str, Any] = {name: sum(row[name] for row in rows) for name in _SUMS}
    for name in _MAPS:
        counts: Counter[str] = Counter()
        for row in rows:
            counts.update(row[name])
        merged[name] = dict(counts.most_common(MOST_PEERS) if name == "peers" else sorted(counts.items()))
    merged["durations"] = [sum(counts) for counts in zip(*(row["durations"] for row in rows), strict=True)]
    return merged


def _server(rows: Sequence[dict[str, Any]], past: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    first = rows[0]
    merged = _summed([*rows, *past])
    durations = Histogram(DURATIONS, merged["durations"])
    return {
        **{name: first[name] for name in ("name", "mode", "addresses", "certificates")},
        **merged,
        # Limits are those of all workers together.
        "limit": merged["limit"] if first["most"] is None else min(merged["limit"], first["most"]),
        "state": max((row["state"] for row in rows), key=_STATES.index),
        "uptime": max(row["uptime"] for row in rows),
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
