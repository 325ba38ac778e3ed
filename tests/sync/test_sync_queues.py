"""Queues: the standard library's rules, shutdown on every version, and no item goes with whom it was handed to."""

from __future__ import annotations

import asyncio
import queue as queue_std
import sys
from collections import deque
from typing import Any

import pytest
from sync_support import SOON, Killed, ScriptedWait, threads, until, waiting

from jackfield.reactor import run
from jackfield.sync import Empty, Full, LifoQueue, PriorityQueue, Queue, ShutDown
from jackfield.sync.lines import Ticket, stand

# --- as the standard library's --------------------------------------------------------------------------------------


def test_the_exceptions_are_the_standard_librarys() -> None:
    assert Empty is queue_std.Empty and Full is queue_std.Full
    if sys.version_info >= (3, 13):
        assert ShutDown is queue_std.ShutDown  # type: ignore[attr-defined]


@pytest.mark.parametrize("module", ["ours", "standard library"])
def test_a_queue_behaves_as_the_standard_librarys(module: str) -> None:
    kinds: Any = (Queue, LifoQueue, PriorityQueue)
    if module != "ours":
        kinds = (queue_std.Queue, queue_std.LifoQueue, queue_std.PriorityQueue)
    for kind, order in zip(kinds, ([2, 1, 3], [3, 1, 2], [1, 2, 3]), strict=True):
        q = kind(3)
        assert q.maxsize == 3 and q.empty() and not q.full() and q.qsize() == 0
        for item in (2, 1, 3):
            q.put(item)
        assert q.full() and q.qsize() == 3 and q.unfinished_tasks == 3
        for arguments in ({"block": False}, {"timeout": 0}, {"timeout": 0.001}):
            with pytest.raises(Full):
                q.put(4, **arguments)
        with pytest.raises(Full):
            q.put_nowait(4)
        with pytest.raises(ValueError):
            q.put(4, timeout=-1)
        assert [q.get() for _ in range(3)] == order
        for arguments in ({"block": False}, {"timeout": 0}, {"timeout": 0.001}):
            with pytest.raises(Empty):
                q.get(**arguments)
        with pytest.raises(Empty):
            q.get_nowait()
        with pytest.raises(ValueError):
            q.get(timeout=-1)
        for _ in range(3):
            q.task_done()
        q.join()
        with pytest.raises(ValueError):
            q.task_done()


def test_a_subclass_may_change_the_order() -> None:
    class Distinct(Queue[int]):
        def _init(self, maxsize: int) -> None:
            self.queue = set()

        def _put(self, item: int) -> None:
            self.queue.add(item)

        def _get(self) -> int:
            return self.queue.pop()  # type: ignore[no-any-return]

    class Wrapped(PriorityQueue[Any]):
        def _put(self, item: Any) -> None:
            super()._put((-item, item))

        def _get(self) -> Any:
            return super()._get()[1]

    q = Distinct()
    for item in (1, 1, 2):
        q.put(item)
    assert q.qsize() == 2

    wrapped = Wrapped()
    got: list[Any] = []
    with threads(lambda: got.append(wrapped.get(timeout=SOON))):
        until(lambda: waiting(wrapped, "_getters") == 1)
        wrapped.put(7)
    assert got == [7]

    def handed_over_and_killed() -> None:
        wrapped.put(1)
        wrapped.put(2)
        raise Killed

    with pytest.raises(Killed):
        stand(Ticket(ScriptedWait(handed_over_and_killed), None), wrapped._enter_get, wrapped._leave_get, None)
    assert [wrapped.get(), wrapped.get()] == [2, 1]


def test_a_put_that_fails_gives_its_slot_back() -> None:
    q: PriorityQueue[Any] = PriorityQueue(2)
    q.put(1)
    q.put(2)

    def given_a_slot() -> None:
        q.get()

    with pytest.raises(TypeError):
        stand(Ticket(ScriptedWait(given_a_slot), None, "incomparable"), q._enter_put, q._leave_put, None)
    assert q._reserved == 0 and q.unfinished_tasks == 2


def test_join_and_task_done_for_every_kind() -> None:
    q: Queue[int] = Queue()
    for number in range(4):
        q.put(number)
    joined: deque[str] = deque()

    async def ajoin() -> None:
        await q.ajoin()
        joined.append("coroutine")

    def join(name: str) -> None:
        q.join()
        joined.append(name)

    with threads(lambda: join("thread"), lambda: run(join, "green"), lambda: asyncio.run(ajoin())):
        until(lambda: waiting(q, "_joiners") == 3)
        for _ in range(4):
            q.get()
            assert not joined
            q.task_done()
    assert sorted(joined) == ["coroutine", "green", "thread"]


@pytest.mark.parametrize("immediate", [False, True])
def test_shutdown(immediate: bool) -> None:
    q: Queue[int] = Queue(2)
    q.put(1)
    q.put(2)
    ended: deque[str] = deque()

    def putter() -> None:
        with pytest.raises(ShutDown):
            q.put(3)
        ended.append("put")

    async def aputter() -> None:
        with pytest.raises(ShutDown):
            await q.aput(3)
        ended.append("put")

    with threads(putter, lambda: run(putter), lambda: asyncio.run(aputter())):
        until(lambda: waiting(q, "_putters") == 3)
        q.shutdown(immediate)
    assert list(ended) == ["put"] * 3
    with pytest.raises(ShutDown):
        q.put_nowait(4)
    if immediate:
        q.join()
    else:
        assert [q.get(), q.get_nowait()] == [1, 2]
        assert q.unfinished_tasks == 2
    for get in (q.get, q.get_nowait, lambda: q.get(timeout=0)):
        with pytest.raises(ShutDown):
            get()
    q.shutdown()


def test_shutdown_wakes_those_who_get_and_then_those_who_join() -> None:
    q: Queue[int] = Queue()

    def getter() -> None:
        with pytest.raises(ShutDown):
            q.get()

    with threads(getter, lambda: run(getter)):
        until(lambda: waiting(q, "_getters") == 2)
        q.shutdown()
    other: Queue[int] = Queue()
    other.put(1)
    with threads(other.join):
        until(lambda: waiting(other, "_joiners") == 1)
        other.shutdown()
        other.shutdown(immediate=True)


# --- the same moment, scripted --------------------------------------------------------------------------------------


def test_an_item_that_was_on_its_way_goes_back_to_the_front() -> None:
    q: Queue[int] = Queue(1)

    def handed_over_and_killed() -> None:
        q.put(1)  # to the waiter
        q.put(2)  # into the queue
        raise Killed

    ticket = Ticket(ScriptedWait(handed_over_and_killed), None)
    with pytest.raises(Killed):
        stand(ticket, q._enter_get, q._leave_get, None)
    assert [q.get(), q.get()] == [1, 2]


def test_a_killed_put_has_put_nothing_and_a_killed_get_has_taken_nothing_under_shutdown() -> None:
    q: Queue[int] = Queue()

    def handed_over_then_thrown_away_and_killed() -> None:
        q.put(1)
        q.shutdown(immediate=True)
        raise Killed

    with pytest.raises(Killed):
        stand(Ticket(ScriptedWait(handed_over_then_thrown_away_and_killed), None), q._enter_get, q._leave_get, None)
    q.join()  # the item that came back counts as worked off, like all that were thrown away
    with pytest.raises(ShutDown):
        q.get()


def test_a_slot_given_before_a_shutdown_is_not_used_after_it() -> None:
    q: Queue[int] = Queue(1)
    q.put(1)

    def given_a_slot_then_shut_down() -> None:
        q.get()
        q.shutdown()

    with pytest.raises(ShutDown):
        stand(Ticket(ScriptedWait(given_a_slot_then_shut_down), None, 2), q._enter_put, q._leave_put, None)
    assert q.qsize() == 0 and q._reserved == 0
