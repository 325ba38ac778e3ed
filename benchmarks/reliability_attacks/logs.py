"""An attack by words: bytes of the peer's that reach the log through the errors of handlers."""

from __future__ import annotations

import contextlib
import unicodedata

from .arena import Arena, Found

#: What a record of the log begins with, and so what a forged one would.
FORGED = "ERROR:root:forged"

#: A line of the log that was never written, a screen that is cleared, colours, a title, C1 controls, a bell.
EVIL = f"\r\n{FORGED}\n\x1b[2J\x1b]0;title\x07\x1b[31m\x9b31m\x85\x00\x08\x7f end"


def evil(arena: Arena) -> Found:
    """Handlers raise errors whose texts are control sequences and lines that look like the log's own."""
    count, target = arena.many(300), arena.target
    for _ in range(count):
        with contextlib.suppress(OSError), target.connect(2.0) as sock:
            sock.sendall(b"RAISE " + EVIL.encode("latin-1").hex().encode() + b"\n")
            sock.recv(100)
    return {"attackers": count, **judged(target.log.read_bytes())}


def judged(log: bytes) -> Found:
    """Control characters in a log but for ends of lines, lines that were forged, and its size."""
    text = log.decode("utf-8", "replace")
    controls = sum(unicodedata.category(sign) == "Cc" and sign != "\n" for sign in text)
    return {
        "controls": controls,
        "forged": sum(line.startswith(FORGED) for line in text.split("\n")),
        "log_in_attack": len(log),
    }
