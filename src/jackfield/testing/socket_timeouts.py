"""Socket checks on time: a timeout in the past, now, and in the future, for every call that can wait."""

from __future__ import annotations

import errno
import random
import select
import socket as _socket_std
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from .payload import MIB, digest, pattern
from .socket_suite import BULK, SOCKET
from .sockets import Socket, SocketFactory
from .suite import NotPromised, equal, fails_with, true

__all__: list[str] = []

SOON = 0.025
"""Seconds of the timeouts that the checks wait out."""
LATE = 5.0
"""Seconds after which a timeout of `SOON` was clearly missed, also on a loaded machine."""
EARLY = 0.002
"""Seconds that a timeout may come early: clocks of a loop and of poll(2) are rounded to milliseconds."""


def reading(socket: Socket) -> dict[str, Callable[[], Any]]:
    """Every call that waits for data."""
    calls: dict[str, Callable[[], Any]] = {
        "recv": lambda: socket.recv(10),
        "recv_into": lambda: socket.recv_into(bytearray(10)),
        "recvfrom": lambda: socket.recvfrom(10),
        "recvfrom_into": lambda: socket.recvfrom_into(bytearray(10)),
    }
    if hasattr(socket, "recvmsg"):
        calls["recvmsg"] = lambda: socket.recvmsg(10)
        calls["recvmsg_into"] = lambda: socket.recvmsg_into([bytearray(10)])
    return calls


def writing(socket: Socket) -> dict[str, Callable[[], Any]]:
    """Every call that waits for room in the send buffer (sendall and sendfile among them, which send again)."""
    calls: dict[str, Callable[[], Any]] = {
        "send": lambda: socket.send(b"x" * 100),
        "sendall": lambda: socket.sendall(b"x" * 100),
    }
    if hasattr(socket, "sendmsg"):
        calls["sendmsg"] = lambda: socket.sendmsg([b"x" * 100])
    return calls


def fill(socket: Socket, peer: Socket) -> None:
    """Send until the kernel takes no more: what is in flight has settled and poll(2) says not writable."""
    for end in (socket, peer):
        for option in (_socket_std.SO_SNDBUF, _socket_std.SO_RCVBUF):
            end.setsockopt(_socket_std.SOL_SOCKET, option, 16384)
    block = bytes(65536)
    writable = select.poll()
    writable.register(socket, select.POLLOUT)
    timeout = socket.gettimeout()
    socket.settimeout(0)
    while writable.poll(10):
        for size in (65536, 1):
            try:
                while socket.send(block[:size]):
                    pass
            except BlockingIOError:
                pass
    socket.settimeout(timeout)


@contextmanager
def takes_about(seconds: float, what: str) -> Iterator[None]:
    """The body may neither end before `seconds` nor long after."""
    start = time.monotonic()
    yield
    took = time.monotonic() - start
    true(took >= seconds - EARLY, f"{what} gave up after {took:.4f} s of {seconds} s")
    true(took < seconds + LATE, f"{what} took {took:.3f} s where {seconds} s were asked for")


def expect_timeout(call: Callable[[], Any], seconds: float, what: str) -> None:
    """`call` raises TimeoutError after `seconds`."""
    with takes_about(seconds, what):
        error = fails_with(TimeoutError, call, f"{what} with a timeout of {seconds} s")
    equal(error.args, ("timed out",), f"the arguments of the TimeoutError of {what}")


@SOCKET.check
def timeouts_past(factory: SocketFactory) -> None:
    """With a timeout of 0 each call that would wait raises BlockingIOError at once."""
    with factory() as (a, b):
        fill(a, b)
        ways: list[Callable[[], None]] = [lambda: a.settimeout(0), lambda: a.setblocking(False)]
        for set_past in ways:
            a.settimeout(None)
            set_past()
            equal((a.gettimeout(), a.getblocking()), (0.0, False), "gettimeout and getblocking")
            for name, call in {**reading(a), **writing(a)}.items():
                with takes_about(0, name):
                    error = fails_with(BlockingIOError, call, f"{name} without blocking")
                equal(error.errno, errno.EAGAIN, f"errno of {name} without blocking")
        for timeout in (-1, -0.001):
            fails_with(ValueError, partial(a.settimeout, timeout), "a negative timeout")


@SOCKET.check
def timeouts_present(factory: SocketFactory) -> None:
    """With a timeout of a nanosecond each call that would wait raises TimeoutError, practically at once."""
    with factory() as (a, b):
        fill(a, b)
        a.settimeout(1e-9)
        for name, call in {**reading(a), **writing(a)}.items():
            expect_timeout(call, 1e-9, name)


@SOCKET.check
def timeouts_future_reading(factory: SocketFactory) -> None:
    """A reading call that nothing comes for raises TimeoutError after its timeout, not before."""
    with factory() as (a, b):
        a.settimeout(SOON)
        for name, call in reading(a).items():
            expect_timeout(call, SOON, name)
        b.sendall(b"late")
        equal(a.recv(10), b"late", "recv after the timeouts: nothing was lost")


@SOCKET.check
def timeouts_future_writing(factory: SocketFactory) -> None:
    """A writing call that finds no room raises TimeoutError after its timeout, not before."""
    with factory() as (a, b):
        fill(a, b)
        a.settimeout(SOON)
        for name, call in writing(a).items():
            expect_timeout(call, SOON, name)


@SOCKET.check
def timeouts_of_long_sends(factory: SocketFactory) -> None:
    """sendall and sendfile that get part of the way raise TimeoutError too; sendall's timeout covers the whole call."""
    with factory() as (a, b), tempfile.TemporaryFile() as file:
        file.truncate(BULK)  # sparse: nothing is written to a disk
        a.settimeout(SOON)
        expect_timeout(lambda: a.sendall(bytes(BULK)), SOON, "sendall of 64 MiB")
        expect_timeout(lambda: a.sendfile(file), SOON, "sendfile of 64 MiB")
        equal(a.gettimeout(), SOON, "gettimeout after sendfile")
        true(b.recv(10), "part of it arrived")

    with factory() as (a, b):
        a.settimeout(5 * SOON)
        stop = factory.signal()

        def trickle() -> None:
            while not stop.is_set():
                b.recv(10_000)
                factory.units.sleep(0.002)

        def sender() -> None:
            try:
                with takes_about(5 * SOON, "sendall to a trickling reader"):
                    fails_with(TimeoutError, lambda: a.sendall(bytes(BULK)), "sendall to a trickling reader")
            finally:
                stop.set()

        factory.together(sender, trickle)


@SOCKET.check
def timeouts_not_reached(factory: SocketFactory) -> None:
    """A call that can go on before its timeout does so at once and returns what it would without one."""
    with factory() as (a, b):
        a.settimeout(30)
        for name, call in reading(a).items():
            with takes_about(0, name):
                factory.together(call, lambda: b.sendall(b"in time"))
        fill(a, b)
        for name, call in writing(a).items():
            with takes_about(0, name):
                factory.together(call, partial(_drain, b, a))
            fill(a, b)
        equal(a.gettimeout(), 30.0, "gettimeout after all that")


def _drain(socket: Socket, sender: Socket) -> None:
    """Read all that is in flight from `sender`."""
    quiet = select.poll()
    quiet.register(socket, select.POLLIN)
    while quiet.poll(5):
        socket.recv(1 << 20)


@SOCKET.check
def timeouts_of_accept(factory: SocketFactory) -> None:
    """accept obeys the listener's timeout, and what it returns is blocking, whatever the listener's timeout."""
    with factory.listener() as listener:
        listener.settimeout(0)
        equal(fails_with(BlockingIOError, listener.accept, "accept, not blocking").errno, errno.EAGAIN, "its errno")
        listener.settimeout(SOON)
        expect_timeout(listener.accept, SOON, "accept")
        with factory.connect(listener) as near, listener.accept()[0] as far:
            equal(far.gettimeout(), _socket_std.getdefaulttimeout(), "timeout of the accepted socket")
            factory.together(lambda: near.sendall(b"x"), lambda: equal(far.recv(1), b"x", "recv"))
        listener.settimeout(None)

        def late() -> None:
            factory.connect(listener).close()

        accepted, _ = factory.together(listener.accept, late)
        accepted[0].close()


@SOCKET.check
def timeouts_of_connect(factory: SocketFactory) -> None:
    """connect to a listener that does not answer raises TimeoutError after the timeout; a good one keeps it set."""
    if factory.transport == "unix":
        raise NotPromised("a Unix connect to a full backlog says EAGAIN at once where a timeout is set (unix(7))")
    queued: list[Socket] = []
    try:
        with factory.listener(backlog=0) as listener:
            # Linux drops the SYN of a connection for which there is no place in the accept queue.
            for _ in range(8):
                try:
                    queued.append(factory.connect(listener, timeout=0.2))
                except TimeoutError:
                    break
            equal([s.gettimeout() for s in queued], [0.2] * len(queued), "timeouts of the connected")
            expect_timeout(lambda: factory.connect(listener, timeout=SOON), SOON, "connect")
    finally:
        for socket in queued:
            socket.close()


@SOCKET.check
def timeouts_of_files(factory: SocketFactory) -> None:
    """A file made of a socket with a timeout raises TimeoutError, and says afterwards that it cannot be read on."""
    with factory() as (a, b):
        a.settimeout(SOON)
        with a.makefile("rb") as file:
            b.sendall(b"half a li")
            with takes_about(SOON, "readline"):
                fails_with(TimeoutError, file.readline, "readline of half a line")
            error = fails_with(OSError, file.readline, "readline after a timeout")
            true("timed out" in str(error), f"the error says why: {error}")


@SOCKET.check
def timeouts_do_not_add_up(factory: SocketFactory) -> None:
    """Each call has its timeout to itself: after one that ran out, the next waits its full time and finds data."""
    with factory() as (a, b):
        a.settimeout(SOON)
        for _ in range(3):
            expect_timeout(lambda: a.recv(10), SOON, "recv")
        a.settimeout(None)
        equal(a.gettimeout(), None, "gettimeout after settimeout(None)")

        def later() -> None:
            factory.units.sleep(2 * SOON)
            b.sendall(b"after twice the old timeout")

        results = factory.together(lambda: a.recv(100), later)
        equal(results[0], b"after twice the old timeout", "recv after the timeout was taken away")


@SOCKET.check
def timeouts_lose_nothing(factory: SocketFactory) -> None:
    """A reader whose calls keep timing out while data trickles in gets every byte all the same."""
    data = pattern(MIB // 4)
    dice = random.Random(1)
    with factory() as (a, b):

        def writer() -> None:
            view = memoryview(data)
            while view:
                size = dice.randrange(1, 8192)
                b.sendall(view[:size])
                view = view[size:]
                factory.units.sleep(dice.random() * 0.002)

        def reader() -> str:
            seen = bytearray()
            while len(seen) < len(data):
                a.settimeout(dice.choice([1e-6, 1e-4, 1e-3]))
                try:
                    seen += a.recv(dice.randrange(1, 8192))
                except TimeoutError:
                    pass
            return digest(seen)

        results = factory.together(writer, reader)
        equal(results[1], digest(data), "hash of what came between the timeouts")
