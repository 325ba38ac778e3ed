"""Standing in line: what all waiting of this package is made of.

Whoever has to wait takes a ticket and is entered in a line. Whoever releases something gives it *to the first ticket*,
under the short lock of the object, before it wakes that one; nobody can take it in between. So there is nothing to win
by a race, and only one rule to keep: a ticket that was granted something and does not want it any more passes it on.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from greenlet import getcurrent

from ..errors import MisuseError
from ..reactor import AsyncWait, GreenThread, GreenWait, ThreadWait


class Ticket:
    """The place of one waiter. Compared by identity."""

    __slots__ = ("granted", "loop", "value", "wait")

    def __init__(self, wait: Any, loop: asyncio.AbstractEventLoop | None, value: Any = None) -> None:
        #: Whose ``wait()`` blocks or is awaited; ``wake()`` ends that.
        self.wait = wait
        #: The loop that resumes it; None for a plain thread.
        self.loop = loop
        #: True once it has what it waits for.
        self.granted = False
        #: What is handed over with it.
        self.value = value

    def wake(self) -> None:
        if not self.stale:
            self.wait.wake()

    @property
    def stale(self) -> bool:
        """True when the waiter cannot be resumed any more: its loop was closed over its head."""
        return self.loop is not None and self.loop.is_closed()


def blocking_ticket(subject: object, twin: str, value: Any = None) -> Ticket:
    """A ticket for the green thread or plain thread that calls. MisuseError in a coroutine, naming ``await twin``."""
    current = getcurrent()
    if isinstance(current, GreenThread):
        return Ticket(GreenWait(current), current.reactor.loop, value)
    if asyncio._get_running_loop() is not None:
        raise MisuseError(
            f"waiting here for {subject!r} would hold the loop that runs in this thread; in a coroutine write "
            f"'{twin}', and give blocking-style code to jackfield.spawn(fn) or 'await jackfield.green(fn)'"
        )
    return Ticket(ThreadWait(), None, value)


def async_ticket(value: Any = None) -> Ticket:
    """A ticket for the coroutine that calls. RuntimeError where no loop runs, from asyncio."""
    return Ticket(AsyncWait(), asyncio.get_running_loop(), value)


def stand(
    ticket: Ticket, enter: Callable[[Ticket], bool], leave: Callable[[Ticket, bool], bool], timeout: float | None
) -> bool:
    """Wait in line, in blocking-style code; True if the ticket was granted, False after ``timeout`` seconds.

    ``enter(ticket)`` grants at once (True) or enters it in a line; ``leave(ticket, giving_up)`` takes it out again, and
    passes on what it was granted when it is giving up.
    """
    try:
        if not enter(ticket):
            ticket.wait.wait(timeout)
    except BaseException:  # killed or interrupted: the ticket must not be left behind
        leave(ticket, True)
        raise
    return leave(ticket, False)


async def astand(
    ticket: Ticket, enter: Callable[[Ticket], bool], leave: Callable[[Ticket, bool], bool], timeout: float | None
) -> bool:
    """:func:`stand` in a coroutine."""
    try:
        if not enter(ticket):
            await awoken(ticket, timeout)
    except BaseException:  # cancelled, or closed while it waited
        leave(ticket, True)
        raise
    return leave(ticket, False)


async def awoken(ticket: Ticket, timeout: float | None) -> None:
    """Wait until the ticket is woken or ``timeout`` seconds have passed."""
    if timeout is None:
        await ticket.wait.wait()
        return
    try:
        async with asyncio.timeout(timeout):
            await ticket.wait.wait()
    except TimeoutError:
        pass


class Line:
    """Tickets, first come first served; each operation takes the same time however many wait.

    Guarded by the lock of the object that it belongs to.
    """

    __slots__ = ("_tickets",)

    def __init__(self) -> None:
        # Linked, unlike a dict, whose first entry is ever harder to find as the ones before it are removed.
        self._tickets: OrderedDict[Ticket, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._tickets)

    def append(self, ticket: Ticket) -> None:
        self._tickets[ticket] = None

    def discard(self, ticket: Ticket) -> None:
        self._tickets.pop(ticket, None)

    def pop(self) -> Ticket | None:
        """The first that can still be resumed, out of the line; None if nobody waits."""
        while self._tickets:
            ticket, _ = self._tickets.popitem(last=False)
            if not ticket.stale:
                return ticket
        return None

    def grant(self, most: int) -> list[Ticket]:
        """Grant the first ``most``; to be woken when the guarding lock is free again."""
        granted: list[Ticket] = []
        while len(granted) < most and (ticket := self.pop()) is not None:
            ticket.granted = True
            granted.append(ticket)
        return granted


class Permits:
    """A number of permits, handed over in the order in which they were asked for: the whole of a lock or semaphore.

    While anybody waits none is free, so whoever finds one free may take it without passing anyone by.
    """

    __slots__ = ("_line", "_mutex", "free")

    def __init__(self, free: int) -> None:
        self.free = free
        self._line = Line()
        self._mutex = threading.Lock()

    @property
    def waiting(self) -> int:
        return len(self._line)

    def take(self) -> bool:
        """One without waiting, if there is one."""
        with self._mutex:
            if self.free:
                self.free -= 1
                return True
            return False

    def give(self, count: int = 1, limit: float = float("inf")) -> bool:
        """Give ``count`` back. False, and nothing given, if more than ``limit`` would be free then."""
        with self._mutex:
            if self.free + count > limit:
                return False
            tickets = self._line.grant(count)
            self.free += count - len(tickets)
        for ticket in tickets:
            ticket.wake()
        return True

    def enter(self, ticket: Ticket) -> bool:
        with self._mutex:
            if self.free:
                self.free -= 1
                ticket.granted = True
            else:
                self._line.append(ticket)
            return ticket.granted

    def leave(self, ticket: Ticket, giving_up: bool) -> bool:
        if not ticket.granted:
            with self._mutex:
                if not ticket.granted:  # still, now that nobody can grant it
                    self._line.discard(ticket)
                    return False
        if giving_up:
            self.give()
        return not giving_up

    def wait(self, timeout: float | None, subject: object, twin: str) -> bool:
        """One, waiting for it as blocking-style code waits."""
        return stand(blocking_ticket(subject, twin), self.enter, self.leave, timeout)

    async def await_(self, timeout: float | None) -> bool:
        """One, waiting for it as a coroutine waits."""
        return await astand(async_ticket(), self.enter, self.leave, timeout)


def myself() -> object:
    """Who is running: the green thread, the task of a coroutine, or the identifier of the plain thread."""
    current = getcurrent()
    if isinstance(current, GreenThread):
        return current
    loop = asyncio._get_running_loop()
    task = None if loop is None else asyncio.current_task(loop)
    return threading.get_ident() if task is None else task
