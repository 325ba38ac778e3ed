"""Opening a way to a server: any address of the grammar, by plain blocking sockets of the standard library."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import math
import os
import select
import socket as _socket_std
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from jackfield.address import Address, parse_address
from jackfield.cli.arguments import UsageError
from jackfield.errors import AddressError, JackfieldError

__all__ = ["Candidate", "Line", "NetworkError", "dial", "explain", "needs_race", "parse_source", "readable", "writable"]

STREAM_CHUNK = 1 << 16
UDP_LARGEST = 65_507
"""What one IPv4 datagram carries: 65,535 less the headers of IP (20) and UDP (8)."""


LONGEST_WAIT = 3600.0
"""Seconds; poll(2) takes milliseconds as an int, which ends at 24 days, and a duration may be a hundred years."""


def readable(descriptor: int, timeout: float | None = 0.0) -> bool:
    """Whether a read would not block: now, within `timeout` seconds (at most an hour), or, with None, ever."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    # A fraction of a millisecond would be cut off: the wait would end early, and who waits by a deadline would spin.
    return bool(poll.poll(None if timeout is None else max(0, math.ceil(min(timeout, LONGEST_WAIT) * 1000))))


def writable(descriptor: int, timeout: float | None = None) -> bool:
    """Wait until a write would not block, `timeout` seconds at most (an hour at most) or, with None, for ever."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(None if timeout is None else math.ceil(min(timeout, LONGEST_WAIT) * 1000)))


class NetworkError(JackfieldError):
    """The network or the other side failed; the message, one line, says how and what to do."""


class Line:
    """An open way to one peer; its calls block.

    One thread may send while another receives.

    :ivar peer: where it leads, as text.
    :ivar ends: whether the other side's closing is seen; no datagram tells of it.
    :ivar largest: how many bytes one :meth:`send` takes at most.
    :ivar terms: what was agreed on the way, for a person; empty where there was nothing to agree on.
    """

    terms = ""

    def __init__(self, sock: _socket_std.socket, peer: Address, target: Any = None) -> None:
        """:param target: where each datagram goes, for a socket that is not connected."""
        self.peer = str(peer)
        self.ends = sock.type != _socket_std.SOCK_DGRAM
        self.largest = UDP_LARGEST if peer.scheme.startswith("udp") else STREAM_CHUNK
        self.address = peer
        self._sock = sock
        self._target = target

    @property
    def socket(self) -> _socket_std.socket:
        """The socket, for who goes on with it in place of this line."""
        return self._sock

    @property
    def ahead(self) -> bool:
        """Whether there is something to :meth:`receive` that the descriptor does not tell of."""
        return False

    def waits(self, timeout: float | None = 0.0) -> bool:
        """Whether something waits to be received: :func:`readable`, for this line."""
        return self.ahead or readable(self.fileno(), timeout)

    def fileno(self) -> int:
        """The descriptor, to wait on."""
        return self._sock.fileno()

    def send(self, data: bytes) -> None:
        """Send all of it; a datagram in one piece."""
        with self._translated():
            if self._target is not None:
                self._sock.sendto(data, self._target)
            elif self._sock.type == _socket_std.SOCK_STREAM:
                self._sock.sendall(data)
            else:
                self._sock.send(data)

    def receive(self) -> bytes | None:
        """What has come, at least a byte of a stream or one datagram; None once the other side has closed."""
        with self._translated():
            data = self._sock.recv(STREAM_CHUNK)
        return data if data or not self.ends else None

    def introduce(self, proxy: Introduction) -> None:
        """Send the PROXY header, before anything else is sent.

        :raises UsageError: there is none for this line.
        """
        if self._sock.type != _socket_std.SOCK_STREAM:
            raise UsageError(f"--send-proxy begins a stream, and {self.peer} is none: leave it out")
        from jackfield.proxyheader import encode, own_header  # late: seldom wanted

        shown: Any = None
        if proxy.source is not None:
            shown = proxy.source.path if proxy.source.is_unix else (proxy.source.host, proxy.source.port)
        try:
            with self._translated():
                header = own_header(self._sock, proxy.version, shown)
        except ValueError as error:
            raise UsageError(f"--send-proxy: {error}") from None
        self.send(encode(header))

    def finish(self) -> None:
        """Say that nothing more will be sent, where the kind of socket can say so."""
        if self.ends:
            # The other side may be gone already, and then there is nobody to tell.
            with contextlib.suppress(OSError):
                self._sock.shutdown(_socket_std.SHUT_WR)

    def close(self) -> None:
        """Close it; a socket file of our own goes too."""
        self._sock.close()

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise NetworkError(self._explain(error)) from error

    def _explain(self, error: OSError) -> str:
        return explain(error, self.address)


class _UnixDatagramLine(Line):
    """A Unix datagram socket has to have a name, or the server has nowhere to answer to (unix(7))."""

    def __init__(self, sock: _socket_std.socket, peer: Address, own_file: str | None) -> None:
        """:param own_file: what its name made, to be removed with it."""
        super().__init__(sock, peer)
        self._own_file = own_file

    def close(self) -> None:
        super().close()
        if self._own_file is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._own_file)


class Introduction(NamedTuple):
    """The PROXY header to begin with: its version, and the client that is told of where that is not this one."""

    version: int
    source: Address | None = None


def dial(
    address: Address,
    timeout: float = 10.0,
    source: Address | None = None,
    broadcast: bool = False,
    proxy: Introduction | None = None,
) -> Line:
    """Open the way to `address`; where it says ``tls:``, TLS has yet to begin (:mod:`jackfield.cli.encrypted`).

    :param timeout: seconds that each attempt to connect may take.
    :param source: what to send from: a host, a port or both; for ``unixgram`` a path.
    :param broadcast: permit UDP to a broadcast address; replies are then taken from whoever answers.
    :param proxy: the PROXY header that is sent first.
    :raises NetworkError: nobody is there.
    :raises UsageError: nobody can be there, as the address is written, or it is no stream to begin with a header.
    """
    try:
        line = _dial(address, timeout, source, broadcast)
    except OSError as error:
        raise NetworkError(explain(error, address, timeout)) from error
    if proxy is not None:
        try:
            line.introduce(proxy)
        except BaseException:
            line.close()
            raise
    return line


def _dial(address: Address, timeout: float, source: Address | None, broadcast: bool) -> Line:
    if address.scheme == "fd":
        return _inherit(address)
    if address.scheme == "systemd":
        raise UsageError(f"{address} is for a server to listen on: write where to connect, e.g. tcp://127.0.0.1:9999")
    if address.is_unix:
        return _dial_unix(address, timeout, source)
    return _dial_internet(address, timeout, source, broadcast)


def _inherit(address: Address) -> Line:
    sock = _socket_std.socket(fileno=address.fd)
    sock.setblocking(True)
    return Line(sock, address)


def _dial_unix(address: Address, timeout: float, source: Address | None) -> Line:
    kinds = {
        "unix": _socket_std.SOCK_STREAM,
        "unixgram": _socket_std.SOCK_DGRAM,
        "unixpacket": _socket_std.SOCK_SEQPACKET,
    }
    if source is not None and (source.scheme, address.scheme) != ("unixgram", "unixgram"):
        raise UsageError(f"--source of a Unix socket is for unixgram:, and is a unixgram:PATH of its own, not {source}")
    with contextlib.ExitStack() as undo:
        sock = undo.enter_context(_socket_std.socket(_socket_std.AF_UNIX, kinds[address.scheme]))
        if address.scheme != "unixgram":
            sock.settimeout(min(timeout, LONGEST_WAIT))
            sock.connect(_sockaddr_of(address.path))
            sock.settimeout(None)
            undo.pop_all()
            return Line(sock, address)
        own_path = source.path if source is not None else _temporary_path()
        _bind(sock, _sockaddr_of(own_path), f"unixgram:{own_path}")
        own_file = None if own_path.startswith("@") else own_path
        if own_file is not None:
            undo.callback(os.unlink, own_file)
        sock.connect(_sockaddr_of(address.path))
        if own_file is not None:
            # Who answers needs the permission to write to our file, and may run as another user.  Nobody else gains by
            # it: the kernel takes datagrams for a connected Unix socket from its peer only (EPERM, unix(7)).
            os.chmod(own_file, 0o666)
        undo.pop_all()
        return _UnixDatagramLine(sock, address, own_file)


def _sockaddr_of(path: str) -> str:
    # A name in Linux's abstract namespace begins with a NUL (unix(7)).
    return f"\0{path[1:]}" if path.startswith("@") else path


def _temporary_path() -> str:
    import tempfile  # slow to import, and wanted only here

    return os.path.join(tempfile.gettempdir(), f"jackfield-{os.getpid()}-{os.urandom(4).hex()}.sock")


class Candidate(NamedTuple):
    """One answer of the resolver, and what to bind to before connecting to it."""

    family: int
    kind: int
    proto: int
    sockaddr: Any
    source: Any


def _dial_internet(address: Address, timeout: float, source: Address | None, broadcast: bool) -> Line:
    if not address.port:
        raise UsageError(f"port 0 is for a server that lets the system choose; write the port it got: {address}")
    if broadcast and not address.is_datagram:
        raise UsageError("--allow-broadcast goes with udp://")
    failure: OSError | None = None
    candidates = _candidates(address, source)
    if source is None and needs_race(candidates):
        # An address that never answers would hold up the others, each for the whole timeout.
        from jackfield.connecting import connect  # ten times slower to import than all of this, but not ten seconds

        # TLS begins here afterwards, with who answers first.
        plain = parse_address(f"tcp{str(address)[3:]}") if address.is_tls else address
        return Line(connect(plain, timeout), address)
    for candidate in candidates:
        sock = _socket_std.socket(candidate.family, candidate.kind, candidate.proto)
        try:
            if candidate.source is not None:
                _bind(sock, candidate.source, str(source))
            if broadcast:
                # Answers come from each machine's own address, and a connected socket would not let them in.
                sock.setsockopt(_socket_std.SOL_SOCKET, _socket_std.SO_BROADCAST, 1)
                return Line(sock, address, candidate.sockaddr)
            sock.settimeout(min(timeout, LONGEST_WAIT))
            sock.connect(candidate.sockaddr)
            sock.settimeout(None)
            return Line(sock, address)
        except OSError as error:
            sock.close()
            failure = failure or error
        except BaseException:
            sock.close()
            raise
    raise failure or NetworkError(f"{address} has no address of the same family as --source {source}")


def _candidates(address: Address, source: Address | None) -> list[Candidate]:
    digit = address.scheme[-1]
    family = {"4": _socket_std.AF_INET, "6": _socket_std.AF_INET6}.get(digit, _socket_std.AF_UNSPEC)
    kind = _socket_std.SOCK_DGRAM if address.is_datagram else _socket_std.SOCK_STREAM
    # No host is all interfaces to a server; the resolver then answers with this machine, which has them.
    answers = _socket_std.getaddrinfo(address.host or None, address.port, family, kind)
    if address.is_datagram:
        # Connecting a UDP socket asks nobody, so the first always "works": take the family that servers lack least.
        answers.sort(key=lambda answer: answer[0] != _socket_std.AF_INET)
    sources: dict[int, Any] = {}
    if source is not None:
        if source.is_unix:
            raise UsageError(f"--source of {address} is HOST, :PORT or HOST:PORT, not {source}")
        flags = 0 if source.host else _socket_std.AI_PASSIVE
        for found, *_, sockaddr in _socket_std.getaddrinfo(source.host or None, source.port, 0, kind, 0, flags):
            sources.setdefault(found, sockaddr)
    return [
        Candidate(found, found_kind, proto, sockaddr, sources.get(found))
        for found, found_kind, proto, _, sockaddr in answers
        if source is None or found in sources
    ]


def needs_race(candidates: Sequence[Candidate]) -> bool:
    """Whether to try several at once (RFC 8305): streams of both families, where one may have no way out.

    This machine's own addresses answer at once, with yes or no.
    """
    families = {candidate.family for candidate in candidates if candidate.kind == _socket_std.SOCK_STREAM}
    local = all(ipaddress.ip_address(candidate.sockaddr[0].partition("%")[0]).is_loopback for candidate in candidates)
    return len(families) > 1 and not local


def _bind(sock: _socket_std.socket, sockaddr: Any, shown: str) -> None:
    try:
        sock.bind(sockaddr)
    except OSError as error:
        raise NetworkError(f"cannot send from {shown}: {error.strerror}; choose another --source") from error


def parse_source(text: str) -> Address:
    """What ``--source`` takes: an address of the grammar, or a host alone.

    :raises AddressError: it is neither.
    """
    try:
        return parse_address(text)
    except AddressError:
        # A host alone is no address to connect to, but one to send from: any port will do.
        with contextlib.suppress(AddressError):
            return parse_address(f"{text}:0")
        with contextlib.suppress(AddressError):
            return parse_address(f"[{text}]:0")
        raise


def parse_introduction(version: str | None, source: str | None) -> Introduction | None:
    """What ``--send-proxy`` and ``--proxy-source`` mean together.

    :raises AddressError: the source is no address.
    :raises UsageError: there is a source for no header.
    """
    if version is None:
        if source is not None:
            raise UsageError("--proxy-source goes with --send-proxy v1 or v2")
        return None
    return Introduction(int(version[1:]), None if source is None else parse_source(source))


def explain(error: OSError, address: Address, timeout: float = 0.0) -> str:
    """One line on why `address` cannot be reached, or was lost, that says what to do where that is known."""
    reason = error.strerror or str(error)
    if isinstance(error, _socket_std.gaierror):
        return f"cannot find the host {address.host!r}: {reason}"
    if isinstance(error, TimeoutError):
        return f"no answer from {address} within {timeout:g}s; -w waits longer"
    if isinstance(error, ConnectionRefusedError):
        return f"nobody listens on {address}: is the server running? Its banner shows where it listens"
    if isinstance(error, FileNotFoundError):
        return f"there is no socket {address.path}: is the server running?"
    if isinstance(error, ConnectionResetError | BrokenPipeError):
        return f"{address} broke the connection off: {reason}"
    if error.errno == errno.EPROTOTYPE:
        return f"{address.path} is a socket of another kind: {_other_kinds(address)}"
    if error.errno == errno.EMSGSIZE:
        return f"too large for one datagram to {address}: {reason}"
    if error.errno == errno.EACCES and address.scheme.startswith("udp"):
        return f"{address} is a broadcast address: add --allow-broadcast"
    return f"cannot reach {address}: {reason}"


def _other_kinds(address: Address) -> str:
    kinds = [kind for kind in ("unix", "unixgram", "unixpacket") if kind != address.scheme]
    return "try " + " or ".join(f"{kind}:{address.path}" for kind in kinds)
