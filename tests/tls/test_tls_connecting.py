"""A client by address: ``connect("tls://…")`` in every mode, whom it believes, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tls_support import Files

import jackfield
from authorities import DAY, NOW, Authority
from jackfield.connecting import async_connect
from jackfield.errors import AddressError, MisuseError, StartError, TLSError, TLSHandshakeError
from jackfield.tls import TLS, AsyncTLSSocket, ClientTLS, TLSSocket

SOON = 20.0
MODES = ["thread", "green", "async"]


class Echo(jackfield.BaseRequestHandler[Any]):
    def handle(self) -> None:
        while data := self.request.recv(65536):
            self.request.sendall(data.upper())


class AsyncEcho(jackfield.AsyncRequestHandler[Any]):
    async def handle(self) -> None:
        while data := await self.request.recv(65536):
            await self.request.sendall(data.upper())


class Agreed(jackfield.BaseRequestHandler[Any]):
    def handle(self) -> None:
        tls = self.request.tls
        peer = tls.peer_certificate and tls.peer_certificate["subject"][0][0][1]
        self.request.sendall(f"{tls.version} {tls.sni} {tls.alpn} {peer}".encode())


def _talk(address: str, data: bytes, how: dict[str, Any]) -> tuple[bytes, TLSSocket]:
    with jackfield.connect(address, SOON, **how) as sock:
        assert isinstance(sock, TLSSocket) and sock.gettimeout() is None
        with contextlib.suppress(OSError):  # the server may have said all it has to say, and be gone
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: sock.recv(65536), b"")), sock


async def _atalk(address: str, data: bytes, how: dict[str, Any]) -> tuple[bytes, TLSSocket]:
    sock = AsyncTLSSocket(await async_connect(address, SOON, **how))  # type: ignore[arg-type]
    try:
        sending = asyncio.create_task(_send(sock, data))
        got = b""
        while part := await sock.recv(65536):
            got += part
        await sending
        return got, sock.socket
    finally:
        await sock.aclose()


async def _send(sock: AsyncTLSSocket, data: bytes) -> None:
    with contextlib.suppress(OSError):
        await sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)


#: All that a server says to `data`, and the socket; by a client in each way.
TALKS: dict[str, Callable[..., tuple[bytes, TLSSocket]]] = {
    "thread": lambda address, data=b"", **how: _talk(address, data, how),
    "green": lambda address, data=b"", **how: jackfield.run(_talk, address, data, how),
    "async": lambda address, data=b"", **how: asyncio.run(_atalk(address, data, how)),
}


# -- with our own server -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", TALKS)
@pytest.mark.parametrize("mode", MODES)
def test_there_and_back(files: Files, mode: str, way: str) -> None:
    handler = AsyncEcho if mode == "async" else Echo
    with jackfield.Server(handler, "tls://127.0.0.1:0", tls=files.tls, mode=mode) as server:
        got, sock = TALKS[way](server.addresses[0], b"x" * 50_000, tls=ClientTLS(ca=files.ca))
    assert got == b"X" * 50_000
    assert sock.truncated is False  # the server said goodbye, and did not just hang up


@pytest.mark.parametrize("way", TALKS)
def test_what_is_agreed(files: Files, way: str) -> None:
    served = TLS(
        files.cert, files.key, client_ca=files.ca, client_auth="required", alpn=("echo/2", "echo/1"), min_version="1.3"
    )
    mine = ClientTLS(
        ca=files.ca, server_name="localhost", cert=files.client_cert, key=files.client_key, alpn=("echo/1", "no")
    )
    with jackfield.Server(Agreed, "tcp://127.0.0.1:0", tls=served) as server:
        got, sock = TALKS[way](server.addresses[0], tls=mine)
    assert got == b"TLSv1.3 localhost echo/1 a client"
    assert sock.selected_alpn_protocol() == "echo/1"


@pytest.mark.parametrize("way", TALKS)
def test_a_context_of_the_ssl_modules(files: Files, way: str) -> None:
    with jackfield.Server(Agreed, "tls://127.0.0.1:0", tls=files.tls) as server:
        got, _ = TALKS[way](server.addresses[0], tls=files.client("1.2"))
    assert got == b"TLSv1.2 None None None"  # an IP address is no server_name (RFC 6066 3)


@pytest.mark.parametrize("way", TALKS)
@pytest.mark.parametrize("version", [1, 2])
def test_the_proxy_header_comes_before_tls(files: Files, way: str, version: int) -> None:
    class Who(jackfield.BaseRequestHandler[Any]):
        def handle(self) -> None:
            self.request.sendall(f"{self.request.proxy.version} {self.request.tls.sni}".encode())

    with jackfield.Server(Who, "tls://127.0.0.1:0?proxy=auto", tls=files.tls) as server:
        mine = ClientTLS(ca=files.ca, server_name="localhost")
        got, _ = TALKS[way](server.addresses[0].partition("?")[0], proxy_header=version, tls=mine)
    assert got == f"{version} localhost".encode()


@pytest.mark.parametrize("way", TALKS)
def test_over_a_unix_socket(files: Files, way: str, tmp_path: Path) -> None:
    with jackfield.Server(Agreed, f"unix:{tmp_path}/s", tls=files.tls) as server:
        got, _ = TALKS[way](server.addresses[0].partition("?")[0], tls=ClientTLS(files.ca, "localhost"))
    assert got.endswith(b" localhost None None")


# -- others go on meanwhile --------------------------------------------------------------------------------------------


def test_a_green_thread_that_shakes_hands_lets_others_run(files: Files) -> None:
    """The server says nothing until another green thread of the same loop has spoken to it."""
    with jackfield.socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"tls://127.0.0.1:{listener.getsockname()[1]}"

        def silent_until_told(told: Any) -> None:
            conn, _ = listener.accept()
            with conn:
                assert conn.recv(1) == b"\x16"  # a handshake has begun
                told.set()
                conn.recv(1 << 16)

        def both() -> None:
            told = jackfield.sync.Event()
            silent = jackfield.spawn(silent_until_told, told)
            shaking = jackfield.spawn(jackfield.connect, address)
            assert told.wait(SOON)  # the connect() is in the middle of its handshake, and this runs
            silent.join(SOON)
            with pytest.raises((TLSHandshakeError, ConnectionResetError)):
                shaking.result()

        jackfield.run(both)


@pytest.mark.parametrize("way", TALKS)
def test_the_timeout_is_for_the_handshake_too(way: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"tls://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(TimeoutError, match=f"^no connection to {address} within the timeout"):
            _impatient(way, address)


def _impatient(way: str, address: str) -> None:
    if way == "async":
        asyncio.run(async_connect(address, 0.05))
    elif way == "green":
        jackfield.run(jackfield.connect, address, 0.05)
    else:
        jackfield.connect(address, 0.05)


def test_a_coroutine_that_is_cancelled_leaves_nothing_open() -> None:
    """conftest.py counts the descriptors."""

    async def cancelled(address: str, hears: Callable[[], bytes]) -> None:
        connecting = asyncio.create_task(async_connect(address))
        assert await asyncio.to_thread(hears) == b"\x16"
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting

    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as ends:
        listener.settimeout(SOON)

        def hears() -> bytes:
            conn = ends.enter_context(listener.accept()[0])
            conn.settimeout(SOON)
            return conn.recv(1)

        asyncio.run(cancelled(f"tls://127.0.0.1:{listener.getsockname()[1]}", hears))


# -- whom it does not believe ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wrong(files: Files) -> dict[str, TLS]:
    """Certificates of each kind that is not to be believed."""
    stranger, alone = Authority("a stranger"), Authority("alone")
    pairs = {
        "expired": files.pair("expired", "127.0.0.1", starts=NOW - 2 * DAY, ends=NOW - DAY),
        "early": files.pair("early", "127.0.0.1", starts=NOW + DAY),
        "another": files.pair("another", "elsewhere.example"),
        "untrusted": files.pair("untrusted", "127.0.0.1", by=stranger),
        "common name": files.pair("common", common="127.0.0.1"),
    }
    chained = files.write("chained.pem", pairs["untrusted"][0].read_bytes() + stranger.pem())
    return {
        **{name: TLS(cert, key) for name, (cert, key) in pairs.items()},
        "untrusted, with its authority": TLS(chained, pairs["untrusted"][1]),
        "its own authority": TLS(files.write("alone.pem", alone.pem()), files.write("alone.key", alone.private())),
    }


@pytest.mark.parametrize("way", TALKS)
@pytest.mark.parametrize(
    ("kind", "code", "words"),
    [
        ("expired", 10, "certificate has expired"),
        ("early", 9, "certificate is not yet valid"),
        ("another", 64, "IP address mismatch"),
        ("common name", 64, "IP address mismatch"),
        ("untrusted", 20, "unable to get local issuer certificate"),
        ("untrusted, with its authority", 19, "self-signed certificate in certificate chain"),
        ("its own authority", 18, "self-signed certificate"),
    ],
)
def test_a_wrong_certificate(
    files: Files, wrong: dict[str, TLS], way: str, kind: str, code: int, words: str,
    recwarn: pytest.WarningsRecorder,
) -> None:  # fmt: skip
    heard: list[bytes] = []

    class Listens(jackfield.BaseRequestHandler[Any]):
        def handle(self) -> None:
            heard.append(self.request.recv(100))

    with jackfield.Server(Listens, "tls://127.0.0.1:0", tls=wrong[kind]) as server:
        with pytest.raises(TLSHandshakeError) as caught:
            TALKS[way](server.addresses[0], b"a secret", tls=ClientTLS(ca=files.ca))
        assert words in str(caught.value) and "\n" not in str(caught.value)
        assert getattr(caught.value.__cause__, "verify_code", None) == code
        # Who does not ask speaks to anybody: the same server, and the certificate was the only thing wrong.
        TALKS[way](server.addresses[0], b"hello", tls=ClientTLS(verify=False))
    assert heard == [b"hello"]


@pytest.mark.parametrize("way", TALKS)
def test_a_server_that_speaks_no_tls(way: str) -> None:
    with jackfield.Server(Echo, "tcp://127.0.0.1:0") as server, pytest.raises(TLSHandshakeError):
        TALKS[way](server.addresses[0], tls=ClientTLS(verify=False))


@pytest.mark.parametrize("way", TALKS)
def test_a_server_that_wants_a_certificate(files: Files, way: str) -> None:
    served = TLS(files.cert, files.key, client_ca=files.ca, client_auth="required")
    with jackfield.Server(Echo, "tls://127.0.0.1:0", tls=served) as server:
        # In TLS 1.3 the client is done before the server has looked (RFC 8446 4.4.2.4), so reading tells.
        with pytest.raises(TLSError, match=r"^the peer refuses: certificate required$"):
            TALKS[way](server.addresses[0], tls=ClientTLS(ca=files.ca))
        assert TALKS[way](
            server.addresses[0], b"me", tls=ClientTLS(files.ca, cert=files.client_cert, key=files.client_key)
        )[0] == b"ME"  # fmt: skip


# -- with OpenSSL's own server -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def s_server(files: Files, *options: str) -> Iterator[str]:
    """``openssl s_server`` that sends each line back reversed; its address."""
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("no openssl on this machine: install Debian's package openssl")
    command = [program, "s_server", "-rev", "-cert", str(files.cert), "-key", str(files.key), *options]
    command += ["-accept", "127.0.0.1:0", "-naccept", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        try:
            for line in iter(process.stdout.readline, b""):
                if line.startswith(b"ACCEPT "):
                    break
            yield "tls://" + line.split()[1].decode()
            process.wait(SOON)
        finally:
            process.kill()


@pytest.mark.parametrize("version", ["1.2", "1.3"])
@pytest.mark.parametrize("way", ["thread", "green"])
def test_openssls_server(files: Files, way: str, version: str) -> None:
    def talk() -> None:
        with jackfield.connect(address, SOON, tls=ClientTLS(ca=files.ca)) as sock:
            assert sock.version() == f"TLSv{version}"  # type: ignore[attr-defined]
            sock.sendall(b"hello\n")
            assert sock.recv(100) == b"olleh\n"

    with s_server(files, f"-tls{version.replace('.', '_')}") as address:
        talk() if way == "thread" else jackfield.run(talk)


def test_it_says_goodbye(files: Files) -> None:
    """Python's own server tells the end of a stream from a stream that was cut, if it is asked to."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.cert, files.key)
    ends: list[Any] = []

    def hear(listener: socket.socket) -> None:
        for _ in range(2):
            conn = listener.accept()[0]
            with context.wrap_socket(conn, server_side=True, suppress_ragged_eofs=False) as sock:
                try:
                    ends.append(sock.recv(10))
                except ssl.SSLEOFError as error:
                    ends.append(type(error))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        hearing = threading.Thread(target=hear, args=(listener,))
        hearing.start()
        address = f"tls://127.0.0.1:{listener.getsockname()[1]}"
        for cut in (False, True):
            with jackfield.connect(address, SOON, tls=ClientTLS(ca=files.ca)) as sock:
                if cut:  # the broken case: the stream below ends, and TLS does not
                    socket.socket.shutdown(sock, socket.SHUT_WR)
                else:
                    sock.shutdown(socket.SHUT_WR)
                with contextlib.suppress(TLSError):  # OpenSSL complains to who has cut it
                    assert sock.recv(100) == b""
        hearing.join(SOON)
    assert ends == [b"", ssl.SSLEOFError]


# -- what cannot be meant ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "tls", "error", "words"),
    [
        ("tls://127.0.0.1:1?cert=a.pem", None, AddressError, "cert= is for who listens on tls://127.0.0.1:1: leave it"),
        ("udp://127.0.0.1:1", ClientTLS(), MisuseError, "TLS is for a stream"),
        ("unix:/none", ClientTLS(), MisuseError, r"Give tls=ClientTLS\(server_name="),
        ("127.0.0.1:1", ClientTLS(ca="/no/such.pem"), StartError, "no such file: /no/such.pem"),
        ("127.0.0.1:1", ClientTLS(ca=__file__), StartError, "has not a certificate in PEM"),
        ("127.0.0.1:1", ClientTLS(cert="/no/such.pem"), StartError, "no such file: /no/such.pem"),
        ("127.0.0.1:1", True, MisuseError, "tls is a jackfield.tls.ClientTLS or an ssl.SSLContext, not bool"),
    ],
)
def test_told_before_anybody_is_spoken_to(address: str, tls: Any, error: type[Exception], words: str) -> None:
    for connect in (jackfield.connect, lambda *a, **k: asyncio.run(async_connect(*a, **k))):
        with pytest.raises(error, match=words):
            connect(address, SOON, tls=tls)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"alpn": "h2"}, "write alpn="),
        ({"min_version": "1.1"}, "no TLS version that is safe"),
        ({"key": "a.key"}, "key goes with a certificate"),
        ({"ca": "a.pem", "verify": False}, "leave it out"),
    ],
)
def test_values_that_do_not_go_together(how: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ClientTLS(**how)


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("tls://:1", "localhost"), ("tls://0.0.0.0:1", "localhost"), ("tls://[::]:1", "localhost"),
        ("tls://[fe80::1%25lo]:1", "fe80::1"), ("tls://example.org.:1", "example.org"), ("unix:/s", None),
    ],
)  # fmt: skip
def test_whose_certificate_has_to_be_there(address: str, name: str | None) -> None:
    from jackfield.address import parse_address
    from jackfield.beginning import name_of

    assert name_of(parse_address(address)) == name
