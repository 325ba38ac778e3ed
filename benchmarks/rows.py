"""The rows of the table: the work, the servers that do it, and what each of ours must reach."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import trials
from trials import Found, Setting

GROUPS = {
    "echo": "TCP echo on 64 and on 1,000 connections",
    "pure": "the same without the native part, on 64 connections",
    "churn": "connect, one exchange, close",
    "udp": "UDP echo",
    "memory": "memory for a connection that waits",
    "idle": "10,000 idle connections beside 64 busy ones",
    "large": "messages of 64 KiB, bytes a second",
    "file": "sendfile and recvfile of 1 GiB, bytes a second",
    "latency": "one connection alone, median time of an exchange",
    "fairness": "connections that ask seldom beside one that always has data",
}

STREAMS = ("stdlib-threading", "asyncio-protocol", "asyncio-streams", "uvloop-protocol", "uvloop-streams", "gevent")
DATAGRAMS = ("stdlib-serial", "stdlib-threading", "asyncio-protocol", "uvloop-protocol", "gevent")


@dataclass(frozen=True)
class Bar:
    """What a figure must reach: a number, or what another server of the same row has."""

    kind: Literal["at most", "at least", "below"]
    value: float = 0.0
    server: str = ""


def at_most(value: float) -> Bar:
    return Bar("at most", value)


def at_least(value: float) -> Bar:
    return Bar("at least", value)


def below(server: str) -> Bar:
    return Bar("below", server=server)


@dataclass(frozen=True)
class Row:
    """One work on several servers.

    ``measured`` names what the trial found and counts: by this name, in this unit. The figure is that, or with
    ``to_limit`` its ratio to what the C program has in the same round. Servers without a bar are there to compare.
    """

    group: str
    title: str
    what: str
    trial: Callable[[Setting, str], Found]
    measured: tuple[str, str]
    servers: dict[str, Bar | None]
    peers: tuple[str, ...] = ()
    to_limit: bool = True
    unit: str = "× C"
    more_is_better: bool = False


CPU = ("cpu_us", "µs")
SPEED = ("mib_per_second", "MiB/s")


def rows(setting: Setting) -> list[Row]:
    """All of them, in the order of the table."""
    few = setting.few
    all_bars = {64: (1.15, 1.28), 1000: (1.20, 1.50)}
    size = f"{setting.mib / 1024:g} GiB" if setting.mib >= 1024 else f"{setting.mib:g} MiB"
    made = []
    for connections, (for_async, for_green) in all_bars.items():
        made.append(
            Row(
                "echo",
                f"TCP echo, {few(connections):,} connections",
                "CPU a message",
                partial(trials.echo, connections=few(connections)),
                CPU,
                {
                    "c": None,
                    "async": at_most(for_async),
                    "green": at_most(for_green),
                    "thread": below("stdlib-threading"),
                    "stdlib-threading": None,
                },
                # A thousand processes are no comparison but a test of the machine.
                peers=STREAMS if connections == 1000 else (*STREAMS, "stdlib-forking"),
            )
        )
    return [
        *made,
        Row(
            "pure",
            f"TCP echo, {few(64)} connections, no native part",
            "CPU a message",
            partial(trials.echo, connections=few(64)),
            CPU,
            {"c": None, "async-pure": at_most(1.6), "green-pure": at_most(1.6)},
        ),
        Row(
            "churn",
            f"connect, one exchange, close; {few(32)} at a time",
            "CPU a connection",
            partial(trials.churn, connections=few(32)),
            CPU,
            {"c": None, "async": at_most(1.30), "green": at_most(1.90), "thread": at_most(3.5)},
            peers=(*STREAMS, "stdlib-forking"),
        ),
        Row(
            "udp",
            f"UDP echo, {few(trials.UDP_SOCKETS)} × {trials.UDP_WINDOW} datagrams on their way",
            "CPU a datagram",
            trials.udp,
            CPU,
            {"c": None, "serial": at_most(1.6), "green": at_most(1.6), "async": at_most(1.6), "c-batch": None},
            peers=DATAGRAMS,
        ),
        Row(
            "memory",
            f"an idle connection, of {few(2000):,}",
            "memory",
            partial(trials.idle_memory, connections=few(2000)),
            ("kib", "KiB"),
            {"c": None, "async": at_most(1.5), "green": at_most(7)},
            peers=STREAMS,
            to_limit=False,
            unit="KiB",
        ),
        Row(
            "idle",
            f"{few(10_000):,} idle connections beside {few(64)} busy ones",
            "CPU a message, to that without the idle ones",
            partial(trials.beside_idle, busy=few(64), idle=few(10_000)),
            ("ratio", "×"),
            {"c": None, "async": at_most(1.03), "green": at_most(1.03)},
            to_limit=False,
            unit="× alone",
        ),
        Row(
            "large",
            f"messages of 64 KiB, {few(64)} connections",
            "bytes a second",
            partial(trials.large, connections=few(64)),
            SPEED,
            {"c": None, "async": at_least(0.95), "green": at_least(0.95)},
            more_is_better=True,
        ),
        Row(
            "file",
            f"sendfile and recvfile of {size}",
            "bytes a second",
            trials.file,
            SPEED,
            {"c": None, "thread": at_least(0.9), "green": at_least(0.9), "async": at_least(0.9)},
            more_is_better=True,
        ),
        Row(
            "latency",
            "one connection alone",
            "median time of an exchange",
            partial(trials.echo, connections=1),
            ("p50_us", "µs"),
            {"c": None, "async": at_most(1.08), "green": at_most(1.08), "thread": at_most(1.08)},
        ),
        Row(
            "fairness",
            f"{few(63)} that ask seldom beside one that always has data",
            "99th percentile of their wait, to that without it",
            partial(trials.fairness, askers=few(63)),
            ("ratio", "×"),
            {"c": None, "async": at_most(2.0), "green": at_most(2.0)},
            to_limit=False,
            unit="× alone",
        ),
    ]
