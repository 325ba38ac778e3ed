"""A chat room: what one says, all others read. A green thread reads from each member and another writes to them.

    python examples/chat.py [ADDRESS]               9999 unless given; 0 takes any free port
    jackfield connect :9999                         in as many terminals as you like

``jackfield serve --app-dir examples chat:Chat -k green`` is the same. examples/chat_async.py is its twin in coroutines.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import sys
from typing import Any

import jackfield
from jackfield import sync

LONGEST_NAME = 30
LONGEST_LINE = 1000

#: Lines that may wait for one member. Whoever reads slower than the others write is put out, not waited for.
PATIENCE = 100


class Room:
    """Who is here, and what each of them has still to be told. Green threads, threads and coroutines may share one."""

    def __init__(self) -> None:
        self._members: dict[str, tuple[Any, sync.Queue[bytes]]] = {}
        self._lock = sync.Lock()

    def enter(self, name: str, connection: Any) -> sync.Queue[bytes] | None:
        """The lines for a new member, to be written as they come; None if there is no such name to be had."""
        lines: sync.Queue[bytes] = sync.Queue(PATIENCE)
        with self._lock:
            if not name.isprintable() or not 0 < len(name) <= LONGEST_NAME or name in self._members:
                return None
            self._members[name] = connection, lines
        self.say(f"* {name} is here")
        return lines

    def leave(self, name: str) -> None:
        """Forget a member; what waits for them may still be written."""
        with self._lock:
            _, lines = self._members.pop(name)
        lines.shutdown()
        self.say(f"* {name} has left")

    def say(self, text: str, but: str = "") -> None:
        """Tell everybody except ``but``."""
        line = text.encode() + b"\n"
        with self._lock:
            for name, (connection, lines) in self._members.items():
                if name == but:
                    continue
                try:
                    lines.put_nowait(line)
                except sync.Full:
                    hang_up(connection)


def hang_up(connection: Any) -> None:
    """End a connection in both directions: who reads it sees the end, and who writes to it an error."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


class Chat(jackfield.StreamRequestHandler):
    """One member."""

    room = Room()

    def handle(self) -> None:
        self.wfile.write(b"your name? ")
        name = self.rfile.readline(LONGEST_LINE).decode(errors="replace").strip()
        lines = self.room.enter(name, self.request)
        if lines is None:
            self.wfile.write(b"that name is taken, or is none\n")
            return
        writer = jackfield.spawn(self.write, lines)
        try:
            while line := self.rfile.readline(LONGEST_LINE):
                self.room.say(f"{name}: {line.decode(errors='replace').rstrip()}", but=name)
        finally:
            self.room.leave(name)
            writer.join()

    def write(self, lines: sync.Queue[bytes]) -> None:
        try:
            while True:
                self.wfile.write(lines.get())
        except sync.ShutDown:
            pass  # the member has left, and has got every line
        except OSError:
            hang_up(self.request)  # nobody is there to be written to, so nobody is there to be read from


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)  # says where it listens
    jackfield.serve(Chat, sys.argv[1] if len(sys.argv) > 1 else "9999", mode="green", graceful_timeout=1)
