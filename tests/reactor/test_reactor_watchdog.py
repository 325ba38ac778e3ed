"""The watchdog: a turn that holds the loop is reported with its file and line; while nothing happens it sleeps.

Its seam is the event it waits on between two looks: here each look is let through by the test, and no clock counts.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from reactor_support import SOON, StoppedClock, pair, turns, until

import jackfield
from jackfield.reactor import Watchdog, current_reactor, drive, in_green, run, sleep, spawn


class Steps:
    """In the place of the event that ends the watchdog's pauses: a pause lasts until the test says so."""

    def __init__(self) -> None:
        self._go = threading.Semaphore(0)
        self._pausing = threading.Semaphore(0)
        self._over = False
        #: Pauses begun so far: one for each look.
        self.pauses = 0

    def wait(self, timeout: float | None = None) -> bool:
        self.pauses += 1
        self._pausing.release()
        assert self._go.acquire(timeout=SOON)
        return self._over

    def is_set(self) -> bool:
        return self._over

    def set(self) -> None:
        self._over = True
        self._go.release(1000)

    # -- the test's side

    def await_pause(self) -> None:
        assert self._pausing.acquire(timeout=SOON), "the watchdog does not look"

    def look(self, times: int = 1) -> None:
        """Let it look, and be back in its next pause when this returns."""
        for _ in range(times):
            self._go.release()
            self.await_pause()

    def look_and_rest(self, watchdog: Watchdog) -> None:
        """Let it look once more, which finds nothing going on."""
        self._go.release()
        while not watchdog.resting:
            pass


@contextmanager
def watched(threshold: float = 0.25) -> Iterator[tuple[Watchdog, Steps]]:
    """A watchdog on the reactor of this loop, whose looks the test lets through; in a green thread it is awake."""
    reactor = current_reactor()
    watchdog = Watchdog(reactor, threshold)
    steps = Steps()
    watchdog._closed = steps  # type: ignore[assignment]
    reactor.watchdog = watchdog
    if in_green():
        until(lambda: not watchdog.resting)  # roused by the next turn that the host loop gives
    try:
        yield watchdog, steps
    finally:
        reactor.watchdog = None
        watchdog.close()


def reports(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "jackfield.watchdog"]


def hold_the_loop(looks: Callable[[], object]) -> None:
    looks()  # the line that is to be reported


#: Where the innermost frame of this module stands while it holds the loop.
LINE = inspect.getsourcelines(hold_the_loop)[1] + 1


def held_by_a_green_thread(looks: Callable[[], object]) -> None:
    spawn(hold_the_loop, looks).join()


def held_by_a_coroutine(looks: Callable[[], object]) -> None:
    async def handler() -> None:
        await asyncio.sleep(0)
        hold_the_loop(looks)

    task = drive(handler())
    until(task.done)


def held_after_a_sleep(looks: Callable[[], object]) -> None:
    """Its turn is given by a timer."""

    def handler() -> None:
        sleep(10)
        hold_the_loop(looks)

    reactor = current_reactor()
    clock = StoppedClock.of(reactor)
    thread = spawn(handler)
    turns()
    clock.pass_time(reactor, 10)
    thread.join()


def held_by_a_reader(looks: Callable[[], object]) -> None:
    """Its turn is given by an event."""
    with pair() as (left, right):
        thread = spawn(lambda: (left.recv(10), hold_the_loop(looks)))
        turns()
        right.send(b"x")
        thread.join()


@pytest.mark.parametrize(
    "holds",
    [held_by_a_green_thread, held_by_a_coroutine, held_after_a_sleep, held_by_a_reader],
    ids=lambda f: f.__name__,
)
def test_what_holds_the_loop_is_named(holds: Callable[..., None], caplog: pytest.LogCaptureFixture) -> None:
    def main() -> None:
        with watched() as (_, steps):
            # The handler itself lets the watchdog look three times, while it holds the loop: no clock decides.
            holds(lambda: (steps.await_pause(), steps.look(3)))

    run(main)
    assert reports(caplog), "it was not noticed"
    report = reports(caplog)[0]
    assert f"{__file__}:{LINE}" in report or f'"{__file__}", line {LINE}' in report
    assert "hold_the_loop" in report
    assert "jackfield.offload()" in report


def test_the_same_hold_is_reported_again_when_it_has_lasted_twice_as_long(caplog: pytest.LogCaptureFixture) -> None:
    def main() -> None:
        with watched(0.25) as (_, steps):
            held_by_a_green_thread(lambda: (steps.await_pause(), steps.look(9)))

    run(main)
    # Looks at 0 (who is it?), 0.25, 0.5 … 2 s.
    assert [report.split(" s at ")[0].rsplit(" ", 1)[1] for report in reports(caplog)] == ["0.25", "0.5", "1", "2"]


def test_a_loop_that_is_busy_with_many_turns_is_not_held(caplog: pytest.LogCaptureFixture) -> None:
    """Between any two looks somebody else has the turn."""

    def main() -> None:
        with watched() as (_, steps):
            spawn(steps.await_pause).join()
            for _ in range(10):
                spawn(steps.look).join()

    run(main)
    assert reports(caplog) == []


def test_one_turn_after_the_other_of_the_same_green_thread_is_not_held(caplog: pytest.LogCaptureFixture) -> None:
    def main() -> None:
        with watched() as (_, steps):

            def busy() -> None:
                steps.await_pause()
                for _ in range(10):
                    steps.look()
                    turns(20)

            spawn(busy).join()

    run(main)
    assert reports(caplog) == []


def test_while_nothing_happens_it_does_not_wake() -> None:
    async def main() -> None:
        with watched() as (watchdog, steps):
            assert watchdog.resting
            await drive(asyncio.sleep(0))  # a turn: it is roused
            reactor = current_reactor()
            while watchdog.resting or reactor.poller.dispatching or reactor.poller.runnable:
                await asyncio.sleep(0)
            steps.await_pause()
            steps.look_and_rest(watchdog)
            looked = steps.pauses
            # It waits for work now: no pause of any length would let it look again.
            assert watchdog._thread.is_alive()
            assert not watchdog._work.is_set()
            for _ in range(100):
                await asyncio.sleep(0)
            assert (watchdog.resting, steps.pauses) == (True, looked)
            # And with the next turn it is back.
            await drive(asyncio.sleep(0))
            steps.await_pause()
            assert not watchdog.resting
        reactor.close()

    asyncio.run(main())


def test_closing_it_ends_its_thread_wherever_it_stands() -> None:
    def main() -> None:
        watchdog = Watchdog(current_reactor())
        watchdog.close()
        assert not watchdog._thread.is_alive()
        watchdog.close()
        with watched() as (watchdog, steps):
            spawn(steps.await_pause).join()
        assert not watchdog._thread.is_alive()

    run(main)


def test_closing_the_reactor_closes_its_watchdog() -> None:
    def main() -> Watchdog:
        reactor = current_reactor()
        reactor.watchdog = Watchdog(reactor)
        return reactor.watchdog

    assert not run(main)._thread.is_alive()


@pytest.mark.parametrize("mode", ["green", "async"])
def test_a_server_has_one_and_takes_it_along(mode: str) -> None:
    def dogs() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == "jackfield-watchdog"]

    class Green(jackfield.BaseRequestHandler[Any]):
        def handle(self) -> None:
            pass

    class Async(jackfield.AsyncRequestHandler[Any]):
        async def handle(self) -> None:
            pass

    handler = Green if mode == "green" else Async
    with jackfield.Server(handler, "tcp://127.0.0.1:0", mode=mode) as server:
        import socket

        with socket.create_connection(server.server_address) as client:
            assert client.recv(1) == b""  # it serves, so it has begun
        assert len(dogs()) == 1
    assert dogs() == []


def test_a_watchdog_that_never_tells_would_be_found_out(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broken case: one whose reports go nowhere."""
    monkeypatch.setattr(logging.getLogger("jackfield.watchdog"), "disabled", True)
    with pytest.raises(AssertionError, match="it was not noticed"):
        test_what_holds_the_loop_is_named(held_by_a_green_thread, caplog)
