"""To which of this machine's addresses a datagram came, and how an answer leaves from that one.

A UDP socket bound to all interfaces answers from whatever address the route prefers.  On a machine with several the
client then gets an answer from somebody it never asked, and drops it.  ``IP_PKTINFO`` (ip(7)) and ``IPV6_PKTINFO``
(RFC 3542, ipv6(7)) tell the address on the way in and choose it on the way out.
"""

from __future__ import annotations

import contextlib
import functools
import socket as _socket_std
import struct
import sys
from collections.abc import Iterable
from typing import Any, NamedTuple

__all__ = ["ANCILLARY_BYTES", "PacketInfo", "control_message", "enable_packet_info", "is_wildcard", "packet_info"]

# Python names IP_PKTINFO from 3.12 on; the number is part of the kernel's interface.
_IP_PKTINFO: int | None = getattr(_socket_std, "IP_PKTINFO", {"linux": 8, "darwin": 26}.get(sys.platform))
_IPV6_PKTINFO: int | None = getattr(_socket_std, "IPV6_PKTINFO", None)
_IPV6_RECVPKTINFO: int | None = getattr(_socket_std, "IPV6_RECVPKTINFO", None)

_IN_PKTINFO = struct.Struct("=I4s4s")  # interface, the local address to answer from, the address in the header
_IN6_PKTINFO = struct.Struct("=16sI")
_CMSGHDR = struct.Struct("@Nii")  # its length, level and type
_MAPPED = bytes(10) + b"\xff\xff"  # ::ffff:0:0/96, an IPv4 packet on an IPv6 socket

# An IPv4 packet on an IPv6 socket brings both kinds.
ANCILLARY_BYTES = (
    _socket_std.CMSG_SPACE(_IN_PKTINFO.size) + _socket_std.CMSG_SPACE(_IN6_PKTINFO.size)
    if hasattr(_socket_std, "CMSG_SPACE")
    else 0
)
"""Room for the ancillary data of one datagram, in bytes."""


class PacketInfo(NamedTuple):
    """The local end of one datagram.

    ``source`` is the address as bytes, 4 for IPv4 and 16 for IPv6; ``interface`` the index of the network interface it
    came in by (``socket.if_indextoname``).
    """

    source: bytes
    interface: int

    @property
    def address(self) -> str:
        """The addressed local address as text; for an IPv4 multicast or broadcast, the one that answers leave from."""
        return _socket_std.inet_ntop(
            _socket_std.AF_INET if len(self.source) == 4 else _socket_std.AF_INET6, self.source
        )

    def control(self) -> tuple[int, int, bytes]:
        """The ancillary message with which ``sendmsg`` sends from this address."""
        if len(self.source) == 4:
            # Interface 0: the route decides by which one the answer goes; only the address is ours to keep.
            assert _IP_PKTINFO is not None
            return _socket_std.IPPROTO_IP, _IP_PKTINFO, _IN_PKTINFO.pack(0, self.source, bytes(4))
        assert _IPV6_PKTINFO is not None
        multicast = self.source[0] == 0xFF
        link_local = self.source[0] == 0xFE and self.source[1] & 0xC0 == 0x80
        # A multicast group is nobody's address: the kernel chooses one on that interface.  A link-local address means
        # something only together with its interface.
        source = bytes(16) if multicast else self.source
        interface = self.interface if multicast or link_local else 0
        return _socket_std.IPPROTO_IPV6, _IPV6_PKTINFO, _IN6_PKTINFO.pack(source, interface)


@functools.lru_cache(maxsize=256)
def control_message(info: PacketInfo) -> bytes:
    """:meth:`PacketInfo.control` as the kernel takes it: a header, and the data, padded (cmsg(3))."""
    level, kind, data = info.control()
    message = _CMSGHDR.pack(_socket_std.CMSG_LEN(len(data)), level, kind) + data
    return message.ljust(_socket_std.CMSG_SPACE(len(data)), b"\0")


def is_wildcard(family: int, sockaddr: Any) -> bool:
    """Whether a bound socket's own address is all interfaces, so that only the packet tells which one was meant."""
    if family == _socket_std.AF_INET:
        return bool(sockaddr[0] == "0.0.0.0")
    return family == _socket_std.AF_INET6 and bool(sockaddr[0] == "::")


def enable_packet_info(sock: _socket_std.socket) -> bool:
    """Asks the kernel to tell the local address with each datagram; whether it will."""
    enabled = False
    if sock.family == _socket_std.AF_INET6 and _IPV6_RECVPKTINFO is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(_socket_std.IPPROTO_IPV6, _IPV6_RECVPKTINFO, 1)
            enabled = True
    # On an IPv6 socket for its IPv4 packets: unlike IPV6_PKTINFO it knows the address to answer a broadcast from.
    if sock.family in (_socket_std.AF_INET, _socket_std.AF_INET6) and _IP_PKTINFO is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(_socket_std.IPPROTO_IP, _IP_PKTINFO, 1)
            enabled = True
    return enabled


def packet_info(ancillary: Iterable[tuple[int, int, bytes]]) -> PacketInfo | None:
    """The local end that ``recvmsg`` told, None if it told none."""
    found = None
    for level, kind, data in ancillary:
        if level == _socket_std.IPPROTO_IP and kind == _IP_PKTINFO and len(data) >= _IN_PKTINFO.size:
            interface, source, _ = _IN_PKTINFO.unpack_from(data)
            return PacketInfo(source, interface)
        if level == _socket_std.IPPROTO_IPV6 and kind == _IPV6_PKTINFO and len(data) >= _IN6_PKTINFO.size:
            source, interface = _IN6_PKTINFO.unpack_from(data)
            found = PacketInfo(source[12:] if source.startswith(_MAPPED) else source, interface)
    return found
