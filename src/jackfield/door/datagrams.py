"""Datagrams: read in batches, with what the plain ``recvfrom`` does not tell, and answered from the right address."""

from __future__ import annotations

import errno
import os
import socket as _socket_std
import struct
import sys
from _socket import socket as _Raw
from collections.abc import Iterable, Iterator
from operator import itemgetter
from typing import Any, NamedTuple

from jackfield.door.packetinfo import ANCILLARY_BYTES, PacketInfo, control_message, packet_info
from jackfield.reactor.cooperative import CooperativeSocket
from jackfield.reactor.twin import native
from jackfield.socket import socket as _OurSocket

__all__ = ["Datagram", "ReplySocket", "kernel_drops", "receive_batch", "reply_socket", "sends_plainly"]

LARGEST = 65535
"""Bytes; no UDP datagram is longer (its length field has 16 bits, RFC 768), so nothing is cut."""

BUDGET = 64
"""Datagrams read at one go before others get their turn: the most that one call of the native twin reads."""

# A peer's or a router's ICMP message shows up as an error of the next call on the socket, once (udp(7); the numbers are
# those that Linux translates ICMP to).  It says something about a datagram sent earlier, nothing about this socket.
_BROUGHT_BY_ICMP = frozenset(
    getattr(errno, name)
    for name in (
        "ECONNREFUSED ECONNRESET ENETUNREACH EHOSTUNREACH EHOSTDOWN ENETDOWN ENONET ENOPROTOOPT EMSGSIZE EOPNOTSUPP"
        " EPROTO EACCES EPERM ENETRESET"
    ).split()
    if hasattr(errno, name)
)

# What Linux says where the address is not, or no longer, one of this machine's.  ENETUNREACH may also mean what it
# says; then a second try without the address fails in the same way.
_NO_SUCH_SOURCE = frozenset({errno.EINVAL, errno.EADDRNOTAVAIL, errno.ENODEV, errno.ENETUNREACH})

_MSG_DONTWAIT = int(getattr(_socket_std, "MSG_DONTWAIT", 0))
_MSG_TRUNC = int(_socket_std.MSG_TRUNC)  # a plain number: the flags that recvmsg returns are one, and "&" is quicker
_SO_MEMINFO = 55 if sys.platform == "linux" else None  # since Linux 4.12; Python has no name for it
_MEMINFO = struct.Struct("=9I")


class Datagram(NamedTuple):
    """One datagram as it came.

    ``data`` may be empty, which is a message like any other.  ``peer`` is the sender, as ``recvfrom`` gives it.
    ``truncated`` says that the message was longer than what was read, and its rest is lost.  ``local`` is the address
    of this machine that it came to, known where the socket is bound to all interfaces.
    """

    data: bytes
    peer: Any
    truncated: bool
    local: PacketInfo | None


_data = itemgetter(Datagram._fields.index("data"))

if native is not None:
    native.install_datagrams(Datagram, packet_info)

_INTERNET = (int(_socket_std.AF_INET), int(_socket_std.AF_INET6))
_family = _Raw.family.__get__  # the property of the standard library's class makes an enum of it, which takes longer
_STRAIGHT = (CooperativeSocket.recvmsg, _Raw.recvmsg)  # what a class has that does nothing of its own on the way


def receive_batch(sock: _socket_std.socket, size: int = LARGEST, budget: int = BUDGET) -> Iterable[Datagram]:
    """What waits in the socket's queue, at most ``budget`` datagrams, without ever waiting.

    None at all means that the queue was empty.

    :param sock: non-blocking, or blocking without a timeout.
    :param size: the longest message in bytes that is read whole.
    :raises OSError: the socket is closed (``EBADF``) or the machine is out of something (``ENOBUFS``, ``ENOMEM``);
        :class:`jackfield.door.accept.AcceptPolicy` sorts these too.  Errors that ICMP brings are passed over.
    """
    if native is not None and type(sock).recvmsg in _STRAIGHT and _family(sock) in _INTERNET:
        return _receive_natively(sock, size, budget)
    return _receive_purely(sock, size, budget)


def sends_plainly(sock: _socket_std.socket) -> bool:
    """Whether ``sendto`` of ``sock`` is what the kernel does with a datagram of the internet, and nothing else."""
    return type(sock) is _OurSocket and sock.type == _socket_std.SOCK_DGRAM and _family(sock) in _INTERNET


def _receive_natively(sock: _socket_std.socket, size: int, budget: int) -> Iterable[Datagram]:
    for _ in range(budget):
        batch: list[Datagram] | int | None = native.receive_datagrams(sock, size, budget)
        if batch is None:
            break
        if not isinstance(batch, int):
            if batch and isinstance(sock, CooperativeSocket):
                sock.received += sum(map(len, map(_data, batch)))
            return batch
        if batch not in _BROUGHT_BY_ICMP:
            raise OSError(batch, os.strerror(batch))
    return _receive_purely(sock, size, budget)


def _receive_purely(sock: _socket_std.socket, size: int, budget: int) -> Iterator[Datagram]:
    # No room for ancillary data on a Unix socket: a peer could send open descriptors in it (SCM_RIGHTS, unix(7)), and
    # Python would hand out numbers that nobody closes.  Without room the kernel drops them.
    is_inet = sock.family in (_socket_std.AF_INET, _socket_std.AF_INET6)
    room = ANCILLARY_BYTES if is_inet else 0
    receive = sock.recvmsg
    told: list[tuple[int, int, bytes]] = []  # what `local` was made of: mostly the same for a whole batch
    local = None
    left, errors = budget, 0
    while left:
        try:
            data, ancillary, flags, peer = receive(size, room, _MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno not in _BROUGHT_BY_ICMP or errors == budget:
                raise
            errors += 1
            continue
        left -= 1
        if ancillary != told:
            told, local = ancillary, packet_info(ancillary)
        yield Datagram(data, peer, flags & _MSG_TRUNC != 0, local)


def kernel_drops(sock: _socket_std.socket) -> int | None:
    """Datagrams that the kernel dropped since the socket was opened, mostly because its receive buffer was full.

    None where the system does not tell.  The number is that of ``SO_RXQ_OVFL`` (socket(7)), which would come along
    with each datagram; asked for here it costs nothing until somebody wants it, and needs no further datagram.
    It is unsigned and has 32 bits.
    """
    if _SO_MEMINFO is None:
        return None
    try:
        answer = sock.getsockopt(_socket_std.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
    except OSError:
        return None
    return int(_MEMINFO.unpack(answer)[8]) if len(answer) == _MEMINFO.size else None


def reply_socket(sock: _socket_std.socket, datagram: Datagram) -> _socket_std.socket | ReplySocket:
    """The socket to answer ``datagram`` with: ``sock``, from the address that the datagram was sent to.

    Where that address is not known, as on a socket bound to just one, it is ``sock`` itself.
    """
    if datagram.local is None:
        return sock
    return ReplySocket(sock, datagram.peer, datagram.local)


class ReplySocket:
    """A datagram socket whose messages to one host leave from one address; in all else it is the socket it stands for.

    To other hosts the kernel chooses the source as usual: the address that one client used may not even be reachable
    from theirs.
    """

    __slots__ = ("_host", "_local", "_socket")

    def __init__(self, sock: _socket_std.socket, peer: Any, local: PacketInfo) -> None:
        self._socket = sock
        self._host = peer[0]
        self._local = local

    @property
    def host(self) -> str:
        """Whose messages leave from that address."""
        host: str = self._host
        return host

    @property
    def control(self) -> Any:
        """The ancillary message that says so, as the twin in use takes it."""
        return self._local.control() if native is None else control_message(self._local)

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        # isinstance(request_socket, socket.socket) holds in handlers written for the standard library.
        return type(self._socket)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)

    def __repr__(self) -> str:
        return f"<reply from {self._local.address} by {self._socket!r}>"

    def sendto(self, data: Any, *flags_and_address: Any) -> int:
        """``socket.sendto(data, address)`` or ``socket.sendto(data, flags, address)``."""
        if native is not None and len(flags_and_address) == 1 and self._goes_home(flags_and_address[0]):
            try:
                # Nearly every answer; None where there is something to think about first.
                straight: int | None = native.send_from(
                    self._socket, data, flags_and_address[0], control_message(self._local)
                )
            except OSError as error:
                if error.errno not in _NO_SUCH_SOURCE:
                    raise
            else:
                if straight is not None:
                    return straight
        flags_and_address = (*flags_and_address[:-1], *map(self._mapped, flags_and_address[-1:]))
        if 1 <= len(flags_and_address) <= 2 and self._goes_home(flags_and_address[-1]):
            flags = flags_and_address[0] if len(flags_and_address) == 2 else 0
            try:
                return self._socket.sendmsg([data], [self._local.control()], flags, flags_and_address[-1])
            except OSError as error:
                if error.errno not in _NO_SUCH_SOURCE:
                    raise
        sent: int = self._socket.sendto(data, *flags_and_address)
        return sent

    def sendmsg(
        self, buffers: Iterable[Any], ancdata: Iterable[Any] = (), flags: int = 0, address: Any = None, /
    ) -> int:
        """``socket.sendmsg``; ancillary data of the caller's own comes instead of the source address."""
        ancillary = list(ancdata)
        if address is None:
            return self._socket.sendmsg(buffers, ancillary, flags)
        address = self._mapped(address)
        if not ancillary and self._goes_home(address):
            pieces = list(buffers)  # it may be an iterator, and is needed twice
            try:
                return self._socket.sendmsg(pieces, [self._local.control()], flags, address)
            except OSError as error:
                if error.errno not in _NO_SUCH_SOURCE:
                    raise
            buffers = pieces
        return self._socket.sendmsg(buffers, ancillary, flags, address)

    def _mapped(self, address: Any) -> Any:
        """An IPv4 client of a socket for both families is shown by its own address, and reached by the mapped one
        (RFC 4291, 2.5.5.2)."""
        if (
            isinstance(address, tuple)
            and len(address) == 2
            and self._host.startswith("::ffff:")
            and address[0] == self._host[7:]
        ):
            return self._host, address[1], 0, 0
        return address

    def _goes_home(self, address: Any) -> bool:
        return isinstance(address, tuple) and bool(address) and bool(address[0] == self._host)
