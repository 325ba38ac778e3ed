"""The limits that workers have in common: a ledger for each server, and who has which seat at it."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from ..admission.ledger import Ledger, Seat

_log = logging.getLogger("jackfield.supervisor")


class Shares:
    """Seats for as many workers as a ledger has room for: the others count alone, which is told once.

    Made before the first fork, as the memory is shared with those that are forked from then on only.
    """

    def __init__(self, servers: int) -> None:
        self._ledgers = [Ledger() for _ in range(servers)]
        slots = min((ledger.slots for ledger in self._ledgers), default=0)
        self._free = list(range(slots - 1, -1, -1))
        self._is_told = False

    def take(self) -> int | None:
        """A seat at each ledger for one more worker; None if there is none."""
        if self._free:
            return self._free.pop()
        if self._ledgers and not self._is_told:
            self._is_told = True
            _log.warning("more than %d workers at once: those above that count their connections alone",
                         self._ledgers[0].slots)  # fmt: skip
        return None

    def give_back(self, slot: int | None) -> int:
        """Its worker is gone, however it went: nothing of its own is counted any more. How many connections it had."""
        if slot is None:
            return 0
        had = sum(int(ledger.live[slot]) for ledger in self._ledgers)
        for ledger in self._ledgers:
            ledger.clear(slot)
        self._free.append(slot)
        return had

    def seats(self, slot: int | None) -> Sequence[Seat]:
        """In the worker: its seats, in the order of the servers."""
        return [] if slot is None else [ledger.join(slot) for ledger in self._ledgers]
