"""How a connection ended, told from its socket and from what its handler let out; and who accounts for that."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket as _socket_std
from _socket import socket as _Raw
from typing import Any

from .connections import Connection
from .errors import LineTooLongError, MessageTooLargeError, ProxyError, TLSError
from .events import Reason
from .journal import Journal
from .reactor import GreenExit
from .reactor.bridges import ready_now

_log = logging.getLogger("jackfield.server")

# A plain number: the socket module's flags are Enums, and each | of them is a dozen calls in Python.
_PEEK = int(_socket_std.MSG_PEEK | _socket_std.MSG_DONTWAIT)

#: Being cut, and Ctrl-C.
GOES_ITS_WAY = (GreenExit, asyncio.CancelledError, KeyboardInterrupt)

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


#: Reasons beside which an error is the handler's own: nobody took the connection from under it.
_OF_THE_HANDLER = (None, Reason.HANDLER_ERROR)


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
    try:
        if _Raw.gettimeout(sock) and not ready_now(sock.fileno(), reading=True):
            return False  # CPython would wait for something to read, as long as the timeout says
        # recv(2): nothing is taken, and 0 bytes are the end.
        return not _Raw.recv(sock, 1, _PEEK)
    except (OSError, ValueError):
        return False  # closed by its handler


#: The exit code of the process of a connection. 0 is one of datagrams, and anything else a crash.
_EXIT_CODES = {reason: 100 + number for number, reason in enumerate(Reason)}
_REASONS = {0: Reason.HANDLER_RETURNED} | {code: reason for reason, code in _EXIT_CODES.items()}


def exit_code(reason: Reason) -> int:
    """What the process of a connection that ended for ``reason`` exits with."""
    return _EXIT_CODES[reason]


def reason_of_exit(code: int) -> Reason:
    """Why the connection ended whose process has exited with ``code``, or by a signal (below 0)."""
    return _REASONS.get(code, Reason.HANDLER_ERROR)


class Failures:
    """Accounts for every error that a handler let out: a connection's end, a fault of the handler's, or neither."""

    def __init__(self) -> None:
        #: Faults of handlers.
        self.count = 0
        #: What of it goes into the log.
        self.journal = Journal(_log)

    def account(self, peer: Any, error: BaseException, connection: Connection | None = None) -> None:
        """``error`` ended the serving of ``peer``. SystemExit ends its handler; being cut and Ctrl-C go their way."""
        if isinstance(error, GOES_ITS_WAY):
            raise error
        write = self.journal.write
        if is_departure(error):
            write(logging.DEBUG, "%s left: %s", ascii(peer), error, kind="peers that left", peer=peer)
        elif connection is not None and connection.reason not in _OF_THE_HANDLER and isinstance(error, OSError):
            # What a handler meets in the connection that was taken from under it.
            text = f"%s was ended ({connection.reason}): %s"
            write(logging.DEBUG, text, ascii(peer), error, kind="connections that were ended", peer=peer)
        else:
            self.count += 1
            write(
                logging.ERROR, "exception while serving %s", ascii(peer), kind="exceptions of handlers", error=error,
                peer=peer,
            )  # fmt: skip
