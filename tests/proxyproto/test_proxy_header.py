"""The value, and writing it: what it says, what it refuses, and that nothing a peer sent gets into a log as it was."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from proxy_support import INET, read, tlv, v2

from jackfield.errors import JackfieldError, ProxyError
from jackfield.proxyheader import LONGEST_PAYLOAD, ProxyHeader, ProxyTLS, checksum, encode

SOURCE, DESTINATION = ("192.0.2.1", 40000), ("198.51.100.7", 443)
SOURCE6, DESTINATION6 = ("2001:db8::1", 40000, 0, 0), ("2001:db8::2", 443, 0, 0)
HOSTILE = "\x1b[2J\n\u202e\udcff" + "A" * 5000


# --- writing --------------------------------------------------------------------------------------------------------


def test_version_1_is_a_line() -> None:
    assert encode(ProxyHeader.of(SOURCE, DESTINATION, version=1)) == b"PROXY TCP4 192.0.2.1 198.51.100.7 40000 443\r\n"
    line = b"PROXY TCP6 2001:db8::1 2001:db8::2 40000 443\r\n"
    assert encode(ProxyHeader.of(SOURCE6, DESTINATION6, version=1)) == line
    assert encode(ProxyHeader.of(None, None, version=1)) == encode(ProxyHeader(1)) == b"PROXY UNKNOWN\r\n"


def test_version_2_is_binary() -> None:
    assert encode(ProxyHeader.of(SOURCE, DESTINATION)) == v2(0x21, 0x11, INET)
    assert encode(ProxyHeader.of(SOURCE, DESTINATION, stream=False)) == v2(0x21, 0x12, INET)
    assert encode(ProxyHeader.of(None, None)) == v2(0x21, 0x00)
    assert encode(ProxyHeader(2, "LOCAL")) == v2(0x20, 0x00)
    assert encode(ProxyHeader.of("/a", "/b")) == v2(0x21, 0x31, b"/a".ljust(108, b"\0") + b"/b".ljust(108, b"\0"))
    assert encode(ProxyHeader.of("", "", stream=False)) == v2(0x21, 0x32, bytes(216))
    with_tlvs = ProxyHeader.of(SOURCE, DESTINATION, tlvs=((1, b"h2"), (4, b"")))
    assert encode(with_tlvs) == v2(0x21, 0x11, INET + tlv(1, b"h2") + tlv(4, b""))


def test_a_checksum_is_added_last_or_computed_in_its_place() -> None:
    plain = ProxyHeader.of(SOURCE, DESTINATION, tlvs=((2, b"example.org"), (0xE0, b"x")))
    header, _ = read([encode(plain, crc32c=True)])
    assert header is not None
    assert [kind for kind, _ in header.tlvs] == [2, 0xE0, 3]
    wrong = dataclasses.replace(plain, tlvs=((2, b"example.org"), (3, b"\xff" * 4), (0xE0, b"x")))
    for asked in (False, True):
        header, _ = read([encode(wrong, crc32c=asked)])
        assert header is not None
        assert [kind for kind, _ in header.tlvs] == [2, 3, 0xE0]
        assert header.crc32c == 0xEEC1F800
    local, _ = read([encode(ProxyHeader(2, "LOCAL"), crc32c=True)])
    assert local is not None and local.crc32c is not None


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),  # the check value of the catalogue of CRCs
        (bytes(32), 0x8A9136AA),  # this and what follows: RFC 3720, appendix B.4
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
    ids=["nothing", "digits", "zeros", "ones", "up", "down"],
)
def test_the_checksum_is_castagnolis(data: bytes, expected: int) -> None:
    assert checksum(data) == expected


# --- from the addresses of sockets ----------------------------------------------------------------------------------


def test_the_addresses_of_sockets_are_taken_as_they_are() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as client:
        connection, peer = listener.accept()
        with connection:
            header = ProxyHeader.of(peer, connection.getsockname(), version=1)
        assert (header.protocol, header.source, header.destination) == (
            "TCP4",
            client.getsockname(),
            client.getpeername(),
        )


def test_addresses_are_made_canonical_and_lose_their_zone() -> None:
    header = ProxyHeader.of(("fe80::1%eth0", 1, 5, 3), ("2001:DB8:0:0:0:0:0:A", 2))
    assert (header.source, header.destination) == (("fe80::1", 1, 0, 0), ("2001:db8::a", 2, 0, 0))
    assert ProxyHeader.of(("::FFFF:1.2.3.4", 1), ("::1", 2)).source == ("::ffff:1.2.3.4", 1, 0, 0)


@pytest.mark.parametrize(
    ("arguments", "options", "said"),
    [
        ((SOURCE, SOURCE6), {}, "two addresses of one family"),
        ((SOURCE, None), {}, "two addresses of one family"),
        ((SOURCE, "/run/x"), {}, "two addresses of one family"),
        ((SOURCE, DESTINATION), {"version": 1, "stream": False}, "version 1 has no PROXY UDP4: use version 2"),
        (("/a", "/b"), {"version": 1}, "version 1 has no PROXY UNIX: use version 2"),
        ((SOURCE, DESTINATION), {"version": 1, "tlvs": ((1, b"h2"),)}, "use version 2 for TLVs"),
        ((SOURCE, DESTINATION), {"version": 3}, "version 1 or 2, not 3"),
        ((("localhost", 1), DESTINATION), {}, "IP addresses and no names, not 'localhost': resolve it"),
        ((("01.2.3.4", 1), DESTINATION), {}, "IP addresses and no names"),
        ((("", 1), DESTINATION), {}, "IP addresses and no names"),
        ((("1.2.3.4\0", 1), DESTINATION), {}, "IP addresses and no names"),
        ((("::1%", 1), ("::g", 1)), {}, "IP addresses and no names"),
        ((("1.2.3.4",), DESTINATION), {}, "a port in a PROXY header is a whole number from 0 to 65535"),
        ((("1.2.3.4", 65536), DESTINATION), {}, "a port .* not 65536"),
        ((("1.2.3.4", -1), DESTINATION), {}, "a port .* not -1"),
        ((("1.2.3.4", True), DESTINATION), {}, "a port .* not True"),
        ((("1.2.3.4", "80"), DESTINATION), {}, "a port .* not '80'"),
        (((), DESTINATION), {}, "give it as getpeername"),
        ((5, 5), {}, "give it as getpeername"),
        ((b"\0name", "/b"), {}, "give it as getpeername"),
        (("\0name", "/b"), {}, "a Unix path is a text of at most 108 bytes"),
        (("/" + "ü" * 54, "/b"), {}, "a Unix path is a text of at most 108 bytes"),
        ((SOURCE, DESTINATION), {"tlvs": ((256, b""),)}, "the type of a TLV"),
        ((SOURCE, DESTINATION), {"tlvs": ((1, "h2"),)}, "the TLV 0x01 of a PROXY header cannot be 'h2'"),
        ((SOURCE, DESTINATION), {"tlvs": ((3, b"12345"),)}, "the TLV 0x03"),
        ((SOURCE, DESTINATION), {"tlvs": ((5, b"i" * 129),)}, "the TLV 0x05"),
        ((SOURCE, DESTINATION), {"tlvs": ((0x20, b"1234"),)}, "the TLV 0x20"),
        ((SOURCE, DESTINATION), {"tlvs": ((0x20, bytes(5) + b"\x21\0\x09x"),)}, "give its true length"),
        ((SOURCE, DESTINATION), {"tlvs": ((3, bytes(4)), (3, bytes(4)))}, "one checksum"),
        ((SOURCE, DESTINATION), {"tlvs": ((0xE0, bytes(4082)),)}, "4097 bytes and 16: 4096 is the most"),
    ],
    ids=str,
)
def test_what_cannot_be_expressed_is_refused_with_one_line(arguments: Any, options: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said) as refused:
        ProxyHeader.of(*arguments, **options)
    assert str(refused.value).isprintable() and str(refused.value).isascii()
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((2, "proxy"), "command is PROXY or LOCAL"),
        ((2, "PROXY", "SCTP"), "protocol is one of"),
        ((1, "LOCAL"), "version 1 has no LOCAL"),
        ((2, "LOCAL", "TCP4", SOURCE, DESTINATION), "LOCAL header has the protocol UNKNOWN"),
        ((2, "PROXY", "UNKNOWN", SOURCE, DESTINATION), "has no addresses: leave them out"),
        ((2, "PROXY", "TCP4"), r"written \('192.0.2.1', 9999\), not None"),
        ((2, "PROXY", "TCP4", SOURCE, SOURCE6), "an address of TCP4 is written"),
        ((2, "PROXY", "TCP4", ("::1", 1), SOURCE), "an address of TCP4 is written"),
        ((2, "PROXY", "TCP6", SOURCE6, ("::1", 1)), r"an address of TCP6 is written \('2001:db8::1', 9999, 0, 0\)"),
        ((2, "PROXY", "TCP6", SOURCE6, ("fe80::1", 1, 0, 3)), "an address of TCP6 is written"),
        ((2, "PROXY", "TCP6", SOURCE6, ("0::1", 1, 0, 0)), r"an address of TCP6 .* ProxyHeader\.of\(\)"),
        ((2, "PROXY", "TCP6", SOURCE6, ("fe80::1%1", 1, 0, 0)), "IP addresses and no names"),
        ((2, "PROXY", "UNIX", SOURCE, DESTINATION), "a Unix path"),
    ],
    ids=str,
)
def test_a_header_that_there_cannot_be_is_refused_when_it_is_made(arguments: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ProxyHeader(*arguments)


def test_a_checksum_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="version 1 has no checksum: use version 2"):
        encode(ProxyHeader(1), crc32c=True)
    full = ProxyHeader.of(SOURCE, DESTINATION, tlvs=((0xE0, bytes(LONGEST_PAYLOAD - 12 - 3)),))
    assert len(encode(full)) == 16 + LONGEST_PAYLOAD
    with pytest.raises(ValueError, match="send fewer TLVs"):
        encode(full, crc32c=True)


# --- TLS ------------------------------------------------------------------------------------------------------------


def test_tls_is_packed_as_the_specification_has_it() -> None:
    tls = ProxyTLS(1, 0xFFFFFFFF, "TLSv1.3", "example.org", "TLS_AES_128_GCM_SHA256", "SHA256", "RSA2048")
    assert tls.pack() == b"\x01\xff\xff\xff\xff" + (
        tlv(0x21, b"TLSv1.3") + tlv(0x22, b"example.org") + tlv(0x23, b"TLS_AES_128_GCM_SHA256")
        + tlv(0x24, b"SHA256") + tlv(0x25, b"RSA2048")
    )  # fmt: skip
    assert ProxyTLS.unpack(tls.pack()) == tls
    assert ProxyTLS.unpack(bytes(5)) == ProxyTLS(0, 0)


def test_of_two_texts_the_first_counts_and_unknown_ones_none() -> None:
    value = bytes(5) + tlv(0x22, b"first") + tlv(0x22, b"second") + tlv(0x2F, b"?")
    assert ProxyTLS.unpack(value) == ProxyTLS(0, 0, cn="first")


@pytest.mark.parametrize(
    ("client", "verify", "verified"),
    [(0, 0, False), (1, 0, False), (3, 0, True), (5, 0, True), (3, 1, False), (1, 1, False), (7, 0, True)],
)
def test_only_who_has_shown_a_certificate_is_verified(client: int, verify: int, verified: bool) -> None:
    assert ProxyTLS(client, verify).verified is verified


@pytest.mark.parametrize("value", [b"", bytes(4), bytes(6), bytes(7), bytes(5) + b"\x21\0\x02x"], ids=repr)
def test_tls_cut_short_is_refused(value: bytes) -> None:
    with pytest.raises(ValueError, match="a PROXY header's T"):
        ProxyTLS.unpack(value)


@pytest.mark.parametrize("numbers", [(256, 0), (-1, 0), (0, 2**32), (0, -1), (True, 0), (0, None)], ids=str)
def test_tls_numbers_have_bounds(numbers: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="is a whole number from 0 to"):
        ProxyTLS(*numbers)


# --- a value --------------------------------------------------------------------------------------------------------


def test_a_header_is_a_value() -> None:
    header = ProxyHeader.of(SOURCE, DESTINATION, tlvs=((1, b"h2"), (0x20, ProxyTLS().pack())))
    for other in (pickle.loads(pickle.dumps(header)), copy.deepcopy(header), dataclasses.replace(header)):
        assert other == header and hash(other) == hash(header)
    assert header != dataclasses.replace(header, tlvs=())
    with pytest.raises(dataclasses.FrozenInstanceError):
        header.source = SOURCE  # type: ignore[misc]
    with pytest.raises((AttributeError, TypeError)):
        header.more = 1  # type: ignore[attr-defined]


def test_bytes_that_are_no_text_stay_apart() -> None:
    names = {ProxyHeader(2, tlvs=((2, name),)).authority for name in (b"\xff", b"\xfe", b"\\xff", "\ufffd".encode())}
    assert len(names) == 4


def test_a_header_is_shown_in_one_line() -> None:
    header = ProxyHeader.of(SOURCE, DESTINATION, tlvs=((1, b"h2"),))
    assert repr(header) == str(header)
    assert repr(header) == (
        "ProxyHeader(2, 'PROXY', 'TCP4', ('192.0.2.1', 40000), ('198.51.100.7', 443), tlvs=[(0x01, b'h2')])"
    )
    assert repr(ProxyHeader(2, "LOCAL")) == "ProxyHeader(2, 'LOCAL', 'UNKNOWN')"
    assert repr(ProxyTLS(3, 0, "TLSv1.3")) == "ProxyTLS(client=3, verify=0, version='TLSv1.3')"


@given(st.text(max_size=27), st.lists(st.tuples(st.integers(6, 0x1F), st.binary(max_size=100)), max_size=20))
def test_nothing_a_peer_sent_is_shown_as_it_was(path: str, tlvs: list[tuple[int, bytes]]) -> None:
    path = path.replace("\0", "").encode("utf-8", "ignore").decode()
    shown = repr(ProxyHeader.of(path, path, tlvs=tuple(tlvs)))
    assert shown.isascii() and shown.isprintable()
    assert len(shown) < 5000


def test_hostile_texts_are_escaped_and_cut() -> None:
    value = HOSTILE.encode("utf-8", "surrogateescape")[:4000]
    shown = [
        repr(ProxyHeader(2, tlvs=((2, value),))),
        repr(ProxyHeader(2, tlvs=((2, b"\n"),) * 1000)),
        repr(ProxyTLS(1, 0, HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE)),
        repr(ProxyHeader.of(HOSTILE[:30], HOSTILE[:30])),
    ]
    for text in shown:
        assert text.isascii() and text.isprintable() and len(text) < 1000
    assert "992 more" in shown[1]
    # And the check can fail: the texts as they are would not pass it.
    assert not HOSTILE.isascii() and not HOSTILE.isprintable()


# --- the error ------------------------------------------------------------------------------------------------------


def test_the_error_is_ours_and_the_end_of_a_connection() -> None:
    error = ProxyError("no PROXY header")
    assert isinstance(error, JackfieldError) and isinstance(error, ConnectionAbortedError)
    assert error.errno is None
    assert str(error) == str(pickle.loads(pickle.dumps(error))) == "no PROXY header"
