"""Datagrams: a few workers for many, in order for each peer.

A handler that does not block costs no unit of its own: one worker takes datagram after datagram. One that blocks keeps
its worker, and another goes on with the rest.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from ..door import PeerQueue
from .units import Mode

#: Datagrams that may wait for a worker; above that the newest is dropped and counted.
QUEUE = 1000


class Crew:
    """Workers of ``mode`` for the datagrams of one server, ``limit`` of them at most."""

    def __init__(self, mode: Mode, limit: int, *, queue: int = QUEUE) -> None:
        self._mode = mode
        self._limit = limit
        self._lock = threading.Lock()
        self._queue: PeerQueue[Any, tuple[Callable[..., Any], tuple[Any, ...]]] = PeerQueue(queue)
        self._workers = 0

    @property
    def dropped(self) -> int:
        """Datagrams dropped because too many waited."""
        return self._queue.dropped

    def submit(self, peer: Any, work: Callable[..., Any], *args: Any) -> bool:
        """Have ``work(*args)`` done after what is there from ``peer`` already. False if it was dropped.

        What the mode raises where the system gives no unit, and none is at work; ``work`` is not called then.
        """
        entry = (work, args)
        with self._lock:
            if not self._queue.put(peer, entry):
                return False
            # A worker that is not in the middle of a datagram takes this one next; or one that is, of the same peer.
            if not self._queue.available or self._workers > self._queue.in_hand or self._workers >= self._limit:
                return True
            self._workers += 1
        try:
            self._hire()
        except BaseException:
            with self._lock:
                lost = self._queue.withdraw(peer, entry)  # or a worker was there, and took it, before this one failed
            if lost:
                raise
        return True

    def _hire(self) -> None:
        try:
            self._mode.start(self._work)
        except BaseException:
            with self._lock:
                self._workers -= 1
                alone = not self._workers
            if alone:
                raise  # with others at work it only takes longer

    def _work(self) -> None:
        while (entry := self._next()) is not None:
            peer, (work, args) = entry
            try:
                work(*args)
            except BaseException:
                self._quit(peer)
                raise
            self._done(peer)

    def _next(self) -> tuple[Any, tuple[Callable[..., Any], tuple[Any, ...]]] | None:
        with self._lock:
            entry = self._queue.take()
            if entry is None:
                # In one step with the look: whoever puts something now finds that it has to hire.
                self._workers -= 1
                return None
            # This one may be busy for long: somebody has to be there for the rest.
            alone = self._queue.available and self._workers <= self._queue.in_hand and self._workers < self._limit
            self._workers += alone
        if alone:
            try:
                self._hire()
            except (OSError, RuntimeError):
                pass  # the system gives no other unit: what waits is for this one
        return entry

    def _done(self, peer: Any) -> None:
        with self._lock:
            self._queue.done(peer)

    def _quit(self, peer: Any) -> None:
        """A worker ends in the middle of its work: another takes its place if anything waits."""
        with self._lock:
            self._queue.done(peer)
            successor = len(self._queue) > 0
            self._workers -= not successor
        if successor:
            self._hire()


class AsyncCrew(Crew):
    """The same with coroutines for workers; ``work`` is a coroutine function."""

    async def _work(self) -> None:  # type: ignore[override]
        while (entry := self._next()) is not None:
            peer, (work, args) = entry
            try:
                await work(*args)
            except BaseException:
                self._quit(peer)
                raise
            self._done(peer)
