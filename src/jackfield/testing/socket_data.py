"""Socket checks on data: every byte arrives, once and in order, whichever call carries it."""

from __future__ import annotations

import os
import socket as _socket_std
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from typing import Any

from .payload import MIB, digest, pattern, receive_all, receive_exactly, receive_slowly
from .socket_suite import BULK, SOCKET
from .sockets import Socket, SocketFactory
from .suite import NotPromised, equal, fails_with, true

__all__: list[str] = []


def echo(socket: Socket) -> None:
    """Send back what comes until the peer's end of stream, then close."""
    while data := socket.recv(65536):
        socket.sendall(data)
    socket.close()


@SOCKET.check
def echoes(factory: SocketFactory) -> None:
    """What one end sends comes back from the other, whatever its size."""
    with factory() as (a, b):

        def client() -> None:
            for size in (1, 2, 1000, 65536, 65537, 300_000):
                message = pattern(size)
                a.sendall(message)
                equal(receive_exactly(a, size), message, f"echo of {size} bytes")
            a.shutdown(_socket_std.SHUT_WR)
            equal(a.recv(1), b"", "after the peer's end")

        factory.together(client, partial(echo, b))


@SOCKET.check
def ping_pong(factory: SocketFactory) -> None:
    """Five hundred small messages in turn, each waited for on both sides."""
    with factory() as (a, b):

        def player(socket: Socket, serves: bool) -> None:
            for turn in range(500):
                message = turn.to_bytes(8, "big")
                if serves:
                    socket.sendall(message)
                equal(receive_exactly(socket, 8), message, f"turn {turn}")
                if not serves:
                    socket.sendall(message)

        factory.together(partial(player, a, True), partial(player, b, False))


@SOCKET.check
def half_closes(factory: SocketFactory) -> None:
    """After shutdown(SHUT_WR) the peer reads to the end of stream and can still answer."""
    with factory() as (a, b):

        def asks() -> None:
            a.sendall(b"question")
            a.shutdown(_socket_std.SHUT_WR)
            equal(receive_all(a), b"answer to question", "the answer after the half-close")
            equal(a.recv(10), b"", "a second read at the end of stream")
            fails_with(BrokenPipeError, lambda: a.sendall(b"more"), "a send after shutdown(SHUT_WR)")

        def answers() -> None:
            question = receive_all(b)
            b.sendall(b"answer to " + question)
            b.close()

        factory.together(asks, answers)


@SOCKET.check
def sendall_to_a_slow_reader(factory: SocketFactory) -> None:
    """One sendall of 64 MiB to a reader that rests on the way: all of it arrives, in order."""
    data = pattern(BULK)
    with factory() as (a, b):

        def sender() -> None:
            a.sendall(data)
            a.shutdown(_socket_std.SHUT_WR)

        results = factory.together(sender, lambda: receive_slowly(b, BULK, factory.units.sleep))
        equal(results[1], digest(data), "hash of the 64 MiB")
        equal(b.recv(1), b"", "after the last byte")


@SOCKET.check
def sends_in_parts(factory: SocketFactory) -> None:
    """send may take a part, says how much, and a loop over it carries everything."""
    data = memoryview(pattern(16 * MIB))
    with factory() as (a, b):
        # With a timeout, because a send that may block for ever does not return before all is taken (send(2)).
        a.settimeout(30)
        a.setsockopt(_socket_std.SOL_SOCKET, _socket_std.SO_SNDBUF, 65536)

        def sender() -> int:
            sent, parts = 0, 0
            while sent < len(data):
                taken = a.send(data[sent:])
                true(0 < taken <= len(data) - sent, f"send said it took {taken} of {len(data) - sent} bytes")
                sent += taken
                parts += 1
            a.shutdown(_socket_std.SHUT_WR)
            return parts

        results = factory.together(sender, lambda: receive_slowly(b, len(data), factory.units.sleep))
        equal(results[1], digest(data), "hash of what was sent in parts")
        equal(b.recv(1), b"", "after the last byte")
        true(results[0] > 1, "16 MiB went into a buffer of 64 KiB at one go")


@SOCKET.check
def flows_both_ways(factory: SocketFactory) -> None:
    """8 MiB in each direction at the same time, by one reader and one writer at each end."""
    data = pattern(8 * MIB)
    with factory() as (a, b):
        results = factory.together(
            lambda: a.sendall(data),
            lambda: b.sendall(data),
            lambda: digest(receive_exactly(a, len(data))),
            lambda: digest(receive_exactly(b, len(data))),
        )
        equal(results[2:], [digest(data)] * 2, "hashes of the two directions")


@SOCKET.check
def receives_into_buffers(factory: SocketFactory) -> None:
    """recv_into and recvfrom_into fill the caller's buffer, no further than told, and say how much they did."""
    with factory() as (a, b):

        def reader() -> None:
            buffer = bytearray(b"." * 10)
            equal(b.recv_into(buffer, 4), 4, "recv_into of at most 4")
            equal(bytes(buffer), b"0123......", "the buffer")
            equal(b.recv_into(memoryview(buffer)[6:]), 4, "recv_into of a view of 4")
            equal(bytes(buffer), b"0123..4567", "the buffer")
            count, _address = b.recvfrom_into(buffer, 1)
            equal((count, bytes(buffer)), (1, b"8123..4567"), "recvfrom_into")
            equal(b.recv(100)[:1], b"9", "recv of the rest")
            fails_with(ValueError, lambda: b.recv(-1), "recv of a negative size")

        factory.together(reader, lambda: a.sendall(b"0123456789"))


@SOCKET.check
def scatters_and_gathers(factory: SocketFactory) -> None:
    """sendmsg sends several buffers as one, recvmsg and recvmsg_into read into several."""
    factory.needs("recvmsg")
    with factory() as (a, b):

        def reader() -> None:
            data, ancillary, flags, _address = b.recvmsg(6)
            equal((data, ancillary), (b"one tw", []), "recvmsg of at most 6")
            equal(flags & _socket_std.MSG_TRUNC, 0, "the truncation flag of a stream")
            first, second = bytearray(2), bytearray(8)
            count, *_rest = b.recvmsg_into([first, second])
            equal((count, bytes(first), bytes(second[:6])), (8, b"o ", b"three."), "recvmsg_into of two buffers")

        equal(a.sendmsg([b"one ", bytearray(b"two "), memoryview(b"three.")]), 14, "what sendmsg returns")
        factory.together(reader)
        factory.together(reader, lambda: a.sendmsg([b"one two ", b"three."]))


@SOCKET.check
def passes_descriptors(factory: SocketFactory) -> None:
    """Over a Unix socket, sendmsg and recvmsg hand a descriptor to the other side."""
    factory.needs("recvmsg")
    with factory() as (a, b):
        if a.family != _socket_std.AF_UNIX:
            raise NotPromised("only Unix sockets pass descriptors (unix(7))")
        reading, writing = os.pipe()
        try:

            def receiver() -> None:
                data, ancillary, _flags, _address = b.recvmsg(10, _socket_std.CMSG_SPACE(4))
                equal((data, len(ancillary)), (b"take", 1), "the message with a descriptor")
                taken = int.from_bytes(ancillary[0][2][:4], sys.byteorder)
                os.write(taken, b"through the copy")
                os.close(taken)

            rights = (_socket_std.SOL_SOCKET, _socket_std.SCM_RIGHTS, writing.to_bytes(4, sys.byteorder))
            factory.together(receiver, lambda: a.sendmsg([b"take"], [rights]))
            equal(os.read(reading, 100), b"through the copy", "what came through the descriptor that was passed")
        finally:
            os.close(reading)
            os.close(writing)


@SOCKET.check
def makes_files(factory: SocketFactory) -> None:
    """makefile reads lines and writes buffered; the connection stays open until file and socket are both closed."""
    with factory() as (a, b):

        def client() -> None:
            with a.makefile("rw", encoding="utf-8", newline="\n") as file:
                a.close()
                for line in ("first", "zweite – Zeile", "x" * 100_000):
                    file.write(line + "\n")
                    file.flush()
                    equal(file.readline(), line.upper() + "\n", "the line that came back")

        def server() -> None:
            with b.makefile("rb") as lines, b.makefile("wb", buffering=0) as out:
                for line in lines:
                    rest = line.decode().upper().encode()
                    while rest:
                        rest = rest[out.write(rest) or 0 :]

        factory.together(client, server)


@SOCKET.check
def peeks(factory: SocketFactory) -> None:
    """MSG_PEEK shows what is there and leaves it."""
    with factory() as (a, b):

        def reader() -> None:
            equal(b.recv(3, _socket_std.MSG_PEEK), b"pee", "the first look")
            equal(b.recv(100, _socket_std.MSG_PEEK), b"peekaboo", "the second look")
            equal(b.recv(100), b"peekaboo", "the read after two looks")

        factory.together(reader, lambda: a.sendall(b"peekaboo"))


@SOCKET.check
def waits_for_all(factory: SocketFactory) -> None:
    """MSG_WAITALL on a blocking socket returns the whole size asked for, also when it comes in pieces."""
    with factory() as (a, b):

        def writer() -> None:
            for piece in (b"in ", b"three ", b"pieces"):
                a.sendall(piece)
                factory.units.sleep(0.005)

        results = factory.together(lambda: b.recv(15, _socket_std.MSG_WAITALL), writer)
        equal(results[0], b"in three pieces", "recv with MSG_WAITALL")


@SOCKET.check
def sends_nothing(factory: SocketFactory) -> None:
    """Sending no bytes is no error, and the peer notices nothing."""
    with factory() as (a, b):

        def sender() -> None:
            equal(a.send(b""), 0, "send of nothing")
            a.sendall(b"")
            a.sendall(b"something")

        results = factory.together(sender, lambda: b.recv(100))
        equal(results[1], b"something", "the first bytes that came")


@SOCKET.check
def carries_files(factory: SocketFactory) -> None:
    """sendfile sends a file from an offset, counts what it sent and leaves the file's position after it."""
    size, offset, count = 5 * MIB, 1_000_003, 3 * MIB + 17
    data = pattern(size)
    with factory() as (a, b), tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()

        def send(wanted: int | None) -> Callable[[], object]:
            return lambda: (a.sendfile(file, offset, wanted), file.tell())

        def read(wanted: int) -> Callable[[], str]:
            return lambda: receive_slowly(b, wanted, factory.units.sleep)

        results = factory.together(send(count), read(count))
        equal(results[0], (count, offset + count), "(sent, position) after sendfile with a count")
        equal(results[1], digest(memoryview(data)[offset : offset + count]), "hash of the part of the file")
        results = factory.together(send(None), read(size - offset))
        equal(results[0], (size - offset, size), "(sent, position) after sendfile without a count")
        equal(results[1], digest(memoryview(data)[offset:]), "hash of the file from the offset on")
        fails_with(ValueError, lambda: a.sendfile(file, 0, 0), "sendfile with a count of 0")


@SOCKET.check
def receives_files(factory: SocketFactory) -> None:
    """recvfile, the twin of sendfile, writes what comes into a file, up to a count or to the end of stream."""
    factory.needs("recvfile")
    size, count = 5 * MIB, 2 * MIB + 3
    data = pattern(size)
    with factory() as (a, b), tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as target:
        source.write(data)
        source.flush()

        def sender() -> None:
            a.sendfile(source)
            a.shutdown(_socket_std.SHUT_WR)

        def receiver() -> None:
            end: Any = b  # recvfile is Jackfield's own: the standard library's type does not know it
            equal(end.recvfile(target, 0, count), count, "recvfile with a count")
            equal(end.recvfile(target, count), size - count, "recvfile to the end")

        factory.together(sender, receiver)
        target.seek(0)
        equal(digest(target.read()), digest(data), "hash of the file that came")
