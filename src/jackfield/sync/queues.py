"""Queues between green threads, threads and coroutines."""

from __future__ import annotations

import sys
import threading
from collections import deque
from heapq import heappop, heappush
from queue import Empty, Full
from typing import Any, Generic, TypeVar

from .lines import Line, Ticket, astand, async_ticket, blocking_ticket, stand

if sys.version_info >= (3, 13):
    from queue import ShutDown
else:

    class ShutDown(Exception):
        """Raised when put or get is called on a queue that was shut down; ``queue.ShutDown`` since Python 3.13."""


__all__ = ["Empty", "Full", "LifoQueue", "PriorityQueue", "Queue", "ShutDown"]

T = TypeVar("T")


class Queue(Generic[T]):
    """Items in the order they came, as :class:`queue.Queue`; ``maxsize`` 0 or less is without bound.

    Green threads and plain threads ``get()`` and ``put()``, coroutines ``await q.aget()`` and ``await q.aput(item)``,
    all on one queue. Items are handed to getters, and free slots to putters, in the order in which they came to wait.

    A ``get`` that raises has taken nothing, a ``put`` that raises has put nothing, so a cancelled one may be repeated.
    An item that was on its way to a getter that was killed goes back to the front, and may exceed ``maxsize`` there.

    A subclass may override ``_init``, ``_qsize``, ``_put`` and ``_get``, as with the standard library's.
    """

    def __init__(self, maxsize: int = 0) -> None:
        self.maxsize = maxsize
        self._mutex = threading.Lock()
        # While getters wait there is no item; while putters wait there is no slot.
        self._getters = Line()
        self._putters = Line()
        self._joiners = Line()
        #: Slots given to putters that have not used them yet.
        self._reserved = 0
        self._unfinished = 0
        self._shut = False
        self._drained = False
        self._init(maxsize)

    def __repr__(self) -> str:
        room = f" of {self.maxsize}" if self.maxsize > 0 else ""
        state = ", shut down" if self._shut else ""
        return (
            f"<{type(self).__name__} at {id(self):#x}, {self._qsize()}{room} items{state}, "
            f"{len(self._getters)} getting, {len(self._putters)} putting>"
        )

    # -- putting -----------------------------------------------------------------------------------------------------

    def put(self, item: T, block: bool = True, timeout: float | None = None) -> None:
        """Put an item, waiting for a free slot for at most ``timeout`` seconds (None: for ever); then Full.

        Full at once with ``block=False``; ShutDown after ``shutdown()``; ValueError for a negative timeout; MisuseError
        in a coroutine that would have to wait.
        """
        seconds = _seconds(block, timeout)
        if self._try_put(item):
            return
        if seconds == 0 or not stand(
            blocking_ticket(self, "await queue.aput(item)", item), self._enter_put, self._leave_put, seconds
        ):
            raise Full

    async def aput(self, item: T, timeout: float | None = None) -> None:
        """:meth:`put` in a coroutine."""
        seconds = _seconds(True, timeout)
        if self._try_put(item):
            return
        if seconds == 0 or not await astand(async_ticket(item), self._enter_put, self._leave_put, seconds):
            raise Full

    def put_nowait(self, item: T) -> None:
        """``put(item, block=False)``."""
        self.put(item, block=False)

    def _try_put(self, item: T) -> bool:
        with self._mutex:
            self._check_open()
            if not self._has_room():
                return False
            woken: list[Ticket] = []
            self._place(item, woken)
        _wake(woken)
        return True

    def _enter_put(self, ticket: Ticket) -> bool:
        with self._mutex:
            self._check_open()
            if self._has_room():
                self._reserved += 1
                ticket.granted = True
            else:
                self._putters.append(ticket)
            return ticket.granted

    def _leave_put(self, ticket: Ticket, giving_up: bool) -> bool:
        woken: list[Ticket] = []
        try:
            with self._mutex:
                if not giving_up and (self._shut or not ticket.granted):
                    self._release_slot(ticket, woken)
                    self._check_open()
                    return False
                try:
                    if not giving_up:
                        self._place(ticket.value, woken)
                finally:
                    # Its slot is free again if it gave up, or if its item went to a getter.
                    self._release_slot(ticket, woken)
                return True
        finally:
            _wake(woken)

    def _release_slot(self, ticket: Ticket, woken: list[Ticket]) -> None:
        if ticket.granted:
            self._reserved -= 1
            self._give_slots(woken)
        else:
            self._putters.discard(ticket)

    def _check_open(self) -> None:
        if self._shut:
            raise ShutDown

    def _has_room(self) -> bool:
        return self.maxsize <= 0 or self._qsize() + self._reserved < self.maxsize

    def _place(self, item: T, woken: list[Ticket]) -> None:
        # Through the two hooks also where a getter waits: a subclass may change the item in one and back in the other.
        self._put(item)
        self._unfinished += 1
        self._hand_over(woken)

    def _hand_over(self, woken: list[Ticket]) -> None:
        if self._getters and self._qsize():
            for getter in self._getters.grant(1):
                getter.value = self._get()
                woken.append(getter)

    def _give_slots(self, woken: list[Ticket]) -> None:
        while self._putters and self._has_room():
            granted = self._putters.grant(1)
            self._reserved += len(granted)
            woken += granted

    # -- getting -----------------------------------------------------------------------------------------------------

    def get(self, block: bool = True, timeout: float | None = None) -> T:
        """Take an item, waiting for one for at most ``timeout`` seconds (None: for ever); then Empty.

        Empty at once with ``block=False``; ShutDown when there is none and ``shutdown()`` was called; ValueError for a
        negative timeout; MisuseError in a coroutine that would have to wait.
        """
        seconds = _seconds(block, timeout)
        ticket = Ticket(None, None)
        if self._try_get(ticket):
            return ticket.value  # type: ignore[no-any-return]
        if seconds != 0:
            ticket = blocking_ticket(self, "await queue.aget()")
            if stand(ticket, self._enter_get, self._leave_get, seconds):
                return ticket.value  # type: ignore[no-any-return]
        raise Empty

    async def aget(self, timeout: float | None = None) -> T:
        """:meth:`get` in a coroutine."""
        seconds = _seconds(True, timeout)
        ticket = Ticket(None, None)
        if self._try_get(ticket):
            return ticket.value  # type: ignore[no-any-return]
        if seconds != 0:
            ticket = async_ticket()
            if await astand(ticket, self._enter_get, self._leave_get, seconds):
                return ticket.value  # type: ignore[no-any-return]
        raise Empty

    def get_nowait(self) -> T:
        """``get(block=False)``."""
        return self.get(block=False)

    def _try_get(self, ticket: Ticket, *, line_up: bool = False) -> bool:
        woken: list[Ticket] = []
        with self._mutex:
            if self._qsize():
                ticket.value = self._get()
                ticket.granted = True
                self._give_slots(woken)
            else:
                self._check_open()
                if line_up:
                    self._getters.append(ticket)
        _wake(woken)
        return ticket.granted

    def _enter_get(self, ticket: Ticket) -> bool:
        return self._try_get(ticket, line_up=True)

    def _leave_get(self, ticket: Ticket, giving_up: bool) -> bool:
        woken: list[Ticket] = []
        with self._mutex:
            if not ticket.granted:
                self._getters.discard(ticket)
                if not giving_up:
                    self._check_open()
                return False
            if not giving_up:
                return True
            if self._drained:
                self._finish(1, woken)
            else:
                self._unget(ticket.value)
                self._hand_over(woken)
        _wake(woken)
        return False

    # -- work done ---------------------------------------------------------------------------------------------------

    def task_done(self) -> None:
        """Say that an item that was taken is worked off. ValueError if said more often than items were put."""
        woken: list[Ticket] = []
        with self._mutex:
            if not self._unfinished:
                raise ValueError("task_done() called too many times")
            self._finish(1, woken)
        _wake(woken)

    def _finish(self, count: int, woken: list[Ticket]) -> None:
        self._unfinished = max(0, self._unfinished - count)
        if not self._unfinished:
            woken += self._joiners.grant(len(self._joiners))

    def join(self) -> None:
        """Wait until every item that was put is worked off. MisuseError in a coroutine that would have to wait."""
        if self._unfinished:
            stand(blocking_ticket(self, "await queue.ajoin()"), self._enter_join, self._leave_join, None)

    async def ajoin(self) -> None:
        """:meth:`join` in a coroutine."""
        if self._unfinished:
            await astand(async_ticket(), self._enter_join, self._leave_join, None)

    def _enter_join(self, ticket: Ticket) -> bool:
        with self._mutex:
            if self._unfinished:
                self._joiners.append(ticket)
            return not self._unfinished

    def _leave_join(self, ticket: Ticket, giving_up: bool) -> bool:
        with self._mutex:
            self._joiners.discard(ticket)
        return True

    def shutdown(self, immediate: bool = False) -> None:
        """End it: every ``put`` from now on, and every ``get`` when there is no item left, raises ShutDown.

        Those who wait now included. With ``immediate`` what is still in it is thrown away, and counts as worked off.
        """
        thrown: list[T] = []  # dropped when the lock is free: what an item does as it goes may want the queue
        woken: list[Ticket] = []
        with self._mutex:
            self._shut = True
            if immediate:
                self._drained = True
                while self._qsize():
                    thrown.append(self._get())
                self._finish(len(thrown), woken)
            for line in (self._getters, self._putters):
                while (ticket := line.pop()) is not None:
                    woken.append(ticket)
        _wake(woken)

    # -- looking -----------------------------------------------------------------------------------------------------

    def qsize(self) -> int:
        """Items in it. By the time it is read it may have changed."""
        return self._qsize()

    def empty(self) -> bool:
        """True if there is no item."""
        return not self._qsize()

    def full(self) -> bool:
        """True if there are ``maxsize`` items or more."""
        return 0 < self.maxsize <= self._qsize()

    @property
    def unfinished_tasks(self) -> int:
        """Items that were put and are not worked off."""
        return self._unfinished

    # -- the order: what a subclass overrides ------------------------------------------------------------------------

    def _init(self, maxsize: int) -> None:
        self.queue: Any = deque()

    def _qsize(self) -> int:
        return len(self.queue)

    def _put(self, item: T) -> None:
        self.queue.append(item)

    def _get(self) -> T:
        return self.queue.popleft()  # type: ignore[no-any-return]

    def _unget(self, item: T) -> None:
        """Put an item back: where it was, if the order is this class's own; where ``_put`` puts it in any other."""
        if type(self)._put is Queue._put and type(self)._get is Queue._get:
            self.queue.appendleft(item)
        else:
            self._put(item)


class LifoQueue(Queue[T]):
    """The last in is the first out, as :class:`queue.LifoQueue`."""

    def _init(self, maxsize: int) -> None:
        self.queue = []

    def _get(self) -> T:
        return self.queue.pop()  # type: ignore[no-any-return]


class PriorityQueue(Queue[T]):
    """The smallest is the first out, as :class:`queue.PriorityQueue`."""

    def _init(self, maxsize: int) -> None:
        self.queue = []

    def _put(self, item: T) -> None:
        heappush(self.queue, item)

    def _get(self) -> T:
        return heappop(self.queue)  # type: ignore[no-any-return]


def _seconds(block: bool, timeout: float | None) -> float | None:
    """How long to wait: None for ever, 0.0 not at all."""
    if not block:
        return 0.0
    if timeout is not None and timeout < 0:
        raise ValueError("'timeout' must be a non-negative number")
    return timeout


def _wake(tickets: list[Ticket]) -> None:
    for ticket in tickets:
        ticket.wake()
