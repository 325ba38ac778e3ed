"""From a connected socket to one that speaks TLS, on the connection's own unit and before a deadline."""

from __future__ import annotations

import errno
import functools
import socket as _socket_std
import ssl
from collections.abc import Callable
from time import monotonic
from typing import Any

from jackfield.errors import MisuseError
from jackfield.reactor import green
from jackfield.socket import socket
from jackfield.streams import AsyncSocket

from .awaiting import AsyncTLSSocket
from .blocking import TLSSocket
from .config import TLS
from .contexts import ServerTLS
from .engine import TLSEngine
from .hello import HANDSHAKE, ClientHello
from .info import TLSInfo, agreed
from .reasons import PeerHandshakeError

#: What a server's side may be given: files yet to be read, those that were, or the ssl module's own.
Served = TLS | ServerTLS | ssl.SSLContext

_NO_CONNECTION = "TLS needs a connection: call it where the request is a stream socket, of tcp:// or unix:"

_PEEK = int(_socket_std.MSG_PEEK)


def start_server(
    sock: socket,
    tls: ServerTLS | ssl.SSLContext,
    deadline: float | None = None,
    *,
    made: Callable[[TLSSocket], object] = lambda _: None,
    early: bytes = b"",
) -> TLSSocket:
    """The server's side of the handshake, on the thread or green thread that calls. ``sock`` is closed by it: what is
    returned owns the descriptor, with the same timeout.

    :param deadline: when it must be done, in monotonic seconds; None waits as long as the client does.
    :param made: is handed the new socket before the handshake begins, to end it from elsewhere.
    :param early: what was received of the handshake already.
    :raises TLSHandshakeError: it failed; the message, one line without a byte of the client's, says why.
    :raises ConnectionResetError: the client hung up before it said anything.
    :raises TimeoutError: the deadline passed.
    """
    wrapped = TLSSocket._over(sock, TLSEngine.server(_chooser(tls)))
    made(wrapped)
    if early:
        wrapped._engine.feed(early)
    return _shaken(wrapped, deadline)


def start_client(
    sock: _socket_std.socket,
    server_hostname: str | None,
    context: ssl.SSLContext | None = None,
    deadline: float | None = None,
    *,
    session: ssl.SSLSession | None = None,
) -> TLSSocket:
    """The client's side, as :func:`start_server`. ``context`` is ``ssl.create_default_context()`` by default, which
    checks that the certificate is for ``server_hostname``."""
    engine = TLSEngine.client(context or ssl.create_default_context(), server_hostname, session)
    return _shaken(TLSSocket._over(sock, engine), deadline)


def upgrade(
    sock: socket,
    tls: Served,
    *,
    buffered: bytes = b"",
    deadline: float | None = None,
    made: Callable[[TLSSocket], object] = lambda _: None,
) -> TLSSocket:
    """Go over to TLS on a connection that is in use, on the server's side: as :func:`start_server`. A :class:`TLS` is
    read once, at its first use.

    :param buffered: what was received already and not yet looked at, by whatever reads lines from ``sock``.
    :raises TLSHandshakeError: what comes first, in ``buffered`` or from the client, does not begin a handshake. It came
        in plaintext, from anybody on the way, and would be taken for what the client says under TLS (CVE-2011-0411,
        CVE-2024-34083). ``sock`` is left open, as after the following.
    :raises MisuseError: ``sock`` speaks TLS already, or is no stream socket.
    :raises TimeoutError: the deadline passed; ``sock`` is left open if nothing had come.
    """
    if not isinstance(sock, _socket_std.socket) or sock.type & 0xF != _socket_std.SOCK_STREAM:
        raise MisuseError(_NO_CONNECTION)
    if isinstance(sock, TLSSocket | ssl.SSLSocket):
        raise MisuseError("this connection speaks TLS already: call it once, and where request.tls is None")
    _refuse_plaintext(buffered or _first_byte(sock, deadline), len(buffered))
    return start_server(sock, _read(tls) if isinstance(tls, TLS) else tls, deadline, made=made, early=buffered)


#: A TLS that is named again and again, by each handler, is read once. ServerTLS itself is what can be read again.
_read = functools.cache(ServerTLS)


def _first_byte(sock: socket, deadline: float | None) -> bytes:
    """The first byte that the client sends, which stays where it is."""
    patience = sock.gettimeout()
    if deadline is None and patience == 0.0:
        return b""  # who does not wait is told by the handshake that he would have to
    if deadline is not None:
        left = deadline - monotonic()
        if left <= 0.0:
            raise TimeoutError("timed out")
        sock.settimeout(left)
    try:
        first = sock.recv(1, _PEEK)
    finally:
        if deadline is not None and sock.fileno() >= 0:
            sock.settimeout(patience)
    if not first:
        raise ConnectionResetError(errno.ECONNRESET, "the peer hung up before the TLS handshake")
    return first


async def astart_server(
    sock: AsyncSocket, tls: ServerTLS | ssl.SSLContext, deadline: float | None = None
) -> AsyncTLSSocket:
    """:func:`start_server` for a coroutine."""
    return AsyncTLSSocket(await green(start_server, sock.socket, tls, deadline), sock._reactor)


async def astart_client(
    sock: AsyncSocket,
    server_hostname: str | None,
    context: ssl.SSLContext | None = None,
    deadline: float | None = None,
    *,
    session: ssl.SSLSession | None = None,
) -> AsyncTLSSocket:
    """:func:`start_client` for a coroutine."""
    started = await green(start_client, sock.socket, server_hostname, context, deadline, session=session)
    return AsyncTLSSocket(started, sock._reactor)


async def aupgrade(
    sock: AsyncSocket,
    tls: Served,
    *,
    buffered: bytes = b"",
    deadline: float | None = None,
    made: Callable[[TLSSocket], object] = lambda _: None,
) -> AsyncTLSSocket:
    """:func:`upgrade` for a coroutine."""
    if not isinstance(sock, AsyncSocket):
        raise MisuseError(_NO_CONNECTION)
    upgraded = await green(upgrade, sock.socket, tls, buffered=buffered, deadline=deadline, made=made)
    return AsyncTLSSocket(upgraded, sock._reactor)


def _chooser(tls: ServerTLS | ssl.SSLContext) -> Callable[[ClientHello], ssl.SSLContext]:
    return tls.choose if isinstance(tls, ServerTLS) else lambda _: tls


def _shaken(sock: TLSSocket, deadline: float | None) -> TLSSocket:
    try:
        sock._handshake(deadline)
    except BaseException:
        sock.close()
        raise
    return sock


def _refuse_plaintext(first: bytes, counted: int) -> None:
    """``first`` is what comes first, and must begin a handshake: what does not is never given to anybody."""
    if first and not first.startswith(HANDSHAKE):
        much = f"{counted} bytes of plaintext came" if counted else "plaintext came"
        raise PeerHandshakeError(
            ssl.SSL_ERROR_SSL,
            f"{much} behind the command that starts TLS: close the connection, and process none of it",
        )


def tls_info(sock: Any) -> TLSInfo | None:
    """What was agreed on this connection; None where it does not speak TLS. Also for an ``ssl.SSLSocket``."""
    sock = getattr(sock, "socket", sock)
    if not isinstance(sock, TLSSocket | ssl.SSLSocket):
        return None
    return agreed(sock)
