"""Limits: defaults, what can be meant, and that the docstring tells all of it."""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle
import re
from typing import Any

import pytest

from jackfield.admission import PeerList, Penalties, Rate
from jackfield.limits import LOOPBACK, Limits

FIELDS = {field.name: field for field in dataclasses.fields(Limits)}


def test_the_defaults_are_those_that_were_decided() -> None:
    assert dataclasses.asdict(Limits()) == {
        "max_connections": 10_000, "when_full": "refuse", "full_patience": 1.0, "refusal": b"",
        "max_connections_per_address": "auto", "ipv4_prefix": 32, "ipv6_prefix": 64, "max_handshakes": "auto",
        "accept_rate": None, "accept_rate_per_address": None, "allow": None, "deny": None,
        "exempt": PeerList(["127.0.0.0/8", "::1", "unix"]), "penalties": dataclasses.asdict(Penalties()),
        "handshake_timeout": 5.0, "first_byte_timeout": 30.0, "idle_timeout": 60.0, "pressure": 0.8,
        "pressure_idle_timeout": 5.0, "send_timeout": 30.0, "connection_lifetime": None, "message_timeout": 30.0,
        "min_rate": 500.0, "max_line": 65_536, "max_message": 1_048_576, "write_buffer": 1_048_576,
        "max_datagram": 65_535, "datagram_rate": None, "datagram_rate_per_address": None, "amplification": 3.0,
        "reply_rate_per_address": dataclasses.asdict(Rate(100, burst=25)),
    }  # fmt: skip


def test_none_is_everything_off() -> None:
    none = Limits.none()
    assert {name for name in FIELDS if getattr(none, name) is not None} == {
        "when_full", "full_patience", "refusal", "ipv4_prefix", "ipv6_prefix", "exempt", "pressure",
    }  # fmt: skip
    assert none.when_full == "wait" and none.connections_per_address is None and none.handshakes is None
    assert Limits.none(max_line=9) == none.replace(max_line=9) != none


@pytest.mark.parametrize(
    ("most", "given", "meant"),
    [(10_000, "auto", 2500), (20, "auto", 16), (None, "auto", None), (100, 7, 7), (100, None, None)],
)
def test_auto_is_a_quarter_but_at_least_sixteen(most: Any, given: Any, meant: Any) -> None:
    limits = Limits(max_connections=most, max_connections_per_address=given, max_handshakes=given)
    assert limits.connections_per_address == limits.handshakes == meant


WRONG: dict[str, list[Any]] = {
    "max_connections": [0, -1, 1.5, True, "10", math.inf, 10**5000 * -1],
    "when_full": ["drop", None, 1],
    "full_patience": [-1, None, math.nan, math.inf, "1s"],
    "refusal": ["busy", None, bytearray(b"x")],
    "max_connections_per_address": [0, "quarter", -1, 0.25, True],
    "max_handshakes": [0, "quarter"],
    "ipv4_prefix": [0, 33, None, "32"],
    "ipv6_prefix": [0, 129, None, 64.0],
    "accept_rate": ["100/s", 100],
    "accept_rate_per_address": ["100/s", 100],
    "allow": ["10.0.0.0/8", ["10.0.0.0/8"]],
    "deny": ["10.0.0.0/8", ["10.0.0.0/8"]],
    "exempt": [None, ["10.0.0.0/8"]],
    "penalties": [{"tls_error": 5.0}, 5],
    "handshake_timeout": [0, -1, math.nan, math.inf, "5s", True],
    "first_byte_timeout": [0, "x" * 9999],
    "idle_timeout": [0, "60s\n"],
    "pressure": [0, 1.1, None, math.nan, "0.8"],
    "pressure_idle_timeout": [0],
    "send_timeout": [0],
    "connection_lifetime": [0],
    "message_timeout": [0],
    "min_rate": [0, "500"],
    "max_line": [0, 1.5, "64k"],
    "max_message": [0, "1M"],
    "write_buffer": [0],
    "max_datagram": [0],
    "datagram_rate": [100],
    "datagram_rate_per_address": [100],
    "amplification": [0, 0.5, math.nan, "3"],
    "reply_rate_per_address": [100],
}


def test_each_limit_is_looked_at() -> None:
    assert WRONG.keys() == FIELDS.keys()


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_meant_is_refused_by_name(name: str) -> None:
    for value in WRONG[name]:
        with pytest.raises(ValueError, match=f"^{name} is .*: write ") as caught:
            Limits(**{name: value})
        assert str(caught.value).isprintable() and len(str(caught.value)) < 200
        with pytest.raises(ValueError, match=f"^{name} is "):
            Limits().replace(**{name: value})


def test_whole_numbers_will_do_for_seconds() -> None:
    assert Limits(idle_timeout=5, full_patience=0, pressure=1, amplification=1).idle_timeout == 5


def test_limits_are_a_value() -> None:
    limits = Limits(deny=PeerList(["192.0.2.0/24"]))
    assert limits == Limits(deny=PeerList(["192.0.2.0/25", "192.0.2.128/25"]))
    assert hash(limits) == hash(copy.deepcopy(limits)) and pickle.loads(pickle.dumps(limits)) == limits
    assert Limits().exempt is LOOPBACK
    with pytest.raises(dataclasses.FrozenInstanceError):
        limits.max_line = 5  # type: ignore[misc]
    with pytest.raises(TypeError):
        limits.replace(max_lines=5)


# --- the docstring --------------------------------------------------------------------------------------------------


def undocumented(text: str) -> list[str]:
    """Limits of which ``text`` does not tell the default they have."""
    paragraphs = dict(re.findall(r":param (\w+): (.*?)(?=:param|:raises|\*\w|\Z)", " ".join(text.split())))
    missing = []
    for name, field in FIELDS.items():
        value = field.default
        shown = {
            "exempt": "127.0.0.0/8, ::1 and every Unix socket", "penalties": "default :class:",
            "reply_rate_per_address": "default 100/s and 25 at once",
            "refusal": 'default ``b""``', "max_message": "default 1 MiB", "write_buffer": "default 1 MiB",
            "when_full": '``"refuse"`` (default)', "max_handshakes": 'default ``"auto"``',
            "max_connections_per_address": 'default ``"auto"``',
        }.get(name) or f"default {value:,}" if value is not None else "default None"  # fmt: skip
        if shown not in paragraphs.get(name, ""):
            missing.append(f"{name}: {shown}")
    return missing


def test_the_docstring_tells_each_default() -> None:
    assert undocumented(Limits.__doc__ or "") == []


def test_that_gate_can_fail() -> None:
    text = (Limits.__doc__ or "").replace("default 65,536", "default 4,096")
    assert undocumented(text) == ["max_line: default 65,536"]
