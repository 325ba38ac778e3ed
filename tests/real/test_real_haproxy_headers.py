"""The headers that a real HAProxy writes, of both versions, for clients, for TLS and for its own checks, are read, and
say what the sockets and the certificates say."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from real_haproxy import haproxy_program, haproxy_running
from real_support import SECONDS

from jackfield.errors import ProxyError
from jackfield.proxyheader import ProxyHeader, encode
from jackfield.proxyproto import LONGEST_HEADER, ProxyParser

GREETING = b"hello, \r\n\r\n\0PROXY"
LOOPBACK6 = "::1"


@pytest.fixture(scope="session")
def haproxy() -> str:
    return haproxy_program()


def listening(host: str = "127.0.0.1") -> socket.socket:
    try:
        listener = socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        pytest.skip(f"no socket on {host} here: {error}")
    listener.settimeout(SECONDS)
    return listener


@contextlib.contextmanager
def proxied(
    haproxy: str, folder: Path, front: socket.socket, server: str, bind: str = "", frontend: str = ""
) -> Iterator[socket.socket]:
    """A HAProxy that serves ``front``, and the listener behind it, reached as ``server`` says."""
    with listening() as back:
        backend = f"server real 127.0.0.1:{back.getsockname()[1]} {server}"
        with haproxy_running(haproxy, folder, front, backend, bind=bind, frontend=frontend):
            yield back


def received(back: socket.socket, after: bytes = GREETING) -> tuple[ProxyHeader, Any]:
    """The header at the beginning of the next connection, and its peer; ``after`` must follow it whole.

    The bytes are looked at, fed, and only those that are the header's are taken.
    """
    connection, peer = back.accept()
    with connection:
        connection.settimeout(SECONDS)
        parser = ProxyParser()
        while parser.header is None:
            seen = connection.recv(LONGEST_HEADER, socket.MSG_PEEK)
            if not seen:
                parser.feed_eof()
            count = parser.feed(seen)
            assert len(connection.recv(count)) == count
        data = b""
        while len(data) < len(after):
            data += connection.recv(len(after) - len(data)) or pytest.fail(f"only {data!r} came")
        assert data == after
    return parser.header, peer


CHOICES = [
    ("send-proxy", 1, False),
    ("send-proxy-v2", 2, False),
    ("send-proxy-v2 proxy-v2-options crc32c", 2, True),
]


@pytest.mark.parametrize(("options", "version", "checked"), CHOICES, ids=[choice[0] for choice in CHOICES])
@pytest.mark.parametrize("host", ["127.0.0.1", LOOPBACK6])
def test_the_clients_own_addresses_arrive(
    haproxy: str, tmp_path: Path, host: str, options: str, version: int, checked: bool
) -> None:
    with listening(host) as front, proxied(haproxy, tmp_path, front, options) as back:
        for _ in range(3):
            with socket.create_connection(front.getsockname()[:2], SECONDS) as client:
                client.sendall(GREETING)
                header, peer = received(back)
                expected = ProxyHeader.of(client.getsockname(), client.getpeername(), version=version)
                assert (header.version, header.command, header.protocol) == (version, "PROXY", expected.protocol)
                assert header.source == client.getsockname() != peer
                assert header.destination == client.getpeername() == front.getsockname()
                assert (header.crc32c is not None) == checked
                # What we write of the same is what HAProxy has written.
                assert encode(header) == encode(expected, crc32c=checked)


def test_a_unique_id_arrives_beside_a_checksum(haproxy: str, tmp_path: Path) -> None:
    with (
        listening() as front,
        proxied(
            haproxy, tmp_path, front, "send-proxy-v2 proxy-v2-options unique-id,crc32c",
            frontend="unique-id-format id-%cp-%fp",
        ) as back,
        socket.create_connection(front.getsockname(), SECONDS) as client,
    ):  # fmt: skip
        client.sendall(GREETING)
        header, _ = received(back)
        assert header.source == client.getsockname()
        assert header.unique_id == f"id-{client.getsockname()[1]}-{front.getsockname()[1]}".encode()
        assert header.crc32c is not None


@pytest.mark.parametrize(("options", "version"), [("send-proxy", 1), ("send-proxy-v2", 2)])
def test_a_client_without_an_ip_address_is_told_as_such(
    haproxy: str, tmp_path: Path, options: str, version: int
) -> None:
    path = str(tmp_path / "front")
    with socket.socket(socket.AF_UNIX) as front:
        front.bind(path)
        front.listen()
        with proxied(haproxy, tmp_path, front, options) as back, socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            client.sendall(GREETING)
            header, _ = received(back)
    assert header.version == version
    # HAProxy 2.6 writes UNKNOWN in version 1, and in version 2 LOCAL, as for its own checks.
    assert header.protocol in ("UNKNOWN", "UNIX")
    assert header.source in (None, "")


@pytest.mark.parametrize(
    ("options", "version", "command"), [("send-proxy", 1, "PROXY"), ("send-proxy-v2", 2, "LOCAL")], ids=["v1", "v2"]
)
def test_haproxys_own_checks_are_told_from_clients(
    haproxy: str, tmp_path: Path, options: str, version: int, command: str
) -> None:
    with (
        listening() as front,
        proxied(haproxy, tmp_path, front, f"check inter 50ms check-send-proxy {options}") as back,
    ):
        for _ in range(2):
            header, peer = received(back, b"")
            assert (header.version, header.command) == (version, command)
            if command == "LOCAL":
                assert (header.protocol, header.source, header.destination) == ("UNKNOWN", None, None)
            else:
                assert header.source == peer and header.destination == back.getsockname()


# --- TLS ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for ``bücher.example`` and its key, in one file; the client and HAProxy show the same."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl on this machine: install Debian's package openssl")
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-utf8", "-subj", "/CN=bücher.example", "-days", "2",
         "-sha256", "-addext", "subjectAltName=DNS:xn--bcher-kva.example", "-keyout", folder / "key", "-out",
         folder / "cert"],
        check=True, capture_output=True, timeout=SECONDS,
    )  # fmt: skip
    both = folder / "both.pem"
    both.write_bytes((folder / "cert").read_bytes() + (folder / "key").read_bytes())
    return both


@pytest.mark.parametrize("shows_certificate", [True, False], ids=["with a certificate", "without"])
def test_what_haproxy_tells_of_tls_is_true(
    haproxy: str, tmp_path: Path, certificate: Path, shows_certificate: bool
) -> None:
    context = ssl.create_default_context(cafile=str(certificate))
    context.set_alpn_protocols(["jackfield/1"])
    if shows_certificate:
        context.load_cert_chain(certificate)
    with (
        listening() as front,
        proxied(
            haproxy, tmp_path, front,
            "send-proxy-v2 proxy-v2-options ssl,cert-cn,ssl-cipher,cert-sig,cert-key,authority,crc32c",
            bind=f"ssl crt {certificate} ca-file {certificate} verify optional alpn jackfield/1",
        ) as back,
        socket.create_connection(front.getsockname(), SECONDS) as client,
        context.wrap_socket(client, server_hostname="xn--bcher-kva.example") as secure,
    ):  # fmt: skip
        secure.sendall(GREETING)
        header, _ = received(back)
        cipher = secure.cipher()
        assert cipher is not None
        assert header.source == secure.getsockname()
        assert header.destination == front.getsockname()
        assert header.alpn == b"jackfield/1"
        assert header.authority == "xn--bcher-kva.example"
        assert header.crc32c is not None
        told = header.ssl
        assert told is not None
        assert told.client & 1
        assert told.verified is shows_certificate
        assert told.version == secure.version()
        assert told.cipher == cipher[0]
        assert told.cn == ("bücher.example" if shows_certificate else None)
        assert (told.sig_alg, told.key_alg) == ("RSA-SHA256", "RSA2048")


def test_send_proxy_v2_ssl_cn(haproxy: str, tmp_path: Path, certificate: Path) -> None:
    context = ssl.create_default_context(cafile=str(certificate))
    with (
        listening() as front,
        proxied(haproxy, tmp_path, front, "send-proxy-v2-ssl-cn", bind=f"ssl crt {certificate}") as back,
        socket.create_connection(front.getsockname(), SECONDS) as client,
        context.wrap_socket(client, server_hostname="xn--bcher-kva.example") as secure,
    ):
        secure.sendall(GREETING)
        header, _ = received(back)
        assert header.source == secure.getsockname()
        assert header.ssl is not None
        assert header.ssl.version == secure.version()
        assert not header.ssl.verified


# --- the other direction, and that the checks can fail --------------------------------------------------------------


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("pair", [("192.0.2.1", "198.51.100.7"), ("2001:db8::1", "::ffff:192.0.2.1")], ids=["v4", "v6"])
def test_haproxy_reads_what_we_write(haproxy: str, tmp_path: Path, version: int, pair: tuple[str, str]) -> None:
    sent = ProxyHeader.of((pair[0], 40000), (pair[1], 443), version=version)
    with (
        listening() as front,
        proxied(haproxy, tmp_path, front, "send-proxy-v2", bind="accept-proxy") as back,
        socket.create_connection(front.getsockname(), SECONDS) as client,
    ):
        client.sendall(encode(sent, crc32c=version == 2) + GREETING)
        header, _ = received(back)
    assert (header.protocol, header.source, header.destination) == (sent.protocol, sent.source, sent.destination)


def test_a_haproxy_that_sends_no_header_is_found(haproxy: str, tmp_path: Path) -> None:
    with (
        listening() as front,
        proxied(haproxy, tmp_path, front, "") as back,
        socket.create_connection(front.getsockname(), SECONDS) as client,
    ):
        client.sendall(GREETING)
        # A reset is what the client gets for its bytes that nobody has read.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with pytest.raises(ProxyError, match="something else begins at byte 1, in b'h'"):
            received(back)
