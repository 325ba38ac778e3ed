"""The servers under test, each in a process of its own: an echo in upper case on a free port of loopback.

    python benchmarks/servers.py green              says its port, serves until it is ended
    python benchmarks/servers.py async --datagrams

The work is the echo of the tutorials: receive, strip, upper-case, send. ``--size`` is how much is read at once, and
``--as-is`` sends back what came, untouched, for rows that are about moving bytes. What ``peers.py`` has is started by
the same names. A server has the defaults of its mode, and only where they bound connections they are raised to what
the row needs.
"""

from __future__ import annotations

import argparse
import signal
from collections.abc import Callable
from typing import Any

from processes import raise_limit

#: Modes of jackfield; a name that ends in ``-pure`` is the same without the native part.
MODES = ("async", "green", "thread", "serial")

#: Room beside the connections that a row asks for: its first exchange, and those of an earlier load still ending.
SPARE = 32


def ours(mode: str, options: argparse.Namespace) -> None:
    """A native server of jackfield in its defaults."""
    import jackfield

    size = options.size

    class Upper(jackfield.BaseRequestHandler[Any]):
        def handle(self) -> None:
            while data := self.request.recv(size).strip():
                self.request.sendall(data.upper())

    class AsyncUpper(jackfield.AsyncRequestHandler[Any]):
        async def handle(self) -> None:
            while data := (await self.request.recv(size)).strip():
                await self.request.sendall(data.upper())

    class Same(jackfield.BaseRequestHandler[Any]):
        def handle(self) -> None:
            while data := self.request.recv(size):
                self.request.sendall(data)

    class AsyncSame(jackfield.AsyncRequestHandler[Any]):
        async def handle(self) -> None:
            while data := await self.request.recv(size):
                await self.request.sendall(data)

    class Datagram(jackfield.BaseRequestHandler[Any]):
        def handle(self) -> None:
            data, sock = self.request
            sock.sendto(data.strip().upper(), self.client_address)

    class AsyncDatagram(jackfield.AsyncRequestHandler[Any]):
        async def handle(self) -> None:
            data, sock = self.request
            await sock.sendto(data.strip().upper(), self.client_address)

    handlers: dict[str, tuple[Any, Any]] = {
        "upper": (Upper, AsyncUpper),
        "same": (Same, AsyncSame),
        "datagrams": (Datagram, AsyncDatagram),
    }
    work = "datagrams" if options.datagrams else "same" if options.as_is else "upper"
    serve(handlers[work][mode == "async"], mode, options)


def serve(handler: Any, mode: str, options: argparse.Namespace) -> None:
    """Serve a handler; says the port as soon as clients can connect."""
    import jackfield
    from jackfield.limits import Limits

    address = f"{'udp' if options.datagrams else 'tcp'}://127.0.0.1:0"
    bounds: dict[str, Any] = {}
    if not options.datagrams:
        most = options.connections + SPARE
        bounds = {"max_connections": max(most, 10_000), "max_threads": max(most, 256)}
    if options.limits == "none":
        bounds["limits"] = Limits.none()
    server = jackfield.Server(handler, address, mode=mode, **bounds).bind()
    limit = server.info().limit
    if not options.datagrams and mode != "serial" and limit < options.connections:
        raise SystemExit(f"mode {mode} takes {limit} connections at once, and {options.connections} are needed")
    print(server.server_address[1], flush=True)
    server.serve_forever()


# -- broken ones -------------------------------------------------------------------------------------------------------

#: The message that is the first to be answered wrongly.
FAULT = 5


def wrong(data: bytes) -> bytes:
    """Another reply than is due."""
    return data.upper()[:-1] + b"?"


def silent(data: bytes) -> bytes:
    """None at all."""
    return b""


def twice(data: bytes) -> bytes:
    """One that nobody has asked for."""
    return data.upper() * 2


BROKEN: dict[str, Callable[[bytes], bytes]] = {"wrong": wrong, "silent": silent, "twice": twice}


def broken(fault: str, options: argparse.Namespace) -> None:
    """A server that answers like any other until the fifth message: shows that what is wrong is found."""
    import jackfield

    seen = [0]

    def answer(data: bytes) -> bytes:
        seen[0] += 1
        return data.upper() if seen[0] < FAULT else BROKEN[fault](data)

    class Broken(jackfield.BaseRequestHandler[Any]):
        def handle(self) -> None:
            if options.datagrams:
                data, sock = self.request
                if reply := answer(data):
                    sock.sendto(reply, self.client_address)
                return
            while data := self.request.recv(options.size):
                self.request.sendall(answer(data))

    serve(Broken, "green", options)


def main() -> None:
    assert __doc__ is not None
    import peers

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=[*MODES, *(f"{mode}-pure" for mode in MODES), *peers.TCP, *peers.UDP])
    parser.add_argument("--datagrams", action="store_true", help="UDP instead of TCP")
    parser.add_argument("--size", type=int, default=1024, help="bytes of one read")
    parser.add_argument("--as-is", action="store_true", help="send back what came instead of upper case")
    parser.add_argument("--connections", type=int, default=1000, help="room for so many at once")
    parser.add_argument("--limits", choices=("default", "none"), default="default", help="of a server of ours")
    parser.add_argument("--broken", choices=BROKEN)
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started it ends it
    raise_limit()
    name = options.name.removesuffix("-pure")
    if options.broken:
        broken(options.broken, options)
    elif name in MODES:
        ours(name, options)
    else:
        peers.serve(name, options)


if __name__ == "__main__":
    main()
