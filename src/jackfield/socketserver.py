"""The drop-in for the standard library's ``socketserver``: change the import and keep the program.

Every class of the standard library's module, with its names, signatures, attributes, hooks and defaults; and beside
them the same servers on green threads (``Green…``) and coroutines (``Async…``), and ``UnixSeqpacketServer``. What is
deliberately different is listed in ``docs/differences.md``.
"""

from __future__ import annotations

import errno as _errno
import os as _os
import socket as _socket_std
import sys as _sys
from collections.abc import Callable as _Callable
from typing import Any as _Any
from typing import ClassVar as _ClassVar

from .baseserver import BaseServer
from .datagramgate import DatagramGate as _DatagramGate
from .door import bound_unsent as _bound_unsent
from .door import clear_stale_unix_path as _clear_stale_unix_path
from .door import enable_packet_info as _enable_packet_info
from .door import is_wildcard as _is_wildcard
from .door import receive_batch as _receive_batch
from .door import reply_socket as _reply_socket
from .handlers import (
    AsyncDatagramRequestHandler,
    AsyncRequestHandler,
    AsyncStreamRequestHandler,
    BaseRequestHandler,
    DatagramRequestHandler,
    StreamRequestHandler,
)
from .mixins import HAS_FORK as _HAS_FORK
from .mixins import AsyncMixIn, GreenMixIn, ThreadingMixIn
from .socket import _going_on
from .socket import socket as _socket

_HAS_UNIX = hasattr(_socket_std, "AF_UNIX")

#: What listen(2) is asked for when nobody named a backlog: the kernel cuts it to net.core.somaxconn.
_BACKLOG = 65535
#: The largest datagram that UDP can carry, and what is received when nobody named a packet size.
_DATAGRAM = 65535
_DONTWAIT = int(getattr(_socket_std, "MSG_DONTWAIT", 0))


def _inherited(server: object, name: str, owner: type, default: _Any) -> bool:
    """True if nobody has set attribute ``name``: the server has it from ``owner``, with its first value.

    By this a default that had to keep its value under the drop-in names (a backlog of 5, say) can be told from a wish.
    """
    if name in vars(server):
        return False
    for cls in type(server).__mro__:
        if name in vars(cls):
            return cls is owner and vars(cls)[name] == default
    return False


class TCPServer(BaseServer):
    """Base class for the socket-based servers; serves TCP, one connection after the other.

    The constructor takes ``(server_address, RequestHandlerClass, bind_and_activate=True)``. Class variables, to be
    changed in a subclass or before the constructor:

    - ``address_family``: AF_INET; an IPv6 address makes it AF_INET6, with ``::`` for both families.
    - ``socket_type``: SOCK_STREAM.
    - ``request_queue_size``: the backlog. Left at its 5, as much is asked for as the kernel allows.
    - ``allow_reuse_address``: SO_REUSEADDR. Left at its False, it is on where that is safe (TCP on POSIX).
    - ``allow_reuse_port``: SO_REUSEPORT.
    """

    address_family: int = _socket_std.AF_INET
    socket_type: int = _socket_std.SOCK_STREAM
    request_queue_size: int = 5
    allow_reuse_address: bool = False
    allow_reuse_port: bool = False

    def __init__(
        self,
        server_address: _Any,
        RequestHandlerClass: _Callable[[_Any, _Any, _Any], _Any],
        bind_and_activate: bool = True,
    ) -> None:
        super().__init__(server_address, RequestHandlerClass)
        if _names_ipv6(server_address) and _inherited(self, "address_family", TCPServer, _socket_std.AF_INET):
            self.address_family = _socket_std.AF_INET6
        self.socket: _Any = _socket(self.address_family, self.socket_type)
        if bind_and_activate:
            try:
                self.server_bind()
                self.server_activate()
            except BaseException:
                self.server_close()
                raise

    def server_bind(self) -> None:
        """Bind the socket."""
        is_ip = self.address_family in (_socket_std.AF_INET, _socket_std.AF_INET6)
        reuse = self.allow_reuse_address or (
            # On POSIX the option only takes an address in TIME_WAIT; two servers cannot listen on one by it.
            _os.name == "posix"
            and self.socket_type == _socket_std.SOCK_STREAM
            and _inherited(self, "allow_reuse_address", TCPServer, False)
        )
        if is_ip and reuse and hasattr(_socket_std, "SO_REUSEADDR"):
            self.socket.setsockopt(_socket_std.SOL_SOCKET, _socket_std.SO_REUSEADDR, 1)
        if is_ip and self.allow_reuse_port and hasattr(_socket_std, "SO_REUSEPORT"):
            self.socket.setsockopt(_socket_std.SOL_SOCKET, _socket_std.SO_REUSEPORT, 1)
        if self.address_family == _socket_std.AF_INET6 and self.server_address[0] == "::":
            self.socket.setsockopt(_socket_std.IPPROTO_IPV6, _socket_std.IPV6_V6ONLY, 0)
        if _HAS_UNIX and self.address_family == _socket_std.AF_UNIX:
            _clear_stale_unix_path(self.server_address)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def server_activate(self) -> None:
        """Listen."""
        if self.socket_type == _socket_std.SOCK_STREAM:
            _bound_unsent(self.socket)
        untouched = _inherited(self, "request_queue_size", TCPServer, 5)
        self.socket.listen(_BACKLOG if untouched else self.request_queue_size)

    def server_close(self) -> None:
        """Close the socket."""
        self.socket.close()
        self._wake()
        super().server_close()

    def fileno(self) -> int:
        """The descriptor of the socket."""
        return self.socket.fileno()  # type: ignore[no-any-return]

    def get_request(self) -> tuple[_Any, _Any]:
        """Accept a connection: its socket and the client's address."""
        listener = self.socket
        if type(listener) is not _socket and "ssl" in _sys.modules:
            from .tls.idioms import accept_unshaken, accepts_as_ssl_does

            if accepts_as_ssl_does(listener):
                return accept_unshaken(listener)  # what follows it shakes hands: see BaseServer
        request, client_address = listener.accept()
        if type(request) is _socket_std.socket:
            # The listener is one of the standard library's, adopted by assignment; its connections cooperate as well.
            family, kind, proto = request.family, request.type, request.proto
            request = _socket(family, kind, proto, request.detach())
        return request, client_address

    #: True where handlers wait as green threads do, which the ssl module's sockets cannot.
    _cooperates: _ClassVar[bool] = False

    def _adopted(self, request: _Any) -> _Any:
        """``request`` as handlers here can use it, where get_request() gave one of the ssl module's."""
        ssl = _sys.modules.get("ssl")
        if ssl is None or not isinstance(request, ssl.SSLSocket):
            return request
        if request.version() is not None:
            self._gate.warn_of_handshakes(self.server_address, "wrap the listening socket, and not what it accepts")
            if self._cooperates:
                from .tls.patient import made_patient

                made_patient(request)
        elif self._cooperates and request.fileno() >= 0:
            from .tls.idioms import cooperating

            return cooperating(request)
        return request

    def shutdown_request(self, request: _Any) -> None:
        """End our side of the connection (the peer reads what is on its way, and then the end), and close it."""
        self._gate.decide(request)  # before the peer is told, and answers with its own end
        try:
            _going_on(request).shutdown(_socket_std.SHUT_WR)
        except OSError:
            pass  # not connected any more
        self.close_request(request)

    def close_request(self, request: _Any) -> None:
        """Close the connection's socket."""
        self._gate.decide(request)
        _going_on(request).close()
        super().close_request(request)


def _names_ipv6(address: _Any) -> bool:
    return isinstance(address, tuple) and len(address) >= 2 and isinstance(address[0], str) and ":" in address[0]


class UDPServer(TCPServer):
    """UDP: each datagram is a request, ``(data, socket)``.

    Class variable: ``max_packet_size``, the bytes received at most. Left at its 8192, any datagram comes whole.
    Bound to a wildcard address, ``socket`` answers from the address that the datagram was sent to.
    """

    allow_reuse_address = False
    allow_reuse_port = False
    socket_type = _socket_std.SOCK_DGRAM
    max_packet_size: int = 8192
    _accepts: _ClassVar[bool] = False

    def server_activate(self) -> None:
        """No need to listen: but to know, on a wildcard address, where each datagram was sent to."""
        self._many_addresses = _is_wildcard(self.socket.family, self.socket.getsockname())
        if self._many_addresses:
            self._many_addresses = _enable_packet_info(self.socket)

    _many_addresses = False

    def __init__(
        self,
        server_address: _Any,
        RequestHandlerClass: _Callable[[_Any, _Any, _Any], _Any],
        bind_and_activate: bool = True,
    ) -> None:
        self.__datagrams = _DatagramGate(lambda: self.limits)
        super().__init__(server_address, RequestHandlerClass, bind_and_activate)

    def _let_in(self, request: _Any, client_address: _Any) -> _Any | None:
        return self.__datagrams.admit(request, client_address)

    def get_request(self) -> tuple[_Any, _Any]:
        """The next datagram. BlockingIOError if there is none: it never waits."""
        size = _DATAGRAM if _inherited(self, "max_packet_size", UDPServer, 8192) else self.max_packet_size
        if self._many_addresses:
            for datagram in _receive_batch(self.socket, size, 1):
                return (datagram.data, _reply_socket(self.socket, datagram)), datagram.peer
            raise BlockingIOError(_errno.EAGAIN, _os.strerror(_errno.EAGAIN))
        data, client_address = self.socket.recvfrom(size, _DONTWAIT)
        return (data, self.socket), client_address

    def shutdown_request(self, request: _Any) -> None:
        """There is nothing to shut down."""
        self.close_request(request)

    def close_request(self, request: _Any) -> None:
        """There is nothing to close."""


# -- the composed classes ----------------------------------------------------------------------------------------------


class ThreadingTCPServer(ThreadingMixIn, TCPServer):
    """TCP, a thread for each connection."""


class ThreadingUDPServer(ThreadingMixIn, UDPServer):
    """UDP, handled by threads."""


class GreenTCPServer(GreenMixIn, TCPServer):
    """TCP, a green thread for each connection."""


class GreenUDPServer(GreenMixIn, UDPServer):
    """UDP, handled by green threads."""


class AsyncTCPServer(AsyncMixIn, TCPServer):
    """TCP, a coroutine for each connection."""


class AsyncUDPServer(AsyncMixIn, UDPServer):
    """UDP, handled by coroutines."""


__all__ = [
    "AsyncDatagramRequestHandler",
    "AsyncMixIn",
    "AsyncRequestHandler",
    "AsyncStreamRequestHandler",
    "AsyncTCPServer",
    "AsyncUDPServer",
    "BaseRequestHandler",
    "BaseServer",
    "DatagramRequestHandler",
    "GreenMixIn",
    "GreenTCPServer",
    "GreenUDPServer",
    "StreamRequestHandler",
    "TCPServer",
    "ThreadingMixIn",
    "ThreadingTCPServer",
    "ThreadingUDPServer",
    "UDPServer",
]

if _HAS_FORK:
    from .mixins import ForkingMixIn

    class ForkingTCPServer(ForkingMixIn, TCPServer):
        """TCP, a process for each connection."""

    class ForkingUDPServer(ForkingMixIn, UDPServer):
        """UDP, a process for each datagram."""

    __all__ += ["ForkingMixIn", "ForkingTCPServer", "ForkingUDPServer"]

if _HAS_UNIX:

    class UnixStreamServer(TCPServer):
        """Unix sockets. A socket file that no server listens on any more is removed before binding."""

        address_family = _socket_std.AF_UNIX

    class UnixDatagramServer(UDPServer):
        """Datagrams over Unix sockets."""

        address_family = _socket_std.AF_UNIX

    class UnixSeqpacketServer(UnixStreamServer):
        """Unix sockets that keep the bounds of messages (SOCK_SEQPACKET, unix(7))."""

        socket_type = _socket_std.SOCK_SEQPACKET

    class ThreadingUnixStreamServer(ThreadingMixIn, UnixStreamServer):
        """Unix sockets, a thread for each connection."""

    class ThreadingUnixDatagramServer(ThreadingMixIn, UnixDatagramServer):
        """Datagrams over Unix sockets, handled by threads."""

    class ThreadingUnixSeqpacketServer(ThreadingMixIn, UnixSeqpacketServer):
        """Messages over Unix sockets, a thread for each connection."""

    class GreenUnixStreamServer(GreenMixIn, UnixStreamServer):
        """Unix sockets, a green thread for each connection."""

    class GreenUnixDatagramServer(GreenMixIn, UnixDatagramServer):
        """Datagrams over Unix sockets, handled by green threads."""

    class GreenUnixSeqpacketServer(GreenMixIn, UnixSeqpacketServer):
        """Messages over Unix sockets, a green thread for each connection."""

    class AsyncUnixStreamServer(AsyncMixIn, UnixStreamServer):
        """Unix sockets, a coroutine for each connection."""

    class AsyncUnixDatagramServer(AsyncMixIn, UnixDatagramServer):
        """Datagrams over Unix sockets, handled by coroutines."""

    class AsyncUnixSeqpacketServer(AsyncMixIn, UnixSeqpacketServer):
        """Messages over Unix sockets, a coroutine for each connection."""

    __all__ += [
        "AsyncUnixDatagramServer",
        "AsyncUnixSeqpacketServer",
        "AsyncUnixStreamServer",
        "GreenUnixDatagramServer",
        "GreenUnixSeqpacketServer",
        "GreenUnixStreamServer",
        "ThreadingUnixDatagramServer",
        "ThreadingUnixSeqpacketServer",
        "ThreadingUnixStreamServer",
        "UnixDatagramServer",
        "UnixSeqpacketServer",
        "UnixStreamServer",
    ]

    if _HAS_FORK:

        class ForkingUnixStreamServer(ForkingMixIn, UnixStreamServer):
            """Unix sockets, a process for each connection."""

        class ForkingUnixDatagramServer(ForkingMixIn, UnixDatagramServer):
            """Datagrams over Unix sockets, a process for each datagram."""

        __all__ += ["ForkingUnixDatagramServer", "ForkingUnixStreamServer"]
