"""A client that begins with a PROXY header: connect() in each world, and what the header of a socket says; and whether
a stream begins with one at all."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from proxy_support import AFTER, SIGNATURE, v2

import jackfield
from jackfield import AddressError, MisuseError
from jackfield.connecting import async_connect
from jackfield.proxyheader import ProxyHeader, encode, own_header
from jackfield.proxyproto import LONGEST_BEGINNING, ProxyParser, begins_header
from jackfield.tls import self_signed

SECONDS = 20.0
SOMEBODY = ProxyHeader.of(("192.0.2.7", 4711), ("198.51.100.1", 443))


# --- connecting -----------------------------------------------------------------------------------------------------


def in_a_thread(*arguments: Any, **more: Any) -> socket.socket:
    return jackfield.connect(*arguments, **more)


def in_a_green_thread(*arguments: Any, **more: Any) -> socket.socket:
    sock: socket.socket = jackfield.run(lambda: jackfield.connect(*arguments, **more))
    return sock


def in_a_coroutine(*arguments: Any, **more: Any) -> socket.socket:
    return asyncio.run(async_connect(*arguments, **more))


WORLDS = [in_a_thread, in_a_green_thread, in_a_coroutine]


@contextlib.contextmanager
def listening(host: str = "127.0.0.1", path: Path | None = None) -> Iterator[socket.socket]:
    family = socket.AF_UNIX if path else socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.settimeout(SECONDS)
        listener.bind(str(path) if path else (host, 0))
        listener.listen()
        yield listener


def said_to(listener: socket.socket) -> bytes:
    """All that the next client says."""
    connection, _ = listener.accept()
    said = b""
    with connection:
        connection.settimeout(SECONDS)
        while part := connection.recv(1000):
            said += part
    return said


@pytest.mark.parametrize("connect", WORLDS)
@pytest.mark.parametrize("header", [SOMEBODY, ProxyHeader(2, "LOCAL"), ProxyHeader(1)], ids=["PROXY", "LOCAL", "v1"])
def test_the_header_comes_before_all_else(connect: Callable[..., socket.socket], header: ProxyHeader) -> None:
    with listening() as listener:
        with connect(listener.getsockname(), SECONDS, proxy_header=header) as client:
            assert client.gettimeout() is None
            client.sendall(AFTER)
        assert said_to(listener) == encode(header) + AFTER


@pytest.mark.parametrize("connect", WORLDS)
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_version_is_the_header_of_its_own_addresses(
    connect: Callable[..., socket.socket], version: int, host: str
) -> None:
    with listening(host) as listener:
        with connect(listener.getsockname()[:2], proxy_header=version) as client:
            me = client.getsockname()
        assert said_to(listener) == encode(ProxyHeader.of(me, listener.getsockname(), version=version))


@pytest.mark.parametrize("connect", WORLDS)
def test_a_unix_socket_has_nothing_to_tell(connect: Callable[..., socket.socket], tmp_path: Path) -> None:
    with listening(path=tmp_path / "s") as listener:
        for version, expected in ((1, ProxyHeader(1)), (2, ProxyHeader(2, "LOCAL"))):
            connect(f"unix:{tmp_path / 's'}", proxy_header=version).close()
            assert said_to(listener) == encode(expected)


@pytest.mark.parametrize("connect", WORLDS)
def test_what_cannot_be_meant_is_told_before_anything_is_opened(connect: Callable[..., socket.socket]) -> None:
    with pytest.raises(MisuseError, match="begins a stream"):
        connect("udp://127.0.0.1:1", proxy_header=2)
    with pytest.raises(MisuseError, match="begins a stream"):
        connect("unixpacket:/nowhere", proxy_header=2)
    for wrong in (3, "v1", b"PROXY UNKNOWN\r\n"):
        with pytest.raises(MisuseError, match="no PROXY header"):
            connect("127.0.0.1:1", proxy_header=wrong)
    with pytest.raises(AddressError):
        connect("127.0.0.1:0", proxy_header=2)


@pytest.mark.parametrize("connect", WORLDS)
@pytest.mark.parametrize("secured", [False, True])
def test_a_server_of_ours_takes_it_before_tls(connect: Callable[..., socket.socket], secured: bool) -> None:
    tls = self_signed() if secured else None

    class Who(jackfield.BaseRequestHandler[Any]):
        def handle(self) -> None:
            self.request.sendall(f"{self.client_address}".encode())

    with jackfield.Server(Who, "tcp://127.0.0.1:0", mode="thread", tls=tls, proxy_protocol=True) as server:
        with contextlib.ExitStack() as stack:
            client = stack.enter_context(connect(server.addresses[0], SECONDS, proxy_header=SOMEBODY))
            client.settimeout(SECONDS)
            if tls is not None:
                context = ssl.create_default_context(cafile=str(tls.cert))
                client = stack.enter_context(context.wrap_socket(client, server_hostname="localhost"))
            assert client.recv(100) == b"('192.0.2.7', 4711)"


@pytest.mark.parametrize("connect", WORLDS)
def test_what_fails_while_it_is_sent_leaves_nothing_open(
    connect: Callable[..., socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever can go wrong there, for the sockets of which a header cannot be told too."""
    closed: list[int] = []

    def no_header(_: Any, sock: socket.socket) -> bytes:
        closed.append(sock.fileno())
        raise ConnectionResetError(104, "Connection reset by peer")

    monkeypatch.setattr("jackfield.beginning.Beginning._header_of", no_header)
    with listening() as listener:
        with pytest.raises(ConnectionResetError, match=r"tcp://127\.0\.0\.1:\d+"):
            connect(listener.getsockname(), SECONDS, proxy_header=2)
        assert said_to(listener) == b""
    assert len(closed) == 1


# --- the header of a socket -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def connected(host: str) -> Iterator[socket.socket]:
    with listening(host) as listener, socket.create_connection(listener.getsockname()[:2], SECONDS) as client:
        accepted: list[socket.socket] = []
        thread = threading.Thread(target=lambda: accepted.append(listener.accept()[0]))
        thread.start()
        thread.join(SECONDS)
        with accepted[0]:
            yield client


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("host", "source", "shown", "where"),
    [
        ("127.0.0.1", ("192.0.2.7", 1), ("192.0.2.7", 1), "127.0.0.1"),
        ("::1", ("2001:db8::1", 1), ("2001:db8::1", 1, 0, 0), "::1"),
        ("127.0.0.1", ("2001:db8::1", 0), ("2001:db8::1", 0, 0, 0), "::ffff:127.0.0.1"),
        ("::1", ("192.0.2.7", 1), ("::ffff:192.0.2.7", 1, 0, 0), "::1"),
    ],
)
def test_a_client_of_either_family_can_be_told_of(
    host: str, source: tuple[str, int], shown: Any, where: str, version: int
) -> None:
    with connected(host) as sock:
        header = own_header(sock, version, source)
        assert header.source == shown
        assert header.destination is not None and header.destination[:2] == (where, sock.getpeername()[1])
        assert header.version == version


@pytest.mark.parametrize(
    ("source", "destination"), [(("192.0.2.7", 1), ("0.0.0.0", 0)), (("2001:db8::1", 1), ("::", 0, 0, 0)), ("/x", "")]
)
def test_a_client_that_comes_by_a_unix_socket_can_be_told_of(source: Any, destination: Any) -> None:
    one, other = socket.socketpair()
    with one, other:
        header = own_header(one, 2, source)
        assert (header.source, header.destination) == (ProxyHeader.of(source, source).source, destination)


def test_a_name_is_no_address() -> None:
    with connected("127.0.0.1") as sock, pytest.raises(ValueError, match="IP addresses and no names"):
        own_header(sock, 2, ("localhost", 1))


# --- whether there is one -------------------------------------------------------------------------------------------

HEADERS = [encode(SOMEBODY), encode(ProxyHeader(2, "LOCAL")), encode(ProxyHeader(1)), v2(0x99, 0x99), b"PROXY \n"]


@pytest.mark.parametrize("data", HEADERS)
def test_a_header_is_told_by_its_first_bytes_right_or_wrong(data: bytes) -> None:
    verdicts = [begins_header(data[:size]) for size in range(len(data) + 1)]
    known = verdicts.index(True)
    assert known <= LONGEST_BEGINNING
    assert verdicts == [None] * known + [True] * (len(data) + 1 - known)


beginnings = st.builds(lambda data, size, rest: data[:size] + rest, st.sampled_from(HEADERS), st.integers(0, 14),
                       st.binary(max_size=6)) | st.binary(max_size=20)  # fmt: skip


@given(beginnings)
def test_the_verdict_never_changes_and_the_parser_takes_nothing_else(data: bytes) -> None:
    verdicts = [begins_header(data[:size]) for size in range(len(data) + 1)]
    settled = [verdict for verdict in verdicts if verdict is not None]
    assert verdicts == [None] * (len(verdicts) - len(settled)) + settled
    assert len(set(settled)) <= 1
    assert settled or len(data) < LONGEST_BEGINNING
    if False in settled:
        with pytest.raises(jackfield.JackfieldError):
            ProxyParser().feed(data)


def test_what_only_resembles_one_is_none() -> None:
    assert begins_header(b"PROXY") is None
    assert begins_header(b"PROXY\r\n") is False
    assert begins_header(SIGNATURE[:-1] + b"\r") is False
