"""The end of a server, and who waits for it: threads, green threads and coroutines, at once."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

from ..reactor import AsyncWait, blocking_wait


class _Call:
    """Waits by being called."""

    def __init__(self, then: Callable[[], object]) -> None:
        self.wake = then


class Ended:
    """Set once, when all is over. Unlike an event of :mod:`jackfield.sync` it lets a thread that runs a loop wait for a
    server on another one."""

    def __init__(self) -> None:
        self._flag = threading.Event()
        self._waits: list[Any] = []

    def is_set(self) -> bool:
        return self._flag.is_set()

    def call(self, then: Callable[[], object]) -> None:
        """Call ``then()`` at the end, on whatever thread; at once if that has come."""
        self._waits.append(_Call(then))
        if self._flag.is_set():
            waits, self._waits = self._waits, []
            for wait in waits:
                wait.wake()

    def set(self) -> None:
        """All is over: wake all who wait."""
        self._flag.set()
        waits, self._waits = self._waits, []
        for wait in waits:
            wait.wake()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait in blocking-style code; False if ``timeout`` seconds (None: for ever) pass first."""
        if self._flag.is_set():
            return True
        wait = blocking_wait()
        self._waits.append(wait)
        if self._flag.is_set():
            wait.wake()
        try:
            wait.wait(timeout)
        finally:
            self._forget(wait)
        return self._flag.is_set()

    async def await_(self) -> None:
        """The same in a coroutine."""
        wait = AsyncWait()
        self._waits.append(wait)
        try:
            if not self._flag.is_set():
                await wait.wait()
        finally:
            self._forget(wait)

    def _forget(self, wait: Any) -> None:
        with contextlib.suppress(ValueError):
            self._waits.remove(wait)
