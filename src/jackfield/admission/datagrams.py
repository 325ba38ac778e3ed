"""Which datagrams are taken, and which are answered: no connection stands behind one, and its sender may be forged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jackfield.admission.addresses import AddressTable, Key, Keys, Peer, source_of
from jackfield.admission.admission import Refusal, may_come
from jackfield.admission.locks import Guarded
from jackfield.admission.rates import Rate, ticks
from jackfield.clock import MONOTONIC, Clock

if TYPE_CHECKING:
    from jackfield.limits import Limits

__all__ = ["NO_CLIENTS", "DatagramGuard"]

#: Seconds after which an exchange that stood still is begun anew: a NAT keeps the mapping of one so long (RFC 4787 4.3
#: recommends 5 minutes), so after that the address may be somebody else's.
FORGOTTEN_AFTER = 300.0

#: Ports whose services answer whatever comes (echo, daytime, quote, chargen, time: RFC 862, 867, 865, 864, 868): one of
#: them and a server answer each other for ever.  No client has such a port; FreeBSD's inetd looks for these, too.
ANSWERING_PORTS = frozenset({7, 13, 17, 19, 37})
#: Ports that no client has.
NO_CLIENTS = ANSWERING_PORTS | {0}

#: Hosts that are known by their text to be free, so that what a proxy on this machine forwards is judged at once.
MOST_FREE = 256

#: Datagrams that came after an answer, from which on an address is taken to be the sender's own.
ENOUGH_ANSWERS = 2


class _Exchange:
    """Bytes from and to an address, and whether it has answered."""

    __slots__ = ("answers", "received", "replied", "sent", "since")

    def __init__(self) -> None:
        self.received = self.sent = self.answers = 0
        #: Whether something was sent to it since its last datagram.
        self.replied = False
        self.since = 0.0


class DatagramGuard(Guarded):
    """Says of each datagram whether it is taken, and of each reply whether it may be sent, by ``limits``.

    There are no bans: a sender can be forged, and so could be got banned by somebody else.  ``exempt`` is exempt from
    both rates, the rate of replies and ``amplification``.  Any thread may call; at most 65,536 addresses are remembered
    for each of the limits, and an address that is forgotten for want of room begins anew: with full buckets, and
    without credit for replies.

    ``amplification`` holds until an address has sent two datagrams after one from here each.  That hinders whoever has
    a list of servers to send one datagram each in a victim's name, not one who forges an exchange with this server;
    ``reply_rate_per_address`` holds for that one too.
    """

    __slots__ = (
        "_buckets", "_exchanges", "_free", "_full_at", "_keys", "_limits", "_now", "_refusals", "_replies", "_withheld",
    )  # fmt: skip

    def __init__(self, limits: Limits, clock: Clock = MONOTONIC) -> None:
        super().__init__()
        self._now = clock.now
        self._refusals = dict.fromkeys(Refusal, 0)
        self._withheld = 0
        self._full_at = 0
        self._buckets: AddressTable[int] = AddressTable()
        self._replies: AddressTable[int] = AddressTable()
        self._exchanges: AddressTable[_Exchange] = AddressTable()
        self._limits = limits
        self._keys = Keys(limits.ipv4_prefix, limits.ipv6_prefix)
        #: Some of the hosts that are exempt, and may come: another set for other limits.
        self._free: set[str] = set()

    def admit(self, peer: Peer, size: int) -> Refusal | None:
        """None, and a datagram of ``size`` bytes that ``peer`` is said to have sent is taken; or why it is dropped.

        One from port 0 is ``DENIED``: it is reserved, nothing sent there arrives, and it comes of forging (RFC 768).
        So is one from :data:`ANSWERING_PORTS` while there is a ``reply_rate_per_address``, also of who is exempt.
        """
        if peer.__class__ is tuple and peer and peer[0] in self._free and peer[1] not in NO_CLIENTS:
            return None
        source = source_of(peer)
        with self._lock:
            limits = self._limits
            refusal = None
            if isinstance(source, bytes) and len(peer) > 1 and peer[1] in NO_CLIENTS and (
                not peer[1] or limits.reply_rate_per_address is not None
            ):
                refusal = Refusal.DENIED
            elif not may_come(limits, source):
                refusal = Refusal.DENIED
            elif not limits.exempt.holds(source):
                refusal = self._admit_counted(self._keys.of(source), size)
            elif isinstance(source, bytes) and len(self._free) < MOST_FREE:
                self._free.add(peer[0])
            if refusal is not None:
                self._refusals[refusal] += 1
            return refusal

    @property
    def free(self) -> set[str]:
        """Hosts, by their text, that are exempt and may come: :meth:`admit` takes whatever comes from a port of theirs
        that is a client's, and :meth:`may_reply` lets out whatever goes there. Until other limits are set."""
        return self._free

    def _admit_counted(self, key: Key, size: int) -> Refusal | None:
        seconds = self._now()
        refusal = self._ask_rates(key, seconds)
        if refusal is None and self._limits.amplification is not None and isinstance(key, bytes):
            self._received(key, size, seconds)
        return refusal

    def _ask_rates(self, key: Key, seconds: float) -> Refusal | None:
        limits = self._limits
        rate, rate_per_address = limits.datagram_rate, limits.datagram_rate_per_address
        now = ticks(seconds)
        full_at = bucket_full_at = -1
        if rate is not None:
            full_at = rate.spend(self._full_at, now)
            if full_at < 0:
                return Refusal.LIMIT_RATE
        if rate_per_address is not None and key is not None:
            bucket_full_at = rate_per_address.spend(self._buckets.entries.get(key, 0), now)
            if bucket_full_at < 0:
                return Refusal.LIMIT_RATE_PER_ADDRESS
            self._buckets.put_until(key, bucket_full_at, now)
        if full_at >= 0:
            self._full_at = full_at
        return None

    def _received(self, key: Key, size: int, now: float) -> None:
        exchange = self._exchanges.entries.get(key)
        if exchange is None or exchange.since + FORGOTTEN_AFTER <= now:
            exchange = _Exchange()
        exchange.since = now
        exchange.received += size
        if exchange.replied:
            exchange.replied = False
            exchange.answers += 1
        self._exchanges.put(key, exchange)

    def may_reply(self, peer: Peer, size: int) -> bool:
        """Whether a datagram of ``size`` bytes may be sent to ``peer`` now; it then counts as sent.

        To the peer of a Unix socket it always may: that one cannot be forged.
        """
        if peer.__class__ is tuple and peer and peer[0].__class__ is str and peer[0] in self._free:
            return True
        source = source_of(peer)
        with self._lock:
            limits = self._limits
            if not isinstance(source, bytes) or limits.exempt.holds(source):
                return True
            key = self._keys.of(source)
            seconds = self._now()
            exchange = None
            if limits.amplification is not None:
                exchange = self._exchanges.entries.get(key)
                if exchange is not None and exchange.since + FORGOTTEN_AFTER <= seconds:
                    exchange = None
                if exchange is None:
                    allowed = not size
                elif exchange.answers >= ENOUGH_ANSWERS:
                    allowed = True
                else:
                    allowed = exchange.sent + size <= limits.amplification * exchange.received
                if not allowed:
                    self._withheld += 1
                    return False
            rate = limits.reply_rate_per_address
            if rate is not None and not self._take_reply(rate, key, seconds):
                self._withheld += 1
                return False
            if exchange is not None:
                exchange.sent += size
                exchange.replied = True
            return True

    def _take_reply(self, rate: Rate, key: Key, seconds: float) -> bool:
        now = ticks(seconds)
        full_at = rate.spend(self._replies.entries.get(key, 0), now)
        if full_at < 0:
            return False
        self._replies.put_until(key, full_at, now)
        return True

    def count_reply(self, peer: Peer, size: int, *, sent: bool = True) -> None:
        """A copy of this guard in another process was asked :meth:`may_reply`, and ``sent`` is what it answered."""
        source = source_of(peer)
        with self._lock:
            limits = self._limits
            if not sent:
                self._withheld += 1
                return
            if not isinstance(source, bytes) or limits.exempt.holds(source):
                return
            key = self._keys.of(source)
            exchange = self._exchanges.entries.get(key)
            if exchange is not None:
                exchange.sent += size
                exchange.replied = True
            if limits.reply_rate_per_address is not None:
                self._charge_reply(limits.reply_rate_per_address, key, self._now())

    def _charge_reply(self, rate: Rate, key: Key, seconds: float) -> None:
        # Several copies may have let more pass than one would have: then it is empty, and no emptier.
        now = ticks(seconds)
        full_at = max(self._replies.entries.get(key, 0), now) + rate.step
        self._replies.put_until(key, rate.clamp(full_at, now), now)

    @property
    def limits(self) -> Limits:
        """What holds; setting it holds from the next verdict on.  Other prefixes begin with nothing known."""
        return self._limits

    @limits.setter
    def limits(self, limits: Limits) -> None:
        with self._lock:
            now = ticks(self._now())
            if (limits.ipv4_prefix, limits.ipv6_prefix) != self._keys.prefixes:
                self._keys = Keys(limits.ipv4_prefix, limits.ipv6_prefix)
                for table in (self._buckets, self._replies, self._exchanges):
                    table.entries.clear()
            if limits.datagram_rate is not None:
                self._full_at = limits.datagram_rate.clamp(self._full_at, now)
            for rate, buckets in (
                (limits.datagram_rate_per_address, self._buckets),
                (limits.reply_rate_per_address, self._replies),
            ):
                if rate is None:
                    buckets.entries.clear()
                else:
                    rate.clamp_all(buckets.entries, now)
            if limits.amplification is None:
                self._exchanges.entries.clear()
            self._free = set()
            self._limits = limits

    @property
    def refusals(self) -> dict[Refusal, int]:
        """Datagrams dropped so far, of each kind."""
        with self._lock:
            return dict(self._refusals)

    @property
    def withheld(self) -> int:
        """Replies that were not to be sent."""
        return self._withheld

    @property
    def remembered(self) -> int:
        """Addresses of which something is known, at most three times 65,536."""
        with self._lock:
            return len(self._buckets) + len(self._replies) + len(self._exchanges)
