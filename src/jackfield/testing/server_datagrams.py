"""Server checks over datagrams. The clients are the standard library's sockets, in threads."""

from __future__ import annotations

import socket as _socket_std
import time

from .clients import connect
from .payload import pattern
from .server_handlers import FAIL, GOT
from .server_streams import at_once, open_descriptors
from .server_suite import CLIENTS, DATAGRAM_SERVER
from .servers import STOP_SECONDS, ServerFactory
from .suite import equal, fails_with, true

__all__: list[str] = []

LARGE = 60_000
"""Bytes of a large datagram: below the 65,507 that UDP over IPv4 carries, far above an Ethernet frame."""


def ask(client: _socket_std.socket, message: bytes) -> None:
    """Send a datagram, and expect its answer."""
    client.send(message)
    equal(client.recv(1 << 16), GOT + message, "the answer to a datagram")


@DATAGRAM_SERVER.check
def answers_datagrams(factory: ServerFactory) -> None:
    """Each datagram is one request, answered to the one who sent it."""
    with factory("datagram") as address, connect(address) as first, connect(address) as second:
        for turn in range(5):
            ask(first, b"first %d" % turn)
            ask(second, b"second %d" % turn)


@DATAGRAM_SERVER.check
def answers_many_clients(factory: ServerFactory) -> None:
    """20 clients at once, 3 datagrams each in turn: each gets its own answers."""
    with factory("datagram") as address:

        def client(number: int) -> None:
            with connect(address) as socket:
                for turn in range(3):
                    ask(socket, f"{number}.{turn}".encode())

        at_once(CLIENTS, client)


@DATAGRAM_SERVER.check
def takes_a_large_datagram_whole(factory: ServerFactory) -> None:
    """A datagram of 60,000 bytes reaches the handler whole, and so does its answer."""
    with factory("datagram") as address, connect(address) as client:
        client.setsockopt(_socket_std.SOL_SOCKET, _socket_std.SO_SNDBUF, 1 << 18)
        ask(client, pattern(LARGE))
        ask(client, b"small again")


@DATAGRAM_SERVER.check
def takes_an_empty_datagram(factory: ServerFactory) -> None:
    """A datagram of no bytes is a request like any other, not an end of stream."""
    with factory("datagram") as address, connect(address) as client:
        ask(client, b"")
        ask(client, b"next")
        ask(client, b"")


@DATAGRAM_SERVER.check
def keeps_datagrams_in_a_burst(factory: ServerFactory) -> None:
    """Ten datagrams sent without waiting are all answered, each once."""
    with factory("datagram") as address, connect(address) as client:
        messages = [b"burst %d" % number for number in range(10)]
        for message in messages:
            client.send(message)
        answers = sorted(client.recv(1000) for _ in messages)
        equal(answers, sorted(GOT + message for message in messages), "the answers to a burst")


@DATAGRAM_SERVER.check
def outlives_a_failing_datagram_handler(factory: ServerFactory) -> None:
    """An exception in the handler of one datagram costs that datagram only."""
    with factory("datagram") as address, connect(address) as client:
        for _ in range(3):
            client.send(FAIL)
            ask(client, b"after a failure")


@DATAGRAM_SERVER.check
def outlives_clients_that_went(factory: ServerFactory) -> None:
    """Answers to clients that are gone by then (ICMP says so to UDP) end nothing."""
    with factory("datagram") as address:
        for _ in range(5):
            with connect(address) as gone:
                gone.send(b"and away")
        with connect(address) as client:
            ask(client, b"still here")


@DATAGRAM_SERVER.check
def stops_and_is_gone(factory: ServerFactory) -> None:
    """Stopping ends promptly and nobody answers any more."""
    with factory("datagram") as address:
        with connect(address) as client:
            ask(client, b"before")
        start = time.monotonic()
    took = time.monotonic() - start
    true(took < STOP_SECONDS + 5, f"stopping took {took:.1f} s")

    def after() -> bytes:
        with connect(address, timeout=5) as late:
            late.send(b"anybody there?")
            return late.recv(10)

    fails_with((ConnectionRefusedError, FileNotFoundError), after, "a datagram after the server stopped")


@DATAGRAM_SERVER.check
def leaves_no_descriptor(factory: ServerFactory) -> None:
    """After a stop this process has no more descriptors open than before the start."""
    count = open_descriptors()

    def served() -> None:
        with factory("datagram") as address, connect(address) as client:
            ask(client, b"one")

    served()  # what the first start opens for good is not a leak
    before = count()
    served()
    deadline = time.monotonic() + 2
    while count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    true(count() <= before, f"{count()} descriptors are open after a start and stop, {before} were before")
