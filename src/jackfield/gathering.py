"""The socket that a handler answers datagrams by, where the replies of one batch leave together.

To the handler a reply has been sent when it was taken in, as it has for the kernel when it lies in a queue there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from typing import Any

from .door.datagrams import ReplySocket
from .door.outgoing import LONGEST, MOST, Outgoing
from .reactor.twin import native
from .replies import GuardedAsyncSocket, GuardedSocket, MayReply
from .streams import AsyncSocket

__all__ = ["GatheringAsyncSocket", "GatheringSocket"]


class GatheringSocket(GuardedSocket):
    """A :class:`~jackfield.replies.GuardedSocket` whose short replies, each to the one whose datagram is handled, are
    gathered. Whatever else is done by it is done after those were sent."""

    __slots__ = ("_control", "_host", "_outgoing")

    def __init__(self, sock: Any, may_reply: MayReply, outgoing: Outgoing) -> None:
        self._socket = sock
        self._may_reply = may_reply
        self._outgoing = outgoing
        #: The host that answers leave to from one address, and the ancillary data that say from which.
        self._control = self._host = None
        if type(sock) is ReplySocket:
            self._host, self._control = sock.host, sock.control

    def __getattr__(self, name: str) -> Any:
        self._outgoing.finish()
        return getattr(self._socket, name)

    def for_coroutine(self) -> GatheringAsyncSocket:
        """What a coroutine gets in the place of this."""
        return GatheringAsyncSocket(self._socket, self._may_reply, self._outgoing)

    def gathers(self, data: Any, address: Any) -> bool:
        """Take in a reply that leaves together with others; False if it is to be sent by itself."""
        outgoing = self._outgoing
        peer = outgoing.peer
        if (
            (address is not peer and address != peer)
            or peer.__class__ is not tuple
            or data.__class__ is not bytes
            or len(data) > LONGEST
            or len(outgoing.pending) >= MOST
            or self._host not in (None, peer[0])
        ):
            return False
        if peer[0] in outgoing.free or self._may_reply(peer, len(data)):
            outgoing.pending.append((data, peer, self._control, self._socket))
        return True

    def sendto(self, data: Any, *flags_and_address: Any) -> int:
        """``socket.sendto(data, address)`` or ``socket.sendto(data, flags, address)``."""
        if len(flags_and_address) == 1 and self.gathers(data, flags_and_address[0]):
            return len(data)
        self._outgoing.finish()
        return super().sendto(data, *flags_and_address)

    def sendmsg(
        self, buffers: Iterable[Any], ancdata: Iterable[Any] = (), flags: int = 0, address: Any = None, /
    ) -> int:
        """``socket.sendmsg``."""
        self._outgoing.finish()
        return super().sendmsg(buffers, ancdata, flags, address)

    def send(self, data: Any, flags: int = 0, /) -> int:
        """``socket.send``, for a socket that is connected."""
        self._outgoing.finish()
        return super().send(data, flags)

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        """``socket.sendall``, likewise."""
        self._outgoing.finish()
        super().sendall(data, flags)


class GatheringAsyncSocket(GuardedAsyncSocket):
    """The same for coroutines."""

    __slots__ = ("_outgoing",)

    socket: GatheringSocket

    def __init__(self, sock: Any, may_reply: MayReply, outgoing: Outgoing) -> None:
        super().__init__(sock, may_reply)
        self.socket = GatheringSocket(sock, may_reply, outgoing)
        self._outgoing = outgoing

    def __getattr__(self, name: str) -> Any:
        self._outgoing.send()
        return super().__getattr__(name)

    def sendto(self, data: Any, *flags_and_address: Any) -> Awaitable[int]:
        """``await sendto(data, address)`` or ``await sendto(data, flags, address)``."""
        if len(flags_and_address) == 1 and self.socket.gathers(data, flags_and_address[0]):
            return _Sent(len(data))
        if self._outgoing.send():
            return super().sendto(data, *flags_and_address)
        return self._sendto_after(data, *flags_and_address)

    async def _sendto_after(self, data: Any, *flags_and_address: Any) -> int:
        await self._outgoing.afinish(AsyncSocket)
        return await super().sendto(data, *flags_and_address)

    async def send(self, data: Any, flags: int = 0) -> int:
        """``await send(data)``, for a socket that is connected."""
        await self._outgoing.afinish(AsyncSocket)
        return await super().send(data, flags)

    async def sendall(self, data: Any, flags: int = 0) -> None:
        """``await sendall(data)``, likewise."""
        await self._outgoing.afinish(AsyncSocket)
        await super().sendall(data, flags)


class _Sent:
    """A ``sendto`` to be awaited that has nothing left to do."""

    __slots__ = ("_size",)

    def __init__(self, size: int) -> None:
        self._size = size

    def __await__(self) -> Any:
        return self._size
        yield


if native is not None:
    native.install_gathering(GatheringSocket, GatheringAsyncSocket, Outgoing)
