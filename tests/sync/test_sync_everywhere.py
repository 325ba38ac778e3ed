"""What is made before any loop is used on several, and a call that would stop a loop says what to write instead."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from jackfield.errors import MisuseError
from jackfield.reactor import run
from jackfield.sync import Condition, Empty, Event, Lock, Queue, RLock, Semaphore


def _blocking_calls() -> dict[str, tuple[Callable[[], object], str]]:
    lock, rlock, semaphore, condition, event = Lock(), RLock(), Semaphore(0), Condition(), Event()
    full: Queue[int] = Queue(1)
    full.put(1)
    lock.acquire()
    rlock._permits.take()

    def wait_on_condition() -> None:
        with condition:
            condition.wait()

    return {
        "lock": (lock.acquire, "async with lock"),
        "with lock": (lock.__enter__, "async with lock"),
        "rlock": (rlock.acquire, "async with lock"),
        "semaphore": (semaphore.acquire, "async with semaphore"),
        "condition": (wait_on_condition, "await condition.await_()"),
        "event": (event.wait, "await event.await_()"),
        "event, with a timeout": (lambda: event.wait(1), "await event.await_()"),
        "get": (Queue().get, "await queue.aget()"),
        "put": (lambda: full.put(2), "await queue.aput(item)"),
        "join": (full.join, "await queue.ajoin()"),
    }


@pytest.mark.parametrize("name", list(_blocking_calls()))
def test_a_blocking_call_in_a_coroutine_that_would_wait_shows_the_twin(name: str) -> None:
    call, twin = _blocking_calls()[name]

    async def main() -> None:
        with pytest.raises(MisuseError) as caught:
            call()
        assert twin in str(caught.value)

    asyncio.run(main())


def test_what_need_not_wait_may_be_called_in_a_coroutine() -> None:
    async def main() -> None:
        q: Queue[int] = Queue()
        q.put(1)
        assert q.get() == 1
        q.task_done()
        q.join()
        lock = Lock()
        with lock:
            assert lock.locked() and not lock.acquire(blocking=False)
        event = Event()
        event.set()
        assert event.wait()
        with pytest.raises(Empty):
            q.get_nowait()

    asyncio.run(main())


def test_made_before_any_loop_and_used_on_several() -> None:
    q: Queue[int] = Queue(1)
    event = Event()
    for number in range(3):
        run(q.put, number)
        assert asyncio.run(q.aget()) == number
        event.clear()
        run(event.set)
        assert asyncio.run(event.await_())


def test_representations_say_what_is_going_on() -> None:
    lock, rlock, condition, event = Lock(), RLock(), Condition(), Event()
    assert "unlocked Lock" in repr(lock) and "unlocked RLock" in repr(rlock) and "Condition" in repr(condition)
    with lock, rlock:
        assert "<locked Lock" in repr(lock) and "1 deep" in repr(rlock)
    assert "unset" in repr(event)
    event.set()
    assert "set, 0 waiting" in repr(event)
    q: Queue[int] = Queue(3)
    q.put(1)
    assert "1 of 3 items" in repr(q)
    q.shutdown()
    assert "shut down" in repr(q)
    assert "2 free" in repr(Semaphore(2))
