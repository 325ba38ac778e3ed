"""The way in: what comes before the handler inside a connection's own unit, so that a silent client stops nobody.

PROXY header, then the limits once more for the address it tells, then the TLS handshake; all before one deadline.
"""

from __future__ import annotations

import socket as _socket_std

from ..admission import Admission
from ..connections import Connection, Connections
from ..deadlines import Deadlines
from ..errors import ProxyError
from ..events import Reason
from ..proxyproto import LONGEST_HEADER, ProxyParser
from ..reactor import Reactor, green
from ..socket import socket
from ..streams import AsyncSocket
from ..tls import AsyncTLSSocket, ServerTLS, TLSSocket, start_server
from .choices import ProxyRule

__all__ = ["Entry"]

#: Every bit of it is looked at, and none is taken.
_PEEK = int(_socket_std.MSG_PEEK)


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
        #: Connections that are on their way in, by id.
        self._entering: set[int] = set()

    @property
    def full(self) -> bool:
        """Whether as many are on their way in as may be."""
        most = self._admission.limits.handshakes
        return most is not None and len(self._entering) >= most

    def begin(self, connection: Connection) -> None:
        """It is on its way in from now on."""
        connection.established = False
        self._entering.add(connection.id)

    def leave(self, connection: Connection) -> None:
        """It no longer is, if it was."""
        self._entering.discard(connection.id)

    def let_in(self, connection: Connection, sock: socket) -> socket:
        """The socket that the handler gets. What it raises ends the connection; ``connection.reason`` says why where
        that is not plain from the error."""
        if self.proxy is not None:
            self._read_proxy_header(self.proxy, connection, sock)
        if self.tls is not None:
            sock = self._shake_hands(self.tls, connection, sock)
        self.leave(connection)
        self._deadlines.established(connection, sock.received)
        return sock

    async def alet_in(self, connection: Connection, sock: socket) -> socket:
        """The same for a coroutine: a green thread does it, as no handler is there yet whose cost could matter."""
        result: socket = await green(self.let_in, connection, sock)
        return result

    def for_coroutine(self, sock: socket, reactor: Reactor | None) -> AsyncSocket | AsyncTLSSocket:
        """What a coroutine handler gets for ``sock``, which was let in."""
        return AsyncTLSSocket(sock, reactor) if isinstance(sock, TLSSocket) else AsyncSocket(sock, reactor)

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
                connection.reason = Reason(refusal.value)
                raise ConnectionAbortedError(f"turned away: {refusal.value}")
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
