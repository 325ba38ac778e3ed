"""A clock that stands still until the test moves it."""

from __future__ import annotations

__all__ = ["ManualClock"]


class ManualClock:
    """A `jackfield.clock.Clock` whose time passes only by `advance`.

    Give it to anything that takes a clock, and a test of five minutes of idleness takes no time at all::

        clock = ManualClock()
        limit = SomeLimit(clock=clock)
        clock.advance(300)

    Reading it is safe from any thread.
    """

    def __init__(self, start: float = 0.0) -> None:
        """Begin at `start` seconds (a monotonic clock's zero means nothing, so 0.0 is as good as any)."""
        self._now = float(start)

    def now(self) -> float:
        """The seconds since an arbitrary zero."""
        return self._now

    def advance(self, seconds: float) -> float:
        """Let `seconds` pass and return the new time.

        Raises ValueError for a negative number: the clocks this one stands for never go back.
        """
        if not seconds >= 0:
            raise ValueError(f"a monotonic clock cannot go back by {-seconds} s: advance(0) or more")
        self._now += seconds
        return self._now

    def __repr__(self) -> str:
        return f"<ManualClock at {self._now:g} s>"
