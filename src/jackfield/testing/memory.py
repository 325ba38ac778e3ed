"""A connection for a handler without any port: a socket pair, so the handler meets real sockets and real ends.

`run_handler` is for the simple case, bytes in and bytes out; `memory_connection` for a conversation.
"""

from __future__ import annotations

import socket as _socket_std
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

from ..errors import MisuseError
from ..reactor import run
from .memory_ends import CHUNK, HandlerThread, Pump, handle, is_async, is_datagram, pair

__all__ = ["MemoryClient", "memory_connection", "run_handler"]

Mode = Literal["auto", "thread", "green", "async"]

SECONDS = 10.0
CLIENT_ADDRESS = ("127.0.0.1", 50000)


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
    its own. What the handler raises is raised here. TimeoutError when a stream handler has not ended after `timeout`
    seconds: its connection is shut down then, which ends most handlers that wait.

    ::

        assert run_handler(Upper, b"hello") == b"HELLO"
    """
    if datagram is None:
        datagram = is_datagram(handler_class)
    body = _run_datagram if datagram else _run_stream
    if not is_async(handler_class):
        return body(handler_class, data, client_address, server, timeout)
    return _in_thread(lambda: body(handler_class, data, client_address, server, timeout))


class MemoryClient:
    """The client's end of `memory_connection`. Its calls block, each for at most the timeout (10 s by default)."""

    def __init__(self, near: _socket_std.socket, handler: HandlerThread) -> None:
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
        datagram = is_datagram(handler_class)
    if mode == "auto":
        mode = "async" if is_async(handler_class) else "thread"
    if (mode == "async") != is_async(handler_class):
        raise MisuseError(f"{handler_class!r} cannot run in mode {mode!r}: leave the mode out and it is chosen to fit")
    near, far = pair(datagram)
    near.settimeout(timeout)
    handler = HandlerThread(handler_class, far, client_address, server, mode, datagram)
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


def _run_datagram(
    handler_class: Callable[..., Any], data: bytes, client_address: Any, server: Any, timeout: float
) -> bytes:
    near, far = pair(datagram=True)
    answers: list[bytes] = []
    with near, far:
        handle(handler_class, (data, far.answers(client_address, [], answers)), client_address, server)
    return b"".join(answers)


def _run_stream(
    handler_class: Callable[..., Any], data: bytes, client_address: Any, server: Any, timeout: float
) -> bytes:
    near, far = pair(datagram=False)
    pump = Pump(near, data, timeout)
    try:
        with far:
            try:
                handle(handler_class, far, client_address, server)
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
