"""What benchmarks/soak.py serves: what life.py does, and two that are broken on purpose."""

from __future__ import annotations

import os
from typing import Any

from life_handlers import AsyncHandler, Handler, answer

from jackfield.socketserver import StreamRequestHandler

__all__ = ["AsyncHandler", "Handler", "LeakingHandler", "LosingHandler"]

#: A worker that leaks keeps so much of each message, and so much at most.
OF_A_MESSAGE, AT_MOST = 64 << 10, 256 << 20

#: One that loses its clients ends a connection at each message that is the last of so many.
LOST_OF = 200

kept: list[bytearray] = []
said = [0]


class LeakingHandler(StreamRequestHandler):
    def handle(self) -> None:
        for line in self.rfile:
            if len(kept) * OF_A_MESSAGE < AT_MOST:
                kept.append(bytearray(os.urandom(1) * OF_A_MESSAGE))
            self.wfile.write(answer(line))


class LosingHandler(StreamRequestHandler):
    def handle(self) -> Any:
        for line in self.rfile:
            said[0] += 1
            if said[0] % LOST_OF == 0:
                return
            self.wfile.write(answer(line))
