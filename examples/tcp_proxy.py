"""A TCP proxy: two green threads for each connection, one for each direction.

    python examples/tcp_proxy.py TARGET [ADDRESS]     ADDRESS is 9998 unless given; 0 takes any free port
    jackfield connect :9998

Either side may end its half (``shutdown(SHUT_WR)``) while the other goes on: the end is passed on like any byte.

``PROXY_TARGET=localhost:9999 jackfield serve --app-dir examples tcp_proxy:Proxy -k green`` is the same. Mode green, as
each direction is a loop that waits. With PROXY_HEADER=1 or 2 the target is told who the client is, by a PROXY header of
that version in front of each connection; it has to expect one (HAProxy's ``accept-proxy``, nginx' ``proxy_protocol``,
Jackfield's ``--proxy-protocol``).
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from typing import Any, ClassVar

import jackfield
from jackfield import socket
from jackfield.proxyheader import ProxyHeader

CHUNK = 65536
CONNECT_SECONDS = 5.0


def pump(source: socket.socket, target: socket.socket) -> None:
    """Copy until ``source`` ends its side, then end ours towards ``target``; the other direction goes on."""
    try:
        while data := source.recv(CHUNK):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        # One of the two is gone altogether. The other pump waits on one of them: it has to learn of it.
        for sock in (source, target):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


class Proxy(jackfield.BaseRequestHandler):
    """One client, and its connection to the target."""

    target: ClassVar[str] = os.environ.get("PROXY_TARGET", "localhost:9999")
    version: ClassVar[str] = os.environ.get("PROXY_HEADER", "")

    def handle(self) -> None:
        header: Any = None
        if self.version:
            header = ProxyHeader.of(self.request.getpeername(), self.request.getsockname(), version=int(self.version))
        try:
            upstream = jackfield.connect(self.target, timeout=CONNECT_SECONDS, proxy_header=header)
        except OSError as error:
            print(f"cannot reach {self.target}: {error}", file=sys.stderr, flush=True)
            return
        with upstream:
            back = jackfield.spawn(pump, upstream, self.request)
            pump(self.request, upstream)
            back.join()


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("write: tcp_proxy.py TARGET [ADDRESS], e.g. tcp_proxy.py localhost:9999 9998")
    if Proxy.version not in ("", "1", "2"):
        sys.exit(f"PROXY_HEADER is 1 or 2, not {Proxy.version!r}")
    Proxy.target = sys.argv[1]
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)  # says where it listens
    jackfield.serve(Proxy, sys.argv[2] if len(sys.argv) > 2 else "9998", mode="green", graceful_timeout=1)
