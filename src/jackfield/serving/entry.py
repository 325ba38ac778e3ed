"""The way in: what comes before the handler inside a connection's own unit, so that a silent client stops nobody.

PROXY header, then the limits once more for the address it tells, then the TLS handshake; all before one deadline.
"""

from __future__ import annotations

import socket as _socket_std
from dataclasses import dataclass, field
from typing import Any

from ..admission import Admission, PeerList
from ..connections import Connection, Connections
from ..deadlines import Deadlines
from ..errors import JackfieldError, MisuseError, ProxyError
from ..events import Reason
from ..proxyproto import LONGEST_HEADER, ProxyParser
from ..reactor import green
from ..socket import socket
from ..tls import TLS, AsyncTLSSocket, ServerTLS, start_server

__all__ = ["Entry", "ProxyRule", "RefusedError", "entry_of"]

#: Every bit of it is looked at, and none is taken.
_PEEK = int(_socket_std.MSG_PEEK)


@dataclass(frozen=True, slots=True)
class ProxyRule:
    """Connections begin with a PROXY header, and come from the proxies in ``allow_from`` only (loopback, unless said
    otherwise): from elsewhere anybody could claim any address. ``versions`` are those that are taken, 1 and 2."""

    allow_from: PeerList = field(default_factory=lambda: PeerList(["127.0.0.0/8", "::1"]))
    versions: frozenset[int] = frozenset({1, 2})

    def __post_init__(self) -> None:
        if not self.versions or not self.versions <= {1, 2}:
            raise MisuseError(f"no versions of the PROXY protocol: {set(self.versions)}: write 1, 2 or both")


class RefusedError(JackfieldError, ConnectionAbortedError):
    """The limits turn away whom a PROXY header names."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(f"turned away: {reason}")
        self.reason = reason


class Entry:
    """Lets one connection after the other in: safe from any thread."""

    def __init__(
        self, proxy: ProxyRule | None, tls: ServerTLS | None, admission: Admission, connections: Connections,
        deadlines: Deadlines,
    ) -> None:  # fmt: skip
        self.proxy = proxy
        self.tls = tls
        self._admission = admission
        self._connections = connections
        self._deadlines = deadlines

    def let_in(self, connection: Connection, sock: socket, deadlines: Deadlines | None = None) -> socket:
        """The socket that the handler gets. What it raises ends the connection; ``connection.reason`` says why where
        that is not plain from the error."""
        if self.proxy is not None:
            self._read_proxy_header(self.proxy, connection, sock)
        if self.tls is not None:
            sock = self._shake_hands(self.tls, connection, sock)
        (deadlines or self._deadlines).established(connection, sock.received)
        return sock

    async def alet_in(self, connection: Connection, sock: socket) -> socket:
        """The same for a coroutine: a green thread does it, as no handler is there yet whose cost could matter."""
        result: socket = await green(self.let_in, connection, sock)
        return result

    def _read_proxy_header(self, rule: ProxyRule, connection: Connection, sock: socket) -> None:
        if connection.peer not in rule.allow_from:
            raise ProxyError("not one of the proxies that may connect (proxy_allow_from)")
        parser = ProxyParser(rule.versions)
        while parser.header is None:
            seen = sock.recv(LONGEST_HEADER, _PEEK)
            if not seen:
                parser.feed_eof()
            # Exactly what belongs to the header is taken: what follows it is TLS's, or the handler's.
            left = parser.feed(seen)
            while left:
                left -= len(sock.recv(left))
        sock.proxy = header = parser.header
        if header.command == "PROXY" and header.source is not None:
            refusal = self._admission.readmit(connection.peer, header.source)
            if refusal is not None:
                raise RefusedError(Reason(refusal.value))
            connection.peer = header.source

    def _shake_hands(self, tls: ServerTLS, connection: Connection, sock: socket) -> socket:
        timeout = self._admission.limits.handshake_timeout
        deadline = None if timeout is None else connection.since + timeout
        proxy = sock.proxy

        def made(wrapped: socket) -> None:
            wrapped.proxy = proxy
            self._connections.exchange(connection, sock, wrapped)

        try:
            return start_server(sock, tls, deadline, made=made)
        except TimeoutError:
            connection.reason = connection.reason or Reason.HANDSHAKE_TIMEOUT
            raise


def async_socket(sock: socket, plain: Any, reactor: Any) -> Any:
    """What a coroutine handler gets for ``sock``: ``plain``'s kind, or the one that speaks TLS."""
    from ..tls import TLSSocket

    return AsyncTLSSocket(sock, reactor) if isinstance(sock, TLSSocket) else plain(sock, reactor)


def entry_of(
    proxy: ProxyRule | bool | None, tls: TLS | ServerTLS | None, admission: Admission, connections: Connections,
    deadlines: Deadlines,
) -> Entry | None:  # fmt: skip
    """The way in where there is one to go; None where a connection is its handler's at once."""
    if not proxy and tls is None:
        return None
    rule = ProxyRule() if proxy is True else proxy or None
    return Entry(rule, ServerTLS(tls) if isinstance(tls, TLS) else tls, admission, connections, deadlines)
