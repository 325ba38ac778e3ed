"""What the tests of the PROXY protocol share: feeding a parser in pieces, and the promises it has to keep at each."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable

import pytest

from jackfield.errors import ProxyError
from jackfield.proxyheader import ProxyHeader
from jackfield.proxyproto import ProxyParser

SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")
AFTER = b"PROXY \r\n\r\n\0GET / after the header"
"""What follows a header on the wire: nothing of it is the header's, though some of it looks like one."""


def v2(command: int, family: int, payload: bytes = b"", length: int | None = None) -> bytes:
    """A header of version 2, right or wrong, made without any code of the library."""
    return SIGNATURE + struct.pack("!BBH", command, family, len(payload) if length is None else length) + payload


def tlv(kind: int, value: bytes, length: int | None = None) -> bytes:
    return struct.pack("!BH", kind, len(value) if length is None else length) + value


INET = bytes([192, 0, 2, 1, 198, 51, 100, 7]) + struct.pack("!HH", 40000, 443)
"""The address block of a TCP or UDP connection over IPv4."""

Make = Callable[[], ProxyParser]


def read(pieces: Iterable[bytes], make: Make = ProxyParser) -> tuple[ProxyHeader | None, int]:
    """The header in the pieces, one after the other, and how many of their bytes were the header's."""
    parser = make()
    used = 0
    for piece in pieces:
        before = parser.header
        count = parser.feed(piece)
        used += count
        if before is not None:
            assert count == 0, "a complete header has taken more"
        elif parser.header is None:
            assert count == len(piece), "a header that is not complete has not taken all"
        assert 0 <= count <= len(piece)
        assert parser.taken == used
    return parser.header, used


def check_good(data: bytes, expected: ProxyHeader, make: Make = ProxyParser) -> None:
    """AssertionError unless ``data`` is one header, whole and with anything after it, however it is cut up."""
    whole = len(data)
    stream = data + AFTER
    assert read([data], make) == (expected, whole)
    assert read([stream], make) == (expected, whole)
    assert read([bytes([byte]) for byte in stream], make) == (expected, whole)
    for cut in range(whole):
        assert read([data[:cut]], make) == (None, cut), f"it is complete without its last {whole - cut} bytes"
        assert read([stream[:cut], stream[cut:]], make) == (expected, whole), f"it is another when cut at {cut}"


def check_bad(data: bytes, make: Make = ProxyParser) -> str:
    """AssertionError unless ``data`` is refused at its last byte: not before, and not only after more has come.

    Returns the message.
    """
    assert read([data[:-1]], make) == (None, len(data) - 1)
    messages = set()
    for pieces in ([data], [data + AFTER], [data[:-1], data[-1:]], [bytes([byte]) for byte in data]):
        parser = make()
        with pytest.raises(ProxyError) as refused:
            for piece in pieces:
                parser.feed(piece)
        with pytest.raises(ProxyError) as again:
            parser.feed(b"PROXY UNKNOWN\r\n")
        with pytest.raises(ProxyError) as at_the_end:
            parser.feed_eof()
        assert parser.header is None
        assert parser.taken == len(data)
        messages |= {str(refused.value), str(again.value), str(at_the_end.value)}
    (message,) = messages
    check_message(message)
    return message


def check_message(message: str) -> None:
    """One short line of ASCII that tells what to do."""
    assert message.startswith("no PROXY header: ")
    assert message.isascii() and message.isprintable()
    assert len(message) < 400
    assert message.rpartition(": ")[2].startswith(("look at ", "let clients ", "set the proxy "))
