"""``limits`` under the names of the standard library: off unless asked for, and then those of the native server."""

from __future__ import annotations

import contextlib
import gc
import logging
import socket
import threading
from typing import Any

import pytest
from dropin_support import (
    HERE,
    MODES,
    ask,
    connect,
    handler_base,
    living_children,
    served,
    server_class,
    serving,
    until,
)

from jackfield import socketserver as ours
from jackfield.admission import PeerList, Rate
from jackfield.limits import Limits

#: As short as a deadline may be and still be longer than what an honest client of these tests takes.
SHORT = 0.4

#: Modes whose handlers run beside the loop that accepts.
BESIDE = ["threading", "forking", "green", "async"]


def echo(mode: str) -> Any:
    if mode == "async":

        class AsyncEcho(ours.AsyncRequestHandler[Any]):
            async def handle(self) -> None:
                while data := await self.request.recv(1024):
                    await self.request.sendall(data.upper())

        return AsyncEcho

    class Echo(ours.BaseRequestHandler[Any]):
        def handle(self) -> None:
            while data := self.request.recv(1024):
                self.request.sendall(data.upper())

    return Echo


def lines(mode: str) -> Any:
    if mode == "async":

        class AsyncLines(ours.AsyncStreamRequestHandler[Any]):
            async def handle(self) -> None:
                async for line in self.rfile:
                    await self.wfile.write(line.upper())

        return AsyncLines

    class Lines(ours.StreamRequestHandler[Any]):
        def handle(self) -> None:
            for line in self.rfile:
                self.wfile.write(line.upper())

    return Lines


def is_over(client: socket.socket) -> bool:
    """Waits for the end that the server makes, whichever way it does."""
    with contextlib.suppress(ConnectionResetError):
        while client.recv(65536):
            pass
    return True


def ends(server: Any) -> dict[str, int]:
    """How connections have ended, once all of them have."""
    guard = server._gate.guard
    until(lambda: guard.ends and not guard.admission.total)
    return dict(guard.ends)


def refusals(server: Any) -> dict[str, int]:
    return dict(server._gate.guard.refusals)


@pytest.mark.parametrize("mode", MODES)
def test_without_limits_nothing_is_on(mode: str) -> None:
    with served(server_class(mode), echo(mode)) as server:
        assert server.limits is None
        assert ask(server) == b"HELLO"
        assert server._gate.guard is None


@pytest.mark.parametrize("mode", MODES)
def test_an_attribute_of_that_name_that_is_a_programs_own_means_nothing(mode: str) -> None:
    with served(server_class(mode), lines(mode), limits={"max_line": 5}) as server:
        assert ask(server, b"longer than that\n") == b"LONGER THAN THAT\n"


@pytest.mark.parametrize("mode", MODES)
def test_who_says_nothing_is_ended(mode: str) -> None:
    with served(server_class(mode), echo(mode), limits=Limits(first_byte_timeout=SHORT)) as server:
        with connect(server) as client:
            assert is_over(client)
        assert ends(server) == {"idle": 1}
        assert ask(server) == b"HELLO"


@pytest.mark.parametrize("mode", MODES)
def test_who_says_no_more_is_ended(mode: str) -> None:
    with served(server_class(mode), echo(mode), limits=Limits(idle_timeout=SHORT)) as server:
        with connect(server) as client:
            client.sendall(b"hello")
            assert client.recv(10) == b"HELLO"
            assert is_over(client)
        assert ends(server) == {"idle": 1}


@pytest.mark.parametrize("mode", MODES)
def test_a_message_a_byte_at_a_time_is_too_slow(mode: str) -> None:
    limits = Limits(message_timeout=SHORT, min_rate=None)
    with served(server_class(mode), lines(mode), limits=limits) as server:
        with connect(server) as client, contextlib.suppress(ConnectionResetError, BrokenPipeError):
            client.settimeout(SHORT / 10)
            while True:
                client.sendall(b"x")
                with contextlib.suppress(TimeoutError):
                    assert client.recv(1) == b""
                    break
        assert ends(server) == {"too_slow": 1}


@pytest.mark.parametrize("mode", MODES)
def test_a_line_without_an_end_is_cut(mode: str, caplog: pytest.LogCaptureFixture) -> None:
    with served(server_class(mode), lines(mode), limits=Limits(max_line=1000)) as server:
        with connect(server) as client:
            with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                client.sendall(b"x" * 5000)
            assert is_over(client)
        assert ends(server) == {"limit_line": 1}
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


@pytest.mark.parametrize("mode", MODES)
def test_who_is_denied_is_closed_at_once(mode: str) -> None:
    with served(server_class(mode), echo(mode), limits=Limits(deny=PeerList(["127.0.0.1"]))) as server:
        assert ask(server) == b""
        until(lambda: refusals(server) == {"denied": 1})
        assert server._gate.guard.admission.total == 0
        server.limits = Limits()
        assert ask(server) == b"HELLO", "limits may be changed while it serves"
        server.limits = None
        assert ask(server) == b"HELLO"


@pytest.mark.parametrize("mode", BESIDE)
def test_connections_of_one_address(mode: str) -> None:
    limits = Limits(max_connections_per_address=2, exempt=PeerList())
    with served(server_class(mode), echo(mode), limits=limits) as server:
        with connect(server) as first, connect(server) as second:
            for client in (first, second):
                client.sendall(b"hello")
                assert client.recv(10) == b"HELLO"
            assert ask(server) == b""
            assert refusals(server) == {"limit_per_address": 1}
            for client in (first, second):
                client.shutdown(socket.SHUT_RDWR)  # forked children hold copies of this end
        until(lambda: not server._gate.guard.admission.total)
        assert ask(server) == b"HELLO"


@pytest.mark.parametrize("mode", BESIDE)
def test_who_finds_no_room_is_told(mode: str) -> None:
    limits = Limits(max_connections=1, full_patience=0, refusal=b"busy\n")
    with served(server_class(mode), echo(mode), limits=limits) as server:
        with connect(server) as first:
            first.sendall(b"hello")
            assert first.recv(10) == b"HELLO"
            with connect(server) as second:
                assert second.recv(10) == b"busy\n"
            assert refusals(server) == {"limit_connections": 1}
            first.shutdown(socket.SHUT_RDWR)
        until(lambda: not server._gate.guard.admission.total)
        assert ask(server) == b"HELLO"


@pytest.mark.parametrize("mode", BESIDE)
def test_who_finds_no_room_waits_where_that_is_asked_for(mode: str) -> None:
    with served(server_class(mode), echo(mode), limits=Limits.none(max_connections=1)) as server:
        with connect(server) as first:
            first.sendall(b"hello")
            assert first.recv(10) == b"HELLO"
            with connect(server) as second:
                second.sendall(b"me too")
                first.shutdown(socket.SHUT_RDWR)
                assert second.recv(10) == b"ME TOO"
                second.shutdown(socket.SHUT_RDWR)
        assert refusals(server) == {}
        assert sum(ends(server).values()) == 2


@pytest.mark.parametrize("mode", MODES)
def test_connections_at_a_rate(mode: str) -> None:
    limits = Limits(accept_rate=Rate.parse("2/h"), exempt=PeerList())
    with served(server_class(mode), echo(mode), limits=limits) as server:
        assert [ask(server) for _ in range(4)] == [b"HELLO", b"HELLO", b"", b""]
        assert refusals(server) == {"limit_rate": 2}


@pytest.mark.parametrize("mode", MODES)
def test_each_end_has_its_reason(mode: str) -> None:
    base = handler_base(mode)

    def handler(does: Any) -> Any:
        if mode == "async":

            async def ahandle(self: Any) -> None:
                does()

            return type("Handler", (base,), {"handle": ahandle})
        return type("Handler", (base,), {"handle": lambda self: does()})

    with served(server_class(mode), handler(lambda: None), limits=Limits()) as server:
        with connect(server) as client:
            assert is_over(client)
        assert ends(server) == {"handler_returned": 1}
    with served(server_class(mode), handler(lambda: 1 / 0), limits=Limits()) as server:
        with connect(server) as client:
            assert is_over(client)
        assert ends(server) == {"handler_error": 1}
    with served(server_class(mode), echo(mode), limits=Limits()) as server:
        assert ask(server) == b"HELLO"
        assert ends(server) == {"peer_closed": 1}
    refusing = type("Refusing", (server_class(mode),), {"verify_request": lambda self, request, address: False})
    with served(refusing, echo(mode), limits=Limits()) as server:
        assert ask(server) == b""
        assert ends(server) == {"verify_refused": 1}


@pytest.mark.parametrize("mode", HERE)
def test_who_ends_connections_on_a_way_of_its_own_gives_their_room_back(mode: str) -> None:
    """A server whose shutdown_request() calls none of ours."""

    class Own(server_class(mode)):  # type: ignore[misc]
        def shutdown_request(self, request: Any) -> None:
            request.close()

    limits = Limits(max_connections_per_address=1, exempt=PeerList())
    with served(Own, echo(mode), limits=limits) as server:
        for _ in range(3):
            assert ask(server) == b"HELLO"
            until(lambda: gc.collect() is not None and not server._gate.guard.admission.total)
        assert sum(ends(server).values()) == 3
        assert not refusals(server)


def test_handle_request_holds_to_them_too() -> None:
    with server_class("serial")(("127.0.0.1", 0), echo("serial")) as server:
        server.limits = Limits(first_byte_timeout=SHORT)
        with connect(server) as client:
            server.handle_request()
            assert is_over(client)
        assert ends(server) == {"idle": 1}


def test_closing_the_server_ends_the_watch() -> None:
    before = threading.active_count()
    server = server_class("serial")(("127.0.0.1", 0), echo("serial"))
    server.limits = Limits()
    with serving(server):
        assert ask(server) == b"HELLO"
        assert threading.active_count() == before + 2  # the one that serves, and the one that watches
    assert threading.active_count() == before


def test_a_child_keeps_its_own_deadlines() -> None:
    """And the room of its connection is taken until it has ended."""
    limits = Limits(max_connections_per_address=1, exempt=PeerList(), first_byte_timeout=SHORT)
    with served(server_class("forking"), echo("forking"), limits=limits) as server:
        with connect(server) as client:
            until(lambda: living_children())
            assert ask(server) == b""
            assert is_over(client)
        assert ends(server) == {"idle": 1}
        assert refusals(server) == {"limit_per_address": 1}


@pytest.mark.parametrize("mode", BESIDE)
def test_limits_that_come_while_clients_are_there(mode: str) -> None:
    """Who came before them is left alone, and is nobody's when it goes."""
    with served(server_class(mode), echo(mode)) as server:
        with connect(server) as first:
            first.sendall(b"hello")
            assert first.recv(10) == b"HELLO"
            server.limits = Limits(first_byte_timeout=SHORT, idle_timeout=SHORT)
            with connect(server) as second:
                assert is_over(second)
            first.sendall(b"still here")
            assert first.recv(10) == b"STILL HERE"
            first.shutdown(socket.SHUT_RDWR)
        until(lambda: not server.connections and not living_children())
        assert ends(server) == {"idle": 1}


# -- datagrams -------------------------------------------------------------------------------------------------------


def datagrams(mode: str, times: int = 1) -> Any:
    """A handler that answers a datagram with so many copies of it."""
    if mode == "async":

        class AsyncCopies(ours.AsyncDatagramRequestHandler[Any]):
            async def handle(self) -> None:
                self.wfile.write(self.packet.upper() * times)

        return AsyncCopies

    class Copies(ours.DatagramRequestHandler[Any]):
        def handle(self) -> None:
            self.wfile.write(self.packet.upper() * times)

    return Copies


def dropped(server: Any) -> int:
    return server._UDPServer__datagrams.dropped  # type: ignore[no-any-return]


@pytest.mark.parametrize("mode", MODES)
def test_datagrams_at_a_rate(mode: str) -> None:
    limits = Limits(datagram_rate_per_address=Rate.parse("2/h"), exempt=PeerList())
    with served(server_class(mode, "UDP"), datagrams(mode), kind="UDP", limits=limits) as server:
        with connect(server) as client:
            for _ in range(2):
                client.send(b"hello")
                assert client.recv(10) == b"HELLO"
            client.send(b"hello")
            until(lambda: dropped(server) == 1)
            server.limits = None
            client.send(b"again")
            assert client.recv(10) == b"AGAIN"


@pytest.mark.parametrize("mode", MODES)
def test_a_datagram_larger_than_may_be_is_dropped_whole(mode: str) -> None:
    with served(server_class(mode, "UDP"), datagrams(mode), kind="UDP", limits=Limits(max_datagram=100)) as server:
        with connect(server) as client:
            client.send(b"x" * 101)
            client.send(b"x" * 100)
            assert client.recv(1000) == b"X" * 100
        assert dropped(server) == 1


@pytest.mark.parametrize("mode", MODES)
def test_who_has_not_answered_gets_no_more_than_so_many_times_what_it_sent(mode: str) -> None:
    """Its address may be forged, and somebody else's flood."""
    limits = Limits(amplification=3.0, exempt=PeerList())
    with served(server_class(mode, "UDP"), datagrams(mode, 4), kind="UDP", limits=limits) as server:
        with connect(server) as client:
            client.send(b"first")
            until(lambda: withheld(server, mode))
            server.limits = limits.replace(amplification=100.0)
            client.send(b"second")
            assert client.recv(1000) == b"SECOND" * 4, "and nothing before it"


def withheld(server: Any, mode: str) -> bool:
    """Whether a reply was withheld; where a child would know of that, whether it has come and gone."""
    if mode == "forking":
        return server.active_children is not None and not living_children()
    guard = server._UDPServer__datagrams._guard
    return guard is not None and guard.withheld == 1
