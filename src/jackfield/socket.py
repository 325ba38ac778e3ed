"""The drop-in for the standard library's ``socket`` module: name for name, cooperative in a green thread.

In a plain thread everything here is the standard library's. In a green thread each call that would block gives the
loop its turn instead: timeouts, ``makefile()``, file transfer and the resolver included. Nothing is patched: code that
should cooperate imports this module (or is given it by :func:`jackfield.adopt`).

Beyond the standard library: ``socket.recvfile()``, the twin of ``sendfile()``; ``socket.received`` and ``socket.sent``,
the bytes taken and given so far; ``socket.tls``, what was agreed by TLS; ``bytes_sent`` on the exception of a
``sendall()`` that failed.
"""

from __future__ import annotations

import errno as _errno
import fcntl as _fcntl
import os as _os
import socket as _socket_std
import typing as _typing
from _socket import socket as _Raw
from collections.abc import Callable as _Callable
from collections.abc import Iterator as _Iterator
from typing import IO as _IO
from typing import Any as _Any

from greenlet import getcurrent as _getcurrent

from .reactor import CooperativeSocket as _CooperativeSocket
from .reactor import GreenThread as _GreenThread
from .reactor import in_green as _in_green
from .reactor import offload as _offload
from .reactor import sleep as _sleep
from .reactor.twin import native as _native

if not _typing.TYPE_CHECKING:
    # For type checkers it stands at the end: to them what comes first is what counts.
    from socket import *  # noqa: F403

__all__ = list(_socket_std.__all__)

# The rest of the module's names, such as ``SocketIO`` and the private ones that programs and tests reach for.
for _name, _value in vars(_socket_std).items():
    if not _name.startswith("__"):
        globals().setdefault(_name, _value)
del _name, _value

_GLOBAL_DEFAULT_TIMEOUT: _Any = _socket_std._GLOBAL_DEFAULT_TIMEOUT  # type: ignore[attr-defined]
_GiveupOnSendfile: type[Exception] = _socket_std._GiveupOnSendfile  # type: ignore[attr-defined]

#: Bytes moved by one call of ``recvfile``: what a pipe holds by default is 64 KiB (pipe(7)); this is asked for instead.
_PIPE_SIZE = 1 << 20


_INTERNET = (int(_socket_std.AF_INET), int(_socket_std.AF_INET6))
_family_of, _type_of, _proto_of = _Raw.family.__get__, _Raw.type.__get__, _Raw.proto.__get__


class socket(_CooperativeSocket):
    """The standard library's ``socket.socket``, cooperative in a green thread."""

    # Another socket object than None only where the connection goes on by that, over TLS: see _going_on().
    __slots__ = ("_gone_over",)

    _gone_over: _Any

    @property
    def tls(self) -> _Any:
        """What was agreed by TLS, a :class:`jackfield.tls.TLSInfo`; None for a socket that carries plaintext."""
        return None

    def accept(self) -> tuple[socket, _Any]:
        """As ``socket.accept``. The new socket is blocking, or has the default timeout, whatever this one has."""
        # Nothing to wait for on a non-blocking one, which is what servers ask again and again.
        fd, address = self._accept() if self._patience != 0.0 else _Raw._accept(self)  # type: ignore[attr-defined]
        # Plain numbers, where self.family is an enum made for each asking; and what __init__() does, straight.
        family = _family_of(self)
        sock = socket.__new__(socket)
        try:
            _Raw.__init__(sock, family, _type_of(self), _proto_of(self), fd)
        except BaseException:
            _os.close(fd)  # an audit hook has said no: nobody else has it
            raise
        _begin_accepted(sock, family)
        return sock, address

    def _accept(self, /) -> tuple[int, _Any]:
        if _in_green():
            self._switch()
        return self._attempt(lambda _: _Raw._accept(self), reading=True)  # type: ignore[attr-defined,no-any-return]

    def connect(self, address: _Any, /) -> None:
        """As ``socket.connect``; the timeout covers it."""
        if not self._waits_itself() or self._patience == 0.0:
            _Raw.connect(self, address)
            return
        error = self._connect(address)
        if error:
            raise OSError(error, _os.strerror(error))

    def connect_ex(self, address: _Any, /) -> int:
        """As ``socket.connect_ex``: 0, or the error number (EAGAIN when the timeout passed first)."""
        if not self._waits_itself() or self._patience == 0.0:
            return _Raw.connect_ex(self, address)
        try:
            return self._connect(address)
        except TimeoutError:
            return _errno.EAGAIN

    def _connect(self, address: _Any) -> int:
        address, deadline, pause = self._resolved(address), self._deadline(), 0.001
        self._switch()
        while True:
            error = _Raw.connect_ex(self, address)
            if error != _errno.EAGAIN or deadline is not None or self.family != _socket_std.AF_UNIX:
                break
            # The backlog of a Unix listener is full. connect(2) waits for room, if the socket is blocking; no readiness
            # tells of it: ask again. With a timeout CPython's socket is non-blocking below, and raises EAGAIN at once.
            _sleep(pause)
            pause = min(2 * pause, 0.05)
        if error not in (_errno.EINPROGRESS, _errno.EALREADY):
            return error
        green = _getcurrent()
        if isinstance(green, _GreenThread):
            # Registered only now: an unconnected socket would report a hang-up for a start.
            channel = self._join(green.reactor.poller)
            assert channel is not None
            channel.writable = False
            self._wait_writable(channel, green, deadline)
        else:
            self._wait_in_thread(False, deadline)
        if self._patience is None:
            # A blocking connect leaves the kernel's socket connected, or fit for another try; it is in between until
            # connect(2) is called again. With a timeout CPython, too, asks for the error only.
            return _Raw.connect_ex(self, address)
        return self.getsockopt(_socket_std.SOL_SOCKET, _socket_std.SO_ERROR)

    def bind(self, address: _Any, /) -> None:
        _Raw.bind(self, self._resolved(address))

    def _resolved(self, address: _Any) -> _Any:
        """In a green thread: a host name looked up by a thread, since the kernel call would look it up here."""
        if not _in_green() or not isinstance(address, tuple) or len(address) < 2:
            return address
        family, host = self.family, address[0]
        if family not in (_socket_std.AF_INET, _socket_std.AF_INET6) or not isinstance(host, str):
            return address
        if host in ("", "<broadcast>") or _is_numeric(family, host):
            return address
        # As bytes: connect(2)'s way to the resolver knows nothing of IDNA's rules for an ASCII name.
        found = getaddrinfo(host.encode() if host.isascii() else host, None, family, self.type)[0][4]
        return (found[0], *address[1:])

    def dup(self) -> socket:
        """As ``socket.dup``: the same open socket under another descriptor, with the same timeout."""
        twin = self.__class__(self.family, self.type, self.proto, _socket_std.dup(self.fileno()))
        if self._switched:
            # Both share the open file's non-blocking flag (dup(2)): clearing it for one would clear it for both.
            _Raw.settimeout(twin, 0.0)
            twin._patience, twin._switched = self._patience, True
        else:
            twin.settimeout(self._patience)
        return twin

    # -- files -------------------------------------------------------------------------------------------------------

    def _sendfile_use_sendfile(self, file: _IO[bytes], offset: int = 0, count: int | None = None) -> int:
        """``sendfile()`` by sendfile(2); the base class has the way round, by ``send()``, and chooses."""
        if not self._waits_itself():
            return super()._sendfile_use_sendfile(file, offset, count)  # type: ignore[misc,no-any-return]
        self._check_sendfile_params(file, offset, count)  # type: ignore[attr-defined]
        if self._patience == 0.0:
            raise ValueError("non-blocking sockets are not supported")
        source, size = _regular(file)
        if self.fileno() < 0:
            raise ValueError(f"Invalid file descriptor: {self.fileno()}")
        self._switch()
        total, limit = 0, size if count is None else count
        try:
            while total < limit:
                start, chunk = offset + total, min(limit - total, 1 << 30)
                try:
                    taken = self._attempt(
                        lambda _, start=start, chunk=chunk: _os.sendfile(self.fileno(), source, start, chunk),  # type: ignore[misc]
                        reading=False,
                    )
                except OSError as error:
                    if not total and not isinstance(error, TimeoutError) and error.errno != _errno.ENOTCONN:
                        raise _GiveupOnSendfile(error) from error
                    raise
                if not taken:
                    break
                total += taken
                self.sent += taken
        finally:
            if total and hasattr(file, "seek"):
                file.seek(offset + total)
        return total

    def recvfile(self, file: _IO[bytes], offset: int = 0, count: int | None = None) -> int:
        """Receive into a file opened in binary mode: the twin of ``sendfile()``. Returns the bytes received.

        Writes from byte ``offset`` of the file on, until ``count`` bytes have come or the peer ends its side; the
        file's position is left behind the last byte. On Linux the bytes go from socket to file inside the kernel
        (splice(2)), elsewhere and for files that cannot take that through a buffer of 64 KiB. A timeout is the patience
        with each wait. ValueError for a text file, a non-blocking socket, a ``count`` below 1; TypeError for one that
        is no integer. What had come when an error was raised is in the file.
        """
        self._check_sendfile_params(file, offset, count)  # type: ignore[attr-defined]
        if self._patience == 0.0:
            raise ValueError("non-blocking sockets are not supported")
        total = 0
        try:
            try:
                for taken in self._splice_into(file, offset, count):
                    total += taken
            except _GiveupOnSendfile:
                for taken in self._copy_into(file, offset, count):
                    total += taken
        finally:
            if total:
                file.seek(offset + total)
        return total

    def _splice_into(self, file: _IO[bytes], offset: int, count: int | None) -> _Iterator[int]:
        """Yields the bytes of each step. _GiveupOnSendfile, before any, where it cannot be done."""
        if not hasattr(_os, "splice"):
            raise _GiveupOnSendfile("no splice(2) here")
        target, _ = _regular(file)
        if _fcntl.fcntl(target, _fcntl.F_GETFL) & _os.O_APPEND:
            raise _GiveupOnSendfile("splice(2) refuses a file opened for appending")
        file.flush()
        drain, pipe = _os.pipe2(_os.O_CLOEXEC | _os.O_NONBLOCK)
        try:
            try:
                _fcntl.fcntl(pipe, _fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
            except (AttributeError, OSError):
                pass  # /proc/sys/fs/pipe-max-size may say no: smaller steps do as well
            # Into a non-blocking pipe splice(2) never waits, whatever the socket's mode: the waiting is done here.
            self._switch()
            total = 0
            while count is None or total < count:
                step = _PIPE_SIZE if count is None else min(_PIPE_SIZE, count - total)
                try:
                    held = self._attempt(lambda _, step=step: _os.splice(self.fileno(), pipe, step), reading=True)  # type: ignore[misc]
                except OSError as error:
                    if error.errno == _errno.EINVAL and not total:
                        raise _GiveupOnSendfile(error) from error  # no splice for this kind of socket
                    raise
                if not held:
                    return
                self.received += held
                while held:
                    written = _os.splice(drain, target, held, offset_dst=offset + total)
                    held -= written
                    total += written
                    yield written
        finally:
            _os.close(pipe)
            _os.close(drain)

    def _copy_into(self, file: _IO[bytes], offset: int, count: int | None) -> _Iterator[int]:
        buffer = memoryview(bytearray(65536))
        file.seek(offset)
        while count is None or count > 0:
            taken = self.recv_into(buffer if count is None else buffer[: min(count, len(buffer))])
            if not taken:
                return
            file.write(buffer[:taken])
            if count is not None:
                count -= taken
            yield taken


def _begin_accepted(sock: _Any, family: int) -> None:
    sock._io_refs, sock._closed = 0, False  # what __init__() of the base class does
    sock._begin()
    sock._gone_over, sock._short_is_empty = None, family in _INTERNET


if _native is not None:
    _native.install_own_calls(socket)
    _begin_accepted(_fresh := socket.__new__(socket), _socket_std.AF_INET)
    _native.install_accepting(socket, _Raw, _socket_std.getdefaulttimeout, _fresh)
    del _fresh


def _going_on(sock: _Any) -> _Any:
    """The socket by which the connection of ``sock`` goes on: ``sock``, or what it was made into by going over to TLS.

    Whoever began with ``sock``, and is to end the connection, knows no other.
    """
    return getattr(sock, "_gone_over", None) or sock


def _regular(file: _IO[bytes]) -> tuple[int, int]:
    """Descriptor and size of a regular file; _GiveupOnSendfile for anything else, as the standard library says it."""
    try:
        fd = file.fileno()
        size = _os.fstat(fd).st_size
    except (AttributeError, OSError) as error:
        raise _GiveupOnSendfile(error) from error
    return fd, size


# -- functions ---------------------------------------------------------------------------------------------------------


def fromfd(fd: int, family: int, type: int, proto: int = 0) -> socket:
    """As ``socket.fromfd``: a socket object for a duplicate of ``fd``."""
    return socket(family, type, proto, _socket_std.dup(fd))


def socketpair(family: int | None = None, type: int = _socket_std.SOCK_STREAM, proto: int = 0) -> tuple[socket, socket]:
    """As ``socket.socketpair``: two sockets connected to each other; AF_UNIX where the platform has it."""
    if not hasattr(_socket_std, "AF_UNIX"):
        first, second = _socket_std.socketpair(_socket_std.AF_INET if family is None else family, type, proto)
    else:
        first, second = _socket_std.socketpair(_socket_std.AF_UNIX if family is None else family, type, proto)
    return _ours(first), _ours(second)


def _fallback_socketpair(
    family: int = _socket_std.AF_INET, type: int = _socket_std.SOCK_STREAM, proto: int = 0
) -> tuple[socket, socket]:
    """Two TCP sockets connected over loopback, for platforms without socketpair(2)."""
    hosts: dict[int, str] = {_socket_std.AF_INET: "127.0.0.1", _socket_std.AF_INET6: "::1"}
    if family not in hosts:
        raise ValueError("Only AF_INET and AF_INET6 socket address families are supported")
    if type != _socket_std.SOCK_STREAM:
        raise ValueError("Only SOCK_STREAM socket type is supported")
    if proto != 0:
        raise ValueError("Only protocol zero is supported")
    client = socket(family, type, proto)
    try:
        with socket(family, type, proto) as listener:
            listener.bind((hosts[family], 0))
            listener.listen(1)
            # On loopback the connection is complete when it is in the backlog, so one thread can do both ends.
            client.setblocking(False)
            try:
                client.connect(listener.getsockname()[:2])
            except (BlockingIOError, InterruptedError):
                pass
            client.setblocking(True)
            server, _ = listener.accept()
        try:
            # Any local process may have connected first.
            if server.getsockname() != client.getpeername() or client.getsockname() != server.getpeername():
                raise ConnectionError("another process connected to the port of socketpair()")
        except BaseException:
            server.close()
            raise
    except BaseException:
        client.close()
        raise
    return server, client


def _ours(other: _socket_std.socket) -> socket:
    family, kind, proto = other.family, other.type, other.proto
    return socket(family, kind, proto, other.detach())


def create_connection(
    address: tuple[str | None, int | str],
    timeout: float | None = _GLOBAL_DEFAULT_TIMEOUT,
    source_address: tuple[str, int] | None = None,
    *,
    all_errors: bool = False,
) -> socket:
    """As ``socket.create_connection``: resolve, then connect to each address in turn; ``timeout`` covers each attempt.

    The last error is raised when none works, or an ExceptionGroup of them all with ``all_errors``.
    """
    host, port = address
    errors: list[OSError] = []
    for family, kind, proto, _, target in getaddrinfo(host, port, 0, _socket_std.SOCK_STREAM):
        sock = None
        try:
            sock = socket(family, kind, proto)
            if timeout is not _GLOBAL_DEFAULT_TIMEOUT:
                sock.settimeout(timeout)
            if source_address:
                sock.bind(source_address)
            sock.connect(target)
            return sock
        except OSError as error:
            errors.append(error)
            if sock is not None:
                sock.close()
    try:
        if not errors:
            raise OSError("getaddrinfo returns an empty list")
        if all_errors:
            raise ExceptionGroup("create_connection failed", errors)
        raise errors[-1]
    finally:
        errors.clear()  # the traceback of an error holds this frame, and the frame held the errors


def create_server(
    address: _Any,
    *,
    family: int = _socket_std.AF_INET,
    backlog: int | None = None,
    reuse_port: bool = False,
    dualstack_ipv6: bool = False,
) -> socket:
    """As ``socket.create_server``: a bound, listening TCP socket; SO_REUSEADDR on where that is safe (POSIX)."""
    if reuse_port and not hasattr(_socket_std, "SO_REUSEPORT"):
        raise ValueError("SO_REUSEPORT not supported on this platform")
    if dualstack_ipv6:
        if not has_dualstack_ipv6():
            raise ValueError("dualstack_ipv6 not supported on this platform")
        if family != _socket_std.AF_INET6:
            raise ValueError("dualstack_ipv6 requires AF_INET6 family")
    sock = socket(family, _socket_std.SOCK_STREAM)
    try:
        if _os.name not in ("nt", "cygwin") and hasattr(_socket_std, "SO_REUSEADDR"):
            try:
                sock.setsockopt(_socket_std.SOL_SOCKET, _socket_std.SO_REUSEADDR, 1)
            except OSError:
                pass  # families that know no such option
        if reuse_port:
            sock.setsockopt(_socket_std.SOL_SOCKET, _socket_std.SO_REUSEPORT, 1)
        if _socket_std.has_ipv6 and family == _socket_std.AF_INET6:
            sock.setsockopt(_socket_std.IPPROTO_IPV6, _socket_std.IPV6_V6ONLY, 0 if dualstack_ipv6 else 1)
        try:
            sock.bind(address)
        except OSError as error:
            message = f"{error.strerror} (while attempting to bind on address {address!r})"
            raise OSError(error.errno, message) from None
        if backlog is None:
            sock.listen()
        else:
            sock.listen(backlog)
        return sock
    except BaseException:
        sock.close()
        raise


def has_dualstack_ipv6() -> bool:
    """As ``socket.has_dualstack_ipv6``: whether one socket can take IPv6 and IPv4 connections."""
    if not _socket_std.has_ipv6 or not hasattr(_socket_std, "IPV6_V6ONLY"):
        return False
    try:
        with socket(_socket_std.AF_INET6, _socket_std.SOCK_STREAM) as sock:
            sock.setsockopt(_socket_std.IPPROTO_IPV6, _socket_std.IPV6_V6ONLY, 0)
            return True
    except OSError:
        return False


# -- the resolver ------------------------------------------------------------------------------------------------------


def _is_numeric(family: int, host: str) -> bool:
    try:
        _socket_std.inet_pton(family, host)
    except (OSError, ValueError):
        return "%" in host and family == _socket_std.AF_INET6
    return True


def getaddrinfo(
    host: _Any, port: _Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
) -> list[tuple[_Any, _Any, int, str, _Any]]:
    """As ``socket.getaddrinfo``. In a green thread a name is looked up by a thread of a pool; a number needs none."""
    if _in_green() and not flags & _socket_std.AI_NUMERICHOST:
        numeric = host is None or any(
            isinstance(host, str) and _is_numeric(f, host) for f in (_socket_std.AF_INET, _socket_std.AF_INET6)
        )
        if not numeric:
            return _offload(_socket_std.getaddrinfo, host, port, family, type, proto, flags)  # type: ignore[no-any-return]
    return _socket_std.getaddrinfo(host, port, family, type, proto, flags)


def _asked_of_a_thread(function: _Callable[..., _Any]) -> _Callable[..., _Any]:
    """``function`` of the standard library, by a thread of a pool when a green thread calls."""

    def ask(*args: _Any, **kwargs: _Any) -> _Any:
        try:
            return _offload(function, *args, **kwargs) if _in_green() else function(*args, **kwargs)
        finally:
            del args, kwargs  # the traceback of an error keeps this frame, and must not keep what it was given

    ask.__name__ = ask.__qualname__ = function.__name__
    ask.__doc__ = f"As ``socket.{function.__name__}``; in a green thread it is asked of a thread of a pool."
    return ask


gethostbyname = _asked_of_a_thread(_socket_std.gethostbyname)
gethostbyname_ex = _asked_of_a_thread(_socket_std.gethostbyname_ex)
gethostbyaddr = _asked_of_a_thread(_socket_std.gethostbyaddr)
getnameinfo = _asked_of_a_thread(_socket_std.getnameinfo)
getfqdn = _asked_of_a_thread(_socket_std.getfqdn)

if _typing.TYPE_CHECKING:
    from socket import *  # type: ignore[assignment]  # noqa: F403
