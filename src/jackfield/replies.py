"""Replies: the socket that a handler answers datagrams by, where the limits have a say in each of them.

What is withheld looks to the handler like any datagram that is lost on its way, of which UDP tells nobody either.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from .streams import AsyncSocket

__all__ = ["GuardedAsyncSocket", "GuardedSocket", "MayReply", "connected_to", "size_of"]

#: Whether a datagram of so many bytes may be sent to a peer; it then counts as sent.
MayReply = Callable[[Any, int], bool]


class GuardedSocket:
    """A datagram socket that asks ``may_reply(peer, size)`` before it sends; in all else it is the socket it stands
    for. Of a copy by ``dup()`` or a file by ``makefile()`` it knows nothing."""

    __slots__ = ("_may_reply", "_socket")

    def __init__(self, sock: Any, may_reply: MayReply) -> None:
        self._socket = sock
        self._may_reply = may_reply

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        # isinstance(request_socket, socket.socket) holds in handlers written for the standard library.
        return self._socket.__class__  # type: ignore[no-any-return]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)

    def for_coroutine(self) -> GuardedAsyncSocket:
        """What a coroutine gets in the place of this."""
        return GuardedAsyncSocket(self._socket, self._may_reply)

    def __repr__(self) -> str:
        return f"<guarded {self._socket!r}>"

    def sendto(self, data: Any, *flags_and_address: Any) -> int:
        """``socket.sendto(data, address)`` or ``socket.sendto(data, flags, address)``."""
        if flags_and_address:
            size = len(data) if data.__class__ is bytes else size_of(data)
            if not self._may_reply(flags_and_address[-1], size):
                return size
        sent: int = self._socket.sendto(data, *flags_and_address)
        return sent

    def sendmsg(
        self, buffers: Iterable[Any], ancdata: Iterable[Any] = (), flags: int = 0, address: Any = None, /
    ) -> int:
        """``socket.sendmsg``."""
        pieces = list(buffers)  # it may be an iterator, and is needed twice
        size = sum(map(size_of, pieces))
        if not self._may_reply(connected_to(self._socket) if address is None else address, size):
            return size
        sent: int = self._socket.sendmsg(pieces, ancdata, flags, address)
        return sent

    def send(self, data: Any, flags: int = 0, /) -> int:
        """``socket.send``, for a socket that is connected."""
        size = size_of(data)
        if not self._may_reply(connected_to(self._socket), size):
            return size
        sent: int = self._socket.send(data, flags)
        return sent

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        """``socket.sendall``, likewise."""
        if self._may_reply(connected_to(self._socket), size_of(data)):
            self._socket.sendall(data, flags)


class GuardedAsyncSocket:
    """The same for coroutines: an :class:`~jackfield.streams.AsyncSocket` that asks before it sends."""

    __slots__ = ("_inner", "_may_reply", "socket")

    def __init__(self, sock: Any, may_reply: MayReply) -> None:
        self._inner = AsyncSocket(sock)
        self._may_reply = may_reply
        #: The socket with its blocking-style methods, which asks as well.
        self.socket = GuardedSocket(sock, may_reply)

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return AsyncSocket

    def __getattr__(self, name: str) -> Any:
        # What it adds of its own; else the socket's, and by the one that asks.
        return getattr(self._inner if hasattr(AsyncSocket, name) else self.socket, name)

    def __repr__(self) -> str:
        return f"<guarded {self._inner!r}>"

    def sendto(self, data: Any, *flags_and_address: Any) -> Awaitable[int]:
        """``await sendto(data, address)`` or ``await sendto(data, flags, address)``."""
        if flags_and_address:
            size = len(data) if data.__class__ is bytes else size_of(data)
            if not self._may_reply(flags_and_address[-1], size):
                return _as_if_sent(size)
        return self._inner.sendto(data, *flags_and_address)

    async def send(self, data: Any, flags: int = 0) -> int:
        """``await send(data)``, for a socket that is connected."""
        size = size_of(data)
        if not self._may_reply(connected_to(self.socket), size):
            return size
        return await self._inner.send(data, flags)

    async def sendall(self, data: Any, flags: int = 0) -> None:
        """``await sendall(data)``, likewise."""
        if self._may_reply(connected_to(self.socket), size_of(data)):
            await self._inner.sendall(data, flags)


async def _as_if_sent(size: int) -> int:
    return size


def size_of(data: Any) -> int:
    """Bytes of anything that can be sent; 0 for what cannot, which the socket refuses in its own words."""
    try:
        with memoryview(data) as view:
            return view.nbytes
    except TypeError:
        return 0


def connected_to(sock: Any) -> Any:
    """The peer of a connected socket; None for one that has none, whose own error is to tell."""
    try:
        return sock.getpeername()
    except OSError:
        return None
