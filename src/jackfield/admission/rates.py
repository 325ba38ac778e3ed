"""How often something may happen: rates, and the bucket that holds to one exactly."""

from __future__ import annotations

import math
import re
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from jackfield.admission.texts import show
from jackfield.config import parse_duration

__all__ = ["TICKS", "Rate", "TokenBucket", "ticks"]

#: The unit of time in here: 2**-40 s, just under a picosecond.  Seconds times a power of two round nothing, and sums of
#: whole numbers have no error that could pile up; the sums of a float near 10**6 s are off by 10**-10 s each time.
TICKS = 2.0**40

_MOST = 10**9  # a second has no more nanoseconds, and a clock no finer steps
_LONGEST = 86400.0 * 366
_RATE = re.compile(r"([1-9][0-9]{0,9})/([0-9]{1,9}(?:\.[0-9]{1,18})?)?(ms|s|m|h)(?:,([1-9][0-9]{0,9}))?")
_WRITE = "write e.g. 100/s, 10/m or 100/s,200 (a burst of 200)"


def ticks(seconds: float) -> int:
    """Whole ticks; a clock that has counted less than 2**13 s, or counts nanoseconds, loses nothing by that."""
    return int(seconds * TICKS)


@dataclass(frozen=True, slots=True)
class Rate:
    """``count`` events in each ``seconds``, and up to ``burst`` at once after a while of fewer.

    In any stretch of t seconds there are never more than ``burst + count * t / seconds``.  A text says the same:
    ``100/s``, ``10/m``, ``5/10s``, and with a burst ``100/s,200``.

    :param count: 1 to 10**9.
    :param seconds: the time for that many, from a millisecond to a year; default one second.
    :param burst: 1 to 10**9; default, and 0, is ``count``: what one period may have, at once.  Never more than two
        periods' worth come within one, as with counters that begin anew at each (Postfix's anvil).
    :raises ValueError: it is no such rate; one line that says what to write.
    """

    count: int
    seconds: float = 1.0
    burst: int = 0
    #: In ticks: what one event takes, rounded up so that the rate is never exceeded; and a whole burst of them.
    step: int = field(init=False, repr=False, compare=False)
    depth: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not _is_count(self.count):
            raise ValueError(f"the count of a rate is a whole number from 1 to 10^9, not {show(self.count)}: {_WRITE}")
        if not isinstance(self.seconds, int | float) or not 0.001 <= self.seconds <= _LONGEST:
            raise ValueError(f"a rate is for a millisecond to a year, not {show(self.seconds)}: {_WRITE}")
        if self.burst == 0:
            object.__setattr__(self, "burst", self.count)
        if not _is_count(self.burst):
            raise ValueError(f"a burst is a whole number from 1 to 10^9, not {show(self.burst)}: {_WRITE}")
        object.__setattr__(self, "step", -(-math.ceil(self.seconds * TICKS) // self.count))
        object.__setattr__(self, "depth", self.step * self.burst)

    @classmethod
    def parse(cls, text: str) -> Rate:
        """The rate that a text means: ``100/s``, ``10/m``, ``5/10s``, ``100/s,200``.

        :raises ValueError: it means none; one line that says what to write.
        """
        match = _RATE.fullmatch(text) if isinstance(text, str) else None
        try:
            if match is None:
                raise ValueError
            return cls(int(match[1]), parse_duration(f"{match[2] or 1}{match[3]}"), int(match[4] or 0))
        except ValueError:
            raise ValueError(f"no rate: {show(text)}: {_WRITE}") from None

    def spend(self, full_at: int, now: int) -> int:
        """The generic cell rate algorithm (ITU-T I.371, A): one number is the whole state of a bucket.

        :param full_at: when the bucket will be full again, in ticks; 0, or any time gone by, is a full one.
        :param now: in ticks.
        :returns: the new ``full_at`` with one event taken out, or -1 where there is none to take.
        """
        after = (full_at if full_at > now else now) + self.step
        return after if after - now <= self.depth else -1

    def clamp(self, full_at: int, now: int) -> int:
        """The state of a bucket of another rate as one of this: empty at most, however deep the other one was."""
        return min(full_at, now + self.depth)

    def clamp_all(self, buckets: MutableMapping[Any, int], now: int) -> None:
        """The same for many."""
        for key, full_at in buckets.items():
            buckets[key] = self.clamp(full_at, now)

    def __str__(self) -> str:
        unit = {1.0: "s", 60.0: "m", 3600.0: "h"}.get(self.seconds) or f"{_decimal(float(self.seconds))}s"
        return f"{self.count}/{unit}" + (f",{self.burst}" if self.burst != self.count else "")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _MOST


def _decimal(seconds: float) -> str:
    return f"{Decimal(repr(seconds)):f}".removesuffix(".0")


class TokenBucket:
    """A bucket that holds to ``rate``, full at first.  For one thread, or under a lock."""

    __slots__ = ("full_at", "rate")

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        #: In ticks; see :meth:`Rate.spend`.
        self.full_at = 0

    def take(self, now: float) -> bool:
        """Whether one more may happen ``now`` (seconds on any clock that does not go back); it then counts."""
        after = self.rate.spend(self.full_at, ticks(now))
        if after < 0:
            return False
        self.full_at = after
        return True

    def is_full(self, now: float) -> bool:
        """Whether nothing is known of the bucket that is not known of a new one."""
        return self.full_at <= ticks(now)

    def change(self, rate: Rate, now: float) -> None:
        """Hold to ``rate`` from now on; nobody is given a second burst by that."""
        self.full_at = rate.clamp(self.full_at, ticks(now))
        self.rate = rate
