"""What benchmarks/life.py serves: who serves a client, and what it says."""

from __future__ import annotations

import os
from typing import Any

from jackfield import AsyncRequestHandler
from jackfield.socketserver import StreamRequestHandler

#: A target is imported in the workers only, so that this is the worker's; in mode process its children have it, too.
WORKER = os.getpid()


def answer(line: bytes) -> bytes:
    """To ``pid`` the worker's, also where a child of it serves this client; to ``say TEXT`` the text."""
    return b"%d\n" % WORKER if line == b"pid\n" else line.partition(b" ")[2]


class Handler(StreamRequestHandler):
    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(answer(line))


class AsyncHandler(AsyncRequestHandler[Any]):
    async def handle(self) -> None:
        data = b""
        while part := await self.request.recv(4096):
            *lines, data = (data + part).split(b"\n")
            await self.request.sendall(b"".join(answer(line + b"\n") for line in lines))
