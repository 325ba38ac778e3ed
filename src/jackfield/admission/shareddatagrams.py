"""Which datagrams are taken, and which are answered, where several workers read from one socket."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jackfield.admission.addresses import Key
from jackfield.admission.admission import Refusal
from jackfield.admission.datagrams import DatagramGuard
from jackfield.admission.ledger import NO_TURN, Room, Seat
from jackfield.admission.rates import Rate
from jackfield.admission.tables import Fingerprints, Table, clamp, spend, spend_of, spend_word, step_of, units
from jackfield.clock import MONOTONIC, Clock

if TYPE_CHECKING:
    from jackfield.limits import Limits

__all__ = ["SharedDatagramGuard"]


class SharedDatagramGuard(DatagramGuard):
    """The same as a :class:`DatagramGuard`, but its rates, of datagrams and of replies, hold over all workers that have
    a seat in one ledger.

    ``amplification`` needs no ledger: each worker sends an address at most so many times what it has itself received
    from it, so all of them together do. A client has to answer twice to each worker that it comes to.

    Where there is no turn (:meth:`Seat.do`) each worker keeps to its part of a rate. What it takes then is not counted
    by the others.
    """

    __slots__ = ("_alone_at", "_prints", "_seat")

    def __init__(self, limits: Limits, seat: Seat, clock: Clock = MONOTONIC) -> None:
        super().__init__(limits, clock)
        self._seat = seat
        #: When the buckets are full again of which a worker keeps to its part.
        self._alone_at: dict[tuple[str, Key], int] = {}
        self._prints = Fingerprints(seat.ledger.salt, self._keys)

    def _print_of(self, key: Key) -> int:
        if self._prints.keys is not self._keys:
            self._prints = Fingerprints(self._seat.ledger.salt, self._keys)
        return self._prints.of(key)

    def _ask_rates(self, key: Key, seconds: float) -> Refusal | None:
        rate, rate_of = self._limits.datagram_rate, self._limits.datagram_rate_per_address
        if rate is None and rate_of is None:
            return None

        def judge(room: Room) -> Refusal | None:
            seconds, full_at = self._now(), -1  # in the order of turns no time is before another one
            if rate is not None:
                full_at = spend_word(room.head, room.DATAGRAMS_FULL_AT, rate, seconds)
                if full_at < 0:
                    return Refusal.LIMIT_RATE
            if rate_of is not None and key is not None:
                if not _take(room.datagrams, self._print_of(key), rate_of, seconds):
                    return Refusal.LIMIT_RATE_PER_ADDRESS
            if full_at >= 0:
                room.head[room.DATAGRAMS_FULL_AT] = full_at
            return None

        verdict = self._seat.do(judge)
        if verdict is not NO_TURN:
            return verdict
        room = self._seat.room
        if rate is not None and not self._take_alone("all", None, rate, room.head[room.DATAGRAMS_FULL_AT], seconds):
            return Refusal.LIMIT_RATE
        if rate_of is not None and key is not None:
            known = room.datagrams.get(self._print_of(key))
            if not self._take_alone("datagrams", key, rate_of, known, seconds):
                return Refusal.LIMIT_RATE_PER_ADDRESS
        return None

    def _take_reply(self, rate: Rate, key: Key, seconds: float) -> bool:
        mark = self._print_of(key)
        verdict = self._seat.do(lambda room: _take(room.replies, mark, rate, self._now()))
        if verdict is not NO_TURN:
            return verdict
        return self._take_alone("replies", key, rate, self._seat.room.replies.get(mark), seconds)

    def _charge_reply(self, rate: Rate, key: Key, seconds: float) -> None:
        mark = self._print_of(key)

        def charge(room: Room) -> None:
            now = self._now()
            full_at = max(room.replies.get(mark), units(now)) + step_of(rate)
            room.replies.put(mark, clamp(rate, full_at, now))

        self._seat.do_surely(charge)

    @property
    def remembered(self) -> int:
        """Addresses of which something is known, in all workers and of exchanges in this one: it looks at all that the
        ledger has."""
        room = self._seat.room
        return len(self._exchanges) + len(room.datagrams.later_than(0)) + len(room.replies.later_than(0))

    def _take_alone(self, which: str, key: Key, rate: Rate, full_at: int, seconds: float) -> bool:
        alone_at = self._alone_at
        after = spend(rate, max(full_at, alone_at.get((which, key), 0)), seconds, self._seat.ledger.used)
        if after < 0:
            return False
        if len(alone_at) >= self._buckets.most:
            del alone_at[next(iter(alone_at))]
        alone_at[which, key] = after
        return True


def _take(table: Table, mark: int, rate: Rate, seconds: float) -> bool:
    full_at = spend_of(table, mark, rate, seconds)
    if full_at >= 0:
        table.put(mark, full_at)
    return full_at >= 0
