"""Files of an authority's certificates, both ends of a connection, and clients of other makes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jackfield
import jackfield.socket
from authorities import Authority
from jackfield.streams import AsyncSocket
from jackfield.tls import TLS, ServerTLS, TLSSocket, astart_server, start_server


class Files:
    """The files of one directory, by name."""

    def __init__(self, directory: Path, authority: Authority) -> None:
        self.directory, self.authority = directory, authority
        self.ca = self.write("ca.pem", authority.pem())
        self.cert, self.key = self.pair("server", "localhost", "127.0.0.1")
        self.other_cert, self.other_key = self.pair("other", "other.example", "*.wild.example")
        self.client_cert, self.client_key = self.pair("client", "a client")
        self.stranger_cert, self.stranger_key = self.pair("stranger", "a stranger", by=Authority("nobody"))
        self.tls = TLS(self.cert, self.key)
        self.served = ServerTLS(self.tls)

    def write(self, name: str, content: bytes) -> Path:
        path = self.directory / name
        path.write_bytes(content)
        return path

    def pair(self, name: str, *names: str, by: Authority | None = None, **how: Any) -> tuple[Path, Path]:
        cert, key = (by or self.authority).issue(*names, **how)
        return self.write(f"{name}.pem", cert), self.write(f"{name}.key", key)

    def client(self, version: str | None = None, *, with_cert: str | None = None, alpn: Any = ()) -> ssl.SSLContext:
        """The context of a client that trusts the authority."""
        context = ssl.create_default_context(cafile=self.ca)
        if version is not None:
            exact = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}[version]
            context.minimum_version = context.maximum_version = exact
        if with_cert is not None:
            context.load_cert_chain(getattr(self, f"{with_cert}_cert"), getattr(self, f"{with_cert}_key"))
        if alpn:
            context.set_alpn_protocols(list(alpn))
        return context


def connected() -> tuple[jackfield.socket.socket, socket.socket]:
    """Both ends of a TCP connection: the server's is ours, accepted; the client's the standard library's."""
    with jackfield.socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    client.settimeout(20)
    return server, client


class Beside:
    """``function(*args)`` on a thread beside the test; ``with`` joins it and raises what it raised."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.value: Any = None
        self.error: BaseException | None = None
        self._work = (function, args)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        function, args = self._work
        try:
            self.value = function(*args)
        except BaseException as error:
            self.error = error

    def __enter__(self) -> Beside:
        self._thread.start()
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        self._thread.join(30)
        error, self.error = self.error, None
        if kind is None and error is not None:
            raise error


def wrapped(sock: socket.socket, context: ssl.SSLContext, name: str = "localhost", **how: Any) -> ssl.SSLSocket:
    """A client of Python's own."""
    return context.wrap_socket(sock, server_hostname=name, **how)


@contextlib.contextmanager
def conversation(
    served: Any, context: ssl.SSLContext, name: str = "localhost", **how: Any
) -> Iterator[tuple[TLSSocket, ssl.SSLSocket]]:
    """Both ends with the handshake done: ours for the server, Python's for the client."""
    raw, other = connected()
    try:
        with Beside(lambda: wrapped(other, context, name, **how)) as shaking:
            sock = start_server(raw, served)
    except BaseException:
        other.close()
        raise
    with sock, shaking.value as client:
        yield sock, client


# -- one echo, three ways ----------------------------------------------------------------------------------------------


def echo(raw: jackfield.socket.socket, served: Any) -> TLSSocket:
    """Sends back in upper case until the client has ended its side; returns the closed socket."""
    with start_server(raw, served) as sock:
        while data := sock.recv(65536):
            sock.sendall(data.upper())
        with contextlib.suppress(OSError):  # the client may be gone
            sock.shutdown(socket.SHUT_WR)
    return sock


async def aecho(raw: jackfield.socket.socket, served: Any) -> TLSSocket:
    """The same for coroutines."""
    sock = await astart_server(AsyncSocket(raw), served)
    try:
        while data := await sock.recv(65536):
            await sock.sendall(data.upper())
    finally:
        await sock.aclose()
    return sock.socket


WAYS: dict[str, Callable[[Any, Any], TLSSocket]] = {
    "thread": echo,
    "green": lambda raw, served: jackfield.run(echo, raw, served),
    "async": lambda raw, served: asyncio.run(aecho(raw, served)),
}
