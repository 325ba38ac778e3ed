"""The exceptions that Jackfield itself raises: one tree, in one place.

The type says whose fault it is.

- :class:`MisuseError`: the calling code used an object in a way that cannot work.
- :class:`AddressError`: a text that should be an address is none.
- :class:`StartError`: the machine refuses what the server needs (a port in use, a missing permission, no such module).
- :class:`ProxyError`: the peer was to begin with a PROXY header, and did not.
- :class:`TLSError`, :class:`TLSHandshakeError`: the peer does not keep to TLS, or not to what is asked of it here.
- :class:`ClosedSocketError`: your own program closed the socket while something waited on it.

What else the *peer* does stays what the standard library makes of it (``ConnectionResetError``, ``TimeoutError``, an
empty ``recv``): the drop-in modules hand every ``OSError`` on untouched.
"""

from __future__ import annotations

import errno
import os

__all__ = [
    "AddressError",
    "ClosedSocketError",
    "JackfieldError",
    "LineTooLongError",
    "MessageTooLargeError",
    "MisuseError",
    "ProxyError",
    "StartError",
    "TLSError",
    "TLSHandshakeError",
]


class JackfieldError(Exception):
    """The root of the errors that are Jackfield's own.

    :class:`ClosedSocketError` is not under it: it takes the place of the plain ``OSError`` that the standard library's
    socket raises after ``close``, and programs catch it as that.
    """


class MisuseError(JackfieldError, RuntimeError):
    """The caller used something wrongly; the message shows the right call."""


class AddressError(JackfieldError, ValueError):
    """A text is no address; the message, one line, says what to write instead."""


class StartError(JackfieldError):
    """A server could not start (bind, permission, import); the message, one line, says what to do about it."""


class ProxyError(JackfieldError, ConnectionAbortedError):
    """What a peer sent begins with no PROXY header, or with one that cannot be right.

    The message is one line, with the peer's bytes escaped and cut.  The connection cannot be used, since nobody knows
    whose it is; so this is also the ``ConnectionError`` that code around a connection takes for its end.  No system
    call failed: ``errno`` is None.
    """


class TLSError(JackfieldError, ConnectionError):
    """The peer broke the rules of TLS, and the connection can go no further; the message is one line.

    It is an ``OSError``, so that code which expects a connection to fail needs no new case. What a TLS socket raises is
    an ``ssl.SSLError`` as well where OpenSSL found the fault.
    """


class TLSHandshakeError(TLSError):
    """A TLS handshake failed; the message, one line without a byte of the peer's, says why."""


class LineTooLongError(JackfieldError, ValueError):
    """A line is longer than ``max_line``; what was read of it is gone. The server ends the connection, unless the
    handler catches this."""


class MessageTooLargeError(JackfieldError, ValueError):
    """More than ``max_message`` bytes were to be read at one go. The server ends the connection, unless the handler
    catches this."""


class ClosedSocketError(OSError):
    """A socket was closed, by this program, while someone waited on it.

    Its ``errno`` is ``EBADF``: the number that every call on a standard library socket fails with once it is closed,
    because its descriptor is then -1.  Code that checks the number needs no new case.
    """

    def __init__(self, message: str | None = None) -> None:
        """:param message: replaces the text that goes with ``EBADF``, e.g. to name who closed what."""
        super().__init__(errno.EBADF, message or f"{os.strerror(errno.EBADF)}: the socket was closed while in use")

    def __reduce__(self) -> tuple[type[ClosedSocketError], tuple[str | None]]:
        # OSError would rebuild itself from (errno, text), two arguments; this class takes one.
        return type(self), (self.strerror,)
