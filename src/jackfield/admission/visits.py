"""One verdict that is to hold for several workers: in a turn, where it can be had, or alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jackfield.admission.addresses import Key, Source
from jackfield.admission.admission import Refusal
from jackfield.admission.ledger import Room
from jackfield.admission.rates import Rate
from jackfield.admission.tables import Fingerprints, clamp, spend, spend_of, spend_word, step_of, units

if TYPE_CHECKING:
    from jackfield.admission.shared import SharedAdmission
    from jackfield.limits import Limits

__all__ = ["NOBODY", "Purse", "Visit"]

#: No key, not even that of whom nobody knows.
NOBODY = object()

#: Addresses of which is noted what was spent alone; above that, nobody else is let in by a rate for each.
_MOST_NOTED = 65_536


class Visit:
    """Asks the limits about one connection, in the order of :class:`~jackfield.admission.Admission`.

    Asking may be done more than once, since a turn may turn out to be none. What is written is therefore the whole of
    what is true, not what was added; and a connection is *claimed*, shown to the others, before it is looked whether it
    is one too many, so that of two that come at the same time at least one sees the other.
    """

    __slots__ = ("_counted", "_exempt", "_is_in", "_key", "_owner", "_reserved", "_source", "is_stray", "row")

    def __init__(
        self, owner: SharedAdmission, source: Source, key: Key, is_in: bool, counted: bool, reserved: bool
    ) -> None:
        self._owner = owner
        self._source = source
        self._key = key
        self._is_in = is_in
        self._counted = counted
        self._reserved = reserved
        self._exempt: bool | None = None
        #: The row of its address, -1 for none; and whether it is in as one of which no row tells.
        self.row = -1
        self.is_stray = False

    @property
    def exempt(self) -> bool:
        """Asked where it matters: most peers are far from every limit."""
        if self._exempt is None:
            self._exempt = self._owner._limits.exempt.holds(self._source)
        return self._exempt

    def judge(self, room: Room) -> Refusal | None:
        """In a turn."""
        owner, key = self._owner, self._key
        limits, ledger = owner._limits, owner._seat.ledger
        self._withdraw()
        # Read in the turn, so that in the order of turns no time is before another one.
        now = owner._now()
        # While somebody counts alone, all who have the rates among themselves keep to a part of them.
        share = 1 if ledger.strays_beside(owner._seat.slot) < 0 else ledger.used
        full_at = bucket_full_at = -1
        mark = 0
        if owner._rated and not self._counted and not self.exempt:
            if limits.accept_rate is not None and not self._is_in:
                full_at = spend_word(room.head, room.FULL_AT, limits.accept_rate, now, share)
                if full_at < 0:
                    return Refusal.LIMIT_RATE
            if limits.accept_rate_per_address is not None and key is not None:
                mark = owner._prints.of(key)
                bucket_full_at = spend_of(room.rates, mark, limits.accept_rate_per_address, now, share)
                if bucket_full_at < 0:
                    return Refusal.LIMIT_RATE_PER_ADDRESS
        limited = owner._per_address is not None and key is not None
        row = owner._row_in(room, key)
        if row >= 0:
            self._claim(row)
            if limited and self._is_over(self._beside(row)):
                self._withdraw()
                return Refusal.LIMIT_PER_ADDRESS
        elif limited and not self.exempt:
            return Refusal.LIMIT_CONNECTIONS
        if not self._is_in and not self._reserved and not owner._claim_total():
            self._withdraw()
            return Refusal.LIMIT_CONNECTIONS
        if full_at >= 0:
            room.head[room.FULL_AT] = full_at
        if bucket_full_at >= 0:
            room.rates.put(mark, bucket_full_at)
        return None

    def judge_alone(self) -> Refusal | None:
        """In no turn: on the safe side, and without waiting."""
        owner, key = self._owner, self._key
        self._withdraw()
        owner.go_alone()
        now = owner._now()
        limits, ledger, purse, room = owner._limits, owner._seat.ledger, owner._purse, owner._seat.room
        share = ledger.used
        full_at = bucket_full_at = -1
        if owner._rated and not self._counted and not self.exempt:
            if limits.accept_rate is not None and not self._is_in:
                full_at = purse.spend(room, limits.accept_rate, now, share)
                if full_at < 0:
                    return Refusal.LIMIT_RATE
            if limits.accept_rate_per_address is not None and key is not None:
                mark = owner._prints.of(key)
                bucket_full_at = purse.spend_of(room, key, mark, limits.accept_rate_per_address, now, share)
                if bucket_full_at < 0:
                    return Refusal.LIMIT_RATE_PER_ADDRESS
        if key is not None and self._is_over_alone(room, key):
            self._withdraw()
            return Refusal.LIMIT_PER_ADDRESS
        if not self._is_in and not self._reserved and not owner._claim_total():
            self._withdraw()
            return Refusal.LIMIT_CONNECTIONS
        purse.note(key, full_at, bucket_full_at)
        return None

    def _is_over_alone(self, room: Room, key: Key) -> bool:
        owner = self._owner
        row = owner._rows.get(key, -1)
        if row >= 0:
            self._claim(row)
            return self._is_over(self._beside(row))
        if self.exempt:
            return False
        self.is_stray = True
        owner._seat.show_alone(2 + sum(owner._strays.values()))
        row = room.rows.find(owner._prints.of(key))
        return self._is_over(owner._counts.get(key, 0) + 1 + self._beside(row))

    def _beside(self, row: int) -> int:
        """Connections that a row tells of, and those that may be of the same address in workers that count alone. To be
        asked after the claim: who has come to be alone since then has seen it.

        A worker that is no longer alone shows its rows, and then that it has no strays; so these are looked at first.
        And last as well, for one that makes strays of them since it has other prefixes."""
        ledger, slot = self._owner._seat.ledger, self._owner._seat.slot
        before = ledger.strays_beside(slot)
        count = ledger.of_row(row) if row >= 0 else 0
        return count + max(0, before, ledger.strays_beside(slot))

    def _is_over(self, count: int) -> bool:
        most = self._owner._per_address
        return most is not None and count > most + self._counted and not self.exempt

    def _claim(self, row: int) -> None:
        self.row = row
        self._owner._claimed = self._key
        self._owner._seat.show(row, self._owner._counts.get(self._key, 0) + 1)

    def _withdraw(self) -> None:
        owner = self._owner
        if self.row >= 0:
            owner._seat.show(self.row, owner._counts.get(self._key, 0) if self._key in owner._rows else 0)
            owner._claimed = NOBODY
            self.row = -1
        if self.is_stray:
            self.is_stray = False
            owner._seat.show_alone(1 + sum(owner._strays.values()))


class Purse:
    """What a worker that counts alone may spend of the rates, and has spent.

    It begins with what was left of a bucket when it came to be alone, less the one that whoever was stopped may still
    take, and has one part of that among as many as there are workers: together they never have more than there is.
    """

    __slots__ = ("_buckets", "_full_at", "_spent", "_spent_by")

    def __init__(self, room: Room, limits: Limits, now: float) -> None:
        rate = limits.accept_rate
        self._full_at = 0 if rate is None else _less_one(rate, room.head[room.FULL_AT], now)
        self._buckets: dict[Key, int] = {}
        self._spent = 0
        self._spent_by: dict[Key, int] = {}

    def spend(self, room: Room, rate: Rate, now: float, share: int) -> int:
        return spend(rate, max(self._full_at, room.head[room.FULL_AT]), now, share)

    def spend_of(self, room: Room, key: Key, mark: int, rate: Rate, now: float, share: int) -> int:
        full_at = room.rates.get(mark)
        if key not in self._buckets:
            if len(self._buckets) >= _MOST_NOTED:
                return -1
            self._buckets[key] = _less_one(rate, full_at, now)
        return spend(rate, max(self._buckets[key], full_at), now, share)

    def note(self, key: Key, full_at: int, bucket_full_at: int) -> None:
        """It was spent: the results of the two, -1 for one that was not asked."""
        if full_at >= 0:
            self._full_at = full_at
            self._spent += 1
        if bucket_full_at >= 0:
            self._buckets[key] = bucket_full_at
            self._spent_by[key] = self._spent_by.get(key, 0) + 1

    def pay(self, room: Room, limits: Limits, prints: Fingerprints, now: float) -> None:
        """Enter in the ledger what was spent: as if it were now, which is on the safe side."""
        rate, rate_of = limits.accept_rate, limits.accept_rate_per_address
        if rate is not None and self._spent:
            room.head[room.FULL_AT] = _charged(rate, room.head[room.FULL_AT], self._spent, now)
        if rate_of is not None:
            for key, count in self._spent_by.items():
                mark = prints.of(key)
                room.rates.put(mark, _charged(rate_of, room.rates.get(mark), count, now))


def _less_one(rate: Rate, full_at: int, now: float) -> int:
    return max(full_at, units(now)) + step_of(rate)


def _charged(rate: Rate, full_at: int, count: int, now: float) -> int:
    return clamp(rate, max(full_at, units(now) + 1) + count * step_of(rate), now)
