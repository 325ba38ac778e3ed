"""The ssl module's socket, waiting as a green thread does: for one whose handshake somebody has done already.

It cannot be made into a socket of ours: the state of the connection is OpenSSL's, which is bound to the descriptor. But
a non-blocking one says what it waits for, and that can be waited for in any way.
"""

from __future__ import annotations

import os
import socket as _socket_std
import ssl
from _socket import socket as _Raw
from collections.abc import Callable
from time import monotonic
from typing import Any, TypeVar

from greenlet import getcurrent

from jackfield.reactor import GreenThread
from jackfield.socket import socket

T = TypeVar("T")

_PEEK = int(_socket_std.MSG_PEEK)


def made_patient(sock: ssl.SSLSocket) -> bool:
    """Let ``sock``, from now on, hold up no green thread but the one that calls. False, and nothing has changed, for
    one of a class that a program has made itself, and where there is no descriptor left."""
    if type(sock) is not ssl.SSLSocket:
        return False
    patience = sock.gettimeout()
    try:
        # Its own descriptor, so that each of the two is closed once, by its owner.
        eye = socket(sock.family, sock.type, sock.proto, os.dup(sock.fileno()))
    except OSError:
        return False
    sock.settimeout(0.0)
    eye._switch()
    sock.__class__ = PatientSSLSocket
    assert isinstance(sock, PatientSSLSocket)
    sock._patience, sock._eye = patience, eye
    return True


class PatientSSLSocket(ssl.SSLSocket):
    """An ``ssl.SSLSocket`` that is non-blocking below, and waits by a socket of ours."""

    _patience: float | None = None
    #: A duplicate of its descriptor (dup(2)), which waits and reads nothing.
    _eye: socket

    def settimeout(self, value: float | None) -> None:
        if value is not None and value < 0:
            raise ValueError("Timeout value out of range")
        self._patience = value

    def gettimeout(self) -> float | None:
        return self._patience

    @property
    def timeout(self) -> float | None:
        return self._patience

    def setblocking(self, flag: bool) -> None:
        self._patience = None if flag else 0.0

    def getblocking(self) -> bool:
        return self._patience != 0.0

    def read(self, *args: Any, **kwargs: Any) -> Any:
        return self._patiently(lambda: ssl.SSLSocket.read(self, *args, **kwargs))

    def write(self, data: Any) -> int:
        return self._patiently(lambda: ssl.SSLSocket.write(self, data))

    def send(self, data: Any, flags: int = 0) -> int:
        return self._patiently(lambda: ssl.SSLSocket.send(self, data, flags))

    def do_handshake(self, block: bool = False) -> None:
        self._patiently(lambda: ssl.SSLSocket.do_handshake(self))

    def unwrap(self) -> _socket_std.socket:
        return self._patiently(lambda: ssl.SSLSocket.unwrap(self))

    def shutdown(self, how: int) -> None:
        # Of the connection, and not of TLS: who waits in read() on another green thread is to see its end.
        _socket_std.socket.shutdown(self, how)

    def _patiently(self, step: Callable[[], T]) -> T:
        deadline = None if self._patience is None else monotonic() + self._patience
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                if self._patience == 0.0:
                    raise
                eye = self._eye
                eye._attempt(lambda flags: _Raw.recv(eye, 1, flags | _PEEK), reading=True, deadline=deadline)  # noqa: B023
            except ssl.SSLWantWriteError:
                if self._patience == 0.0:
                    raise
                self._wait_writable(deadline)

    def _wait_writable(self, deadline: float | None) -> None:
        green, eye = getcurrent(), self._eye
        if isinstance(green, GreenThread):
            channel = eye._join(green.poller)
            assert channel is not None
            channel.writable = False  # as the kernel has just said: only then is its edge waited for
            eye._wait_writable(channel, green, deadline)
        else:
            eye._wait_in_thread(False, deadline)

    def _real_close(self) -> None:
        self._eye.close()
        super()._real_close()  # type: ignore[misc]

    def detach(self) -> int:
        self._eye.close()
        return super().detach()
