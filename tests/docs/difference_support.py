"""What the tests of docs/differences.md share: servers of either module at work, and clients that ask them."""

from __future__ import annotations

import contextlib
import socket
import socketserver as stdlib
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from jackfield import socketserver as ours

LOOPBACK = ("127.0.0.1", 0)
SECONDS = 10.0

Either = types.ModuleType
both = pytest.mark.parametrize("module", [pytest.param(stdlib, id="stdlib"), pytest.param(ours, id="ours")])


@contextlib.contextmanager
def serving(server: Any, **options: Any) -> Iterator[Any]:
    """A drop-in server at work in a thread, for the length of the block."""
    thread = threading.Thread(target=server.serve_forever, kwargs=options)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join(SECONDS)
        server.server_close()
        assert not thread.is_alive()


def client(address: Any, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM) -> socket.socket:
    """A connected socket of the standard library's, with a timeout."""
    sock = socket.socket(family, kind)
    sock.settimeout(SECONDS)
    sock.connect(address)
    return sock


def client_of(server: Any) -> socket.socket:
    """A client of a server for streams."""
    return client(server.server_address)


def datagram_client(server: Any) -> socket.socket:
    """A client of a server for datagrams, by way of loopback whatever the server is bound to."""
    return client(("127.0.0.1", server.server_address[1]), kind=socket.SOCK_DGRAM)


def ask(address: Any, data: bytes = b"?", family: int = socket.AF_INET) -> bytes:
    """Everything a server answers to ``data``."""
    with client(address, family) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        with sock.makefile("rb") as file:
            return file.read()


def hear(address: Any, family: int = socket.AF_INET) -> bytes:
    """Everything a server says unasked."""
    return ask(address, b"", family)


def handler_in(module: Either, handle: Callable[[Any], None], base: str = "BaseRequestHandler") -> type[Any]:
    """A handler class of a module, with ``handle`` for its work."""
    return type("Handler", (getattr(module, base),), {"handle": handle})


def echo(self: Any) -> None:
    """A handler's work: to answer with what came."""
    while data := self.request.recv(1000):
        self.request.sendall(data)


class Held:
    """A handler's work that goes on until it is let go, and says that it has begun."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Semaphore(0), threading.Event()

    def __call__(self, *_: Any) -> None:
        self.begun.release()
        assert self.go.wait(SECONDS)


class Quiet(ours.BaseRequestHandler[Any]):
    """Does nothing."""

    def handle(self) -> None:
        pass
