"""Deadlines: many numbers, few timers.

A timer is armed once and its deadline is a number that moves. When the armed moment comes and the deadline has moved
on, the timer is armed again for the rest; so a connection that talks a thousand times a second within a timeout of a
minute costs one heap entry a minute, not a thousand a second.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count

NEVER = float("inf")


class Timer:
    """One deadline, in seconds of the clock the owner uses, and what is called when it has passed.

    ``deadline`` may be moved at will; ``NEVER`` rests the timer. A deadline that moves *earlier* than ``armed`` must be
    armed again by :meth:`Timers.arm`.
    """

    __slots__ = ("armed", "deadline", "expired")

    def __init__(self, expired: Callable[[], object]) -> None:
        self.deadline = NEVER
        self.armed = NEVER
        self.expired = expired

    def cancel(self) -> None:
        self.deadline = NEVER


class Timers:
    """A heap of armed timers. Free of clocks and I/O: moments come in, the next moment comes out."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._order = count()

    def arm(self, timer: Timer, deadline: float) -> None:
        """Set ``timer`` to ``deadline``. Costs a heap entry only if none is armed at or before it."""
        timer.deadline = deadline
        if deadline < timer.armed:
            timer.armed = deadline
            heappush(self._heap, (deadline, next(self._order), timer))

    def next(self) -> float:
        """The moment at which :meth:`expire` is to be called; ``NEVER`` when there is none."""
        heap = self._heap
        while heap and (heap[0][2].armed != heap[0][0] or heap[0][2].deadline == NEVER):
            moment, _, timer = heappop(heap)
            if timer.armed == moment:
                timer.armed = NEVER
        return heap[0][0] if heap else NEVER

    def expire(self, now: float) -> None:
        """Call what has passed at ``now``, in the order of the deadlines; arm again what has moved."""
        heap = self._heap
        while heap and heap[0][0] <= now:
            moment, _, timer = heappop(heap)
            if timer.armed != moment:
                continue  # armed earlier since, and that entry was the one that counted
            timer.armed = NEVER
            if timer.deadline <= moment:
                timer.deadline = NEVER
                timer.expired()
            elif timer.deadline != NEVER:
                self.arm(timer, timer.deadline)  # comes up again in its place, in this very loop if it is due

    def __len__(self) -> int:
        return len(self._heap)
