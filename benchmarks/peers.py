"""The same work on other libraries: an echo in upper case on a free port of loopback, by their own plainest means.

Started by ``servers.py``. uvloop and gevent are measured when they are installed; the rest is the standard library.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import socketserver as _socketserver_std
from collections.abc import Callable
from typing import Any

#: How many clients may wait; the same for all, so that no server loses clients in the burst of a load that begins.
BACKLOG = 4096

HOST = "127.0.0.1"


def say(port: int) -> None:
    """Tell whoever started this that clients can connect."""
    print(port, flush=True)


# -- the standard library ----------------------------------------------------------------------------------------------


def of_stdlib(kind: str) -> Callable[[argparse.Namespace], None]:
    def serve(options: argparse.Namespace) -> None:
        class Upper(_socketserver_std.BaseRequestHandler):
            def handle(self) -> None:
                while data := self.request.recv(options.size).strip():
                    self.request.sendall(data.upper())

        class Datagram(_socketserver_std.BaseRequestHandler):
            def handle(self) -> None:
                data, sock = self.request
                sock.sendto(data.strip().upper(), self.client_address)

        room = options.connections
        base: Any = getattr(_socketserver_std, kind)

        class Server(base):  # type: ignore[misc]
            daemon_threads = True
            request_queue_size = BACKLOG
            max_children = room + 40  # the 40 that it would have, and room for the row

        server = Server((HOST, 0), Datagram if options.datagrams else Upper)
        say(server.server_address[1])
        server.serve_forever()

    return serve


# -- asyncio and uvloop ------------------------------------------------------------------------------------------------


def new_loop(library: str) -> Callable[[], asyncio.AbstractEventLoop]:
    if library == "uvloop":
        import uvloop

        return uvloop.new_event_loop
    return asyncio.SelectorEventLoop


def of_protocols(library: str) -> Callable[[argparse.Namespace], None]:
    class Upper(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            self.transport.write(data.strip().upper())

    class Datagram(asyncio.DatagramProtocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, address: Any) -> None:
            self.transport.sendto(data.strip().upper(), address)

    async def run(options: argparse.Namespace) -> None:
        loop = asyncio.get_running_loop()
        if options.datagrams:
            transport, _ = await loop.create_datagram_endpoint(Datagram, local_addr=(HOST, 0))
            say(transport.get_extra_info("sockname")[1])
            await loop.create_future()
        server = await loop.create_server(Upper, HOST, 0, backlog=BACKLOG)
        say(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    def serve(options: argparse.Namespace) -> None:
        with asyncio.Runner(loop_factory=new_loop(library)) as runner:
            runner.run(run(options))

    return serve


def of_streams(library: str) -> Callable[[argparse.Namespace], None]:
    async def run(options: argparse.Namespace) -> None:
        async def upper(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := (await reader.read(options.size)).strip():
                writer.write(data.upper())
                await writer.drain()
            writer.close()

        server = await asyncio.start_server(upper, HOST, 0, backlog=BACKLOG)
        say(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    def serve(options: argparse.Namespace) -> None:
        with asyncio.Runner(loop_factory=new_loop(library)) as runner:
            runner.run(run(options))

    return serve


# -- gevent ------------------------------------------------------------------------------------------------------------


def of_gevent(options: argparse.Namespace) -> None:
    from gevent.server import DatagramServer, StreamServer  # type: ignore[import-untyped]

    def upper(sock: Any, address: Any) -> None:
        while data := sock.recv(options.size).strip():
            sock.sendall(data.upper())

    class Datagrams(DatagramServer):  # type: ignore[misc]
        def handle(self, data: bytes, address: Any) -> None:
            self.socket.sendto(data.strip().upper(), address)

    server = Datagrams((HOST, 0)) if options.datagrams else StreamServer((HOST, 0), upper, backlog=BACKLOG)
    server.start()
    say(server.server_port)
    server.serve_forever()


# -- by name -----------------------------------------------------------------------------------------------------------

TCP: dict[str, Callable[[argparse.Namespace], None]] = {
    "stdlib-threading": of_stdlib("ThreadingTCPServer"),
    "stdlib-forking": of_stdlib("ForkingTCPServer"),
    "asyncio-protocol": of_protocols("asyncio"),
    "asyncio-streams": of_streams("asyncio"),
    "uvloop-protocol": of_protocols("uvloop"),
    "uvloop-streams": of_streams("uvloop"),
    "gevent": of_gevent,
}

UDP: dict[str, Callable[[argparse.Namespace], None]] = {
    "stdlib-serial": of_stdlib("UDPServer"),
    "stdlib-threading": of_stdlib("ThreadingUDPServer"),
    "asyncio-protocol": of_protocols("asyncio"),
    "uvloop-protocol": of_protocols("uvloop"),
    "gevent": of_gevent,
}


def serve(name: str, options: argparse.Namespace) -> None:
    """Serve until the process is ended."""
    (UDP if options.datagrams else TCP)[name](options)


def installed(name: str) -> bool:
    """Whether the library that a peer is of is there."""
    library = name.partition("-")[0]
    return library == "stdlib" or importlib.util.find_spec(library) is not None
