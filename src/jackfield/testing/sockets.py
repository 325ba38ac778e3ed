"""Factories for `check_socket`: where connected pairs come from, and what runs the two ends."""

from __future__ import annotations

import os
import socket as _socket_std
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import ModuleType
from typing import Any, TypeAlias

from .suite import NotPromised
from .units import GreenUnits, Signal, ThreadUnits, Units

__all__ = ["SocketFactory", "green_sockets", "stdlib_sockets", "thread_sockets"]

Socket: TypeAlias = _socket_std.socket

TRANSPORTS: Mapping[str, tuple[int, Any]] = {
    "tcp4": (_socket_std.AF_INET, ("127.0.0.1", 0)),
    "tcp6": (_socket_std.AF_INET6, ("::1", 0)),
    "unix": (_socket_std.AF_UNIX, None),
}


class SocketFactory:
    """Connected pairs of sockets, and units to use them in. Subclass it to check sockets of your own making.

    A subclass overrides `wrap` (to put something around each end), or `listener` and `connect`, or only
    `__call__`, which yields a connected pair. `missing` maps the name of a check to the reason why these
    sockets do not promise it; such a check is reported as "not promised" instead of run.

    ::

        class Tls(SocketFactory):
            def wrap(self, end, server):
                return context.wrap_socket(end, server_side=server)

        check_socket(Tls("tls", socket, ThreadUnits()))
    """

    def __init__(
        self,
        name: str,
        module: ModuleType,
        units: Units,
        transport: str = "tcp4",
        missing: Mapping[str, str] | None = None,
    ) -> None:
        """`module` is the socket module (its `socket` class is used); `transport` is tcp4, tcp6 or unix."""
        self.name = f"{name} over {transport}"
        self.module = module
        self.units = units
        self.transport = transport
        self.missing: dict[str, str] = dict(missing or {})

    def __repr__(self) -> str:
        return self.name

    def __call__(self) -> AbstractContextManager[tuple[Socket, Socket]]:
        """A context manager that yields a connected pair (a, b) in blocking mode and closes both at the end."""
        return self._pair()

    @contextmanager
    def _pair(self) -> Iterator[tuple[Socket, Socket]]:
        with ExitStack() as stack:
            with self.listener() as listener:
                near = stack.enter_context(self.connect(listener))
                far = stack.enter_context(listener.accept()[0])
            if type(self).wrap is SocketFactory.wrap:
                yield near, far
                return
            a, b = self.together(lambda: self.wrap(near, False), lambda: self.wrap(far, True))
            yield stack.enter_context(a), stack.enter_context(b)

    def wrap(self, end: Socket, server: bool) -> Socket:
        """What to hand out for the connected socket `end`; the two ends are wrapped at the same time."""
        return end

    @contextmanager
    def listener(self, backlog: int = 16) -> Iterator[Socket]:
        """A listening socket on loopback, on a port (or path) of its own."""
        with ExitStack() as stack:
            family, address = TRANSPORTS[self.transport]
            listener = stack.enter_context(self.module.socket(family, _socket_std.SOCK_STREAM))
            if address is None:
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="jackfield-"))
                address = os.path.join(folder, "listener")
            listener.bind(address)
            listener.listen(backlog)
            yield listener

    def connect(self, listener: Socket, timeout: float | None = None) -> Socket:
        """A new socket connected to `listener`; `timeout` (seconds) covers the connect and stays set."""
        socket: Socket = self.module.socket(listener.family, _socket_std.SOCK_STREAM)
        try:
            socket.settimeout(timeout)
            socket.connect(listener.getsockname())
        except BaseException:
            socket.close()
            raise
        return socket

    def together(self, *bodies: Callable[[], Any]) -> list[Any]:
        """Run the bodies at the same time in this factory's units; return their results in order."""
        return self.units.together(*bodies)

    def enter(self, body: Callable[[], Any]) -> Any:
        """Run `body` as the first unit."""
        return self.units.enter(body)

    def signal(self) -> Signal:
        """An event that works between the units."""
        return self.units.signal()

    def needs(self, method: str) -> None:
        """Raise `NotPromised` where this factory's socket class has no such method."""
        if not hasattr(self.module.socket, method):
            raise NotPromised(f"{self.module.__name__}.socket has no {method}")


NO_WAKE = "close does not wake a thread that blocks in another call on the same descriptor (close(2), NOTES)"


def stdlib_sockets(transport: str = "tcp4") -> SocketFactory:
    """The standard library's sockets, each body in a thread: what the other factories are measured against."""
    return SocketFactory("stdlib sockets in threads", _socket_std, ThreadUnits(), transport, {"close_wakes": NO_WAKE})


def thread_sockets(transport: str = "tcp4") -> SocketFactory:
    """`jackfield.socket` in plain threads, where its sockets block as the standard library's do."""
    from .. import socket

    return SocketFactory("jackfield sockets in threads", socket, ThreadUnits(), transport, {"close_wakes": NO_WAKE})


def green_sockets(transport: str = "tcp4", loop_factory: Callable[[], Any] | None = None) -> SocketFactory:
    """`jackfield.socket` in green threads, all bodies on one thread; `loop_factory` makes the host loop."""
    from .. import socket

    return SocketFactory("jackfield sockets in green threads", socket, GreenUnits(loop_factory), transport)
