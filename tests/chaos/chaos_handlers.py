"""What the servers of the chaos tests serve: lines, each of which is answered in upper case.

``pid`` is answered by the process that serves the client, and at ``raise`` the handler fails. The classes that begin
with ``Forgetful`` are the broken case: of a message that comes in two pieces they know only the second.
"""

from __future__ import annotations

import os
from typing import Any

from jackfield import AsyncRequestHandler, AsyncStreamRequestHandler, BaseRequestHandler, StreamRequestHandler


def answer(line: bytes) -> bytes:
    if line == b"raise\n":
        raise RuntimeError("as it was asked to")
    return b"%d\n" % os.getpid() if line == b"pid\n" else line.upper()


class Handler(StreamRequestHandler[Any]):
    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(answer(line))


class AsyncHandler(AsyncStreamRequestHandler[Any]):
    async def handle(self) -> None:
        async for line in self.rfile:
            await self.wfile.write(answer(line))


class ForgetfulHandler(BaseRequestHandler[Any]):
    def handle(self) -> None:
        while data := self.request.recv(4096):
            for line in data.splitlines(keepends=True):
                if line.endswith(b"\n"):
                    self.request.sendall(answer(line))


class ForgetfulAsyncHandler(AsyncRequestHandler[Any]):
    async def handle(self) -> None:
        while data := await self.request.recv(4096):
            for line in data.splitlines(keepends=True):
                if line.endswith(b"\n"):
                    await self.request.sendall(answer(line))
