"""Who may come in: the limits of connections put together, as verdicts on peers."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from jackfield.admission.addresses import AddressTable, Key, Keys, Peer, Source, source_of
from jackfield.admission.locks import Guarded
from jackfield.admission.penalties import Ban, PenaltyBook
from jackfield.admission.rates import ticks
from jackfield.clock import MONOTONIC, Clock
from jackfield.errors import MisuseError

if TYPE_CHECKING:
    from jackfield.limits import Limits

__all__ = ["Admission", "Refusal"]


class Refusal(StrEnum):
    """Why a peer may not come in.  The list is closed."""

    DENIED = "denied"
    BANNED = "banned"
    LIMIT_RATE = "limit_rate"
    LIMIT_RATE_PER_ADDRESS = "limit_rate_per_address"
    LIMIT_PER_ADDRESS = "limit_per_address"
    LIMIT_CONNECTIONS = "limit_connections"

    # In C; the one of Enum is in Python, and a refusal is counted while others wait for the lock.
    __hash__ = str.__hash__


class Admission(Guarded):
    """Says of each peer whether it may come in, by ``limits``, and counts those who are in.

    For the caller: :meth:`admit` once for each connection that was accepted, and :meth:`leave` exactly once for each
    that was admitted; :meth:`readmit` in between where a PROXY header says who the peer really is; :meth:`offend` when
    it has broken a rule.  All of them from any thread, and nothing waits in them.

    ``limits`` may be set at any time.  Who is in stays in, and counts; who comes is judged by the new ones.

    Limits are asked in this order, and who is refused by one has used up nothing of the others:

    1. ``deny`` and ``allow``: what the operator has said holds whatever else does, and needs no state.
    2. bans: they stand for what an address did before; who is banned must not learn more by coming.
    3. ``accept_rate``: when all together are too many, no more is worked out for one.
    4. ``accept_rate_per_address``, then 5. the connections of its address: the fault of one is told to that one, before
       6. ``max_connections``, which is nobody's fault: a client that sees the last knows that others fill the server.
    """

    __slots__ = (
        "_book",
        "_buckets",
        "_counts",
        "_full_at",
        "_keys",
        "_limits",
        "_listed",
        "_max",
        "_now",
        "_per_address",
        "_rated",
        "_refusals",
        "_room_is_seen_to",
        "_spread",
        "_total",
    )

    def __init__(self, limits: Limits, clock: Clock = MONOTONIC, *, room_is_seen_to: bool = False) -> None:
        super().__init__()
        self._now = clock.now
        self._room_is_seen_to = room_is_seen_to
        self._refusals = dict.fromkeys(Refusal, 0)
        self._total = 0
        #: Live connections by key; and by whole address, where the key is only a part of that.  Nothing is evicted from
        #: them: they have one entry at most for each connection that is in.
        self._counts: dict[Key, int] = {}
        self._spread: dict[bytes, int] = {}
        #: When buckets are full again, in ticks: that of all, and those of addresses.
        self._full_at = 0
        self._buckets: AddressTable[int] = AddressTable()
        self._book = PenaltyBook(limits.penalties)
        self._keys = Keys(limits.ipv4_prefix, limits.ipv6_prefix)
        self._set(limits)

    # --- who comes and goes -------------------------------------------------------------------------------------------

    def admit(self, peer: Peer) -> Refusal | None:
        """None, and ``peer`` (as the socket module gives it) is counted until :meth:`leave`; or why it stays out."""
        source = source_of(peer)
        with self._lock:
            key = self._keys.of(source)
            refusal = self._let_in(source, key)
            if refusal is not None:
                self._refusals[refusal] += 1
            return refusal

    def leave(self, peer: Peer) -> None:
        """A connection that was admitted as ``peer`` is over.

        :raises MisuseError: no such connection is in.
        """
        source = source_of(peer)
        with self._lock:
            key = self._keys.of(source)
            # Written out: a call costs a tenth of the whole.
            if key not in self._counts or (
                key is not source and type(source) is bytes and source not in self._spread
            ):
                raise MisuseError(f"{peer!a} is not in: call leave(peer) once for each admit(peer) that let it in")
            self._total -= 1
            self._exit(source, key)

    def readmit(self, old_peer: Peer, new_peer: Peer) -> Refusal | None:
        """The connection admitted as ``old_peer``, a proxy's, is really ``new_peer``'s; the limits of that one hold.

        None: it is counted as ``new_peer`` from now on, and that is to :meth:`leave`.  A refusal: it stays counted as
        ``old_peer``, and that is to leave, when the connection has been closed.  The total and ``accept_rate`` are not
        asked again, since the connection is in.

        :raises MisuseError: no connection of ``old_peer`` is in.
        """
        old, new = source_of(old_peer), source_of(new_peer)
        with self._lock:
            old_key, new_key = self._keys.of(old), self._keys.of(new)
            if not self._is_in(old, old_key):
                raise MisuseError(f"{old_peer!a} is not in: call admit(old_peer) before readmit(old_peer, new_peer)")
            refusal = self._let_in(new, new_key, is_in=True, counted=old_key == new_key)
            if refusal is None:
                self._exit(old, old_key)
            else:
                self._refusals[refusal] += 1
            return refusal

    def _let_in(self, source: Source, key: Key, is_in: bool = False, counted: bool = False) -> Refusal | None:
        """Ask the limits in their order, and count who passes; ``is_in`` for a connection that is only to change its
        address, and ``counted`` where that comes to the same key."""
        limits, book = self._limits, self._book
        if self._listed and not may_come(limits, source):
            return Refusal.DENIED
        # Whether somebody is exempt is asked where it matters: most peers are far from every limit.
        if (book.banned.entries or book.by_hand) and book.is_banned(key, self._now()):
            if not limits.exempt.holds(source):
                return Refusal.BANNED
        full_at = bucket_full_at = now = -1
        if self._rated and not counted and not limits.exempt.holds(source):
            now = ticks(self._now())
            if limits.accept_rate is not None and not is_in:
                full_at = limits.accept_rate.spend(self._full_at, now)
                if full_at < 0:
                    return Refusal.LIMIT_RATE
            if limits.accept_rate_per_address is not None and key is not None:
                bucket_full_at = limits.accept_rate_per_address.spend(self._buckets.entries.get(key, 0), now)
                if bucket_full_at < 0:
                    return Refusal.LIMIT_RATE_PER_ADDRESS
        most, counts = self._per_address, self._counts
        # It may be counted itself; True is 1.
        if most is not None and key in counts and counts[key] - counted >= most and key is not None:
            if not limits.exempt.holds(source):
                return Refusal.LIMIT_PER_ADDRESS
        if not is_in and self._max is not None and self._total >= self._max:
            return Refusal.LIMIT_CONNECTIONS
        if full_at >= 0:
            self._full_at = full_at
        if bucket_full_at >= 0:
            self._buckets.put_until(key, bucket_full_at, now)
        # In statements that no signal handler comes between (see Guarded).
        if not is_in:
            self._total += 1
        if key in counts:
            counts[key] += 1
        else:
            counts[key] = 1
        if key is not source and type(source) is bytes:
            spread = self._spread
            if source in spread:
                spread[source] += 1
            else:
                spread[source] = 1
        return None

    def _is_in(self, source: Source, key: Key) -> bool:
        return key in self._counts and (key is source or type(source) is not bytes or source in self._spread)

    def _exit(self, source: Source, key: Key) -> None:
        counts = self._counts
        if counts[key] == 1:
            del counts[key]
        else:
            counts[key] -= 1
        if key is not source and type(source) is bytes:
            spread = self._spread
            if spread[source] == 1:
                del spread[source]
            else:
                spread[source] -= 1

    # --- what is set --------------------------------------------------------------------------------------------------

    @property
    def limits(self) -> Limits:
        """What holds; setting it holds from the next verdict on."""
        return self._limits

    @limits.setter
    def limits(self, limits: Limits) -> None:
        with self._lock:
            old = self._limits
            self._book.set(limits.penalties)
            now = ticks(self._now())
            if limits.accept_rate is not None and limits.accept_rate != old.accept_rate:
                self._full_at = limits.accept_rate.clamp(self._full_at, now)
            rate = limits.accept_rate_per_address
            if rate is None:
                self._buckets.entries.clear()
            elif rate != old.accept_rate_per_address:
                rate.clamp_all(self._buckets.entries, now)
            if (limits.ipv4_prefix, limits.ipv6_prefix) != self._keys.prefixes:
                self._change_keys(Keys(limits.ipv4_prefix, limits.ipv6_prefix))
            self._set(limits)

    def _set(self, limits: Limits) -> None:
        """Work out what a verdict needs at once."""
        self._limits = limits
        self._max = None if self._room_is_seen_to else limits.max_connections
        self._per_address = limits.connections_per_address
        self._listed = limits.allow is not None or limits.deny is not None
        self._rated = limits.accept_rate is not None or limits.accept_rate_per_address is not None

    def _change_keys(self, keys: Keys) -> None:
        """Count those who are in by other prefixes.  A penalty stays with the network that the first address of its
        old one lies in."""
        whole: dict[Key, int] = dict(self._spread.items())
        whole.update((key, count) for key, count in self._counts.items() if self._keys.is_whole(key))
        self._counts.clear()
        self._spread.clear()
        for identity, count in whole.items():
            key = identity if not isinstance(identity, bytes) else keys.of(identity)
            self._counts[key] = self._counts.get(key, 0) + count
            if isinstance(identity, bytes) and key is not identity:
                self._spread[identity] = count
        self._buckets.entries.clear()
        self._book.change_keys(keys)
        self._keys = keys

    # --- penalties and bans -------------------------------------------------------------------------------------------

    def offend(self, peer: Peer, kind: str) -> float:
        """``peer`` has broken a rule: ``kind`` is one in ``limits.penalties``; one that is not in there costs nothing.

        :returns: the seconds for which its address is banned now; 0.0 if it is not.
        """
        source = source_of(peer)
        with self._lock:
            if self._limits.exempt.holds(source):
                return 0.0
            return self._book.charge(self._keys.of(source), kind, self._now())

    def ban(self, peer: Peer, seconds: float) -> None:
        """Let nobody in from the address of ``peer`` for ``seconds`` (``math.inf``: until :meth:`unban`).

        What is in stays in.  For a text there is :func:`~jackfield.admission.parse_peer`.

        :raises ValueError: ``seconds`` is not above 0.
        :raises MisuseError: the peer is exempt, or nobody knows whose it is, or 65,536 are banned by hand already.
        """
        source = source_of(peer)
        with self._lock:
            key = self._keys.of(source)
            if self._limits.exempt.holds(source):
                raise MisuseError(f"{self._keys.describe(key)} is exempt from bans: put it into Limits(deny=...)")
            self._book.ban(key, seconds, self._now())

    def unban(self, peer: Peer) -> bool:
        """Forget all penalties of the address of ``peer``; whether it was banned."""
        source = source_of(peer)
        with self._lock:
            return self._book.unban(self._keys.of(source), self._now())

    def bans(self) -> list[Ban]:
        """The addresses that are banned, as texts, those for longest first."""
        with self._lock:
            return self._book.bans(self._now(), self._keys.describe)

    # --- what is seen -------------------------------------------------------------------------------------------------

    @property
    def total(self) -> int:
        """Connections that are in."""
        return self._total

    @property
    def refusals(self) -> dict[Refusal, int]:
        """Refusals so far, of each kind."""
        with self._lock:
            return dict(self._refusals)

    def count(self, peer: Peer) -> int:
        """Connections that are in from the address of ``peer``."""
        source = source_of(peer)
        with self._lock:
            return self._counts.get(self._keys.of(source), 0)

    @property
    def remembered(self) -> int:
        """Addresses without a connection of which something is known, at most four times 65,536 by default."""
        with self._lock:
            return len(self._buckets) + len(self._book)


def may_come(limits: Limits, source: Source) -> bool:
    """What ``deny`` and ``allow`` say.  Of whom nobody knows who it is, it is not known that it is allowed."""
    if limits.deny is not None and limits.deny.holds(source):
        return False
    return limits.allow is None or limits.allow.holds(source)
