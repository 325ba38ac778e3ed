"""A protocol of lines: a small store of names and values. It runs unchanged in every mode that shares memory.

    python examples/line_protocol.py [ADDRESS]        9996 unless given; 0 takes any free port
    jackfield connect :9996

``jackfield serve --app-dir examples line_protocol:LineProtocol`` is the same. Mode thread, the default for a handler
that blocks; green and serial do as well, but not process, where each client would have a store of its own.

Requests are ``SET name value``, ``GET name``, ``DEL name``, ``LIST`` and ``QUIT``; each answer is one line that begins
with OK or ERROR. Its tests are in examples/test_line_protocol.py.
"""

from __future__ import annotations

import logging
import sys

import jackfield
from jackfield import sync

LONGEST_LINE = 1000


class Store:
    """The names and values. The lock holds between threads, green threads and coroutines alike."""

    def __init__(self) -> None:
        self._values: dict[str, str] = {}
        self._lock = sync.Lock()

    def answer(self, request: str) -> str:
        """The answer to one request."""
        with self._lock:
            match request.split(maxsplit=2):
                case ["SET", name, value]:
                    self._values[name] = value
                    return "OK"
                case ["GET", name] if name in self._values:
                    return f"OK {self._values[name]}"
                case ["DEL", name] if name in self._values:
                    del self._values[name]
                    return "OK"
                case ["GET" | "DEL", name]:
                    return f"ERROR there is no {name}"
                case ["LIST"]:
                    return " ".join(["OK", *sorted(self._values)])
                case ["SET" | "GET" | "DEL" as word, *_]:
                    return f"ERROR {word} takes a name" + (" and a value" if word == "SET" else "")
                case _:
                    return "ERROR write SET, GET, DEL, LIST or QUIT"


class LineProtocol(jackfield.StreamRequestHandler):
    """One client."""

    store = Store()
    timeout = 300  # seconds of silence until it is taken for gone

    def handle(self) -> None:
        while line := self.rfile.readline(LONGEST_LINE + 1):
            if len(line) > LONGEST_LINE:
                self.wfile.write(b"ERROR that line is too long\n")
                return
            try:
                request = line.decode().strip()
            except UnicodeDecodeError:
                self.wfile.write(b"ERROR that is not UTF-8\n")
                continue
            if request == "QUIT":
                self.wfile.write(b"OK\n")
                return
            self.wfile.write(self.store.answer(request).encode() + b"\n")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)  # says where it listens
    jackfield.serve(LineProtocol, sys.argv[1] if len(sys.argv) > 1 else "9996", graceful_timeout=1)
