"""Admission: the limits of connections together, in every order of coming, going and changing."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from jackfield.admission import Admission, Credentials, PeerList, Penalties, Rate, Refusal
from jackfield.admission.addresses import Keys, source_of
from jackfield.errors import MisuseError
from jackfield.limits import Limits
from jackfield.testing import ManualClock

SOMEBODY, OTHER, HOME, PROXY = ("192.0.2.7", 1), ("192.0.2.8", 1), ("127.0.0.1", 1), ("10.0.0.1", 1)


def admission_of(clock: ManualClock | None = None, **limits: Any) -> Admission:
    return Admission(Limits.none(**limits), clock or ManualClock())


def test_each_limit_has_its_refusal() -> None:
    clock = ManualClock()
    admission = admission_of(
        clock, max_connections=4, max_connections_per_address=2, deny=PeerList(["198.51.100.0/24"]),
        accept_rate=Rate(6, 60), accept_rate_per_address=Rate(3, 60), penalties=Penalties({"x": 100.0}),
    )  # fmt: skip
    assert admission.admit(("198.51.100.1", 1)) is Refusal.DENIED
    assert [admission.admit(SOMEBODY) for _ in range(3)] == [None, None, Refusal.LIMIT_PER_ADDRESS]
    admission.leave(SOMEBODY)
    assert admission.admit(SOMEBODY) is None
    admission.leave(SOMEBODY)
    assert admission.admit(SOMEBODY) is Refusal.LIMIT_RATE_PER_ADDRESS
    assert [admission.admit((f"192.0.2.{n}", 1)) for n in range(20, 24)] == [None] * 3 + [Refusal.LIMIT_RATE]
    clock.advance(60)
    assert admission.admit(OTHER) is Refusal.LIMIT_CONNECTIONS
    admission.offend(OTHER, "x")
    assert admission.admit(OTHER) is Refusal.BANNED
    assert admission.total == 4
    assert admission.refusals == dict.fromkeys(Refusal, 1)


def test_who_is_refused_has_used_up_nothing() -> None:
    admission = admission_of(
        max_connections=1, max_connections_per_address=1, accept_rate=Rate(2, 60), accept_rate_per_address=Rate(2, 60)
    )
    assert admission.admit(SOMEBODY) is None
    assert [admission.admit(SOMEBODY) for _ in range(10)] == [Refusal.LIMIT_PER_ADDRESS] * 10
    assert [admission.admit(OTHER) for _ in range(10)] == [Refusal.LIMIT_CONNECTIONS] * 10
    admission.leave(SOMEBODY)
    assert admission.admit(SOMEBODY) is None


def test_who_is_not_in_allow_or_is_in_deny() -> None:
    admission = admission_of(allow=PeerList(["192.0.2.0/24", "uid:1000"]), deny=PeerList(["192.0.2.8", "gid:7"]))
    for peer in (SOMEBODY, ("::ffff:192.0.2.7", 1, 0, 0), Credentials(1, 1000, 100)):
        assert admission.admit(peer) is None
    for peer in (OTHER, HOME, ("::ffff:192.0.2.8", 1, 0, 0), Credentials(1, 1000, 7), Credentials(1, 0, 0), "", None):
        assert admission.admit(peer) is Refusal.DENIED
    # Whom allow does not ask about, and deny does not know.
    assert admission_of(deny=PeerList(["0.0.0.0/0", "::/0"])).admit("") is None


def test_who_is_exempt_is_counted_in_the_total_only() -> None:
    admission = admission_of(
        max_connections=5, max_connections_per_address=1, accept_rate=Rate(1, 60), accept_rate_per_address=Rate(1, 60)
    )
    assert [admission.admit(HOME) for _ in range(6)] == [None] * 5 + [Refusal.LIMIT_CONNECTIONS]
    for _ in range(5):
        admission.leave(HOME)
    denied = admission_of(deny=PeerList(["127.0.0.1"]))
    assert denied.admit(HOME) is Refusal.DENIED


def test_an_address_counts_with_its_network() -> None:
    admission = admission_of(max_connections_per_address=2)
    assert admission.admit(("2001:db8::1", 1, 0, 0)) is None
    assert admission.admit(("2001:db8::2", 1, 0, 0)) is None
    assert admission.admit(("2001:db8::3", 1, 0, 0)) is Refusal.LIMIT_PER_ADDRESS
    assert admission.admit(("2001:db8:0:1::1", 1, 0, 0)) is None
    assert admission.admit(SOMEBODY) is admission.admit(("::ffff:192.0.2.7", 9, 0, 0)) is None
    assert admission.admit(SOMEBODY) is Refusal.LIMIT_PER_ADDRESS
    assert [admission.admit(Credentials(n, 1000, n)) for n in range(3)] == [None] * 3, "of this machine, so exempt"
    assert admission.count(("2001:db8::9", 1, 0, 0)) == 2
    # Of whom nobody knows who it is, there is no address that could have too many.
    assert [admission.admit("") for _ in range(9)] == [None] * 9


def test_a_user_counts_as_an_address_where_unix_sockets_are_not_exempt() -> None:
    admission = admission_of(max_connections_per_address=2, exempt=PeerList())
    assert [admission.admit(Credentials(n, 1000, n)) for n in range(3)] == [None, None, Refusal.LIMIT_PER_ADDRESS]
    assert admission.admit(Credentials(1, 1001, 1)) is None


def test_an_ipv6_network_never_counts_as_an_ipv4_one() -> None:
    admission = admission_of(max_connections_per_address=1, ipv6_prefix=32)
    assert admission.admit(("2001:db8::1", 1, 0, 0)) is None
    assert admission.admit(("32.1.13.184", 1)) is None  # the same four bytes


def test_the_default_is_a_quarter_of_all() -> None:
    admission = Admission(Limits(max_connections=100), ManualClock())
    assert [admission.admit(SOMEBODY) for _ in range(26)] == [None] * 25 + [Refusal.LIMIT_PER_ADDRESS]


def test_a_proxy_gives_back_its_place() -> None:
    admission = admission_of(max_connections=2, max_connections_per_address=1, accept_rate=Rate(2, 60))
    assert admission.admit(PROXY) is None
    assert admission.readmit(PROXY, SOMEBODY) is None
    assert admission.admit(PROXY) is None
    assert admission.total == 2
    assert admission.readmit(PROXY, SOMEBODY) is Refusal.LIMIT_PER_ADDRESS
    assert (admission.count(PROXY), admission.count(SOMEBODY)) == (1, 1)
    admission.leave(PROXY)  # the refused one is closed
    admission.leave(SOMEBODY)
    assert admission.total == 0


def test_a_proxy_may_speak_for_itself() -> None:
    admission = admission_of(max_connections=1, max_connections_per_address=1, accept_rate_per_address=Rate(1, 60))
    assert admission.admit(PROXY) is None
    assert admission.readmit(PROXY, ("10.0.0.1", 999)) is None
    assert admission.count(PROXY) == admission.total == 1
    with pytest.raises(MisuseError, match="call admit"):
        admission.readmit(OTHER, PROXY)


@pytest.mark.parametrize("peer", [SOMEBODY, ("2001:db8::1", 1, 0, 0), Credentials(1, 1000, 1), "", None])
def test_leaving_without_having_come_is_a_misuse(peer: Any) -> None:
    admission = admission_of()
    with pytest.raises(MisuseError, match="call leave"):
        admission.leave(peer)
    assert admission.admit(peer) is None
    admission.leave(peer)
    with pytest.raises(MisuseError, match="call leave"):
        admission.leave(peer)
    assert admission.total == 0
    # Another address of the same network is another peer.
    assert admission.admit(("2001:db8::1", 1, 0, 0)) is None
    with pytest.raises(MisuseError, match="call leave"):
        admission.leave(("2001:db8::2", 1, 0, 0))


def test_limits_may_change_while_somebody_is_in() -> None:
    admission = admission_of()
    peers = [("2001:db8::1", 1, 0, 0), ("2001:db8:0:1::1", 1, 0, 0), SOMEBODY, OTHER, HOME, Credentials(1, 5, 5), ""]
    for peer in peers:
        admission.admit(peer)
    admission.limits = Limits(max_connections=5, ipv4_prefix=24, ipv6_prefix=32)
    assert admission.total == 7
    assert admission.count(SOMEBODY) == 2 and admission.count(peers[0]) == 2
    assert admission.admit(SOMEBODY) is Refusal.LIMIT_CONNECTIONS
    admission.limits = Limits.none(ipv6_prefix=128)
    assert admission.count(SOMEBODY) == 1 and admission.count(peers[0]) == 1
    for peer in peers:
        admission.leave(peer)
    assert admission.total == admission.remembered == 0
    assert not admission._counts and not admission._spread


def test_a_new_rate_gives_no_second_burst() -> None:
    clock = ManualClock()
    admission = admission_of(clock, accept_rate=Rate(5, 3600), accept_rate_per_address=Rate(5, 3600))
    assert [admission.admit(SOMEBODY) for _ in range(6)] == [None] * 5 + [Refusal.LIMIT_RATE]
    admission.limits = Limits.none(accept_rate=Rate(10), accept_rate_per_address=Rate(10))
    assert admission.admit(SOMEBODY) is Refusal.LIMIT_RATE
    clock.advance(0.11)
    assert admission.admit(SOMEBODY) is None
    admission.limits = Limits.none()
    assert admission.remembered == 0


def test_what_is_known_of_addresses_that_are_gone_is_bounded() -> None:
    clock = ManualClock()
    admission = admission_of(clock, accept_rate_per_address=Rate(1, 60), penalties=Penalties({"x": 5.0}, addresses=100))
    admission._buckets.most = 100
    for n in range(5000):
        peer = (f"10.0.{n >> 8}.{n & 255}", 1)
        assert admission.admit(peer) is None
        admission.offend(peer, "x")
        if n >= 5:
            admission.leave(peer)
        assert admission.remembered <= 200
    # The first five are in: they are counted, whatever came since.
    assert admission.count(("10.0.0.0", 1)) == 1 and admission.total == 5
    clock.advance(60)
    for n in range(200):
        admission.admit((f"10.1.0.{n}", 1))
    assert admission.remembered <= 200 + 100  # the buckets that were full again made room


# --- any order ------------------------------------------------------------------------------------------------------

PEERS = [
    SOMEBODY, OTHER, HOME, ("::ffff:192.0.2.7", 3, 0, 0), ("192.0.3.1", 1), ("2001:db8::1", 1, 0, 0),
    ("2001:db8::2", 1, 0, 0), ("2001:db8:0:1::1", 1, 0, 0), ("2001:db8:1::1", 1, 0, 0),
    Credentials(1, 1000, 1), Credentials(2, 1000, 2), "",
]  # fmt: skip
caps = st.none() | st.integers(1, 6)
limits_of_any_kind = st.builds(
    Limits.none,
    max_connections=caps,
    max_connections_per_address=caps | st.just("auto"),
    ipv4_prefix=st.sampled_from([32, 24, 23, 1]),
    ipv6_prefix=st.sampled_from([128, 64, 48, 33, 32, 8]),
    accept_rate=st.none() | st.just(Rate(5, 1, 2)),
    accept_rate_per_address=st.none() | st.just(Rate(2, 1, 2)),
    exempt=st.sampled_from([PeerList(), PeerList(["127.0.0.0/8"]), PeerList(["192.0.2.0/24", "uid:1000"])]),
    deny=st.none() | st.just(PeerList(["192.0.2.8", "2001:db8:1::/48"])),
    penalties=st.none() | st.just(Penalties({"x": 8.0})),
)


class AnyOrder(RuleBasedStateMachine):
    """Against a model that keeps a list of who is in, and counts it anew each time."""

    kind = Admission

    @initialize(limits=limits_of_any_kind)
    def begin(self, limits: Limits) -> None:
        self.clock = ManualClock(100.0)
        self.admission = self.kind(limits, self.clock)
        self.limits = limits
        self.inside: list[Any] = []

    def of_address(self, peer: Any) -> int:
        keys = Keys(self.limits.ipv4_prefix, self.limits.ipv6_prefix)
        key = keys.of(source_of(peer))
        return sum(keys.of(source_of(one)) == key for one in self.inside)

    def within_limits(self, peer: Any, others: int) -> bool:
        """Whether ``peer`` may be in beside ``others`` of its address."""
        most = self.limits.connections_per_address
        listed = self.limits.deny is None or peer not in self.limits.deny
        return listed and (most is None or peer == "" or peer in self.limits.exempt or others < most)

    @rule(peer=st.sampled_from(PEERS))
    def come(self, peer: Any) -> None:
        full = self.limits.max_connections is not None and len(self.inside) >= self.limits.max_connections
        within = self.within_limits(peer, self.of_address(peer))
        refusal = self.admission.admit(peer)
        if refusal is None:
            assert within and not full
            self.inside.append(peer)
        elif refusal is Refusal.LIMIT_CONNECTIONS:
            assert full
        elif refusal in (Refusal.DENIED, Refusal.LIMIT_PER_ADDRESS):
            assert not within

    @precondition(lambda self: self.inside)
    @rule(data=st.data())
    def go(self, data: st.DataObject) -> None:
        self.admission.leave(self.inside.pop(data.draw(st.integers(0, len(self.inside) - 1))))

    @precondition(lambda self: self.inside)
    @rule(data=st.data(), new=st.sampled_from(PEERS))
    def turn_out_to_be(self, data: st.DataObject, new: Any) -> None:
        old = self.inside.pop(data.draw(st.integers(0, len(self.inside) - 1)))
        within = self.within_limits(new, self.of_address(new))
        refusal = self.admission.readmit(old, new)
        assert refusal not in (Refusal.LIMIT_CONNECTIONS, Refusal.LIMIT_RATE)
        assert within or refusal is not None
        self.inside.append(new if refusal is None else old)

    @rule(limits=limits_of_any_kind)
    def change(self, limits: Limits) -> None:
        self.admission.limits = self.limits = limits

    @rule(peer=st.sampled_from(PEERS))
    def break_a_rule(self, peer: Any) -> None:
        assert self.admission.offend(peer, "x") == 0.0 or self.limits.penalties is not None

    @rule(seconds=st.sampled_from([0.1, 0.5, 8.0, 100.0]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @invariant()
    def count_right(self) -> None:
        if hasattr(self, "inside"):
            assert self.admission.total == len(self.inside)
            assert all(self.admission.count(peer) == self.of_address(peer) for peer in PEERS)

    def teardown(self) -> None:
        for peer in getattr(self, "inside", []):
            self.admission.leave(peer)
        if hasattr(self, "inside"):
            assert self.admission.total == 0
            assert not self.admission._counts and not self.admission._spread


AnyOrder.TestCase.settings = settings(max_examples=100, stateful_step_count=40)
TestAnyOrder = AnyOrder.TestCase


class Forgetful(Admission):
    """One that begins to count anew when the prefixes change."""

    __slots__ = ()

    def _change_keys(self, keys: Keys) -> None:
        self._book.change_keys(keys)
        self._keys = keys


def test_the_machine_can_fail() -> None:
    class Broken(AnyOrder):
        kind = Forgetful

    Broken.TestCase.settings = settings(AnyOrder.TestCase.settings, phases=[Phase.generate])
    with pytest.raises((AssertionError, MisuseError, BaseExceptionGroup)):
        Broken.TestCase("runTest").runTest()


def test_refusals_are_texts() -> None:
    assert Counter(Refusal) == Counter(
        ["denied", "banned", "limit_rate", "limit_rate_per_address", "limit_per_address", "limit_connections"]
    )
    assert f"{Refusal.BANNED}" == str(Refusal.BANNED) == "banned"
