"""Socket options of accepted connections, set once on the listener: what accept(2) returns inherits them on Linux."""

from __future__ import annotations

import contextlib
import socket as _socket_std
from typing import Any

__all__ = ["set_stream_options"]

#: Options of every TCP connection: answers are sent at once, and a peer that vanished is found out: idle after 60 s and
#: three probes 10 s apart, in the midst of an answer after 30 s without a sign of life (tcp(7)).
TCP_OPTIONS = {
    "TCP_NODELAY": 1,
    "TCP_KEEPIDLE": 60,
    "TCP_KEEPINTVL": 10,
    "TCP_KEEPCNT": 3,
    "TCP_USER_TIMEOUT": 30_000,
}


def set_stream_options(sock: Any) -> None:
    """Set them on a listening socket: so they cost nothing for each connection. What a system lacks is left out."""
    if sock.family in (_socket_std.AF_INET, _socket_std.AF_INET6):
        sock.setsockopt(_socket_std.SOL_SOCKET, _socket_std.SO_KEEPALIVE, 1)
        for name, value in TCP_OPTIONS.items():
            option = getattr(_socket_std, name, None)
            if option is not None:
                with contextlib.suppress(OSError):
                    sock.setsockopt(_socket_std.IPPROTO_TCP, option, value)
