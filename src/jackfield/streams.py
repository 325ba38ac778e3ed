"""What a coroutine handler reads and writes: a socket to await, and a reader of lines, records and blocks on it."""

from __future__ import annotations

import asyncio
from asyncio import current_task as _current_task
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from types import coroutine
from typing import IO, TYPE_CHECKING, Any, TypeVar

from .errors import LineTooLongError, MessageTooLargeError
from .reactor import PARKED, DrivenTask, Reactor, current_reactor, green
from .reactor.cooperative import ABSURD, _recv, _send
from .reactor.patience import DONTWAIT, SMALL, closed_meanwhile
from .reactor.poller import Channel
from .reactor.pure import STREAK
from .reactor.twin import native
from .socket import socket

if TYPE_CHECKING:
    from .limits import Limits

T = TypeVar("T")

#: Bytes that a reader buffers at most while it looks for a separator: asyncio's own limit.
LIMIT = 65536

#: Bytes asked of the kernel at one go.
CHUNK = 16384


@coroutine
def _nothing() -> Generator[None, None, None]:
    yield from ()


#: An awaitable with nothing left to do: a generator that has returned may be awaited again and again, in C alone.
_DONE: Any = _nothing()
next(_DONE, None)


class AsyncSocket:
    """A connected or datagram socket whose waiting calls are awaited; everything else is the socket's own.

    Made on the loop that uses it. It waits in the reactor, not in a future, when the task is one the reactor drives;
    in any other asyncio task on that loop (a ``TaskGroup`` of the handler's) it waits in a future. One task at a time
    may wait in each direction: MisuseError names both otherwise.
    """

    __slots__ = ("_reactor", "socket")

    def __init__(self, sock: socket, reactor: Reactor | None = None) -> None:
        #: The socket itself, with its blocking-style methods.
        self.socket = sock
        self._reactor = reactor or current_reactor()
        channel = getattr(sock, "_channel", None)
        if channel is not None and channel.poller is not self._reactor.poller:
            sock._channel = sock._user = None  # of another loop, which may be closed

    def __getattr__(self, name: str) -> Any:
        # What does not wait: getpeername, setsockopt, fileno, shutdown, close, family …
        return getattr(self.socket, name)

    def __repr__(self) -> str:
        return f"<AsyncSocket of {self.socket!r}>"

    # -- receiving ---------------------------------------------------------------------------------------------------

    @coroutine
    def recv(self, bufsize: int, flags: int = 0) -> Generator[Any, Any, bytes]:
        """At most ``bufsize`` bytes, as soon as there are any; ``b""`` when the peer has ended its side."""
        sock = self.socket
        channel = sock._channel
        if channel is None:
            channel = self._channel()
            yield from _give_way(channel)
        while True:
            if not channel.readable:
                if not 0 < bufsize < ABSURD:
                    return _recv(sock, bufsize, flags | DONTWAIT)  # CPython answers or refuses at once
                task: Any = _current_task()
                if type(task) is DrivenTask and channel.reader is None:
                    channel.reader = task
                    channel.streak = 0
                    try:
                        yield PARKED
                    except BaseException:
                        if channel.reader is task:
                            channel.reader = None
                        raise
                else:
                    yield from self._readable(channel)
            is_small = channel.short_is_empty and not channel.large and SMALL < bufsize < ABSURD and not flags
            asked = SMALL if is_small else bufsize
            try:
                data = _recv(sock, asked, flags | DONTWAIT)
            except BlockingIOError:
                channel.readable = False
                continue
            except OSError as error:
                raise closed_meanwhile(channel, error)  # noqa: B904
            taken = len(data)
            sock.received += taken
            if taken < asked and channel.short_is_empty and not flags:
                channel.readable = False
            elif taken == asked < bufsize:
                return data + sock._recv_more(bufsize - taken, channel)
            else:
                sock._lengthen_streak(channel)
            return data

    async def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        """As ``recv``, into ``buffer``; returns the number of bytes."""
        return await self._attempt(lambda: self.socket.recv_into(buffer, nbytes, flags | DONTWAIT), reading=True)

    async def recvfrom(self, bufsize: int, flags: int = 0) -> tuple[bytes, Any]:
        """One datagram and where it came from."""
        return await self._attempt(lambda: self.socket.recvfrom(bufsize, flags | DONTWAIT), reading=True)

    # -- sending -----------------------------------------------------------------------------------------------------

    def sendall(self, data: Any, flags: int = 0) -> Awaitable[None]:
        """Send all of ``data``. Await the result: it returns when the kernel has taken everything.

        What the kernel takes at once is sent by the call itself; the rest by awaiting. OSError as ``socket.sendall``,
        with ``bytes_sent``.
        """
        sock = self.socket
        channel = sock._channel
        taken = 0
        if channel is not None and channel.writable and channel.writer is None and data.__class__ is bytes:
            try:
                taken = _send(sock, data, flags | DONTWAIT)
            except BlockingIOError:
                channel.writable = False
            except OSError as error:
                error.bytes_sent = 0  # type: ignore[attr-defined]
                raise
            else:
                sock.sent += taken
                if taken == len(data):
                    if channel.streak:
                        sock._lengthen_streak(channel)
                    else:
                        channel.streak = 1
                    return _DONE  # type: ignore[no-any-return]
                channel.writable = False
        return self._send_rest(data, taken, flags)

    async def _send_rest(self, data: Any, total: int, flags: int) -> None:
        with memoryview(data) as whole, whole.cast("B") as view:
            try:
                while total < len(view):
                    total += await self.send(view[total:], flags)
            except OSError as error:
                error.bytes_sent = total  # type: ignore[attr-defined]
                raise

    async def send(self, data: Any, flags: int = 0) -> int:
        """Send what the kernel takes of ``data``, at least a byte; returns how many."""

        def once() -> int:
            taken = _send(self.socket, data, flags | DONTWAIT)
            self.socket.sent += taken
            return taken

        return await self._attempt(once, reading=False)

    async def sendto(self, data: Any, *flags_and_address: Any) -> int:
        """``sendto(data, address)`` or ``sendto(data, flags, address)``."""
        *flags, address = flags_and_address
        flag = (flags[0] if flags else 0) | DONTWAIT
        return await self._attempt(lambda: self.socket.sendto(data, flag, address), reading=False)

    # -- by a green thread, so that there is one copy of it ----------------------------------------------------------

    async def sendfile(self, file: IO[bytes], offset: int = 0, count: int | None = None) -> int:
        """``socket.sendfile``, awaited."""
        return await green(self.socket.sendfile, file, offset, count)

    async def recvfile(self, file: IO[bytes], offset: int = 0, count: int | None = None) -> int:
        """``socket.recvfile``, awaited."""
        return await green(self.socket.recvfile, file, offset, count)

    async def connect(self, address: Any) -> None:
        """``socket.connect``, awaited."""
        await green(self.socket.connect, address)

    async def accept(self) -> tuple[AsyncSocket, Any]:
        """``socket.accept``, awaited; the new connection is an AsyncSocket too."""
        sock, address = await green(self.socket.accept)
        return AsyncSocket(sock, self._reactor), address

    # -- waiting -----------------------------------------------------------------------------------------------------

    def _channel(self) -> Channel:
        sock = self.socket
        if sock.gettimeout() == 0.0:
            sock.settimeout(None)  # here it is awaiting that waits; a non-blocking socket has no channel
        channel = sock._join(self._reactor.poller)
        assert channel is not None
        return channel

    async def _attempt(self, operation: Callable[[], T], *, reading: bool) -> T:
        """``operation()``, which does not wait, until it no longer says EAGAIN."""
        channel = self._channel()
        await _give_way(channel)
        while True:
            if not reading and channel.writer is not None:
                await self._writable(channel)  # a misuse, which is told: another task waits to send the rest of its own
            try:
                result = operation()
            except BlockingIOError:
                if reading:
                    channel.readable = False
                    await self._readable(channel)
                else:
                    channel.writable = False
                    await self._writable(channel)
            except OSError as error:
                raise closed_meanwhile(channel, error)  # noqa: B904
            else:
                channel.streak += 1
                return result

    @coroutine
    def _readable(self, channel: Channel) -> Generator[Any, Any, None]:
        task = asyncio.current_task()
        waiter = task if isinstance(task, DrivenTask) else _FutureWaiter()
        channel.claim_reader(waiter)
        channel.streak = 0
        try:
            yield from _park(waiter)
        finally:
            if channel.reader is waiter:
                channel.reader = None

    @coroutine
    def _writable(self, channel: Channel) -> Generator[Any, Any, None]:
        task = asyncio.current_task()
        waiter = task if isinstance(task, DrivenTask) else _FutureWaiter()
        channel.claim_writer(waiter)
        channel.streak = 0
        try:
            yield from _park(waiter)
        finally:
            if channel.writer is waiter:
                channel.writer = None


def _wait_in_future(channel: Channel) -> asyncio.Future[None]:
    """A future that is resolved when ``channel`` may be read, as a task gets it from what it awaits."""
    waiter = _FutureWaiter()
    channel.claim_reader(waiter)

    def withdraw(_: object) -> None:
        if channel.reader is waiter:
            channel.reader = None

    waiter.future.add_done_callback(withdraw)
    waiter.future._asyncio_future_blocking = True
    return waiter.future


if native is not None:
    native.install_stream(AsyncSocket, socket, asyncio.current_task, _wait_in_future)
    native.install_stream_sendto(AsyncSocket, socket)


@coroutine
def _give_way(channel: Channel) -> Generator[Any, Any, None]:
    """The others' turn, if this channel has had many without waiting."""
    if channel.streak >= STREAK:
        channel.streak = 0
        yield


class _FutureWaiter:
    """An ordinary asyncio task waits in a future, which is all it understands."""

    __slots__ = ("future", "task")

    def __init__(self) -> None:
        self.future = asyncio.get_running_loop().create_future()
        self.task = asyncio.current_task()

    def __repr__(self) -> str:
        return repr(self.task)

    def switch(self) -> None:
        if not self.future.done():
            self.future.set_result(None)


def _park(waiter: DrivenTask | _FutureWaiter) -> Generator[Any, Any, None]:
    if isinstance(waiter, _FutureWaiter):
        yield from waiter.future
    else:
        yield PARKED


class AsyncReader:
    """Lines, records and blocks of an :class:`AsyncSocket`; the names and errors are asyncio.StreamReader's.

    ``limit`` bytes (64 KiB) are buffered at most while looking for a separator; with the ``limits`` of a server at most
    ``max_line``, and ``max_message`` by ``read()`` and ``readexactly()``: MessageTooLargeError.
    """

    def __init__(self, sock: AsyncSocket, limit: int = LIMIT, limits: Limits | None = None) -> None:
        self._socket = sock
        self._buffer = bytearray()
        self._ended = False
        self.limit = limit
        self._most: int | None = None
        #: Whom to tell that a message is wanted, from which those who look after deadlines know a drip from silence.
        self._asking: Any = None
        if limits is not None:
            self._most, self._asking = limits.max_message, sock.socket
            if limits.max_line is not None:
                self.limit = min(limit, limits.max_line)

    def at_eof(self) -> bool:
        """True when the peer has ended its side and everything was read."""
        return self._ended and not self._buffer

    async def _fill(self) -> bool:
        if not self._ended:
            asking = self._asking
            if asking is not None and asking.asked is None:
                # Some of it may be here already; what more of it comes tells that it is under way.
                asking.asked = asking.received
                asking.whole = asking.received - len(self._buffer)
            data = await self._socket.recv(CHUNK)
            if data:
                self._buffer += data
            else:
                self._ended = True
        return not self._ended

    def _take(self, size: int) -> bytes:
        if self._asking is not None:
            self._asking.asked = None
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def take_buffered(self) -> bytes:
        """All that was received and not read yet; nothing is waited for."""
        return self._take(len(self._buffer))

    def carry_over(self, sock: AsyncSocket) -> None:
        """Read ``sock`` from now on, which the connection goes on by."""
        self._socket = sock
        if self._asking is not None:
            self._asking = sock.socket

    def _check(self, size: int) -> None:
        if self._most is not None and size > self._most:
            raise MessageTooLargeError(f"a message of more than {self._most} bytes (max_message)")

    async def read(self, n: int = -1) -> bytes:
        """At most ``n`` bytes as soon as there are any, or all until the end if ``n`` is negative."""
        if n < 0:
            while await self._fill():
                self._check(len(self._buffer))
            return self._take(len(self._buffer))
        if n and not self._buffer:
            await self._fill()
        return self._take(n)

    async def readexactly(self, n: int) -> bytes:
        """``n`` bytes. asyncio.IncompleteReadError, with what there was, if the peer ends before."""
        if n < 0:
            raise ValueError("readexactly size can not be less than zero")
        self._check(n)
        while len(self._buffer) < n:
            if not await self._fill():
                raise asyncio.IncompleteReadError(self._take(len(self._buffer)), n)
        return self._take(n)

    async def readuntil(self, separator: bytes = b"\n") -> bytes:
        """All up to and with ``separator``. asyncio.IncompleteReadError if the peer ends before,
        asyncio.LimitOverrunError (nothing is taken) if there are more than ``limit`` bytes without it."""
        if not separator:
            raise ValueError("Separator should be at least one-byte string")
        start = 0
        while True:
            found = self._buffer.find(separator, start)
            if found >= 0:
                end = found + len(separator)
                if end > self.limit:
                    raise asyncio.LimitOverrunError(f"the separator is behind more than {self.limit} bytes", found)
                return self._take(end)
            if len(self._buffer) > self.limit:
                raise asyncio.LimitOverrunError(
                    f"more than {self.limit} bytes and no separator", len(self._buffer) - len(separator) + 1
                )
            # Search on from the last place where a separator could begin, not from the start: a peer that sends a
            # byte at a time would otherwise cost the square of the line.
            start = max(0, len(self._buffer) - len(separator) + 1)
            if not await self._fill():
                raise asyncio.IncompleteReadError(self._take(len(self._buffer)), None)

    async def readline(self) -> bytes:
        """A line with its end; what is left when the peer ends without one; ValueError if longer than ``limit``."""
        try:
            return await self.readuntil(b"\n")
        except asyncio.IncompleteReadError as error:
            return error.partial
        except asyncio.LimitOverrunError as error:
            raise LineTooLongError(error.args[0]) from error

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while line := await self.readline():
            yield line


class AsyncWriter:
    """``await wfile.write(data)``: the writing end of a stream handler.

    Nothing is buffered, so there is nothing that :attr:`Limits.write_buffer <jackfield.Limits>` would have to cut: who
    writes has the data in hand until the kernel has taken it, and is ended by ``send_timeout`` if the peer takes none.
    """

    def __init__(self, sock: AsyncSocket) -> None:
        self._socket = sock

    def carry_over(self, sock: AsyncSocket) -> None:
        """Write to ``sock`` from now on, which the connection goes on by."""
        self._socket = sock

    def write(self, data: Any) -> Awaitable[None]:
        """Send all of ``data``; await the result."""
        return self._socket.sendall(data)

    async def drain(self) -> None:
        """Nothing to do: ``write`` has waited for the kernel. Here so that code written for asyncio runs."""

    flush = drain
