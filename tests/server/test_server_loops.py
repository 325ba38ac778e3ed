"""How a server waits: the same for the loop of plain threads and the one of green threads."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from native_support import SOON

from jackfield import MisuseError
from jackfield.modes import GreenLoop, Loop, PollLoop, open_loop
from jackfield.reactor import GreenWait, current_reactor, run, spawn

RUNS: dict[str, Callable[[Callable[[], Any]], Any]] = {"plain": lambda body: body(), "green": run}


@pytest.fixture(params=RUNS)
def runs(request: pytest.FixtureRequest) -> Callable[[Callable[[], Any]], Any]:
    """Runs a function in a plain thread or a green one."""
    return RUNS[request.param]


@contextmanager
def opened() -> Iterator[Loop]:
    loop = open_loop()
    try:
        yield loop
    finally:
        loop.close()


@contextmanager
def pipes(count: int) -> Iterator[list[tuple[int, int]]]:
    made = [os.pipe() for _ in range(count)]
    try:
        yield made
    finally:
        for pair in made:
            for end in pair:
                os.close(end)


def test_the_loop_is_that_of_whoever_asks() -> None:
    for body, kind in ((lambda: open_loop(), PollLoop), (lambda: run(open_loop), GreenLoop)):
        loop = body()
        assert type(loop) is kind
        loop.close()
        loop.close()
    with pytest.raises(MisuseError, match=r"jackfield\.run"):
        GreenLoop()


def test_what_is_ready_is_called_at_every_turn_until_it_is_ignored(runs: Any) -> None:
    """By level: what a callback left undone is there at the next turn as well."""

    def body() -> None:
        called: list[str] = []
        with pipes(2) as ((one, to_one), (other, to_other)), opened() as loop:
            loop.watch(one, lambda: called.append("one"))
            loop.watch(other, lambda: called.append("other"))
            assert not loop.turn(0)
            os.write(to_one, b"x")
            for _ in range(3):
                assert loop.turn(None)
            assert called == ["one"] * 3
            loop.ignore(one)
            loop.ignore(one)
            assert not loop.turn(0)
            os.write(to_other, b"x")
            assert loop.turn(None)
            assert called == ["one"] * 3 + ["other"]

    runs(body)


def test_a_number_that_is_another_descriptors_by_now(runs: Any) -> None:
    """Closed without a word, and the number given out again: the new one is watched, and ignoring the old one leaves
    it alone."""

    def body() -> None:
        called: list[str] = []

        def old() -> None:
            called.append("old")

        def new() -> None:
            called.append("new")

        with pipes(2) as ((number, _), (reading, writing)), opened() as loop:
            loop.watch(number, old)
            assert not loop.turn(0)
            os.dup2(reading, number)  # closes it, and gives the number to another file in one step
            loop.watch(number, new)
            loop.ignore(number, old)
            writer = threading.Thread(target=os.write, args=(writing, b"x"))
            writer.start()
            assert loop.turn(None), "it waits for the new one, too"
            writer.join()
            assert called == ["new"]
            loop.ignore(number, new)
            assert not loop.turn(0)

    runs(body)


def test_a_wake_up_that_comes_before_the_wait_is_not_lost(runs: Any) -> None:
    def body() -> None:
        with opened() as loop:
            loop.wake()
            assert not loop.turn(None)
            waker = threading.Thread(target=loop.wake)
            waker.start()
            assert not loop.turn(None)
            waker.join()
        loop.wake()  # nobody waits any more

    runs(body)


def test_loops_that_share_a_reactor_and_a_descriptor() -> None:
    """The last one that lets go of it gives it back."""

    def body() -> None:
        poller = current_reactor().poller
        before = set(poller.channels)
        with pipes(1) as ((reading, writing),), opened() as loop:
            loop.watch(reading, lambda: None)

            def other() -> bool:
                with opened() as mine:
                    mine.watch(reading, lambda: None)
                    os.write(writing, b"x")
                    return mine.turn(None)

            assert spawn(other).result()
            assert poller.find(reading) is not None
            assert loop.turn(None)
            loop.ignore(reading)
            assert poller.find(reading) is None
        assert set(poller.channels) == before

    run(body)


@pytest.mark.parametrize("trusts", [False, True])
def test_a_loop_that_trusts_what_it_knew_of_a_number_would_be_found_out(
    trusts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broken case: the channel of the descriptor that had the number before stands for the new one, and nothing
    but its deadline ends the wait."""
    woken: list[bool] = []

    class Recorded(GreenWait):
        def wait(self, timeout: float | None = None) -> bool:
            woken.append(super().wait(timeout))
            return woken[-1]

    monkeypatch.setattr("jackfield.modes.loops.GreenWait", Recorded)
    if trusts:
        borrow = GreenLoop._borrow
        monkeypatch.setattr(GreenLoop, "_borrow", lambda self, fd: self._poller.find(fd) or borrow(self, fd))
        monkeypatch.setattr(GreenLoop, "ignore", lambda self, fd, ready=None: self._level.unregister(fd))

    def body() -> None:
        with pipes(2) as ((number, _), (reading, writing)), opened() as loop:
            loop.watch(number, lambda: None)
            os.dup2(reading, number)
            loop.watch(number, lambda: os.read(number, 1))
            spawn(os.write, writing, b"x")
            loop.turn(0.02 if trusts else SOON)

    run(body)
    assert woken == [not trusts]
