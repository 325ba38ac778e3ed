"""TLS without I/O: bytes of the wire in, text out, and the other way round. Both faces drive this.

In the steady state nothing is raised: OpenSSL says that it needs more bytes by an exception, which costs as much as
the record itself. But where nothing is left over (:attr:`TLSEngine.more` is False) the next text needs bytes from the
peer in any case, so a face receives first and asks then.
"""

from __future__ import annotations

import errno
import ssl
from collections.abc import Callable
from typing import Any, TypeVar

from .hello import ClientHello, HelloReader
from .reasons import PeerHandshakeError, translated

T = TypeVar("T")

#: The most text in one record (RFC 8446 5.1), and what OpenSSL encrypts at one call.
RECORD = 16384

#: Bytes asked of the kernel when a message begins: most are shorter, and a thread that waits holds a buffer for them.
FIRST = 8192

#: Bytes asked of it when there was more: nearly four full records.
CHUNK = 65536

#: Bytes of text encrypted before they are handed to the kernel: what is waiting for the peer stays bounded.
BATCH = 4 * RECORD

_ALERT = b"\x15\x03\x03\x00\x02\x02"  # a record with a fatal alert, up to its description (RFC 8446 6)

_WantRead = ssl.SSLWantReadError


class Refused(Exception):
    """A ClientHello is not answered: the number of the alert to send (RFC 8446 6.2), and why, in one line."""

    def __init__(self, alert: int, message: str) -> None:
        super().__init__(message)
        self.alert = alert


class TLSEngine:
    """One end of a TLS connection.

    The faces share these attributes: ``ssl`` (OpenSSL's object; its ``read`` and ``write`` are what :meth:`read` and
    :meth:`write` call), ``incoming`` and ``outgoing`` (the memory BIOs around it), ``more`` (False where the next text
    needs bytes from the peer), ``unsent`` (bytes for the wire that the kernel has not taken: they go first), ``given``
    (all bytes for the wire so far, ``unsent`` included), ``owed`` (bytes of text in ``unsent`` of which the caller has
    been told that they were not taken). Not to be used by two threads at once.
    """

    __slots__ = (
        "_choose", "_early", "_held", "_reader", "_seen", "closing", "ended", "established", "given", "hello",
        "incoming", "more", "object", "outgoing", "owed", "ssl", "truncated", "unsent",
    )  # fmt: skip

    ssl: Any

    def __init__(self) -> None:
        self.incoming = ssl.MemoryBIO()
        self.outgoing = ssl.MemoryBIO()
        self.object: ssl.SSLObject | None = None
        self.ssl = None
        #: What the client said first; None before that, and on the client's own side.
        self.hello: ClientHello | None = None
        self._choose: Callable[[ClientHello], ssl.SSLContext] | None = None
        self._reader: HelloReader | None = None
        #: What came before there was a context, and how much of it the reader has seen.
        self._early = bytearray()
        self._seen = 0
        #: Text that was decrypted before anybody asked for it.
        self._held = b""
        self.more = True
        self.established = False
        #: The peer has said its last, or the stream has ended.
        self.ended = False
        #: This side has said its last.
        self.closing = False
        #: The stream ended without the peer's close_notify: somebody may have cut it.
        self.truncated = False
        self.unsent = b""
        self.given = 0
        self.owed = 0

    @classmethod
    def server(cls, choose: Callable[[ClientHello], ssl.SSLContext]) -> TLSEngine:
        """The server's end; ``choose(hello)`` returns the context, or raises :class:`Refused`."""
        engine = cls()
        engine._choose, engine._reader = choose, HelloReader()
        return engine

    @classmethod
    def client(cls, context: ssl.SSLContext, server_hostname: str | None, session: Any = None) -> TLSEngine:
        """The client's end. ValueError from the ssl module without a ``server_hostname`` that is to be checked."""
        engine = cls()
        if context.check_hostname and not server_hostname:
            raise ValueError("check_hostname requires server_hostname")  # wrap_bio() would not notice
        engine._wrap(context, server_side=False, server_hostname=server_hostname, session=session)
        return engine

    def _wrap(self, context: ssl.SSLContext, **how: Any) -> None:
        self.object = context.wrap_bio(self.incoming, self.outgoing, **how)
        # The object around OpenSSL's adds a call in Python to each read and write, and nothing else.
        self.ssl = getattr(self.object, "_sslobj", self.object)

    # -- the handshake -----------------------------------------------------------------------------------------------

    def handshake(self) -> bool:
        """One step of it; True when it is done, False when bytes from the peer are needed.

        :raises TLSHandshakeError: it failed; what is in ``outgoing`` tells the peer.
        """
        if self.ssl is None and not self._begin():
            return False
        try:
            self.ssl.do_handshake()
        except _WantRead:
            return False
        except ssl.SSLError as error:
            raise translated(error, in_handshake=True) from error
        self.established = True
        self.more = self.incoming.pending > 0
        return True

    @property
    def begun(self) -> bool:
        """On the server's side: whether the client has said anything."""
        return self.hello is not None or bool(self._early)

    def _begin(self) -> bool:
        """The server's first step: the context is chosen by what the client says."""
        assert self._reader is not None and self._choose is not None
        fresh, self._seen = bytes(self._early[self._seen :]), len(self._early)
        try:
            hello = self._reader.feed(fresh)
        except ValueError:
            hello = ClientHello()  # OpenSSL has the right alert for everything that is none
        if hello is None:
            return False
        self.hello = hello
        try:
            context = self._choose(hello)
        except Refused as refused:
            self.outgoing.write(_ALERT + bytes([refused.alert]))
            raise PeerHandshakeError(ssl.SSL_ERROR_SSL, str(refused)) from None
        self._wrap(context, server_side=True)
        self.incoming.write(self._early)
        self._reader = self._choose = None
        self._early = bytearray()
        return True

    # -- reading -----------------------------------------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """Bytes that came from the peer; none at all for the end of the stream."""
        if not data:
            self.truncated = not self.ended
            self.ended = self.more = True
        elif self._reader is not None:
            self._early += data
        else:
            self.incoming.write(data)

    def read(self, size: int) -> bytes | None:
        """At most ``size`` bytes of text (1 at least); ``b""`` at the end; None if bytes are needed first.

        :raises TLSError: what the peer sent cannot be right.
        """
        if self._held:
            return self._take_held(size)
        try:
            text: bytes = self.ssl.read(size)
        except _WantRead:
            return self._nothing_yet(b"")
        except ssl.SSLError as error:
            return self._failed_to_read(error, b"")
        if not text:
            self.ended = self.more = True
        else:
            # Of one record there is more only if all was given that was asked for.
            self.more = len(text) == size or self.incoming.pending > 0
        return text

    def read_into(self, size: int, buffer: memoryview) -> int | None:
        """As :meth:`read`, into a buffer of bytes; returns how many."""
        if self._held:
            text = self._take_held(size)
            buffer[: len(text)] = text
            return len(text)
        try:
            taken: int = self.ssl.read(size, buffer)
        except _WantRead:
            return self._nothing_yet(0)
        except ssl.SSLError as error:
            return self._failed_to_read(error, 0)
        if not taken:
            self.ended = self.more = True
        else:
            self.more = taken == size or self.incoming.pending > 0
        return taken

    def _take_held(self, size: int) -> bytes:
        text, self._held = self._held[:size], self._held[size:]
        return text

    def _nothing_yet(self, end: T) -> T | None:
        if self.ended:
            return end
        self.more = False
        return None

    def _failed_to_read(self, error: ssl.SSLError, end: T) -> T:
        if isinstance(error, ssl.SSLZeroReturnError):
            self.ended = self.more = True
            return end
        self.more = True  # so that nobody waits for the peer before the error is told again
        raise translated(error, in_handshake=False) from error

    def pending(self) -> int:
        """Bytes of text that can be read and need nothing from the peer."""
        return len(self._held) + (self.ssl.pending() if self.ssl is not None else 0)

    # -- writing -----------------------------------------------------------------------------------------------------

    def write(self, data: bytes | memoryview) -> None:
        """Encrypt all of ``data``, which is not empty; the records are in ``outgoing`` then.

        :raises BrokenPipeError: this side has said its last.
        """
        if self.ssl is None:
            raise OSError(errno.ENOTCONN, "the TLS handshake comes first: call do_handshake()")
        try:
            taken, size = self.ssl.write(data), len(data)
            if taken == size:
                return
            with memoryview(data) as view:
                while taken < size:  # each call makes one record
                    taken += self.ssl.write(view[taken : taken + RECORD])
        except ssl.SSLError as error:
            if self.closing or isinstance(error, ssl.SSLZeroReturnError):
                raise BrokenPipeError(errno.EPIPE, "TLS was shut down for sending") from None
            raise translated(error, in_handshake=False) from error

    def take(self) -> bytes:
        """All bytes for the wire; who takes them sends them, before anybody takes more."""
        out = self.outgoing.read()
        self.given += len(out)
        return out

    # -- the end -----------------------------------------------------------------------------------------------------

    def close_notify(self) -> None:
        """Say that this side has said its last; once, and only after a handshake. Reading goes on (RFC 8446 6.1)."""
        if not self.established or self.closing:
            return
        self.closing = True
        # OpenSSL goes on to look for the peer's own, and gives up the connection when it finds text in its way.
        while waiting := self.ssl.pending():
            self._held += self.ssl.read(waiting)
        behind = self.incoming.read()
        try:
            self.ssl.shutdown()
        except ssl.SSLError:
            pass  # it would have to wait for the peer's, or the connection is broken already
        self.incoming.write(behind)
        self.more = self.more or bool(self._held or behind)
