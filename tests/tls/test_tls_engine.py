"""The engine without any socket: every way to cut the stream, what ends it, and what is raised."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tls_support import Files

from jackfield.errors import TLSError, TLSHandshakeError
from jackfield.tls.engine import RECORD, TLSEngine

Cut = Callable[[bytes], Iterator[bytes]]


def whole(data: bytes) -> Iterator[bytes]:
    if data:
        yield data


def bytewise(data: bytes) -> Iterator[bytes]:
    return (data[at : at + 1] for at in range(len(data)))


def pieces(sizes: list[int]) -> Cut:
    def cut(data: bytes) -> Iterator[bytes]:
        at, turn = 0, 0
        while at < len(data):
            yield data[at : at + sizes[turn % len(sizes)]]
            at, turn = at + sizes[turn % len(sizes)], turn + 1

    return cut


def move(source: TLSEngine, target: TLSEngine, cut: Cut = whole) -> list[bytes]:
    """What ``source`` has for the wire, to ``target``, which reads after each piece; the text that it got."""
    got = []
    for piece in cut(source.take()):
        target.feed(piece)
        if not target.established:
            target.handshake()
        else:
            while text := target.read(RECORD):
                got.append(text)
    return got


def shaken(files: Files, version: str = "1.3", cut: Cut = whole, **how: object) -> tuple[TLSEngine, TLSEngine]:
    server, client = TLSEngine.server(files.served.choose), TLSEngine.client(files.client(version), "localhost")
    client.handshake()
    while not (server.established and client.established):
        move(client, server, cut)
        move(server, client, cut)
    move(server, client, cut)  # tickets
    return server, client


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_a_byte_at_a_time(files: Files, version: str) -> None:
    server, client = shaken(files, version, bytewise)
    client.write(b"a message")
    assert move(client, server, bytewise) == [b"a message"]
    server.write(b"x" * 40000)
    assert b"".join(move(server, client, bytewise)) == b"x" * 40000
    server.close_notify()
    move(server, client, bytewise)
    assert client.ended and not client.truncated


@given(
    sizes=st.lists(st.integers(1, 3000), min_size=1, max_size=5),
    texts=st.lists(st.binary(min_size=1, max_size=40000), max_size=3),
)
def test_the_text_does_not_depend_on_the_cuts(files: Files, sizes: list[int], texts: list[bytes]) -> None:
    server, client = shaken(files, cut=pieces(sizes))
    for text in texts:
        client.write(text)
    assert b"".join(move(client, server, pieces(sizes))) == b"".join(texts)


def test_in_the_steady_state_nothing_is_raised(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    server, client = shaken(files)
    asked = []
    monkeypatch.setattr(TLSEngine, "_nothing_yet", lambda self, end: asked.append(self))
    for _ in range(10):
        client.write(b"x" * 64)
        assert not server.more
        server.feed(client.take())
        assert server.read(1024) == b"x" * 64
    assert asked == []
    client.write(b"x" * 64)
    record = client.take()
    server.feed(record[:30])  # the check can fail: half a record has no text
    server.read(1024)
    assert asked == [server]


def test_more_is_true_while_anything_is_left(files: Files) -> None:
    server, client = shaken(files)
    client.write(b"first")
    client.write(b"second")
    server.feed(client.take())
    assert server.read(3) == b"fir" and server.more and server.pending() == 2
    assert server.read(9) == b"st" and server.more and server.pending() == 0
    assert server.read(9) == b"second" and not server.more


def test_reading_into_a_buffer(files: Files) -> None:
    server, client = shaken(files)
    client.write(b"text")
    server.feed(client.take())
    buffer = bytearray(10)
    assert server.read_into(10, memoryview(buffer)) == 4 and buffer == b"text" + bytes(6)
    assert server.read_into(10, memoryview(buffer)) is None
    server.feed(b"")
    assert server.read_into(10, memoryview(buffer)) == 0 and server.truncated


def test_this_sides_goodbye_loses_nothing_of_the_peers(files: Files) -> None:
    server, client = shaken(files)
    client.write(b"one two")
    server.feed(client.take())
    assert server.read(3) == b"one"  # " two" is decrypted, but not read
    client.write(b" three")
    server.feed(client.take())  # and this not even decrypted
    server.close_notify()
    client.write(b" four")
    server.feed(client.take())
    assert server.pending() == 4
    assert [server.read(99) for _ in range(3)] == [b" two", b" three", b" four"]
    assert server.read(99) is None
    with pytest.raises(BrokenPipeError):
        server.write(b"after the goodbye")


def test_the_goodbye_is_said_once_and_not_before_the_handshake(files: Files) -> None:
    server, _ = shaken(files)
    server.close_notify()
    assert server.take()
    server.close_notify()
    assert not server.take()
    early = TLSEngine.server(files.served.choose)
    early.close_notify()
    assert not early.take()


def test_a_stream_that_was_cut_ends_and_says_so(files: Files) -> None:
    server, client = shaken(files)
    client.write(b"x" * 100)
    server.feed(client.take()[:50])
    server.feed(b"")
    assert server.read(99) == b"" and server.truncated
    assert server.read(99) == b""


@given(st.integers(0, 119), st.integers(1, 255))
def test_a_changed_record_is_an_error_and_never_text(files: Files, at: int, change: int) -> None:
    server, client = shaken(files)
    client.write(b"x" * 98)  # with header, type and tag 120 bytes on the wire
    record = bytearray(client.take())
    assert len(record) == 120
    record[at] ^= change
    server.feed(bytes(record))
    try:
        text = server.read(99)
    except TLSError as error:
        assert isinstance(error, ssl.SSLError) and "\n" not in str(error) and str(error).isprintable()
    else:
        # A length that was changed makes it wait for the rest; a version that was changed is not looked at (RFC 8446).
        assert text is None if at in (3, 4) else at in (1, 2)


def test_an_error_is_told_again(files: Files) -> None:
    server, _ = shaken(files)
    server.feed(b"\x17\x03\x03\x00\x20" + b"z" * 32)
    for _ in range(2):
        with pytest.raises(TLSError):
            server.read(99)
        assert server.more


@given(st.binary(min_size=1, max_size=200))
def test_junk_is_refused_in_one_line_or_waited_for(files: Files, junk: bytes) -> None:
    server = TLSEngine.server(files.served.choose)
    server.feed(junk)
    try:
        assert server.handshake() is False
    except TLSHandshakeError as error:
        assert isinstance(error, OSError) and str(error).isprintable()


@pytest.mark.parametrize(
    ("junk", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "the client speaks plain HTTP on a TLS port"),
        (b"CONNECT a:1 HTTP/1.1\r\n\r\n", "the client speaks plain HTTP on a TLS port"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "the peer does not speak TLS, or no version of it that is known"),
        (b"\x1b]0;owned\x07 and more", "the peer does not speak TLS, or no version of it that is known"),
    ],
)
def test_the_usual_junk_has_a_reason(files: Files, junk: bytes, reason: str) -> None:
    server = TLSEngine.server(files.served.choose)
    server.feed(junk)
    with pytest.raises(TLSHandshakeError) as caught:
        server.handshake()
    assert str(caught.value) == reason


def test_a_client_must_say_whom_it_wants(files: Files) -> None:
    with pytest.raises(ValueError, match="server_hostname"):
        TLSEngine.client(files.client(), None)
