"""Testing a protocol with ``jackfield.testing``: bytes in and out, a conversation, a real server in each mode.

    python -m pytest examples/test_line_protocol.py
"""

from __future__ import annotations

import pytest
from line_protocol import LONGEST_LINE, LineProtocol, Store

from jackfield.testing import memory_connection, run_handler, serve


@pytest.fixture
def handler() -> type[LineProtocol]:
    """The protocol with a store of its own."""
    return type("Handler", (LineProtocol,), {"store": Store()})


# Bytes in, bytes out: no port, no thread.


def test_a_value_that_was_set_can_be_had(handler: type[LineProtocol]) -> None:
    assert run_handler(handler, b"SET colour light blue\nGET colour\n") == b"OK\nOK light blue\n"


def test_a_value_that_was_deleted_is_gone(handler: type[LineProtocol]) -> None:
    answers = run_handler(handler, b"SET a 1\nSET b 2\nDEL a\nGET a\nLIST\n").splitlines()
    assert answers[3:] == [b"ERROR there is no a", b"OK b"]


def test_quit_ends_the_connection_and_what_follows_is_not_read(handler: type[LineProtocol]) -> None:
    assert run_handler(handler, b"QUIT\nSET a 1\n") == b"OK\n"
    assert run_handler(handler, b"GET a\n") == b"ERROR there is no a\n"


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"\n", b"ERROR write SET, GET, DEL, LIST or QUIT\n"),
        (b"get a\n", b"ERROR write SET, GET, DEL, LIST or QUIT\n"),
        (b"SET a\n", b"ERROR SET takes a name and a value\n"),
        (b"GET\n", b"ERROR GET takes a name\n"),
        (b"SET \xff 1\n", b"ERROR that is not UTF-8\n"),
        (b"x" * (LONGEST_LINE + 1), b"ERROR that line is too long\n"),
    ],
)
def test_what_is_no_request_is_told_so(handler: type[LineProtocol], sent: bytes, answer: bytes) -> None:
    assert run_handler(handler, sent) == answer


# A conversation: the test waits for each answer.


@pytest.mark.parametrize("mode", ["thread", "green"])
def test_an_error_does_not_end_the_conversation(handler: type[LineProtocol], mode: str) -> None:
    with memory_connection(handler, mode=mode) as client:
        client.sendall(b"nonsense\n")
        assert client.readline().startswith(b"ERROR")
        client.sendall(b"SET a 1\n")
        assert client.readline() == b"OK\n"


# A real server on a port of its own: several clients see one store.


@pytest.mark.parametrize("mode", ["serial", "thread", "green"])
def test_clients_share_the_store(handler: type[LineProtocol], mode: str) -> None:
    with serve(handler, mode=mode) as server:
        with server.connect() as first:
            first.sendall(b"SET a 1\n")
            assert first.recv(100) == b"OK\n"
        with server.connect() as second:
            second.sendall(b"GET a\n")
            assert second.recv(100) == b"OK 1\n"
