"""Deadlines and bounds of the native Server: who overstays is ended, for the right reason, and nobody else."""

from __future__ import annotations

import contextlib
import gc
import socket
import struct
import threading
import weakref
from typing import Any

import pytest
from native_support import HERE, MODES, TCP, Held, ask, by, client_of, dial, echo, ended, is_over, leave, lines, until

from jackfield import (
    AsyncRequestHandler,
    BaseRequestHandler,
    Server,
    StreamRequestHandler,
    sync,
)
from jackfield.deadlines import Deadlines
from jackfield.events import ConnectionEnded, ConnectionRefused, ConnectionStarted, Event, Reason
from jackfield.limits import Limits
from jackfield.reactor.twin import native

#: As short as a deadline may be and still be longer than what an honest client of these tests takes.
SHORT = 0.4


class Flood(BaseRequestHandler[Any]):
    def handle(self) -> None:
        while True:
            self.request.sendall(b"x" * 65536)


class AsyncFlood(AsyncRequestHandler[Any]):
    async def handle(self) -> None:
        while True:
            await self.request.sendall(b"x" * 65536)


@pytest.mark.parametrize("mode", MODES)
def test_who_says_nothing_is_idle(mode: str) -> None:
    with Server(echo(mode), TCP, mode=mode, limits=Limits(first_byte_timeout=SHORT)) as server:
        with dial(server) as client:
            assert is_over(client)
            assert ended(server) == {"idle": 1}
        assert ask(server) == b"HELLO"


@pytest.mark.parametrize("mode", MODES)
def test_who_says_no_more_is_idle(mode: str) -> None:
    with Server(echo(mode), TCP, mode=mode, limits=Limits(idle_timeout=SHORT)) as server, dial(server) as client:
        client.sendall(b"hello")
        assert client.recv(10) == b"HELLO"
        assert is_over(client)
        assert ended(server) == {"idle": 1}


@pytest.mark.parametrize("mode", ["thread", "green", "async"])
def test_a_handler_that_is_busy_with_something_else_is_not_idle(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deadlines run while the peer is waited for; this handler waits for somebody else, longer than any of them."""
    held = Held(mode)
    limits = Limits(idle_timeout=SHORT, first_byte_timeout=SHORT, send_timeout=SHORT)
    with Server(held.handler, TCP, mode=mode, limits=limits) as server:
        with dial(server) as client, dial(server) as other:
            assert client.recv(4) == other.recv(4) == b"here"
            (connection, _) = server.connections
            looks = []
            judge = Deadlines._judge
            monkeypatch.setattr(Deadlines, "_judge", lambda *args: (looks.append(args), judge(*args))[1])
            until(lambda: connection.age > 3 * SHORT and looks)
            held.go.set()
            assert client.recv(3) == b"bye"
        assert set(ended(server)) <= {"handler_returned", "peer_closed"}


@pytest.mark.parametrize("mode", MODES)
def test_a_life_is_over(mode: str) -> None:
    with Server(echo(mode), TCP, mode=mode, limits=Limits(connection_lifetime=SHORT)) as server, dial(server) as client:
        with contextlib.suppress(ConnectionError):
            while True:
                client.sendall(b"hello")
                if not client.recv(10):
                    break
        assert ended(server) == {"lifetime": 1}


@pytest.mark.parametrize("mode", MODES)
def test_who_takes_nothing_is_dropped(mode: str) -> None:
    limits = Limits(send_timeout=SHORT)
    with Server(by(mode, Flood, AsyncFlood), TCP, mode=mode, limits=limits) as server, dial(server) as client:
        assert client.recv(1) == b"x"
        assert ended(server) == {"send_stalled": 1}
        assert server.info().handler_errors == 0


@pytest.mark.parametrize("mode", MODES)
def test_a_message_that_drips_is_too_slow(mode: str) -> None:
    """A byte at a time is never idle; what it makes takes too long."""
    limits = Limits(message_timeout=SHORT, min_rate=100_000)
    handler = lines(mode)
    with Server(handler, TCP, mode=mode, limits=limits) as server, dial(server) as client:
        client.sendall(b"hello\n")
        assert client.recv(10) == b"HELLO\n"
        client.settimeout(0.02)
        with contextlib.suppress(ConnectionError):
            while True:
                client.sendall(b"x")
                with contextlib.suppress(TimeoutError):
                    assert client.recv(10) == b""
                    break
        assert ended(server) == {"too_slow": 1}


@pytest.mark.parametrize("mode", MODES)
def test_a_line_has_a_longest(mode: str) -> None:
    handler = lines(mode)
    with Server(handler, TCP, mode=mode, limits=Limits(max_line=1000)) as server:
        with dial(server) as client:
            client.sendall(b"y" * 999 + b"\n")
            got = b""
            while len(got) < 1000:
                got += client.recv(1000)
            with contextlib.suppress(ConnectionError):
                client.sendall(b"x" * 100_000)
            assert is_over(client)
        assert ended(server) == {"limit_line": 1}
        assert server.info().handler_errors == 0


@pytest.mark.parametrize("mode", ["thread", "process", "green", "async"])
def test_who_comes_when_it_is_full_is_told(mode: str) -> None:
    limits = Limits(max_connections=1, full_patience=0.05, refusal=b"busy\n")
    refused: list[Event] = []
    with Server(echo(mode), TCP, mode=mode, limits=limits) as server:
        server.subscribe(refused.append, ConnectionRefused)
        with dial(server) as first:
            first.sendall(b"hello")
            assert first.recv(10) == b"HELLO"
            with dial(server) as second:
                assert second.recv(10) == b"busy\n"
                assert is_over(second)
            assert server.info().refusals == {"limit_connections": 1}
            until(lambda: refused)
            (event,) = refused
            assert isinstance(event, ConnectionRefused) and event.reason is Reason.LIMIT_CONNECTIONS
            leave(first)
        until(lambda: not server.connections and not server._service.live)
        assert ask(server) == b"HELLO"  # there is room again


@pytest.mark.parametrize("mode", ["thread", "green", "async"])
def test_limits_change_while_it_serves(mode: str) -> None:
    with Server(echo(mode), TCP, mode=mode) as server, dial(server) as client:
        client.sendall(b"hello")
        assert client.recv(10) == b"HELLO"
        server.limits = server.limits.replace(max_connections=1, when_full="wait")
        assert server.info().limit == 1
        with dial(server) as second:
            second.sendall(b"again")
            client.close()
            assert second.recv(10) == b"AGAIN"


@pytest.mark.parametrize("mode", ["thread", "green", "async"])
def test_what_happened_is_told_in_order(mode: str) -> None:
    events: list[Event] = []
    with Server(echo(mode), TCP, mode=mode) as server:
        stop = server.subscribe(events.append)
        with dial(server) as client:
            client.sendall(b"hello")
            assert client.recv(10) == b"HELLO"
        until(lambda: len(events) == 2)
        with dial(server) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.sendall(b"hello")
            assert client.recv(10) == b"HELLO"
        until(lambda: len(events) == 4)
        stop()
        assert ask(server) == b"HELLO"
    started, over, _, broken = events
    assert isinstance(started, ConnectionStarted) and isinstance(over, ConnectionEnded)
    assert isinstance(broken, ConnectionEnded)
    assert (over.reason, over.received, over.sent, over.id) == (Reason.PEER_CLOSED, 5, 5, started.id)
    assert broken.reason is Reason.PEER_RESET
    assert len(events) == 4, "nobody listens any more"


def test_a_subscriber_that_fails_is_dropped_and_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    told: list[Event] = []

    def fail(event: Event) -> None:
        raise ZeroDivisionError("made to happen")

    with Server(echo("thread"), TCP, mode="thread") as server:
        server.subscribe(fail)
        server.subscribe(told.append)
        assert ask(server) == ask(server) == b"HELLO"
        until(lambda: len(told) == 4)
    assert caplog.text.count("ZeroDivisionError: made to happen") == 1


@pytest.mark.parametrize("mode", MODES)
def test_an_exception_has_its_reason(mode: str, caplog: pytest.LogCaptureFixture) -> None:
    class Fails(BaseRequestHandler[Any]):
        def handle(self) -> None:
            raise ZeroDivisionError("made to happen")

    class AsyncFails(AsyncRequestHandler[Any]):
        async def handle(self) -> None:
            raise ZeroDivisionError("made to happen")

    with Server(by(mode, Fails, AsyncFails), TCP, mode=mode) as server:
        with dial(server) as client:
            assert is_over(client)
        assert ended(server) == {"handler_error": 1}
        assert server.info().handler_errors == 1


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "async"])
def test_a_handler_with_a_timeout_ends_when_it_returns(mode: str) -> None:
    """To ask its socket whether the peer has ended must not wait for the peer."""

    class Patient(StreamRequestHandler[Any]):
        timeout = 3600

        def handle(self) -> None:
            self.wfile.write(self.rfile.readline())

    with Server(Patient, TCP, mode=mode) as server, dial(server) as client:
        client.sendall(b"hello\n")
        got = b""
        while part := client.recv(10):
            got += part
        assert got == b"hello\n"
        assert ended(server) == {"handler_returned": 1}


@pytest.mark.parametrize("mode", ["serial", "thread", "green", "async"])
def test_a_handler_that_failed_is_gone_with_its_connection(mode: str) -> None:
    """Its error holds its frames, and none of them may hold the error: that would be garbage for the collector, which
    then ends handlers and sockets on any thread and at any time."""
    if mode == "async" and native is None:
        pytest.skip("a task of the pure twin and its error hold each other still")
    gone: list[weakref.ref[Any]] = []

    class Fails(BaseRequestHandler[Any]):
        def handle(self) -> None:
            gone.append(weakref.ref(self))
            raise ConnectionResetError("made to happen")

    class AsyncFails(AsyncRequestHandler[Any]):
        async def handle(self) -> None:
            gone.append(weakref.ref(self))
            raise ConnectionResetError("made to happen")

    gc.collect()
    gc.disable()
    try:
        with Server(by(mode, Fails, AsyncFails), TCP, mode=mode) as server:
            with dial(server) as client:
                assert is_over(client)
            assert ended(server) == {"peer_reset": 1}
            assert ask(server) == b""  # what a thread or loop last had in hand is gone with the next
            until(lambda: len(gone) == 2 and gone[0]() is None)
    finally:
        gc.enable()


@pytest.mark.parametrize("mode", ["thread", "green"])
def test_who_is_closed_by_its_handler_counts_until_that_returns(mode: str) -> None:
    """Also where somebody looks at the connections in between: their places would be lost for good."""
    closed, go = threading.Event(), sync.Event()

    class Closes(BaseRequestHandler[Any]):
        def handle(self) -> None:
            self.request.close()
            closed.set()
            go.wait()

    with Server(Closes, TCP, mode=mode) as server:
        with dial(server) as client:
            assert is_over(client)
            assert closed.wait(20) and not server.connections
            go.set()
            assert ended(server) == {"handler_returned": 1}
        assert server._service.guard.admission.total == 0


@pytest.mark.parametrize("mode", HERE)
def test_who_waits_at_a_limit_that_was_lowered_waits_on(mode: str) -> None:
    """Also when somebody leaves, and those who are in are still as many as may be, or more."""
    limits = Limits(max_connections=3, when_full="wait")
    with Server(echo(mode), TCP, mode=mode, limits=limits) as server, contextlib.ExitStack() as stack:
        first, second, third = (stack.enter_context(client_of(server)) for _ in range(3))
        for client in (first, second, third):
            client.sendall(b"x")
            assert client.recv(1) == b"X"
        server.limits = limits.replace(max_connections=1)
        waiting = stack.enter_context(client_of(server))
        waiting.sendall(b"y")
        for client in (first, second):
            leave(client)
        until(lambda: server.info().ends.get("peer_closed") == 2)
        third.sendall(b"x")
        assert third.recv(1) == b"X"
        leave(third)
        assert waiting.recv(1) == b"Y"
        assert server.info().refused == 0
