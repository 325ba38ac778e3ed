"""Plain blocking clients for a server under test: the standard library's sockets, with a timeout."""

from __future__ import annotations

import os
import socket as _socket_std
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from ..address import Address, parse_address

__all__ = ["CLIENT_SECONDS", "connect", "temporary_path"]

CLIENT_SECONDS = 10.0
"""The timeout of each call of a client: a test whose server does not answer fails instead of hanging."""

# To "all interfaces" nobody can connect; the machine's own address is the one that always answers.
_LOOPBACK = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}


def connect(address: str | int | Address, timeout: float | None = CLIENT_SECONDS) -> _socket_std.socket:
    """A standard-library socket connected to `address`; `timeout` is in seconds, for the connect and each later call.

    A datagram socket is connected too, so `send` and `recv` do. One to a Unix datagram server gets a name of its own
    (in Linux's abstract namespace, so no file is left), because without a name it could not be answered.

    Raises AddressError where the text is no address, OSError (ConnectionRefusedError, TimeoutError …) where nobody
    answers.
    """
    where = address if isinstance(address, Address) else parse_address(address)
    if where.scheme in ("fd", "systemd"):
        raise ValueError(f"nobody can connect to {where}: give the address that the socket is bound to")
    if not where.is_unix:
        host = _LOOPBACK.get(where.host, where.host)
        kind = _socket_std.SOCK_DGRAM if where.is_datagram else _socket_std.SOCK_STREAM
        families = {"4": _socket_std.AF_INET, "6": _socket_std.AF_INET6}
        family = families.get(where.scheme[-1], _socket_std.AF_UNSPEC)
        found = _socket_std.getaddrinfo(host, where.port, family, kind)
        return _connected(found[0][0], kind, found[0][4], timeout)
    path = "\0" + where.path[1:] if where.path.startswith("@") else where.path
    kinds = {
        "unix": _socket_std.SOCK_STREAM,
        "unixgram": _socket_std.SOCK_DGRAM,
        "unixpacket": _socket_std.SOCK_SEQPACKET,
    }
    return _connected(_socket_std.AF_UNIX, kinds[where.scheme], path, timeout)


def _connected(family: int, kind: int, sockaddr: object, timeout: float | None) -> _socket_std.socket:
    socket = _socket_std.socket(family, kind)
    try:
        socket.settimeout(timeout)
        if family == _socket_std.AF_UNIX and kind == _socket_std.SOCK_DGRAM:
            socket.bind("")  # Linux binds to a free abstract name (unix(7), "Autobind feature")
        socket.connect(sockaddr)  # type: ignore[arg-type]
    except BaseException:
        socket.close()
        raise
    return socket


@contextmanager
def temporary_path(address: str) -> Iterator[str]:
    """Yield `address`; one that is only a Unix scheme ("unix:", "unixgram:", "unixpacket:") with a path of its own.

    The path lies in a new directory that goes with the block.
    """
    if address not in ("unix:", "unixgram:", "unixpacket:"):
        yield address
        return
    with tempfile.TemporaryDirectory(prefix="jackfield-") as folder:
        yield address + os.path.join(folder, "s")
