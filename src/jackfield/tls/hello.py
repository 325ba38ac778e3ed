"""What a client says first: the name it wants and the protocols it speaks, read before OpenSSL is asked anything.

The ssl module tells the name only to a callback that would change the context in the middle of a handshake, and tells
nobody which protocols were offered. Read here, both are known before the context is chosen.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

#: A name longer than DNS allows (RFC 1035 2.3.4), or in other letters, is none that a certificate could be for.
_HOST_NAME = re.compile(rb"[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?")

#: The first byte of a record that belongs to a handshake (RFC 8446 5.1): no command of a protocol in plaintext begins
#: with it.
HANDSHAKE = b"\x16"

_CLIENT_HELLO = b"\x01"
_SERVER_NAME, _ALPN = 0, 16

#: The longest record that is not encrypted (RFC 8446 5.1); OpenSSL takes no longer ClientHello either.
_LONGEST = 16384


@dataclass(frozen=True, slots=True)
class ClientHello:
    """``server_name`` in lower case without a dot at the end, None if there is none that could be one; ``protocols``
    as they were offered, the dearest first (RFC 7301), empty if none were."""

    server_name: str | None = None
    protocols: tuple[bytes, ...] = ()


class HelloReader:
    """Puts a ClientHello together from pieces of any size; each byte is looked at once, however slowly they come."""

    __slots__ = ("_message", "_record")

    def __init__(self) -> None:
        self._record = bytearray()
        self._message = bytearray()

    def feed(self, data: bytes) -> ClientHello | None:
        """What comes next; the ClientHello when it is complete, None before.

        :raises ValueError: the stream begins with something else, or the message contradicts itself.
        """
        record, message = self._record, self._message
        record += data
        while True:
            if not (HANDSHAKE.startswith(record[:1]) and b"\x03".startswith(record[1:2])):
                raise ValueError("no TLS handshake record")
            if len(record) < 5:
                return None
            length = int.from_bytes(record[3:5], "big")
            if not 0 < length <= _LONGEST:
                raise ValueError("a record of an impossible length")
            if not message and not _CLIENT_HELLO.startswith(record[5:6]):
                raise ValueError("no ClientHello")
            if len(record) < 5 + length:
                return None
            message += record[5 : 5 + length]
            del record[: 5 + length]
            if len(message) >= 4:
                whole = int.from_bytes(message[1:4], "big")
                if whole > _LONGEST:
                    raise ValueError("a ClientHello longer than OpenSSL would take")
                if len(message) >= 4 + whole:
                    return _parsed(bytes(message[4 : 4 + whole]))


def _parsed(message: bytes) -> ClientHello:
    fields = _Fields(message)
    fields.take(2 + 32)  # version and random
    fields.vector(1)  # session id
    fields.vector(2)  # cipher suites
    fields.vector(1)  # compression methods
    if not fields.left:
        return ClientHello()  # no extensions: TLS 1.2 allows that
    extensions = fields.vector(2)
    if fields.left:
        raise ValueError("bytes after the extensions")
    name: str | None = None
    protocols: tuple[bytes, ...] = ()
    seen = set()
    while extensions.left:
        kind, body = extensions.number(2), extensions.vector(2)
        if kind in seen:
            raise ValueError("an extension twice")
        seen.add(kind)
        if kind == _SERVER_NAME:
            name = _server_name(body)
        elif kind == _ALPN:
            protocols = _protocols(body)
    return ClientHello(name, protocols)


class _Fields:
    """Numbers and vectors with their length in front (RFC 8446 3.4), from a text that may be cut anywhere."""

    __slots__ = ("_data", "left")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.left = len(data)

    def take(self, size: int) -> bytes:
        if size > self.left:
            raise ValueError("a field longer than what is there")
        start = len(self._data) - self.left
        self.left -= size
        return self._data[start : start + size]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int) -> _Fields:
        return _Fields(self.take(self.number(size)))

    def rest(self) -> bytes:
        return self.take(self.left)


def _server_name(body: _Fields) -> str | None:
    names = body.vector(2)
    if body.left:
        raise ValueError("bytes after the server name")
    kind, name = names.number(1), names.vector(2).rest()
    if kind != 0 or names.left or len(name) > 254 or not _HOST_NAME.fullmatch(name):
        return None
    return name.decode("ascii").lower().removesuffix(".")


def _protocols(body: _Fields) -> tuple[bytes, ...]:
    listed = body.vector(2)
    if body.left:
        raise ValueError("bytes after the protocols")
    found = []
    while listed.left:
        found.append(listed.vector(1).rest())
    if not found or b"" in found:
        raise ValueError("no protocols, or one without a name")
    return tuple(found)
