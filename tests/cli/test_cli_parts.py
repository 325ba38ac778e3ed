"""The parts of the command that need no process: texts, views, addresses to try, log records."""

from __future__ import annotations

import io
import json
import logging
import socket
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from screen import Screen

from jackfield.address import Address, parse_address
from jackfield.cli.arguments import UsageError
from jackfield.cli.banner import connect_text, is_open_to_all, try_text
from jackfield.cli.conversation import CrLf, HexDump, Recorder
from jackfield.cli.dial import Candidate, needs_race, parse_source
from jackfield.cli.editors import above, rows_of
from jackfield.cli.logs import JsonFormatter, TextFormatter
from jackfield.cli.script import parse_step
from jackfield.cli.text import escape, printable, wants_color
from jackfield.errors import AddressError


@given(st.text())
def test_escaped_text_is_one_line_that_steers_nothing(text: str) -> None:
    shown = escape(text)
    assert len(shown.splitlines()) <= 1
    assert not any(ord(character) < 0x20 or 0x7F <= ord(character) < 0xA0 for character in shown)
    shown.encode()


@given(st.text(st.characters(exclude_categories=["C", "Zl", "Zp"])))
def test_harmless_text_is_left_as_it_is(text: str) -> None:
    assert escape(text) == text


def test_foreign_bytes_are_cut_with_a_mark() -> None:
    assert printable(b"a\x00b\n") == "a\\x00b\\n"
    assert printable(b"x" * 1000, 10) == "xxxxxxxxxx…"
    assert printable(b"\xff") == "\\xff"


def test_color_follows_the_stream_and_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert wants_color(Terminal()) and not wants_color(io.StringIO())
    assert wants_color(io.StringIO(), "always") and not wants_color(Terminal(), "never")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert wants_color(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not wants_color(Terminal())
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.delenv("FORCE_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert not wants_color(Terminal())


@given(st.lists(st.binary(max_size=4) | st.sampled_from([b"\r", b"\n", b"\r\n"])))
def test_crlf_does_not_depend_on_where_the_input_is_cut(chunks: list[bytes]) -> None:
    pieces = CrLf()
    whole = CrLf()(b"".join(chunks))
    assert b"".join(map(pieces, chunks)) == whole
    assert whole.count(b"\n") == whole.count(b"\r\n")
    assert whole.replace(b"\r\n", b"\n") == b"".join(chunks).replace(b"\r\n", b"\n")


@given(st.lists(st.binary(max_size=40)))
def test_a_hex_dump_holds_every_byte_and_counts_on(chunks: list[bytes]) -> None:
    dump = HexDump()
    rows = "".join(map(dump, chunks)).splitlines()
    assert b"".join(bytes.fromhex(row[10:59]) for row in rows) == b"".join(chunks)
    offset = 0
    for row in rows:
        assert int(row[:8], 16) == offset
        offset += len(bytes.fromhex(row[10:59]))


def test_a_record_is_a_line_of_json() -> None:
    tape = io.BytesIO()
    recorder = Recorder(tape)
    recorder("sent", "ü\n".encode())
    recorder("received", b"\xff")
    sent, received = (json.loads(line) for line in tape.getvalue().splitlines())
    assert (sent["way"], sent["text"]) == ("sent", "ü\n")
    assert (received["way"], received["base64"]) == ("received", "/w==")


def test_steps_of_a_script() -> None:
    assert parse_step("send", r"a\n\r\t\0\x41\\n") == b"a\n\r\t\0A\\n"
    assert parse_step("send", "ü") == "ü".encode()
    pattern = parse_step("expect", "^O+K")
    assert not isinstance(pattern, bytes) and pattern.search(b"OOK")
    for flag, text in (("send", r"\q"), ("send", "\\x4"), ("expect", "(")):
        with pytest.raises(UsageError):
            parse_step(flag, text)


@given(st.text(st.sampled_from("ab 世\t\n\u0301"), max_size=60), st.integers(3, 20))
def test_rows_lose_nothing_and_fit(text: str, columns: int) -> None:
    rows = rows_of(text, columns)
    assert "".join(rows) == text.expandtabs().replace("\n", "")
    assert len(rows) >= text.count("\n") + 1
    wide = [sum(2 if character == "世" else character != "\u0301" for character in row) for row in rows]
    assert all(width < columns for width in wide)


@given(st.integers(0, 5), st.lists(st.text(st.sampled_from("abc"), min_size=1, max_size=8), max_size=12))
def test_rows_put_above_a_line_leave_it_and_the_cursor_alone(start: int, rows: list[str]) -> None:
    screen = Screen(6, 20).feed("\n" * start + ">>> half\x1b[2D")
    for row in rows:
        screen.feed(above(row))
    assert screen.cursor_line == ">>> ha"
    assert [line for line in screen.lines if line] == [*rows, ">>> half"]


def test_the_screen_is_not_blind() -> None:
    """The broken case: text that is merely printed lands inside the line that is being typed."""
    screen = Screen(6, 20).feed(">>> half").feed("\r\nnews")
    assert screen.cursor_line != ">>> half"


@pytest.mark.parametrize(
    ("location", "text"),
    [
        ("tcp://127.0.0.1:9999", "127.0.0.1:9999"),
        ("tcp://[::]:9999", "localhost:9999"),
        ("tcp://0.0.0.0:9999", "localhost:9999"),
        ("tcp://[::1]:9999", "[::1]:9999"),
        ("udp://[::]:9999", "udp://localhost:9999"),
        ("unix:/run/x.sock", "unix:/run/x.sock"),
        ("unixgram:@name", "unixgram:@name"),
    ],
)
def test_what_the_banner_suggests_is_an_address_and_short(location: str, text: str) -> None:
    assert connect_text(location) == text
    assert parse_address(text).port == parse_address(location).port


@pytest.mark.parametrize(
    ("location", "encrypted", "text"),
    [
        ("tcp://0.0.0.0:9999", False, "jackfield connect localhost:9999"),
        ("tcp://0.0.0.0:9999", True, "openssl s_client -connect localhost:9999"),
        ("tls://[::]:8443", True, "openssl s_client -connect localhost:8443"),
        ("tls://[::1]:8443", True, "openssl s_client -connect [::1]:8443"),
        ("unix:/run/x.sock", False, "jackfield connect unix:/run/x.sock"),
        ("unix:/run/x.sock", True, ""),
    ],
)
def test_what_is_encrypted_is_tried_with_something_that_can(location: str, encrypted: bool, text: str) -> None:
    assert try_text(location, encrypted) == text


@pytest.mark.parametrize(
    ("location", "verdict"),
    [
        ("tcp://[::]:9", True),
        ("tcp://0.0.0.0:9", True),
        ("tls://[::]:9", True),
        ("udp://[::]:9", True),
        ("tcp://8.8.8.8:9", True),
        ("tcp://127.0.0.1:9", False),
        ("tcp://[::1]:9", False),
        ("tcp://10.0.0.1:9", False),
        ("unix:/run/x.sock", False),
        ("unix:@name", False),
    ],
)
def test_open_to_all(location: str, verdict: bool) -> None:
    assert is_open_to_all(location) is verdict


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.2", Address("tcp", "127.0.0.2", 0)),
        ("::1", Address("tcp", "::1", 0)),
        ("[::1]:5000", Address("tcp", "::1", 5000)),
        (":5000", Address("tcp", "", 5000)),
        ("unixgram:/x", Address("unixgram", path="/x")),
    ],
)
def test_source(text: str, address: Address) -> None:
    assert parse_source(text) == address


@pytest.mark.parametrize(
    ("hosts", "kind", "verdict"),
    [
        (["2001:db8::1", "192.0.2.1"], socket.SOCK_STREAM, True),
        (["::1", "127.0.0.1"], socket.SOCK_STREAM, False),
        (["192.0.2.1", "192.0.2.2"], socket.SOCK_STREAM, False),
        (["2001:db8::1", "192.0.2.1"], socket.SOCK_DGRAM, False),
        (["fe80::1%eth0"], socket.SOCK_STREAM, False),
    ],
)
def test_addresses_of_both_families_race(hosts: list[str], kind: int, verdict: bool) -> None:
    families = [socket.AF_INET6 if ":" in host else socket.AF_INET for host in hosts]
    candidates = [Candidate(family, kind, 0, (host, 9), None) for family, host in zip(families, hosts, strict=True)]
    assert needs_race(candidates) is verdict


def test_a_source_that_is_none() -> None:
    with pytest.raises(AddressError):
        parse_source("a b")


def record(text: str, *arguments: object, error: BaseException | None = None) -> logging.LogRecord:
    info = (type(error), error, error.__traceback__) if error is not None else None
    return logging.LogRecord("shop.till", logging.WARNING, __file__, 1, text, arguments, info)


def test_a_text_record() -> None:
    line = TextFormatter().format(record("got %s", "a\x1b[2J"))
    assert line.endswith(" warning shop.till: got a\\x1b[2J")
    assert len(line.splitlines()) == 1


def test_only_a_record_begins_at_the_margin() -> None:
    try:
        raise ValueError("line 1\nline 2")
    except ValueError as error:
        first, *rest = TextFormatter().format(record("got %s", "a\nb", error=error)).splitlines()
    assert first.endswith("got a")
    assert rest and all(line.startswith("    ") for line in rest)
    assert rest[-1] == "    line 2"


def test_a_json_record() -> None:
    made = record("got %s", "a\nb")
    made.fields = {"event": "ready"}
    line = JsonFormatter().format(made)
    assert len(line.splitlines()) == 1
    entry = json.loads(line)
    assert (entry["level"], entry["logger"], entry["message"], entry["event"]) == (
        "warning",
        "shop.till",
        "got a\nb",
        "ready",
    )


def test_a_json_record_with_a_trace() -> None:
    try:
        raise ValueError("oops")
    except ValueError:
        entry = json.loads(JsonFormatter().format(record("failed", error=sys.exception())))
    assert entry["trace"].endswith("ValueError: oops")
