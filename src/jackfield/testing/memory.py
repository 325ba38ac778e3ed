"""A connection for a handler without any port: a socket pair, so the handler meets real sockets and real ends.

`run_handler` is for the simple case, bytes in and bytes out; `memory_connection` for a conversation.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket as _socket_std
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

from ..errors import MisuseError
from ..handlers import AsyncDatagramRequestHandler, AsyncRequestHandler, DatagramRequestHandler
from ..reactor import await_, drive, run
from ..socket import socket, socketpair
from ..streams import AsyncSocket

__all__ = ["MemoryClient", "memory_connection", "run_handler"]

Mode = Literal["auto", "thread", "green", "async"]

SECONDS = 10.0
CLIENT_ADDRESS = ("127.0.0.1", 50000)
CHUNK = 65536


def run_handler(
    handler_class: Callable[..., Any],
    data: bytes = b"",
    client_address: Any = CLIENT_ADDRESS,
    server: Any = None,
    *,
    datagram: bool | None = None,
    timeout: float = SECONDS,
) -> bytes:
    """Run one handler on `data` and return all the bytes that it wrote.

    For a stream handler `data` is everything the client sends before it ends its side. For a datagram handler it is the
    one datagram, and what comes back are its answers joined. Which of the two it is shows in the class it extends;
    `datagram` says it for one that extends BaseRequestHandler or AsyncRequestHandler itself.

    A blocking-style handler runs in the calling thread (or green thread), a coroutine handler on a loop in a thread of
    its own. What the handler raises is raised here. TimeoutError when it has not ended after `timeout` seconds: its
    connection is shut down then, which ends most handlers that wait.

    ::

        assert run_handler(Upper, b"hello") == b"HELLO"
    """
    if datagram is None:
        datagram = _is_datagram(handler_class)
    body = _run_datagram if datagram else _run_stream
    if not _is_async(handler_class):
        return body(handler_class, data, client_address, server, timeout)
    return _in_thread(lambda: body(handler_class, data, client_address, server, timeout))


class MemoryClient:
    """The client's end of `memory_connection`. Its calls block, each for at most the timeout (10 s by default)."""

    def __init__(self, near: _socket_std.socket, handler: _Handler) -> None:
        #: The socket itself, of the standard library, for what is not offered here.
        self.socket = near
        #: What the handler raised, unless it only says that the client left.
        self.errors = handler.errors
        #: For a datagram handler: (datagram, address) of what it sent to others than the client.
        self.sent_elsewhere = handler.sent_elsewhere
        self._handler = handler
        self._buffer = bytearray()

    def sendall(self, data: bytes) -> None:
        """Send bytes; to a datagram handler one datagram, for which a handler runs."""
        if self._handler.datagram:
            self._handler.datagrams.put(data)
        else:
            self.socket.sendall(data)

    def recv(self, bufsize: int = CHUNK) -> bytes:
        """At most `bufsize` bytes as soon as there are any, b"" at the end; of a datagram handler its next answer."""
        if self._buffer:
            data = bytes(self._buffer[:bufsize])
            del self._buffer[:bufsize]
            return data
        try:
            return self.socket.recv(bufsize)
        except TimeoutError:
            raise TimeoutError(f"the handler sent nothing for {self.socket.gettimeout():g} s") from None

    def readline(self) -> bytes:
        """One line with its newline; what is left where the handler ends without one; b"" at the end."""
        while b"\n" not in self._buffer:
            if not self._fill():
                break
        end = self._buffer.find(b"\n") + 1 or len(self._buffer)
        return self._take(end)

    def readexactly(self, size: int) -> bytes:
        """`size` bytes. EOFError, with what there was, where the handler ends before."""
        while len(self._buffer) < size:
            if not self._fill():
                raise EOFError(f"the handler ended {size - len(self._buffer)} bytes early: {bytes(self._buffer)!r}")
        return self._take(size)

    def readall(self) -> bytes:
        """All bytes until the handler ends its side."""
        while self._fill():
            pass
        return self._take(len(self._buffer))

    def end(self) -> None:
        """End this side, so that the handler reads the end of the stream; what it answers can still be read."""
        if not self._handler.datagram:
            self.socket.shutdown(_socket_std.SHUT_WR)

    def close(self) -> None:
        """Close this end; the handler sees the end of the stream or, where it has data unread, a reset."""
        self._handler.stop()
        self.socket.close()

    def wait_ended(self, timeout: float = SECONDS) -> bool:
        """Wait until the handler has ended; False if it still runs after `timeout` seconds."""
        self._handler.thread.join(timeout)
        return not self._handler.thread.is_alive()

    def _fill(self) -> bool:
        # Straight from the socket, whose recv would otherwise find what was buffered here.
        data = self.socket.recv(CHUNK)
        self._buffer += data
        return bool(data)

    def _take(self, size: int) -> bytes:
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data


@contextmanager
def memory_connection(
    handler_class: Callable[..., Any],
    client_address: Any = CLIENT_ADDRESS,
    server: Any = None,
    *,
    mode: Mode = "auto",
    datagram: bool | None = None,
    timeout: float = SECONDS,
) -> Iterator[MemoryClient]:
    """Run a handler on one end of a socket pair; yields the client's end, to hold a conversation with it.

    `mode` says where the handler runs: "thread"; "green", as a green thread on a loop in a thread; "async", on such a
    loop; "auto": async for a handler class of coroutines, else thread. `datagram` as in `run_handler`; a datagram
    handler is made for each datagram that is sent, one after the other. `timeout` is in seconds, for each call of the
    client, and for the handler to end once the block has closed the client's end.

    The end of the block raises what the handler raised (not a ConnectionError, which comes of the client's leaving), or
    AssertionError where it has not ended in time; nothing where the block itself raised, which goes first. A test that
    expects an error looks at `client.errors` and clears it.
    """
    if datagram is None:
        datagram = _is_datagram(handler_class)
    if mode == "auto":
        mode = "async" if _is_async(handler_class) else "thread"
    if (mode == "async") != _is_async(handler_class):
        raise MisuseError(f"{handler_class!r} cannot run in mode {mode!r}: leave the mode out and it is chosen to fit")
    near, far = _pair(datagram)
    near.settimeout(timeout)
    handler = _Handler(handler_class, far, client_address, server, mode, datagram)
    client = MemoryClient(near, handler)
    try:
        yield client
    finally:
        handler.stop()
        if datagram:
            client.wait_ended(timeout)  # the datagrams that are still queued are answered first
        near.close()
        ended = client.wait_ended(timeout)
    if not ended:
        raise AssertionError(f"{handler_class!r} still runs {timeout:g} s after its client left")
    if handler.errors:
        raise handler.errors[0]


# -- what runs ---------------------------------------------------------------------------------------------------------


def _is_async(handler_class: Callable[..., Any]) -> bool:
    """By the base class, or by `handle`, so that a class of the user's own with the same surface will do."""
    if isinstance(handler_class, type) and issubclass(handler_class, AsyncRequestHandler):
        return True
    return asyncio.iscoroutinefunction(getattr(handler_class, "handle", None))


def _is_datagram(handler_class: Callable[..., Any]) -> bool:
    kinds: tuple[type, ...] = (DatagramRequestHandler, AsyncDatagramRequestHandler)
    with contextlib.suppress(ImportError):
        import socketserver as _socketserver_std

        kinds += (_socketserver_std.DatagramRequestHandler,)
    return isinstance(handler_class, type) and issubclass(handler_class, kinds)


def _handle(handler_class: Callable[..., Any], request: Any, client_address: Any, server: Any) -> None:
    """One handler's life. A coroutine handler's needs the loop of a green thread, which is where this is called."""
    if not _is_async(handler_class):
        handler_class(request, client_address, server)
        return

    async def live() -> None:
        if isinstance(request, tuple):
            wrapped: Any = (request[0], AsyncSocket(request[1]))
        else:
            wrapped = AsyncSocket(request)
        await handler_class(wrapped, client_address, server).run()

    await_(drive(live()))


class _Datagrams:
    """A queue of datagrams for one thread."""

    def __init__(self) -> None:
        import queue

        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

    def put(self, data: bytes) -> None:
        self._queue.put(bytes(data))

    def close(self) -> None:
        self._queue.put(None)

    def __iter__(self) -> Iterator[bytes]:
        while (data := self._queue.get()) is not None:
            yield data


class _ReplySocket(socket):
    """The socket that a datagram handler answers by: what it sends to the client goes into the pair."""

    __slots__ = ("_client_address", "_elsewhere")

    def answers(self, client_address: Any, elsewhere: list[tuple[bytes, Any]]) -> _ReplySocket:
        self._client_address = client_address
        self._elsewhere = elsewhere
        return self

    def sendto(self, data: Any, *args: Any) -> int:
        if not args:
            raise TypeError("sendto() takes 2 or 3 arguments (1 given)")
        return self._answer(bytes(data), args[-1], args[0] if len(args) > 1 else 0)

    def sendmsg(self, buffers: Any, ancdata: Any = (), flags: int = 0, address: Any = None, /) -> int:
        return self._answer(b"".join(bytes(part) for part in buffers), address, flags)

    def _answer(self, data: bytes, address: Any, flags: int) -> int:
        if address is None or address == self._client_address:
            return self.send(data, flags)
        self._elsewhere.append((data, address))
        return len(data)


def _pair(datagram: bool) -> tuple[_socket_std.socket, Any]:
    """The client's end, of the standard library, and the handler's, of ours."""
    if datagram:
        near, far = _socket_std.socketpair(_socket_std.AF_UNIX, _socket_std.SOCK_DGRAM)
        return near, _ReplySocket(far.family, far.type, far.proto, far.detach())
    ours, far = socketpair()
    return _socket_std.socket(ours.family, ours.type, ours.proto, ours.detach()), far


class _Handler:
    """A handler that runs in a thread until its client leaves."""

    def __init__(
        self, handler_class: Callable[..., Any], far: Any, client_address: Any, server: Any, mode: Mode, datagram: bool
    ) -> None:
        self.errors: list[BaseException] = []
        self.sent_elsewhere: list[tuple[bytes, Any]] = []
        self.datagram = datagram
        self.datagrams = _Datagrams()
        self._far = far
        self._one = lambda request: _handle(handler_class, request, client_address, server)
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


def _run_datagram(
    handler_class: Callable[..., Any], data: bytes, client_address: Any, server: Any, timeout: float
) -> bytes:
    near, far = _pair(datagram=True)
    elsewhere: list[tuple[bytes, Any]] = []
    answers = []
    with near, far:
        near.setblocking(False)
        _handle(handler_class, (data, far.answers(client_address, elsewhere)), client_address, server)
        with contextlib.suppress(BlockingIOError):
            while True:
                answers.append(near.recv(1 << 17))
    return b"".join(answers)


def _run_stream(
    handler_class: Callable[..., Any], data: bytes, client_address: Any, server: Any, timeout: float
) -> bytes:
    near, far = _pair(datagram=False)
    pump = _Pump(near, data, timeout)
    try:
        with far:
            try:
                _handle(handler_class, far, client_address, server)
            except OSError as error:
                if pump.gave_up:
                    raise _too_long(handler_class, timeout) from error
                raise
    finally:
        pump.join()
    if pump.gave_up:
        raise _too_long(handler_class, timeout)
    return b"".join(pump.received)


def _too_long(handler_class: Callable[..., Any], timeout: float) -> TimeoutError:
    return TimeoutError(f"{handler_class!r} had not ended after {timeout:g} s")


class _Pump:
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


def _in_thread(body: Callable[[], bytes]) -> bytes:
    """Run `body` on a loop in a thread of its own: the calling thread may have a loop that runs."""
    results: list[bytes] = []
    raised: list[BaseException] = []

    def target() -> None:
        try:
            results.append(run(body))
        except BaseException as error:  # handed to the caller, which raises it
            raised.append(error)

    thread = threading.Thread(target=target, name="memory handler", daemon=True)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]
    return results[0]
