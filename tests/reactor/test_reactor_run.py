"""run(): blocking-style code on a loop of its own, its result, its end, and what signals do to it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket as _socket_std
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from greenlet import getcurrent
from reactor_support import Host, async_until, pair, turns, until

import jackfield
from jackfield.errors import MisuseError
from jackfield.reactor import GreenExit, current_reactor, drive, green, in_green, run, sleep, spawn
from jackfield.reactor.timers import Timer
from jackfield.sync import Event

LOOPS = ["asyncio", "uvloop"]


def loops(name: str) -> Callable[..., Any]:
    """run() on the loop of that name."""
    if name == "uvloop":
        uvloop = pytest.importorskip("uvloop", reason="the extra 'uvloop' is not installed")
        return lambda function, *args: run(function, *args, loop_factory=uvloop.new_event_loop)
    return run


@pytest.fixture(params=LOOPS)
def own(request: pytest.FixtureRequest) -> Callable[..., Any]:
    return loops(request.param)


# -- result and end ----------------------------------------------------------------------------------------------------


def test_it_returns_what_the_function_returns(own: Callable[..., Any]) -> None:
    assert own(lambda a: (a, in_green()), 5) == (5, True)
    assert not in_green()


def test_arguments_reach_the_function() -> None:
    assert run(lambda *args, **kwargs: (args, kwargs), 1, 2, three=3) == ((1, 2), {"three": 3})


@pytest.mark.parametrize(
    "error", [ValueError("v"), SystemExit(4), KeyboardInterrupt(), GreenExit(), asyncio.CancelledError()]
)
def test_it_raises_what_the_function_raises(own: Callable[..., Any], error: BaseException) -> None:
    def fails() -> None:
        sleep(0)
        raise error

    with pytest.raises(type(error)) as caught:
        own(fails)
    assert caught.value is error or isinstance(error, asyncio.CancelledError)


def test_once_more_and_once_more() -> None:
    """Nothing of one run reaches into the next, whatever became of it."""
    for number in range(20):
        assert run(lambda n: (spawn(Event().wait), n)[1], number) == number
        with pytest.raises(ZeroDivisionError):
            run(lambda: 1 / 0)


def test_green_threads_left_behind_are_ended_and_may_clean_up(own: Callable[..., Any]) -> None:
    ended: list[str] = []

    def left_behind(name: str) -> None:
        try:
            Event().wait()
        finally:
            sleep(0)
            ended.append(name)

    def main() -> None:
        for name in "ab":
            spawn(left_behind, name)
        turns()

    own(main)
    assert sorted(ended) == ["a", "b"]


def test_tasks_left_behind_are_ended_and_may_clean_up(own: Callable[..., Any]) -> None:
    ended: list[str] = []
    kept: list[asyncio.Task[None]] = []  # asyncio keeps weak references only, and a collection may come at any time

    async def left_behind(name: str) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await asyncio.sleep(0)
            ended.append(name)

    def main() -> None:
        drive(left_behind("driven"))
        kept.append(current_reactor().loop.create_task(left_behind("asyncio's")))
        turns()
        assert not kept[0].done()

    own(main)
    assert sorted(ended) == ["asyncio's", "driven"]


@pytest.mark.leaks("a green thread that never ends keeps the reactor it waits in")
def test_what_does_not_end_is_named(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("jackfield.reactor.greens.CLEANUP_SECONDS", 0.01)
    keep: list[Any] = []

    def stubborn() -> None:
        keep.append(getcurrent())
        while True:
            try:
                Event().wait()
            except GreenExit:
                pass

    with caplog.at_level(logging.WARNING, "jackfield.green"):
        run(lambda: (spawn(stubborn), turns()))
    assert "stubborn" in caplog.text
    assert "did not" in caplog.text


def test_a_wake_that_comes_as_the_run_ends_disturbs_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """A turn was asked for, by another thread say, and the reactor is closed before it comes."""

    def main() -> None:
        reactor = current_reactor()

        class Late:
            def switch(self) -> None:
                raise AssertionError("nobody has a turn after the end")

        async def asks() -> None:
            reactor.poller.runnable.append(Late())
            reactor.loop.call_soon(reactor._turn)

        reactor.close()
        reactor.loop.create_task(asks())

    run(main)
    assert caplog.text == ""


def test_it_leaves_no_loop_behind() -> None:
    run(turns)
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()
    with pytest.raises(MisuseError):
        current_reactor()


# -- misuse ------------------------------------------------------------------------------------------------------------


def test_run_in_a_green_thread() -> None:
    with pytest.raises(MisuseError, match=r"call the function, or start another with jackfield\.spawn"):
        run(lambda: run(turns))


def test_run_where_a_loop_runs() -> None:
    async def main() -> None:
        with pytest.raises(MisuseError, match=r"await jackfield\.green\(fn\)"):
            run(turns)

    asyncio.run(main())


def test_run_in_a_thread_that_a_green_thread_started() -> None:
    """Another thread has a loop of its own, whatever runs here."""

    def main() -> int:
        results: list[int] = []
        thread = threading.Thread(target=lambda: results.append(run(lambda: 5)))
        thread.start()
        until(lambda: not thread.is_alive())
        thread.join()
        return results[0]

    assert run(main) == 5


# -- signals -----------------------------------------------------------------------------------------------------------


class Alarm(Exception):
    pass


@pytest.fixture
def alarm() -> Iterator[Callable[[], None]]:
    """SIGUSR1 raises Alarm; the function has it sent by another thread, when this one sleeps in the kernel."""

    def raises(number: int, frame: object) -> None:
        raise Alarm("raised by the signal handler")

    before = signal.signal(signal.SIGUSR1, raises)
    senders: list[threading.Thread] = []
    state = Path(f"/proc/self/task/{threading.get_native_id()}/wchan")
    if not state.exists():
        pytest.skip("this system does not tell where a thread sleeps")

    def send() -> None:
        deadline = time.monotonic() + 10
        while "epoll" not in state.read_text() and time.monotonic() < deadline:
            pass
        os.kill(os.getpid(), signal.SIGUSR1)

    def start() -> None:
        senders.append(threading.Thread(target=send))
        senders[-1].start()

    try:
        yield start
    finally:
        for sender in senders:
            sender.join()
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("name", LOOPS)
def test_an_exception_of_a_signal_handler_lands_in_the_first_green_thread(name: str, alarm: Callable[[], None]) -> None:
    """As it comes out of a plain thread's recv: where the program waits, and not somewhere in the loop."""
    seen: list[str] = []

    def beside() -> None:
        try:
            Event().wait()
        except BaseException as error:
            seen.append(f"beside: {type(error).__name__}")
            raise

    def main() -> str:
        spawn(beside)
        turns()
        with pair() as (left, right):
            left.settimeout(15)
            try:
                alarm()
                left.recv(10)
            except (Alarm, TimeoutError) as error:
                seen.append(str(error))
            right.send(b"goes on")
            return left.recv(10).decode()

    assert loops(name)(main) == "goes on"
    assert seen == ["raised by the signal handler", "beside: GreenletExit"]


@pytest.mark.parametrize("name", LOOPS)
@pytest.mark.parametrize("where", ["turn", "timer"])
def test_and_so_does_one_that_is_raised_in_the_midst_of_the_loops_work(name: str, where: str) -> None:
    """On a busy server the signal comes while the loop hands turns out, and not while it sleeps."""

    class Interrupted:
        def switch(self) -> None:
            raise Alarm("raised by the signal handler")

    def main() -> str:
        reactor = current_reactor()
        if where == "turn":
            reactor.loop.call_soon(reactor.schedule, Interrupted())
        else:
            timer = Timer(Interrupted().switch)
            reactor.loop.call_soon(reactor.arm, timer, reactor.clock.now())
        event = Event()
        bound = threading.Timer(15, event.set)  # not by the reactor's own time, which a fault here may stop
        bound.start()
        try:
            event.wait()
        except Alarm as error:
            return str(error)
        finally:
            bound.cancel()
        return "nothing came"

    assert loops(name)(main) == "raised by the signal handler"


def test_an_exception_of_a_signal_handler_that_nobody_catches(alarm: Callable[[], None]) -> None:
    def main() -> None:
        alarm()
        Event().wait()

    with pytest.raises(Alarm):
        run(main)


def test_a_signal_handler_may_raise_again_and_again(alarm: Callable[[], None]) -> None:
    def main() -> int:
        for _ in range(5):
            with pytest.raises(Alarm):
                alarm()
                Event().wait()
        return 5

    assert run(main) == 5


@pytest.mark.parametrize("name", LOOPS)
def test_ctrl_c_is_a_keyboard_interrupt_where_the_program_waits(name: str) -> None:
    seen: list[str] = []

    def main() -> None:
        spawn(lambda: (turns(), signal.raise_signal(signal.SIGINT)))
        try:
            Event().wait()
        except KeyboardInterrupt:
            seen.append("where it waits")
            sleep(0)  # cleaning up may wait
            raise
        finally:
            seen.append("cleaned up")

    with pytest.raises(KeyboardInterrupt):
        loops(name)(main)
    assert seen == ["where it waits", "cleaned up"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_may_be_caught_and_the_program_goes_on() -> None:
    def main() -> str:
        spawn(lambda: (turns(), signal.raise_signal(signal.SIGINT)))
        try:
            Event().wait()
        except KeyboardInterrupt:
            pass
        sleep(0.001)
        return "went on"

    assert run(main) == "went on"


def test_ctrl_c_twice() -> None:
    """The second one comes while the first is being cleaned up after, and while another green thread runs."""

    def main() -> None:
        spawn(lambda: (turns(), signal.raise_signal(signal.SIGINT), turns(20), signal.raise_signal(signal.SIGINT)))
        try:
            Event().wait()
        finally:
            Event().wait()

    with pytest.raises(KeyboardInterrupt):
        run(main)


def test_a_signal_handler_that_returns_changes_nothing() -> None:
    rung: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: rung.append(number))
    try:

        def main() -> bytes:
            with pair() as (left, right):
                sender = spawn(lambda: (turns(), signal.raise_signal(signal.SIGUSR1), turns(), right.send(b"after it")))
                answer = left.recv(10)
                sender.join()
                return answer

        assert run(main) == b"after it"
        assert rung == [signal.SIGUSR1]
    finally:
        signal.signal(signal.SIGUSR1, before)


# -- green(): the same from a coroutine --------------------------------------------------------------------------------


def test_green_gives_the_result_and_the_exception(host: Host) -> None:
    async def main() -> None:
        assert await green(lambda a: (a, in_green()), 3) == (3, True)
        with pytest.raises(ZeroDivisionError):
            await green(lambda: 1 / 0)

    host.drive(main)


def test_cancelling_the_wait_kills_the_green_thread_and_waits_for_it(host: Host) -> None:
    seen: list[str] = []

    def body() -> None:
        try:
            seen.append("started")
            Event().wait()
        except GreenExit:
            sleep(0)
            seen.append("cleaned up")
            raise

    async def main() -> None:
        task = asyncio.ensure_future(green(body))
        await async_until(lambda: seen)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert seen == ["started", "cleaned up"]

    host.drive(main)


def test_green_under_a_timeout(host: Host) -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await green(Event().wait)
        assert await green(lambda: "and after it") == "and after it"

    host.drive(main)


def test_the_names_are_handed_on() -> None:
    for name in ("run", "spawn", "sleep", "offload", "await_", "green", "GreenExit", "GreenThread"):
        assert getattr(jackfield, name) is getattr(jackfield.reactor, name)


def test_a_plain_socket_in_a_green_thread_is_still_only_a_socket() -> None:
    """The broken case for all of this: the standard library's socket holds the loop, and nobody else runs meanwhile."""

    def main() -> list[str]:
        seen: list[str] = []
        spawn(lambda: seen.append("another's turn"))
        left, right = _socket_std.socketpair()
        with left, right:
            right.send(b"x")
            left.recv(1)
            seen.append("received")
        turns()
        return seen

    assert run(main) == ["received", "another's turn"]
