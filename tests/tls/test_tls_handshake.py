"""The handshake: who is served, who is refused and what is said, in every mode and against other makes of TLS."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tls_support import WAYS, Beside, Files, connected, conversation, wrapped

import jackfield
from jackfield.errors import MisuseError, TLSError, TLSHandshakeError
from jackfield.streams import AsyncSocket
from jackfield.tls import TLS, ServerTLS, astart_server, aupgrade, start_client, start_server, tls_info, upgrade

VERSIONS = ["1.2", "1.3"]


async def _astart(raw: Any, served: Any, deadline: float | None) -> Any:
    return await astart_server(AsyncSocket(raw), served, deadline)


STARTS: dict[str, Any] = {
    "thread": start_server,
    "green": lambda *args: jackfield.run(start_server, *args),
    "async": lambda *args: asyncio.run(_astart(*args)),
}


def refused(way: str, served: Any, client: Any, deadline: float | None = None) -> BaseException:
    """The error of a handshake with what ``client(sock)`` does at the other end; the connection is closed by it."""
    raw, other = connected()
    with other, Beside(client, other), pytest.raises(OSError) as caught:
        STARTS[way](raw, served, deadline)
    assert raw.fileno() == -1
    assert "\n" not in str(caught.value)
    return caught.value


# -- other makes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("way", WAYS)
def test_pythons_own_client(files: Files, way: str, version: str) -> None:
    def talk() -> None:
        with wrapped(other, files.client(version)) as client:
            assert client.version() == f"TLSv{version}"
            for size in (1, 100, 20000, 300000):
                client.sendall(b"x" * size)
                got = b""
                while len(got) < size:
                    got += client.recv(65536)
                assert got == b"X" * size

    raw, other = connected()
    with Beside(talk):
        sock = WAYS[way](raw, files.served)
    assert sock.fileno() == -1 and sock.received > 320101 < sock.sent


@contextlib.contextmanager
def openssl(files: Files, serve: Any, *options: str, errors: int = subprocess.STDOUT) -> Iterator[Any]:
    """OpenSSL's own client, with ``serve(sock)`` at the other end: the process, which is to be typed to."""
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("no openssl on this machine: install Debian's package openssl")
    command = [program, "s_client", "-CAfile", str(files.ca), "-servername", "localhost", *options, "-connect"]
    with jackfield.socket.create_server(("127.0.0.1", 0)) as listener:
        command.append(f"127.0.0.1:{listener.getsockname()[1]}")
        with Beside(lambda: serve(listener.accept()[0])):
            pipe = subprocess.PIPE
            with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors) as client:
                yield client


def type_in(client: Any, line: bytes, answer: bytes) -> None:
    """It takes a command only at the beginning of what it reads, and forgets what is behind it."""
    client.stdin.write(line)
    client.stdin.flush()
    assert answer in iter(client.stdout.readline, b"")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("way", WAYS)
def test_openssls_client(files: Files, way: str, version: str) -> None:
    options = ["-quiet", "-no_ign_eof", "-verify_return_error", f"-tls{version.replace('.', '_')}"]
    with openssl(files, lambda sock: WAYS[way](sock, files.served), *options, errors=subprocess.DEVNULL) as client:
        type_in(client, b"hello\n", b"HELLO\n")
        client.stdin.close()  # it says goodbye and ends
        assert client.wait(20) == 0


@pytest.mark.parametrize("way", WAYS)
def test_new_keys_in_the_middle(files: Files, way: str) -> None:
    """A client that changes its keys wants the server to change its own (RFC 8446 4.6.3): what a reader has to send."""
    said = {b"K\n": b"KEYUPDATE\n", b"Q\n": b"DONE\n"}
    with openssl(files, lambda sock: WAYS[way](sock, files.served), "-tls1_3") as client:
        for line in (b"one\n", b"K\n", b"two\n", b"K\n", b"three\n", b"Q\n"):
            type_in(client, line, said.get(line, line.upper()))
        client.stdin.close()
        client.stdout.read()
        assert client.wait(20) == 0


@pytest.mark.parametrize("way", WAYS)
def test_renegotiation_is_refused_at_once(files: Files, way: str) -> None:
    """The refusal is something that a reader has to send: nobody writes at that moment."""

    def serve(sock: Any) -> None:
        with pytest.raises(TLSError, match=r"^the peer refuses: handshake failure$"):
            WAYS[way](sock, files.served)

    with openssl(files, serve, "-tls1_2") as client:
        type_in(client, b"one\n", b"ONE\n")
        type_in(client, b"R\n", b"RENEGOTIATING\n")
        assert b"no renegotiation" in client.stdout.read()
        client.stdin.close()
        assert client.wait(20) != 0


def test_our_own_client(files: Files) -> None:
    raw, other = connected()
    with Beside(start_client, other, "localhost", files.client()) as shaking:
        server = start_server(raw, files.served)
    with server, shaking.value as client:
        client.sendall(b"hello")
        assert server.recv(9) == b"hello" and client.getpeercert()["subjectAltName"][0] == ("DNS", "localhost")
        assert not client.server_side and server.server_side and client.server_hostname == "localhost"
        assert client.truncated is False


def test_our_own_client_refuses_another_name(files: Files) -> None:
    raw, other = connected()
    with Beside(start_client, other, "elsewhere", files.client()) as shaking, pytest.raises(TLSHandshakeError) as told:
        try:
            start_server(raw, files.served)
        finally:
            shaking._thread.join()
            error, shaking.error = shaking.error, None
    assert "not accepted" in str(error) and "elsewhere" in str(error) and isinstance(error, TLSHandshakeError)
    assert "the peer refuses" in str(told.value)


# -- who hangs up, who is silent, who talks of something else ----------------------------------------------------------


@pytest.mark.parametrize("way", STARTS)
def test_a_silent_peer_is_given_up_at_the_deadline(files: Files, way: str) -> None:
    raw, other = connected()
    with other, pytest.raises(TimeoutError):
        STARTS[way](raw, files.served, time.monotonic() + 0.02)
    assert raw.fileno() == -1


def test_the_patience_of_the_socket_bounds_do_handshake(files: Files) -> None:
    ours, theirs = jackfield.socket.socketpair()
    ours.settimeout(0.02)
    with theirs, pytest.raises(TimeoutError):
        start_server(ours, files.served, time.monotonic() + 0.02)


@pytest.mark.parametrize("way", STARTS)
def test_a_peer_that_drips_does_not_stretch_the_deadline(files: Files, way: str) -> None:
    def drip(other: socket.socket) -> None:
        other.settimeout(None)
        try:
            for byte in dripped:
                other.sendall(byte)
        except OSError:
            pass  # given up

    # A ClientHello of 16 KiB in records of one byte each, which never comes to its end.
    hello = b"\x01\x00\x3f\xf0" + bytes(16000)
    dripped = [bytes([byte]) for text in hello for byte in b"\x16\x03\x01\x00\x01" + bytes([text])]
    error = refused(way, files.served, drip, time.monotonic() + 0.02)
    assert isinstance(error, TimeoutError)


@pytest.mark.parametrize("way", STARTS)
def test_a_peer_that_hangs_up_before(files: Files, way: str) -> None:
    error = refused(way, files.served, lambda other: other.close())
    assert type(error) is ConnectionResetError and "before the TLS handshake" in str(error)


@pytest.mark.parametrize("way", STARTS)
def test_a_peer_that_hangs_up_in_the_middle(files: Files, way: str) -> None:
    def half(other: socket.socket) -> None:
        other.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01")
        other.close()

    error = refused(way, files.served, half)
    assert isinstance(error, TLSHandshakeError) and "in the middle of the TLS handshake" in str(error)


@pytest.mark.parametrize("way", STARTS)
def test_plain_http_is_told_and_answered_by_an_alert(files: Files, way: str) -> None:
    answers = []

    def ask(other: socket.socket) -> None:
        other.sendall(b"GET / HTTP/1.0\r\n\r\n")
        answers.append(other.recv(100))

    error = refused(way, files.served, ask)
    assert isinstance(error, TLSHandshakeError | ssl.SSLError)
    assert str(error) == "the client speaks plain HTTP on a TLS port"
    assert answers[0][:1] == b"\x15" or answers == [b""]


def test_old_versions_are_refused(files: Files) -> None:
    served = ServerTLS(TLS(files.cert, files.key, min_version="1.3"))

    def old(other: socket.socket) -> None:
        with pytest.raises(ssl.SSLError, match="ALERT_PROTOCOL_VERSION"):
            wrapped(other, files.client("1.2"))

    assert str(refused("thread", served, old)) == "the peer has no TLS version in common with this side"


def test_no_cipher_in_common(files: Files) -> None:
    context = files.client("1.2")
    context.set_ciphers("ECDHE-ECDSA-AES128-SHA")  # CBC

    def ask(other: socket.socket) -> None:
        with pytest.raises(ssl.SSLError):
            wrapped(other, context)

    assert "no cipher in common" in str(refused("thread", files.served, ask))


def test_a_client_that_does_not_trust_us_is_told_by_its_alert(files: Files) -> None:
    def distrust(other: socket.socket) -> None:
        with pytest.raises(ssl.SSLCertVerificationError):
            wrapped(other, ssl.create_default_context())

    assert str(refused("thread", files.served, distrust)) == "the peer refuses: unknown ca"


def test_a_client_that_leaves_at_once_may_still_be_read(files: Files) -> None:
    with conversation(files.served, files.client()) as (sock, client):
        client.sendall(b"that was all")
        client.close()
        assert sock.recv(100) == b"that was all"


# -- what is agreed ----------------------------------------------------------------------------------------------------


def test_alpn(files: Files) -> None:
    served = ServerTLS(TLS(files.cert, files.key, alpn=("h2", "http/1.1")))
    with conversation(served, files.client(alpn=["http/1.1", "h2"])) as (sock, client):
        assert sock.selected_alpn_protocol() == client.selected_alpn_protocol() == "h2"
    with conversation(served, files.client(alpn=["gopher"])) as (sock, _):
        assert sock.selected_alpn_protocol() is None  # served without, as it was not required


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("offered", "said"), [(["gopher"], "none of the"), ([], "does not say its protocol")])
def test_alpn_required(files: Files, version: str, offered: list[str], said: str) -> None:
    served = ServerTLS(TLS(files.cert, files.key, alpn=("h2",), alpn_required=True))

    def ask(other: socket.socket) -> None:
        with pytest.raises(ssl.SSLError, match=r"(?i)no.application.protocol"):
            wrapped(other, files.client(version, alpn=offered))

    assert said in str(refused("thread", served, ask))
    with conversation(served, files.client(version, alpn=["x", "h2"])) as (sock, _):
        assert sock.selected_alpn_protocol() == "h2"


@pytest.mark.parametrize(
    ("name", "certificate"),
    [
        ("localhost", "cert"),
        ("other.example", "other_cert"),
        ("a.wild.example", "other_cert"),
        ("OTHER.example", "other_cert"),
    ],
)
def test_sni_chooses_the_certificate(files: Files, name: str, certificate: str) -> None:
    served = ServerTLS(TLS(files.cert, files.key, more=((files.other_cert, files.other_key),)))
    with conversation(served, files.client(), name) as (sock, client):
        assert client.getpeercert(True) == ssl.PEM_cert_to_DER_cert(getattr(files, certificate).read_text())
        assert sock.server_hostname == name.lower()


def test_an_unknown_name_gets_the_first_certificate(files: Files) -> None:
    served = ServerTLS(TLS(files.cert, files.key, more=((files.other_cert, files.other_key),)))
    context = files.client()
    context.check_hostname = False
    for name in ("unknown.example", None):
        with conversation(served, context, name) as (_, client):  # type: ignore[arg-type]
            assert ("DNS", "localhost") in client.getpeercert()["subjectAltName"]


@pytest.mark.parametrize("version", VERSIONS)
def test_clients_certificates(files: Files, version: str) -> None:
    asked = {auth: ServerTLS(TLS(files.cert, files.key, client_ca=files.ca, client_auth=auth)) for auth in
             ("optional", "required")}  # fmt: skip
    subject = ((("commonName", "a client"),),)
    for served in asked.values():
        with conversation(served, files.client(version, with_cert="client")) as (sock, _):
            assert tls_info(sock).peer_certificate["subject"] == subject  # type: ignore[union-attr, index]
    for served in (files.served, asked["optional"]):
        with conversation(served, files.client(version)) as (sock, _):
            assert sock.getpeercert() is None and tls_info(sock).peer_certificate is None  # type: ignore[union-attr]
    with conversation(files.served, files.client(version, with_cert="client")) as (sock, _):
        assert sock.getpeercert() is None  # it was not asked for one


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("shown", "said"), [(None, "the client sent no certificate, and one is required"), ("stranger", "not accepted")]
)
def test_a_client_without_a_good_certificate(files: Files, version: str, shown: str | None, said: str) -> None:
    served = ServerTLS(TLS(files.cert, files.key, client_ca=files.ca, client_auth="required"))

    def ask(other: socket.socket) -> None:
        with pytest.raises(OSError):  # in TLS 1.3 the client has finished when it is refused
            with wrapped(other, files.client(version, with_cert=shown)) as client:
                client.recv(1)

    error = refused("thread", served, ask)
    assert isinstance(error, TLSHandshakeError) and said in str(error)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_session_is_taken_up_again(files: Files, version: str) -> None:
    context = files.client(version)
    with conversation(files.served, context) as (sock, client):
        sock.sendall(b"with the tickets of TLS 1.3")
        assert client.recv(100) and not sock.session_reused and tls_info(sock).resumed is False  # type: ignore[union-attr]
        session = client.session
    with conversation(files.served, context, session=session) as (sock, client):
        assert client.session_reused and sock.session_reused and tls_info(sock).resumed  # type: ignore[union-attr]
        assert sock.server_hostname == "localhost"


def test_what_was_agreed_is_told(files: Files) -> None:
    served = ServerTLS(TLS(files.cert, files.key, alpn=("h2",)))
    with conversation(served, files.client("1.2", alpn=["h2"])) as (sock, client):
        info = tls_info(sock)
        assert info is not None
        assert (info.version, info.sni, info.alpn) == ("TLSv1.2", "localhost", "h2")
        assert info.cipher == client.cipher()[0] == sock.cipher()[0] and sock.shared_ciphers()  # type: ignore[index]
        assert sock.compression() is None and sock.selected_npn_protocol() is None
        assert sock.get_channel_binding() == client.get_channel_binding() is not None
        assert sock.context is served.context and sock.session is not None
        assert tls_info(client).version == "TLSv1.2"  # type: ignore[union-attr]
        with pytest.raises(ValueError, match="not implemented"):
            sock.get_channel_binding("tls-nothing")
    assert tls_info(socket.socket.__new__(socket.socket)) is None


def test_a_plain_context_serves_as_well(files: Files) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.cert, files.key)
    with conversation(context, files.client()) as (sock, _):
        assert sock.context is context


# -- in the middle of a connection -------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["thread", "async"])
def test_plaintext_behind_starttls_is_refused(files: Files, way: str) -> None:
    raw, other = connected()

    async def later() -> None:
        await aupgrade(AsyncSocket(raw), files.served, buffered=b"EVIL\r\n")

    with raw, other, pytest.raises(TLSError, match=r"6 bytes of plaintext .* process none of it"):
        if way == "thread":
            upgrade(raw, files.served, buffered=b"EVIL\r\n")
        else:
            asyncio.run(later())


@pytest.mark.parametrize("way", ["thread", "async"])
def test_starttls(files: Files, way: str) -> None:
    raw, other = connected()

    def ask() -> None:
        other.sendall(b"STARTTLS\r\n")
        assert other.recv(3) == b"OK\n"
        with wrapped(other, files.client()) as client:
            client.sendall(b"secret")
            assert client.recv(10) == b"SECRET"

    def serve() -> None:
        assert raw.recv(100) == b"STARTTLS\r\n"
        raw.sendall(b"OK\n")
        before = raw.received
        with upgrade(raw, files.served) as sock:
            assert sock.received > before == 10  # the count goes on
            sock.sendall(sock.recv(100).upper())

    async def aserve() -> None:
        plain = AsyncSocket(raw)
        assert await plain.recv(100) == b"STARTTLS\r\n"
        await plain.sendall(b"OK\n")
        sock = await aupgrade(plain, files.served)
        await sock.sendall((await sock.recv(100)).upper())
        await sock.aclose()

    with Beside(ask):
        if way == "thread":
            serve()
        else:
            asyncio.run(aserve())


def test_plaintext_in_the_kernel_is_junk(files: Files) -> None:
    raw, other = connected()
    with raw, other:
        other.sendall(b"STARTTLS\r\nEVIL\r\n")
        assert raw.recv(10) == b"STARTTLS\r\n"
        with pytest.raises(TLSHandshakeError, match="plaintext came behind the command"):
            upgrade(raw, files.served)


def test_unwrap_goes_back_to_plaintext(files: Files) -> None:
    with conversation(files.served, files.client()) as (sock, client):
        with Beside(client.unwrap) as unwrapping:
            plain = sock.unwrap()
        with plain, unwrapping.value as other:
            assert type(plain) is jackfield.socket.socket
            other.sendall(b"plain")
            assert plain.recv(10) == b"plain"


def test_unwrap_tells_when_the_peer_is_gone(files: Files) -> None:
    with conversation(files.served, files.client()) as (sock, client):
        client.shutdown(socket.SHUT_WR)  # of the connection: no goodbye
        with pytest.raises(TLSError, match="ended the stream"):
            sock.unwrap()


# -- what cannot work --------------------------------------------------------------------------------------------------


def test_a_datagram_socket_is_refused(files: Files) -> None:
    with jackfield.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        with pytest.raises(MisuseError, match="stream socket"):
            start_server(sock, files.served)


def test_a_closed_socket_is_refused(files: Files) -> None:
    sock = jackfield.socket.socket()
    sock.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        start_server(sock, files.served)
