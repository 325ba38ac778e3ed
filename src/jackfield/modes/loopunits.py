"""Units that begin and end on one thread, that of a loop: what is said of them there needs no lock."""

from __future__ import annotations

from typing import TypeVar

from .units import Units

U = TypeVar("U")


class LoopUnits(Units[U]):
    """Units of the thread that accepts. Other threads may look at them, and wait for their end and for room.

    The set of live ones is changed by single steps of the interpreter, so whoever iterates it elsewhere finds a whole
    one. Who waits enters the list under the lock, having seen under it that there is something to wait for: here a unit
    leaves the set before the lock is asked for, so one of the two sees the other.
    """

    def add(self, unit: U) -> None:
        self._live.add(unit)

    def ended(self, unit: U) -> None:
        live, limit = self._live, self.limit
        if limit is not None and len(live) >= limit:
            super().ended(unit)  # somebody may wait for its place
            return
        live.discard(unit)
        if not live:
            super().ended(unit)  # nobody is left
