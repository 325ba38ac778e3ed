"""The board: what each worker shows its supervisor without being asked, in memory that they share."""

from __future__ import annotations

import mmap
from typing import NamedTuple

from ..errors import StartError

#: Workers at once, those that retire included: with connections of an hour, each reload leaves as many behind.
MOST_WORKERS = 1024

_FIELDS, _BYTES = 4, 8


class Shown(NamedTuple):
    """One row. ``beat`` is when all of the worker's servers were last seen to turn, in monotonic seconds."""

    beat: float
    connections: int
    accepted: int
    #: Bytes of memory that are its own or shared (statm(5), resident).
    resident: int


class Board:
    """One row for each worker, which writes only its own.

    Memory, because a worker that is stuck answers no question, and writing costs it no system call. A row that is read
    while it is written may be half old, and no decision needs two of its figures; each by itself is whole, as an item
    of a memoryview is 8 aligned bytes that are copied at once. (Struct.pack_into() would set the row to zeros before it
    writes it: whoever read it then would see a worker that has not given a sign of life since the machine started.)
    """

    def __init__(self, rows: int = MOST_WORKERS) -> None:
        self._memory = mmap.mmap(-1, _FIELDS * _BYTES * rows)
        self._moments = memoryview(self._memory).cast("d")
        self._counts = memoryview(self._memory).cast("q")
        self._free = list(range(rows - 1, -1, -1))

    def take(self, now: float) -> int:
        """A row for a new worker, which counts as seen ``now``. StartError if there are too many."""
        if not self._free:
            raise StartError("too many workers at once: some are still to end their connections")
        row = self._free.pop()
        self.write(row, Shown(now, 0, 0, 0))
        return row

    def give_back(self, row: int) -> None:
        """Its worker is gone."""
        self._free.append(row)

    def write(self, row: int, shown: Shown) -> None:
        at = row * _FIELDS
        self._moments[at] = shown.beat
        self._counts[at + 1], self._counts[at + 2], self._counts[at + 3] = shown[1:]

    def write_accepted(self, row: int, accepted: int) -> None:
        """That alone: it is no sign of life."""
        self._counts[row * _FIELDS + 2] = accepted

    def read(self, row: int) -> Shown:
        at = row * _FIELDS
        return Shown(self._moments[at], *self._counts[at + 1 : at + _FIELDS])

    def close(self) -> None:
        self._moments.release()
        self._counts.release()
        self._memory.close()
