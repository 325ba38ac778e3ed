"""Events: set by anybody, a signal handler too, they wake who waits, of every kind."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections import deque
from pathlib import Path

import pytest
from sync_support import SOON, threads, until, waiting

from jackfield.reactor import run, spawn
from jackfield.sync import Event


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


@pytest.mark.parametrize("kind", ["thread", "green", "coroutine", "green on uvloop"])
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
