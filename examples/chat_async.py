"""The chat again, in coroutines: the same rooms, read and written with ``await``.

    python examples/chat_async.py [ADDRESS]         9999 unless given; 0 takes any free port
    jackfield connect :9999                         in as many terminals as you like

``jackfield serve --app-dir examples chat_async:AsyncChat --idle-timeout 0`` is the same. Mode async: compare it with
examples/chat.py, where ``get()`` is in the place of ``await aget()`` and ``spawn()`` in that of a task.
"""

from __future__ import annotations

import asyncio
import logging
import sys

from chat import LONGEST_LINE, House, hang_up

import jackfield
from jackfield import sync
from jackfield.limits import Limits


class AsyncChat(jackfield.AsyncStreamRequestHandler):
    """One member."""

    house = House()
    limit = LONGEST_LINE

    async def handle(self) -> None:
        await self.wfile.write(b"your name? ")
        name = (await self.rfile.readline()).decode(errors="replace").strip()
        lines = self.house.enter(name, self.request)
        if lines is None:
            await self.wfile.write(b"that name is taken, or is none\n")
            return
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.write(lines))
            try:
                async for line in self.rfile:
                    self.house.hear(name, line.decode(errors="replace").rstrip())
            finally:
                self.house.leave(name)

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
    limits = Limits(idle_timeout=None)  # who only reads is welcome
    jackfield.serve(AsyncChat, *(sys.argv[1:] or ["9999"]), limits=limits, graceful_timeout=1)
