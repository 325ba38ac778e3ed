"""Where time comes from: whatever decides by time is given a clock and never reads one by itself.

A test hands in a clock that it moves by hand; a server hands in :data:`MONOTONIC`.
"""

from __future__ import annotations

import time
from typing import Protocol, runtime_checkable

__all__ = ["MONOTONIC", "Clock"]


@runtime_checkable
class Clock(Protocol):
    """Anything that tells the time in seconds and never goes backwards."""

    def now(self) -> float:
        """Seconds since a start of the clock's own choosing; only differences mean anything."""
        ...


class _MonotonicClock:
    """``CLOCK_MONOTONIC`` (clock_gettime(2)): unmoved when somebody sets the date, and asyncio's clock too."""

    __slots__ = ()

    # The function itself, not a method around it: a clock is read at each accept and each deadline.
    now = staticmethod(time.monotonic)

    def __repr__(self) -> str:
        return "jackfield.clock.MONOTONIC"


MONOTONIC: Clock = _MonotonicClock()
"""The machine's monotonic clock, in seconds; it does not count time suspended (clock_gettime(2))."""
