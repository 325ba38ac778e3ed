"""What the servers under attack answer, written once for every kind of server.

    anything     comes back as it is            BLOB n     n bytes
    SLEEP s      OK after s seconds             RAISE hex  an error with that text
    OPEN n       OK with n descriptors more     INFO       the server's own counts, as JSON
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
from collections.abc import Iterator
from typing import Any

CHUNK = b"b" * 65536
NUMBER = re.compile(rb"[0-9]{1,12}")
SECONDS = re.compile(rb"[0-9]{1,3}(\.[0-9]{1,3})?")


def answers(line: bytes, server: Any = None) -> Iterator[bytes | float]:
    """What to do for a line, or for a datagram: bytes are to be sent, a number of seconds is to be slept."""
    word, _, value = line.strip().partition(b" ")
    if word == b"BLOB" and NUMBER.fullmatch(value):
        left = int(value)
        while left > 0:
            yield CHUNK[:left]
            left -= len(CHUNK)
    elif word == b"SLEEP" and SECONDS.fullmatch(value):
        yield float(value)
        yield b"OK\n"
    elif word == b"RAISE":
        raise RuntimeError(bytes.fromhex(value.decode("ascii")).decode("latin-1"))
    elif word == b"INFO":
        info = getattr(server, "info", None)
        yield json.dumps(dataclasses.asdict(info()) if info else {}).encode() + b"\n"
    else:
        yield line


def opened(line: bytes, kept: list[int]) -> bytes | None:
    """The answer to ``OPEN n``, whose descriptors are put into ``kept``; None if it is another line."""
    word, _, value = line.strip().partition(b" ")
    if word != b"OPEN" or not NUMBER.fullmatch(value):
        return None
    try:
        for _ in range(int(value)):
            kept.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        return b"NO\n"
    return b"OK\n"


def release(kept: list[int]) -> None:
    for number in kept:
        with contextlib.suppress(OSError):
            os.close(number)
    kept.clear()
