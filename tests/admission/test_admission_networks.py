"""Lists of peers: strict reading, and the same answer as the slow and obvious way."""

from __future__ import annotations

import copy
import ipaddress
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jackfield.admission import Credentials, PeerList, parse_ip, parse_peer
from jackfield.admission.addresses import Keys, source_of

NO_ADDRESSES = [
    "", " ", "1.2.3", "127.1", "1", "2130706433", "0x7f.0.0.1", "0177.0.0.1", "010.0.0.1", "1.2.3.04", "00.0.0.0",
    "1.2.3.256", "1.2.3.4.5", "1.2.3.-4", "1.2.3.+4", "1.2.3.4 ", " 1.2.3.4", "1.2.3.4\n", "1.2.3.4\0", "1_0.2.3.4",
    "١.2.3.4", "1.2.3.4%eth0", "fe80::1%eth0", "fe80::1%1", "[::1]", ":", ":::", "1::2::3", "::12345", "::g",
    "1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9", "::ffff:1.2.3.04", "::ffff:127.1", "::ffff:0x7f.0.0.1", "localhost", "::1\0",
    "1.2.3.4:80", "x" * 9999,
]  # fmt: skip


@pytest.mark.parametrize("text", NO_ADDRESSES, ids=lambda text: ascii(text)[:20])
def test_what_is_no_address_is_none_anywhere(text: str) -> None:
    assert parse_ip(text) is None
    with pytest.raises(ValueError, match=r"write e\.g\. ") as caught:
        PeerList([text])
    assert str(caught.value).isprintable() and len(str(caught.value)) < 300
    with pytest.raises(ValueError, match=r"write e\.g\. "):
        parse_peer(text)
    if "%" not in text:  # of a peer, the kernel's word for an interface does not count
        assert source_of((text, 5)) is None


@pytest.mark.parametrize("text", ["0.0.0.0", "255.255.255.255", "::", "::1", "2001:DB8::a", "::ffff:1.2.3.4"])
def test_an_address_is_read_as_ipaddress_reads_it(text: str) -> None:
    assert parse_ip(text) == ipaddress.ip_address(text).packed


@pytest.mark.parametrize(
    ("entry", "fix"),
    [
        ("10.0.0.1/8", "write 10.0.0.0/8"),
        ("2001:db8::1/32", "write 2001:db8::/32"),
        ("::ffff:10.0.0.1/104", "write 10.0.0.0/8"),
        ("10.0.0.0/33", "write e.g. 10.0.0.0/32"),
        ("10.0.0.0/08", "write e.g. 10.0.0.0/32"),
        ("10.0.0.0/", "write e.g. 10.0.0.0/32"),
        ("10.0.0.0/255.0.0.0", "write e.g. 10.0.0.0/32"),
        ("::/129", "write e.g. ::/128"),
        ("uid:", "uid:1000"),
        ("uid:01", "uid:1000"),
        ("uid:4294967295", "uid:1000"),
        ("gid:-1", "gid:100"),
        ("user:root", "uid:1000"),
        ("unix:", "or unix$"),
        (5, "write e.g. 192.0.2.7"),
    ],
)
def test_a_wrong_entry_is_told_with_the_right_one(entry: Any, fix: str) -> None:
    with pytest.raises(ValueError, match=fix.replace(".", "[.]")):
        PeerList([entry])


def test_one_text_is_not_a_list() -> None:
    with pytest.raises(ValueError, match=r"write PeerList\(\['10.0.0.0/8'\]\)"):
        PeerList("10.0.0.0/8")


def test_peers_as_the_socket_module_gives_them() -> None:
    peers = PeerList(["192.0.2.0/24", "2001:db8::/32", "uid:1000", "gid:100", "::ffff:198.51.100.7"])
    assert ("192.0.2.7", 5) in peers
    assert ("::ffff:192.0.2.7", 5, 0, 0) in peers
    assert ("::ffff:c000:207", 5, 0, 0) in peers
    assert ("198.51.100.7", 5) in peers  # written as IPv6, it is IPv4 that comes from there
    assert ("192.0.3.0", 5) not in peers
    assert ("2001:db8::1", 5, 0, 0) in peers
    assert ("2001:db8::1%eth0", 5, 0, 2) in peers
    assert ("2001:db9::1", 5, 0, 0) not in peers
    assert Credentials(1, 1000, 7) in peers
    assert Credentials(1, 7, 100) in peers
    assert Credentials(1000, 7, 7) not in peers
    assert Credentials(1000, 7, 7) in PeerList(["unix"]) and ("127.0.0.1", 5) not in PeerList(["unix"])
    assert PeerList(["unix"]) != PeerList()
    for nobody in ("", b"\0name", "/run/x.sock", None, (), (3, 1024), ("eth0", 1), (None,), ("1.2.3.4\ud800", 1), 5):
        assert nobody not in peers


def test_everybody_in_ipv6_is_nobody_in_ipv4() -> None:
    assert ("192.0.2.7", 5) not in PeerList(["::/0"])
    assert ("::ffff:192.0.2.7", 5, 0, 0) not in PeerList(["::/0"])
    assert ("2001:db8::1", 5, 0, 0) not in PeerList(["0.0.0.0/0"])
    assert ("255.255.255.255", 5) in PeerList(["0.0.0.0/0"])
    assert ("ffff:" * 7 + "ffff", 5, 0, 0) in PeerList(["::/0"])


networks = st.builds(
    lambda base, length: ipaddress.IPv4Network((base, length), strict=False),
    # Few different ones, so that they touch, overlap and hold each other.
    st.integers(0, 40).map(lambda n: 0x0A000000 + n) | st.sampled_from([0, 0xFFFFFFFF, 0xFFFFFFFE, 0x80000000]),
    st.sampled_from([0, 1, 8, 27, 29, 30, 31, 32, 32, 32]),
)
networks6 = st.builds(
    lambda base, length: ipaddress.IPv6Network((base, length), strict=False),
    st.integers(0, 40).map(lambda n: (0x20010DB8 << 96) + n) | st.sampled_from([1, 2**128 - 1, 2**127]),
    st.sampled_from([1, 32, 64, 123, 126, 127, 128]),
)


@given(st.lists(networks, max_size=12), st.lists(networks6, max_size=8))
def test_a_list_holds_what_one_of_its_networks_holds(four: list[Any], six: list[Any]) -> None:
    peers = PeerList([*map(str, four), *map(str, six)])
    for host in [*(0x0A000000 + n for n in range(-2, 44)), 0, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF]:
        address = ipaddress.IPv4Address(host)
        assert ((str(address), 1) in peers) == any(address in network for network in four), address
    for host in [*((0x20010DB8 << 96) + n for n in range(44)), 0, 1, 2, 2**127 - 1, 2**127, 2**128 - 2, 2**128 - 1]:
        address6 = ipaddress.IPv6Address(host)
        assert ((str(address6), 1, 0, 0) in peers) == any(address6 in network for network in six), address6


@given(st.lists(networks, max_size=6))
def test_lists_are_equal_when_they_hold_the_same(four: list[Any]) -> None:
    texts = list(map(str, four))
    peers = PeerList(texts)
    merged = PeerList(map(str, ipaddress.collapse_addresses(four)))
    assert peers == merged and hash(peers) == hash(merged)
    assert peers != PeerList([*texts, "192.0.2.9"]) or any(network.prefixlen <= 1 for network in four)
    assert list(peers) == texts and len(peers) == len(texts)
    assert pickle.loads(pickle.dumps(peers)) == copy.deepcopy(peers) == peers


def test_a_list_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "peers"
    file.write_bytes(b"# ours\n10.0.0.0/8   # the office\r\n\n\t2001:db8::/32\nuid:0\n   \n192.0.2.7")
    peers = PeerList.from_file(file)
    assert list(peers) == ["10.0.0.0/8", "2001:db8::/32", "uid:0", "192.0.2.7"]
    assert peers == PeerList(peers)
    assert repr(peers) == "PeerList(['10.0.0.0/8', '2001:db8::/32', 'uid:0', '192.0.2.7'])"


@pytest.mark.parametrize("line", [b"10.0.0.1/8", b"10.0.0.0/8 ::1", b"\xff\xfe", b"010.0.0.1", b"1.2.3.4\x0c1.2.3.4"])
def test_a_wrong_line_is_told_by_its_number(tmp_path: Path, line: bytes) -> None:
    file = tmp_path / "peers"
    file.write_bytes(b"# ours\n\n10.0.0.0/8\n" + line + b"\n192.0.2.7\n")
    with pytest.raises(ValueError, match=r"peers:4: .*: write ") as caught:
        PeerList.from_file(str(file))
    assert str(caught.value).isprintable()
    with pytest.raises(FileNotFoundError):
        PeerList.from_file(tmp_path / "absent")


def test_ten_thousand_networks_are_merged_and_found() -> None:
    peers = PeerList(f"10.{n >> 8}.{n & 255}.0/24" for n in range(10_000))
    assert ("10.0.0.0", 1) in peers and ("10.39.15.255", 1) in peers
    assert ("10.39.16.0", 1) not in peers and ("9.255.255.255", 1) not in peers
    assert repr(peers).endswith("10000 in all])")


# --- keys -----------------------------------------------------------------------------------------------------------


@given(st.integers(1, 32), st.integers(1, 128), st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16))
def test_a_key_is_the_network_of_its_address(prefix4: int, prefix6: int, four: bytes, six: bytes) -> None:
    keys = Keys(prefix4, prefix6)
    for packed, prefix in ((four, prefix4), (six, prefix6)):
        network = ipaddress.ip_network((packed, prefix), strict=False)
        key = keys.of(packed)
        assert keys.describe(key) == str(network).removesuffix(f"/{network.max_prefixlen}")
        assert keys.is_whole(key) == (prefix == network.max_prefixlen) == (key is packed)
        last = network.broadcast_address.packed
        assert keys.of(last) == key
    assert keys.of(four) != keys.of(six)


def test_keys_of_others() -> None:
    keys = Keys()
    assert keys.of(Credentials(1, 1000, 100)) == 1000
    assert keys.describe(1000) == "uid:1000"
    assert keys.of(None) is None
    assert keys.describe(None) == "unknown"
    assert parse_peer("uid:1000").uid == 1000
    assert source_of(parse_peer("192.0.2.7")) == b"\xc0\x00\x02\x07"
    with pytest.raises(ValueError, match="uid:1000"):
        parse_peer("gid:100")
