"""Green threads that are used again: who gets another life, what of the last one is left, and how spares end."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from greenlet import getcurrent

from jackfield import run, sleep, spawn
from jackfield import socket as jackfield_socket
from jackfield.reactor import GreenExit, GreenThread
from jackfield.reactor import core as reactor_core
from jackfield.reactor.core import current_reactor

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


def lives(count: int, work: Callable[[], object], between: Callable[[], object] = lambda: None) -> list[int]:
    """Which greenlets ran ``work``, one started after the other had ended, nobody holding any."""
    ran: list[int] = []

    def unit() -> None:
        ran.append(id(getcurrent()))
        work()

    for _ in range(count):
        spawn(unit)
        between()
        until_rest()
    return ran


def until_rest() -> None:
    while len(current_reactor().greens) > 1:
        sleep(0)


def test_work_that_nobody_waits_for_runs_on_one_greenlet() -> None:
    def main() -> None:
        lives(1, lambda: None)  # the first one of a process shows how many references are nobody's
        assert len(set(lives(20, lambda: None))) == 1
        assert len(current_reactor().spares) == 1

    run(main)


def test_one_that_waited_for_a_socket_is_used_again_once_that_is_closed() -> None:
    def main() -> None:
        lives(1, lambda: None)
        pairs = [jackfield_socket._fallback_socketpair() for _ in range(10)]
        mine, others = iter([pair[0] for pair in pairs]), iter([pair[1] for pair in pairs])

        def work() -> None:
            with next(mine) as sock:
                assert sock.recv(10) == b"x"

        def send() -> None:
            sleep(0)  # it waits by now
            with next(others) as sock:
                sock.send(b"x")

        ran = lives(10, work, between=send)
        assert len(set(ran)) == 1

    run(main)


def test_a_new_life_has_nothing_of_the_last_one() -> None:
    def main() -> None:
        lives(1, lambda: None)
        seen: list[Any] = []

        def leaves_a_mark() -> object:
            variable.set("mine")
            getcurrent().gr_frame  # noqa: B018
            return bytes(10)

        def looks() -> None:
            green: Any = getcurrent()
            seen.append((variable.get(), green.name.rpartition(".")[2], green.done, green._value, green._error))

        spawn(leaves_a_mark)
        until_rest()
        spawn(looks)
        until_rest()
        assert len(current_reactor().spares) == 1
        assert seen == [("unset", "looks", False, None, None)]

    run(main)


def test_a_context_is_its_makers() -> None:
    def main() -> None:
        seen = []
        lives(2, lambda: None)
        variable.set("the maker's")
        spawn(lambda: seen.append(variable.get()))
        until_rest()
        assert seen == ["the maker's"]

    run(main)


BY_GREENLET: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()


@pytest.mark.parametrize(
    ("leave", "look"),
    [
        (lambda: setattr(getcurrent(), "left", "mine"), lambda: getattr(getcurrent(), "left", None)),
        (lambda: BY_GREENLET.__setitem__(getcurrent(), "mine"), lambda: BY_GREENLET.get(getcurrent())),
    ],
    ids=["an attribute", "an entry by a weak key"],
)
def test_what_is_kept_for_a_greenlet_is_nobody_elses(leave: Callable[[], Any], look: Callable[[], Any]) -> None:
    def main() -> None:
        lives(2, lambda: None)
        found: list[Any] = []
        spawn(lambda: (leave(), found.append(look())))
        until_rest()
        for _ in range(3):
            spawn(lambda: found.append(look()))
            until_rest()
        assert found == ["mine", None, None, None]

    run(main)


def test_one_that_somebody_holds_stays_what_it_was() -> None:
    """It may be asked for its result at any time, and nothing else ever runs on it."""

    def main() -> None:
        lives(1, lambda: None)
        held = []
        for number in range(5):
            held.append(spawn(lambda number=number: number))
            until_rest()
        assert not current_reactor().spares or current_reactor().spares[0] not in held
        assert len(set(lives(3, lambda: None)) & {id(green) for green in held}) == 0
        assert [green.result() for green in held] == list(range(5))

    run(main)


@pytest.mark.parametrize("error", [ValueError("it fails"), GreenExit(), SystemExit()])
def test_one_that_ended_by_an_error_is_not_used_again(error: BaseException) -> None:
    def main() -> None:
        lives(1, lambda: None)
        before = len(current_reactor().spares)

        def fails() -> None:
            raise error

        green = spawn(fails)
        until_rest()
        with pytest.raises(type(error)):
            green.result()
        del green
        assert len(current_reactor().spares) < max(1, before)

    run(main)


def test_a_kill_before_the_first_turn_of_a_new_life() -> None:
    def main() -> None:
        lives(2, lambda: None)
        assert current_reactor().spares
        ran: list[int] = []
        green = spawn(ran.append, 1)
        assert "starting" in repr(green)
        green.kill()
        until_rest()
        assert green.done and not ran
        with pytest.raises(GreenExit):
            green.result()
        assert len(set(lives(3, lambda: None))) == 1

    run(main)


def test_a_kill_that_comes_late_meets_nobody_else() -> None:
    """Asked for from another thread while it ended: whoever runs next on that greenlet goes on."""
    import threading

    def main() -> None:
        lives(2, lambda: None)
        reached: list[str] = []
        first = spawn(lambda: None)
        thread = threading.Thread(target=first.kill)
        thread.start()
        thread.join()
        spawn(lambda: (sleep(0.001), reached.append("the end")))
        del first, thread
        until_rest()
        assert reached == ["the end"]

    run(main)


def test_what_is_raised_before_the_first_line_of_a_new_life_is_its_end() -> None:
    """As a signal handler may raise in the very frame in which a spare waits."""

    def main() -> None:
        lives(2, lambda: None)
        [spare] = current_reactor().spares
        ran: list[int] = []
        green = spawn(ran.append, 1)
        assert green is spare

        class Raises:
            def switch(self) -> None:
                green.throw(ValueError("from a signal handler"))

        current_reactor().poller.runnable.appendleft(Raises())
        sleep(0)
        assert green.done and not ran
        with pytest.raises(ValueError, match="from a signal handler"):
            green.result()

    run(main)


def test_there_are_only_so_many_spares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reactor_core, "SPARES", 3)

    def main() -> None:
        lives(1, lambda: None)
        for _ in range(10):
            spawn(lambda: None)
        until_rest()
        assert len(current_reactor().spares) == 3

    run(main)


def test_spares_end_with_their_loop() -> None:
    gone: list[weakref.ref[GreenThread]] = []

    def main() -> None:
        lives(1, lambda: None)
        for _ in range(5):
            spawn(lambda: None)
        until_rest()
        gone.extend(weakref.ref(spare) for spare in current_reactor().spares)

    run(main)
    gc.collect()
    assert gone and not [ref for ref in gone if ref() is not None]


def test_without_the_count_of_references_a_held_one_would_be_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broken case."""

    def main() -> None:
        lives(1, lambda: None)
        monkeypatch.setattr(GreenThread, "_alone", 1000)
        held = spawn(lambda: "mine")
        until_rest()
        spawn(lambda: "another's")
        until_rest()
        assert held._value != "mine"

    run(main)


def test_spares_end_with_a_loop_that_just_closes() -> None:
    """``asyncio.run()`` closes its loop and knows of no reactor. One that is suspended holds itself by its frames."""

    def living() -> int:
        gc.collect()
        return sum(isinstance(one, GreenThread) for one in gc.get_objects())

    async def main() -> int:
        for _ in range(5):
            spawn(lambda: None)
        while current_reactor().greens:
            await asyncio.sleep(0)
        return len(current_reactor().spares)

    before = living()
    assert asyncio.run(main()) >= 5
    assert asyncio.run(main()) >= 5
    assert living() <= before
