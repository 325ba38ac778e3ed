"""Between the engine and the kernel: records in order, whole, and by one at a time in each direction.

One reader and one writer may be at work at the same time. Three locks see to that. ``_step`` is held for the engine's
steps alone, which never wait: OpenSSL's object is for one thread at a time. Who reads holds ``_reading`` from taking
bytes off the wire to decrypting them, and who sends holds ``_sending`` from encrypting to the kernel, so that records
are decrypted in the order in which they came and leave in the order in which they were numbered. A reader to whom
OpenSSL gives something to send (the answer to a key update, an alert) leaves it to the writer where there is one.
"""

from __future__ import annotations

import errno
import os
import socket as _socket_std
import ssl
from _socket import socket as _Raw
from _thread import LockType, allocate_lock
from time import monotonic
from typing import Any, NoReturn, Self

from jackfield.errors import MisuseError
from jackfield.reactor import in_green, loop_runs_here
from jackfield.socket import socket

from .engine import CHUNK, TLSEngine
from .manners import SSLManners

_DONTWAIT = int(getattr(_socket_std, "MSG_DONTWAIT", 0))

# The methods for the wire, of which the native twin has its own.
_recv, _sendall = socket.recv, socket.sendall


class WouldBlockReading(ssl.SSLWantReadError, BlockingIOError):
    """A non-blocking TLS socket has no text yet: what ``ssl`` and what ``socket`` would raise, in one."""


class WouldBlockWriting(ssl.SSLWantWriteError, BlockingIOError):
    """The kernel takes no more from a non-blocking TLS socket: call again with the same data."""


def would_block(kind: type[BlockingIOError]) -> BlockingIOError:
    return kind(errno.EAGAIN, os.strerror(errno.EAGAIN))


class TLSWire(SSLManners, socket):
    """A socket whose descriptor carries records, and the engine that makes them."""

    __slots__ = ("_engine", "_reading", "_sending", "_step")

    _engine: TLSEngine
    _step: LockType
    _reading: LockType
    _sending: LockType

    @classmethod
    def _over(cls, sock: _socket_std.socket, engine: TLSEngine) -> Self:
        """Takes the descriptor of a connected socket, which is closed by that, and all its settings."""
        if sock.fileno() < 0:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if sock.type & 0xF != _socket_std.SOCK_STREAM:
            raise MisuseError("TLS needs a stream socket: tcp:// or unix:")
        self = cls.__new__(cls)
        family, kind, proto, patience = int(sock.family), int(sock.type), sock.proto, sock.gettimeout()
        ours, channel, switched = isinstance(sock, socket), None, False
        received = sent = 0
        if isinstance(sock, socket):
            # Its place in the reactor moves along: leaving and entering again would be two system calls.
            received, sent, switched = sock.received, sock.sent, sock._switched
            channel, sock._registered, sock._channel, sock._user = sock._registered, None, None, None
            short_is_empty, proxy = sock._short_is_empty, sock.proxy
        _Raw.__init__(self, family, kind, proto, sock.detach())
        self._io_refs, self._closed = 0, False  # type: ignore[attr-defined]
        self._begin()
        if ours:
            self.received, self.sent, self.proxy, self._short_is_empty = received, sent, proxy, short_is_empty
            if channel is not None and channel.poller is not None:
                self._registered = channel
        if switched:
            _Raw.settimeout(self, 0.0)
            self._patience, self._switched = patience, True
        elif self._patience != patience:
            self.settimeout(patience)
        if self._registered is not None and patience != 0.0 and (patience is None or switched):
            self._channel = self._registered
        engine.given = sent
        self._engine = engine
        self._step, self._reading, self._sending = allocate_lock(), allocate_lock(), allocate_lock()
        return self

    def _until(self) -> float | None:
        """When the patience with a call that begins now is over; None where there is no waiting, or no end of it."""
        return monotonic() + self._patience if self._patience else None

    def _claim(self, lock: Any, what: str, deadline: float | None) -> None:
        """A plain thread waits for the other. A green thread cannot, and two of them at one direction are a mistake."""
        if lock.acquire(False):
            return
        if in_green() or loop_runs_here():
            raise MisuseError(f"another one {what} this TLS socket at the moment: let one do it, or take a lock")
        if self._patience == 0.0:
            raise would_block(WouldBlockReading if lock is self._reading else WouldBlockWriting)
        if not lock.acquire(True, -1 if deadline is None else max(0.0, deadline - monotonic())):
            raise TimeoutError("timed out")

    # -- from the kernel ---------------------------------------------------------------------------------------------

    def _receive_raw(self, deadline: float | None) -> bytes:
        """Bytes of the wire, within a patience that several calls share."""
        if self._patience == 0.0:
            try:
                return _recv(self, CHUNK)
            except BlockingIOError as error:
                raise would_block(WouldBlockReading) from error
        if deadline is None:
            return _recv(self, CHUNK)
        while True:
            try:
                if self._waits_itself():
                    data = self._attempt(lambda f: _Raw.recv(self, CHUNK, f), reading=True, deadline=deadline)
                else:
                    self._wait_in_thread(True, deadline)
                    data = _Raw.recv(self, CHUNK, _DONTWAIT)
            except BlockingIOError:
                continue  # a readiness that came to nothing (select(2))
            self.received += len(data)
            return data

    # -- to the kernel -----------------------------------------------------------------------------------------------

    def _push(self, deadline: float | None) -> None:
        """All that is to be sent, to the kernel; for who holds ``_sending``. What it does not take is kept."""
        engine = self._engine
        while True:
            out = engine.unsent
            if not out:
                with self._step:
                    out = engine.take()
                if not out:
                    return
            engine.unsent = b""
            try:
                if deadline is None:
                    _sendall(self, out)
                else:
                    self._send_through(out, 0, deadline)
            except BaseException as error:
                self._keep(out, error, 0)

    def _keep(self, out: bytes, error: BaseException, text: int) -> NoReturn:
        """What the kernel did not take of ``out`` goes first with whatever is sent next: a record is whole or none."""
        engine = self._engine
        left = engine.given - self.sent
        engine.unsent = out[-left:] if left > 0 else b""
        if isinstance(error, BlockingIOError):
            error = would_block(WouldBlockWriting)
        if isinstance(error, OSError):
            error.bytes_sent = text  # type: ignore[attr-defined]
        raise error

    def _flush_left(self, deadline: float | None) -> None:
        """What OpenSSL wants sent beside the text. Whoever sends at this moment does it in the end, so it looks again
        after it has let go, and nothing is left lying."""
        engine = self._engine
        while engine.outgoing.pending and self._sending.acquire(False):
            try:
                self._push(deadline)
            except BlockingIOError:
                return
            finally:
                self._sending.release()

    def _flush_now(self) -> None:
        """The same without waiting and without a word about failing: the end of it all."""
        engine = self._engine
        if not self._sending.acquire(False):
            return  # in the middle of a record nothing else can be said
        try:
            while out := engine.unsent or engine.take():
                engine.unsent = out
                taken = _Raw.send(self, out, _DONTWAIT)
                self.sent += taken
                engine.unsent = out[taken:]
        except OSError:
            pass
        finally:
            self._sending.release()
