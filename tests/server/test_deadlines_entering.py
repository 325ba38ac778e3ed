"""Entering the watch over deadlines: whoever came is looked at in time, however many came and on what threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from jackfield import socket
from jackfield.clock import MONOTONIC, Clock
from jackfield.connections import Connection, Connections
from jackfield.deadlines import PART, SLOT, Deadlines
from jackfield.events import Reason
from jackfield.limits import Limits
from jackfield.testing import ManualClock

SOON = 10.0


class Watched:
    """Connections that wait for their peers from the beginning, and the watch over them."""

    def __init__(self, stack: ExitStack, clock: Clock, limits: Limits) -> None:
        self._stack = stack
        self.connections = Connections(clock)
        self.deadlines = Deadlines(self.connections, limits)

    def come(self) -> Connection:
        ours, theirs = socket.socketpair()
        self._stack.enter_context(ours)
        self._stack.enter_context(theirs)
        ours.waits = True
        connection = self.connections.enter(ours, None)
        self.deadlines.enter(connection)
        return connection

    def go(self, connection: Connection) -> None:
        self.deadlines.leave(connection)
        self.connections.remove(connection)

    @property
    def looked_at(self) -> int:
        return sum(map(len, self.deadlines._slots.values()))


@contextmanager
def watched(clock: Clock, limits: Limits) -> Iterator[Watched]:
    with ExitStack() as stack:
        yield Watched(stack, clock, limits)


IDLE = Limits.none(idle_timeout=10.0, first_byte_timeout=10.0)


def ended_at(house: Watched, clock: ManualClock, connections: list[Connection], until: float) -> list[float]:
    """When each was ended by looks that come as often as they are asked for; it must have been by ``until``."""
    ends: dict[int, float] = {}
    while len(ends) < len(connections):
        assert clock.now() < until, f"{len(connections) - len(ends)} were overlooked"
        step = house.deadlines.look()
        for connection in connections:
            if connection.reason is not None:
                assert connection.reason is Reason.IDLE
                ends.setdefault(connection.id, clock.now())
        clock.advance(0.01 if step is None else max(0.01, min(step, 1.0)))
    return [ends[connection.id] for connection in connections]


def test_each_is_ended_at_its_time() -> None:
    clock = ManualClock()
    with watched(clock, IDLE) as house:
        connections = []
        for _ in range(40):
            connections.append(house.come())
            clock.advance(0.07)  # several in each slot, and several slots
            house.deadlines.look()
        for connection, end in zip(connections, ended_at(house, clock, connections, 60.0), strict=True):
            assert 10.0 <= end - connection.since <= 10.0 + 10.0 / PART + 2 * SLOT


def test_an_overlooked_one_would_be_seen() -> None:
    clock = ManualClock()
    with watched(clock, IDLE) as house:
        lost = house.come()
        house.deadlines._slots.clear()
        with pytest.raises(AssertionError, match="1 were overlooked"):
            ended_at(house, clock, [lost], 30.0)


def test_who_leaves_is_not_looked_at() -> None:
    clock = ManualClock()
    with watched(clock, IDLE) as house:
        connections = [house.come() for _ in range(20)]
        assert house.looked_at == 20
        for connection in connections:
            house.go(connection)
        assert house.looked_at == 0
        assert house.deadlines.look() is None
        # And the next to come is, though its slot has been taken away meanwhile.
        assert ended_at(house, clock, [house.come()], 30.0)


@pytest.mark.parametrize("patience", [2.0, 50.0])
def test_other_limits_hold_for_the_next_to_come(patience: float) -> None:
    clock = ManualClock()
    with watched(clock, IDLE) as house:
        house.come()
        house.deadlines.limits = Limits.none(idle_timeout=patience, first_byte_timeout=patience)
        last = house.come()
        (end,) = ended_at(house, clock, [last], 200.0)
        assert patience <= end - last.since <= patience * (1 + 1 / PART) + 2 * SLOT


def test_one_that_is_due_before_all_others_wakes_who_looks() -> None:
    clock = ManualClock()
    with watched(clock, IDLE) as house:
        wakes = []
        house.deadlines.on_earlier = lambda: wakes.append(clock.now())
        house.come()
        house.come()
        assert len(wakes) == 1
        house.deadlines.limits = Limits.none(idle_timeout=1.0, first_byte_timeout=1.0)
        house.come()
        assert len(wakes) == 2


def test_coming_and_going_on_many_threads_while_another_looks() -> None:
    with watched(MONOTONIC, Limits.none(idle_timeout=0.5, first_byte_timeout=0.5)) as house:
        stayed: list[Connection] = []
        lock = threading.Lock()

        def come_and_go() -> None:
            for number in range(40):
                with lock:  # the stack that closes their sockets is no thing for threads
                    ours, theirs = socket.socketpair()
                    house._stack.enter_context(ours)
                    house._stack.enter_context(theirs)
                ours.waits = True
                connection = house.connections.enter(ours, None)
                house.deadlines.enter(connection)
                if number % 2:
                    house.go(connection)
                else:
                    stayed.append(connection)

        threads = [threading.Thread(target=come_and_go) for _ in range(4)]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + SOON
        bell = threading.Event()
        house.deadlines.on_earlier = bell.set
        while any(thread.is_alive() for thread in threads) or any(one.reason is None for one in stayed):
            assert time.monotonic() < deadline, "some were overlooked"
            bell.clear()
            step = house.deadlines.look()
            bell.wait(0.01 if step is None else min(step, 0.05))
        for thread in threads:
            thread.join()
        assert len(stayed) == 80
        assert {one.reason for one in stayed} == {Reason.IDLE}
