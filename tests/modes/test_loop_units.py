"""Units of one loop: other threads wait for their end and for room, and no wake-up is lost."""

from __future__ import annotations

import threading

import pytest

from jackfield.modes.loopunits import LoopUnits

SOON = 10.0
TURNS = 300


class Numbers(LoopUnits[int]):
    """Units that are numbers."""


def hand_over(units: Numbers, wait: str) -> None:
    """One thread begins and ends a unit ``TURNS`` times, another waits for each of these ends, or for the room."""
    begun, seen = threading.Semaphore(0), threading.Semaphore(0)
    failed: list[str] = []

    def watch() -> None:
        for turn in range(TURNS):
            if not begun.acquire(timeout=SOON):
                failed.append(f"turn {turn} did not begin")
            if wait == "join":
                if not units.join(SOON):
                    failed.append(f"the end of turn {turn} was not told")
            else:
                units.wait_room()
            seen.release()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    for turn in range(TURNS):
        units.add(turn)
        begun.release()
        units.ended(turn)
        assert seen.acquire(timeout=SOON), f"turn {turn}: nobody was told"
    watcher.join(SOON)
    assert not failed and not watcher.is_alive()


@pytest.mark.parametrize("wait", ["join", "wait_room"])
def test_no_end_is_missed(wait: str) -> None:
    hand_over(Numbers(1), wait)


def test_room_and_idleness_are_told_once() -> None:
    units, told = Numbers(2), []
    units.on_room = lambda: told.append("room")
    units.on_idle = lambda: told.append("idle")
    units.add(1)
    units.add(2)
    assert units.full and units.live == 2
    units.ended(1)
    assert told == ["room"]
    units.ended(2)
    assert told == ["room", "idle"] and units.live == 0


def test_without_a_limit_only_the_last_end_is_told() -> None:
    units, told = Numbers(), []
    units.on_room = lambda: told.append("room")
    units.on_idle = lambda: told.append("idle")
    for unit in range(5):
        units.add(unit)
    for unit in range(5):
        assert told == []
        units.ended(unit)
    assert told == ["idle"] and sorted(units) == []


def test_an_end_that_is_not_told_is_seen() -> None:
    class Silent(Numbers):
        def ended(self, unit: int) -> None:
            self._live.discard(unit)

    units = Silent(1)
    units.add(1)
    waiting = threading.Event()
    found: list[bool] = []

    def wait() -> None:
        waiting.set()
        found.append(units.join(0.2))

    thread = threading.Thread(target=wait)
    thread.start()
    assert waiting.wait(SOON)
    while not units._waits and thread.is_alive():
        pass
    units.ended(1)
    thread.join(SOON)
    assert found == [False]
