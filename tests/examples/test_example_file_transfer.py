"""examples/file_transfer.py, both sides of it, and senders that break off, go on, and lie."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from example_support import SECONDS, both_ways, port_of, program, run, served

DATA = os.urandom(1 << 20)


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    path = tmp_path / "inbox"
    path.mkdir()
    return path


@contextlib.contextmanager
def receiver(inbox: Path) -> Iterator[int]:
    with served("python", "file_transfer:Receiver", "receive", str(inbox), "0", more=2) as it:
        yield port_of(it)


def header(data: bytes, name: bytes = b"file", digest: bytes | None = None, size: int | None = None) -> bytes:
    digest = hashlib.sha256(data).digest() if digest is None else digest
    return (len(data) if size is None else size).to_bytes(8, "big") + digest + len(name).to_bytes(2, "big") + name


def bring(port: int, head: bytes, data: bytes) -> bytes:
    """All answers to a sender that does not listen before it has ended."""
    with socket.create_connection(("127.0.0.1", port), SECONDS) as client, client.makefile("rb") as answers:
        client.sendall(head + data)
        client.shutdown(socket.SHUT_WR)
        return answers.read()


@both_ways
def test_several_files_at_once(how: str, inbox: Path, tmp_path: Path) -> None:
    files = {"one": os.urandom(5 << 20), "two": b"", "three": b"x" * 70_000, "h\u00e9": b"y"}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    words = ["receive", str(inbox), "0"] if how == "python" else ["127.0.0.1:0"]
    variables = {"RECEIVE_FOLDER": str(inbox)}
    with served(how, "file_transfer:Receiver", *words, more=len(words) - 1, variables=variables) as server:
        address = f"127.0.0.1:{port_of(server)}"
        code, output, errors = run("file_transfer.py", "send", address, *(str(tmp_path / name) for name in files))
        assert (code, errors) == (0, "")
        for name, data in files.items():
            assert f"{tmp_path / name}: received {len(data)} bytes\n" in output
    assert {path.name: path.read_bytes() for path in inbox.iterdir()} == files


def test_what_broke_off_is_gone_on_with(inbox: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(DATA)
    with receiver(inbox) as port:
        told = bring(port, header(DATA), DATA[:300_000])
        assert told == b"from 0\nfailed: 300000 of 1048576 bytes came\n"
        with socket.create_connection(("127.0.0.1", port), SECONDS) as client, client.makefile("rb") as answers:
            client.sendall(header(DATA))
            assert answers.readline() == b"from 300000\n"
            client.sendall(DATA[300_000:400_000])
            client.shutdown(socket.SHUT_WR)
            assert answers.readline() == b"failed: 400000 of 1048576 bytes came\n"
        code, output, _ = run("file_transfer.py", "send", f"127.0.0.1:{port}", str(tmp_path / "file"))
        assert (code, output) == (0, f"{tmp_path / 'file'}: received 1048576 bytes\n")
    assert {path.name: path.read_bytes() for path in inbox.iterdir()} == {"file": DATA}


def test_of_two_senders_of_one_file_the_second_is_told(inbox: Path) -> None:
    with receiver(inbox) as port:
        with socket.create_connection(("127.0.0.1", port), SECONDS) as first, first.makefile("rb") as answers:
            first.sendall(header(DATA))
            assert answers.readline() == b"from 0\n"
            assert bring(port, header(DATA), b"") == b"refused: somebody else is sending it\n"
            first.sendall(DATA)
            assert answers.readline() == b"received 1048576 bytes\n"


def test_an_old_part_is_forgotten(inbox: Path) -> None:
    with receiver(inbox) as port:
        bring(port, header(DATA), DATA[:1000])
        (part,) = inbox.iterdir()
        os.utime(part, (0, 0))
        assert bring(port, header(b"other"), b"other") == b"from 0\nreceived 5 bytes\n"
    assert [path.name for path in inbox.iterdir()] == ["file"]


WRONG = [
    (header(b"bytes", digest=bytes(32)), b"from 0\nfailed: the hash is another\n"),
    (header(b"bytes", b"../file"), b"refused: that is no name of a file\n"),
    (header(b"bytes", b".."), b"refused: that is no name of a file\n"),
    (header(b"bytes", b".hidden"), b"refused: that is no name of a file\n"),
    (header(b"bytes", b""), b"refused: that is no name of a file\n"),
    (header(b"bytes", b"a\0b"), b"refused: that is no name of a file\n"),
    (header(b"bytes", size=1 << 40), b"refused: no more than 4294967296 bytes\n"),
]


def test_nothing_wrong_is_kept(inbox: Path, tmp_path: Path) -> None:
    with receiver(inbox) as port:
        for head, answer in WRONG:
            with socket.create_connection(("127.0.0.1", port), SECONDS) as client, client.makefile("rb") as answers:
                client.sendall(head)
                told = answers.readline()
                if told.startswith(b"from"):
                    client.sendall(b"bytes")
                    told += answers.readline()
            assert told == answer
    assert not list(inbox.iterdir()) and not (tmp_path / "file").exists()


def test_what_it_is_called_with_is_checked() -> None:
    with program("file_transfer.py", "receive") as it:
        code, _, errors = it.finish(None)
    assert code == 1 and errors.startswith("write: file_transfer.py receive FOLDER")
