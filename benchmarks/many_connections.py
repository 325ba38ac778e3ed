"""Thousands of connections at once on one server, each with a number of exchanges, every reply checked.

    python benchmarks/many_connections.py                       5,000 connections, 20 exchanges each, green then async
    python benchmarks/many_connections.py --connections 200 --modes green

The server runs in a process of its own, and so does the client, which is written on the bare epoll(7) and knows nothing
of this library. All connections are open before the first byte is sent and until the last reply has come; the kernel's
own list of the server's descriptors says so. Prints one line of JSON; exit status 1 if any connection or reply was lost
or wrong, 2 if the limit of descriptors is too low for that many.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import select
import signal
import socket as _socket_std
import sys
import time
from typing import Any

from processes import SOON, child, descriptors, memory, python, raise_limit

import jackfield

MODES = ("green", "async")

#: Bytes of one message and of its reply: more than one segment's header, far less than any buffer.
SIZE = 64
TEXT = b"all work and no play makes jack a dull boy; all play and no work"

#: Descriptors that a process needs beside its connections.
SPARE = 100


# -- the server --------------------------------------------------------------------------------------------------------


class Upper(jackfield.BaseRequestHandler[Any]):
    def handle(self) -> None:
        while data := self.request.recv(4096):
            self.request.sendall(data.upper())


class AsyncUpper(jackfield.AsyncRequestHandler[Any]):
    async def handle(self) -> None:
        while data := await self.request.recv(4096):
            await self.request.sendall(data.upper())


class Wrong(jackfield.BaseRequestHandler[Any]):
    """Once answers what another has asked: a server that mixes up its connections."""

    count = 0

    def handle(self) -> None:
        while data := self.request.recv(4096):
            Wrong.count += 1
            self.request.sendall(message(0, 0).upper() if Wrong.count == 500 else data.upper())


class Lost(jackfield.BaseRequestHandler[Any]):
    """Ends one connection early."""

    count = 0

    def handle(self) -> None:
        while data := self.request.recv(4096):
            Lost.count += 1
            if Lost.count == 500:
                return
            self.request.sendall(data.upper())


class Silent(jackfield.BaseRequestHandler[Any]):
    """Once does not answer."""

    count = 0

    def handle(self) -> None:
        while data := self.request.recv(4096):
            Silent.count += 1
            if Silent.count != 500:
                self.request.sendall(data.upper())


BROKEN = {"wrong": Wrong, "lost": Lost, "silent": Silent}


def serve(mode: str, broken: str | None) -> None:
    """Serve until SIGTERM; the port on standard output."""
    raise_limit()
    handler: Any = BROKEN[broken] if broken else AsyncUpper if mode == "async" else Upper
    server = jackfield.Server(handler, "tcp://127.0.0.1:0", mode=mode, graceful_timeout=1.0).bind()
    signal.signal(signal.SIGTERM, lambda *_: server.stop())
    print(server.server_address[1], flush=True)
    server.serve_forever()


# -- the client --------------------------------------------------------------------------------------------------------


def message(connection: int, exchange: int) -> bytes:
    """A message that no other connection and no other exchange has."""
    return (f"{connection:06d} {exchange:06d} ".encode() + TEXT)[: SIZE - 1] + b"\n"


def talk(port: int, server: int, connections: int, exchanges: int, seconds: float) -> dict[str, Any]:
    """Open all, exchange on all, close all; what came of it. ``server`` is the server's pid, for its memory."""
    # One that is served and gone again, so that nothing which a server has only once is counted.
    with _socket_std.create_connection(("127.0.0.1", port), seconds) as first:
        first.sendall(message(0, 0))
        first.recv(SIZE)
    held_before = settled_down(server)
    before = memory(server)
    started = time.monotonic()
    sockets: list[_socket_std.socket] = []
    for _ in range(connections):
        sockets.append(_socket_std.create_connection(("127.0.0.1", port), seconds))
    open_at_once = settled(lambda: descriptors(server) - held_before, connections)
    connected = time.monotonic()

    replies, wrong = exchange_all(sockets, exchanges, connected + seconds)

    finished = time.monotonic()
    grown = memory(server) - before
    open_at_once = min(open_at_once, descriptors(server) - held_before)
    for sock in sockets:
        sock.close()
    return {
        "open_at_once": open_at_once,
        "replies": replies,
        "wrong": wrong,
        "lost": connections * exchanges - replies - wrong,
        "left_open": settled(lambda: descriptors(server) - held_before, 0),
        "connect_seconds": round(connected - started, 3),
        "exchange_seconds": round(finished - connected, 3),
        "exchanges_per_second": round(replies / (finished - connected)),
        "server_kib_per_connection": round(grown / 1024 / connections, 2),
    }


def exchange_all(sockets: list[_socket_std.socket], exchanges: int, deadline: float) -> tuple[int, int]:
    """``exchanges`` messages on each socket, each sent when the reply to the one before is there; replies that were
    right, and such that were wrong. What has not come by ``deadline`` (monotonic seconds) is neither."""
    epoll = select.epoll()
    by_fd: dict[int, tuple[int, _socket_std.socket]] = {}
    done = [0] * len(sockets)
    expected: list[bytes] = []
    received = [b""] * len(sockets)
    replies = wrong = 0
    with contextlib.closing(epoll):
        for index, sock in enumerate(sockets):
            sock.setblocking(False)
            sock.setsockopt(_socket_std.IPPROTO_TCP, _socket_std.TCP_NODELAY, 1)
            by_fd[sock.fileno()] = index, sock
            epoll.register(sock, select.EPOLLIN)
        for index, sock in enumerate(sockets):
            expected.append(message(index, 0).upper())
            sock.send(message(index, 0))  # a buffer that is empty takes it whole
        live = len(sockets)
        while live and (left := deadline - time.monotonic()) > 0:
            for fd, _ in epoll.poll(left, 1024):
                index, sock = by_fd[fd]
                try:
                    data = sock.recv(4096)
                except ConnectionError:
                    data = b""
                received[index] += data
                if data and len(received[index]) < SIZE:
                    continue
                if data and received[index] == expected[index]:
                    replies += 1
                    done[index] += 1
                    if done[index] < exchanges:
                        following = message(index, done[index])
                        received[index], expected[index] = b"", following.upper()
                        with contextlib.suppress(ConnectionError):  # that it is gone is read next
                            sock.send(following)
                        continue
                elif data:
                    wrong += 1
                epoll.unregister(fd)
                live -= 1
    return replies, wrong


# -- what settles ------------------------------------------------------------------------------------------------------


def settled_down(pid: int) -> int:
    """The descriptors of a process, when their number has been the same for a while."""
    found, since = descriptors(pid), time.monotonic()
    while time.monotonic() < since + 0.2:
        time.sleep(0.01)
        if (now := descriptors(pid)) != found:
            found, since = now, time.monotonic()
    return found


def settled(count: Any, wanted: int) -> int:
    """``count()`` when it has become ``wanted``, or what it is when that does not happen soon."""
    deadline = time.monotonic() + SOON
    while (found := int(count())) != wanted and time.monotonic() < deadline:
        time.sleep(0.01)
    return found


# -- the run -----------------------------------------------------------------------------------------------------------


def measure(mode: str, options: argparse.Namespace) -> dict[str, Any]:
    """One server, one client: what came of it."""
    with child(*python("many_connections.py", "serve", mode, options.broken or "")) as server:
        assert server.stdout is not None
        line = server.stdout.readline()
        if not line:
            raise SystemExit(f"the {mode} server did not start; it says why above")
        arguments = (int(line), server.pid, options.connections, options.exchanges, options.seconds)
        with child(*python("many_connections.py", "talk", *arguments)) as client:
            output, _ = client.communicate(timeout=2 * options.seconds + 2 * SOON)
            if client.returncode:
                raise SystemExit("the client failed; it says why above")
    found: dict[str, Any] = {"mode": mode, **json.loads(output), "exit_status": server.returncode}
    total = options.connections * options.exchanges
    found["ok"] = (
        found["replies"] == total
        and not found["wrong"] + found["left_open"] + found["exit_status"]
        and found["open_at_once"] == options.connections
    )
    return found


def main() -> int:
    if sys.argv[1:2] == ["serve"]:
        serve(sys.argv[2], sys.argv[3])
        return 0
    if sys.argv[1:2] == ["talk"]:
        raise_limit()
        port, server, connections, exchanges = map(int, sys.argv[2:6])
        print(json.dumps(talk(port, server, connections, exchanges, float(sys.argv[6]))))
        return 0
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--connections", type=int, default=5000)
    parser.add_argument("--exchanges", type=int, default=20)
    parser.add_argument("--modes", default=",".join(MODES), help="separated by commas: green, async")
    parser.add_argument("--seconds", type=float, default=120.0, help="for the exchanges of one mode, at most")
    parser.add_argument("--broken", choices=BROKEN, help="a server that does it wrong: shows that it is found")
    options = parser.parse_args()
    limit = raise_limit()
    if limit < options.connections + SPARE:
        print(
            f"{options.connections} connections need {options.connections + SPARE} descriptors in each process, and "
            f"the hard limit is {limit}: raise it (ulimit -Hn, as root) or ask for fewer --connections",
            file=sys.stderr,
        )
        return 2
    servers = [measure(mode, options) for mode in options.modes.split(",")]
    ok = all(server["ok"] for server in servers)
    print(
        json.dumps(
            {
                "benchmark": "many_connections",
                "python": platform.python_version(),
                "connections": options.connections,
                "exchanges": options.exchanges,
                "servers": servers,
                "ok": ok,
            }
        )
    )
    return 0 if ok else 1


if __name__ == "__main__":
    raise SystemExit(main())
