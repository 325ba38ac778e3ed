"""The standard library's WSGI handlers on servers composed of ours."""

from __future__ import annotations

import hashlib
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any
from wsgiref.simple_server import ServerHandler, WSGIRequestHandler
from wsgiref.validate import validator

import pytest
from real_support import (
    SECONDS,
    ComposedGreenServer,
    ComposedThreadServer,
    GreenServer,
    Meeting,
    ThreadServer,
    all_at_once,
    client_of,
    command,
    serving,
    url_of,
)

from jackfield.reactor import in_green

CLIENTS = 30
LINES = 2000


class WSGI:
    """Mix-in: what ``WSGIServer`` adds to the server below it."""

    application: Any = None

    def server_bind(self) -> None:
        super().server_bind()  # type: ignore[misc]
        host, port = self.server_address[:2]  # type: ignore[attr-defined]
        self.base_environ = {
            "SERVER_NAME": host,
            "SERVER_PORT": str(port),
            "GATEWAY_INTERFACE": "CGI/1.1",
            "SCRIPT_NAME": "",
            "REMOTE_HOST": "",
            "CONTENT_LENGTH": "",
        }

    def get_app(self) -> Any:
        return self.application


class ThreadSite(WSGI, ThreadServer):
    pass


class GreenSite(WSGI, GreenServer):
    pass


class ComposedThreadSite(WSGI, ComposedThreadServer):
    pass


class ComposedGreenSite(WSGI, ComposedGreenServer):
    pass


SITES = [ThreadSite, GreenSite, ComposedThreadSite, ComposedGreenSite]
by_kind = pytest.mark.parametrize("kind", SITES, ids=lambda kind: kind.__name__)


def site(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
    """Lines, each written when it is made; a body is answered with its hash."""
    if environ["PATH_INFO"] == "/fail":
        raise RuntimeError("as asked")
    start_response("200 OK", [("Content-Type", "text/plain")])
    if environ["REQUEST_METHOD"] == "POST":
        digest = hashlib.sha256(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
        return iter([digest.hexdigest().encode()])
    return (f"{environ['PATH_INFO']} {index}\n".encode() for index in range(LINES))


def page(path: str) -> bytes:
    return "".join(f"{path} {index}\n" for index in range(LINES)).encode()


def get(url: str, data: bytes | None = None) -> bytes:
    with urllib.request.urlopen(url, data=data, timeout=SECONDS) as response:
        return response.read()  # type: ignore[no-any-return]


@by_kind
def test_an_application_that_keeps_to_the_protocol(kind: Any, curl: str) -> None:
    with serving(kind, WSGIRequestHandler, application=validator(site)) as server:
        assert get(url_of(server, "/a")) == page("/a")
        assert command(curl, "-sS", "--fail", url_of(server, "/b")) == page("/b")
        assert command(curl, "-sS", "--head", url_of(server, "/b")).startswith(b"HTTP/1.0 200 OK\r\n")
        body = bytes(range(256)) * 8000
        assert get(url_of(server, "/"), body).decode() == hashlib.sha256(body).hexdigest()


@by_kind
def test_requests_at_the_same_time(kind: Any) -> None:
    meeting = Meeting(CLIENTS)

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        assert meeting.enter()
        return site(environ, start_response)

    with serving(kind, WSGIRequestHandler, application=application) as server:
        found = all_at_once(lambda number: get(url_of(server, f"/{number}")), CLIENTS)
        assert found == [page(f"/{number}") for number in range(CLIENTS)]


@by_kind
def test_an_application_that_fails_is_a_500_and_the_next_is_served(
    kind: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    with serving(kind, WSGIRequestHandler, application=site) as server:
        for _ in range(2):
            with client_of(server) as connection:
                connection.request("GET", "/fail")
                assert connection.getresponse().status == 500
            assert get(url_of(server, "/a")) == page("/a")
    assert capfd.readouterr().err.count("RuntimeError: as asked") == 2


@by_kind
def test_what_the_application_is_told(kind: Any) -> None:
    told: list[Any] = []

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        told.append({**environ, "green": in_green(), "handled by": type(start_response.__self__)})  # type: ignore[attr-defined]
        start_response("200 OK", [])
        return [b"ok"]

    with serving(kind, WSGIRequestHandler, application=application) as server:
        assert get(url_of(server, "/where?what=1")) == b"ok"
        (environ,) = told
        assert environ["PATH_INFO"] == "/where" and environ["QUERY_STRING"] == "what=1"
        assert environ["REMOTE_ADDR"] == "127.0.0.1"
        assert environ["SERVER_PORT"] == str(server.server_address[1])
        assert environ["green"] is (server.mode == "green")
        assert issubclass(environ["handled by"], ServerHandler)


def test_a_page_that_is_not_whole_would_be_found() -> None:
    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        lines = site(environ, start_response)
        next(lines)
        return lines

    with serving(GreenSite, WSGIRequestHandler, application=application) as server:
        assert get(url_of(server, "/a")) != page("/a")
