"""Binding TCP and UDP: families, host names, port 0, and the socket options that a listener wants."""

from __future__ import annotations

import errno
import logging
import os
import socket as _socket_std
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jackfield.address import Address, describe_sockaddr
from jackfield.door.options import set_asked_options
from jackfield.door.reasons import explain_inet, explain_lookup
from jackfield.errors import StartError

__all__ = ["RECEIVE_BUFFER", "open_inet"]

_log = logging.getLogger("jackfield.door")

# 1 MiB: the default of 208 KiB is full after a few hundred small datagrams, as the kernel counts its own overhead
# (socket(7), SO_RCVBUF).  The kernel cuts what is over net.core.rmem_max without an error.
RECEIVE_BUFFER = 1 << 20

# Port 0 for several addresses: the kernel chooses a port for the first, which the second may not have free.
_PORT_TRIES = 16

_NO_IPV6 = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT, errno.ENOPROTOOPT})
_SOCKET_TYPE = {"tcp": _socket_std.SOCK_STREAM, "tls": _socket_std.SOCK_STREAM, "udp": _socket_std.SOCK_DGRAM}
_FAMILY = {"": _socket_std.AF_UNSPEC, "4": _socket_std.AF_INET, "6": _socket_std.AF_INET6}
# What getaddrinfo cannot be asked for, as it has no name for "both families on one socket".
_EVERYWHERE = frozenset({"", "::"})

Resolver = Callable[..., list[tuple[Any, ...]]]


@dataclass(frozen=True, slots=True)
class _Place:
    """One address to bind: ``v6_only`` None leaves the kernel's setting."""

    family: int
    sockaddr: tuple[Any, ...]
    v6_only: bool | None = None

    def at_port(self, port: int) -> tuple[Any, ...]:
        return (self.sockaddr[0], port, *self.sockaddr[2:])


@dataclass(frozen=True, slots=True)
class _Wish:
    """What all sockets of one address have in common."""

    address: Address
    kind: int
    backlog: int
    reuse_port: bool
    socket_class: type[_socket_std.socket]


def open_inet(
    address: Address,
    *,
    backlog: int,
    reuse_port: bool,
    socket_class: type[_socket_std.socket],
    resolve: Resolver = _socket_std.getaddrinfo,
) -> list[_socket_std.socket]:
    """Bound sockets for a ``tcp``, ``tls`` or ``udp`` address, all on one port; streams listen.

    :param resolve: looks up host names, as ``socket.getaddrinfo`` does.
    :raises StartError: one of them could not be had; none is left open.
    """
    if not 0 <= address.port <= 65535:
        raise StartError(f"cannot listen on {address}: a port is a number from 0 to 65535 (0 = any free one)")
    wish = _Wish(address, _SOCKET_TYPE[address.scheme[:3]], backlog, reuse_port, socket_class)
    family = _FAMILY[address.scheme[3:]]
    if address.host in _EVERYWHERE and family != _socket_std.AF_INET:
        return _open_everywhere(wish, both=family == _socket_std.AF_UNSPEC)
    return _open_all(wish, _look_up(wish, family, resolve))


def _open_everywhere(wish: _Wish, both: bool) -> list[_socket_std.socket]:
    # With IPV6_V6ONLY off, an IPv6 socket takes IPv4 clients too, as ::ffff:a.b.c.d (ipv6(7)).  It is set in either
    # case, since /proc/sys/net/ipv6/bindv6only may have turned the default round.
    place = _Place(_socket_std.AF_INET6, ("::", wish.address.port, 0, 0), v6_only=not both)
    try:
        return [_open_one(wish, place, wish.address.port)]
    except OSError as error:
        # A kernel without IPv6, or with no socket for both: the address asked for all interfaces, and these are all.
        if both and not wish.address.host and error.errno in _NO_IPV6:
            return _open_all(wish, [_Place(_socket_std.AF_INET, ("0.0.0.0", wish.address.port))])
        raise explain_inet(error, wish.address, place.sockaddr) from error


def _look_up(wish: _Wish, family: int, resolve: Resolver) -> list[_Place]:
    address = wish.address
    try:
        # The port stays out of it: getaddrinfo would take a wrong one modulo 65536.
        found = resolve(address.host or None, 0, family, wish.kind, 0, _socket_std.AI_PASSIVE)
    except (OSError, ValueError) as error:  # UnicodeError, a ValueError: IDNA cannot encode the name
        raise explain_lookup(error, address) from error
    places = dict.fromkeys(
        _Place(family, sockaddr)
        for family, _, _, _, sockaddr in found
        if family in (_socket_std.AF_INET, _socket_std.AF_INET6)
    )
    if not places:
        raise StartError(f"cannot listen on {address}: {address.host!r} has no address; see `getent ahosts`")
    return list(places)


def _open_all(wish: _Wish, places: list[_Place]) -> list[_socket_std.socket]:
    if wish.address.port == 0 and len(places) > 1:
        for _ in range(_PORT_TRIES - 1):
            opened = _try_all(wish, places, may_conflict=True)
            if opened is not None:
                return opened
    return _try_all(wish, places) or []


def _try_all(wish: _Wish, places: list[_Place], may_conflict: bool = False) -> list[_socket_std.socket] | None:
    """One socket for each place, on one port; None, and nothing open, where a port in use ``may_conflict`` and does."""
    opened: list[_socket_std.socket] = []
    port = wish.address.port
    try:
        for place in places:
            try:
                sock = _open_one(wish, place, port)
            except OSError as error:
                if _can_do_without(place, places, error):
                    where = describe_sockaddr(place.family, wish.kind, place.sockaddr)
                    _log.warning("%s: not listening on %s: %s", wish.address, where, error.strerror)
                    continue
                if may_conflict and error.errno == errno.EADDRINUSE:
                    _close(opened)
                    return None
                raise explain_inet(error, wish.address, place.sockaddr) from error
            opened.append(sock)
            port = sock.getsockname()[1]
    except BaseException:
        _close(opened)
        raise
    return opened


def _close(sockets: list[_socket_std.socket]) -> None:
    for sock in sockets:
        sock.close()


def _can_do_without(place: _Place, places: list[_Place], error: OSError) -> bool:
    """``localhost`` means ::1 as well in many a hosts file, on machines and containers where IPv6 is turned off."""
    return (
        place.family == _socket_std.AF_INET6
        and error.errno in _NO_IPV6
        and any(other.family == _socket_std.AF_INET for other in places)
    )


def _open_one(wish: _Wish, place: _Place, port: int) -> _socket_std.socket:
    sock = wish.socket_class(place.family, wish.kind)
    try:
        if place.v6_only is not None:
            sock.setsockopt(_socket_std.IPPROTO_IPV6, _socket_std.IPV6_V6ONLY, place.v6_only)
        if wish.reuse_port:
            _set_reuse_port(sock, wish.address)
        set_asked_options(sock, wish.address)
        if wish.kind == _socket_std.SOCK_STREAM:
            _claim_tcp_port(sock)
            sock.bind(place.at_port(port))
            # On Linux it may be here that a port proves to be taken: two sockets with SO_REUSEADDR can both be bound
            # while neither listens.
            sock.listen(wish.backlog)
        else:
            if "rcvbuf" not in dict(wish.address.options):
                _enlarge_receive_buffer(sock)
            sock.bind(place.at_port(port))
    except BaseException:
        sock.close()
        raise
    return sock


def _claim_tcp_port(sock: _socket_std.socket) -> None:
    if os.name == "posix":
        # Without it a restart fails for a minute, while connections of the last run are in TIME_WAIT (tcp(7)).  It
        # does not let two servers share a port.  On UDP it does just that, so it is never set there.
        sock.setsockopt(_socket_std.SOL_SOCKET, _socket_std.SO_REUSEADDR, 1)
    elif sys.platform == "win32":
        # There SO_REUSEADDR would let a second program take the port away, and this is what prevents it.
        sock.setsockopt(_socket_std.SOL_SOCKET, _socket_std.SO_EXCLUSIVEADDRUSE, 1)


def _set_reuse_port(sock: _socket_std.socket, address: Address) -> None:
    option = getattr(_socket_std, "SO_REUSEPORT", None)
    if option is None:
        raise StartError(f"cannot listen on {address}: this system has no SO_REUSEPORT; leave reuse_port out")
    sock.setsockopt(_socket_std.SOL_SOCKET, option, 1)


def _enlarge_receive_buffer(sock: _socket_std.socket) -> None:
    if sock.getsockopt(_socket_std.SOL_SOCKET, _socket_std.SO_RCVBUF) < RECEIVE_BUFFER:
        sock.setsockopt(_socket_std.SOL_SOCKET, _socket_std.SO_RCVBUF, RECEIVE_BUFFER)
