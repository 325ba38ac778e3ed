"""The admin page in a real Chromium: what it shows, what its buttons do, and what it never does.

``SCREENSHOTS=1`` writes the pictures of the docs anew.
"""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Browser, browser, missing

sys.path.append(str(Path(__file__).parents[1] / "admin"))
from admin_support import SECONDS, Lines, client_of, say, seen

from jackfield import Server
from jackfield.admin import AdminEndpoint

pytestmark = [pytest.mark.slow, pytest.mark.skipif(missing() is not None, reason=missing() or "")]

PICTURES = Path(__file__).parents[2] / "docs" / "images"

#: Rows of the table of connections, the words of each.
ROWS = "return [...document.querySelectorAll('#connections tbody tr')].map((row) => row.innerText)"
HAS_ROWS = "return document.querySelectorAll('#connections tbody tr').length === arguments[0]"


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One browser for all: it takes seconds to start."""
    with browser(tmp_path_factory.mktemp("profile")) as one:
        yield one


def page_of(endpoint: AdminEndpoint) -> str:
    return endpoint.addresses[0].replace("tcp://", "http://") + "/"


def look(window: Browser, endpoint: AdminEndpoint, rows: int) -> None:
    window.size(1200, 1600)
    window.log()
    window.go(page_of(endpoint))
    window.until("return document.querySelectorAll('#connections .bar span')[0].textContent !== ''")
    window.until(HAS_ROWS, rows)


def problems(log: list[dict[str, Any]]) -> list[str]:
    """What the page was refused, or failed at."""
    return [str(one["params"]) for one in log if one["method"] in ("Log.entryAdded", "Runtime.exceptionThrown")]


def test_a_connection_is_shown_and_its_button_closes_it(window: Browser) -> None:
    with seen() as (server, endpoint), client_of(server) as client, client_of(server) as other:
        assert say(client, b"hello\n") == b"HELLO\n"
        say(other, b"hello again\n")
        look(window, endpoint, 2)
        name = "{}:{}".format(*client.getsockname())
        (row,) = [row for row in window.run(ROWS) if name in row]
        assert re.search(r"6 B\s+6 B\s+to receive", row)
        window.click(f'button[aria-label$="of {name}"]')
        assert client.recv(10) == b""
        window.until(HAS_ROWS, 1)
        assert say(other, b"still there\n") == b"STILL THERE\n"


def test_it_is_live_under_load(window: Browser) -> None:
    with seen() as (server, endpoint):
        look(window, endpoint, 0)
        clients = [socket.create_connection(server.server_address[:2], timeout=SECONDS) for _ in range(500)]
        try:
            for client in clients:
                client.sendall(b"hello\n")
            window.until("return document.querySelector('#overview .card b').textContent === '500'")
            window.until(HAS_ROWS, 200)
            assert "500 of 500, the first 200 of them" in window.text()
            window.until("return document.querySelectorAll('#overview polyline').length === 4")
            port = clients[3].getsockname()[1]
            window.run("const box = document.getElementById('filter'); box.value = arguments[0];"
                       " box.dispatchEvent(new Event('input'))", f":{port}")  # fmt: skip
            window.until(HAS_ROWS, 1)
        finally:
            for client in clients:
                client.close()


def test_what_a_peer_says_is_shown_as_text(window: Browser) -> None:
    """The handler's error has what the client has sent: markup, and what steers a terminal."""

    class Quotes(Lines):
        def handle(self) -> None:
            raise ValueError(self.rfile.readline().decode())

    evil = b"<img src=x onerror=document.title='owned'><script>document.title='owned'</script>\x1b[31m\n"
    with Server(Quotes, "tcp://127.0.0.1:0", mode="thread", name="<b>evil</b>") as server:
        with AdminEndpoint([server], "tcp://127.0.0.1:0", name="<i>name</i>") as endpoint:
            with client_of(server) as client:
                client.sendall(evil)
                assert client.recv(10) == b""
            look(window, endpoint, 0)
            window.until("return document.querySelector('#errors summary') !== null")
            told = window.run("return document.querySelector('#errors').textContent")
            assert "<img src=x onerror=" in told and "\\x1b[31m" in told
            assert window.run("return document.querySelectorAll('#errors img, #errors script, b b, h1 i').length") == 0
            assert "<b>evil</b>" in window.text() and "<i>name</i>" in window.text()
            assert "owned" not in window.run("return document.title")


def test_no_request_leaves_the_origin_and_nothing_is_refused(window: Browser) -> None:
    with seen() as (server, endpoint), client_of(server) as client:
        say(client, b"hello\n")
        look(window, endpoint, 1)
        window.until("return document.querySelectorAll('#limits tbody tr').length > 10")
        log = window.log()
        asked = {one["params"]["request"]["url"] for one in log if one["method"] == "Network.requestWillBeSent"}
        assert len(asked) > 4
        assert {url for url in asked if not url.startswith((page_of(endpoint), "data:"))} == set()
        assert problems(log) == []


def test_what_the_page_does_not_bring_along_is_refused(window: Browser) -> None:
    """The broken case: a script that is put into the page, and a picture from elsewhere."""
    with seen() as (_, endpoint):
        look(window, endpoint, 0)
        window.run(
            "const made = document.createElement('script'); made.textContent = 'window.broken = 1';"
            "document.body.append(made); const seen = new Image(); seen.src = 'http://127.0.0.1:1/x.png';"
            "window.refused = 0; document.addEventListener('securitypolicyviolation', () => { window.refused += 1 });"
            "document.body.append(seen)"
        )
        window.until("return window.refused > 0")
        assert window.run("return window.broken") is None


def test_at_the_width_of_a_phone_nothing_is_beside_the_screen(window: Browser) -> None:
    with seen() as (server, endpoint), client_of(server) as client:
        say(client, b"hello\n")
        look(window, endpoint, 1)
        window.until("return document.querySelectorAll('#limits tbody tr').length > 10")
        for width in (320, 400, 768):
            window.size(width, 800)
            window.until("return document.documentElement.scrollWidth <= arguments[0]", width)


def test_light_and_dark(window: Browser) -> None:
    with seen() as (_, endpoint):
        look(window, endpoint, 0)
        paper = "return getComputedStyle(document.body).backgroundColor"
        found = {}
        for scheme in ("light", "dark"):
            window.scheme(scheme)
            found[scheme] = sum(map(int, re.findall(r"\d+", window.run(paper))))
        assert found["light"] > 600 and found["dark"] < 150


def test_by_keyboard_alone(window: Browser) -> None:
    tab, enter, escape = "\ue004", "\ue007", "\ue00c"
    with seen() as (server, endpoint), client_of(server) as client:
        say(client, b"hello\n")
        look(window, endpoint, 1)
        window.press(tab)
        assert window.run("return document.activeElement.className") == "skip"
        wanted = "return (document.activeElement.getAttribute('aria-label') || '').startsWith('Close connection')"
        for _ in range(80):
            window.press(tab)
            if window.run(wanted):
                break
        assert window.run(wanted), "the button can be reached"
        outline = window.run("return getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid", "and is seen to be"
        window.press(escape, enter)
        assert client.recv(10) == b""


def test_a_token_is_asked_for(window: Browser) -> None:
    with seen(token="correct-horse-battery") as (_, endpoint):
        window.go(page_of(endpoint))
        window.until("return !document.getElementById('login').hidden")
        window.run("document.getElementById('token').value = 'correct-horse-battery'")
        window.click("#login button")
        window.until("return document.getElementById('state').textContent === 'ready'")
        assert window.run("return document.getElementById('login').hidden")
        window.run("sessionStorage.clear()")


def test_drain_and_resume_by_its_buttons(window: Browser) -> None:
    with seen() as (server, endpoint):
        look(window, endpoint, 0)
        window.click('button[data-key="drain"]')
        window.accept()
        window.until("return document.getElementById('state').textContent === 'suspended'")
        assert server.state == "suspended"
        window.click('button[data-key="resume"]')
        window.until("return document.getElementById('state').textContent === 'ready'")


def test_that_the_server_has_gone_is_told(window: Browser) -> None:
    with seen() as (_, endpoint):
        look(window, endpoint, 0)
    window.until("return document.getElementById('state').textContent === 'gone'")
    window.until("return document.getElementById('problem').textContent.includes('trying again')")


def test_pictures_for_the_docs(window: Browser, tmp_path: Path) -> None:
    folder = PICTURES if os.environ.get("SCREENSHOTS") else tmp_path
    folder.mkdir(exist_ok=True)
    with seen() as (server, endpoint):
        clients = [socket.create_connection(server.server_address[:2], timeout=SECONDS) for _ in range(6)]
        try:
            for client in clients[:5]:
                assert say(client, b"hello\n") == b"HELLO\n"
            clients[5].sendall(b"fail\n")
            look(window, endpoint, 5)
            window.until("return document.querySelectorAll('#overview polyline').length === 4")
            for scheme in ("light", "dark"):
                window.scheme(scheme)
                window.size(1100, 900)
                window.picture(folder / f"admin-{scheme}.png")
                assert (folder / f"admin-{scheme}.png").read_bytes()[:4] == b"\x89PNG"
        finally:
            window.scheme("light")
            for client in clients:
                client.close()
