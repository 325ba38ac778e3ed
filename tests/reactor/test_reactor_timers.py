"""Deadlines against a naive model: never early, never lost, in order; and what they cost."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reactor_support import turns

from jackfield.reactor import GreenThread, GreenWait, run, spawn
from jackfield.reactor.timers import NEVER, Timer, Timers

TIMERS = 4

seconds = st.integers(0, 12)
operations = st.lists(
    st.one_of(
        st.tuples(st.just("arm"), st.integers(0, TIMERS - 1), seconds),
        st.tuples(st.just("move on"), st.integers(0, TIMERS - 1), seconds),
        st.tuples(st.just("cancel"), st.integers(0, TIMERS - 1), st.just(0)),
        st.tuples(st.just("pass"), st.just(0), seconds),
        st.tuples(st.just("jump"), st.just(0), seconds),
    ),
    max_size=40,
)


class Played:
    """The real timers and the model side by side, under one virtual clock."""

    def __init__(self, timers: Timers) -> None:
        self.timers = timers
        self.now = 0.0
        self.deadlines = [NEVER] * TIMERS  # the whole model: who is to be called when
        self.fired: list[tuple[float, int]] = []
        self.expected: list[tuple[float, int]] = []
        self.each = [Timer(lambda i=i: self.fired.append((self.now, i))) for i in range(TIMERS)]  # type: ignore[misc]

    def play(self, name: str, which: int, number: int) -> None:
        if name == "arm":
            self.deadlines[which] = self.now + number
            self.timers.arm(self.each[which], self.now + number)
        elif name == "move on" and self.deadlines[which] != NEVER:
            self.deadlines[which] += number
            self.each[which].deadline = self.deadlines[which]
        elif name == "cancel":
            self.deadlines[which] = NEVER
            self.each[which].cancel()
        elif name == "pass":
            # As a host does it: wake at the moment that was asked for, until the time is over.
            end = self.now + number
            while (moment := self.timers.next()) <= end:
                self.now = max(self.now, moment)
                self.expire()
            self.now = end
            self.expire()
        elif name == "jump":
            self.now += number
            self.expire()

    def expire(self) -> None:
        due = sorted((deadline, i) for i, deadline in enumerate(self.deadlines) if deadline <= self.now)
        before = len(self.fired)
        self.timers.expire(self.now)
        called = self.fired[before:]
        assert sorted(i for _, i in called) == sorted(i for _, i in due), "early, lost or twice"
        order = [self.deadlines[i] for _, i in called]
        assert order == sorted(order), f"not in the order of the deadlines: {order}"
        for _, i in due:
            self.deadlines[i] = NEVER
        armed = [deadline for deadline in self.deadlines if deadline != NEVER]
        assert self.timers.next() <= min(armed, default=NEVER), "a deadline would be missed"


def play_all(timers: Timers, played: list[tuple[str, int, int]]) -> None:
    game = Played(timers)
    for name, which, number in played:
        game.play(name, which, number)
    game.play("pass", 0, 1000)
    assert game.deadlines == [NEVER] * TIMERS


@settings(max_examples=400)
@given(operations)
def test_never_early_never_lost_and_in_order(played: list[tuple[str, int, int]]) -> None:
    play_all(Timers(), played)


def test_a_jump_over_several_deadlines_keeps_their_order() -> None:
    """One timer has moved on past another since it was armed, and both are over when the loop gets to look."""
    timers, called = Timers(), []
    moved, other = Timer(lambda: called.append("moved to 5")), Timer(lambda: called.append("armed for 3"))
    timers.arm(moved, 1.0)
    moved.deadline = 5.0
    timers.arm(other, 3.0)
    timers.expire(10.0)
    assert called == ["armed for 3", "moved to 5"]


def test_a_timer_may_be_armed_again_by_what_it_calls() -> None:
    timers, called = Timers(), []

    def again() -> None:
        called.append(now)
        timers.arm(timer, now + 2)

    timer = Timer(again)
    timers.arm(timer, 1.0)
    for now in (1.0, 2.0, 3.0, 5.0):
        timers.expire(now)
    assert called == [1.0, 3.0, 5.0]
    assert timers.next() == 7.0


def test_a_callback_may_cancel_one_that_is_due_in_the_same_moment() -> None:
    timers, called = Timers(), []
    second = Timer(lambda: called.append("second"))
    first = Timer(second.cancel)
    timers.arm(first, 1.0)
    timers.arm(second, 1.0)
    timers.expire(1.0)
    assert called == []
    assert timers.next() == NEVER


# -- what they cost ----------------------------------------------------------------------------------------------------


@pytest.fixture
def pushes(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The moments for which the heap was given an entry."""
    from heapq import heappush

    from jackfield.reactor import timers as module

    moments: list[float] = []

    def counted(heap: list[Any], entry: tuple[float, int, Timer]) -> None:
        moments.append(entry[0])
        heappush(heap, entry)

    monkeypatch.setattr(module, "heappush", counted)
    return moments


def talk(timers: Timers, arm: Any) -> None:
    """A connection with a timeout of 60 s that says something a thousand times a second, for two minutes."""
    timer = Timer(lambda: None)
    for millisecond in range(120_000):
        now = millisecond / 1000
        if timers.next() <= now:
            timers.expire(now)
        arm(timers, timer, now + 60)


def test_a_talkative_connection_costs_an_entry_a_minute(pushes: list[float]) -> None:
    talk(Timers(), Timers.arm)
    assert len(pushes) <= 3


def test_an_eager_timer_would_be_found_out(pushes: list[float]) -> None:
    """The broken case: a timer that is armed anew for each move costs an entry for each."""

    def eagerly(timers: Timers, timer: Timer, deadline: float) -> None:
        timer.armed = NEVER
        timers.arm(timer, deadline)

    talk(Timers(), eagerly)
    assert len(pushes) > 100_000


def test_an_earlier_deadline_is_kept_although_a_later_one_was_armed(pushes: list[float]) -> None:
    timers, called = Timers(), []
    timer = Timer(lambda: called.append("called"))
    timers.arm(timer, 60.0)
    timers.arm(timer, 5.0)
    assert timers.next() == 5.0
    timers.expire(5.0)
    assert called == ["called"]
    timers.arm(timer, 60.0)  # the first entry is still there, for the same moment
    timers.expire(60.0)
    assert called == ["called", "called"]
    assert timers.next() == NEVER


def test_a_broken_timer_fails_the_model() -> None:
    """The broken case: timers that forget to arm again what has moved on."""

    class Forgetful(Timers):
        def expire(self, now: float) -> None:
            while self._heap and self._heap[0][0] <= now:
                _, _, timer = self._heap.pop(0)
                timer.armed = NEVER
                if timer.deadline <= now:
                    timer.deadline = NEVER
                    timer.expired()

    with pytest.raises(AssertionError, match="a deadline would be missed"):
        play_all(Forgetful(), [("arm", 0, 1), ("move on", 0, 5), ("pass", 0, 2)])


def test_an_early_timer_fails_the_model() -> None:
    """The broken case: timers that call whatever comes up, moved on or not."""

    class Hasty(Timers):
        def expire(self, now: float) -> None:
            while self._heap and self._heap[0][0] <= now:
                self._heap.pop(0)[2].expired()

    with pytest.raises(AssertionError, match="early, lost or twice"):
        play_all(Hasty(), [("arm", 0, 1), ("move on", 0, 5), ("pass", 0, 2)])


def test_a_green_thread_that_has_ended_is_not_kept_by_its_deadline() -> None:
    """A connection of a second with a timeout of an hour must not cost memory for an hour."""

    def main() -> None:
        def waits() -> None:
            wait = GreenWait(waiting[0]())  # type: ignore[arg-type]
            woken.append(wait)
            wait.wait(3600)

        waiting: list[weakref.ref[GreenThread]] = []
        woken: list[GreenWait] = []
        waiting.append(weakref.ref(spawn(waits)))
        turns()
        woken.pop().wake()
        turns()
        gc.collect()
        ended = waiting[0]()
        assert ended is None, f"{ended!r} is kept by {gc.get_referrers(ended)}"

    run(main)
