"""The bytes that the suites send, and how they are read back: recognisable at every offset, checked by hash."""

from __future__ import annotations

import hashlib
import random
import socket as _socket_std
from collections.abc import Callable
from functools import lru_cache

__all__ = ["digest", "pattern", "pattern_digest", "receive_all", "receive_exactly", "receive_slowly"]

MIB = 1 << 20
PAUSE_EVERY = 4 * MIB


BLOCK = random.Random("jackfield").randbytes(MIB)


def pattern(size: int) -> bytes:
    """`size` bytes, the same at each call, in which no two MiB are alike: a piece lost or twice changes the hash.

    Made anew each time: 64 MiB kept would make each fork of a server under test four times as slow.
    """
    return b"".join(index.to_bytes(8, "big") + BLOCK[8:] for index in range(-(-size // MIB)))[:size]


@lru_cache
def pattern_digest(size: int, start: int = 0) -> str:
    """The `digest` of ``pattern(size)[start:]``."""
    return digest(memoryview(pattern(size))[start:])


def digest(data: bytes | bytearray | memoryview) -> str:
    """SHA-256 of `data` in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def receive_exactly(socket: _socket_std.socket, size: int) -> bytes:
    """Read `size` bytes by `recv`. AssertionError when the stream ends before."""
    parts = []
    missing = size
    while missing:
        part = socket.recv(min(missing, 1 << 18))
        if not part:
            raise AssertionError(f"the stream ended {missing} bytes before the {size} that were to come")
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


def receive_all(socket: _socket_std.socket) -> bytes:
    """Read by `recv` until the peer's end of stream."""
    parts = []
    while part := socket.recv(1 << 18):
        parts.append(part)
    return b"".join(parts)


def receive_slowly(socket: _socket_std.socket, size: int, sleep: Callable[[float], None]) -> str:
    """Read `size` bytes in uneven pieces, resting 2 ms after each 4 MiB so that the sender's buffer fills; the hash."""
    total, rest_at = 0, PAUSE_EVERY
    seen = hashlib.sha256()
    sizes = (1, 4096, 65536, 1000, 200_000, 131_072, 262_144)
    step = 0
    while total < size:
        part = socket.recv(min(sizes[step % len(sizes)], size - total))
        if not part:
            raise AssertionError(f"the stream ended after {total} of {size} bytes")
        seen.update(part)
        total += len(part)
        step += 1
        if total >= rest_at:
            rest_at += PAUSE_EVERY
            sleep(0.002)
    return seen.hexdigest()
