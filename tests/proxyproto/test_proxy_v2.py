"""Version 2 of the PROXY protocol: what is read, and what is refused and at which byte."""

from __future__ import annotations

import struct

import pytest
from proxy_support import INET, SIGNATURE, check_bad, check_good, read, tlv, v2

from jackfield.errors import ProxyError
from jackfield.proxyheader import Protocol, ProxyAddress, ProxyHeader, ProxyTLS
from jackfield.proxyproto import LONGEST_HEADER, ProxyParser

SOURCE, DESTINATION = ("192.0.2.1", 40000), ("198.51.100.7", 443)
SOURCE6, DESTINATION6 = ("2001:db8::1", 40000, 0, 0), ("::ffff:192.0.2.1", 443, 0, 0)
INET6 = (
    bytes.fromhex("20010db8000000000000000000000001" "00000000000000000000ffffc0000201")
    + struct.pack("!HH", 40000, 443)
)  # fmt: skip
UNIX = b"/run/source".ljust(108, b"\0") + b"/run/destination".ljust(108, b"\0")
TLS = b"\x03\0\0\0\0" + tlv(0x21, b"TLSv1.3") + tlv(0x22, "Müller".encode()) + tlv(0x23, b"TLS_AES_128")


def proxy(
    protocol: Protocol = "TCP4",
    source: ProxyAddress | None = SOURCE,
    destination: ProxyAddress | None = DESTINATION,
    *tlvs: tuple[int, bytes],
) -> ProxyHeader:
    return ProxyHeader(2, "PROXY", protocol, source, destination, tlvs)


def local(*tlvs: tuple[int, bytes]) -> ProxyHeader:
    return ProxyHeader(2, "LOCAL", tlvs=tlvs)


GOOD: dict[str, tuple[bytes, ProxyHeader]] = {
    "TCP4": (v2(0x21, 0x11, INET), proxy()),
    "UDP4": (v2(0x21, 0x12, INET), proxy("UDP4")),
    "TCP6": (v2(0x21, 0x21, INET6), proxy("TCP6", SOURCE6, DESTINATION6)),
    "UDP6": (v2(0x21, 0x22, INET6), proxy("UDP6", SOURCE6, DESTINATION6)),
    "UNIX": (v2(0x21, 0x31, UNIX), proxy("UNIX", "/run/source", "/run/destination")),
    "UNIX-DGRAM": (v2(0x21, 0x32, UNIX), proxy("UNIX-DGRAM", "/run/source", "/run/destination")),
    "UNIX without a path": (v2(0x21, 0x31, bytes(216)), proxy("UNIX", "", "")),
    "UNIX, abstract": (v2(0x21, 0x31, b"\0name".ljust(216, b"\0")), proxy("UNIX", "", "")),
    "UNIX, filled": (v2(0x21, 0x31, b"a" * 108 + b"b" * 108), proxy("UNIX", "a" * 108, "b" * 108)),
    "UNIX, rubbish after the NUL": (v2(0x21, 0x31, b"a\0xyz".ljust(216, b"\xff")), proxy("UNIX", "a", "\udcff" * 108)),
    "UNSPEC": (v2(0x21, 0x00), proxy("UNKNOWN", None, None)),
    "UNSPEC with a TLV": (v2(0x21, 0x00, tlv(1, b"h2")), proxy("UNKNOWN", None, None, (1, b"h2"))),
    "LOCAL": (v2(0x20, 0x00), local()),
    "LOCAL with a TLV": (v2(0x20, 0x00, tlv(5, b"id")), local((5, b"id"))),
    "LOCAL of a family": (v2(0x20, 0x11), local()),
    "LOCAL of a family, with a TLV": (v2(0x20, 0x21, tlv(5, b"id")), local((5, b"id"))),
    "LOCAL with addresses": (v2(0x20, 0x11, INET), local()),
    "LOCAL with addresses and a TLV": (v2(0x20, 0x21, INET6 + tlv(5, b"id")), local((5, b"id"))),
    "LOCAL of no known family": (v2(0x20, 0xFF, b"whatever"), local()),
    "LOCAL of half a family": (v2(0x20, 0x10, INET), local()),
    "LOCAL, the longest": (v2(0x20, 0x41, b"x" * 4096), local()),
    "ALPN": (v2(0x21, 0x11, INET + tlv(1, b"h2")), proxy("TCP4", SOURCE, DESTINATION, (1, b"h2"))),
    "an empty TLV": (v2(0x21, 0x11, INET + tlv(2, b"")), proxy("TCP4", SOURCE, DESTINATION, (2, b""))),
    "two of a type": (
        v2(0x21, 0x11, INET + tlv(0xE0, b"1") + tlv(0xE0, b"2")),
        proxy("TCP4", SOURCE, DESTINATION, (0xE0, b"1"), (0xE0, b"2")),
    ),
    "NOOP": (
        v2(0x21, 0x11, INET + tlv(4, b"") + tlv(0xE0, b"1") + tlv(4, b"padding")),
        proxy("TCP4", SOURCE, DESTINATION, (0xE0, b"1")),
    ),
    "types nobody knows": (
        v2(0x21, 0x11, INET + tlv(0, b"\0") + tlv(0xFF, b"\xff" * 300)),
        proxy("TCP4", SOURCE, DESTINATION, (0, b"\0"), (0xFF, b"\xff" * 300)),
    ),
    "TLS": (v2(0x21, 0x11, INET + tlv(0x20, TLS)), proxy("TCP4", SOURCE, DESTINATION, (0x20, TLS))),
    "TLS with nothing more": (
        v2(0x21, 0x11, INET + tlv(0x20, b"\0\xff\xff\xff\xff")),
        proxy("TCP4", SOURCE, DESTINATION, (0x20, b"\0\xff\xff\xff\xff")),
    ),
    "TLS whose own types are no checksum": (
        v2(0x21, 0x11, INET + tlv(0x20, bytes(5) + tlv(3, b"") + tlv(0x20, b"x") + tlv(5, bytes(200)))),
        proxy("TCP4", SOURCE, DESTINATION, (0x20, bytes(5) + tlv(3, b"") + tlv(0x20, b"x") + tlv(5, bytes(200)))),
    ),
    "the longest unique id": (
        v2(0x21, 0x11, INET + tlv(5, b"i" * 128)),
        proxy("TCP4", SOURCE, DESTINATION, (5, b"i" * 128)),
    ),
    "the longest": (
        v2(0x21, 0x11, INET + tlv(0xE0, b"x" * 4081)),
        proxy("TCP4", SOURCE, DESTINATION, (0xE0, b"x" * 4081)),
    ),
}  # fmt: skip

# Each is refused at its last byte.
BAD: dict[str, bytes] = {
    "signature, second byte": SIGNATURE[:1] + b"\r",
    "signature, the NUL": SIGNATURE[:4] + b"\r",
    "signature, a lower-case letter": SIGNATURE[:7] + b"q",
    "signature, last byte": SIGNATURE[:11] + b"\r",
    "version 0": SIGNATURE + b"\x01",
    "version 1": SIGNATURE + b"\x11",
    "version 3": SIGNATURE + b"\x31",
    "version 15": SIGNATURE + b"\xf0",
    "command 2": SIGNATURE + b"\x22",
    "command 15": SIGNATURE + b"\x2f",
    "a family that is not assigned": SIGNATURE + b"\x21\x41",
    "a transport that is not assigned": SIGNATURE + b"\x21\x13",
    "a family and no transport": SIGNATURE + b"\x21\x10",
    "a transport and no family": SIGNATURE + b"\x21\x01",
    "Unix and no transport": SIGNATURE + b"\x21\x30",
    "neither is assigned": SIGNATURE + b"\x21\xff",
    "a length of 65,535": v2(0x21, 0x11, length=0xFFFF)[:15],
    "a length of 4,352": v2(0x21, 0x11, length=0x1100)[:15],
    "a length of 4,097": v2(0x21, 0x11, length=0x1001),
    "LOCAL, a length of 4,097": v2(0x20, 0xFF, length=0x1001),
    "no addresses": v2(0x21, 0x11, length=0),
    "addresses cut short": v2(0x21, 0x11, length=11),
    "IPv6 with addresses of IPv4": v2(0x21, 0x21, length=12),
    "IPv6 cut short": v2(0x21, 0x22, length=35),
    "Unix cut short": v2(0x21, 0x31, length=215),
    "one byte after the addresses": v2(0x21, 0x11, length=13),
    "two bytes after the addresses": v2(0x21, 0x21, length=38),
    "one byte of UNSPEC": v2(0x21, 0x00, length=1),
    "two bytes of LOCAL": v2(0x20, 0x00, length=2),
    "LOCAL of a family, one byte": v2(0x20, 0x11, length=1),
    "LOCAL, two bytes after the addresses": v2(0x20, 0x11, length=14),
    "LOCAL, rubbish for addresses": v2(0x20, 0x11, b"\x01\xff", length=11),
    "a TLV past the end, by its high byte": v2(0x21, 0x11, INET + b"\x01\x01", length=12 + 5),
    "a TLV past the end, by one": v2(0x21, 0x11, INET + b"\x01\0\x03", length=12 + 5),
    "a TLV that leaves one byte": v2(0x21, 0x11, INET + b"\x01\0\x01", length=12 + 5),
    "a TLV that leaves two bytes": v2(0x21, 0x11, INET + b"\x01\0\0", length=12 + 5),
    "a second TLV past the end": v2(0x21, 0x11, INET + tlv(1, b"h2") + b"\x02\0\x04", length=12 + 5 + 6),
    "a TLV of 65,535 bytes": v2(0x21, 0x11, INET + b"\xe0\xff", length=4096),
    "LOCAL, a TLV past the end": v2(0x20, 0x00, b"\x01\0\x03", length=5),
    "LOCAL, a TLV past the end after addresses": v2(0x20, 0x11, INET + b"\x01\0\x03", length=17),
    "a checksum without room": v2(0x21, 0x11, INET + b"\x03", length=12 + 5),
    "a checksum that leaves one byte": v2(0x21, 0x11, INET + b"\x03", length=12 + 8),
    "a checksum of 2 bytes": v2(0x21, 0x11, INET + b"\x03\0\x02", length=12 + 20),
    "a checksum of 8 bytes": v2(0x21, 0x11, INET + b"\x03\0\x08", length=12 + 20),
    "a checksum of 260 bytes": v2(0x21, 0x11, INET + b"\x03\x01", length=12 + 400),
    "a second checksum": v2(0x21, 0x11, INET + tlv(3, bytes(4)) + b"\x03", length=12 + 14),
    "a wrong checksum": v2(0x21, 0x11, INET + tlv(3, b"\x01\x02\x03\x04")),
    "a checksum of zeros": v2(0x21, 0x11, INET + tlv(3, bytes(4))),
    "LOCAL, a wrong checksum": v2(0x20, 0x00, tlv(3, b"\x01\x02\x03\x04")),
    "a unique id of 129 bytes": v2(0x21, 0x11, INET + b"\x05\0\x81", length=12 + 132),
    "a unique id of 256 bytes": v2(0x21, 0x11, INET + b"\x05\x01", length=12 + 400),
    "TLS without room": v2(0x21, 0x11, INET + b"\x20", length=12 + 7),
    "TLS that leaves one byte": v2(0x21, 0x11, INET + b"\x20", length=12 + 9),
    "TLS of 4 bytes": v2(0x21, 0x11, INET + b"\x20\0\x04", length=12 + 20),
    "TLS with one byte too many": v2(0x21, 0x11, INET + b"\x20\0\x06", length=12 + 20),
    "TLS with a value past its end": v2(
        0x21, 0x11, INET + b"\x20\0\x0a" + bytes(5) + b"\x21\0\x03", length=12 + 13 + 20
    ),
    "TLS with a value that leaves one byte": v2(
        0x21, 0x11, INET + b"\x20\0\x0a" + bytes(5) + b"\x21\0\x01", length=12 + 13 + 20
    ),
    "TLS with a value of 256 bytes": v2(0x21, 0x11, INET + b"\x20\0\x0a" + bytes(5) + b"\x21\x01", length=12 + 313),
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_a_good_header_is_read_however_it_is_cut_up(name: str) -> None:
    data, expected = GOOD[name]
    assert len(data) <= LONGEST_HEADER
    if len(data) < 500:
        check_good(data, expected)
    else:  # every cut of the longest ones, without the reading after each
        for cut in (*range(40), len(data) - 1):
            assert read([data[:cut], data[cut:] + b"\0"]) == (expected, len(data))
        assert read([bytes([byte]) for byte in data + b"\0"]) == (expected, len(data))


@pytest.mark.parametrize("name", BAD)
def test_a_bad_header_is_refused_at_its_first_wrong_byte(name: str) -> None:
    message = check_bad(BAD[name])
    assert f"at byte {len(BAD[name])}, " in message


def test_there_are_at_least_forty_malformed_ones() -> None:
    assert len(BAD) >= 40 and len(set(BAD.values())) == len(BAD)


def test_the_error_says_what_is_wrong() -> None:
    assert "version that is not 2" in check_bad(BAD["version 1"])
    assert "neither LOCAL nor PROXY" in check_bad(BAD["command 2"])
    assert "no known family" in check_bad(BAD["a family that is not assigned"])
    assert "a length above 4096" in check_bad(BAD["a length of 4,097"])
    assert "addresses of 36 bytes" in check_bad(BAD["IPv6 with addresses of IPv4"])
    assert "a TLV 0x01 of a length" in check_bad(BAD["a TLV past the end, by one"])
    assert "a wrong checksum" in check_bad(BAD["a wrong checksum"])
    assert "a second checksum" in check_bad(BAD["a second checksum"])


def test_a_version_that_is_not_taken_is_refused_at_its_first_byte() -> None:
    message = check_bad(b"\r", lambda: ProxyParser({1}))
    assert message.endswith("set the proxy to version 1, or allow 2 here")
    check_good(*GOOD["TCP6"], lambda: ProxyParser(frozenset({2})))


@pytest.mark.parametrize("versions", [(), {0}, {1, 2, 3}, {"1"}, frozenset()], ids=repr)
def test_versions_that_there_are_not_are_refused(versions: set[int]) -> None:
    with pytest.raises(ValueError, match=r"write e\.g\. \{1, 2\}"):
        ProxyParser(versions)


# --- the checksum ---------------------------------------------------------------------------------------------------

# Computed with another implementation (google-crc32c, from PyPI) over the header with zeros in their place.
CHECKSUM_ALONE = 0xB99652F9
CHECKSUM_BETWEEN = 0xEEC1F800


@pytest.mark.parametrize(
    ("before", "after", "checksum"),
    [(b"", b"", CHECKSUM_ALONE), (tlv(2, b"example.org"), tlv(0xE0, b"x"), CHECKSUM_BETWEEN)],
    ids=["alone", "between others"],
)
def test_a_checksum_that_is_right_is_taken_and_every_bit_counts(before: bytes, after: bytes, checksum: int) -> None:
    data = v2(0x21, 0x11, INET + before + tlv(3, checksum.to_bytes(4, "big")) + after)
    header, used = read([data])
    assert header is not None and used == len(data)
    assert header.crc32c == checksum
    assert header.source == SOURCE
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            header, _ = read([bytes(flipped)])
        except ProxyError:
            continue
        # What is left: the type of a header that is not finished, and the type that says that it is a checksum.
        assert header is None or header.crc32c is None, f"bit {bit} does not count"


# --- the end of the connection --------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [0, 1, 12, 15, 16, 20])
def test_the_end_of_the_connection_inside_the_header_is_an_error(cut: int) -> None:
    parser = ProxyParser()
    parser.feed(GOOD["TCP4"][0][:cut])
    for _ in range(2):
        with pytest.raises(ProxyError, match=f"ended after {cut} bytes") as ended:
            parser.feed_eof()
        assert str(ended.value).isprintable()
    with pytest.raises(ProxyError):
        parser.feed(b"\r")


def test_the_end_of_the_connection_after_the_header_is_none() -> None:
    parser = ProxyParser()
    parser.feed(GOOD["TCP4"][0])
    parser.feed_eof()
    assert parser.header == GOOD["TCP4"][1]


def test_no_bytes_are_nothing() -> None:
    parser = ProxyParser()
    assert parser.feed(b"") == 0
    assert parser.header is None and parser.taken == 0
    for wrong in ("PROXY", 5, None):
        with pytest.raises(TypeError):
            parser.feed(wrong)  # type: ignore[arg-type]
    assert parser.feed(GOOD["TCP4"][0]) == 28


def test_a_parser_shows_what_it_has_read() -> None:
    parser = ProxyParser()
    assert repr(parser) == "<ProxyParser: 0 bytes so far>"
    parser.feed(b"PROXY UNKNOWN\r\n")
    assert repr(parser) == "<ProxyParser: ProxyHeader(1, 'PROXY', 'UNKNOWN')>"


# --- what the TLVs say ----------------------------------------------------------------------------------------------


def test_the_well_known_tlvs_have_names() -> None:
    sent = tlv(1, b"h2") + tlv(2, "bücher.example".encode()) + tlv(5, b"\0id") + tlv(0x30, b"blue") + tlv(0x20, TLS)
    header, _ = read([v2(0x21, 0x11, INET + sent + tlv(2, b"second"))])
    assert header is not None
    assert header.alpn == b"h2"
    assert header.authority == "bücher.example"
    assert header.unique_id == b"\0id"
    assert header.netns == "blue"
    assert header.crc32c is None
    assert header.ssl == ProxyTLS(3, 0, "TLSv1.3", "Müller", "TLS_AES_128")
    assert header.ssl.verified
    assert header.tlv(0xE0) is None
    assert [kind for kind, _ in header.tlvs] == [1, 2, 5, 0x30, 0x20, 2]


def test_the_names_are_none_where_there_is_no_tlv() -> None:
    header = GOOD["TCP4"][1]
    named = (header.alpn, header.authority, header.crc32c, header.unique_id, header.netns, header.ssl)
    assert named == (None,) * 6
