"""What the tests of load tests share: servers whose behaviour is known, and a load run here by either twin."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import jackfield.bench.load
from jackfield.address import parse_address
from jackfield.bench.load import open_load
from jackfield.bench.plan import Plan
from jackfield.bench.result import Result
from jackfield.bench.target import find
from jackfield.reactor.twin import native

SECOND = 1_000_000_000

#: Seconds that nothing here takes, and after which a wait is called hung.
SOON = 20.0


class Peer:
    """A server on loopback: a thread for each connection, which `talk` has; stopped with all of its connections.

    :ivar served: how many connections there were.
    """

    def __init__(self, talk: Callable[[socket.socket], None], listener: socket.socket | None = None) -> None:
        self._talk = talk
        self._listener = listener or socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._over = False
        self.served = 0
        self.threads = [threading.Thread(target=self._accept)]

    @property
    def address(self) -> str:
        host, port = self._listener.getsockname()[:2]
        return f"tcp://{host}:{port}"

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                if self._over:
                    sock.close()
                    return
                self._open.add(sock)
                self.served += 1
                thread = threading.Thread(target=self._serve, args=(sock,))
                self.threads.append(thread)
                thread.start()

    def _serve(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            self._talk(sock)
        with self._lock:
            self._open.discard(sock)
        sock.close()

    def __enter__(self) -> Peer:
        self.threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._over = True
            for sock in self._open:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        # accept(2) in another thread is woken by shutdown(2) on Linux, and not by close(2).
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self.threads[0].join(SOON)
        self._listener.close()
        for thread in self.threads:
            thread.join(SOON)
            assert not thread.is_alive()


def echo(sock: socket.socket) -> None:
    """The upper-case echo."""
    while data := sock.recv(65536):
        sock.sendall(data.upper())


@contextlib.contextmanager
def datagrams(answer: Callable[[int, bytes], bytes | None]) -> Iterator[str]:
    """A UDP server that answers each datagram, of which the first is number 0, as it is told to; its address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        over = threading.Event()

        def serve() -> None:
            number = 0
            while not over.is_set():
                data, peer = sock.recvfrom(65536)
                if data == b"over":
                    continue
                reply = answer(number, data)
                number += 1
                if reply is not None:
                    with contextlib.suppress(OSError):
                        sock.sendto(reply, peer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield "udp://{}:{}".format(*sock.getsockname())
        finally:
            over.set()
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
                last.sendto(b"over", sock.getsockname())
            thread.join(SOON)
            assert not thread.is_alive()


def attack(address: str, secure: Any = None, seconds: float = SOON, **asked: Any) -> Result:
    """Carry out a plan in this process, by the twin that `twin` has chosen."""
    asked = {"warmup": 0.0, "duration": None if "requests" in asked else 0.3, **asked}
    plan = Plan(parse_address(address), **asked)
    start = time.monotonic_ns()
    load = open_load(plan, find(plan.address)[0], 0, start, secure)
    try:
        until = start + int(seconds * SECOND)
        while load.run(min(until, time.monotonic_ns() + SECOND // 10)):
            assert time.monotonic_ns() < until, load.counts()
        counts, reasons = load.counts(), load.reasons()
        window = time.monotonic_ns() - start if plan.duration is None else int(plan.duration * SECOND)
        measured = {
            "counts": counts,
            "buckets": [list(pair) for pair in load.buckets().items()],
            "reasons": reasons | {"wrong": reasons["wrong"].decode("latin-1")},
            "entries": [],
            "window": window,
            "processor": 0.0,
            "starved": 0.0,
            "native": native is not None and isinstance(load, native.Load),
        }
        return Result.of(plan, [measured])
    finally:
        load.close()


@pytest.fixture(params=["native", "pure"])
def twin(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which loop `attack` takes."""
    if request.param == "native" and native is None:
        pytest.skip("the native twin is not in use")
    if request.param == "pure":
        monkeypatch.setattr(jackfield.bench.load, "native", None)
    return str(request.param)
