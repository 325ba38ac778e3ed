"""Socket options, set once on the listener: what accept(2) returns inherits those of a connection on Linux."""

from __future__ import annotations

import contextlib
import logging
import socket as _socket_std
import sys
from typing import Any

from jackfield.address import Address
from jackfield.addressoptions import OPTIONS, whole
from jackfield.errors import StartError

__all__ = ["backlog_of", "bound_unsent", "reuses_port", "set_asked_options", "set_stream_options"]

_log = logging.getLogger("jackfield.door")

#: Options of every TCP connection: answers are sent at once, and a peer that vanished is found out: idle after 60 s and
#: three probes 10 s apart, in the midst of an answer after 30 s without a sign of life (tcp(7)). What is not on
#: its way yet waits with its sender, but for 128 KiB: the kernel would buffer 2.7 MiB for each peer that never reads.
TCP_OPTIONS = {
    "TCP_NODELAY": 1,
    "TCP_KEEPIDLE": 60,
    "TCP_KEEPINTVL": 10,
    "TCP_KEEPCNT": 3,
    "TCP_USER_TIMEOUT": 30_000,
    "TCP_NOTSENT_LOWAT": 131_072,
}

#: The one of them that a program cannot notice, and so the drop-in servers set as well.
_UNNOTICED = "TCP_NOTSENT_LOWAT"

#: The options of an address that are one of the socket's: its level, its name, and how many of the kernel's units each
#: of ours is.
_ASKED = {
    "rcvbuf": ("SOL_SOCKET", "SO_RCVBUF", 1),
    "sndbuf": ("SOL_SOCKET", "SO_SNDBUF", 1),
    "incoming_cpu": ("SOL_SOCKET", "SO_INCOMING_CPU", 1),
    "nodelay": ("IPPROTO_TCP", "TCP_NODELAY", 1),
    "keepalive": ("IPPROTO_TCP", "TCP_KEEPIDLE", 1),
    "user_timeout": ("IPPROTO_TCP", "TCP_USER_TIMEOUT", 1000),
    "defer_accept": ("IPPROTO_TCP", "TCP_DEFER_ACCEPT", 1),
    "fastopen": ("IPPROTO_TCP", "TCP_FASTOPEN", 1),
}
_MOST_BY = {"SO_RCVBUF": "net.core.rmem_max", "SO_SNDBUF": "net.core.wmem_max"}


def set_stream_options(sock: Any, address: Address | None = None) -> None:
    """Set them on a listening socket: so they cost nothing for each connection. What a system lacks is left out, and so
    is what ``address`` asks for: :func:`set_asked_options` has seen to that."""
    if sock.family not in (_socket_std.AF_INET, _socket_std.AF_INET6):
        return
    asked = {_ASKED[name][1] for name, _ in (address.options if address is not None else ()) if name in _ASKED}
    if "TCP_KEEPIDLE" not in asked:
        sock.setsockopt(_socket_std.SOL_SOCKET, _socket_std.SO_KEEPALIVE, 1)
    for name, value in TCP_OPTIONS.items():
        option = getattr(_socket_std, name, None)
        if option is not None and name not in asked:
            with contextlib.suppress(OSError):
                sock.setsockopt(_socket_std.IPPROTO_TCP, option, value)


def bound_unsent(sock: Any) -> None:
    """Of :func:`set_stream_options`, what bounds the memory that the kernel holds for peers that do not read."""
    option = getattr(_socket_std, _UNNOTICED, None)
    if option is not None and sock.family in (_socket_std.AF_INET, _socket_std.AF_INET6):
        with contextlib.suppress(OSError):
            sock.setsockopt(_socket_std.IPPROTO_TCP, option, TCP_OPTIONS[_UNNOTICED])


def set_asked_options(sock: _socket_std.socket, address: Address) -> None:
    """Set what the options of ``address`` ask for, before bind(2) and listen(2): the window of a connection is scaled
    by the receive buffer that the listener has by then (tcp(7), "Window scaling").

    :raises StartError: this system has no such option, or refuses the value.
    """
    for name, value in address.options:
        if name in _ASKED:
            level, option, factor = _ASKED[name]
            _set(sock, address, f"{name}={value}", level, option, _number(address, name, value) * factor)


def backlog_of(address: Address, otherwise: int) -> int:
    """What ``backlog=`` says, or else ``otherwise``."""
    value = dict(address.options).get("backlog")
    return otherwise if value is None else _number(address, "backlog", value)


def reuses_port(address: Address, otherwise: bool) -> bool:
    """What ``reuse_port=`` says, or else ``otherwise``."""
    value = dict(address.options).get("reuse_port")
    return otherwise if value is None else _number(address, "reuse_port", value) != 0


def _number(address: Address, name: str, value: str) -> int:
    option = OPTIONS[name]
    if not option.takes(value):  # of an Address that was not parsed
        raise StartError(f"cannot listen on {address}: {name}: no {option.what}; write e.g. {name}={option.example}")
    return whole(value)


def _set(sock: _socket_std.socket, address: Address, said: str, level: str, option: str, number: int) -> None:
    which = getattr(_socket_std, option, None)
    if which is None:
        raise StartError(f"cannot listen on {address}: this system has no {option}; leave {said} out")
    try:
        if option == "TCP_KEEPIDLE":
            sock.setsockopt(_socket_std.SOL_SOCKET, _socket_std.SO_KEEPALIVE, int(number > 0))
            if number == 0:
                return  # off; an idle time of 0 is none to the kernel
        sock.setsockopt(getattr(_socket_std, level), which, number)
    except OSError as error:
        raise StartError(
            f"cannot listen on {address}: the system does not take {said} ({option}: {error.strerror}); leave it out"
            " or write another value"
        ) from error
    most = _MOST_BY.get(option)
    if most is None or sys.platform != "linux":
        return
    # Linux cuts a buffer without an error, and doubles what is left, for what it needs itself (socket(7), SO_RCVBUF).
    got = sock.getsockopt(_socket_std.SOL_SOCKET, which) // 2
    if got < number:
        _log.warning("%s: %s is cut to %d bytes; raise %s with sysctl", address, said, got, most)
