"""What comes first on a connection that a client has opened: a PROXY header, then TLS, both before one deadline."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket as _socket_std
import ssl
from collections.abc import Iterator
from typing import Literal

from . import socket as _socket_ours
from .address import Address
from .addressoptions import OPTIONS, TLS_SCHEMES
from .clock import MONOTONIC
from .errors import AddressError, MisuseError, TLSError
from .proxyheader import ProxyHeader, encode, own_header
from .reactor import green
from .tls import ClientTLS, start_client
from .tls.client import context_of

__all__ = ["NEVER", "Beginning", "late", "left", "located"]

#: A moment that does not come.
NEVER = float("inf")

#: What an address says of TLS is about the certificate of whoever listens there.
_OF_LISTENERS = [name for name, option in OPTIONS.items() if option.schemes == TLS_SCHEMES]


class Beginning:
    """What is to be said on a connection to ``target`` before its user has it; checked when it is made.

    :param proxy_header: a PROXY header, or the version of one with the socket's own addresses; None sends none.
    :param tls: how to speak TLS; None speaks it where the address says so.
    :raises AddressError: the address has options that are for a listener.
    :raises MisuseError: there is no stream to begin; or nobody to be checked.
    :raises StartError: a file that ``tls`` names is not what it should be.
    """

    def __init__(
        self,
        target: Address,
        proxy_header: ProxyHeader | Literal[1, 2] | None = None,
        tls: ClientTLS | ssl.SSLContext | None = None,
    ) -> None:
        self._target = target
        self._header = proxy_header
        self._context: ssl.SSLContext | None = None
        self._name: str | None = None
        no_stream = target.is_datagram or target.scheme == "unixpacket"
        if proxy_header is not None:
            if no_stream:
                raise MisuseError(f"a PROXY header begins a stream, and {target} is none: leave out proxy_header")
            if not isinstance(proxy_header, ProxyHeader) and proxy_header not in (1, 2):
                raise MisuseError(f"no PROXY header: {proxy_header!r}: give a ProxyHeader, or 1 or 2 for the version")
        if tls is None and target.is_tls:
            tls = ClientTLS()
        if tls is not None:
            if no_stream:
                raise MisuseError(f"TLS is for a stream, and {target} is none: leave out tls")
            self._prepare(tls)

    def _prepare(self, tls: ClientTLS | ssl.SSLContext) -> None:
        target = self._target
        for name, _ in target.options:
            if name in _OF_LISTENERS:
                plain = str(target).partition("?")[0]
                raise AddressError(f"{name}= is for who listens on {plain}: leave it out, and give tls=ClientTLS(...)")
        if isinstance(tls, ClientTLS):
            self._context, self._name = context_of(tls), tls.server_name or name_of(target)
        elif isinstance(tls, ssl.SSLContext):
            self._context, self._name = tls, name_of(target)
        else:
            raise MisuseError(f"tls is a jackfield.tls.ClientTLS or an ssl.SSLContext, not {type(tls).__name__}")
        if self._name is None and self._context.check_hostname:
            raise MisuseError(f"whose certificate is to be there, at {target}? Give tls=ClientTLS(server_name=...)")

    def begin(self, sock: _socket_ours.socket, deadline: float) -> _socket_ours.socket:
        """The socket for its user, on the thread or green thread that calls; whatever fails closes it."""
        with self._or_closed(sock):
            if self._header is not None:
                sock.settimeout(left(deadline))
                sock.sendall(self._header_of(sock))
            if self._context is not None:
                sock.settimeout(None)  # the deadline is the handshake's
                sock = start_client(sock, self._name, self._context, None if deadline == NEVER else deadline)
            sock.settimeout(_socket_std.getdefaulttimeout())
        return sock

    async def abegin(self, sock: _socket_ours.socket, deadline: float) -> _socket_ours.socket:
        """:meth:`begin` for a coroutine."""
        with self._or_closed(sock):
            if self._header is not None:
                sock.settimeout(0)
                async with asyncio.timeout(left(deadline)):
                    await asyncio.get_running_loop().sock_sendall(sock, self._header_of(sock))
            if self._context is not None:
                until = None if deadline == NEVER else deadline
                sock.settimeout(None)  # what waits for it is the green thread that does it
                sock = await green(start_client, sock, self._name, self._context, until)
            sock.settimeout(_socket_std.getdefaulttimeout())
        return sock

    def _header_of(self, sock: _socket_ours.socket) -> bytes:
        header = self._header
        assert header is not None
        return encode(header if isinstance(header, ProxyHeader) else own_header(sock, header))

    @contextlib.contextmanager
    def _or_closed(self, sock: _socket_ours.socket) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            sock.close()
            if isinstance(error, TimeoutError):
                raise TimeoutError(late(self._target)) from None
            if isinstance(error, OSError) and not isinstance(error, TLSError):
                raise located(error, str(self._target)) from None
            raise


def name_of(target: Address) -> str | None:
    """Whom a certificate has to be for, at this address: its host; ``localhost`` for this machine; None for a path."""
    if target.is_unix:
        return None
    host = target.host.partition("%")[0].removesuffix(".")  # neither a zone nor the root's dot is in a certificate
    try:
        is_any = ipaddress.ip_address(host).is_unspecified
    except ValueError:
        is_any = not host
    return "localhost" if is_any else host


# -- in the words of whoever connects ------------------------------------------------------------------------------


def located(error: OSError, where: str) -> OSError:
    """The same error, of the same type, that says where."""
    if error.errno is None or isinstance(error, _socket_std.gaierror):
        return error
    return OSError(error.errno, f"{error.strerror}: {where}")


def late(target: Address) -> str:
    """What a TimeoutError says."""
    return f"no connection to {target} within the timeout"


def left(moment: float, now: float | None = None) -> float | None:
    """Seconds until a moment; None if it never comes."""
    return None if moment == NEVER else max(0.0, moment - (MONOTONIC.now() if now is None else now))
