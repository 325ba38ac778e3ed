"""What comes before the handler: the PROXY header and the TLS handshake, in every mode, and those who stall there."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import pytest
from native_support import MODES, SOON, TCP, by, client_of, echo, ended, is_over, leave, read_line, until

from jackfield import AsyncRequestHandler, BaseRequestHandler, Server
from jackfield.admission import PeerList
from jackfield.limits import Limits
from jackfield.proxyheader import ProxyHeader, encode
from jackfield.serving import ProxyRule
from jackfield.serving.entry import Entry
from jackfield.tls import TLS, self_signed

SHORT = 0.4


@pytest.fixture(scope="module")
def certificate() -> TLS:
    return self_signed()


class Who(BaseRequestHandler[Any]):
    """Says who it takes the peer for, and echoes."""

    def handle(self) -> None:
        header = self.request.proxy
        tls = getattr(self.request, "version", lambda: None)()
        self.request.sendall(f"{self.client_address[0]} {header and header.unique_id} {tls}\n".encode())
        while data := self.request.recv(1000):
            self.request.sendall(data.upper())


class AsyncWho(AsyncRequestHandler[Any]):
    async def handle(self) -> None:
        header = self.request.proxy
        tls = getattr(self.request.socket, "version", lambda: None)()
        await self.request.sendall(f"{self.client_address[0]} {header and header.unique_id} {tls}\n".encode())
        while data := await self.request.recv(1000):
            await self.request.sendall(data.upper())


def who(mode: str) -> Any:
    return by(mode, Who, AsyncWho)


def line(client: Any) -> str:
    return read_line(client).decode().strip()


def header(version: int, **more: Any) -> bytes:
    return encode(ProxyHeader.of(("192.0.2.7", 4711), ("192.0.2.1", 80), version=version, **more))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("version", [1, 2])
def test_the_client_is_the_one_the_header_names(mode: str, version: int) -> None:
    """And what follows it in the same segment is the handler's."""
    with Server(who(mode), TCP, mode=mode, proxy_protocol=True) as server, client_of(server) as client:
        client.sendall(header(version) + b"hello")
        assert line(client) == "192.0.2.7 None None"
        assert client.recv(10) == b"HELLO"
        if mode != "process":
            assert [connection.peer for connection in server.connections] == [("192.0.2.7", 4711)]


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "process"])
@pytest.mark.parametrize("sent", [35, 5])
def test_a_header_that_is_there_already_is_waited_for_by_nobody(
    mode: str, sent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It costs no unit of its own. Where only a part of it is there, one waits for the rest."""
    calls = []
    let_in = Entry.let_in
    monkeypatch.setattr(Entry, "let_in", lambda *args: (calls.append(args), let_in(*args))[1])
    said = header(2) + b"welcome"
    server = Server(who(mode), TCP, mode=mode, proxy_protocol=True).bind()
    with client_of(server) as client:
        client.sendall(said[:sent])
        with server:
            if sent == len(said):
                assert line(client) == "192.0.2.7 None None" and not calls
            else:
                until(lambda: calls)
                client.sendall(said[sent:])
                assert line(client) == "192.0.2.7 None None"
            assert client.recv(10) == b"WELCOME"
            leave(client)


@pytest.mark.parametrize("mode", MODES)
def test_a_header_may_come_in_pieces(mode: str) -> None:
    whole = header(2, tlvs=((5, b"one of a kind"),))
    with Server(who(mode), TCP, mode=mode, proxy_protocol=True) as server, client_of(server) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(len(whole)):
            client.sendall(whole[at : at + 1])
        assert line(client) == "192.0.2.7 b'one of a kind' None"
        client.sendall(b"hello")
        assert client.recv(10) == b"HELLO"


#: Who is not let in: what the server is told, what it is sent, and the reason that it gives.
NOT_LET_IN: dict[str, tuple[dict[str, Any], bytes, str]] = {
    "no header": ({"proxy_protocol": True}, b"GET / HTTP/1.1\r\n", "proxy_error"),
    "one from who is no proxy": (
        {"proxy_protocol": ProxyRule(allow_from=PeerList(["192.0.2.0/24"]))}, header(1), "proxy_error",
    ),
    "one that names whom the limits refuse": (
        {"proxy_protocol": True, "limits": Limits(deny=PeerList(["192.0.2.0/24"]))}, header(2), "denied",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("who_comes", NOT_LET_IN)
def test_who_is_not_let_in(mode: str, who_comes: str) -> None:
    options, sent, reason = NOT_LET_IN[who_comes]
    with Server(who(mode), TCP, mode=mode, **options) as server, client_of(server) as client:
        with contextlib.suppress(ConnectionError):
            client.sendall(sent)
        assert is_over(client)
        assert ended(server) == {reason: 1}
        assert server.info().handler_errors == 0


@pytest.mark.parametrize("mode", MODES)
def test_a_header_that_never_comes(mode: str) -> None:
    limits = Limits(handshake_timeout=SHORT)
    with Server(who(mode), TCP, mode=mode, proxy_protocol=True, limits=limits) as server, client_of(server) as client:
        client.sendall(header(1)[:10])
        assert is_over(client)
        assert ended(server) == {"handshake_timeout": 1}
        assert server.info().handler_errors == 0


@contextlib.contextmanager
def spoken(certificate: TLS, server: Server, before: bytes = b"") -> Iterator[ssl.SSLSocket]:
    context = ssl.create_default_context(cafile=str(certificate.cert))
    with client_of(server) as plain:
        plain.sendall(before)
        with context.wrap_socket(plain, server_hostname="localhost") as client:
            yield client
            leave(client)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("proxied", [False, True])
def test_a_handler_is_the_same_with_tls(mode: str, proxied: bool, certificate: TLS) -> None:
    with Server(who(mode), TCP, mode=mode, tls=certificate, proxy_protocol=proxied) as server:
        with spoken(certificate, server, header(2) if proxied else b"") as client:
            assert line(client) == ("192.0.2.7 None TLSv1.3" if proxied else "127.0.0.1 None TLSv1.3")
            client.sendall(b"hello")
            assert client.recv(10) == b"HELLO"
        assert ended(server) == {"peer_closed": 1}


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "serial"])
def test_who_stalls_the_handshake_stops_nobody(mode: str, certificate: TLS) -> None:
    limits = Limits(handshake_timeout=SOON)
    with Server(who(mode), TCP, mode=mode, tls=certificate, limits=limits) as server, contextlib.ExitStack() as stack:
        for _ in range(10):
            silent = stack.enter_context(client_of(server))
            silent.sendall(b"\x16\x03\x01")
        until(lambda: len(server.connections) == 10)
        with spoken(certificate, server) as client:
            assert line(client) == "127.0.0.1 None TLSv1.3"
        server.stop(0)


@pytest.mark.parametrize("mode", MODES)
def test_a_handshake_that_never_ends(mode: str, certificate: TLS) -> None:
    limits = Limits(handshake_timeout=SHORT)
    with Server(who(mode), TCP, mode=mode, tls=certificate, limits=limits) as server, client_of(server) as client:
        client.sendall(b"\x16\x03\x01")
        assert is_over(client)
        assert ended(server) == {"handshake_timeout": 1}
        assert server.info().handler_errors == 0


@pytest.mark.parametrize("mode", MODES)
def test_who_speaks_no_tls(mode: str, certificate: TLS) -> None:
    with Server(who(mode), TCP, mode=mode, tls=certificate) as server, client_of(server) as client:
        with contextlib.suppress(ConnectionError):
            client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert is_over(client)
        assert ended(server) == {"tls_error": 1}
        assert server.info().handler_errors == 0


@pytest.mark.parametrize("mode", ["thread", "green", "async"])
def test_handshakes_at_once_have_a_limit_of_their_own(mode: str, certificate: TLS) -> None:
    limits = Limits(max_handshakes=1, handshake_timeout=SOON)
    with Server(echo(mode), TCP, mode=mode, tls=certificate, limits=limits) as server:
        with client_of(server) as silent:
            until(lambda: len(server.connections) == 1)
            with client_of(server) as second:
                assert is_over(second)
            assert server.info().refusals == {"limit_handshakes": 1}
            silent.close()
        until(lambda: not server.connections and not server._service.streams.entry._entering)
        with spoken(certificate, server) as client:
            client.sendall(b"hello")
            assert client.recv(10) == b"HELLO"


@pytest.mark.parametrize("mode", MODES)
def test_a_deadline_after_the_handshake_does_not_wait_for_that_of_the_handshake(mode: str, certificate: TLS) -> None:
    limits = Limits(handshake_timeout=3600, first_byte_timeout=SHORT, idle_timeout=SHORT)
    with Server(echo(mode), TCP, mode=mode, tls=certificate, limits=limits) as server:
        with spoken(certificate, server) as client:
            client.sendall(b"hello")
            assert client.recv(10) == b"HELLO"
            assert is_over(client)
        assert ended(server) == {"idle": 1}
