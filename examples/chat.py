"""A chat with rooms: what one says, all others in the room read.

    python examples/chat.py [ADDRESS]               9999 unless given; 0 takes any free port
    jackfield connect :9999                         in as many terminals as you like

``jackfield serve --app-dir examples chat:Chat -k green --idle-timeout 0`` is the same; ``/join NAME`` goes to another
room, which begins with who enters it first. Mode green: one green thread reads from each member and another writes to
them, so that who reads slowly holds up nobody. examples/chat_async.py is its twin in coroutines.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import socket
import sys
from typing import Any

import jackfield
from jackfield import sync
from jackfield.limits import Limits

LONGEST_NAME = 30
LONGEST_LINE = 1000

#: Lines that may wait for one member. Whoever reads slower than the others write is put out, not waited for.
PATIENCE = 100


@dataclasses.dataclass(slots=True)
class Member:
    """One who is here, the lines that are still to be written to them, and their room."""

    connection: Any
    lines: sync.Queue[bytes]
    room: str = "lobby"


class House:
    """Who is in which room. Green threads, threads and coroutines may share one."""

    def __init__(self) -> None:
        self._members: dict[str, Member] = {}
        self._lock = sync.Lock()

    def enter(self, name: str, connection: Any) -> sync.Queue[bytes] | None:
        """The lines for a new member, to be written as they come; None if there is no such name to be had."""
        member = Member(connection, sync.Queue(PATIENCE))
        with self._lock:
            if not is_name(name) or name in self._members:
                return None
            self._members[name] = member
            self._say(member.room, f"* {name} is here")
        return member.lines

    def leave(self, name: str) -> None:
        """Forget a member; what waits for them may still be written."""
        with self._lock:
            member = self._members.pop(name)
            member.lines.shutdown()
            self._say(member.room, f"* {name} has left")

    def hear(self, name: str, text: str) -> None:
        """What a member writes: it is for the others in the room, or the way to another room."""
        with self._lock:
            member = self._members[name]
            match text.split(maxsplit=1):
                case ["/join", room] if is_name(room):
                    self._say(member.room, f"* {name} has left", but=name)
                    member.room = room
                    self._say(room, f"* {name} is here")
                case _:
                    self._say(member.room, f"{name}: {text}", but=name)

    def _say(self, room: str, text: str, but: str = "") -> None:
        """Tell everybody in a room except ``but``; nobody is waited for."""
        line = text.encode() + b"\n"
        for name, member in self._members.items():
            if member.room == room and name != but:
                try:
                    member.lines.put_nowait(line)
                except sync.Full:
                    hang_up(member.connection)


def is_name(text: str) -> bool:
    """Whether a member or a room may be called so."""
    return text.isprintable() and 0 < len(text) <= LONGEST_NAME


def hang_up(connection: Any) -> None:
    """End a connection in both directions: who reads it sees the end, and who writes to it an error."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


class Chat(jackfield.StreamRequestHandler):
    """One member."""

    house = House()

    def handle(self) -> None:
        self.wfile.write(b"your name? ")
        name = self.rfile.readline(LONGEST_LINE).decode(errors="replace").strip()
        lines = self.house.enter(name, self.request)
        if lines is None:
            self.wfile.write(b"that name is taken, or is none\n")
            return
        writer = jackfield.spawn(self.write, lines)
        try:
            while line := self.rfile.readline(LONGEST_LINE):
                self.house.hear(name, line.decode(errors="replace").rstrip())
        finally:
            self.house.leave(name)
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
    limits = Limits(idle_timeout=None)  # who only reads is welcome
    jackfield.serve(Chat, *(sys.argv[1:] or ["9999"]), mode="green", limits=limits, graceful_timeout=1)
