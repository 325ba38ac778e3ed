"""Send files to a folder on another machine: ``sendfile()`` on one side, its twin ``recvfile()`` on the other.

    python examples/file_transfer.py receive FOLDER [ADDRESS]     ADDRESS is 9997 unless given; 0 takes any free port
    python examples/file_transfer.py send ADDRESS FILE ...

A connection carries one file: its size, SHA-256 and name, then its bytes, which on Linux never pass through Python on
either side. The receiver keeps the file only if the hash is right, and answers with one line.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import struct
import sys
import tempfile
from typing import ClassVar

import jackfield
from jackfield import socket

HEADER = struct.Struct("!Q32sH")  # bytes of the file, SHA-256, bytes of the name
SECONDS = 30.0  # of patience with each call: a peer that vanished is found out


def receive_exactly(sock: socket.socket, size: int) -> bytes:
    """``size`` bytes; ConnectionError if the peer ends before."""
    data = b""
    while len(data) < size:
        more = sock.recv(size - len(data))
        if not more:
            raise ConnectionError(f"the peer ended {size - len(data)} bytes too early")
        data += more
    return data


def hash_of(path: str) -> bytes:
    """The SHA-256 of a file; a computation, which would hold the loop: call it by ``jackfield.offload``."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


class Receiver(jackfield.BaseRequestHandler):
    """Receives one file."""

    folder: ClassVar[str]

    def handle(self) -> None:
        self.request.settimeout(SECONDS)
        size, digest, length = HEADER.unpack(receive_exactly(self.request, HEADER.size))
        name = receive_exactly(self.request, length).decode()
        if name != os.path.basename(name) or name in ("", ".", "..") or "\0" in name:
            self.request.sendall(b"refused: that is no name of a file\n")
            return
        self.request.sendall(self.receive(name, size, digest).encode() + b"\n")

    def receive(self, name: str, size: int, digest: bytes) -> str:
        with tempfile.NamedTemporaryFile(dir=self.folder, delete=False) as file:
            try:
                came = self.request.recvfile(file, count=size) if size else 0
                if came < size:
                    return f"failed: {came} of {size} bytes came"
                if jackfield.offload(hash_of, file.name) != digest:
                    return "failed: the hash is another"
                os.rename(file.name, os.path.join(self.folder, name))
                return f"received {size} bytes"
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(file.name)


def send(address: str, path: str) -> str:
    """Send one file; the receiver's answer."""
    name = os.path.basename(path).encode()
    with open(path, "rb") as file, jackfield.connect(address, timeout=SECONDS) as sock:
        sock.settimeout(SECONDS)
        size, digest = os.fstat(file.fileno()).st_size, jackfield.offload(hash_of, path)
        sock.sendall(HEADER.pack(size, digest, len(name)) + name)
        sock.sendfile(file)
        return sock.makefile("r").readline().strip()


def send_all(address: str, paths: list[str]) -> int:
    """Send files, all at the same time; the exit code."""
    code = 0
    sending = [(path, jackfield.spawn(send, address, path)) for path in paths]
    for path, green in sending:
        try:
            answer = green.result()
        except OSError as error:
            answer = f"failed: {error}"
        print(f"{path}: {answer}", flush=True)
        code = code if answer.startswith("received") else 1
    return code


def receive_all(folder: str, address: str) -> None:
    """Receive files until Ctrl-C."""
    Receiver.folder = folder
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)  # says where it listens
    jackfield.serve(Receiver, address, mode="green", graceful_timeout=1)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["receive", folder]:
            receive_all(folder, "9997")
        case ["receive", folder, address]:
            receive_all(folder, address)
        case ["send", address, first, *others]:
            sys.exit(jackfield.run(send_all, address, [first, *others]))
        case _:
            sys.exit("write: file_transfer.py receive FOLDER [ADDRESS]  or  file_transfer.py send ADDRESS FILE ...")
