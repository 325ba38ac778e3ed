"""Deliberate damage to what stands in place, by which each gate proves that it can fail."""

import importlib
import threading
from collections.abc import Callable
from typing import Any

# `socket` and `socketserver` are looked up when the damage is done: by then a face is in place.


def _recv_drops_a_byte() -> None:
    cls = importlib.import_module("socket").socket
    original = cls.recv

    def recv(self: Any, *args: Any) -> bytes:
        data: bytes = original(self, *args)
        return data[:-1]

    cls.recv = recv


def _no_unix_family() -> None:
    module = importlib.import_module("socket")
    del module.AF_UNIX


def _handler_is_never_called() -> None:
    module = importlib.import_module("socketserver")
    module.BaseServer.finish_request = lambda self, request, client_address: None


def _a_thread_stays_behind() -> None:
    cls = importlib.import_module("socketserver").TCPServer
    original = cls.server_close

    def server_close(self: Any) -> None:
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        original(self)

    cls.server_close = server_close


def _connect_starts_a_thread() -> None:
    cls = importlib.import_module("socket").socket
    original = cls.connect

    def connect(self: Any, address: Any) -> None:
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        original(self, address)

    cls.connect = connect


def _a_test_never_ends() -> None:
    cls = importlib.import_module("socket").socket
    cls.detach = lambda self: threading.Event().wait()


DAMAGE: dict[str, Callable[[], None]] = {
    "recv-drops-a-byte": _recv_drops_a_byte,
    "no-unix-family": _no_unix_family,
    "handler-is-never-called": _handler_is_never_called,
    "a-thread-stays-behind": _a_thread_stays_behind,
    "connect-starts-a-thread": _connect_starts_a_thread,
    "a-test-never-ends": _a_test_never_ends,
}
