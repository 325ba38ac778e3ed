"""Datagrams over several workers: their rates, and those of the replies."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import test_admission_datagrams as of_one
from hypothesis import given
from hypothesis import strategies as st

from jackfield.admission import DatagramGuard, Rate, Refusal
from jackfield.admission.ledger import ROOMS, Ledger
from jackfield.admission.shareddatagrams import SharedDatagramGuard
from jackfield.clock import Clock
from jackfield.limits import Limits
from jackfield.testing import ManualClock

SOMEBODY, OTHER = ("192.0.2.7", 4711), ("192.0.2.8", 4711)


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    made = Ledger(8, 1024)
    yield made
    made.close()


@pytest.mark.parametrize(
    "test",
    [
        of_one.test_nothing_is_taken_from_port_0, of_one.test_who_was_exempt_is_judged_again_by_other_limits,
        of_one.test_what_a_copy_has_sent_counts, of_one.test_lists_and_rates,
        of_one.test_who_has_not_answered_twice_gets_three_times_what_it_sent,
        of_one.test_two_servers_made_to_answer_each_other_stay_quiet,
        of_one.test_who_is_exempt_or_cannot_be_forged_is_answered,
    ],
    ids=lambda test: test.__name__,
)  # fmt: skip
def test_one_worker_is_as_one_process(test: Callable[[ManualClock], None], monkeypatch: pytest.MonkeyPatch) -> None:
    ledgers = []

    def made(limits: Limits, clock: Clock) -> DatagramGuard:
        ledgers.append(Ledger(2, 1024))
        return SharedDatagramGuard(limits, ledgers[-1].join(0), clock)

    monkeypatch.setattr(of_one, "DatagramGuard", made)
    test(ManualClock(1000.0))
    assert ledgers
    for ledger in ledgers:
        ledger.close()


rates = st.builds(Rate, st.sampled_from([1, 2, 4]), st.sampled_from([0.5, 1.0]), st.sampled_from([0, 1, 3]))


@given(rates, rates, rates, st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.integers(0, 3)), max_size=60))
def test_all_say_what_one_would(rate: Rate, rate_of: Rate, replies: Rate, steps: list[tuple[int, bool, int]]) -> None:
    clock = ManualClock(1000.0)
    limits = Limits.none(datagram_rate=rate, datagram_rate_per_address=rate_of, reply_rate_per_address=replies)
    ledger = Ledger(3, 64)
    team = [SharedDatagramGuard(limits, ledger.join(slot), clock) for slot in range(3)]
    one = DatagramGuard(limits, clock)
    for worker, replying, how in steps:
        peer = (SOMEBODY, OTHER)[how % 2]
        if replying:
            assert team[worker].may_reply(peer, 10) == one.may_reply(peer, 10)
        else:
            assert team[worker].admit(peer, 10) is one.admit(peer, 10)
        clock.advance(how * 0.125)
    assert sum(guard.withheld for guard in team) == one.withheld
    ledger.close()


def test_that_they_count_together_can_fail(ledger: Ledger) -> None:
    limits, clock = Limits.none(datagram_rate=Rate(2, 60.0)), ManualClock()
    together = [SharedDatagramGuard(limits, ledger.join(slot), clock) for slot in range(2)]
    apart = [DatagramGuard(limits, clock) for _ in range(2)]
    for guards, taken in ((together, 2), (apart, 4)):
        assert [guard.admit(SOMEBODY, 1) for guard in guards * 4].count(None) == taken


def test_what_children_have_sent_counts_for_all(ledger: Ledger) -> None:
    limits, clock = Limits.none(reply_rate_per_address=Rate(2, 60.0)), ManualClock()
    one, other = (SharedDatagramGuard(limits, ledger.join(slot), clock) for slot in range(2))
    one.count_reply(SOMEBODY, 10)
    assert other.may_reply(SOMEBODY, 10)
    assert not one.may_reply(SOMEBODY, 10) and one.may_reply(OTHER, 10)


def test_where_there_is_no_turn_each_keeps_to_its_part(ledger: Ledger) -> None:
    limits, clock = Limits.none(datagram_rate=Rate(8, 60.0), reply_rate_per_address=Rate(8, 60.0)), ManualClock()
    guards = [SharedDatagramGuard(limits, ledger.join(slot), clock) for slot in range(2)]
    assert guards[0].admit(SOMEBODY, 1) is None

    def stop(room: Any) -> None:
        os.kill(os.getpid(), signal.SIGSTOP)

    children = []
    for slot in range(2, 2 + ROOMS):
        if not (pid := os.fork()):
            ledger.join(slot).do(stop)
            os._exit(0)
        children.append(pid)
        os.waitpid(pid, os.WUNTRACED)
    try:
        used = 2 + ROOMS
        assert ledger.used == used
        verdicts = [[guard.admit(SOMEBODY, 1) for _ in range(8)].count(None) for guard in guards]
        replies = [[guard.may_reply(SOMEBODY, 1) for _ in range(8)].count(True) for guard in guards]
        assert verdicts == replies == [8 // used] * 2
        assert guards[0].admit(OTHER, 1) is Refusal.LIMIT_RATE
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    assert guards[0].may_reply(OTHER, 1)
