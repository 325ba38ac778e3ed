"""The options of addresses: the table, each value, each mistake with its fix, and the page that tells of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import cast, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jackfield.address import Address, Scheme, parse_address
from jackfield.addressoptions import OPTIONS, NoOptions, Option, parse_options, whole
from jackfield.errors import AddressError

PAGE = Path(__file__).parents[1] / "docs" / "reference.md"
SCHEMES: tuple[str, ...] = get_args(Scheme)
#: An address of each scheme, without options.
PLAIN = {scheme: f"{scheme}:/p" if scheme.startswith("unix") else f"{scheme}://:1" for scheme in SCHEMES} | {
    "fd": "fd://3",
    "systemd": "systemd:echo",
}
EVERY = [(scheme, name) for name, option in OPTIONS.items() for scheme in sorted(option.schemes)]


def with_certificate(name: str, value: str) -> str:
    """An option, with the one that it does not go without."""
    return f"cert=a.pem&{name}={value}" if name in ("key", "password_file") else f"{name}={value}"


@pytest.mark.parametrize(("scheme", "name"), EVERY)
def test_every_option_takes_its_example_where_it_belongs(scheme: str, name: str) -> None:
    text = f"{PLAIN[scheme]}?{with_certificate(name, OPTIONS[name].example)}"
    address = parse_address(text)
    assert dict(address.options)[name] == OPTIONS[name].example
    assert parse_address(str(address)) == address


def test_no_option_is_taken_anywhere_else() -> None:
    for scheme in SCHEMES:
        for name, option in OPTIONS.items():
            if scheme not in option.schemes:
                with pytest.raises(AddressError):
                    parse_address(f"{PLAIN[scheme]}?{with_certificate(name, option.example)}")


GOOD = [
    "tcp://:1?keepalive=0&user_timeout=0&defer_accept=0&fastopen=0",
    "tcp://:1?keepalive=32767&user_timeout=2147483&defer_accept=29887&fastopen=65535&incoming_cpu=65535",
    "tcp://:1?rcvbuf=1&sndbuf=1g",
    "tcp://:1?rcvbuf=64K&sndbuf=2M",
    "tcp://:1?backlog=1&reuse_port=0&nodelay=1",
    "tcp://:1?backlog=2147483647",
    "tcp4://:1?proxy=off",
    "tls6://:1?proxy=v1",
    "unix:/p?proxy=v2&backlog=5",
    "unix:@name?proxy=auto",
    "tls://:1?cert=/etc/ssl/my%20own%26only.pem",
    "tls://:1?min=1.2&alpn=h2&client_auth=optional&client_ca=ca.pem",
    "tls://:1?alpn=h2,http/1.1",
]

# The text, a word of what must be said about it, and the text that is offered in its place.
MISTAKES: list[tuple[str, str, str]] = [
    ("tcp://h:1?bakclog=5", "unknown option 'bakclog'", "tcp://h:1?backlog=5"),
    ("tcp://h:1?nodelay=1&bakclog=5&rcvbuf=1k", "'bakclog'", "tcp://h:1?nodelay=1&backlog=5&rcvbuf=1k"),
    ("tcp://h:1?no_delay=on", "'no_delay'", "tcp://h:1?nodelay=0"),
    ("tcp://h:1?certificate=a&nodelay=1", "unknown option", "tcp://h:1?nodelay=1"),
    ("tcp://h:1?zzz=1", "(there are: proxy, backlog,", "tcp://h:1"),
    ("tcp://h:1?=1", "unknown option ''", "tcp://h:1"),
    ("tcp://h:1?NODELAY=1", "unknown option 'NODELAY'", "tcp://h:1"),
    ("tcp://h:1?&nodelay=1", "unknown option ''", "tcp://h:1?nodelay=1"),
    ("tcp://h:1?cert=a.pem", "is for tls:, not tcp:", "tls://h:1?cert=a.pem"),
    ("[::1]:1?cert=a.pem&key=b", "is for tls:, not tcp:", "tls://[::1]:1?cert=a.pem&key=b"),
    ("9999?alpn=h2", "is for tls:", "tls://127.0.0.1:9999?alpn=h2"),
    ("udp://h:1?nodelay=1", "is for tcp:, tls:, not udp:", "udp://h:1"),
    ("udp://h:1?proxy=v2", "is for tcp:, tls:, unix:, not udp:", "udp://h:1"),
    ("unix:/p?rcvbuf=1k", "is for tcp:, tls:, udp:, not unix:", "unix:/p"),
    ("unix:/p?sndbuf=1k&mode=600", "not unix:", "unix:/p?mode=600"),
    ("fd://3?proxy=v2", "fd: has none", "fd://3"),
    ("tls://h:1?key=k.pem", "key= without cert=", "tls://h:1?cert=cert.pem&key=k.pem"),
    ("tls://h:1?cert=", "cert: no file", "tls://h:1?cert=cert.pem"),
    ("tls://h:1?cert=a%00b", "cert: no file", "tls://h:1?cert=cert.pem"),
    ("tls://h:1?cert=a&min=1.1", "version of TLS", "tls://h:1?cert=a&min=1.3"),
    ("tls://h:1?client_auth=yes", "none, optional and required: 'yes'", "tls://h:1?client_auth=required"),
    ("tls://h:1?alpn=h2,", "list of protocols", "tls://h:1?alpn=h2,http/1.1"),
    ("tls://h:1?alpn=é", "list of protocols", "tls://h:1?alpn=h2,http/1.1"),
    ("tcp://h:1?proxy=3", "a PROXY header (auto, v1,", "tcp://h:1?proxy=auto"),
    ("tcp://h:1?proxy", "a PROXY header", "tcp://h:1?proxy=auto"),
    ("tcp://h:1?nodelay=yes", "nodelay: no switch (0 or 1): 'yes'", "tcp://h:1?nodelay=0"),
    ("tcp://h:1?nodelay=1&nodelay=0", "option 'nodelay' twice", "tcp://h:1?nodelay=1"),
    ("tcp://h:1?keepalive=32768", "1 to 32767", "tcp://h:1?keepalive=60"),
    ("tcp://h:1?keepalive=1_0", "keepalive: no number", "tcp://h:1?keepalive=60"),
    ("tcp://h:1?keepalive=+1", "keepalive: no number", "tcp://h:1?keepalive=60"),
    ("tcp://h:1?keepalive=%201", "keepalive: no number", "tcp://h:1?keepalive=60"),
    ("tcp://h:1?keepalive=١", "keepalive: no number", "tcp://h:1?keepalive=60"),
    ("tcp://h:1?keepalive=2m", "keepalive: no number", "tcp://h:1?keepalive=60"),
    ("tcp://h:1?user_timeout=2147484", "user_timeout: no number", "tcp://h:1?user_timeout=30"),
    ("tcp://h:1?defer_accept=29888", "defer_accept: no number", "tcp://h:1?defer_accept=5"),
    ("tcp://h:1?fastopen=65536", "fastopen: no length", "tcp://h:1?fastopen=256"),
    ("tcp://h:1?rcvbuf=0", "rcvbuf: no size", "tcp://h:1?rcvbuf=256k"),
    ("tcp://h:1?rcvbuf=2g", "rcvbuf: no size", "tcp://h:1?rcvbuf=256k"),
    ("tcp://h:1?rcvbuf=64kb", "rcvbuf: no size", "tcp://h:1?rcvbuf=256k"),
    ("tcp://h:1?sndbuf=" + "9" * 5000, "sndbuf: no size", "tcp://h:1?sndbuf=256k"),
    ("tcp://h:1?backlog=0", "backlog: no length", "tcp://h:1?backlog=1024"),
    ("tcp://h:1?backlog=2147483648", "backlog: no length", "tcp://h:1?backlog=1024"),
    ("tcp://h:1?incoming_cpu=-1", "incoming_cpu: no number", "tcp://h:1?incoming_cpu=0"),
    ("udp://h:1?reuse_port=2", "reuse_port: no switch", "udp://h:1?reuse_port=1"),
]


@pytest.mark.parametrize("text", GOOD)
def test_what_can_be_written_reads_back(text: str) -> None:
    address = parse_address(text)
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(("text", "said", "fix"), MISTAKES, ids=lambda text: text[:40])
def test_each_mistake_is_one_line_that_says_what_to_write(text: str, said: str, fix: str) -> None:
    with pytest.raises(AddressError) as caught:
        parse_address(text)
    message = str(caught.value)
    assert said in message
    assert message.endswith(f": write e.g. {fix}")
    assert message.isprintable()
    assert len(message) < 600
    parse_address(fix)


def test_an_example_that_cannot_be_used_would_be_found_out() -> None:
    """The broken case: a row of the table whose example is none of its own values."""
    broken = Option(frozenset({"tcp"}), re.compile("[0-9]"), "digit", "10")
    assert not broken.takes(broken.example)
    assert all(option.takes(option.example) for option in OPTIONS.values())
    assert all(option.schemes <= set(SCHEMES) for option in OPTIONS.values())


@pytest.mark.parametrize(("text", "number"), [("0", 0), ("7", 7), ("64k", 65536), ("1M", 2**20), ("1g", 2**30)])
def test_a_number(text: str, number: int) -> None:
    assert whole(text) == number


@pytest.mark.parametrize("text", ["", "00", "01", "k", "1kb", "-1", "+1", "1_0", " 1", "1 ", "1.5", "٣", "9" * 20])
def test_no_number(text: str) -> None:
    with pytest.raises(ValueError, match="no number"):
        whole(text)


PIECES = st.sampled_from([*OPTIONS, *(option.example for option in OPTIONS.values())]) | st.sampled_from(
    ["=", "&", "%", "%00", "%26", "%FF", "0", "-1", "64k", "é", "٣", "off", ",", "?", "#", "\udcff"]
)
TEXTS = st.text() | st.lists(PIECES, max_size=12).map("".join)


@given(st.sampled_from(SCHEMES), TEXTS)
def test_any_text_is_options_or_a_fault_with_fixes(scheme: str, text: str) -> None:
    try:
        options = parse_options(scheme, text)
    except NoOptions as fault:
        assert fault.problem and fault.fixes
        assert fault.problem.isprintable()
        return
    assert options
    for name, value in options:
        assert scheme in OPTIONS[name].schemes
        assert OPTIONS[name].takes(value)


VALUES = {
    name: st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=30)
    if option.pattern.fullmatch("x\n y")
    else st.from_regex(option.pattern, fullmatch=True).filter(option.takes)
    for name, option in OPTIONS.items()
    if name != "alpn"
}


@given(st.sampled_from(SCHEMES), st.data())
def test_every_value_survives_being_written(scheme: str, data: st.DataObject) -> None:
    names = data.draw(st.lists(st.sampled_from([*VALUES]), unique=True, max_size=5))
    names = [name for name in ("cert", *names) if scheme in OPTIONS[name].schemes]
    options = {name: data.draw(VALUES[name]) for name in names}
    plain = parse_address(PLAIN[scheme])
    address = Address(cast(Scheme, scheme), plain.host, plain.port, plain.path, plain.fd, tuple(options.items()))
    assert str(address).isprintable()
    assert parse_address(str(address)) == address


def rows(page: str) -> dict[str, set[str]]:
    """The options that the page has a row for, and the schemes that it names."""
    table = page.partition("\nOptions of an address:\n")[2].lstrip("\n").partition("\n\n")[0]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    return {row[0].strip("`").partition("=")[0]: set(re.findall(r"[a-z]+", row[1])) for row in cells}


def test_the_page_has_each_option_and_no_other() -> None:
    wanted = {name: {scheme.rstrip("46") for scheme in option.schemes} for name, option in OPTIONS.items()}
    page = PAGE.read_text()
    assert rows(page) == wanted
    assert rows(page.replace("| `nodelay=", "| `delay=")) != wanted
