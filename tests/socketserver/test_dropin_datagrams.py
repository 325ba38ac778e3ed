"""Datagrams: whole, in order for each client, by few workers, counted where they are too many."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import pytest
from dropin_support import MODES, SOON, connect, handler_base, served, server_class, serving, until

from jackfield import socketserver as ours
from jackfield.door import PeerQueue
from jackfield.sync import Event

KINDS = ["UDP", "UnixDatagram"]


class Echo(ours.BaseRequestHandler[Any]):
    def handle(self) -> None:
        self.request[1].sendto(self.request[0], self.client_address)


class AsyncEcho(ours.AsyncRequestHandler[Any]):
    async def handle(self) -> None:
        await self.request[1].sendto(self.request[0], self.client_address)


def echo(mode: str) -> Any:
    return AsyncEcho if mode == "async" else Echo


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", MODES)
def test_a_large_datagram_comes_whole(mode: str, kind: str) -> None:
    """The standard library cuts it at max_packet_size, 8192, without a word."""
    data = bytes(n % 251 for n in range(60_000))
    with served(server_class(mode, kind), echo(mode), kind) as server, connect(server) as client:
        client.send(data)
        assert client.recv(65536) == data


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", MODES)
def test_one_that_was_told_a_size_obeys_it(mode: str, kind: str) -> None:
    class Short(server_class(mode, kind)):  # type: ignore[misc]
        max_packet_size = 10

    with served(Short, echo(mode), kind) as server, connect(server) as client:
        client.send(b"0123456789 and more")
        assert client.recv(65536) == b"0123456789"
        client.send(b"next")
        assert client.recv(65536) == b"next"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", MODES)
def test_an_empty_datagram_is_a_request_like_any_other(mode: str, kind: str) -> None:
    with served(server_class(mode, kind), echo(mode), kind) as server, connect(server) as client:
        for data in (b"", b"x", b""):
            client.send(data)
            assert client.recv(100) == data


@pytest.mark.parametrize("mode", MODES)
def test_no_answer_is_sent_where_nothing_was_written(mode: str) -> None:
    """The standard library's DatagramRequestHandler answers every datagram, with an empty one if need be."""
    base = handler_base(mode, "Datagram")

    class Handler(base):  # type: ignore[misc,valid-type]
        if mode == "async":

            async def handle(self) -> None:
                self.answer()
        else:

            def handle(self) -> None:
                self.answer()

        def answer(self) -> None:
            if self.rfile.read() == b"answer":
                self.wfile.write(b"one ")
                self.wfile.write(b"answer")

    with served(server_class(mode, "UDP"), Handler, "UDP") as server, connect(server) as client:
        client.send(b"be silent")
        client.send(b"answer")
        assert client.recv(100) == b"one answer", "and nothing before it"


# -- order, workers, and too many --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["serial", "threading", "green", "async"])
def test_the_datagrams_of_each_client_are_handled_in_order(mode: str) -> None:
    """Several clients at once, many datagrams each, on as many workers as there may be."""
    seen: dict[Any, list[int]] = {}

    class Notes(ours.BaseRequestHandler[Any]):
        def handle(self) -> None:
            seen.setdefault(self.client_address, []).append(int(self.request[0]))

    class AsyncNotes(ours.AsyncRequestHandler[Any]):
        async def handle(self) -> None:
            from jackfield.reactor import sleep

            await sleep(0)
            seen.setdefault(self.client_address, []).append(int(self.request[0]))

    handler = AsyncNotes if mode == "async" else Notes
    with served(server_class(mode, "UDP"), handler, "UDP") as server, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(server)) for _ in range(5)]
        for number in range(40):  # few enough to fit into the receive buffer together
            for client in clients:
                client.send(b"%d" % number)
        until(lambda: sum(map(len, seen.values())) == 200)
    assert len(seen) == 5
    for numbers in seen.values():
        assert numbers == list(range(40))


class Held:
    """Handlers that wait until they are let go, and how many of them there are."""

    def __init__(self, mode: str) -> None:
        self.go = Event()
        self.running = self.most = 0
        self.handled: list[bytes] = []
        self._lock = threading.Lock()
        held = self

        class Handler(ours.BaseRequestHandler[Any]):
            def handle(self) -> None:
                held.enter()
                held.go.wait()
                held.leave(self.request[0])

        class AsyncHandler(ours.AsyncRequestHandler[Any]):
            async def handle(self) -> None:
                held.enter()
                await held.go.await_()
                held.leave(self.request[0])

        self.handler = AsyncHandler if mode == "async" else Handler

    def enter(self) -> None:
        with self._lock:
            self.running += 1
            self.most = max(self.most, self.running)

    def leave(self, data: bytes) -> None:
        with self._lock:
            self.running -= 1
            self.handled.append(data)


@pytest.mark.parametrize("mode", ["threading", "green", "async"])
def test_one_client_that_blocks_holds_up_nobody_else(mode: str) -> None:
    held = Held(mode)

    class Mixed(held.handler):  # type: ignore[misc,name-defined]
        if mode == "async":

            async def handle(self) -> None:
                if self.request[0] == b"wait":
                    await held.handler.handle(self)
                await self.request[1].sendto(self.request[0], self.client_address)
        else:

            def handle(self) -> None:
                if self.request[0] == b"wait":
                    held.handler.handle(self)
                self.request[1].sendto(self.request[0], self.client_address)

    with served(server_class(mode, "UDP"), Mixed, "UDP") as server, connect(server) as slow, connect(server) as quick:
        slow.send(b"wait")
        slow.send(b"and then this")
        until(lambda: held.running == 1)
        for number in range(20):
            quick.send(b"%d" % number)
            assert quick.recv(100) == b"%d" % number
        assert held.running == 1
        held.go.set()
        assert slow.recv(100) == b"wait"
        assert slow.recv(100) == b"and then this"


@pytest.mark.parametrize(("mode", "most"), [("threading", 3), ("green", 3), ("async", 3), ("threading", None)])
def test_no_more_workers_than_there_may_be(mode: str, most: int | None) -> None:
    """Each client's handler waits: as many run as max_threads says (64 if it says nothing), the others queue."""
    held = Held(mode)
    expected = most or 64
    with served(server_class(mode, "UDP"), held.handler, "UDP", max_threads=most) as server:
        with contextlib.ExitStack() as stack:
            for _ in range(expected + 10):
                client = stack.enter_context(connect(server))
                client.send(b"x")
            until(lambda: held.running == expected)
            assert len(server._threads) == expected
            held.go.set()
            until(lambda: len(held.handled) == expected + 10)
    assert held.most == expected


@pytest.mark.parametrize("mode", ["threading", "green", "async"])
def test_what_is_too_much_is_dropped_and_counted(mode: str) -> None:
    """The newest go; nothing that was taken is lost."""
    held = Held(mode)
    with served(server_class(mode, "UDP"), held.handler, "UDP", max_threads=1) as server, connect(server) as client:
        assert server.dropped == 0
        server._crew._queue = PeerQueue(20)  # in the place of the one for a thousand
        client.send(b"first")
        until(lambda: held.running == 1)
        for number in range(50):
            client.send(b"%d" % number)
        until(lambda: server.dropped == 30)
        held.go.set()
        until(lambda: len(held.handled) == 21)
    assert held.handled == [b"first", *(b"%d" % number for number in range(20))]
    assert server.dropped == 30


@pytest.mark.parametrize("mode", ["threading", "green", "async"])
def test_a_handler_that_fails_takes_no_worker_along(mode: str, caplog: pytest.LogCaptureFixture) -> None:
    class Fails(ours.BaseRequestHandler[Any]):
        def handle(self) -> None:
            if self.request[0] == b"fail":
                raise KeyError
            self.request[1].sendto(self.request[0], self.client_address)

    class AsyncFails(ours.AsyncRequestHandler[Any]):
        async def handle(self) -> None:
            if self.request[0] == b"fail":
                raise KeyError
            await self.request[1].sendto(self.request[0], self.client_address)

    handler = AsyncFails if mode == "async" else Fails
    with served(server_class(mode, "UDP"), handler, "UDP", max_threads=1) as server, connect(server) as client:
        for _ in range(3):
            client.send(b"fail")
            client.send(b"works")
            assert client.recv(100) == b"works"
    assert caplog.text.count("exception while serving") == 3


@pytest.mark.parametrize(
    ("mode", "error"),
    [("threading", SystemExit), ("threading", KeyboardInterrupt), ("green", SystemExit), ("async", SystemExit)],
)
def test_a_worker_that_is_ended_has_a_successor(
    mode: str, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is no Exception ends the worker in the middle of its queue; the rest is taken over."""
    monkeypatch.setattr(threading, "excepthook", lambda args: None)

    class Ends(ours.BaseRequestHandler[Any]):
        def handle(self) -> None:
            if self.request[0] == b"end":
                raise error
            self.request[1].sendto(self.request[0], self.client_address)

    class AsyncEnds(ours.AsyncRequestHandler[Any]):
        async def handle(self) -> None:
            if self.request[0] == b"end":
                raise error
            await self.request[1].sendto(self.request[0], self.client_address)

    handler = AsyncEnds if mode == "async" else Ends
    with served(server_class(mode, "UDP"), handler, "UDP", max_threads=1) as server, connect(server) as client:
        for _ in range(3):
            client.send(b"end")
            client.send(b"works")
            assert client.recv(100) == b"works"


# -- the end -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["threading", "green", "async"])
def test_stop_with_a_deadline_lets_those_finish_who_were_taken(mode: str) -> None:
    held = Held(mode)
    with server_class(mode, "UDP")(("127.0.0.1", 0), held.handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with connect(server) as client:
            client.send(b"x")
            until(lambda: held.running == 1)
            server.stop(SOON)
            until(lambda: server.stopping)
            held.go.set()
        thread.join(SOON)
        assert not thread.is_alive()
    assert held.handled == [b"x"]


def test_nobody_waits_for_a_datagram_that_is_not_there() -> None:
    """The kernel may drop a bad one after it has said that there is one (select(2)): the call must not wait then."""
    with ours.UDPServer(("127.0.0.1", 0), Echo) as server:
        with pytest.raises(BlockingIOError):
            server.get_request()
        server.timeout = 0
        server.handle_request()


def test_a_server_that_loses_the_order_would_be_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broken case: the newest first."""
    taken: list[int] = []
    release = threading.Event()

    class Notes(ours.BaseRequestHandler[Any]):
        def handle(self) -> None:
            if self.request[0] == b"wait":
                release.wait(SOON)
            else:
                taken.append(int(self.request[0]))

    def put(self: Any, peer: Any, item: Any, original: Any = PeerQueue.put) -> Any:
        outcome = original(self, peer, item)
        if peer in self._waiting:
            self._waiting[peer].rotate(1)
        return outcome

    monkeypatch.setattr(PeerQueue, "put", put)
    with ours.ThreadingUDPServer(("127.0.0.1", 0), Notes) as server, serving(server, close=False):
        with connect(server) as client:
            client.send(b"wait")
            for number in range(5):
                client.send(b"%d" % number)
            until(lambda: len(server._crew._queue) == 5)
            release.set()
            until(lambda: len(taken) == 5)
    assert taken != list(range(5))
