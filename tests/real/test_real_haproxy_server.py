"""A native server behind a real HAProxy: clients are who they are, none is lost, and its checks are nothing to speak
of; and a client of ours in front of one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from real_haproxy import haproxy_program, haproxy_running
from real_support import SECONDS

import jackfield
from jackfield.connecting import async_connect
from jackfield.events import ConnectionEnded, Event
from jackfield.proxyheader import ProxyHeader
from jackfield.serving import ProxyRule

MODES = ["thread", "green", "async"]
REQUESTS = 200
CHECKS = 25
TCP = "tcp://127.0.0.1:0"

#: What the proxy is told of its server, after the address; of its checks; and the version of what clients come with.
#: A check has the header of the traffic unless it is told its steps. (Without a header and steps HAProxy resets the
#: connection before it has answered the server's SYN, and the server never sees it.)
BACKENDS = {
    "v1, checks with it": ("send-proxy check inter 10ms", "", 1),
    "v2, checks are LOCAL": ("send-proxy-v2 check inter 10ms", "", 2),
    "v2, checks without": (
        "send-proxy-v2 check inter 10ms", "option tcp-check\n    tcp-check connect linger", 2,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def program() -> str:
    return haproxy_program()


@contextlib.contextmanager
def haproxy(program: str, folder: Path, server: str, bind: str = "", checks: str = "") -> Iterator[tuple[str, int]]:
    """One that passes what comes at the address that this yields on to ``server``."""
    backend = f"{checks}\n    server ours {server}"
    with (
        socket.create_server(("127.0.0.1", 0), backlog=256) as front,
        haproxy_running(program, folder, front, backend, bind=bind, connections=500),
    ):
        yield front.getsockname()


def told(peer: Any, header: ProxyHeader | None) -> bytes:
    said = None if header is None else (header.version, header.command, header.source, header.destination)
    return f"{peer} {said}\n".encode()


class Who(jackfield.BaseRequestHandler[Any]):
    """Answers once it is asked, so that checks, which ask nothing, may leave when they like."""

    def handle(self) -> None:
        if self.request.recv(100):
            self.request.sendall(told(self.client_address, self.request.proxy))


class AsyncWho(jackfield.AsyncRequestHandler[Any]):
    async def handle(self) -> None:
        if await self.request.recv(100):
            await self.request.sendall(told(self.client_address, self.request.proxy))


class Ends:
    """Counts how connections end, and waits until so many have."""

    def __init__(self, server: jackfield.Server) -> None:
        self.reasons: Counter[str] = Counter()
        self._changed = threading.Condition()
        server.subscribe(self._note, ConnectionEnded)

    def _note(self, event: Event) -> None:
        assert isinstance(event, ConnectionEnded)
        with self._changed:
            self.reasons[event.reason.value] += 1
            self._changed.notify_all()

    def wait_for(self, number: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.reasons.total() >= number, SECONDS), self.reasons


@contextlib.contextmanager
def served(mode: str, rule: ProxyRule | bool = True) -> Iterator[tuple[jackfield.Server, str]]:
    """A server, and its address as HAProxy writes it."""
    handler = AsyncWho if mode == "async" else Who
    with jackfield.Server(handler, TCP, mode=mode, proxy_protocol=rule) as server:
        yield server, "{}:{}".format(*server.server_address)


def answer(client: socket.socket, data: bytes = b"who am I?") -> bytes:
    client.settimeout(SECONDS)
    client.sendall(data)
    got = b""
    while part := client.recv(1000):
        got += part
    return got


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_client_is_itself_beside_checks_that_nobody_notices(
    program: str, tmp_path: Path, mode: str, backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    options, checks, version = BACKENDS[backend]
    with caplog.at_level(logging.INFO), served(mode) as (server, address):
        ends = Ends(server)
        with haproxy(program, tmp_path, f"{address} {options}", checks=checks) as front:

            def ask(number: int) -> None:
                with socket.create_connection(front, SECONDS) as client:
                    me = client.getsockname()
                    assert answer(client) == told(me, ProxyHeader.of(me, front, version=version))

            with ThreadPoolExecutor(8) as pool:
                assert len(list(pool.map(ask, range(REQUESTS)))) == REQUESTS
            ends.wait_for(REQUESTS + CHECKS)
        info = server.info()
    assert info.handler_errors == 0
    assert info.refusals == {}
    # A check is reset by the proxy as soon as it has succeeded.
    assert set(ends.reasons) <= {"peer_closed", "handler_returned", "peer_reset"}
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


@pytest.mark.parametrize("mode", MODES)
def test_where_the_header_is_optional_the_proxy_may_send_one_or_not(program: str, tmp_path: Path, mode: str) -> None:
    with served(mode, ProxyRule(required=False)) as (_, address):
        for options in ("send-proxy-v2", ""):
            with haproxy(program, tmp_path, f"{address} {options}") as front:
                with socket.create_connection(front, SECONDS) as client:
                    said = answer(client)
                    if options:
                        me = client.getsockname()
                        assert said == told(me, ProxyHeader.of(me, front))
                    else:
                        assert said.startswith(b"('127.0.0.1', ") and said.endswith(b") None\n")


def test_a_server_that_does_not_know_of_the_proxy_is_found_out(program: str, tmp_path: Path) -> None:
    """The broken case: the header is the handler's first data, and the client somebody else."""
    with served("thread", False) as (_, address), haproxy(program, tmp_path, f"{address} send-proxy-v2") as front:
        with socket.create_connection(front, SECONDS) as client:
            me = client.getsockname()
            assert answer(client) != told(me, ProxyHeader.of(me, front))


# --- a client of ours in front of it --------------------------------------------------------------------------------


def connect_plainly(front: tuple[str, int], header: Any) -> socket.socket:
    return jackfield.connect(front, SECONDS, proxy_header=header)


def connect_in_green(front: tuple[str, int], header: Any) -> socket.socket:
    sock: socket.socket = jackfield.run(connect_plainly, front, header)
    return sock


def connect_in_coroutine(front: tuple[str, int], header: Any) -> socket.socket:
    return asyncio.run(async_connect(front, SECONDS, proxy_header=header))


@pytest.mark.parametrize("connect", [connect_plainly, connect_in_green, connect_in_coroutine])
@pytest.mark.parametrize("version", [1, 2])
def test_haproxy_takes_the_header_that_a_client_of_ours_sends(
    program: str, tmp_path: Path, version: Any, connect: Callable[..., socket.socket]
) -> None:
    """Of somebody else, and its own; the proxy passes on what it was told."""
    somebody = ProxyHeader.of(("192.0.2.7", 4711), ("198.51.100.1", 443), version=version)
    with served("thread") as (_, address):
        with haproxy(program, tmp_path, f"{address} send-proxy-v2", bind="accept-proxy") as front:
            with connect(front, somebody) as client:
                expected = ProxyHeader.of(somebody.source, somebody.destination)
                assert answer(client) == told(("192.0.2.7", 4711), expected)
            with connect(front, version) as client:
                me = client.getsockname()
                assert answer(client) == told(me, ProxyHeader.of(me, front))
            with connect(front, None) as client, contextlib.suppress(ConnectionError):
                assert answer(client) == b"", "HAProxy would take anything"
