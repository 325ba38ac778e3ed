"""The standard library's file server, unchanged, on threads and on green threads of ours, under curl and urllib."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import http.server
import io
import logging
import os
import re
import socket
import struct
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from real_support import (
    SECONDS,
    GreenServer,
    ThreadServer,
    all_at_once,
    check_ours,
    client_of,
    command,
    serving,
    url_of,
)

KINDS = [ThreadServer, GreenServer]
SIZES = {"empty": 0, "one": 1, "page": 4096, "below-64k": 65535, "above-64k": 65537, "big": 8 << 20}
ROUNDS = 6

by_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.mode)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of files of several sizes, in which no two blocks are alike."""
    root = tmp_path_factory.mktemp("tree")
    for name, size in SIZES.items():
        blocks = (hashlib.sha256(f"{name} {index}".encode()).digest() for index in range(-(-size // 32)))
        (root / f"{name}.bin").write_bytes(b"".join(blocks)[:size])
    (root / "folder").mkdir()
    (root / "folder" / "index.html").write_text("<p>the index</p>")
    (root / "plain").mkdir()
    (root / "plain" / "grüße & more.txt").write_text("a name to be quoted")
    return root


class KeptAlive(http.server.SimpleHTTPRequestHandler):
    """One attribute changed: many requests on one connection."""

    protocol_version = "HTTP/1.1"


def file_server(kind: Any, tree: Path, handler: Any = http.server.SimpleHTTPRequestHandler) -> Any:
    return serving(kind, partial(handler, directory=str(tree)))


def fetch(url: str, **options: Any) -> bytes:
    with urllib.request.urlopen(urllib.request.Request(url, **options), timeout=SECONDS) as response:
        return response.read()  # type: ignore[no-any-return]


def check_files(tree: Path, get: Callable[[str], bytes]) -> None:
    """AssertionError unless each file comes as it lies there."""
    for name, size in SIZES.items():
        content = (tree / f"{name}.bin").read_bytes()
        found = get(f"/{name}.bin")
        assert len(found) == size, f"{name}: {len(found)} bytes of {size}"
        assert found == content, f"{name}: other bytes"


# -- whole files -------------------------------------------------------------------------------------------------------


@by_kind
@pytest.mark.parametrize("handler", [http.server.SimpleHTTPRequestHandler, KeptAlive], ids=["1.0", "1.1"])
def test_curl_gets_each_file_whole(kind: Any, handler: Any, tree: Path, curl: str) -> None:
    with file_server(kind, tree, handler) as server:
        check_files(tree, lambda path: command(curl, "-sS", "--fail", url_of(server, path)))


@by_kind
@pytest.mark.parametrize("handler", [http.server.SimpleHTTPRequestHandler, KeptAlive], ids=["1.0", "1.1"])
def test_urllib_gets_each_file_whole(kind: Any, handler: Any, tree: Path) -> None:
    with file_server(kind, tree, handler) as server:
        check_files(tree, lambda path: fetch(url_of(server, path)))


@by_kind
def test_head_has_the_length_and_no_body(kind: Any, tree: Path, curl: str) -> None:
    with file_server(kind, tree) as server:
        told = command(curl, "-sS", "--head", url_of(server, "/big.bin")).decode()
        assert told.startswith("HTTP/1.0 200 ")
        assert f"Content-Length: {SIZES['big']}" in told
        assert fetch(url_of(server, "/big.bin"), method="HEAD") == b""


@by_kind
def test_folders_quoted_names_and_what_is_not_there(kind: Any, tree: Path, curl: str) -> None:
    with file_server(kind, tree) as server:
        # Redirected to the folder with a slash behind it, and from there to its index.
        assert command(curl, "-sSL", "--fail", url_of(server, "/folder")) == b"<p>the index</p>"
        listing = fetch(url_of(server, "/plain/")).decode()
        (link,) = re.findall('href="([^"]*)"', listing)
        assert fetch(url_of(server, f"/plain/{link}")) == b"a name to be quoted"
        with pytest.raises(urllib.error.HTTPError, match="404") as missing:
            fetch(url_of(server, "/nothing"))
        missing.value.close()
        with pytest.raises(urllib.error.HTTPError, match="501") as unknown:
            fetch(url_of(server, "/"), data=b"POST is not for this handler")
        unknown.value.close()
        outside = command(curl, "-sS", "--path-as-is", "-o", os.devnull, "-w", "%{http_code}", url_of(server, "/../x"))
        assert outside == b"404"


# -- many requests -----------------------------------------------------------------------------------------------------


@by_kind
def test_many_requests_on_one_connection(kind: Any, tree: Path, curl: str) -> None:
    with file_server(kind, tree, KeptAlive) as server:
        with client_of(server) as connection:

            def get(path: str) -> bytes:
                connection.request("GET", path)
                return connection.getresponse().read()

            for _ in range(ROUNDS):
                check_files(tree, get)
            assert len(server.connections) == 1
            assert server.connections[0].sent > ROUNDS * SIZES["big"]
        urls = [url_of(server, f"/{name}.bin") for name in SIZES]
        outputs = [word for _ in urls for word in ("-o", os.devnull)]
        made = command(curl, "-sS", "--fail", "-w", "%{num_connects}", *outputs, *urls)
        assert made == b"1" + b"0" * (len(urls) - 1)
        assert len(server.seen) == 2


@by_kind
@pytest.mark.parametrize("handler", [http.server.SimpleHTTPRequestHandler, KeptAlive], ids=["1.0", "1.1"])
def test_curls_in_parallel(kind: Any, handler: Any, tree: Path, tmp_path: Path, curl: str) -> None:
    names = [name for name in SIZES for _ in range(ROUNDS)]
    with file_server(kind, tree, handler) as server:

        def one_curl(number: int) -> None:
            """Eight transfers at once by each of four curls."""
            words = []
            for index, name in enumerate(names):
                words += ["-o", str(tmp_path / f"{number}-{index}"), url_of(server, f"/{name}.bin")]
            command(curl, "-sS", "--fail", "--parallel", "--parallel-immediate", "--parallel-max", "8", *words)

        all_at_once(one_curl, 4)
        for number in range(4):
            for index, name in enumerate(names):
                found = (tmp_path / f"{number}-{index}").read_bytes()
                assert found == (tree / f"{name}.bin").read_bytes(), f"curl {number}: {name}"


# -- peers that misbehave ----------------------------------------------------------------------------------------------


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.005)


@by_kind
def test_who_leaves_early_is_nobodys_fault(
    kind: Any, tree: Path, curl: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with file_server(kind, tree) as server, caplog.at_level(logging.DEBUG):
        for _ in range(3):
            process = subprocess.Popen(
                [curl, "-sS", "--limit-rate", "100k", url_of(server, "/big.bin")], stdout=subprocess.PIPE
            )
            assert process.stdout is not None
            assert process.stdout.read(1000)
            process.kill()
            process.wait()
            process.stdout.close()
            with socket.create_connection(server.server_address, SECONDS) as client:
                client.sendall(b"GET /big.bin HTTP/1.0\r\n\r\n")
                assert client.recv(100).startswith(b"HTTP/1.0 200")
                # Closed with a reset, and with much on its way.
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        _until(lambda: not server.connections)
        check_files(tree, lambda path: fetch(url_of(server, path)))
    assert [record for record in caplog.records if record.name == "jackfield.server" and record.levelno > 10] == []
    assert "Traceback" not in capfd.readouterr().err


@contextlib.contextmanager
def stalled(server: Any, number: int) -> Iterator[None]:
    """Clients that have sent half a request and nothing more."""
    with contextlib.ExitStack() as clients:
        for index in range(number):
            client = clients.enter_context(socket.create_connection(server.server_address, SECONDS))
            client.sendall(b"GET /one.bin HTTP/1.0\r\nX-Half: "[: 5 + index])
        _until(lambda: len(server.seen) >= number)
        yield


@by_kind
def test_stalled_clients_stop_nobody(kind: Any, tree: Path, curl: str) -> None:
    with file_server(kind, tree) as server:
        with stalled(server, 20):
            check_files(tree, lambda path: command(curl, "-sS", "--fail", url_of(server, path)))
            _until(lambda: len(server.connections) == 20)
        _until(lambda: not server.connections)


# -- the checks can fail -----------------------------------------------------------------------------------------------


class LosesAByte(http.server.SimpleHTTPRequestHandler):
    def copyfile(self, source: Any, outputfile: Any) -> None:
        super().copyfile(io.BytesIO(source.read()[:-1]), outputfile)


class SwapsTwo(http.server.SimpleHTTPRequestHandler):
    def copyfile(self, source: Any, outputfile: Any) -> None:
        content = source.read()
        super().copyfile(io.BytesIO(content[:-2] + content[-2:][::-1]), outputfile)


@by_kind
@pytest.mark.parametrize(("handler", "said"), [(LosesAByte, "IncompleteRead|bytes of"), (SwapsTwo, "other bytes")])
def test_a_file_that_is_not_whole_is_found(kind: Any, handler: Any, said: str, tree: Path) -> None:
    with (
        file_server(kind, tree, handler) as server,
        pytest.raises((AssertionError, http.client.IncompleteRead), match=said),
    ):
        check_files(tree, lambda path: fetch(url_of(server, path)))


class _Wrong(GreenServer):
    mode = "thread"


def test_a_server_of_another_mode_is_found(tree: Path) -> None:
    with pytest.raises(AssertionError, match="not on a thread of its own"), file_server(_Wrong, tree) as server:
        fetch(url_of(server, "/one.bin"))


def test_the_standard_librarys_server_is_found(tree: Path) -> None:
    with pytest.raises(AssertionError, match="the standard library's ThreadingMixIn, TCPServer"):
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as server:
            check_ours(server)


def test_a_server_that_served_nobody_proves_nothing(tree: Path) -> None:
    with pytest.raises(AssertionError, match="nothing was served"), file_server(ThreadServer, tree):
        pass
