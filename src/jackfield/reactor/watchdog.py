"""The watchdog: notices a handler that holds the loop, and logs the line that does it.

It rests while the reactor is idle, so an idle server makes no wake-ups; while there is work it looks once a period,
from a thread of its own, whether the same turn is still running.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import traceback
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .core import Reactor

_log = logging.getLogger("jackfield.watchdog")

#: Seconds that one turn may hold the loop before it is reported; asyncio's debug mode takes 0.1, which a page fault or
#: a garbage collection reaches on a busy machine.
THRESHOLD = 0.25

#: Frames of the stack that are logged, innermost last.
DEPTH = 8


@contextlib.contextmanager
def watched(reactor: Reactor) -> Iterator[None]:
    """A watchdog for as long as something serves on ``reactor``; the one that is there already, if there is one."""
    if reactor.watchdog is not None:
        yield
        return
    watchdog = reactor.watchdog = Watchdog(reactor)
    try:
        yield
    finally:
        reactor.watchdog = None
        watchdog.close()


class Watchdog:
    """Watches one reactor. ``threshold`` in seconds; a turn is reported after at most twice that, once, and again each
    time it has lasted twice as long as at the report before."""

    def __init__(self, reactor: Reactor, threshold: float = THRESHOLD) -> None:
        self._poller = reactor.poller
        self._thread_id = reactor.thread_id
        self._threshold = threshold
        self._work = threading.Event()
        self._closed = threading.Event()
        #: True while it waits for the reactor to have work; the reactor then calls ``rouse()``.
        self.resting = True
        self._thread = threading.Thread(target=self._watch, name="jackfield-watchdog", daemon=True)
        self._thread.start()

    def rouse(self) -> None:
        self.resting = False
        self._work.set()

    def close(self) -> None:
        self._closed.set()
        self._work.set()
        if self._thread.ident != threading.get_ident():
            self._thread.join()

    def _watch(self) -> None:
        poller = self._poller
        while True:
            self._work.wait()
            if self._closed.is_set():
                return
            self._work.clear()
            turn: tuple[object, int] | None = None
            held, report_at = 0.0, self._threshold
            while not self._closed.wait(self._threshold):
                if not poller.dispatching:
                    self.resting = True
                    break
                now = (poller.current, poller.rounds)
                if now != turn:
                    turn, held, report_at = now, 0.0, self._threshold
                    continue
                held += self._threshold
                if held >= report_at:
                    self._report(held)
                    report_at = 2 * held
            else:
                return

    def _report(self, held: float) -> None:
        frame = sys._current_frames().get(self._thread_id)
        if frame is None:
            return
        stack = traceback.extract_stack(frame)[-DEPTH:]
        where = stack[-1]
        _log.warning(
            "a handler has held the loop for %.2g s at %s:%s in %s(); give blocking calls to jackfield.offload()\n%s",
            held, where.filename, where.lineno, where.name, "".join(traceback.format_list(stack)).rstrip(),
        )  # fmt: skip
