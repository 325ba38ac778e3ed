"""Server checks over streams. The clients are the standard library's sockets, in threads."""

from __future__ import annotations

import contextlib
import socket as _socket_std
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from .clients import connect
from .payload import MIB, digest, pattern, pattern_digest, receive_all, receive_exactly, receive_slowly
from .server_handlers import FAIL
from .server_suite import BULK, CLIENTS, STREAM_SERVER
from .servers import STOP_SECONDS, ServerFactory
from .socket_endings import held_by_a_process, reset
from .suite import NotPromised, equal, fails_with, true
from .units import ThreadUnits

__all__ = ["echo_once", "end_of"]


def echo_once(client: _socket_std.socket, message: bytes = b"hello") -> None:
    """Send `message`, and expect it back."""
    client.sendall(message)
    equal(receive_exactly(client, len(message)), message, "the echo")


def end_of(client: _socket_std.socket) -> None:
    """Expect that the server ended the connection: end of stream or a reset."""
    try:
        equal(client.recv(100), b"", "what came where the connection should have ended")
    except ConnectionResetError:
        pass


def at_once(count: int, body: Callable[[int], None]) -> None:
    """Run `body(0)` … `body(count - 1)` in as many threads."""
    ThreadUnits().together(*[lambda i=i: body(i) for i in range(count)])


@contextmanager
def still_serves(address: str, factory: ServerFactory) -> Iterator[None]:
    """A connection made before the body (where several are served at once) and one made after it both work."""
    if factory.concurrent:
        with connect(address) as old:
            echo_once(old, b"before")
            yield
            echo_once(old, b"after")
    else:
        yield
    with connect(address) as new:
        echo_once(new, b"new")


@STREAM_SERVER.check
def echoes_to_many_clients(factory: ServerFactory) -> None:
    """20 clients at once, 5 exchanges each of up to 40 kB: each gets its own bytes back."""
    with factory("echo") as address:

        def client(number: int) -> None:
            with connect(address) as socket:
                for turn in range(5):
                    echo_once(socket, f"{number}.{turn} ".encode() * (1 + turn * 2000))

        at_once(CLIENTS, client)


@STREAM_SERVER.check
def answers_after_half_close(factory: ServerFactory) -> None:
    """The handler reads to the client's end of stream and answers it after."""
    data = pattern(3 * MIB)
    with factory("digest") as address, connect(address) as client:
        client.sendall(data)
        client.shutdown(_socket_std.SHUT_WR)
        equal(receive_all(client), digest(data).encode(), "the answer after the half-close")


@STREAM_SERVER.check
def serves_a_slow_reader(factory: ServerFactory) -> None:
    """64 MiB in one sendall of the handler to a client that rests on the way: all arrives, and others are served."""
    with factory("bulk") as address, connect(address) as slow:
        slow.sendall(BULK.to_bytes(8, "big"))
        equal(receive_slowly(slow, MIB, time.sleep), pattern_digest(MIB), "hash of the first MiB")
        if factory.concurrent:
            # The handler now waits for the slow reader in mid-send.
            with connect(address) as other:
                other.sendall((1000).to_bytes(8, "big"))
                equal(receive_all(other), pattern(1000), "what another client got meanwhile")
        rest = receive_slowly(slow, BULK - MIB, time.sleep)
        equal(rest, pattern_digest(BULK, MIB), "hash of the rest")
        equal(slow.recv(1), b"", "after the last byte")


@STREAM_SERVER.check
def survives_a_reset_in_mid_send(factory: ServerFactory) -> None:
    """A client that resets while the handler sends 16 MiB ends that connection only."""
    with factory("bulk") as address:
        for _ in range(2):
            with connect(address) as client:
                client.sendall((16 * MIB).to_bytes(8, "big"))
                receive_exactly(client, MIB)
                reset(client)
        with connect(address) as client:
            client.sendall((10).to_bytes(8, "big"))
            equal(receive_all(client), pattern(10), "what the next client got")


@STREAM_SERVER.check
def survives_a_reset_before_reading(factory: ServerFactory) -> None:
    """Clients that reset at once, some before the server has accepted them, end nothing but themselves."""
    with factory("echo") as address, still_serves(address, factory):
        for turn in range(10):
            client = connect(address)
            if turn % 2:
                client.sendall(b"nobody reads the answer")
            reset(client)


@STREAM_SERVER.check
def survives_a_vanishing_peer(factory: ServerFactory) -> None:
    """A client whose process is killed in mid-conversation ends that connection only."""
    with factory("echo") as address, still_serves(address, factory):
        client = connect(address)
        echo_once(client)
        with held_by_a_process(client) as process:
            process.kill()


@STREAM_SERVER.check
def outlives_a_failing_handler(factory: ServerFactory) -> None:
    """An exception in a handler closes its connection and no other, and the next client is served."""
    with factory("echo") as address, still_serves(address, factory):
        for _ in range(3):
            with connect(address) as client:
                echo_once(client)
                client.sendall(FAIL)
                end_of(client)


@STREAM_SERVER.check
def serves_many_quick_connects(factory: ServerFactory) -> None:
    """48 connections, 4 at a time, each closed after one exchange or none: nobody is lost."""
    with factory("echo") as address:

        def client(number: int) -> None:
            for turn in range(12):
                with connect(address) as socket:
                    if turn % 5:
                        echo_once(socket, f"{number}.{turn}".encode())

        at_once(4, client)


@STREAM_SERVER.check
def stops_with_idle_peers(factory: ServerFactory) -> None:
    """Stopping ends within the time given though clients stay connected and silent; they see the end."""
    with ExitStack() as clients:
        with factory("echo") as address:
            for number in range(5 if factory.concurrent else 1):
                client = clients.enter_context(connect(address))
                echo_once(client)
                if number % 2:
                    client.sendall(b"x")
            # Connected and not yet served by a serial server, connected and silent with any other.
            silent = clients.enter_context(connect(address))
            start = time.monotonic()
        took = time.monotonic() - start
        true(took < STOP_SECONDS + 5, f"stopping took {took:.1f} s with idle clients")
        for idle in (client, silent):
            with contextlib.suppress(ConnectionResetError):
                receive_all(idle)


@STREAM_SERVER.check
def refuses_after_stop(factory: ServerFactory) -> None:
    """After a stop nobody is listening any more, and the address can be bound again at once."""
    with factory("echo") as address, connect(address) as client:
        echo_once(client)
    refused = (ConnectionRefusedError, FileNotFoundError)
    fails_with(refused, lambda: connect(address).close(), "connect after the server stopped")


@STREAM_SERVER.check
def leaves_nothing_open(factory: ServerFactory) -> None:
    """After a stop this process has no more descriptors open than before the start."""
    count = open_descriptors()

    def served() -> None:
        with factory("echo") as address:
            for _ in range(10):
                with connect(address) as client:
                    echo_once(client)

    served()  # what the first start opens for good (a resolver, a child watcher) is not a leak
    before = count()
    served()
    deadline = time.monotonic() + 2
    while count() > before and time.monotonic() < deadline:
        time.sleep(0.01)  # daemon threads of the standard library's kind may still be closing
    true(count() <= before, f"{count()} descriptors are open after a start and stop, {before} were before")


def open_descriptors() -> Callable[[], int]:
    """What counts the open descriptors of this process. Raises NotPromised where the system does not tell."""
    import os

    folder = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"
    if not os.path.isdir(folder):
        raise NotPromised("this system does not list a process's descriptors")
    return lambda: len(os.listdir(folder))
