"""Reading the PROXY protocol, free of I/O: bytes go in as they come, a header comes out, or an error.

A byte after which no header can be right any more is refused when it is seen, so that a stranger is gone at once and
not after a timeout.  Only a checksum has to wait for the last byte.

The rules are HAProxy's ``proxy-protocol.txt`` of 2020/03/05 and, where it leaves a choice, the stricter one:

- Version 1 (section 2.1) is at most 107 bytes, CR LF among them; the fields stand between single blanks; numbers have
  digits alone and no leading zero.  In an IPv6 address a dotted quad stands where ``inet_ntop`` writes one.  After
  ``UNKNOWN`` come CR LF, or a blank and anything, but no CR or LF alone.
- Version 2 (section 2.2) knows the seven pairs of family and transport that the specification lists, and has at most
  4,096 bytes after the first 16.  They hold the addresses of the family, and TLVs to the very end.
- ``LOCAL`` may name any family.  Its addresses are ignored, and so is all that follows a family that nobody knows.
- A checksum is checked where there is one, and there is one at most.  ``NOOP`` is left out of the header.

An address is the proxy's word and stays a text.  Whom to believe is the caller's to know: whoever can connect can say
anything.
"""

from __future__ import annotations

import functools
import re
import struct
from collections.abc import Callable, Collection, Generator, Mapping
from typing import NoReturn, TypeVar

from jackfield.errors import ProxyError
from jackfield.proxyheader import (
    BLOCK_SIZES,
    CRC32C,
    LONGEST_PAYLOAD,
    NOOP,
    PROTOCOL_BYTES,
    SIGNATURE,
    SSL,
    TLS_FIXED,
    TLV_SIZES,
    ProxyHeader,
    SizeRule,
    checksum,
    sockaddr,
    unpack_block,
)

__all__ = ["LONGEST_BEGINNING", "LONGEST_HEADER", "ProxyParser", "begins_header"]

LONGEST_HEADER = 16 + LONGEST_PAYLOAD
"""No header that is taken has more bytes, of either version."""

LONGEST_BEGINNING = len(SIGNATURE)
"""After so many bytes :func:`begins_header` always knows."""

_LONGEST_LINE = 107  # section 2.1, with CR LF
_DIGITS = frozenset(b"0123456789")
_HEX_DIGITS = frozenset(b"0123456789abcdefABCDEF")
_OCTET = re.compile(rb"0|[1-9][0-9]{0,2}")
_BLANK, _DOT, _COLON, _CR, _LF = b" .:\r\n"
_BEGINNINGS = {1: b"P"[0], 2: SIGNATURE[0]}
_FIRST_WORDS = (b"PROXY ", SIGNATURE)

_T = TypeVar("_T")
# A part of the reading.  It asks for the next so many bytes, at least one; when they are there it is sent the last of
# them, and returns at the end what they mean.
_Reading = Generator[int, int, _T]


def begins_header(data: bytes) -> bool | None:
    """Whether a stream that begins with ``data`` begins with a header of either version, right or wrong; None: that
    cannot be said yet.  Nothing but a header has the twelve bytes of version 2, which were chosen for that, and a
    protocol in which a client may begin with ``PROXY`` and a blank cannot be told from version 1."""
    if data.startswith(_FIRST_WORDS):
        return True
    return None if any(word.startswith(data) for word in _FIRST_WORDS) else False


class ProxyParser:
    """Reads the header of one connection.

    :param versions: those that are taken: 1, 2 or both.
    :raises ValueError: ``versions`` names none of them, or another.

    For a socket, without ever taking a byte that is not the header's: look (``MSG_PEEK``), :meth:`feed` what was seen,
    and then take (``recv``) as many bytes as it told.
    """

    __slots__ = ("_header", "_needed", "_problem", "_reading", "_taken")

    def __init__(self, versions: Collection[int] = frozenset({1, 2})) -> None:
        if not versions or not frozenset(versions) <= {1, 2}:
            raise ValueError(f"the versions of the PROXY protocol are 1 and 2, not {versions!r}: write e.g. {{1, 2}}")
        self._taken = bytearray()
        self._header: ProxyHeader | None = None
        self._problem = ""
        self._reading = _read(frozenset(versions), self._taken)
        self._needed = next(self._reading)

    @property
    def header(self) -> ProxyHeader | None:
        """The header; None until its last byte was fed."""
        return self._header

    @property
    def taken(self) -> int:
        """How many bytes the header has had so far."""
        return len(self._taken)

    def feed(self, data: bytes | bytearray | memoryview) -> int:
        """How many bytes of ``data``, from its beginning, are the header's: all of them until it is complete, and from
        then on none.

        :raises ProxyError: no header begins so; the message is one line.  Each further call raises it again.
        """
        if self._problem:
            raise ProxyError(self._problem)
        if self._header is not None:
            return 0
        used, taken, needed, go_on = 0, self._taken, self._needed, self._reading.send
        with memoryview(data) as given, given.cast("B") as view:
            try:
                while used < len(view):
                    if needed == 1:
                        # Nearly all is read so, byte by byte: a flood of wrong headers is to cost no more than it must.
                        byte = view[used]
                        used += 1
                        taken.append(byte)
                        needed = go_on(byte)
                        continue
                    piece = view[used : used + needed]
                    used += len(piece)
                    taken += piece
                    needed -= len(piece)
                    if not needed:
                        needed = go_on(taken[-1])
                self._needed = needed
            except StopIteration as end:
                self._header = end.value
            except _Refused as refused:
                self._fail(f"{refused.problem} at byte {len(taken)}", refused.remedy)
                raise ProxyError(self._problem) from None
        return used

    def feed_eof(self) -> None:
        """The peer sends no more.  Nothing happens if the header is complete.

        :raises ProxyError: it is not; the message is one line.
        """
        if self._header is None:
            if not self._problem:
                self._fail(f"the connection ended after {len(self._taken)} bytes", _STRANGER)
            raise ProxyError(self._problem)

    def _fail(self, problem: str, remedy: str) -> None:
        # Of what the peer sent only the bytes that were read as a header: what follows may be secret.
        shown = ("..." if len(self._taken) > 40 else "") + ascii(bytes(self._taken[-40:]))
        self._problem = f"no PROXY header: {problem}, in {shown}: {remedy}"

    def __repr__(self) -> str:
        state = self._header or self._problem or f"{len(self._taken)} bytes so far"
        return f"<ProxyParser: {state}>"


# --- refusing -------------------------------------------------------------------------------------------------------

_STRANGER = "let clients come by the proxy, which must send the header, or turn the PROXY protocol off here"
_DEFECT = "look at what the proxy sends"


class _Refused(Exception):
    """The byte that was read last cannot be right."""

    def __init__(self, problem: str, remedy: str) -> None:
        self.problem = problem
        self.remedy = remedy


def _refuse(problem: str, remedy: str = _DEFECT) -> NoReturn:
    raise _Refused(problem, remedy)


# --- either version -------------------------------------------------------------------------------------------------


def _read(versions: frozenset[int], taken: bytearray) -> _Reading[ProxyHeader]:
    """``taken`` holds all bytes so far, that which was just sent among them."""
    first = yield 1
    if first not in _BEGINNINGS.values():
        _refuse("something else begins", _STRANGER)
    version = 1 if first == _BEGINNINGS[1] else 2
    if version not in versions:
        _refuse(f"version {version} begins", f"set the proxy to version {3 - version}, or allow {version} here")
    return (yield from _read_line(taken) if version == 1 else _read_binary(taken))


def _expect(expected: bytes, problem: str, remedy: str = _DEFECT) -> _Reading[None]:
    for byte in expected:
        if (yield 1) != byte:
            _refuse(problem, remedy)


def _skip(size: int) -> _Reading[None]:
    if size:
        yield size


# --- version 1 ------------------------------------------------------------------------------------------------------


def _read_line(taken: bytearray) -> _Reading[ProxyHeader]:
    yield from _expect(b"ROXY ", "something else begins", _STRANGER)
    first = yield 1
    if first == b"U"[0]:
        yield from _read_unknown(taken)
        return ProxyHeader(1)
    if first != b"T"[0]:
        _refuse("neither TCP4, TCP6 nor UNKNOWN")
    yield from _expect(b"CP", "neither TCP4 nor TCP6")
    digit = yield 1
    if digit not in b"46":
        _refuse("neither TCP4 nor TCP6")
    yield from _expect(b" ", "no blank")
    read_host = _read_ipv4 if digit == b"4"[0] else _read_ipv6
    source = yield from read_host()
    destination = yield from read_host()
    source_port = yield from _read_number(_BLANK, 65535)
    destination_port = yield from _read_number(_CR, 65535)
    yield from _expect(b"\n", "a carriage return alone")
    return ProxyHeader(
        1,
        "PROXY",
        "TCP4" if digit == b"4"[0] else "TCP6",
        sockaddr(source, source_port),
        sockaddr(destination, destination_port),
    )


def _read_unknown(taken: bytearray) -> _Reading[None]:
    yield from _expect(b"NKNOWN", "neither TCP4, TCP6 nor UNKNOWN")
    byte = yield 1
    if byte not in (_BLANK, _CR):
        _refuse("neither a blank nor the line's end")
    while byte != _CR:
        byte = yield 1
        # A line that ended here would be shorter than the sender means, and its data would be taken for the header.
        if byte == _LF:
            _refuse("a line feed alone")
        if byte != _CR and len(taken) > _LONGEST_LINE - 2:
            _refuse(f"a line of more than {_LONGEST_LINE} bytes")
    yield from _expect(b"\n", "a carriage return alone")


def _read_number(end: int, highest: int) -> _Reading[int]:
    """A number from 0 on, and the byte that ends it."""
    number = digits = 0
    while True:
        byte = yield 1
        if byte in _DIGITS:
            if digits and not number:
                _refuse("a number with a leading zero")
            number = number * 10 + byte - b"0"[0]
            digits += 1
            if number > highest:
                _refuse(f"a number above {highest}")
        elif byte == end and digits:
            return number
        else:
            _refuse("no number" if not digits else "something else after a number")


def _read_ipv4() -> _Reading[bytes]:
    first = yield from _read_number(_DOT, 255)
    rest = yield from _read_last_octets()
    return bytes([first, *rest])


def _read_last_octets() -> _Reading[list[int]]:
    octets = []
    for end in (_DOT, _DOT, _BLANK):
        octets.append((yield from _read_number(end, 255)))
    return octets


def _read_ipv6() -> _Reading[bytes]:
    """An address, and the blank that ends it (RFC 4291, 2.2): the gap ``::`` stands for one group or more."""
    groups: list[int] = []
    gap: int | None = None  # how many groups stand before it
    digits = b""
    colons = 0  # since the last digit
    while True:
        byte = yield 1
        most = 8 if gap is None else 7
        if byte in _HEX_DIGITS:
            if len(digits) == 4 or len(groups) == most:
                _refuse("an IPv6 address that is too long")
            digits += bytes([byte])
            colons = 0
        elif byte == _COLON and digits:
            groups.append(int(digits, 16))
            digits = b""
            colons = 1
            if len(groups) == most:
                _refuse("an IPv6 address that is too long")
        elif byte == _COLON and gap is None:
            if not colons:
                yield from _expect(b":", "an IPv6 address that begins with one colon")
            gap = len(groups)
            colons = 2
        elif byte == _DOT and gap == 0 and groups in ([], [0xFFFF]) and _OCTET.fullmatch(digits) and int(digits) < 256:
            second, third, fourth = yield from _read_last_octets()
            groups += [int(digits) << 8 | second, third << 8 | fourth]
            break
        elif byte == _BLANK and (digits or colons == 2):
            if digits:
                groups.append(int(digits, 16))
            if gap is None and len(groups) < 8:
                _refuse("an IPv6 address that is too short")
            break
        else:
            _refuse("no IPv6 address")
    zeros = [0] * (8 - len(groups))
    return struct.pack("!8H", *groups[: gap or 0], *zeros, *groups[gap or 0 :])


# --- version 2 ------------------------------------------------------------------------------------------------------


def _read_binary(taken: bytearray) -> _Reading[ProxyHeader]:
    yield from _expect(SIGNATURE[1:], "something else begins", _STRANGER)
    byte = yield 1
    if byte not in (0x20, 0x21):
        _refuse("a version that is not 2" if byte >> 4 != 2 else "neither LOCAL nor PROXY")
    local = byte == 0x20
    protocol = PROTOCOL_BYTES.get((yield 1))
    if protocol is None and not local:
        _refuse("no known family and transport")
    size = yield from _read_size(lambda least, most: least <= LONGEST_PAYLOAD, f"a length above {LONGEST_PAYLOAD}")
    if protocol is None:
        yield from _skip(size)
        return ProxyHeader(2, "LOCAL")
    block = BLOCK_SIZES[protocol]
    if local and size < block:
        block = 0  # a sender of LOCAL should leave the addresses out (section 2.2), and some name a family all the same
    if size < block or 0 < size - block < 3:
        _refuse(f"no length for addresses of {block} bytes and TLVs")
    yield from _skip(block)
    addresses = (None, None) if local else unpack_block(protocol, bytes(taken[16 : 16 + block]))
    spans = yield from _read_tlvs(taken, size - block, TLV_SIZES)
    for kind, start, stop in spans:
        # It was taken with zeros in its own place (section 2.2.3).
        if kind == CRC32C and checksum(taken[:start] + bytes(4) + taken[stop:]).to_bytes(4, "big") != taken[start:stop]:
            _refuse("a wrong checksum")
    tlvs = tuple((kind, bytes(taken[start:stop])) for kind, start, stop in spans if kind != NOOP)
    if local:
        return ProxyHeader(2, "LOCAL", tlvs=tlvs)
    return ProxyHeader(2, "PROXY", protocol, *addresses, tlvs)


def _read_size(possible: Callable[[int, int], bool], problem: str) -> _Reading[int]:
    """Two bytes, the high one first; ``possible`` says whether any size from the one to the other can be right."""
    size = (yield 1) << 8
    if not possible(size, size | 0xFF):
        _refuse(problem)
    size |= yield 1
    if not possible(size, size):
        _refuse(problem)
    return size


def _read_tlvs(taken: bytearray, room: int, rules: Mapping[int, SizeRule]) -> _Reading[list[tuple[int, int, int]]]:
    """The type of each TLV in the next ``room`` bytes, and where in ``taken`` its value begins and ends."""
    spans: list[tuple[int, int, int]] = []
    while room:
        kind = yield 1
        room -= 3
        rule = rules.get(kind)
        possible = functools.partial(_leaves_room, room, rule)
        if not possible(0, room):
            _refuse(f"no room for a TLV 0x{kind:02x}")
        if rule and kind == CRC32C and any(kind == other for other, _, _ in spans):
            _refuse("a second checksum")
        size = yield from _read_size(possible, f"a TLV 0x{kind:02x} of a length that cannot be right")
        start = len(taken)
        if rule and kind == SSL:
            yield from _skip(TLS_FIXED.size)
            yield from _read_tlvs(taken, size - TLS_FIXED.size, {})
        else:
            yield from _skip(size)
        spans.append((kind, start, len(taken)))
        room -= size
    return spans


def _leaves_room(room: int, rule: SizeRule | None, least: int, most: int) -> bool:
    """Some value of ``least`` to ``most`` bytes keeps the rule and leaves, of the room, nothing or enough for a TLV."""
    if least + 3 <= room and rule is None:
        return True  # without looking at any other: thousands of TLVs fit into one header
    sizes = (size for size in range(least, min(most, room) + 1) if not 0 < room - size < 3)
    return any(rule is None or rule(size) for size in sizes)
