"""The servers under attack, each in a process of its own; started by ``target.py``.

    python benchmarks/reliability_attacks/servers.py green '{"limits": {"message_timeout": 2}}'

says its port as soon as clients can connect, and serves until it is ended. The setup is JSON: ``datagrams``, ``path``
(of a Unix socket), ``port``, ``certificate`` (PEM, with its key), ``proxy``, and for servers of ours ``limits`` and
``options`` of ``jackfield.Server``. Every server has its own defaults in all else.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import socketserver as _socketserver_std
import ssl
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))
from reliability_attacks.conversation import answers, opened, release

HOST = "127.0.0.1"
Setup = dict[str, Any]


def say(what: object) -> None:
    print(what, flush=True)


def stream_handler(base: Any, sleep: Callable[[float], object] = time.sleep) -> Any:
    """A handler of lines in the blocking style: the same source for every library that has ``StreamRequestHandler``."""

    class Lines(base):  # type: ignore[misc]
        def handle(self) -> None:
            kept: list[int] = []
            try:
                while line := self.rfile.readline():
                    if reply := opened(line, kept):
                        self.wfile.write(reply)
                        continue
                    for what in answers(line, self.server):
                        sleep(what) if isinstance(what, float) else self.wfile.write(what)
            finally:
                release(kept)

    return Lines


def datagram_handler(base: Any, sleep: Callable[[float], object] = time.sleep) -> Any:
    class Datagram(base):  # type: ignore[misc]
        def handle(self) -> None:
            data, sock = self.request
            for what in answers(data, self.server):
                sleep(what) if isinstance(what, float) else sock.sendto(what, self.client_address)

    return Datagram


# -- ours --------------------------------------------------------------------------------------------------------------


def native(mode: str, setup: Setup) -> None:
    """A native server in its defaults, but for what the row sets."""
    import jackfield
    from jackfield.admission import PeerList
    from jackfield.door import open_listeners
    from jackfield.limits import Limits
    from jackfield.tls import TLS

    class AsyncLines(jackfield.AsyncStreamRequestHandler[Any]):
        async def handle(self) -> None:
            kept: list[int] = []
            try:
                while line := await self.rfile.readline():
                    if reply := opened(line, kept):
                        await self.wfile.write(reply)
                        continue
                    for what in answers(line, self.server):
                        await (asyncio.sleep(what) if isinstance(what, float) else self.wfile.write(what))
            finally:
                release(kept)

    class AsyncDatagram(jackfield.AsyncRequestHandler[Any]):
        async def handle(self) -> None:
            data, sock = self.request
            for what in answers(data, self.server):
                if isinstance(what, float):
                    await asyncio.sleep(what)
                else:
                    await sock.sendto(what, self.client_address)

    limits = dict(setup.get("limits", {}))
    if "exempt" in limits:
        limits["exempt"] = PeerList(limits["exempt"])
    options = dict(setup.get("options", {}))
    if setup.get("certificate"):
        options["tls"] = TLS(cert=setup["certificate"])
    if setup.get("proxy"):
        options["proxy_protocol"] = True
    handler: Any
    if setup.get("datagrams"):
        blocking = datagram_handler(jackfield.BaseRequestHandler, jackfield.sleep)
        handler = AsyncDatagram if mode == "async" else blocking
    else:
        handler = AsyncLines if mode == "async" else stream_handler(jackfield.StreamRequestHandler, jackfield.sleep)
    scheme = "udp" if setup.get("datagrams") else "tcp"
    address = f"unix:{setup['path']}" if setup.get("path") else f"{scheme}://{HOST}:{setup.get('port', 0)}"
    listeners = open_listeners(address, backlog=65535)
    say(setup.get("path") or listeners[0].socket.getsockname()[1])
    jackfield.serve(handler, *listeners, mode=mode, limits=Limits(**limits), **options)


# -- the module of the standard library, and ours of that name ---------------------------------------------------------


def of_module(module: Any, kind: str, setup: Setup) -> None:
    """``ThreadingTCPServer`` and the like, of ``socketserver`` or of ``jackfield.socketserver``: the same program."""
    datagrams, path = setup.get("datagrams"), setup.get("path")
    name = "UnixStreamServer" if path else "UDPServer" if datagrams else "TCPServer"
    base: Any = getattr(module, kind + name)

    class Server(base):  # type: ignore[misc]
        allow_reuse_address = True
        daemon_threads = True

        def server_bind(self) -> None:
            super().server_bind()
            if setup.get("certificate"):
                # The recipe that everybody copies: the handshake is then within accept().
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(setup["certificate"])
                self.socket = context.wrap_socket(self.socket, server_side=True)

    if datagrams:
        handler = datagram_handler(module.BaseRequestHandler)
    else:
        handler = stream_handler(module.StreamRequestHandler)
    server = Server(path or (HOST, setup.get("port", 0)), handler)
    # shutdown() waits for the thread that serves, which is this one.
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    say(path or server.server_address[1])
    with server:
        server.serve_forever()


def drop_in(kind: str, setup: Setup) -> None:
    from jackfield import socketserver

    of_module(socketserver, kind, setup)


# -- others ------------------------------------------------------------------------------------------------------------


def asyncio_streams(setup: Setup) -> None:
    class Datagram(asyncio.DatagramProtocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport
            self.tasks: set[Any] = set()

        def datagram_received(self, data: bytes, address: Any) -> None:
            if data.startswith(b"SLEEP"):
                task = asyncio.ensure_future(self.answer(data, address))
                self.tasks.add(task)
                task.add_done_callback(self.tasks.discard)
            else:
                self.transport.sendto(data, address)

        async def answer(self, data: bytes, address: Any) -> None:
            for what in answers(data):
                if isinstance(what, float):
                    await asyncio.sleep(what)
                else:
                    self.transport.sendto(what, address)

    async def lines(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        kept: list[int] = []
        try:
            while line := await reader.readline():
                if reply := opened(line, kept):
                    writer.write(reply)
                else:
                    for what in answers(line):
                        if isinstance(what, float):
                            await asyncio.sleep(what)
                        else:
                            writer.write(what)
                            await writer.drain()
        finally:
            release(kept)
            writer.close()

    async def run() -> None:
        loop = asyncio.get_running_loop()
        if setup.get("datagrams"):
            transport, _ = await loop.create_datagram_endpoint(Datagram, local_addr=(HOST, setup.get("port", 0)))
            say(transport.get_extra_info("sockname")[1])
            await loop.create_future()
        context = None
        if setup.get("certificate"):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(setup["certificate"])
        if setup.get("path"):
            server = await asyncio.start_unix_server(lines, setup["path"])
            say(setup["path"])
        else:
            server = await asyncio.start_server(lines, HOST, setup.get("port", 0), ssl=context)
            say(server.sockets[0].getsockname()[1])
        loop.add_signal_handler(signal.SIGTERM, lambda: server.close())
        try:
            await server.serve_forever()
        except asyncio.CancelledError:
            pass

    asyncio.run(run())


def gevent_server(setup: Setup) -> None:
    import gevent.monkey  # type: ignore[import-untyped]

    gevent.monkey.patch_all()
    from gevent.server import DatagramServer, StreamServer  # type: ignore[import-untyped]

    class Datagrams(DatagramServer):  # type: ignore[misc]
        def handle(self, data: bytes, address: Any) -> None:
            for what in answers(data):
                time.sleep(what) if isinstance(what, float) else self.socket.sendto(what, address)

    lines = stream_handler(_socketserver_std.StreamRequestHandler)
    where = (HOST, setup.get("port", 0))
    if setup.get("datagrams"):
        server = Datagrams(where)
    elif setup.get("certificate"):
        server = StreamServer(where, lambda sock, peer: lines(sock, peer, None), certfile=setup["certificate"])
    else:
        server = StreamServer(where, lambda sock, peer: lines(sock, peer, None))
    server.start()
    say(server.server_port)
    server.serve_forever()


SERVERS: dict[str, Callable[[Setup], None]] = {
    **{mode: partial(native, mode) for mode in ("thread", "green", "async", "process")},
    "dropin-threading": partial(drop_in, "Threading"),
    "dropin-forking": partial(drop_in, "Forking"),
    "stdlib-threading": partial(of_module, _socketserver_std, "Threading"),
    "stdlib-forking": partial(of_module, _socketserver_std, "Forking"),
    "asyncio-streams": asyncio_streams,
    "gevent": gevent_server,
}


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started it ends it
    logging.basicConfig(level=logging.WARNING)  # as the command does: to standard error, which is measured
    SERVERS[sys.argv[1]](json.loads(sys.argv[2]))


if __name__ == "__main__":
    main()
