"""Handlers for the tests of stopping: a line is answered in capitals, and one that is half there is under way, however
long nothing more of it comes."""

from __future__ import annotations

from typing import Any

from jackfield import AsyncStreamRequestHandler, StreamRequestHandler, draining

draining.QUIET = 1000.0


class Lines(StreamRequestHandler[Any]):
    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(line.upper())


class AsyncLines(AsyncStreamRequestHandler[Any]):
    async def handle(self) -> None:
        while line := await self.rfile.readline():
            await self.wfile.write(line.upper())
