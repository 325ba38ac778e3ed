"""Every hook of the standard library's servers is called here too: in the same order, and as often.

One recording subclass is made over both modules, does the same work in every mode, and the traces are compared.
"""

from __future__ import annotations

import contextlib
import os
import socketserver as std
from typing import Any

import pytest
from dropin_support import Told, ask, connect, server_class, serving
from hook_traces import HOOKS, Recording, trace

from jackfield import socket
from jackfield import socketserver as ours

#: The standard library has no green threads and no coroutines: there a thread is what comes nearest.
THERE = {"green": "threading", "async": "threading"}

BLOCKING = ["serial", "threading", "forking", "green"]


class Echo(ours.BaseRequestHandler[Any]):
    def handle(self) -> None:
        self.request.sendall(self.request.recv(100).upper())


@pytest.mark.parametrize("kind", ["TCP", "UDP", "UnixStream", "UnixDatagram"])
@pytest.mark.parametrize("mode", [*BLOCKING, "async"])
def test_the_hooks_are_called_in_the_same_order_and_as_often(mode: str, kind: str) -> None:
    theirs, mine = trace(std, THERE.get(mode, mode), kind, HOOKS), trace(ours, mode, kind, HOOKS)
    if mode == "forking":
        # A child's end wakes the loop here; there it is found at the next tick.
        for told in (theirs, mine):
            told["serving"] = [line for line in told["serving"] if line != "service_actions"]
    assert mine == theirs


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("mode", BLOCKING)
def test_one_hook_alone_is_called_as_often(mode: str, hook: str) -> None:
    """Shortcuts are taken where nothing was overridden: overriding one is enough for it to be called."""
    there = THERE.get(mode, mode)
    if not hasattr(server_class(there, "TCP", std), hook):
        pytest.skip(f"a {mode} server has no {hook}")

    def times(module: Any, mode: str) -> int:
        lines = trace(module, mode, "TCP", [hook])
        return sum(line.split()[0] == hook for told in lines.values() for line in told)

    if (mode, hook) == ("forking", "service_actions"):
        assert times(ours, mode) >= times(std, there)
    else:
        assert times(ours, mode) == times(std, there)


@pytest.mark.parametrize("mode", BLOCKING)
def test_handle_request_calls_them_too(mode: str) -> None:
    def one(module: Any, mode: str) -> list[str]:
        with Told() as told:
            recording = Recording(module, mode, "TCP", told, HOOKS)
            with recording.server_class(("127.0.0.1", 0), recording.handler_class) as server:
                server.timeout = 0.01
                server.handle_request()
                server.timeout = 20
                with connect(server) as client:
                    client.sendall(b"fine")
                    server.handle_request()
                    assert client.recv(100) == b"FINE"
            return sorted(told.lines())

    theirs, mine = one(std, THERE.get(mode, mode)), one(ours, mode)
    assert "serving handle_timeout" in theirs
    assert mine == theirs


@pytest.mark.parametrize("mode", BLOCKING)
def test_a_get_request_that_fails_is_passed_over(mode: str) -> None:
    """An OSError out of it is the end of that attempt and of nothing else: no other hook is called for it."""

    def attempts(module: Any, mode: str) -> tuple[int, list[bytes]]:
        calls: list[int] = []
        base = server_class(mode, "TCP", module)

        class Refuses(base):  # type: ignore[misc,valid-type]
            def get_request(self) -> Any:
                calls.append(1)
                if len(calls) in (1, 3):
                    request, _ = super().get_request()
                    request.close()
                    raise ConnectionAbortedError("gone again")
                return super().get_request()

            def handle_error(self, request: Any, client_address: Any) -> None:
                raise AssertionError("there is no request to fail")

        with Refuses(("127.0.0.1", 0), Echo) as server, serving(server, close=False):
            answers = []
            for _ in range(4):
                try:
                    answers.append(ask(server))
                except ConnectionResetError:
                    answers.append(b"")
        return len(calls), answers

    expected = (4, [b"", b"HELLO", b"", b"HELLO"])
    assert attempts(std, THERE.get(mode, mode)) == expected
    assert attempts(ours, mode) == expected


@pytest.mark.parametrize("mode", BLOCKING)
def test_an_overridden_fileno_is_the_one_that_is_watched(mode: str) -> None:
    base = server_class(mode)

    class Elsewhere(base):  # type: ignore[misc,valid-type]
        """Takes its requests from another server's listener, which is all that fileno() promises."""

        def server_activate(self) -> None:
            super().server_activate()
            self.other = ours.TCPServer(("127.0.0.1", 0), object)

        def fileno(self) -> int:
            return self.other.fileno()  # type: ignore[no-any-return]

        def get_request(self) -> Any:
            return self.other.get_request()

        def server_close(self) -> None:
            super().server_close()
            self.other.server_close()

    with Elsewhere(("127.0.0.1", 0), Echo) as server, serving(server, close=False):
        for _ in range(3):
            assert ask(server.other) == b"HELLO"


@pytest.mark.parametrize("mode", BLOCKING)
def test_a_get_request_that_would_wait_is_asked_only_when_there_is_something(mode: str) -> None:
    """It is called once each time that fileno() is readable, as there: nobody promises that another call returns."""
    base = server_class(mode)
    taken: list[int] = []

    class Handed(base):  # type: ignore[misc,valid-type]
        """Takes sockets that are announced by bytes in a pipe; asked too often it would wait for ever."""

        def server_activate(self) -> None:
            self.reader, self.writer = os.pipe()
            self.handed: list[Any] = []

        def fileno(self) -> int:
            return self.reader

        def get_request(self) -> Any:
            os.read(self.reader, 1)
            taken.append(1)
            return self.handed.pop(0), ("handed", 0)

        def server_close(self) -> None:
            super().server_close()
            with contextlib.suppress(OSError):
                os.close(self.reader)
                os.close(self.writer)

    with (
        socket.socket() as one_more,
        Handed(("127.0.0.1", 0), Echo) as server,
        serving(server, close=False),
    ):
        try:
            for number in range(3):
                mine, its = socket._socket_std.socketpair()
                with mine:
                    mine.settimeout(10)
                    server.handed.append(socket.socket(fileno=its.detach()))
                    os.write(server.writer, b"x")
                    mine.sendall(b"hello")
                    assert mine.recv(100) == b"HELLO"
                assert len(taken) == number + 1
        finally:
            server.handed.append(one_more)
            os.write(server.writer, b"x")  # for one that asked too often


def test_a_trace_that_differs_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broken case: a server that takes a shortcut past one of its hooks."""
    monkeypatch.setattr(ours.TCPServer, "shutdown_request", lambda server, request: request.close())
    with pytest.raises(AssertionError):
        test_the_hooks_are_called_in_the_same_order_and_as_often("serial", "TCP")
