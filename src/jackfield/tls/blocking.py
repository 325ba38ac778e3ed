"""The TLS socket for blocking-style code: one source for threads, processes and green threads.

How it takes turns with others on one connection is :mod:`.wire`.
"""

from __future__ import annotations

import errno
import socket as _socket_std
import ssl
from _socket import socket as _Raw
from collections.abc import Callable, Iterator
from time import monotonic
from typing import IO, TYPE_CHECKING, Any, NoReturn, TypeVar

from jackfield.reactor import in_green, loop_runs_here
from jackfield.socket import _GiveupOnSendfile, socket

from .engine import BATCH, FIRST, RECORD
from .reasons import PeerHandshakeError
from .wire import TLSWire, WouldBlockReading, WouldBlockWriting, would_block

if TYPE_CHECKING:
    from typing_extensions import Buffer

T = TypeVar("T")

#: Seconds that ``shutdown(SHUT_WR)`` waits at most until the kernel has taken the goodbye.
GOODBYE_SECONDS = 5.0

# The methods for the wire, of which the native twin has its own.
_recv, _sendall = socket.recv, socket.sendall


class TLSSocket(TLSWire):
    """A connected socket that speaks TLS: the methods of ``socket.socket`` carry text, and those of ``ssl.SSLSocket``
    are there. Made by :func:`~jackfield.tls.start_server`, :func:`~jackfield.tls.start_client` and
    :func:`~jackfield.tls.upgrade`.

    A timeout is the patience with one call, however many records that takes. ``received`` and ``sent`` count bytes on
    the wire. ``bytes_sent`` of a ``sendall()`` that failed counts text that is part of the stream now: what the kernel
    has not taken of it goes first with the next call. A stream that ends without the peer's goodbye ends as any other,
    with ``b""``, as the ssl module's default is (``suppress_ragged_eofs``); :attr:`truncated` tells. ``close()`` says
    goodbye if the kernel takes it at once and waits for nothing.
    """

    __slots__ = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise TypeError("a TLSSocket is made from a connected socket: call jackfield.tls.start_server(sock, tls)")

    # -- the handshake -----------------------------------------------------------------------------------------------

    def do_handshake(self, block: bool = False) -> None:
        """The handshake, with the socket's patience for all of it; nothing if it is done. With ``block`` a non-blocking
        socket waits as well."""
        if block and self._patience == 0.0:
            self.settimeout(None)
            try:
                self._handshake(None)
            finally:
                self.settimeout(0.0)
        else:
            self._handshake(self._until())

    def _handshake(self, deadline: float | None) -> None:
        engine = self._engine
        if engine.established:
            return
        self._claim(self._reading, "receives from", deadline)
        before = self.received
        try:
            while True:
                try:
                    with self._step:
                        done = engine.handshake()
                except OSError:
                    self._flush_now()  # the alert that tells the peer
                    raise
                if done:
                    break
                self._flush_left(deadline)
                data = self._receive_raw(deadline)
                if not data:
                    self._hung_up(self.received > before or engine.begun)
                with self._step:
                    engine.feed(data)
        finally:
            self._reading.release()
        try:
            self._flush_left(deadline)
        except (BrokenPipeError, ConnectionResetError):
            pass  # tickets for a client that sent all it had to say and is gone; what it sent can be read

    def _hung_up(self, begun: bool) -> NoReturn:
        if not begun:
            raise ConnectionResetError(errno.ECONNRESET, "the peer hung up before the TLS handshake")
        raise PeerHandshakeError(ssl.SSL_ERROR_EOF, "the peer hung up in the middle of the TLS handshake")

    # -- receiving ---------------------------------------------------------------------------------------------------

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        """At most ``bufsize`` bytes of text, as soon as there are any; ``b""`` when the peer has ended its side.
        ValueError for flags; TLSError for what cannot be right."""
        engine = self._engine
        if engine.more or flags or bufsize < 1 or not self._reading.acquire(False):
            return self._recv_slowly(bufsize, flags)
        # The way of nearly every message, written out: nothing is left over, and one call receives whole records.
        try:
            try:
                data = _recv(self, FIRST)
            except BlockingIOError as error:
                raise would_block(WouldBlockReading) from error
            with self._step:
                if data:
                    engine.incoming.write(data)
                else:
                    engine.feed(data)
                text = engine.read(bufsize)
            if engine.outgoing.pending:
                self._flush_left(self._until())
            return text if text is not None else self._receive(lambda: engine.read(bufsize))
        finally:
            self._reading.release()

    def _recv_slowly(self, bufsize: int, flags: int) -> bytes:
        """``recv()`` in full."""
        if not self._wants_text(bufsize, flags):
            return b""
        self._claim(self._reading, "receives from", self._until())
        try:
            return self._receive(lambda: self._engine.read(bufsize))
        finally:
            self._reading.release()

    def recv_into(self, buffer: Buffer, nbytes: int = 0, flags: int = 0) -> int:
        """As :meth:`recv`, into ``buffer``; returns the number of bytes."""
        self._refuse_flags(flags, "recv_into")
        with memoryview(buffer) as whole, whole.cast("B") as view:
            size = nbytes or len(view)
            if size < 0:
                raise ValueError("negative buffersize in recv_into")
            if size > len(view):
                raise ValueError("buffer too small for requested bytes")
            if size == 0:
                return 0
            self._claim(self._reading, "receives from", self._until())
            try:
                return self._receive(lambda: self._engine.read_into(size, view))
            finally:
                self._reading.release()

    def _receive(self, step: Callable[[], T | None]) -> T:
        """``step()`` until it has something, for who holds ``_reading``."""
        engine, deadline = self._engine, self._until()
        while True:
            result = None
            if engine.more:
                with self._step:
                    result = step()
                if engine.outgoing.pending:
                    self._flush_left(deadline)
            if result is not None:
                return result
            data = self._receive_raw(deadline)
            with self._step:
                engine.feed(data)
                engine.more = True

    # -- sending -----------------------------------------------------------------------------------------------------

    def sendall(self, data: Buffer, flags: int = 0, /) -> None:
        """Send all of ``data``, or raise; the exception's ``bytes_sent`` tells how much is part of the stream."""
        if flags or data.__class__ is not bytes or not 0 < len(data) <= RECORD or not self._sending.acquire(False):
            self._sendall_slowly(data, flags)
            return
        # The way of nearly every answer, written out: one record, which the kernel takes at once.
        engine = self._engine
        try:
            if engine.unsent:
                self._send_batches(data, self._until())
                return
            with self._step:
                engine.write(data)
                out = engine.outgoing.read()
            engine.given += len(out)
            try:
                _sendall(self, out)
            except BaseException as error:
                self._keep(out, error, len(data))
        finally:
            self._sending.release()
        if engine.outgoing.pending:
            self._flush_left(self._until())

    def _sendall_slowly(self, data: Buffer, flags: int) -> None:
        """``sendall()`` in full."""
        self._refuse_flags(flags, "sendall")
        deadline = self._until()
        self._claim(self._sending, "sends on", deadline)
        try:
            self._send_batches(data, deadline)
        finally:
            self._sending.release()
        self._flush_left(deadline)

    def _send_batches(self, data: Buffer, deadline: float | None) -> None:
        engine, total = self._engine, 0
        try:
            with memoryview(data) as whole, whole.cast("B") as view:
                self._push(deadline)
                total, engine.owed = min(engine.owed, len(view)), 0
                while total < len(view):
                    with view[total : total + BATCH] as part:
                        with self._step:
                            engine.write(part)
                        total += len(part)
                    self._push(deadline)
                    if deadline is not None and total < len(view) and monotonic() >= deadline:
                        raise TimeoutError("timed out")
        except OSError as error:
            error.bytes_sent = total  # type: ignore[attr-defined]
            raise

    def send(self, data: Buffer, flags: int = 0, /) -> int:
        """Send some of ``data``, at most 64 KiB; returns how much of it is part of the stream now.

        What the kernel has not taken of that when the timeout passes goes first with the next call. On a non-blocking
        socket it is told that nothing was taken (``BlockingIOError`` and ``ssl.SSLWantWriteError`` in one) until the
        kernel has it all: call again with the same data.
        """
        self._refuse_flags(flags, "send")
        deadline, engine = self._until(), self._engine
        with memoryview(data) as whole, whole.cast("B") as view, view[:BATCH] as part:
            self._claim(self._sending, "sends on", deadline)
            try:
                self._push(deadline)
                taken, engine.owed = min(engine.owed, len(view)), 0
                if taken or not len(part):
                    return taken
                with self._step:
                    engine.write(part)
                try:
                    self._push(deadline)
                except WouldBlockWriting:
                    engine.owed = len(part)
                    raise
                except TimeoutError:
                    pass
                return len(part)
            finally:
                self._sending.release()

    # -- files -------------------------------------------------------------------------------------------------------

    def sendfile(self, file: Any, offset: int = 0, count: int | None = None) -> int:
        """As ``socket.sendfile``; the file is read and encrypted here, 64 KiB at a time."""
        self._check_sendfile_params(file, offset, count)  # type: ignore[attr-defined]
        if self._patience == 0.0:
            raise ValueError("non-blocking sockets are not supported")
        if offset:
            file.seek(offset)
        total = 0
        try:
            while count is None or total < count:
                data = file.read(BATCH if count is None else min(BATCH, count - total))
                if not data:
                    break
                try:
                    self.sendall(data)
                except OSError as error:
                    total += getattr(error, "bytes_sent", 0)
                    raise
                total += len(data)
        finally:
            if total and hasattr(file, "seek"):
                file.seek(offset + total)
        return total

    def _splice_into(self, file: IO[bytes], offset: int, count: int | None) -> Iterator[int]:
        # recvfile() copies then.
        raise _GiveupOnSendfile("what is in the kernel is encrypted")

    # -- the end -----------------------------------------------------------------------------------------------------

    def shutdown(self, how: int, /) -> None:
        """As ``socket.shutdown``. ``SHUT_WR`` says goodbye first (close_notify): reading goes on until the peer does so
        too. For that it waits, where the kernel has no room, as long as the timeout says but 5 s at most; not at all on
        a thread that runs a loop. ``SHUT_RDWR`` waits for nothing."""
        if how != _socket_std.SHUT_RD:
            if self._engine.established and self._sending.acquire(False):
                self._sending.release()
                with self._step:
                    self._engine.close_notify()
                self._flush_now()
                if how == _socket_std.SHUT_WR and self._engine.unsent and (in_green() or not loop_runs_here()):
                    patience = GOODBYE_SECONDS if self._patience is None else min(self._patience, GOODBYE_SECONDS)
                    self._flush_within(patience)
        _Raw.shutdown(self, how)

    def _flush_within(self, seconds: float) -> None:
        self._claim(self._sending, "sends on", None)
        try:
            self._push(monotonic() + seconds)
        except OSError:
            pass  # a goodbye that comes too late; shutdown(2) is one as well
        finally:
            self._sending.release()

    def _real_close(self) -> None:
        engine = getattr(self, "_engine", None)
        if engine is not None and engine.established and not engine.closing and self._sending.acquire(False):
            self._sending.release()
            with self._step:
                engine.close_notify()
            self._flush_now()
        super()._real_close()

    def unwrap(self) -> socket:
        """End TLS and go on in plaintext: says goodbye, waits for the peer's, and returns the socket below.

        :raises TLSError: the peer ended the stream instead, or sent something behind its goodbye already.
        """
        engine, deadline = self._engine, self._until()
        with self._step:
            engine.close_notify()
        self._flush_left(deadline)
        while self._receive(lambda: engine.read(RECORD)):
            pass
        behind = engine.incoming.pending
        if engine.truncated or behind:
            what = "ended the stream" if engine.truncated else f"sent {behind} bytes of plaintext behind it"
            raise PeerHandshakeError(ssl.SSL_ERROR_SSL, f"unwrap() waits for the peer's goodbye; the peer {what}")
        patience = self._patience
        plain = socket(self.family, self.type, self.proto, self.detach())
        plain.settimeout(patience)
        return plain
