"""The honest client: one request after another on new connections, in a process of its own, so that no attack shares
its interpreter. Started by ``target.py``.

    python benchmarks/reliability_attacks/honest.py '{"kind": "tcp", "port": 9999, "pause": 0.005}'

It says ``ready``. On a ``b`` it starts asking, on an ``e`` it says in one line of JSON what has become of its requests,
at the end of its standard input it ends. ``kind`` is
``tcp``, ``tls``, ``proxy`` (a PROXY header comes first), ``unix`` or ``udp``; ``pause`` is the seconds from one answer
to the next request.
"""

from __future__ import annotations

import json
import os
import select
import socket
import ssl
import sys
import time
from typing import Any

HOST = "127.0.0.1"

#: Seconds after which a request is lost; a datagram is asked for only once.
PATIENCE = 2.0

#: After so many lost one after the other it asks less often, as somebody would.
ENOUGH = 4


def percentile(values: list[float], share: float) -> float | None:
    """The value below which that share of them is: the nearest rank; None where there is none."""
    if not values:
        return None
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


class Asker:
    def __init__(self, setup: dict[str, Any]) -> None:
        self.kind = setup["kind"]
        self.pause: float = setup["pause"]
        self.where: Any = setup.get("path") or (HOST, setup["port"])
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.context.check_hostname = False
        self.context.verify_mode = ssl.CERT_NONE

    def ask(self, number: int) -> None:
        """One request; an OSError if it is lost."""
        text = b"honest %d\n" % number
        if self.kind == "udp":
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.settimeout(PATIENCE)
                sock.connect(self.where)
                sock.send(text)
                self._compare(sock.recv(100), text)
            return
        with socket.socket(socket.AF_UNIX if self.kind == "unix" else socket.AF_INET) as sock:
            sock.settimeout(PATIENCE)
            sock.connect(self.where)
            if self.kind == "tls":
                with self.context.wrap_socket(sock) as wrapped:
                    self._exchange(wrapped, text)
                return
            if self.kind == "proxy":
                sock.sendall(b"PROXY TCP4 192.0.2.1 192.0.2.2 1024 443\r\n")
            self._exchange(sock, text)

    def _exchange(self, sock: Any, text: bytes) -> None:
        sock.sendall(text)
        got = b""
        while not got.endswith(b"\n"):
            piece = sock.recv(100)
            if not piece:
                raise ConnectionError("closed")
            got += piece
        self._compare(got, text)

    def _compare(self, got: bytes, text: bytes) -> None:
        if got != text:
            raise ConnectionError("another answer")


def phase(asker: Asker) -> dict[str, Any]:
    """Ask until there is something to read on standard input, which is not taken."""
    taken: list[float] = []
    lost: dict[str, int] = {}
    number = in_a_row = 0
    while not select.select([0], [], [], asker.pause if in_a_row < ENOUGH else PATIENCE)[0]:
        number += 1
        began = time.perf_counter()
        try:
            asker.ask(number)
        except OSError as error:
            name = type(error).__name__
            lost[name] = lost.get(name, 0) + 1
            in_a_row += 1
        else:
            taken.append(time.perf_counter() - began)
            in_a_row = 0
    return {
        "answered": len(taken),
        "lost": sum(lost.values()),
        "errors": lost,
        "p50_ms": in_ms(percentile(taken, 0.5)),
        "p99_ms": in_ms(percentile(taken, 0.99)),
        "max_ms": in_ms(max(taken, default=None)),
    }


def in_ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 4)


def main() -> None:
    asker = Asker(json.loads(sys.argv[1]))
    print("ready", flush=True)
    # One byte at a time and unbuffered: what waits in a buffer is nothing to read for select().
    while word := os.read(0, 1):
        if word == b"b":
            print(json.dumps(phase(asker)), flush=True)


if __name__ == "__main__":
    main()
