"""Messages of all sizes around what a read asks for at first: whole, in one recv, with what comes behind them."""

from __future__ import annotations

import select
import socket as standard
import struct
from typing import Any

import pytest
from reactor_support import Host, tcp_pair, turns, until

from jackfield import spawn
from jackfield.reactor import drive
from jackfield.reactor.patience import SMALL
from jackfield.streams import AsyncSocket

SIZES = [1, SMALL - 1, SMALL, SMALL + 1, 1024, 1, SMALL, 5000, 2]


def received(sock: Any, into: list[Any]) -> None:
    """Receive by a green thread until the end, or an error, which is the last item."""
    try:
        while data := sock.recv(8192):
            into.append(data)
        into.append(b"")
    except OSError as error:
        into.append(type(error))


async def areceived(sock: Any, into: list[Any]) -> None:
    stream = AsyncSocket(sock)
    try:
        while data := await stream.recv(8192):
            into.append(data)
        into.append(b"")
    except OSError as error:
        into.append(type(error))


def start(kind: str, sock: Any) -> list[Any]:
    into: list[Any] = []
    if kind == "green":
        spawn(received, sock, into)
    else:
        drive(areceived(sock, into))
    turns()
    return into


@pytest.mark.parametrize("kind", ["green", "async"])
def test_each_message_comes_whole_in_one_recv(host: Host, kind: str) -> None:
    def main() -> None:
        left, right = tcp_pair()
        with left, right:
            into = start(kind, left)
            for number, size in enumerate(SIZES):
                message = bytes([number + 1]) * size
                standard.socket.sendall(right, message)
                until(lambda number=number: len(into) > number)  # type: ignore[misc]
                assert into[number] == message
            assert left.received == sum(SIZES)
            right.close()
            until(lambda: into[-1] == b"")

    host.run(main)


@pytest.mark.parametrize("kind", ["green", "async"])
@pytest.mark.parametrize("end", ["end", "reset"])
@pytest.mark.parametrize("size", [SMALL - 1, SMALL, SMALL + 1])
def test_what_comes_with_a_message_is_told_after_it(host: Host, kind: str, end: str, size: int) -> None:
    """The kernel tells of an error once: reading on for the rest of a message must not take it."""

    def main() -> None:
        left, right = tcp_pair()
        with left, right:
            into = start(kind, left)
            standard.socket.sendall(right, b"x" * size)
            if end == "reset":
                right.setsockopt(standard.SOL_SOCKET, standard.SO_LINGER, struct.pack("ii", 1, 0))
            right.close()
            assert select.select([left.fileno()], [], [], 5)[0]
            until(lambda: (into and type(into[-1]) is type) or into[-1:] == [b""])
            if end == "end":
                assert into == [b"x" * size, b""]
            else:  # what had come may be thrown away by the reset: tcp(7) promises nothing there
                assert into[-1] is ConnectionResetError and b"".join(into[:-1]) in (b"x" * size, b"")

    host.run(main)
