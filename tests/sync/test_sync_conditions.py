"""Conditions: no notification is lost, and whoever waited has the lock again, whatever happened meanwhile."""

from __future__ import annotations

import asyncio
import threading
from collections import deque

import pytest
from sync_support import SOON, Killed, ScriptedWait, threads, until, waiting

from jackfield.errors import MisuseError
from jackfield.reactor import run, spawn
from jackfield.sync import Condition, Lock, conditions
from jackfield.sync.lines import Ticket


def test_a_notification_is_passed_on_by_a_killed_waiter(monkeypatch: pytest.MonkeyPatch) -> None:
    condition = Condition(Lock())
    notified: list[bool] = []

    def waiter() -> None:
        with condition:
            notified.append(condition.wait(SOON))

    with threads(waiter):
        until(lambda: waiting(condition) == 1)
        other = condition._line.pop()
        assert other is not None

        def notified_and_killed() -> None:
            condition._line.append(other)  # behind the one that is killed
            with condition:
                condition.notify()
            assert waiting(condition) == 1 and not notified
            raise Killed

        ticket = Ticket(ScriptedWait(notified_and_killed), None)
        monkeypatch.setattr(conditions, "blocking_ticket", lambda *_: ticket)
        with condition, pytest.raises(Killed):
            condition.wait()
    assert notified == [True]


def test_a_condition_has_its_lock_again_whatever_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    lock = Lock()
    condition = Condition(lock)
    tries: list[int] = []
    take_back = Lock._take_back

    def interrupted_twice(self: Lock, held: object) -> None:
        tries.append(1)
        if len(tries) < 3:
            raise KeyboardInterrupt(f"number {len(tries)}")
        take_back(self, held)

    def killed() -> None:
        assert not lock.locked()
        raise Killed

    monkeypatch.setattr(Lock, "_take_back", interrupted_twice)
    monkeypatch.setattr(conditions, "blocking_ticket", lambda *_: Ticket(ScriptedWait(killed), None))
    with pytest.raises(KeyboardInterrupt, match="number 2"), condition:
        condition.wait()
    assert not lock.locked() and len(tries) == 3
    assert waiting(condition) == 0


def test_a_condition_for_every_kind_at_once() -> None:
    condition = Condition()
    items: list[int] = []
    got: deque[int] = deque()

    def consume() -> None:
        with condition:
            condition.wait_for(lambda: items, SOON)
            got.append(items.pop())

    async def aconsume() -> None:
        async with condition:
            await condition.await_for(lambda: items, SOON)
            got.append(items.pop())

    def greens() -> None:
        for each in [spawn(consume), spawn(consume)]:
            each.result(SOON)

    with threads(consume, lambda: run(greens), lambda: asyncio.run(aconsume())):
        until(lambda: waiting(condition) == 4)
        for number in range(3):
            with condition:
                items.append(number)
                condition.notify()
        with condition:
            items.append(3)
            condition.notify_all()
    assert sorted(got) == [0, 1, 2, 3]
    with pytest.raises(RuntimeError):
        condition.notify()
    with pytest.raises(RuntimeError):
        condition.wait()
    with pytest.raises(TypeError, match=r"jackfield\.sync"):
        Condition(threading.Lock())  # type: ignore[arg-type]


def test_a_condition_releases_an_rlock_however_deep_and_takes_it_as_deep_again() -> None:
    condition = Condition()

    def notify() -> None:
        until(lambda: waiting(condition) == 1)
        with condition:
            condition.notify()

    with threads(notify), condition, condition:
        assert condition.wait(SOON)
        condition.release()
        assert condition._lock._is_held()
        condition.acquire()
    assert not condition._lock.locked()
    with condition:
        assert condition.wait(0.001) is False
        assert condition.wait(0) is False
        assert condition.wait_for(lambda: False, 0.001) is False
    assert waiting(condition) == 0


def test_a_cancelled_condition_wait_has_the_lock_and_passes_the_notification_on() -> None:
    async def main() -> None:
        condition = Condition()

        async def waiter() -> str:
            async with condition:
                try:
                    await condition.await_()
                except asyncio.CancelledError:
                    assert condition._lock._is_held()
                    raise
            return "notified"

        first, second = asyncio.ensure_future(waiter()), asyncio.ensure_future(waiter())
        while waiting(condition) < 2:
            await asyncio.sleep(0)
        async with condition:
            condition.notify()
            first.cancel()
            await asyncio.sleep(0)
            first.cancel()  # again, while it waits for the lock
        assert await asyncio.wait_for(second, SOON) == "notified"
        with pytest.raises(asyncio.CancelledError):
            await first
        assert not condition._lock.locked()
        async with condition:
            assert await condition.await_(0.001) is False
            assert await condition.await_for(lambda: 0, 0.001) == 0

    asyncio.run(main())


def test_a_misused_wait_leaves_the_condition_locked_and_nobody_in_line() -> None:
    condition = Condition()

    async def main() -> None:
        with condition:
            with pytest.raises(MisuseError):
                condition.wait()
            assert condition._lock._is_held()
        assert waiting(condition) == 0

    asyncio.run(main())
