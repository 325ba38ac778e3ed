"""What every mode shares: the units that run, how many there may be, and waiting for them to end."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from ..journal import standing_journal
from ..reactor import blocking_wait

U = TypeVar("U")

_journal = standing_journal(logging.getLogger("jackfield.server"))


def report(error: BaseException) -> None:
    """Report what a unit let out as a thread of the system would, by ``threading.excepthook``."""
    if isinstance(error, SystemExit):
        # The hook passes over it in silence.
        _journal.write(logging.ERROR, "a handler ended by %s", repr(error), kind="handlers that ended by SystemExit")
    threading.excepthook(
        threading.ExceptHookArgs((type(error), error, error.__traceback__, threading.current_thread()))
    )


class Mode(Protocol):
    """A way to run admitted work: each call of :meth:`start` is one unit (a thread, a process, a green thread …)."""

    #: Called, from any thread, when a unit ended and there was no room before.
    on_room: Callable[[], object] | None
    #: Called, from any thread, when the last unit ended.
    on_idle: Callable[[], object] | None
    limit: int | None

    @property
    def live(self) -> int:
        """Units that run."""
        ...

    @property
    def full(self) -> bool:
        """No room for another; whoever accepts waits for ``on_room``."""
        ...

    def start(self, work: Callable[..., Any], *args: Any) -> None:
        """Run ``work(*args)`` as a unit. OSError or RuntimeError when the system gives none (threads, processes)."""
        ...

    def join(self, timeout: float | None = None) -> bool:
        """Wait until no unit runs; False if ``timeout`` seconds pass first. From blocking-style code."""
        ...

    def cut(self) -> None:
        """End what can be ended from outside. A thread cannot: its connection is shut down by whoever owns that."""
        ...

    def close(self) -> None:
        """Give back what the mode itself holds, once its units have ended."""
        ...


class Units(Generic[U]):
    """The live units of one mode. Adding and removing cost the same however many there are."""

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.on_room: Callable[[], object] | None = None
        self.on_idle: Callable[[], object] | None = None
        self._live: set[U] = set()
        self._lock = threading.Lock()
        self._waits: list[Any] = []
        self._room_waits: list[Any] = []

    @property
    def live(self) -> int:
        return len(self._live)

    @property
    def full(self) -> bool:
        return self.limit is not None and len(self._live) >= self.limit

    def has_room_for(self, number: int) -> bool:
        """Whether so many more may be started at once."""
        return self.limit is None or len(self._live) + number <= self.limit

    def __iter__(self) -> Any:
        with self._lock:
            return iter(list(self._live))

    def add(self, unit: U) -> None:
        with self._lock:
            self._live.add(unit)

    def ended(self, unit: U) -> None:
        """Called by the unit itself, as the last thing it does."""
        waits: list[Any] = []
        with self._lock:
            live, limit = self._live, self.limit
            was_full = limit is not None and len(live) >= limit
            live.discard(unit)
            if live and not was_full:
                return  # nobody waits for this one
            idle = not live
            if idle:
                waits, self._waits = self._waits, []
            if was_full:
                waits += self._room_waits
                self._room_waits = []
        for wait in waits:
            wait.wake()
        if idle and self.on_idle is not None:
            self.on_idle()
        if was_full and self.on_room is not None:
            self.on_room()

    def wait_room(self) -> None:
        """Wait until there is room, for an accept loop that is not of this package."""
        while self.full:
            wait = blocking_wait()
            with self._lock:
                if not self.full:
                    return
                self._room_waits.append(wait)
            wait.wait()

    def join(self, timeout: float | None = None) -> bool:
        wait = blocking_wait()
        with self._lock:
            if not self._live:
                return True
            self._waits.append(wait)
        try:
            return wait.wait(timeout)
        finally:
            with self._lock:
                if wait in self._waits:
                    self._waits.remove(wait)

    def cut(self) -> None:
        pass

    def close(self) -> None:
        pass
