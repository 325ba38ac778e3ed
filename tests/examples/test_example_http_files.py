"""examples/http_files.py with curl: connections that are kept, whole files, and ranges."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from example_support import Program, both_ways, command, needs, port_of, served

DATA = os.urandom(300_000)


#: What the standard library's handler logs of a request.
LOGGED = r"""^127\.0\.0\.1 - - \[.*\] ("(GET|HEAD) |code 404, )"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tmp_path = tmp_path_factory.mktemp("files")
    (tmp_path / "data.bin").write_bytes(DATA)
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "page.html").write_text("<p>hello</p>")
    return tmp_path


@pytest.fixture(scope="module")
def files(folder: Path) -> Iterator[Program]:
    with served("python", "http_files:Files", "0", says=LOGGED, cwd=folder) as it:
        yield it


def ask(it: Program, *words: str, path: str = "/data.bin") -> bytes:
    return command(needs("curl", "curl"), "-sS", *words, f"http://127.0.0.1:{port_of(it)}{path}").stdout


@both_ways
def test_one_connection_serves_request_after_request(how: str, folder: Path) -> None:
    with served(how, "http_files:Files", "127.0.0.1:0", mode="green", says=LOGGED, cwd=folder) as it:
        url = f"http://127.0.0.1:{port_of(it)}"
        words = ["-sSv", f"{url}/data.bin", f"{url}/page.html", "-o", "a", "-o", "b"]
        done = command(needs("curl", "curl"), *words, cwd=folder)
        assert (folder / "a").read_bytes() == DATA
        assert (folder / "b").read_text() == "<p>hello</p>"
        assert b"Re-using existing connection" in done.stderr
        assert done.stderr.count(b"HTTP/1.1 200 OK") == 2


@pytest.mark.parametrize(
    ("wanted", "first", "last"),
    [("0-99", 0, 99), ("299990-", 299_990, 299_999), ("-10", 299_990, 299_999), ("100-999999", 100, 299_999)],
)
def test_a_range_is_that_part(files: Program, wanted: str, first: int, last: int) -> None:
    answer = ask(files, "-i", "-r", wanted)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 206 ")
    assert f"Content-Range: bytes {first}-{last}/300000\r\n".encode() in head + b"\r\n"
    assert body == DATA[first : last + 1]


@pytest.mark.parametrize(
    ("words", "path", "status"),
    [
        (("-r", "300000-"), "/data.bin", b"416"),
        (("-r", "0-"), "/empty", b"416"),
        (("-r", "0-1,5-6"), "/data.bin", b"200"),
        (("-H", "Range: bytes=5-1"), "/data.bin", b"200"),
        (("-H", "Range: bytes=-0"), "/data.bin", b"416"),
        (("-H", "Range: bytes=-"), "/data.bin", b"200"),
        (("-H", "Range: lines=1-2"), "/data.bin", b"200"),
        (("-r", "0-1", "-H", 'If-Range: "x"'), "/data.bin", b"200"),
        (("-r", "0-1", "-I"), "/data.bin", b"200"),
        (("-r", "0-1"), "/none", b"404"),
        (("--path-as-is",), "/../../../../../../etc/passwd", b"404"),
    ],
)
def test_what_is_no_range_of_the_file(files: Program, words: tuple[str, ...], path: str, status: bytes) -> None:
    assert ask(files, "-w", "%{http_code}", "-o", os.devnull, *words, path=path) == status


def test_a_download_is_taken_up_where_it_broke_off(files: Program, folder: Path) -> None:
    part = folder / "part"
    part.write_bytes(DATA[:123_456])
    ask(files, "-C", "-", "-o", str(part))
    assert part.read_bytes() == DATA


def test_the_standard_librarys_class_is_served_as_it_is(folder: Path) -> None:
    theirs = "http.server:SimpleHTTPRequestHandler"
    with served("jackfield", theirs, "127.0.0.1:0", says=LOGGED, cwd=folder) as it:
        assert ask(it) == DATA
