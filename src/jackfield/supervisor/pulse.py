"""A sign of life that only a loop that turns can give: what a service manager's watchdog is fed with.

A thread that feeds it whatever happens would prove that there is a thread.  Here a thread asks, by a byte in a pipe,
and each server's loop has to read it; when all have, the manager is told.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterable
from functools import partial
from typing import Protocol

__all__ = ["Pulse"]


class Watching(Protocol):
    """What it needs of a server."""

    @property
    def state(self) -> str: ...

    def also_watch(self, fd: int, then: Callable[[], object]) -> None: ...


class Pulse:
    """Asks the loops of ``servers`` every ``seconds`` whether they turn, and calls ``beat()`` each time all have.

    A server that has ended is not asked any more.  ``beat()`` is called on the thread of the loop that answered last,
    and must neither wait nor raise.  To be made before the servers start; :meth:`start` when they have, and
    :meth:`close` when they have ended: the pipes are watched until then.

    :param seconds: half of the watchdog's time (sd_watchdog_enabled(3)), so that one answer may be late.
    """

    def __init__(self, servers: Iterable[Watching], seconds: float, beat: Callable[[], object]) -> None:
        self._servers = list(servers)
        self._seconds = min(seconds, threading.TIMEOUT_MAX)
        self._beat = beat
        self._lock = threading.Lock()
        self._silent: set[int] = set(range(len(self._servers)))
        self._pipes: list[tuple[int, int]] = []
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        for number, server in enumerate(self._servers):
            # A pipe for each: whoever reads one empties it.
            reading, writing = os.pipe()
            self._pipes.append((reading, writing))
            os.set_blocking(reading, False)
            os.set_blocking(writing, False)
            server.also_watch(reading, partial(self._turned, number))

    def start(self) -> None:
        """Begin to ask, at once for the first time."""
        self._thread = threading.Thread(target=self._ask, name="jackfield-pulse", daemon=True)
        self._thread.start()

    def _ask(self) -> None:
        while not self._over.is_set():
            for _, writing in self._pipes:
                with contextlib.suppress(BlockingIOError):  # full of questions: that loop has not turned for long
                    os.write(writing, b"?")
            self._over.wait(self._seconds)

    def _turned(self, number: int) -> None:
        with self._lock:
            self._silent.discard(number)
            if any(self._servers[other].state not in ("stopped", "failed") for other in self._silent):
                return
            self._silent = set(range(len(self._servers)))
        self._beat()

    def close(self) -> None:
        """No more questions, and the pipes closed; any number of times. The servers have ended."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        pipes, self._pipes = self._pipes, []
        for pipe in pipes:
            for end in pipe:
                os.close(end)
