"""What `memory` is made of: the pair of ends, the life of a handler on one of them, and the client that pumps bytes."""

from __future__ import annotations

import contextlib
import inspect
import queue
import select
import socket as _socket_std
import socketserver as _socketserver_std
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from ..handlers import AsyncDatagramRequestHandler, AsyncRequestHandler, DatagramRequestHandler, serve_with
from ..reactor import await_, drive, run
from ..socket import socket, socketpair
from ..streams import AsyncSocket

__all__ = ["HandlerThread", "Pump", "handle", "is_async", "is_datagram", "pair"]

CHUNK = 65536


def is_async(handler_class: Callable[..., Any]) -> bool:
    """By the base class, or by `handle`, so that a class of the user's own with the same surface will do."""
    if isinstance(handler_class, type) and issubclass(handler_class, AsyncRequestHandler):
        return True
    return inspect.iscoroutinefunction(getattr(handler_class, "handle", None))


def is_datagram(handler_class: Callable[..., Any]) -> bool:
    """By the base class, ours or the standard library's."""
    kinds = (DatagramRequestHandler, AsyncDatagramRequestHandler, _socketserver_std.DatagramRequestHandler)
    return isinstance(handler_class, type) and issubclass(handler_class, kinds)


def handle(handler_class: Callable[..., Any], request: Any, client_address: Any, server: Any) -> None:
    """One handler's life. For a coroutine handler this has to be called in a green thread, whose loop it uses."""
    if not is_async(handler_class):
        serve_with(handler_class, request, client_address, server)
        return

    async def live() -> None:
        if isinstance(request, tuple):
            wrapped: Any = (request[0], AsyncSocket(request[1]))
        else:
            wrapped = AsyncSocket(request)
        await handler_class(wrapped, client_address, server).run()

    await_(drive(live()))


def pair(datagram: bool) -> tuple[_socket_std.socket, Any]:
    """The client's end, of the standard library, and the handler's, of ours."""
    if datagram:
        near, far = _socket_std.socketpair(_socket_std.AF_UNIX, _socket_std.SOCK_DGRAM)
        return near, _ReplySocket(far.family, far.type, far.proto, far.detach())
    ours, far = socketpair()
    return _socket_std.socket(ours.family, ours.type, ours.proto, ours.detach()), far


class _ReplySocket(socket):
    """The socket that a datagram handler answers by: what it sends to the client goes into the pair."""

    __slots__ = ("_client_address", "_elsewhere", "_kept")

    _client_address: Any
    _elsewhere: list[tuple[bytes, Any]]
    _kept: list[bytes] | None

    def answers(
        self, client_address: Any, elsewhere: list[tuple[bytes, Any]], kept: list[bytes] | None = None
    ) -> _ReplySocket:
        """Tell it who the client is, and where to keep (datagram, address) of what goes to others.

        With `kept`, what goes to the client is kept there too, and so is bounded by no queue of the kernel's.
        """
        self._client_address = client_address
        self._elsewhere = elsewhere
        self._kept = kept
        return self

    def sendto(self, data: Any, *args: Any) -> int:
        if not args:
            raise TypeError("sendto() takes 2 or 3 arguments (1 given)")
        return self._answer(bytes(data), args[-1], args[0] if len(args) > 1 else 0)

    def sendmsg(self, buffers: Any, ancdata: Any = (), flags: int = 0, address: Any = None, /) -> int:
        return self._answer(b"".join(bytes(part) for part in buffers), address, flags)

    def _answer(self, data: bytes, address: Any, flags: int) -> int:
        if address is None or address == self._client_address:
            if self._kept is None:
                return self.send(data, flags)
            self._kept.append(data)
        else:
            self._elsewhere.append((data, address))
        return len(data)


class _Datagrams:
    """A queue of datagrams for one thread."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

    def put(self, data: bytes) -> None:
        self._queue.put(bytes(data))

    def close(self) -> None:
        self._queue.put(None)

    def __iter__(self) -> Iterator[bytes]:
        while (data := self._queue.get()) is not None:
            yield data


class HandlerThread:
    """A handler that runs in a thread until its client leaves."""

    def __init__(
        self, handler_class: Callable[..., Any], far: Any, client_address: Any, server: Any, mode: str, datagram: bool
    ) -> None:
        self.errors: list[BaseException] = []
        self.sent_elsewhere: list[tuple[bytes, Any]] = []
        self.datagram = datagram
        self.datagrams = _Datagrams()
        self._far = far
        self._one = lambda request: handle(handler_class, request, client_address, server)
        self._client_address = client_address
        in_place: Callable[[Callable[[Any], None], Any], None] = _call if mode == "thread" else run
        self.thread = threading.Thread(
            target=self._run, args=(in_place,), name=f"memory {handler_class!r}", daemon=True
        )
        self.thread.start()

    def stop(self) -> None:
        """No more datagrams come."""
        self.datagrams.close()

    def _run(self, in_place: Callable[[Callable[[Any], None], Any], None]) -> None:
        try:
            if not self.datagram:
                self._guarded(in_place, self._far)
                return
            replies = self._far.answers(self._client_address, self.sent_elsewhere)
            for data in self.datagrams:
                self._guarded(in_place, (data, replies))
        finally:
            self._far.close()

    def _guarded(self, in_place: Callable[[Callable[[Any], None], Any], None], request: Any) -> None:
        try:
            in_place(self._one, request)
        except ConnectionError:
            pass  # the client left
        except BaseException as error:  # kept for the test, which raises it
            self.errors.append(error)


def _call(body: Callable[[Any], None], request: Any) -> None:
    body(request)


class Pump:
    """The client's end in a thread: sends everything, ends its side, and reads until the handler's end."""

    def __init__(self, near: _socket_std.socket, data: bytes, timeout: float) -> None:
        self.received: list[bytes] = []
        self.gave_up = False
        self._near = near
        self._rest = memoryview(data)
        self._deadline = time.monotonic() + timeout
        self._thread = threading.Thread(target=self._run, name="memory client", daemon=True)
        self._thread.start()

    def join(self) -> None:
        self._thread.join()

    def _run(self) -> None:
        with self._near as near:
            near.setblocking(False)
            poller = select.poll()
            poller.register(near, select.POLLIN | select.POLLOUT)
            if not self._rest:
                self._all_sent(poller)
            while True:
                left = self._deadline - time.monotonic()
                if left <= 0:
                    self.gave_up = True
                    with contextlib.suppress(OSError):
                        near.shutdown(_socket_std.SHUT_RDWR)
                    return
                for _, events in poller.poll(left * 1000):
                    if events & select.POLLOUT and self._rest:
                        self._send(poller)
                    if events & ~select.POLLOUT and not self._receive():
                        return

    def _send(self, poller: select.poll) -> None:
        try:
            self._rest = self._rest[self._near.send(self._rest[: 1 << 20]) :]
        except BlockingIOError:
            return
        except OSError:
            self._rest = self._rest[:0]  # the handler has ended without reading the rest
        if not self._rest:
            self._all_sent(poller)

    def _all_sent(self, poller: select.poll) -> None:
        poller.modify(self._near, select.POLLIN)
        with contextlib.suppress(OSError):
            self._near.shutdown(_socket_std.SHUT_WR)

    def _receive(self) -> bool:
        try:
            data = self._near.recv(CHUNK)
        except BlockingIOError:
            return True
        except ConnectionResetError:
            return True  # told once; what was sent before it is behind it
        self.received.append(data)
        return bool(data)
