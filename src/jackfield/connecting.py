"""Connecting by address: every address of a name, in the order and at the pace of RFC 8305 ("happy eyeballs").

A machine may have an IPv6 address and no way out by it. Trying one address after the other then stalls for minutes; so
a second attempt starts a quarter of a second after the first, by the other family, and the first that succeeds wins.

:class:`Race` is the whole of that, and waits for nothing itself: it says until when there is nothing to do and is a
thing to wait for. So it is the same for a plain thread, a green thread and a coroutine.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import os
import selectors
import socket as _socket_std
import ssl
import struct
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Any, Literal

from . import socket as _socket_ours
from .address import Address, describe_sockaddr, parse_address
from .beginning import NEVER, Beginning, late, left, located
from .clock import MONOTONIC
from .errors import AddressError, MisuseError
from .proxyheader import ProxyHeader
from .reactor import in_green, offload, spawn, wait_readable
from .tls import ClientTLS

__all__ = ["ATTEMPT_DELAY", "Candidate", "Race", "Resolver", "async_connect", "connect", "interleave", "resolve"]

#: Seconds between two attempts, unless the first has failed by then: RFC 8305, section 5 (between 0.1 and 2 allowed).
ATTEMPT_DELAY = 0.25

#: What ``getaddrinfo()`` gives: family, type, protocol, canonical name, address.
Candidate = tuple[int, int, int, str, Any]

Resolver = Callable[[Address], Sequence[Candidate]]

_PENDING = (errno.EINPROGRESS, errno.EALREADY, errno.EINTR)


def connect(
    address: str | int | Address | tuple[str, int],
    timeout: float | None = None,
    source_address: tuple[Any, ...] | None = None,
    *,
    resolver: Resolver | None = None,
    proxy_header: ProxyHeader | Literal[1, 2] | None = None,
    tls: ClientTLS | ssl.SSLContext | None = None,
) -> _socket_ours.socket:
    """A socket connected to ``address``: an address text, an :class:`Address`, or ``(host, port)`` for TCP.

    An empty host is this machine. In a green thread the others go on meanwhile; a coroutine writes
    ``await async_connect(...)``.

    :param timeout: seconds for all of it, the look-up of the name included; None waits as long as the system does. The
        socket that is returned is blocking, or has the default timeout of the ``socket`` module.
    :param source_address: what to connect from, as for ``bind()``: ``("192.0.2.7", 0)``.
    :param resolver: looks up an :class:`Address` with a host name, in place of ``getaddrinfo()``, and returns the same.
        It may block: where that would hold a loop or outlast the timeout, a thread calls it.
    :param proxy_header: sent before anything else, as by a proxy: a :class:`~jackfield.proxyheader.ProxyHeader`, or 1
        or 2 for one of that version with the socket's own addresses. The server has to expect it.
    :param tls: how to speak TLS, with ``tls://`` as with any other stream: a :class:`~jackfield.tls.ClientTLS` (for
        ``tls://`` one with nothing said by default), or a context of the ssl module's. What is returned is a
        :class:`~jackfield.tls.TLSSocket` then, with the handshake done.
    :raises AddressError: the text is no address, or none that can be connected to (``fd://3``, port 0).
    :raises MisuseError: in a coroutine; or a PROXY header or TLS where there is no stream to begin with it.
    :raises StartError: a file that ``tls`` names is missing or not what it should be.
    :raises TLSHandshakeError: the server does not speak TLS, or not with whom it should be; one line that says which.
    :raises TimeoutError: nothing was connected within ``timeout``.
    :raises OSError: every attempt failed (the error of the last; its notes tell of each), or the host name has no
        address (``socket.gaierror``).
    """
    target, deadline = _target(address), _deadline(timeout)
    beginning = Beginning(target, proxy_header, tls)
    if not in_green() and asyncio._get_running_loop() is not None:
        raise MisuseError("connect() in a coroutine would hold the loop; write 'await async_connect(address)'")
    return beginning.begin(_connect(target, deadline, source_address, resolver), deadline)


def _connect(
    target: Address, deadline: float, source_address: tuple[Any, ...] | None, resolver: Resolver | None
) -> _socket_ours.socket:
    if target.is_unix:
        return _connect_unix(target, deadline)
    with Race(_resolve_in_time(target, deadline, resolver), source_address) as race:
        while True:
            now = MONOTONIC.now()
            sock = race.step(now)
            if sock is not None:
                return sock
            if now >= deadline:
                raise race.timed_out(late(target))
            with contextlib.suppress(TimeoutError):
                wait_readable(race, left(min(deadline, race.next), now))


async def async_connect(
    address: str | int | Address | tuple[str, int],
    timeout: float | None = None,
    source_address: tuple[Any, ...] | None = None,
    *,
    resolver: Resolver | None = None,
    proxy_header: ProxyHeader | Literal[1, 2] | None = None,
    tls: ClientTLS | ssl.SSLContext | None = None,
) -> _socket_ours.socket:
    """:func:`connect` in a coroutine. Cancelled, it closes what it has begun.

    For the awaited calls give what it returns to :class:`~jackfield.streams.AsyncSocket`, or where it speaks TLS to
    :class:`~jackfield.tls.AsyncTLSSocket`.
    """
    target, deadline = _target(address), _deadline(timeout)
    beginning = Beginning(target, proxy_header, tls)
    return await beginning.abegin(await _aconnect(target, deadline, source_address, resolver), deadline)


async def _aconnect(
    target: Address, deadline: float, source_address: tuple[Any, ...] | None, resolver: Resolver | None
) -> _socket_ours.socket:
    if target.is_unix:
        return await _connect_unix_aside(target, deadline)
    if _needs_no_resolver(target):
        candidates = resolve(target)
    else:
        try:
            async with asyncio.timeout(left(deadline)):
                candidates = await offload(resolver or resolve, target)
        except TimeoutError:
            raise TimeoutError(late(target)) from None
    with Race(candidates, source_address) as race:
        while True:
            now = MONOTONIC.now()
            sock = race.step(now)
            if sock is not None:
                return sock
            if now >= deadline:
                raise race.timed_out(late(target))
            await _until_readable(race.fileno(), left(min(deadline, race.next), now))


# -- the order and the pace: RFC 8305 --------------------------------------------------------------------------------


def interleave(candidates: Iterable[Candidate]) -> list[Candidate]:
    """The families in turn, beginning with that of the first; within a family as they were (RFC 8305, section 4).

    The resolver has sorted them by preference (RFC 6724), which often puts all of one family first: where that family
    is broken, each of its addresses would have to fail before the other family has a try.
    """
    by_family: dict[int, list[Candidate]] = {}
    for candidate in candidates:
        by_family.setdefault(candidate[0], []).append(candidate)
    longest = max(map(len, by_family.values()), default=0)
    return [family[turn] for turn in range(longest) for family in by_family.values() if turn < len(family)]


class Race:
    """Attempts to connect, of which the first to succeed wins. A context manager: at its end the others are closed.

    ``step(now)`` does what is to be done by then and returns the winner, or None; call it again when ``fileno()`` is
    readable or ``next`` (a moment, as ``now``) has come. Seconds of any clock.
    """

    def __init__(
        self,
        candidates: Sequence[Candidate],
        source_address: tuple[Any, ...] | None = None,
        *,
        delay: float = ATTEMPT_DELAY,
        open_socket: Callable[[int, int, int], _socket_ours.socket] = _socket_ours.socket,
    ) -> None:
        self._waiting = interleave(candidates)[::-1]
        self._source = source_address
        self._delay = delay
        self._open = open_socket
        # An epoll or kqueue descriptor, which can itself be waited for: one for all attempts.
        self._selector = selectors.DefaultSelector()
        self._errors: list[tuple[str, OSError]] = []
        #: When the next attempt starts, if none succeeds or fails before.
        self.next = -NEVER

    def fileno(self) -> int:
        """A descriptor that is readable when an attempt has succeeded or failed."""
        return self._selector.fileno()

    def step(self, now: float) -> _socket_ours.socket | None:
        """Look at the attempts, start the one that is due. The winner, or None; OSError when the last has failed."""
        if self._attempts():
            for key, _ in self._selector.select(0):
                sock = key.fileobj
                assert isinstance(sock, _socket_ours.socket)
                error = sock.getsockopt(_socket_std.SOL_SOCKET, _socket_std.SO_ERROR)
                if self._is_connected(sock, key.data, error):
                    return self._won(sock)
                self.next = now  # as one has failed, there is no reason to wait
        while self._waiting and now >= self.next:
            won = self._start(self._waiting.pop(), now)
            if won is not None:
                return won
        if not self._waiting:
            self.next = NEVER
            if not self._attempts():
                raise self._failed()
        return None

    def _attempts(self) -> int:
        return len(self._selector.get_map())

    def _start(self, candidate: Candidate, now: float) -> _socket_ours.socket | None:
        family, kind, proto, _, sockaddr = candidate
        where = describe_sockaddr(family, kind, sockaddr)
        try:
            sock = self._open(family, kind, proto)
        except OSError as error:  # no such family on this machine
            self._errors.append((where, error))
            return None
        try:
            sock.settimeout(0)
            if self._source:
                sock.bind(self._source)
            answer = sock.connect_ex(sockaddr)
        except OSError as error:
            sock.close()
            self._errors.append((where, error))
            return None
        except BaseException:
            sock.close()
            raise
        self._selector.register(sock, selectors.EVENT_WRITE, where)
        if answer in _PENDING:
            self.next = now + self._delay
            return None
        return self._won(sock) if self._is_connected(sock, where, answer) else None

    def _is_connected(self, sock: _socket_ours.socket, where: str, error: int) -> bool:
        if not error and sock.type == _socket_std.SOCK_STREAM and _is_its_own_peer(sock):
            error = errno.ECONNREFUSED
        if error:
            self._selector.unregister(sock)
            sock.close()
            self._errors.append((where, OSError(error, os.strerror(error))))
        return not error

    def _won(self, sock: _socket_ours.socket) -> _socket_ours.socket:
        self._selector.unregister(sock)
        sock.settimeout(_socket_std.getdefaulttimeout())
        return sock

    def _failed(self) -> OSError:
        if not self._errors:
            return OSError(errno.EADDRNOTAVAIL, "the name has no address")
        where, last = self._errors[-1]
        return self._noted(located(last, where))

    def timed_out(self, message: str) -> OSError:
        """The TimeoutError for a caller whose patience has ended."""
        return self._noted(TimeoutError(message))

    def _noted(self, error: OSError) -> OSError:
        for where, failure in self._errors:
            error.add_note(f"{where}: {failure}")
        for key in self._selector.get_map().values():
            error.add_note(f"{key.data}: no answer yet")
        return error

    def close(self) -> None:
        """Close the attempts that are left."""
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._selector.close()

    def __enter__(self) -> Race:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _is_its_own_peer(sock: _socket_ours.socket) -> bool:
    # To a port that nobody listens on, from the range of ports that are lent for connecting, TCP may connect a socket
    # to itself: the rare luck of the same port on both sides, and the "simultaneous open" of RFC 9293, section 3.5.
    try:
        return bool(sock.getsockname() == sock.getpeername())
    except OSError:
        return False  # it was reset already: reading tells


# -- what to connect to ---------------------------------------------------------------------------------------------

_KINDS = {
    "unix": _socket_std.SOCK_STREAM,
    "unixgram": _socket_std.SOCK_DGRAM,
    "unixpacket": _socket_std.SOCK_SEQPACKET,
}
_FAMILIES = {"4": _socket_std.AF_INET, "6": _socket_std.AF_INET6}


def resolve(target: Address) -> list[Candidate]:
    """The addresses of a TCP or UDP address, as ``getaddrinfo()`` gives them. Blocks."""
    kind = _socket_std.SOCK_DGRAM if target.is_datagram else _socket_std.SOCK_STREAM
    family = _FAMILIES.get(target.scheme[-1], _socket_std.AF_UNSPEC)
    return list(_socket_std.getaddrinfo(target.host or None, target.port, family, kind))


def _target(address: str | int | Address | tuple[str, int]) -> Address:
    if isinstance(address, tuple):
        if len(address) != 2 or not isinstance(address[0], str) or not isinstance(address[1], int):
            raise AddressError(f"no address to connect to: {address!r}: write (host, port), e.g. ('127.0.0.1', 9999)")
        target = Address("tcp", *address)
    else:
        target = address if isinstance(address, Address) else parse_address(address)
    if target.scheme in ("fd", "systemd"):
        raise AddressError(f"{target} is a socket, not a place to connect to: write e.g. tcp://127.0.0.1:9999")
    if not target.is_unix and not target.port:
        raise AddressError(f"nobody listens on port 0, in {str(target)!r}: write the port of the server")
    return target


def _needs_no_resolver(target: Address) -> bool:
    try:
        ipaddress.ip_address(target.host or "::1")
    except ValueError:
        return False
    return True


def _resolve_in_time(target: Address, deadline: float, resolver: Resolver | None) -> Sequence[Candidate]:
    """Look up a name for blocking-style code. TimeoutError at the deadline: the look-up itself cannot be stopped."""
    if _needs_no_resolver(target):
        return resolve(target)
    resolver = resolver or resolve
    if deadline == NEVER:
        return offload(resolver, target)  # type: ignore[no-any-return]
    if in_green():
        asking = spawn(offload, resolver, target)
        try:
            if asking.join(left(deadline)):
                return asking.result()  # type: ignore[no-any-return]
        finally:
            asking.kill()
    else:
        answer: Future[Sequence[Candidate]] = Future()
        threading.Thread(
            target=_answer, args=(answer, resolver, target), name="jackfield-resolver", daemon=True
        ).start()
        with contextlib.suppress(TimeoutError):
            answer.exception(left(deadline))
        if answer.done():
            return answer.result()
    raise TimeoutError(late(target))


def _answer(answer: Future[Sequence[Candidate]], resolver: Resolver, target: Address) -> None:
    try:
        answer.set_result(resolver(target))
    except BaseException as error:  # for whoever asked, if anybody still does
        answer.set_exception(error)


def _connect_unix(target: Address, deadline: float) -> _socket_ours.socket:
    path = f"\0{target.path[1:]}" if target.path.startswith("@") else target.path
    sock = _socket_ours.socket(_socket_std.AF_UNIX, _KINDS[target.scheme])
    try:
        patience = left(deadline)
        if patience is None or in_green():
            sock.settimeout(patience)
        else:
            # Only a blocking connect(2) waits for a full backlog to have room; this is what limits it (socket(7)).
            whole = max(1, int(patience * 1_000_000))
            sock.setsockopt(_socket_std.SOL_SOCKET, _socket_std.SO_SNDTIMEO, _timeval(whole))
            sock.settimeout(None)
        try:
            sock.connect(path)
        except (BlockingIOError, TimeoutError):
            raise TimeoutError(late(target)) from None
        except OSError as error:
            raise located(error, str(target)) from None
        sock.setsockopt(_socket_std.SOL_SOCKET, _socket_std.SO_SNDTIMEO, _timeval(0))
        sock.settimeout(_socket_std.getdefaulttimeout())
        return sock
    except BaseException:
        sock.close()
        raise


def _timeval(microseconds: int) -> bytes:
    return struct.pack("@ll", *divmod(microseconds, 1_000_000))


async def _connect_unix_aside(target: Address, deadline: float) -> _socket_ours.socket:
    """In a thread: a full backlog makes connect(2) wait, and no readiness tells its end."""
    connecting: Any = offload(_connect_unix, target, deadline)
    try:
        return await asyncio.shield(connecting)
    except asyncio.CancelledError:
        connecting.add_done_callback(_close_late)
        raise


def _close_late(connecting: asyncio.Future[_socket_ours.socket]) -> None:
    if not connecting.cancelled() and connecting.exception() is None:
        connecting.result().close()


# -- time -----------------------------------------------------------------------------------------------------------


def _deadline(timeout: float | None) -> float:
    if timeout is None:
        return NEVER
    if timeout < 0:
        raise ValueError("a timeout is 0 seconds or more")
    return MONOTONIC.now() + timeout


async def _until_readable(fd: int, seconds: float | None) -> None:
    loop = asyncio.get_running_loop()
    readable: asyncio.Future[None] = loop.create_future()
    loop.add_reader(fd, _resume, readable)
    try:
        async with asyncio.timeout(seconds):
            await readable
    except TimeoutError:
        pass
    finally:
        loop.remove_reader(fd)


def _resume(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
