"""A TFTP server: files of one folder to read and to add to, for machines that boot from the network.

    python examples/tftp_server.py [PORT]           9969 unless given
    curl -o copy tftp://127.0.0.1:9969/README.md

``jackfield serve --app-dir examples tftp_server:Tftp -b udp://:69 -k green`` is the same on every interface. Mode
green: a transfer is a plain loop that waits for each block's answer on a socket of its own, and a thousand go on at
once. Mode thread does as well, for 64.

The folder is the one that it is started in, or TFTP_FOLDER. Names are of that folder alone: none with a directory, none
that begins with a dot, no symbolic link. A file that is there is never written over, and none is longer than LARGEST.
TFTP knows no passwords: serve it where everybody may read. RFC 1350, with the options of RFC 2347 to 2349.
"""

from __future__ import annotations

import logging
import os
import stat
import struct
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import IO, Any

import jackfield
from jackfield import socket

READ, WRITE, DATA, ACK, ERROR, OPTIONS = 1, 2, 3, 4, 5, 6
UNDEFINED, NOT_FOUND, DENIED, FULL, ILLEGAL, UNKNOWN_TRANSFER, EXISTS, BAD_OPTION = range(8)

FOLDER = os.environ.get("TFTP_FOLDER", ".")
LARGEST = 32 << 20  # bytes of a file
MOST_FILES = 1000  # in the folder: no more are added
LARGEST_BLOCK = 1428  # with its headers it fits into an Ethernet frame, so that none is fragmented
SECONDS = 1.0  # until a packet is sent again; twice as long each time
TRIES = 5


class Failed(Exception):
    """A transfer that cannot go on: the code and the text that the client is told; without them it knows."""


class Tftp(jackfield.BaseRequestHandler):
    """One request, and the transfer that it begins."""

    def handle(self) -> None:
        request, listener = self.request
        family = socket.AF_INET6 if ":" in self.client_address[0] else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as sock:  # by its port transfers are told apart (RFC 1350, 4)
            if (here := listener.getsockname()[0]) not in ("0.0.0.0", "::"):
                sock.bind((here, 0))  # the client expects the answer from where it has asked
            sock.connect(self.client_address)  # what comes from elsewhere is not received
            try:
                Transfer(sock, self.draining).run(request)
            except Failed as failure:
                if failure.args:
                    sock.send(error(*failure.args))
            except ConnectionRefusedError:
                pass  # the client has ended


class Transfer:
    """One file on its way, by a socket that is connected to the client."""

    def __init__(self, sock: socket.socket, stopping: Any) -> None:
        self.sock = sock
        self.stopping = stopping
        self.size = 512
        self.seconds = SECONDS
        self.began = False

    def run(self, request: bytes) -> None:
        opcode, name, mode, options = parse(request)
        if mode not in ("octet", "netascii"):
            raise Failed(ILLEGAL, "the mode is octet or netascii")
        if name != os.path.basename(name) or name.startswith(".") or not name.isprintable() or not name:
            raise Failed(DENIED, "that is no name of a file here")
        if opcode == READ:
            self.send_file(os.path.join(FOLDER, name), mode == "netascii", options)
        else:
            self.receive_file(os.path.join(FOLDER, name), mode == "netascii", options)

    # -- to the client -----------------------------------------------------------------------------------------------

    def send_file(self, path: str, netascii: bool, options: dict[str, str]) -> None:
        with open_to_read(path) as file:
            size = os.fstat(file.fileno()).st_size
            agreed = self.agree(options, None if netascii else size)
            if agreed:
                self.exchange(agreed, ACK, 0)
            for block, data in enumerate(blocks(file, self.size, netascii), 1):
                self.exchange(struct.pack("!HH", DATA, block & 0xFFFF) + data, ACK, block & 0xFFFF)

    # -- from the client ---------------------------------------------------------------------------------------------

    def receive_file(self, path: str, netascii: bool, options: dict[str, str]) -> None:
        if os.path.lexists(path):
            raise Failed(EXISTS, "it is there already")
        if len(os.listdir(FOLDER)) >= MOST_FILES:
            raise Failed(FULL, "there are files enough")
        if options.get("tsize", "0").isdigit() and int(options.get("tsize", "0")) > LARGEST:
            raise Failed(FULL, f"no more than {LARGEST} bytes")
        answer = self.agree(options, None) or struct.pack("!HH", ACK, 0)
        with tempfile.NamedTemporaryFile(dir=FOLDER, prefix=".") as file:
            block, data, size = 0, bytes(self.size), 0
            while len(data) == self.size:  # a shorter one is the last
                block = block + 1 & 0xFFFF
                data = self.exchange(answer, DATA, block)
                answer = struct.pack("!HH", ACK, block)
                size += len(data)
                if size > LARGEST:
                    raise Failed(FULL, f"no more than {LARGEST} bytes")
                file.write(data)
            if netascii:
                file.seek(0)
                text = file.read().replace(b"\r\n", b"\n").replace(b"\r\0", b"\r")
                file.seek(0)
                file.truncate()
                file.write(text)
            file.flush()
            try:
                os.link(file.name, path)  # unlike a renaming, it takes nobody's name
            except FileExistsError:
                raise Failed(EXISTS, "it is there already") from None
        self.sock.send(answer)
        self.dally(answer, block)

    def dally(self, answer: bytes, block: int) -> None:
        """The last answer may be lost: the client then sends the last block again, and is answered again."""
        deadline = Deadline(2 * self.seconds)
        while deadline.left() > 0 and not self.stopping:
            self.sock.settimeout(0.1)
            try:
                if self.sock.recv(65535)[:4] == struct.pack("!HH", DATA, block):
                    self.sock.send(answer)
            except TimeoutError:
                pass

    # -- both --------------------------------------------------------------------------------------------------------

    def agree(self, options: dict[str, str], size: int | None) -> bytes:
        """Take the options that are known, and what tells the client which (RFC 2347); nothing if there are none."""
        agreed = {}
        for name, value in options.items():
            if not value.isascii() or not value.isdigit() or len(value) > 10:
                continue
            if name == "blksize" and int(value) >= 8:
                self.size = min(int(value), LARGEST_BLOCK)
                agreed[name] = str(self.size)
            elif name == "timeout" and 1 <= int(value) <= 255:
                self.seconds = float(min(int(value), 10))
                if self.seconds == int(value):  # it is taken as it is, or not at all (RFC 2349)
                    agreed[name] = value
            elif name == "tsize":
                agreed[name] = value if size is None else str(size)
        words = [word.encode() + b"\0" for pair in agreed.items() for word in pair]
        return struct.pack("!H", OPTIONS) + b"".join(words) if words else b""

    def exchange(self, packet: bytes, kind: int, block: int) -> bytes:
        """Send a packet, again when nothing comes, until ``kind`` of ``block`` does; what that carries.

        What comes twice is not answered (RFC 1123, 4.2.3.1: each answer would be doubled from there to the end). Until
        the client has answered once nothing is sent again either: whose address it is, nobody knows yet, and one that
        did not get it asks anew.
        """
        wait = self.seconds
        for _ in range(TRIES if self.began else 1):
            self.sock.send(packet)
            deadline = Deadline(wait if self.began else wait * TRIES)
            while (left := deadline.left()) > 0:
                self.sock.settimeout(left)
                try:
                    answer = self.sock.recv(65535)
                except TimeoutError:
                    break
                if answer[:4] == struct.pack("!HH", kind, block):
                    self.began = True
                    return answer[4:]
                if answer[:2] == struct.pack("!H", ERROR):
                    raise Failed
            wait *= 2
        raise Failed(UNDEFINED, "no answer came")


def open_to_read(path: str) -> IO[bytes]:
    """Failed unless it is a plain file, and none too large."""
    try:
        number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)  # of a FIFO no writer is waited for
    except OSError:
        raise Failed(NOT_FOUND, "there is no such file") from None
    found = os.fstat(number)
    if not stat.S_ISREG(found.st_mode) or found.st_size > LARGEST:
        os.close(number)
        raise Failed(DENIED, "that is no file for TFTP")
    return open(number, "rb")


class Deadline:
    """So many seconds from now."""

    def __init__(self, seconds: float) -> None:
        self._at = time.monotonic() + seconds

    def left(self) -> float:
        return self._at - time.monotonic()


def parse(request: bytes) -> tuple[int, str, str, dict[str, str]]:
    """Opcode, name, mode and options of a request; Failed for anything else."""
    *words, rest = request[2:].split(b"\0")
    opcode = int.from_bytes(request[:2], "big")
    if opcode == ERROR:
        raise Failed  # which is not answered
    if opcode not in (READ, WRITE) or len(words) < 2 or rest or len(words) > 20:
        raise Failed(ILLEGAL, "a transfer begins with a request")
    name, mode, *options = (word.decode("utf-8", "replace") for word in words)
    lower = [option.lower() for option in options]
    return opcode, name, mode.lower(), dict(zip(lower[::2], lower[1::2], strict=False))


def blocks(file: IO[bytes], size: int, netascii: bool) -> Iterator[bytes]:
    """A file in blocks, of which the last is shorter: empty, if need be. As text its lines end in CR LF (RFC 764)."""
    rest = b""
    while True:
        data = file.read(size)
        ended = not data
        rest += data.replace(b"\r", b"\r\0").replace(b"\n", b"\r\n") if netascii else data
        while len(rest) >= size:
            yield rest[:size]
            rest = rest[size:]
        if ended:
            yield rest
            return


def error(code: int, text: str) -> bytes:
    return struct.pack("!HH", ERROR, code) + text.encode() + b"\0"


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)  # says where it listens
    port: Any = sys.argv[1] if len(sys.argv) > 1 else "9969"
    jackfield.serve(Tftp, f"udp://127.0.0.1:{port}", mode="green", graceful_timeout=1)
