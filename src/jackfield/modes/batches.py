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
from ..door.outgoing import Outgoing
from ..reactor import current_reactor
from ..streams import AsyncSocket
from .datagrams import AsyncCrew, Crew


class Batch:
    """What came at one go, and what becomes of each: ``work(datagram)`` handles it, ``failed(datagram, error)`` is told
    what that raised, and ``lost(datagram, error)`` why there was no unit for it. ``outgoing`` gathers the replies, and
    ``free`` are hosts whose replies no limit has a say in; None where each is sent by itself."""

    __slots__ = ("crew", "failed", "free", "items", "lost", "outgoing", "over", "peer", "turn", "work")

    def __init__(
        self,
        items: Iterable[Datagram],
        work: Callable[[Datagram], Any],
        failed: Callable[[Datagram, BaseException], object],
        lost: Callable[[Datagram, BaseException], object],
        outgoing: Outgoing | None = None,
        free: set[str] = frozenset(),  # type: ignore[assignment]
    ) -> None:
        self.items = iter(items)
        self.outgoing = outgoing
        self.free = free
        self.work = work
        self.failed = failed
        self.lost = lost
        self.crew: GreenCrew | AsyncBatchCrew | None = None
        #: Whose datagram its worker has in hand.
        self.peer: Any = _NOBODY
        #: Which worker has the batch.
        self.turn = 0
        self.over = False

    def open(self) -> Outgoing | None:
        """A worker begins with what is left: what gathers the replies of that."""
        outgoing = self.outgoing
        return outgoing if outgoing is not None and outgoing.open(self.free) else None

    def close(self) -> Outgoing | None:
        """The worker is through, or waits: what gathered the replies, if some of them are left to be sent."""
        outgoing = self.outgoing
        if outgoing is None:
            return None
        outgoing.close()
        return None if outgoing.send() else outgoing

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
        left = batch.close()
        if left is not None:
            self._send_rest(left)
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

    def _send_rest(self, outgoing: Outgoing) -> None:
        """The kernel's buffer is full, or refuses a reply: a unit of its own waits, or is told."""
        try:
            self._mode.start(self._finish, outgoing)
        except (OSError, RuntimeError):
            pass  # as many units as there may be: the next one that has something to send sends these before

    def _finish(self, outgoing: Outgoing) -> Any:
        raise NotImplementedError

    def _left(self, batch: Batch, turn: int, peer: Any) -> None:
        """A worker ends in the middle of its work."""
        if batch.turn == turn:
            batch.peer = _NOBODY  # the look finds that, and another goes on
        else:
            self._quit(peer)


class GreenCrew(_InBatches):
    """A :class:`Crew` of green threads."""

    def _finish(self, outgoing: Outgoing) -> None:
        outgoing.finish()

    def _work_off(self, batch: Batch, turn: int) -> None:
        queue, work, peer = self._queue, batch.work, None
        idle = queue.idle  # and stays that: whoever lets others have a turn leaves this loop
        outgoing = batch.open()
        try:
            for datagram in batch.items:
                peer = datagram[1]
                if not idle and queue.knows(peer):
                    self._put(batch, datagram)
                    continue
                batch.peer = peer
                if outgoing is not None:
                    outgoing.peer = peer
                try:
                    work(datagram)
                except BaseException as error:
                    batch.failed(datagram, error)
                if batch.turn != turn:
                    break  # it has waited, and another has the batch
            else:
                batch.over = True
                left = batch.close()
                if left is not None:
                    left.finish()
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

    async def _finish(self, outgoing: Outgoing) -> None:
        await outgoing.afinish(AsyncSocket)

    async def _work_off(self, batch: Batch, turn: int) -> None:
        queue, work, peer = self._queue, batch.work, None
        idle = queue.idle  # and stays that: whoever lets others have a turn leaves this loop
        outgoing = batch.open()
        try:
            for datagram in batch.items:
                peer = datagram[1]
                if not idle and queue.knows(peer):
                    self._put(batch, datagram)
                    continue
                batch.peer = peer
                if outgoing is not None:
                    outgoing.peer = peer
                try:
                    await work(datagram)
                except BaseException as error:
                    batch.failed(datagram, error)
                if batch.turn != turn:
                    break
            else:
                batch.over = True
                left = batch.close()
                if left is not None:
                    await left.afinish(AsyncSocket)
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
