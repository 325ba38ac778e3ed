"""Send files to a folder on another machine: ``sendfile()`` on one side, its twin ``recvfile()`` on the other.

    python examples/file_transfer.py receive FOLDER [ADDRESS]     ADDRESS is 9997 unless given; 0 takes any free port
    python examples/file_transfer.py send ADDRESS FILE ...

A connection carries one file: its size, SHA-256 and name, and when the receiver has said how much of it is there,
the rest of its bytes, which on Linux never pass through Python on either side. The receiver keeps the file only if the
hash is right, and answers with one line. What has come of one that broke off waits for a day to be gone on with.

``RECEIVE_FOLDER=FOLDER jackfield serve --app-dir examples file_transfer:Receiver`` receives, too. Mode green: most of a
transfer is waiting, and any number may wait; mode thread, the command's default, does for 256 at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import struct
import sys
import time
from typing import ClassVar

import jackfield
from jackfield import socket

HEADER = struct.Struct("!Q32sH")  # bytes of the file, SHA-256, bytes of the name
SECONDS = 30.0  # of patience with each call: a peer that vanished is found out
LARGEST = 4 << 30  # bytes of a file
KEEP = 86400.0  # seconds for which a part of a file waits for the rest


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

    folder: ClassVar[str] = os.environ.get("RECEIVE_FOLDER", ".")

    def handle(self) -> None:
        self.request.settimeout(SECONDS)
        size, digest, length = HEADER.unpack(receive_exactly(self.request, HEADER.size))
        name = receive_exactly(self.request, length).decode("utf-8", "surrogateescape")
        if name != os.path.basename(name) or name.startswith(".") or not name or "\0" in name:
            self.say("refused: that is no name of a file")
        elif size > LARGEST:
            self.say(f"refused: no more than {LARGEST} bytes")
        else:
            forget_old_parts(self.folder)
            self.say(self.receive(name, size, digest))

    def say(self, line: str) -> None:
        self.request.sendall(line.encode() + b"\n")

    def receive(self, name: str, size: int, digest: bytes) -> str:
        path = os.path.join(self.folder, f".{digest.hex()}.part")
        with open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600), "r+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return "refused: somebody else is sending it"
            there = min(os.fstat(file.fileno()).st_size, size)
            self.say(f"from {there}")
            came = there + (self.request.recvfile(file, there, size - there) if there < size else 0)
            if came < size:
                return f"failed: {came} of {size} bytes came"
            file.truncate(size)
            if jackfield.offload(hash_of, path) != digest:
                os.unlink(path)
                return "failed: the hash is another"
            os.rename(path, os.path.join(self.folder, name))
            return f"received {size} bytes"


def forget_old_parts(folder: str) -> None:
    """Remove what nobody has gone on with for long."""
    for entry in os.scandir(folder):
        with contextlib.suppress(FileNotFoundError):
            if entry.name.endswith(".part") and time.time() - entry.stat().st_mtime > KEEP:
                os.unlink(entry.path)


def send(address: str, path: str) -> str:
    """Send one file; the receiver's answer."""
    name = os.fsencode(os.path.basename(path))
    with open(path, "rb") as file, jackfield.connect(address, timeout=SECONDS) as sock:
        sock.settimeout(SECONDS)
        size, digest = os.fstat(file.fileno()).st_size, jackfield.offload(hash_of, path)
        sock.sendall(HEADER.pack(size, digest, len(name)) + name)
        with sock.makefile("r") as answers:
            answer = answers.readline().strip()
            if answer.startswith("from "):
                sock.sendfile(file, int(answer.removeprefix("from ")))
                answer = answers.readline().strip()
            return answer or "failed: the receiver has gone"


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
