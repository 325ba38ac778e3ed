"""The limits of datagrams in the native server: who is let in, who is answered, and that every one is accounted for."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from native_support import HERE, MODES, SOON, echo, leave, until

from jackfield import (
    AsyncDatagramRequestHandler,
    AsyncRequestHandler,
    BaseRequestHandler,
    DatagramRequestHandler,
    Server,
    sync,
)
from jackfield.admission import DatagramGuard, PeerList, Rate
from jackfield.cli.arguments import Parser, UsageError
from jackfield.cli.limits import configure, limits_of
from jackfield.door import Listener, PacketInfo, kernel_drops, open_listeners
from jackfield.events import Reason
from jackfield.limits import Limits
from jackfield.replies import GuardedAsyncSocket, GuardedSocket
from jackfield.serving import datagrams as serving_datagrams
from jackfield.serving.drops import QUIET, Drops
from jackfield.serving.home import Home
from jackfield.serving.reports import Reports
from jackfield.streams import AsyncSocket
from jackfield.testing import ManualClock

UDP = "udp://127.0.0.1:0"

#: Nobody is exempt, and nothing is off that a test does not switch on or off.
NOBODY = PeerList()
STRICT = Limits(exempt=NOBODY)
OPEN = Limits.none(exempt=NOBODY)


def some(count: int) -> Rate:
    """So many, and no more while a test runs."""
    return Rate(count, 86400.0)


@contextlib.contextmanager
def client_of(server: Server, host: str = "127.0.0.1", number: int = 0) -> Iterator[socket.socket]:
    """A client that sends from ``host``; every call of it is bounded."""
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        client.settimeout(SOON)
        client.bind((host, 0))
        client.connect(("127.0.0.1", int(server.addresses[number].rpartition(":")[2])))
        yield client
    finally:
        leave(client)


def seen(server: Server, reason: str) -> int:
    return server.info().refusals.get(reason, 0)


def lines_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "dropped a datagram" in record.getMessage()]


# -- who is let in -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("limits", "reason", "taken"),
    [
        (OPEN.replace(datagram_rate_per_address=some(3)), "limit_rate_per_address", 3),
        (OPEN.replace(datagram_rate=some(3)), "limit_rate", 3),
        (Limits(deny=PeerList(["127.0.0.0/8"])), "denied", 0),
        (Limits(allow=PeerList(["192.0.2.1"])), "denied", 0),
    ],
)
def test_who_is_refused_is_counted_by_reason_and_told_once(
    mode: str, limits: Limits, reason: str, taken: int, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level(logging.WARNING),
        Server(echo(mode, datagram=True), UDP, mode=mode, limits=limits) as server,
        client_of(server) as client,
    ):
        for number in range(10):
            client.send(b"x%d" % number)
        until(lambda: server.info().datagrams == 10 and server.info().dropped == 10 - taken)
        assert sorted(client.recv(10) for _ in range(taken)) == [b"X%d" % number for number in range(taken)]
        info = server.info()
        assert (info.refusals, info.refused, info.withheld) == ({reason: 10 - taken}, 10 - taken, 0)
    (line,) = lines_of(caplog)
    assert server.addresses[0] in line and reason in line and "'127.0.0.1'" in line


@pytest.mark.parametrize("mode", MODES)
def test_one_that_is_longer_than_allowed_is_dropped_whole(mode: str, caplog: pytest.LogCaptureFixture) -> None:
    """Also when that changes while it serves."""
    with Server(echo(mode, datagram=True), UDP, mode=mode, limits=Limits(max_datagram=100)) as server:
        with client_of(server) as client:
            for size in (101, 100, 5000, 0, 1):
                client.send(b"x" * size)
            assert sorted(len(client.recv(10_000)) for _ in range(3)) == [0, 1, 100]
            until(lambda: server.info().refusals == {"limit_message": 2})
            server.limits = Limits(max_datagram=5000)
            client.send(b"x" * 5000)
            assert client.recv(10_000) == b"X" * 5000
            server.limits = Limits(max_datagram=None)
            client.send(b"x" * 65_507)
            assert client.recv(100_000) == b"X" * 65_507
            server.limits = Limits(max_datagram=10**6)  # more than there is
            client.send(b"x" * 65_507)
            assert client.recv(100_000) == b"X" * 65_507
        assert (server.info().datagrams, server.info().dropped) == (8, 2)
    (line,) = lines_of(caplog)
    assert "larger than 100 bytes" in line


@pytest.mark.parametrize("port", [0, 7, 13, 17, 19, 37])
@pytest.mark.parametrize("mode", HERE)
def test_nobody_comes_from_the_ports_of_no_client(mode: str, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever has answered them once would do so for ever; a server without limits takes what there is."""
    receive = serving_datagrams.receive_batch

    def forged(*args: Any, **more: Any) -> Any:
        for datagram in receive(*args, **more):
            peer = ("127.0.0.1", port) if datagram.data == b"forged" else datagram.peer
            yield datagram._replace(peer=peer)

    monkeypatch.setattr(serving_datagrams, "receive_batch", forged)
    with Server(echo(mode, datagram=True), UDP, mode=mode) as server, client_of(server) as client:
        client.send(b"forged")
        client.send(b"true")
        assert client.recv(10) == b"TRUE"
        assert (server.info().refusals, server.info().handler_errors) == ({"denied": 1}, 0)


# -- every one is accounted for ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "addresses"), [*((mode, 200) for mode in ["serial", *HERE]), ("process", 20)])
def test_of_a_flood_every_datagram_is_answered_refused_or_dropped(mode: str, addresses: int) -> None:
    """20,000 from 200 addresses (2,000 from 20 where each costs a process), and the sum is exact."""
    each = 100
    limits = STRICT.replace(datagram_rate_per_address=some(40 if mode != "process" else 5))
    with Server(echo(mode, datagram=True), UDP, mode=mode, limits=limits) as server, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(client_of(server, f"127.0.{n}.{n % 7 + 1}")) for n in range(addresses)]
        answered = 0
        for number in range(each):
            for client in clients:
                client.send(b"%d" % number)
            answered += sum(map(answers, clients))
            if number >= each // 2:  # the first half comes as fast as it can, and the kernel drops some of it
                until(lambda sent=(number + 1) * addresses: come(server) == sent)

        def accounted() -> bool:
            nonlocal answered
            answered += sum(map(answers, clients))
            info = server.info()
            lost = sum(kernel_drops(client) or 0 for client in clients)  # answers that came, and found no room
            return answered + lost + info.withheld + info.dropped + info.kernel_dropped == addresses * each

        until(accounted)
        info = server.info()
        assert come(server) == addresses * each
        assert info.handler_errors == 0
        assert info.refusals["limit_rate_per_address"] > 0 and answered > 0


def come(server: Server) -> int:
    """How many datagrams have come to the server, or to where the kernel dropped them."""
    info = server.info()
    return info.datagrams + info.kernel_dropped


def answers(client: socket.socket) -> int:
    """How many have come to ``client`` by now."""
    count = 0
    client.setblocking(False)  # with a timeout CPython would wait for the next one first
    with contextlib.suppress(BlockingIOError):
        while client.recv(100):
            count += 1
    client.settimeout(SOON)
    return count


def test_what_the_kernel_dropped_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """Its receive buffer was full; and what came while the socket was another's does not count."""
    go, waiting = threading.Event(), threading.Event()

    class Waits(BaseRequestHandler[Any]):
        def handle(self) -> None:
            waiting.set()
            go.wait(SOON)

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as before:
        before.bind(("127.0.0.1", 0))
        before.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as early:
            for _ in range(100):
                early.sendto(b"x" * 1000, before.getsockname())
        assert (old := kernel_drops(before))
        with contextlib.suppress(BlockingIOError):
            while before.recv(2000, socket.MSG_DONTWAIT):
                pass
        with Server(Waits, before, mode="serial") as server, client_of(server) as client:
            client.send(b"first")
            assert waiting.wait(SOON)
            assert server.info().kernel_dropped == 0
            for _ in range(100):
                client.send(b"x" * 1000)
            go.set()
            until(lambda: come(server) == 101)
            dropped = server.info().kernel_dropped
            assert dropped > 50
        assert server.info().kernel_dropped == dropped, "it stays readable after the end"
        assert kernel_drops(before) == old + dropped


@pytest.mark.parametrize("mode", HERE)
def test_that_too_many_wait_is_told_once(mode: str, caplog: pytest.LogCaptureFixture) -> None:
    with flooded(mode, Limits.none()) as server:
        until(lambda: server.info().dropped == 10)
    assert len(lines_of(caplog)) == 1
    assert "too many wait" in caplog.text


# -- the others are served meanwhile -----------------------------------------------------------------------------------


@contextlib.contextmanager
def flooded(mode: str, limits: Limits) -> Iterator[Server]:
    """A server of 30 workers, for which 30 more may wait, with 70 datagrams from as many ports of 127.0.9.9, whose
    handlers wait; others are answered."""
    go = sync.Event()

    class Handler(BaseRequestHandler[Any]):
        def handle(self) -> None:
            if self.request[0] == b"flood":
                go.wait()
            else:
                self.request[1].sendto(self.request[0], self.client_address)

    class AsyncHandler(AsyncRequestHandler[Any]):
        async def handle(self) -> None:
            if self.request[0] == b"flood":
                await go.await_()
            else:
                await self.request[1].sendto(self.request[0], self.client_address)

    with Server(AsyncHandler if mode == "async" else Handler, UDP, mode=mode, limits=limits) as server:
        until(lambda: server._service.datagrams.crew)
        crew: Any = server._service.datagrams.crew
        crew._limit = crew._queue._bound = 30
        try:
            for number in range(1, 71):
                with client_of(server, "127.0.9.9") as client:
                    client.send(b"flood")
                    until(lambda sent=number: server.info().datagrams == sent)
                    # A worker that has not taken its own yet leaves one place less for those that wait.
                    until(lambda: not crew._queue.available or crew._queue.in_hand == 30)
            yield server
        finally:
            go.set()


@pytest.mark.parametrize("mode", HERE)
def test_an_honest_client_is_answered_20_times_of_20(mode: str) -> None:
    """Whose handlers are slow is somebody else's affair."""
    with (
        flooded(mode, STRICT.replace(datagram_rate_per_address=some(20))) as server,
        client_of(server) as client,
    ):
        for number in range(20):
            client.send(b"n%d" % number)
            assert client.recv(10) == b"n%d" % number
        assert server.info().refusals == {"limit_rate_per_address": 50}


@pytest.mark.parametrize("mode", ["serial", "process"])
def test_an_honest_client_is_answered_between_those_of_a_flood(mode: str) -> None:
    limits = STRICT.replace(datagram_rate_per_address=some(20))
    with (
        Server(echo(mode, datagram=True), UDP, mode=mode, limits=limits) as server,
        client_of(server) as client,
        client_of(server, "127.0.9.9") as flood,
    ):
        for number in range(20):
            for _ in range(50):
                flood.send(b"flood")
            client.send(b"n%d" % number)
            assert client.recv(10) == b"N%d" % number
        until(lambda: server.info().refusals == {"limit_rate_per_address": 980})


@pytest.mark.parametrize("mode", HERE)
def test_without_the_guard_it_would_not_be(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The broken case: a server that asks nobody. All that may wait are the flood's, and the newest is dropped."""
    monkeypatch.setattr(DatagramGuard, "admit", lambda *_: None)
    with (
        flooded(mode, STRICT.replace(datagram_rate_per_address=some(20))) as server,
        client_of(server) as client,
    ):
        until(lambda: server.info().dropped == 10)
        client.send(b"honest")
        until(lambda: server.info().dropped == 11)
        assert answers(client) == 0
        assert server.info().refusals == {}


# -- who is answered ---------------------------------------------------------------------------------------------------


class Wordy(BaseRequestHandler[Any]):
    """Ten times what came, in the way that it says."""

    def handle(self) -> None:
        data, sock = self.request
        answer, way = data * 10, data[:2]
        if way == b"to":
            sent = sock.sendto(answer, self.client_address)
        elif way == b"fl":
            sent = sock.sendto(answer, 0, self.client_address)
        elif way == b"ms":
            sent = sock.sendmsg([answer[:5], memoryview(answer)[5:]], [], 0, self.client_address)
        else:
            sent = sock.sendto(data[:10], self.client_address)
            assert sent == 10
            return
        assert sent == len(answer), "as if it had been sent"


class WordyFile(DatagramRequestHandler[Any]):
    def handle(self) -> None:
        packet = self.rfile.read()
        self.wfile.write(packet[:10] if packet.startswith(b"short") else packet * 10)


class AsyncWordy(AsyncRequestHandler[Any]):
    async def handle(self) -> None:
        data, sock = self.request
        answer, way = data * 10, data[:2]
        if way == b"to":
            sent = await sock.sendto(answer, self.client_address)
        elif way == b"fl":
            sent = await sock.sendto(bytearray(answer), 0, self.client_address)
        elif way == b"ms":
            sent = sock.sendmsg([answer], [], 0, self.client_address)
        elif way == b"so":
            sent = sock.socket.sendto(answer, self.client_address)
        else:
            sent = await sock.sendto(data[:10], self.client_address)
            assert sent == 10
            return
        assert sent == len(answer), "as if it had been sent"


class AsyncWordyFile(AsyncDatagramRequestHandler[Any]):
    async def handle(self) -> None:
        packet = self.rfile.read()
        self.wfile.write(packet[:10] if packet.startswith(b"short") else packet * 10)


WAYS = [
    *((mode, Wordy, way) for mode in MODES if mode != "async" for way in (b"to", b"fl", b"ms")),
    *((mode, WordyFile, b"file") for mode in MODES if mode != "async"),
    *(("async", AsyncWordy, way) for way in (b"to", b"fl", b"ms", b"so")),
    ("async", AsyncWordyFile, b"file"),
]


@pytest.mark.parametrize(("mode", "handler", "way"), WAYS)
@pytest.mark.parametrize("address", [UDP, "udp4://0.0.0.0:0", "udp://:0"])
def test_nobody_is_sent_three_times_what_came_before_it_has_answered_twice(
    mode: str, handler: Any, way: bytes, address: str
) -> None:
    """By whatever method, also where answers leave from the address that was asked; and of itself it ends."""
    request = way.ljust(40, b".")
    short = b"short".ljust(40, b".")
    with Server(handler, address, mode=mode, limits=STRICT) as server, client_of(server) as client:
        client.send(request)
        until(lambda: server.info().withheld == 1)
        for _ in range(3):
            client.send(short)
            assert client.recv(1000) == short[:10]
        client.send(request)
        assert client.recv(1000) == request * 10
        assert (server.info().withheld, server.info().handler_errors, server.info().dropped) == (1, 0, 0)


@pytest.mark.parametrize("mode", MODES)
def test_the_rate_of_replies_holds_for_an_address(mode: str) -> None:
    limits = OPEN.replace(reply_rate_per_address=some(5))
    with Server(echo(mode, datagram=True), UDP, mode=mode, limits=limits) as server:
        with client_of(server, "127.0.9.9") as greedy, client_of(server, "127.0.9.9") as its_other_port:
            for number in range(8):
                greedy.send(b"x")
                if number < 5:
                    assert greedy.recv(10) == b"X"
            its_other_port.send(b"x")
            until(lambda: server.info().withheld == 4)
            assert answers(greedy) == answers(its_other_port) == 0
        with client_of(server) as other:
            other.send(b"x")
            assert other.recv(10) == b"X"


@pytest.mark.parametrize("mode", MODES)
def test_who_is_exempt_is_answered_whatever_it_is(mode: str) -> None:
    """By default, this machine."""
    with (
        Server(AsyncWordy if mode == "async" else Wordy, UDP, mode=mode) as server,
        client_of(server) as client,
    ):
        for _ in range(150 if mode != "process" else 3):
            client.send(b"to")
            assert client.recv(100) == b"to" * 10
        assert server.info().withheld == 0


def test_an_answer_that_is_not_asked_for_would_be_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broken case: replies that the guard is not asked about."""
    monkeypatch.setattr(serving_datagrams, "GuardedSocket", lambda sock, may_reply: sock)
    with Server(Wordy, UDP, mode="thread", limits=STRICT) as server, client_of(server) as client:
        client.send(b"to")
        assert client.recv(100) == b"to" * 10
        assert server.info().withheld == 0


# -- loops -------------------------------------------------------------------------------------------------------------


class Player(BaseRequestHandler[Any]):
    """Sends the ball on: at first to the address that it is told, and then to whoever it comes from."""

    def handle(self) -> None:
        data, sock = self.request
        word, _, port = data.partition(b" ")
        sock.sendto(b"ball", ("127.0.0.1", int(port)) if word == b"begin" else self.client_address)


class AsyncPlayer(AsyncRequestHandler[Any]):
    async def handle(self) -> None:
        data, sock = self.request
        word, _, port = data.partition(b" ")
        await sock.sendto(b"ball", ("127.0.0.1", int(port)) if word == b"begin" else self.client_address)


def begin(server: Server, other: Server, number: int = 0) -> None:
    with client_of(server) as client:
        client.send(b"begin " + other.addresses[number].rpartition(":")[2].encode())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("addresses", [[UDP], ["udp4://0.0.0.0:0"], ["udp://:0"], [UDP, UDP]])
def test_a_server_does_not_answer_itself(mode: str, addresses: list[str]) -> None:
    """Its own address is the sender's, as in a datagram that was forged; or that of its other socket."""
    limits = Limits(amplification=None)
    with Server(AsyncPlayer if mode == "async" else Player, *addresses, mode=mode, limits=limits) as server:
        begin(server, server, -1)
        until(lambda: seen(server, "denied") == 1)
        assert server.info().datagrams == 2


@pytest.mark.parametrize("mode", MODES)
def test_two_servers_that_are_made_to_answer_each_other_fall_silent(mode: str) -> None:
    """After a hundred datagrams at most (CVE-2024-2169)."""
    limits = OPEN.replace(reply_rate_per_address=some(50))
    handler = AsyncPlayer if mode == "async" else Player
    with Server(handler, UDP, mode=mode, limits=limits) as one, Server(handler, UDP, mode=mode, limits=limits) as two:
        begin(one, two)
        until(lambda: one.info().withheld + two.info().withheld == 1)
        played = one.info().datagrams + two.info().datagrams - 1
        assert 90 <= played <= 100


@pytest.mark.parametrize("mode", ["serial", *HERE])
def test_without_the_limit_they_never_would_and_it_can_be_set_meanwhile(mode: str) -> None:
    """The broken case, and its end."""
    handler = AsyncPlayer if mode == "async" else Player
    with Server(handler, UDP, mode=mode, limits=OPEN) as one, Server(handler, UDP, mode=mode, limits=OPEN) as two:
        begin(one, two)
        until(lambda: one.info().datagrams > 500)
        one.limits = OPEN.replace(reply_rate_per_address=some(50))
        until(lambda: one.info().withheld == 1)


# -- what handlers see, and what changes -------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["serial", *HERE])
@pytest.mark.parametrize("address", [UDP, "udp4://0.0.0.0:0"])
def test_limits_change_while_it_serves_and_none_cost_nothing(mode: str, address: str) -> None:
    """What handlers get is a socket in any case; the one that asks only while there is something to ask."""
    got: list[tuple[type, bool]] = []
    kind = AsyncSocket if mode == "async" else socket.socket

    class Handler(BaseRequestHandler[Any]):
        def handle(self) -> None:
            got.append((type(self.request[1]), isinstance(self.request[1], kind)))
            self.request[1].sendto(self.request[0] * 4, self.client_address)

    class AsyncHandler(AsyncRequestHandler[Any]):
        async def handle(self) -> None:
            got.append((type(self.request[1]), isinstance(self.request[1], kind)))
            assert self.request[1].socket.fileno() == self.request[1].fileno() > 0
            await self.request[1].sendto(self.request[0] * 4, self.client_address)

    handler = AsyncHandler if mode == "async" else Handler
    guarded = GuardedAsyncSocket if mode == "async" else GuardedSocket
    with Server(handler, address, mode=mode, limits=OPEN) as server, client_of(server) as client:
        client.send(b"x")
        assert client.recv(10) == b"xxxx"
        for limits, is_guarded in (
            (OPEN.replace(datagram_rate_per_address=some(100)), False),
            (OPEN.replace(amplification=4.0), True),
            (OPEN.replace(reply_rate_per_address=some(100)), True),
            (OPEN, False),
        ):
            server.limits = limits
            client.send(b"x")
            assert client.recv(10) == b"xxxx"
            assert got[-1][0] is guarded if is_guarded else got[-1][0] is not guarded
        server.limits = STRICT
        client.send(b"x")
        until(lambda: server.info().withheld == 1)
        server.limits = OPEN.replace(datagram_rate=some(1))
        client.send(b"x")
        client.send(b"x")
        until(lambda: seen(server, "limit_rate") == 1)
        assert client.recv(10) == b"xxxx"
        server.limits = OPEN
        client.send(b"x")
        assert client.recv(10) == b"xxxx"
        assert all(is_socket for _, is_socket in got)
        assert server.info().handler_errors == 0


@pytest.mark.parametrize("mode", MODES)
def test_unix_datagrams_are_limited_as_a_whole_and_their_peers_answered(mode: str, tmp_path: Any) -> None:
    """Nobody forges one, and nobody is known by one."""
    path = tmp_path / "s"
    if len(str(path)) > 90:
        pytest.skip("the temporary directory's name is too long for a socket")
    handler = AsyncWordy if mode == "async" else Wordy
    limits = STRICT.replace(datagram_rate=some(3), datagram_rate_per_address=some(1))
    with (
        Server(handler, f"unixgram:{path}", mode=mode, limits=limits) as server,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client,
    ):
        client.settimeout(SOON)
        client.bind(str(tmp_path / "c"))
        client.connect(str(path))
        for _ in range(5):
            client.send(b"to")
        assert [client.recv(100) for _ in range(3)] == [b"to" * 10] * 3
        until(lambda: server.info().refusals == {"limit_rate": 2})
        assert server.info().withheld == 0


def test_the_guard_is_asked_once_for_each_and_not_where_there_is_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    admit: Callable[..., Any] = DatagramGuard.admit

    def counted(guard: DatagramGuard, peer: Any, size: int) -> Any:
        asked.append(peer)
        return admit(guard, peer, size)

    monkeypatch.setattr(DatagramGuard, "admit", counted)
    with Server(echo("thread", datagram=True), UDP, limits=STRICT) as server, client_of(server) as client:
        for _ in range(3):
            client.send(b"x")
            assert client.recv(10) == b"X"
        assert asked == [client.getsockname()] * 3
        server.limits = OPEN
        client.send(b"x")
        assert client.recv(10) == b"X"
        assert len(asked) == 3


# -- the parts ---------------------------------------------------------------------------------------------------------


def test_an_episode_of_drops_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    drops = Drops(clock)
    with caplog.at_level(logging.WARNING):
        for _ in range(1000):
            drops.refuse("udp://a", Reason.LIMIT_RATE, 3, "one of 192.0.2.1")
            clock.advance(QUIET - 1)
        assert len(caplog.records) == 1
        drops.refuse("udp://b", Reason.LIMIT_RATE, 1, "another's")
        drops.refuse("udp://a", Reason.DENIED, 1, "another kind")
        assert len(caplog.records) == 3
        clock.advance(QUIET)
        drops.refuse("udp://a", Reason.LIMIT_RATE, 1, "once more")
    assert [record.getMessage().partition(" (")[0] for record in caplog.records] == [
        "udp://a: one of 192.0.2.1", "udp://b: another's", "udp://a: another kind", "udp://a: once more",
    ]  # fmt: skip
    assert drops.refusals == {Reason.LIMIT_RATE: 3002, Reason.DENIED: 1}


@contextlib.contextmanager
def listening(*addresses: str) -> Iterator[list[Listener]]:
    with contextlib.ExitStack() as stack:
        listeners = [listener for address in addresses for listener in open_listeners(address)]
        for listener in listeners:
            stack.callback(listener.close)
        yield listeners


def test_a_server_knows_its_own_addresses() -> None:
    """And takes nobody else's for one: symmetrical protocols (RIP, syslog, NTP) use one port at both ends."""
    with listening("udp4://127.0.0.5:0", "udp4://0.0.0.0:0", "udp6://[::]:0", "tcp://127.0.0.1:0") as listeners:
        home = Home(listeners)
        one, every, every6 = (listener.socket.getsockname()[1] for listener in listeners[:3])
        assert home.ports == {one, every, every6}
        here = PacketInfo(socket.inet_aton("192.0.2.1"), 1)
        assert home.holds(("127.0.0.5", one), None)
        assert home.holds(("::ffff:127.0.0.5", one, 0, 0), None)
        assert not home.holds(("127.0.0.1", one), None)
        assert not home.holds(("192.0.2.1", one), here)
        for port in (every, every6):
            assert home.holds(("127.9.9.9", port), None)
            assert home.holds(("::1", port, 0, 0), here)
            assert home.holds(("192.0.2.1", port), here)
            assert home.holds(("::ffff:192.0.2.1", port, 0, 0), here)
            assert not home.holds(("192.0.2.2", port), here)
            assert not home.holds(("127.0.0.1", port + 1), here)


def test_a_child_reports_what_it_sent() -> None:
    clock = ManualClock()
    parent, child = (DatagramGuard(STRICT.replace(reply_rate_per_address=Rate(3)), clock) for _ in range(2))
    peer = ("192.0.2.1", 5)
    for guard in (parent, child):
        guard.admit(peer, 10)
    reports = Reports(child)
    verdicts = [reports.may_reply(peer, 20), reports.may_reply(peer, 20)]
    assert verdicts == [True, False]
    reports._guard = parent
    reports.read()
    assert parent.withheld == 1
    assert not parent.may_reply(peer, 11), "20 of 30 bytes are gone"
    assert parent.may_reply(peer, 10)
    reports.close()
    reports.close()
    reports.read()
    assert reports.may_reply(peer, 0), "nobody reads it any more"


def test_more_reports_than_a_pipe_holds_keep_nobody_waiting() -> None:
    guard = DatagramGuard(STRICT.replace(amplification=None, reply_rate_per_address=Rate(10**6)), ManualClock())
    reports = Reports(guard)
    try:
        assert all(reports.may_reply(("192.0.2.1", 5), 1) for _ in range(5000))
        assert all(reports.may_reply(peer, 1) for peer in (("a name", 5), ("\u00e4", 5), None))
        reports.read()
        assert reports.may_reply(("2001:db8:1111:2222:3333:4444:5555:6666", 5, 0, 0), 2**40)
        reports.read()
    finally:
        reports.close()


def test_a_guarded_socket_counts_bytes_and_leaves_errors_to_the_socket() -> None:
    asked: list[tuple[Any, int]] = []
    verdict = [True]

    def may_reply(peer: Any, size: int) -> bool:
        asked.append((peer, size))
        return verdict[0]

    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer,
    ):
        peer.bind(("127.0.0.1", 0))
        peer.settimeout(SOON)
        guarded = GuardedSocket(plain, may_reply)
        assert isinstance(guarded, socket.socket) and guarded.fileno() == plain.fileno()
        there = peer.getsockname()
        wide = memoryview(b"12345678").cast("I")
        assert guarded.sendto(wide, there) == guarded.sendto(bytearray(8), 0, there) == 8
        assert guarded.sendmsg(iter([b"1234", b"5678"]), [], 0, there) == 8
        assert asked == [(there, 8)] * 3
        for wrong in (lambda: guarded.sendto("text", there), lambda: guarded.sendto(b"x"), lambda: guarded.send("x")):
            with pytest.raises(TypeError):
                wrong()
        for unconnected in (lambda: guarded.send(b"x"), lambda: guarded.sendmsg([b"x"]), lambda: guarded.sendall(b"")):
            with pytest.raises(OSError, match=r"[Dd]estination address required"):
                unconnected()
        plain.connect(there)
        asked.clear()
        assert guarded.send(b"1234") == guarded.sendmsg([b"1234"]) == 4
        assert guarded.sendall(b"1234") is None
        assert asked == [(there, 4)] * 3
        assert answers(peer) == 6
        verdict[0] = False
        assert guarded.send(b"1234") == guarded.sendmsg([b"1234"]) == guarded.sendto(b"1234", there) == 4
        assert guarded.sendall(b"1234") is None
        assert answers(peer) == 0


def test_the_flags_of_the_command() -> None:
    parser = Parser()
    configure(parser)

    def limits(*words: str) -> Limits:
        return limits_of(parser.parse_args(words))

    assert limits() == Limits()
    assert limits("--max-datagram", "8k", "--datagram-rate", "100/s", "--datagram-rate-per-ip", "10/m,20") == Limits(
        max_datagram=8192, datagram_rate=Rate(100), datagram_rate_per_address=Rate(10, 60.0, 20)
    )
    assert limits("--amplification", "1.5", "--reply-rate-per-ip", "5/s") == Limits(
        amplification=1.5, reply_rate_per_address=Rate(5)
    )
    off = limits("--amplification", "0", "--reply-rate-per-ip", "0", "--max-datagram", "0")
    assert off == Limits(amplification=None, reply_rate_per_address=None, max_datagram=None)
    for number in ("0.5", "nan", "-1", "1_0", "1e3", ""):
        with pytest.raises(UsageError):
            limits(f"--amplification={number}")
    for words in (["--max-datagram", "large"], ["--reply-rate-per-ip", "many"]):
        with pytest.raises(UsageError):
            limits(*words)


def test_a_listener_that_was_closed_before_keeps_no_server_from_starting() -> None:
    with listening("udp4://127.0.0.1:0") as (gone,), Server(echo("thread", datagram=True), gone, UDP) as _:
        pass
    closed = open_listeners("udp4://127.0.0.1:0")
    closed[0].socket.close()
    home = Home(closed)
    assert home.ports == set() and home.kernel_dropped == 0
    home.leave(closed[0])
    home.leave(closed[0])
