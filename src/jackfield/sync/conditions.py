"""Events and conditions: waiting for what others say has happened."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from time import monotonic
from types import TracebackType
from typing import TypeVar

from greenlet import error as GreenletError

from ..errors import MisuseError
from .lines import Line, Ticket, astand, async_ticket, awoken, blocking_ticket, stand
from .locks import Lock, RLock

T = TypeVar("T")


class Event:
    """A flag to wait for, as :class:`threading.Event`.

    It has no lock inside, so ``set()`` may be called from anywhere, a signal handler included: a waiter enters the
    list before it looks at the flag, and ``set()`` raises the flag before it looks at the list, so one of them sees
    the other.
    """

    __slots__ = ("__weakref__", "_flag", "_tickets")

    def __init__(self) -> None:
        self._flag = False
        # Each operation on it that is used here is a single one of the interpreter's.
        self._tickets: dict[Ticket, None] = {}

    def __repr__(self) -> str:
        return f"<Event at {id(self):#x}, {'set' if self._flag else 'unset'}, {len(self._tickets)} waiting>"

    def is_set(self) -> bool:
        """True after ``set()``, until ``clear()``."""
        return self._flag

    def set(self) -> None:
        """Raise the flag and wake all who wait. From anywhere."""
        self._flag = True
        loops = set()
        for ticket in list(self._tickets):
            self._tickets.pop(ticket, None)
            ticket.granted = True
            ticket.wake()
            loops.add(ticket.loop)
        if loops and threading.get_ident() == threading.main_thread().ident:
            # Perhaps in a signal handler. Python runs those in the middle of the loop's select(), which then goes on
            # (PEP 475) and knows nothing of what became ready in this same thread.
            for loop in loops:
                _poke(loop)

    def clear(self) -> None:
        """Lower the flag."""
        self._flag = False

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the flag is raised; False if ``timeout`` seconds (None: for ever) pass first.

        MisuseError in a coroutine that would have to wait.
        """
        if self._flag or (timeout is not None and timeout <= 0):
            return self._flag
        return stand(blocking_ticket(self, "await event.await_()"), self._enter, self._leave, timeout)

    async def await_(self, timeout: float | None = None) -> bool:
        """:meth:`wait` in a coroutine."""
        if self._flag or (timeout is not None and timeout <= 0):
            return self._flag
        return await astand(async_ticket(), self._enter, self._leave, timeout)

    def _enter(self, ticket: Ticket) -> bool:
        self._tickets[ticket] = None
        if self._flag:
            ticket.granted = True
        return ticket.granted

    def _leave(self, ticket: Ticket, giving_up: bool) -> bool:
        # A raised flag is for all: nothing to pass on.
        self._tickets.pop(ticket, None)
        return ticket.granted


def _poke(loop: asyncio.AbstractEventLoop | None) -> None:
    try:
        if loop is not None:
            loop.call_soon_threadsafe(_nothing)
    except RuntimeError:
        pass  # closed


def _nothing() -> None:
    pass


class Condition:
    """Waiting for a change of what a lock protects, as :class:`threading.Condition`.

    ``lock`` is a :class:`Lock` or :class:`RLock` of this package, an ``RLock`` of its own by default; TypeError for
    another. A coroutine writes ``async with condition: await condition.await_for(predicate)``.

    A waiter has the lock again whenever it returns from the wait, also by an exception; a kill or cancellation that
    reaches it while it waits for the lock is raised when it has it.
    """

    __slots__ = ("__weakref__", "_line", "_lock")

    def __init__(self, lock: Lock | RLock | None = None) -> None:
        if lock is None:
            lock = RLock()
        if not isinstance(lock, Lock | RLock):
            raise TypeError(f"a Condition needs a Lock or RLock of jackfield.sync, not {lock!r}")
        self._lock = lock
        # Guarded by the lock itself.
        self._line = Line()

    def __repr__(self) -> str:
        return f"<Condition at {id(self):#x} with {self._lock!r}, {len(self._line)} waiting>"

    # -- its lock ----------------------------------------------------------------------------------------------------

    def acquire(self, blocking: bool = True, timeout: float | None = -1) -> bool:
        """Take the lock: see :meth:`Lock.acquire`."""
        return self._lock.acquire(blocking, timeout)

    async def aacquire(self, timeout: float | None = -1) -> bool:
        """:meth:`acquire` in a coroutine."""
        return await self._lock.aacquire(timeout)

    def release(self) -> None:
        """Release the lock."""
        self._lock.release()

    def __enter__(self) -> bool:
        return self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    async def __aenter__(self) -> bool:
        return await self._lock.aacquire()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    # -- waiting -----------------------------------------------------------------------------------------------------

    def wait(self, timeout: float | None = None) -> bool:
        """Release the lock, wait to be notified, take the lock again; False if ``timeout`` seconds pass first.

        RuntimeError if the lock is not held. MisuseError in a coroutine.
        """
        self._check("wait on")
        ticket = blocking_ticket(self, "await condition.await_()")
        self._line.append(ticket)
        try:
            held = self._lock._let_go()
            try:
                if timeout is None or timeout > 0:
                    ticket.wait.wait(timeout)
            finally:
                self._take_back(held)
        except BaseException:
            self._leave(ticket, True)
            raise
        return self._leave(ticket, False)

    async def await_(self, timeout: float | None = None) -> bool:
        """:meth:`wait` in a coroutine."""
        self._check("wait on")
        ticket = async_ticket()
        self._line.append(ticket)
        try:
            held = self._lock._let_go()
            try:
                if timeout is None or timeout > 0:
                    await awoken(ticket, timeout)
            finally:
                await self._atake_back(held)
        except BaseException:
            self._leave(ticket, True)
            raise
        return self._leave(ticket, False)

    def wait_for(self, predicate: Callable[[], T], timeout: float | None = None) -> T:
        """Wait until ``predicate()``, called with the lock held, is true. Returns its last result."""
        deadline = None if timeout is None else monotonic() + timeout
        while not (result := predicate()):
            left = None if deadline is None else deadline - monotonic()
            if left is not None and left <= 0:
                break
            self.wait(left)
        return result

    async def await_for(self, predicate: Callable[[], T], timeout: float | None = None) -> T:
        """:meth:`wait_for` in a coroutine."""
        deadline = None if timeout is None else monotonic() + timeout
        while not (result := predicate()):
            left = None if deadline is None else deadline - monotonic()
            if left is not None and left <= 0:
                break
            await self.await_(left)
        return result

    def notify(self, n: int = 1) -> None:
        """Wake the ``n`` that have waited longest; they go on when the lock is released.

        RuntimeError if the lock is not held.
        """
        self._check("notify")
        self._grant(n)

    def notify_all(self) -> None:
        """Wake all who wait."""
        self.notify(len(self._line))

    def _check(self, verb: str) -> None:
        if not self._lock._is_held():
            raise RuntimeError(f"cannot {verb} un-acquired lock")

    def _grant(self, n: int) -> None:
        for ticket in self._line.grant(n):
            ticket.wake()

    def _leave(self, ticket: Ticket, giving_up: bool) -> bool:
        if not ticket.granted:
            self._line.discard(ticket)
        elif giving_up:
            self._grant(1)
        return ticket.granted

    def _take_back(self, held: object) -> None:
        """The lock again, whatever comes: the ``with`` around the wait will release it."""
        late: BaseException | None = None
        while True:
            try:
                self._lock._take_back(held)
                break
            except (GreenletError, MisuseError):
                raise  # nobody interrupts: it cannot wait here, now or later
            except BaseException as error:  # a kill or Ctrl-C, raised below
                late = error
        if late is not None:
            raise late

    async def _atake_back(self, held: object) -> None:
        late: asyncio.CancelledError | None = None
        while True:
            try:
                await self._lock._atake_back(held)
                break
            except asyncio.CancelledError as error:
                late = error
        if late is not None:
            raise late
