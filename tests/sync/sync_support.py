"""What the tests of locks, events and queues share: things to wait for, waits that are scripted, threads that tell."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from greenlet import getcurrent

from jackfield.reactor import GreenThread, sleep
from jackfield.sync import BoundedSemaphore, Condition, Empty, Event, Full, Lock, Queue, RLock, Semaphore
from jackfield.sync.lines import Ticket, stand

SOON = 10.0  # seconds that nothing here takes


def waiting(thing: Any, line: str = "") -> int:
    """How many wait for it now."""
    if isinstance(thing, Queue):
        return len(getattr(thing, line))
    if isinstance(thing, Event):
        return len(thing._tickets)
    if isinstance(thing, Condition):
        return len(thing._line)
    return int(thing._permits.waiting)


def until(condition: Callable[[], bool]) -> None:
    """Give the others turns until it holds: in a green thread or in a plain one, bounded by the test's timeout."""
    while not condition():
        sleep(0 if isinstance(getcurrent(), GreenThread) else 0.0005)


class Killed(BaseException):
    pass


class ScriptedWait:
    """A wait in which ``during()`` happens; it returns whether it was woken, or raises."""

    def __init__(self, during: Callable[[], object]) -> None:
        self.during = during
        self.woken = False

    def wait(self, timeout: float | None = None) -> bool:
        self.during()
        return self.woken

    def wake(self) -> None:
        self.woken = True


@contextmanager
def threads(*bodies: Callable[[], object]) -> Iterator[list[BaseException]]:
    """Runs each in a plain thread, joins them at the end, and raises what they raised."""
    errors: list[BaseException] = []

    def guarded(body: Callable[[], object]) -> None:
        try:
            body()
        except BaseException as error:
            errors.append(error)

    running = [threading.Thread(target=guarded, args=(body,), daemon=True) for body in bodies]
    for thread in running:
        thread.start()
    yield errors
    for thread in running:
        thread.join(SOON)
        assert not thread.is_alive(), "a thread still waits"
    if errors:
        raise errors[0]


class Subject:
    """Something to wait for that is taken, how each kind waits for it, and what hands it over."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.thing: Any
        self.enter: Callable[[Ticket], bool]
        self.leave: Callable[[Ticket, bool], bool]
        if name not in ("get", "put"):
            self.thing = {kind.__name__: kind for kind in (Lock, RLock, Semaphore, BoundedSemaphore)}[name]()
            # Without an owner, which an RLock would ask for: its own rules have tests of their own.
            self.thing._permits.take()
            self.line = ""
            self.enter, self.leave = self.thing._permits.enter, self.thing._permits.leave
        elif name == "get":
            self.thing, self.line = Queue(), "_getters"
            self.enter, self.leave = self.thing._enter_get, self.thing._leave_get
        else:
            self.thing, self.line = Queue(1), "_putters"
            self.enter, self.leave = self.thing._enter_put, self.thing._leave_put
            self.thing.put("first")

    def wait(self, timeout: float | None = None) -> bool:
        if self.name == "put":
            return _as_bool(Full, lambda: self.thing.put("mine", timeout=timeout))
        if self.name == "get":
            return _as_bool(Empty, lambda: self.thing.get(timeout=timeout))
        return bool(self.thing.acquire(timeout=-1 if timeout is None and "Lock" in self.name else timeout))

    async def await_(self, timeout: float | None = None) -> bool:
        try:
            if self.name == "put":
                await self.thing.aput("mine", timeout)
            elif self.name == "get":
                await self.thing.aget(timeout)
            else:
                return bool(await self.thing.aacquire(timeout))
        except (Full, Empty):
            return False
        return True

    def stand(self, during: Callable[[], object], timeout: float | None = None) -> bool:
        """The wait, with a script in the place of the waiting."""
        return stand(Ticket(ScriptedWait(during), None, "mine"), self.enter, self.leave, timeout)

    def hand_over(self) -> None:
        if self.name == "put":
            self.thing.get_nowait()
        elif self.name == "get":
            self.thing.put_nowait("item")
        elif self.name == "RLock":
            self.thing._permits.give()
        else:
            self.thing.release()

    def waiting(self) -> int:
        return waiting(self.thing, self.line)

    def is_free(self) -> bool:
        """True if what was handed over is there for the next."""
        if self.name == "put":
            return not self.thing._reserved and not self.thing.full()
        if self.name == "get":
            return bool(self.thing.qsize() == 1)
        return bool(self.thing._permits.free == 1)


def _as_bool(error: type[Exception], call: Callable[[], object]) -> bool:
    try:
        call()
    except error:
        return False
    return True


SUBJECTS = ["Lock", "RLock", "Semaphore", "BoundedSemaphore", "get", "put"]
