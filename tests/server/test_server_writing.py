"""What waits here for a peer that does not read: nothing beyond what a handler has in hand."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest
from native_support import HERE, TCP, by, dial, until

from jackfield import AsyncStreamRequestHandler, Server, StreamRequestHandler

#: Bytes of one write. Its object is there before, and is the same for all.
BLOCK = b"b" * 65536

#: Writes that no kernel's buffers take, and bytes by which the process may grow.
MANY = 16_384
MOST = 64 * 1024


class Wrote:
    def __init__(self) -> None:
        self.count = 0


def endless(mode: str, wrote: Wrote) -> Any:
    class Endless(StreamRequestHandler[Any]):
        def handle(self) -> None:
            for _ in range(MANY):
                self.wfile.write(BLOCK)
                wrote.count += 1

    class AsyncEndless(AsyncStreamRequestHandler[Any]):
        async def handle(self) -> None:
            for _ in range(MANY):
                await self.wfile.write(BLOCK)
                wrote.count += 1

    return by(mode, Endless, AsyncEndless)


def is_waiting(server: Server) -> bool:
    """Whether its one handler waits for the peer."""
    sockets = [connection.socket for connection in server.connections]
    return any(
        sock.waits is False or (sock._channel is not None and sock._channel.writer is not None)
        for sock in sockets
        if sock is not None
    )


def grown_by(handler: Any, mode: str, over: Any) -> int:
    """Bytes that Python has more of when ``over(server)``, where the peer does not read."""
    with Server(handler, TCP, mode=mode) as server:
        with dial(server) as warm:
            assert warm.recv(1) == b"b"  # what is made for the first connection only is there
        until(lambda: not server.connections and not server._service.live)  # and its handler has returned
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            with dial(server):
                until(lambda: over(server))
                return tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize("mode", HERE)
def test_a_handler_waits_for_a_peer_that_does_not_read(mode: str) -> None:
    wrote = Wrote()
    assert grown_by(endless(mode, wrote), mode, is_waiting) < MOST
    assert wrote.count < MANY


def test_a_writer_that_collects_is_found_out() -> None:
    """The broken case: what asyncio's transports do when nobody calls ``drain()``."""
    collected: list[bytes] = []

    class Collects(AsyncStreamRequestHandler[Any]):
        async def handle(self) -> None:
            await self.wfile.write(BLOCK)
            collected.extend(BLOCK + b"%d" % number for number in range(16))
            await self.rfile.read()

    grown = grown_by(Collects, "async", lambda _: len(collected) == 2 * 16)  # of both clients
    assert grown > MOST
