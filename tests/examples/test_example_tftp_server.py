"""examples/tftp_server.py with curl and with tftp; and with a client that loses packets."""

from __future__ import annotations

import os
import socket
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from example_support import SECONDS, Program, both_ways, command, needs, port_of, served

from ports import port_to_bind

DATA = os.urandom(100_000)
READ, WRITE, ACK, OPTIONS = 1, 2, 4, 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tftp") / "boot"
    folder.mkdir()
    (folder.parent / "secret").write_text("nobody's")
    (folder / "kernel").write_bytes(DATA)
    (folder / "whole").write_bytes(DATA[:1024])  # two blocks, so that an empty one ends it
    (folder / "empty").write_bytes(b"")
    (folder / "text").write_bytes(b"one\ntwo\r\n" * 1000)
    (folder / ".hidden").write_text("nobody's")
    (folder / "link").symlink_to(folder.parent / "secret")
    (folder / "folder").mkdir()
    os.mkfifo(folder / "fifo")
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Program]:
    with port_to_bind() as port, served("python", "tftp_server:Tftp", str(port), cwd=folder) as it:
        yield it


def curl(it: Program, *words: str, code: int = 0, data: bytes = b"") -> bytes:
    *words, name = words
    url = f"tftp://127.0.0.1:{port_of(it, 'udp')}/{name}"
    return command(needs("curl", "curl"), "-sS", "--max-time", "20", *words, url, code=code, data=data).stdout


@both_ways
def test_curl_reads_and_writes(how: str, tmp_path: Path) -> None:
    (tmp_path / "kernel").write_bytes(DATA)
    with port_to_bind() as port:
        address = str(port) if how == "python" else f"udp://127.0.0.1:{port}"
        variables = {"TFTP_FOLDER": str(tmp_path)}
        with served(how, "tftp_server:Tftp", address, mode="green", variables=variables) as it:
            assert curl(it, "kernel") == DATA
            curl(it, "-T", "-", "copy", data=DATA)
            assert (tmp_path / "copy").read_bytes() == DATA
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "kernel"]


@pytest.mark.parametrize("size", [8, 512, 1024, 1428, 8192])
def test_blocks_of_other_sizes(server: Program, folder: Path, size: int) -> None:
    words = ["--tftp-blksize", str(size)]
    name = "kernel" if size > 8 else "text"
    assert curl(server, *words, name) == (folder / name).read_bytes()
    copy = f"copy-{size}"
    curl(server, *words, "-T", "-", copy, data=DATA[: size * 4])
    assert (folder / copy).read_bytes() == DATA[: size * 4]


def test_a_file_of_whole_blocks_and_an_empty_one(server: Program, folder: Path) -> None:
    for name in ("whole", "empty"):
        assert curl(server, "--tftp-no-options", name) == (folder / name).read_bytes()
        curl(server, "--tftp-no-options", "-T", str(folder / name), f"{name}-copy")
        assert (folder / f"{name}-copy").read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize("mode", ["binary", "ascii"])
def test_the_tftp_command(server: Program, folder: Path, tmp_path: Path, mode: str) -> None:
    words = [needs("tftp", "tftp-hpa"), "-m", mode, "127.0.0.1", str(port_of(server, "udp")), "-c"]
    command(*words, "get", "text", cwd=tmp_path)
    # As text, a CR is sent as CR NUL and an end of line as CR LF; the client makes its own ends of line again.
    assert (tmp_path / "text").read_bytes() == (folder / "text").read_bytes()
    command(*words, "put", "text", f"put-{mode}", cwd=tmp_path)
    assert (folder / f"put-{mode}").read_bytes() == (folder / "text").read_bytes()


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("none", 68), ("//etc/passwd", 69), ("..%2fsecret", 69), (".hidden", 69), ("..", 69), ("folder/x", 69),
        ("link", 68), ("folder", 69), ("fifo", 69),
    ],
)  # fmt: skip
def test_what_is_outside_of_the_folder_is_not_read(server: Program, name: str, code: int) -> None:
    assert curl(server, "--path-as-is", name, code=code) == b""  # 68 is "not found", 69 "permission" (curl(1))


def test_nothing_is_written_over_and_nothing_outside(server: Program, folder: Path) -> None:
    for name, code in (("kernel", 73), ("link", 73), ("fifo", 73), ("..%2fnew", 69), (".new", 69)):  # 73: it is there
        curl(server, "--path-as-is", "-T", "-", name, code=code, data=b"new")
    assert (folder / "kernel").read_bytes() == DATA
    assert (folder.parent / "secret").read_text() == "nobody's"
    assert stat.S_ISFIFO((folder / "fifo").stat().st_mode)
    assert not (folder.parent / "new").exists()


class Raw:
    """A client that says packet after packet what the test wants."""

    def __init__(self, it: Program, opcode: int, name: bytes, *options: bytes) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.settimeout(SECONDS)
        words = b"\0".join([name, b"octet", *options, b""])
        self.socket.sendto(struct.pack("!H", opcode) + words, ("127.0.0.1", port_of(it, "udp")))

    def hear(self) -> bytes:
        packet, peer = self.socket.recvfrom(65535)
        self.socket.connect(peer)
        return packet

    def acknowledge(self, block: int) -> None:
        self.socket.send(struct.pack("!HH", ACK, block))

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def test_what_is_lost_is_sent_again_and_what_is_doubled_is_not(server: Program) -> None:
    options = b"blksize 1000 tsize 0 timeout 1 nonsense 1".split()
    with Raw(server, READ, b"kernel", *options) as client:
        assert client.hear() == struct.pack("!H", OPTIONS) + b"blksize\x001000\0tsize\x00100000\0timeout\x001\0"
        client.acknowledge(0)
        first = client.hear()
        assert first == b"\0\3\0\1" + DATA[:1000]
        assert client.hear() == first  # nothing was said, as if it had not come
        client.acknowledge(1)
        client.acknowledge(1)
        client.acknowledge(1)  # three times, as if these had been late
        assert client.hear() == b"\0\3\0\2" + DATA[1000:2000]
        client.acknowledge(2)
        assert client.hear() == b"\0\3\0\3" + DATA[2000:3000]  # and not the second once more


def test_the_last_answer_is_given_again(server: Program, folder: Path) -> None:
    with Raw(server, WRITE, b"lost") as client:
        assert client.hear() == b"\0\4\0\0"
        for _ in range(3):
            client.socket.send(b"\0\3\0\1the end")
            assert client.hear() == b"\0\4\0\1"
    assert (folder / "lost").read_bytes() == b"the end"


@pytest.mark.parametrize(
    "said", [b"\0\1", b"\0\1name\0", b"\0\7name\0octet\0", b"\0\1name\0octet\0rest", b"\0\1a\0mail\0"]
)
def test_what_is_no_request_is_told_so(server: Program, said: bytes) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(SECONDS)
        client.sendto(said, ("127.0.0.1", port_of(server, "udp")))
        assert client.recv(1000)[:4] == b"\0\5\0\4"
