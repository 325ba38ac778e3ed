"""The endpoint's HTTP: the standard library's own parser, on a server of ours."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler
from typing import Any, ClassVar
from urllib.parse import parse_qsl, urlsplit

from ..admission import Credentials
from ..journal.escaping import one_line
from .access import Access, Denied
from .api import ROUTES, STEP, Admin, Answer, Stream
from .desk import BadQuestion
from .inquiry import Unanswered
from .page import policy
from .routes import Route, find

__all__ = ["Endpoint"]

_log = logging.getLogger("jackfield.admin")

#: Bytes of a request's body at most, and values of a query.
LARGEST, MOST_VALUES = 65536, 20


class Endpoint(BaseHTTPRequestHandler):
    """One connection of a client. A subclass has ``admin`` and ``access``."""

    admin: ClassVar[Admin]
    access: ClassVar[Access] = Access()

    protocol_version = "HTTP/1.1"
    server_version = "jackfield"
    sys_version = ""
    timeout = 60

    def do_GET(self) -> None:
        try:
            body = self._body()
            path, query = self._target()
            route = find(ROUTES, self.command, path)
            if not isinstance(route, Route):
                self._refuse_route(path, route)
                return
            self.access.check(
                self._headers(), trusted=isinstance(self.client_address, Credentials), is_open=route.is_open,
                changes=route.changes,
            )  # fmt: skip
            values = route.read(_object(body) if route.changes and not query else query)
            answer = route.serve(self.admin, **values)
        except Denied as error:
            self._tell(error.status, str(error))
        except BadQuestion as error:
            self._tell(400, str(error))
        except Unanswered as error:
            self._tell(503, str(error))
        except Exception:
            _log.exception("%s %s failed", self.command, one_line(self.path))
            self._tell(500, "failed; the log says why")
        else:
            self._send(route, answer)

    do_POST = do_HEAD = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_GET

    # -- what came -----------------------------------------------------------------------------------------------------

    def _headers(self) -> Mapping[str, str]:
        """With those that are of no use twice told as none: two hosts are no host."""
        names = ("Host", "Origin", "Authorization", "X-Jackfield")
        found = {name: self.headers.get_all(name, []) for name in names}
        return {name: values[0] for name, values in found.items() if len(values) == 1}

    def _target(self) -> tuple[str, dict[str, str]]:
        try:
            parts = urlsplit(self.path)
            pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query), errors="strict",
                              max_num_fields=MOST_VALUES)  # fmt: skip
        except ValueError:
            raise BadQuestion("the query cannot be read: write ?name=value&name=value") from None
        values = dict(pairs)
        if len(values) != len(pairs):
            raise BadQuestion("a value is there twice")
        return parts.path, values

    def _body(self) -> bytes:
        """What belongs to this request is read in any case, so that the next one begins where it does."""
        if self.headers.defects or any(name != name.strip() for name in self.headers):
            # What one reader takes for a header and another does not is how requests are smuggled (RFC 9112 5.1).
            self.close_connection = True
            raise BadQuestion("the headers cannot be read: write NAME: VALUE")
        if "Transfer-Encoding" in self.headers:
            self.close_connection = True
            raise Denied(411, "send the body with a Content-Length")
        lengths = self.headers.get_all("Content-Length", [])
        if not lengths:
            return b""
        if len(lengths) > 1 or not (lengths[0].isascii() and lengths[0].isdigit()) or len(lengths[0]) > 18:
            self.close_connection = True
            raise BadQuestion("Content-Length is no length")
        if int(lengths[0]) > LARGEST:
            self.close_connection = True
            raise Denied(413, f"at most {LARGEST} bytes")
        return self.rfile.read(int(lengths[0]))

    # -- what goes -----------------------------------------------------------------------------------------------------

    def _send(self, route: Route, answer: Any) -> None:
        if isinstance(answer, Stream):
            self._stream(answer)
            return
        if not isinstance(answer, Answer):
            answer = Answer(answer)
        body = answer.body if isinstance(answer.body, str) else json.dumps(answer.body, allow_nan=False)
        self._begin(answer.status, answer.kind, body.encode())

    def _begin(self, status: int, kind: str, body: bytes | None, **more: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Content-Security-Policy", policy() if kind.startswith("text/html") else "default-src 'none'")
        for name, value in more.items():
            self.send_header(name, value)
        if body is None or self.close_connection:
            self.close_connection = True
            self.send_header("Connection", "close")
        if body is not None:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if body is not None and self.command != "HEAD":
            self.wfile.write(body)

    def _stream(self, stream: Stream) -> None:
        self._begin(200, "text/event-stream", None)
        sent = 0
        draining = self.server.draining  # type: ignore[attr-defined]
        while self.command != "HEAD":
            try:
                event = json.dumps(stream.next(), allow_nan=False)
                self.wfile.write(f"data: {event}\n\n".encode())
            except Unanswered as error:
                self.wfile.write(f": {error}\n\n".encode())
            sent += 1
            if sent == stream.count or draining.wait(STEP):
                return

    def _refuse_route(self, path: str, methods: tuple[str, ...]) -> None:
        if not methods:
            self._tell(404, f"nothing is at {one_line(path)[:100]}; /openapi.json tells what there is")
            return
        allowed = ", ".join((*methods, "HEAD") if "GET" in methods else methods)
        self._tell(405, f"{one_line(path)} is for {allowed}", Allow=allowed)

    def _tell(self, status: int, text: str, **more: str) -> None:
        self._begin(status, "application/json", json.dumps({"error": text}).encode(), **more)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the parser finds wrong: said in one line here, too."""
        self.close_connection = True
        if getattr(self, "request_version", "HTTP/0.9") == "HTTP/0.9":
            self.request_version = "HTTP/1.0"
        self.command = getattr(self, "command", None) or "GET"
        text = one_line(message or self.responses.get(code, ("no request of HTTP", ""))[0])
        self._tell(code, text)

    def log_message(self, format: str, *args: Any) -> None:
        _log.debug("%s %s", self.address_string(), one_line(format % args))

    def address_string(self) -> str:
        return ascii(self.client_address)


def _object(body: bytes) -> dict[str, Any]:
    if not body.strip():
        return {}
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise BadQuestion("the body is no JSON: send an object such as {}") from None
    if not isinstance(value, dict):
        raise BadQuestion("the body is no object of JSON: send one such as {}")
    return value
