"""Anything at all, against one sentence: *a header or ProxyError, nothing else, and never more bytes taken than the
header has.*

And against a second one, which is what "refused at the first wrong byte" means: *what is not refused can still be
right.*  A walk that always finds a next byte until the header is complete shows it.
"""

from __future__ import annotations

import itertools
import random
import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from proxy_support import AFTER, INET, SIGNATURE, check_message, tlv, v2

from jackfield.errors import ProxyError
from jackfield.proxyheader import ProxyAddress, ProxyHeader, ProxyTLS, encode
from jackfield.proxyproto import LONGEST_HEADER, ProxyParser

GARBAGE = 20_000
"""How many headers of rubbish are read in one run; 100,000 take a few seconds."""

VALID = [
    b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n",
    b"PROXY TCP6 2001:db8::1 ::ffff:192.0.2.1 56324 443\r\n",
    b"PROXY UNKNOWN\r\n",
    b"PROXY UNKNOWN some thing\r\n",
    v2(0x20, 0x00),
    v2(0x21, 0x11, INET),
    v2(0x21, 0x11, INET + tlv(1, b"h2") + tlv(4, b"\0\0") + tlv(5, b"id")),
    v2(0x21, 0x22, bytes(36) + tlv(0x20, b"\x01\0\0\0\0" + tlv(0x21, b"TLSv1.3") + tlv(0x22, b"me"))),
    v2(0x21, 0x31, b"/run/a".ljust(108, b"\0") * 2),
    encode(ProxyHeader.of(("192.0.2.1", 1), ("192.0.2.2", 2), tlvs=((2, b"example.org"),)), crc32c=True),
]
BEGINNINGS = [b"", b"P", b"PROXY ", b"PROXY TCP4 ", b"PROXY TCP6 ", SIGNATURE, SIGNATURE + b"\x21", v2(0x21, 0x11)[:14]]
TELLING = b"PROXYTCPUNKNOWN 0123456789abcdef:.\r\n\0\x03\x04\x05\x11\x20\x21\x31\xff"


def true_length(header: ProxyHeader, data: bytes) -> int:
    """How long the header that ``data`` begins with is, told by its first bytes alone."""
    return data.index(b"\r\n") + 2 if header.version == 1 else 16 + struct.unpack_from("!H", data, 14)[0]


def check_invariant(data: bytes, cuts: list[int], parse: Callable[[], ProxyParser] = ProxyParser) -> ProxyHeader | None:
    """The header of ``data``, if it has one; AssertionError, or whatever was raised, where the sentence is broken."""
    parser = parse()
    used = 0
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, stop in itertools.pairwise(edges):
        try:
            used += parser.feed(data[start:stop])
        except ProxyError as error:
            assert parser.header is None
            check_message(str(error))
            return None
    header = parser.header
    if header is None:
        assert used == len(data) <= LONGEST_HEADER
    else:
        assert type(header) is ProxyHeader
        assert used == true_length(header, data), f"{used} bytes were taken"
    return header


def rubbish(numbers: random.Random) -> bytes:
    """Noise; noise after a true beginning; a header with bytes changed, lost, doubled or put in."""
    kind = numbers.randrange(4)
    if kind == 0:
        return numbers.randbytes(numbers.randrange(64))
    if kind == 1:
        noise = bytes(numbers.choices(TELLING, k=numbers.randrange(80)))
        return numbers.choice(BEGINNINGS) + noise
    data = bytearray(numbers.choice(VALID) + AFTER)
    for _ in range(numbers.randrange(1, 4)):
        at = numbers.randrange(len(data) - len(AFTER))
        change = numbers.randrange(4)
        if change == 0:
            data[at] = numbers.randrange(256)
        elif change == 1:
            data[at] = numbers.choice(TELLING)
        elif change == 2:
            data[at:at] = data[at : at + numbers.randrange(1, 5)]
        else:
            del data[at : at + numbers.randrange(1, 5)]
    return bytes(data) if kind == 2 else bytes(data[: numbers.randrange(len(data))])


def test_rubbish_is_a_header_or_an_error() -> None:
    numbers = random.Random(1)
    headers = 0
    for _ in range(GARBAGE):
        data = rubbish(numbers)
        cuts = [numbers.randrange(len(data) + 1) for _ in range(numbers.randrange(3))]
        headers += check_invariant(data, cuts) is not None
    # Both happen, or nothing was shown: a changed digit is another header, not a wrong one.
    assert GARBAGE // 50 < headers < GARBAGE // 2


@given(st.binary(max_size=300), st.sampled_from(BEGINNINGS), st.lists(st.integers(0, 400), max_size=5))
def test_any_bytes_are_a_header_or_an_error(noise: bytes, beginning: bytes, cuts: list[int]) -> None:
    check_invariant(beginning + noise, cuts)


@given(st.sampled_from(VALID), st.data())
def test_a_changed_header_is_a_header_or_an_error(valid: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(valid)))
    until = data.draw(st.integers(at, min(len(valid), at + 4)))
    changed = valid[:at] + data.draw(st.binary(max_size=4)) + valid[until:] + AFTER
    check_invariant(changed, data.draw(st.lists(st.integers(0, len(changed)), max_size=4)))


# --- round trip -----------------------------------------------------------------------------------------------------

ports = st.integers(0, 65535)
ipv4 = st.tuples(st.ip_addresses(v=4).map(str), ports)
ipv6 = st.tuples(st.ip_addresses(v=6).map(str), ports)
paths = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=27)
tls = st.builds(
    ProxyTLS, st.integers(0, 255), st.integers(0, 2**32 - 1), *[st.none() | st.text(st.characters(codec="utf-8"))] * 5
)
tlvs = st.lists(
    st.tuples(st.sampled_from([0x01, 0x02, 0x30, 0xE0, 0xFF, 0x00]), st.binary(max_size=300))
    | st.tuples(st.just(0x05), st.binary(max_size=128))
    | st.tuples(st.just(0x20), tls.map(ProxyTLS.pack)),
    max_size=5,
).map(tuple)
pairs: st.SearchStrategy[tuple[ProxyAddress | None, ProxyAddress | None]] = (
    st.tuples(ipv4, ipv4) | st.tuples(ipv6, ipv6) | st.tuples(paths, paths) | st.tuples(st.none(), st.none())
)
headers2 = st.builds(
    lambda pair, stream, tlvs: ProxyHeader.of(*pair, stream=stream, tlvs=tlvs), pairs, st.booleans(), tlvs
) | st.builds(lambda tlvs: ProxyHeader(2, "LOCAL", tlvs=tlvs), tlvs)
headers1 = (st.tuples(ipv4, ipv4) | st.tuples(ipv6, ipv6) | st.tuples(st.none(), st.none())).map(
    lambda pair: ProxyHeader.of(*pair, version=1)
)


@given(headers1 | headers2, st.booleans(), st.binary(max_size=20), st.lists(st.integers(0, 5000), max_size=6))
def test_what_is_written_is_read(header: ProxyHeader, crc32c: bool, after: bytes, cuts: list[int]) -> None:
    crc32c = crc32c and header.version == 2
    data = encode(header, crc32c=crc32c)
    found = check_invariant(data + after, cuts)
    assert found is not None
    assert true_length(found, data) == len(data)
    if crc32c:
        assert found.tlvs[:-1] == header.tlvs and found.tlvs[-1][0] == 3
        assert encode(found) == data
    else:
        assert found == header


@given(tls)
def test_what_is_written_of_tls_is_read(value: ProxyTLS) -> None:
    assert ProxyHeader(2, tlvs=((0x20, value.pack()),)).ssl == value


# --- what is not refused can still be right -------------------------------------------------------------------------


def walk(numbers: random.Random, data: bytes, likely: bytes, parse: Callable[[], ProxyParser] = ProxyParser) -> bytes:
    """A whole header that begins with ``data``, found byte by byte without ever going back.

    The bytes are tried in an order of chance, the likely ones first.  AssertionError where there is none to go on with.
    """
    parser = parse()
    parser.feed(data)
    longest = 107 if data.startswith(b"P") else LONGEST_HEADER
    while parser.header is None:
        assert len(data) < longest, f"{data!r} was not refused, and nothing can follow it"
        first = [numbers.choice(likely) for _ in range(4)]
        for byte in [*first, *numbers.sample(range(256), 256)]:
            following = data + bytes([byte])
            try:
                parser.feed(following[-1:])
            except ProxyError as error:
                if "checksum" in str(error) and "second" not in str(error):
                    return following  # the one mistake that shows only at the end
                parser = parse()
                parser.feed(data)
            else:
                break
        else:
            raise AssertionError(f"{data!r} was not refused, and nothing can follow it")
        data = following
    return data


def check_no_dead_end(numbers: random.Random, parse: Callable[[], ProxyParser] = ProxyParser) -> bytes:
    version = numbers.randrange(3)
    if version == 0:
        return walk(numbers, b"PROXY TCP", b"0123456789abcdef:::....    \r46", parse)
    if version == 1:
        return walk(numbers, b"PROXY TCP6 ", b"0f:::. \r", parse)
    # Lengths of up to 127, so that a walk is short and its TLVs often meet the end.
    length = numbers.randrange(128)
    for command, family in numbers.sample([(c, f) for c in (0x20, 0x21) for f in (0x00, 0x11, 0x12, 0x21)], 8):
        beginning = v2(command, family, length=length)
        try:
            parse().feed(beginning)
        except ProxyError:
            continue
        return walk(numbers, beginning, b"\0\0\0\x01\x02\x03\x05\x06\x08\x20\xff", parse)
    return walk(numbers, SIGNATURE, b"\x20\x21\x11\0\0", parse)


def test_what_is_not_refused_can_still_be_right() -> None:
    numbers = random.Random(2)
    ends = [check_no_dead_end(numbers) for _ in range(150)]
    assert max(len(end) for end in ends if end.startswith(b"PROXY")) <= 107
    assert len({end[:11] for end in ends if end.startswith(b"PROXY")}) > 1
    assert any(len(end) > 60 for end in ends if not end.startswith(b"PROXY"))


# --- the checks can fail --------------------------------------------------------------------------------------------


class Greedy(ProxyParser):
    """Takes all it is given, what follows the header too."""

    def feed(self, data: bytes | bytearray | memoryview) -> int:
        super().feed(data)
        return len(data)


class Raises(ProxyParser):
    """Lets out an error of another kind, as int() does for digits that are none."""

    def feed(self, data: bytes | bytearray | memoryview) -> int:
        try:
            return super().feed(data)
        except ProxyError:
            raise ValueError("invalid literal for int()") from None


class Late(ProxyParser):
    """Looks at version 1 only a field at a time, and at version 2 only when it has the whole."""

    def __init__(self) -> None:
        super().__init__()
        self._kept = b""

    def feed(self, data: bytes | bytearray | memoryview) -> int:
        self._kept += bytes(data)
        ready = 0
        if self._kept.startswith(b"P"):
            ready = max(self._kept.rfind(b" "), self._kept.rfind(b"\n")) + 1
        elif len(self._kept) >= 16 + int.from_bytes(self._kept[14:16], "big"):
            ready = len(self._kept)
        super().feed(self._kept[self.taken : ready])
        return len(data)


def test_a_parser_that_takes_too_much_is_found() -> None:
    with pytest.raises(AssertionError, match="bytes were taken"):
        check_invariant(VALID[0] + b"GET", [], Greedy)


def test_a_parser_with_another_error_is_found() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        check_invariant(b"PROXY TCP4 1_0", [], Raises)


def test_a_parser_that_looks_too_late_is_found() -> None:
    numbers = random.Random(3)
    with pytest.raises(AssertionError, match="nothing can follow it"):
        for _ in range(50):
            check_no_dead_end(numbers, Late)
