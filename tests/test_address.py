"""The grammar of addresses: each form, each mistake with its fix, and any text at all."""

from __future__ import annotations

import os
import pickle
import re
import socket
import sys
from typing import Any, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jackfield.address import Address, Scheme, describe_sockaddr, parse_address
from jackfield.errors import AddressError, JackfieldError

FORMS: list[tuple[str | int, Address]] = [
    (9999, Address("tcp", "127.0.0.1", 9999)),
    (0, Address("tcp", "127.0.0.1", 0)),
    ("9999", Address("tcp", "127.0.0.1", 9999)),
    ("00080", Address("tcp", "127.0.0.1", 80)),
    (":9999", Address("tcp", "", 9999)),
    (":0", Address("tcp", "", 0)),
    ("host:9999", Address("tcp", "host", 9999)),
    ("my_host-1.example.com.:1", Address("tcp", "my_host-1.example.com.", 1)),
    ("bücher.example:1", Address("tcp", "bücher.example", 1)),
    ("10.0.0.1:65535", Address("tcp", "10.0.0.1", 65535)),
    ("[::1]:9999", Address("tcp", "::1", 9999)),
    ("tcp://:9999", Address("tcp", "", 9999)),
    ("TCP://host:9999", Address("tcp", "host", 9999)),
    ("tcp://[::]:9999", Address("tcp", "::", 9999)),
    ("tcp://[::ffff:1.2.3.4]:9", Address("tcp", "::ffff:1.2.3.4", 9)),
    ("tcp4://127.0.0.1:1", Address("tcp4", "127.0.0.1", 1)),
    ("tcp4://:1", Address("tcp4", "", 1)),
    ("tcp6://:1", Address("tcp6", "", 1)),
    ("tcp6://[fe80::1%25eth0]:9", Address("tcp6", "fe80::1%eth0", 9)),
    ("tcp://[fe80::1%eth0]:9", Address("tcp", "fe80::1%eth0", 9)),
    ("tcp://[fe80::1%2]:9", Address("tcp", "fe80::1%2", 9)),
    ("tls://:8443", Address("tls", "", 8443)),
    ("TLS4://127.0.0.1:1", Address("tls4", "127.0.0.1", 1)),
    ("tls6://[::1]:1", Address("tls6", "::1", 1)),
    ("tls://:1?cert=a.pem&key=k.pem", Address("tls", "", 1, options=(("cert", "a.pem"), ("key", "k.pem")))),
    ("9999?nodelay=0", Address("tcp", "127.0.0.1", 9999, options=(("nodelay", "0"),))),
    ("udp://:514", Address("udp", "", 514)),
    ("udp4://:514", Address("udp4", "", 514)),
    ("udp6://[::1]:514", Address("udp6", "::1", 514)),
    ("unix:/run/x.sock", Address("unix", path="/run/x.sock")),
    ("unix:///run/x.sock", Address("unix", path="/run/x.sock")),
    ("/run/x.sock", Address("unix", path="/run/x.sock")),
    ("unix:x.sock", Address("unix", path="x.sock")),
    ("unix:./@x", Address("unix", path="./@x")),
    ("unix:9999", Address("unix", path="9999")),
    ("unix:@name", Address("unix", path="@name")),
    ("unix:@a%00b", Address("unix", path="@a\0b")),
    ("/tmp/a%20b", Address("unix", path="/tmp/a b")),
    ("/tmp/100%", Address("unix", path="/tmp/100%")),
    ("/tmp/%FF", Address("unix", path="/tmp/\udcff")),
    ("/tmp/%3F", Address("unix", path="/tmp/?")),
    ("/run/a:9", Address("unix", path="/run/a:9")),
    ("unix:////x", Address("unix", path="//x")),
    ("unix:/run/x.sock?mode=660", Address("unix", path="/run/x.sock", options=(("mode", "660"),))),
    ("/run/x.sock?mode=0600", Address("unix", path="/run/x.sock", options=(("mode", "0600"),))),
    ("unixgram:/p", Address("unixgram", path="/p")),
    ("unixgram:///p", Address("unixgram", path="/p")),
    ("unixgram:@n", Address("unixgram", path="@n")),
    ("unixpacket:/p", Address("unixpacket", path="/p")),
    ("fd://3", Address("fd", fd=3)),
    ("fd://0", Address("fd", fd=0)),
    ("systemd:", Address("systemd")),
    ("systemd:echo", Address("systemd", "echo")),
    ("SystemD:a.socket", Address("systemd", "a.socket")),
    ("systemd:my%20web/1", Address("systemd", "my web/1")),
    ("systemd:50%25%3F", Address("systemd", "50%?")),
]

# The text, a word of what must be said about it, and the text that is offered in its place.
MISTAKES: list[tuple[Any, str, str]] = [
    ("", "no address", "9999"),
    (" ", "blank", "tcp://127.0.0.1:9999"),
    (" tcp://h:1", "blank", "tcp://h:1"),
    ("tcp://h:1\n", "control character", "tcp://h:1"),
    ("tcp://h: 1", "blank", "tcp://h:1"),
    ("unix:/tmp/a b", "blank", "unix:/tmp/a%20b"),
    ("/tmp/a b", "blank", "/tmp/a%20b"),
    ("\ud800", "control character", "tcp://127.0.0.1:9999"),
    ("tcp://host", "no port", "tcp://host:9999"),
    ("tcp://host:", "no port", "tcp://host:9999"),
    ("tcp://", "no port", "tcp://127.0.0.1:9999"),
    ("tcp://[::1]", "no port", "tcp://[::1]:9999"),
    ("tcp://[::1]:", "no port", "tcp://[::1]:9999"),
    ("host", "no port", "host:9999"),
    ("tcp://9999", "no port", "tcp://127.0.0.1:9999"),
    ("udp://514", "no port", "udp://127.0.0.1:514"),
    ("tcp:9999", "without //", "tcp://127.0.0.1:9999"),
    ("udp:host:9", "without //", "udp://host:9"),
    ("fd:3", "without //", "fd://3"),
    ("fd://", "no descriptor", "fd://3"),
    ("fd://x", "no descriptor", "fd://3"),
    ("fd://-1", "no descriptor", "fd://3"),
    ("fd://" + "9" * 5000, "no descriptor", "fd://3"),
    ("99999", "outside 0 to 65535", "9999"),
    ("tcp://h:65536", "outside 0 to 65535", "tcp://h:9999"),
    ("tcp://[::1]:65536", "outside 0 to 65535", "tcp://[::1]:9999"),
    ("tcp://h:" + "9" * 5000, "outside 0 to 65535", "tcp://h:9999"),
    ("tcp://h:1_0", "no port number", "tcp://h:9999"),
    ("tcp://h:+1", "no port number", "tcp://h:9999"),
    ("tcp://h:-1", "no port number", "tcp://h:9999"),
    ("tcp://h:١", "no port number", "tcp://h:9999"),
    ("tcp://h:http", "no port number", "tcp://h:9999"),
    ("tcp://::1:9999", "without brackets", "tcp://[::1]:9999"),
    ("::1:9999", "without brackets", "[::1]:9999"),
    ("::1", "without brackets", "[::1]:9999"),
    ("udp://fe80::1", "without brackets", "udp://[fe80::1]:9999"),
    (":::80", "without brackets", "[::]:80"),
    ("a:b:80", "more than one colon", "a:80"),
    ("tcp://[::1:9", "no closing bracket", "tcp://[::1]:9"),
    ("tcp://[::1]9", "no colon after the bracket", "tcp://[::1]:9"),
    ("tcp://[host]:1", "no IPv6 address", "tcp://host:1"),
    ("tcp://[fe80::1%25]:1", "no interface", "tcp://[fe80::1%25eth0]:1"),
    ("tcp4://[::1]:9", "IPv6 address after tcp4", "tcp6://[::1]:9"),
    ("udp6://1.2.3.4:9", "IPv4 address after udp6", "udp4://1.2.3.4:9"),
    ("tcp://*:9", "all interfaces", "tcp://:9"),
    ("user:word@h:9", "more than one colon", "h:9"),
    ("user@h:9", "no host name", "h:9"),
    ("a..b:9", "no host name", "localhost:9"),
    ("x" * 64 + ":9", "no host name", "localhost:9"),
    ("256.1.1.1:9", "no IPv4 address", "127.0.0.1:9"),
    ("127.1:9", "no IPv4 address", "127.0.0.1:9"),
    ("tpc://host:1", "unknown scheme 'tpc'", "tcp://host:1"),
    ("unixs:///p", "unknown scheme", "unix:///p"),
    ("unxi:/p", "without its scheme", "unix:/p"),
    ("http://h:80", "there are tcp, tcp4", "tcp://h:80"),
    ("tls:8443", "without //", "tls://127.0.0.1:8443"),
    ("tls://8443", "no port", "tls://127.0.0.1:8443"),
    ("tls4://[::1]:9", "IPv6 address after tls4", "tls6://[::1]:9"),
    ("tsl://h:9", "unknown scheme 'tsl'", "tls://h:9"),
    ("systemd://echo", "// where a name begins", "systemd:echo"),
    ("systemd:///run/x", "// where a name begins", "systemd:/run/x"),
    ("systemd:a:b", "no name of a passed socket", "systemd:a"),
    ("systemd:" + "x" * 256, "no name of a passed socket", "systemd:"),
    ("systemd:ä", "no name of a passed socket", "systemd:"),
    ("systemd:echo?mode=660", "(systemd: has none)", "systemd:echo"),
    ("vsock://3:99", "vsock: is not supported yet", "tcp://127.0.0.1:9999"),
    ("tcp://h:1/", "path after the port", "tcp://h:1"),
    ("tcp://h/x", "path after the port", "tcp://h:9999"),
    ("run/x.sock", "without its scheme", "unix:run/x.sock"),
    ("@name", "without its scheme", "unix:@name"),
    ("unix:", "no path", "unix:/run/x.sock"),
    ("unix:@", "no name", "unix:@name"),
    ("unix://run/x", "a host", "unix:/run/x"),
    ("unix:/tmp/", "a directory", "unix:/tmp/x.sock"),
    ("unix:/a%00b", "NUL", "unix:/ab"),
    ("tcp://h:1?", "no option", "tcp://h:1"),
    ("/p?", "no option", "/p"),
    ("/p?mod=660", "unknown option 'mod'", "/p?mode=660"),
    ("/p?mode", "file permissions", "/p?mode=660"),
    ("/p?mode=999", "file permissions", "/p?mode=660"),
    ("/p?mode=600&mode=660", "twice", "/p?mode=600"),
    (-1, "0 to 65535", "9999"),
    (65536, "0 to 65535", "9999"),
    (10**5000, "0 to 65535", "9999"),
    (True, "not bool", "tcp://127.0.0.1:9999"),
    (None, "not NoneType", "tcp://127.0.0.1:9999"),
    (b"9999", "not bytes", "tcp://127.0.0.1:9999"),
    (("localhost", 9999), "not tuple", "tcp://127.0.0.1:9999"),
]


def named(value: object) -> str:
    """A short name for a case that has an awkward one."""
    return hex(value)[:20] if isinstance(value, int) else ascii(value)[:40]


@pytest.mark.parametrize(("text", "address"), FORMS, ids=named)
def test_each_form_means_what_the_table_says(text: str | int, address: Address) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("address", [address for _, address in FORMS], ids=str)
def test_the_canonical_text_reads_back_as_the_same_address(address: Address) -> None:
    assert parse_address(str(address)) == address
    assert str(parse_address(str(address))) == str(address)


@pytest.mark.parametrize(("text", "said", "fix"), MISTAKES, ids=named)
def test_each_mistake_is_one_line_that_says_what_to_write(text: Any, said: str, fix: str) -> None:
    with pytest.raises(AddressError) as caught:
        parse_address(text)
    message = str(caught.value)
    assert said in message
    assert message.endswith(f": write e.g. {fix}")
    assert "\n" not in message
    assert message.encode("utf-8")  # it can be printed
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    parse_address(fix)


def test_the_error_is_ours_and_a_value_error() -> None:
    assert issubclass(AddressError, JackfieldError)
    assert issubclass(AddressError, ValueError)


@pytest.mark.skipif(sys.platform != "linux", reason="the lengths are Linux's")
def test_a_path_may_be_as_long_as_the_kernel_takes_and_no_longer(tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    for path, name in (("x" * 107, "x" * 107), ("@" + "x" * 107, "\0" + "x" * 107), ("ä" * 53, "ä" * 53)):
        address = parse_address(f"unix:{path}")
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(name)
            assert describe_sockaddr(bound.family, bound.type, bound.getsockname()) == str(address)
    for path in ("x" * 108, "@" + "x" * 108, "ä" * 54):
        with pytest.raises(AddressError, match=r"10[89] bytes .the system takes 10[78]"):
            parse_address(f"unix:{path}")


def test_what_kind_of_socket_an_address_means() -> None:
    texts = ("1", "tls://:1", "tls6://:1", "udp://:1", "/p", "unixgram:/p", "unixpacket:/p", "fd://3", "systemd:")
    kinds = {text: parse_address(text) for text in texts}
    assert [text for text, address in kinds.items() if address.is_tls] == ["tls://:1", "tls6://:1"]
    assert [text for text, address in kinds.items() if address.is_datagram] == ["udp://:1", "unixgram:/p"]
    assert [text for text, address in kinds.items() if address.is_unix] == ["/p", "unixgram:/p", "unixpacket:/p"]


def test_an_address_is_a_value() -> None:
    address = parse_address("unix:/p?mode=660")
    assert pickle.loads(pickle.dumps(address)) == address
    assert len({address, parse_address("/p?mode=660"), parse_address("/p")}) == 2
    with pytest.raises(AttributeError):
        address.port = 1  # type: ignore[misc]


# --- for any text at all --------------------------------------------------------------------------------------------

PIECES = st.sampled_from(
    ["tcp", "udp6", "unix", "fd", "tls", "://", ":", "/", "//", "[", "]", "::1", "::", "%25", "%", "eth0", "@", "?"]
    + ["&", "=", "mode", "660", "h", "9999", "127.0.0.1", "65536", ".", "..", "-", "_", " ", "\n", "\0", "é", "٣"]
    + ["proxy", "off", "cert", "rcvbuf", "64k"]
    + ["\ud800", "\udcff", "%FF", "%00", "%2F", "#", "x.sock", "tpc", "unxi"]
)
TEXTS = st.text() | st.lists(PIECES, max_size=12).map("".join) | st.lists(PIECES | st.text(), max_size=6).map("".join)


@given(TEXTS)
@example("tcp://[::1%25]:1")
@example("x" * 100_000)
@example("[" * 1000)
@example(":" * 1000)
def test_any_text_is_an_address_that_reads_back_or_an_address_error(text: str) -> None:
    try:
        address = parse_address(text)
    except AddressError as error:
        message = str(error)
        assert message.isprintable(), "one line, no control characters"
        assert message.encode("utf-8")
        fix = message.rpartition(": write e.g. ")[2]
        parse_address(fix)  # the advice is itself an address
        return
    assert str(address).isprintable()
    assert parse_address(str(address)) == address
    assert 0 <= address.port <= 65535


@given(st.integers())
def test_any_number_is_a_port_or_an_address_error(number: int) -> None:
    try:
        address = parse_address(number)
    except AddressError:
        assert not 0 <= number <= 65535
    else:
        assert address == Address("tcp", "127.0.0.1", number)


HOSTS = st.one_of(
    st.just(""),
    st.from_regex(r"[a-z][a-z0-9_]{0,10}(\.[a-z0-9]{1,10}){0,3}\.?", fullmatch=True),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(lambda address: str(address).partition("%")[0]),
    st.from_regex(r"fe80::[0-9a-f]{1,4}%[A-Za-z0-9._-]{1,15}", fullmatch=True),
)
PATHS = st.binary(min_size=1, max_size=103).filter(lambda raw: b"\0" not in raw and not raw.endswith(b"/"))


@given(st.sampled_from(["tcp", "tls", "udp"]), HOSTS, st.integers(0, 65535))
def test_every_host_and_port_survives_being_written(scheme: str, host: str, port: int) -> None:
    address = Address(cast(Scheme, scheme), host, port)
    assert parse_address(str(address)) == address


@given(st.sampled_from(["unix", "unixgram", "unixpacket"]), PATHS, st.sampled_from([(), (("mode", "660"),)]))
@example("unix", b"//x", ())
@example("unix", b"/100%41", ())
@example("unix", b"?", ())
def test_every_path_survives_being_written(scheme: str, raw: bytes, options: tuple[tuple[str, str], ...]) -> None:
    if raw == b"@":
        return
    address = Address(cast(Scheme, scheme), path=raw.decode("utf-8", "surrogateescape"), options=options)
    assert parse_address(str(address)) == address


# --- what the kernel says -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "kind", "sockaddr", "text"),
    [
        (socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 9999), "tcp://127.0.0.1:9999"),
        (2, 1, ("127.0.0.1", 9999), "tcp://127.0.0.1:9999"),
        (socket.AF_INET, socket.SOCK_DGRAM, ("0.0.0.0", 53), "udp://0.0.0.0:53"),
        (socket.AF_INET6, socket.SOCK_STREAM, ("::1", 9, 0, 0), "tcp://[::1]:9"),
        (socket.AF_INET6, socket.SOCK_STREAM, ("fe80::1", 9, 0, 999_999), "tcp://[fe80::1%25999999]:9"),
        (socket.AF_INET6, socket.SOCK_DGRAM, ("fe80::1%eth9", 9, 0, 3), "udp://[fe80::1%25eth9]:9"),
        (socket.AF_INET, socket.SOCK_RAW, ("127.0.0.1", 0), "raw://127.0.0.1"),
        (socket.AF_UNIX, socket.SOCK_STREAM, "/p", "unix:/p"),
        (socket.AF_UNIX, socket.SOCK_STREAM, b"\0name", "unix:@name"),
        (socket.AF_UNIX, socket.SOCK_STREAM, "", "unix:"),
        (socket.AF_UNIX, socket.SOCK_DGRAM, None, "unixgram:"),
        (socket.AF_UNIX, socket.SOCK_SEQPACKET, "/a b", "unixpacket:/a%20b"),
        (-7, socket.SOCK_STREAM, ("x",), "AF_-7 SOCK_STREAM ('x',)"),
        (socket.AF_INET, socket.SOCK_STREAM, None, "AF_INET SOCK_STREAM None"),
    ],
)
def test_a_sockaddr_is_described(family: int, kind: int, sockaddr: Any, text: str) -> None:
    assert describe_sockaddr(family, kind, sockaddr) == text


SOCKADDRS: st.SearchStrategy[Any] = st.one_of(
    st.none() | st.text() | st.binary() | st.integers(),
    st.tuples(st.text(), st.integers()),
    st.tuples(st.text(), st.integers(), st.integers(), st.integers() | st.text()),
)


@given(st.integers(-2, 50) | st.sampled_from(list(socket.AddressFamily)), st.integers(-1, 12), SOCKADDRS)
def test_describing_never_fails(family: int, kind: int, sockaddr: Any) -> None:
    assert isinstance(describe_sockaddr(family, kind, sockaddr), str)


def test_what_a_bound_socket_is_called_reads_back_as_an_address() -> None:
    for family, kind, local in (
        (socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)),
        (socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)),
        (socket.AF_UNIX, socket.SOCK_DGRAM, f"\0jackfield-test-{os.getpid()}"),
    ):
        if family == socket.AF_UNIX and sys.platform != "linux":
            continue
        with socket.socket(family, kind) as bound:
            bound.bind(local)
            text = describe_sockaddr(bound.family, bound.type, bound.getsockname())
            assert str(parse_address(text)) == text
            assert not re.search(r":0$", text)
