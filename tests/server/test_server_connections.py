"""The live connections: who, since when, how much; and ending one of them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import select
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from native_support import HERE, MODES, SOON, TCP, Echo, Held, ask, dial, echo, leave, until

from jackfield import AsyncRequestHandler, BaseRequestHandler, Server
from jackfield.connections import Connections
from jackfield.testing import ManualClock

BESIDE = [*HERE, "process"]  # where several are served at once


def talk(client: socket.socket, data: bytes = b"hello") -> None:
    client.sendall(data)
    assert client.recv(len(data)) == data.upper()


@pytest.mark.parametrize("mode", BESIDE)
def test_who_is_connected(mode: str) -> None:
    with Server(echo(mode), TCP, mode=mode) as server, contextlib.ExitStack() as stack:
        clients = []
        for number in range(3):
            clients.append(dial(server))
            stack.callback(leave, clients[-1])
            talk(clients[-1])
            assert len(server.connections) == number + 1
        connections = server.connections
        assert [connection.peer for connection in connections] == [client.getsockname() for client in clients]
        assert [connection.listener for connection in connections] == server.addresses * 3
        assert [connection.id for connection in connections] == [1, 2, 3]
        assert server.info().connections == 3
        assert str(clients[0].getsockname()) in repr(connections[0])
        leave(clients[1])
        until(lambda: len(server.connections) == 2)
        assert [connection.id for connection in server.connections] == [1, 3]
        assert connections[1].socket is None, "one that has ended knows it"
        assert (connections[1].received, connections[1].sent) == (0, 0)
        connections[1].close()
        connections[1].abort()
    assert server.connections == []
    assert server.info().accepted == 3


@pytest.mark.parametrize("mode", BESIDE)
def test_how_much(mode: str) -> None:
    with Server(echo(mode), TCP, mode=mode) as server, dial(server) as client:
        for count in range(1, 4):
            talk(client, b"x" * 100)
            (connection,) = server.connections
            until(lambda n=count: (connection.received, connection.sent // 100) == (100 * n, n))  # noqa: B023
        leave(client)


@pytest.mark.parametrize("mode", HERE)
def test_what_the_handler_has_not_taken_does_not_count(mode: str) -> None:
    held = Held(mode)
    with Server(held.handler, TCP, mode=mode) as server, dial(server) as client:
        assert client.recv(10) == b"here"
        client.sendall(b"x" * 1000)
        (connection,) = server.connections
        until(lambda: connection.sent == 4)
        assert connection.received == 0
        held.go.set()
        assert client.recv(10) == b"bye"


@pytest.mark.parametrize("mode", HERE)
def test_before_anything_was_moved_nothing_counts(mode: str) -> None:
    """Also if the peer has sent something that waits in the kernel."""
    release = threading.Event()

    class Silent(BaseRequestHandler[Any]):
        def handle(self) -> None:
            from jackfield import offload

            offload(release.wait, SOON)

    class AsyncSilent(AsyncRequestHandler[Any]):
        async def handle(self) -> None:
            from jackfield import offload

            await offload(release.wait, SOON)

    with Server(AsyncSilent if mode == "async" else Silent, TCP, mode=mode) as server, dial(server) as client:
        client.sendall(b"x" * 1000)
        until(lambda: server.connections)
        (connection,) = server.connections
        sock = connection.socket
        # The kernel's own word that it is there; the handler has not asked for it.
        until(lambda: len(socket.socket.recv(sock, 1000, socket.MSG_PEEK)) == 1000)
        counts = (connection.received, connection.sent)
        release.set()
        assert counts == (0, 0)


@pytest.mark.parametrize("mode", HERE)
def test_what_was_only_looked_at_does_not_count(mode: str) -> None:
    peek = socket.MSG_PEEK

    class Looks(BaseRequestHandler[Any]):
        def handle(self) -> None:
            self.request.recv_into(bytearray(10), 10, peek)
            self.request.recvfrom(10, peek)
            self.request.recvfrom_into(bytearray(10), 10, peek)
            self.request.recvmsg(10, 0, peek)
            self.request.recvmsg_into([bytearray(10)], 0, peek)
            self.request.sendall(self.request.recv(10).upper())
            self.request.recv(10)

    class AsyncLooks(AsyncRequestHandler[Any]):
        async def handle(self) -> None:
            await self.request.recv_into(bytearray(10), 10, peek)
            await self.request.recvfrom(10, peek)
            await self.request.sendall((await self.request.recv(10)).upper())
            await self.request.recv(10)

    with Server(AsyncLooks if mode == "async" else Looks, TCP, mode=mode) as server, dial(server) as client:
        talk(client, b"hello")
        assert server.connections[0].received == 5


def test_a_socket_that_does_not_count_is_asked_of_the_kernel() -> None:
    """One of the standard library's, as a wrapper may leave it; a Unix socket's kernel counts nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        accepted, _ = listener.accept()
        with client, accepted:
            connection = Connections().enter(accepted, "peer")
            client.sendall(b"hello")
            assert accepted.recv(10) == b"hello"
            accepted.sendall(b"world!")
            assert client.recv(10) == b"world!"
            until(lambda: (connection.received, connection.sent) == (5, 6))
    left, right = socket.socketpair()
    with left, right:
        connection = Connections().enter(left, "peer")
        right.sendall(b"hello")
        assert left.recv(10) == b"hello"
        assert (connection.received, connection.sent) == (0, 0)


def test_age_is_by_the_clock() -> None:
    clock = ManualClock(100.0)
    connections = Connections(clock)
    left, right = socket.socketpair()
    with left, right:
        connection = connections.enter(left, "peer", "tcp://listener:1")
        assert connection.age == 0
        clock.advance(7.5)
        assert connection.age == 7.5
        assert (connection.peer, connection.listener) == ("peer", "tcp://listener:1")


@pytest.mark.parametrize("mode", HERE)
def test_age_in_a_server(mode: str) -> None:
    clock = ManualClock()
    server = Server(echo(mode), TCP, mode=mode).bind()
    server._service.guard.connections.clock = clock
    with server, dial(server) as first:
        talk(first)
        clock.advance(60)
        with dial(server) as second:
            talk(second)
            assert [connection.age for connection in server.connections] == [60, 0]


# -- ending one --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", BESIDE)
def test_closing_one_ends_that_one(mode: str) -> None:
    """The handler reads the end of the stream and finishes as it would anyway; the client reads it too."""
    with Server(echo(mode), TCP, mode=mode) as server, contextlib.ExitStack() as stack:
        one, other = dial(server), dial(server)
        for client in (one, other):
            stack.callback(leave, client)
            talk(client)
        server.connections[0].close()
        assert one.recv(10) == b""
        until(lambda: len(server.connections) == 1)
        talk(other, b"still there")
        leave(other)
        assert server.info().handler_errors == 0


@pytest.mark.parametrize("mode", BESIDE)
@pytest.mark.parametrize("patience", [None, 1000.0])
def test_aborting_one_resets_it(mode: str, patience: float | None, caplog: pytest.LogCaptureFixture) -> None:
    """The reset is the first thing that the peer hears; its handler, which waits, ends with an error of the peer's
    kind, also where its wait is a poll(2) inside the call."""

    class Patient(echo(mode)):  # type: ignore[misc]
        if mode == "async":

            async def handle(self) -> None:
                await asyncio.wait_for(super().handle(), patience)
        else:

            def handle(self) -> None:
                self.request.settimeout(patience)
                super().handle()

    with Server(Patient, TCP, mode=mode) as server, contextlib.ExitStack() as stack:
        one, other = dial(server), dial(server)
        for client in (one, other):
            stack.callback(leave, client)
            talk(client)
        server.connections[0].abort()
        with pytest.raises(ConnectionResetError):
            one.recv(10)
        until(lambda: len(server.connections) == 1)
        talk(other, b"still there")
        leave(other)
    assert server.info().handler_errors == 0
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("mode", HERE)
def test_what_an_aborted_handler_does_next(mode: str) -> None:
    """Every further call tells it as well, and none waits; and it is no error of the handler's."""
    told: list[object] = []

    class Goes(BaseRequestHandler[Any]):
        def handle(self) -> None:
            self.request.sendall(b"here")
            for _ in range(3):
                try:
                    told.append(self.request.recv(10))
                except OSError as error:
                    told.append(error)
            self.request.sendall(b"too late")

    class AsyncGoes(AsyncRequestHandler[Any]):
        async def handle(self) -> None:
            await self.request.sendall(b"here")
            for _ in range(3):
                try:
                    told.append(await self.request.recv(10))
                except OSError as error:
                    told.append(error)
            await self.request.sendall(b"too late")

    with Server(AsyncGoes if mode == "async" else Goes, TCP, mode=mode) as server, dial(server) as client:
        assert client.recv(10) == b"here"
        server.connections[0].abort()
        with pytest.raises(ConnectionResetError):
            client.recv(10)
        until(lambda: not server.connections)
    assert isinstance(told[0], (ConnectionResetError, BrokenPipeError))
    assert len(told) == 3
    assert server.info().handler_errors == 0


@pytest.mark.parametrize("mode", HERE)
def test_what_is_still_to_be_sent_is_thrown_away(mode: str) -> None:
    """The handler waits in sendall, the peer reads only afterwards."""
    ended: list[BaseException] = []

    class Floods(BaseRequestHandler[Any]):
        def handle(self) -> None:
            try:
                self.request.sendall(bytes(100_000_000))
            except OSError as error:
                ended.append(error)

    class AsyncFloods(AsyncRequestHandler[Any]):
        async def handle(self) -> None:
            try:
                await self.request.sendall(bytes(100_000_000))
            except OSError as error:
                ended.append(error)

    handler = AsyncFloods if mode == "async" else Floods
    for how in ("close", "abort"):
        with Server(handler, TCP, mode=mode) as server, dial(server) as client:
            # The kernel takes no more from it: nothing moves any more, and it waits.
            until(lambda: server.connections and client.recv(1, socket.MSG_PEEK))
            connection = server.connections[0]
            until(lambda sock=connection.socket: not select.select([], [sock], [], 0)[1])
            getattr(connection, how)()
            until(lambda: not server.connections)
            if how == "abort":
                with pytest.raises(ConnectionResetError):
                    while client.recv(1 << 20):
                        pass
    assert len(ended) == 2
    assert all(isinstance(error, (BrokenPipeError, ConnectionResetError)) for error in ended)


def test_a_unix_socket_knows_no_reset(tmp_path: Path) -> None:
    path = tmp_path / "s"
    if len(str(path)) > 100:
        pytest.skip("the temporary directory's name is too long for a socket")
    with Server(Echo, f"unix:{path}") as server, dial(server) as client:
        talk(client)
        server.connections[0].abort()
        assert client.recv(10) == b""
        until(lambda: not server.connections)


def test_where_a_connection_cannot_be_dissolved_the_reset_follows_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another system, or no ctypes; and the broken case for the tests above."""
    monkeypatch.setattr("jackfield.connections._libc_connect", lambda: None)
    with Server(Echo, TCP) as server, dial(server) as client:
        talk(client)
        server.connections[0].abort()
        assert client.recv(10) == b""
        until(lambda: not server.connections)
        with pytest.raises(ConnectionError):
            while True:
                client.sendall(b"x")
    with pytest.raises(pytest.fail.Exception):
        broken: Callable[..., None] = test_what_an_aborted_handler_does_next
        broken("thread")


@pytest.mark.parametrize("mode", HERE)
def test_a_handler_may_end_its_own_connection(mode: str) -> None:
    class Ends(BaseRequestHandler[Any]):
        def handle(self) -> None:
            (mine,) = self.server.connections
            assert mine.peer == self.client_address
            mine.close()

    class AsyncEnds(AsyncRequestHandler[Any]):
        async def handle(self) -> None:
            (mine,) = self.server.connections
            assert mine.peer == self.client_address
            mine.close()

    with Server(AsyncEnds if mode == "async" else Ends, TCP, mode=mode) as server:
        assert ask(server) == b""
        assert server.info().handler_errors == 0


def test_a_connection_does_not_keep_its_socket() -> None:
    """A handler of the old kind may let go of it on a way of its own."""
    connections = Connections()
    left, right = socket.socketpair()
    connection = connections.enter(left, "peer")
    assert len(connections) == 1
    left.close()
    assert len(connections) == 0
    assert list(connections) == []
    assert connection.socket is None
    right.close()
    assert connections.total == 1


def test_leaving_twice_and_without_having_been_there() -> None:
    connections = Connections()
    left, right = socket.socketpair()
    with left, right:
        connections.remove(Connections().enter(left, "another table's"))
        connection = connections.enter(left, "peer")
        connections.remove(connection)
        connections.remove(connection)
        assert len(connections) == 0


# -- what handlers do wrong --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("error", [KeyError, SystemExit, MemoryError])
def test_an_error_is_counted_and_the_next_client_served(
    mode: str, error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    class Fails(BaseRequestHandler[Any]):
        def handle(self) -> None:
            if self.request.recv(10) == b"fail":
                raise error("of the handler")
            self.request.sendall(b"fine")

    class AsyncFails(AsyncRequestHandler[Any]):
        async def handle(self) -> None:
            if await self.request.recv(10) == b"fail":
                raise error("of the handler")
            await self.request.sendall(b"fine")

    with Server(AsyncFails if mode == "async" else Fails, TCP, mode=mode) as server:
        for _ in range(2):
            assert ask(server, b"fail") == b""
            assert ask(server, b"go") == b"fine"
        until(lambda: not server.connections)
        assert server.info().handler_errors == 2
    if mode != "process":  # a child logs in its own process
        assert [type(record.incident.error) for record in caplog.records if record.exc_text] == [error] * 2


@pytest.mark.parametrize("mode", HERE)
@pytest.mark.parametrize("error", [ConnectionResetError, BrokenPipeError, ConnectionAbortedError])
def test_a_peer_that_leaves_is_no_error(
    mode: str, error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    class Fails(BaseRequestHandler[Any]):
        def handle(self) -> None:
            raise error

    class AsyncFails(AsyncRequestHandler[Any]):
        async def handle(self) -> None:
            raise error

    with caplog.at_level(logging.DEBUG, "jackfield.server"):
        with Server(AsyncFails if mode == "async" else Fails, TCP, mode=mode) as server:
            assert ask(server) == b""
    assert server.info().handler_errors == 0
    assert [record.levelname for record in caplog.records if "left" in record.getMessage()] == ["DEBUG"]


def test_what_is_known_of_it() -> None:
    """info(), field by field."""
    with Server(Echo, TCP, name="upper") as server, dial(server) as client:
        talk(client)
        info = server.info()
        assert (info.name, info.mode, info.state) == ("upper", "thread", "serving")
        assert info.addresses == tuple(server.addresses)
        assert (info.connections, info.accepted, info.refused, info.handler_errors) == (1, 1, 0, 0)
        assert (info.datagrams, info.dropped) == (0, 0)
        assert info.uptime > 0
        with pytest.raises(AttributeError):
            info.accepted = 5  # type: ignore[misc]
    assert server.info().state == "stopped"


def test_a_connection_that_stays_on_the_list_would_be_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broken case: a server that never closes what its handlers are done with."""
    kept: list[Any] = []
    with monkeypatch.context() as patch:
        patch.setattr("jackfield.serving.streams.Streams.close", lambda self, sock, error=None: kept.append(sock))
        server = Server(Held("thread").handler, TCP)
        server.handler = type("Returns", (BaseRequestHandler,), {"handle": lambda self: None})
        server._service.streams.handler = server.handler
        with server, dial(server):
            until(lambda: kept)
            assert len(server.connections) == 1
    for sock in kept:
        sock.close()
