"""The board: what one process writes another reads, each figure whole at any moment."""

from __future__ import annotations

import os
import signal
import struct
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jackfield.errors import StartError
from jackfield.supervisor.board import MOST_WORKERS, Board, Shown

figures = st.builds(
    Shown, st.floats(allow_nan=False), *[st.integers(-(2**63), 2**63 - 1)] * 3
)  # fmt: skip


@given(st.lists(figures, min_size=1, max_size=8))
def test_each_row_is_as_it_was_written(rows: list[Shown]) -> None:
    board = Board(len(rows))
    taken = [board.take(0.0) for _ in rows]
    assert sorted(taken) == list(range(len(rows)))
    for number, shown in zip(taken, rows, strict=True):
        board.write(number, shown)
    assert [board.read(number) for number in taken] == rows
    board.write_accepted(taken[0], 7)
    assert board.read(taken[0]) == rows[0]._replace(accepted=7)
    assert [board.read(number) for number in taken[1:]] == rows[1:]
    board.close()


def test_a_row_is_new_to_whoever_takes_it() -> None:
    board = Board(1)
    row = board.take(5.0)
    board.write(row, Shown(9.0, 1, 2, 3))
    board.give_back(row)
    assert board.read(board.take(6.0)) == Shown(6.0, 0, 0, 0)
    board.close()


def test_too_many_are_refused_until_one_has_gone() -> None:
    board = Board()
    rows = [board.take(0.0) for _ in range(MOST_WORKERS)]
    with pytest.raises(StartError, match="too many workers at once"):
        board.take(0.0)
    board.give_back(rows[17])
    assert board.take(0.0) == rows[17]
    board.close()


class Careless(Board):
    """As it must not be: Struct.pack_into() sets all to zeros before it writes."""

    def write(self, row: int, shown: Shown) -> None:
        struct.pack_into("=dqqq", self._memory, row * 32, *shown)


def moments_seen(board: Board, seconds: float) -> set[float]:
    """What a process sees of a beat that another one writes without end, which is 1.0 all the time."""
    row = board.take(1.0)
    pid = os.fork()
    if pid == 0:
        while True:
            board.write(row, Shown(1.0, 2, 3, 4))
    try:
        seen = set()
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and len(seen) < 2:
            seen.update(board.read(row).beat for _ in range(1000))
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        board.close()
    return seen


def test_no_figure_is_ever_half_written() -> None:
    """A beat that is read as zero would have a worker killed that is well."""
    assert moments_seen(Board(1), 1.0) == {1.0}


def test_that_would_be_seen() -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one processor alone does not read while it writes")
    assert moments_seen(Careless(1), 20.0) == {0.0, 1.0}
