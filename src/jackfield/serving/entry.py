"""The way in: what comes before the handler inside a connection's own unit, so that a silent client stops nobody.

PROXY header, then the limits once more for the address it tells, then the TLS handshake; all before one deadline.
"""

from __future__ import annotations

import select
import socket as _socket_std
from _socket import socket as _Raw
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from ..address import Address
from ..connections import Connection
from ..door import Listener
from ..errors import ProxyError, StartError
from ..events import Reason
from ..guard import Guard
from ..proxyheader import ProxyHeader
from ..proxyproto import LONGEST_BEGINNING, LONGEST_HEADER, ProxyParser, begins_header
from ..reactor import Reactor, green, sleep
from ..socket import socket
from ..streams import AsyncSocket
from ..tls import TLS, AsyncTLSSocket, ServerTLS, TLSSocket, start_server
from .choices import ProxyRule

__all__ = ["Entry", "entries_of", "read_certificates"]

#: Every bit of it is looked at, and none is taken.
_PEEK = int(_socket_std.MSG_PEEK)
_PEEK_NOW = int(_socket_std.MSG_PEEK | _socket_std.MSG_DONTWAIT)

#: Linux alone has it. Elsewhere only the end of both directions is told, and who ends one waits for its deadline.
_RDHUP = int(getattr(select, "POLLRDHUP", 0))

#: What ``?proxy=`` of an address may say, beside ``off``.
_VERSIONS = {
    "auto": frozenset({1, 2}), "v1": frozenset({1}), "v2": frozenset({2}), "optional": frozenset({1, 2}),
}  # fmt: skip

#: The options of an address that are a field of :class:`~jackfield.tls.TLS`, and which.
_TLS_FIELDS = {
    "cert": "cert", "key": "key", "password_file": "password_file", "client_ca": "client_ca",
    "client_auth": "client_auth", "min": "min_version", "alpn": "alpn",
}  # fmt: skip

#: Seconds between two looks at a beginning that may be a header's or not: from the one, doubling, to the other.
_PAUSES = 0.001, 0.05


class Entry:
    """Lets one connection after the other in: safe from any thread."""

    def __init__(
        self, proxy: ProxyRule | None, tls: ServerTLS | None, guard: Guard, entering: set[int] | None = None
    ) -> None:
        self.proxy = proxy
        self.tls = tls
        self._guard = guard
        #: Connections that are on their way in, by id; other entries of the server put theirs there too.
        self._entering: set[int] = set() if entering is None else entering

    @property
    def full(self) -> bool:
        """Whether as many are on their way in as may be."""
        most = self._guard.limits.handshakes
        return most is not None and len(self._entering) >= most

    def begin(self, connection: Connection) -> None:
        """It is on its way in from now on."""
        self._entering.add(connection.id)

    def let_in_at_once(self, connection: Connection, sock: socket) -> bool:
        """Let it in without waiting, where a PROXY header is all that comes first and is there already: a proxy sends
        it as soon as it is connected. False, and nothing has happened, if that cannot be; then it :meth:`begin`s. What
        it raises ends the connection as with :meth:`let_in`."""
        rule = self.proxy
        if rule is None or not rule.required or self.tls is not None or connection.peer not in rule.allow_from:
            return False
        try:
            seen = _Raw.recv(sock, LONGEST_HEADER, _PEEK_NOW)
        except BlockingIOError:
            return False
        parser = ProxyParser(rule.versions)
        taken = parser.feed(seen)
        if parser.header is None:
            return False
        while taken:
            # Past the socket's own waiting: nobody waits on it yet, and it does not know where that will be.
            part = len(_Raw.recv(sock, taken))
            sock.received += part
            taken -= part
        self._introduce(connection, sock, parser.header)
        self._guard.deadlines.established(connection, sock.received)
        return True

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
        self._guard.deadlines.established(connection, sock.received)
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
            if not rule.required:
                return
            raise ProxyError("not one of the proxies that may connect (proxy_allow_from)")
        if not rule.required and not self._begins_with_header(connection, sock):
            return
        parser = ProxyParser(rule.versions)
        while parser.header is None:
            seen = sock.recv(LONGEST_HEADER, _PEEK)
            if not seen and not parser.taken:
                # Nobody has said anything wrong: HAProxy's plain check of a server ("check") connects and leaves.
                connection.reason = connection.reason or Reason.PEER_CLOSED
                raise ConnectionAbortedError("nothing was sent, not even a PROXY header")
            if not seen:
                parser.feed_eof()
            # Exactly what belongs to the header is taken: what follows it is TLS's, or the handler's.
            left = parser.feed(seen)
            while left:
                left -= len(sock.recv(left))
        self._introduce(connection, sock, parser.header)

    def _introduce(self, connection: Connection, sock: socket, header: ProxyHeader) -> None:
        """The client is who ``header`` says, if the limits let that one in."""
        sock.proxy = header
        if header.command == "PROXY" and header.source is not None:
            refusal = self._guard.admission.readmit(connection.peer, header.source)
            if refusal is not None:
                connection.reason = Reason(refusal.value)
                raise ConnectionAbortedError(f"turned away: {refusal.value}")
            connection.peer = header.source

    def _begins_with_header(self, connection: Connection, sock: socket) -> bool:
        """Whether what the client says first is a PROXY header; nothing of it is taken."""
        pause, longest = _PAUSES
        while True:
            # Asked before the look, so that nothing comes between the two that neither has seen.
            over = _is_over(sock)
            seen = sock.recv(LONGEST_BEGINNING, _PEEK)
            begins = begins_header(seen)
            if begins is not None:
                return begins
            if over or not seen:
                if connection.reason is not None:
                    raise ConnectionAbortedError(f"ended on its way in: {connection.reason}")
                return False
            # A few bytes as a header has them. To look again would show the same at once, and no readiness that is the
            # same everywhere tells of more (SO_RCVLOWAT is TCP's alone, SO_PEEK_OFF was long that of Unix sockets).
            sleep(pause)
            pause = min(2 * pause, longest)

    def _shake_hands(self, tls: ServerTLS, connection: Connection, sock: socket) -> socket:
        timeout = self._guard.limits.handshake_timeout
        deadline = None if timeout is None else connection.since + timeout
        proxy = sock.proxy

        def made(wrapped: socket) -> None:
            wrapped.proxy = proxy
            self._guard.connections.exchange(connection, sock, wrapped)

        try:
            return start_server(sock, tls, deadline, made=made)
        except TimeoutError:
            connection.reason = connection.reason or Reason.HANDSHAKE_TIMEOUT
            raise


def _is_over(sock: socket) -> bool:
    """Whether no more comes, though there may be something to read: the peer has ended its side, or this one has been
    shut down. MSG_PEEK never gets to the end that would tell it."""
    poll = select.poll()
    poll.register(sock.fileno(), _RDHUP)
    return bool(poll.poll(0))


# -- which of them a listener has --------------------------------------------------------------------------------------


def entries_of(
    listeners: Iterable[Listener], proxy: ProxyRule | None, tls: ServerTLS | None, guard: Guard, entering: set[int]
) -> tuple[Entry | None, dict[Listener, Entry | None]]:
    """What comes before the handler where the address of a listener says nothing of it, and for those that do.

    ``proxy`` holds for each stream whose address does not say ``proxy=``. ``tls`` holds for the listeners whose scheme
    is one of TLS, with what their options say in its place; and for every stream if there is no such listener.

    :raises StartError: there is no certificate for one of them, or there is something wrong with it.
    """
    streams = [listener for listener in listeners if not listener.is_datagram]
    usual_tls = None if any(listener.address.is_tls for listener in streams) else tls
    served: dict[Address, ServerTLS] = {}  # a name may have several listeners, and its files are read once
    own: dict[Listener, Entry | None] = {}
    for listener in streams:
        address = listener.address
        if address.asks_for_entry:
            if address.is_tls and address not in served:
                served[address] = listener.tls or _tls_of(address, tls)
            own[listener] = _entry(_proxy_of(address, proxy), served.get(address, usual_tls), guard, entering)
    return _entry(proxy, usual_tls, guard, entering), own


def read_certificates(listeners: Iterable[Listener], tls: ServerTLS | None) -> None:
    """Read the certificates that addresses of their own name before there is a server: by who may do so then, and no
    longer may when it serves.

    :raises StartError: as :func:`entries_of`.
    """
    read: dict[Address, ServerTLS] = {}
    for listener in listeners:
        address = listener.address
        if address.is_tls:
            if address not in read:
                read[address] = _tls_of(address, tls)
            listener.tls = read[address]


def _entry(proxy: ProxyRule | None, tls: ServerTLS | None, guard: Guard, entering: set[int]) -> Entry | None:
    return None if proxy is None and tls is None else Entry(proxy, tls, guard, entering)


def _proxy_of(address: Address, proxy: ProxyRule | None) -> ProxyRule | None:
    said = dict(address.options).get("proxy")
    if said is None or said == "off":
        return proxy if said is None else None
    if said not in _VERSIONS:  # of an Address that was not parsed
        raise StartError(f"cannot listen on {address}: no way to have a PROXY header: {said!r}; write e.g. proxy=auto")
    return replace(proxy or ProxyRule(), versions=_VERSIONS[said], required=said != "optional")


def _tls_of(address: Address, tls: ServerTLS | None) -> ServerTLS:
    said: dict[str, Any] = {_TLS_FIELDS[name]: value for name, value in address.options if name in _TLS_FIELDS}
    if not said and tls is not None:
        return tls
    if tls is None and "cert" not in said:
        raise StartError(
            f"cannot listen on {address}: no certificate; add ?cert=FILE&key=FILE, or give the server one for all"
            " (tls=TLS(cert, key), --tls-cert FILE)"
        )
    usual = tls.tls if tls is not None else TLS(said["cert"])
    if "cert" in said:  # the usual key does not belong to it
        said = {"key": None, "password_file": None, "more": (), **said}
    if "alpn" in said:
        said["alpn"] = tuple(said["alpn"].split(","))
    if "client_ca" in said and usual.client_auth == "none":
        said.setdefault("client_auth", "required")
    elif said.get("client_auth") == "none":
        said.setdefault("client_ca", None)
    try:
        return ServerTLS(replace(usual, **said))
    except (ValueError, StartError) as error:
        raise StartError(f"cannot listen on {address}: {error}") from None
