"""When a worker that died is replaced, when a supervisor gives up, and when one that is well is replaced."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jackfield.supervisor import policy
from jackfield.supervisor.policy import (
    BURST,
    EARLY,
    FIRST_DELAY,
    GIVE_UP_AFTER,
    JITTER,
    LONGEST_DELAY,
    PACE,
    Recycling,
    Restarts,
)


def test_the_first_is_replaced_at_once_and_then_it_takes_longer_and_longer() -> None:
    restarts = Restarts()
    assert [restarts.died(0.0, 0.1, 0) for _ in range(10)] == [0, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0]


def test_one_for_each_place_is_no_reason_to_wait_longer() -> None:
    """All that were started together die together."""
    restarts = Restarts()
    delays = [restarts.died(0.0, 0.1, 0, places=8) for _ in range(8 + GIVE_UP_AFTER)]
    assert delays == [0, *[0.2] * 8, 0.4, 0.8, 1.6, 3.2]
    assert restarts.hopeless(8, 0)


@pytest.mark.parametrize("places", [1, 2, 4, 8, 64])
def test_it_gives_up_within_half_a_minute_and_ten_forks_come_first(places: int) -> None:
    """The places are filled at once; from then on it is one by one, with these pauses."""
    restarts, clock, forks = Restarts(), 0.0, []
    for number in range(places + GIVE_UP_AFTER):
        assert not restarts.hopeless(places, 0)
        delay = restarts.died(clock, 0.0, 0, places)
        if number >= places - 1:
            clock += delay
            forks.append(clock)
    assert restarts.hopeless(places, 0)
    assert clock < 30
    assert sum(at < 4.0 for at in forks) <= 10 - min(places, 4)


@pytest.mark.parametrize(("lived", "accepted"), [(0.1, 1), (EARLY, 0), (1e6, 5)])
def test_one_that_was_of_use_is_replaced_at_once_and_all_is_forgotten(lived: float, accepted: int) -> None:
    restarts = Restarts()
    for _ in range(4):
        restarts.died(0.0, 0.1, 0)
    assert restarts.early
    assert restarts.died(0.0, lived, accepted) == 0.0
    assert not restarts.early
    assert restarts.died(PACE, 0.1, 0) == 0.0


def test_it_does_not_give_up_while_anybody_serves() -> None:
    restarts = Restarts()
    for _ in range(1000):
        restarts.died(0.0, 0.1, 0, 2)
    assert not restarts.hopeless(2, 1)
    assert restarts.hopeless(2, 0)
    restarts.lives()
    assert not restarts.hopeless(2, 0)


def test_those_that_were_of_use_are_replaced_at_once_a_few_times_and_then_one_by_one() -> None:
    """A client that ends each worker that it comes to, as soon as it is there."""
    restarts, clock, forks = Restarts(), 0.0, []
    for _ in range(100):
        clock += restarts.died(clock, 0.1, 1)
        forks.append(clock)
    assert forks[:BURST] == [0.0] * BURST
    assert forks[BURST:] == [PACE * number for number in range(1, 101 - BURST)]
    assert restarts.too_often
    assert not restarts.hopeless(1, 0) and not restarts.early


def _forks_in_four_seconds(places: int) -> int:
    """Those of the start among them. All die at once, and are missing together."""
    restarts = Restarts()
    clock, forks, missing, due = 0.0, places, 0, 0.0
    alive = places
    while clock < 4.0 and forks < 1000:
        for _ in range(alive):
            missing += 1
            due = clock + restarts.died(clock, 0.0, 1, places, missing)
        alive = 0
        while missing and clock >= due:
            missing, alive, forks = missing - 1, alive + 1, forks + 1
            due = clock + (restarts.pause(clock, missing) if missing else 0.0)
        clock += 0.0 if alive else 0.01
    return forks


@pytest.mark.parametrize("places", [1, 4])
def test_ten_forks_in_four_seconds_are_the_most_where_each_had_a_client(
    places: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert places + BURST <= _forks_in_four_seconds(places) <= 10
    monkeypatch.setattr(policy, "PACE", 0.0)  # the broken case
    assert _forks_in_four_seconds(places) == 1000


def test_it_is_forgotten_in_time() -> None:
    restarts = Restarts()
    for _ in range(BURST + 1):
        restarts.died(0.0, 0.1, 1)
    assert restarts.too_often and restarts.pause(0.0) == PACE
    calm = PACE * (BURST + 1)
    assert restarts.died(calm, 5.0, 1) == 0.0
    assert not restarts.too_often


def test_every_worker_of_many_that_die_together_is_replaced_at_once() -> None:
    restarts = Restarts()
    assert [restarts.died(5.0, 0.1, 1, 64, number + 1) for number in range(64)] == [0.0] * 64
    assert not restarts.too_often


def test_one_that_had_a_client_before_each_that_had_none_is_no_way_around_it() -> None:
    restarts, clock = Restarts(), 0.0
    for number in range(40):
        clock += restarts.died(clock, 0.1, number % 2)
    assert clock >= PACE * (40 - BURST - 1)


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100), st.integers(0, 3)), max_size=100), st.integers(1, 300))
def test_the_pause_is_bounded(deaths: list[tuple[float, float, int]], places: int) -> None:
    restarts, clock, useful = Restarts(), 0.0, 0
    for later, lived, accepted in deaths:
        clock += later
        useful += 1
        delay = restarts.died(clock, lived, accepted, places)
        assert 0 <= delay <= max(LONGEST_DELAY, PACE * places)
        if (accepted or lived >= EARLY) and useful <= max(BURST, places):
            assert delay == 0
        elif restarts.delay:
            assert delay >= FIRST_DELAY


@given(
    st.none() | st.floats(1, 1e6), st.none() | st.integers(1, 2**40), st.none() | st.integers(1, 10**9), st.randoms()
)
def test_each_worker_draws_its_own_limits_a_tenth_around(
    lifetime: float | None, max_rss: int | None, max_accepts: int | None, chance: random.Random
) -> None:
    limits = Recycling(lifetime, max_rss, max_accepts)
    drawn = limits.drawn(chance)
    assert drawn.any == limits.any == (lifetime is not None or max_rss is not None or max_accepts is not None)
    its_own = (drawn.lifetime, drawn.max_rss, drawn.max_accepts)
    for limit, its in zip((lifetime, max_rss, max_accepts), its_own, strict=True):
        assert (its is None) == (limit is None)
        if its is not None and limit is not None:
            assert limit * (1 - JITTER) - 1 <= its <= limit * (1 + JITTER) + 1
    assert drawn.max_accepts is None or drawn.max_accepts >= 1


def test_limits_differ_from_worker_to_worker() -> None:
    chance = random.Random(1)
    assert len({Recycling(max_accepts=1000).drawn(chance).max_accepts for _ in range(50)}) > 20


@pytest.mark.parametrize(
    ("age", "resident", "accepted", "why"),
    [
        (99.0, 0, 0, None),
        (100.0, 0, 0, "it is 100 s old"),
        (0.0, 200 << 20, 0, "it takes 200 MiB of memory"),
        (0.0, (200 << 20) - 1, 9, None),
        (0.0, 0, 10, "it has taken 10 connections"),
    ],
)
def test_what_speaks_for_a_replacement_is_told(age: float, resident: int, accepted: int, why: str | None) -> None:
    assert Recycling(100.0, 200 << 20, 10).why(age, resident, accepted) == why
    assert Recycling().why(age, resident, accepted) is None and not Recycling().any
