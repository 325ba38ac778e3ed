"""Plans: what cannot be meant is refused with one line, and what is shared between processes adds up."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jackfield.address import parse_address
from jackfield.bench.framing import ANY, EXACT, NETSTRING
from jackfield.bench.plan import Plan, PlanError, default_payload

TCP = parse_address("127.0.0.1:9999")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"address": parse_address("fd://3")}, "an address to connect to"),
        ({"address": parse_address("systemd:")}, "tcp://127.0.0.1:9999"),
        ({"address": parse_address("127.0.0.1:0")}, "write the port it got"),
        ({"address": parse_address("tcp://127.0.0.1:1?keepalive=1")}, "write tcp://127.0.0.1:1"),
        ({"duration": None}, "-d and -n"),
        ({"requests": 5}, "-d and -n"),
        ({"duration": 0.0}, "-d 10s"),
        ({"timeout": 0.0}, "--timeout 5s"),
        ({"rate": -1.0}, "-R 1000"),
        ({"rate": float("inf")}, "-R 1000"),
        ({"connections": 0}, "-c is from 1"),
        ({"connections": 1_000_001}, "to 1000000"),
        ({"workers": 0}, "-w is from 1"),
        ({"workers": 51}, "a smaller -w"),
        ({"workers": 4, "duration": None, "requests": 3}, "-n 3"),
        ({"pipeline": 0}, "1 at least"),
        ({"framing": "lines"}, "none, line, netstring, u32"),
        ({"expect": "lower"}, "upper, same, any"),
        ({"framing": "line", "payload": b"a\nb"}, "--framing netstring"),
        ({"connect_per_request": True, "pipeline": 2}, "leave --pipeline out"),
        ({"payload": b""}, "--size 64"),
        ({"address": parse_address("unixpacket:/p"), "payload": b""}, "--size 64"),
        ({"expect": b""}, "--expect"),
        ({"expect": "any", "pipeline": 2}, "--framing"),
        ({"payload": bytes(1 << 20), "pipeline": 65}, "64M"),
        ({"address": parse_address("udp://127.0.0.1:1"), "payload": bytes(65508)}, "65507"),
    ],
)
def test_what_cannot_be_meant_is_refused(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(PlanError) as refused:
        Plan(**{"address": TCP, **asked})
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@given(
    st.integers(1, 300), st.integers(1, 40), st.integers(40, 5000), st.integers(1, 5),
    st.sampled_from(["127.0.0.1:1", "udp://127.0.0.1:1"]),
)  # fmt: skip
def test_the_shares_are_the_whole(connections: int, workers: int, requests: int, depth: int, address: str) -> None:
    workers = min(workers, connections)
    plan = Plan(
        parse_address(address), connections=connections, workers=workers, duration=None, requests=requests,
        rate=1000.0, pipeline=depth,
    )  # fmt: skip
    shares = [plan.share(number) for number in range(workers)]
    assert sum(share["connections"] * share["depth"] for share in shares) == connections * depth
    assert sum(share["budget"] for share in shares) == requests
    assert sum(share["rate"] for share in shares) == pytest.approx(1000.0)
    assert min(share["connections"] for share in shares) > 0
    assert min(share["budget"] for share in shares) > 0


def test_what_is_sent_and_what_is_due() -> None:
    assert Plan(TCP).request() == default_payload(64)
    assert Plan(TCP).reply() == default_payload(64).upper()
    assert Plan(TCP, expect="same", payload=b"Ab", framing="netstring").reply() == b"2:Ab,"
    assert Plan(TCP, expect=b"+OK", payload=b"Ab", framing="line").reply() == b"+OK\n"
    assert (Plan(TCP).end_of_reply(), Plan(TCP, expect="any").end_of_reply()) == (EXACT, ANY)
    assert Plan(TCP, expect="any", framing="netstring").end_of_reply() == NETSTRING
    udp = parse_address("udp://127.0.0.1:1")
    assert Plan(udp, expect="any", framing="netstring").end_of_reply() == ANY


@given(st.integers(0, 2000))
def test_the_payload_has_nothing_that_a_server_may_strip(size: int) -> None:
    payload = default_payload(size)
    assert len(payload) == size
    assert not payload or payload.isalpha()
