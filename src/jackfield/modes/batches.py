"""Datagrams by the batch, for units that run one at a time: green threads and coroutines.

A worker takes a whole batch as it came, with nothing noted of it in between. A look right after its first turn finds
the batch worked off; or not, and then the handler of one datagram waits: that worker keeps it, as one of a crew, and
another goes on with the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import length_hint
from typing import Any

from ..door import Datagram
from ..reactor import current_reactor
from .datagrams import AsyncCrew, Crew


class Batch:
    """What came at one go, and what becomes of each: ``work(datagram)`` handles it, ``failed(datagram, error)`` is told
    what that raised, and ``lost(datagram, error)`` why there was no unit for it."""

    __slots__ = ("crew", "failed", "items", "lost", "over", "peer", "turn", "work")

    def __init__(
        self,
        items: Iterable[Datagram],
        work: Callable[[Datagram], Any],
        failed: Callable[[Datagram, BaseException], object],
        lost: Callable[[Datagram, BaseException], object],
    ) -> None:
        self.items = iter(items)
        self.work = work
        self.failed = failed
        self.lost = lost
        self.crew: GreenCrew | AsyncBatchCrew | None = None
        #: Whose datagram its worker has in hand.
        self.peer: Any = _NOBODY
        #: Which worker has the batch.
        self.turn = 0
        self.over = False

    def switch(self) -> None:
        """The look. Its turn comes after the first one of the worker, before anybody else takes up datagrams."""
        if not self.over:
            assert self.crew is not None
            self.crew.go_on(self)


_NOBODY = object()


class _InBatches(Crew):
    """What both kinds of crew do with a batch. All on the reactor's own thread."""

    def take(self, batch: Batch) -> None:
        """Have all of ``batch`` handled, each peer's in order; what there is no room for is dropped and counted."""
        batch.crew = self  # type: ignore[assignment]
        self._begin(batch)

    def go_on(self, batch: Batch) -> None:
        """The worker of ``batch`` waits in the midst of a datagram, or has ended by an error."""
        if batch.peer is not _NOBODY:
            self._queue.hold(batch.peer)
            self._workers += 1
            batch.peer = _NOBODY
        batch.turn += 1
        if length_hint(batch.items):
            self._begin(batch)
        else:
            batch.over = True

    def _begin(self, batch: Batch) -> None:
        while self._workers < self._limit:
            try:
                self._mode.start(self._work_off, batch, batch.turn)
            except (OSError, RuntimeError) as error:
                if self._workers:
                    break  # it only takes longer
                batch.lost(next(batch.items), error)
                if not length_hint(batch.items):
                    break
            else:
                current_reactor().schedule(batch)
                return
        for datagram in batch.items:
            self._put(batch, datagram)
        batch.over = True

    def _put(self, batch: Batch, datagram: Datagram) -> None:
        """It has to wait for a worker, or for another one of its peer."""
        try:
            self.submit(datagram.peer, self._handle, batch, datagram)
        except (OSError, RuntimeError) as error:
            batch.lost(datagram, error)

    def _handle(self, batch: Batch, datagram: Datagram) -> Any:
        raise NotImplementedError

    def _work_off(self, batch: Batch, turn: int) -> Any:
        raise NotImplementedError

    def _left(self, batch: Batch, turn: int, peer: Any) -> None:
        """A worker ends in the middle of its work."""
        if batch.turn == turn:
            batch.peer = _NOBODY  # the look finds that, and another goes on
        else:
            self._quit(peer)


class GreenCrew(_InBatches):
    """A :class:`Crew` of green threads."""

    def _work_off(self, batch: Batch, turn: int) -> None:
        queue, work, peer = self._queue, batch.work, None
        idle = queue.idle  # and stays that: whoever lets others have a turn leaves this loop
        try:
            for datagram in batch.items:
                peer = datagram[1]
                if not idle and queue.knows(peer):
                    self._put(batch, datagram)
                    continue
                batch.peer = peer
                try:
                    work(datagram)
                except BaseException as error:
                    batch.failed(datagram, error)
                if batch.turn != turn:
                    break  # it has waited, and another has the batch
            else:
                batch.over = True
                return
        except BaseException:
            self._left(batch, turn, peer)
            raise
        self._done(peer)
        self._work()

    def _handle(self, batch: Batch, datagram: Datagram) -> None:
        try:
            batch.work(datagram)
        except BaseException as error:
            batch.failed(datagram, error)


class AsyncBatchCrew(_InBatches, AsyncCrew):
    """The same with coroutines; ``work(datagram)`` gives one to be awaited."""

    async def _work_off(self, batch: Batch, turn: int) -> None:
        queue, work, peer = self._queue, batch.work, None
        idle = queue.idle  # and stays that: whoever lets others have a turn leaves this loop
        try:
            for datagram in batch.items:
                peer = datagram[1]
                if not idle and queue.knows(peer):
                    self._put(batch, datagram)
                    continue
                batch.peer = peer
                try:
                    await work(datagram)
                except BaseException as error:
                    batch.failed(datagram, error)
                if batch.turn != turn:
                    break
            else:
                batch.over = True
                return
        except BaseException:
            self._left(batch, turn, peer)
            raise
        self._done(peer)
        await self._work()

    async def _handle(self, batch: Batch, datagram: Datagram) -> None:
        try:
            await batch.work(datagram)
        except BaseException as error:
            batch.failed(datagram, error)
