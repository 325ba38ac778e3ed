"""Limits over several workers that come between one another at every access, are stopped and are killed there."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from interleaving import SteppingLedger, World, is_within

from jackfield.admission import Rate
from jackfield.admission.shared import SharedAdmission
from jackfield.admission.turns import Turns
from jackfield.limits import Limits


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """What is said once by a process is said by thousands here."""
    caplog.set_level(logging.CRITICAL, "jackfield.server")


SEEDS = st.integers(0, 2**32)


@given(SEEDS)
@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_limit_is_ever_passed_and_all_goes_back_to_zero(seed: int) -> None:
    World(seed).run()


#: Where addresses count, workers that count alone let in so few that no other cap is reached.
ONE_CAP = Limits.none(max_connections=2)


class Lockless(World):
    """Here everybody always counts alone."""

    nobody_has_any_lock = True


@given(SEEDS)
@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nor_is_one_where_nobody_ever_has_a_turn(seed: int) -> None:
    Lockless(seed, 3).run()
    Lockless(seed, 3, limits=ONE_CAP).run()


class Hopeful(Turns):
    """One whose turn always counts, also where the room was left behind."""

    def give(self, room: int) -> bool:
        super().give(room)
        return True


class LooksFirst(SharedAdmission):
    """One that looks whether there is room, and shows itself afterwards."""

    def _claim_total(self) -> bool:
        if self._max is not None and self._seat.ledger.total >= self._max:
            return False
        self._claims = 1
        self._show_total()
        return True


class Unwiped(SteppingLedger):
    """One that a dead worker stays in."""

    def clear(self, slot: int) -> None:
        pass


class Keyless(World):
    everybody_has_every_lock = True


BROKEN: dict[str, tuple[type[World], dict[str, Any], str]] = {
    "locks that keep nobody out": (Keyless, {}, "the rate of"),
    "a turn that counts though the room was left": (World, {"turns": Hopeful}, "the rate of|are in"),
    "a look before the claim": (Lockless, {"kind": LooksFirst, "limits": ONE_CAP}, "3 are in"),
    "a seat that is not wiped": (World, {"ledger": Unwiped}, "still counted"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_each_part_of_it_is_needed(case: str) -> None:
    world, arguments, said = BROKEN[case]
    found = []
    for seed in range(1000):
        try:
            world(seed, **arguments).run()
        except AssertionError as error:
            found.append(str(error))
            break
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(found[0] if found else "nothing was found")


def test_the_schedules_reach_what_they_are_for() -> None:
    """Rooms are left behind, and workers come to be alone."""
    alone = 0

    class Counted(SharedAdmission):
        def go_alone(self) -> None:
            nonlocal alone
            alone += 1
            super().go_alone()

    worlds = [World(seed, kind=Counted) for seed in range(100)]
    for world in worlds:
        world.run()
    assert sum(world.moves for world in worlds) > 50
    assert alone > 10


def test_that_a_rate_was_passed_can_be_seen() -> None:
    assert is_within(Rate(1, 1.0, 2), [0.0, 0.0, 1.0])
    assert not is_within(Rate(1, 1.0, 2), [0.0, 0.0, 0.9])
