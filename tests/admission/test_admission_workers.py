"""Several workers that count in one ledger are one admission: its own tests hold for them, whoever is asked."""

from __future__ import annotations

import math
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
import test_admission as of_one
import test_admission_penalties as penalties_of_one
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from team import Team

from jackfield.admission import Admission, PeerList, Penalties, Rate, Refusal
from jackfield.admission.addresses import Key, Source
from jackfield.admission.ledger import Ledger, Seat
from jackfield.admission.shared import SharedAdmission
from jackfield.errors import MisuseError
from jackfield.limits import Limits
from jackfield.testing import ManualClock

pytestmark = pytest.mark.slow

SOMEBODY, OTHER = ("192.0.2.7", 1), ("192.0.2.8", 1)

HOLD = [
    of_one.test_each_limit_has_its_refusal, of_one.test_who_is_refused_has_used_up_nothing,
    of_one.test_who_is_not_in_allow_or_is_in_deny, of_one.test_who_is_exempt_is_counted_in_the_total_only,
    of_one.test_an_address_counts_with_its_network,
    of_one.test_a_user_counts_as_an_address_where_unix_sockets_are_not_exempt,
    of_one.test_an_ipv6_network_never_counts_as_an_ipv4_one, of_one.test_the_default_is_a_quarter_of_all,
    of_one.test_a_proxy_gives_back_its_place, of_one.test_a_proxy_may_speak_for_itself,
    penalties_of_one.test_who_offends_is_banned_until_it_has_run_down,
    penalties_of_one.test_an_offence_while_banned_adds_to_it_up_to_the_most,
    penalties_of_one.test_the_threshold_itself_is_not_above_it,
    penalties_of_one.test_who_is_exempt_or_unknown_is_not_punished,
    penalties_of_one.test_a_ban_by_hand, penalties_of_one.test_unban_forgives_what_was_earned_too,
    penalties_of_one.test_a_ban_that_would_do_nothing_is_a_misuse,
    penalties_of_one.test_bans_go_along_with_other_prefixes,
]  # fmt: skip


@pytest.mark.parametrize("test", HOLD, ids=lambda test: test.__name__)
def test_what_holds_for_one_holds_for_all(test: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (of_one, penalties_of_one):
        monkeypatch.setattr(module, "Admission", Team)
    test()


class OfAll(of_one.AnyOrder):
    kind = Team


OfAll.TestCase.settings = settings(max_examples=60, stateful_step_count=30)
TestAnyOrderOfAll = OfAll.TestCase


class Apart(SharedAdmission):
    """One that does not tell the others of what is in."""

    def _show_total(self) -> None:
        pass


def test_the_machine_can_fail() -> None:
    class Strangers(Team):
        kind = Apart

    class Broken(of_one.AnyOrder):
        kind = Strangers

    Broken.TestCase.settings = settings(OfAll.TestCase.settings, phases=[Phase.generate])
    with pytest.raises((AssertionError, MisuseError, BaseExceptionGroup)):
        Broken.TestCase("runTest").runTest()


# --- verdict for verdict --------------------------------------------------------------------------------------------

#: Rates whose steps are whole in both units, and times that are: then the two never differ by a rounding.
rates = st.builds(Rate, st.sampled_from([1, 2, 4, 8]), st.sampled_from([0.5, 1.0, 4.0]), st.sampled_from([0, 1, 3, 5]))
PEERS = [SOMEBODY, OTHER, ("2001:db8::1", 1, 0, 0), ("2001:db8::2", 1, 0, 0), ("127.0.0.1", 1)]
steps = st.lists(
    st.tuples(st.sampled_from(["come", "come", "come", "go", "wait", "offend", "ban", "unban", "change"]),
              st.integers(0, 4), st.integers(0, 7)),
    max_size=80,
)  # fmt: skip


@given(rates, rates, rates, steps)
@settings(max_examples=200)
def test_all_say_what_one_would(rate: Rate, rate_of: Rate, later: Rate, steps: list[tuple[str, int, int]]) -> None:
    clock = ManualClock(1000.0)
    limits = Limits.none(
        max_connections=6, max_connections_per_address=3, accept_rate=rate, accept_rate_per_address=rate_of,
        penalties=Penalties({"x": 8.0}), exempt=PeerList(["127.0.0.0/8"]),
    )  # fmt: skip
    one, all_of_them = Admission(limits, clock), Team(limits, clock)
    inside = []
    for what, which, how in steps:
        peer = PEERS[which]
        if what == "come":
            verdict = one.admit(peer)
            assert all_of_them.admit(peer) is verdict
            if verdict is None:
                inside.append(peer)
        elif what == "go" and inside:
            gone = inside.pop(which % len(inside))
            one.leave(gone)
            all_of_them.leave(gone)
        elif what == "wait":
            clock.advance(how * 0.125)
        elif what == "offend":
            assert all_of_them.offend(peer, "x") == one.offend(peer, "x")
        elif what == "ban" and which < 4:
            one.ban(peer, 1.0 + how)
            all_of_them.ban(peer, 1.0 + how)
        elif what == "unban":
            assert all_of_them.unban(peer) == one.unban(peer)
        elif what == "change":
            one.limits = all_of_them.limits = one.limits.replace(accept_rate=later)
        assert all_of_them.total == one.total
        assert sorted(all_of_them.bans()) == sorted(one.bans())
        assert [all_of_them.count(peer) for peer in PEERS] == [one.count(peer) for peer in PEERS]
    assert all_of_them.refusals == one.refusals


@given(
    st.builds(Rate, st.integers(1, 10**9), st.floats(0.001, 1000.0), st.integers(0, 5)),
    st.lists(st.floats(0.0, 3.0), min_size=1, max_size=60), st.floats(0.0, 1e6),
)  # fmt: skip
def test_no_stretch_has_more_than_it_may(rate: Rate, waits: list[float], start: float) -> None:
    clock = ManualClock(start)
    team = Team(Limits.none(accept_rate=rate), clock)
    let_in: list[float] = []
    for wait in waits:
        clock.advance(wait * rate.seconds / rate.count)
        for _ in range(2):
            if team.admit(SOMEBODY) is None:
                let_in.append(clock.now())
    assert is_within(rate, let_in)


def is_within(rate: Rate, times: list[float]) -> bool:
    """In whole ticks, of which floats of this size are multiples or nearly so; a tick is a picosecond."""
    times = sorted(times)
    return all(
        (last - first + 1) * rate.step <= rate.depth + (times[last] - times[first]) * 2.0**40
        for first in range(len(times))
        for last in range(first, len(times))
    )


def test_that_property_can_fail() -> None:
    assert is_within(Rate(1, 1.0), [0.0, 1.0, 2.0])
    assert not is_within(Rate(1, 1.0), [0.0, 1.0, 1.999])


# --- what is bounded ------------------------------------------------------------------------------------------------


def two(ledger: Ledger, clock: ManualClock, **limits: Any) -> tuple[SharedAdmission, SharedAdmission]:
    of = Limits.none(**limits)
    return SharedAdmission(of, ledger.join(0), clock), SharedAdmission(of, ledger.join(1), clock)


@pytest.fixture
def ledger() -> Any:
    made = Ledger(4, 1024)
    yield made
    made.close()


def test_who_is_at_a_limit_is_not_forgotten_for_those_who_come_once(ledger: Ledger) -> None:
    one, other = two(ledger, ManualClock(), accept_rate_per_address=Rate(3, 60))
    assert [one.admit(SOMEBODY) for _ in range(3)] == [None] * 3
    for n in range(20_000):
        peer = (f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}", 1)
        one.admit(peer)
        one.leave(peer)
    assert one.remembered <= ledger.addresses + 16
    assert other.admit(SOMEBODY) is Refusal.LIMIT_RATE_PER_ADDRESS


def test_a_flood_of_small_offences_makes_no_ban_forgotten(ledger: Ledger) -> None:
    one, other = two(ledger, ManualClock(), penalties=Penalties({"small": 1.0, "large": 100.0}))
    one.offend(SOMEBODY, "large")
    one.ban(OTHER, math.inf)
    for n in range(20_000):
        one.offend((f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}", 1), "small")
    assert other.admit(SOMEBODY) is other.admit(OTHER) is Refusal.BANNED
    assert [(ban.address, ban.seconds, ban.by_hand) for ban in other.bans()] == [
        ("192.0.2.8", math.inf, True), ("192.0.2.7", 100.0, False),
    ]  # fmt: skip


def test_bans_by_hand_are_bounded_and_never_forgotten(ledger: Ledger) -> None:
    one, other = two(ledger, ManualClock())
    banned = []
    with pytest.raises(MisuseError, match="deny"):
        for n in range(2 * ledger.addresses):
            peer = (f"10.0.{n >> 8}.{n & 255}", 1)
            one.ban(peer, 100.0)
            banned.append(peer)
    assert len(banned) > ledger.addresses // 2
    assert all(other.admit(peer) is Refusal.BANNED for peer in banned)
    assert len(other.bans()) == len(banned)


def test_where_there_is_no_row_nobody_is_let_in_uncounted(ledger: Ledger) -> None:
    one, other = two(ledger, ManualClock(), max_connections_per_address=2)
    peers = [(f"10.0.{n >> 8}.{n & 255}", 1) for n in range(2 * ledger.addresses)]
    verdicts = {peer: one.admit(peer) for peer in peers}
    assert set(verdicts.values()) == {None, Refusal.LIMIT_CONNECTIONS}
    inside = [peer for peer, verdict in verdicts.items() if verdict is None]
    assert len(inside) > ledger.addresses // 2
    for peer in inside:
        assert [other.admit(peer), other.admit(peer)] == [None, Refusal.LIMIT_PER_ADDRESS]
        one.leave(peer)
        other.leave(peer)
    assert one.total == 0
    assert one.admit(("198.51.100.1", 1)) is None, "rows whose connections are gone are free again"


# --- seats ----------------------------------------------------------------------------------------------------------


def test_what_a_dead_worker_had_is_wiped_and_nothing_else(ledger: Ledger) -> None:
    clock = ManualClock()
    one, other = two(ledger, clock, max_connections=4, max_connections_per_address=2, accept_rate=Rate(5, 60))
    assert [one.admit(SOMEBODY), other.admit(SOMEBODY), one.admit(OTHER)] == [None] * 3
    assert one.reserve()
    ledger.clear(0)
    assert (other.total, other.count(SOMEBODY), other.count(OTHER)) == (1, 1, 0)
    reborn = SharedAdmission(other.limits, ledger.join(0), clock)
    assert [reborn.admit(SOMEBODY), reborn.admit(SOMEBODY)] == [None, Refusal.LIMIT_PER_ADDRESS]
    assert reborn.admit(OTHER) is None
    assert reborn.admit(("10.0.0.1", 1)) is Refusal.LIMIT_RATE, "what the dead one spent is spent"
    assert (reborn.total, other.count(SOMEBODY)) == (3, 2)


@pytest.mark.parametrize("slots, addresses", [(0, 64), (65, 64), (4, 100), (4, 32), ("4", 64)])
def test_a_ledger_that_cannot_be_is_refused(slots: Any, addresses: int) -> None:
    with pytest.raises(ValueError, match=r"ledger is for|power of two"):
        Ledger(slots, addresses)


@pytest.mark.parametrize("slot", [-1, 4])
def test_there_are_as_many_seats_as_were_made(ledger: Ledger, slot: int) -> None:
    with pytest.raises(ValueError, match="seats from 0 to 3"):
        ledger.join(slot)


def test_its_size_is_bounded_and_stated() -> None:
    ledger = Ledger()
    assert "46 MiB" in str(Ledger.__doc__)
    assert 46 * 2**20 < ledger.size < 47 * 2**20
    ledger.close()


# --- a place for who is not yet accepted ----------------------------------------------------------------------------


def test_a_reserved_place_is_nobody_elses(ledger: Ledger) -> None:
    one, other = two(ledger, ManualClock(), max_connections=1)
    assert one.reserve() and one.reserve()
    assert not other.reserve()
    assert other.admit(OTHER) is Refusal.LIMIT_CONNECTIONS
    assert one.admit(SOMEBODY) is None
    assert one.total == 1 and not one.reserve()
    one.leave(SOMEBODY)
    assert other.reserve()
    other.give_back()
    other.give_back()
    assert one.total == 0 and one.reserve()


def test_a_refused_client_gives_its_place_back(ledger: Ledger) -> None:
    one, other = two(ledger, ManualClock(), max_connections=1, deny=PeerList([SOMEBODY[0]]))
    assert one.reserve()
    assert one.admit(SOMEBODY) is Refusal.DENIED
    assert other.total == 0 and other.reserve()


def test_a_signal_handler_in_the_midst_of_a_turn_has_its_way_after_it(ledger: Ledger) -> None:
    one, other = two(ledger, ManualClock(), max_connections=3)
    assert one.admit(SOMEBODY) is None
    seen = []

    def handle(number: int, frame: object) -> None:
        one.leave(SOMEBODY)
        seen.append(one.admit(SOMEBODY))
        one.ban(OTHER, 60.0)
        seen.append(one.bans())

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        one._seat.do(lambda room: signal.raise_signal(signal.SIGUSR1))
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert seen == [None, []]
    assert other.admit(OTHER) is Refusal.BANNED
    assert one.settle() and (other.total, other.count(SOMEBODY)) == (1, 1)


def test_what_was_put_off_is_done_without_a_client(ledger: Ledger) -> None:
    one, other = two(ledger, ManualClock())
    one._seat._busy = True
    one.ban(SOMEBODY, 60.0)
    assert not one.settle()
    one._seat._busy = False
    assert one.settle() and other.admit(SOMEBODY) is Refusal.BANNED


def test_threads_of_a_worker_are_counted_right(ledger: Ledger) -> None:
    one, other = two(ledger, ManualClock(), max_connections=5, max_connections_per_address=3)
    most = []

    def come_and_go(peer: Any) -> None:
        for _ in range(300):
            if one.admit(peer) is None:
                most.append(other.total)
                one.leave(peer)

    threads = [threading.Thread(target=come_and_go, args=(peer,)) for peer in [SOMEBODY, OTHER] * 4]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.setswitchinterval(before)
    assert other.total == other.count(SOMEBODY) == other.count(OTHER) == 0
    # A claim that is taken back is seen too; there is one at a time.
    assert max(most) <= 6 and len(most) > 600


def test_nothing_is_shown_by_a_process_that_was_forked_from_a_worker(ledger: Ledger) -> None:
    one, other = two(ledger, ManualClock(), max_connections=3)
    assert one.admit(SOMEBODY) is None
    one._seat._ours = False  # as it is after a fork
    one.leave(SOMEBODY)
    assert other.total == 1


class Leaky(SharedAdmission):
    """Its rows are not wiped when the last connection of an address leaves."""

    def _exit(self, source: Source, key: Key) -> None:
        Admission._exit(self, source, key)
        self._show_total()


def test_that_everything_goes_back_to_zero_can_fail(ledger: Ledger) -> None:
    def row_sum(kind: type[SharedAdmission], seat: Seat) -> int:
        admission = kind(Limits.none(), seat, ManualClock())
        admission.admit(SOMEBODY)
        row = admission._rows[SOMEBODY and b"\xc0\x00\x02\x07"]
        admission.leave(SOMEBODY)
        return ledger.of_row(row)

    assert row_sum(SharedAdmission, ledger.join(0)) == 0
    assert row_sum(Leaky, ledger.join(0)) == 1
