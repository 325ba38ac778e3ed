"""A stop tells everybody: idle clients at once, the others when they have had their answer, and the handlers."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import time
from collections.abc import Iterator
from typing import Any

import pytest
from native_support import HERE, MODES, SOON, TCP, dial, ended, in_thread, is_over, leave, read_line, until

import jackfield
from jackfield import AsyncStreamRequestHandler, BaseRequestHandler, Server, StreamRequestHandler, draining, sync
from jackfield.connections import Connection
from jackfield.events import Reason
from jackfield.lifecycle import ConnectionState
from jackfield.tls import TLS, self_signed

#: Those in which more than one client is served at a time.
SEVERAL = [mode for mode in MODES if mode != "serial"]


class Talk(StreamRequestHandler[Any]):
    """Lines in capitals, and a goodbye at the end."""

    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(line.upper())
        self.wfile.write(b"goodbye\n")


class AsyncTalk(AsyncStreamRequestHandler[Any]):
    async def handle(self) -> None:
        while line := await self.rfile.readline():
            await self.wfile.write(line.upper())
        await self.wfile.write(b"goodbye\n")


def talk(mode: str) -> Any:
    return AsyncTalk if mode == "async" else Talk


@contextlib.contextmanager
def clients(server: Server, number: int) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        found = []
        for _ in range(number):
            client = dial(server)
            stack.callback(leave, client)
            found.append(client)
        yield found


def say(client: socket.socket, text: bytes) -> bytes:
    client.sendall(text)
    return read_line(client)


@pytest.mark.parametrize("mode", SEVERAL)
def test_an_idle_client_is_told_at_once(mode: str) -> None:
    """Whether it has said something before or not; its handler may say goodbye."""
    server = Server(talk(mode), TCP, mode=mode).start()
    with clients(server, 2) as (idle, silent):
        assert say(idle, b"hello\n") == b"HELLO\n"
        until(lambda: len(server.connections) == 2)
        before = time.monotonic()
        server.stop(SOON)
        for client in (idle, silent):
            assert read_line(client) == b"goodbye\n"
            assert is_over(client)
        assert server.wait_stopped(SOON)
        assert time.monotonic() - before < SOON / 2, "it has waited for its deadline"
    assert server.cut == []
    if mode != "process":
        assert ended(server) == {"drained": 2}


@pytest.mark.parametrize("mode", SEVERAL)
def test_who_is_not_told_would_be_cut(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The broken case."""
    monkeypatch.setattr(draining.Farewell, "look", lambda self, now: None)
    server = Server(talk(mode), TCP, mode=mode).start()
    with clients(server, 1) as (idle,):
        assert say(idle, b"hello\n") == b"HELLO\n"
        server.stop(0.2)
        assert server.wait_stopped(SOON)
        assert idle.recv(100) == b"" if mode in ("green", "async", "process") else True
    assert [type(one) for one in server.cut] == [Connection]


class Slow(BaseRequestHandler[Any]):
    """Answers when it is let go."""

    go = sync.Event()

    def handle(self) -> None:
        while data := self.request.recv(100):
            self.request.sendall(b"at work\n")
            self.go.wait(SOON)
            self.request.sendall(data.upper())


class AsyncSlow(jackfield.AsyncRequestHandler[Any]):
    async def handle(self) -> None:
        while data := await self.request.recv(100):
            await self.request.sendall(b"at work\n")
            await Slow.go.await_(SOON)
            await self.request.sendall(data.upper())


@pytest.mark.parametrize("mode", ["serial", *HERE])
def test_who_has_asked_is_answered_and_then_told(mode: str) -> None:
    Slow.go = sync.Event()
    server = Server(AsyncSlow if mode == "async" else Slow, TCP, mode=mode).start()
    with clients(server, 1) as (busy,):
        assert say(busy, b"one\n") == b"at work\n"
        server.stop(SOON)
        busy.sendall(b"two\n")  # sent before it could know
        Slow.go.set()
        assert [read_line(busy) for _ in range(3)] == [b"ONE\n", b"at work\n", b"TWO\n"]
        assert is_over(busy)
        assert server.wait_stopped(SOON)
    assert ended(server) == {"drained": 1}


@pytest.mark.parametrize("mode", SEVERAL)
def test_half_a_message_is_not_torn(mode: str) -> None:
    """Its other half is on its way: who has begun to speak is heard out, and then told."""
    server = Server(talk(mode), TCP, mode=mode).start()
    with clients(server, 1) as (client,):
        assert say(client, b"hello\n") == b"HELLO\n"
        client.sendall(b"half a ")
        until(lambda: server.connections[0].received == 13)
        server.stop(SOON)
        until(lambda: server.state == "draining")
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.settimeout(SOON)
        client.sendall(b"message\n")
        assert read_line(client) == b"HALF A MESSAGE\n"
        assert read_line(client) == b"goodbye\n"
        assert server.wait_stopped(SOON)


@pytest.mark.parametrize("mode", HERE)
@pytest.mark.parametrize("kind", ["plain", "proxied", "tls"])
def test_what_the_kernel_has_got_and_what_was_taken_are_one_figure(mode: str, kind: str) -> None:
    """A thread that has taken half a message, and has yet to wait for the interpreter to know of it, would not be told
    from one that waits for a message otherwise."""
    tls = self_signed() if kind == "tls" else None
    with Server(talk(mode), TCP, mode=mode, tls=tls, proxy_protocol=kind == "proxied") as server:
        with clients(server, 1) as (client,):
            if kind == "proxied":
                client.sendall(b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 80\r\n")
            if kind == "tls":
                client = ssl._create_unverified_context().wrap_socket(client)
            for _ in range(3):
                assert say(client, b"hello\n") == b"HELLO\n"
                (connection,) = server.connections
                assert connection.unseen == 0
            if mode == "thread" and kind == "plain":
                connection.socket.received -= 1
                assert connection.unseen == 1, "the broken case: one that was taken, and is not counted"
            leave(client)


@pytest.mark.parametrize("mode", SEVERAL)
def test_who_has_sent_a_proxy_header_and_nothing_else_is_told_at_once(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draining, "QUIET", 1000.0)  # so long it would be waited for, were anything under way
    server = Server(talk(mode), TCP, mode=mode, proxy_protocol=True).start()
    with clients(server, 1) as (client,):
        client.sendall(b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 80\r\n")
        until(lambda: [one.peer[0] for one in server.connections] == ["192.0.2.7"] or mode == "process")
        server.stop(2 * SOON)
        assert read_line(client) == b"goodbye\n"
        assert server.wait_stopped(SOON)


@pytest.mark.parametrize("mode", HERE)
def test_a_message_that_stays_half_is_given_up(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draining, "QUIET", 0.2)
    server = Server(talk(mode), TCP, mode=mode).start()
    with clients(server, 1) as (client,):
        client.sendall(b"half a ")
        until(lambda: server.connections and server.connections[0].received == 7)
        server.stop(SOON)
        assert server.wait_stopped(SOON / 2)


# -- the handlers ------------------------------------------------------------------------------------------------------


class Warned(BaseRequestHandler[Any]):
    """Never reads; it ends when it is told, and says by what."""

    def handle(self) -> None:
        self.request.sendall(b"%s\n" % str(bool(self.draining)).encode())
        assert self.draining.wait(SOON)
        self.request.sendall(b"%s\n" % str(bool(self.draining)).encode())


class AsyncWarned(jackfield.AsyncRequestHandler[Any]):
    async def handle(self) -> None:
        await self.request.sendall(b"%s\n" % str(bool(self.draining)).encode())
        assert await self.draining.await_(SOON)
        await self.request.sendall(b"%s\n" % str(bool(self.draining)).encode())


@pytest.mark.parametrize("mode", ["serial", *HERE])
def test_a_handler_can_wait_for_it(mode: str) -> None:
    server = Server(AsyncWarned if mode == "async" else Warned, TCP, mode=mode).start()
    with clients(server, 1) as (client,):
        assert read_line(client) == b"False\n"
        server.stop(SOON)
        assert read_line(client) == b"True\n"
        assert server.wait_stopped(SOON)


class Told(StreamRequestHandler[Any]):
    """Says goodbye by ``handle_shutdown``, while ``handle`` waits."""

    def handle(self) -> None:
        self.wfile.write(b"hello\n")
        while self.request.recv(100):
            pass

    def handle_shutdown(self) -> None:
        self.wfile.write(b"closing down: %s\n" % str(bool(self.draining)).encode())


class AsyncTold(AsyncStreamRequestHandler[Any]):
    async def handle(self) -> None:
        await self.wfile.write(b"hello\n")
        await Slow.go.await_(SOON)

    async def handle_shutdown(self) -> None:
        await self.wfile.write(b"closing down: %s\n" % str(bool(self.draining)).encode())
        Slow.go.set()


@pytest.mark.parametrize("mode", MODES)
def test_handle_shutdown_is_called_once(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Slow.go = sync.Event()
    # The goodbye and the end of reading are at the same time: the end waits here until the goodbye was said.
    monkeypatch.setattr(draining.Farewell, "look", lambda self, now: None)
    server = Server(AsyncTold if mode == "async" else Told, TCP, mode=mode).start()
    with clients(server, 1) as (client,):
        assert read_line(client) == b"hello\n"
        server.stop(SOON)
        server.stop(SOON - 1)
        assert read_line(client) == b"closing down: True\n"
        client.shutdown(socket.SHUT_WR)
        assert is_over(client)
        assert server.wait_stopped(SOON)


def test_an_error_in_handle_shutdown_is_told_and_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Fails(Talk):
        def handle_shutdown(self) -> None:
            raise ZeroDivisionError

    server = Server(Fails, TCP, mode="thread").start()
    with clients(server, 1) as (client,):
        assert say(client, b"hello\n") == b"HELLO\n"
        server.stop(SOON)
        assert read_line(client) == b"goodbye\n"
        assert server.wait_stopped(SOON)
        until(lambda: "handle_shutdown failed" in caplog.text)


def test_a_handlers_own_attribute_of_that_name_goes_before() -> None:
    class Own(BaseRequestHandler[Any]):
        def handle(self) -> None:
            self.draining = "mine"
            self.request.sendall(self.draining.encode())

    with Server(Own, TCP, mode="thread") as server, clients(server, 1) as (client,):
        assert client.recv(100) == b"mine"


# -- who has connected, and was not accepted yet -----------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_nobody_in_the_kernels_queue_is_reset(mode: str) -> None:
    """Twelve who have connected and asked, while the server looks elsewhere: each is answered, also where only a few
    can be served at once."""
    server = Server(talk(mode), TCP, mode=mode, max_connections=4)
    server.bind()
    with clients(server, 12) as waiting:
        for number, client in enumerate(waiting):
            client.sendall(b"number %d\n" % number)
        server.start()
        server.stop(SOON)
        for number, client in enumerate(waiting):
            assert read_line(client) == b"NUMBER %d\n" % number
            assert read_line(client) == b"goodbye\n"
        assert server.wait_stopped(SOON)


@pytest.mark.parametrize("mode", MODES)
def test_at_a_stop_without_patience_they_see_an_end_and_no_reset(mode: str) -> None:
    server = Server(talk(mode), TCP, mode=mode)
    server.bind()
    with clients(server, 5) as waiting:
        server._deadlines.append(time.monotonic())
        server._service.stopping = True
        server.start()
        assert server.wait_stopped(SOON)
        assert [client.recv(10) for client in waiting] == [b""] * 5
        assert server.info().refusals == {"drained": 5}


def test_a_closed_listener_would_reset_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broken case."""
    monkeypatch.setattr("jackfield.serving.service.Service.turn_away_all", lambda self, listener: None)
    server = Server(Talk, TCP, mode="thread")
    server.bind()
    with clients(server, 1) as (client,):
        server._deadlines.append(time.monotonic())
        server._service.stopping = True
        server.start()
        assert server.wait_stopped(SOON)
        with pytest.raises(ConnectionResetError):
            client.recv(10)


@pytest.mark.parametrize("mode", HERE)
def test_the_queue_of_a_shared_socket_is_left_to_the_others(mode: str) -> None:
    """A socket that was handed over open may be somebody else's as well: the next server serves who comes now."""
    with socket.create_server(("127.0.0.1", 0)) as shared:
        first = Server(talk(mode), shared, mode=mode).start()
        with clients(first, 1) as (client,):
            assert say(client, b"one\n") == b"ONE\n"
            first.stop(SOON)
            assert first.wait_stopped(SOON)
        with socket.create_connection(shared.getsockname()) as late:
            late.settimeout(SOON)
            late.sendall(b"two\n")
            with Server(talk(mode), shared, mode=mode):
                assert read_line(late) == b"TWO\n"


# -- suspending, retiring, spreading -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_suspended_it_accepts_nobody_and_loses_nobody(mode: str) -> None:
    server = Server(talk(mode), TCP, mode=mode)
    with server:
        with clients(server, 1) as (client,):
            assert say(client, b"one\n") == b"ONE\n"
        until(lambda: not server.connections)
        server.suspend()
        server.suspend()
        assert server.state == "suspended"
        with clients(server, 1) as (client,):
            client.sendall(b"two\n")
            client.settimeout(0.2)
            with pytest.raises(TimeoutError):
                client.recv(1)
            client.settimeout(SOON)
            server.resume()
            assert server.state == "serving"
            assert read_line(client) == b"TWO\n"


@pytest.mark.parametrize("mode", SEVERAL)
def test_a_suspended_server_goes_on_with_its_connections_and_can_stop(mode: str) -> None:
    server = Server(talk(mode), TCP, mode=mode).start()
    with clients(server, 1) as (client,):
        assert say(client, b"one\n") == b"ONE\n"
        server.suspend()
        assert say(client, b"two\n") == b"TWO\n"
        server.stop(SOON)
        assert read_line(client) == b"goodbye\n"
        assert server.wait_stopped(SOON)


@pytest.mark.parametrize("mode", SEVERAL)
def test_a_retired_server_lives_as_long_as_its_last_connection(mode: str) -> None:
    """And tells nobody: another one has the same socket."""
    with socket.create_server(("127.0.0.1", 0)) as shared:
        old = Server(talk(mode), shared, mode=mode).start()
        with clients(old, 1) as (client,):
            assert say(client, b"one\n") == b"ONE\n"
            old.retire(SOON)
            until(lambda: not old._service.listeners)
            with socket.create_connection(shared.getsockname()) as late:
                late.settimeout(SOON)
                late.sendall(b"new\n")
                with Server(talk(mode), shared, mode=mode):
                    assert read_line(late) == b"NEW\n"
            assert say(client, b"two\n") == b"TWO\n"
            assert not old.draining
        assert old.wait_stopped(SOON)


def test_a_retired_server_stops_when_its_time_is_over() -> None:
    server = Server(Talk, TCP, mode="thread").start()
    with clients(server, 1) as (client,):
        assert say(client, b"one\n") == b"ONE\n"
        server.retire(0.3)
        assert read_line(client) == b"goodbye\n"
        assert server.wait_stopped(SOON)


@pytest.mark.parametrize("mode", SEVERAL)
def test_connections_are_closed_one_after_the_other(mode: str) -> None:
    with Server(talk(mode), TCP, mode=mode) as server, clients(server, 4) as those:
        for client in those:
            assert say(client, b"one\n") == b"ONE\n"
        began = time.monotonic()
        server.close_spread(0.8)
        ends = []
        for client in those:
            assert read_line(client) == b"goodbye\n"
            ends.append(time.monotonic() - began)
        # The oldest first, a quarter of the time apart; an end may be late, and never early.
        assert all(end >= 0.2 * number for number, end in enumerate(ends)), ends
        with clients(server, 1) as (client,):
            assert say(client, b"new\n") == b"NEW\n"


def test_a_stop_after_that_tells_no_child_a_second_time() -> None:
    """Which would end it in the midst of its work."""
    ready, go = os.pipe()

    class Works(BaseRequestHandler[Any]):
        def handle(self) -> None:
            self.request.sendall(b"at work\n")
            os.read(ready, 1)
            self.request.sendall(b"done\n" if self.draining else b"not told\n")

    server = Server(Works, TCP, mode="process").start()
    with clients(server, 1) as (client,):
        assert read_line(client) == b"at work\n"
        server.close_spread(0)
        until(lambda: server._service.children._told)
        server.stop(SOON)
        until(lambda: server.state == "draining")
        os.write(go, b"!")
        assert read_line(client) == b"done\n"
        assert server.wait_stopped(SOON)
    os.close(ready)
    os.close(go)


def test_who_does_not_end_when_told_is_closed_after_the_graceful_time() -> None:
    class Deaf(BaseRequestHandler[Any]):
        def handle(self) -> None:
            self.request.sendall(b"here\n")
            with contextlib.suppress(OSError):
                while True:
                    self.request.sendall(b".")
                    jackfield.sleep(0.05)

    with Server(Deaf, TCP, mode="thread", graceful_timeout=0.3) as server, clients(server, 1) as (client,):
        assert read_line(client) == b"here\n"
        server.close_spread(0)
        until(lambda: ended(server) == {"drained": 1})


def test_who_was_cut_can_be_asked() -> None:
    hold = sync.Event()

    class Stuck(BaseRequestHandler[Any]):
        def handle(self) -> None:
            self.request.sendall(b"here\n")
            hold.wait(SOON)

    server = Server(Stuck, TCP, mode="green").start()
    with clients(server, 1) as (client,):
        assert read_line(client) == b"here\n"
        server.stop(0.1)
        assert server.wait_stopped(SOON)
        (cut,) = server.cut
        assert (cut.peer, cut.reason) == (client.getsockname(), Reason.DRAINED)


@pytest.mark.parametrize("mode", SEVERAL)
def test_one_connection_is_closed_by_its_number(mode: str) -> None:
    with Server(talk(mode), TCP, mode=mode) as server, clients(server, 2) as (one, other):
        assert (say(one, b"one\n"), say(other, b"other\n")) == (b"ONE\n", b"OTHER\n")
        number = next(one_of.id for one_of in server.connections if one_of.peer == one.getsockname())
        found = server.connection(number)
        assert found is not None and found.state is ConnectionState.SERVED
        found.close()
        assert is_over(one)
        until(lambda: server.connection(number) is None)
        assert found.state is ConnectionState.ENDED
        assert say(other, b"more\n") == b"MORE\n"


def test_serving_waits_on_a_thread_that_runs_a_loop() -> None:
    """``when_stopped`` tells once it is over, and at once if it is over already."""
    told: list[str] = []
    server = Server(Talk, TCP, mode="thread")
    server.when_stopped(lambda: told.append("before"))
    with in_thread(server.serve_forever):
        until(lambda: server.state == "serving")
        server.stop()
    assert server.wait_stopped(SOON)
    server.when_stopped(lambda: told.append("after"))
    assert told == ["before", "after"]


# -- over TLS ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate() -> TLS:
    return self_signed()


@pytest.mark.parametrize("mode", SEVERAL)
def test_an_idle_client_over_tls_is_told_and_has_a_clean_end(mode: str, certificate: TLS) -> None:
    """The goodbye of the handler, and then TLS's own."""
    context = ssl.create_default_context(cafile=certificate.cert)
    server = Server(talk(mode), TCP, mode=mode, tls=certificate).start()
    with clients(server, 1) as (plain,), context.wrap_socket(plain, server_hostname="localhost") as client:
        client.settimeout(SOON)
        assert say(client, b"hello\n") == b"HELLO\n"
        server.stop(SOON)
        assert read_line(client) == b"goodbye\n"
        assert client.recv(10) == b"", "not an error: it says that nothing was cut off"
        with contextlib.suppress(OSError):
            client.unwrap()
        assert server.wait_stopped(SOON)
    assert server.info().handler_errors == 0
