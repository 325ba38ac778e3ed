"""Servers to look at, and a client that says what it gets."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator
from typing import Any, NamedTuple

from jackfield import AsyncStreamRequestHandler, Server, StreamRequestHandler
from jackfield.admin import AdminEndpoint

SECONDS = 20.0


class Lines(StreamRequestHandler[Any]):
    """Lines in capitals; at ``fail`` it fails."""

    def handle(self) -> None:
        for line in self.rfile:
            if line == b"fail\n":
                raise ValueError("as asked: \x1b[31m<b>")
            self.wfile.write(line.upper())


class AsyncLines(AsyncStreamRequestHandler[Any]):
    async def handle(self) -> None:
        while line := await self.rfile.readline():
            if line == b"fail\n":
                raise ValueError("as asked: \x1b[31m<b>")
            await self.wfile.write(line.upper())


@contextlib.contextmanager
def seen(mode: str = "green", *targets: Any, **options: Any) -> Iterator[tuple[Server, AdminEndpoint]]:
    """A server, and its endpoint."""
    handler = AsyncLines if mode == "async" else Lines
    with Server(handler, "tcp://127.0.0.1:0", mode=mode, name="lines") as server:
        with AdminEndpoint([server], *targets or ("tcp://127.0.0.1:0",), **options) as endpoint:
            yield server, endpoint


@contextlib.contextmanager
def client_of(server: Server) -> Iterator[socket.socket]:
    with socket.create_connection(server.server_address[:2], timeout=SECONDS) as client:
        yield client


def say(client: socket.socket, line: bytes) -> bytes:
    client.sendall(line)
    return client.recv(1000)


class Told(NamedTuple):
    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(
    endpoint: AdminEndpoint, method: str, path: str, body: Any = None, *, own: bool = True, **headers: str
) -> Told:
    """One request; ``own``: with the header that a page of another site cannot send."""
    host, port = endpoint.addresses[0].removeprefix("tcp://").rsplit(":", 1)
    connection = http.client.HTTPConnection(host, int(port), timeout=SECONDS)
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if own:
        sent["X-Jackfield"] = "1"
    try:
        connection.request(method, path, json.dumps(body) if isinstance(body, dict) else body, sent)
        answer = connection.getresponse()
        return Told(answer.status, answer.headers, answer.read())
    finally:
        connection.close()
