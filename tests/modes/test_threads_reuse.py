"""Threads that are used again: when they are, when they end, and what of them can be seen meanwhile."""

from __future__ import annotations

import gc
import sys
import threading
import weakref
from typing import Any

import pytest
from modes_support import LONG, SOON, crew, name_of_thread, settled, until, waiting

from jackfield.modes import Threads
from jackfield.modes.spares import KEPT


def test_one_thread_runs_unit_after_unit() -> None:
    with crew() as threads:
        assert len({name_of_thread(threads) for _ in range(10)}) == 1
        assert waiting(threads) == 1


def test_as_many_threads_as_units_at_once() -> None:
    with crew() as threads:
        names: set[str] = set()
        for _ in range(3):  # the same three each time
            together = threading.Barrier(3, timeout=SOON)

            def unit(together: threading.Barrier = together) -> None:
                names.add(threading.current_thread().name)
                together.wait()

            for _ in range(3):
                threads.start(unit)
            until(lambda: settled(threads))
        assert len(names) == 3


def test_the_one_that_came_last_is_taken_first() -> None:
    with crew() as threads:
        gates = [threading.Event() for _ in range(3)]
        names: list[str] = []

        def unit(gate: threading.Event) -> None:
            assert gate.wait(SOON)
            names.append(threading.current_thread().name)

        for gate in gates:
            threads.start(unit, gate)
        for number, gate in enumerate(gates, 1):
            gate.set()
            until(lambda number=number: waiting(threads) == number)
        assert name_of_thread(threads) == names[-1]


def test_zero_seconds_is_a_thread_for_each_unit() -> None:
    with crew(idle_seconds=0) as threads:
        assert len({name_of_thread(threads) for _ in range(5)}) == 5
        assert not threads._spares.staff


def test_an_idle_thread_ends_after_its_time() -> None:
    with crew(idle_seconds=0.01) as threads:
        first = name_of_thread(threads)
        until(lambda: not threads._spares.staff)
        assert name_of_thread(threads) != first


def crowd(threads: Threads, number: int) -> None:
    """So many units at the same time, all of which have ended when this returns."""
    gate, there = threading.Event(), threading.Semaphore(0)

    def unit() -> None:
        there.release()
        assert gate.wait(SOON)

    for _ in range(number):
        threads.start(unit)
    for _ in range(number):
        assert there.acquire(timeout=SOON)
    gate.set()
    until(lambda: settled(threads))


def test_of_a_crowd_only_some_wait_for_long() -> None:
    with crew() as threads:
        crowd(threads, KEPT + 4)
        until(lambda: len(threads._spares.staff) == KEPT)
        assert waiting(threads) == KEPT


def test_a_crowd_that_is_kept_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broken case."""
    monkeypatch.setattr("jackfield.modes.spares.SURPLUS_SECONDS", LONG)
    with crew() as threads:
        crowd(threads, KEPT + 4)
        assert waiting(threads) == len(threads._spares.staff) == KEPT + 4


def test_join_ends_the_idle_ones_and_a_later_unit_is_served_as_before() -> None:
    with crew() as threads:
        name_of_thread(threads)
        (idle,) = threads._spares.staff
        assert threads.join(SOON)
        assert not idle.is_alive()
        assert len({name_of_thread(threads) for _ in range(3)}) == 1


def test_close_ends_the_idle_ones_and_waits_for_nobody_at_work() -> None:
    with crew() as threads:
        go, begun = threading.Event(), threading.Event()

        def unit() -> None:
            begun.set()
            assert go.wait(SOON)

        name_of_thread(threads)
        (idle,) = threads._spares.staff
        threads.start(unit)  # the same thread, so that nobody is idle; and one more who is
        assert begun.wait(SOON)
        threads.start(lambda: None)
        until(lambda: waiting(threads) == 1)
        (other,) = [worker for worker in threads._spares.staff if worker is not idle]
        threads.close()
        assert not other.is_alive()
        assert idle.is_alive()
        del other
        go.set()
        until(lambda: not threads._spares.staff)  # nor does it wait for more when its unit has ended


def test_a_unit_that_joins_waits_for_the_others() -> None:
    with crew() as threads:
        go, begun = threading.Event(), threading.Event()
        joined: list[bool] = []

        def unit() -> None:
            joined.append(threads.join(0.01))
            begun.set()
            joined.append(threads.join())

        threads.start(lambda: go.wait(SOON))
        threads.start(unit)
        assert begun.wait(SOON)
        go.set()
        until(lambda: not threads.live)
    assert joined == [False, True]


def test_at_most_limit_threads_the_idle_ones_included() -> None:
    with crew(limit=2) as threads:
        most: list[int] = []

        def unit() -> None:
            most.append(len(threads._spares.staff))

        for _ in range(200):
            threads.wait_room()
            threads.start(unit)
        until(lambda: settled(threads))
        assert len(most) == 200
        assert len(threads._spares.staff) <= 2
        # A thread on its way to its end is the only one above it.
        assert max(most) <= 4


def test_every_unit_runs_once_however_briefly_threads_wait() -> None:
    """Threads that give up waiting in the moment in which somebody hands them a unit."""
    done: list[int] = []
    with crew(idle_seconds=0.0001) as threads:
        starters = [
            threading.Thread(target=lambda first=first: [threads.start(done.append, first + n) for n in range(150)])
            for first in (0, 1000, 2000)
        ]
        for starter in starters:
            starter.start()
        for starter in starters:
            starter.join(SOON)
        until(lambda: not threads.live)
    assert sorted(done) == [first + n for first in (0, 1000, 2000) for n in range(150)]


# -- what can be seen of an idle thread --------------------------------------------------------------------------------


def test_idle_threads_are_nowhere_to_be_seen() -> None:
    before = threading.active_count()
    with crew() as threads:
        listed: list[bool] = []
        for _ in range(3):
            name = name_of_thread(threads, lambda: listed.append(threading.current_thread() in threading.enumerate()))
            assert name not in {thread.name for thread in threading.enumerate()}
            assert threading.active_count() == before
            assert list(threads) == []
        assert listed == [True] * 3


def test_threads_are_named_as_the_standard_library_names_them() -> None:
    def process_request_thread() -> None:
        names.append(threading.current_thread().name)

    names: list[str] = []
    with crew() as threads:
        threads.start(process_request_thread)
    assert names[0].startswith("Thread-")
    assert names[0].endswith(" (process_request_thread)")


def test_nothing_of_the_last_unit_is_held() -> None:
    class Thing:
        pass

    with crew() as threads:
        thing = Thing()
        gone = [weakref.ref(thing)]

        def unit(thing: Thing) -> None:
            gone.append(weakref.ref(Thing()))

        gone.append(weakref.ref(unit))
        threads.start(unit, thing)
        del thing, unit
        until(lambda: waiting(threads) == 1)
        until(lambda: all(ref() is None for ref in gone))


def test_threads_that_nobody_wants_any_more_end() -> None:
    threads = Threads(idle_seconds=LONG)
    name_of_thread(threads)
    (idle,) = threads._spares.staff
    del threads
    gc.collect()
    idle.join(SOON)
    assert not idle.is_alive()


# -- when a waiting thread is not the right one ------------------------------------------------------------------------


def test_daemon_or_not_is_asked_of_each_unit() -> None:
    kinds: list[bool] = []
    with crew(daemon=False) as threads:
        for daemon in (False, True, True, False):
            threads.daemon = daemon
            name_of_thread(threads, lambda: kinds.append(threading.current_thread().daemon))
    assert kinds == [False, True, True, False]


@pytest.mark.parametrize("kind", ["trace", "profile"])
def test_what_settrace_and_setprofile_set_is_set_on_each_unit(kind: str) -> None:
    setter, getter = getattr(threading, f"set{kind}"), getattr(sys, f"get{kind}")
    hook = lambda frame, event, arg: None  # noqa: E731
    found: list[Any] = []
    with crew() as threads:
        before = getattr(threading, f"get{kind}")()
        name_of_thread(threads)
        setter(hook)
        try:
            for _ in range(2):
                name_of_thread(threads, lambda: found.append(getter()))
        finally:
            setter(before)
        name_of_thread(threads, lambda: found.append(getter()))
    assert found[:2] == [hook, hook]
    assert found[2] is before


# -- the next one at once ----------------------------------------------------------------------------------------------


def test_a_thread_whose_unit_has_ended_takes_what_it_finds() -> None:
    with crew(limit=1) as threads:
        names: list[str] = []
        idle: list[bool] = []
        threads.on_idle = lambda: idle.append(True)
        left = [3]

        def unit() -> None:
            names.append(threading.current_thread().name)
            assert threads.live == 1

        def look() -> None:
            assert threads.full  # the place is not free in between: nobody else can take it
            assert threading.current_thread() in threading.enumerate()
            if left[0]:
                left[0] -= 1
                threads.start(unit)

        threads.offer(look)
        threads.start(unit)
        until(lambda: settled(threads))
        assert len(names) == 4
        assert len(set(names)) == 1
        assert idle == [True]  # once, at the end


def test_what_others_start_meanwhile_is_not_for_the_thread_that_looks() -> None:
    with crew() as threads:
        names: dict[str, str] = {}

        def unit(key: str) -> None:
            names[key] = threading.current_thread().name

        def look() -> None:
            threads.offer(None)
            other = threading.Thread(target=threads.start, args=(unit, "other"))
            other.start()
            other.join(SOON)
            threads.start(unit, "mine")
            threads.start(unit, "too many")

        threads.offer(look)
        threads.start(unit, "first")
        until(lambda: len(names) == 4)
        assert names["mine"] == names["first"]
        assert names["other"] != names["first"]
        until(lambda: settled(threads))


def test_when_an_offer_is_withdrawn_nobody_looks_any_more() -> None:
    with crew() as threads:
        looks, go = threading.Event(), threading.Event()

        def look() -> None:
            looks.set()
            assert go.wait(SOON)

        threads.offer(look)
        threads.start(lambda: None)
        assert looks.wait(SOON)
        withdrawn = threading.Event()
        closer = threading.Thread(target=lambda: (threads.offer(None), withdrawn.set()))
        closer.start()
        assert not withdrawn.wait(0.05)
        go.set()
        assert withdrawn.wait(SOON)
        closer.join(SOON)
        looks.clear()
        name_of_thread(threads)
        assert not looks.is_set()


def test_an_error_while_it_looks_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: reported.append(args.exc_type))

    def look() -> None:
        raise ZeroDivisionError

    with crew() as threads:
        threads.offer(look)
        assert name_of_thread(threads) == name_of_thread(threads)
    assert set(reported) == {ZeroDivisionError}


def test_who_is_not_used_again_does_not_look() -> None:
    looked: list[str] = []
    with crew(idle_seconds=0) as threads:
        threads.offer(lambda: looked.append("one unit a thread"))
        name_of_thread(threads)
    with crew() as threads:
        local = threading.local()
        threads.offer(lambda: looked.append("something was left"))
        name_of_thread(threads, lambda: setattr(local, "left", True))
    assert looked == []


# -- no thread ---------------------------------------------------------------------------------------------------------


def test_a_thread_that_cannot_start_is_no_unit() -> None:
    with crew() as threads:
        before = threading.stack_size(1 << 46)  # more than there is: pthread_create(3) fails
        try:
            with pytest.raises(RuntimeError):
                threads.start(lambda: None)
        finally:
            threading.stack_size(before)
        assert threads.live == 0
        assert not threads._spares.staff
        name_of_thread(threads)
