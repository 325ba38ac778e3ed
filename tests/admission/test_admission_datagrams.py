"""Datagrams: which are taken and which are answered."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jackfield.admission import Credentials, DatagramGuard, PeerList, Rate, Refusal
from jackfield.limits import Limits
from jackfield.testing import ManualClock

SOMEBODY, OTHER, HOME = ("192.0.2.7", 1), ("192.0.2.8", 1), ("127.0.0.1", 1)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1000.0)


def test_nothing_is_taken_from_port_0(clock: ManualClock) -> None:
    for limits in (Limits(), Limits.none()):
        guard = DatagramGuard(limits, clock)
        for peer in (("192.0.2.7", 0), ("2001:db8::1", 0, 0, 0), ("127.0.0.1", 0)):
            assert guard.admit(peer, 10) is Refusal.DENIED
        assert guard.refusals[Refusal.DENIED] == 3
        for peer in ("", "/run/x.sock", None, Credentials(0, 0, 0), SOMEBODY):
            assert guard.admit(peer, 10) is None


@pytest.mark.parametrize("port", [7, 13, 17, 19, 37])
def test_services_that_answer_anything_are_no_clients(clock: ManualClock, port: int) -> None:
    """Not while there is a limit of replies; exempt or not, and also when their host is known."""
    guard = DatagramGuard(Limits(), clock)
    for host in ("192.0.2.7", "127.0.0.1", "::1"):
        assert guard.admit((host, 5000), 10) is None
        assert guard.admit((host, port), 10) is Refusal.DENIED
        assert guard.admit((host, 0), 10) is Refusal.DENIED
        assert guard.admit((host, 5000), 10) is None
    assert guard.refusals[Refusal.DENIED] == 6
    guard.limits = Limits(reply_rate_per_address=None)
    assert guard.admit(("127.0.0.1", port), 10) is None


def test_who_was_exempt_is_judged_again_by_other_limits(clock: ManualClock) -> None:
    guard = DatagramGuard(Limits(deny=PeerList(["127.0.0.2"])), clock)
    for _ in range(2):
        assert guard.admit(HOME, 1) is None
        assert guard.may_reply(HOME, 1000)
        assert guard.admit(("127.0.0.2", 1), 1) is Refusal.DENIED
    for n in range(1000):  # no more of them are remembered than there is room for
        assert guard.admit((f"127.1.{n >> 8}.{n & 255}", 1), 1) is None
    assert len(guard._free) <= 256
    guard.limits = Limits(exempt=PeerList())
    assert not guard.may_reply(HOME, 1)
    guard.limits = Limits(deny=PeerList(["127.0.0.0/8"]))
    assert guard.admit(HOME, 1) is Refusal.DENIED


def test_what_a_copy_has_sent_counts(clock: ManualClock) -> None:
    guard = DatagramGuard(Limits(reply_rate_per_address=Rate(3)), clock)
    guard.count_reply(SOMEBODY, 1, sent=False)
    assert guard.withheld == 1
    guard.count_reply(SOMEBODY, 10)  # of whom nothing has come, as far as this one knows
    for _ in range(2):
        guard.admit(SOMEBODY, 10)
        guard.count_reply(SOMEBODY, 10)
    assert not guard.may_reply(SOMEBODY, 1), "3 replies in a second"
    clock.advance(1.0)
    assert guard.may_reply(SOMEBODY, 1)
    guard.admit(SOMEBODY, 10)
    assert guard.may_reply(SOMEBODY, 60_000), "it has answered twice"
    for _ in range(1000):
        guard.count_reply(SOMEBODY, 10)
    clock.advance(1.0)
    assert guard.may_reply(SOMEBODY, 1), "empty, and no emptier"
    for peer in (HOME, "", None):
        guard.count_reply(peer, 10)
    assert guard.remembered == 2


def test_lists_and_rates(clock: ManualClock) -> None:
    guard = DatagramGuard(
        Limits(deny=PeerList(["192.0.2.8"]), datagram_rate=Rate(5), datagram_rate_per_address=Rate(2)), clock
    )
    assert guard.admit(OTHER, 1) is Refusal.DENIED
    assert [guard.admit(SOMEBODY, 1) for _ in range(3)] == [None, None, Refusal.LIMIT_RATE_PER_ADDRESS]
    assert [guard.admit((f"192.0.2.{n}", 1), 1) for n in range(20, 24)] == [None] * 3 + [Refusal.LIMIT_RATE]
    assert guard.admit(HOME, 1) is None
    clock.advance(0.5)
    assert guard.admit(SOMEBODY, 1) is None


def test_who_has_not_answered_twice_gets_three_times_what_it_sent(clock: ManualClock) -> None:
    guard = DatagramGuard(Limits(), clock)
    assert not guard.may_reply(SOMEBODY, 1)
    guard.admit(SOMEBODY, 10)
    assert not guard.may_reply(SOMEBODY, 31)
    assert guard.may_reply(SOMEBODY, 20)
    assert guard.may_reply(SOMEBODY, 10)
    assert not guard.may_reply(SOMEBODY, 1)
    assert guard.may_reply(SOMEBODY, 0)
    guard.admit(SOMEBODY, 10)  # once
    guard.admit(SOMEBODY, 10)  # still: it was answered once
    assert not guard.may_reply(SOMEBODY, 61)
    assert guard.may_reply(SOMEBODY, 1)
    guard.admit(SOMEBODY, 10)  # twice
    assert guard.may_reply(SOMEBODY, 60_000)
    assert not guard.may_reply(OTHER, 1)
    assert guard.withheld == 5
    clock.advance(300)  # it may be somebody else by now
    assert not guard.may_reply(SOMEBODY, 1)
    guard.admit(SOMEBODY, 10)
    assert not guard.may_reply(SOMEBODY, 31)


def test_two_servers_made_to_answer_each_other_stay_quiet(clock: ManualClock) -> None:
    guard = DatagramGuard(Limits(reply_rate_per_address=Rate(100)), clock)
    replies = 0
    for _ in range(10_000):  # in a second
        clock.advance(0.0001)
        if guard.admit(SOMEBODY, 100) is None and guard.may_reply(SOMEBODY, 100):
            replies += 1
    assert replies <= 200


def test_who_is_exempt_or_cannot_be_forged_is_answered(clock: ManualClock) -> None:
    guard = DatagramGuard(Limits(), clock)
    for peer in (HOME, ("::1", 1, 0, 0), "", Credentials(1, 1000, 100)):
        assert all(guard.may_reply(peer, 60_000) for _ in range(300))
    assert guard.remembered == 0


def test_without_limits_nothing_is_remembered(clock: ManualClock) -> None:
    guard = DatagramGuard(Limits.none(), clock)
    for n in range(100):
        assert guard.admit((f"192.0.2.{n}", 1), 1) is None and guard.may_reply((f"192.0.2.{n}", 1), 60_000)
    assert guard.remembered == 0
    guard.limits = Limits(ipv6_prefix=56)
    assert not guard.may_reply(SOMEBODY, 1)
    guard.admit(SOMEBODY, 1)
    assert guard.may_reply(SOMEBODY, 3) and guard.remembered == 2
    guard.limits = Limits.none()
    assert guard.remembered == 0


def test_a_flood_stays_within_the_bound(clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    guard = DatagramGuard(Limits(datagram_rate_per_address=Rate(1)), clock)
    for table in (guard._buckets, guard._replies, guard._exchanges):
        table.most = 100
    for n in range(10_000):
        peer = (f"10.1.{n >> 8}.{n & 255}", 1)
        guard.admit(peer, 10)
        guard.may_reply(peer, 10)
        assert guard.remembered <= 300
    # Forgotten is without credit, not with all of it.
    assert not guard.may_reply(("10.1.0.0", 1), 1)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3), st.integers(0, 2000), st.integers(0, 3)), max_size=80))
def test_never_more_than_it_may_in_any_order(steps: list[tuple[bool, int, int, int]]) -> None:
    clock = ManualClock()
    guard = DatagramGuard(Limits(reply_rate_per_address=Rate(4, 1.0, 6)), clock)
    got, sent, answers, replied = [0] * 4, [0] * 4, [0] * 4, [False] * 4
    times: list[list[float]] = [[], [], [], []]
    for comes, who, size, wait in steps:
        clock.advance(wait / 16)
        peer = (f"2001:db8:0:{who}::{size:x}", 1, 0, 0)
        if comes:
            assert guard.admit(peer, size) is None
            got[who] += size
            answers[who] += replied[who]
            replied[who] = False
        elif guard.may_reply(peer, size):
            sent[who] += size
            replied[who] = True
            times[who].append(clock.now())
            assert answers[who] >= 2 or sent[who] <= 3 * got[who]
    for each in times:
        for i, first in enumerate(each):
            assert all(j - i + 1 <= 6 + 4 * (last - first) for j, last in enumerate(each) if j >= i)
