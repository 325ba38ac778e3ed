"""`jackfield.testing`: servers and connections for a handler, the clock, and the ways a test learns of an error."""

from __future__ import annotations

import asyncio
import os
import re
import socketserver as _socketserver_std
import threading
from collections.abc import Callable
from typing import Any

import pytest

from jackfield import (
    AsyncDatagramRequestHandler,
    AsyncRequestHandler,
    AsyncStreamRequestHandler,
    BaseRequestHandler,
    DatagramRequestHandler,
    StreamRequestHandler,
    run,
)
from jackfield.clock import Clock
from jackfield.errors import AddressError, MisuseError
from jackfield.testing import (
    GreenUnits,
    ManualClock,
    ThreadUnits,
    Units,
    memory_connection,
    run_handler,
    serve,
)
from jackfield.testing.clients import connect


class Upper(BaseRequestHandler[Any]):
    def handle(self) -> None:
        while data := self.request.recv(1024):
            self.request.sendall(data.upper())


class AsyncUpper(AsyncRequestHandler[Any]):
    async def handle(self) -> None:
        while data := await self.request.recv(1024):
            await asyncio.sleep(0)
            await self.request.sendall(data.upper())


class Lines(StreamRequestHandler[Any]):
    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(line.strip()[::-1] + b"\n")


class AsyncLines(AsyncStreamRequestHandler[Any]):
    async def handle(self) -> None:
        while line := await self.rfile.readline():
            await self.wfile.write(line.strip()[::-1] + b"\n")


class Reversed(DatagramRequestHandler[Any]):
    def handle(self) -> None:
        self.wfile.write(self.packet[::-1])


class AsyncReversed(AsyncDatagramRequestHandler[Any]):
    async def handle(self) -> None:
        self.wfile.write(self.packet[::-1])


class Faulty(BaseRequestHandler[Any]):
    def handle(self) -> None:
        raise KeyError(self.request.recv(100))


class AsyncFaulty(AsyncRequestHandler[Any]):
    async def handle(self) -> None:
        raise KeyError(await self.request.recv(100))


class StdlibUpper(_socketserver_std.StreamRequestHandler):
    def handle(self) -> None:
        self.wfile.write(self.rfile.read().upper())


# -- the clock ---------------------------------------------------------------------------------------------------------


def test_a_manual_clock_moves_only_by_hand() -> None:
    clock = ManualClock(start=10)
    assert isinstance(clock, Clock)
    assert (clock.now(), clock.now()) == (10.0, 10.0)
    assert clock.advance(2.5) == 12.5 == clock.now()
    assert clock.advance(0) == 12.5
    assert repr(clock) == "<ManualClock at 12.5 s>"


@pytest.mark.parametrize("wrong", [-1, -1e-9, float("nan")])
def test_a_manual_clock_cannot_go_back(wrong: float) -> None:
    clock = ManualClock(5)
    with pytest.raises(ValueError, match="cannot go back"):
        clock.advance(wrong)
    assert clock.now() == 5


# -- run_handler -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("handler", "data", "wanted"),
    [
        (Upper, b"hello", b"HELLO"),
        (AsyncUpper, b"hello", b"HELLO"),
        (Lines, b"abc\ndef\n", b"cba\nfed\n"),
        (AsyncLines, b"abc\ndef", b"cba\nfed\n"),
        (Reversed, b"abc", b"cba"),
        (AsyncReversed, b"abc", b"cba"),
        (Upper, b"", b""),
        (Reversed, b"", b""),
        (StdlibUpper, b"anybody's", b"ANYBODY'S"),
    ],
)
def test_run_handler(handler: type, data: bytes, wanted: bytes) -> None:
    assert run_handler(handler, data) == wanted


@pytest.mark.parametrize("handler", [Upper, AsyncUpper])
def test_run_handler_with_more_than_any_buffer_holds(handler: type) -> None:
    data = os.urandom(1000).lower() * 5000
    assert run_handler(handler, data) == data.upper()


def test_run_handler_of_one_that_does_not_read() -> None:
    class Talks(BaseRequestHandler[Any]):
        def handle(self) -> None:
            self.request.sendall(b"talk" * 200_000)

    assert len(run_handler(Talks, b"unread" * 200_000)) == 800_000


def test_run_handler_gives_the_handler_what_a_server_would() -> None:
    class Tells(BaseRequestHandler[Any]):
        def handle(self) -> None:
            self.request.sendall(f"{self.client_address} {self.server}".encode())

    assert run_handler(Tells) == b"('127.0.0.1', 50000) None"
    assert run_handler(Tells, b"", ("192.0.2.1", 7), "my server") == b"('192.0.2.1', 7) my server"


@pytest.mark.parametrize("handler", [Faulty, AsyncFaulty])
def test_run_handler_raises_what_the_handler_raises(handler: type) -> None:
    with pytest.raises(KeyError, match="asked"):
        run_handler(handler, b"asked")


def test_run_handler_does_not_wait_for_ever() -> None:
    class Waits(BaseRequestHandler[Any]):
        def handle(self) -> None:
            twin, other = self.request.dup(), self.request
            with twin:
                while other.recv(100):
                    pass
                # The client has ended its side and reads: only its giving up ends this.
                while True:
                    twin.sendall(b"x")

    class Deaf(BaseRequestHandler[Any]):
        def handle(self) -> None:
            threading.Event().wait(0.2)

    for handler in (Waits, Deaf):
        with pytest.raises(TimeoutError, match=rf"{handler.__name__}.* had not ended after 0\.05 s"):
            run_handler(handler, b"x", timeout=0.05)


def test_run_handler_inside_a_loop_and_a_green_thread() -> None:
    async def main() -> bytes:
        return run_handler(AsyncUpper, b"in a coroutine")

    assert asyncio.run(main()) == b"IN A COROUTINE"
    assert run(run_handler, Upper, b"in a green thread") == b"IN A GREEN THREAD"


def test_run_handler_of_datagrams_by_a_base_handler() -> None:
    class Answers(BaseRequestHandler[Any]):
        def handle(self) -> None:
            data, socket = self.request
            socket.sendto(b"one " + data, self.client_address)
            socket.sendto(b"to another", ("192.0.2.9", 9))
            socket.sendmsg([b"two ", data], (), 0, self.client_address)

    assert run_handler(Answers, b"x", datagram=True) == b"one xtwo x"


def test_run_handler_of_more_datagrams_than_any_queue_holds() -> None:
    class Many(BaseRequestHandler[Any]):
        def handle(self) -> None:
            for number in range(2000):
                self.request[1].sendto(b"%d," % number, self.client_address)

    assert run_handler(Many, b"x", datagram=True).count(b",") == 2000


# -- memory_connection -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("handler", "mode"),
    [(Lines, "auto"), (Lines, "thread"), (Lines, "green"), (AsyncLines, "auto"), (AsyncLines, "async")],
)
def test_a_conversation(handler: type, mode: Any) -> None:
    with memory_connection(handler, mode=mode) as client:
        client.sendall(b"abc\n")
        assert client.readline() == b"cba\n"
        client.sendall(b"de\nfgh\ni")
        assert client.readexactly(3) == b"ed\n"
        assert client.recv(2) in (b"hg", b"h")
        client.end()
        assert client.readall().endswith(b"\ni\n")
        assert client.recv() == client.readline() == b""
        with pytest.raises(EOFError, match="3 bytes early: b''"):
            client.readexactly(3)
        assert client.wait_ended()


def test_a_silent_handler_is_a_timeout_and_its_end_is_waited_for() -> None:
    with (
        memory_connection(Lines, timeout=0.05) as client,
        pytest.raises(TimeoutError, match=r"sent nothing for 0\.05 s"),
    ):
        client.recv()
    assert client.wait_ended(0)


def test_a_client_that_leaves_is_no_error_of_the_handler() -> None:
    started, go_on = threading.Event(), threading.Event()

    class Talks(BaseRequestHandler[Any]):
        def handle(self) -> None:
            started.set()
            go_on.wait(10)
            while True:
                self.request.sendall(b"x" * 65536)

    with memory_connection(Talks) as client:
        started.wait(10)
        client.close()
        go_on.set()
    assert client.errors == []


@pytest.mark.parametrize("handler", [Faulty, AsyncFaulty])
def test_an_error_of_the_handler_is_the_tests(handler: type) -> None:
    with pytest.raises(KeyError, match="boom"), memory_connection(handler) as client:
        client.sendall(b"boom")
    with memory_connection(handler) as client:
        client.sendall(b"expected")
        assert client.readall() == b""
        assert client.wait_ended()
        assert [repr(error) for error in client.errors] == ["KeyError(b'expected')"]
        client.errors.clear()


def test_the_tests_own_failure_goes_first() -> None:
    with pytest.raises(ZeroDivisionError), memory_connection(Faulty) as client:
        client.sendall(b"second")
        client.wait_ended()
        raise ZeroDivisionError


def test_a_handler_that_does_not_end_is_named() -> None:
    release = threading.Event()

    class Stubborn(BaseRequestHandler[Any]):
        def handle(self) -> None:
            release.wait(30)

    with pytest.raises(AssertionError, match=r"Stubborn.* still runs 0\.05 s after its client left"):
        with memory_connection(Stubborn, timeout=0.05):
            pass
    release.set()


@pytest.mark.parametrize("handler", [Reversed, AsyncReversed])
def test_a_datagram_conversation(handler: type) -> None:
    with memory_connection(handler) as client:
        for message in (b"one", b"two", b"x" * 5000):
            client.sendall(message)
        assert [client.recv() for _ in range(3)] == [b"eno", b"owt", b"x" * 5000]


def test_datagrams_to_others_are_kept() -> None:
    class Forwards(BaseRequestHandler[Any]):
        def handle(self) -> None:
            data, socket = self.request
            socket.sendto(data, ("192.0.2.9", 9))

    with memory_connection(Forwards, datagram=True) as client:
        client.sendall(b"for another")
    assert client.sent_elsewhere == [(b"for another", ("192.0.2.9", 9))]


def test_a_mode_that_does_not_fit_is_refused() -> None:
    for handler, mode in ((Lines, "async"), (AsyncLines, "thread"), (AsyncLines, "green")):
        with pytest.raises(MisuseError, match="leave the mode out"), memory_connection(handler, mode=mode):  # type: ignore[arg-type]
            pass


# -- serve -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["auto", "serial", "thread", "process", "green"])
def test_serve_in_each_mode(mode: str) -> None:
    with serve(Upper, mode=mode) as server:
        with server.connect() as client:
            assert client.gettimeout() == 10
            client.sendall(b"hello")
            assert client.recv(100) == b"HELLO"
        assert re.fullmatch(r"tcp://127\.0\.0\.1:\d+", server.addresses[0])
    assert server.state == "stopped"
    assert server.errors == []


def test_serve_a_coroutine_handler() -> None:
    with serve(AsyncUpper) as server, server.connect(timeout=5) as client:
        assert (server.info().mode, client.gettimeout()) == ("async", 5)
        client.sendall(b"hello")
        assert client.recv(100) == b"HELLO"


@pytest.mark.parametrize(
    ("handler", "address"),
    [
        (Upper, "tcp://:0"),
        (Upper, "unix:"),
        (Upper, "tcp6://[::1]:0"),
        (Reversed, "udp://127.0.0.1:0"),
        (Reversed, "unixgram:"),
    ],
)
def test_serve_on_each_kind_of_address(handler: type, address: str) -> None:
    with serve(handler, address=address) as server, server.connect() as client:
        client.send(b"ab")
        assert client.recv(100) in (b"AB", b"ba")
    if address.startswith("unix"):
        path = server.addresses[0].partition(":")[2]
        assert not os.path.exists(os.path.dirname(path))


def test_serve_gives_an_idle_client_no_say() -> None:
    """A client that is still connected and silent at the end is cut, not waited for."""
    with serve(Upper, graceful_timeout=0.01) as server:
        client = server.connect()
        client.sendall(b"hello")
        client.recv(100)
    with client:
        assert client.recv(100) == b""
    assert server.errors == []


@pytest.mark.parametrize("handler", [Faulty, AsyncFaulty])
def test_an_error_of_a_served_handler_fails_the_test(handler: type) -> None:
    with pytest.raises(ExceptionGroup, match=f"raised while serving {handler.__name__}") as raised:
        with serve(handler) as server, server.connect() as client:
            client.sendall(b"boom")
            assert client.recv(100) == b""
    assert [repr(error) for error in raised.value.exceptions] == ["KeyError(b'boom')"]


def test_an_error_that_the_test_expects() -> None:
    with serve(Faulty) as server:
        with server.connect() as client:
            client.sendall(b"expected")
            assert client.recv(100) == b""
        assert [repr(error) for error in server.errors] == ["KeyError(b'expected')"]
        server.errors.clear()
    with serve(Faulty, raise_errors=False) as server, server.connect() as client:
        client.sendall(b"not looked at")
        assert client.recv(100) == b""
    assert len(server.errors) == 1


def test_the_tests_own_failure_goes_before_that_of_a_handler() -> None:
    with pytest.raises(ZeroDivisionError), serve(Faulty) as server, server.connect() as client:
        client.sendall(b"second")
        client.recv(100)
        raise ZeroDivisionError


def test_a_client_that_resets_is_no_error_of_a_served_handler() -> None:
    class Waits(BaseRequestHandler[Any]):
        def handle(self) -> None:
            self.request.recv(1)
            seen.set()
            while self.request.recv(1):
                pass

    seen = threading.Event()
    with serve(Waits) as server:
        with server.connect() as client:
            client.setsockopt(1, 13, b"\1\0\0\0\0\0\0\0")  # SOL_SOCKET, SO_LINGER of zero: a reset
            client.sendall(b"x")
            assert seen.wait(10)
    assert server.errors == []


def test_a_watched_handler_is_still_itself() -> None:
    class Tells(BaseRequestHandler[Any]):
        """What it says."""

        def handle(self) -> None:
            self.request.sendall(f"{type(self).__qualname__} {type(self).__doc__} {isinstance(self, Tells)}".encode())

    with serve(Tells) as server, server.connect() as client:
        assert client.recv(1000).decode() == f"{Tells.__qualname__} What it says. True"


@pytest.mark.parametrize("handler", [Upper, AsyncUpper])
def test_serve_inside_a_loop_and_a_green_thread(handler: type) -> None:
    """The server has a loop of its own, so the blocking client of a test in a coroutine does not stop it."""

    def talk() -> bytes:
        with serve(handler) as server, server.connect() as client:
            client.sendall(b"from inside")
            return client.recv(100)

    async def main() -> bytes:
        return talk()

    assert asyncio.run(main()) == run(talk) == b"FROM INSIDE"


def test_serve_raises_what_the_start_raises() -> None:
    with pytest.raises(AddressError), serve(Upper, address="nonsense://"):
        pass
    with pytest.raises(MisuseError), serve(Upper, mode="async"):
        pass


def test_connect_to_what_nobody_can_connect_to() -> None:
    with pytest.raises(ValueError, match="nobody can connect to fd://3"):
        connect("fd://3")
    with pytest.raises(AddressError):
        connect("nonsense")


# -- units -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [ThreadUnits, GreenUnits])
def test_units_run_together(make: Callable[[], Units]) -> None:
    units = make()

    def meet() -> list[Any]:
        signal, order = units.signal(), []

        def first() -> str:
            assert signal.wait(10)
            order.append("first")
            return "one"

        def second() -> str:
            order.append("second")
            signal.set()
            return "two"

        return [units.together(first, second), order]

    assert units.enter(meet) == [["one", "two"], ["second", "first"]]


def test_green_units_may_be_used_from_a_plain_thread() -> None:
    assert GreenUnits().together(lambda: 1, lambda: 2) == [1, 2]


def test_a_green_body_that_hangs_is_named_and_killed() -> None:
    units = GreenUnits()
    ended: list[str] = []

    def hangs() -> None:
        try:
            units.sleep(60)
        finally:
            ended.append("hangs")

    with pytest.raises(AssertionError, match="hangs"):
        units.together(hangs, timeout=0.05)
    with pytest.raises(KeyError, match="at once"):

        def fails() -> None:
            raise KeyError("at once")

        units.together(hangs, fails)
    assert ended == ["hangs", "hangs"]
