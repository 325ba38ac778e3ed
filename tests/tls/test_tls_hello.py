"""What a client says first, whole and cut anywhere."""

from __future__ import annotations

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jackfield.tls.hello import ClientHello, HelloReader


def read_client_hello(data: bytes | bytearray) -> ClientHello | None:
    """All at one go; and byte by byte, which must come to the same."""
    found = None
    try:
        found = HelloReader().feed(bytes(data))
    finally:
        assert bytewise(data) == found
    return found


def bytewise(data: bytes | bytearray) -> ClientHello | None:
    reader = HelloReader()
    for at in range(len(data)):
        try:
            found = reader.feed(bytes(data[at : at + 1]))
        except ValueError:
            return None
        if found is not None:
            return found
    return None


def spoken(name: str | None = "localhost", protocols: tuple[str, ...] = (), version: str = "1.3") -> bytes:
    """The ClientHello of OpenSSL."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    if version == "1.2":
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    if protocols:
        context.set_alpn_protocols(list(protocols))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_name_and_protocols_are_read(version: str) -> None:
    hello = spoken("Some-Name.example", ("h2", "http/1.1"), version)
    assert read_client_hello(hello) == ClientHello("some-name.example", (b"h2", b"http/1.1"))
    assert read_client_hello(spoken(None, (), version)) == ClientHello()


def test_what_follows_is_not_looked_at() -> None:
    assert read_client_hello(spoken() + b"\xff" * 100) == ClientHello("localhost")


@pytest.mark.parametrize("protocols", [(), ("h2",)])
def test_a_part_is_incomplete_and_never_wrong(protocols: tuple[str, ...]) -> None:
    hello = spoken(protocols=protocols)
    assert [read_client_hello(hello[:size]) for size in range(len(hello))] == [None] * len(hello)


def in_records(body: bytes, sizes: list[int]) -> bytes:
    """The handshake message cut into records of these sizes, the rest in a last one."""
    made = b""
    while body:
        size = sizes.pop() if sizes else len(body)
        made += b"\x16\x03\x01" + len(body[:size]).to_bytes(2, "big") + body[:size]
        body = body[size:]
    return made


@given(st.lists(st.integers(1, 60), max_size=12))
def test_it_may_come_in_many_records(sizes: list[int]) -> None:
    body = spoken(protocols=("h2",))[5:]
    assert read_client_hello(in_records(body, sizes)) == ClientHello("localhost", (b"h2",))


JUNK = [
    b"GET / HTTP/1.1\r\n\r\n", b"\x80\x2e\x01\x00\x02", b"\x16\x02\x00\x00\x05", b"\x16\x03\x01\x00\x00",
    b"\x16\x03\x01\xff\xff", b"\x16\x03\x01\x00\x05\x02\x00\x00\x01\x00", b"\x17\x03\x03\x00\x01\x00",
    b"\x16\x03\x01\x00\x04\x01\xff\xff\xff",
]  # fmt: skip


@pytest.mark.parametrize("junk", JUNK)
def test_something_else_is_told_at_once(junk: bytes) -> None:
    with pytest.raises(ValueError, match=r"^[a-zA-Z ]+$"):
        read_client_hello(junk)


@given(st.data())
def test_a_changed_hello_is_read_or_refused_and_nothing_else(data: st.DataObject) -> None:
    hello = bytearray(spoken(protocols=("h2",)))
    for _ in range(data.draw(st.integers(1, 4))):
        hello[data.draw(st.integers(0, len(hello) - 1))] = data.draw(st.integers(0, 255))
    try:
        read = read_client_hello(hello)
    except ValueError:
        return
    assert read is None or isinstance(read, ClientHello)


@given(st.binary(max_size=300))
def test_any_bytes_are_incomplete_a_hello_or_refused(data: bytes) -> None:
    for text in (data, b"\x16\x03\x01" + len(data).to_bytes(2, "big") + data):
        try:
            read_client_hello(text)
        except ValueError as error:
            assert str(error).isprintable()


def message(extensions: bytes) -> bytes:
    body = b"\x03\x03" + b"r" * 32 + b"\x00" + b"\x00\x02\x13\x01" + b"\x01\x00"
    body += len(extensions).to_bytes(2, "big") + extensions
    return in_records(b"\x01" + len(body).to_bytes(3, "big") + body, [])


def named(name: bytes) -> bytes:
    entry = b"\x00" + len(name).to_bytes(2, "big") + name
    listed = len(entry).to_bytes(2, "big") + entry
    return b"\x00\x00" + len(listed).to_bytes(2, "big") + listed


@pytest.mark.parametrize("name", [b"\xff\xfe", b"a b", b"x" * 70, b"a..b", b"\x1b[31m", b"a." * 130 + b"b"])
def test_a_name_that_is_none_is_no_name(name: bytes) -> None:
    assert read_client_hello(message(named(name))) == ClientHello(None)


def test_a_dot_at_the_end_means_nothing() -> None:
    assert read_client_hello(message(named(b"a.example."))) == ClientHello("a.example")


@pytest.mark.parametrize("extensions", [named(b"a") * 2, b"\x00\x10\x00\x02\x00\x00", b"\x00\x10\x00\x03\x00\x01\x00"])
def test_contradictions_are_refused(extensions: bytes) -> None:
    with pytest.raises(ValueError):
        read_client_hello(message(extensions))
