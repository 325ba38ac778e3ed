"""What is seen of one server, and of one connection, as values that JSON has."""

from __future__ import annotations

import dataclasses
import heapq
import socket as _socket_std
import struct
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from ..admission import PeerList, Penalties, Rate
from ..connections import Connection
from ..deadlines import waits_for_peer
from ..door import Listener
from ..limits import Limits
from ..server import Server
from .texts import host_of, peer_text

__all__ = [
    "MOST", "MOST_PEERS", "ORDERS", "certificates", "connection_row", "limit_values", "listener_row", "peers",
    "rows_of",
]  # fmt: skip

#: Connections in one answer, and peers.
MOST, MOST_PEERS = 200, 20

#: What connections can be sorted by, the largest first, but for the text of the peer.
ORDERS: dict[str, Callable[[Connection], Any]] = {
    "age": lambda one: one.age,
    "received": lambda one: one.received,
    "sent": lambda one: one.sent,
    "peer": lambda one: peer_text(one.peer),
    "id": lambda one: -one.id,
}

#: Where tcpi_unacked and tcpi_sacked stand in struct tcp_info; of a listening socket they are the queue and its length.
_QUEUE = 24


def connection_row(connection: Connection, server: int) -> dict[str, Any]:
    """Bytes, seconds, and what is known of who is there."""
    sock = connection.socket
    tls = getattr(sock, "tls", None)
    waits = waits_for_peer(sock) if sock is not None else None
    return {
        "server": server,
        "id": connection.id,
        "peer": peer_text(connection.peer),
        "via": _via(sock),
        "listener": connection.listener,
        "state": connection.state.value,
        "age": connection.age,
        "received": connection.received,
        "sent": connection.sent,
        # In another process nobody knows.
        "waits": None if connection.elsewhere else {True: "to receive", False: "to send", None: "at work"}[waits],
        "tls": tls and {"version": tls.version, "cipher": tls.cipher, "sni": tls.sni, "alpn": tls.alpn},
    }


def _via(sock: Any) -> str | None:
    """The proxy's own address, where a PROXY header came."""
    if getattr(sock, "proxy", None) is None:
        return None
    try:
        return peer_text(sock.getpeername())
    except OSError:
        return None


def rows_of(
    servers: Iterable[Server], *, order: str = "age", text: str = "", most: int = MOST
) -> dict[str, Any]:
    """The first ``most`` connections in that order of those whose peer, listener or number has ``text`` in it, and how
    many there are."""
    by = ORDERS[order]
    found, total = [], 0
    for number, server in enumerate(servers):
        connections = server.connections
        total += len(connections)
        found += [(number, one) for one in connections if not text or _has(one, text)]
    choose = heapq.nsmallest if order == "peer" else heapq.nlargest
    shown = choose(most, found, key=lambda pair: by(pair[1]))
    return {"total": total, "found": len(found), "rows": [connection_row(one, number) for number, one in shown]}


def _has(connection: Connection, text: str) -> bool:
    return text in peer_text(connection.peer) or text in connection.listener or text == str(connection.id)


def peers(server: Server) -> dict[str, int]:
    """Connections of those who have the most."""
    return dict(Counter(host_of(one.peer) for one in server.connections).most_common(MOST_PEERS))


def listener_row(listener: Listener) -> dict[str, Any]:
    """Its address, and how many wait in the kernel's queue of how many (tcp(7), Linux; None elsewhere)."""
    waiting = longest = None
    if not listener.is_datagram and listener.socket.family in (_socket_std.AF_INET, _socket_std.AF_INET6):
        try:
            told = listener.socket.getsockopt(_socket_std.IPPROTO_TCP, _socket_std.TCP_INFO, _QUEUE + 8)
            waiting, longest = struct.unpack_from("=II", told, _QUEUE)
        except (AttributeError, OSError, struct.error):
            pass
    return {
        "address": listener.location,
        "datagrams": listener.is_datagram,
        "tls": listener.address.is_tls,
        "waiting": waiting,
        "longest": longest,
    }


def certificates(server: Server) -> list[dict[str, Any]]:
    """The certificates in use: names, and seconds until the first of each runs out."""
    streams = server._service.streams
    found = {id(entry.tls): entry.tls for entry in (streams.entry, *streams.entries.values()) if entry and entry.tls}
    now = datetime.now(UTC)
    return [
        {"names": list(tls.names), "expires": tls.expires.timestamp(), "left": (tls.expires - now).total_seconds()}
        for tls in found.values()
        if hasattr(tls, "expires")
    ]


def limit_values(limits: Limits) -> dict[str, Any]:
    """Each limit as a number or a short text."""
    return {field.name: _plain(getattr(limits, field.name)) for field in dataclasses.fields(limits)}


def _plain(value: Any) -> Any:
    if isinstance(value, Rate):
        return f"{value.count} in {value.seconds:g}s, burst {value.burst}"
    if isinstance(value, PeerList):
        return f"{len(value)} networks"
    if isinstance(value, Penalties):
        return "on"
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value
