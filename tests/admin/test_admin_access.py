"""Who may ask: pages of other sites may not, nor who has no token, nor other machines; rubbish is no error of ours."""

from __future__ import annotations

import json
import random
import socket
from pathlib import Path
from typing import Any

import pytest
from admin_support import SECONDS, ask, seen
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jackfield.admin import AdminEndpoint
from jackfield.admin.api import ROUTES
from jackfield.admin.page import policy
from jackfield.errors import StartError

TOKEN = "correct-horse-battery"


def test_a_name_of_another_site_is_not_ours() -> None:
    """DNS rebinding: a page of evil.example has its own name lead to this machine."""
    with seen() as (_, endpoint):
        for host in ("evil.example", "evil.example:9998", "127.0.0.1.evil.example", "localhost.evil.example:1", ""):
            for path in ("/stats", "/livez", "/"):
                assert ask(endpoint, "GET", path, Host=host).status == 421, host
        for host in ("127.0.0.1", "localhost:9998", "[::1]:9998", "[::1]", "a.localhost"):
            assert ask(endpoint, "GET", "/stats", Host=host).status == 200, host


def test_who_changes_something_says_who_it_is() -> None:
    with seen() as (server, endpoint):
        host = endpoint.addresses[0].removeprefix("tcp://")
        assert ask(endpoint, "POST", "/drain", own=False).status == 403
        assert ask(endpoint, "POST", "/drain", own=False, Origin="http://evil.example").status == 403
        assert ask(endpoint, "POST", "/drain", Origin="http://evil.example").status == 403
        assert ask(endpoint, "POST", "/drain", own=False, Origin="null").status == 403
        assert server.state == "serving"
        assert ask(endpoint, "POST", "/drain", own=False, Origin=f"http://{host}").status == 200
        assert server.state == "suspended"


def test_looking_changes_nothing() -> None:
    with seen() as (server, endpoint):
        for route in ROUTES:
            if route.changes:
                told = ask(endpoint, "GET", route.path)
                assert told.status in (200, 405), route.path  # 200: what is set there can be seen there
        assert server.state == "serving"


def test_with_a_token_nobody_else_sees_more_than_whether_it_lives() -> None:
    with seen(token=TOKEN) as (_, endpoint):
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        for route in ROUTES:
            if route.method == "GET":
                path = "/events?count=1" if route.path == "/events" else route.path
                assert ask(endpoint, "GET", path).status == (200 if route.is_open else 401), route.path
                assert ask(endpoint, "GET", path, **bearer).status == 200
        assert ask(endpoint, "POST", "/drain").status == 401
        assert ask(endpoint, "POST", "/drain", own=False, Authorization="Bearer correct-horse").status == 401
        assert ask(endpoint, "POST", "/drain", own=False, Authorization=f"Basic {TOKEN}").status == 401
        assert ask(endpoint, "POST", "/drain", own=False, **bearer).status == 200


@pytest.mark.parametrize("where", ["tcp://:0", "tcp://0.0.0.0:0", "tcp://192.0.2.1:0", "tcp://[::]:0"])
def test_what_others_can_reach_needs_a_token(where: str) -> None:
    with pytest.raises(StartError, match="can be reached from other machines"):
        AdminEndpoint([], where)


def test_who_can_open_the_socket_file_may_all(tmp_path: Path) -> None:
    path = tmp_path / "ctl"
    with seen("green", f"unix:{path}?mode=600", token=TOKEN) as (server, _):
        assert path.stat().st_mode & 0o777 == 0o600
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(SECONDS)
            client.connect(str(path))
            client.sendall(b"POST /drain HTTP/1.1\r\nHost: whatever\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            assert client.makefile("rb").read().endswith(b'{"states": ["suspended"]}')
        assert server.state == "suspended"


def test_what_is_shown_runs_no_script_but_its_own() -> None:
    with seen() as (_, endpoint):
        told = ask(endpoint, "GET", "/")
        assert told.headers["Content-Security-Policy"] == policy()
        assert "default-src 'none'" in policy() and "unsafe" not in policy() and "connect-src 'self'" in policy()
        for path in ("/stats", "/nix"):
            assert ask(endpoint, "GET", path).headers["Content-Security-Policy"] == "default-src 'none'"
            assert ask(endpoint, "GET", path).headers["X-Content-Type-Options"] == "nosniff"


# -- rubbish -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/connections?sort=nix", None, 400),
        ("GET", "/connections?limit=-1", None, 400),
        ("GET", "/connections?limit=1_0", None, 400),
        ("GET", "/connections?limit=99999999999999999999", None, 400),
        ("GET", "/connections?nix=1", None, 400),
        ("GET", "/connections?limit=1&limit=2", None, 400),
        ("GET", "/connections?%ff=%ff", None, 400),
        ("GET", "/connections?&&&=", None, 400),
        ("POST", "/connections/close", {}, 400),
        ("POST", "/connections/close", {"id": 1, "worker": 7}, 400),
        ("POST", "/connections/close", {"id": 1, "server": 7}, 400),
        ("POST", "/connections/close", {"id": "x"}, 400),
        ("POST", "/connections/close", {"id": 1.5}, 400),
        ("POST", "/connections/close", {"id": True}, 400),
        ("POST", "/connections/close", "{", 400),
        ("POST", "/connections/close", "[" * 5000, 400),
        ("POST", "/connections/close", "[]", 400),
        ("POST", "/bans", {"peer": "nix"}, 400),
        ("POST", "/bans", {"peer": "192.0.2.1", "seconds": -1}, 400),
        ("POST", "/bans", '{"peer": "192.0.2.1", "seconds": NaN}', 400),
        ("POST", "/limits", {"values": {"max_line": "x"}}, 400),
        ("POST", "/limits", {"values": {"allow": "x"}}, 400),
        ("POST", "/limits", {"values": []}, 400),
        ("POST", "/workers/scale", {"workers": 2}, 400),
        ("POST", "/log/level", {"level": "loud"}, 400),
        ("POST", "/drain", "x" * 70000, 413),
        ("PUT", "/drain", None, 405),
        ("DELETE", "/", None, 405),
        ("GET", "/../../etc/passwd", None, 404),
    ],
)
def test_what_is_wrong_is_told_in_one_line(method: str, path: str, body: Any, status: int) -> None:
    with seen() as (_, endpoint):
        told = ask(endpoint, method, path, body)
        assert told.status == status
        assert "\n" not in told.json["error"] and told.json["error"]


def raw(endpoint: AdminEndpoint, data: bytes) -> bytes:
    """All that comes back, and the end."""
    host, port = endpoint.addresses[0].removeprefix("tcp://").rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=SECONDS) as client:
        try:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            return client.makefile("rb").read()
        except (ConnectionResetError, BrokenPipeError):
            return b""  # it had heard enough


def test_two_requests_of_one_body_are_not_two_requests() -> None:
    """Request smuggling: what belongs to a body is never read as a request."""
    with seen() as (server, endpoint):
        head = b"POST /resume HTTP/1.1\r\nHost: localhost\r\nX-Jackfield: 1\r\n"
        inner = b"POST /stop HTTP/1.1\r\nHost: localhost\r\nX-Jackfield: 1\r\n\r\n"
        for how in (
            b"Content-Length: 0\r\nContent-Length: %d\r\n\r\n" % len(inner),
            b"Transfer-Encoding: chunked\r\nContent-Length: %d\r\n\r\n" % len(inner),
            b"Content-Length: +0\r\n\r\n",
            b"Content-Length: 0x10\r\n\r\n",
            b"Content-Length: %d\r\n\r\n" % len(inner),
            b"Content-Length : 0\r\n\r\n",
        ):
            raw(endpoint, head + how + inner)
            assert server.state == "serving", how


def test_any_bytes_are_answered_or_ended_and_never_an_error_of_ours() -> None:
    """A walk over requests that are nearly right."""
    chance = random.Random(4711)
    good = b"GET /connections?limit=3 HTTP/1.1\r\nHost: localhost\r\nX-Jackfield: 1\r\nContent-Length: 2\r\n\r\n{}"
    with seen() as (server, endpoint):
        for _ in range(300):
            data = bytearray(good)
            for _ in range(chance.randrange(1, 6)):
                at = chance.randrange(len(data))
                match chance.randrange(3):
                    case 0:
                        data[at] = chance.randrange(256)
                    case 1:
                        del data[at : at + chance.randrange(1, 10)]
                    case 2:
                        data[at:at] = chance.randbytes(chance.randrange(1, 10))
            answer = raw(endpoint, bytes(data))
            assert b" 500 " not in answer.partition(b"\r\n")[0], bytes(data)
        assert ask(endpoint, "GET", "/livez").status == 200
        assert server.state == "serving"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=5,
)


def test_every_endpoint_takes_any_values_without_an_error_of_ours() -> None:
    """By the table itself: of each parameter a right value, a wrong one or none."""
    harmless = [route for route in ROUTES if route.path not in ("/stop", "/events")]
    with seen() as (_, endpoint):

        @given(st.data())
        @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
        def search(data: st.DataObject) -> None:
            route = data.draw(st.sampled_from(harmless))
            names = [parameter.name for parameter in route.parameters] + ["nix"]
            values = data.draw(st.dictionaries(st.sampled_from(names), VALUES, max_size=4))
            if route.changes:
                told = ask(endpoint, "POST", route.path, json.dumps(values))
            else:
                from urllib.parse import quote

                query = "&".join(
                    f"{name}={quote(str(value).encode('utf-8', 'replace'))}" for name, value in values.items()
                )
                told = ask(endpoint, "GET", f"{route.path}?{query}")
            assert told.status in (200, 400, 503), (route.path, values, told)

        search()
        assert ask(endpoint, "POST", "/log/level", {"level": "warning"}).status == 200
