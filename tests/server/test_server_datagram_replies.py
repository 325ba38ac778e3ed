"""Replies of one batch leave together: in order, all of them, and held up by no handler that blocks or waits."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from native_support import SOON, dial, until

from jackfield import AsyncRequestHandler, BaseRequestHandler, Server, sync
from jackfield.admission import PeerList, Rate
from jackfield.door import outgoing
from jackfield.door.outgoing import MOST, Outgoing
from jackfield.limits import Limits
from jackfield.socket import socket as Socket

UDP = "udp://127.0.0.1:0"
GATHERING = ["serial", "green", "async"]


def handlers(handle: Callable[[Any, bytes], Any], *, waits: sync.Event | None = None) -> tuple[type, type]:
    """A handler, and its twin of coroutines: each answers with what ``handle(handler, data)`` gives, if anything;
    ``b"wait"`` waits for ``waits`` before."""

    class Blocking(BaseRequestHandler[Any]):
        def handle(self) -> None:
            data, sock = self.request
            if data == b"wait" and waits is not None:
                waits.wait()
            if (answer := handle(self, data)) is not None:
                sock.sendto(answer, self.client_address)

    class Coroutine(AsyncRequestHandler[Any]):
        async def handle(self) -> None:
            data, sock = self.request
            if data == b"wait" and waits is not None:
                await waits.await_()
            if (answer := handle(self, data)) is not None:
                await sock.sendto(answer, self.client_address)

    return Blocking, Coroutine


class Gate:
    """Holds the loop until it is opened, so that what is sent meanwhile is one batch."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.reached.set()
        assert self.opened.wait(SOON)


def in_one_batch(client: socket.socket, gate: Gate, *messages: bytes) -> None:
    """Send ``messages`` while a handler holds the loop at ``gate``."""
    client.send(b"gate")
    assert gate.reached.wait(SOON)
    for message in messages:
        client.send(message)
    gate.opened.set()


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many replies there were each time some were sent together."""
    seen: list[int] = []
    really = outgoing._send_gathered

    def send(sock: Any, pending: list[Any], lock: Any) -> int:
        seen.append(len(pending))
        return really(sock, pending, lock)

    monkeypatch.setattr(outgoing, "_send_gathered", send)
    yield seen


@pytest.mark.parametrize("mode", GATHERING)
def test_replies_of_one_batch_leave_together_and_in_order(mode: str, sizes: list[int]) -> None:
    gate = Gate()

    def handle(_: Any, data: bytes) -> bytes | None:
        return gate() if data == b"gate" else data.upper()

    messages = [b"message %d" % number for number in range(50)]
    with Server(handlers(handle)[mode == "async"], UDP, mode=mode) as server, dial(server) as client:
        in_one_batch(client, gate, *messages)
        assert [client.recv(100) for _ in messages] == [message.upper() for message in messages]
    assert max(sizes) == 50


@pytest.mark.parametrize("mode", GATHERING)
def test_one_alone_is_not_gathered(mode: str, sizes: list[int]) -> None:
    with Server(handlers(lambda _, data: data)[mode == "async"], UDP, mode=mode) as server, dial(server) as client:
        for number in range(5):
            client.send(b"%d" % number)
            assert client.recv(10) == b"%d" % number
    assert not any(sizes)


@pytest.mark.parametrize("watched", [True, False])
@pytest.mark.parametrize("mode", GATHERING)
def test_a_handler_that_blocks_holds_up_no_reply(mode: str, watched: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, blocks = Gate(), threading.Event()

    def handle(_: Any, data: bytes) -> bytes | None:
        if data == b"block":
            assert blocks.wait(SOON)
        return gate() if data == b"gate" else data

    if not watched:
        monkeypatch.setattr(Outgoing, "_look", lambda self: True)
    with Server(handlers(handle)[mode == "async"], UDP, mode=mode) as server, dial(server) as client:
        in_one_batch(client, gate, b"quick", b"block")
        if watched:
            assert client.recv(10) == b"quick"
        else:  # shows that it is the look that does it
            client.settimeout(0.2)
            with pytest.raises(TimeoutError):
                client.recv(10)
            client.settimeout(SOON)
        blocks.set()
        assert client.recv(10) == (b"block" if watched else b"quick")


@pytest.mark.parametrize("mode", ["green", "async"])
def test_a_handler_that_waits_holds_up_no_reply(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, waits = Gate(), sync.Event()

    def handle(_: Any, data: bytes) -> bytes | None:
        return gate() if data == b"gate" else data

    monkeypatch.setattr(Outgoing, "_look", lambda self: True)  # nobody looks: it is the waiting that is noticed
    kinds = handlers(handle, waits=waits)
    with Server(kinds[mode == "async"], UDP, mode=mode) as server, dial(server) as client, dial(server) as other:
        in_one_batch(client, gate, b"quick", b"wait", b"behind")
        assert client.recv(10) == b"quick"
        other.send(b"other")
        assert other.recv(10) == b"other"
        waits.set()
        assert [client.recv(10), client.recv(10)] == [b"wait", b"behind"]


@pytest.mark.parametrize("address", [UDP, "udp://0.0.0.0:0", "udp://[::1]:0"])
@pytest.mark.parametrize("mode", ["serial", "green"])
def test_what_is_sent_in_another_way_comes_behind(mode: str, address: str) -> None:
    gate = Gate()

    def handle(handler: Any, data: bytes) -> None:
        sock, peer = handler.request[1], handler.client_address
        if data == b"gate":
            return gate()
        sock.sendto(b"1", peer)
        sock.sendto(b"2", 0, peer)
        sock.sendto(b"3", peer)
        sock.sendmsg([b"4"], [], 0, peer)
        sock.sendto(bytearray(b"5"), peer)
        for number in range(MOST + 6):
            sock.sendto(b"%d" % number, peer)
        sock.sendto(b"x" * 10_000, peer)
        sock.sendto(b"6", peer)
        with pytest.raises(TypeError):
            sock.sendto("text", peer)
        with pytest.raises(TypeError):
            sock.sendto(b"7", [peer])
        return None

    with Server(handlers(handle)[0], address, mode=mode) as server, dial(server) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)  # room for all that come at once
        in_one_batch(client, gate, b"a", b"b")
        for _ in range(2):
            got = [client.recv(20_000) for _ in range(7 + MOST + 6)]
            many = [b"%d" % number for number in range(MOST + 6)]
            assert got == [b"1", b"2", b"3", b"4", b"5", *many, b"x" * 10_000, b"6"]


@pytest.mark.parametrize("mode", GATHERING)
def test_the_limits_have_their_say_in_each(mode: str) -> None:
    gate = Gate()

    def handle(_: Any, data: bytes) -> bytes | None:
        return gate() if data == b"gate" else data

    limits = Limits(exempt=PeerList(), reply_rate_per_address=Rate.parse("2/h"))
    with Server(handlers(handle)[mode == "async"], UDP, mode=mode, limits=limits) as server, dial(server) as client:
        in_one_batch(client, gate, b"1", b"2", b"3", b"4", b"5")
        assert [client.recv(10), client.recv(10)] == [b"1", b"2"]
        until(lambda: server.info().withheld == 3)


def opened(failed: Callable[[Any, BaseException], object]) -> tuple[Socket, Outgoing]:
    sock = Socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    return sock, Outgoing(sock, failed)


def test_one_that_cannot_be_sent_is_told_and_the_others_go() -> None:
    told: list[tuple[Any, int | None]] = []
    sock, gathered = opened(lambda peer, error: told.append((peer, getattr(error, "errno", None))))
    broadcast = ("255.255.255.255", 9)  # refused without SO_BROADCAST (ip(7))
    with sock, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.bind(("127.0.0.1", 0))
        client.settimeout(SOON)
        peer = client.getsockname()
        gathered.pending += [(b"%d" % turn, peer if turn % 2 else broadcast, None, sock) for turn in range(6)]
        assert not gathered.send()
        gathered.finish()
        assert [client.recv(10) for _ in range(3)] == [b"1", b"3", b"5"]
        assert told == [(broadcast, errno.EACCES)] * 3
        assert not gathered.pending
        assert sock.sent == 3


def test_what_was_gathered_leaves_before_the_socket_is_closed() -> None:
    sock, gathered = opened(lambda peer, error: pytest.fail(str(error)))
    with sock, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.bind(("127.0.0.1", 0))
        client.settimeout(SOON)
        assert gathered.open(set())
        gathered.pending.append((b"last", client.getsockname(), None, sock))
        gathered.shut()
        assert client.recv(10) == b"last"
        assert not gathered.open(set())
        gathered.shut()


def test_who_looks_goes_after_a_while_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing, "QUIET", 2)
    sock, gathered = opened(lambda peer, error: None)
    with sock:
        for _ in range(3):
            assert gathered.open(set())
            first = gathered._watch
            assert first is not None
            gathered.close()
            first.join(SOON)
            assert not first.is_alive()
        gathered.shut()
