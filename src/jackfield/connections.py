"""The live connections of a server: who they are, and how to end one."""

from __future__ import annotations

import functools
import itertools
import socket as _socket_std
import struct
import sys
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from .clock import MONOTONIC, Clock
from .events import Reason
from .lifecycle import ConnectionState

_ref = weakref.ref
_RESET = struct.pack("ii", 1, 0)
_INTERNET = (_socket_std.AF_INET, _socket_std.AF_INET6)

#: Where tcpi_bytes_acked and tcpi_bytes_received stand in struct tcp_info (linux/tcp.h).
_TCP_COUNTS = 120


class Connection:
    """One accepted peer, from accept to its end.

    ``peer`` is its address as the socket module gives it (the real one, once a PROXY header has told it), or for a Unix
    socket the :class:`~jackfield.admission.Credentials` of the process there; ``listener`` is the text of the address
    it came in by. The connection does not keep the socket alive: a handler that lets go of it ends it.
    """

    __slots__ = (
        "__weakref__", "_key", "_pace", "_socket", "_table", "due", "established", "id", "listener", "peer",
        "reason", "since",
    )  # fmt: skip

    #: Its socket as it is now, and what the table finds it by.
    _socket: weakref.ref[Any]
    _key: int

    def __init__(self, table: Connections, id: int, peer: Any, listener: str) -> None:
        self.id = id
        self.peer = peer
        self.listener = listener
        #: Why it ends, from the moment that somebody decides it; None while nobody has.
        self.reason: Reason | None = None
        #: False while its PROXY header and TLS handshake are not done.
        self.established = True
        self._table = table
        #: When it was accepted, by the table's clock.
        self.since = table.clock.now()
        #: What the watch over deadlines remembers of it from one look to the next.
        self._pace: Any = None
        #: In which of the watch's slots it is.
        self.due = 0

    def __repr__(self) -> str:
        return f"<Connection {self.id} of {self.peer!r}, {self.age:.1f} s>"

    @property
    def socket(self) -> Any | None:
        """The connection's socket; None once it is closed."""
        sock = self._socket()
        return sock if sock is not None and sock.fileno() >= 0 else None

    @property
    def state(self) -> ConnectionState:
        """Where it is in its life; told from what it has, so that it costs nothing until somebody asks."""
        if self.socket is None:
            return ConnectionState.ENDED
        if self.reason is not None:
            return ConnectionState.ENDING
        return ConnectionState.SERVED if self.established else ConnectionState.ENTERING

    @property
    def elsewhere(self) -> bool:
        """Whether its handler is in another process."""
        return self._table.elsewhere

    @property
    def age(self) -> float:
        """Seconds since it was accepted."""
        return self._table.clock.now() - self.since

    @property
    def received(self) -> int:
        """Bytes that were taken from it so far, a PROXY header and a TLS handshake among them; 0 once it is closed.
        Where the socket does not count (a handler in another process, an ``ssl.SSLSocket``), what the kernel has got
        (TCP only; 0 for a Unix socket)."""
        return self._counts()[0]

    @property
    def sent(self) -> int:
        """Bytes that the kernel has taken for it so far; 0 once it is closed. Where the socket does not count, what the
        peer has acknowledged (TCP only; 0 for a Unix socket)."""
        return self._counts()[1]

    @property
    def silent(self) -> bool:
        """Whether nothing has come for its handler yet: no more than a PROXY header and a TLS handshake."""
        return self.received <= (self._pace.base if self._pace is not None else 0)

    @property
    def unseen(self) -> int:
        """Bytes that have come and that its handler has not taken, or has taken and does not know of yet: a thread has
        the interpreter to wait for first. 0 where the kernel does not tell (no TCP). An end of the stream is one, too.
        """
        sock = self.socket
        # In this order: what comes in between is taken for seen, and would be so a moment later.
        return max(0, _kernel_counts(sock)[0] - self.received) if sock is not None else 0

    def _counts(self) -> tuple[int, int]:
        sock = self.socket
        if sock is None:
            return 0, 0
        if self._table.elsewhere or not hasattr(sock, "received"):
            return _kernel_counts(sock)
        return sock.received, sock.sent

    def close(self, reason: Reason = Reason.CLOSED) -> None:
        """End it in both directions: whoever waits on it sees the end of the stream. From any thread."""
        self._decide(reason)
        sock = self.socket
        if sock is not None:
            try:
                sock.shutdown(_socket_std.SHUT_RDWR)
            except OSError:
                pass  # the peer was faster

    def _decide(self, reason: Reason) -> None:
        """The first to say why is the one who ends it."""
        if self.reason is None:
            self.reason = reason

    def abort(self, reason: Reason = Reason.ABORTED) -> None:
        """End it at once: what is still to be sent is thrown away, and the peer has a reset. Whoever waits on it here
        has ConnectionResetError or BrokenPipeError. From any thread.

        A Unix socket knows no reset: there it is :meth:`close`. So it is for TCP where the system cannot dissolve a
        connection that is in use (other systems than Linux, and a few kernels around 6.4 while a thread waits); the
        reset then follows the end.
        """
        self._decide(reason)
        sock = self.socket
        if sock is None:
            return
        if sock.family in _INTERNET and not _dissolve(sock):
            try:
                # close(2) then sends a reset in the place of what is left to be sent: SO_LINGER of zero, socket(7).
                sock.setsockopt(_socket_std.SOL_SOCKET, _socket_std.SO_LINGER, _RESET)
            except OSError:
                pass
        self.close(reason)


def _kernel_counts(sock: Any) -> tuple[int, int]:
    """What the kernel has received for a TCP connection, and what the peer has acknowledged (tcp(7), TCP_INFO)."""
    try:
        info = sock.getsockopt(_socket_std.IPPROTO_TCP, _socket_std.TCP_INFO, _TCP_COUNTS + 16)
        sent, received = struct.unpack_from("=QQ", info, _TCP_COUNTS)
    except (AttributeError, OSError, struct.error):
        return 0, 0  # no Linux, no TCP, or a kernel before 4.1
    return received, sent


def _dissolve(sock: Any) -> bool:
    """Reset a TCP connection though others use its socket; False where that cannot be done.

    On Linux, connect(2) to an address of family AF_UNSPEC dissolves the association, for TCP too: a reset is sent,
    the queues are emptied, and whoever waits in a call or in epoll is woken with an error. A close(2) would have to
    wait for the handler, and a shutdown(2) sends an end of stream before any reset. The socket module cannot express
    such an address.
    """
    connect = _libc_connect()
    try:
        return connect is not None and connect(sock, bytes(16), 16) == 0
    except OSError:
        return False


@functools.cache
def _libc_connect() -> Callable[[Any, bytes, int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        import ctypes

        class Descriptor:
            """Takes the number from the socket in C."""

            from_param = _socket_std.socket.fileno

        # With the interpreter held throughout (PyDLL): between the look at the number and the call no other thread of
        # this process can close the socket and have the number given to another connection.
        connect = ctypes.PyDLL(None).connect
        connect.argtypes = [Descriptor, ctypes.c_char_p, ctypes.c_int]  # type: ignore[list-item]
    except (ImportError, OSError, AttributeError):
        return None  # built without ctypes
    return connect


class Connections:
    """The table of them. Entering and leaving cost the same however many there are; safe from any thread.

    ``elsewhere``: the handlers are in other processes, so that this one's socket objects count nothing.

    There is no lock: one that another thread holds at the moment of a fork would stay locked in the child for ever.
    Each step on the table is whole by itself.
    """

    __slots__ = ("_by_socket", "_ids", "clock", "elsewhere", "on_lost", "total")

    def __init__(self, clock: Clock = MONOTONIC, *, elsewhere: bool = False) -> None:
        self.clock = clock
        self.elsewhere = elsewhere
        #: Called with each connection whose socket somebody let go of without a word, if it is set before they come.
        self.on_lost: Callable[[Connection], object] | None = None
        self._ids = itertools.count(1)
        self._by_socket: dict[int, Connection] = {}
        #: Connections that were ever entered.
        self.total = 0

    def enter(self, sock: Any, peer: Any, listener: str = "") -> Connection:
        connection = Connection(self, next(self._ids), peer, listener)
        self.total += 1
        if self.on_lost is None:
            # As _hold() does it: a frame less for each connection.
            key = connection._key = id(sock)
            connection._socket = _ref(sock)
            self._by_socket[key] = connection
        else:
            self._hold(connection, sock)
        return connection

    def _hold(self, connection: Connection, sock: Any) -> None:
        """It is the connection of ``sock`` from now on."""
        key = connection._key = id(sock)
        if self.on_lost is not None:
            connection._socket = weakref.ref(sock, functools.partial(self._lose, key))
        else:
            connection._socket = _ref(sock)
        self._by_socket[key] = connection

    def _lose(self, key: int, gone: Any) -> None:
        connection = self._by_socket.get(key)
        if connection is not None and connection._socket is gone and self.on_lost is not None:
            self.remove(connection)
            self.on_lost(connection)

    def of(self, sock: Any) -> Connection | None:
        """The connection that ``sock`` was entered with; None if it is not here."""
        return self._by_socket.get(id(sock))

    def exchange(self, connection: Connection, old: Any, new: Any) -> None:
        """The connection goes on by the socket ``new``, TLS say, into which ``old`` was made."""
        self._hold(connection, new)
        if self._by_socket.get(id(old)) is connection:
            del self._by_socket[id(old)]

    def remove(self, connection: Connection) -> None:
        """The connection is done with, whatever has become of its socket."""
        if self._by_socket.get(connection._key) is connection:
            del self._by_socket[connection._key]

    @property
    def entered(self) -> int:
        """Connections that were entered and have not left, at no cost: some may be closed already."""
        return len(self._by_socket)

    def _alive(self) -> list[Connection]:
        alive = []
        for key, connection in list(self._by_socket.items()):
            if connection.socket is not None:
                alive.append(connection)
            elif connection._socket() is None and self._by_socket.get(key) is connection:
                # One whose handler has closed the socket is still to be accounted for by whoever ends it. But a server
                # of the old kind may end a connection on a way of its own, without telling.
                gone = self._by_socket.pop(key, connection)
                if gone is not connection:
                    self._by_socket[key] = gone  # a new socket came to the same id in between
        return alive

    def __iter__(self) -> Iterator[Connection]:
        return iter(self._alive())

    def __len__(self) -> int:
        return len(self._alive())
