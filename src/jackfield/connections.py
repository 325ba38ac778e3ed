"""The live connections of a server: who they are, and how to end one."""

from __future__ import annotations

import itertools
import socket as _socket_std
import struct
import threading
import weakref
from collections.abc import Iterator
from typing import Any

from .clock import MONOTONIC, Clock

_RESET = struct.pack("ii", 1, 0)


#: Where tcpi_bytes_acked and tcpi_bytes_received stand in struct tcp_info (linux/tcp.h).
_TCP_COUNTS = 120


class Connection:
    """One accepted peer, from accept to its end.

    ``peer`` is its address as the socket module gives it, ``listener`` the text of the address it came in by. The
    connection does not keep the socket alive: a handler that lets go of it ends it.
    """

    __slots__ = ("__weakref__", "_clock", "_since", "_socket", "id", "listener", "peer")

    def __init__(self, id: int, sock: Any, peer: Any, listener: str, clock: Clock) -> None:
        self.id = id
        self.peer = peer
        self.listener = listener
        self._socket = weakref.ref(sock)
        self._clock = clock
        self._since = clock.now()

    def __repr__(self) -> str:
        return f"<Connection {self.id} of {self.peer!r}, {self.age:.1f} s>"

    @property
    def socket(self) -> Any | None:
        """The connection's socket; None once it is closed."""
        sock = self._socket()
        return sock if sock is not None and sock.fileno() >= 0 else None

    @property
    def age(self) -> float:
        """Seconds since it was accepted."""
        return self._clock.now() - self._since

    @property
    def received(self) -> int:
        """Bytes that the handler has taken from it so far; for a handler in another process, what the kernel has taken
        (TCP only; 0 for a Unix socket there)."""
        return self._counts()[0]

    @property
    def sent(self) -> int:
        """Bytes that the kernel has taken for it so far; for a handler in another process, what the peer has
        acknowledged (TCP only; 0 for a Unix socket there)."""
        return self._counts()[1]

    def _counts(self) -> tuple[int, int]:
        sock = self.socket
        if sock is None:
            return 0, 0
        received, sent = getattr(sock, "received", 0), getattr(sock, "sent", 0)
        if not received and not sent and hasattr(_socket_std, "TCP_INFO"):
            try:
                info = sock.getsockopt(_socket_std.IPPROTO_TCP, _socket_std.TCP_INFO, _TCP_COUNTS + 16)
                sent, received = struct.unpack_from("=QQ", info, _TCP_COUNTS)
            except (OSError, struct.error):
                pass  # no TCP, or a kernel before 4.1
        return received, sent

    def close(self) -> None:
        """End it in both directions: whoever waits on it sees the end of the stream. From any thread."""
        sock = self.socket
        if sock is not None:
            try:
                sock.shutdown(_socket_std.SHUT_RDWR)
            except OSError:
                pass  # the peer was faster

    def abort(self) -> None:
        """End it at once: what is still to be sent is thrown away (SO_LINGER of zero, socket(7)). The peer reads an end
        and has a reset for what it sends after that."""
        sock = self.socket
        if sock is not None:
            try:
                sock.setsockopt(_socket_std.SOL_SOCKET, _socket_std.SO_LINGER, _RESET)
            except OSError:
                pass
            self.close()


class Connections:
    """The table of them. Entering and leaving cost the same however many there are; safe from any thread."""

    def __init__(self, clock: Clock = MONOTONIC) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._ids = itertools.count(1)
        self._by_socket: dict[int, Connection] = {}
        #: Connections that were ever entered.
        self.total = 0

    def enter(self, sock: Any, peer: Any, listener: str = "") -> Connection:
        connection = Connection(next(self._ids), sock, peer, listener, self._clock)
        self.total += 1
        self._by_socket[id(sock)] = connection
        return connection

    def leave(self, sock: Any) -> None:
        """``sock`` is done with; nothing happens if it never was here."""
        self._by_socket.pop(id(sock), None)

    def _alive(self) -> list[Connection]:
        with self._lock:
            entries = list(self._by_socket.items())
            for key, connection in entries:
                # A server of the old kind may end a connection on a way of its own, without telling.
                if connection.socket is None and self._by_socket.get(key) is connection:
                    del self._by_socket[key]
        return [connection for _, connection in entries if connection.socket is not None]

    def __iter__(self) -> Iterator[Connection]:
        return iter(self._alive())

    def __len__(self) -> int:
        return len(self._alive())
