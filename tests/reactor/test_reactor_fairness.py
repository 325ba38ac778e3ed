"""One connection that always has something to do, beside others that seldom ask: they get their turn, by count."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from reactor_support import breaks_the_pure_twin, pair, turns, until

from jackfield import socket
from jackfield.errors import MisuseError
from jackfield.reactor import await_, current_reactor, drive, run, sleep, spawn
from jackfield.reactor.patience import STREAK
from jackfield.streams import AsyncSocket

#: Operations of the greedy one between two turns of the others: the streak itself, and what little is around it.
MOST = STREAK + 2

#: Operations that the greedy one makes in all.
ALL = 20 * STREAK


@contextlib.contextmanager
def endless(kind: str) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A pair of which the left end never has to wait for the right one, for a while: it holds enough for a test."""
    family, _, type_name = kind.partition("-")
    number = {"stream": socket.SOCK_STREAM, "datagram": socket.SOCK_DGRAM, "packets": socket.SOCK_SEQPACKET}[type_name]
    with contextlib.ExitStack() as stack:
        if family == "unix":
            left, right = socket.socketpair(socket.AF_UNIX, number)
        elif type_name == "stream":
            left, right = socket._fallback_socketpair()
        else:
            left, right = (socket.socket(socket.AF_INET, number) for _ in "ab")
            for sock in (left, right):
                sock.bind(("127.0.0.1", 0))
            left.connect(right.getsockname())
            right.connect(left.getsockname())
        stack.callback(left.close)
        stack.callback(right.close)
        yield left, right


KINDS = ["unix-stream", "unix-datagram", "unix-packets", "inet-stream", "inet-datagram"]


class Refilled:
    """Keeps the left end supplied: each operation is followed by one byte or datagram more."""

    def __init__(self, left: Any, right: socket.socket) -> None:
        self.left, self.right = left, right
        self.operations = 0
        for _ in range(8):
            self.supply()

    def supply(self) -> None:
        with contextlib.suppress(BlockingIOError):  # where the operations take nothing
            socket._socket_std.socket.send(self.right, b"x", socket.MSG_DONTWAIT)

    def count(self) -> bool:
        """After an operation; False when the test has seen enough."""
        self.operations += 1
        self.supply()
        return self.operations < ALL


READS: dict[str, Callable[[Any], Any]] = {
    "recv a byte": lambda sock: sock.recv(1),
    "recv much": lambda sock: sock.recv(65536),
    "recv_into": lambda sock: sock.recv_into(bytearray(1)),
    "recvfrom": lambda sock: sock.recvfrom(100),
}
GREEN_READS = READS | {
    "recvfrom_into": lambda sock: sock.recvfrom_into(bytearray(100)),
    "recvmsg": lambda sock: sock.recvmsg(100),
    "recvmsg_into": lambda sock: sock.recvmsg_into([bytearray(100)]),
    "recv peek": lambda sock: sock.recv(1, socket.MSG_PEEK),
}


class Turns:
    """The others: whenever they have a turn they note how many operations the greedy one has made meanwhile."""

    def __init__(self) -> None:
        self.greedy: Any = None
        self.over = False
        self.longest = self._last = 0

    def note(self) -> None:
        if self.greedy is not None:
            made = self.greedy.operations
            self.longest, self._last = max(self.longest, made - self._last), made

    def check(self) -> None:
        self.note()
        assert self.greedy.operations >= ALL
        assert self.longest <= MOST, f"the others waited for {self.longest} operations"


def others_as_green_threads(others: Turns) -> Any:
    def ask() -> None:
        while not others.over:
            others.note()
            sleep(0)

    return [spawn(ask) for _ in range(3)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("read", GREEN_READS)
def test_a_green_thread_that_always_finds_data(kind: str, read: str) -> None:
    def main() -> None:
        with endless(kind) as (left, right):
            others = Turns()
            asking = others_as_green_threads(others)

            def greedy() -> None:
                mine = others.greedy = Refilled(left, right)
                while True:
                    GREEN_READS[read](left)
                    if not mine.count():
                        break

            spawn(greedy).join()
            others.over = True
            for one in asking:
                one.join()
            others.check()

    run(main)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("read", READS)
def test_a_coroutine_that_always_finds_data(kind: str, read: str) -> None:
    def main() -> None:
        with endless(kind) as (left, right):
            others = Turns()

            async def ask() -> None:
                while not others.over:
                    others.note()
                    await asyncio.sleep(0)

            async def greedy() -> None:
                sock = AsyncSocket(left)
                mine = others.greedy = Refilled(sock, right)
                while True:
                    await READS[read](sock)
                    if not mine.count():
                        break
                others.over = True

            asking = [drive(ask()), current_reactor().loop.create_task(ask())]
            task = drive(greedy())
            for one in (*asking, task):
                await_(one)
            others.check()

    run(main)


SENDS: dict[str, Callable[[Any, Any], Any]] = {
    "sendall": lambda sock, peer: sock.sendall(b"x"),
    "sendall of a view": lambda sock, peer: sock.sendall(memoryview(b"x")),
    "send": lambda sock, peer: sock.send(b"x"),
    "sendto": lambda sock, peer: sock.sendto(b"x", peer),
}


@pytest.mark.parametrize("how", ["green", "async"])
@pytest.mark.parametrize("send", SENDS)
def test_a_sender_whose_peer_always_takes_everything(how: str, send: str) -> None:
    """To a datagram socket whose queue is emptied on the spot: no send ever has to wait."""

    def main() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as left, socket.socket(type=socket.SOCK_DGRAM) as right:
            right.bind(("127.0.0.1", 0))
            if send != "sendto":
                left.connect(right.getsockname())
            others = Turns()
            asking = others_as_green_threads(others)

            class Sent:
                operations = 0

            others.greedy = Sent

            def green() -> None:
                while Sent.operations < ALL:
                    SENDS[send](left, right.getsockname())
                    Sent.operations += 1
                    socket._socket_std.socket.recv(right, 10)

            async def coroutine() -> None:
                sock = AsyncSocket(left)
                while Sent.operations < ALL:
                    await SENDS[send](sock, right.getsockname())
                    Sent.operations += 1
                    socket._socket_std.socket.recv(right, 10)

            if how == "green":
                spawn(green).join()
            else:
                await_(drive(coroutine()))
            others.over = True
            for one in asking:
                one.join()
            others.check()

    run(main)


def test_a_listener_with_an_endless_queue() -> None:
    def main() -> None:
        with contextlib.ExitStack() as stack:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=4 * STREAK))
            for _ in range(2 * STREAK):
                client = stack.enter_context(socket._socket_std.socket())
                client.connect(listener.getsockname())

            class Accepted:
                operations = 0

            others = Turns()
            others.greedy = Accepted
            asking = others_as_green_threads(others)
            for _ in range(2 * STREAK):
                stack.enter_context(listener.accept()[0])
                Accepted.operations += 1
            others.over = True
            for one in asking:
                one.join()
            assert others.longest <= MOST

    run(main)


def test_a_reader_that_ignores_the_end_of_the_stream_does_not_hold_the_loop() -> None:
    """A fault of its own, but not one that the others are to pay for."""

    def main() -> None:
        with pair(tcp=True) as (left, right):
            right.close()
            others = Turns()
            asking = others_as_green_threads(others)

            class Read:
                operations = 0

            others.greedy = Read

            def ignores() -> None:
                while Read.operations < ALL:
                    assert left.recv(100) == b""
                    Read.operations += 1

            spawn(ignores).join()
            others.over = True
            for one in asking:
                one.join()
            others.check()

    run(main)


def test_those_who_wait_for_data_are_served_beside_it() -> None:
    """Not only who asks for a turn: who waits in the poll set has its event handed out in time."""

    def main() -> None:
        with pair() as (left, right), contextlib.ExitStack() as stack:
            pairs = [stack.enter_context(pair()) for _ in range(10)]
            waited: list[int] = []

            def seldom(mine: socket.socket) -> None:
                mine.recv(10)
                waited.append(greedy_one.operations - asked)

            readers = [spawn(seldom, mine) for mine, _ in pairs]
            turns()
            greedy_one = Refilled(left, right)
            asked = 0

            def greedy() -> None:
                nonlocal asked
                while True:
                    left.recv(1)
                    if greedy_one.operations == 3 * STREAK:
                        asked = greedy_one.operations
                        for _, peer in pairs:
                            peer.send(b"now")
                    if not greedy_one.count():
                        break

            spawn(greedy).join()
            for reader in readers:
                reader.join()
            assert len(waited) == 10
            assert max(waited) <= 2 * MOST

    run(main)


def test_two_green_threads_that_read_one_socket_are_both_named() -> None:
    def main() -> None:
        with pair() as (left, right):

            def the_first() -> bytes:
                return left.recv(10)

            def the_second() -> bytes:
                return left.recv(10)

            first = spawn(the_first)
            turns()
            with pytest.raises(MisuseError, match=r"the_second.* would read .*the_first.* waits to read.*sync\.Queue"):
                spawn(the_second).result()
            right.send(b"for the first")
            assert first.result() == b"for the first"[:10]
            first = spawn(left.sendall, bytes(10_000_000))
            until(lambda: left._registered is not None and left._registered.writer is first)
            with pytest.raises(MisuseError, match=r"would write .* waits to write"):
                spawn(left.sendall, bytes(10_000_000)).result()
            first.kill()

    run(main)


def test_a_socket_on_which_a_green_thread_of_another_thread_waits() -> None:
    import threading

    def main() -> None:
        with pair() as (left, _):
            waiting = spawn(left.recv, 10)
            turns()
            errors: list[BaseException] = []

            def elsewhere() -> None:
                try:
                    run(left.recv, 10)
                except MisuseError as error:
                    errors.append(error)

            thread = threading.Thread(target=elsewhere)
            thread.start()
            thread.join()
            assert "another thread waits" in str(errors[0])
            assert not waiting.done
            waiting.kill()

    run(main)


@breaks_the_pure_twin
def test_a_greedy_one_that_never_gives_its_turn_away_would_be_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broken case: without the streak."""
    monkeypatch.setattr("jackfield.reactor.patience.STREAK", 10**9)
    with pytest.raises(AssertionError, match="the others waited for"):
        test_a_green_thread_that_always_finds_data("unix-stream", "recv a byte")
