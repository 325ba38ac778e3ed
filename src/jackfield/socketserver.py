"""The drop-in for the standard library's ``socketserver``: change the import and keep the program.

Every class of the standard library's module, with its names, signatures, attributes, hooks and defaults; and beside
them the same servers on green threads (``Green…``) and coroutines (``Async…``), and ``UnixSeqpacketServer``. What is
deliberately different is listed in ``docs/differences.md``.
"""

from __future__ import annotations

import errno as _errno
import inspect as _inspect
import os as _os
import socket as _socket_std
from collections.abc import Callable as _Callable
from typing import Any as _Any
from typing import ClassVar as _ClassVar

from .baseserver import BaseServer
from .baseserver import inherited as _inherited
from .door import clear_stale_unix_path as _clear_stale_unix_path
from .door import enable_packet_info as _enable_packet_info
from .door import is_wildcard as _is_wildcard
from .door import receive_batch as _receive_batch
from .door import reply_socket as _reply_socket
from .errors import MisuseError as _MisuseError
from .handlers import (
    AsyncDatagramRequestHandler,
    AsyncRequestHandler,
    AsyncStreamRequestHandler,
    BaseRequestHandler,
    DatagramRequestHandler,
    StreamRequestHandler,
    _SocketWriter,
)
from .modes import Crew as _Crew
from .modes import AsyncCrew as _AsyncCrew
from .modes import Greens as _Greens
from .modes import Loop as _Loop
from .modes import Processes as _Processes
from .modes import Tasks as _Tasks
from .modes import Threads as _Threads
from .reactor import in_green as _in_green
from .reactor import run as _run
from .socket import socket as _socket
from .streams import AsyncSocket as _AsyncSocket

_HAS_UNIX = hasattr(_socket_std, "AF_UNIX")
_HAS_FORK = hasattr(_os, "fork")

#: What listen(2) is asked for when nobody named a backlog: the kernel cuts it to net.core.somaxconn.
_BACKLOG = 65535
#: The largest datagram that UDP can carry, and what is received when nobody named a packet size.
_DATAGRAM = 65535


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
        untouched = _inherited(self, "request_queue_size", TCPServer, 5)
        self.socket.listen(_BACKLOG if untouched else self.request_queue_size)

    def server_close(self) -> None:
        """Close the socket."""
        self.socket.close()
        self._wake()

    def fileno(self) -> int:
        """The descriptor of the socket."""
        return self.socket.fileno()  # type: ignore[no-any-return]

    def get_request(self) -> tuple[_Any, _Any]:
        """Accept a connection: its socket and the client's address."""
        return self.socket.accept()  # type: ignore[no-any-return]

    def shutdown_request(self, request: _Any) -> None:
        """End our side of the connection (the peer reads what is on its way, and then the end), and close it."""
        try:
            request.shutdown(_socket_std.SHUT_WR)
        except OSError:
            pass  # not connected any more
        self.close_request(request)

    def close_request(self, request: _Any) -> None:
        """Close the connection's socket."""
        request.close()
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

    def get_request(self) -> tuple[_Any, _Any]:
        """The next datagram. BlockingIOError if there is none: it never waits."""
        size = _DATAGRAM if _inherited(self, "max_packet_size", UDPServer, 8192) else self.max_packet_size
        if self._many_addresses:
            for datagram in _receive_batch(self.socket, size, 1):
                return (datagram.data, _reply_socket(self.socket, datagram)), datagram.peer
            raise BlockingIOError(_errno.EAGAIN, _os.strerror(_errno.EAGAIN))
        data, client_address = self.socket.recvfrom(size, getattr(_socket_std, "MSG_DONTWAIT", 0))
        return (data, self.socket), client_address

    def shutdown_request(self, request: _Any) -> None:
        """There is nothing to shut down."""
        self.close_request(request)

    def close_request(self, request: _Any) -> None:
        """There is nothing to close."""


# -- the mix-ins -------------------------------------------------------------------------------------------------------


class ThreadingMixIn:
    """Mix-in: a thread for each connection. It comes first among the bases.

    Class variables: ``daemon_threads`` (False: the program waits for handlers at its end), ``block_on_close`` (True:
    ``server_close()`` waits for them), ``max_threads`` (None: no bound; a number: clients above it wait in the kernel's
    queue). Datagrams are handled by at most ``max_threads``, or 64, threads, in order for each client.
    """

    daemon_threads: bool = False
    block_on_close: bool = True
    max_threads: int | None = None
    _most_workers: int = 64

    def _make_mode(self) -> _Any:
        return _Threads()

    # Both are made when first needed, because a mix-in may find that no constructor of its own was called.

    @property
    def _mode(self) -> _Any:
        mode = self.__dict__.get("_mode_made")
        if mode is None:
            mode = self.__dict__["_mode_made"] = self._make_mode()
            mode.on_room = self._wake  # type: ignore[attr-defined]
        mode.limit, mode.daemon = self.max_threads, self.daemon_threads
        return mode

    @property
    def _crew(self) -> _Crew:
        crew: _Crew | None = self.__dict__.get("_crew_made")
        if crew is None:
            kind = _AsyncCrew if isinstance(self._mode, _Tasks) else _Crew
            crew = self.__dict__["_crew_made"] = kind(self._mode, self.max_threads or self._most_workers)
        return crew

    @property
    def _threads(self) -> list[_Any]:
        return list(self._mode)

    @property
    def dropped(self) -> int:
        """Datagrams dropped because too many waited for a handler."""
        return self._crew.dropped

    def _has_room(self) -> bool:
        # Datagrams are read in any case: the crew says which are dropped.
        return self.max_threads is None or not self._accepts or not self._mode.full  # type: ignore[attr-defined]

    def _join_units(self, timeout: float | None) -> bool:
        return self._mode.join(timeout)  # type: ignore[no-any-return]

    def _cut_units(self) -> None:
        self._mode.cut()

    @property
    def _waits_at_close(self) -> bool:
        return self.block_on_close and not self.daemon_threads

    def process_request_thread(self, request: _Any, client_address: _Any) -> _Any:
        """What runs in the thread: the handler, its errors, its end."""
        try:
            self.finish_request(request, client_address)  # type: ignore[attr-defined]
        except Exception:
            self.handle_error(request, client_address)  # type: ignore[attr-defined]
        finally:
            self.shutdown_request(request)  # type: ignore[attr-defined]

    def process_request(self, request: _Any, client_address: _Any) -> None:
        """Start a thread for the connection; a datagram goes to a worker."""
        if self._accepts:  # type: ignore[attr-defined]
            self._mode.start(self.process_request_thread, request, client_address)
        else:
            self._crew.submit(client_address, self.process_request_thread, request, client_address)

    def server_close(self) -> None:
        """Close the socket and, with ``block_on_close``, wait for the threads that are not daemons."""
        super().server_close()  # type: ignore[misc]
        if self._waits_at_close:
            self._mode.join()


class GreenMixIn(ThreadingMixIn):
    """Mix-in: a green thread for each connection, on one operating-system thread. It comes first among the bases.

    All of ThreadingMixIn's, with green threads for threads: ``max_threads`` bounds them as well. Outside a green thread
    ``serve_forever()`` runs a loop of its own, and returns when the handlers have ended too (``block_on_close``; with
    ``daemon_threads`` they are ended). A handler must not block the thread: see ``jackfield.socket``,
    ``jackfield.sleep``, ``jackfield.offload``. Datagrams are handled by at most ``max_threads``, or 1000.
    """

    _most_workers = 1000

    def _make_mode(self) -> _Any:
        return _Greens()

    def serve_forever(self, poll_interval: float = 0.5) -> None:
        """Serve until ``shutdown()`` or ``stop()``. On an application's loop: ``await jackfield.green(serve_forever)``."""
        if _in_green():
            super().serve_forever(poll_interval)  # type: ignore[misc]
        else:
            _run(self._on_own_loop, super().serve_forever, poll_interval)  # type: ignore[misc]

    def handle_request(self) -> None:
        """Handle one request; outside a green thread this returns when its handler has ended."""
        if _in_green():
            super().handle_request()  # type: ignore[misc]
        else:
            _run(self._on_own_loop, super().handle_request)  # type: ignore[misc]

    def _on_own_loop(self, serve: _Callable[..., None], *args: _Any) -> None:
        serve(*args)
        if self._waits_at_close:
            self._mode.join()

    def server_close(self) -> None:
        """Close the socket and, with ``block_on_close``, wait for the green threads."""
        super(ThreadingMixIn, self).server_close()  # type: ignore[misc]
        # Elsewhere than in a green thread they have ended with the loop they ran on.
        if self._waits_at_close and _in_green():
            self._mode.join()


class AsyncMixIn(GreenMixIn):
    """Mix-in: a coroutine for each connection, on one thread. It comes first among the bases.

    The handler class is an ``AsyncRequestHandler`` or one of its twins, and ``finish_request`` a coroutine function; in
    all else as GreenMixIn, ``max_threads`` included.
    """

    def _make_mode(self) -> _Any:
        handler = self.RequestHandlerClass  # type: ignore[attr-defined]
        if not _inspect.iscoroutinefunction(getattr(handler, "run", None)):
            raise _MisuseError(
                f"{handler!r} is no coroutine handler: derive it from AsyncRequestHandler, or serve it by a Green… server"
            )
        return _Tasks()

    async def finish_request(self, request: _Any, client_address: _Any) -> None:
        """Make one instance of RequestHandlerClass and await its ``run()``."""
        if self._accepts:  # type: ignore[attr-defined]
            asked: _Any = _AsyncSocket(request)
        else:
            data, sock = request
            asked = (data, _AsyncSocket(sock))
        await self.RequestHandlerClass(asked, client_address, self).run()  # type: ignore[attr-defined]

    async def process_request_thread(self, request: _Any, client_address: _Any) -> None:
        """What runs in the coroutine: the handler, its errors, its end."""
        try:
            await self.finish_request(request, client_address)
        except Exception:
            self.handle_error(request, client_address)  # type: ignore[attr-defined]
        finally:
            self.shutdown_request(request)  # type: ignore[attr-defined]


if _HAS_FORK:

    class ForkingMixIn:
        """Mix-in: a process for each request. It comes first among the bases.

        Class variables: ``max_children`` (40; clients above it wait in the kernel's queue), ``block_on_close`` (True:
        ``server_close()`` waits for the children), ``timeout`` (300, as in the standard library: what
        ``handle_request()`` waits). ``active_children`` is the set of pids, or None before the first.
        """

        timeout: float | None = 300
        active_children: set[int] | None = None
        max_children: int = 40
        block_on_close: bool = True

        @property
        def _mode(self) -> _Processes:
            mode: _Processes | None = self.__dict__.get("_mode_made")
            if mode is None:
                mode = self.__dict__["_mode_made"] = _Processes()
                mode.on_reaped = self._reaped
            mode.limit = self.max_children
            return mode

        def _reaped(self, pid: int) -> None:
            if self.active_children is not None:
                self.active_children.discard(pid)

        def _serving_begins(self, loop: _Loop) -> None:
            super()._serving_begins(loop)  # type: ignore[misc]
            self._mode.watch_on(loop)

        def _serving_ends(self) -> None:
            self._mode.watch_on(None)
            super()._serving_ends()  # type: ignore[misc]

        def _has_room(self) -> bool:
            return not self._mode.full

        def _join_units(self, timeout: float | None) -> bool:
            return self._mode.join(timeout)

        def _cut_units(self) -> None:
            self._mode.cut()

        def collect_children(self, *, blocking: bool = False) -> None:
            """Take the exit codes of children that have ended; with ``blocking``, wait for all."""
            if blocking:
                self._mode.join()
            else:
                self._mode.reap()

        def handle_timeout(self) -> None:
            """Called when ``handle_request()`` found none within ``timeout``."""
            self.collect_children()

        def service_actions(self) -> None:
            """Called after each turn of the loop."""
            super().service_actions()  # type: ignore[misc]
            self.collect_children()

        def process_request(self, request: _Any, client_address: _Any) -> None:
            """Fork a process for the request."""
            pid = self._mode.fork(self._in_child, (request, client_address))
            if self.active_children is None:
                self.active_children = set()
            self.active_children.add(pid)
            self.close_request(request)  # type: ignore[attr-defined]

        def _in_child(self, request: _Any, client_address: _Any) -> None:
            """What runs in the child: the handler, its errors, its end; the process is gone when this returns."""
            self._mode.forget()
            if self._accepts:  # type: ignore[attr-defined]
                # A child that held the listening socket would keep the port, and let clients connect to nobody.
                self.socket.close()  # type: ignore[attr-defined]
            failed = True
            try:
                try:
                    self.finish_request(request, client_address)  # type: ignore[attr-defined]
                    failed = False
                except Exception:
                    self.handle_error(request, client_address)  # type: ignore[attr-defined]
            finally:
                self.shutdown_request(request)  # type: ignore[attr-defined]
            if failed:
                raise SystemExit(1)

        def server_close(self) -> None:
            """Close the socket and, with ``block_on_close``, wait for the children."""
            super().server_close()  # type: ignore[misc]
            self.collect_children(blocking=self.block_on_close)


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
