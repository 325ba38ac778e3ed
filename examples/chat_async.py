"""The chat room again, in coroutines: the same room, read and written with ``await``.

    python examples/chat_async.py [ADDRESS]         9999 unless given; 0 takes any free port

Compare it with examples/chat.py: ``get()`` becomes ``await aget()``, ``spawn()`` a task, and the room stays as it is.
"""

from __future__ import annotations

import asyncio
import logging
import sys

from chat import LONGEST_LINE, Room, hang_up

import jackfield
from jackfield import sync


class AsyncChat(jackfield.AsyncStreamRequestHandler):
    """One member."""

    room = Room()
    limit = LONGEST_LINE

    async def handle(self) -> None:
        await self.wfile.write(b"your name? ")
        name = (await self.rfile.readline()).decode(errors="replace").strip()
        lines = self.room.enter(name, self.request)
        if lines is None:
            await self.wfile.write(b"that name is taken, or is none\n")
            return
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.write(lines))
            try:
                async for line in self.rfile:
                    self.room.say(f"{name}: {line.decode(errors='replace').rstrip()}", but=name)
            finally:
                self.room.leave(name)

    async def write(self, lines: sync.Queue[bytes]) -> None:
        try:
            while True:
                await self.wfile.write(await lines.aget())
        except sync.ShutDown:
            pass  # the member has left, and has got every line
        except OSError:
            hang_up(self.request)  # nobody is there to be written to, so nobody is there to be read from


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)  # says where it listens
    jackfield.serve(AsyncChat, sys.argv[1] if len(sys.argv) > 1 else "9999", graceful_timeout=1)
