"""The handlers that a server under test runs, in blocking style and as coroutines, made on any base class."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .payload import digest, pattern

__all__ = ["AskedToFail", "async_handler", "blocking_handler"]

KINDS = ("echo", "digest", "bulk", "datagram")
"""echo: bytes back until the end of stream; fails when it reads FAIL.
digest: reads to the end of stream, then answers with the hash of it.
bulk: reads a size (8 bytes) and sends that many bytes.
datagram: sends each datagram back with GOT before it; fails on FAIL."""

FAIL = b"fail, please"
GOT = b"got:"


class AskedToFail(Exception):
    """What a handler raises when a check tells it to fail."""


def blocking_handler(kind: str, base: type) -> type[Any]:
    """A handler class of `kind` (see `KINDS`) on `base`: a BaseRequestHandler, the standard library's or another."""

    def echo(self: Any) -> None:
        while data := self.request.recv(65536):
            if data == FAIL:
                raise AskedToFail
            self.request.sendall(data)

    def whole(self: Any) -> None:
        parts = []
        while data := self.request.recv(65536):
            parts.append(data)
        self.request.sendall(digest(b"".join(parts)).encode())

    def bulk(self: Any) -> None:
        size = b""
        while len(size) < 8:
            part = self.request.recv(8 - len(size))
            if not part:
                return
            size += part
        self.request.sendall(pattern(int.from_bytes(size, "big")))

    def datagram(self: Any) -> None:
        data, socket = self.request
        if data == FAIL:
            raise AskedToFail
        socket.sendto(GOT + data, self.client_address)

    return _made(kind, base, {"echo": echo, "digest": whole, "bulk": bulk, "datagram": datagram})


def async_handler(kind: str, base: type) -> type[Any]:
    """The same in ``async def handle``, on `base`: jackfield's AsyncRequestHandler or one with the same surface."""

    async def echo(self: Any) -> None:
        while data := await self.request.recv(65536):
            if data == FAIL:
                raise AskedToFail
            await self.request.sendall(data)

    async def whole(self: Any) -> None:
        parts = []
        while data := await self.request.recv(65536):
            parts.append(data)
        await self.request.sendall(digest(b"".join(parts)).encode())

    async def bulk(self: Any) -> None:
        size = b""
        while len(size) < 8:
            part = await self.request.recv(8 - len(size))
            if not part:
                return
            size += part
        await self.request.sendall(pattern(int.from_bytes(size, "big")))

    async def datagram(self: Any) -> None:
        data, socket = self.request
        if data == FAIL:
            raise AskedToFail
        await socket.sendto(GOT + data, self.client_address)

    return _made(kind, base, {"echo": echo, "digest": whole, "bulk": bulk, "datagram": datagram})


def _made(kind: str, base: type, bodies: Mapping[str, Callable[[Any], Any]]) -> type[Any]:
    if kind not in bodies:
        raise ValueError(f"no handler of kind {kind!r}: {', '.join(bodies)}")
    return type(f"{kind.capitalize()}Handler", (base,), {"handle": bodies[kind], "__doc__": KINDS.__doc__})
