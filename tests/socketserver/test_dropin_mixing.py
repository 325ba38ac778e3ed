"""Our mix-ins over the standard library's servers, their mix-ins over ours, and http.server made on top of ours."""

from __future__ import annotations

import contextlib
import http.server
import importlib.util
import os
import socketserver as std
import sys
import threading
import types
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from dropin_support import SOON, address_for, ask, children, connect, serving, until

from jackfield import MisuseError
from jackfield import socketserver as ours


class Echo(ours.BaseRequestHandler[Any]):
    def handle(self) -> None:
        while data := self.request.recv(1024):
            self.request.sendall(data.upper())


class EchoDatagram(ours.BaseRequestHandler[Any]):
    def handle(self) -> None:
        self.request[1].sendto(self.request[0].upper(), self.client_address)


class Page(http.server.BaseHTTPRequestHandler):
    """Answers each request with the path, and which process and thread it runs in."""

    def do_GET(self) -> None:
        body = f"{self.path} {os.getpid()} {threading.current_thread().name}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def get(server: Any, path: str = "/page") -> list[str]:
    url = f"http://127.0.0.1:{server.server_address[1]}{path}"
    with urllib.request.urlopen(url, timeout=SOON) as response:
        return response.read().decode().split(" ", 2)  # type: ignore[no-any-return]


# -- over the standard library's ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", [std.TCPServer, std.UnixStreamServer, http.server.HTTPServer])
@pytest.mark.parametrize("mixin", [ours.ThreadingMixIn, ours.ForkingMixIn])
def test_threads_and_processes_over_a_server_of_theirs(mixin: Any, base: Any) -> None:
    """``class S(ThreadingMixIn, HTTPServer)`` is the commonest idiom of all users of the module."""
    mixed = type("Mixed", (mixin, base), {})
    with address_for("UnixStream" if base is std.UnixStreamServer else "TCP") as address:
        with mixed(address, Echo) as server, serving(server, close=False):
            with connect(server) as first, connect(server) as second:
                for client in (second, first):  # neither waits for the other
                    client.sendall(b"hello")
                    assert client.recv(100) == b"HELLO"
                for client in (first, second):
                    client.shutdown(1)
                    assert client.recv(100) == b""
    assert not children()


@pytest.mark.parametrize("mixin", [ours.ThreadingMixIn, ours.ForkingMixIn])
def test_datagrams_over_a_server_of_theirs(mixin: Any) -> None:
    mixed = type("Mixed", (mixin, std.UDPServer), {})
    with mixed(("127.0.0.1", 0), EchoDatagram) as server, serving(server, close=False), connect(server) as client:
        for _ in range(3):
            client.send(b"hello")
            assert client.recv(100) == b"HELLO"


def test_http_over_a_server_of_theirs() -> None:
    class Server(ours.ThreadingMixIn, http.server.HTTPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Page) as server, serving(server, close=False):
        path, pid, thread = get(server)
        assert path == "/page"
        assert int(pid) == os.getpid()
        assert thread != "serves"
        until(lambda: not server._threads)


def test_max_threads_over_a_server_of_theirs_bounds_them() -> None:
    """Their loop does not ask whether there is room: it is process_request() that may have to wait for some."""

    class Server(ours.ThreadingMixIn, std.TCPServer):
        max_threads = 2

    with Server(("127.0.0.1", 0), Echo) as server, serving(server, close=False), contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(server)) for _ in range(4)]
        for client in clients:
            client.sendall(b"x")
        for client in clients[:2]:
            assert client.recv(10) == b"X"
        assert len(server._threads) <= 2
        clients[0].close()
        clients[1].close()
        for client in clients[2:]:
            assert client.recv(10) == b"X"
            assert len(server._threads) <= 2
            client.close()


@pytest.mark.parametrize("mixin", [ours.GreenMixIn, ours.AsyncMixIn])
@pytest.mark.parametrize("base", [std.TCPServer, http.server.HTTPServer])
def test_green_threads_over_a_server_of_theirs_are_refused(mixin: Any, base: Any) -> None:
    """Their listener and connections would stop the loop; the error shows what to write."""
    with pytest.raises(MisuseError, match=r"jackfield\.socketserver"):
        type("Mixed", (mixin, base), {})(("127.0.0.1", 0), Echo).server_close()


@pytest.mark.parametrize("mixin", [std.ThreadingMixIn, std.ForkingMixIn])
def test_their_mixins_over_a_server_of_ours(mixin: Any) -> None:
    """Half of a program has changed its import."""
    mixed = type("Mixed", (mixin, ours.TCPServer), {"timeout": 1})
    with mixed(("127.0.0.1", 0), Echo) as server:
        with serving(server, close=False, poll_interval=0.05):
            assert ask(server) == b"HELLO"
            with connect(server) as first, connect(server) as second:
                for client in (second, first):
                    client.sendall(b"hello")
                    assert client.recv(100) == b"HELLO"
                for client in (first, second):
                    client.shutdown(1)
                    assert client.recv(100) == b""


def test_their_handlers_on_servers_of_ours() -> None:
    class Lines(std.StreamRequestHandler):
        def handle(self) -> None:
            for line in self.rfile:
                self.wfile.write(line.upper())

    for cls in (ours.TCPServer, ours.ThreadingTCPServer, ours.GreenTCPServer, ours.ForkingTCPServer):
        with cls(("127.0.0.1", 0), Lines) as server, serving(server, close=False):
            assert ask(server, b"one\ntwo") == b"ONE\nTWO"


# -- http.server on top of ours ----------------------------------------------------------------------------------------


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    """A private copy of http.server that found our module when it said ``import socketserver``."""
    monkeypatch.setitem(sys.modules, "socketserver", ours)
    spec = importlib.util.find_spec("http.server")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.undo()
    yield module


def test_http_server_on_top_of_ours(web: types.ModuleType) -> None:
    assert web.HTTPServer.__mro__[1:] == ours.TCPServer.__mro__
    assert web.ThreadingHTTPServer.__mro__[1] is ours.ThreadingMixIn
    handler = type("Handler", (web.BaseHTTPRequestHandler,), {n: vars(Page)[n] for n in ("do_GET", "log_message")})
    made: dict[str, Any] = {
        "serial": web.HTTPServer,
        "threads": web.ThreadingHTTPServer,
        "processes": type("Forking", (ours.ForkingMixIn, web.HTTPServer), {}),
        "green": type("Green", (ours.GreenMixIn, web.HTTPServer), {}),
    }
    for name, cls in made.items():
        with cls(("127.0.0.1", 0), handler) as server, serving(server, close=False):
            assert server.server_port == server.server_address[1], "its own server_bind was called"
            for number in range(3):
                path, pid, thread = get(server, f"/{number}")
                assert path == f"/{number}"
                assert (int(pid) != os.getpid()) == (name == "processes")
                assert (thread == "serves") == (name in ("serial", "green", "processes"))


def test_files_of_http_server_on_top_of_ours(web: types.ModuleType, tmp_path: Any) -> None:
    (tmp_path / "file.txt").write_bytes(b"contents" * 100_000)

    class Files(web.SimpleHTTPRequestHandler):  # type: ignore[name-defined,misc]
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=tmp_path)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    for mixin in (ours.ThreadingMixIn, ours.GreenMixIn):
        with type("Server", (mixin, web.HTTPServer), {})(("127.0.0.1", 0), Files) as server:
            with serving(server, close=False):
                url = f"http://127.0.0.1:{server.server_port}/file.txt"
                with urllib.request.urlopen(url, timeout=SOON) as response:
                    assert response.read() == b"contents" * 100_000


@pytest.mark.parametrize("module", [std, ours], ids=["theirs", "ours"])
def test_a_mixin_in_the_wrong_place_is_as_there(module: Any) -> None:
    """Behind the server it mixes nothing in: serial, without a word. The broken case for the first test here."""
    seen: list[str] = []

    class Notes(Echo):
        def handle(self) -> None:
            seen.append(threading.current_thread().name)

    wrong = type("Wrong", (module.TCPServer, module.ThreadingMixIn), {})
    with wrong(("127.0.0.1", 0), Notes) as server, serving(server, close=False):
        assert ask(server) == b""
    assert seen == ["serves"]
