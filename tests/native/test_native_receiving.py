"""What is received and what is counted, in every way that a socket can be used, is the same on both twins."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from twin_support import pair

from jackfield import run
from jackfield import socket as jackfield_socket
from jackfield.reactor import drive
from jackfield.streams import AsyncSocket

Socket = jackfield_socket.socket


def plainly(sock: Socket, size: int) -> bytes:
    return sock.recv(size)


def greenly(sock: Socket, size: int) -> bytes:
    """The second of two, so that the quick way is taken, which only a known socket has."""
    return run(lambda: sock.recv(1) + sock.recv(size - 1)) if size > 1 else run(sock.recv, size)  # type: ignore[no-any-return]


def by_a_coroutine(sock: Socket, size: int) -> bytes:
    async def main() -> Any:
        stream = AsyncSocket(sock)

        async def handler() -> bytes:
            if size == 1:
                return await stream.recv(1)
            return await stream.recv(1) + await stream.recv(size - 1)

        return await drive(handler())

    return asyncio.run(main())  # type: ignore[no-any-return]


ways = pytest.mark.parametrize("way", [plainly, greenly, by_a_coroutine])
Way = Callable[[Socket, int], bytes]


@ways
@pytest.mark.parametrize("size", [1, 2, 8191, 8192, 8193, 65536, 65537, 1 << 20])
@pytest.mark.parametrize("there", [1, 8192, 8193, 65536, 65537])
def test_every_size_around_where_the_buffers_change(way: Way, size: int, there: int) -> None:
    data = bytes(range(256)) * (there // 256) + bytes(there % 256)
    with pair() as (left, right):
        right.sendall(data)
        right.shutdown(jackfield_socket.SHUT_WR)
        received = b""
        while len(received) < there and (part := way(left, min(size, 1 << 20))):
            assert len(part) <= size
            received += part
            if size <= 2:
                break  # one after the other would take long, and shows no more
        assert received == data[: len(received)]
        assert len(received) == there or size <= 2
        assert left.received == len(received)
        assert right.sent == there


@ways
def test_large_and_small_in_turn(way: Way) -> None:
    """After a large read the next goes straight into the object it returns, and after a small one no more."""
    with pair() as (left, right):
        for size in (10_000, 2, 9_000, 9_000, 2, 2, 8_192):
            right.sendall(b"x" * size)
            taken = b""
            while len(taken) < size:
                taken += way(left, 60_000 if size - len(taken) > 1 else 1)
            assert taken == b"x" * size
        assert left.received == right.sent == 10_000 + 2 + 9_000 + 9_000 + 2 + 2 + 8_192


@pytest.mark.parametrize("kind", ["green", "driven"])
def test_what_is_left_when_the_peer_has_gone(kind: str) -> None:
    """The end of a stream is told once; what came before it is read to the last byte."""
    with pair() as (left, right):

        def greenly() -> list[bytes]:
            right.sendall(b"-")
            parts = [left.recv(10)]
            right.sendall(b"0123456789")
            right.close()
            while part := left.recv(4):
                parts.append(part)
            return [*parts, left.recv(4), left.recv(4)]

        async def driven() -> list[bytes]:
            stream = AsyncSocket(left)
            right.sendall(b"-")
            parts = [await stream.recv(10)]
            right.sendall(b"0123456789")
            right.close()
            while part := await stream.recv(4):
                parts.append(part)
            return [*parts, await stream.recv(4), await stream.recv(4)]

        async def main() -> Any:
            return await drive(driven())

        parts = run(greenly) if kind == "green" else asyncio.run(main())
        assert parts == [b"-", b"0123", b"4567", b"89", b"", b""]
        assert left.received == 11


@pytest.mark.parametrize("size", [0, -1, 1 << 40, 1 << 62, 1 << 64, True, 1.5, "1", None])
@pytest.mark.parametrize("kind", ["green", "driven"])
def test_absurd_sizes_are_answered_as_by_the_standard_library(kind: str, size: Any) -> None:
    def outcome(receive: Callable[[], Any]) -> Any:
        try:
            return receive()
        except Exception as error:
            return type(error)

    with pair() as (left, right), pair() as (model, peer):
        for sender in (right, peer):
            sender.sendall(b"xyz")

        def greenly() -> Any:
            assert left.recv(1) == b"x"
            return outcome(lambda: left.recv(size))

        async def main() -> Any:
            stream = AsyncSocket(left)

            async def handler() -> Any:
                assert await stream.recv(1) == b"x"
                try:
                    return await stream.recv(size)
                except Exception as error:
                    return type(error)

            return await drive(handler())

        assert model.recv(1) == b"x"
        expected = outcome(lambda: model.recv(size))
        assert (run(greenly) if kind == "green" else asyncio.run(main())) == expected


# -- counts ----------------------------------------------------------------------------------------------------------


def test_counted_by_whoever_uses_it_in_turn() -> None:
    """One socket, on a plain thread, on the loops of two green threads, of a coroutine, and switched in between."""
    with pair() as (left, right):
        total = 0
        for way in (plainly, greenly, by_a_coroutine, greenly, by_a_coroutine, plainly):
            right.sendall(b"12345")
            total += len(way(left, 5))
            left.settimeout(5.0 if total % 2 else None)
        assert total == 30
        assert (left.received, right.sent) == (total, total)


def test_asked_for_while_it_is_used() -> None:
    with pair() as (left, right):
        seen = []

        def main() -> None:
            for number in range(200):  # past the streaks after which a turn is given up
                right.sendall(b"ab")
                assert left.recv(10) == b"ab"
                if number % 7 == 0:
                    seen.append((left.received, right.sent, number))

        run(main)
        assert all(received == sent == 2 * (number + 1) for received, sent, number in seen)
        assert (left.received, right.sent) == (400, 400)


@pytest.mark.parametrize("end", ["close", "detach"])
def test_what_was_counted_outlives_the_socket(end: str) -> None:
    with pair() as (left, right):

        def main() -> None:
            right.sendall(b"abc")
            left.recv(10)
            right.sendall(b"de")
            left.recv(10)
            if end == "close":
                left.close()
            else:
                jackfield_socket.close(left.detach())

        run(main)
        assert (left.received, right.sent) == (5, 5)


def test_set_by_hand_it_counts_on_from_there() -> None:
    with pair() as (left, right):

        def main() -> None:
            for _ in range(2):
                right.sendall(b"abc")
                left.recv(10)
            left.received = 100
            right.sent = 0
            right.sendall(b"de")
            left.recv(10)

        run(main)
        assert (left.received, right.sent) == (102, 2)


def test_an_error_counts_nothing() -> None:
    with pair() as (left, right):

        def main() -> None:
            right.sendall(b"abc")
            left.recv(10)
            right.close()
            assert left.recv(10) == b""
            with pytest.raises(OSError):
                for _ in range(1000):
                    left.sendall(b"into the void")

        run(main)
        assert left.received == 3
        assert left.sent % len(b"into the void") == 0


def test_what_was_only_looked_at_counts_later() -> None:
    with pair() as (left, right):

        def main() -> None:
            right.sendall(b"abc")
            assert left.recv(10) == b"abc"
            right.sendall(b"defg")
            assert left.recv(2, jackfield_socket.MSG_PEEK) == b"de"
            assert left.received == 3
            assert left.recv(10, 0) == b"defg"

        run(main)
        assert left.received == 7


def test_two_reactors_in_two_threads_at_once() -> None:
    """They share the buffer that small reads go through, and the awaitables that are used again."""
    rounds, wrong = 300, []

    def echo(letter: bytes) -> None:
        async def main() -> None:
            with pair() as (left, right):
                near, far = AsyncSocket(left), AsyncSocket(right)

                async def there() -> None:
                    while data := await near.recv(100):
                        await near.sendall(data * 2)

                async def here() -> None:
                    for _ in range(rounds):
                        await far.sendall(letter * 10)
                        data = b""
                        while len(data) < 20:
                            data += await far.recv(100)
                        if data != letter * 20:
                            wrong.append(data)
                    right.shutdown(jackfield_socket.SHUT_WR)

                await asyncio.gather(drive(there()), drive(here()))
                assert (left.received, left.sent, right.received) == (rounds * 10, rounds * 20, rounds * 20)

        asyncio.run(main())

    threads = [threading.Thread(target=echo, args=(letter,)) for letter in (b"a", b"b", b"c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
