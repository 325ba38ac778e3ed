"""Penalties and bans that all workers of a server know, in a :class:`~jackfield.admission.ledger.Ledger`."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from jackfield.admission.addresses import Key, Keys
from jackfield.admission.ledger import NO_TURN, Room, Seat
from jackfield.admission.penalties import Ban, Penalties, PenaltyBook, check_ban
from jackfield.admission.tables import FOREVER, Fingerprints, Table, name_of, named, units
from jackfield.errors import MisuseError

__all__ = ["SharedPenaltyBook"]

#: Places that are gone through in one turn, where a whole table has to be.
_AT_ONCE = 512


class SharedPenaltyBook(PenaltyBook):
    """The same as a :class:`PenaltyBook`, but in the ledger of ``seat``; under a lock.

    Of those who offend, and of those who are banned for it, as many are remembered as the ledger has addresses,
    whatever ``penalties.addresses`` says; where the sixteen places that an address may have are all taken, the one is
    let go whose penalty is over soonest. A ban by hand is never forgotten.

    What is said where there is no turn (see :meth:`Seat.do`) holds from the next one on.
    """

    __slots__ = ("_prints", "_seat")

    def __init__(self, penalties: Penalties | None, seat: Seat, keys: Keys) -> None:
        super().__init__(penalties)
        self._seat = seat
        self._prints = Fingerprints(seat.ledger.salt, keys)

    def set(self, penalties: Penalties | None) -> None:
        self.penalties = penalties

    def charge(self, key: Key, kind: str, now: float) -> float:
        penalties = self.penalties
        added = 0.0 if penalties is None else penalties.seconds.get(kind, 0.0)
        if key is None or penalties is None or not added:
            return 0.0 if penalties is None else self.banned_for(key, now)
        mark, name, began = self._prints.of(key), name_of(key, self._prints.keys), units(now)
        most, threshold, adds = units(penalties.most), units(penalties.threshold), units(added)
        charged = 0

        def charge(room: Room) -> float:
            nonlocal charged
            banned_until = room.banned.get(mark)
            owed_until = room.owed.get(mark)
            if charged and charged in (banned_until, owed_until):
                until = charged  # it was done in a room that was then left behind, and is in its copy
            elif banned_until > began:
                until = min(banned_until + adds, max(banned_until, began + most))
            else:
                until = min(max(owed_until, began) + adds, began + most)
            charged = until
            if banned_until <= began and until - began <= threshold:
                room.owed.put(mark, until)
                return 0.0
            _note_ban(room, until)
            room.banned.put(mark, until, name)
            room.owed.drop(mark)  # last: who is killed in between owes it twice, and not nothing
            return _seconds(until - began)

        banned_for = self._seat.do_surely(charge)
        return 0.0 if banned_for is NO_TURN else banned_for

    def banned_for(self, key: Key, now: float) -> float:
        """Seconds; 0.0 if it is not banned. In no turn."""
        room, began = self._seat.room, units(now)
        if key is None or room.head[room.BANS_UNTIL] <= began:
            return 0.0
        mark = self._prints.of(key)
        until = max(room.banned.get(mark), room.by_hand.get(mark))
        return _seconds(until - began) if until > began else 0.0

    def is_banned(self, key: Key, now: float) -> bool:
        return self.banned_for(key, now) > 0

    def ban(self, key: Key, seconds: float, now: float) -> None:
        """The same.

        :raises MisuseError: also where the sixty-four places that an address may have are taken by others that are
            banned by hand, of which there may be some 50,000.
        """
        check_ban(key, seconds)
        mark, name, began = self._prints.of(key), name_of(key, self._prints.keys), units(now)
        until = FOREVER if seconds == math.inf else min(began + max(1, units(seconds)), FOREVER - 1)

        def ban(room: Room) -> bool:
            _note_ban(room, until)
            return room.by_hand.put(mark, until, name, keep_after=began)

        if self._seat.do_surely(ban) is False:
            raise MisuseError("too many addresses are banned by hand: put networks into Limits(deny=...)")

    def unban(self, key: Key, now: float) -> bool:
        was_banned = self.is_banned(key, now)
        mark = self._prints.of(key)

        def unban(room: Room) -> None:
            for table in (room.owed, room.banned, room.by_hand):
                table.drop(mark)

        self._seat.do_surely(unban)
        return was_banned

    def bans(self, now: float, describe: Callable[[Key], str]) -> list[Ban]:
        room, began, keys = self._seat.room, units(now), self._prints.keys
        until: dict[Key, int] = {}
        by_hand = set()
        for table in (room.banned, room.by_hand):
            for place in table.later_than(began):
                mark, key = table.fingerprints[place], named(table.name(place), keys)
                if self._prints.of(key) != mark:
                    continue  # its place was given to another in between
                until[key] = max(int(table.values[place]), until.get(key, 0))
                if table is room.by_hand:
                    by_hand.add(key)
        found = [Ban(describe(key), _seconds(time - began), key in by_hand) for key, time in until.items()]
        return sorted((ban for ban in found if ban.seconds > 0), key=lambda ban: -ban.seconds)

    def change_keys(self, keys: Keys) -> None:
        """Bans go over to the key of the first address; what is owed short of a ban is forgotten. The first worker that
        has other prefixes does it for all."""
        self._prints = Fingerprints(self._seat.ledger.salt, keys)
        for first in range(0, self._seat.room.by_hand.places, _AT_ONCE):
            self._seat.do_surely(partial(self._rename, first))

    def _rename(self, first: int, room: Room) -> None:
        for table in (room.banned, room.by_hand):
            self._rename_in(table, first)

    def _rename_in(self, table: Table, first: int) -> None:
        for place, until in enumerate(table.values[first : first + _AT_ONCE].tolist(), first):
            if until:
                key = named(table.name(place), self._prints.keys)
                mark, name = self._prints.of(key), name_of(key, self._prints.keys)
                if mark != table.fingerprints[place]:
                    table.put(mark, max(until, table.get(mark)), name)
                    table.values[place] = 0

    def __len__(self) -> int:
        """Also those whose time has passed and whose place nobody else has taken."""
        room = self._seat.room
        return sum(len(table.later_than(0)) for table in (room.owed, room.banned, room.by_hand))

    def owed(self, key: Key, now: float) -> float:
        room, mark, began = self._seat.room, self._prints.of(key), units(now)
        return _seconds(max(room.owed.get(mark), room.banned.get(mark), began) - began)


def _note_ban(room: Room, until: int) -> None:
    """Before the ban itself, so that whoever finds the one finds the other."""
    if room.head[room.BANS_UNTIL] < until:
        room.head[room.BANS_UNTIL] = until


def _seconds(count: int) -> float:
    return math.inf if count > FOREVER // 2 else count / 2.0**32
