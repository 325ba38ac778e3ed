"""Locks and semaphores, served in the order in which they were asked for."""

from __future__ import annotations

from types import TracebackType

from .lines import Permits, myself


def _seconds(blocking: bool, timeout: float | None) -> float | None:
    """How long to wait, from the two arguments of the standard library's locks: None for ever, 0.0 not at all."""
    if timeout is None or timeout == -1:
        return None if blocking else 0.0
    if not blocking:
        raise ValueError("can't specify a timeout for a non-blocking call")
    if timeout < 0:
        raise ValueError("timeout value must be a non-negative number")
    return timeout


class _Exclusive:
    """The ``with`` and ``async with`` that all of these have."""

    __slots__ = ()

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        raise NotImplementedError

    async def aacquire(self, timeout: float | None = None) -> bool:
        raise NotImplementedError

    def release(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    async def __aenter__(self) -> bool:
        return await self.aacquire()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class Lock(_Exclusive):
    """A lock, as :class:`threading.Lock`: one holder at a time, and anyone may release it.

    The holder may be a green thread, a plain thread or a coroutine, which writes ``async with lock`` or
    ``await lock.aacquire()``.
    """

    __slots__ = ("__weakref__", "_permits")

    def __init__(self) -> None:
        self._permits = Permits(1)

    def __repr__(self) -> str:
        return f"<{_state(self.locked())} Lock at {id(self):#x}, {self._permits.waiting} waiting>"

    def acquire(self, blocking: bool = True, timeout: float | None = -1) -> bool:
        """Take the lock; False if that would mean to wait, with ``blocking=False``, or longer than ``timeout`` s.

        -1 waits for ever. ValueError for another negative timeout, or a timeout where it should not wait. MisuseError
        in a coroutine that would have to wait.
        """
        seconds = _seconds(blocking, timeout)
        if self._permits.take():
            return True
        return seconds != 0 and self._permits.wait(seconds, self, "async with lock")

    async def aacquire(self, timeout: float | None = -1) -> bool:
        """:meth:`acquire` in a coroutine."""
        seconds = _seconds(True, timeout)
        if self._permits.take():
            return True
        return seconds != 0 and await self._permits.await_(seconds)

    def release(self) -> None:
        """Hand the lock to the one who has waited longest. RuntimeError if it is not locked."""
        if not self._permits.give(limit=1):
            raise RuntimeError("release unlocked lock")

    def locked(self) -> bool:
        """True while somebody holds it."""
        return not self._permits.free

    # What a Condition asks of its lock.

    def _is_held(self) -> bool:
        return self.locked()

    def _let_go(self) -> object:
        self.release()
        return None

    def _take_back(self, held: object) -> None:
        self.acquire()

    async def _atake_back(self, held: object) -> None:
        await self.aacquire()


class RLock(_Exclusive):
    """A lock that its owner may take again, as :class:`threading.RLock`; it is free after as many releases.

    The owner is the green thread, the task of the coroutine, or the plain thread that took it. A green thread or a task
    that a function starts is somebody else.
    """

    __slots__ = ("__weakref__", "_depth", "_owner", "_permits")

    def __init__(self) -> None:
        self._permits = Permits(1)
        self._owner: object = None
        self._depth = 0

    def __repr__(self) -> str:
        held = f" {self._depth} deep by {self._owner!r}" if self._depth else ""
        return f"<{_state(self.locked())} RLock at {id(self):#x}{held}, {self._permits.waiting} waiting>"

    def acquire(self, blocking: bool = True, timeout: float | None = -1) -> bool:
        """As :meth:`Lock.acquire`; at once if the caller owns it."""
        seconds = _seconds(blocking, timeout)
        me = myself()
        if self._owner == me:
            self._depth += 1
            return True
        if not self._permits.take() and (seconds == 0 or not self._permits.wait(seconds, self, "async with lock")):
            return False
        self._owner, self._depth = me, 1
        return True

    async def aacquire(self, timeout: float | None = -1) -> bool:
        """:meth:`acquire` in a coroutine."""
        seconds = _seconds(True, timeout)
        me = myself()
        if self._owner == me:
            self._depth += 1
            return True
        if not self._permits.take() and (seconds == 0 or not await self._permits.await_(seconds)):
            return False
        self._owner, self._depth = me, 1
        return True

    def release(self) -> None:
        """Undo one ``acquire``. RuntimeError if the caller does not own it."""
        if not self._is_held():
            raise RuntimeError("cannot release un-acquired lock")
        if self._depth == 1:
            self._let_go()
        else:
            self._depth -= 1

    def locked(self) -> bool:
        """True while somebody holds it."""
        return not self._permits.free

    def _is_held(self) -> bool:
        return bool(self._owner == myself())

    def _let_go(self) -> object:
        held = self._owner, self._depth
        self._owner, self._depth = None, 0
        self._permits.give()
        return held

    def _take_back(self, held: object) -> None:
        if not self._permits.take():
            self._permits.wait(None, self, "async with lock")
        self._owner, self._depth = held  # type: ignore[misc]

    async def _atake_back(self, held: object) -> None:
        if not self._permits.take():
            await self._permits.await_(None)
        self._owner, self._depth = held  # type: ignore[misc]


class Semaphore(_Exclusive):
    """A number of permits, as :class:`threading.Semaphore`. ValueError for a start below 0."""

    __slots__ = ("__weakref__", "_permits")

    def __init__(self, value: int = 1) -> None:
        if value < 0:
            raise ValueError("semaphore initial value must be >= 0")
        self._permits = Permits(value)

    def __repr__(self) -> str:
        permits = self._permits
        return f"<{type(self).__name__} at {id(self):#x}, {permits.free} free, {permits.waiting} waiting>"

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        """Take a permit; False if that would mean to wait, with ``blocking=False``, or longer than ``timeout`` s.

        None waits for ever. ValueError for a timeout where it should not wait. MisuseError in a coroutine that would
        have to wait.
        """
        if not blocking and timeout is not None:
            raise ValueError("can't specify timeout for non-blocking acquire")
        if self._permits.take():
            return True
        return _waits(blocking, timeout) and self._permits.wait(timeout, self, "async with semaphore")

    async def aacquire(self, timeout: float | None = None) -> bool:
        """:meth:`acquire` in a coroutine."""
        if self._permits.take():
            return True
        return _waits(True, timeout) and await self._permits.await_(timeout)

    def release(self, n: int = 1) -> None:
        """Give ``n`` permits, to those who have waited longest. ValueError for less than 1."""
        if n < 1:
            raise ValueError("n must be one or more")
        self._permits.give(n)


class BoundedSemaphore(Semaphore):
    """A semaphore that never has more permits free than at its start: to release one too many is a ValueError."""

    __slots__ = ("_start",)

    def __init__(self, value: int = 1) -> None:
        super().__init__(value)
        self._start = value

    def release(self, n: int = 1) -> None:
        """As :meth:`Semaphore.release`. ValueError, and nothing given, if more would be free than at the start."""
        if n < 1:
            raise ValueError("n must be one or more")
        if not self._permits.give(n, self._start):
            raise ValueError("Semaphore released too many times")


def _waits(blocking: bool, timeout: float | None) -> bool:
    return blocking and (timeout is None or timeout > 0)


def _state(locked: bool) -> str:
    return "locked" if locked else "unlocked"
