"""From an address to what a socket takes: the name looked up once, and tried once, before the load begins."""

from __future__ import annotations

import socket as _socket_std
from collections.abc import Callable
from typing import Any

from jackfield.address import Address
from jackfield.bench.loop import Target

__all__ = ["find", "try_out"]

_KINDS = {
    "unix": _socket_std.SOCK_STREAM,
    "unixgram": _socket_std.SOCK_DGRAM,
    "unixpacket": _socket_std.SOCK_SEQPACKET,
}


def find(address: Address) -> list[Target]:
    """Every answer of the resolver, the one to try first first.

    :raises OSError: there is none (:exc:`socket.gaierror`).
    """
    if address.is_unix:
        # A name in Linux's abstract namespace begins with a NUL (unix(7)); a path is bytes (PEP 383).
        name = f"\0{address.path[1:]}" if address.path.startswith("@") else address.path
        return [Target(_socket_std.AF_UNIX, _KINDS[address.scheme], 0, name.encode("utf-8", "surrogateescape"))]
    families = {"4": _socket_std.AF_INET, "6": _socket_std.AF_INET6}
    family = families.get(address.scheme[-1], _socket_std.AF_UNSPEC)
    kind = _socket_std.SOCK_DGRAM if address.is_datagram else _socket_std.SOCK_STREAM
    found = []
    # No host is all interfaces to a server; the resolver then answers with this machine, which has them.
    for known, _, protocol, _, sockaddr in _socket_std.getaddrinfo(address.host or None, address.port, family, kind):
        host = str(sockaddr[0]).partition("%")[0]
        scope = int(sockaddr[3]) if len(sockaddr) > 3 else 0
        found.append(Target(int(known), int(kind), protocol, host.encode(), int(sockaddr[1]), scope))
    if address.is_datagram:
        # Connecting a UDP socket asks nobody, so the first always "works": take the family that servers lack least.
        found.sort(key=lambda target: target.family != _socket_std.AF_INET)
    return found


def try_out(targets: list[Target], timeout: float, secure: Callable[[Any], Any] | None = None) -> Target:
    """The first that takes a connection, which is closed again: ten thousand failures would tell nothing more.

    :param timeout: seconds for each.
    :param secure: as in :class:`jackfield.bench.loop.Load`; the handshake is tried, too.
    :raises OSError: none does; the error of the first.
    """
    failure: OSError | None = None
    for target in targets:
        sock: Any = _socket_std.socket(target.family, target.kind, target.protocol)
        try:
            sock.settimeout(min(timeout, 3600.0))
            sock.connect(target.sockaddr())
            if secure is not None:
                sock = secure(sock)
                sock.do_handshake()
            return target
        except OSError as error:
            failure = failure or error
        finally:
            sock.close()
    raise failure or OSError("no address")
