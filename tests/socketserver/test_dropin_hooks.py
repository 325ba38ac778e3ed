"""Every hook of the standard library's servers is called here too: in the same order, and as often.

One recording subclass is made over both modules, does the same work in every mode, and the traces are compared.
"""

from __future__ import annotations

import contextlib
import os
import socketserver as std
import threading
from typing import Any

import pytest
from dropin_support import Told, address_for, ask, connect, handler_base, server_class, serving, until
from greenlet import getcurrent

from jackfield import socketserver as ours

HOOKS = [
    "get_request", "verify_request", "process_request", "process_request_thread", "finish_request", "shutdown_request",
    "close_request", "handle_error", "handle_timeout", "service_actions", "server_bind", "server_activate",
    "server_close",
]  # fmt: skip

#: What each request is: one of these words, sent by the client.
WORDS = ["fine", "refuse", "fail", "fine", "no-process", "fine"]


class Fault(Exception):
    pass


def recording(module: Any, mode: str, kind: str, told: Told, hooks: list[str] = HOOKS) -> tuple[Any, Any]:
    """A server class that tells of its hooks before it calls on, and its handler class.

    What runs where is told as well: "serving" is whoever takes the requests, "unit" is who handles one elsewhere.
    """
    base = server_class(mode, kind, module)
    is_stream = not kind.endswith(("UDP", "Datagram"))
    serving_unit: list[Any] = []
    words: dict[Any, str] = {}

    def here() -> tuple[int, int, int]:
        return os.getpid(), threading.get_ident(), id(getcurrent())

    def who() -> str:
        return "serving" if not serving_unit or serving_unit[0] == here() else "unit"

    def wrap(name: str) -> Any:
        original = getattr(base, name)

        def hook(self: Any, *args: Any) -> Any:
            if name == "get_request" and not serving_unit:
                serving_unit.append(here())
            told.tell(f"{'closing' if name == 'server_close' else who()} {name}")
            result = original(self, *args)
            if name == "get_request":
                told.tell(f"{who()} got one")
            return result

        async def hook_async(self: Any, *args: Any) -> None:
            told.tell(f"{who()} {name}")
            await original(self, *args)

        return hook_async if mode == "async" and name in ("finish_request", "process_request_thread") else hook

    methods = {name: wrap(name) for name in hooks if hasattr(base, name)}

    def verify_request(self: Any, request: Any, client_address: Any) -> bool:
        word = request[0] if not is_stream else request.recv(100, 2)  # MSG_PEEK
        words[client_address] = word.decode()
        if "verify_request" in hooks:
            told.tell(f"{who()} verify_request {word.decode()}")
        return word != b"refuse"

    def process_request(self: Any, request: Any, client_address: Any) -> None:
        if "process_request" in hooks:
            told.tell(f"{who()} process_request")
        if words.get(client_address) == "no-process":
            raise Fault("process_request fails")
        base.process_request(self, request, client_address)

    def handle_error(self: Any, request: Any, client_address: Any) -> None:
        import sys

        told.tell(f"{who()} handle_error {type(sys.exc_info()[1]).__name__}")

    methods |= {"verify_request": verify_request, "process_request": process_request, "handle_error": handle_error}

    class Handler(handler_base(mode, "Base", module)):  # type: ignore[misc]
        def handle(self) -> None:
            told.tell(f"{who()} handle")
            data = self.request.recv(100) if is_stream else self.request[0]
            if data == b"fail":
                raise Fault("the handler fails")
            self.answer(data)

        def answer(self, data: bytes) -> None:
            if is_stream:
                self.request.sendall(data.upper())
            else:
                self.request[1].sendto(data.upper(), self.client_address)

    class AsyncHandler(Handler):
        async def handle(self) -> None:  # type: ignore[override]
            told.tell(f"{who()} handle")
            data = await self.request.recv(100) if is_stream else self.request[0]
            if data == b"fail":
                raise Fault("the handler fails")
            if is_stream:
                await self.request.sendall(data.upper())
            else:
                await self.request[1].sendto(data.upper(), self.client_address)

    return type("Recording", (base,), methods), AsyncHandler if mode == "async" else Handler


def trace(module: Any, mode: str, kind: str, hooks: list[str] = HOOKS) -> dict[str, list[str]]:
    """What a recording server tells while it serves one client of each kind; by who told it."""
    with Told() as told, address_for(kind) as address:
        cls, handler = recording(module, mode, kind, told, hooks)
        lines: list[str] = []
        with cls(address, handler) as server, serving(server, close=False):
            # The first request also says who serves.
            for word in WORDS:
                before = len(lines)
                if kind.endswith(("UDP", "Datagram")):
                    with connect(server) as client:
                        client.send(word.encode())
                        if word == "fine":
                            assert client.recv(100) == b"FINE"
                        ends = {"fine": "close_request", "fail": "close_request"}.get(word, "close_request")
                        until(lambda: lines.extend(told.lines()) or is_over(lines[before:], mode, word, ends, hooks))
                else:
                    answer = ask(server, word.encode())
                    assert answer == (b"FINE" if word == "fine" else b"")
                    until(
                        lambda: (
                            lines.extend(told.lines()) or is_over(lines[before:], mode, word, "close_request", hooks)
                        )
                    )
        lines += told.lines()
    by_who: dict[str, list[str]] = {}
    for line in lines:
        who, _, what = line.partition(" ")
        by_who.setdefault(who, []).append(what)
    return by_who


def is_over(lines: list[str], mode: str, word: str, end: str, hooks: list[str]) -> bool:
    """Whether all that belongs to one request has been told."""
    if "close_request" not in hooks:
        return any("handle" in line or "verify" in line or "got one" in line for line in lines)
    closed = sum(line.endswith(end) for line in lines)
    # The parent closes its copy, and the child its own.
    enough = 2 if mode == "forking" and word in ("fine", "fail") else 1
    acted = "service_actions" not in hooks or any(line.endswith("service_actions") for line in lines)
    return closed >= enough and acted


KINDS = ["TCP", "UDP", "UnixStream", "UnixDatagram"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["serial", "threading", "forking", "green", "async"])
def test_the_hooks_are_called_in_the_same_order_and_as_often(mode: str, kind: str) -> None:
    theirs = trace(std, {"green": "threading", "async": "threading"}.get(mode, mode), kind)
    mine = trace(ours, mode, kind)
    if mode == "forking":
        # A child's end wakes the loop here; there it is found at the next tick.
        for told in (theirs, mine):
            told["serving"] = [line for line in told["serving"] if line != "service_actions"]
    assert mine == theirs


@pytest.mark.parametrize(
    "hook", [name for name in HOOKS if name not in ("handle_timeout", "server_bind", "server_activate")]
)
@pytest.mark.parametrize("mode", ["serial", "threading", "forking", "green"])
def test_one_hook_alone_is_called_as_often(mode: str, hook: str) -> None:
    """Shortcuts are taken where nothing was overridden; one hook is enough to be called."""
    there = {"green": "threading"}.get(mode, mode)
    if not hasattr(server_class(there, "TCP", std), hook):
        pytest.skip(f"a {mode} server has no {hook}")
    theirs, mine = trace(std, there, "TCP", [hook]), trace(ours, mode, "TCP", [hook])
    for told in (theirs, mine):
        for who, lines in told.items():
            told[who] = [line for line in lines if line.split()[0] == hook]
    if (mode, hook) == ("forking", "service_actions"):
        assert len(mine["serving"]) >= len(theirs["serving"])
    else:
        assert {who: lines for who, lines in mine.items() if lines} == {
            who: lines for who, lines in theirs.items() if lines
        }


@pytest.mark.parametrize("mode", ["serial", "threading", "forking", "green"])
def test_handle_request_calls_them_too(mode: str) -> None:
    def one(module: Any, mode: str) -> list[str]:
        with Told() as told:
            cls, handler = recording(module, mode, "TCP", told)
            with cls(("127.0.0.1", 0), handler) as server:
                server.timeout = 0.01
                server.handle_request()
                server.timeout = 20
                with connect(server) as client:
                    client.sendall(b"fine")
                    server.handle_request()
                    assert client.recv(100) == b"FINE"
            return sorted(told.lines()) if mode != "serial" else told.lines()

    theirs = one(std, {"green": "threading"}.get(mode, mode))
    assert "serving handle_timeout" in theirs
    assert [line.replace("unit ", "").replace("serving ", "") for line in sorted(one(ours, mode))] == sorted(
        line.replace("unit ", "").replace("serving ", "") for line in theirs
    )


@pytest.mark.parametrize("mode", ["serial", "threading", "forking", "green"])
def test_a_get_request_that_fails_is_passed_over(mode: str) -> None:
    """An OSError out of it is the end of that attempt and of nothing else: no hook is called for it."""

    def attempts(module: Any, mode: str) -> tuple[int, list[bytes]]:
        calls: list[int] = []
        base = server_class(mode, "TCP", module)

        class Refuses(base):  # type: ignore[misc]
            def get_request(self) -> Any:
                calls.append(1)
                if len(calls) in (1, 3):
                    request, _ = super().get_request()
                    request.close()
                    raise ConnectionAbortedError("gone again")
                return super().get_request()

            def handle_error(self, request: Any, client_address: Any) -> None:
                raise AssertionError("there is no request to fail")

        class Handler(module.BaseRequestHandler):  # type: ignore[name-defined,misc]
            def handle(self) -> None:
                self.request.sendall(self.request.recv(100).upper())

        with Refuses(("127.0.0.1", 0), Handler) as server, serving(server, close=False):
            answers = []
            for _ in range(4):
                try:
                    answers.append(ask(server))
                except ConnectionResetError:
                    answers.append(b"")
        return len(calls), answers

    expected = (4, [b"", b"HELLO", b"", b"HELLO"])
    assert attempts(std, {"green": "threading"}.get(mode, mode)) == expected
    assert attempts(ours, mode) == expected


@pytest.mark.parametrize("mode", ["serial", "threading", "forking", "green"])
def test_an_overridden_fileno_is_the_one_that_is_watched(mode: str) -> None:
    base = server_class(mode)

    class Elsewhere(base):  # type: ignore[misc,valid-type]
        """Listens on one socket and takes its requests from another, which is all that fileno() promises."""

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

    class Handler(ours.BaseRequestHandler[Any]):
        def handle(self) -> None:
            self.request.sendall(self.request.recv(100).upper())

    with Elsewhere(("127.0.0.1", 0), Handler) as server, serving(server, close=False):
        for _ in range(3):
            assert ask(server.other) == b"HELLO"


@pytest.mark.parametrize("mode", ["serial", "threading", "forking", "green"])
def test_a_get_request_that_would_wait_is_asked_only_when_there_is_something(mode: str) -> None:
    """It is called once for each time that fileno() is readable, as there: nobody promises that a second call returns."""
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

    class Handler(ours.BaseRequestHandler[Any]):
        def handle(self) -> None:
            self.request.sendall(self.request.recv(100).upper())

    with Handed(("127.0.0.1", 0), Handler) as server, serving(server, close=False):
        for number in range(3):
            mine, its = ours._socket_std.socketpair()  # type: ignore[attr-defined]
            with mine:
                mine.settimeout(10)
                from jackfield import socket

                server.handed.append(socket.socket(fileno=its.detach()))
                os.write(server.writer, b"x")
                mine.sendall(b"hello")
                assert mine.recv(100) == b"HELLO"
            assert len(taken) == number + 1


def test_a_trace_that_differs_would_be_found() -> None:
    """The broken case: a server that closes without its hook."""
    with Told() as told:
        cls, handler = recording(ours, "serial", "TCP", told, ["shutdown_request"])

        class Hasty(cls):  # type: ignore[misc,valid-type]
            def process_request(self, request: Any, client_address: Any) -> None:
                self.finish_request(request, client_address)
                request.close()

        def lines(cls: Any) -> list[str]:
            with cls(("127.0.0.1", 0), handler) as server, serving(server, close=False):
                ask(server, b"fine")
            return told.lines()

        assert lines(cls) != lines(Hasty)
