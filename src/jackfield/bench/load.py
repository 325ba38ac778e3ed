"""One process of a load test: it runs the loop, native where that was built, and notes what comes of it over time."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from jackfield.bench.loop import FAULTS, Load, Target
from jackfield.bench.plan import Plan
from jackfield.reactor.twin import native

__all__ = ["SLOT", "Beat", "measure", "open_load"]

SECOND = 1_000_000_000

SLOT = 100_000_000
"""Nanoseconds between two entries of what happened over time, and between two beats."""

MOST_ENTRIES = 2048
"""Of a long run every second entry is left out, again and again, so that there are never more."""


class Beat(NamedTuple):
    """How far a process has come at the end of a slot; the numbers are since its start.

    :param slot: which, counted from 1 at the start of the load.
    :param replied: requests with a reply, measured or not.
    :param faults: requests without.
    :param measured: replies that count.
    :param spent: what those took together, in nanoseconds.
    """

    slot: int
    replied: int
    faults: int
    measured: int
    spent: float


def open_load(plan: Plan, target: Target, worker: int, start: int, secure: Callable[[Any], Any] | None = None) -> Any:
    """The loop of one process, which begins at `start` on the monotonic clock, in nanoseconds.

    :param secure: as in :class:`jackfield.bench.loop.Load`; the native loop speaks no TLS.
    """
    share = plan.share(worker)
    ramp = int(plan.ramp * SECOND)
    warm = start + ramp + int(plan.warmup * SECOND)
    end = 0 if plan.duration is None else warm + int(plan.duration * SECOND)
    numbers = (
        plan.end_of_reply(), share["connections"], share["depth"], plan.connect_per_request, share["rate"], ramp, start,
        warm, end, share["budget"], int(plan.timeout * SECOND),
    )  # fmt: skip
    if secure is None and native is not None:
        return native.Load(tuple(target), plan.request(), plan.reply(), *numbers)
    return Load(tuple(target), plan.request(), plan.reply(), *numbers, secure=secure)


def measure(plan: Plan, load: Any, start: int, go_on: Callable[[Beat], bool]) -> dict[str, Any]:
    """Run the loop to its end, or until `go_on`, which is told of each beat, returns False; all that was measured.

    What is returned is JSON's: the parent of this process reads it.
    """
    warm = start + int((plan.ramp + plan.warmup) * SECOND)
    end = None if plan.duration is None else warm + int(plan.duration * SECOND)
    entries: list[Beat] = []
    every, slot, stopped = 1, 1, False
    used = used_at_end = None
    while True:
        now = time.monotonic_ns()
        if used is None and now >= warm:
            used = (now, *_processor())
        if used is not None and end is not None and now >= end and used_at_end is None:
            used_at_end = (now, *_processor())
        until = start + slot * SLOT
        for border in (warm, end or 0):
            if now < border < until:
                until = border
        more = load.run(until)
        now = time.monotonic_ns()
        if now < start + slot * SLOT and more:
            continue
        slot = max(slot, (now - start) // SLOT)
        counts = load.counts()
        beat = Beat(slot, counts["replied"], sum(counts[fault] for fault in FAULTS), counts["measured"], counts["sum"])
        if slot % every == 0 or not more:
            entries.append(beat)
        if len(entries) > MOST_ENTRIES:
            every *= 2
            entries = [entry for entry in entries if entry.slot % every == 0]
        slot += 1
        if not go_on(beat):
            stopped = True
        if stopped or not more:
            break
    finished = time.monotonic_ns()
    share = _share(used, used_at_end or (finished, *_processor()))
    return {
        "counts": load.counts(),
        "buckets": [list(pair) for pair in load.buckets().items()],
        "reasons": load.reasons() | {"wrong": load.reasons()["wrong"].decode("latin-1")},
        "entries": [[entry.slot, entry.replied, entry.faults] for entry in entries],
        "window": max(0, (finished if end is None else min(end, finished)) - warm),
        "processor": share[0],
        "starved": share[1],
        "native": native is not None and isinstance(load, native.Load),
    }


def _processor() -> tuple[float, float]:
    """Seconds that this process has run on a processor, and those that it could have run and had to wait for one."""
    starved = 0.0
    with contextlib.suppress(OSError, ValueError, IndexError):
        # Time on a processor, time spent waiting on a run queue, both in nanoseconds (proc(5), sched-stats.rst).
        with open("/proc/self/schedstat", encoding="ascii") as file:
            starved = int(file.read().split()[1]) / SECOND
    return time.process_time(), starved


def _share(begin: tuple[int, float, float] | None, end: tuple[int, float, float]) -> tuple[float, float]:
    """Both as shares of the time between; zero where nothing was measured."""
    if begin is None or end[0] <= begin[0]:
        return 0.0, 0.0
    seconds = (end[0] - begin[0]) / SECOND
    return (end[1] - begin[1]) / seconds, (end[2] - begin[2]) / seconds
