"""examples/socks5_proxy.py with curl, in front of an echo that says who it was asked by."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from collections.abc import Iterator

import pytest
from example_support import SECONDS, Program, both_ways, command, needs, port_of, served

import jackfield.testing
from ports import closed_port

COULD_NOT_CONNECT, PROXY_REFUSED = 7, 97  # of curl's exit codes


class Page(jackfield.StreamRequestHandler):
    """A web server of one page: whom it was asked for."""

    def handle(self) -> None:
        host = b""
        while (line := self.rfile.readline()).strip():
            if line.startswith(b"Host: "):
                host = line[6:].strip()
        self.wfile.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + host)


@contextlib.contextmanager
def page(host: str = "127.0.0.1") -> Iterator[int]:
    with jackfield.testing.serve(Page, address=f"tcp://{host}:0") as server:
        yield server.server_address[1]


@pytest.fixture(scope="module")
def proxy() -> Iterator[Program]:
    with served("python", "socks5_proxy:Socks5", "127.0.0.1:0") as it:
        yield it


def ask(it: Program, kind: str, url: str, *words: str, code: int = 0) -> subprocess.CompletedProcess[bytes]:
    asked = [needs("curl", "curl"), "-sS", "--max-time", "15", "--noproxy", "", kind, f"127.0.0.1:{port_of(it)}"]
    return command(*asked, *words, url, code=code)


@both_ways
@pytest.mark.parametrize("kind", ["--socks5", "--socks5-hostname"])
def test_curl_comes_through(how: str, kind: str) -> None:
    with page() as port, served(how, "socks5_proxy:Socks5", "127.0.0.1:0", mode="green") as it:
        for host in ("127.0.0.1", "localhost"):
            assert ask(it, kind, f"http://{host}:{port}/").stdout == f"{host}:{port}".encode()


def test_ipv6_in_and_out() -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    with page("[::1]") as port, served("python", "socks5_proxy:Socks5", "tcp://[::1]:0") as it:
        url = f"http://[::1]:{port}/"
        words = ["-sS", "--noproxy", "", "--socks5", f"[::1]:{port_of(it)}", "-g", url]
        assert command(needs("curl", "curl"), *words).stdout == f"[::1]:{port}".encode()


def test_a_password_is_asked_for_and_checked() -> None:
    variables = {"SOCKS5_USERS": "ann:secret,bob:two:parts"}
    with page() as port, served("python", "socks5_proxy:Socks5", "127.0.0.1:0", variables=variables) as it:
        url = f"http://127.0.0.1:{port}/"
        for right in ("ann:secret", "bob:two:parts"):
            assert ask(it, "--socks5", url, "--proxy-user", right).stdout
        for wrong in ("ann:wrong", "ann:", "eve:", "eve:secret"):
            assert b"rejected" in ask(it, "--socks5", url, "--proxy-user", wrong, code=PROXY_REFUSED).stderr
        assert b"No authentication method" in ask(it, "--socks5", url, code=PROXY_REFUSED).stderr


@pytest.mark.parametrize("url", ["http://192.0.2.1/", "http://[2001:db8::1]/", "http://[::ffff:192.0.2.1]/"])
def test_nobody_goes_where_nobody_may(proxy: Program, url: str) -> None:
    for kind in ("--socks5", "--socks5-hostname"):
        assert b"(2)" in ask(proxy, kind, url, "-g", code=PROXY_REFUSED).stderr


def test_a_name_is_judged_by_its_addresses() -> None:
    with page() as port, served(
        "python", "socks5_proxy:Socks5", "127.0.0.1:0", variables={"SOCKS5_ALLOW": "127.0.0.2,::2"}
    ) as it:  # fmt: skip
        told = ask(it, "--socks5-hostname", f"http://localhost:{port}/", code=PROXY_REFUSED).stderr
        assert b"(2)" in told


def test_what_cannot_be_reached_is_told(proxy: Program) -> None:
    with closed_port() as port:
        assert b"(5)" in ask(proxy, "--socks5", f"http://127.0.0.1:{port}/", code=PROXY_REFUSED).stderr


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b""),
        (b"\5\1\1", b"\5\xff"),  # GSSAPI alone
        (b"\5\1\0" + b"\5\2\0\1\x7f\0\0\1\0\1", b"\5\0" + b"\5\7\0\1\0\0\0\0\0\0"),  # BIND
        (b"\5\1\0" + b"\5\1\0\2", b"\5\0" + b"\5\x08\0\1\0\0\0\0\0\0"),
        (b"\5\1\0" + b"\5\1\0\3\0\0\1", b"\5\0" + b"\5\4\0\1\0\0\0\0\0\0"),  # a name without letters
        (b"\5\1\0" + b"\5\1\0\3\4a..b\0\1", b"\5\0" + b"\5\4\0\1\0\0\0\0\0\0"),
        (b"\5\1\0" + b"\5\1\0\3\x09192.0.2.1\0\1", b"\5\0" + b"\5\2\0\1\0\0\0\0\0\0"),  # an address as a name
        (b"\5\1\0" + b"\5\1\0\1\x7f", b"\5\0"),
    ],
)
def test_what_is_no_request_is_ended(proxy: Program, said: bytes, answer: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port_of(proxy)), SECONDS) as raw, raw.makefile("rb") as told:
        raw.sendall(said)
        came = b""
        with contextlib.suppress(OSError):  # what was not read makes a reset of the end
            raw.shutdown(socket.SHUT_WR)
            while byte := told.read(1):
                came += byte
        assert came == answer
