"""`serve`: a handler on a real server, on an ephemeral port, for the length of a with block."""

from __future__ import annotations

import asyncio
import socket as _socket_std
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..handlers import AsyncRequestHandler
from ..reactor import GreenExit
from ..server import Server
from .clients import CLIENT_SECONDS, connect, temporary_path

__all__ = ["ServedServer", "serve"]

GRACE_SECONDS = 1.0

ENDED_FROM_OUTSIDE = (GreenExit, asyncio.CancelledError, ConnectionError)


class ServedServer(Server):
    """A `jackfield.Server` under test: what `serve` yields."""

    def __init__(self, handler: Any, *addresses: Any, **options: Any) -> None:
        #: What handlers raised, in order, each exception with its traceback. Not what came of a peer's leaving
        #: (ConnectionError) or of being cut when the server stopped. Handlers in mode "process" raise elsewhere.
        self.errors: list[BaseException] = []
        super().__init__(_watched(handler, self), *addresses, **options)

    def connect(self, timeout: float | None = CLIENT_SECONDS) -> _socket_std.socket:
        """A new standard-library socket connected to the server's first address.

        `timeout` (10 s by default) covers the connect and each later call, so that a test fails instead of hanging.
        """
        return connect(self.addresses[0], timeout)

    def _note(self, error: BaseException) -> None:
        if isinstance(error, ENDED_FROM_OUTSIDE):
            return
        if isinstance(error, OSError) and self.draining:
            return  # its connection was cut
        self.errors.append(error)


@contextmanager
def serve(
    handler: Any,
    *,
    mode: str = "auto",
    address: str = "tcp://127.0.0.1:0",
    raise_errors: bool = True,
    **options: Any,
) -> Iterator[ServedServer]:
    """Serve `handler` on an ephemeral port while the block runs; yields the server, which has `connect()`.

    ::

        with serve(Upper) as server, server.connect() as client:
            client.sendall(b"hello")
            assert client.recv(100) == b"HELLO"

    `address` may be any that `jackfield.Server` takes; "unix:" or "unixgram:" alone gets a path of its own, gone with
    the block. `mode` and `options` are those of `jackfield.Server`, except that `graceful_timeout` is 1 s: what the
    test's clients have left open is cut then.

    The end of the block stops the server, waits for it, and raises what handlers raised meanwhile as an ExceptionGroup:
    a handler's fault fails the test that met it. Not if the block itself raised. A test that provokes an error looks at
    `server.errors` and clears the list, or says ``raise_errors=False``.
    """
    options.setdefault("graceful_timeout", GRACE_SECONDS)
    with temporary_path(address) as real, ServedServer(handler, real, mode=mode, **options) as server:
        yield server
    if raise_errors and server.errors:
        name = getattr(handler, "__name__", repr(handler))
        raise BaseExceptionGroup(f"raised while serving {name}", server.errors)


def _watched(handler: Any, server: ServedServer) -> Any:
    """A subclass of `handler` that tells `server` what an instance raised. Anything but a class is left as it is."""
    if not isinstance(handler, type):
        return handler

    if issubclass(handler, AsyncRequestHandler):

        async def run(self: Any) -> None:
            try:
                await handler.run(self)
            except BaseException as error:
                server._note(error)
                raise

        methods: dict[str, Any] = {"run": run}
    else:

        def init(self: Any, *args: Any) -> None:
            try:
                handler.__init__(self, *args)
            except BaseException as error:
                server._note(error)
                raise

        methods = {"__init__": init}
    names = {name: getattr(handler, name) for name in ("__module__", "__qualname__", "__doc__")}
    return type(handler.__name__, (handler,), methods | names)
