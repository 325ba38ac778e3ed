"""Whose a connection is: peers as the socket module gives them, the key that their limits go by, and a bounded table.

========================  ==================================  ================================================
peer                      source                              key
========================  ==================================  ================================================
``("192.0.2.1", 5)``      4 bytes                             the same, cut to ``ipv4_prefix`` bits
``("2001:db8::1", ...)``  16 bytes                            the same, cut to ``ipv6_prefix`` bits
``Credentials``           itself                              the user's number
anything else             None: nobody knows whose it is      None: only the limits of the whole server hold
========================  ==================================  ================================================
"""

from __future__ import annotations

import socket as _socket_std
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

__all__ = ["MOST_ADDRESSES", "AddressTable", "Credentials", "Key", "Keys", "Peer", "Source", "first_of", "source_of"]

#: Addresses that a table remembers unless told otherwise; OpenSSH's PerSourcePenalties keep as many of each family.
MOST_ADDRESSES = 65_536


@dataclass(frozen=True, slots=True)
class Credentials:
    """The process at the other end of a Unix socket when it connected (``SO_PEERCRED``, unix(7)).

    :param pid: of the process; it tells nothing once that process is gone, so no limit goes by it.
    :param uid: of its effective user.
    :param gid: of its effective group.
    """

    pid: int
    uid: int
    gid: int


#: ``(host, port)``, ``(host, port, flow, scope)`` or :class:`Credentials`; whatever else a socket calls its peer.
Peer = Any
Source = bytes | Credentials | None
Key = bytes | int | None

_MAPPED = bytes(10) + b"\xff\xff"

# In C, and strict: four decimal numbers without leading zeros, or what RFC 4291 2.2 allows.  inet_aton() would take
# "127.1", "0x7f.1" and octal numbers, by which access lists have been passed (CVE-2021-29921).
_inet_pton = _socket_std.inet_pton
_AF_INET, _AF_INET6 = int(_socket_std.AF_INET), int(_socket_std.AF_INET6)


def source_of(peer: Peer) -> Source:
    """Who ``peer`` is, as 4 or 16 bytes in network order, as credentials, or None where that is not to be known.

    An IPv4 address in IPv6's clothes (``::ffff:192.0.2.1``, what a dual-stack socket gives for an IPv4 client) is the
    IPv4 address (RFC 4291 2.5.5.2), and the zone of a link-local one does not count.  Never raises.
    """
    if isinstance(peer, tuple) and peer:
        host = peer[0]
        try:
            if ":" not in host:
                return _inet_pton(_AF_INET, host)
            packed = _inet_pton(_AF_INET6, host)
        except (OSError, ValueError, TypeError):  # no address, one with a NUL, or no text (AF_VSOCK has numbers)
            return _source_of_other(host)
        # The first byte alone tells most that it is not the other kind.
        return packed[12:] if not packed[0] and packed.startswith(_MAPPED) else packed
    return peer if isinstance(peer, Credentials) else None


def _source_of_other(host: Any) -> Source:
    if isinstance(host, str) and "%" in host:
        return source_of((host.partition("%")[0],))
    return None


class Keys:
    """The key of a source: who is counted as one.

    :param ipv4_prefix: bits of an IPv4 address, 1 to 32.
    :param ipv6_prefix: bits of an IPv6 address, 1 to 128.  A household or a rented machine has a /64 at least, every
        address of which it can use (RFC 6177), so counting single ones would count nothing.
    """

    __slots__ = ("_cut6", "_mask4", "_mask6", "prefixes")

    def __init__(self, ipv4_prefix: int = 32, ipv6_prefix: int = 64) -> None:
        self.prefixes = (ipv4_prefix, ipv6_prefix)
        self._mask4 = None if ipv4_prefix == 32 else _mask(32, ipv4_prefix)
        self._mask6 = None if ipv6_prefix == 128 else _mask(128, ipv6_prefix)
        # Whole bytes are cut off faster than bits are masked; what is left must not look like IPv4, which has four.
        self._cut6 = ipv6_prefix // 8 if ipv6_prefix % 8 == 0 and 32 < ipv6_prefix < 128 else None

    def of(self, source: Source) -> Key:
        """The key that the limits of ``source`` go by; where addresses are counted whole it is ``source`` itself."""
        if type(source) is bytes:
            if len(source) == 4:
                return source if self._mask4 is None else _masked(source, self._mask4)
            if self._cut6 is not None:
                return source[: self._cut6]
            return source if self._mask6 is None else _masked(source, self._mask6)
        return source.uid if isinstance(source, Credentials) else None

    def is_whole(self, key: Key) -> bool:
        """Whether ``key`` stands for one address, or one user, alone."""
        return not isinstance(key, bytes) or (self._mask4 if len(key) == 4 else self._mask6) is None

    def describe(self, key: Key) -> str:
        """For people: ``192.0.2.1``, ``2001:db8::/64``, ``uid:1000``."""
        if isinstance(key, bytes):
            text = _socket_std.inet_ntop(_AF_INET if len(key) == 4 else _AF_INET6, first_of(key))
            return text if self.is_whole(key) else f"{text}/{self.prefixes[len(key) > 4]}"
        return "unknown" if key is None else f"uid:{key}"


def first_of(key: bytes) -> bytes:
    """The first address that has this key."""
    return key if len(key) == 4 else key.ljust(16, b"\0")


def _masked(source: bytes, mask: int) -> bytes:
    return (int.from_bytes(source, "big") & mask).to_bytes(len(source), "big")


def _mask(bits: int, prefix: int) -> int:
    return (1 << bits) - (1 << (bits - prefix))


V = TypeVar("V")
N = TypeVar("N", int, float)


class AddressTable(Generic[V]):
    """What is remembered of at most ``most`` addresses; above that, the one written longest ago is forgotten.

    Only what may be forgotten belongs here: a bucket that fills again and a penalty that runs down, which say less the
    older they are, and nothing in the end.  What must not be forgotten, the count of live connections, is kept
    elsewhere; it needs no bound of its own, as there are no more of those than ``max_connections``.

    An address with a number costs about 160 bytes in CPython 3.13: 10 MiB for 65,536.
    """

    __slots__ = ("entries", "evicted", "most")

    def __init__(self, most: int = MOST_ADDRESSES) -> None:
        self.most = most
        # Not a dict: to find its first key CPython steps over the holes that deleted ones have left, so taking the
        # first again and again costs more at each time.  An OrderedDict in C also has a list.
        self.entries: OrderedDict[Key, V] = OrderedDict()
        #: Addresses forgotten for want of room.
        self.evicted = 0

    def put(self, key: Key, value: V) -> None:
        """Remember ``value`` of ``key``, which is now the last to be forgotten."""
        entries = self.entries
        entries[key] = value
        entries.move_to_end(key)
        if len(entries) > self.most:
            entries.popitem(last=False)
            self.evicted += 1

    def put_until(self: AddressTable[N], key: Key, until: N, now: N) -> None:
        """The same where the value is the time until which it means something; forgets up to two that have passed.

        So the memory of a flood is given back while others come, two for one, and there is never a sweep.
        """
        self.put(key, until)
        entries = self.entries
        for _ in range(2):
            oldest = next(iter(entries))
            if oldest == key or entries[oldest] > now:
                return
            del entries[oldest]

    def resize(self, most: int) -> None:
        """Remember at most ``most`` from now on."""
        self.most = most
        while len(self.entries) > most:
            self.entries.popitem(last=False)
            self.evicted += 1

    def __len__(self) -> int:
        return len(self.entries)
