"""Listeners: an address becomes bound, non-blocking sockets, or one line that says why not."""

from __future__ import annotations

import contextlib
import socket as _socket_std
import struct
from dataclasses import dataclass, field
from typing import Any

from jackfield.address import Address, describe_sockaddr, parse_address
from jackfield.door.activation import open_activated
from jackfield.door.adoption import adopt_descriptor, adopt_socket
from jackfield.door.inet import open_inet
from jackfield.door.options import backlog_of, reuses_port
from jackfield.door.packetinfo import enable_packet_info, is_wildcard
from jackfield.door.unixpath import SocketFile, open_unix
from jackfield.errors import AddressError

__all__ = ["Listener", "Target", "open_listeners", "peer_of", "readable_peer"]

Target = Address | _socket_std.socket | tuple[str, int] | tuple[str, int, int, int] | str | int
"""What a server can be told to listen on."""

# listen(2) cuts the number to net.core.somaxconn without a word, so asking for the most that a 16-bit field ever held
# leaves the choice to the administrator.  A full queue costs little memory; a short one loses clients in a burst.
BACKLOG = 65535

_SO_PEERCRED: int = getattr(_socket_std, "SO_PEERCRED", -1)  # Linux's; -1 is no option anywhere
_UCRED = struct.Struct("=iII")  # pid_t, uid_t, gid_t (unix(7), SO_PEERCRED)


@dataclass(eq=False)
class Listener:
    """One bound socket: listening if it is a stream, open for datagrams otherwise; non-blocking and close-on-exec.

    :param socket: the bound socket; the listener's own, so it is closed by :meth:`close`.
    :param address: what was asked for.
    :param location: the real address as text, with the real port and without options; ``tls://…`` where that was asked
        for.  It stays readable after ``close``.
    :param is_datagram: True where there is nothing to accept, only datagrams to read.
    :param shared: somebody else has the same socket, and whoever waits in its queue may be theirs: it was handed to
        this process open, or is the listener of several workers.
    :param tls: what its own certificate was read to be, where that was done before there is a server; else None.
    """

    socket: _socket_std.socket
    address: Address
    location: str
    is_datagram: bool
    _file: SocketFile | None = field(default=None, repr=False)
    shared: bool = False
    tls: Any = field(default=None, repr=False)

    def fileno(self) -> int:
        """The descriptor, so that ``select`` and ``poll`` take the listener itself; -1 once closed."""
        return self.socket.fileno()

    def own(self, file: SocketFile) -> None:
        """``file``, which its socket is found by, goes with it from now on."""
        self._file = file

    def hand_over(self) -> None:
        """Stops listening here: another process has the same socket, and the path is its affair."""
        self._file = None
        self.close()

    def close(self) -> None:
        """Stops listening; any number of times.

        The path of a Unix socket goes with it where this process bound it and the file is still the one that bind(2)
        made: somebody may have put a newer server there, and a forked child has no business with its parent's path.
        """
        file, self._file = self._file, None
        if file is not None:
            # Before the socket is closed: an open socket holds its inode, so its number cannot have been given to
            # another file, and equal numbers mean the same file.
            file.remove()
        self.socket.close()


def open_listeners(
    target: Target,
    *,
    backlog: int = BACKLOG,
    reuse_port: bool = False,
    socket_class: type[_socket_std.socket] | None = None,
    unlink_on_close: bool = True,
) -> list[Listener]:
    """Binds everything that one address means; a stream socket listens when this returns.

    A host name may mean several addresses: each is bound, on one port.  No host means all interfaces, IPv4 and IPv6 on
    one port, by a single socket that takes both where the kernel can.

    An open socket, and each descriptor of ``fd://N`` and ``systemd:``, is duplicated: closing the listener leaves the
    caller's own open, and the other way round.  Both name one socket of the kernel's, so the queue of connections and
    the non-blocking mode are shared (open(2), "open file description"): the caller must not accept from it meanwhile.

    The options of an address go before the arguments, and those of its socket are set before it is bound.

    Looking up a host name blocks.

    :param target: an :class:`Address`, a text or port number for :func:`parse_address`, a ``(host, port)`` tuple as
        the standard library has it, or an open socket.
    :param backlog: how many connections may wait to be accepted; the kernel cuts it to ``net.core.somaxconn``.
    :param reuse_port: several sockets may have the port, and the kernel spreads clients over them (``SO_REUSEPORT``,
        socket(7)).  Off, because with it a second copy of a server takes half of the clients unseen.
    :param socket_class: what the sockets are instances of; ``jackfield.socket.socket`` unless named.
    :param unlink_on_close: whether a listener removes the Unix path that it made when it is closed.
    :raises AddressError: the text is no address.
    :raises StartError: the machine refuses; the message is one line and says what to do.  Nothing stays open or behind.
    """
    made_of = socket_class or _socket_class()
    if isinstance(target, _socket_std.socket):
        return [listener_of(adopt_socket(target, backlog=backlog, socket_class=made_of), None, shared=True)]
    address = _as_address(target)
    if address.scheme == "fd":
        return [listener_of(adopt_descriptor(address.fd, backlog=backlog, socket_class=made_of), address, shared=True)]
    if address.scheme == "systemd":
        passed = open_activated(address, backlog=backlog, socket_class=made_of)
        return _listeners(passed, address, shared=True)
    backlog, reuse_port = backlog_of(address, backlog), reuses_port(address, reuse_port)
    if address.is_unix:
        sock, file = open_unix(address, backlog=backlog, socket_class=made_of)
        return [listener_of(sock, address, file if unlink_on_close else None)]
    sockets = open_inet(address, backlog=backlog, reuse_port=reuse_port, socket_class=made_of)
    return _listeners(sockets, address)


def _socket_class() -> type[_socket_std.socket]:
    from jackfield.socket import socket  # late: a caller with a class of its own does without the module

    return socket


def _listeners(sockets: list[_socket_std.socket], address: Address, *, shared: bool = False) -> list[Listener]:
    """All of them, or none left open."""
    with contextlib.ExitStack() as undo:
        for sock in sockets:
            undo.callback(sock.close)
        listeners = [listener_of(sock, address, shared=shared) for sock in sockets]
        undo.pop_all()
        return listeners


def listener_of(
    sock: _socket_std.socket, address: Address | None, file: SocketFile | None = None, *, shared: bool = False
) -> Listener:
    """The listener of ``sock``, which is open and bound; closed again, its file with it, if that fails."""
    try:
        sockaddr = sock.getsockname()
        is_datagram = sock.type == _socket_std.SOCK_DGRAM
        if is_datagram and is_wildcard(sock.family, sockaddr):
            enable_packet_info(sock)
        sock.setblocking(False)
        # A Unix socket knows itself by the name that it was bound to, which may have been a temporary one.
        path = address.path if address is not None and not address.path.startswith("@") else ""
        location = describe_sockaddr(sock.family, sock.type, path or sockaddr)
        if address is not None and address.is_tls:
            location = f"tls{location[3:]}"
        return Listener(sock, address or parse_address(location), location, is_datagram, file, shared)
    except BaseException:
        if file is not None:
            file.remove()
        sock.close()
        raise


def _as_address(target: object) -> Address:
    if isinstance(target, Address):
        return target
    if isinstance(target, tuple):
        return _address_of_tuple(target)
    return parse_address(target)  # type: ignore[arg-type]  # it says what it takes, in its error


def _address_of_tuple(sockaddr: tuple[object, ...]) -> Address:
    """The standard library's form: ``(host, port)``, for IPv6 also ``(host, port, flowinfo, scope_id)``."""
    match sockaddr:
        case (str(host), int(port)) | (str(host), int(port), int(), 0):
            pass
        case (str(host), int(port), int(), int(scope)):
            host = f"{host.partition('%')[0]}%{scope}"
        case _:
            raise AddressError(f"no address in {sockaddr!r}: write ('127.0.0.1', 9999) or 'tcp://127.0.0.1:9999'")
    if isinstance(port, bool) or not 0 <= port <= 65535:
        raise AddressError(f"no port number from 0 to 65535 in {sockaddr!r}: write ({host!r}, 9999)")
    return Address("tcp", host, port)


def readable_peer(address: Any) -> Any:
    """An IPv4 client of a dual-stack socket is shown as what it is (RFC 4291, 2.5.5.2: ``::ffff:192.0.2.1``)."""
    if isinstance(address, tuple) and len(address) == 4 and address[0].startswith("::ffff:"):
        return address[0][7:], address[1]
    return address


def peer_of(sock: _socket_std.socket, address: Any) -> Any:
    """Who is at the other end of the accepted ``sock``, where accept(2) said ``address``.

    :func:`readable_peer` of a network's client.  A Unix client has no address, or one that it chose itself; it is told
    by its :class:`~jackfield.admission.Credentials`, which the kernel took down when it connected.  Where the system
    does not tell them, it is ``address``.
    """
    if isinstance(address, tuple) or sock.family != _socket_std.AF_UNIX:
        return readable_peer(address)
    from jackfield.admission.addresses import Credentials  # here: the drop-in face has no use for it

    try:
        # A user that this process's namespace does not know is 65534, and a process 0 (user_namespaces(7)).
        return Credentials(*_UCRED.unpack(sock.getsockopt(_socket_std.SOL_SOCKET, _SO_PEERCRED, _UCRED.size)))
    except OSError:
        return address
