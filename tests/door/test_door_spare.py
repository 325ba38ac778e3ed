"""Out of descriptors: the spare is lent and taken again, clients wait and are then turned away, and nobody spins.

A model of the kernel counts every call of accept, on a clock that the test moves; the same loop is shown with broken
parts that the gates find out.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jackfield.door import AcceptPolicy, Action, Outcome, Pauses, Shedding, Spare, accept_batch
from jackfield.door.accept import PAUSE
from jackfield.door.spare import SHED_AFTER
from jackfield.testing import ManualClock


def failing(number: int) -> OSError:
    return OSError(number, os.strerror(number))


# -- the spare ---------------------------------------------------------------------------------------------------------


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_it_opens_nothing_until_it_is_asked_to() -> None:
    opened: list[int] = []
    spare = Spare(open=lambda: opened.append(1) or 7, close=lambda fd: None)
    assert not spare.held and not opened
    assert spare.take() and spare.take() and spare.held
    assert opened == [1]


def test_it_is_a_real_descriptor_that_programs_do_not_inherit() -> None:
    spare = Spare()
    assert spare.take()
    fd = spare._fd
    assert fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    with spare.lent():
        assert not spare.held and not is_open(fd)
        borrowed = os.dup(0)
        assert borrowed == fd, "the lowest number that is free"
        os.close(borrowed)
    assert spare.held and is_open(spare._fd)
    spare.close()
    spare.close()
    assert not spare.held and not is_open(fd)


def test_once_closed_it_holds_nothing_any_more() -> None:
    spare = Spare()
    spare.take()
    with spare.lent():
        spare.close()
    assert not spare.held and not spare.take()


def test_another_thread_that_is_faster_has_the_descriptor_and_nothing_else_happens() -> None:
    free = [True]

    def take() -> int:
        if not free.pop():
            free.append(False)
            raise failing(errno.EMFILE)
        free.append(False)
        return 7

    spare = Spare(open=take, close=lambda fd: None)
    assert spare.take()
    with spare.lent():
        pass  # the number is another's by now
    assert not spare.held and not spare.take()
    with spare.lent():
        pass  # nothing to lend, nothing to lose
    free[:] = [True]
    assert spare.take()


def test_what_goes_wrong_while_it_is_lent_does_not_lose_it() -> None:
    spare = Spare(open=lambda: 7, close=lambda fd: None)
    spare.take()
    with pytest.raises(ZeroDivisionError), spare.lent():
        raise ZeroDivisionError
    assert spare.held


# -- when clients are turned away --------------------------------------------------------------------------------------


def shedding_of(clock: ManualClock, refuse: Callable[[Any], object] = lambda _: None) -> Shedding[Any]:
    spare = Spare(open=lambda: 7, close=lambda fd: None)
    spare.take()
    return Shedding(spare, refuse, clock)


def due_times(shedding: Shedding[Any], clock: ManualClock, times: int, step: float = 0.1) -> list[bool]:
    due = []
    for _ in range(times):
        due.append(shedding.is_due(failing(errno.EMFILE)))
        clock.advance(step)
    return due


def test_clients_wait_for_a_second_first() -> None:
    clock = ManualClock(50)
    due = due_times(shedding_of(clock), clock, 13, step=0.125)
    assert due == [False] * 8 + [True] * 5
    assert SHED_AFTER == 1.0


@pytest.mark.parametrize("name", ["ENOBUFS", "ENOMEM", "EIO", "EAGAIN"])
def test_a_descriptor_is_no_help_against_anything_else(name: str) -> None:
    clock = ManualClock()
    shedding = shedding_of(clock)
    for _ in range(30):
        assert not shedding.is_due(failing(getattr(errno, name)))
        clock.advance(0.1)


def test_the_whole_machines_table_is_the_same_want() -> None:
    clock = ManualClock()
    shedding = shedding_of(clock)
    assert not shedding.is_due(failing(errno.ENFILE))
    clock.advance(SHED_AFTER)
    assert shedding.is_due(failing(errno.EMFILE))


def test_one_that_was_let_in_meanwhile_begins_it_anew() -> None:
    clock = ManualClock()
    shedding = shedding_of(clock)
    assert True not in due_times(shedding, clock, 7, step=0.125)
    shedding.note_well()
    assert due_times(shedding, clock, 9, step=0.125) == [False] * 8 + [True]


def test_a_want_that_nobody_felt_for_a_second_may_have_been_over() -> None:
    clock = ManualClock()
    shedding = shedding_of(clock)
    assert due_times(shedding, clock, 10, step=0.125)[-1]
    clock.advance(SHED_AFTER)
    assert not shedding.is_due(failing(errno.EMFILE))


def test_a_spare_that_did_not_help_is_left_alone_for_a_second() -> None:
    clock = ManualClock()
    shedding = shedding_of(clock)
    assert due_times(shedding, clock, 9, step=0.125)[-1]
    shedding.note_futile()
    due = due_times(shedding, clock, 9, step=0.125)
    assert due == [False] * 8 + [True]


def test_without_a_spare_nobody_is_turned_away() -> None:
    clock = ManualClock()
    shedding: Shedding[Any] = Shedding(Spare(open=lambda: os.open("", os.O_RDONLY)), lambda _: None, clock)
    assert True not in due_times(shedding, clock, 30)


# -- a machine of so many descriptors ----------------------------------------------------------------------------------


class Machine:
    """A kernel that has ``free`` descriptors left, clients in a listener's queue, and a server that waits for them.

    The server is the parts of the package: policy, spare, shedding and pauses, run as a loop of a mode runs them. Time
    passes only in :meth:`run`.
    """

    def __init__(self, free: int, pauses: type[Pauses[str]] = Pauses) -> None:
        self.clock = ManualClock(1000)
        self.free = free
        self.queue: deque[int] = deque()
        self.came: dict[int, float] = {}
        self.serving: list[int] = []
        self.refused: list[int] = []
        self.waited: list[float] = []
        self.last_served = -1000.0
        self.stolen = 0
        self.broken: int | None = None
        self.calls = self.failures = self.batches = 0
        self.log: list[str] = []
        self.policy = AcceptPolicy(self.clock, name="here")
        self.spare = Spare(open=self.take_one, close=lambda fd: self.give_one())
        self.shedding: Shedding[int] | None = Shedding(self.spare, self.refuse, self.clock)
        self.pauses = pauses(self.clock)
        self.thief: Callable[[], object] = lambda: None

    # the kernel

    def take_one(self) -> int:
        if not self.free:
            raise failing(errno.EMFILE)
        self.free -= 1
        return 7

    def give_one(self) -> None:
        self.free += 1

    def accept(self) -> int:
        self.calls += 1
        assert self.calls < 100_000, "it spins"
        if self.broken is not None:
            self.failures += 1
            raise failing(self.broken)
        try:
            self.take_one()  # before the queue is looked at, as Linux does
        except OSError:
            self.failures += 1
            raise
        if not self.queue:
            self.give_one()
            raise failing(errno.EAGAIN)
        return self.queue.popleft()

    # the server

    def serve(self, client: int) -> None:
        self.serving.append(client)
        self.last_served = self.clock.now()

    def refuse(self, client: int) -> None:
        assert not self.free, "there was a descriptor for it"
        assert self.clock.now() - self.last_served > SHED_AFTER - 1e-6, "too soon"
        self.refused.append(client)
        self.waited.append(self.clock.now() - self.came[client])
        self.give_one()
        self.thief()

    def end(self, number: int = 0) -> None:
        """One of the connections ends."""
        self.serving.pop(number)
        self.give_one()
        self.pauses.freed()

    def come(self, clients: int = 1) -> None:
        for _ in range(clients):
            number = len(self.came)
            self.came[number] = self.clock.now()
            self.queue.append(number)

    def turn(self) -> Outcome:
        self.batches += 1
        self.pauses.begin()
        outcome = accept_batch(self.accept, self.serve, self.policy, report=self.log.append, shedding=self.shedding)
        self.pauses.note("here", outcome)
        return outcome

    def run(self, seconds: float) -> None:
        """The loop, for so long: poll(2) says that the listener is readable while clients wait, unless it is left
        alone."""
        end = self.clock.now() + seconds
        while True:
            left = self.pauses.left("here")
            if self.queue and not left:
                self.turn()
                continue
            wait = min(left or seconds, end - self.clock.now())
            if wait <= 0:
                return
            self.clock.advance(wait)


def test_the_second_is_waited_for_and_then_all_are_told() -> None:
    machine = Machine(free=11)
    machine.come(50)
    machine.run(0.95)
    assert (len(machine.serving), len(machine.queue), machine.refused) == (10, 40, [])
    machine.run(0.2)
    assert machine.refused == list(range(10, 50)), "in the order in which they came"
    assert min(machine.waited) >= SHED_AFTER - 1e-6
    assert machine.spare.held and not machine.free
    assert machine.failures <= 10 + 2 * 40
    # Those who come later are told within a pause.
    machine.come(3)
    machine.run(PAUSE + 0.01)
    assert len(machine.refused) == 43


def test_when_a_connection_ends_somebody_is_let_in_at_once() -> None:
    machine = Machine(free=3)
    machine.come(4)
    machine.run(0)
    assert (len(machine.serving), len(machine.queue)) == (2, 2)
    machine.end()
    before = machine.clock.now()
    machine.run(0)
    assert machine.clock.now() == before
    assert (machine.serving, len(machine.queue)) == ([1, 2], 1)


def test_descriptors_that_others_gave_back_are_found_within_a_pause() -> None:
    machine = Machine(free=2)
    machine.come(3)
    machine.run(0.5)
    machine.free += 2
    machine.run(PAUSE)
    assert len(machine.serving) == 3 and not machine.refused


def test_nobody_is_turned_away_while_there_is_a_descriptor_for_him() -> None:
    """In the midst of turning them away some come back: the rest is served."""
    machine = Machine(free=2)
    machine.come(21)
    machine.run(0.5)
    refuse = machine.refuse

    def refuse_and_free(client: int) -> None:
        refuse(client)
        if len(machine.refused) == 5:
            machine.free += 100

    assert machine.shedding is not None
    machine.shedding.refuse = refuse_and_free
    machine.run(1)
    assert (len(machine.refused), len(machine.serving)) == (5, 16)


def test_those_who_come_again_at_once_cost_a_bounded_number_of_calls() -> None:
    """Each that was turned away is there again before the next look."""
    machine = Machine(free=1)
    machine.come()
    machine.thief = machine.come
    machine.run(2)
    calls, refused = machine.calls, len(machine.refused)
    machine.run(10)
    assert len(machine.refused) - refused <= 64 * 10 / PAUSE
    assert machine.calls - calls <= (2 * 64) * 10 / PAUSE
    assert machine.batches <= 12 / PAUSE + 2


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS])
def test_an_accept_that_fails_whatever_is_given_back_is_seldom_called(number: int) -> None:
    machine = Machine(free=100)
    machine.come(5)
    machine.broken = number
    machine.run(60)
    assert machine.failures <= 15 * 60
    assert not machine.serving and not machine.refused
    assert sum(len(line) for line in machine.log) < 4096 and len(machine.log) == 1
    machine.broken = None
    machine.run(PAUSE)
    assert len(machine.serving) == 5


def test_the_number_taken_by_another_thread_does_no_harm() -> None:
    machine = Machine(free=1)
    machine.come(10)

    def steal() -> None:
        if machine.free:
            machine.free -= 1
            machine.stolen += 1

    machine.thief = steal
    machine.run(3)
    assert machine.refused == [0] and machine.stolen == 1 and not machine.spare.held
    assert machine.failures <= 15 * 3
    # It comes back: first the spare, by which the others can be told.
    machine.thief = lambda: None
    machine.free += 1
    machine.run(PAUSE)
    assert machine.spare.held and len(machine.refused) == 10


def test_without_shedding_they_wait_for_ever() -> None:
    machine = Machine(free=1)
    machine.shedding = None
    machine.come(5)
    machine.run(3600)
    assert (len(machine.serving), len(machine.queue), machine.refused) == (1, 4, [])
    assert machine.calls <= 3600 / PAUSE + 2


def test_an_episode_has_three_lines_and_the_number_of_those_turned_away() -> None:
    machine = Machine(free=3)
    machine.come(150)
    machine.run(5)
    begin, lasts = machine.log
    assert "here: cannot accept" in begin and "EMFILE" in begin and "wait in the queue" in begin
    assert lasts == (
        "here: EMFILE lasts; clients are turned away until there are descriptors: raise the limit with `ulimit -n` "
        "(systemd: LimitNOFILE=), or allow fewer connections"
    )
    for _ in range(2):
        machine.end()
    machine.clock.advance(10)
    machine.come()
    machine.run(0)
    assert len(machine.log) == 3 and machine.log[2].endswith("; clients turned away: 148")
    assert machine.policy.shed == 148


def test_a_listener_that_is_shut_down_is_found_out_by_the_spare() -> None:
    """Linux gives out a number before it sees that nobody listens: EMFILE hides EINVAL."""
    machine = Machine(free=1)
    machine.come()
    machine.run(0.95)
    accept = machine.accept

    def gone() -> int:
        accept()
        raise failing(errno.EINVAL)

    machine.accept = gone  # type: ignore[method-assign]
    machine.clock.advance(PAUSE)
    assert machine.turn().action is Action.CLOSED


def test_those_that_failed_on_their_own_are_no_clients_turned_away() -> None:
    clock = ManualClock()
    shedding = shedding_of(clock)
    due_times(shedding, clock, 9, step=0.125)
    steps = iter([failing(errno.EMFILE), failing(errno.ECONNABORTED), failing(errno.EMFILE), failing(errno.EAGAIN)])

    def accept() -> Any:
        raise next(steps)

    policy = AcceptPolicy(clock)
    outcome = accept_batch(accept, list, policy, report=list, shedding=shedding)
    assert (outcome.action, outcome.pause, outcome.shed) == (Action.PAUSE, PAUSE, 0)
    assert policy.faults == 1 and next(steps, None) is None


# -- whatever happens --------------------------------------------------------------------------------------------------

happenings = st.lists(
    st.one_of(
        st.tuples(st.just("come"), st.integers(1, 100)),
        st.tuples(st.just("end"), st.integers(1, 5)),
        st.tuples(st.just("run"), st.sampled_from([0.0, 0.01, 0.1, 0.3, 1.0, 5.0])),
        st.tuples(st.just("steal"), st.integers(1, 3)),
        st.tuples(st.just("return"), st.integers(1, 3)),
    ),
    max_size=40,
)


def live_through(machine: Machine, happened: list[tuple[str, Any]]) -> None:
    """After each step everything adds up, and every call of accept is paid for: by time, by a client, or by the end of
    a connection."""
    total, ended, start = machine.free, 0, machine.clock.now()
    for step, (what, number) in enumerate(happened, 1):
        if what == "come":
            machine.come(number)
        elif what == "run":
            machine.run(number)
        elif what == "end":
            for _ in range(min(number, len(machine.serving))):
                machine.end()
                ended += 1
        else:
            number = min(number, machine.free) if what == "steal" else -min(number, machine.stolen)
            machine.free -= number
            machine.stolen += number
        assert machine.free + machine.stolen + machine.spare.held + len(machine.serving) == total
        assert len(machine.queue) + len(machine.serving) + len(machine.refused) + ended == len(machine.came)
        taken = len(machine.serving) + ended
        assert machine.batches <= (machine.clock.now() - start) / PAUSE + ended + taken + step
        assert machine.failures <= 2 * machine.batches + len(machine.refused)
    seconds = machine.clock.now() - start
    assert sum(map(len, machine.log)) <= 1024 * (1 + seconds / 10), "an episode has three lines"


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 30), happenings)
def test_it_never_spins_and_loses_nobody(free: int, happened: list[tuple[str, Any]]) -> None:
    live_through(Machine(free), happened)


CROWD = [("come", 60), ("run", 5.0)]


def test_a_loop_that_does_not_pause_would_be_found_out() -> None:
    class Restless(Pauses[str]):
        def left(self, listener: str) -> float:
            return 0.0

    live_through(Machine(20), CROWD)
    machine = Machine(20, pauses=Restless)
    machine.shedding = None
    with pytest.raises(AssertionError, match="it spins"):
        live_through(machine, CROWD)


def test_one_that_turns_away_too_soon_would_be_found_out() -> None:
    machine = Machine(20)
    assert machine.shedding is not None
    machine.shedding.after = 0.0
    with pytest.raises(AssertionError, match="too soon"):
        live_through(machine, CROWD)


def test_a_spare_that_is_not_taken_again_would_be_found_out() -> None:
    class Careless(Spare):
        def take(self) -> bool:
            self._fd = 7  # the word without the deed
            return True

    machine = Machine(20)
    assert machine.shedding is not None
    machine.spare = machine.shedding.spare = Careless(machine.take_one, lambda fd: machine.give_one())
    with pytest.raises(AssertionError):
        live_through(machine, CROWD)
