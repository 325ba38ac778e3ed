"""Tables in memory that several processes share: of each address one number, in a place that is bounded.

Everything is in words of 64 bits, which the processor writes as a whole: a process that is killed in the midst of
something leaves each of them as it was or as it was to be. One process at a time writes (:mod:`.turns`); any may read.
"""

from __future__ import annotations

import functools
import os
import struct
from collections.abc import Callable
from typing import Any

from jackfield.admission.addresses import Key, Keys, first_of
from jackfield.admission.rates import TICKS, Rate

__all__ = [
    "FOREVER", "UNIT", "Fingerprints", "Table", "clamp", "depth_of", "name_of", "named", "new_salt", "spend",
    "spend_of", "spend_word", "step_of", "units",
]  # fmt: skip

#: The unit of shared times: 2**-32 s, a quarter of a nanosecond. 63 bits of it are 68 years, which a clock that counts
#: from the start of the machine does not reach.
UNIT = 2.0**32
FOREVER = 2**62

_COARSER = int(TICKS / UNIT)


def units(seconds: float) -> int:
    """Whole units, rounded down."""
    return int(seconds * UNIT)


def step_of(rate: Rate) -> int:
    """What one event takes, in units; rounded up, so that the rate is never exceeded, and less than a unit is lost."""
    return _in_units(rate.step, rate.burst)[0]


def depth_of(rate: Rate) -> int:
    """A whole burst in units, or as much as can be counted: 17 years."""
    return _in_units(rate.step, rate.burst)[1]


@functools.lru_cache(maxsize=64)  # a server has five rates, but numbers of this size are slow to divide
def _in_units(step: int, burst: int) -> tuple[int, int]:
    step = -(-step // _COARSER)
    return step, min(step * burst, FOREVER // 2)


def spend(rate: Rate, full_at: int, seconds: float, share: int = 1) -> int:
    """:meth:`Rate.spend` in units: when the bucket is full again after one more event at ``seconds``, -1 for none.

    ``share``: of so many who have the rate among themselves, and do not know of each other.
    """
    now = int(seconds * UNIT)
    step, depth = _in_units(rate.step, rate.burst)
    step *= share
    if (full_at if full_at > now else now) + step - now > depth:
        return -1
    # Counted from the end of the unit that it is in, judged from its beginning: the rounding never adds an event.
    begins = now + (seconds * UNIT > now)
    return (full_at if full_at > begins else begins) + step


def clamp(rate: Rate, full_at: int, seconds: float) -> int:
    """The state of a bucket of another rate as one of this: empty at most. One of this rate is what it was."""
    now = int(seconds * UNIT)
    most = now + (seconds * UNIT > now) + depth_of(rate)
    return full_at if full_at < most else most


class Fingerprints:
    """A word for each address, under the prefixes that are counted by.

    Two addresses have the same one with a probability of 2**-63, and then count as one. Nobody can look for two, since
    the hash of bytes has a secret of the process (SipHash, PEP 456) and ``salt`` is one where that was switched off
    (PYTHONHASHSEED=0). Processes agree on it if they were forked from the one that had the salt made.
    """

    __slots__ = ("_salt4", "_salt6", "_salt_user", "keys")

    def __init__(self, salt: bytes, keys: Keys) -> None:
        self.keys = keys
        self._salt4, self._salt6 = (salt + bytes([prefix]) for prefix in keys.prefixes)
        self._salt_user = salt + b"user"

    def of(self, key: Key) -> int:
        """Never 0, which is the word of a place that was never used."""
        if type(key) is bytes:
            return hash((self._salt4 if len(key) == 4 else self._salt6) + key) or 1
        return hash(self._salt_user + str(key).encode()) or 1


def new_salt() -> bytes:
    return os.urandom(16)


_NAME = struct.Struct("=qq")
_USER = 0
_IPV4, _IPV6 = 256, 512


def name_of(key: Key, keys: Keys) -> tuple[int, int, int]:
    """An address in three words, which can be read again by any process."""
    if isinstance(key, bytes):
        kind = (_IPV4 | keys.prefixes[0]) if len(key) == 4 else (_IPV6 | keys.prefixes[1])
        return (*_NAME.unpack(first_of(key).ljust(16, b"\0")), kind)
    assert key is not None
    return (key, 0, _USER)


def named(name: tuple[int, int, int], keys: Keys) -> Key:
    """The key, by ``keys``, of the first address that has this name."""
    first, second, kind = name
    if kind == _USER:
        return first
    packed = _NAME.pack(first, second)
    return keys.of(packed[:4] if kind & _IPV4 else packed)


class Table:
    """Of each fingerprint a value, which says less the sooner it is: a time. Those that have passed say nothing.

    An address has its place within ``span`` ones, from one on that its fingerprint says. Where all of these are used
    the one whose time is over soonest is forgotten: who is far from the limits, not who is at them, so that addresses
    that come once do not make one forgotten that comes again and again.

    :param words: the memory of it, :meth:`size` words that are 0 at first.
    :param names: words more for each, by which the address can be read again.
    :param view: what makes of each part of the memory what is read and written.
    """

    __slots__ = ("_mask", "fingerprints", "names", "places", "span", "values")

    def __init__(
        self, words: memoryview, addresses: int, span: int, names: int = 0,
        view: Callable[[memoryview], Any] = lambda words: words,
    ) -> None:  # fmt: skip
        self.span = span
        self._mask = addresses - 1
        #: The last ones have ``span`` behind them, too.
        self.places = addresses + span
        columns = [view(words[at * self.places : (at + 1) * self.places]) for at in range(2 + names)]
        self.fingerprints, self.values, *self.names = columns

    @staticmethod
    def size(addresses: int, span: int, names: int = 0) -> int:
        """Words for so many addresses, a power of two."""
        return (addresses + span) * (2 + names)

    def find(self, fingerprint: int) -> int:
        """Its place, -1 for none."""
        home = fingerprint & self._mask
        window = self.fingerprints[home : home + self.span].tolist()
        return home + int(window.index(fingerprint)) if fingerprint in window else -1

    def place_for(self, fingerprint: int, is_free: Callable[[int], bool]) -> int:
        """One it may have: one that was never used, or one that ``is_free``; -1 for none."""
        home = fingerprint & self._mask
        window = self.fingerprints[home : home + self.span].tolist()
        if 0 in window:
            return home + int(window.index(0))
        return next((place for place in range(home, home + self.span) if is_free(place)), -1)

    def get(self, fingerprint: int) -> int:
        """Its value, 0 for none. In no turn as well: what another process writes meanwhile is seen before or after."""
        place = self.find(fingerprint)
        if place < 0:
            return 0
        value = int(self.values[place])
        return value if self.fingerprints[place] == fingerprint else 0  # it was given to another in between

    def put(self, fingerprint: int, value: int, name: tuple[int, ...] = (), *, keep_after: int | None = None) -> bool:
        """Remember ``value``. ``keep_after``: nothing is forgotten whose time comes later than that; False: all of them
        do, and it is not remembered."""
        place = self.find(fingerprint)
        if place >= 0:
            self.values[place] = value
            return True
        home = fingerprint & self._mask
        window = self.values[home : home + self.span].tolist()
        least = min(window)
        if keep_after is not None and least > keep_after:
            return False
        place = home + window.index(least)
        # In this order: who is killed in between has forgotten one address, and said nothing of another.
        self.values[place] = 0
        self.fingerprints[place] = fingerprint
        for column, word in zip(self.names, name, strict=True):
            column[place] = word
        self.values[place] = value
        return True

    def drop(self, fingerprint: int) -> None:
        """Say nothing of it any more."""
        place = self.find(fingerprint)
        if place >= 0:
            self.values[place] = 0

    def name(self, place: int) -> tuple[int, int, int]:
        first, second, kind = (int(column[place]) for column in self.names)
        return first, second, kind

    def later_than(self, now: int) -> list[int]:
        """The places whose values are; it looks at all of them."""
        return [place for place, value in enumerate(self.values.tolist()) if value > now]


def spend_word(words: Any, at: int, rate: Rate, seconds: float, share: int = 1) -> int:
    """:func:`spend` of the bucket that is in a word, which is not changed by it; one of another rate is made one of
    this."""
    full_at = words[at]
    clamped = clamp(rate, full_at, seconds)
    if clamped != full_at:
        words[at] = clamped
    return spend(rate, clamped, seconds, share)


def spend_of(table: Table, fingerprint: int, rate: Rate, seconds: float, share: int = 1) -> int:
    """The same of the bucket of an address."""
    full_at = table.get(fingerprint)
    clamped = clamp(rate, full_at, seconds)
    if clamped != full_at:
        table.put(fingerprint, clamped)
    return spend(rate, clamped, seconds, share)
