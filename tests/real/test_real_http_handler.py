"""A web handler of one's own on the standard library's ``BaseHTTPRequestHandler``, under servers composed of ours."""

from __future__ import annotations

import hashlib
import http.client
import http.server
import json
import socket
import threading
import urllib.request
from typing import Any

import pytest
from real_support import (
    SECONDS,
    ComposedGreenServer,
    ComposedThreadServer,
    Meeting,
    all_at_once,
    client_of,
    command,
    serving,
    url_of,
)

from jackfield import MisuseError, socketserver

CLIENTS = 40

by_kind = pytest.mark.parametrize("kind", [ComposedThreadServer, ComposedGreenServer], ids=lambda kind: kind.mode)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/meet" and not self.server.meeting.enter():  # type: ignore[attr-defined]
            self.send_error(503, "nobody else came")
            return
        self._answer(json.dumps({"path": self.path, "host": self.headers["Host"]}).encode())

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(f"{len(body)} {hashlib.sha256(body).hexdigest()}".encode())

    def do_PUT(self) -> None:
        """A body in chunks, answered in chunks (RFC 9112, 7.1), each of them as it comes."""
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while size := int(self.rfile.readline(), 16):
            chunk = self.rfile.read(size + 2)
            self.wfile.write(b"%x\r\n" % size + chunk[:-2].upper() + b"\r\n")
        self.rfile.readline()
        self.wfile.write(b"0\r\n\r\n")

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Impatient(Handler):
    timeout = 0.05


@by_kind
@pytest.mark.parametrize("size", [0, 10, 3_000_000])
def test_a_body_is_received_whole(kind: Any, size: int, curl: str) -> None:
    body = (b"0123456789" * (size // 10 + 1))[:size]
    expected = f"{size} {hashlib.sha256(body).hexdigest()}".encode()
    with serving(kind, Handler) as server:
        # Of a large body curl asks first whether it is wanted (Expect: 100-continue), and waits for the answer.
        asked = command(curl, "-sS", "--fail", "-H", "Expect: 100-continue", "--expect100-timeout", str(SECONDS),
                        "--data-binary", "@-", url_of(server), data=body)  # fmt: skip
        assert asked == expected
        with urllib.request.urlopen(url_of(server), data=body, timeout=SECONDS) as response:
            assert response.read() == expected


@by_kind
def test_chunks_both_ways(kind: Any, curl: str) -> None:
    body = b"the quick brown fox\n" * 50_000
    with serving(kind, Handler) as server:
        chunked = ["-H", "Transfer-Encoding: chunked", "-H", "Expect:", "--upload-file", "-"]
        assert command(curl, "-sS", "--fail", *chunked, url_of(server), data=body) == body.upper()


@by_kind
def test_requests_sent_ahead_are_answered_in_order(kind: Any) -> None:
    with serving(kind, Handler) as server:
        with socket.create_connection(server.server_address, SECONDS) as client:
            paths = [f"/{index}" for index in range(50)]
            client.sendall("".join(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n" for path in paths).encode())
            client.shutdown(socket.SHUT_WR)
            with client.makefile("rb") as answers:
                for path in paths:
                    assert answers.readline() == b"HTTP/1.1 200 OK\r\n"
                    headers = http.client.parse_headers(answers)
                    assert json.loads(answers.read(int(headers["Content-Length"])))["path"] == path
                assert answers.read() == b""


@by_kind
def test_handlers_run_at_the_same_time(kind: Any) -> None:
    with serving(kind, Handler, meeting=Meeting(CLIENTS)) as server:

        def meet(_: int) -> str:
            with urllib.request.urlopen(url_of(server, "/meet"), timeout=2 * SECONDS) as response:
                return json.load(response)["path"]  # type: ignore[no-any-return]

        assert all_at_once(meet, CLIENTS) == ["/meet"] * CLIENTS


def test_one_after_the_other_they_never_meet() -> None:
    with socketserver.TCPServer(("127.0.0.1", 0), Handler) as server:
        server.meeting = Meeting(2, patience=0.2)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            with client_of(server) as first, client_of(server) as second:
                for connection in (first, second):
                    connection.request("GET", "/meet", headers={"Connection": "close"})
                assert first.getresponse().status == 503
        finally:
            server.shutdown()
            thread.join()


@by_kind
def test_a_connection_that_rests_too_long_is_closed(kind: Any) -> None:
    with serving(kind, Impatient) as server:
        with client_of(server) as connection:
            connection.request("GET", "/first")
            assert connection.getresponse().read()
            assert connection.sock is not None
            assert connection.sock.recv(1) == b""


def test_our_threads_over_a_server_class_that_derives_from_theirs() -> None:
    class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
        daemon_threads = True
        meeting = Meeting(2)

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:

            def meet(_: int) -> int:
                with urllib.request.urlopen(url_of(server, "/meet"), timeout=SECONDS) as response:
                    return response.status  # type: ignore[no-any-return]

            assert all_at_once(meet, 2) == [200, 200]
        finally:
            server.shutdown()
            thread.join()


def test_our_green_threads_over_such_a_class_are_refused_with_the_right_call() -> None:
    with pytest.raises(MisuseError, match=r"class HTTPServer\(jackfield.socketserver.GreenTCPServer\)"):

        class Server(socketserver.GreenMixIn, http.server.HTTPServer):
            pass
