"""Batches of datagrams: the native twin reads and sends what the pure one does, and a handler that waits in the middle
of a batch changes nobody's order."""

from __future__ import annotations

import asyncio
import errno
import socket
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

import jackfield
from jackfield import AsyncRequestHandler, BaseRequestHandler, Server
from jackfield.door import Datagram, PeerQueue, datagrams, open_listeners, receive_batch, reply_socket
from jackfield.door.packetinfo import control_message
from jackfield.errors import MisuseError
from jackfield.reactor.twin import native
from jackfield.streams import AsyncSocket

SOON = 20.0

needs_native = pytest.mark.skipif(native is None, reason="the native twin is not in use")
linux = pytest.mark.skipif(sys.platform != "linux", reason="all of 127.0.0.0/8 is the machine's own on Linux only")


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def client(stack: ExitStack, host: str = "127.0.0.1") -> socket.socket:
    sock = stack.enter_context(socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM))
    sock.settimeout(SOON)
    sock.bind((host, 0))
    return sock


# -- receiving ---------------------------------------------------------------------------------------------------------


@needs_native
@pytest.mark.parametrize("target", ["udp://127.0.0.1:0", "udp4://0.0.0.0:0", "udp6://[::1]:0", "udp://:0"])
def test_both_twins_read_the_same(stack: ExitStack, target: str) -> None:
    """Data, peers of either family, the mark of a cut one, and the local address."""
    (listener,) = open_listeners(target)
    stack.callback(listener.close)
    sock = listener.socket
    host = "::1" if target.startswith("udp6") else "127.0.0.1"
    port = sock.getsockname()[1]
    senders = [client(stack, host) for _ in range(3)]
    messages = [b"one", b"", b"x" * 3000, b"y" * 1000]

    def send() -> None:
        for message in messages:
            for sender in senders:
                sender.sendto(message, (host, port))

    send()
    native_batch = list(receive_batch(sock, 1000))
    send()
    pure_batch = list(datagrams._receive_purely(sock, 1000, 64))
    assert native_batch == pure_batch
    assert len(native_batch) == 12
    assert [type(datagram) for datagram in native_batch] == [Datagram] * 12
    assert [datagram.truncated for datagram in native_batch] == [False] * 6 + [True] * 3 + [False] * 3
    assert all(type(datagram.truncated) is bool for datagram in native_batch)
    assert sock.received == 2 * 3 * (3 + 1000 + 1000)  # type: ignore[attr-defined]


@needs_native
def test_a_class_with_a_recvmsg_of_its_own_is_asked_by_it(stack: ExitStack) -> None:
    calls = []

    class Noting(socket.socket):
        def recvmsg(self, *args: Any) -> Any:
            calls.append(args)
            return super().recvmsg(*args)

    (listener,) = open_listeners("udp://127.0.0.1:0", socket_class=Noting)
    stack.callback(listener.close)
    client(stack).sendto(b"x", listener.socket.getsockname())
    assert [datagram.data for datagram in receive_batch(listener.socket)] == [b"x"]
    assert len(calls) == 2


# -- sending -----------------------------------------------------------------------------------------------------------


def test_sendto_of_every_kind_in_a_plain_thread_and_a_green_one(stack: ExitStack) -> None:
    target = client(stack)
    place = target.getsockname()
    sock = stack.enter_context(jackfield.socket.socket(socket.AF_INET, socket.SOCK_DGRAM))

    def go() -> None:
        before = sock.sent
        assert sock.sendto(b"abc", place) == 3
        assert sock.sendto(bytearray(b"de"), place) == 2
        assert sock.sendto(b"f", 0, place) == 1
        assert sock.sendto(b"", ("localhost", place[1])) == 0
        assert [target.recv(10) for _ in range(4)] == [b"abc", b"de", b"f", b""]
        assert sock.sent == before + 6
        for wrong in [("127.0.0.1",), ("127.0.0.1", 70000), ("127.0.0.1", "1"), "127.0.0.1", None]:
            with pytest.raises((TypeError, OverflowError, OSError, ValueError)) as ours:
                sock.sendto(b"x", wrong)
            with pytest.raises(ours.type), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain:
                plain.sendto(b"x", wrong)  # type: ignore[arg-type]
        with pytest.raises(OSError) as caught:
            sock.sendto(b"x" * 70_000, place)
        assert caught.value.errno == errno.EMSGSIZE

    go()
    jackfield.run(go)
    sock.settimeout(5)
    go()
    jackfield.run(go)
    sock.close()
    with pytest.raises(OSError) as caught:
        sock.sendto(b"x", place)
    assert caught.value.errno == errno.EBADF


def test_a_coroutine_that_only_sends_lets_the_others_have_their_turn(stack: ExitStack) -> None:
    """The awaited call can also be a task, be thrown away, and ends with the error of the kernel's."""
    target = client(stack)
    target.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    place = target.getsockname()
    turns: list[int] = []

    class Many(AsyncRequestHandler[Any]):
        async def handle(self) -> None:
            data, sock = self.request
            other = asyncio.ensure_future(self.other())
            for number in range(200):
                assert await sock.sendto(b"%d" % number, place) == len(b"%d" % number)
                turns.append(number)
            await other
            assert await asyncio.create_task(sock.sendto(b"by a task", place)) == 9
            sock.sendto(b"never awaited", place).close()
            with pytest.raises(OSError, match="too long"):
                await sock.sendto(b"x" * 70_000, place)
            await sock.sendto(data, self.client_address)

        async def other(self) -> None:
            for _ in range(3):
                turns.append(-1)
                await asyncio.sleep(0)

    with Server(Many, "udp://127.0.0.1:0", mode="async") as server:
        asking = client(stack)
        asking.sendto(b"?", server.server_address)
        assert asking.recv(10) == b"?"
        assert server.info().handler_errors == 0
    assert [target.recv(20) for _ in range(201)] == [b"%d" % number for number in range(200)] + [b"by a task"]
    assert turns.index(-1) < turns.index(199), "it had its turn in between"
    if native is not None:
        assert native.alive()["Sending"] == 0


@needs_native
def test_an_awaited_sendto_is_used_once(stack: ExitStack) -> None:
    place = client(stack).getsockname()

    async def main() -> None:
        with jackfield.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sending = AsyncSocket(sock).sendto(b"x", place)
            assert await sending == 1
            await AsyncSocket(sock).sendto(b"x", place)
            again = AsyncSocket(sock).sendto(b"y", place)
            assert await again == 1
            with pytest.raises(RuntimeError, match="cannot reuse"):
                await again

    asyncio.run(main())


@linux
def test_answers_leave_from_the_addressed_one_on_both_twins(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    (listener,) = open_listeners("udp4://0.0.0.0:0")
    stack.callback(listener.close)
    listener.socket.settimeout(None)
    port = listener.socket.getsockname()[1]
    asking = client(stack)
    for twin in {native, None}:
        monkeypatch.setattr(datagrams, "native", twin)
        for host in ("127.0.0.1", "127.0.0.2"):
            asking.sendto(b"?", (host, port))
            (datagram,) = receive_batch(listener.socket)
            assert reply_socket(listener.socket, datagram).sendto(b"!", datagram.peer) == 1
            assert asking.recvfrom(10) == (b"!", (host, port))


@linux
def test_the_control_message_is_what_sendmsg_makes_of_it(stack: ExitStack) -> None:
    """Sent by hand as one, and read back by the standard library."""
    (listener,) = open_listeners("udp4://0.0.0.0:0")
    stack.callback(listener.close)
    asking = client(stack)
    asking.sendto(b"?", ("127.0.0.3", listener.socket.getsockname()[1]))
    (datagram,) = receive_batch(listener.socket)
    assert datagram.local is not None
    message = control_message(datagram.local)
    _, _, data = datagram.local.control()
    assert len(message) == socket.CMSG_SPACE(len(data))
    assert message[socket.CMSG_LEN(0) : socket.CMSG_LEN(len(data))] == data


# -- handling ----------------------------------------------------------------------------------------------------------

ROUNDS, PEERS = 15, 4


class _Notes:
    """Who began and who ended, and how many of one peer were at it at the same time."""

    def __init__(self) -> None:
        self.seen: dict[Any, list[int]] = {}
        self.at_it: Counter[Any] = Counter()
        self.most = 0
        self.all_done = threading.Event()

    def begin(self, peer: Any) -> None:
        self.at_it[peer] += 1
        self.most = max(self.most, self.at_it[peer])

    def end(self, peer: Any, number: int) -> None:
        self.at_it[peer] -= 1
        self.seen.setdefault(peer, []).append(number)
        if sum(map(len, self.seen.values())) == ROUNDS * PEERS:
            self.all_done.set()


@pytest.mark.parametrize("waits", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("mode", ["serial", "thread", "green", "async"])
def test_waiting_in_the_middle_of_a_batch_keeps_each_peers_order(stack: ExitStack, mode: str, waits: int) -> None:
    notes = _Notes()

    class Waits(BaseRequestHandler[Any]):
        def handle(self) -> None:
            number = int(self.request[0])
            notes.begin(self.client_address)
            for _ in range(0 if number % waits else number % 4 + 1):
                jackfield.sleep(0)
            notes.end(self.client_address, number)

    class AsyncWaits(AsyncRequestHandler[Any]):
        async def handle(self) -> None:
            number = int(self.request[0])
            notes.begin(self.client_address)
            for _ in range(0 if number % waits else number % 4 + 1):
                await asyncio.sleep(0)
            notes.end(self.client_address, number)

    server = Server(AsyncWaits if mode == "async" else Waits, "udp://127.0.0.1:0", mode=mode).bind()
    senders = [client(stack) for _ in range(PEERS)]
    for number in range(ROUNDS):
        for sender in senders:
            sender.sendto(b"%d" % number, server.server_address)  # all of them before it serves: one batch
    with server:
        assert notes.all_done.wait(SOON)
    assert notes.seen == {sender.getsockname(): list(range(ROUNDS)) for sender in senders}
    assert notes.most == 1
    assert server.info().dropped == 0


@pytest.mark.parametrize("mode", ["green", "async"])
def test_all_of_a_batch_may_wait_at_once(stack: ExitStack, mode: str) -> None:
    """And one that raises in between, before it waits or after, is that one's end only."""
    gate, begun = jackfield.sync.Event(), jackfield.sync.Semaphore(0)

    class Waits(BaseRequestHandler[Any]):
        def handle(self) -> None:
            begun.release()
            if self.request[0] == b"3":
                raise KeyError
            gate.wait()
            if self.request[0] == b"5":
                raise KeyError
            self.request[1].sendto(self.request[0], self.client_address)

    class AsyncWaits(AsyncRequestHandler[Any]):
        async def handle(self) -> None:
            begun.release()
            if self.request[0] == b"3":
                raise KeyError
            await gate.await_()
            if self.request[0] == b"5":
                raise KeyError
            await self.request[1].sendto(self.request[0], self.client_address)

    server = Server(AsyncWaits if mode == "async" else Waits, "udp://127.0.0.1:0", mode=mode).bind()
    senders = [client(stack) for _ in range(10)]
    for number, sender in enumerate(senders):
        sender.sendto(b"%d" % number, server.server_address)
    with server:
        for _ in senders:
            assert begun.acquire(timeout=SOON)
        gate.set()
        answers = {sender.recv(10) for number, sender in enumerate(senders) if number not in (3, 5)}
    assert answers == {b"%d" % number for number in range(10) if number not in (3, 5)}
    assert server.info().handler_errors == 2


def test_what_is_held_is_known_and_makes_the_next_one_wait() -> None:
    queue: PeerQueue[str, int] = PeerQueue(10)
    assert queue.idle
    queue.hold("a")
    assert queue.knows("a") and not queue.knows("b") and not queue.idle
    queue.put("a", 1)
    assert not queue.available
    queue.done("a")
    assert queue.take() == ("a", 1)
    with pytest.raises(MisuseError):
        queue.hold("a")
    queue.done("a")
    assert queue.idle


def test_a_worker_that_took_no_note_of_the_peer_would_be_found_out(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broken case: nobody waits behind a datagram that waits, so that two of one peer are in hand."""
    monkeypatch.setattr(PeerQueue, "knows", lambda self, peer: False)
    with pytest.raises(AssertionError):
        test_waiting_in_the_middle_of_a_batch_keeps_each_peers_order(stack, "green", 2)
