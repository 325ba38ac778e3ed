"""Locks, events and queues between green threads, threads and coroutines: nothing is lost, nobody is passed by.

Three ways to look. *Scripted*: the wait itself is a fake, so that what happens "in the same moment" happens in that
moment, each time. *Model*: hypothesis plays waiters entering and leaving in every order against a model. *Mixed*: real
threads, green threads and coroutines at once, with everything counted.
"""

from __future__ import annotations

import asyncio
import os
import queue as queue_std
import random
import signal
import sys
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from greenlet import getcurrent
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from jackfield.errors import MisuseError
from jackfield.reactor import GreenExit, GreenThread, current_reactor, drive, green, run, sleep, spawn
from jackfield.sync import (
    BoundedSemaphore,
    Condition,
    Empty,
    Event,
    Full,
    LifoQueue,
    Lock,
    PriorityQueue,
    Queue,
    RLock,
    Semaphore,
    ShutDown,
    conditions,
)
from jackfield.sync.lines import Line, Permits, Ticket, stand

SOON = 10.0  # seconds that nothing here takes


# --- helpers --------------------------------------------------------------------------------------------------------


def waiting(thing: Any, line: str = "") -> int:
    """How many wait for it now."""
    if isinstance(thing, Queue):
        return len(getattr(thing, line))
    if isinstance(thing, Event):
        return len(thing._tickets)
    if isinstance(thing, Condition):
        return len(thing._line)
    return int(thing._permits.waiting)


def until(condition: Callable[[], bool]) -> None:
    """Give the others turns until it holds: in a green thread or in a plain one, bounded by the test's timeout."""
    while not condition():
        sleep(0 if isinstance(getcurrent(), GreenThread) else 0.0005)


class Killed(BaseException):
    pass


class ScriptedWait:
    """A wait in which ``during()`` happens; it returns whether it was woken, or raises."""

    def __init__(self, during: Callable[[], object]) -> None:
        self.during = during
        self.woken = False

    def wait(self, timeout: float | None = None) -> bool:
        self.during()
        return self.woken

    def wake(self) -> None:
        self.woken = True


@contextmanager
def threads(*bodies: Callable[[], object]) -> Iterator[list[BaseException]]:
    """Runs each in a plain thread, joins them at the end, and raises what they raised."""
    errors: list[BaseException] = []

    def guarded(body: Callable[[], object]) -> None:
        try:
            body()
        except BaseException as error:
            errors.append(error)

    running = [threading.Thread(target=guarded, args=(body,), daemon=True) for body in bodies]
    for thread in running:
        thread.start()
    yield errors
    for thread in running:
        thread.join(SOON)
        assert not thread.is_alive(), "a thread still waits"
    if errors:
        raise errors[0]


class Subject:
    """Something to wait for that is taken, how each kind waits for it, and what hands it over."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.thing: Any
        self.enter: Callable[[Ticket], bool]
        self.leave: Callable[[Ticket, bool], bool]
        if name not in ("get", "put"):
            self.thing = {kind.__name__: kind for kind in (Lock, RLock, Semaphore, BoundedSemaphore)}[name]()
            # Without an owner, which an RLock would ask for: its own rules have tests of their own.
            self.thing._permits.take()
            self.line = ""
            self.enter, self.leave = self.thing._permits.enter, self.thing._permits.leave
        elif name == "get":
            self.thing, self.line = Queue(), "_getters"
            self.enter, self.leave = self.thing._enter_get, self.thing._leave_get
        else:
            self.thing, self.line = Queue(1), "_putters"
            self.enter, self.leave = self.thing._enter_put, self.thing._leave_put
            self.thing.put("first")

    def wait(self, timeout: float | None = None) -> bool:
        if self.name == "put":
            return _as_bool(Full, lambda: self.thing.put("mine", timeout=timeout))
        if self.name == "get":
            return _as_bool(Empty, lambda: self.thing.get(timeout=timeout))
        return bool(self.thing.acquire(timeout=-1 if timeout is None and "Lock" in self.name else timeout))

    async def await_(self, timeout: float | None = None) -> bool:
        try:
            if self.name == "put":
                await self.thing.aput("mine", timeout)
            elif self.name == "get":
                await self.thing.aget(timeout)
            else:
                return bool(await self.thing.aacquire(timeout))
        except (Full, Empty):
            return False
        return True

    def stand(self, during: Callable[[], object], timeout: float | None = None) -> bool:
        """The wait, with a script in the place of the waiting."""
        return stand(Ticket(ScriptedWait(during), None, "mine"), self.enter, self.leave, timeout)

    def hand_over(self) -> None:
        if self.name == "put":
            self.thing.get_nowait()
        elif self.name == "get":
            self.thing.put_nowait("item")
        elif self.name == "RLock":
            self.thing._permits.give()
        else:
            self.thing.release()

    def waiting(self) -> int:
        return waiting(self.thing, self.line)

    def is_free(self) -> bool:
        """True if what was handed over is there for the next."""
        if self.name == "put":
            return not self.thing._reserved and not self.thing.full()
        if self.name == "get":
            return bool(self.thing.qsize() == 1)
        return bool(self.thing._permits.free == 1)


def _as_bool(error: type[Exception], call: Callable[[], object]) -> bool:
    try:
        call()
    except error:
        return False
    return True


SUBJECTS = ["Lock", "RLock", "Semaphore", "BoundedSemaphore", "get", "put"]


@pytest.fixture(params=SUBJECTS)
def subject(request: pytest.FixtureRequest) -> Subject:
    return Subject(request.param)


# --- the same moment, scripted --------------------------------------------------------------------------------------


def test_killed_in_the_moment_of_the_hand_over_it_passes_on(subject: Subject) -> None:
    def handed_over_and_killed() -> None:
        subject.hand_over()
        raise Killed

    with pytest.raises(Killed):
        subject.stand(handed_over_and_killed)
    assert subject.is_free()
    assert subject.waiting() == 0


def test_killed_in_that_moment_it_passes_on_to_who_waits_already(subject: Subject) -> None:
    got: list[bool] = []
    first = Ticket(ScriptedWait(lambda: None), None, "mine")
    assert subject.enter(first) is False
    with threads(lambda: got.append(subject.wait(SOON))):
        until(lambda: subject.waiting() == 2)
        subject.hand_over()
        assert first.granted and subject.waiting() == 1
        subject.leave(first, True)
    assert got == [True]
    assert subject.waiting() == 0


def test_timed_out_in_the_moment_of_the_hand_over_it_keeps_it(subject: Subject) -> None:
    assert subject.stand(subject.hand_over, 1.0) is True
    assert not subject.is_free()
    if subject.name == "put":
        assert subject.thing.get_nowait() == "mine"


def test_timed_out_before_the_hand_over_it_leaves_the_line(subject: Subject) -> None:
    assert subject.stand(lambda: None, 1.0) is False
    assert subject.waiting() == 0
    subject.hand_over()
    assert subject.is_free()


def test_without_passing_on_the_scripted_kill_would_lose_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate can fail: a leave() that forgets to pass on leaves nothing for the next."""
    forgetful = Permits.leave

    def leave(self: Permits, ticket: Ticket, giving_up: bool) -> bool:
        return forgetful(self, ticket, False)

    monkeypatch.setattr(Permits, "leave", leave)
    subject = Subject("Lock")

    def handed_over_and_killed() -> None:
        subject.hand_over()
        raise Killed

    with pytest.raises(Killed):
        subject.stand(handed_over_and_killed)
    assert not subject.is_free()


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


# --- the same moment, for real --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kill_first", [True, False])
def test_a_green_thread_killed_as_it_is_handed_over(subject: Subject, kill_first: bool) -> None:
    def main() -> None:
        first = spawn(subject.wait)
        until(lambda: subject.waiting() == 1)
        second = spawn(subject.wait)
        until(lambda: subject.waiting() == 2)
        if kill_first:  # the kill has its turn before the wake has
            first.kill()
            subject.hand_over()
            first.join()
            with pytest.raises(GreenExit):
                first.result()
            assert second.result(SOON) is True
        else:
            subject.hand_over()
            first.kill()
            assert first.result(SOON) is True  # it had its turn before the kill
            assert not second.done
            second.kill()
            second.join()
        assert subject.waiting() == 0

    run(main)


@pytest.mark.parametrize("driven", [False, True])
@pytest.mark.parametrize("cancel_first", [True, False])
def test_a_coroutine_cancelled_as_it_is_handed_over(subject: Subject, cancel_first: bool, driven: bool) -> None:
    async def main() -> None:
        start: Callable[..., asyncio.Future[Any]] = drive if driven else asyncio.ensure_future
        first = start(subject.await_())
        while subject.waiting() < 1:
            await asyncio.sleep(0)
        second = start(subject.await_())
        while subject.waiting() < 2:
            await asyncio.sleep(0)
        if cancel_first:
            first.cancel()
            subject.hand_over()
        else:
            subject.hand_over()
            first.cancel()
        assert await asyncio.wait_for(second, SOON) is True
        assert first.cancelled()
        assert subject.waiting() == 0
        if driven:
            current_reactor().close()

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["thread", "green", "coroutine"])
def test_a_timeout_leaves_the_line(subject: Subject, kind: str) -> None:
    if kind == "thread":
        assert subject.wait(0.01) is False
    elif kind == "green":
        assert run(subject.wait, 0.01) is False
    else:
        assert asyncio.run(subject.await_(0.01)) is False
    assert subject.waiting() == 0
    subject.hand_over()
    assert subject.is_free()


def test_a_timeout_of_zero_never_waits_not_even_in_a_coroutine(subject: Subject) -> None:
    async def main() -> None:
        assert subject.wait(0) is False
        assert await subject.await_(0) is False

    asyncio.run(main())


def test_a_waiter_whose_loop_was_closed_over_its_head_is_passed_by(subject: Subject) -> None:
    loop = asyncio.new_event_loop()
    task = loop.create_task(subject.await_())  # type: ignore[arg-type]
    loop.run_until_complete(asyncio.sleep(0))
    assert subject.waiting() == 1
    loop.close()
    subject.hand_over()
    assert subject.is_free()
    # Only so that asyncio does not complain of it later.
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    task.get_coro().close()


# --- first come, first served ---------------------------------------------------------------------------------------


def test_hand_over_is_first_come_first_served_across_kinds(subject: Subject) -> None:
    served: deque[int] = deque()
    loops = _TwoLoops()
    with loops:
        for number in range(9):
            before = subject.waiting()
            loops.start(number % 3, lambda n=number: _serve(subject, served, n))  # type: ignore[misc]
            until(lambda: subject.waiting() == before + 1)  # noqa: B023
        for number in range(9):
            subject.hand_over()
            until(lambda: len(served) == number + 1)  # noqa: B023
            if subject.name == "put":
                assert subject.thing.qsize() == 1
    assert list(served) == list(range(9))


def _serve(
    subject: Subject, served: deque[int], number: int
) -> tuple[Callable[[], None], Callable[[], Awaitable[None]]]:
    def blocking() -> None:
        assert subject.wait(SOON)
        served.append(number)

    async def twin() -> None:
        assert await subject.await_(SOON)
        served.append(number)

    return blocking, twin


class _TwoLoops:
    """Plain threads, a loop with green threads and a loop with coroutines, at once."""

    def __enter__(self) -> _TwoLoops:
        self.jobs: Queue[Any] = Queue()
        self.ajobs: Queue[Any] = Queue()
        self.errors: list[BaseException] = []
        self.plain: list[threading.Thread] = []
        self.hosts = [
            threading.Thread(target=self._guard, args=(lambda: run(self._greens),), daemon=True),
            threading.Thread(target=self._guard, args=(lambda: asyncio.run(self._tasks()),), daemon=True),
        ]
        for host in self.hosts:
            host.start()
        return self

    def start(self, kind: int, make: Callable[[], tuple[Callable[[], None], Callable[[], Awaitable[None]]]]) -> None:
        blocking, twin = make()
        if kind == 0:
            thread = threading.Thread(target=self._guard, args=(blocking,), daemon=True)
            self.plain.append(thread)
            thread.start()
        elif kind == 1:
            self.jobs.put(blocking)
        else:
            self.ajobs.put(twin)

    def __exit__(self, *_: object) -> None:
        self.jobs.put(None)
        self.ajobs.put(None)
        for thread in self.plain + self.hosts:
            thread.join(SOON)
        alive = [t for t in self.plain + self.hosts if t.is_alive()]
        if self.errors:
            raise self.errors[0]
        assert not alive

    def _guard(self, body: Callable[[], object]) -> None:
        try:
            body()
        except BaseException as error:
            self.errors.append(error)

    def _greens(self) -> None:
        started = []
        while (job := self.jobs.get()) is not None:
            started.append(spawn(job))
        for each in started:
            each.result(SOON)

    async def _tasks(self) -> None:
        started = []
        while (job := await self.ajobs.aget()) is not None:
            started.append(asyncio.ensure_future(job()))
        await asyncio.wait_for(asyncio.gather(*started), SOON)


def test_nobody_overtakes_a_waiter(subject: Subject) -> None:
    """One who comes while a hand-over is on its way finds nothing free."""

    def main() -> None:
        first = spawn(subject.wait)
        until(lambda: subject.waiting() == 1)
        subject.hand_over()
        assert not first.done
        if subject.name == "get":
            with pytest.raises(Empty):
                subject.thing.get_nowait()
        elif subject.name == "put":
            with pytest.raises(Full):
                subject.thing.put_nowait("mine")
        else:
            assert subject.thing.acquire(blocking=False) is False
        assert first.result(SOON) is True

    run(main)


# --- misuse ---------------------------------------------------------------------------------------------------------


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


def test_a_misused_wait_leaves_the_condition_locked_and_nobody_in_line() -> None:
    condition = Condition()

    async def main() -> None:
        with condition:
            with pytest.raises(MisuseError):
                condition.wait()
            assert condition._lock._is_held()
        assert waiting(condition) == 0

    asyncio.run(main())


# --- each by itself -------------------------------------------------------------------------------------------------


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


def test_event_for_every_kind_at_once() -> None:
    event = Event()
    woken: deque[str] = deque()

    async def coroutine() -> None:
        assert await event.await_(SOON)
        woken.append("coroutine")

    def green_threads() -> None:
        each = [spawn(event.wait, SOON) for _ in range(3)]
        for one in each:
            assert one.result() is True
            woken.append("green")

    def thread() -> None:
        assert event.wait(SOON)
        woken.append("thread")

    with threads(thread, lambda: run(green_threads), lambda: asyncio.run(coroutine())):
        until(lambda: waiting(event) == 5)
        assert not event.is_set() and not event.wait(0)
        event.set()
        event.clear()  # those who waited are woken all the same
    assert sorted(woken) == ["coroutine", "green", "green", "green", "thread"]
    assert event.wait(0.001) is False and waiting(event) == 0


def test_an_event_set_just_before_its_setter_ends() -> None:
    event = Event()

    def main() -> None:
        waiter = spawn(event.wait)
        until(lambda: waiting(event) == 1)

        def setter() -> None:
            event.set()
            raise SystemExit

        ended = spawn(setter)
        assert waiter.result(SOON) is True
        with pytest.raises(SystemExit):
            ended.result()

    run(main)


@pytest.mark.parametrize(
    "kind",
    [
        "thread", "green", "coroutine",
        pytest.param("green on uvloop", marks=pytest.mark.leaks("libuv's pipe for signals, one for each process")),
    ],
)  # fmt: skip
def test_an_event_set_by_a_signal_handler_wakes_who_waits_in_the_main_thread(kind: str) -> None:
    """The loop is in its select() when the handler runs, and goes on with it afterwards."""
    new_loop = pytest.importorskip("uvloop").new_event_loop if "uvloop" in kind else asyncio.new_event_loop
    event = Event()
    old = signal.signal(signal.SIGUSR1, lambda *_: event.set())

    def interrupt() -> None:
        until(lambda: waiting(event) == 1)
        stat = Path(f"/proc/self/task/{threading.main_thread().native_id}/stat")
        until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "S")  # asleep in the kernel
        os.kill(os.getpid(), signal.SIGUSR1)

    try:
        with threads(interrupt):
            if kind == "thread":
                assert event.wait(SOON)
            elif kind.startswith("green"):
                assert run(event.wait, 5 * SOON, loop_factory=new_loop)
            else:
                assert asyncio.run(event.await_(5 * SOON))
    finally:
        signal.signal(signal.SIGUSR1, old)


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


# --- queues ---------------------------------------------------------------------------------------------------------


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


# --- against a model ------------------------------------------------------------------------------------------------


class _NoWait:
    def wake(self) -> None:
        pass


class PermitsModel(RuleBasedStateMachine):
    """Waiters enter, are granted, leave and give up in every order; a permit is never lost, doubled or jumped at."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 2
        self.permits = Permits(self.total)
        self.holders = 0
        self.line: list[Ticket] = []  # in the order they came

    def _granted_in_order(self) -> None:
        states = [ticket.granted for ticket in self.line]
        assert states == sorted(states, reverse=True), "somebody was passed by"

    @rule()
    def take(self) -> None:
        expected = not any(not t.granted for t in self.line) and self.permits.free > 0
        assert self.permits.take() is expected
        self.holders += expected

    @rule()
    def enter(self) -> None:
        ticket = Ticket(_NoWait(), None)
        if self.permits.enter(ticket):
            assert self.permits.leave(ticket, False)
            self.holders += 1
        else:
            self.line.append(ticket)

    @precondition(lambda self: self.line)
    @rule(data=st.data(), giving_up=st.booleans())
    def leave(self, data: st.DataObject, giving_up: bool) -> None:
        ticket = self.line.pop(data.draw(st.integers(0, len(self.line) - 1)))
        had = ticket.granted
        assert self.permits.leave(ticket, giving_up) is (had and not giving_up)
        self.holders += had and not giving_up

    @precondition(lambda self: self.holders)
    @rule()
    def give(self) -> None:
        self.holders -= 1
        self.permits.give()

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        granted = sum(ticket.granted for ticket in self.line)
        assert self.holders + granted + self.permits.free == self.total
        if any(not ticket.granted for ticket in self.line):
            assert not self.permits.free, "somebody waits for what is free"
        self._granted_in_order()


class QueueModel(RuleBasedStateMachine):
    """The same for a queue: each item that was put is got once, or thrown away by shutdown, or still there."""

    def __init__(self) -> None:
        super().__init__()
        self.q: Queue[int] = Queue(2)
        self.getters: list[Ticket] = []
        self.putters: list[Ticket] = []
        self.put_items: set[int] = set()
        self.got_items: set[int] = set()
        self.thrown: set[int] = set()
        self.next = 0
        self.overflow = 0
        self.shut = False

    def _got(self, item: int) -> None:
        assert item in self.put_items and item not in self.got_items | self.thrown
        self.got_items.add(item)

    @rule()
    def get_nowait(self) -> None:
        try:
            self._got(self.q.get_nowait())
        except (Empty, ShutDown):
            assert self.q.empty()

    @rule()
    def put_nowait(self) -> None:
        item, self.next = self.next, self.next + 1
        try:
            self.q.put_nowait(item)
            self.put_items.add(item)
        except Full:
            assert self.q.qsize() + self.q._reserved >= 2
        except ShutDown:
            assert self.shut

    @rule()
    def enter_get(self) -> None:
        ticket = Ticket(_NoWait(), None)
        try:
            if self.q._enter_get(ticket):
                assert self.q._leave_get(ticket, False)
                self._got(ticket.value)
            else:
                self.getters.append(ticket)
        except ShutDown:
            assert self.shut

    @precondition(lambda self: self.getters)
    @rule(data=st.data(), giving_up=st.booleans())
    def leave_get(self, data: st.DataObject, giving_up: bool) -> None:
        ticket = self.getters.pop(data.draw(st.integers(0, len(self.getters) - 1)))
        had, item = ticket.granted, ticket.value
        try:
            result = self.q._leave_get(ticket, giving_up)
        except ShutDown:
            assert self.shut and not had and not giving_up
            return
        assert result is (had and not giving_up)
        if result:
            self._got(item)
        elif had and self.q._drained:
            self.thrown.add(item)
        elif had:
            self.overflow += 1

    @rule()
    def enter_put(self) -> None:
        item, self.next = self.next, self.next + 1
        ticket = Ticket(_NoWait(), None, item)
        try:
            if self.q._enter_put(ticket):
                assert self.q._leave_put(ticket, False)
                self.put_items.add(item)
            else:
                self.putters.append(ticket)
        except ShutDown:
            assert self.shut

    @precondition(lambda self: self.putters)
    @rule(data=st.data(), giving_up=st.booleans())
    def leave_put(self, data: st.DataObject, giving_up: bool) -> None:
        ticket = self.putters.pop(data.draw(st.integers(0, len(self.putters) - 1)))
        had = ticket.granted
        try:
            result = self.q._leave_put(ticket, giving_up)
        except ShutDown:
            assert self.shut and not giving_up
            return
        if giving_up:
            return
        assert result is had
        if had:
            self.put_items.add(ticket.value)

    @precondition(lambda self: self.next > 15)
    @rule(immediate=st.booleans())
    def shutdown(self, immediate: bool) -> None:
        if immediate:
            self.thrown |= set(self.q.queue)
        self.q.shutdown(immediate)
        self.shut = True

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        handed = {ticket.value for ticket in self.getters if ticket.granted}
        inside = set(self.q.queue)
        assert len(inside) == self.q.qsize()
        assert not inside & handed
        assert self.put_items == inside | handed | self.got_items | self.thrown
        assert self.q.qsize() + self.q._reserved <= 2 + self.overflow
        assert self.q._reserved == sum(ticket.granted for ticket in self.putters)
        assert self.q.unfinished_tasks == len(self.put_items) - len(self.thrown)
        if not self.shut:
            if any(not ticket.granted for ticket in self.getters):
                assert self.q.empty(), "somebody waits for an item that is there"
            if any(not ticket.granted for ticket in self.putters):
                assert self.q.qsize() + self.q._reserved >= 2, "somebody waits for a slot that is free"
            for line in (self.getters, self.putters):
                states = [ticket.granted for ticket in line]
                assert states == sorted(states, reverse=True), "somebody was passed by"


TestPermitsModel = PermitsModel.TestCase
TestQueueModel = QueueModel.TestCase
TestPermitsModel.settings = TestQueueModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_the_model_finds_a_permit_that_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate can fail."""
    leave = Permits.leave
    monkeypatch.setattr(Permits, "leave", lambda self, ticket, giving_up: leave(self, ticket, False) and not giving_up)
    with pytest.raises(AssertionError):
        PermitsModel.TestCase("runTest").runTest()


def test_a_line_drops_who_leaves_it_in_constant_space() -> None:
    line = Line()
    for _ in range(10_000):
        ticket = Ticket(_NoWait(), None)
        line.append(ticket)
        line.discard(ticket)
    assert len(line) == 0 and line.pop() is None and line.grant(3) == []


# --- all kinds at once, counted -------------------------------------------------------------------------------------


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
        while not stop.is_set():
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
    assert len(entered) > 100


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
