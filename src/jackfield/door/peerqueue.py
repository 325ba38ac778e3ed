"""A bounded queue that keeps each peer's messages in order while several workers empty it."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

from jackfield.errors import MisuseError

__all__ = ["PeerQueue"]

P = TypeVar("P", bound=Hashable)
T = TypeVar("T")


class PeerQueue(Generic[P, T]):
    """First in, first out for each peer, and never two items of one peer in hand at the same time.

    A worker calls :meth:`take`, does the work, and calls :meth:`done`; meanwhile the peer's next items wait and other
    peers' go ahead.  Peers with something waiting take turns, so one that floods the queue delays the others by one
    item each.  Every call is O(1).

    It knows nothing of threads: whoever shares it between threads holds a lock around each call.

    :param bound: how many items may wait; those in hand are not counted, as the workers limit them.
    """

    __slots__ = ("_bound", "_in_hand", "_size", "_turns", "_waiting", "dropped")

    def __init__(self, bound: int = 1000) -> None:
        if bound < 1:
            raise MisuseError(f"a queue that holds nothing, bound={bound!r}: write PeerQueue(1000)")
        self._bound = bound
        self._size = 0
        self._waiting: dict[P, deque[T]] = {}  # no empty ones, so that peers who left cost nothing
        self._turns: deque[P] = deque()  # those with items waiting and none in hand, each once
        self._in_hand: set[P] = set()
        self.dropped = 0
        """Items that :meth:`put` refused because the queue was full."""

    def __len__(self) -> int:
        """How many items wait."""
        return self._size

    @property
    def idle(self) -> bool:
        """Whether it knows no peer."""
        return not self._in_hand and not self._waiting

    @property
    def available(self) -> bool:
        """Whether :meth:`take` would give something."""
        return bool(self._turns)

    @property
    def in_hand(self) -> int:
        """How many items were taken and are not done."""
        return len(self._in_hand)

    def knows(self, peer: P) -> bool:
        """Whether an item of ``peer`` waits or is in hand, so that another has to wait behind it."""
        return peer in self._in_hand or peer in self._waiting

    def hold(self, peer: P) -> None:
        """An item of ``peer`` that was never here is in hand: :meth:`done` when it is finished with.

        :raises MisuseError: something of this peer is here already.
        """
        if self.knows(peer):
            raise MisuseError(f"hold({peer!r}) with an item of that peer in the queue: put() and take() it")
        self._in_hand.add(peer)

    def put(self, peer: P, item: T) -> bool:
        """Adds an item; False, and it is dropped and counted, where the queue is full.

        The newest is the one to go: what came first has waited longest and is the likeliest to be answered in time.
        """
        if self._size >= self._bound:
            self.dropped += 1
            return False
        waiting = self._waiting.get(peer)
        if waiting is None:
            self._waiting[peer] = deque((item,))
            if peer not in self._in_hand:
                self._turns.append(peer)
        else:
            waiting.append(item)
        self._size += 1
        return True

    def take(self) -> tuple[P, T] | None:
        """The oldest item of the peer whose turn it is; None if no item may be handed out now."""
        if not self._turns:
            return None
        peer = self._turns.popleft()
        waiting = self._waiting[peer]
        item = waiting.popleft()
        if not waiting:
            del self._waiting[peer]
        self._in_hand.add(peer)
        self._size -= 1
        return peer, item

    def withdraw(self, peer: P, item: T) -> bool:
        """Takes ``item``, the newest of ``peer``, out again; False where it is not waiting as that any more.

        O(1) as long as no other peer has come into the turns since it was put.
        """
        waiting = self._waiting.get(peer)
        if waiting is None or waiting[-1] is not item:
            return False
        waiting.pop()
        self._size -= 1
        if not waiting:
            del self._waiting[peer]
            if peer in self._in_hand:
                pass  # not among the turns
            elif self._turns[-1] == peer:
                self._turns.pop()
            else:
                self._turns.remove(peer)
        return True

    def done(self, peer: P) -> None:
        """The item of ``peer`` that was taken is finished with, so its next one may be handed out.

        :raises MisuseError: nothing of this peer is in hand.
        """
        if peer not in self._in_hand:
            raise MisuseError(f"done({peer!r}) without an item of that peer in hand: call it once for each take()")
        self._in_hand.remove(peer)
        if peer in self._waiting:
            self._turns.append(peer)
