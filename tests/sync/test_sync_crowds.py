"""Real threads, green threads and coroutines at once on one queue, with everything counted."""

from __future__ import annotations

import asyncio
import random
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
from greenlet import getcurrent
from sync_support import SOON, threads, until, waiting

from jackfield.reactor import GreenThread, current_reactor, drive, green, run, sleep, spawn
from jackfield.sync import Empty, Full, LifoQueue, Lock, PriorityQueue, Queue, Semaphore, ShutDown

#: How often the lock has to have been taken before nothing was lost by it; on a busy machine most run out of patience.
ENOUGH = 100


@pytest.mark.parametrize("kind", [Queue, LifoQueue, PriorityQueue])
@pytest.mark.parametrize("maxsize", [1, 7, 0])
def test_each_item_arrives_once_whoever_puts_and_whoever_gets(kind: Any, maxsize: int) -> None:
    q: Queue[int] = kind(maxsize)
    each, got = 150, deque[int]()

    def produce(start: int) -> None:
        for number in range(start, start + each):
            q.put(number, timeout=SOON)

    async def aproduce(start: int) -> None:
        for number in range(start, start + each):
            await q.aput(number, SOON)

    def consume() -> None:
        while True:
            try:
                item = q.get(timeout=SOON)
            except ShutDown:
                return
            got.append(item)
            q.task_done()

    async def aconsume() -> None:
        while True:
            try:
                item = await q.aget(SOON)
            except ShutDown:
                return
            got.append(item)
            q.task_done()

    def greens() -> None:
        workers = [spawn(consume), spawn(produce, 0), spawn(consume), spawn(produce, each)]
        for worker in workers:
            worker.result(SOON)

    async def tasks() -> None:
        await asyncio.gather(aconsume(), aproduce(2 * each), green(consume), aproduce(3 * each))

    producers_done = [threading.Event(), threading.Event()]

    def plain(number: int) -> None:
        produce((4 + number) * each)
        producers_done[number].set()

    with threads(lambda: run(greens), lambda: asyncio.run(tasks()), lambda: plain(0), lambda: plain(1), consume):
        until(lambda: len(got) == 6 * each)
        q.join()
        q.shutdown()
    assert sorted(got) == list(range(6 * each))


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_lost_while_waiters_are_killed_cancelled_and_out_of_time(seed: int) -> None:
    """A lock that all kinds take in turn, and an enemy who ends them at random, mostly while they wait."""
    lock, permits, q = Lock(), Semaphore(2), Queue[int](2)
    inside: list[object] = []
    entered = deque[int]()
    stop = threading.Event()
    put, got = deque[int](), deque[int]()

    def critical(number: int) -> None:
        inside.append(number)
        assert len(inside) == 1, "two hold one lock"
        entered.append(number)

    def blocking(number: int, patience: float | None) -> None:
        try:
            if lock.acquire(timeout=-1 if patience is None else patience):
                try:
                    critical(number)
                    if isinstance(getcurrent(), GreenThread):
                        sleep(0)  # the others have turns, and the enemy has his
                finally:
                    inside.clear()
                    lock.release()
            with permits:
                q.put(number, timeout=patience)
                put.append(number)
            got.append(q.get(timeout=patience))
        except (Full, Empty):
            pass

    async def twin(number: int, patience: float | None) -> None:
        try:
            if await lock.aacquire(patience):
                try:
                    critical(number)
                    await asyncio.sleep(0)
                finally:
                    inside.clear()
                    lock.release()
            async with permits:
                await q.aput(number, patience)
                put.append(number)
            got.append(await q.aget(patience))
        except (Full, Empty):
            pass

    def patience(dice: random.Random) -> float:
        return dice.choice([0.0, 0.0005, 0.002, 0.02])

    def greens() -> None:
        dice = random.Random(f"green {seed}")
        alive: list[GreenThread] = []
        for number in range(400):
            alive.append(spawn(blocking, number, patience(dice)))
            if dice.random() < 0.5:
                alive.pop(dice.randrange(len(alive))).kill()
            sleep(0)
        for each in alive:
            each.join(SOON)

    async def tasks() -> None:
        dice = random.Random(f"task {seed}")
        alive: list[asyncio.Future[None]] = []
        start: list[Callable[..., asyncio.Future[None]]] = [asyncio.ensure_future, drive]
        for number in range(1000, 1400):
            alive.append(start[number % 2](twin(number, patience(dice))))
            if dice.random() < 0.5:
                alive.pop(dice.randrange(len(alive))).cancel()
            await asyncio.sleep(0)
        await asyncio.wait(alive, timeout=SOON)
        await asyncio.sleep(0)
        current_reactor().close()

    def plain(name: int) -> None:
        dice = random.Random(f"thread {name} {seed}")
        number = name
        while not stop.is_set() or len(entered) <= ENOUGH:
            number += 1
            blocking(number, patience(dice))

    def enemy_done() -> None:
        with threads(lambda: run(greens), lambda: asyncio.run(tasks())):
            pass
        stop.set()

    with threads(enemy_done, lambda: plain(10_000), lambda: plain(10_000_000)):
        pass
    # Everything is as at the start: no lock held by the dead, no permit gone, no item lost or doubled.
    assert not lock.locked() and lock._permits.waiting == 0
    assert permits._permits.free == 2 and permits._permits.waiting == 0
    assert q._reserved == 0 and waiting(q, "_getters") == waiting(q, "_putters") == 0
    left = []
    while not q.empty():
        left.append(q.get_nowait())
    assert q.unfinished_tasks == len(got) + len(left)
    assert sorted([*got, *left]) == sorted(put)
    assert len(entered) > ENOUGH
