"""How a connection ended, told from its socket and from what its handler let out."""

from __future__ import annotations

import errno
import select
import socket as _socket_std
from _socket import socket as _Raw
from typing import Any

from ..errors import LineTooLongError, MessageTooLargeError, ProxyError, TLSError
from ..events import Reason

#: Ends of a connection that the peer made: no fault of the handler's.
PEER_LEFT = (ConnectionResetError, ConnectionAbortedError, BrokenPipeError)

_OF_ERRORS: tuple[tuple[type[BaseException], Reason], ...] = (
    (LineTooLongError, Reason.LIMIT_LINE),
    (MessageTooLargeError, Reason.LIMIT_MESSAGE),
    (ProxyError, Reason.PROXY_ERROR),
    (TLSError, Reason.TLS_ERROR),
    (_socket_std.timeout, Reason.HANDLER_ERROR),
    (ConnectionError, Reason.PEER_RESET),
)


def is_departure(error: BaseException) -> bool:
    """Whether ``error`` only says that the peer has gone, or that it broke a rule, which is told by the reason."""
    return isinstance(error, (*PEER_LEFT, ProxyError, TLSError, LineTooLongError, MessageTooLargeError)) or (
        # Of a call on a connection whose reset another call was told.
        isinstance(error, OSError) and error.errno == errno.ENOTCONN
    )


def reason_of(sock: Any, error: BaseException | None) -> Reason:
    """Why a connection ends whose handler returned, or let ``error`` out, where nobody has ended it from outside."""
    if error is None:
        return Reason.PEER_CLOSED if has_ended(sock) else Reason.HANDLER_RETURNED
    for kind, reason in _OF_ERRORS:
        if isinstance(error, kind):
            return reason
    if isinstance(error, OSError) and error.errno == errno.ENOTCONN:
        return Reason.PEER_RESET
    return Reason.HANDLER_ERROR


def has_ended(sock: Any) -> bool:
    """Whether the peer has ended its side, and all it sent was read."""
    channel = getattr(sock, "_registered", None)
    if channel is not None and not channel.hangup:
        return False  # epoll tells of the end when it comes (EPOLLRDHUP)
    try:
        if _Raw.gettimeout(sock) and not _is_readable(sock):
            return False  # CPython would wait for something to read, as long as the timeout says
        # recv(2): nothing is taken, and 0 bytes are the end.
        return not _Raw.recv(sock, 1, _socket_std.MSG_PEEK | _socket_std.MSG_DONTWAIT)
    except (OSError, ValueError):
        return False  # closed by its handler


def _is_readable(sock: Any) -> bool:
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLIN)
    return bool(poll.poll(0))
