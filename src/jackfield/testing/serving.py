"""`serve`: a handler on a real server, on an ephemeral port, for the length of a with block."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import socket as _socket_std
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

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
        client = connect(self.addresses[0], timeout)
        if self.mode != "process":
            return client
        ends = _EndsForAll(client.family, client.type, client.proto, client.detach())
        ends.settimeout(timeout)
        return ends

    def _note(self, error: BaseException) -> None:
        if isinstance(error, ENDED_FROM_OUTSIDE) or error in self.errors:
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
    with temporary_path(address) as real:
        server = ServedServer(handler, real, mode=mode, **options)
        # Started from a thread without a loop, a server never shares the caller's: a test in a coroutine or a green
        # thread may use a blocking client all the same.
        with ThreadPoolExecutor(1) as thread:
            thread.submit(server.start).result()
        try:
            yield server
        finally:
            server.stop()
            server.wait_stopped()
    if raise_errors and server.errors:
        name = getattr(handler, "__name__", repr(handler))
        raise BaseExceptionGroup(f"raised while serving {name}", server.errors)


class _EndsForAll(_socket_std.socket):
    """A client of a server that forks in the same process.

    The handler's process inherits a copy of the client's end (fork(2)), so a mere close would not end the connection;
    a shutdown does, whoever holds copies.
    """

    def close(self) -> None:
        if self.fileno() >= 0:
            with contextlib.suppress(OSError):
                self.shutdown(_socket_std.SHUT_RDWR)
        super().close()


def _watched(handler: Any, server: ServedServer) -> Any:
    """A subclass of `handler` that tells `server` what its methods raised. Anything but a class is left as it is."""
    if not isinstance(handler, type):
        return handler
    wrapped = {
        name: _telling(getattr(handler, name), server)
        for name in ("setup", "handle", "finish")
        if hasattr(handler, name)
    }
    names = {name: getattr(handler, name) for name in ("__module__", "__qualname__", "__doc__")}
    return type(handler.__name__, (handler,), wrapped | names)


def _telling(method: Callable[..., Any], server: ServedServer) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(method):

        @functools.wraps(method)
        async def tell_async(self: Any) -> Any:
            try:
                return await method(self)
            except BaseException as error:
                server._note(error)
                raise

        return tell_async

    @functools.wraps(method)
    def tell(self: Any) -> Any:
        try:
            return method(self)
        except BaseException as error:
            server._note(error)
            raise

    return tell
