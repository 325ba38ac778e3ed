"""``connect`` over TLS: what passes, whom it believes, how it ends, and the one line for each way in which it fails."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cli_support import SECONDS, Server, only_line, run

from authorities import DAY, NOW, Authority

pytestmark = pytest.mark.slow


class Pair(NamedTuple):
    cert: str
    key: str


class Papers:
    """The files of an authority, and of some whom nobody should believe."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.authority, self.stranger, self.alone = Authority("an authority"), Authority("a stranger"), Authority("me")
        self.ca = self.write("ca.pem", self.authority.pem())
        self.stranger_ca = self.write("stranger.pem", self.stranger.pem())
        self.right = self.pair("right", self.authority, "localhost", "127.0.0.1")
        self.client = self.pair("client", self.authority, "a client")
        self.strange_client = self.pair("strange", self.stranger, "a stranger")
        self.wrong = {
            "expired": self.pair("expired", self.authority, "127.0.0.1", starts=NOW - 2 * DAY, ends=NOW - DAY),
            "early": self.pair("early", self.authority, "127.0.0.1", starts=NOW + DAY),
            "another": self.pair("another", self.authority, "elsewhere.example"),
            "untrusted": self.pair("untrusted", self.stranger, "127.0.0.1"),
            "alone": Pair(self.write("alone.pem", self.alone.pem()), self.write("alone.key", self.alone.private())),
        }

    def write(self, name: str, content: bytes) -> str:
        (self._folder / name).write_bytes(content)
        return str(self._folder / name)

    def pair(self, name: str, by: Authority, *names: str, **how: Any) -> Pair:
        cert, key = by.issue(*names, **how)
        return Pair(self.write(f"{name}.cert", cert), self.write(f"{name}.key", key))


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    return Papers(tmp_path_factory.mktemp("papers"))


@pytest.fixture(scope="module")
def server(papers: Papers) -> Iterator[Server]:
    """The upper-case echo of ``jackfield serve``, over TLS."""
    words = ["-b", "tls://127.0.0.1:0", "--tls-cert", papers.right.cert, "--tls-key", papers.right.key]
    with Server(*words) as server:
        yield server
        assert server.end() == 0


def context_of(pair: Pair, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*pair)
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context


@contextlib.contextmanager
def serving(context: ssl.SSLContext, talk: Callable[[ssl.SSLSocket], None]) -> Iterator[str]:
    """A server by Python's own TLS for one connection, which ``talk`` has; its address. It is told of a stream that was
    cut. A handshake that fails is the client's affair; what ``talk`` raises fails the test."""
    failure: list[BaseException] = []

    def serve() -> None:
        conn, _ = listener.accept()
        conn.settimeout(SECONDS)
        with contextlib.ExitStack() as ends:
            ends.callback(conn.close)
            try:
                sock = context.wrap_socket(conn, server_side=True, suppress_ragged_eofs=False)
            except OSError:
                return
            ends.enter_context(sock)
            try:
                talk(sock)
            except BaseException as error:
                failure.append(error)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(SECONDS)
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield "tls://127.0.0.1:{}".format(*listener.getsockname()[1:])
        finally:
            thread.join(SECONDS)
    assert not failure, failure


# -- what passes -------------------------------------------------------------------------------------------------------


def test_a_pipe(server: Server, papers: Papers) -> None:
    done = run("connect", server.address, "--tls-ca", papers.ca, data=b"hello")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"HELLO", b"")


def test_five_megabytes_there_and_back(server: Server, papers: Papers) -> None:
    data = os.urandom(5 << 19).hex().encode()
    done = run("connect", server.address, "--tls-ca", papers.ca, data=data)
    assert (done.returncode, done.stderr, done.stdout == data.upper()) == (0, b"", True)


def test_tls_by_a_flag_and_by_a_name(server: Server, papers: Papers) -> None:
    plain = f"tcp{server.address[3:]}"
    words = ["--tls", "--tls-ca", papers.ca, "--servername", "localhost"]
    assert run("connect", plain, *words, data=b"x").stdout == b"X"


def test_what_was_agreed_is_said(server: Server, papers: Papers) -> None:
    done = run("connect", server.address, "--tls-ca", papers.ca, "-z")
    assert done.returncode == 0
    assert only_line(done.stderr).startswith(f"{server.address} is open (TLSv1.3, TLS_")


def test_a_smoke_test(server: Server, papers: Papers) -> None:
    words = ["--tls-ca", papers.ca, "--send", "one\\n", "--expect", "ONE", "--send", "two\\n", "--expect", "TWO"]
    done = run("connect", server.address, *words)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"ONETWO", b"")  # that server strips its lines


def test_what_is_no_text_is_no_traffic(server: Server, papers: Papers) -> None:
    """A server sends tickets behind the handshake (RFC 8446 4.6.1): the descriptor is readable, nothing has come."""
    done = run("connect", server.address, "--tls-ca", papers.ca, "-i", "100ms", "--recv-only")
    assert done.returncode == 1
    assert only_line(done.stderr).endswith("nothing passed for 0.1s (-i)")


def test_many_records_at_once_are_all_shown(papers: Papers) -> None:
    """What one read of the descriptor brings may be several records, of which it tells once; and the end with them."""
    parts: list[bytes] = [b"%d\n" % number for number in range(300)]

    def talk(sock: ssl.SSLSocket) -> None:
        assert sock.recv(10) == b"go\n"
        for part in parts:
            sock.sendall(part)  # a record each
        with contextlib.suppress(OSError):
            sock.unwrap()

    with serving(context_of(papers.right), talk) as address:
        words = ["--tls-ca", papers.ca, "--send", "go\\n", "--expect", "(?s)299\n"]
        done = run("connect", address, *words)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"".join(parts), b"")


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("flag", ["--send-proxy", "--proxy-protocol"])
def test_the_proxy_header_comes_first(papers: Papers, flag: str, version: str) -> None:
    words = ["-b", "tls://127.0.0.1:0?proxy=auto", "--tls-cert", papers.right.cert, "--tls-key", papers.right.key]
    with Server(*words) as server:
        address = server.address.partition("?")[0]
        done = run("connect", address, "--tls-ca", papers.ca, flag, version, data=b"x")
        assert (done.returncode, done.stdout, done.stderr) == (0, b"X", b"")
        assert run("connect", address, "--tls-ca", papers.ca, data=b"x").returncode == 1  # the broken case: no header
        assert server.end() == 0


def test_a_certificate_of_its_own_and_a_protocol(papers: Papers) -> None:
    context = context_of(papers.right)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(papers.ca)
    context.set_alpn_protocols(["echo/1"])

    def talk(sock: ssl.SSLSocket) -> None:
        certificate: Any = sock.getpeercert()
        sock.sendall(f"{certificate['subject'][0][0][1]}, {sock.selected_alpn_protocol()}".encode())
        sock.unwrap()

    with serving(context, talk) as address:
        mine = ["--tls-cert", papers.client.cert, "--tls-key", papers.client.key, "--alpn", "no,echo/1"]
        done = run("connect", address, "--tls-ca", papers.ca, *mine)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"a client, echo/1", b"")


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_openssls_server(papers: Papers, version: str) -> None:
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("no openssl on this machine: install Debian's package openssl")
    command = [program, "s_server", "-rev", "-cert", papers.right.cert, "-key", papers.right.key, version]
    command += ["-accept", "127.0.0.1:0", "-naccept", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        try:
            assert process.stdout is not None
            where = next(line for line in iter(process.stdout.readline, b"") if line.startswith(b"ACCEPT "))
            words = ["--tls-ca", papers.ca, "--send", "hello\\n", "--expect", "olleh"]
            done = run("connect", f"tls://{where.split()[1].decode()}", *words)
            assert (done.returncode, done.stdout, done.stderr) == (0, b"olleh\n", b"")
            process.wait(SECONDS)
        finally:
            process.kill()


# -- how it ends -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_it_says_goodbye(papers: Papers, version: ssl.TLSVersion) -> None:
    """``recv()`` of the server's raises SSLEOFError where the stream ends without a close_notify."""
    heard: list[bytes] = []

    def talk(sock: ssl.SSLSocket) -> None:
        while data := sock.recv(100):
            heard.append(data)
        sock.sendall(b"goodbye")  # it has ended its own direction, and reads on
        sock.unwrap()

    with serving(context_of(papers.right, version), talk) as address:
        done = run("connect", address, "--tls-ca", papers.ca, data=b"hello")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"goodbye", b"")
    assert b"".join(heard) == b"hello"


def test_a_stream_that_is_cut_is_told(papers: Papers) -> None:
    def talk(sock: ssl.SSLSocket) -> None:
        assert sock.recv(10) == b"x"
        sock.sendall(b"half of")
        socket.socket.shutdown(sock, socket.SHUT_WR)
        with contextlib.suppress(ssl.SSLError):
            sock.recv(10)

    with serving(context_of(papers.right), talk) as address:
        done = run("connect", address, "--tls-ca", papers.ca, data=b"x")
    assert (done.returncode, done.stdout) == (1, b"half of")
    assert f"{address} ended without TLS's goodbye: what came may have been cut" in only_line(done.stderr)


# -- whom it does not believe ------------------------------------------------------------------------------------------

WRONG = {
    "expired": "has expired: it needs a new one; -k talks to it unchecked",
    "early": "is not valid yet: is this machine's clock right?; -k",
    "another": "is not for 127.0.0.1: --servername NAME says whom it has to be for; -k",
    "untrusted": "is by an authority that is not trusted here: --tls-ca FILE names it; -k",
    "alone": "is signed by itself: --tls-ca FILE trusts it, where FILE is that certificate; -k",
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_certificate_is_one_line_that_says_what_to_do(papers: Papers, kind: str) -> None:
    heard: list[bytes] = []

    def talk(sock: ssl.SSLSocket) -> None:
        heard.append(sock.recv(100))
        sock.unwrap()

    with serving(context_of(papers.wrong[kind]), talk) as address:
        done = run("connect", address, "--tls-ca", papers.ca, data=b"a secret")
    assert (done.returncode, done.stdout, heard) == (1, b"", [])
    assert f"{address}: its certificate {WRONG[kind]}" in only_line(done.stderr)
    with serving(context_of(papers.wrong[kind]), talk) as address:
        assert run("connect", address, "-k", data=b"hello").returncode == 0
    assert heard == [b"hello"]


@pytest.mark.parametrize("remedy", ["another", "untrusted"])
def test_the_remedy_that_the_line_names_helps(papers: Papers, remedy: str) -> None:
    words = {
        "another": ["--tls-ca", papers.ca, "--servername", "elsewhere.example"],
        "untrusted": ["--tls-ca", papers.stranger_ca],
    }
    with serving(context_of(papers.wrong[remedy]), lambda sock: sock.unwrap() and None) as address:
        assert run("connect", address, *words[remedy]).returncode == 0


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("mine", ["none", "strange"])
def test_a_server_that_refuses_this_side(papers: Papers, version: ssl.TLSVersion, mine: str) -> None:
    context = context_of(papers.right, version)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(papers.ca)
    strange = papers.strange_client
    words = [] if mine == "none" else ["--tls-cert", strange.cert, "--tls-key", strange.key]

    def refuses(sock: ssl.SSLSocket) -> None:
        raise AssertionError("it took a client that it should not have taken")

    with serving(context, refuses) as address:
        done = run("connect", address, "--tls-ca", papers.ca, *words)
    assert done.returncode == 1
    said = only_line(done.stderr)
    assert "wants a certificate from its clients" in said if mine == "none" else "does not trust who signed" in said


def test_a_server_without_tls_and_a_silent_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        where = "127.0.0.1:{}".format(*listener.getsockname()[1:])
        done = run("connect", f"tls://{where}", "-k", "-w", "50ms")
        assert done.returncode == 1
        assert f"tls://{where} says nothing of TLS within 0.05s: does it speak TLS?" in only_line(done.stderr)

        def plain() -> None:
            listener.accept()[0].close()  # the one that has given up
            with listener.accept()[0] as conn:
                conn.sendall(b"220 welcome\r\n")
                conn.recv(1 << 16)

        listener.settimeout(SECONDS)
        thread = threading.Thread(target=plain)
        thread.start()
        done = run("connect", f"tls://{where}", "-k")
        thread.join(SECONDS)
        assert done.returncode == 1
        assert only_line(done.stderr).endswith("it does not speak TLS: leave TLS out, and write tcp:// in place of tls://")


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("127.0.0.1:1 --tls-ca a.pem", "--tls-ca is for TLS: write tls://HOST:PORT, or add --tls"),
        ("127.0.0.1:1 -k", "-k is for TLS: write tls://HOST:PORT, or add --tls"),
        ("udp://127.0.0.1:1 --tls", "TLS is for a stream, and udp://127.0.0.1:1 is none"),
        ("tls://127.0.0.1:1 -k --tls-ca a.pem", "-k checks nothing, and --tls-ca is for checking: choose one"),
        ("tls://127.0.0.1:1 --tls-key a.key", "--tls-key goes with --tls-cert FILE"),
        ("tls://127.0.0.1:1 --alpn h2,", "--alpn: a protocol of ALPN has 1 to 255 letters of ASCII, not ''"),
        ("unix:/s --tls", "whose certificate is to be there, at unix:/s? Add --servername NAME"),
        ("tls://127.0.0.1:1?cert=a.pem -k", "cert= is for who listens there: leave it out; --tls-cert is this side's"),
        ("tls://127.0.0.1:1 --cafile a.pem", "there is no --cafile: write --tls-ca FILE"),
        ("tls://127.0.0.1:1 --tls-ca /no/such.pem", "no such file: /no/such.pem"),
    ],
)
def test_what_cannot_be_meant_is_one_line(words: str, wanted: str) -> None:
    done = run("connect", *words.split())
    assert done.returncode == 2
    assert wanted in only_line(done.stderr)
