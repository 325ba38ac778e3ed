"""The table of a worker's life: every move that is legal, none that is not, and that each life comes to an end."""

from __future__ import annotations

import os

import pytest

from jackfield.errors import MisuseError
from jackfield.supervisor.board import Board
from jackfield.supervisor.life import MOVES, WorkerState
from jackfield.supervisor.link import Link
from jackfield.supervisor.member import Member, describe_exit
from jackfield.supervisor.policy import Recycling
from jackfield.supervisor.rollover import Rollover


@pytest.fixture
def member(request: pytest.FixtureRequest) -> Member:
    """A worker that has ended, and was not waited for."""
    ours, theirs = Link.pair()
    board = Board()
    pid = os.fork()
    if pid == 0:
        os._exit(7)
    theirs.close()
    made = Member(1, pid, ours, board, board.take(0.0), 0.0, Recycling())

    def end() -> None:
        if made.state is not WorkerState.GONE:
            os.waitpid(pid, 0)
        made.let_go()
        board.close()

    request.addfinalizer(end)
    return made


def test_every_state_is_in_the_table() -> None:
    assert set(MOVES) == set(WorkerState)
    assert all(after <= set(WorkerState) for after in MOVES.values())


def test_only_one_state_is_the_last_and_each_leads_there() -> None:
    assert [state for state, after in MOVES.items() if not after] == [WorkerState.GONE]
    for state in WorkerState:
        assert WorkerState.GONE in MOVES[state] or state is WorkerState.GONE
        assert WorkerState.KILLED in MOVES[state] or state in (WorkerState.KILLED, WorkerState.GONE)


def test_there_is_no_way_back() -> None:
    """No state can be come to from itself: each life ends after as many moves as there are states."""

    def longest(state: WorkerState, before: frozenset[WorkerState] = frozenset()) -> int:
        assert state not in before, f"{state} can be come to again"
        return 1 + max((longest(after, before | {state}) for after in MOVES[state]), default=0)

    assert longest(WorkerState.STARTING) == len(WorkerState)


@pytest.mark.parametrize("state", WorkerState)
@pytest.mark.parametrize("to", WorkerState)
def test_a_move_is_made_or_refused(state: WorkerState, to: WorkerState, member: Member) -> None:
    member.state = state
    if to in MOVES[state]:
        member.move(to)
        assert member.state is to
        if to is WorkerState.GONE:
            os.waitpid(member.pid, 0)
    else:
        with pytest.raises(MisuseError, match=f"a worker that is {state.value} cannot become {to.value}"):
            member.move(to)
        assert member.state is state
        if state is WorkerState.GONE:
            member.state = WorkerState.KILLED


def test_its_exit_code_is_told_once_it_has_ended(member: Member) -> None:
    code = None
    while code is None:
        code = member.reap()
    assert code == 7 and member.state is WorkerState.GONE and member.pidfd is None
    assert str(member) == f"worker 1 (process {member.pid})"


def test_one_that_somebody_else_has_waited_for_is_gone_all_the_same(member: Member) -> None:
    os.waitpid(member.pid, 0)
    assert member.reap() == 0
    assert member.state is WorkerState.GONE


@pytest.mark.parametrize(
    ("code", "words"), [(0, "exit code 0"), (3, "exit code 3"), (-9, "SIGKILL"), (-11, "SIGSEGV"), (-250, "signal 250")]
)
def test_an_end_in_words(code: int, words: str) -> None:
    assert describe_exit(code) == words


def test_a_rollover_is_complete_or_has_failed(member: Member) -> None:
    rollover = Rollover("the start")
    rollover.members.append(member)
    assert not rollover.complete and rollover.failure is None
    member.state = WorkerState.SERVING
    assert rollover.complete and rollover.failure is None
    member.state = WorkerState.KILLED
    assert rollover.failure == "it ended before it was ready"
    member.failure = "no such module"
    assert rollover.failure == "no such module"
    rollover.problem = "no room"
    assert rollover.failure == "no room"
