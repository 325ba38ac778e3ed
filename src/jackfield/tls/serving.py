"""From a connected socket to one that speaks TLS, on the connection's own unit and before a deadline."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jackfield.errors import TLSError
from jackfield.reactor import green
from jackfield.socket import socket
from jackfield.streams import AsyncSocket

from .awaiting import AsyncTLSSocket
from .blocking import TLSSocket
from .contexts import ServerTLS
from .engine import TLSEngine
from .hello import ClientHello


def start_server(
    sock: socket,
    tls: ServerTLS | ssl.SSLContext,
    deadline: float | None = None,
    *,
    made: Callable[[TLSSocket], object] = lambda _: None,
) -> TLSSocket:
    """The server's side of the handshake, on the thread or green thread that calls. ``sock`` is closed by it: what is
    returned owns the descriptor, with the same timeout.

    :param deadline: when it must be done, in monotonic seconds; None waits as long as the client does.
    :param made: is handed the new socket before the handshake begins, to end it from elsewhere.
    :raises TLSHandshakeError: it failed; the message, one line without a byte of the client's, says why.
    :raises ConnectionResetError: the client hung up before it said anything.
    :raises TimeoutError: the deadline passed.
    """
    wrapped = TLSSocket._over(sock, TLSEngine.server(_chooser(tls)))
    made(wrapped)
    return _shaken(wrapped, deadline)


def start_client(
    sock: socket,
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
    sock: socket, tls: ServerTLS | ssl.SSLContext, *, buffered: bytes = b"", deadline: float | None = None
) -> TLSSocket:
    """Go over to TLS on a connection that is in use, on the server's side: as :func:`start_server`.

    :param buffered: what was received already and not yet looked at, by whatever reads lines from ``sock``.
    :raises TLSError: there is something in ``buffered``. It came in plaintext, from anybody on the way, and would be
        taken for what the client says under TLS (CVE-2011-0411, CVE-2024-34083).
    """
    _refuse_plaintext(buffered)
    return start_server(sock, tls, deadline)


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
    sock: AsyncSocket, tls: ServerTLS | ssl.SSLContext, *, buffered: bytes = b"", deadline: float | None = None
) -> AsyncTLSSocket:
    """:func:`upgrade` for a coroutine."""
    _refuse_plaintext(buffered)
    return await astart_server(sock, tls, deadline)


def _chooser(tls: ServerTLS | ssl.SSLContext) -> Callable[[ClientHello], ssl.SSLContext]:
    return tls.choose if isinstance(tls, ServerTLS) else lambda _: tls


def _shaken(sock: TLSSocket, deadline: float | None) -> TLSSocket:
    try:
        sock._handshake(deadline)
    except BaseException:
        sock.close()
        raise
    return sock


def _refuse_plaintext(buffered: bytes) -> None:
    if buffered:
        raise TLSError(
            f"{len(buffered)} bytes of plaintext came behind the command that starts TLS: close the connection, and "
            "process none of them"
        )


@dataclass(frozen=True, slots=True)
class TLSInfo:
    """What two sides have agreed upon. ``version`` is ``"TLSv1.3"`` or ``"TLSv1.2"``; ``cipher`` OpenSSL's name;
    ``sni`` the name the client asked for; ``alpn`` the protocol; ``peer_certificate`` as ``getpeercert()`` tells it,
    None if there is none; ``resumed`` whether an earlier session was taken up."""

    version: str
    cipher: str
    sni: str | None
    alpn: str | None
    peer_certificate: dict[str, Any] | None
    resumed: bool


def tls_info(sock: Any) -> TLSInfo | None:
    """What was agreed on this connection; None where it does not speak TLS. Also for an ``ssl.SSLSocket``."""
    sock = getattr(sock, "socket", sock)
    if not isinstance(sock, TLSSocket | ssl.SSLSocket):
        return None
    version, cipher = sock.version(), sock.cipher()
    if version is None or cipher is None:
        return None
    return TLSInfo(
        version=version,
        cipher=cipher[0],
        sni=sock.server_hostname,
        alpn=sock.selected_alpn_protocol(),
        peer_certificate=sock.getpeercert() or None,
        resumed=bool(sock.session_reused),
    )
