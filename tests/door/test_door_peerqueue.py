"""PeerQueue: in order for each peer, one in hand for each, bounded, and nothing lost."""

from __future__ import annotations

from collections import defaultdict, deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jackfield.door import PeerQueue
from jackfield.errors import MisuseError


def test_one_peer_is_served_in_order_and_one_at_a_time() -> None:
    queue: PeerQueue[str, int] = PeerQueue()
    assert queue.put("a", 1) and queue.put("a", 2)
    assert queue.take() == ("a", 1)
    assert queue.take() is None and len(queue) == 1 and queue.in_hand == 1
    queue.done("a")
    assert queue.take() == ("a", 2)


def test_a_peer_that_floods_delays_another_by_one_item() -> None:
    queue: PeerQueue[str, int] = PeerQueue()
    for number in range(100):
        queue.put("loud", number)
    queue.put("quiet", 0)
    first, second = queue.take(), queue.take()
    assert (first, second) == (("loud", 0), ("quiet", 0))
    queue.done("quiet")
    queue.done("loud")
    queue.put("quiet", 1)
    assert [queue.take(), queue.take()] == [("loud", 1), ("quiet", 1)]


def test_when_full_the_newest_is_dropped_and_counted() -> None:
    queue: PeerQueue[str, int] = PeerQueue(2)
    assert [queue.put("a", 1), queue.put("b", 1), queue.put("c", 1)] == [True, True, False]
    assert (queue.dropped, len(queue)) == (1, 2)
    assert queue.take() == ("a", 1)
    assert queue.put("c", 2)  # one in hand is not waiting


def test_done_without_take_shows_the_right_call() -> None:
    queue: PeerQueue[str, int] = PeerQueue()
    queue.put("a", 1)
    with pytest.raises(MisuseError, match=r"once for each take\(\)"):
        queue.done("a")
    with pytest.raises(MisuseError, match=r"PeerQueue\(1000\)"):
        PeerQueue(0)


def test_peers_who_left_leave_nothing_in_it() -> None:
    queue: PeerQueue[int, int] = PeerQueue()
    for peer in range(1000):
        queue.put(peer, 0)
        queue.take()
        queue.done(peer)
    assert not queue._waiting and not queue._turns and not queue._in_hand


class Model:
    """The promises, checked at each step with structures too simple to be wrong."""

    def __init__(self, queue: PeerQueue[int, int], bound: int) -> None:
        self.queue, self.bound = queue, bound
        self.waiting: dict[int, deque[int]] = defaultdict(deque)
        self.in_hand: set[int] = set()
        self.refused = 0

    def put(self, peer: int, item: int) -> None:
        full = sum(map(len, self.waiting.values())) >= self.bound
        assert self.queue.put(peer, item) is (not full)
        if full:
            self.refused += 1
        else:
            self.waiting[peer].append(item)

    def take(self) -> None:
        taken = self.queue.take()
        if taken is None:
            assert not any(items for peer, items in self.waiting.items() if peer not in self.in_hand)
            return
        peer, item = taken
        assert peer not in self.in_hand
        assert self.waiting[peer].popleft() == item
        self.in_hand.add(peer)

    def done(self, which: int) -> None:
        if self.in_hand:
            peer = sorted(self.in_hand)[which % len(self.in_hand)]
            self.queue.done(peer)
            self.in_hand.remove(peer)

    def check(self) -> None:
        assert len(self.queue) == sum(map(len, self.waiting.values())) <= self.bound
        assert self.queue.in_hand == len(self.in_hand)
        assert self.queue.dropped == self.refused


def replay(queue: PeerQueue[int, int], bound: int, steps: list[tuple[str, int]]) -> None:
    model = Model(queue, bound)
    for number, (step, which) in enumerate(steps):
        if step == "put":
            model.put(which, number)
        elif step == "take":
            model.take()
        else:
            model.done(which)
        model.check()
    while len(queue):
        model.done(0)
        model.take()
    model.check()


STEPS = st.lists(st.tuples(st.sampled_from(["put", "put", "take", "done"]), st.integers(0, 3)), max_size=80)


@given(bound=st.integers(1, 6), steps=STEPS)
def test_never_reorders_never_above_the_bound_never_loses(bound: int, steps: list[tuple[str, int]]) -> None:
    replay(PeerQueue(bound), bound, steps)


def test_the_model_finds_a_queue_that_reorders_and_one_that_loses() -> None:
    class Reordering(PeerQueue[int, int]):
        def put(self, peer: int, item: int) -> bool:
            taken = super().put(peer, item)
            self._waiting.get(peer, deque()).reverse()
            return taken

    class Forgetful(PeerQueue[int, int]):
        def done(self, peer: int) -> None:
            self._in_hand.remove(peer)

    steps = [("put", 1), ("put", 1), ("take", 0), ("done", 0), ("take", 0)]
    replay(PeerQueue(5), 5, steps)
    for broken in (Reordering(5), Forgetful(5)):
        with pytest.raises(AssertionError):
            replay(broken, 5, steps)
