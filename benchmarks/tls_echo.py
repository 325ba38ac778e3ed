"""What an echoed message costs under TLS, beside asyncio's streams and uvloop's; and what an idle connection weighs.

    python benchmarks/tls_echo.py [--connections 64] [--seconds 3] [--rounds 3] [--idle 500]

Messages of 64 bytes, one on its way on each connection, TLS 1.3. The server has one processor and the load another;
the figure is the server's own processor time for a message, the rounds go over all servers in turn, and the ratios are
those of one round to asyncio's streams in the same round, of which the median counts. Every reply is compared. The
memory is what the server has grown by (PSS) for each connection that had one exchange and waits for the next. Prints a
table; exit status 1 where a server of ours costs more than asyncio's or uvloop's, or a reply was wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import json
import select
import socket as _socket_std
import ssl
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from processes import SOON, Unable, Void, child, cpu_seconds, memory, processors, python, raise_limit

MESSAGE = 64
OURS = ("async", "green", "thread")
PEERS = ("asyncio", "uvloop")

#: The standard library's threads: what a thread costs on one processor whatever it does.
NAMES = (*OURS, *PEERS, "threads of ssl")


# -- the servers -------------------------------------------------------------------------------------------------------


def serve_ours(mode: str, cert: str) -> None:
    import threading

    import jackfield
    from jackfield.reactor import drive
    from jackfield.socket import create_server, socket
    from jackfield.streams import AsyncSocket
    from jackfield.tls import TLS, ServerTLS, astart_server, start_server

    tls = ServerTLS(TLS(cert=cert))

    def echo(raw: socket) -> None:
        with contextlib.suppress(OSError), start_server(raw, tls, time.monotonic() + SOON) as sock:
            while data := sock.recv(1024):
                sock.sendall(data.upper())

    async def aecho(raw: socket) -> None:
        with contextlib.suppress(OSError):
            sock = await astart_server(AsyncSocket(raw), tls, time.monotonic() + SOON)
            try:
                while data := await sock.recv(1024):
                    await sock.sendall(data.upper())
            finally:
                sock.close()

    starts: dict[str, Callable[[socket], object]] = {
        "thread": lambda raw: threading.Thread(target=echo, args=(raw,), daemon=True).start(),
        "green": lambda raw: jackfield.spawn(echo, raw),
        "async": lambda raw: drive(aecho(raw)),
    }

    def accept() -> None:
        with create_server(("127.0.0.1", 0), backlog=1024) as listener:
            print(listener.getsockname()[1], flush=True)
            while True:
                starts[mode](listener.accept()[0])

    if mode == "thread":
        accept()
    else:
        jackfield.run(accept)


def serve_threads(cert: str) -> None:
    import threading

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert)

    def echo(raw: _socket_std.socket) -> None:
        with contextlib.suppress(OSError), context.wrap_socket(raw, server_side=True) as sock:
            while data := sock.recv(1024):
                sock.sendall(data.upper())

    with _socket_std.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            threading.Thread(target=echo, args=(listener.accept()[0],), daemon=True).start()


async def serve_streams(cert: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert)

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1024):
                writer.write(data.upper())
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=context, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def serve(name: str, cert: str) -> None:
    raise_limit()
    if name in OURS:
        serve_ours(name, cert)
    elif name == "threads of ssl":
        serve_threads(cert)
    elif name == "uvloop":
        import uvloop

        uvloop.run(serve_streams(cert))
    else:
        asyncio.run(serve_streams(cert))


# -- the load ----------------------------------------------------------------------------------------------------------


class Link:
    """A client's connection: OpenSSL between two memory BIOs, so that the load costs few system calls."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self.sock = _socket_std.create_connection(("127.0.0.1", port), SOON)
        self.sock.setsockopt(_socket_std.IPPROTO_TCP, _socket_std.TCP_NODELAY, 1)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")
        self.due = b""
        while True:
            try:
                self.tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self.sock.sendall(self.outgoing.read())
                self.incoming.write(self.sock.recv(65536))
        self.sock.sendall(self.outgoing.read())

    def ask(self, number: int) -> None:
        message = f"message {number:x} of the load ".ljust(MESSAGE, "x").encode()
        self.due = message.upper()
        self.tls.write(message)
        self.sock.sendall(self.outgoing.read())

    def heard(self) -> bool:
        """Whether the reply has come; the tickets of TLS 1.3 come as well."""
        data = self.sock.recv(65536)
        if not data:
            raise Void("the server ended a connection")
        self.incoming.write(data)
        try:
            reply = self.tls.read(MESSAGE + 1)
        except ssl.SSLWantReadError:
            return False
        if reply != self.due:
            raise Void(f"a wrong reply: {reply!r}")
        return True


def load(port: int, cert: str, connections: int, seconds: float) -> None:
    """One exchange on each; a line; then, when a line comes back, the load. How many were answered, at the end."""
    raise_limit()
    context = ssl.create_default_context(cafile=cert)
    links = [Link(port, context) for _ in range(connections)]
    for number, link in enumerate(links):
        link.ask(number)
        while not link.heard():
            pass
    print("ready", flush=True)
    sys.stdin.readline()
    poll = select.epoll()
    by_number = {link.sock.fileno(): link for link in links}
    for number in by_number:
        poll.register(number, select.EPOLLIN)
    count = connections
    end = time.monotonic() + seconds
    for link in links if seconds else ():
        link.ask(count)
        count += 1
    answered, waiting = 0, connections if seconds else 0
    while waiting:
        going_on = time.monotonic() < end
        for number, _ in poll.poll(SOON):
            link = by_number[number]
            if link.heard():
                answered += 1
                if going_on:
                    link.ask(count)
                    count += 1
                else:
                    waiting -= 1
    print(answered, flush=True)


# -- measuring ---------------------------------------------------------------------------------------------------------


def measure(name: str, cert: str, connections: int, seconds: float, placed: tuple[int, int]) -> dict[str, float]:
    """Microseconds of processor time for a message; and, with 0 seconds, KiB for an idle connection."""
    with child(*python("tls_echo.py", "--serve", name, cert), processor=placed[0]) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline() or 0)
        if not port:
            raise Void(f"{name} did not start; it says why above")
        if not seconds:
            _load(port, cert, 16, 0, placed[1])  # what a server has only once, it has now
            before = memory(server.pid)
        with child(
            *python("tls_echo.py", "--load", port, cert, connections, seconds), processor=placed[1], stdin=-1
        ) as loader:
            assert loader.stdout is not None and loader.stdin is not None
            if loader.stdout.readline() != "ready\n":
                raise Void(f"{name}: the load failed; it says why above")
            if not seconds:
                return {"kib": (memory(server.pid) - before) / 1024 / connections}
            before_cpu = cpu_seconds(server.pid)
            loader.stdin.write("\n")
            loader.stdin.flush()
            answered = int(loader.stdout.readline() or 0)
            spent = cpu_seconds(server.pid) - before_cpu
            if not answered:
                raise Void(f"{name}: nothing was answered")
            return {"cpu_us": spent * 1e6 / answered, "per_second": answered / seconds}


def _load(port: int, cert: str, connections: int, seconds: float, processor: int) -> None:
    with child(
        *python("tls_echo.py", "--load", port, cert, connections, seconds), processor=processor, stdin=-1
    ) as loader:
        loader.communicate("\n", timeout=SOON)


def run(options: argparse.Namespace) -> int:
    from jackfield.tls import self_signed

    cert = str(self_signed(("localhost",)).cert)
    placed = processors()
    names = [name for name in options.names or NAMES if name != "uvloop" or importlib.util.find_spec("uvloop")]
    found: dict[str, list[float]] = {name: [] for name in names}
    ratios: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(options.rounds):
        for name in names:
            found[name].append(measure(name, cert, options.connections, options.seconds, placed)["cpu_us"])
        for name in names:
            if "asyncio" in names:
                ratios[name].append(found[name][-1] / found["asyncio"][-1])
    idle = {name: measure(name, cert, options.idle, 0, placed)["kib"] for name in names} if options.idle else {}
    print("| server | µs of processor time for a message | to asyncio's streams | KiB for an idle connection |")
    print("|---|---|---|---|")
    for name in names:
        ratio = f"{statistics.median(ratios[name]):.2f}" if ratios[name] else "-"
        kib = f"{idle[name]:.1f}" if idle else "-"
        print(f"| {name} | {statistics.median(found[name]):.2f} | {ratio} | {kib} |")
    if options.json:
        figures = {name: {"cpu_us": found[name], "ratio": ratios[name], "kib": idle.get(name)} for name in names}
        Path(options.json).write_text(json.dumps(figures, indent=1) + "\n")
    bars = [statistics.median(found[name]) for name in PEERS if name in names]
    missed = [name for name in OURS if name in names and any(statistics.median(found[name]) > bar for bar in bars)]
    if missed:
        print(f"missed: {', '.join(missed)}", file=sys.stderr)
    return bool(missed)


def main() -> int:
    parser = argparse.ArgumentParser(description="the cost of TLS: a message, and an idle connection")
    parser.add_argument("names", nargs="*", metavar="SERVER", help=f"of {', '.join(NAMES)}; all by default")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=3.0, help="of load on each server in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--idle", type=int, default=500, help="idle connections for the memory; 0 measures none")
    parser.add_argument("--json", help="write every figure to this file")
    parser.add_argument("--serve", nargs=2, metavar=("NAME", "CERT"), help=argparse.SUPPRESS)
    parser.add_argument("--load", nargs=4, metavar=("PORT", "CERT", "CONNECTIONS", "SECONDS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.names) - set(NAMES):
        parser.error(f"no such server: {', '.join(sorted(unknown))} (there are {', '.join(NAMES)})")
    if options.serve:
        serve(*options.serve)
        return 0
    if options.load:
        port, cert, connections, seconds = options.load
        load(int(port), cert, int(connections), float(seconds))
        return 0
    try:
        return run(options)
    except (Unable, Void) as error:
        print(f"tls_echo: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
