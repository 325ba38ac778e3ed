"""Sockets that somebody else opened: inherited by number, or handed over by the caller."""

from __future__ import annotations

import errno
import os
import socket as _socket_std
import stat
import sys

from jackfield.address import describe_sockaddr
from jackfield.errors import StartError

__all__ = ["adopt_descriptor", "adopt_socket"]

_FAMILIES = tuple(
    getattr(_socket_std, name) for name in ("AF_INET", "AF_INET6", "AF_UNIX") if hasattr(_socket_std, name)
)
_STREAMS = (_socket_std.SOCK_STREAM, _socket_std.SOCK_SEQPACKET)


def adopt_descriptor(
    number: int, *, backlog: int, socket_class: type[_socket_std.socket], name: str = ""
) -> _socket_std.socket:
    """A listening or datagram socket of our own for an inherited descriptor, which stays open.

    :param name: what it is called in errors; default ``fd://number``.
    :raises StartError: there is none of that number, or it is not a socket that can be served.
    """
    name = name or f"fd://{number}"
    try:
        mode = os.fstat(number).st_mode
    except (OSError, OverflowError):
        raise StartError(
            f"cannot listen on {name}: no descriptor {number} is open; whoever starts the program must pass it on"
            " (e.g. `systemd-socket-activate`, or pass_fds= of subprocess)"
        ) from None
    if not stat.S_ISSOCK(mode):
        raise StartError(f"cannot listen on {name}: it is {_kind_of_file(mode)}, not a socket; pass a bound socket")
    return _adopt(number, name, backlog, socket_class)


def adopt_socket(
    sock: _socket_std.socket, *, backlog: int, socket_class: type[_socket_std.socket]
) -> _socket_std.socket:
    """A listening or datagram socket of our own for the caller's, which stays open and the caller's to close.

    :raises StartError: it is closed, or not a socket that can be served.
    """
    number = sock.fileno()
    if number < 0:
        raise StartError("cannot listen on a closed socket: pass one that is open and bound")
    ssl = sys.modules.get("ssl")  # a program that has none of its sockets has not imported it
    if ssl is not None and isinstance(sock, ssl.SSLSocket):
        # Its duplicate would be the plain socket beneath, and serve in clear what was meant to be encrypted.
        raise StartError("cannot listen on a socket wrapped in TLS: pass the plain one that it was made of")
    return _adopt(number, f"the socket of descriptor {number}", backlog, socket_class)


def _adopt(number: int, name: str, backlog: int, socket_class: type[_socket_std.socket]) -> _socket_std.socket:
    try:
        descriptor = os.dup(number)  # close-on-exec, as all that Python opens (PEP 446)
    except OSError as error:
        raise StartError(f"cannot listen on {name}: {error.strerror}; raise the limit with `ulimit -n`") from error
    try:
        sock = socket_class(fileno=descriptor)  # family, type and protocol are asked of the kernel
    except BaseException:
        os.close(descriptor)
        raise
    try:
        problem = _problem_with(sock) or _start_listening(sock, backlog)
        if problem:
            raise StartError(f"cannot listen on {name}: {problem}")
    except BaseException:
        sock.close()
        raise
    return sock


def _problem_with(sock: _socket_std.socket) -> str | None:
    if sock.family not in _FAMILIES:
        return f"its family is {_name(sock.family)}; pass an IPv4, IPv6 or Unix socket"
    if sock.type not in (*_STREAMS, _socket_std.SOCK_DGRAM):
        return f"its type is {_name(sock.type)}; pass a stream or a datagram socket"
    peer = _peer_of(sock)
    if peer is not None and sock.type in _STREAMS:
        whose = describe_sockaddr(sock.family, sock.type, peer)
        return f"it is a connection (with {whose}), not a listener; pass the socket that accepts (systemd: Accept=no)"
    if not _is_bound(sock):
        return "it is not bound to an address; call bind() first"
    return None


def _start_listening(sock: _socket_std.socket, backlog: int) -> str | None:
    # One that listens keeps the backlog that its owner chose: listen(2) again would change it.
    if sock.type not in _STREAMS or sock.getsockopt(_socket_std.SOL_SOCKET, _socket_std.SO_ACCEPTCONN):
        return None
    try:
        sock.listen(backlog)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return "another socket listens on its address; stop that program or bind another port"
        return f"it cannot be made to listen: {error.strerror}"
    return None


def _peer_of(sock: _socket_std.socket) -> object | None:
    try:
        peer: object = sock.getpeername()
    except OSError:
        return None
    return peer


def _is_bound(sock: _socket_std.socket) -> bool:
    name = sock.getsockname()
    # An IP socket has a port once it is bound; a Unix socket's name is empty before (unix(7)).
    return bool(name[1] if isinstance(name, tuple) else name)


def _name(number: int) -> str:
    return getattr(number, "name", str(number))


def _kind_of_file(mode: int) -> str:
    kinds = {
        stat.S_IFREG: "a regular file",
        stat.S_IFDIR: "a directory",
        stat.S_IFIFO: "a pipe",
        stat.S_IFCHR: "a terminal or another character device",
        stat.S_IFBLK: "a block device",
    }
    return kinds.get(stat.S_IFMT(mode), "something else")
