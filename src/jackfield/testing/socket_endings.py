"""Socket checks on endings: what a unit that waits sees when the peer, another unit or a killer ends it."""

from __future__ import annotations

import errno
import os
import socket as _socket_std
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from .payload import MIB, digest, pattern, receive_all, receive_exactly
from .socket_suite import BULK, SOCKET
from .sockets import Socket, SocketFactory
from .suite import NotPromised, equal, fails_with, true

__all__ = ["reset"]

BROKEN = (ConnectionResetError, BrokenPipeError)


def reset(socket: _socket_std.socket) -> None:
    """Close so that the peer gets a reset instead of an end of stream.

    SO_LINGER with a time of 0 makes TCP send RST (socket(7)). A Unix socket resets its peer when it is
    closed with unread data.
    """
    socket.setsockopt(_socket_std.SOL_SOCKET, _socket_std.SO_LINGER, struct.pack("ii", 1, 0))
    socket.close()


@contextmanager
def held_by_a_process(socket: Socket) -> Iterator[subprocess.Popen[bytes]]:
    """Give `socket` to a new process that does nothing with it, keeping no copy; the process can be killed."""
    fd = socket.detach()
    try:
        process = subprocess.Popen(
            [sys.executable, "-S", "-E", "-c", "import signal; signal.pause()"], pass_fds=[fd], stdin=subprocess.DEVNULL
        )
    finally:
        os.close(fd)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@SOCKET.check
def sees_a_reset_in_mid_send(factory: SocketFactory) -> None:
    """A peer that resets while a large sendall is under way: the sender gets an error, not silence."""
    with factory() as (a, b):

        def sender() -> None:
            fails_with(BROKEN, lambda: a.sendall(bytes(BULK)), "sendall to a peer that resets")
            fails_with(BROKEN, lambda: a.sendall(b"more"), "a send after the reset")

        def resetter() -> None:
            receive_exactly(b, MIB)
            reset(b)

        factory.together(sender, resetter)


@SOCKET.check
def sees_a_reset_while_reading(factory: SocketFactory) -> None:
    """A peer that resets while the other end reads: ConnectionResetError."""
    with factory() as (a, b):
        waiting = factory.signal()

        def reader() -> None:
            waiting.set()
            fails_with(ConnectionResetError, lambda: a.recv(10), "recv when the peer resets")
            equal(a.recv(10), b"", "recv after the error was told")

        def resetter() -> None:
            # Unread data: what makes a Unix socket's close a reset too.
            a.sendall(b"never read")
            waiting.wait()
            reset(b)

        factory.together(reader, resetter)


@SOCKET.check
def sees_a_peer_vanish(factory: SocketFactory) -> None:
    """The process at the other end is killed while this one reads: end of stream (or a reset), at once."""
    with factory() as (a, b), held_by_a_process(b) as process:
        waiting = factory.signal()

        def reader() -> bytes:
            waiting.set()
            try:
                return a.recv(10)
            except ConnectionResetError:
                return b""

        def killer() -> None:
            waiting.wait()
            process.kill()

        equal(factory.together(reader, killer)[0], b"", "recv when the peer's process was killed")


@SOCKET.check
def sees_a_peer_vanish_in_mid_send(factory: SocketFactory) -> None:
    """The process at the other end is killed while a large sendall waits for it: the sender gets an error."""
    with factory() as (a, b), held_by_a_process(b) as process:
        sending = factory.signal()

        def sender() -> None:
            sending.set()
            fails_with(BROKEN, lambda: a.sendall(bytes(BULK)), "sendall when the peer's process was killed")

        def killer() -> None:
            sending.wait()
            factory.units.sleep(0.01)  # so that the send is well under way; the outcome does not depend on it
            process.kill()

        factory.together(sender, killer)


@SOCKET.check
def close_wakes(factory: SocketFactory) -> None:
    """A socket closed by another unit wakes the one that waits in recv, sendall or accept, with an OSError."""
    with factory() as (a, _b):
        _closed_while(factory, a, lambda: a.recv(10), "recv")
    with factory() as (a, _b):
        _closed_while(factory, a, lambda: a.sendall(bytes(BULK)), "sendall")
    with factory.listener() as listener:
        _closed_while(factory, listener, listener.accept, "accept")


def _closed_while(factory: SocketFactory, socket: Socket, body: object, what: str) -> None:
    waiting = factory.signal()

    def waiter() -> None:
        waiting.set()
        error = fails_with(OSError, body, f"{what} on a socket closed by another unit")  # type: ignore[arg-type]
        equal(error.errno, errno.EBADF, f"errno of the {what} that was woken")

    def closer() -> None:
        waiting.wait()
        factory.units.sleep(0.005)  # so that the other surely waits; closed before, it gets the same error
        socket.close()

    factory.together(waiter, closer)


@SOCKET.check
def refuses_calls_after_close(factory: SocketFactory) -> None:
    """A closed socket has fileno -1, every call fails with EBADF, and closing again does nothing."""
    with factory() as (a, b):
        a.close()
        a.close()
        equal(a.fileno(), -1, "fileno after close")
        calls = {
            "recv": lambda: a.recv(1),
            "recv_into": lambda: a.recv_into(bytearray(1)),
            "send": lambda: a.send(b"x"),
            "sendall": lambda: a.sendall(b"x"),
            "accept": a.accept,
            "shutdown": lambda: a.shutdown(_socket_std.SHUT_RDWR),
            "getpeername": a.getpeername,
        }
        for name, call in calls.items():
            equal(fails_with(OSError, call, f"{name} after close").errno, errno.EBADF, f"errno of {name} after close")
        equal(b.recv(10), b"", "what the peer reads")


@SOCKET.check
def detaches_and_duplicates(factory: SocketFactory) -> None:
    """dup gives a second socket on the same connection; detach hands the descriptor out and leaves a closed socket."""
    with factory() as (a, b):
        with a.dup() as twin:
            a.close()
            factory.together(lambda: twin.sendall(b"by the twin"), lambda: equal(b.recv(20), b"by the twin", "recv"))
            fd = twin.detach()
            equal(twin.fileno(), -1, "fileno after detach")
        with factory.module.socket(fileno=fd) as adopted:
            equal(adopted.family, b.family, "family found from the descriptor")
            factory.together(lambda: b.sendall(b"back"), lambda: equal(adopted.recv(20), b"back", "recv"))
        equal(b.recv(10), b"", "what the peer reads when the last copy is closed")


@SOCKET.check
def allows_concurrent_methods(factory: SocketFactory) -> None:
    """One unit reads, one writes, and others ask everything else of the same socket at the same time."""
    data = pattern(4 * MIB)
    with factory() as (a, b):
        busy = [True]

        def asker() -> None:
            while busy:
                true(a.fileno() >= 0, "fileno")
                equal(a.gettimeout(), None, "gettimeout")
                a.getsockname()
                a.getpeername()
                a.setsockopt(_socket_std.SOL_SOCKET, _socket_std.SO_KEEPALIVE, 1)
                true(a.getsockopt(_socket_std.SOL_SOCKET, _socket_std.SO_KEEPALIVE), "SO_KEEPALIVE")
                repr(a)
                factory.units.sleep(0.0005)

        def conversation() -> None:
            there, back, far = factory.together(
                lambda: a.sendall(data), lambda: digest(receive_exactly(a, len(data))), partial(_bounce, b, len(data))
            )
            busy.clear()
            equal((there, back, far), (None, digest(data), None), "the data that was bounced")

        factory.together(conversation, asker, asker)


def _bounce(socket: Socket, size: int) -> None:
    left = size
    while left:
        part = socket.recv(min(left, 65536))
        true(part, "the stream ended early")
        socket.sendall(part)
        left -= len(part)


@SOCKET.check
def survives_a_cancelled_wait(factory: SocketFactory) -> None:
    """A unit killed while it waits in recv or sendall ends there, and the socket goes on working for others."""
    if not factory.units.can_kill:
        raise NotPromised(f"{factory.units.name} cannot be killed")
    with factory() as (a, b):
        reached: list[str] = []

        def waiter() -> None:
            reached.append("waits")
            try:
                a.recv(10)
                reached.append("went on")
            finally:
                reached.append("ends")

        unit = factory.units.start(waiter)
        factory.units.sleep(0)
        while not reached:
            factory.units.sleep(0.001)
        unit.kill()
        _ended(unit)
        equal(reached, ["waits", "ends"], "the steps of the killed unit")
        results = factory.together(lambda: a.recv(10), lambda: b.sendall(b"still here"))
        equal(results[0], b"still here", "recv after another's recv was cancelled")

        sender = factory.units.start(lambda: a.sendall(bytes(BULK)))
        factory.units.sleep(0.01)
        sender.kill()
        _ended(sender)
        a.close()
        taken = len(receive_all(b))
        true(0 < taken < BULK, f"a cancelled sendall had sent {taken} bytes")


def _ended(unit: object) -> None:
    try:
        unit.join(10)  # type: ignore[attr-defined]
    except TimeoutError:
        raise AssertionError("a killed unit still runs after 10 s") from None
    except BaseException:  # whatever ended it, it ended: GreenExit may or may not be handed on by a join
        pass
