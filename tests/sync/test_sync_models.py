"""Permits and queues against a model: hypothesis has waiters enter and leave in every order."""

from __future__ import annotations

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from jackfield.sync import Empty, Full, Queue, ShutDown
from jackfield.sync.lines import Line, Permits, Ticket


class _NoWait:
    def wake(self) -> None:
        pass


class PermitsModel(RuleBasedStateMachine):
    """Waiters enter, are granted, leave and give up in every order; a permit is never lost, doubled or jumped at."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 2
        self.permits = Permits(self.total)
        self.holders = 0
        self.line: list[Ticket] = []  # in the order they came

    def _granted_in_order(self) -> None:
        states = [ticket.granted for ticket in self.line]
        assert states == sorted(states, reverse=True), "somebody was passed by"

    @rule()
    def take(self) -> None:
        expected = not any(not t.granted for t in self.line) and self.permits.free > 0
        assert self.permits.take() is expected
        self.holders += expected

    @rule()
    def enter(self) -> None:
        ticket = Ticket(_NoWait(), None)
        if self.permits.enter(ticket):
            assert self.permits.leave(ticket, False)
            self.holders += 1
        else:
            self.line.append(ticket)

    @precondition(lambda self: self.line)
    @rule(data=st.data(), giving_up=st.booleans())
    def leave(self, data: st.DataObject, giving_up: bool) -> None:
        ticket = self.line.pop(data.draw(st.integers(0, len(self.line) - 1)))
        had = ticket.granted
        assert self.permits.leave(ticket, giving_up) is (had and not giving_up)
        self.holders += had and not giving_up

    @precondition(lambda self: self.holders)
    @rule()
    def give(self) -> None:
        self.holders -= 1
        self.permits.give()

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        granted = sum(ticket.granted for ticket in self.line)
        assert self.holders + granted + self.permits.free == self.total
        if any(not ticket.granted for ticket in self.line):
            assert not self.permits.free, "somebody waits for what is free"
        self._granted_in_order()


class QueueModel(RuleBasedStateMachine):
    """The same for a queue: each item that was put is got once, or thrown away by shutdown, or still there."""

    def __init__(self) -> None:
        super().__init__()
        self.q: Queue[int] = Queue(2)
        self.getters: list[Ticket] = []
        self.putters: list[Ticket] = []
        self.put_items: set[int] = set()
        self.got_items: set[int] = set()
        self.thrown: set[int] = set()
        self.next = 0
        self.overflow = 0
        self.shut = False

    def _got(self, item: int) -> None:
        assert item in self.put_items and item not in self.got_items | self.thrown
        self.got_items.add(item)

    @rule()
    def get_nowait(self) -> None:
        try:
            self._got(self.q.get_nowait())
        except (Empty, ShutDown):
            assert self.q.empty()

    @rule()
    def put_nowait(self) -> None:
        item, self.next = self.next, self.next + 1
        try:
            self.q.put_nowait(item)
            self.put_items.add(item)
        except Full:
            assert self.q.qsize() + self.q._reserved >= 2
        except ShutDown:
            assert self.shut

    @rule()
    def enter_get(self) -> None:
        ticket = Ticket(_NoWait(), None)
        try:
            if self.q._enter_get(ticket):
                assert self.q._leave_get(ticket, False)
                self._got(ticket.value)
            else:
                self.getters.append(ticket)
        except ShutDown:
            assert self.shut

    @precondition(lambda self: self.getters)
    @rule(data=st.data(), giving_up=st.booleans())
    def leave_get(self, data: st.DataObject, giving_up: bool) -> None:
        ticket = self.getters.pop(data.draw(st.integers(0, len(self.getters) - 1)))
        had, item = ticket.granted, ticket.value
        try:
            result = self.q._leave_get(ticket, giving_up)
        except ShutDown:
            assert self.shut and not had and not giving_up
            return
        assert result is (had and not giving_up)
        if result:
            self._got(item)
        elif had and self.q._drained:
            self.thrown.add(item)
        elif had:
            self.overflow += 1

    @rule()
    def enter_put(self) -> None:
        item, self.next = self.next, self.next + 1
        ticket = Ticket(_NoWait(), None, item)
        try:
            if self.q._enter_put(ticket):
                assert self.q._leave_put(ticket, False)
                self.put_items.add(item)
            else:
                self.putters.append(ticket)
        except ShutDown:
            assert self.shut

    @precondition(lambda self: self.putters)
    @rule(data=st.data(), giving_up=st.booleans())
    def leave_put(self, data: st.DataObject, giving_up: bool) -> None:
        ticket = self.putters.pop(data.draw(st.integers(0, len(self.putters) - 1)))
        had = ticket.granted
        try:
            result = self.q._leave_put(ticket, giving_up)
        except ShutDown:
            assert self.shut and not giving_up
            return
        if giving_up:
            return
        assert result is had
        if had:
            self.put_items.add(ticket.value)

    @precondition(lambda self: self.next > 15)
    @rule(immediate=st.booleans())
    def shutdown(self, immediate: bool) -> None:
        if immediate:
            self.thrown |= set(self.q.queue)
        self.q.shutdown(immediate)
        self.shut = True

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        handed = {ticket.value for ticket in self.getters if ticket.granted}
        inside = set(self.q.queue)
        assert len(inside) == self.q.qsize()
        assert not inside & handed
        assert self.put_items == inside | handed | self.got_items | self.thrown
        assert self.q.qsize() + self.q._reserved <= 2 + self.overflow
        assert self.q._reserved == sum(ticket.granted for ticket in self.putters)
        assert self.q.unfinished_tasks == len(self.put_items) - len(self.thrown)
        if not self.shut:
            if any(not ticket.granted for ticket in self.getters):
                assert self.q.empty(), "somebody waits for an item that is there"
            if any(not ticket.granted for ticket in self.putters):
                assert self.q.qsize() + self.q._reserved >= 2, "somebody waits for a slot that is free"
            for line in (self.getters, self.putters):
                states = [ticket.granted for ticket in line]
                assert states == sorted(states, reverse=True), "somebody was passed by"


TestPermitsModel = PermitsModel.TestCase

TestQueueModel = QueueModel.TestCase

TestPermitsModel.settings = TestQueueModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_the_model_finds_a_permit_that_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate can fail."""
    leave = Permits.leave
    monkeypatch.setattr(Permits, "leave", lambda self, ticket, giving_up: leave(self, ticket, False) and not giving_up)
    case = PermitsModel.TestCase("runTest")
    case.settings = settings(phases=[Phase.generate], deadline=None)  # found is enough: nobody reads the smallest one
    with pytest.raises(AssertionError):
        case.runTest()


def test_a_line_drops_who_leaves_it_in_constant_space() -> None:
    line = Line()
    for _ in range(10_000):
        ticket = Ticket(_NoWait(), None)
        line.append(ticket)
        line.discard(ticket)
    assert len(line) == 0 and line.pop() is None and line.grant(3) == []
