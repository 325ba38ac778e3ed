"""What benchmarks/life_faults.py serves: what life.py does, and ``spin SECONDS``, which holds its thread or loop."""

from __future__ import annotations

import time
from typing import Any

import life_handlers

from jackfield import AsyncRequestHandler
from jackfield.socketserver import StreamRequestHandler


def answer(line: bytes) -> bytes:
    word, _, rest = line.partition(b" ")
    if word != b"spin":
        return life_handlers.answer(line)
    end = time.monotonic() + float(rest)
    while time.monotonic() < end:
        pass
    return b"done\n"


class Handler(StreamRequestHandler):
    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(answer(line))


class AsyncHandler(AsyncRequestHandler[Any]):
    async def handle(self) -> None:
        data = b""
        while part := await self.request.recv(4096):
            *lines, data = (data + part).split(b"\n")
            for line in lines:
                await self.request.sendall(answer(line + b"\n"))
