"""A name server for one zone, by UDP and TCP on the same port.

    python examples/dns_server.py [PORT]            9953 unless given
    dig @127.0.0.1 -p 9953 www.example.test

``jackfield serve --app-dir examples dns_server:Zone -b udp://:9953 -b tcp://:9953`` is the same, on every interface.
Mode async: a question is answered without waiting for anything, so one thread does for all of them.

Messages are those of RFC 1035, with EDNS (RFC 6891); names that the zone lacks are denied as RFC 2308 says, and other
zones refused. Over UDP an answer has at most three times the bytes of its question, as the sender may be forged and the
server's limits would withhold more; what is longer is truncated, and the client asks again over TCP (RFC 7766).
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import sys
from typing import NamedTuple

import jackfield
from jackfield.streams import AsyncReader

ORIGIN = "example.test"
TTL = 300
A, NS, SOA, TXT, AAAA, OPT, ANY = 1, 2, 6, 16, 28, 41, 255
IN = 1
NOERROR, FORMERR, NXDOMAIN, NOTIMP, REFUSED = 0, 1, 3, 4, 5
BADVERS = 16
QR, AA, TC, RD, OPCODE = 0x8000, 0x0400, 0x0200, 0x0100, 0x7800  # flags of the header

HEADER = struct.Struct("!6H")  # identifier, flags; questions, answers, authorities, additional records
LARGEST_UDP = 1232  # is not fragmented on any way (dnsflagday.net/2020)
AMPLIFICATION = 3


def name(text: str) -> bytes:
    """A domain name as it is sent: each label behind its length (RFC 1035, 3.1)."""
    labels = text.encode("ascii").split(b".") if text else []
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def text(*strings: str) -> bytes:
    """The data of a TXT record."""
    return b"".join(bytes([len(one.encode())]) + one.encode() for one in strings)


START = name(f"ns.{ORIGIN}") + name(f"hostmaster.{ORIGIN}") + struct.pack("!5I", 1, 3600, 600, 604800, TTL)

#: The zone: names below the origin, and what there is of each type.
RECORDS: dict[str, dict[int, list[bytes]]] = {
    ORIGIN: {SOA: [START], NS: [name(f"ns.{ORIGIN}")], TXT: [text("a zone of an example")]},
    f"ns.{ORIGIN}": {A: [socket.inet_aton("127.0.0.1")], AAAA: [socket.inet_pton(socket.AF_INET6, "::1")]},
    f"www.{ORIGIN}": {A: [socket.inet_aton("192.0.2.80")], AAAA: [socket.inet_pton(socket.AF_INET6, "2001:db8::80")]},
    f"many.{ORIGIN}": {A: [bytes([192, 0, 2, number]) for number in range(1, 101)]},
}


class NotAQuestion(Exception):
    """A message that cannot be read as one."""


class Question(NamedTuple):
    """What is asked, and what the client can take."""

    identifier: int
    flags: int
    asked: bytes  # the section as it came: it is repeated in the answer, letter case and all
    name: str
    kind: int
    category: int
    edns: tuple[int, int] | None  # the bytes of UDP that it takes, and the version


def parse(message: bytes) -> Question:
    """NotAQuestion for anything that is no single question."""
    identifier, flags, questions, answers, authorities, additional = HEADER.unpack_from(message)
    if questions != 1 or answers or authorities:
        raise NotAQuestion
    labels, at = parse_name(message, HEADER.size)
    try:
        kind, category = struct.unpack_from("!HH", message, at)
        asked, at = message[HEADER.size : at + 4], at + 4
        edns = None
        for _ in range(additional):
            _, at = parse_name(message, at)
            other, size, rest, length = struct.unpack_from("!HHIH", message, at)
            at += 10 + length
            if other == OPT:
                if edns is not None:
                    raise NotAQuestion  # RFC 6891, 6.1.1
                edns = max(size, 512), rest >> 16 & 0xFF
    except struct.error:
        raise NotAQuestion from None
    if at > len(message):
        raise NotAQuestion
    return Question(identifier, flags, asked, ".".join(labels).lower(), kind, category, edns)


def parse_name(message: bytes, at: int) -> tuple[list[str], int]:
    """The labels of a name, and where it ends. A question has no name before it that it could point to."""
    labels: list[str] = []
    while at < len(message) and (length := message[at]):
        label = message[at + 1 : at + 1 + length]
        if length > 63 or len(label) < length or len(labels) > 127:
            raise NotAQuestion
        labels.append(label.decode("latin-1"))
        at += 1 + length
    if at >= len(message) or sum(map(len, labels)) + len(labels) > 254:
        raise NotAQuestion
    return labels, at + 1


def answer(message: bytes, by_udp: bool) -> bytes | None:
    """The answer to a message; None for what deserves none."""
    if len(message) < HEADER.size or message[2] & 0x80:
        return None  # an answer: two servers that answered each other would never stop
    identifier, flags = struct.unpack_from("!HH", message)
    if flags & OPCODE:
        return HEADER.pack(identifier, QR | flags & (OPCODE | RD) | NOTIMP, 0, 0, 0, 0)
    try:
        question = parse(message)
    except NotAQuestion:
        return HEADER.pack(identifier, QR | flags & RD | FORMERR, 0, 0, 0, 0)
    packed = pack(question, *look_up(question))
    takes = min(question.edns[0], LARGEST_UDP) if question.edns else 512
    if by_udp and len(packed) > min(takes, AMPLIFICATION * len(message)):
        packed = pack(question, NOERROR, [], [], TC)
    return packed


def look_up(question: Question) -> tuple[int, list[bytes], list[bytes]]:
    """The response code, the answers, and what stands for those that there are not."""
    if question.edns is not None and question.edns[1] > 0:
        return BADVERS, [], []
    if question.category != IN or not f".{question.name}".endswith(f".{ORIGIN}"):
        return REFUSED, [], []
    found = RECORDS.get(question.name)
    if found is None:
        below = any(other.endswith(f".{question.name}") for other in RECORDS)  # a name of names is there (RFC 8020)
        return NOERROR if below else NXDOMAIN, [], [record(ORIGIN, SOA, START)]
    kinds = found if question.kind == ANY else [question.kind]
    answers = [record(None, kind, data) for kind in kinds for data in found.get(kind, [])]
    return NOERROR, answers, [] if answers else [record(ORIGIN, SOA, START)]


def record(owner: str | None, kind: int, data: bytes) -> bytes:
    """A record; of the name that was asked for, which stands at byte 12 and is pointed to (RFC 1035, 4.1.4)."""
    return (b"\xc0\x0c" if owner is None else name(owner)) + struct.pack("!HHIH", kind, IN, TTL, len(data)) + data


def pack(question: Question, code: int, answers: list[bytes], authorities: list[bytes], flags: int = 0) -> bytes:
    extra = b"" if question.edns is None else struct.pack("!BHHBBHH", 0, OPT, LARGEST_UDP, code >> 4, 0, 0, 0)
    flags |= QR | question.flags & RD | code & 15 | (AA if code in (NOERROR, NXDOMAIN) else 0)
    header = HEADER.pack(question.identifier, flags, 1, len(answers), len(authorities), bool(extra))
    return header + question.asked + b"".join(answers) + b"".join(authorities) + extra


class Zone(jackfield.AsyncRequestHandler):
    """One question by UDP, or a connection with any number of them."""

    async def handle(self) -> None:
        if isinstance(self.request, tuple):
            message, sock = self.request
            if reply := answer(message, by_udp=True):
                await sock.sendto(reply, self.client_address)
            return
        reader = AsyncReader(self.request, limits=self.server.limits)
        while length := await reader.read(2):  # RFC 1035, 4.2.2
            try:
                length += await reader.readexactly(2 - len(length))
                reply = answer(await reader.readexactly(int.from_bytes(length, "big")), by_udp=False)
            except asyncio.IncompleteReadError:
                return
            if reply is None:
                return
            await self.request.sendall(len(reply).to_bytes(2, "big") + reply)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)  # says where it listens
    port = sys.argv[1] if len(sys.argv) > 1 else "9953"
    jackfield.serve(Zone, f"udp://127.0.0.1:{port}", f"tcp://127.0.0.1:{port}", graceful_timeout=1)
