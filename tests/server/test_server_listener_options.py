"""What holds for one listener of a server: TLS with its own certificate, a PROXY header, options of its socket."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from native_support import MODES, SOON, TCP, by, dial, echo, is_over, leave, until

import jackfield
from jackfield import AsyncRequestHandler, BaseRequestHandler, Server
from jackfield.address import Address
from jackfield.admission import PeerList
from jackfield.errors import StartError, TLSHandshakeError
from jackfield.events import ConnectionEnded, ConnectionStarted
from jackfield.limits import Limits
from jackfield.proxyheader import ProxyHeader, encode
from jackfield.serving import ProxyRule
from jackfield.tls import TLS, ServerTLS, self_signed

TLS_URL = "tls://127.0.0.1:0"


@pytest.fixture(scope="module")
def certificate() -> TLS:
    return self_signed()


@pytest.fixture(scope="module")
def other() -> TLS:
    return self_signed(["other.example"])


class Who(BaseRequestHandler[Any]):
    """Says who it takes the peer for, and by what version of TLS."""

    def handle(self) -> None:
        tls = getattr(self.request, "version", lambda: None)()
        peer = self.client_address[0] if isinstance(self.client_address, tuple) else "unix"
        self.request.sendall(f"{peer} {tls}\n".encode())


class Greeted(BaseRequestHandler[Any]):
    """Says who greeted it, and how."""

    def handle(self) -> None:
        self.request.sendall(f"{self.client_address[0]} ".encode() + self.request.recv(5))


class AsyncWho(AsyncRequestHandler[Any]):
    async def handle(self) -> None:
        tls = getattr(self.request.socket, "version", lambda: None)()
        await self.request.sendall(f"{self.client_address[0]} {tls}\n".encode())


def who(mode: str) -> Any:
    return by(mode, Who, AsyncWho)


def everything(client: Any) -> bytes:
    got = b""
    with contextlib.suppress(ConnectionResetError):
        while part := client.recv(1000):
            got += part
    return got


@contextlib.contextmanager
def client_of(server: Server, number: int, sent: bytes = b"") -> Iterator[socket.socket]:
    client = dial(server, number)
    try:
        if sent:  # nothing to say may be said to a server that has spoken and gone, and a Unix socket tells (EPIPE)
            client.sendall(sent)
        yield client
    finally:
        leave(client)


def plainly(server: Server, number: int, sent: bytes = b"") -> bytes:
    with client_of(server, number, sent) as client:
        return everything(client)


def encrypted(
    server: Server, number: int, certificate: TLS, sent: bytes = b"", name: str = "localhost", **changes: Any
) -> bytes:
    """What a client that trusts ``certificate`` alone is told, after ``sent`` in clear."""
    context = ssl.create_default_context(cafile=os.fspath(certificate.cert))
    for attribute, value in changes.items():
        setattr(context, attribute, value)
    with client_of(server, number, sent) as plain:
        with context.wrap_socket(plain, server_hostname=name) as client:
            answer = everything(client)
            leave(client)
        return answer


def header(version: int) -> bytes:
    return encode(ProxyHeader.of(("192.0.2.7", 4711), ("192.0.2.1", 80), version=version))


HERE, THERE = b"127.0.0.1 ", b"192.0.2.7 "

# --- TLS --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_plain_and_encrypted_beside_each_other(mode: str, certificate: TLS, other: TLS) -> None:
    """Each has its own certificate, or the server's where it has none."""
    addresses = (TCP, TLS_URL, f"{TLS_URL}?cert={other.cert}")
    with Server(who(mode), *addresses, mode=mode, tls=certificate) as server:
        assert plainly(server, 0) == HERE + b"None\n"
        assert encrypted(server, 1, certificate) == HERE + b"TLSv1.3\n"
        assert encrypted(server, 2, other, name="other.example") == HERE + b"TLSv1.3\n"
        with pytest.raises(ssl.SSLCertVerificationError):
            encrypted(server, 2, certificate)
        assert [address.split("://")[0] for address in server.addresses] == ["tcp", "tls", "tls"]
        assert list(server.info().addresses) == server.addresses


@pytest.mark.parametrize("mode", MODES)
def test_who_speaks_no_tls_is_not_served(mode: str, certificate: TLS) -> None:
    with Server(who(mode), TCP, f"{TLS_URL}?cert={certificate.cert}", mode=mode) as server:
        with client_of(server, 1, b"GET / HTTP/1.1\r\n\r\n") as client:
            assert is_over(client)
        until(lambda: server.info().ends == {"tls_error": 1})
        assert plainly(server, 0) == HERE + b"None\n"


def test_without_such_an_address_tls_is_for_every_stream(certificate: TLS, tmp_path: Path) -> None:
    with Server(Who, TCP, f"unix:{tmp_path}/s", tls=certificate) as server:
        assert encrypted(server, 0, certificate) == HERE + b"TLSv1.3\n"
        assert encrypted(server, 1, certificate) == b"unix TLSv1.3\n"


def test_with_one_the_unix_sockets_are_plain_as_well(certificate: TLS, tmp_path: Path) -> None:
    with Server(Who, TLS_URL, f"unix:{tmp_path}/s", tls=certificate) as server:
        assert encrypted(server, 0, certificate) == HERE + b"TLSv1.3\n"
        assert plainly(server, 1) == b"unix None\n"


def entries(server: Server) -> list[Any]:
    return [server._service.streams.entries[listener] for listener in server._service.listeners]


def configured(address: str, usual: TLS | None) -> TLS:
    server = Server(Who, address, tls=usual).bind()
    try:
        tls: TLS = entries(server)[0].tls.tls
        return tls
    finally:
        server.stop(0)


def test_what_an_address_does_not_say_is_the_servers(certificate: TLS, other: TLS) -> None:
    usual = TLS(certificate.cert, more=((other.cert, None),), min_version="1.3", alpn=("h2",))
    plain = configured(TLS_URL, usual)
    assert plain == usual
    said = configured(f"{TLS_URL}?min=1.2&alpn=a,b", usual)
    assert (said.cert, said.more, said.min_version, said.alpn) == (usual.cert, usual.more, "1.2", ("a", "b"))
    own = configured(f"{TLS_URL}?cert={other.cert}&key={other.cert}", usual)
    assert (own.cert, own.key, own.more, own.min_version) == (os.fspath(other.cert), os.fspath(other.cert), (), "1.3")


def test_clients_certificates(certificate: TLS, other: TLS) -> None:
    asking = TLS(certificate.cert, client_ca=certificate.cert, client_auth="optional")
    said = configured(f"{TLS_URL}?client_ca={other.cert}", certificate)
    assert (said.client_ca, said.client_auth) == (os.fspath(other.cert), "required")
    said = configured(f"{TLS_URL}?client_ca={other.cert}", asking)
    assert (said.client_ca, said.client_auth) == (os.fspath(other.cert), "optional")
    said = configured(f"{TLS_URL}?client_auth=required", asking)
    assert (said.client_ca, said.client_auth) == (certificate.cert, "required")
    said = configured(f"{TLS_URL}?client_auth=none", asking)
    assert (said.client_ca, said.client_auth) == (None, "none")
    said = configured(f"{TLS_URL}?cert={other.cert}", asking)
    assert said.client_auth == "optional"  # who asks for certificates does not stop by way of another one of its own


def test_what_is_agreed_is_what_the_address_says(certificate: TLS) -> None:
    with Server(Who, f"{TLS_URL}?min=1.3", f"{TLS_URL}?client_ca={certificate.cert}", tls=certificate) as server:
        with pytest.raises(OSError):
            encrypted(server, 0, certificate, maximum_version=ssl.TLSVersion.TLSv1_2)
        # Under TLS 1.2 the client learns within the handshake that it is to show a certificate (RFC 8446 4.4.2.4).
        with pytest.raises(OSError):
            encrypted(server, 1, certificate, maximum_version=ssl.TLSVersion.TLSv1_2)


NO_START = [
    (TLS_URL, "no certificate; add ?cert=FILE&key=FILE, or give the server one"),
    (f"{TLS_URL}?alpn=h2", "no certificate"),
    (f"{TLS_URL}?cert=there-is-none.pem", "no such file: there-is-none.pem"),
    (f"{TLS_URL}?cert=CERT&client_auth=required", "who may sign the clients' certificates?"),
]


@pytest.mark.parametrize(("address", "said"), NO_START)
def test_what_cannot_be_served_is_told_before_anybody_is_let_in(
    address: str, said: str, certificate: TLS, tmp_path: Path
) -> None:
    address = address.replace("CERT", os.fspath(certificate.cert))
    server = Server(Who, f"unix:{tmp_path}/s", address)
    with pytest.raises(StartError) as caught:
        server.start()
    message = str(caught.value)
    assert message.startswith("cannot listen on tls://127.0.0.1:0") and said in message and "\n" not in message
    assert server.state == "failed"
    assert list(tmp_path.iterdir()) == []


def test_all_certificates_are_read_again(certificate: TLS, other: TLS, tmp_path: Path) -> None:
    """Those of the server, and those of its listeners; where one is broken, the others are new all the same."""
    usual, own = tmp_path / "usual.pem", tmp_path / "own.pem"
    for file in (usual, own):
        file.write_bytes(Path(os.fspath(certificate.cert)).read_bytes())
    with Server(Who, TLS_URL, f"{TLS_URL}?cert={own}", tls=TLS(usual)) as server:
        for file in (usual, own):
            file.write_bytes(Path(os.fspath(other.cert)).read_bytes())
        assert encrypted(server, 1, certificate) == HERE + b"TLSv1.3\n"
        assert not server.reload().failed
        for number in (0, 1):
            assert encrypted(server, number, other, name="other.example") == HERE + b"TLSv1.3\n"
        usual.write_text("this is none")
        own.write_bytes(Path(os.fspath(certificate.cert)).read_bytes())
        (failed,) = server.reload().failed
        assert "usual.pem" in failed
        assert encrypted(server, 0, other, name="other.example") == HERE + b"TLSv1.3\n"
        assert encrypted(server, 1, certificate) == HERE + b"TLSv1.3\n"


def test_a_certificate_that_was_made_elsewhere_reaches_its_listeners(certificate: TLS) -> None:
    served = ServerTLS(certificate)
    with Server(Who, TLS_URL, TLS_URL, tls=served) as server:
        assert [entry.tls for entry in entries(server)] == [served, served]


def test_a_name_with_several_addresses_has_its_certificate_read_once(certificate: TLS) -> None:
    with Server(Who, f"tls://localhost:0?cert={certificate.cert}") as server:
        assert len({id(entry.tls) for entry in entries(server)}) == 1


def test_events_tell_of_tls(certificate: TLS) -> None:
    told: list[Any] = []
    with Server(Who, TLS_URL, tls=certificate) as server:
        server.subscribe(told.append, ConnectionStarted, ConnectionEnded)
        encrypted(server, 0, certificate)
        until(lambda: len(told) == 2)
        assert {event.listener for event in told} == set(server.addresses)
        assert server.addresses[0].startswith("tls://127.0.0.1:")


def test_a_client_that_is_not_asked_to_trust_it_does_not(certificate: TLS) -> None:
    """And never speaks in clear to where it was to be encrypted."""
    with Server(Who, TLS_URL, tls=certificate) as server:
        with pytest.raises(TLSHandshakeError, match="not accepted"):
            jackfield.connect(server.addresses[0], SOON)
        until(lambda: server.info().ends.get("tls_error") == 1)


# --- a PROXY header ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_a_header_on_one_listener_and_none_on_another(mode: str) -> None:
    with Server(who(mode), TCP, f"{TCP}?proxy=auto", mode=mode) as server:
        assert plainly(server, 0) == HERE + b"None\n"
        assert plainly(server, 1, header(1)) == THERE + b"None\n"
        assert plainly(server, 1, header(2)) == THERE + b"None\n"


def test_off_where_the_server_has_it_on(tmp_path: Path) -> None:
    with Server(Who, TCP, f"{TCP}?proxy=off", f"unix:{tmp_path}/s?proxy=off", proxy_protocol=True) as server:
        assert plainly(server, 0, header(2)) == THERE + b"None\n"
        assert plainly(server, 1) == HERE + b"None\n"
        assert plainly(server, 2) == b"unix None\n"


@pytest.mark.parametrize(("said", "version", "answer"), [
    ("v1", 1, THERE + b"None\n"), ("v1", 2, b""), ("v2", 1, b""), ("v2", 2, THERE + b"None\n"),
])  # fmt: skip
def test_only_the_version_that_the_address_says(said: str, version: int, answer: bytes) -> None:
    with Server(Who, f"{TCP}?proxy={said}") as server:
        assert plainly(server, 0, header(version)) == answer


def test_what_never_went_through_the_parser() -> None:
    with pytest.raises(StartError, match=r"'3'; write e\.g\. proxy=auto$"):
        Server(Who, Address("tcp", "127.0.0.1", 0, options=(("proxy", "3"),))).start()


def test_one_that_may_be_there_or_not() -> None:
    rule = ProxyRule(required=False)
    with Server(Greeted, f"{TCP}?proxy=optional", f"{TCP}?proxy=auto", proxy_protocol=rule) as server:
        assert plainly(server, 0, header(1) + b"hello") == THERE + b"hello"
        assert plainly(server, 0, b"hello") == HERE + b"hello"
        assert plainly(server, 1, b"hello") == b""  # what the address says goes before the rule


def test_on_a_unix_socket(tmp_path: Path) -> None:
    with Server(Who, f"unix:{tmp_path}/s?proxy=v2") as server:
        assert plainly(server, 0, header(2)) == THERE + b"None\n"


def test_the_proxies_are_those_of_the_server() -> None:
    elsewhere = ProxyRule(allow_from=PeerList(["192.0.2.0/24"]))
    with Server(Who, f"{TCP}?proxy=v2", proxy_protocol=elsewhere) as server:
        assert plainly(server, 0, header(2)) == b""
        until(lambda: server.info().ends == {"proxy_error": 1})


@pytest.mark.parametrize("mode", MODES)
def test_a_header_before_tls(mode: str, certificate: TLS) -> None:
    address = f"{TLS_URL}?cert={certificate.cert}&proxy=v2"
    with Server(who(mode), TCP, address, mode=mode) as server:
        assert encrypted(server, 1, certificate, header(2)) == THERE + b"TLSv1.3\n"
        assert plainly(server, 0) == HERE + b"None\n"


# --- one limit for all, and what costs nothing ------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["thread", "green", "async"])
def test_the_limit_of_handshakes_is_one_for_the_whole_server(mode: str, certificate: TLS) -> None:
    limits = Limits(max_handshakes=2, handshake_timeout=SOON)
    addresses = (f"{TLS_URL}?cert={certificate.cert}", f"{TCP}?proxy=v2", TLS_URL, TCP)
    with Server(echo(mode), *addresses, mode=mode, tls=certificate, limits=limits) as server:
        with client_of(server, 0), client_of(server, 1):
            until(lambda: len(server._service.streams.entering) == 2)
            for number in (0, 1, 2):
                with client_of(server, number) as client:
                    assert is_over(client)
            assert server.info().refusals == {"limit_handshakes": 3}
            with client_of(server, 3, b"hello") as client:  # where there is nothing to be done first
                assert client.recv(10) == b"HELLO"
        until(lambda: not server.connections and not server._service.streams.entering)


def test_a_server_without_any_of_it_has_no_way_in() -> None:
    with Server(Who, TCP, f"{TCP}?nodelay=0") as server:
        streams = server._service.streams
        assert streams.entry is None and streams.entries == {} and not streams.any_entry


# --- options of the socket --------------------------------------------------------------------------------------------


class Tell(BaseRequestHandler[Any]):
    """Says what its connection's socket has."""

    OPTIONS = (
        (socket.IPPROTO_TCP, socket.TCP_NODELAY), (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE), (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
        (socket.SOL_SOCKET, socket.SO_RCVBUF),
    )  # fmt: skip

    def handle(self) -> None:
        said = [self.request.getsockopt(level, option) for level, option in self.OPTIONS]
        self.request.sendall(repr(said).encode())


class AsyncTell(AsyncRequestHandler[Any]):
    async def handle(self) -> None:
        said = [self.request.socket.getsockopt(level, option) for level, option in Tell.OPTIONS]
        await self.request.sendall(repr(said).encode())


@pytest.mark.parametrize("mode", MODES)
def test_each_listener_has_its_own_options(mode: str) -> None:
    said = f"{TCP}?nodelay=0&keepalive=77&user_timeout=9&rcvbuf=20k"
    with Server(by(mode, Tell, AsyncTell), TCP, said, f"{TCP}?keepalive=0", mode=mode) as server:
        assert plainly(server, 0).startswith(b"[1, 1, 60, 30000, ")
        assert plainly(server, 1) == b"[0, 1, 77, 9000, 40960]"
        assert plainly(server, 2).startswith(b"[1, 0, ")


def test_an_address_goes_before_the_arguments() -> None:
    with Server(Who, f"{TCP}?reuse_port=0", TCP, reuse_port=True) as server:
        shared = [
            listener.socket.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) for listener in server._service.listeners
        ]
        assert shared == [0, 1]
