"""Addresses, lists of peers and rates in the words of nftables, which are also the kernel's: what a rule is made of."""

from __future__ import annotations

import ipaddress
import math
import socket as _socket_std
from collections.abc import Iterable
from fractions import Fraction
from typing import NamedTuple

from jackfield.address import Address
from jackfield.admission import PeerList, Rate, parse_ip
from jackfield.cli.arguments import UsageError
from jackfield.limits import LOOPBACK

__all__ = [
    "IPV4",
    "IPV6",
    "Door",
    "Family",
    "doors_of",
    "forgotten_after",
    "limit_of",
    "networks_of",
    "sender_of",
]

_UNITS = (("second", 1), ("minute", 60), ("hour", 3600), ("day", 86400), ("week", 604800))
_MOST_TOKENS = 2**63  # struct nft_limit_priv has nanoseconds in a u64; older kernels let it overflow in silence
_LONGEST_TIMEOUT = 30 * 86400

_MAPPED = bytes(10) + b"\xff\xff"


class Family(NamedTuple):
    number: int
    #: As nft calls its header, its protocol and its addresses.
    header: str
    protocol: str
    type: str


IPV4 = Family(4, "ip", "ipv4", "ipv4_addr")
IPV6 = Family(6, "ip6", "ipv6", "ipv6_addr")


# --- which packets ----------------------------------------------------------------------------------------------------


class Door(NamedTuple):
    """How packets for one address are told."""

    address: Address
    #: What stands before the port.
    where: str
    port: int
    families: tuple[Family, ...]

    @property
    def is_datagram(self) -> bool:
        return self.address.is_datagram

    @property
    def is_named(self) -> bool:
        """Whether its host is a name, and so no rule tells its addresses."""
        return bool(self.address.host) and _host(self.address) is None


def doors_of(addresses: Iterable[Address]) -> list[Door]:
    """The addresses that are reached from elsewhere.

    :raises UsageError: one has no port to go by, or none is reached from elsewhere; one line that says what to write.
    """
    found, local = [], None
    for address in addresses:
        if address.is_unix:
            raise UsageError(f"{address} has no port that a packet filter could see: leave it out")
        if address.scheme in ("fd", "systemd"):
            raise UsageError(f"what {address} listens on is not known here: write its address, e.g. tcp://:9999")
        if not 1 <= address.port <= 65535:
            raise UsageError(f"{address} has its port only when the server has started: write e.g. -b :9999")
        if _is_local(address.host):
            local = address
        else:
            found.append(_door(address))
    if not found:
        which = f"{local} is reached from this machine only, which is let through" if local else "no address"
        raise UsageError(f"{which}: write one for others, e.g. -b :9999")
    return found


def _host(address: Address) -> bytes | None:
    """4 or 16 bytes; None for a name, which may mean anything by the time the rules are in force."""
    packed = parse_ip(address.host.partition("%")[0])
    return packed[12:] if packed is not None and packed.startswith(_MAPPED) else packed


def _is_local(host: str) -> bool:
    # localhost and what ends in it never means another machine (RFC 6761 6.3).
    name = host.lower().removesuffix(".")
    return (host, 0) in LOOPBACK or name == "localhost" or name.endswith(".localhost")


def _door(address: Address) -> Door:
    packed = _host(address)
    if address.scheme.endswith("4") or (packed is not None and len(packed) == 4):
        families: tuple[Family, ...] = (IPV4,)
    elif address.scheme.endswith("6") or (packed is not None and any(packed)):
        families = (IPV6,)
    else:
        families = (IPV4, IPV6)  # also tcp://[::], whose socket takes both
    if packed is not None and any(packed):
        where = f"{families[0].header} daddr {_text(packed)} "
    else:
        where = f"meta nfproto {families[0].protocol} " if len(families) == 1 else ""
    return Door(address, where, address.port, families)


def _text(packed: bytes) -> str:
    return _socket_std.inet_ntop(_socket_std.AF_INET if len(packed) == 4 else _socket_std.AF_INET6, packed)


# --- whose packets ----------------------------------------------------------------------------------------------------


def networks_of(peers: PeerList, family: Family) -> list[str]:
    """The networks of one family, without overlaps, which nft would refuse, and in order.  Users and groups are none
    that the kernel could tell by a packet."""
    found = []
    for entry in peers:
        host, _, prefix = entry.partition("/")
        packed = parse_ip(host)
        if packed is None:
            continue
        length = int(prefix) if prefix else 8 * len(packed)
        if len(packed) == 16 and length >= 96 and packed.startswith(_MAPPED):
            packed, length = packed[12:], length - 96  # IPv4 comes as IPv4 here
        if len(packed) == (4 if family is IPV4 else 16):
            found.append((packed, length))
    if family is IPV4:
        return [_short(network) for network in ipaddress.collapse_addresses(map(ipaddress.IPv4Network, found))]
    return [_short(network) for network in ipaddress.collapse_addresses(map(ipaddress.IPv6Network, found))]


def _short(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> str:
    return str(network.network_address if network.num_addresses == 1 else network)


def sender_of(family: Family, prefix: int) -> str:
    """The expression by which senders count as one."""
    bits = 32 if family is IPV4 else 128
    if prefix == bits:
        return f"{family.header} saddr"
    mask = ((1 << bits) - (1 << (bits - prefix))).to_bytes(bits // 8, "big")
    return f"{family.header} saddr & {_text(mask)}"


# --- how often --------------------------------------------------------------------------------------------------------


def limit_of(rate: Rate) -> str | None:
    """The rate in the kernel's units, never slower; None where its arithmetic does not reach so far."""
    per_second = Fraction(rate.count) / Fraction(repr(float(rate.seconds)))
    unit, seconds = next(((unit, s) for unit, s in _UNITS if (per_second * s).denominator == 1), _UNITS[-1])
    number = math.ceil(per_second * seconds)
    # What the kernel works with: nanoseconds for one packet, rounded down, and for a whole burst (nft_limit.c).
    cost = seconds * 10**9 // number
    if not 1 <= cost * rate.burst < _MOST_TOKENS:
        return None
    return f"limit rate over {number}/{unit} burst {rate.burst} packets"


def forgotten_after(rate: Rate) -> int:
    """Seconds after which a bucket is full again, so that to forget it changes nothing."""
    return min(math.ceil(rate.burst * rate.seconds / rate.count) + 1, _LONGEST_TIMEOUT)
