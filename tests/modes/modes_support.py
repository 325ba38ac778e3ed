"""What the tests of the modes share: units whose thread is known, and waiting until a thread has come to rest."""

from __future__ import annotations

import contextlib
import select
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from jackfield.modes import Threads

#: Seconds that nothing here takes, and after which a wait is called hung.
SOON = 20.0

#: Seconds that no test waits for: a thread that waits so long for work does not end by itself.
LONG = 3600.0


def until(condition: Callable[[], object]) -> None:
    """Wait until ``condition()`` holds; an AssertionError after SOON."""
    deadline = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < deadline, f"it never came to {condition}"
        select.select([], [], [], 0.0005)


def waiting(threads: Threads) -> int:
    """Threads that wait for a unit."""
    return len(threads._spares._waiting)


def settled(threads: Threads) -> bool:
    """No unit runs, and no thread is on its way to wait, or to its end."""
    return not threads.live and waiting(threads) == len(threads._spares.staff)


@contextlib.contextmanager
def crew(limit: int | None = None, *, daemon: bool = False, idle_seconds: float = LONG) -> Iterator[Threads]:
    """Threads whose last one has ended when the block has."""
    threads = Threads(limit, daemon=daemon, idle_seconds=idle_seconds)
    try:
        yield threads
    finally:
        assert threads.join(SOON)


def name_of_thread(threads: Threads, work: Callable[[], Any] = lambda: None) -> str:
    """Run ``work`` as a unit; the name its thread had at the beginning, once that thread waits or has ended. No two
    threads have the same, while the system gives a number again."""
    names: list[str] = []

    def unit() -> None:
        names.append(threading.current_thread().name)
        work()

    threads.start(unit)
    until(lambda: settled(threads))
    assert len(names) == 1
    return names[0]
