"""What a load test is asked to do, checked as a whole before anything is opened."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from jackfield.address import Address
from jackfield.bench.framing import ANY, EXACT, FRAMINGS, LINE, NETSTRING, U32, framed

__all__ = ["EXPECTATIONS", "Plan", "PlanError", "default_payload"]

EXPECTATIONS = ("upper", "same", "any")

MOST_CONNECTIONS = 1_000_000
MOST_WORKERS = 256
MOST_BYTES = 1 << 26
"""What all requests that one connection has on their way may come to."""

LARGEST_DATAGRAM = 65_507
"""Bytes: 65,535 less the headers of IPv4 (20) and UDP (8)."""

_SEVERAL_ENDS = {"line": LINE, "netstring": NETSTRING, "u32": U32, "none": ANY}


class PlanError(ValueError):
    """The plan cannot be meant; the message, one line, says what to write instead."""


def default_payload(size: int) -> bytes:
    """So many small letters, a to z over and over: no white space that a server might strip."""
    return (b"abcdefghijklmnopqrstuvwxyz" * (size // 26 + 1))[:size]


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do; times in seconds.

    :param address: whom to ask.
    :param connections: how many at once, in all processes together.
    :param duration: how long is measured; None where `requests` says when to stop.
    :param requests: how many requests are measured; None where `duration` says when to stop.
    :param rate: requests a second in all, at times of their own (an open loop); 0: each connection asks again as soon
        as it has its reply (a closed loop).
    :param workers: processes.
    :param payload: what each message holds.
    :param framing: one of :data:`jackfield.bench.framing.FRAMINGS`.
    :param expect: ``"upper"``, the payload in upper case; ``"same"``; ``"any"``; or bytes, which the reply has to hold.
    :param pipeline: how many requests a connection has on their way at most. Of datagrams, which may be lost, each has
        a socket of its own.
    :param connect_per_request: a connection for each request.
    :param warmup: what is not measured at the beginning.
    :param ramp: over so long the connections are opened, and the rate is raised; before the warm-up.
    :param timeout: what a reply, or a connection, may take.
    :raises PlanError: it contradicts itself.
    """

    address: Address
    connections: int = 50
    duration: float | None = 10.0
    requests: int | None = None
    rate: float = 0.0
    workers: int = 1
    payload: bytes = default_payload(64)
    framing: str = "none"
    expect: str | bytes = "upper"
    pipeline: int = 1
    connect_per_request: bool = False
    warmup: float = 1.0
    ramp: float = 0.0
    timeout: float = 5.0

    def __post_init__(self) -> None:
        if self.address.scheme == "fd":
            raise PlanError(f"{self.address} is one connection that is open already: write an address to connect to")
        if self.address.scheme == "systemd":
            raise PlanError(f"{self.address} is for a server to listen on: write e.g. tcp://127.0.0.1:9999")
        if self.address.options:
            plain = str(self.address).partition("?")[0]
            raise PlanError(f"what stands behind the ? is for a server that listens: write {plain}")
        if not self.address.is_unix and self.address.port == 0:
            raise PlanError(
                f"port 0 is for a server that lets the system choose; write the port it got: {self.address}"
            )
        if (self.duration is None) == (self.requests is None):
            raise PlanError("-d and -n both say when to stop: write one of them")
        if self.duration is not None and self.duration <= 0:
            raise PlanError("-d 0 measures nothing: write e.g. -d 10s")
        if self.timeout <= 0:
            raise PlanError("--timeout 0 gives no server the time to answer: write e.g. --timeout 5s")
        if not math.isfinite(self.rate) or self.rate < 0:
            raise PlanError("-R is a number of requests a second above 0: write e.g. -R 1000")
        for flag, number, most in (
            ("-c", self.connections, MOST_CONNECTIONS), ("-w", self.workers, MOST_WORKERS)
        ):  # fmt: skip
            if not 1 <= number <= most:
                raise PlanError(f"{flag} is from 1 to {most}, not {number}")
        if self.workers > self.connections:
            raise PlanError(f"-w {self.workers} processes cannot share -c {self.connections}: write a smaller -w")
        if self.requests is not None and self.requests < self.workers:
            raise PlanError(f"-n {self.requests} is not one request for each of -w {self.workers} processes")
        self._check_messages()

    def _check_messages(self) -> None:
        if self.pipeline < 1:
            raise PlanError("--pipeline is 1 at least: one request on its way")
        if self.framing not in FRAMINGS:
            raise PlanError(f"no framing {self.framing!r}: there is {', '.join(FRAMINGS)}")
        if isinstance(self.expect, str) and self.expect not in EXPECTATIONS:
            raise PlanError(f"no expectation {self.expect!r}: there is {', '.join(EXPECTATIONS)}")
        try:
            request = self.request()
            reply = self.reply()
        except ValueError as error:
            raise PlanError(str(error)) from None
        streams = not self.message_bound
        if self.connect_per_request and self.pipeline > 1:
            raise PlanError("--connect-per-request has one request for each connection: leave --pipeline out")
        if not self.address.is_datagram and not request:
            raise PlanError("an empty payload sends nothing: write e.g. --size 64, or a --framing")
        if streams and not reply and self.end_of_reply() == EXACT:
            raise PlanError("an empty reply cannot be waited for: write what to --expect, or a --framing")
        if streams and self.end_of_reply() == ANY and self.pipeline > 1:
            raise PlanError("with --pipeline it has to be known where a reply ends: --expect its bytes, or a --framing")
        if len(request) * (self.pipeline if streams else 1) > MOST_BYTES:
            raise PlanError(
                f"a connection's requests come to more than {MOST_BYTES >> 20}M: a smaller --size or --pipeline"
            )
        if self.address.scheme.startswith("udp") and len(request) > LARGEST_DATAGRAM:
            raise PlanError(f"{len(request)} bytes do not fit in a datagram of UDP, which holds {LARGEST_DATAGRAM}")

    @property
    def message_bound(self) -> bool:
        """Whether the kernel keeps messages apart: datagrams, and Unix packets."""
        return self.address.is_datagram or self.address.scheme == "unixpacket"

    @property
    def is_open(self) -> bool:
        """Whether requests are sent at times of their own."""
        return self.rate > 0

    def request(self) -> bytes:
        """What is sent each time."""
        return framed(self.payload, self.framing)

    def reply(self) -> bytes:
        """What has to come back, where that is known; else nothing."""
        if isinstance(self.expect, bytes):
            return framed(self.expect, self.framing)
        if self.expect == "any":
            return b""
        return framed(self.payload.upper() if self.expect == "upper" else self.payload, self.framing)

    def end_of_reply(self) -> int:
        """How the end of a reply is found: one of the numbers of :mod:`jackfield.bench.framing`."""
        if self.expect != "any":
            return EXACT
        return ANY if self.message_bound else _SEVERAL_ENDS[self.framing]

    def share(self, worker: int) -> dict[str, Any]:
        """What one process of them does: its part of the connections, of the requests and of the rate."""
        connections = self.connections // self.workers + (worker < self.connections % self.workers)
        rate = self.rate * connections / self.connections
        depth = 1 if self.connect_per_request else self.pipeline
        if self.message_bound:
            # Who answers late, or never, is then told apart by its socket, and a reply belongs to its request.
            connections, depth = connections * depth, 1
        budget = -1
        if self.requests is not None:
            budget = self.requests // self.workers + (worker < self.requests % self.workers)
        return {"connections": connections, "depth": depth, "rate": rate, "budget": budget}
