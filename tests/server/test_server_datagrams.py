"""Datagrams of the native server: whole or dropped and counted, in order for each peer, beside connections."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from native_support import HERE, MODES, SOON, ask, dial, echo, until

from jackfield import AsyncRequestHandler, BaseRequestHandler, Server, sync
from jackfield.door import AcceptPolicy, PeerQueue
from jackfield.modes import AsyncCrew
from jackfield.modes.units import Mode

UDP = "udp://127.0.0.1:0"


@pytest.fixture
def path(tmp_path: Path) -> str:
    made = tmp_path / "s"
    if len(str(made)) > 100:
        pytest.skip("the temporary directory's name is too long for a socket")
    return str(made)


@pytest.mark.parametrize("mode", MODES)
def test_one_that_is_larger_than_any_buffer_is_dropped_and_counted(
    mode: str, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Half of a message is worse than none; the log has one line for it, and the next one is served."""
    with Server(echo(mode, datagram=True), f"unixgram:{path}", mode=mode) as server, dial(server) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 300_000)
        with caplog.at_level(logging.WARNING):
            client.send(b"x" * 100_000)
            client.send(b"small")
            assert client.recv(100) == b"SMALL"
        until(lambda: server.info().dropped == 1)
        assert server.info().datagrams == 2
        client.send(b"y" * 65_535)
        assert client.recv(100_000) == b"Y" * 65_535, "one that fits is whole"
    lines = [record.getMessage() for record in caplog.records if "datagram" in record.getMessage()]
    assert len(lines) == 1
    assert "larger than 65535 bytes" in lines[0]
    assert path in lines[0]


@pytest.mark.parametrize("mode", ["serial", *HERE])
def test_in_order_for_each_peer(mode: str) -> None:
    seen: dict[Any, list[int]] = {}

    class Notes(BaseRequestHandler[Any]):
        def handle(self) -> None:
            seen.setdefault(self.client_address, []).append(int(self.request[0]))

    class AsyncNotes(AsyncRequestHandler[Any]):
        async def handle(self) -> None:
            seen.setdefault(self.client_address, []).append(int(self.request[0]))

    with Server(AsyncNotes if mode == "async" else Notes, UDP, mode=mode) as server, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(dial(server)) for _ in range(4)]
        for number in range(40):
            for client in clients:
                client.send(b"%d" % number)
        until(lambda: sum(map(len, seen.values())) == 160)
    assert list(seen.values()) == [list(range(40))] * 4


@pytest.mark.parametrize("mode", HERE)
def test_one_peer_whose_handler_waits_holds_up_nobody_else(mode: str) -> None:
    go, waiting = sync.Event(), threading.Event()

    class Waits(BaseRequestHandler[Any]):
        def handle(self) -> None:
            if self.request[0] == b"wait":
                waiting.set()
                go.wait()
            self.request[1].sendto(self.request[0], self.client_address)

    class AsyncWaits(AsyncRequestHandler[Any]):
        async def handle(self) -> None:
            if self.request[0] == b"wait":
                waiting.set()
                await go.await_()
            await self.request[1].sendto(self.request[0], self.client_address)

    with Server(AsyncWaits if mode == "async" else Waits, UDP, mode=mode) as server, dial(server) as slow:
        slow.send(b"wait")
        assert waiting.wait(SOON)
        for number in range(20):
            assert ask(server, b"%d" % number) == b"%d" % number
        go.set()
        assert slow.recv(10) == b"wait"


@pytest.mark.parametrize("mode", HERE)
def test_too_many_are_dropped_and_counted(mode: str) -> None:
    """The newest go; what was taken is handled, also after a graceful stop was asked for."""
    go, handled = sync.Event(), []
    waiting = threading.Event()

    class Waits(BaseRequestHandler[Any]):
        def handle(self) -> None:
            waiting.set()
            go.wait()
            handled.append(self.request[0])

    class AsyncWaits(AsyncRequestHandler[Any]):
        async def handle(self) -> None:
            waiting.set()
            await go.await_()
            handled.append(self.request[0])

    server = Server(AsyncWaits if mode == "async" else Waits, UDP, mode=mode).start()
    with dial(server) as client:
        client.send(b"first")
        assert waiting.wait(SOON)
        server._service.datagrams.crew._queue._bound = 10  # type: ignore[union-attr]
        assert isinstance(server._service.datagrams.crew._queue, PeerQueue)  # type: ignore[union-attr]
        for number in range(30):
            client.send(b"%d" % number)
        until(lambda: server.info().dropped == 20)
        assert server.info().datagrams == 31
        server.stop(SOON)
        until(lambda: server.draining)
        go.set()
        assert server.wait_stopped(SOON)
    assert handled == [b"first", *(b"%d" % number for number in range(10))]


@pytest.mark.parametrize("mode", MODES)
def test_an_error_is_counted_and_the_next_one_handled(mode: str) -> None:
    class Fails(BaseRequestHandler[Any]):
        def handle(self) -> None:
            if self.request[0] == b"fail":
                raise KeyError
            self.request[1].sendto(self.request[0], self.client_address)

    class AsyncFails(AsyncRequestHandler[Any]):
        async def handle(self) -> None:
            if self.request[0] == b"fail":
                raise KeyError
            await self.request[1].sendto(self.request[0], self.client_address)

    with Server(AsyncFails if mode == "async" else Fails, UDP, mode=mode) as server, dial(server) as client:
        for _ in range(2):
            client.send(b"fail")
            client.send(b"fine")
            assert client.recv(10) == b"fine"
        until(lambda: server.info().handler_errors == 2)


# -- the machine's limits ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_out_of_memory_it_pauses_and_says_so_once(mode: str, caplog: pytest.LogCaptureFixture) -> None:
    """The datagrams wait in the kernel's queue, and the server does not end."""
    server = Server(echo(mode, datagram=True), UDP, mode=mode).bind()
    (listener,) = server._service.listeners
    server._service._policies[listener] = AcceptPolicy(name=listener.location, pause=0.001)
    receive = type(listener.socket).recvmsg
    left = [5]

    class Failing(type(listener.socket)):  # type: ignore[misc]
        def recvmsg(self, *args: Any) -> Any:
            if left[0]:
                left[0] -= 1
                raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))
            return receive(self, *args)

    listener.socket = Failing(fileno=listener.socket.detach())
    with caplog.at_level(logging.WARNING), server:
        assert ask(server) == b"HELLO"
        assert ask(server) == b"HELLO"
    assert left == [0]
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 1, lines
    assert "ENOBUFS" in lines[0]
    assert server.addresses[0] in lines[0]


@pytest.mark.parametrize("mode", MODES)
def test_a_socket_that_is_gone_is_told_and_the_others_go_on(mode: str, caplog: pytest.LogCaptureFixture) -> None:
    with Server(echo(mode, datagram=True), UDP, UDP, mode=mode) as server:
        assert [ask(server, number=number) for number in range(2)] == [b"HELLO"] * 2
        server._service.listeners[0].socket.close()
        until(lambda: ask(server, number=1) == b"HELLO" and len(server._service.listeners) == 1)
        assert ask(server, number=1) == b"HELLO"
    assert server.state == "stopped"
    assert caplog.text.count("the listening socket is gone") == 1


# -- no worker for it --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", HERE)
def test_no_worker_for_a_datagram_is_that_ones_end_only(
    mode: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told as dropped, so it is not handled after all when the next one finds a worker."""
    handled: list[bytes] = []

    class Notes(BaseRequestHandler[Any]):
        def handle(self) -> None:
            handled.append(self.request[0])
            self.request[1].sendto(self.request[0], self.client_address)

    class AsyncNotes(AsyncRequestHandler[Any]):
        async def handle(self) -> None:
            handled.append(self.request[0])
            await self.request[1].sendto(self.request[0], self.client_address)

    with Server(AsyncNotes if mode == "async" else Notes, UDP, mode=mode) as server, dial(server) as client:
        until(lambda: server._service.units)
        units = server._service.units
        monkeypatch.setattr(units, "start", failing(units.start, 1))
        client.send(b"lost")
        until(lambda: server.info().dropped == 1)
        client.send(b"found")
        assert client.recv(10) == b"found"
        assert server.info().dropped == 1
    assert handled == [b"found"]
    assert caplog.text.count("dropped a datagram: no unit") == 1


def failing(start: Callable[..., None], times: int) -> Callable[..., None]:
    """``start``, after it has failed so many times."""
    left = [times]

    def fails(*args: Any) -> None:
        if left[0]:
            left[0] -= 1
            raise OSError("no unit")
        start(*args)

    return fails


class Units:
    """A mode whose units run when the test steps them."""

    def __init__(self) -> None:
        self.waiting: list[Any] = []
        self.before_it_fails: Callable[[], object] | None = None

    def start(self, work: Callable[[], Any]) -> None:
        if self.before_it_fails is not None:
            self.before_it_fails()
            raise OSError("no unit")
        self.waiting.append(work())

    def finish(self) -> None:
        for unit in self.waiting:
            with contextlib.suppress(StopIteration):
                while True:
                    unit.send(None)
        self.waiting.clear()


@pytest.mark.parametrize("meanwhile", [False, True])
def test_one_that_finds_no_worker_waits_for_those_that_are_there(meanwhile: bool) -> None:
    """It is not lost; not even if the one that was there has taken it, done it and gone before the next one fails."""
    units, done = Units(), []
    crew = AsyncCrew(cast(Mode, units), 10)

    async def work(name: str) -> None:
        await asyncio.sleep(0)
        done.append(name)

    assert crew.submit("a", work, "first")
    units.waiting[0].send(None)  # it is at work
    units.before_it_fails = units.finish if meanwhile else lambda: None
    assert crew.submit("b", work, "second")
    units.finish()
    assert done == ["first", "second"]
    units.before_it_fails = lambda: None
    with pytest.raises(OSError, match="no unit"):
        crew.submit("c", work, "third")
    units.before_it_fails = None
    assert crew.submit("c", work, "fourth")
    units.finish()
    assert done == ["first", "second", "fourth"]


@pytest.mark.parametrize("there", ["nothing", "its own", "another's", "another's after it", "its own in hand"])
def test_what_is_withdrawn_was_never_there(there: str) -> None:
    queue: PeerQueue[str, object] = PeerQueue(10)
    item, mine, other = object(), object(), object()
    expected: list[tuple[str, object]] = []
    if there == "its own":
        queue.put("a", mine)
        expected = [("a", mine)]
    elif there == "another's":
        queue.put("b", other)
        expected = [("b", other)]
    elif there == "its own in hand":
        queue.put("a", mine)
        assert queue.take() == ("a", mine)
    queue.put("a", item)
    if there == "another's after it":
        queue.put("b", other)
        expected = [("b", other)]
    assert queue.withdraw("a", item)
    assert not queue.withdraw("a", item)
    assert len(queue) == len(expected)
    if there == "its own in hand":
        queue.done("a")
    assert [queue.take() for _ in expected] == expected
    assert queue.take() is None
    queue.put("c", item)
    assert queue.take() == ("c", item)


def test_only_the_newest_can_be_withdrawn() -> None:
    queue: PeerQueue[str, object] = PeerQueue(10)
    first, second = object(), object()
    queue.put("a", first)
    queue.put("a", second)
    assert not queue.withdraw("a", first)
    assert queue.take() == ("a", first)
    assert not queue.withdraw("a", first)
    assert queue.withdraw("a", second)


@pytest.mark.parametrize("mode", HERE)
def test_handlers_may_still_answer_while_it_drains(mode: str) -> None:
    go, waiting = sync.Event(), threading.Event()

    class Waits(BaseRequestHandler[Any]):
        def handle(self) -> None:
            waiting.set()
            go.wait()
            self.request[1].sendto(b"late", self.client_address)

    class AsyncWaits(AsyncRequestHandler[Any]):
        async def handle(self) -> None:
            waiting.set()
            await go.await_()
            await self.request[1].sendto(b"late", self.client_address)

    server = Server(AsyncWaits if mode == "async" else Waits, UDP, mode=mode).start()
    with dial(server) as client:
        client.send(b"x")
        assert waiting.wait(SOON)
        server.stop(SOON)
        until(lambda: server.state == "draining")
        go.set()
        assert client.recv(10) == b"late"
    assert server.wait_stopped(SOON)


class Told(BaseRequestHandler[Any]):
    """Answers when ``handle_shutdown`` was called, for which ``handle`` waits."""

    def handle(self) -> None:
        self.told = sync.Event()
        self.request[1].sendto(b"hello", self.client_address)
        self.request[1].sendto(b"told" if self.told.wait(SOON) else b"not told", self.client_address)

    def handle_shutdown(self) -> None:
        self.told.set()


class AsyncTold(AsyncRequestHandler[Any]):
    async def handle(self) -> None:
        self.told = sync.Event()
        await self.request[1].sendto(b"hello", self.client_address)
        told = await self.told.await_(SOON)
        await self.request[1].sendto(b"told" if told else b"not told", self.client_address)

    async def handle_shutdown(self) -> None:
        self.told.set()


@pytest.mark.parametrize("own_init", [False, True])
@pytest.mark.parametrize("mode", ["serial", *HERE])
def test_handle_shutdown_is_called_for_datagrams_too(mode: str, own_init: bool) -> None:
    handler: Any = AsyncTold if mode == "async" else Told
    if own_init:  # which goes another way to the handler
        handler = type("Own", (handler,), {"__init__": lambda self, *args: super(handler, self).__init__(*args)})
    server = Server(handler, UDP, mode=mode).start()
    with dial(server) as client:
        client.send(b"x")
        assert client.recv(10) == b"hello"
        server.stop(SOON)
        assert client.recv(10) == b"told"
    assert server.wait_stopped(SOON)


def test_a_drop_that_is_not_counted_would_be_found_out(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The broken case: a server that serves half of a message."""
    from jackfield.serving import datagrams as service

    receive = service.receive_batch
    monkeypatch.setattr(
        service, "receive_batch", lambda *args, **more: (d._replace(truncated=False) for d in receive(*args, **more))
    )
    with Server(echo("thread", datagram=True), f"unixgram:{path}") as server, dial(server) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 300_000)
        client.send(b"x" * 100_000)
        assert client.recv(100_000) == b"X" * 65_535
        assert server.info().dropped == 0
