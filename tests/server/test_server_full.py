"""At the limit: clients wait in the kernel's queue, nobody is refused, and it goes on when one leaves."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import socket
import threading
from typing import Any

import pytest
from native_support import HERE, MODES, SOON, TCP, Echo, Held, ask, dial, echo, in_thread, leave, until

from jackfield import Server
from jackfield.door import AcceptPolicy

LIMITS = {"thread": "max_threads", "process": "max_children", "green": "max_connections", "async": "max_connections"}


@pytest.mark.parametrize("mode", LIMITS)
@pytest.mark.parametrize("limit", [1, 2])
def test_the_next_one_waits_and_then_has_its_turn(mode: str, limit: int) -> None:
    with Server(echo(mode), TCP, mode=mode, **{LIMITS[mode]: limit}) as server, contextlib.ExitStack() as stack:
        clients = []
        for number in range(limit + 3):
            client = dial(server)
            stack.callback(leave, client)
            clients.append(client)
            client.sendall(b"%d" % number)
        for client in clients[:limit]:
            assert client.recv(10)
        assert len(server.connections) == limit
        waiting = clients[limit:]
        assert select.select(waiting, [], [], 0.02)[0] == []
        for number, client in enumerate(waiting):
            leave(clients[number])
            assert client.recv(10) == b"%d" % (limit + number)
            assert len(server.connections) <= limit
        assert server.info().refused == 0


def test_serially_one_after_the_other() -> None:
    with Server(Echo, TCP, mode="serial") as server, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(dial(server)) for _ in range(3)]
        for number, client in enumerate(clients):
            client.sendall(b"x")
            assert client.recv(10) == b"X"
            assert select.select(clients[number + 1 :], [], [], 0)[0] == []
            client.close()


@pytest.mark.parametrize("mode", LIMITS)
def test_it_can_be_stopped_when_it_is_full(mode: str) -> None:
    server = Server(echo(mode), TCP, mode=mode, **{LIMITS[mode]: 1}).start()
    first, second = dial(server), dial(server)
    first.sendall(b"x")
    assert first.recv(10) == b"X"
    server.stop(0)
    assert server.wait_stopped(SOON)
    for client in (first, second):
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(10) == b""
        client.close()


@pytest.mark.parametrize("mode", HERE)
def test_the_limit_is_a_total_for_all_addresses(mode: str) -> None:
    with Server(echo(mode), TCP, TCP, mode=mode, max_connections=2) as server, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(dial(server, number % 2)) for number in range(4)]
        for client in clients:
            client.sendall(b"x")
        until(lambda: len(select.select(clients, [], [], 0)[0]) == 2)
        assert len(server.connections) == 2
        answered = select.select(clients, [], [], 0)[0]
        for client in answered:
            client.recv(10)
            leave(client)
        others = [client for client in clients if client not in answered]
        for client in others:
            assert client.recv(10) == b"X"


@pytest.mark.parametrize("mode", ["thread", "green", "async"])
def test_a_full_server_still_takes_datagrams(mode: str) -> None:
    """They need no connection, and have a bound of their own."""

    class Both(echo(mode)):  # type: ignore[misc]
        if mode == "async":

            async def handle(self) -> None:
                if isinstance(self.request, tuple):
                    await self.request[1].sendto(b"datagram", self.client_address)
                else:
                    await super().handle()
        else:

            def handle(self) -> None:
                if isinstance(self.request, tuple):
                    self.request[1].sendto(b"datagram", self.client_address)
                else:
                    super().handle()

    with Server(Both, TCP, "udp://127.0.0.1:0", mode=mode, max_connections=2) as server, dial(server) as client:
        client.sendall(b"x")
        assert client.recv(10) == b"X"
        for _ in range(3):
            assert ask(server, number=1) == b"datagram"


def test_the_default_limit_stays_below_the_descriptors() -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        for limit, room in ((200, 150), (300, 300 - 64)):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
            assert Server(echo("green"), TCP, mode="green")._limit == room
            assert Server(echo("green"), TCP, mode="green", max_connections=10_000)._limit == room
            assert Server(echo("green"), TCP, mode="green", max_connections=5)._limit == 5
            assert Server(Echo, TCP)._limit == room
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert Server(Echo, TCP)._limit == min(256, soft - 64)
    assert Server(Echo, TCP, mode="process")._limit == 40


# -- the machine's limits ----------------------------------------------------------------------------------------------


class Failing:
    """A listening socket whose accept fails as it is told."""

    def __init__(self, listener: Any, number: int, times: int) -> None:
        self._socket, self._number, self.left, self.calls = listener, number, times, 0

    def accept(self) -> Any:
        self.calls += 1
        if self.left > 0:
            self.left -= 1
            raise OSError(self._number, os.strerror(self._number))
        return self._socket.accept()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)


def failing(server: Server, number: int, times: int, pause: float) -> Failing:
    """Binds ``server`` and puts it in the place of its listener's socket."""
    server.bind()
    listener = server._service.listeners[0]
    server._service._policies[listener] = AcceptPolicy(name=listener.location, pause=pause)
    accept = Failing(listener.socket, number, times)
    listener.socket = accept  # type: ignore[assignment]
    return accept


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS])
def test_out_of_descriptors_it_pauses_and_says_so_once(
    mode: str, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server(echo(mode), TCP, mode=mode)
    accept = failing(server, number, times=5, pause=0.001)
    with caplog.at_level(logging.WARNING), server:
        assert ask(server) == b"HELLO"
    assert accept.left == 0
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 1, lines
    assert errno.errorcode[number] in lines[0]
    assert server.addresses[0] in lines[0]
    assert accept.calls <= 10


@pytest.mark.parametrize("mode", MODES)
def test_one_listener_that_pauses_does_not_hold_up_the_other(mode: str) -> None:
    server = Server(echo(mode), TCP, TCP, mode=mode)
    accept = failing(server, errno.EMFILE, times=10**9, pause=3600)
    with server, dial(server):
        until(lambda: accept.calls)
        for _ in range(3):
            assert ask(server, number=1) == b"HELLO"
        # Once, and again for each connection that ended and may have left a descriptor: by the loop, and by its thread.
        assert 1 <= accept.calls <= 1 + 2 * 3
        server.stop(0)


def lose(server: Server, number: int = 0) -> None:
    """End listening behind the server's back: accept(2) then says EINVAL."""
    socket.socket.shutdown(server._service.listeners[number].socket, socket.SHUT_RDWR)


@pytest.mark.parametrize("mode", MODES)
def test_a_listener_that_is_gone_is_told_and_the_other_goes_on(mode: str, caplog: pytest.LogCaptureFixture) -> None:
    with Server(echo(mode), TCP, TCP, mode=mode) as server:
        gone = server.addresses[0]
        assert ask(server) == b"HELLO"
        lose(server)
        until(lambda: len(server._service.listeners) == 1)
        for _ in range(3):  # also those connections that get the number that was the listener's
            assert ask(server, number=1) == b"HELLO"
        assert server.state == "serving"
    assert server.state == "stopped"
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 1, lines
    assert lines[0].startswith(f"{gone}: the listening socket is gone")
    assert "the others go on" in lines[0]


@pytest.mark.parametrize("mode", MODES)
def test_one_that_was_closed_is_noticed_at_the_next_look(mode: str, caplog: pytest.LogCaptureFixture) -> None:
    """There is no number left by which to take it out of the loop: it has to be remembered."""
    with Server(echo(mode), TCP, TCP, mode=mode) as server:
        assert ask(server) == b"HELLO"
        server._service.listeners[0].socket.close()
        until(lambda: ask(server, number=1) == b"HELLO" and len(server._service.listeners) == 1)
        assert ask(server, number=1) == b"HELLO"
    assert server.state == "stopped"
    assert caplog.text.count("the listening socket is gone") == 1


@pytest.mark.parametrize("mode", MODES)
def test_with_no_listener_left_it_ends(mode: str, caplog: pytest.LogCaptureFixture) -> None:
    """As after a stop, but nobody asked for one: so it has failed, and one line says why."""
    server = Server(echo(mode), TCP, mode=mode).start()
    assert ask(server) == b"HELLO"
    lose(server)
    assert server.wait_stopped(SOON)
    assert server.state == "failed"
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 1, lines
    assert lines[0].startswith(f"{server.addresses[0]}: the listening socket is gone")
    assert "serving ends" in lines[0]
    with pytest.raises(OSError, match="Invalid argument"):
        server.serve_forever()
    server.stop()


@pytest.mark.parametrize("mode", HERE)
def test_with_no_listener_left_those_at_work_finish(mode: str) -> None:
    held = Held(mode)
    server = Server(held.handler, TCP, mode=mode)

    def client() -> None:
        until(lambda: server.addresses)
        with dial(server) as client:
            assert client.recv(10) == b"here"
            lose(server)
            until(lambda: server.state == "draining")
            held.go.set()
            assert client.recv(10) == b"bye"

    with in_thread(client), pytest.raises(OSError, match="Invalid argument"):
        server.serve_forever()
    assert held.ended == ["finished"]
    assert server.state == "failed"


def test_a_stop_that_finds_its_listener_gone_is_a_stop(caplog: pytest.LogCaptureFixture) -> None:
    held = Held("serial")
    server = Server(held.handler, TCP, mode="serial").start()
    with dial(server) as client:
        assert client.recv(10) == b"here"  # the loop is in the handler
        lose(server)
        server.stop()
        held.go.set()
        assert client.recv(10) == b"bye"
    assert server.wait_stopped(SOON)
    assert server.state == "stopped"
    assert not caplog.records


def test_a_loop_that_keeps_a_listener_that_is_gone_would_be_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broken case: its number stays in the set, where poll(2) reports it at every turn."""
    from jackfield.modes import PollLoop

    turns: list[int] = []
    turn = PollLoop.turn
    monkeypatch.setattr(PollLoop, "ignore", lambda self, fd, ready=None: None)
    monkeypatch.setattr(PollLoop, "turn", lambda self, timeout=None: turns.append(1) or turn(self, timeout))
    with Server(Echo, TCP, TCP, mode="serial") as server:
        lose(server)
        until(lambda: len(turns) > 100)


def test_no_thread_for_a_client_is_that_clients_end_only(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    left = [2]
    start = threading.Thread.start

    def failing_start(thread: threading.Thread) -> None:
        if left[0]:
            left[0] -= 1
            raise RuntimeError("can't start new thread")
        start(thread)

    with Server(Echo, TCP) as server:
        monkeypatch.setattr(threading.Thread, "start", failing_start)
        assert [ask(server) for _ in range(4)] == [b"", b"", b"HELLO", b"HELLO"]
        assert server.info().refused == 2
        until(lambda: not server.connections)
    assert caplog.text.count("cannot serve") == 2


def test_no_process_for_a_client_is_that_clients_end_only(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    left = [2]
    fork = os.fork

    def failing_fork() -> int:
        if left[0]:
            left[0] -= 1
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        return fork()

    monkeypatch.setattr(os, "fork", failing_fork)
    with Server(Echo, TCP, mode="process") as server:
        assert [ask(server) for _ in range(4)] == [b"", b"", b"HELLO", b"HELLO"]
        assert server.info().refused == 2
    assert caplog.text.count("cannot serve") == 2


def test_a_limit_that_is_not_kept_would_be_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broken case: units that are never full."""
    from jackfield.modes import Units

    monkeypatch.setattr(Units, "full", False)
    with pytest.raises(AssertionError):
        test_the_next_one_waits_and_then_has_its_turn("thread", 1)
