"""The link: messages that are whole or not sent, an end that is told, and no message that ends whoever reads it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jackfield.supervisor.link import LARGEST, LONGEST_TEXT, Link

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=5,
)


@pytest.fixture
def ends() -> Iterator[tuple[Link, Link]]:
    ours, theirs = Link.pair()
    yield ours, theirs
    ours.close()
    theirs.close()


@given(st.lists(st.dictionaries(st.text(max_size=10), values, min_size=1, max_size=3), max_size=4))
def test_messages_come_as_they_were_sent(messages: list[dict[str, Any]]) -> None:
    ours, theirs = Link.pair()
    for message in messages:
        assert ours.send(**message)
    assert [theirs.receive() for _ in messages] == messages
    assert theirs.receive() == {}
    ours.close()
    assert theirs.receive() is None
    theirs.close()


@given(st.binary(min_size=1, max_size=2000))
def test_whatever_comes_is_a_message_or_none(data: bytes) -> None:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    link = Link(right)
    left.sendall(data)
    assert isinstance(link.receive(), dict)
    left.sendall(b'{"stop": 1}')
    assert link.receive() == {"stop": 1}
    left.close()
    link.close()


@pytest.mark.parametrize("data", [b"[" * 60000, b"7", b'"x"', b"\xff", b"{", b"NaN", b"1" * 60000])
def test_what_is_no_message_is_an_empty_one(data: bytes) -> None:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    link = Link(right)
    left.sendall(data)
    assert link.receive() == {}
    left.close()
    link.close()


def test_a_text_that_is_too_long_is_cut_and_the_message_is_whole(ends: tuple[Link, Link]) -> None:
    ours, theirs = ends
    assert theirs.send(failed="x" * 1_000_000, more=1)
    assert ours.receive() == {"failed": "x" * LONGEST_TEXT, "more": 1}


def test_a_message_that_is_too_long_is_not_sent(ends: tuple[Link, Link]) -> None:
    ours, theirs = ends
    assert not theirs.send(ready=["x"] * LARGEST)
    assert ours.receive() == {}


def test_nobody_is_waited_for(ends: tuple[Link, Link]) -> None:
    ours, theirs = ends
    sent = 0
    while ours.send(stop=1):
        sent += 1
        assert sent < 100_000, "the queue has no end"
    assert sent > 10
    assert [theirs.receive() for _ in range(sent)] == [{"stop": 1}] * sent
    assert ours.send(stop=2)


def test_the_end_of_the_process_is_the_end_of_the_link(ends: tuple[Link, Link]) -> None:
    ours, theirs = ends
    pid = os.fork()
    if pid == 0:
        ours.close()
        theirs.send(last=1)
        os._exit(0)
    theirs.close()
    os.waitpid(pid, 0)
    assert ours.receive() == {"last": 1}
    assert ours.receive() is None
    assert not ours.send(stop=1)
