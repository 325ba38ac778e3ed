"""sleep, offload, await_, green: each from a green thread, a plain thread and a coroutine, and a kill in each."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from greenlet import getcurrent
from reactor_support import SOON, Host, StoppedClock, turns, until

from jackfield.errors import MisuseError
from jackfield.reactor import GreenExit, await_, current_reactor, drive, green, in_green, offload, run, sleep, spawn
from jackfield.sync import Event


def in_thread(function: Callable[[], Any]) -> Any:
    """What ``function()`` returns or raises in a plain thread."""
    outcome: list[Any] = []

    def body() -> None:
        try:
            outcome.append((True, function()))
        except BaseException as error:
            outcome.append((False, error))

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    thread.join(SOON)
    assert outcome, "it still runs"
    fine, value = outcome[0]
    if fine:
        return value
    raise value


class Fault(Exception):
    pass


def faulty() -> None:
    raise Fault("of the called")


async def faulty_too() -> None:
    await asyncio.sleep(0)
    raise Fault("of the awaited")


# -- sleep -------------------------------------------------------------------------------------------------------------


def test_sleep_in_a_green_thread_lets_the_others_run(host: Host) -> None:
    def main() -> None:
        seen: list[str] = []
        other = spawn(seen.append, "other")
        sleep(0.001)
        assert seen == ["other"]
        other.join()

    host.run(main)


def test_sleep_waits_as_long_as_it_says() -> None:
    def main() -> None:
        reactor = current_reactor()
        clock = StoppedClock.of(reactor)
        sleeper = spawn(sleep, 10)
        turns()
        clock.pass_time(reactor, 9.999)
        assert not sleeper.done
        clock.pass_time(reactor, 0.001)
        assert sleeper.join()

    run(main)


@pytest.mark.parametrize("seconds", [0, -1, 0.0])
def test_sleep_of_nothing_gives_a_turn(host: Host, seconds: float) -> None:
    async def coroutine() -> None:
        await sleep(seconds)

    def main() -> None:
        sleep(seconds)
        await_(drive(coroutine()))

    host.run(main)
    sleep(seconds)  # in a plain thread


def test_sleep_in_a_coroutine_and_in_a_plain_thread(host: Host) -> None:
    async def main() -> None:
        assert await sleep(0.001) is None

    host.drive(main)
    before = time.monotonic()
    sleep(0.001)
    assert time.monotonic() - before >= 0.001


def test_a_sleeper_is_killed(host: Host) -> None:
    def main() -> None:
        sleeper = spawn(sleep, 3600)
        turns()
        sleeper.kill()
        with pytest.raises(GreenExit):
            sleeper.result()

    host.run(main)


# -- offload -----------------------------------------------------------------------------------------------------------


def test_offload_in_a_green_thread_leaves_the_loop_free(host: Host) -> None:
    def main() -> None:
        here, hold = threading.get_ident(), threading.Event()

        def blocks() -> int:
            assert hold.wait(SOON)
            return threading.get_ident()

        one = spawn(offload, blocks)
        turns()
        assert not one.done
        hold.set()  # only because this thread runs on
        assert one.result() != here

    host.run(main)


def test_offload_hands_arguments_and_errors_through(host: Host) -> None:
    def join(*args: Any, **kwargs: Any) -> Any:
        return args, kwargs

    async def coroutine() -> None:
        assert await offload(join, 1, two=2) == ((1,), {"two": 2})
        with pytest.raises(Fault):
            await offload(faulty)

    def main() -> None:
        assert offload(join, 1, two=2) == ((1,), {"two": 2})
        with pytest.raises(Fault):
            offload(faulty)
        await_(drive(coroutine()))

    host.run(main)
    assert offload(join, 1, two=2) == ((1,), {"two": 2})
    with pytest.raises(Fault):
        offload(faulty)
    assert offload(threading.get_ident) == threading.get_ident(), "a plain thread has no loop to hold: it just calls"


def test_offload_is_not_a_green_thread(host: Host) -> None:
    """What runs there blocks as it always did."""
    assert host.run(lambda: offload(in_green)) is False
    assert host.run(lambda: offload(lambda: run(lambda: in_green()))) is True


def test_a_kill_during_an_offload_leaves_the_call_running(host: Host) -> None:
    def main() -> None:
        started, hold, ended = threading.Event(), threading.Event(), threading.Event()

        def blocks() -> None:
            started.set()
            assert hold.wait(SOON)
            ended.set()

        one = spawn(offload, blocks)
        until(started.is_set)
        one.kill()
        with pytest.raises(GreenExit):
            one.result()
        assert not ended.is_set()
        hold.set()
        assert ended.wait(SOON), "a thread cannot be stopped from outside"
        turns()

    host.run(main)


def test_a_kill_before_an_offload_has_a_thread_takes_it_back(monkeypatch: pytest.MonkeyPatch) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        monkeypatch.setattr("jackfield.reactor.bridges._pool", lambda: pool)

        def main() -> None:
            hold, ran = threading.Event(), threading.Event()
            first, second = spawn(offload, hold.wait, SOON), spawn(offload, ran.set)
            turns()
            second.kill()
            second.join()
            hold.set()
            assert first.result() is True
            offload(lambda: None)  # what was before it in the queue has been dealt with
            assert not ran.is_set()

        run(main)


# One time in ten, on a busy machine, the reactor that has ended is still there; who holds it is not known yet.
@pytest.mark.leaks("the thread of the call may be the last to know of the reactor")
def test_the_end_of_an_offload_after_the_end_of_the_loop_disturbs_nobody(caplog: pytest.LogCaptureFixture) -> None:
    started, hold, ended = threading.Event(), threading.Event(), threading.Event()

    def blocks() -> None:
        started.set()
        hold.wait(SOON)
        ended.set()

    def main() -> None:
        spawn(offload, blocks)
        until(started.is_set)

    run(main)
    hold.set()
    assert ended.wait(SOON)
    assert run(lambda: [one.result() for one in [spawn(offload, threading.get_ident) for _ in range(64)]])
    assert caplog.text == ""


# -- await_ ------------------------------------------------------------------------------------------------------------


def test_await_in_a_green_thread_runs_on_its_loop(host: Host) -> None:
    async def where() -> Any:
        await asyncio.sleep(0)
        return asyncio.get_running_loop(), threading.get_ident()

    def main() -> None:
        assert await_(where()) == (current_reactor().loop, threading.get_ident())
        with pytest.raises(Fault):
            await_(faulty_too())

    host.run(main)


def test_await_takes_whatever_can_be_awaited(host: Host) -> None:
    class Awaitable:
        def __await__(self) -> Any:
            return asyncio.sleep(0, "awaited").__await__()

    def main() -> None:
        future = current_reactor().loop.create_future()
        future.set_result("future")
        assert await_(future) == "future"
        assert await_(Awaitable()) == "awaited"
        assert await_(spawn(lambda: "green thread")) == "green thread"
        with pytest.raises(TypeError):
            await_(5)  # type: ignore[arg-type]

    host.run(main)
    assert await_(Awaitable()) == "awaited"


def test_await_in_plain_threads_shares_one_background_loop() -> None:
    async def loop() -> Any:
        return asyncio.get_running_loop()

    assert await_(loop()) is in_thread(lambda: await_(loop()))
    with pytest.raises(Fault):
        await_(faulty_too())


def test_a_kill_during_await_cancels_the_task(host: Host) -> None:
    def main() -> None:
        seen: list[str] = []

        async def waits() -> None:
            try:
                seen.append("waits")
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                seen.append("cancelled")
                raise

        one = spawn(lambda: await_(waits()))
        until(lambda: seen)
        one.kill()
        with pytest.raises(GreenExit):
            one.result()
        until(lambda: len(seen) == 2)
        assert seen == ["waits", "cancelled"]

    host.run(main)


def test_what_is_awaited_may_be_cancelled_by_itself(host: Host) -> None:
    async def cancels() -> None:
        raise asyncio.CancelledError

    def main() -> None:
        with pytest.raises(asyncio.CancelledError):
            await_(cancels())

    host.run(main)


def test_await_in_a_coroutine_is_a_misuse_and_shows_the_right_call(host: Host) -> None:
    async def awaited() -> None: ...

    async def main() -> None:
        with pytest.raises(MisuseError, match=r"write 'await \.\.\.'"):
            await_(awaited())  # and the coroutine is closed: no warning that it was never awaited

    host.drive(main)


# -- from one world into the next and back -----------------------------------------------------------------------------


def test_to_and_fro(host: Host) -> None:
    """Green thread, coroutine, green thread, plain thread, coroutine: an answer and an error come all the way back."""

    def innermost(fails: bool) -> str:
        if fails:
            faulty()
        return await_(echo("innermost"))

    async def echo(text: str) -> str:
        await asyncio.sleep(0)
        return text

    async def inner(fails: bool) -> str:
        return await green(lambda: offload(innermost, fails))

    def outer(fails: bool) -> str:
        return await_(inner(fails))

    assert host.run(outer, False) == "innermost"
    with pytest.raises(Fault):
        host.run(outer, True)


def test_many_at_once(host: Host) -> None:
    async def coroutine(number: int) -> int:
        return await green(lambda: offload(lambda: number))

    def main() -> int:
        threads = [spawn(lambda n=n: await_(coroutine(n))) for n in range(100)]
        return sum(thread.result() for thread in threads)

    assert host.run(main) == sum(range(100))


def test_what_needs_a_loop_says_so_where_there_is_none() -> None:
    with pytest.raises(MisuseError, match=r"jackfield\.run\(fn\)"):
        spawn(faulty)
    coro = green(faulty)
    with contextlib.closing(coro), pytest.raises(MisuseError):
        coro.send(None)


def test_join_in_a_coroutine_is_a_misuse_and_shows_the_right_call(host: Host) -> None:
    """Blocking-style join() would hold the loop that has to run what it waits for."""

    async def main() -> None:
        event = Event()
        thread = spawn(event.wait)
        for wait in (thread.join, thread.result):
            with pytest.raises(MisuseError, match="await"):
                wait(0.01)
        event.set()
        assert await thread is True
        assert thread.join() is True, "one that has ended may be asked anywhere"

    host.drive(main)


def test_a_green_thread_that_joins_itself_is_told() -> None:
    """The standard library's thread raises RuntimeError; waiting for oneself has no end."""

    def main() -> None:
        with pytest.raises(RuntimeError):
            getcurrent().join(1)  # type: ignore[attr-defined]

    run(main)


def test_an_offload_that_holds_the_loop_would_be_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broken case: calls made on the spot. The others have no turn until it is over."""
    monkeypatch.setattr("jackfield.reactor.bridges._joined", lambda green, future: future.result())

    def main() -> bool:
        turn_of_others = threading.Event()
        spawn(turn_of_others.set)
        return bool(offload(turn_of_others.wait, 0.05))

    assert run(main) is False
    monkeypatch.undo()
    assert run(main) is True
