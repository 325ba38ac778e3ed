"""TLS in the middle of a connection (STARTTLS), for a handler: its server is told, and no plaintext gets across."""

from __future__ import annotations

import contextlib
import io
import socket as _socket_std
from collections.abc import Callable, Iterator
from time import monotonic
from typing import TYPE_CHECKING, Any

from jackfield.events import Reason
from jackfield.messages import MessageReader
from jackfield.socket import socket

from .blocking import TLSSocket
from .idioms import HANDSHAKE_SECONDS
from .serving import Served, aupgrade, upgrade

if TYPE_CHECKING:
    from jackfield.limits import Limits

    from .awaiting import AsyncTLSSocket


def go_over(handler: Any, tls: Served, buffered: bytes, limits: Limits | None) -> TLSSocket:
    """The connection of a blocking-style handler over TLS: see ``BaseRequestHandler.start_tls``."""
    with _going_over(handler, handler.request) as made:
        return upgrade(handler.request, tls, buffered=buffered, deadline=_deadline(limits), made=made)


async def ago_over(handler: Any, tls: Served, buffered: bytes, limits: Limits | None) -> AsyncTLSSocket:
    """The same of a coroutine handler."""
    with _going_over(handler, getattr(handler.request, "socket", None)) as made:
        return await aupgrade(handler.request, tls, buffered=buffered, deadline=_deadline(limits), made=made)


def _deadline(limits: Limits | None) -> float | None:
    timeout = HANDSHAKE_SECONDS if limits is None else limits.handshake_timeout
    return None if timeout is None else monotonic() + timeout


@contextlib.contextmanager
def _going_over(handler: Any, sock: Any) -> Iterator[Callable[[TLSSocket], None]]:
    """What is to be handed the socket over TLS that ``sock`` is made into, so that the server knows its connection by
    it: the deadlines go on, and the server ends it."""
    find = getattr(handler.server, "_connection_of", None)
    connection = find(sock) if find is not None else None
    # Those of the old names let nobody in by a handshake of their own, and have no limit of them.
    streams = getattr(getattr(handler.server, "_service", None), "streams", None)
    if connection is not None and streams is not None and not streams.begin_handshake(connection):
        connection.close(Reason.LIMIT_HANDSHAKES)
        raise ConnectionAbortedError(
            "no TLS handshake: as many are under way as may be (max_handshakes); raise it, or let clients come again"
        )

    def made(wrapped: TLSSocket) -> None:
        if find is None or not isinstance(sock, socket):
            # A server that knows no connections will end the socket that it accepted, which is none any more.
            _close_at_the_end(handler, wrapped)
            return
        sock._gone_over = wrapped
        if connection is not None:
            connection._table.exchange(connection, sock, wrapped)

    try:
        yield made
    except TimeoutError:
        if connection is not None:
            connection.close(Reason.HANDSHAKE_TIMEOUT)
        raise
    finally:
        if connection is not None and streams is not None:
            streams.end_handshake(connection)


def _close_at_the_end(handler: Any, sock: TLSSocket) -> None:
    finish = handler.finish

    def finish_and_close() -> None:
        try:
            finish()
        finally:
            sock.close()

    handler.finish = finish_and_close


def unread(rfile: Any, sock: Any) -> bytes:
    """What ``rfile`` has taken from ``sock`` and nobody has read, and perhaps what has come since."""
    if not isinstance(rfile, io.BufferedReader):
        return b""
    patience = sock.gettimeout()
    sock.settimeout(0.0)  # peek() asks the kernel where nothing is left over, and is not to wait for it
    try:
        return rfile.read1(len(rfile.peek()))
    finally:
        sock.settimeout(patience)


def carry_over(file: Any, sock: TLSSocket) -> None:
    """Let ``file``, an ``rfile`` or ``wfile`` in which nothing is left over, go on by ``sock``: whoever iterates over
    its lines has this file in hand, and would never see another."""
    raw = getattr(file, "raw", file)
    if isinstance(raw, _socket_std.SocketIO):
        before, raw._sock = raw._sock, sock  # type: ignore[attr-defined]
        sock._io_refs += 1  # type: ignore[attr-defined]  # as makefile() counts, and SocketIO.close()
        before._decref_socketios()
    if isinstance(file, MessageReader):
        file._sock = sock
        file._has(0)  # what the handshake has received is of no message
    elif hasattr(file, "carry_over"):
        file.carry_over(sock)
