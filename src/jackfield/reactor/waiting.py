"""One wait, whoever waits: a green thread, a plain thread or a coroutine.

Each kind has the same two sides: the one who waits calls ``wait()``, once; anyone calls ``wake()``, from any thread,
any number of times. A wake that comes before the wait is not lost. Everything else that blocks (joins, locks, queues,
offloaded calls) is written on these.
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Protocol

from greenlet import getcurrent

if TYPE_CHECKING:
    from .core import Reactor
    from .greens import GreenThread


class Wait(Protocol):
    """The side that wakes."""

    @property
    def woken(self) -> bool: ...

    def wake(self) -> None: ...


class BlockingWait(Wait, Protocol):
    """The side of blocking-style code."""

    def wait(self, timeout: float | None = None) -> bool:
        """Block until woken; False if ``timeout`` seconds pass first."""
        ...


class GreenWait:
    """A green thread waits: it is parked and the loop goes on."""

    __slots__ = ("_green", "_parked", "_reactor", "woken")

    def __init__(self, green: GreenThread) -> None:
        self._green = green
        self._reactor: Reactor = green.reactor
        self._parked = False
        self.woken = False

    def wait(self, timeout: float | None = None) -> bool:
        if self.woken:
            return True
        self.park(None if timeout is None else self._reactor.clock.now() + timeout)
        return self.woken

    def park(self, deadline: float | None = None) -> None:
        """Wait for the turn that ``wake()`` asked for, even if it was asked for already."""
        self._parked = True
        try:
            self._green.park(deadline)
        finally:
            self._parked = False

    def wake(self) -> None:
        if not self.woken:
            self.woken = True
            self._reactor.schedule_from_anywhere(self)

    def switch(self) -> None:
        # The turn may come late: the deadline or a kill may have resumed the green thread, and it waits elsewhere.
        if self._parked:
            self._parked = False
            self._green.switch()


class ThreadWait:
    """A plain thread waits: it blocks on a lock, which costs less than a Condition and takes signals as well."""

    __slots__ = ("_lock", "woken")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()
        self.woken = False

    def wait(self, timeout: float | None = None) -> bool:
        if not self.woken:
            self._lock.acquire(timeout=-1 if timeout is None else max(0.0, min(timeout, threading.TIMEOUT_MAX)))
        return self.woken

    def wake(self) -> None:
        self.woken = True
        try:
            self._lock.release()
        except RuntimeError:
            pass  # woken before: an unlocked lock says so, and two threads may well wake at once


class AsyncWait:
    """A coroutine waits, on the loop that runs in this thread."""

    __slots__ = ("_future", "_loop", "_thread_id", "woken")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread_id = threading.get_ident()
        self._future: asyncio.Future[None] = self._loop.create_future()
        self.woken = False

    async def wait(self) -> None:
        if not self.woken:
            await self._future

    def wake(self) -> None:
        if self.woken:
            return
        self.woken = True
        if threading.get_ident() == self._thread_id:
            self._resolve()
            return
        try:
            self._loop.call_soon_threadsafe(self._resolve)
        except RuntimeError:
            if not self._loop.is_closed():
                raise

    def _resolve(self) -> None:
        if not self._future.done() and not self._loop.is_closed():
            self._future.set_result(None)


def blocking_wait() -> GreenWait | ThreadWait:
    """A wait for the blocking-style code that calls: of its green thread, or else of its thread."""
    current = getcurrent()
    # Asked by name and not by class, because greens.py is written on this module.
    return GreenWait(current) if hasattr(current, "park") else ThreadWait()  # type: ignore[arg-type]
