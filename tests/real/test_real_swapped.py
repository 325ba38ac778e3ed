"""Whole programs of the standard library, and such as anybody would write, with ours in place of its modules.

Each runs in a process of its own, in which the standard library's servers cannot be made any more.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
import xmlrpc.client
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_support import SECONDS, all_at_once, command

HERE = Path(__file__).parent
CLIENTS = 16

by_face = pytest.mark.parametrize("face", ["thread", "green"])


class Program:
    """One program while it runs: ``url`` is where it serves, ``errors`` what it wrote on standard error, at the end."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.output = ""
        self.errors = ""


@contextlib.contextmanager
def running(face: str, program: str, *arguments: str) -> Iterator[Program]:
    """The program until Ctrl-C, which must end it well."""
    process = subprocess.Popen(
        [sys.executable, "-X", "dev", "-u", str(HERE / "swapped.py"), face, program, *arguments],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        first = process.stdout.readline()
        found = re.search(r"port (\d+)", first)
        if found is None:
            pytest.fail(f"no port in {first!r}; {process.communicate(timeout=SECONDS)[1]}")
        state = Program(f"http://127.0.0.1:{found[1]}/")
        yield state
        process.send_signal(signal.SIGINT)
        state.output, state.errors = process.communicate(timeout=SECONDS)
        assert process.returncode == 0, state.errors
    finally:
        process.kill()
        process.communicate()


def get(url: str, data: bytes | None = None) -> bytes:
    with urllib.request.urlopen(url, data=data, timeout=SECONDS) as response:
        return response.read()  # type: ignore[no-any-return]


@by_face
def test_python_m_http_server(face: str, tmp_path: Path, curl: str) -> None:
    content = b"".join(index.to_bytes(4, "big") for index in range(1 << 20))
    (tmp_path / "big").write_bytes(content)
    arguments = ["--bind", "127.0.0.1", "--directory", str(tmp_path), "0"]
    with running(face, "http.server", *arguments) as program:
        assert "big" in get(program.url).decode()
        assert all_at_once(lambda _: command(curl, "-sS", "--fail", program.url + "big"), 4) == [content] * 4
        with pytest.raises(urllib.error.HTTPError, match="404") as missing:
            get(program.url + "nothing")
        missing.value.close()
    assert program.output.strip() == "Keyboard interrupt received, exiting."
    assert program.errors.count('"GET /big HTTP/1.1" 200 -') == 4
    assert "Traceback" not in program.errors and "Warning" not in program.errors


@by_face
def test_an_xmlrpc_server(face: str) -> None:
    with running(face, str(HERE / "programs" / "calculator.py")) as program:

        def calculate(number: int) -> int:
            with xmlrpc.client.ServerProxy(program.url, allow_none=True) as proxy:
                assert "pow" in proxy.system.listMethods()  # type: ignore[operator]
                data = xmlrpc.client.Binary(bytes(range(256)) * 1000)
                assert proxy.reverse(data).data == data.data[::-1]  # type: ignore[union-attr]
                assert proxy.join("a", "b") == "a b"
                with pytest.raises(xmlrpc.client.Fault, match=r"ValueError.*as asked"):
                    proxy.fail()
                return proxy.pow(number, 3)  # type: ignore[return-value]

        assert all_at_once(calculate, CLIENTS) == [number**3 for number in range(CLIENTS)]
    assert program.output.strip() == "the end"
    assert "Traceback" not in program.errors and "Warning" not in program.errors


@by_face
def test_a_wsgi_site(face: str) -> None:
    with running(face, str(HERE / "programs" / "site.py")) as program:
        page = b"".join(b"part %d of /page\n" % index for index in range(1000))
        assert all_at_once(lambda _: get(program.url + "page"), CLIENTS) == [page] * CLIENTS
        body = bytes(range(256)) * 10_000
        assert get(program.url, body).decode() == hashlib.sha256(body).hexdigest()
        with pytest.raises(urllib.error.HTTPError, match="500") as failed:
            get(program.url + "fail")
        failed.value.close()
    assert program.output.strip() == "the end"
    assert program.errors.count("Traceback") == 1 and "RuntimeError: as asked" in program.errors
    assert "Warning" not in program.errors


@pytest.mark.parametrize("program", ["calculator.py", "site.py"])
def test_without_ours_nothing_serves(program: str) -> None:
    done = subprocess.run(
        [sys.executable, str(HERE / "swapped.py"), "neither", str(HERE / "programs" / program)],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr.strip()) == (1, "", "served by what was taken away")


def test_in_the_other_mode_nothing_is_served() -> None:
    with pytest.raises(AssertionError, match=r"^served by what was taken away"):
        with running("wrong", str(HERE / "programs" / "calculator.py")) as program:
            with pytest.raises(ConnectionError):
                get(program.url)
