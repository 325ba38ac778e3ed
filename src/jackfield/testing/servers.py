"""Factories for `check_server`: how a server of some kind is started on an address and stopped again."""

from __future__ import annotations

import os
import socket as _socket_std
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from types import ModuleType
from typing import Any

from ..address import describe_sockaddr, parse_address
from .clients import temporary_path
from .server_handlers import AskedToFail, async_handler, blocking_handler

__all__ = ["ClassServers", "NativeServers", "ServerFactory", "stdlib_servers"]

STOP_SECONDS = 0.25
"""What a server is given to let its handlers finish before their connections are cut."""


class ServerFactory:
    """Starts servers for `check_server`. Subclass it and write `serve` to check a server of your own.

    `serve(kind, address)` is a context manager that starts a server with the handler of that kind
    (`blocking_handler(kind, base)` or `async_handler(kind, base)` makes one), yields the text of its real
    address, and stops the server at the end, whatever its clients do.

    `concurrent` is False for a server that serves one connection after the other. `missing` maps the name
    of a check to the reason why this kind of server does not promise it.
    """

    name = "a server"
    concurrent = True

    def __init__(self, address: str = "tcp://127.0.0.1:0", missing: Mapping[str, str] | None = None) -> None:
        """`address` is where each server is bound: port 0, or "unix:" alone for a path of its own."""
        self.address = address
        self.missing: dict[str, str] = dict(missing or {})

    def __repr__(self) -> str:
        return f"{self.name} on {self.address}"

    @property
    def is_datagram(self) -> bool:
        """Whether the address is one for datagrams, which decides the suite."""
        return self.address == "unixgram:" or (self.address != "unix:" and parse_address(self.address).is_datagram)

    def __call__(self, kind: str) -> AbstractContextManager[str]:
        """Start a server with a handler of `kind` on this factory's address; yields the real address."""
        return self._at_address(kind)

    @contextmanager
    def _at_address(self, kind: str) -> Iterator[str]:
        with temporary_path(self.address) as address, self.serve(kind, address) as real:
            yield real

    def serve(self, kind: str, address: str) -> AbstractContextManager[str]:
        """Start a server; to be written by the subclass."""
        raise NotImplementedError

    def enter(self, body: Any) -> Any:
        """Run a check. The clients of a check are threads, so it runs as it is."""
        return body()


class ClassServers(ServerFactory):
    """Servers in the way of `socketserver`: a module's ``<prefix>TCPServer`` and its three siblings.

    The module is the standard library's `socketserver`, ours, or another with the same names. `serve_forever` runs in
    a thread. A composed class that the module lacks (``ForkingUnixStreamServer`` before Python 3.12) is composed here.
    """

    def __init__(
        self,
        module: ModuleType,
        prefix: str = "",
        address: str = "tcp://127.0.0.1:0",
        missing: Mapping[str, str] | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        """`prefix` is Threading, Forking, Green, Async or "" (serial); `attributes` are set on the server class."""
        super().__init__(address, missing)
        self.module = module
        self.prefix = prefix
        self.attributes = dict(attributes or {})
        self.name = f"{module.__name__} {prefix or 'serial'}"
        self.concurrent = bool(prefix)

    def server_class(self, address: str) -> type[Any]:
        """The class for this address, with room for a datagram of any size and the family that the address needs."""
        where = parse_address(address)
        name = {
            (False, False): "TCPServer",
            (False, True): "UDPServer",
            (True, False): "UnixStreamServer",
            (True, True): "UnixDatagramServer",
        }[where.is_unix, where.is_datagram]
        whole = getattr(self.module, self.prefix + name, None)
        bases = (whole,) if whole else (getattr(self.module, f"{self.prefix}MixIn"), getattr(self.module, name))
        settings: dict[str, Any] = {"max_packet_size": 65536, "request_queue_size": 128, **self.attributes}
        if ":" in where.host:
            settings["address_family"] = _socket_std.AF_INET6
        return type(self.prefix + name, bases, settings)

    def handler(self, kind: str) -> type[Any]:
        """The handler class for `kind`."""
        if self.prefix == "Async":
            return async_handler(kind, self.module.AsyncRequestHandler)
        return blocking_handler(kind, self.module.BaseRequestHandler)

    @contextmanager
    def serve(self, kind: str, address: str) -> Iterator[str]:
        where = parse_address(address)
        sockaddr = where.path if where.is_unix else (where.host, where.port)
        server = self.server_class(address)(sockaddr, self.handler(kind))
        try:
            thread = threading.Thread(target=server.serve_forever, args=(0.02,), name=self.name, daemon=True)
            thread.start()
            try:
                bound = server.socket
                yield describe_sockaddr(bound.family, bound.type, bound.getsockname())
            finally:
                self.stop(server)
                thread.join(10)
        finally:
            server.server_close()
            if where.is_unix and os.path.exists(where.path):
                os.unlink(where.path)
        if thread.is_alive():
            raise AssertionError(f"serve_forever of {self.name} has not returned 10 s after it was told to stop")

    def stop(self, server: Any) -> None:
        """Tell the server to stop: by `stop(deadline)` where the class has it, else by `shutdown()`."""
        if hasattr(server, "stop"):
            server.stop(STOP_SECONDS)
        else:
            server.shutdown()


def stdlib_servers(prefix: str = "Threading", address: str = "tcp://127.0.0.1:0") -> ClassServers:
    """The standard library's `socketserver` classes: what the others are measured against.

    Its handlers' threads are daemons that nobody waits for: its `server_close` would wait for each without end.
    """
    import socketserver as _socketserver_std

    def handle_error(self: Any, request: Any, client_address: Any) -> None:
        import sys

        if not isinstance(sys.exception(), (AskedToFail, ConnectionError)):
            _socketserver_std.BaseServer.handle_error(self, request, client_address)

    quiet = {"handle_error": handle_error, "block_on_close": False, "daemon_threads": True}
    missing = {"stops_with_idle_peers": "the standard library's server cannot close the connections it serves"}
    if prefix == "Forking":
        missing["refuses_after_stop"] = "the standard library's forked children keep the listening socket open"
    return ClassServers(_socketserver_std, prefix, address, missing, quiet)


class NativeServers(ServerFactory):
    """`jackfield.Server` in one of its modes: serial, thread, process, green or async."""

    def __init__(
        self,
        mode: str,
        address: str = "tcp://127.0.0.1:0",
        missing: Mapping[str, str] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """`options` are further keyword arguments of `jackfield.Server`."""
        super().__init__(address, missing)
        self.mode = mode
        self.name = f"jackfield.Server mode {mode}"
        self.concurrent = mode != "serial"
        self.options = {"graceful_timeout": STOP_SECONDS, **(options or {})}

    @contextmanager
    def serve(self, kind: str, address: str) -> Iterator[str]:
        from .. import socketserver
        from ..server import Server

        if self.mode == "async":
            handler = async_handler(kind, socketserver.AsyncRequestHandler)
        else:
            handler = blocking_handler(kind, socketserver.BaseRequestHandler)
        with Server(handler, address, mode=self.mode, **self.options) as server:
            yield server.addresses[0]
        if not server.wait_stopped(0):
            raise AssertionError(f"{self.name} still runs after its with block")
