"""Whatever is waited for is handed over to who waits, and in the same moment he may be killed or out of time.

*Scripted*: the wait itself is a fake, so that what happens "in the same moment" happens in that moment, each time.
*For real*: green threads and coroutines that a loop resumes in the one order or the other.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sync_support import SOON, Killed, ScriptedWait, Subject, threads, until

from jackfield.reactor import GreenExit, current_reactor, drive, run, spawn
from jackfield.sync import Empty, Full, Queue
from jackfield.sync.lines import Permits, Ticket

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
