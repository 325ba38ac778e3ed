"""Penalties: they add up, run down in real time, and keep an address out in between."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jackfield.admission import Admission, Credentials, PeerList, Penalties, Refusal, parse_peer
from jackfield.admission.addresses import AddressTable, Keys
from jackfield.admission.penalties import SECONDS, PenaltyBook
from jackfield.errors import MisuseError
from jackfield.limits import Limits
from jackfield.testing import ManualClock

SOMEBODY, OTHER, HOME = ("192.0.2.7", 1), ("192.0.2.8", 1), ("127.0.0.1", 1)


def test_who_offends_is_banned_until_it_has_run_down() -> None:
    clock = ManualClock(1000.0)
    admission = Admission(Limits(), clock)
    assert admission.offend(SOMEBODY, "handshake_timeout") == 0.0
    assert admission.admit(SOMEBODY) is None
    assert admission.offend(SOMEBODY, "handshake_timeout") == 20.0
    assert admission.admit(SOMEBODY) is Refusal.BANNED
    assert admission.admit(OTHER) is None
    clock.advance(10)  # 10 s are left, less than the threshold: but it is to run down
    assert admission.admit(SOMEBODY) is Refusal.BANNED
    assert [ban.address for ban in admission.bans()] == ["192.0.2.7"]
    clock.advance(10)
    assert admission.bans() == []
    assert admission.admit(SOMEBODY) is None
    assert admission.refusals[Refusal.BANNED] == 2
    assert admission.remembered == 0


def test_an_offence_while_banned_adds_to_it_up_to_the_most() -> None:
    clock = ManualClock()
    admission = Admission(Limits(penalties=Penalties({"x": 100.0}, most=250.0)), clock)
    assert [admission.offend(SOMEBODY, "x") for _ in range(4)] == [100.0, 200.0, 250.0, 250.0]
    clock.advance(249.9)
    assert admission.admit(SOMEBODY) is Refusal.BANNED
    clock.advance(0.2)
    assert admission.admit(SOMEBODY) is None


def test_the_threshold_itself_is_not_above_it() -> None:
    admission = Admission(Limits(), ManualClock())
    assert [admission.offend(SOMEBODY, "too_slow") for _ in range(4)] == [0.0, 0.0, 0.0, 20.0]


def test_what_costs_nothing_is_not_remembered() -> None:
    admission = Admission(Limits(), ManualClock())
    for kind in ("handler_error", "verify_refused", "peer_closed", "anything"):
        assert admission.offend(SOMEBODY, kind) == 0.0
    assert admission.remembered == 0
    assert Admission(Limits.none(), ManualClock()).offend(SOMEBODY, "handshake_timeout") == 0.0


def test_who_is_exempt_or_unknown_is_not_punished() -> None:
    admission = Admission(Limits(penalties=Penalties({"x": 100.0})), ManualClock())
    for peer in (HOME, ("::1", 1, 0, 0), ("::ffff:127.0.0.1", 1, 0, 0), Credentials(1, 1000, 100), "", None):
        assert admission.offend(peer, "x") == 0.0
        assert admission.admit(peer) is None
    admission = Admission(Limits(penalties=Penalties({"x": 100.0}), exempt=PeerList()), ManualClock())
    assert admission.offend(Credentials(1, 1000, 100), "x") == 100.0
    assert admission.admit(Credentials(2, 1000, 7)) is Refusal.BANNED


kinds = st.sampled_from(["tls_error", "too_slow", "handshake_timeout"])


@given(st.lists(st.tuples(st.integers(0, 30), kinds), max_size=40))
def test_bans_begin_and_end_when_they_should(offences: list[tuple[int, str]]) -> None:
    clock = ManualClock(5.0)
    admission = Admission(Limits(), clock)
    until, banned = 0.0, False  # the same, said in three lines
    for wait, kind in offences:
        clock.advance(wait)
        now = clock.now()
        banned = banned and until > now
        assert (admission.admit(SOMEBODY) is Refusal.BANNED) == banned
        until = min(max(until, now) + SECONDS[kind], now + 600.0)
        banned = banned or until - now > 15.0
        assert admission.offend(SOMEBODY, kind) == pytest.approx(until - now if banned else 0.0)
        assert len(admission.bans()) == banned
    clock.advance(600)
    assert admission.admit(SOMEBODY) is None


def test_a_flood_of_small_offences_makes_no_ban_forgotten() -> None:
    book = PenaltyBook(Penalties(addresses=100))
    assert book.charge(b"evil", "handshake_timeout", 0.0) == 0.0
    assert book.charge(b"evil", "handshake_timeout", 0.0) == 20.0
    for n in range(1000):
        book.charge(n, "tls_error", 1.0)
    assert book.is_banned(b"evil", 1.0)
    assert len(book) == 101
    for n in range(1000):  # only as many others as there may be banned at once do
        book.charge(n, "handshake_timeout", 2.0)
        book.charge(n, "handshake_timeout", 2.0)
    assert not book.is_banned(b"evil", 2.0)
    assert len(book) <= 200
    book.set(Penalties(addresses=10))
    assert len(book) <= 20


def test_penalties_that_have_run_down_make_room_as_others_come() -> None:
    book = PenaltyBook(Penalties(addresses=100))
    for n in range(100):
        book.charge(n, "tls_error", 0.0)
    for n in range(100, 160):
        book.charge(n, "tls_error", 10.0)
    assert len(book) == 60
    assert book._owed.evicted == 1  # the first of them came to a full table


def test_a_ban_by_hand() -> None:
    clock = ManualClock()
    admission = Admission(Limits(exempt=PeerList()), clock)
    admission.ban(SOMEBODY, 3600)
    admission.ban(parse_peer("2001:db8::7"), math.inf)
    admission.ban(parse_peer("uid:1000"), 60)
    assert admission.admit(("2001:db8::1234", 1, 0, 0)) is Refusal.BANNED
    assert [tuple(ban) for ban in admission.bans()] == [
        ("2001:db8::/64", math.inf, True), ("192.0.2.7", 3600.0, True), ("uid:1000", 60.0, True),
    ]  # fmt: skip
    clock.advance(3600)
    assert admission.admit(SOMEBODY) is None
    assert admission.admit(Credentials(1, 1000, 1)) is None
    assert admission.unban(("2001:db8::9", 1, 0, 0))
    assert not admission.unban(("2001:db8::9", 1, 0, 0))
    assert admission.admit(("2001:db8::1234", 1, 0, 0)) is None


def test_unban_forgives_what_was_earned_too() -> None:
    admission = Admission(Limits(), ManualClock())
    for _ in range(2):
        admission.offend(SOMEBODY, "handshake_timeout")
    assert admission.unban(SOMEBODY)
    assert admission.admit(SOMEBODY) is None
    assert admission.offend(SOMEBODY, "handshake_timeout") == 0.0


@pytest.mark.parametrize("seconds", [0, -1, math.nan, -math.inf, True, "60", None])
def test_a_ban_of_no_time_is_refused(seconds: Any) -> None:
    with pytest.raises(ValueError, match=r"write e\.g\. 3600"):
        Admission(Limits(), ManualClock()).ban(SOMEBODY, seconds)


def test_a_ban_that_would_do_nothing_is_a_misuse() -> None:
    admission = Admission(Limits(), ManualClock())
    with pytest.raises(MisuseError, match="put it into Limits"):
        admission.ban(HOME, 60)
    with pytest.raises(MisuseError, match=r"write e\.g\. ban"):
        admission.ban("", 60)


def test_bans_by_hand_are_bounded_and_make_room_when_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jackfield.admission.penalties.MOST_ADDRESSES", 3)
    book = PenaltyBook(None)
    for n in range(3):
        book.ban(n, 10, 0.0)
    with pytest.raises(MisuseError, match=r"put networks into Limits\(deny="):
        book.ban(3, 10, 5.0)
    book.ban(2, 20, 5.0)
    book.ban(3, 10, 10.0)
    assert sorted(book.by_hand) == [2, 3]


def test_bans_go_along_with_other_prefixes() -> None:
    admission = Admission(Limits(), ManualClock())
    admission.ban(("2001:db8::1", 1, 0, 0), 60)
    for _ in range(2):
        admission.offend(("198.51.100.9", 1), "handshake_timeout")
    admission.limits = Limits(ipv4_prefix=24, ipv6_prefix=48)
    assert sorted(ban.address for ban in admission.bans()) == ["198.51.100.0/24", "2001:db8::/48"]
    assert admission.admit(("2001:db8:0:9::1", 1, 0, 0)) is Refusal.BANNED
    assert admission.admit(("198.51.100.1", 1)) is Refusal.BANNED


# --- the value ------------------------------------------------------------------------------------------------------


def test_what_is_not_named_keeps_its_default() -> None:
    penalties = Penalties({"handler_error": 2.0, "login_failed": 5.0})
    assert penalties.seconds == {**SECONDS, "handler_error": 2.0, "login_failed": 5.0}
    assert penalties == Penalties({"login_failed": 5.0, "handler_error": 2.0}) != Penalties()
    assert hash(penalties) == hash(copy.deepcopy(penalties)) and pickle.loads(pickle.dumps(penalties)) == penalties
    with pytest.raises(TypeError):
        penalties.seconds["tls_error"] = 0.0  # type: ignore[index]


def test_the_docstring_tells_the_defaults() -> None:
    text = " ".join((Penalties.__doc__ or "").split())
    for kind, seconds in SECONDS.items():
        assert f"{kind} {seconds:g}" in text


@pytest.mark.parametrize(
    "arguments",
    [
        {"seconds": {"x": -1}},
        {"seconds": {"x": math.nan}},
        {"seconds": {"x": math.inf}},
        {"seconds": {"x": True}},
        {"seconds": {5: 1.0}},
        {"seconds": {"x": 10**400}, "most": math.inf},
        {"seconds": 5},
        {"threshold": -1},
        {"threshold": "15"},
        {"most": 15.0},
        {"most": math.nan},
        {"addresses": 0},
        {"addresses": 1.5},
    ],
    ids=repr,
)
def test_penalties_that_cannot_be_meant_are_refused(arguments: Any) -> None:
    with pytest.raises(ValueError, match=": write e") as caught:
        Penalties(**arguments)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 250


# --- the table ------------------------------------------------------------------------------------------------------


@given(st.integers(1, 5), st.lists(st.integers(0, 9), max_size=60))
def test_a_table_forgets_what_was_written_longest_ago(most: int, keys: list[int]) -> None:
    table: AddressTable[int] = AddressTable(most)
    for n, key in enumerate(keys):
        table.put(key, n)
    newest = list(dict.fromkeys(reversed(keys)))[:most]
    assert list(table.entries) == newest[::-1]
    assert len(table) <= most


def test_a_million_addresses_stay_within_the_bound() -> None:
    table: AddressTable[int] = AddressTable(1000)
    keys = Keys()
    for n in range(100_000):
        table.put_until(keys.of(n.to_bytes(4, "big")), 2, 1)
        assert len(table) <= 1000
    assert table.evicted == 99_000
