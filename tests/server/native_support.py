"""What the tests of the native Server share: handlers of both kinds, clients, and waiting without a clock."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jackfield import (
    AsyncRequestHandler,
    AsyncStreamRequestHandler,
    BaseRequestHandler,
    Server,
    StreamRequestHandler,
    sync,
)
from jackfield.testing.clients import connect

#: Seconds that nothing here takes, and after which a wait is called hung.
SOON = 20.0

MODES = ["serial", "thread", "process", "green", "async"]
#: Modes whose handlers run in this process and beside each other.
HERE = ["thread", "green", "async"]

TCP = "tcp://127.0.0.1:0"


class Echo(BaseRequestHandler[Any]):
    def handle(self) -> None:
        while data := self.request.recv(1024):
            self.request.sendall(data.upper())


class AsyncEcho(AsyncRequestHandler[Any]):
    async def handle(self) -> None:
        while data := await self.request.recv(1024):
            await self.request.sendall(data.upper())


class EchoDatagram(BaseRequestHandler[Any]):
    def handle(self) -> None:
        self.request[1].sendto(self.request[0].upper(), self.client_address)


class AsyncEchoDatagram(AsyncRequestHandler[Any]):
    async def handle(self) -> None:
        await self.request[1].sendto(self.request[0].upper(), self.client_address)


class Lines(StreamRequestHandler[Any]):
    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(line.upper())


class AsyncLines(AsyncStreamRequestHandler[Any]):
    async def handle(self) -> None:
        async for line in self.rfile:
            await self.wfile.write(line.upper())


def by(mode: str, blocking: Any, coroutine: Any) -> Any:
    """The one of two handlers that goes with the mode."""
    return coroutine if mode == "async" else blocking


def echo(mode: str, *, datagram: bool = False) -> Any:
    """The echo handler that goes with the mode."""
    return by(mode, EchoDatagram, AsyncEchoDatagram) if datagram else by(mode, Echo, AsyncEcho)


def lines(mode: str) -> Any:
    """The handler of lines that goes with the mode; a line that is half there is a message under way."""
    return by(mode, Lines, AsyncLines)


class Held:
    """Handlers that greet, wait until they are let go, and then answer; and how many of them there are."""

    def __init__(self, mode: str) -> None:
        self.go = sync.Event()
        self.running = 0
        self.ended: list[str] = []
        self._lock = threading.Lock()
        held = self

        class Handler(BaseRequestHandler[Any]):
            def handle(self) -> None:
                held.count(1)
                try:
                    self.request.sendall(b"here")
                    held.go.wait()
                    self.request.sendall(b"bye")
                    held.ended.append("finished")
                finally:
                    held.count(-1)

        class AsyncHandler(AsyncRequestHandler[Any]):
            async def handle(self) -> None:
                held.count(1)
                try:
                    await self.request.sendall(b"here")
                    await held.go.await_()
                    await self.request.sendall(b"bye")
                    held.ended.append("finished")
                finally:
                    held.count(-1)

        self.handler = AsyncHandler if mode == "async" else Handler

    def count(self, number: int) -> None:
        with self._lock:
            self.running += number


def dial(server: Server, number: int = 0) -> socket.socket:
    """A client of one of the server's addresses; every call of it is bounded."""
    return connect(server.addresses[number], SOON)


def ask(server: Server, data: bytes = b"hello", number: int = 0) -> bytes:
    """Send one message and return all of the answer."""
    with dial(server, number) as client:
        client.sendall(data)
        if client.type == socket.SOCK_DGRAM:
            return client.recv(65536)
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_WR)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while part := client.recv(65536):
                answer += part
        return answer


def until(condition: Callable[[], object]) -> None:
    """Wait in a plain thread until ``condition()`` holds; an AssertionError after SOON."""
    deadline = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < deadline, f"it never came to {condition}"
        select.select([], [], [], 0.0005)


def is_over(client: socket.socket) -> bool:
    """Waits for the end that the server makes, whichever way it does."""
    with contextlib.suppress(ConnectionResetError):
        while client.recv(65536):
            pass
    return True


def ended(server: Server) -> dict[str, int]:
    """How connections have ended, once all of them have."""
    until(lambda: not server.connections and server.info().ends)
    return server.info().ends


def leave(client: socket.socket) -> None:
    """End a connection, also where forked children have copies of this end."""
    with contextlib.suppress(OSError):
        client.shutdown(socket.SHUT_RDWR)
    client.close()


@contextlib.contextmanager
def client_of(server: Server) -> Iterator[socket.socket]:
    """A client that is ended with the block, also where forked children have copies of it."""
    client = dial(server)
    try:
        yield client
    finally:
        leave(client)


def read_line(client: Any) -> bytes:
    """The next line, and nothing of what follows it."""
    got = b""
    while not got.endswith(b"\n"):
        part = client.recv(1)
        assert part, got
        got += part
    return got


@contextlib.contextmanager
def in_thread(function: Callable[[], Any]) -> Iterator[threading.Thread]:
    """``function()`` in a plain thread for the length of the block; joined at its end, and what it raised is raised."""
    errors: list[BaseException] = []

    def body() -> None:
        try:
            function()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    yield thread
    thread.join(SOON)
    assert not thread.is_alive(), "it still runs"
    if errors:
        raise errors[0]


def children() -> set[int]:
    """The pids of this process's children, those that have ended and are not reaped included."""
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found |= {int(pid) for pid in (task / "children").read_text().split()}
    return found


def held_descriptors() -> set[int]:
    return {int(name) for name in os.listdir("/proc/self/fd")}
