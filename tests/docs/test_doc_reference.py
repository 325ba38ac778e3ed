"""docs/reference.md against the code: every knob has its line, with its default, and the drawing is the table's."""

from __future__ import annotations

import dataclasses
import enum
import importlib
import inspect
import re
from typing import Any

import pytest
from generated_parts import ADMIN_PAGE, ADMIN_PARTS, PAGE, filled

import jackfield
from jackfield import socket, socketserver, sync, testing
from jackfield.address import parse_address
from jackfield.connecting import async_connect
from jackfield.limits import Limits
from jackfield.serving import ProxyRule
from jackfield.tls import TLS, ClientTLS

REQUIRED = "required"

#: The tables of the page, and whose arguments and class attributes each has to have.
TABLES: dict[str, tuple[Any, bool, bool]] = {
    # heading: (object, with its arguments, with its class attributes)
    "jackfield.Server": (jackfield.Server, True, False),
    "jackfield.limits.Limits": (Limits, True, False),
    "jackfield.tls.TLS": (TLS, True, False),
    "jackfield.tls.ClientTLS": (ClientTLS, True, False),
    "jackfield.serving.ProxyRule": (ProxyRule, True, False),
    "jackfield.connect": (jackfield.connect, True, False),
    "jackfield.run": (jackfield.run, True, False),
    "GreenThread.join": (jackfield.GreenThread.join, True, False),
    "socketserver.BaseServer": (socketserver.BaseServer, False, True),
    "socketserver.TCPServer": (socketserver.TCPServer, True, True),
    "socketserver.UDPServer": (socketserver.UDPServer, False, True),
    "socketserver.UnixStreamServer": (socketserver.UnixStreamServer, False, True),
    "socketserver.UnixDatagramServer": (socketserver.UnixDatagramServer, False, True),
    "socketserver.UnixSeqpacketServer": (socketserver.UnixSeqpacketServer, False, True),
    "socketserver.ThreadingMixIn": (socketserver.ThreadingMixIn, False, True),
    "socketserver.ForkingMixIn": (socketserver.ForkingMixIn, False, True),
    "StreamRequestHandler": (jackfield.StreamRequestHandler, False, True),
    "AsyncStreamRequestHandler": (jackfield.AsyncStreamRequestHandler, False, True),
    "socket.recvfile": (socket.socket.recvfile, True, False),
    "sync.Queue": (sync.Queue, True, False),
    "sync.Semaphore": (sync.Semaphore, True, False),
    "sync.Condition": (sync.Condition, True, False),
    "testing.serve": (testing.serve, True, False),
    "testing.run_handler": (testing.run_handler, True, False),
    "testing.memory_connection": (testing.memory_connection, True, False),
    "testing.ManualClock": (testing.ManualClock, True, False),
}


def rows_under(heading: str, page: str) -> list[list[str]]:
    """The cells of the first table under a heading, its head left out."""
    section = re.search(rf"^#+ `?{re.escape(heading)}`?\n(.*?)(?=^#|\Z)", page, re.DOTALL | re.MULTILINE)
    assert section, f"there is no heading {heading}"
    table: list[list[str]] = []
    for line in section[1].splitlines():
        if line.startswith("|"):
            table.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
        elif table:
            break
    assert table, f"there is no table under {heading}"
    return table[2:]


def knobs_of(subject: Any, arguments: bool, attributes: bool) -> dict[str, str]:
    """Names and defaults, as the page has to show them."""
    found: dict[str, str] = {}
    if arguments:
        for name, parameter in inspect.signature(subject).parameters.items():
            if name in ("self", "args", "kwargs"):
                continue
            if parameter.kind is parameter.VAR_POSITIONAL:
                found[name] = "`()`"
            elif parameter.kind is parameter.VAR_KEYWORD:
                found[name] = "`{}`"
            else:
                found[name] = REQUIRED if parameter.default is parameter.empty else shown(parameter.default)
    if attributes:
        for name, value in vars(subject).items():
            is_knob = not callable(value) and not hasattr(value, "__get__")
            if not name.startswith("_") and is_knob:
                found[name] = shown(value)
    return found


def shown(value: Any) -> str:
    return f"`{value.name if isinstance(value, enum.Enum) else repr(value)}`"


def faults_of(page: str, tables: dict[str, tuple[Any, bool, bool]]) -> list[str]:
    """Where the page and the code do not say the same."""
    faults = []
    for heading, (subject, arguments, attributes) in tables.items():
        wanted = knobs_of(subject, arguments, attributes)
        written = {row[0].strip("`"): row for row in rows_under(heading, page)}
        faults += [f"{heading}: {name} has no line" for name in wanted.keys() - written.keys()]
        faults += [f"{heading}: there is no {name}" for name in written.keys() - wanted.keys()]
        for name in wanted.keys() & written.keys():
            row = written[name]
            if row[1] != wanted[name]:
                faults.append(f"{heading}: {name} is {wanted[name]}, not {row[1]}")
            if len(row) != 5 or not row[3]:
                faults.append(f"{heading}: nothing is said of {name}")
    return faults


@pytest.fixture(scope="module")
def page() -> str:
    return PAGE.read_text()


def test_every_knob_has_its_line(page: str) -> None:
    assert faults_of(page, TABLES) == []


def test_no_class_with_knobs_was_forgotten() -> None:
    covered = {subject for subject, _, attributes in TABLES.values() if attributes}
    for module, names in ((socketserver, socketserver.__all__), (jackfield, jackfield.__all__)):
        for name in names:
            thing = getattr(module, name)
            if inspect.isclass(thing) and thing.__module__.startswith("jackfield") and knobs_of(thing, False, True):
                assert thing in covered or dataclasses.is_dataclass(thing), f"{name} has knobs and no table"
    arguments = knobs_of(async_connect, True, False)
    assert arguments == knobs_of(jackfield.connect, True, False)  # one table for both


def test_a_stale_page_is_found_out() -> None:
    class Thing:
        patience = 5

        def __init__(self, size: int, kind: str = "small") -> None:
            pass

    def table(*rows: str) -> str:
        return "\n".join(["# `Thing`", "| name | default | unit | what | why |", "|---|---|---|---|---|", *rows, "# x"])

    good = ["| `size` | required | | a | |", "| `kind` | `'small'` | | b | |", "| `patience` | `5` | | c | |"]
    tables: dict[str, tuple[Any, bool, bool]] = {"Thing": (Thing, True, True)}
    assert faults_of(table(*good), tables) == []
    assert faults_of(table(*good[1:]), tables) == ["Thing: size has no line"]
    assert faults_of(table(*good, "| `old` | `1` | | d | |"), tables) == ["Thing: there is no old"]
    assert faults_of(table(*good[:2], "| `patience` | `6` | | c | |"), tables) == ["Thing: patience is `5`, not `6`"]
    assert faults_of(table(*good[:2], "| `patience` | `5` | | | |"), tables) == ["Thing: nothing is said of patience"]


def test_fixed_numbers_are_those_of_the_code(page: str) -> None:
    for name, value, *_ in rows_under("Numbers that are fixed", page):
        module, _, attribute = name.strip("`").rpartition(".")
        assert shown(getattr(importlib.import_module(f"jackfield.{module}"), attribute)) == value, name


def test_info_is_described_field_by_field(page: str) -> None:
    fields = [f"`{field.name}`" for field in dataclasses.fields(jackfield.ServerInfo)]
    assert [row[0] for row in rows_under("jackfield.ServerInfo", page)] == fields


def test_addresses_can_be_parsed(page: str) -> None:
    texts = re.findall(r"`([^`]+)`", " ".join(row[0] for row in rows_under_command(page)))
    assert len(texts) > 15
    for text in texts:
        parse_address(text)
    assert {parse_address(text).scheme for text in texts} >= {"tcp", "tcp4", "udp6", "unix", "unixgram", "fd"}


def rows_under_command(page: str) -> list[list[str]]:
    return rows_under("Addresses", page.replace("\nAddresses:\n", "\n# Addresses\n"))


def test_errors_are_those_of_the_code(page: str) -> None:
    for name, kind, _ in rows_under("Errors", page):
        error = getattr(jackfield, name.strip("`"))
        assert not kind or kind in [base.__name__ for base in error.__mro__], name
    named = {row[0].strip("`") for row in rows_under("Errors", page)}
    assert {name for name in jackfield.__all__ if name.endswith("Error")} <= named


def test_loggers_are_those_of_the_code(page: str) -> None:
    source = "\n".join(path.read_text() for path in (PAGE.parents[1] / "src").rglob("*.py"))
    named = {row[0].strip("`") for row in rows_under("What is logged", page)}
    assert named == set(re.findall(r'getLogger\("(.*?)"\)', source))


def test_generated_parts_are_up_to_date(page: str) -> None:
    assert filled(page) == page, "run: python tests/docs/generated_parts.py"


def test_the_tables_of_the_admin_page_are_up_to_date() -> None:
    page = ADMIN_PAGE.read_text()
    assert filled(page, ADMIN_PARTS) == page, "python tests/docs/generated_parts.py"
    assert filled(page.replace("| `/livez` (open) |", "| `/live` |"), ADMIN_PARTS) == page, "and it would be found out"



def test_an_outdated_drawing_is_found_out(page: str) -> None:
    assert filled(page.replace("    serving --> draining\n", "")) == page
    with pytest.raises(ValueError, match="states"):
        filled(page.replace("<!-- end generated: states -->", ""))
