"""Penalties: who breaks the rules too often is kept out for a while, as OpenSSH's PerSourcePenalties do it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from jackfield.admission.addresses import MOST_ADDRESSES, AddressTable, Key, Keys, first_of
from jackfield.admission.texts import show
from jackfield.errors import MisuseError

__all__ = ["SECONDS", "Ban", "Penalties", "PenaltyBook"]


class SecondsByKind(Mapping[str, float]):
    """A mapping that nobody changes; other than ``types.MappingProxyType`` it can be copied, pickled and hashed."""

    __slots__ = ("_seconds",)

    def __init__(self, seconds: Mapping[str, float]) -> None:
        self._seconds = dict(seconds)

    def __getitem__(self, kind: str) -> float:
        return self._seconds[kind]

    def __iter__(self) -> Iterator[str]:
        return iter(self._seconds)

    def __len__(self) -> int:
        return len(self._seconds)

    def __hash__(self) -> int:
        return hash(frozenset(self._seconds.items()))

    def __repr__(self) -> str:
        return repr(self._seconds)


#: Seconds of penalty for each kind of offence; a ban takes more than 15.
SECONDS = SecondsByKind(
    {
        # It held one of the places for newcomers for all the time it had.  OpenSSH: grace-exceeded, 10 s.
        "handshake_timeout": 10.0,
        # Each costs a signature, the most expensive thing a stranger can ask for.  Less than OpenSSH's 5 s for
        # authfail: a browser that does not trust a certificate breaks off up to six handshakes, in good faith.
        "tls_error": 2.0,
        # Somebody pretends to be a proxy, or to speak for another address.
        "proxy_error": 5.0,
        # A message drips, or an answer is taken in drops: slowloris, or a very bad line.
        "too_slow": 5.0,
        # Takes nothing at all any more: as well a telephone that has left its network.  OpenSSH: noauth, 1 s.
        "send_stalled": 1.0,
        # No program that keeps to the protocol sends one.
        "limit_line": 5.0,
        "limit_message": 5.0,
        # An exception in a handler is the program's fault until somebody says that it is not.  Whoever does: OpenSSH
        # takes 90 s for a crash.
        "handler_error": 0.0,
        # The program's own decision, of which it may know better than this what follows.
        "verify_refused": 0.0,
    }
)


@dataclass(frozen=True, slots=True)
class Penalties:
    """What breaking the rules costs an address.

    Each offence adds seconds, and they run down in real time.  When they are more than ``threshold`` the address is
    banned until they are down to nothing.

    :param seconds: for each kind of offence; what is not named keeps its default, and other kinds cost nothing.
        Default :data:`SECONDS`: handshake_timeout 10, tls_error 2, proxy_error 5, too_slow 5, send_stalled 1,
        limit_line 5, limit_message 5, handler_error 0, verify_refused 0.  A program may have kinds of its own.
    :param threshold: seconds; default 15 (OpenSSH: ``min``).
    :param most: seconds that can add up at most, so the longest ban that an address can earn; default 600 (OpenSSH:
        ``max``).
    :param addresses: that are remembered, those banned and those not yet banned counted apart, so that no flood of
        small offences makes a ban forgotten; default 65,536 each (OpenSSH: ``max-sources``).  Above that the one that
        offended longest ago is let go (OpenSSH: ``permissive``; to refuse everybody instead would be the attacker's
        choice).
    :raises ValueError: a number that cannot be meant; one line that says what to write.
    """

    seconds: Mapping[str, float] = SECONDS
    threshold: float = 15.0
    most: float = 600.0
    addresses: int = MOST_ADDRESSES

    def __post_init__(self) -> None:
        if not isinstance(self.seconds, Mapping):
            raise ValueError("penalties are seconds by kind: write e.g. Penalties({'tls_error': 5.0})")
        for kind, value in self.seconds.items():
            if not isinstance(kind, str) or not _is_number(value) or value < 0:
                raise ValueError(f"the penalty {show(kind)} is 0 or more seconds, not {show(value)}: write e.g. 5.0")
        if not _is_number(self.threshold) or self.threshold < 0:
            raise ValueError(f"threshold is 0 or more seconds, not {show(self.threshold)}: write e.g. 15.0")
        if not _is_number(self.most) or self.most <= self.threshold:
            raise ValueError(f"most is more than threshold, not {show(self.most)}: write e.g. {self.threshold + 585:g}")
        if not isinstance(self.addresses, int) or self.addresses < 1:
            raise ValueError(f"addresses is 1 or more, not {show(self.addresses)}: write e.g. 65536")
        object.__setattr__(self, "seconds", SecondsByKind({**SECONDS, **self.seconds}))


class Ban(NamedTuple):
    """One address that is kept out, as it is listed."""

    address: str
    #: For how much longer, in seconds; ``inf`` until it is let go.
    seconds: float
    by_hand: bool


class PenaltyBook:
    """Who owes how much.  Times are seconds on one clock; for one thread, or under a lock.

    Addresses banned by hand are apart from the others: they are never forgotten for want of room.
    """

    __slots__ = ("_owed", "banned", "by_hand", "penalties")

    def __init__(self, penalties: Penalties | None) -> None:
        most = MOST_ADDRESSES if penalties is None else penalties.addresses
        #: May be replaced at any time; None punishes nothing from then on, and bans stay.
        self.penalties = penalties
        #: When the seconds of an address have run down: of those that are not banned, and of those that are.
        self._owed: AddressTable[float] = AddressTable(most)
        self.banned: AddressTable[float] = AddressTable(most)
        self.by_hand: dict[Key, float] = {}

    def set(self, penalties: Penalties | None) -> None:
        """Go by other penalties from now on; what is owed is owed."""
        self.penalties = penalties
        if penalties is not None:
            self._owed.resize(penalties.addresses)
            self.banned.resize(penalties.addresses)

    def charge(self, key: Key, kind: str, now: float) -> float:
        """An offence; returns the seconds for which the address is banned now, 0.0 if it is not."""
        penalties = self.penalties
        if key is None or penalties is None:
            return 0.0
        added = penalties.seconds.get(kind, 0.0)
        banned_until = self.banned.entries.get(key, 0.0)
        if banned_until > now:
            until = min(banned_until + added, max(banned_until, now + penalties.most))
            self.banned.put_until(key, until, now)
            return until - now
        if not added:
            return 0.0
        until = min(max(self._owed.entries.get(key, now), now) + added, now + penalties.most)
        if until - now > penalties.threshold:
            self._owed.entries.pop(key, None)
            self.banned.put_until(key, until, now)
            return until - now
        self._owed.put_until(key, until, now)
        return 0.0

    def is_banned(self, key: Key, now: float) -> bool:
        """Whether an address is to be kept out; one whose time is over is forgotten."""
        entries = self.banned.entries
        if key in entries:
            if entries[key] > now:
                return True
            del entries[key]
        if key in self.by_hand:
            if self.by_hand[key] > now:
                return True
            del self.by_hand[key]
        return False

    def ban(self, key: Key, seconds: float, now: float) -> None:
        """Keep an address out by hand, from now on for ``seconds``, which replaces what was said of it before.

        :raises ValueError: ``seconds`` is not above 0 (``math.inf``: until :meth:`unban`).
        :raises MisuseError: nobody knows whose the peer is, or 65,536 are banned by hand already.
        """
        check_ban(key, seconds)
        if key not in self.by_hand and len(self.by_hand) >= MOST_ADDRESSES:
            for other in [other for other, until in self.by_hand.items() if until <= now]:
                del self.by_hand[other]
            if len(self.by_hand) >= MOST_ADDRESSES:
                raise MisuseError(f"{MOST_ADDRESSES} addresses are banned by hand: put networks into Limits(deny=...)")
        self.by_hand[key] = now + seconds

    def unban(self, key: Key, now: float) -> bool:
        """Let an address in again, with nothing owed; whether it was banned."""
        was_banned = self.is_banned(key, now)
        self._owed.entries.pop(key, None)
        self.banned.entries.pop(key, None)
        self.by_hand.pop(key, None)
        return was_banned

    def bans(self, now: float, describe: Callable[[Key], str]) -> list[Ban]:
        """Who is kept out, those for longest first."""
        until = dict(self.banned.entries)
        for key, time in self.by_hand.items():
            until[key] = max(time, until.get(key, 0.0))
        found = [Ban(describe(key), time - now, key in self.by_hand) for key, time in until.items() if time > now]
        return sorted(found, key=lambda ban: -ban.seconds)

    def change_keys(self, keys: Keys) -> None:
        """Each address goes over to the key of its first one."""
        for entries in (self._owed.entries, self.banned.entries, self.by_hand):
            old = list(entries.items())
            entries.clear()
            for key, until in old:
                key = keys.of(first_of(key)) if isinstance(key, bytes) else key
                entries[key] = max(until, entries.get(key, until))

    def __len__(self) -> int:
        return len(self._owed) + len(self.banned) + len(self.by_hand)

    def owed(self, key: Key, now: float) -> float:
        """Seconds of penalty that an address has now, banned or not."""
        return max(self._owed.entries.get(key, 0.0), self.banned.entries.get(key, 0.0), now) - now


def check_ban(key: Key, seconds: float) -> None:
    """What :meth:`PenaltyBook.ban` raises where it is asked for nothing that can be."""
    if not (_is_number(seconds) or seconds == math.inf) or seconds <= 0:
        raise ValueError(f"a ban lasts more than 0 seconds, not {show(seconds)}: write e.g. 3600, or math.inf")
    if key is None:
        raise MisuseError("nobody knows whose this peer is: write e.g. ban(('192.0.2.7', 0), 3600)")


def _is_number(value: object) -> bool:
    # Compared, not converted: an int may be too large for a float.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf
