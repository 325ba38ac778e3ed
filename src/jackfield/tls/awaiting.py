"""The TLS socket for coroutines: the awaited twin, over the same socket and the same engine.

It needs no lock: all is on the loop's thread, and between bytes off the wire and their text, or a text and its records
in the kernel, nothing is awaited. What the kernel does not take is kept first and awaited then, so a task that is
cancelled in the middle leaves no half of a record behind.
"""

from __future__ import annotations

import socket as _socket_std
from collections.abc import Awaitable
from types import CoroutineType
from typing import Any, NoReturn

from jackfield.errors import MisuseError
from jackfield.reactor import Reactor
from jackfield.streams import AsyncSocket

from .blocking import TLSSocket
from .engine import BATCH, CHUNK, FIRST, RECORD

_recv, _send, _sendall = AsyncSocket.recv, AsyncSocket.send, AsyncSocket.sendall


class AsyncTLSSocket(AsyncSocket):
    """An :class:`~jackfield.streams.AsyncSocket` that speaks TLS: its methods carry text. Made by
    :func:`~jackfield.tls.astart_server` and its kin.

    ``socket`` is the :class:`TLSSocket`, of which everything that does not wait is asked (``version()``, ``cipher()``,
    ``getpeercert()``, ``truncated``, ``shutdown()``, ``close()`` …). :meth:`aclose` ends it without cutting off what
    the peer reads slowly.
    """

    __slots__ = ("_engine",)

    socket: TLSSocket

    def __init__(self, sock: TLSSocket, reactor: Reactor | None = None) -> None:
        super().__init__(sock, reactor)
        self._engine = sock._engine

    def __repr__(self) -> str:
        return f"<AsyncTLSSocket of {self.socket!r}>"

    # -- receiving ---------------------------------------------------------------------------------------------------

    async def recv(self, bufsize: int, flags: int = 0) -> bytes:  # type: ignore[override]
        """At most ``bufsize`` bytes of text, as soon as there are any; ``b""`` when the peer has ended its side."""
        engine = self._engine
        if engine.more or flags or bufsize < 1:
            return await self._recv_slowly(bufsize, flags)
        # The way of nearly every message, written out.
        data = await _recv(self, FIRST)
        if data:
            engine.incoming.write(data)
        else:
            engine.feed(data)
        text = engine.read(bufsize)
        if engine.outgoing.pending:
            await self._flush_left()
        return text if text is not None else await self._recv_slowly(bufsize, 0)

    async def _recv_slowly(self, bufsize: int, flags: int) -> bytes:
        if not self.socket._wants_text(bufsize, flags):
            return b""
        engine = self._engine
        while True:
            text = engine.read(bufsize) if engine.more else None
            if engine.outgoing.pending:
                await self._flush_left()
            if text is not None:
                return text
            engine.feed(await _recv(self, CHUNK))
            engine.more = True

    async def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        """As :meth:`recv`, into ``buffer``; returns the number of bytes."""
        with memoryview(buffer) as whole, whole.cast("B") as view:
            if not 0 <= nbytes <= len(view):
                raise ValueError("buffer too small for requested bytes")
            text = await self.recv(nbytes or len(view), flags)
            view[: len(text)] = text
            return len(text)

    # -- sending -----------------------------------------------------------------------------------------------------

    def sendall(self, data: Any, flags: int = 0) -> Awaitable[None]:
        """Send all of ``data``. Await the result: it returns when the kernel has taken everything."""
        engine = self._engine
        if flags or engine.unsent or data.__class__ is not bytes or not 0 < len(data) <= RECORD:
            return self._sendall_slowly(data, flags)
        engine.write(data)
        out = engine.outgoing.read()
        engine.given += len(out)
        rest = _sendall(self, out)
        if rest.__class__ is CoroutineType:
            # The kernel's buffer is full. What is left is kept here, where a cancelled task cannot lose it.
            rest.close()
            self._keep(out)
            return self._flush()
        return rest

    async def _sendall_slowly(self, data: Any, flags: int) -> None:
        self.socket._refuse_flags(flags, "sendall")
        total = 0
        try:
            with memoryview(data) as whole, whole.cast("B") as view:
                await self._flush()
                while total < len(view):
                    with view[total : total + BATCH] as part:
                        self._engine.write(part)
                        total += len(part)
                    await self._flush()
        except OSError as error:
            error.bytes_sent = total  # type: ignore[attr-defined]
            raise

    async def send(self, data: Any, flags: int = 0) -> int:
        """Send what the kernel takes of ``data``, at most 64 KiB; returns how many bytes."""
        with memoryview(data) as whole, whole.cast("B") as view, view[:BATCH] as part:
            await self.sendall(bytes(part), flags)
            return len(part)

    def _keep(self, out: bytes) -> None:
        engine = self._engine
        left = engine.given - self.socket.sent
        engine.unsent = out[-left:] if left > 0 else b""

    async def _flush(self) -> None:
        """All that is to be sent, to the kernel."""
        engine, sending = self._engine, self.socket._sending
        if not sending.acquire(False):
            raise MisuseError("another task sends on this TLS socket at the moment: let one do it, or take a lock")
        try:
            while True:
                out = engine.unsent or engine.take()
                if not out:
                    return
                engine.unsent = out
                taken = await _send(self, out)
                engine.unsent = out[taken:]
        finally:
            sending.release()

    async def _flush_left(self) -> None:
        """What OpenSSL wants sent beside the text; whoever sends at this moment does it in the end."""
        if not self.socket._sending.locked():
            await self._flush()

    async def aclose(self) -> None:
        """Say goodbye when the kernel has taken all that was sent, and close; waits for nothing of the peer's.

        Bound it (``asyncio.timeout``): a peer that reads nothing makes it wait.
        """
        sock = self.socket
        try:
            if sock.fileno() >= 0 and not sock._sending.locked():
                self._engine.close_notify()
                await self._flush()
                sock.shutdown(_socket_std.SHUT_WR)
        except OSError:
            pass  # the peer was faster
        finally:
            sock.close()

    # -- what TLS has no place for -----------------------------------------------------------------------------------

    async def recvfrom(self, bufsize: int, flags: int = 0) -> NoReturn:
        self.socket.recvfrom(bufsize)

    async def sendto(self, data: Any, *flags_and_address: Any) -> NoReturn:
        self.socket.sendto(data)
