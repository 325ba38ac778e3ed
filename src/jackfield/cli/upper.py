"""The handler that ``serve`` runs when none is named: it answers in upper case."""

from __future__ import annotations

from typing import Any

from jackfield.socketserver import AsyncRequestHandler, BaseRequestHandler

__all__ = ["AsyncUpper", "Upper"]


class Upper(BaseRequestHandler[Any]):
    """The upper-case echo of blocking modes: a stream until nothing more comes, or one datagram."""

    def handle(self) -> None:
        if isinstance(self.request, tuple):
            data, sock = self.request
            sock.sendto(data.upper(), self.client_address)
            return
        while data := self.request.recv(1024).strip():
            self.request.sendall(data.upper())


class AsyncUpper(AsyncRequestHandler[Any]):
    """The same as a coroutine."""

    async def handle(self) -> None:
        if isinstance(self.request, tuple):
            data, sock = self.request
            await sock.sendto(data.upper(), self.client_address)
            return
        while data := (await self.request.recv(1024)).strip():
            await self.request.sendall(data.upper())
