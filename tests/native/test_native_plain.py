"""recv and sendall of a plain thread, made by the native twin itself: errors, signals and counts are the same."""

from __future__ import annotations

import errno
import signal
import socket as standard
import threading
from collections.abc import Iterator

import pytest
from twin_support import pair

from jackfield import socket


class Alarmed(Exception):
    """Raised by a signal handler."""


@pytest.fixture
def alarm() -> Iterator[list[int]]:
    """Signals that came, while a timer sends some 500 a second to the main thread."""
    came: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: came.append(number))
    signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
    yield came
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_signals_neither_end_a_recv_nor_lose_anything(alarm: list[int]) -> None:
    with pair() as (left, right):
        enough = threading.Event()

        def answer() -> None:
            enough.wait(10)
            right.sendall(b"after the signals")

        thread = threading.Thread(target=answer)
        thread.start()

        def count(number: int, frame: object) -> None:
            alarm.append(number)
            if len(alarm) > 5:
                enough.set()

        signal.signal(signal.SIGALRM, count)
        assert left.recv(100) == b"after the signals"
        thread.join()
        assert len(alarm) > 5


def test_signals_in_the_midst_of_a_sendall_lose_nothing(alarm: list[int]) -> None:
    """send(2) then says that it has taken a part."""
    payload = bytes(range(256)) * 80_000
    with pair() as (left, right):
        received = bytearray()

        def read() -> None:
            while len(received) < len(payload):
                received.extend(right.recv(65536))

        thread = threading.Thread(target=read)
        thread.start()
        left.sendall(payload)
        thread.join()
        assert received == payload
        assert (left.sent, right.received) == (len(payload), len(payload))


@pytest.mark.parametrize("call", ["recv", "sendall"])
def test_what_a_signal_handler_raises_comes_out(call: str) -> None:
    def raise_it(number: int, frame: object) -> None:
        raise Alarmed

    before = signal.signal(signal.SIGALRM, raise_it)
    try:
        with pair() as (left, _):
            signal.setitimer(signal.ITIMER_REAL, 0.01)
            with pytest.raises(Alarmed):
                left.recv(1) if call == "recv" else left.sendall(bytes(100_000_000))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("size", [1, 100, 8191, 8192, 8193, 100_000])
def test_a_recv_gives_what_there_is_up_to_its_size(size: int) -> None:
    with pair() as (left, right):
        right.sendall(bytes(20_000))
        right.shutdown(standard.SHUT_WR)
        whole = b""
        while data := left.recv(size):
            assert len(data) <= size
            whole += data
        assert len(whole) == left.received == right.sent == 20_000


def differing(call: str, *args: object) -> list[tuple[type[BaseException], int | None]]:
    """What ours and the standard library's raise."""
    raised = []
    for kind in (socket.socket, standard.socket):
        with kind() as sock:
            with pytest.raises(Exception) as caught:  # whichever it is: it is compared
                getattr(sock, call)(*args)
            raised.append((caught.type, getattr(caught.value, "errno", None)))
    return raised


@pytest.mark.parametrize(
    ("call", "args"),
    [
        ("recv", (10,)), ("recv", (-1,)), ("recv", (1 << 62,)), ("recv", (1 << 70,)), ("recv", ("ten",)), ("recv", ()),
        ("sendall", (b"x",)), ("sendall", ("text",)), ("sendall", ()),
    ],
)  # fmt: skip
def test_errors_are_the_standard_librarys(call: str, args: tuple[object, ...]) -> None:
    ours, theirs = differing(call, *args)
    assert ours == theirs


def test_a_closed_socket_and_a_peer_that_is_gone() -> None:
    with pair() as (left, right):
        right.close()
        left.sendall(b"into the void")
        with pytest.raises((BrokenPipeError, ConnectionResetError)) as caught:
            while True:
                left.sendall(b"x")
        assert caught.value.bytes_sent == 0  # type: ignore[attr-defined]
        left.close()
        for call in (lambda: left.recv(1), lambda: left.sendall(b"x")):
            with pytest.raises(OSError) as closed:
                call()
            assert closed.value.errno == errno.EBADF
