"""The ledger: what the limits of a server count over all its processes, in memory that they share.

The parent makes it before it forks; each worker takes a seat, by a number that no other one has. What a worker says of
its connections lies in its own part, which nobody else writes, so that the parent can wipe it when the worker has died.
What belongs to nobody, rates and penalties, is changed in turns (:mod:`.turns`).
"""

from __future__ import annotations

import mmap
import os
import weakref
from collections.abc import Callable
from enum import Enum
from threading import Lock, RLock
from typing import Any, Final, TypeVar

from jackfield.admission.addresses import MOST_ADDRESSES
from jackfield.admission.tables import Table, new_salt
from jackfield.admission.turns import WORDS, FileLocks, Locks, Turns

__all__ = ["MOST_SLOTS", "NO_TURN", "Ledger", "Room", "Seat"]

#: Workers that a ledger has seats for, at most and unless told otherwise.
MOST_SLOTS = 64

#: Copies of the shared part. Two processes can be stopped in the midst of a turn, and the others still count exactly.
ROOMS = 3

#: Places in which an address may lie: of those whose time comes, and of those that must not be forgotten.
SPAN, WIDE_SPAN = 16, 64

_WORD = 8
_CELL = 4
_MOST_CELL = 2**32 - 1

#: What a worker puts off at most.
_MOST_LATER = 1000

T = TypeVar("T")


class NoTurn(Enum):
    """What :meth:`Seat.do` gives where there is no turn to be had."""

    NO_TURN = "no turn"


NO_TURN: Final = NoTurn.NO_TURN


class Room:
    """One copy of what is changed in turns."""

    __slots__ = ("banned", "by_hand", "datagrams", "head", "owed", "rates", "replies", "rows")

    #: Words of ``head``: when the buckets of all are full again, and when the last of all bans is over.
    FULL_AT, DATAGRAMS_FULL_AT, BANS_UNTIL = range(3)
    HEAD = 8

    def __init__(self, words: memoryview, addresses: int, view: Callable[[memoryview], Any]) -> None:
        self.head = view(words[: self.HEAD])
        at = self.HEAD
        made = []
        for span, names in _TABLES:
            size = Table.size(addresses, span, names)
            made.append(Table(words[at : at + size], addresses, span, names, view))
            at += size
        #: ``rows`` has the fingerprint of the address that each row of connections is of; its values are not used.
        self.rates, self.datagrams, self.replies, self.owed, self.banned, self.by_hand, self.rows = made

    @classmethod
    def size(cls, addresses: int) -> int:
        """In words."""
        return cls.HEAD + sum(Table.size(addresses, span, names) for span, names in _TABLES)


_TABLES = ((SPAN, 0), (SPAN, 0), (SPAN, 0), (SPAN, 0), (SPAN, 3), (WIDE_SPAN, 3), (WIDE_SPAN, 0))


class Ledger:
    """Memory for the limits of ``slots`` workers, shared with every process that is forked from now on.

    :param slots: 1 to 64, the default.
    :param addresses: that are remembered of each kind, a power of two from 64; default 65,536. Connections of more
        addresses at once are not let in where there is a limit for one.
    :raises ValueError: a number that cannot be meant.
    :raises OSError: the system gives no memory, or no file for the locks.

    Its size is :attr:`size`, 46 MiB by default, of which the system gives what is used: under 1 MiB at first, up to
    0.25 MiB for each worker, and 10 MiB for as many addresses of each kind as there can be (30 MiB once workers have
    been stopped in the midst of a verdict).
    """

    def __init__(
        self, slots: int = MOST_SLOTS, addresses: int = MOST_ADDRESSES, *, locks: Locks | None = None
    ) -> None:
        if not isinstance(slots, int) or not 1 <= slots <= MOST_SLOTS:
            raise ValueError(f"a ledger is for 1 to {MOST_SLOTS} workers, not {slots!a}")
        if not isinstance(addresses, int) or addresses < WIDE_SPAN or addresses & (addresses - 1):
            raise ValueError(f"addresses is a power of two from {WIDE_SPAN}, not {addresses!a}: write e.g. 65536")
        self.slots = slots
        self.addresses = addresses
        self.salt = new_salt()
        self.rows = addresses + WIDE_SPAN
        room = Room.size(addresses)
        seats = -(-slots // _WORD)
        words = WORDS + 2 * slots + seats + ROOMS * room
        #: Bytes.
        self.size = words * _WORD + slots * self.rows * _CELL
        self._file = FileLocks() if locks is None else None
        self.locks: Locks = locks if self._file is None else self._file  # type: ignore[assignment]
        try:
            # Without a file behind it: MAP_SHARED | MAP_ANONYMOUS, so it lives as long as a process that has it.
            self._memory = mmap.mmap(-1, self.size)
        except OSError:
            if self._file is not None:
                self._file.close()
            raise
        memory = memoryview(self._memory)
        own = memory[: words * _WORD].cast("q")
        #: What all agree on; the connections in each worker; and 0 for each that counts with the others, 1 and the
        #: connections of which no row tells for one that counts alone.
        self.common = self.view(own[:WORDS])
        at = WORDS + slots
        self.live = self.view(own[WORDS:at])
        self.alone = self.view(own[at : at + slots])
        at += slots
        self._nobody_alone = bytes(slots * _WORD)
        #: A byte for each seat: whether there ever was a worker in it.
        self.seated = self.view(memory[at * _WORD : at * _WORD + slots])
        at += seats
        self._copies = [own[at + number * room : at + (number + 1) * room] for number in range(ROOMS)]
        self.in_rooms = [Room(copy, addresses, self.view) for copy in self._copies]
        #: Connections by worker and row, those of one worker together: a worker that is not there costs no memory.
        self.cells = self.view(memory[words * _WORD :].cast("I"))

    def view(self, words: memoryview) -> Any:
        """How processes see a part of the memory; tests put something between."""
        return words

    def turns(self) -> Turns:
        """For one process that takes a seat."""
        return Turns(self.common, ROOMS, self.locks, self.copy)

    def copy(self, room: int, other: int) -> None:
        """What is in one room is in the other then."""
        self._copies[other][:] = self._copies[room]

    # -- who counts --------------------------------------------------------------------------------------------------

    def join(self, slot: int) -> Seat:
        """In a worker: the seat ``slot``, wiped, from 0 on. Nobody else may have it.

        :raises ValueError: there is no such seat.
        """
        self.clear(slot)
        self.seated[slot] = 1
        return Seat(self, slot)

    def clear(self, slot: int) -> None:
        """In the parent, when the worker of ``slot`` has died, and was reaped: nothing of it is counted any more. Never
        waits.

        :raises ValueError: there is no such seat.
        """
        if not 0 <= slot < self.slots:
            raise ValueError(f"there are seats from 0 to {self.slots - 1}, not {slot!a}")
        self.live[slot] = self.alone[slot] = 0
        if self.seated[slot]:
            first = slot * self.rows
            self.cells[first : first + self.rows] = memoryview(bytes(self.rows * _CELL)).cast("I")

    @property
    def total(self) -> int:
        """Connections that are in, in all workers."""
        return int(sum(self.live.tolist()))

    def of_row(self, row: int) -> int:
        """Connections of the address that ``row`` is of, in all workers."""
        used = self.used
        return int(sum(self.cells[row : used * self.rows : self.rows].tolist()))

    def strays_beside(self, slot: int) -> int:
        """Connections of which no row tells, in other workers than ``slot``; -1 where no worker counts alone."""
        if self.alone.tobytes() == self._nobody_alone:
            return -1
        return sum(max(0, word - 1) for other, word in enumerate(self.alone.tolist()) if other != slot)

    @property
    def used(self) -> int:
        """Seats that may have a worker: up to the last one that ever had."""
        seated: bytes = self.seated.tobytes()
        return seated.rfind(1) + 1

    def close(self) -> None:
        """In this process: no more of it; any number of times. Seats taken here must not be used after it."""
        if self._file is not None:
            self._file.close()


class Seat:
    """One worker's place in a ledger: what it says of itself, and its turns. From any thread.

    A process that is forked from the worker has no seat: there it counts nothing, and finds no turn.
    """

    __slots__ = ("__weakref__", "_busy", "_fence", "_later", "_lock", "_ours", "ledger", "slot", "turns")

    def __init__(self, ledger: Ledger, slot: int) -> None:
        self.ledger = ledger
        self.slot = slot
        self.turns = ledger.turns()
        # Never taken after a fork: it may stay locked then, see jackfield.admission.locks.
        self._lock = RLock()
        self._fence = Lock()
        self._busy = False
        self._later: list[Callable[[Room], object]] = []
        self._ours = True
        _seats.add(self)

    def do(self, work: Callable[[Room], T]) -> T | NoTurn:
        """What ``work(room)`` gives, done while no other process does something; it may be done more than once, and
        then only the last one counts. Waits for a tenth of a second, where worker after worker is stopped for three,
        and as a rule not at all.

        :data:`NO_TURN`: it was not done, see :meth:`Turns.take`. So it is in a signal handler that has come in the
        midst of it, and in a process that was forked from the worker.
        """
        if not self._ours:
            return NO_TURN
        with self._lock:
            if self._busy:
                return NO_TURN
            self._busy = True
            try:
                done = self._in_turn(work)
                while self._later and done is not NO_TURN:
                    if self._in_turn(self._later[0]) is NO_TURN:
                        break
                    self._later.pop(0)
                return done
            finally:
                self._busy = False

    def do_surely(self, work: Callable[[Room], T]) -> T | NoTurn:
        """The same for what must not be lost: where there is no turn, it is done at the next one."""
        done = self.do(work)
        if done is NO_TURN and self._ours:
            self._later.append(work)
            del self._later[:-_MOST_LATER]
        return done

    @property
    def has_put_off(self) -> bool:
        """Whether something waits for the next turn."""
        return bool(self._later)

    def _in_turn(self, work: Callable[[Room], T]) -> T | NoTurn:
        # Each time round, somebody has waited for PATIENCE in vain.
        for _ in range(ROOMS):
            place = self.turns.take()
            if place is None:
                return NO_TURN
            try:
                done = work(self.ledger.in_rooms[place % ROOMS])
            finally:
                valid = self.turns.give(place)
            if valid:
                return done
        return NO_TURN

    @property
    def room(self) -> Room:
        """To read, in no turn."""
        return self.ledger.in_rooms[self.turns.room]

    # -- what it says of itself --------------------------------------------------------------------------------------

    def show_total(self, count: int) -> None:
        """So many connections are in here."""
        if self._ours:
            self.ledger.live[self.slot] = count
            self.fence()

    def show(self, row: int, count: int) -> None:
        """So many are, of the address of ``row``."""
        if self._ours:
            self.ledger.cells[self.slot * self.ledger.rows + row] = min(count, _MOST_CELL)
            self.fence()

    def show_alone(self, word: int) -> None:
        """0: what is here is counted with the others; 1 and more: it is not, and so many less one are in no row."""
        if self._ours:
            self.ledger.alone[self.slot] = word
            self.fence()

    def fence(self) -> None:
        """Whoever shows something and then looks at the others has been seen by each of them, or sees it.

        A processor may read before what it has written is seen by others; not beyond an atomic exchange (x86), of which
        there is one in every lock.
        """
        if self._fence.acquire(False):  # another thread that has it just now was let run by one
            self._fence.release()


_seats: weakref.WeakSet[Seat] = weakref.WeakSet()


def _after_in_child() -> None:
    for seat in list(_seats):
        seat._ours = False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_in_child)
