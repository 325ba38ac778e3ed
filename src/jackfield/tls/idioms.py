"""The ssl module's own sockets under a drop-in server: by what idioms programs for ``socketserver`` speak TLS.

``server.socket = context.wrap_socket(server.socket, server_side=True)`` makes each ``accept()`` shake hands, and
overriding ``get_request()`` to wrap what was accepted does the same: on the thread that accepts, where one client that
says nothing keeps all others waiting. What is accepted here has its handshake before it, for the connection's own unit.
"""

from __future__ import annotations

import errno
import os
import socket as _socket_std
import ssl
from time import monotonic
from typing import Any

from .blocking import TLSSocket
from .engine import TLSEngine
from .reasons import translated

#: Seconds for a TLS handshake where no limits say it: what ``Limits.handshake_timeout`` is by default.
HANDSHAKE_SECONDS = 5.0


def accepts_as_ssl_does(listener: Any) -> bool:
    """Whether ``listener`` is a listening ``ssl.SSLSocket`` whose ``accept()`` is nobody else's."""
    return isinstance(listener, ssl.SSLSocket) and type(listener).accept is ssl.SSLSocket.accept


def accept_unshaken(listener: ssl.SSLSocket) -> tuple[ssl.SSLSocket, Any]:
    """What ``listener.accept()`` would return, before its handshake."""
    plain, address = _socket_std.socket.accept(listener)
    try:
        plain.getpeername()
    except OSError:
        # The client is gone already. wrap_socket() finds it out too, and up to Python 3.12 forgets to close the socket.
        plain.close()
        raise ConnectionAbortedError(errno.ECONNABORTED, os.strerror(errno.ECONNABORTED)) from None
    try:
        sock = listener.context.wrap_socket(
            plain,
            server_side=True,
            do_handshake_on_connect=False,
            suppress_ragged_eofs=listener.suppress_ragged_eofs,  # type: ignore[attr-defined]
        )
    except BaseException:
        plain.close()
        raise
    # By this it is known that the handshake is still to come, and not left to the handler.
    sock.do_handshake_on_connect = listener.do_handshake_on_connect  # type: ignore[attr-defined]
    return sock, address


def cooperating(sock: ssl.SSLSocket) -> TLSSocket:
    """A socket of ours made of ``sock``, which was not used yet: one that waits in a green thread's way."""
    context = sock.context
    return TLSSocket._over(sock, TLSEngine.server(lambda _: context))


def shake(sock: Any, seconds: float | None) -> None:
    """The handshake, before so many seconds have passed.

    :raises TLSHandshakeError: it failed; ConnectionError: the client is gone; TimeoutError: it took too long.
    """
    if isinstance(sock, TLSSocket):
        sock._handshake(None if seconds is None else monotonic() + seconds)
        return
    patience = sock.gettimeout()
    if seconds is not None:
        if seconds <= 0.0:
            raise TimeoutError("timed out")
        # The ssl module takes a timeout for the whole of the handshake, however the client drips.
        sock.settimeout(seconds)
    try:
        sock.do_handshake()
    except ssl.SSLError as error:
        raise translated(error, in_handshake=True) from error
    except AttributeError:
        # What SSLSocket.shutdown() leaves behind, which Connection.close() calls from another thread.
        raise ConnectionAbortedError("the connection was ended before its TLS handshake") from None
    finally:
        if seconds is not None and sock.fileno() >= 0:
            sock.settimeout(patience)
