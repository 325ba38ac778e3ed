"""Who may come in where several workers let in: the limits of connections, counted over all of them."""

from __future__ import annotations

from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from jackfield.admission.addresses import Key, Keys, Peer, Source, source_of
from jackfield.admission.admission import Admission, Refusal, may_come
from jackfield.admission.ledger import NO_TURN, Room, Seat
from jackfield.admission.sharedpenalties import SharedPenaltyBook
from jackfield.admission.tables import Fingerprints, units
from jackfield.admission.visits import NOBODY, Purse, Visit
from jackfield.clock import MONOTONIC, Clock

if TYPE_CHECKING:
    from jackfield.limits import Limits

__all__ = ["SharedAdmission"]

#: Addresses that are entered in one turn, where many have to be.
_AT_ONCE = 256


class SharedAdmission(Admission):
    """The same as an :class:`Admission`, but over all workers that have a seat in one ledger.

    Exact over all of them, however they come between one another: the connections in all and by address, the rates in
    all and by address. A ban, a penalty and their end hold in the next verdict of every worker. ``refusals`` are those
    of this worker; ``total`` and :meth:`count` are those of all. Each worker has its own ``limits``, so a change holds
    where it was made: set the same in all. Addresses are counted under the prefixes of each worker: what one with
    others counts is not seen.

    Of as many addresses as the ledger has there is room for rates: of the sixteen places that one may have, the one is
    forgotten whose bucket is full again soonest. Of live connections nothing is forgotten: where all sixty-four places
    of an address are taken by others that have some, it is refused as if the server were full.

    Where there is no turn (:meth:`Seat.do`), because workers were stopped in the midst of theirs, a worker counts alone
    until there is one, and on the safe side: the caps are never passed, as connections of whom the others cannot know
    the address count for each; of the rates each has its part, and one whose burst is smaller than there are workers
    lets nobody in.
    """

    __slots__ = (
        "_alone", "_claimed", "_claims", "_places", "_prints", "_purse", "_rows", "_seat", "_strays",
    )  # fmt: skip

    def __init__(self, limits: Limits, seat: Seat, clock: Clock = MONOTONIC) -> None:
        self._seat = seat
        #: Of each address that has connections here, the row in the ledger.
        self._rows: dict[Key, int] = {}
        #: What is shown before it is known that it may be: one connection, and of which address.
        self._claims = 0
        self._claimed: object = NOBODY
        #: Places that were reserved for a connection yet to be accepted: one or none.
        self._places = 0
        #: Whether it counts alone; then the connections by address of which no row tells, and what it has spent.
        self._alone = False
        self._strays: dict[Key, int] = {}
        super().__init__(limits, clock)
        self._purse = Purse(seat.room, limits, clock.now())
        self._prints = Fingerprints(seat.ledger.salt, self._keys)
        self._book = SharedPenaltyBook(limits.penalties, seat, self._keys)

    # --- who comes and goes -------------------------------------------------------------------------------------------

    def reserve(self) -> bool:
        """Whether there is a place for one more in the whole server; it is counted, and the next to be admitted has it,
        until :meth:`give_back`. So nobody is accepted for whom another worker takes the last place meanwhile."""
        with self._lock:
            if self._places:
                return True
            reserved = self._seat.do(lambda room: self._claim_total())
            if reserved is NO_TURN:
                reserved = self._claim_total()
            if reserved:
                self._places = 1
            self._claims = 0
            self._show_total()
            return reserved

    def give_back(self) -> None:
        """The place that was reserved is not needed; nothing happens if there is none."""
        with self._lock:
            if self._places:
                self._places = 0
                self._show_total()

    def _let_in(self, source: Source, key: Key, is_in: bool = False, counted: bool = False) -> Refusal | None:
        limits = self._limits
        self._settle()
        reserved = not is_in and self._places > 0
        if reserved:
            # It is shown all the time, as the one or as the other.
            self._claims = 1
            self._places = 0
        visit = Visit(self, source, key, is_in, counted, reserved)
        is_shown = False
        try:
            if self._listed and not may_come(limits, source):
                return Refusal.DENIED
            if self._book.is_banned(key, self._now()) and not limits.exempt.holds(source):
                return Refusal.BANNED
            refusal = self._seat.do(visit.judge)
            if refusal is NO_TURN:
                refusal = visit.judge_alone()
            if refusal is None:
                self._enter(source, key, is_in, visit)
                is_shown = not self._alone  # what was claimed has come true
            return refusal
        finally:
            self._claims, self._claimed = 0, NOBODY
            if not is_shown:
                self._show(key)
                self._show_total()

    def _enter(self, source: Source, key: Key, is_in: bool, visit: Visit) -> None:
        counts, spread = self._counts, self._spread
        if visit.row >= 0:
            self._rows[key] = visit.row
            self._strays.pop(key, None)  # the row tells of them, too
        elif visit.is_stray:
            self._strays[key] = self._strays.get(key, 0) + 1
        # As in Admission, in statements that no signal handler comes between.
        if not is_in:
            self._total += 1
        if key in counts:
            counts[key] += 1
        else:
            counts[key] = 1
        if key is not source and type(source) is bytes:
            if source in spread:
                spread[source] += 1
            else:
                spread[source] = 1

    def _exit(self, source: Source, key: Key) -> None:
        super()._exit(source, key)
        if key in self._strays:
            self._strays[key] -= 1
            if not self._strays[key]:
                del self._strays[key]
        self._show(key)
        self._show_total()

    # --- what the others see ------------------------------------------------------------------------------------------

    def _show_total(self) -> None:
        self._seat.show_total(self._total + self._claims + self._places)

    def _claim_total(self) -> bool:
        """Show one more, and then see whether it is not too many: whoever comes at the same time sees it, or is seen.
        False: it is shown no more."""
        self._claims = 1
        self._show_total()
        if self._max is None or self._seat.ledger.total <= self._max:
            return True
        self._claims = 0
        self._show_total()
        return False

    def _show(self, key: Key) -> None:
        """How many there are of one address, in its row if it has one."""
        row = self._rows.get(key, -1)
        if row >= 0:
            count = self._counts.get(key, 0)
            self._seat.show(row, count + (key == self._claimed))
            if not count:
                self._rows.pop(key, None)
        if self._alone:
            self._seat.show_alone(1 + sum(self._strays.values()))

    def _row_in(self, room: Room, key: Key) -> int:
        """The row of an address, taken for it where it has none; -1 where there is none left. In a turn."""
        row = self._rows.get(key, -1)
        if row >= 0:
            return row
        rows, mark = room.rows, self._prints.of(key)
        row = rows.find(mark)
        if row < 0:
            row = rows.place_for(mark, lambda place: not self._seat.ledger.of_row(place))
            if row >= 0:
                rows.fingerprints[row] = mark
        return row

    # --- alone, and back ----------------------------------------------------------------------------------------------

    def go_alone(self) -> None:
        """There was no turn: from now on the others reckon with what they cannot see."""
        if not self._alone:
            self._alone = True
            self._seat.show_alone(1)
            self._purse = Purse(self._seat.room, self._limits, self._now())

    def settle(self) -> bool:
        """Count with the others again, and do what was put off, if there is a turn; True if there is no such thing."""
        with self._lock:
            if self._seat.has_put_off:
                self._seat.do(lambda room: None)
            return self._settle() and not self._seat.has_put_off

    def _settle(self) -> bool:
        if not self._alone:
            return True
        if self._seat.do(lambda room: self._purse.pay(room, self._limits, self._prints, self._now())) is NO_TURN:
            return False
        self._purse = Purse(self._seat.room, self._limits, self._now())
        if not self._enter_rows():
            return False
        self._strays.clear()
        self._alone = False
        self._seat.show_alone(0)
        return True

    def _enter_rows(self) -> bool:
        """Give each address here a row, a few in each turn; False where one has none."""
        missing = (key for key in list(self._counts) if key not in self._rows)
        while keys := list(islice(missing, _AT_ONCE)):
            rows: dict[Key, int] = {}
            if self._seat.do(partial(self._enter_in, rows, keys)) is NO_TURN:
                for row in rows.values():
                    self._seat.show(row, 0)
                return False
            self._rows.update(rows)
            if any(key in self._strays for key in keys if key not in rows):
                return False
        return True

    def _enter_in(self, rows: dict[Key, int], keys: list[Key], room: Room) -> None:
        for row in rows.values():
            self._seat.show(row, 0)  # of a room that was then left behind
        rows.clear()
        for key in keys:
            row = self._row_in(room, key)
            if row >= 0:
                rows[key] = row
                self._seat.show(row, self._counts[key])

    # --- what is set and seen -----------------------------------------------------------------------------------------

    def _change_keys(self, keys: Keys) -> None:
        # All of them are strays for a moment, before their rows say something else and until there are others.
        self.go_alone()
        self._seat.show_alone(1 + self._total)
        for row in self._rows.values():
            self._seat.show(row, 0)
        self._rows.clear()
        super()._change_keys(keys)
        self._prints = Fingerprints(self._seat.ledger.salt, keys)
        self._strays = {key: count for key, count in self._counts.items() if key is not None}
        self._settle()

    @property
    def total(self) -> int:
        """Connections that are in, in all workers, and places that are reserved."""
        return self._seat.ledger.total

    def count(self, peer: Peer) -> int:
        """Connections that are in from the address of ``peer``, in all workers."""
        source = source_of(peer)
        with self._lock:
            key = self._keys.of(source)
            row = self._rows.get(key, -1)
            if row < 0:
                row = self._seat.room.rows.find(self._prints.of(key))
            here = self._counts.get(key, 0)
            if row < 0:
                return here
            return here if key in self._strays else self._seat.ledger.of_row(row)

    @property
    def remembered(self) -> int:
        """Addresses of which something is known, in all workers: it looks at all that the ledger has."""
        room, now = self._seat.room, units(self._now())
        return sum(len(table.later_than(now)) for table in (room.rates, room.owed, room.banned, room.by_hand))
