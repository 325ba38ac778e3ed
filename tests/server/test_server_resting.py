"""A connection that waits for a message to begin has no buffer meanwhile; and what is there is never waited for."""

from __future__ import annotations

import random
import socket
import sys
from typing import Any

import pytest
from native_support import TCP, dial, read_line, until

from jackfield import Server, StreamRequestHandler
from jackfield.messages import BUFFER_SIZE, MessageReader

#: Bytes that a reader has of its own, without a buffer.
BARE = 1024


class Lines(StreamRequestHandler[Any]):
    """Answers each line; what it reads by is seen from outside."""

    seen: list[MessageReader]

    def handle(self) -> None:
        assert isinstance(self.rfile, MessageReader)
        self.seen.append(self.rfile)
        while line := self.rfile.readline():
            self.wfile.write(line)


def rests(reader: MessageReader) -> bool:
    # io's readers count their buffer among their size.
    return sys.getsizeof(reader) < BARE


def test_no_buffer_before_the_first_message_and_between_two() -> None:
    handler = type("Handler", (Lines,), {"seen": []})
    with Server(handler, TCP, mode="green") as server, dial(server) as client:
        until(lambda: handler.seen and rests(handler.seen[0]))
        for _ in range(3):
            client.sendall(b"half a ")
            until(lambda: not rests(handler.seen[0]))
            client.sendall(b"line\n")
            assert read_line(client) == b"half a line\n"
            until(lambda: rests(handler.seen[0]))
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
    assert handler.seen[0].closed


def test_a_buffer_that_is_kept_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broken case."""
    monkeypatch.setattr("jackfield.messages.MessageReader._wait_for_more", lambda *_: None)
    handler = type("Handler", (Lines,), {"seen": []})
    with Server(handler, TCP, mode="green") as server, dial(server) as client:
        until(lambda: handler.seen)
        client.sendall(b"line\n")
        assert read_line(client) == b"line\n"
        assert not rests(handler.seen[0]) and sys.getsizeof(handler.seen[0]) > BUFFER_SIZE


def test_where_a_handler_has_a_timeout_it_is_told_as_ever() -> None:
    told: list[str] = []

    class Patient(StreamRequestHandler[Any]):
        timeout = 0.05

        def handle(self) -> None:
            for _ in range(2):
                try:
                    self.rfile.readline()
                except OSError as error:
                    told.append(f"{type(error).__name__}: {error}")

    with Server(Patient, TCP, mode="green") as server, dial(server) as client:
        assert client.recv(1) == b""
    assert told == ["TimeoutError: timed out", "OSError: cannot read from timed out object"]


@pytest.mark.parametrize("mode", ["thread", "green"])
def test_nothing_that_is_there_is_waited_for(mode: str) -> None:
    """Whatever a handler reads by, in turn, and however what comes is cut."""
    chance = random.Random(11)
    text = b"".join(b"%0*d\n" % (chance.choice((1, 3, 80, 5000)), number) for number in range(200))

    class Reads(StreamRequestHandler[Any]):
        def handle(self) -> None:
            left, choice, rfile = len(text), random.Random(12), self.rfile
            assert isinstance(rfile, MessageReader)
            while left:
                way = choice.randrange(6)
                size = min(left, choice.choice((1, 7, 300)))
                if way == 0:
                    got = rfile.readline()
                elif way == 1:
                    got = rfile.read(size)
                elif way == 2:
                    buffer = bytearray(size)
                    got = bytes(buffer[: rfile.readinto(buffer)])
                elif way == 3:
                    got = rfile.read1(size)
                elif way == 4:
                    got = rfile.peek(1)[:0]
                else:
                    got = next(rfile)
                left -= len(got)
                self.wfile.write(got)

    with Server(Reads, TCP, mode=mode) as server, dial(server) as client:
        sent, back = 0, b""
        while sent < len(text):
            size = chance.choice((1, 2, 50, 4096, 20_000))
            client.sendall(text[sent : sent + size])
            sent = min(len(text), sent + size)
            client.setblocking(False)
            try:
                back += client.recv(65536)
            except BlockingIOError:
                pass
            finally:
                client.settimeout(20)
        while len(back) < len(text):
            piece = client.recv(65536)
            assert piece, "it ended before all was there"
            back += piece
    assert back == text
