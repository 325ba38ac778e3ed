"""A server class that tells of its hooks, over either module, and the traces that it leaves while it does some work."""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

from dropin_support import Told, address_for, ask, connect, handler_base, living_children, server_class, serving, until
from greenlet import getcurrent

HOOKS = [
    "get_request", "verify_request", "process_request", "process_request_thread", "finish_request", "shutdown_request",
    "close_request", "handle_error", "handle_timeout", "service_actions", "server_bind", "server_activate",
    "server_close",
]  # fmt: skip

#: What each client sends, and by that what becomes of it.
WORDS = ["fine", "refuse", "fail", "fine", "no-process", "fine"]


class Fault(Exception):
    pass


class Recording:
    """Makes the server class and the handler class over one module.

    Who tells is told as well: "serving" is whoever takes the requests, "unit" whoever handles one elsewhere.
    """

    def __init__(self, module: Any, mode: str, kind: str, told: Told, hooks: list[str]) -> None:
        self.base = server_class(mode, kind, module)
        self.mode, self.told, self.hooks = mode, told, hooks
        self.is_stream = not kind.endswith(("UDP", "Datagram"))
        self._serving: tuple[int, int, int] | None = None
        methods = {name: self._hook(name) for name in hooks if hasattr(self.base, name)}
        self.server_class = type("Recorded", (self.base,), methods | self._faults(methods))
        self.handler_class = self._handler(handler_base(mode, "Base", module))

    @staticmethod
    def _here() -> tuple[int, int, int]:
        return os.getpid(), threading.get_ident(), id(getcurrent())

    def tell(self, what: str) -> None:
        if what == "server_close":
            who = "closing"
        else:
            who = "serving" if self._serving in (None, self._here()) else "unit"
        self.told.tell(f"{who} {what}")

    def _hook(self, name: str) -> Any:
        original = getattr(self.base, name)

        def hook(server: Any, *args: Any) -> Any:
            if name == "get_request":
                self._serving = self._here()
            self.tell(name)
            result = original(server, *args)
            if name == "get_request":
                self.tell("got one")
            return result

        async def hook_async(server: Any, *args: Any) -> None:
            self.tell(name)
            await original(server, *args)

        return hook_async if self.mode == "async" and name in ("finish_request", "process_request_thread") else hook

    def _faults(self, methods: dict[str, Any]) -> dict[str, Any]:
        """The hooks in which something is refused or fails; there only where their trace is wanted."""

        def verify_request(server: Any, request: Any, client_address: Any) -> bool:
            word = request[0] if not self.is_stream else request.recv(100, 2)  # MSG_PEEK
            server.word = word.decode()
            self.tell(f"verify_request {server.word}")
            return bool(word != b"refuse")

        def process_request(server: Any, request: Any, client_address: Any) -> None:
            self.tell("process_request")
            if getattr(server, "word", "") == "no-process":
                raise Fault
            self.base.process_request(server, request, client_address)

        def handle_error(server: Any, request: Any, client_address: Any) -> None:
            self.tell(f"handle_error {type(sys.exc_info()[1]).__name__}")

        faults = {"verify_request": verify_request, "process_request": process_request, "handle_error": handle_error}
        return {name: hook for name, hook in faults.items() if name in methods}

    def _handler(self, base: Any) -> Any:
        recording = self

        def begin(data: bytes) -> bytes:
            recording.tell("handle")
            if data == b"fail":
                raise Fault
            return data.upper()

        class Handler(base):  # type: ignore[misc]
            def handle(self) -> None:
                if recording.is_stream:
                    self.request.sendall(begin(self.request.recv(100)))
                else:
                    self.request[1].sendto(begin(self.request[0]), self.client_address)

        class AsyncHandler(base):  # type: ignore[misc]
            async def handle(self) -> None:
                if recording.is_stream:
                    await self.request.sendall(begin(await self.request.recv(100)))
                else:
                    await self.request[1].sendto(begin(self.request[0]), self.client_address)

        return AsyncHandler if self.mode == "async" else Handler


def at_rest(server: Any, threads: int) -> bool:
    """Whether nobody handles anything any more, in whatever mode and of whichever module."""
    mode = getattr(server, "_mode", None)
    return foreign_threads() <= threads and not living_children() and not (mode is not None and mode.live)


def foreign_threads() -> int:
    """Threads that are not the library's own, such as its watchdog."""
    return sum(not thread.name.startswith("jackfield-") for thread in threading.enumerate())


def trace(module: Any, mode: str, kind: str, hooks: list[str]) -> dict[str, list[str]]:
    """What a recording server tells while it serves one client of each kind: the lines, by who told them."""
    with Told() as told, address_for(kind) as address:
        recording = Recording(module, mode, kind, told, hooks)
        is_full = set(hooks) == set(HOOKS)
        with recording.server_class(address, recording.handler_class) as server, serving(server, close=False):
            threads = foreign_threads()
            for number, word in enumerate(WORDS if is_full else ["fine"] * 3, 1):
                if recording.is_stream:
                    expected = b"FINE" if word == "fine" else b""
                    assert ask(server, word.encode()) == expected
                else:
                    with connect(server) as client:
                        client.send(word.encode())
                        assert word != "fine" or client.recv(100) == b"FINE"
                        until(lambda n=number: sum("shutdown_request" in line for line in told.lines()) >= n)
                until(lambda: at_rest(server, threads))
                if "service_actions" in hooks:
                    until(lambda n=number: sum("service_actions" in line for line in told.lines()) >= n)
        by_who: dict[str, list[str]] = {}
        for line in told.lines():
            who, _, what = line.partition(" ")
            by_who.setdefault(who, []).append(what)
        return by_who
