"""A PROXY header that may come or not, and those who leave before they have sent one, in every mode."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from native_support import MODES, SOON, TCP, by, dial, ended, is_over, leave, until

from jackfield import AsyncRequestHandler, BaseRequestHandler, Server
from jackfield.admission import PeerList
from jackfield.connections import _dissolve
from jackfield.limits import Limits
from jackfield.proxyheader import ProxyHeader, encode
from jackfield.serving import ProxyRule
from jackfield.tls import TLS, self_signed

SHORT = 0.1
OPTIONAL = ProxyRule(required=False)
#: One that this machine is no proxy for.
ELSEWHERE = ProxyRule(allow_from=PeerList(["192.0.2.0/24"]), required=False)
REAL = ("192.0.2.7", 4711)


def told(peer: Any, header: ProxyHeader | None) -> bytes:
    whom = peer[0] if peer == REAL else "itself"
    return f"{whom} {header and header.command}\n".encode()


class Who(BaseRequestHandler[Any]):
    """Says whom it takes the client for, and echoes."""

    def handle(self) -> None:
        self.request.sendall(told(self.client_address, self.request.proxy))
        while data := self.request.recv(1000):
            self.request.sendall(data)


class AsyncWho(AsyncRequestHandler[Any]):
    async def handle(self) -> None:
        await self.request.sendall(told(self.client_address, self.request.proxy))
        while data := await self.request.recv(1000):
            await self.request.sendall(data)


@contextlib.contextmanager
def serving(mode: str, rule: ProxyRule | bool = OPTIONAL, where: Any = TCP, **options: Any) -> Iterator[Server]:
    with Server(by(mode, Who, AsyncWho), where, mode=mode, proxy_protocol=rule, **options) as server:
        yield server


@contextlib.contextmanager
def client_of(server: Server) -> Iterator[socket.socket]:
    client = dial(server)
    try:
        if client.family != socket.AF_UNIX:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield client
    finally:
        leave(client)


def heard(client: socket.socket, wanted: bytes) -> bytes:
    """As much as is wanted, or all there is."""
    got = b""
    while len(got) < len(wanted) and (part := client.recv(len(wanted) - len(got))):
        got += part
    return got


def header(version: int) -> bytes:
    return encode(ProxyHeader.of(REAL, ("192.0.2.1", 80), version=version))


LOCAL = encode(ProxyHeader(2, "LOCAL"))

#: What is no header: what has nothing of one, what begins as one does and goes on otherwise, and what looks like one
#: after its first bytes.
PLAIN = [
    b"hello", b"P", b"PROX", b"PROPFIND / HTTP/1.1", b"\r\n", b"\r\n\r\nhello", b"\r\n\r\n\0\r\nQUIT", b"xPROXY TCP4 ",
]  # fmt: skip


# --- optional -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("version", [1, 2])
def test_who_sends_a_header_is_who_it_says(mode: str, version: int) -> None:
    with serving(mode) as server, client_of(server) as client:
        client.sendall(header(version) + b"hello")
        wanted = b"192.0.2.7 PROXY\nhello"
        assert heard(client, wanted) == wanted


@pytest.mark.parametrize("mode", MODES)
def test_who_sends_none_is_itself_and_nothing_is_lost(mode: str) -> None:
    """Also where all that comes may be the beginning of a header, and then the end."""
    with serving(mode) as server:
        for data in PLAIN:
            with client_of(server) as client:
                client.sendall(data)
                client.shutdown(socket.SHUT_WR)
                wanted = b"itself None\n" + data
                assert heard(client, wanted + b".") == wanted
        assert ended(server) == {"peer_closed": len(PLAIN)}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("where", ["tcp", "unix"])
def test_what_comes_byte_by_byte_is_the_same(mode: str, where: str, tmp_path: Path) -> None:
    with serving(mode, where=TCP if where == "tcp" else f"unix:{tmp_path / 's'}") as server:
        for data in (header(1), header(2), b"PROPFIND", b"\r\n\r\n\0\r\nQUITE"):
            with client_of(server) as client:
                for byte in data[:14]:
                    client.sendall(bytes([byte]))
                client.sendall(data[14:] + b"hello")
                is_header = data in (header(1), header(2))
                wanted = b"192.0.2.7 PROXY\nhello" if is_header else b"itself None\n" + data + b"hello"
                assert heard(client, wanted) == wanted


@pytest.mark.parametrize("mode", MODES)
def test_what_begins_as_a_header_has_to_be_one(mode: str) -> None:
    with serving(mode) as server, client_of(server) as client:
        with contextlib.suppress(ConnectionError):
            client.sendall(b"PROXY me, please")
        assert is_over(client)
        assert ended(server) == {"proxy_error": 1}


def test_a_version_that_is_not_taken_is_no_plain_client() -> None:
    """A proxy that is set to the other version is found out, and its header does not become data."""
    rule = ProxyRule(versions=frozenset({2}), required=False)
    with serving("thread", rule) as server, client_of(server) as client:
        with contextlib.suppress(ConnectionError):
            client.sendall(header(1))
        assert is_over(client)
        assert ended(server) == {"proxy_error": 1}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("version", [1, 2])
def test_from_elsewhere_a_header_is_data(mode: str, version: int) -> None:
    """The broken case of all this: whoever can connect would be whoever it likes to be."""
    with serving(mode, ELSEWHERE) as server, client_of(server) as client:
        client.sendall(header(version))
        wanted = b"itself None\n" + header(version)
        assert heard(client, wanted) == wanted


@pytest.mark.parametrize("mode", MODES)
def test_from_elsewhere_nobody_has_to_speak_first(mode: str) -> None:
    with serving(mode, ELSEWHERE) as server, client_of(server) as client:
        wanted = b"itself None\n"
        assert heard(client, wanted) == wanted


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("data", [b"", b"P"])
def test_who_is_silent_where_a_header_may_come_has_the_time_for_a_header(mode: str, data: bytes) -> None:
    """Also where no other deadline is on, by which it would be looked at."""
    limits = Limits.none(handshake_timeout=SHORT)
    with serving(mode, limits=limits) as server, client_of(server) as client:
        client.sendall(data)
        assert is_over(client)
        assert ended(server) == {"handshake_timeout": 1}
        assert server.info().handler_errors == 0


@pytest.mark.parametrize("mode", MODES)
def test_a_stop_does_not_wait_for_the_rest_of_a_beginning(mode: str) -> None:
    with serving(mode, limits=Limits(handshake_timeout=SOON)) as server, client_of(server) as client:
        client.sendall(b"PROX")
        until(lambda: server.connections)
        server.stop(0)
        assert is_over(client)
        assert server.wait_stopped(SOON)
        # In mode process the child is ended by a signal, and cannot say more.
        assert mode == "process" or server.info().ends == {"drained": 1}


@pytest.fixture(scope="module")
def certificate() -> TLS:
    return self_signed()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("proxied", [False, True])
def test_tls_begins_where_the_header_ends_or_at_once(mode: str, proxied: bool, certificate: TLS) -> None:
    import ssl

    context = ssl.create_default_context(cafile=str(certificate.cert))
    with serving(mode, tls=certificate) as server, client_of(server) as plain:
        plain.sendall(header(2) if proxied else b"")
        with context.wrap_socket(plain, server_hostname="localhost") as client:
            client.sendall(b"hello")
            wanted = b"192.0.2.7 PROXY\nhello" if proxied else b"itself None\nhello"
            assert heard(client, wanted) == wanted
            leave(client)


# --- checks of a proxy ----------------------------------------------------------------------------------------------


def reset(client: socket.socket) -> None:
    """Also where a forked child holds a copy of it, so that closing would send nothing."""
    assert _dissolve(client)
    client.close()


#: How a proxy looks whether a server is there: what it sends, how it leaves, and how that may be told. A reset may
#: come before anybody has looked, or when all is said and done.
CHECKS: dict[str, tuple[bytes, Any, set[str]]] = {
    "connects and closes": (b"", leave, {"peer_closed"}),
    "connects and resets": (b"", reset, {"peer_reset"}),
    "LOCAL and closes": (LOCAL, leave, {"peer_closed", "peer_reset"}),
    "LOCAL and resets": (LOCAL, reset, {"peer_closed", "peer_reset"}),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("rule", [True, OPTIONAL], ids=["required", "optional"])
def test_a_check_is_no_error_and_no_offence(
    mode: str, check: str, rule: ProxyRule | bool, caplog: pytest.LogCaptureFixture
) -> None:
    sent, go, reasons = CHECKS[check]
    limits = Limits(exempt=PeerList())  # so that an offence would count
    with caplog.at_level(logging.INFO), serving(mode, rule, limits=limits) as server:
        for number in range(1, 6):
            client = dial(server)
            client.sendall(sent)
            go(client)
            until(lambda number=number: sum(server.info().ends.values()) == number)
        info = server.info()
        assert set(info.ends) <= reasons | ({"peer_closed", "handler_returned"} if rule is OPTIONAL else set())
        assert info.handler_errors == 0 and not info.refusals
        assert not server._service.guard.admission.bans()
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


def test_who_sends_rubbish_as_often_is_kept_out() -> None:
    """The broken case: these are offences."""
    with serving("thread", True, limits=Limits(exempt=PeerList())) as server:
        for _ in range(5):
            with client_of(server) as client, contextlib.suppress(ConnectionError):
                client.sendall(b"rubbish")
                is_over(client)
            until(lambda: not server.connections)
        assert server.info().ends["proxy_error"] >= 3
        until(lambda: server.info().refusals)
        assert server.info().refusals.keys() == {"banned"}


@pytest.mark.parametrize("mode", MODES)
def test_half_a_header_is_an_error(mode: str) -> None:
    with serving(mode, True) as server, client_of(server) as client:
        client.sendall(header(1)[:10])
        client.shutdown(socket.SHUT_WR)
        assert is_over(client)
        assert ended(server) == {"proxy_error": 1}
