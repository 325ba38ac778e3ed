"""Locks and semaphores: the standard library's arguments and errors, and an owner that may be of any kind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from greenlet import getcurrent
from sync_support import SOON, threads

from jackfield.reactor import GreenThread, current_reactor, drive, green, run, sleep, spawn
from jackfield.sync import BoundedSemaphore, Lock, RLock, Semaphore


@pytest.mark.parametrize("make", [Lock, RLock])
def test_lock_arguments_are_the_standard_librarys(make: Callable[[], Any]) -> None:
    for lock in (make(), threading.Lock()):
        assert lock.acquire() and lock.locked() if hasattr(lock, "locked") else True
        with pytest.raises(ValueError):
            lock.acquire(False, 1)
        with pytest.raises(ValueError):
            lock.acquire(True, -2)
        lock.release()
        with pytest.raises(RuntimeError):
            lock.release()


def test_a_lock_may_be_released_by_another() -> None:
    lock = Lock()
    lock.acquire()
    with threads(lock.release):
        assert lock.acquire(timeout=SOON)


def test_an_rlock_belongs_to_the_green_thread_the_task_or_the_thread_that_took_it() -> None:
    lock = RLock()

    def main() -> None:
        with lock, lock:
            other = spawn(lock.acquire, blocking=False)
            assert other.result() is False  # on the same OS thread
            stranger = spawn(lock.release)
            stranger.join()
            with pytest.raises(RuntimeError):
                stranger.result()
        assert not lock.locked()

    run(main)

    async def amain() -> None:
        async def other() -> bool:
            return lock.acquire(blocking=False)

        async with lock, lock:
            assert lock.acquire()  # a third time, without waiting
            assert await asyncio.create_task(other()) is False
            assert await drive(other()) is False
            lock.release()
        assert not lock.locked()
        current_reactor().close()

    asyncio.run(amain())

    with lock:
        assert run(lock.acquire, False) is False  # in the same thread, and still somebody else
    with pytest.raises(RuntimeError, match="un-acquired"):
        lock.release()


def test_semaphores() -> None:
    semaphore = Semaphore(2)
    assert semaphore.acquire() and semaphore.acquire() and not semaphore.acquire(False)
    semaphore.release(2)
    assert semaphore.acquire() and semaphore.acquire(timeout=-5)
    assert not semaphore.acquire(timeout=-5)
    for wrong in (lambda: Semaphore(-1), lambda: semaphore.release(0), lambda: semaphore.acquire(False, 1)):
        with pytest.raises(ValueError):
            wrong()
    bounded = BoundedSemaphore(2)
    bounded.acquire()
    with pytest.raises(ValueError):
        bounded.release(2)
    bounded.release()
    with pytest.raises(ValueError):
        bounded.release()
    with pytest.raises(ValueError):
        bounded.release(0)


@pytest.mark.parametrize("host", ["asyncio", "uvloop"])
@pytest.mark.parametrize("make", [Lock, RLock, BoundedSemaphore])
def test_a_counter_that_all_kinds_raise_under_one_lock(make: Callable[[], Any], host: str) -> None:
    new_loop = asyncio.new_event_loop if host == "asyncio" else pytest.importorskip(host).new_event_loop
    lock, count, each = make(), [0], 100

    def raise_it() -> None:
        for _ in range(each):
            with lock:
                value = count[0]
                if isinstance(getcurrent(), GreenThread):
                    sleep(0)
                count[0] = value + 1

    async def araise_it() -> None:
        for _ in range(each):
            async with lock:
                value = count[0]
                await asyncio.sleep(0)
                count[0] = value + 1

    def greens() -> None:
        for worker in [spawn(raise_it) for _ in range(3)]:
            worker.result(SOON)

    async def tasks() -> None:
        await asyncio.gather(araise_it(), araise_it(), green(raise_it))

    def hosted() -> None:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(tasks())

    with threads(raise_it, raise_it, lambda: run(greens, loop_factory=new_loop), hosted):
        pass
    assert count == [8 * each]
