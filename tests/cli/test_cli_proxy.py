"""The PROXY protocol on the command line: a client that sends a header, and a server that may be sent one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_support import Server, only_line, run

pytestmark = pytest.mark.slow

HANDLER = """
from jackfield import BaseRequestHandler

class Who(BaseRequestHandler):
    def handle(self):
        data = self.request.recv(100)
        header = self.request.proxy
        said = header and (header.version, header.command)
        self.request.sendall(f"{self.client_address} {said} {data}".encode())
"""


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("app")
    (folder / "who.py").write_text(HANDLER)
    return folder


@pytest.fixture(scope="module", params=["auto", "optional"])
def server(app: Path, request: pytest.FixtureRequest) -> Iterator[Server]:
    words = ["--proxy-protocol", request.param, "-b", "127.0.0.1:0", "-b", f"unix:{app / 's'}"]
    with Server("who:Who", "--app-dir", str(app), *words) as server:
        yield server
        assert server.end() == 0


def said(server: Server, *words: str, number: int = 0) -> str:
    done = run("connect", server.addresses[number], *words, data=b"hello")
    assert (done.returncode, done.stderr) == (0, b""), done
    return done.stdout.decode()


@pytest.mark.parametrize("version", [1, 2])
def test_a_header_of_this_connection(server: Server, version: int) -> None:
    words = ["--send-proxy", f"v{version}", "--source", "127.0.0.9"]
    assert re.fullmatch(rf"\('127\.0\.0\.9', \d+\) \({version}, 'PROXY'\) b'hello'", said(server, *words))


@pytest.mark.parametrize(
    ("source", "address"),
    [
        ("192.0.2.7:4711", "('192.0.2.7', 4711)"),
        ("192.0.2.7", "('192.0.2.7', 0)"),
        ("2001:db8::1", "('2001:db8::1', 0, 0, 0)"),
        ("[2001:db8::1]:4711", "('2001:db8::1', 4711, 0, 0)"),
    ],
)
def test_a_header_of_somebody_else(server: Server, source: str, address: str) -> None:
    for number in range(2):
        words = ["--send-proxy", "v2", "--proxy-source", source]
        assert said(server, *words, number=number) == f"{address} (2, 'PROXY') b'hello'"


def test_over_a_unix_socket_there_is_nothing_to_tell(server: Server) -> None:
    assert re.fullmatch(r"Credentials\(.*\) \(2, 'LOCAL'\) b'hello'", said(server, "--send-proxy", "v2", number=1))


def test_without_a_header_only_where_it_may_be_left_out(server: Server) -> None:
    done = run("connect", server.address, data=b"hello")
    if "optional" in server.process.args:
        assert re.fullmatch(r"\('127\.0\.0\.1', \d+\) None b'hello'", done.stdout.decode())
    else:
        assert done.stdout == b""


@pytest.mark.parametrize(
    ("words", "code", "wanted"),
    [
        ("connect 127.0.0.1:1 --proxy-source 192.0.2.7", 2, "--proxy-source goes with --send-proxy v1 or v2"),
        ("connect 127.0.0.1:1 --send-proxy v3", 2, "--send-proxy/--proxy-protocol: no 'v3'; There is: v1, v2"),
        ("connect udp://127.0.0.1:1 --send-proxy v2", 2, "--send-proxy begins a stream, and udp://127.0.0.1:1 is none"),
        ("serve --proxy-protocol maybe", 2, "There is: off, auto, v1, v2, optional"),
        ("serve --proxy-allow-from 10.0.0.5", 2, "--proxy-allow-from goes with --proxy-protocol"),
    ],
)
def test_what_cannot_be_meant_is_one_line(words: str, code: int, wanted: str) -> None:
    done = run(*words.split())
    assert done.returncode == code
    assert wanted in only_line(done.stderr)


def test_a_name_is_no_client_that_a_header_could_tell_of(server: Server) -> None:
    done = run("connect", server.address, "--send-proxy", "v2", "--proxy-source", "localhost:1")
    assert done.returncode == 2
    assert "carries IP addresses and no names, not 'localhost': resolve it" in only_line(done.stderr)
