"""A driven coroutine is a task to asyncio: the same programs on asyncio's own task and on ours, and what only we do."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import os
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from reactor_support import SOON, Host, async_until, breaks_the_pure_twin, pair

from jackfield.errors import MisuseError
from jackfield.reactor import current_reactor, drive
from jackfield.streams import AsyncSocket

Make = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(params=["ours", "asyncio's"])
def make(request: pytest.FixtureRequest) -> Make:
    """Makes a task of a coroutine: whatever passes on asyncio's own must pass on ours."""
    if request.param == "ours":
        return drive
    return lambda coro: asyncio.get_running_loop().create_task(coro)


# -- the life of a task ------------------------------------------------------------------------------------------------


def test_result_and_exception(host: Host, make: Make) -> None:
    async def returns() -> int:
        await asyncio.sleep(0)
        return 5

    async def fails() -> None:
        await asyncio.sleep(0)
        raise KeyError("k")

    async def main() -> None:
        assert await make(returns()) == 5
        with pytest.raises(KeyError, match="k"):
            await make(fails())

    host.drive(main)


def test_current_task_and_all_tasks(host: Host, make: Make) -> None:
    async def main() -> None:
        async def body() -> Any:
            before = asyncio.current_task()
            await asyncio.sleep(0)
            return before, asyncio.current_task()

        task = make(body())
        assert task in asyncio.all_tasks()
        assert await task == (task, task)
        assert task not in asyncio.all_tasks()

    host.drive(main)


@pytest.mark.parametrize("way", ["closed", "left by its thread", "forked"])
def test_asyncio_holds_no_task_whose_loop_is_no_more(way: str) -> None:
    """Its set of the tasks that began at once is no weak one."""
    loop = asyncio.new_event_loop()

    async def waits(sock: Any) -> None:
        await AsyncSocket(sock).recv(1)

    def run_a_little(sock: Any) -> None:
        async def main() -> None:
            task = drive(waits(sock))
            await asyncio.sleep(0)
            assert task in asyncio.all_tasks()

        loop.run_until_complete(main())

    def held_in_a_child() -> bool:
        child = os.fork()
        if not child:
            os._exit(bool(asyncio.all_tasks(loop)))
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0

    with pair() as (left, _):
        if way == "left by its thread":
            thread = threading.Thread(target=run_a_little, args=(left,))
            thread.start()
            thread.join(SOON)
        else:
            run_a_little(left)
            assert asyncio.all_tasks(loop)
        if way == "forked":
            assert not held_in_a_child()
        loop.close()
        assert not asyncio.all_tasks(loop)


def test_names(host: Host) -> None:
    async def main() -> None:
        async def body() -> None: ...

        named, unnamed = drive(body(), name="mine"), drive(body())
        assert named.get_name() == "mine"
        assert unnamed.get_name().startswith("Jackfield-")
        unnamed.set_name(5)
        assert unnamed.get_name() == "5"
        assert "mine" in repr(named)
        assert "pending" in repr(named)
        await asyncio.gather(named, unnamed)
        assert "done" in repr(named)

    host.drive(main)


def test_the_interface_of_a_task(host: Host, make: Make) -> None:
    async def main() -> None:
        future = asyncio.get_running_loop().create_future()

        async def body() -> None:
            await future

        coro = body()
        task = make(coro)
        assert task.get_coro() is coro
        if make is drive or sys.version_info >= (3, 12):
            assert isinstance(task.get_context(), contextvars.Context)
        await async_until(lambda: future._callbacks)
        assert [frame.f_code.co_name for frame in task.get_stack()] == ["body"]
        for method, argument in ((task.set_result, 1), (task.set_exception, KeyError())):
            with pytest.raises(RuntimeError, match="does not support"):
                method(argument)
        with pytest.raises(asyncio.InvalidStateError):
            task.result()
        future.set_result(None)
        await task
        assert task.get_stack() == []

    host.drive(main)


def test_context_variables(host: Host, make: Make) -> None:
    where: contextvars.ContextVar[str] = contextvars.ContextVar("where", default="nowhere")

    async def main() -> None:
        where.set("main")

        async def body(name: str) -> tuple[str, str]:
            before = where.get()
            where.set(name)
            await asyncio.sleep(0)
            await asyncio.sleep(0.001)
            return before, where.get()

        tasks = [make(body(name)) for name in "ab"]
        where.set("later")
        assert [await task for task in tasks] == [("main", "a"), ("main", "b")]
        assert where.get() == "later"

    host.drive(main)


def test_system_exit_ends_one_coroutine_and_not_the_loop(host: Host) -> None:
    """A future refuses to carry it as it is, and a handler must not end the loop that serves the others by it."""

    async def main() -> str:
        error = SystemExit(3)

        async def leaves() -> None:
            await asyncio.sleep(0)
            raise error

        task = drive(leaves())
        with pytest.raises(Exception, match="SystemExit") as caught:
            await task
        assert caught.value.__cause__ is error
        return "the loop goes on"

    assert host.drive(main) == "the loop goes on"


def test_an_exception_that_nobody_asks_for_is_logged(host: Host, make: Make, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async def fails() -> None:
            raise KeyError("nobody asks")

        task = make(fails())
        await async_until(task.done)
        del task
        gc.collect()

    with caplog.at_level(logging.ERROR, "asyncio"):
        host.drive(main)
    assert "nobody asks" in caplog.text


# -- turns -------------------------------------------------------------------------------------------------------------


def test_sleep_zero_lets_the_others_have_a_turn(host: Host, make: Make) -> None:
    """``create_task(f()); await sleep(0)`` is how asyncio programs let a task begin."""

    async def main() -> None:
        seen: list[str] = []

        async def other() -> None:
            seen.append("other")

        async def body() -> None:
            task = asyncio.get_running_loop().create_task(other())
            await asyncio.sleep(0)
            seen.append("body")
            await task

        await make(body())
        assert seen == ["other", "body"]

    host.drive(main)


def test_sleep_zero_takes_turns(host: Host, make: Make) -> None:
    async def main() -> None:
        seen: list[str] = []

        async def body(name: str) -> None:
            for _ in range(3):
                seen.append(name)
                await asyncio.sleep(0)

        await asyncio.gather(make(body("a")), make(body("b")))
        assert seen == ["a", "b"] * 3

    host.drive(main)


def test_a_bad_yield_is_an_error_in_the_coroutine(host: Host, make: Make) -> None:
    from types import coroutine

    @coroutine
    def yields(what: Any) -> Any:
        return (yield what)

    async def main() -> None:
        async def body() -> None:
            with pytest.raises(RuntimeError, match="bad yield"):
                await yields(5)
            assert await asyncio.sleep(0, "goes on") == "goes on"

        await make(body())

    host.drive(main)


def test_a_turn_for_a_task_that_has_ended_does_nothing(host: Host) -> None:
    async def main() -> None:
        async def body() -> int:
            return 5

        task = drive(body())
        assert await task == 5
        task.switch()
        assert task.result() == 5

    host.drive(main)


def test_driving_needs_a_loop() -> None:
    async def body() -> None: ...

    coro = body()
    with pytest.raises(MisuseError):
        drive(coro)
    coro.close()


# -- cancellation ------------------------------------------------------------------------------------------------------


async def parked_on_future() -> None:
    await asyncio.get_running_loop().create_future()


async def parked_on_sleep() -> None:
    await asyncio.sleep(3600)


async def parked_on_event() -> None:
    await asyncio.Event().wait()


async def parked_on_socket() -> None:
    with pair() as (left, _):
        await AsyncSocket(left).recv(10)


PLACES = [parked_on_future, parked_on_sleep, parked_on_event, parked_on_socket]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("message", [None, "a message"])
def test_cancelled_where_it_waits(host: Host, make: Make, place: Any, message: str | None) -> None:
    async def main() -> None:
        seen: list[Any] = []

        async def body() -> None:
            seen.append("started")
            try:
                await place()
            except asyncio.CancelledError as cancelled:
                seen.append(cancelled.args)
                raise

        task = make(body())
        await async_until(lambda: seen)
        assert task.cancel(message) is True
        assert task.cancelling() == 1
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()
        assert task.cancel() is False, "it has ended"
        assert seen == ["started", () if message is None else (message,)]

    host.drive(main)


def test_cancelled_before_its_first_step_it_never_runs(host: Host, make: Make) -> None:
    async def main() -> None:
        seen: list[int] = []

        async def body() -> None:
            seen.append(1)

        task = make(body())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert seen == []

    host.drive(main)


def test_cancelled_twice_it_meets_one_and_counts_two(host: Host, make: Make) -> None:
    async def main() -> None:
        seen: list[str] = []

        async def body() -> str:
            seen.append("started")
            try:
                await parked_on_future()
            except asyncio.CancelledError:
                seen.append("cancelled")
            await asyncio.sleep(0)
            await asyncio.sleep(0.001)
            return "went on"

        task = make(body())
        await async_until(lambda: seen)
        task.cancel()
        task.cancel()
        assert task.cancelling() == 2
        try:
            assert await task == "went on"
        except asyncio.CancelledError:
            # asyncio's own keeps the second for the next wait when it had to be noted (before 3.13 it differs by where
            # the task waits): then the task ends by it. What it may not do is to lose count.
            assert task.cancelled()
        assert seen == ["started", "cancelled"]

    host.drive(main)


def test_what_survives_a_cancellation_goes_on_and_uncancels(host: Host, make: Make) -> None:
    async def main() -> None:
        started: list[int] = []

        async def body() -> str:
            started.append(1)
            try:
                await parked_on_future()
            except asyncio.CancelledError:
                task = asyncio.current_task()
                assert task is not None
                assert (task.cancelling(), task.uncancel(), task.uncancel()) == (1, 0, 0)
            await asyncio.sleep(0.001)
            return "went on"

        task = make(body())
        await async_until(lambda: started)
        task.cancel()
        assert await task == "went on"

    host.drive(main)


@pytest.mark.parametrize("place", [*PLACES, None], ids=lambda p: p.__name__ if p else "sleep_zero")
def test_cancelling_itself_it_meets_it_at_the_next_wait(host: Host, make: Make, place: Any) -> None:
    async def main() -> None:
        seen: list[str] = []

        async def body() -> bytes:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            seen.append("goes on until it waits")
            try:
                await (place() if place else asyncio.sleep(0))
            except asyncio.CancelledError:
                seen.append("cancelled")
                task.uncancel()
            # Whatever is left of the cancellation must not reach in here.
            assert await asyncio.wait_for(asyncio.sleep(0.001, "slept"), 10) == "slept"
            with pair() as (left, right):
                asyncio.get_running_loop().call_later(0.001, right.send, b"received")
                return await AsyncSocket(left).recv(10)

        assert await make(body()) == b"received"
        assert seen == ["goes on until it waits", "cancelled"]

    host.drive(main)


def test_cancelling_itself_and_returning(host: Host, make: Make) -> None:
    async def main() -> None:
        async def body() -> int:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            return 5

        with pytest.raises(asyncio.CancelledError):
            await make(body())

    host.drive(main)


def test_cancelled_in_the_moment_in_which_what_it_waits_for_is_there(host: Host, make: Make) -> None:
    """The future is done, the task has not had its turn, and the cancellation comes in between: it still counts."""

    async def main() -> None:
        future = asyncio.get_running_loop().create_future()
        waits: list[int] = []

        async def body() -> None:
            waits.append(1)
            await future
            waits.append(2)
            await asyncio.sleep(3600)

        task = make(body())
        await async_until(lambda: waits)
        future.set_result(None)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert waits == [1]

    host.drive(main)


def test_cancelled_from_a_green_thread_and_from_another_thread(host: Host) -> None:
    import threading

    from jackfield.reactor import green

    async def main() -> None:
        for how in ("green thread", "thread"):
            seen: list[int] = []

            async def body(seen: list[int] = seen) -> None:
                seen.append(1)
                await parked_on_socket()

            task = drive(body())
            await async_until(lambda seen=seen: seen)
            if how == "thread":
                # Through the loop, as asyncio asks for it.
                loop = asyncio.get_running_loop()
                thread = threading.Thread(target=loop.call_soon_threadsafe, args=(task.cancel,))
                thread.start()
                await async_until(lambda thread=thread: not thread.is_alive())
                thread.join()
            else:
                await green(task.cancel)
            with pytest.raises(asyncio.CancelledError):
                await task

    host.drive(main)


# -- the suite itself --------------------------------------------------------------------------------------------------


@breaks_the_pure_twin
def test_a_driver_that_is_no_task_to_asyncio_would_be_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broken case: without the documented extension points asyncio does not know the coroutine as a task."""
    monkeypatch.setattr("jackfield.reactor.driver._current_tasks", None)
    monkeypatch.setattr("jackfield.reactor.driver._enter_task", lambda loop, task: None)
    monkeypatch.setattr("jackfield.reactor.driver._leave_task", lambda loop, task: None)

    async def body() -> Any:
        return asyncio.current_task()

    async def main() -> None:
        assert await drive(body()) is None
        with pytest.raises(RuntimeError):
            await drive(times_out())

    async def times_out() -> None:
        async with asyncio.timeout(0.001):
            await asyncio.sleep(3600)

    async def beside() -> None:
        try:
            await main()
        finally:
            current_reactor().close()

    asyncio.run(beside())
