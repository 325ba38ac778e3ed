"""The handlers: what a user extends. One instance for each connection or datagram.

Blocking-style handlers run unchanged on threads, processes and green threads; the ``Async`` ones are their twins with
``async def`` methods, run as coroutines.
"""

from __future__ import annotations

import contextlib
import io
import socket as _socket_std
from collections.abc import Callable, Coroutine
from types import MethodType
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar, Generic, TypeVar

from .draining import Draining, says_goodbye
from .messages import BUFFER_SIZE, MessageReader
from .streams import AsyncReader, AsyncSocket, AsyncWriter

ServerT = TypeVar("ServerT")

if TYPE_CHECKING:
    from .limits import Limits
    from .tls.serving import Served

    # For a type checker a handler is generic in its server class: ``BaseRequestHandler[MyServer]``.
    class _OfServer(Generic[ServerT]):
        server: ServerT
else:
    # At run time that would put typing.Generic among its bases, where the standard library has none: so the subscript
    # of the base is plain ``object``, and that of a handler the handler itself.
    _OfServer = {ServerT: object}


class _DrainingOfServer:
    """``self.draining`` of a handler. Not a property: a program's own attribute of that name goes before it."""

    def __get__(self, handler: Any, owner: type | None = None) -> Any:
        return self if handler is None else draining_of(handler.server)


def draining_of(server: Any) -> Draining:
    """What tells of the stop of ``server``; one that is never set where that is no server of ours."""
    draining = getattr(server, "_draining", None)
    return draining if isinstance(draining, Draining) else Draining()


class BaseRequestHandler(_OfServer[ServerT]):
    """The base of handlers: define :meth:`handle`; :meth:`setup` and :meth:`finish` if there is something to do.

    ``request`` is the connected socket, or ``(data, socket)`` for a datagram; ``client_address`` the peer; ``server``
    the server. As in the standard library, making an instance runs it: ``setup``, ``handle``, ``finish``. ``finish`` is
    called after a ``setup`` that failed as well, so that what it had opened is closed; the standard library skips it.

    A handler with a long life looks at ``draining``: true once the server was asked to stop, and something to wait for.
    One that defines ``handle_shutdown`` has it called then, beside ``handle``: on a thread of its own, or in green mode
    a green thread; the server's deadline runs.
    """

    #: A :class:`~jackfield.draining.Draining`.
    draining = _DrainingOfServer()

    if not TYPE_CHECKING:

        def __class_getitem__(cls, _):
            return cls

    def __init__(self, request: Any, client_address: Any, server: ServerT) -> None:
        self.request = request
        self.client_address = client_address
        self.server = server
        if not getattr(self, "_waits_for_server", False):
            run_handler(self)

    def setup(self) -> None:
        """Called before ``handle``."""

    def handle(self) -> None:
        """Serve the connection or datagram; the connection is closed when this returns."""

    def finish(self) -> None:
        """Called after ``handle``, whether it raised or not."""

    def start_tls(self, tls: Served, *, buffered: bytes = b"") -> None:
        """Go over to TLS in the middle of the connection (STARTTLS), when the client was told to begin. ``request`` is
        the connection over TLS then, and ``request.tls`` what was agreed.

        What the client has sent behind its command, before the handshake, came from anybody on the way. It is never
        given to the handler as what was said under TLS (CVE-2011-0411, CVE-2024-34083): unless it begins a handshake,
        this refuses.

        :param tls: a :class:`jackfield.tls.TLS`, which is read at its first use; a :class:`jackfield.tls.ServerTLS`,
            which was read when it was made; or an ``ssl.SSLContext``.
        :param buffered: what this handler itself has received beyond the command.
        :raises TLSHandshakeError: there was plaintext, or the handshake failed. Let it end the connection.
        :raises TimeoutError: ``limits.handshake_timeout`` (5 s where there are no limits) has passed.
        :raises ConnectionResetError: the client hung up instead.
        :raises MisuseError: the request is a datagram, or the connection speaks TLS already.
        """
        from .tls.midway import go_over  # late: ssl costs a server without TLS a third of its start

        self.request = go_over(self, tls, buffered, limits_of(self.server))


def run_handler(handler: Any) -> None:
    """``setup``, ``handle``, ``finish``: the life of a blocking-style handler, in one place."""
    if says_goodbye(handler):
        draining = draining_of(handler.server)
        draining.enter(handler)
        try:
            _run(handler)
        finally:
            draining.leave(handler)
    else:
        _run(handler)


def _run(handler: Any) -> None:
    try:
        handler.setup()
    except BaseException:
        # Partly set up: what finish() makes of that must not hide what went wrong.
        with contextlib.suppress(Exception):
            handler.finish()
        raise
    try:
        handler.handle()
    finally:
        handler.finish()


def serve_with(handler_class: Any, request: Any, client_address: Any, server: Any) -> None:
    """Make a handler and run it, as the native server does: ``handle`` is called when ``__init__`` has returned.

    So a subclass may prepare itself in ``__init__`` before or after it calls the base class's. Anything else that takes
    the three arguments (a function, a ``functools.partial``) is called as in the standard library.
    """
    handler = prepared(handler_class, request, client_address, server)
    if handler is not None:
        run_handler(handler)


def work_of(handler: Any) -> Callable[[], None]:
    """What ``run_handler(handler)`` does; ``handle()`` itself where nothing else would be done around it."""
    try:
        # Whether it has the base class's methods. Its ``vars()`` would tell too, and cost it a dictionary.
        as_the_base = handler.setup.__func__ is _setup and handler.finish.__func__ is _finish
    except AttributeError:
        as_the_base = False  # something else that can be called
    if as_the_base and not says_goodbye(handler):
        return handler.handle  # type: ignore[no-any-return]
    return MethodType(run_handler, handler)  # which the interpreter enters without a C frame, as it does no partial


def is_made_quietly(handler_class: Any) -> bool:
    """Whether making a handler is the base class's, so that no code of a program's runs meanwhile."""
    return (
        isinstance(handler_class, type)
        and issubclass(handler_class, BaseRequestHandler)
        and type(handler_class) is type
        and handler_class.__init__ is BaseRequestHandler.__init__
        and handler_class.__new__ is object.__new__
        and handler_class.__setattr__ is object.__setattr__
    )


_setup, _finish = BaseRequestHandler.setup, BaseRequestHandler.finish


def prepared(handler_class: Any, request: Any, client_address: Any, server: Any) -> Any | None:
    """The handler, for ``run_handler()``; None where the call has done it all, as it does for a function."""
    if not (isinstance(handler_class, type) and issubclass(handler_class, BaseRequestHandler)):
        handler_class(request, client_address, server)
        return None
    handler: Any = handler_class.__new__(handler_class)
    handler._waits_for_server = True
    handler.__init__(request, client_address, server)
    return handler


def limits_of(server: Any) -> Limits | None:
    """What ``server`` holds its connections to. A program's own attribute of that name may be anything."""
    limits = getattr(server, "limits", None)
    if limits is None:
        return None
    from .limits import Limits  # late: most programs of the old kind have none

    return limits if isinstance(limits, Limits) else None


class _SocketWriter(io.BufferedIOBase):
    """The unbuffered ``wfile``: each write is a ``sendall``."""

    def __init__(self, sock: _socket_std.socket) -> None:
        self._sock = sock

    def carry_over(self, sock: _socket_std.socket) -> None:
        """Write to ``sock`` from now on, which the connection goes on by."""
        self._sock = sock

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        self._sock.sendall(data)
        with memoryview(data) as view:
            return view.nbytes

    def fileno(self) -> int:
        return self._sock.fileno()


class StreamRequestHandler(BaseRequestHandler[ServerT]):
    """A handler with ``rfile`` and ``wfile``, files to read and write the connection by."""

    #: Buffer sizes in bytes: -1 is the io module's own default, for ``rfile`` 4 KiB where the server has limits; 0
    #: unbuffered.
    rbufsize: ClassVar[int] = -1
    wbufsize: ClassVar[int] = 0
    #: Seconds of patience with each call on the connection; None for ever.
    timeout: ClassVar[float | None] = None
    #: True sets TCP_NODELAY, so that a small write is sent at once (RFC 896 and its delays).
    disable_nagle_algorithm: ClassVar[bool] = False

    rfile: BinaryIO
    wfile: BinaryIO

    def setup(self) -> None:
        self.connection = self.request
        if self.timeout is not None:
            self.connection.settimeout(self.timeout)
        if self.disable_nagle_algorithm:
            self.connection.setsockopt(_socket_std.IPPROTO_TCP, _socket_std.TCP_NODELAY, True)
        limits = limits_of(self.server)
        if limits is None or self.rbufsize == 0:
            self.rfile = self.connection.makefile("rb", self.rbufsize)
        else:
            size = self.rbufsize if self.rbufsize > 0 else BUFFER_SIZE
            self.rfile = MessageReader(self.connection.makefile("rb", 0), self.connection, limits, size)
        if self.wbufsize == 0:
            self.wfile = _SocketWriter(self.connection)  # type: ignore[assignment]
        else:
            self.wfile = self.connection.makefile("wb", self.wbufsize)

    def start_tls(self, tls: Served, *, buffered: bytes = b"") -> None:
        """As :meth:`BaseRequestHandler.start_tls`. What ``wfile`` has is sent before, and what ``rfile`` has is among
        what is refused. ``connection``, ``rfile`` and ``wfile`` go over as well: a loop over the lines of ``rfile``
        goes on with what is said under TLS."""
        from .tls.midway import carry_over, unread

        self.wfile.flush()
        super().start_tls(tls, buffered=unread(self.rfile, self.request) + buffered)
        self.connection = self.request
        carry_over(self.rfile, self.request)
        carry_over(self.wfile, self.request)

    def finish(self) -> None:
        # Both may be missing, when setup() failed or a subclass did not call this class's.
        wfile, rfile = getattr(self, "wfile", None), getattr(self, "rfile", None)
        if wfile is not None and not wfile.closed:
            with contextlib.suppress(OSError):
                wfile.flush()  # the peer may be gone: nobody is left to tell
        for file in (wfile, rfile):
            if file is not None:
                with contextlib.suppress(OSError):
                    file.close()


class DatagramRequestHandler(BaseRequestHandler[ServerT]):
    """A handler with ``rfile``, the datagram, and ``wfile``, the answer, sent by ``finish`` if anything was written."""

    def setup(self) -> None:
        self.packet, self.socket = self.request
        self.rfile = io.BytesIO(self.packet)
        self.wfile = io.BytesIO()

    def finish(self) -> None:
        wfile = getattr(self, "wfile", None)
        if wfile is not None and (answer := wfile.getvalue()):
            self.socket.sendto(answer, self.client_address)


# -- coroutines --------------------------------------------------------------------------------------------------------


class AsyncRequestHandler(_OfServer[ServerT]):
    """The twin of :class:`BaseRequestHandler`: ``setup``, ``handle`` and ``finish`` are coroutine functions.

    ``request`` is an :class:`~jackfield.streams.AsyncSocket`, or ``(data, AsyncSocket)`` for a datagram: its waiting
    calls are awaited (``await self.request.recv(1024)``). Making an instance runs nothing; the server awaits
    :meth:`run`. ``draining`` and ``handle_shutdown`` are as there; a coroutine waits by ``await
    self.draining.await_()``.
    """

    #: A :class:`~jackfield.draining.Draining`.
    draining = _DrainingOfServer()

    if not TYPE_CHECKING:

        def __class_getitem__(cls, _):
            return cls

    def __init__(self, request: Any, client_address: Any, server: ServerT) -> None:
        self.request = request
        self.client_address = client_address
        self.server = server

    async def run(self) -> None:
        """``setup``, ``handle``, ``finish``: the life of the handler."""
        try:
            await self.setup()
        except BaseException:
            with contextlib.suppress(Exception):
                await self.finish()
            raise
        try:
            await self.handle()
        finally:
            await self.finish()

    async def setup(self) -> None:
        """Awaited before ``handle``."""

    async def handle(self) -> None:
        """Serve the connection or datagram; the connection is closed when this returns."""

    async def finish(self) -> None:
        """Awaited after ``handle``, whether it raised or not."""

    async def start_tls(self, tls: Served, *, buffered: bytes = b"") -> None:
        """As :meth:`BaseRequestHandler.start_tls`, awaited."""
        from .tls.midway import ago_over

        self.request = await ago_over(self, tls, buffered, limits_of(self.server))


def life_of(handler: Any) -> Coroutine[Any, Any, None]:
    """What ``handler.run()`` does; the coroutine of ``handle()`` itself where nothing else would be done around it."""
    if says_goodbye(handler):
        return _run_until_told(handler)
    try:
        as_the_base = (
            handler.run.__func__ is _arun
            and handler.setup.__func__ is _asetup
            and handler.finish.__func__ is _afinish
        )
    except AttributeError:
        as_the_base = False  # something else that can be called
    return handler.handle() if as_the_base else handler.run()  # type: ignore[no-any-return]


_arun, _asetup, _afinish = AsyncRequestHandler.run, AsyncRequestHandler.setup, AsyncRequestHandler.finish


async def _run_until_told(handler: Any) -> None:
    draining = draining_of(handler.server)
    draining.enter(handler)
    try:
        await handler.run()
    finally:
        draining.leave(handler)


class AsyncStreamRequestHandler(AsyncRequestHandler[ServerT]):
    """The twin of :class:`StreamRequestHandler`: ``await self.rfile.readline()``, ``await self.wfile.write(data)``."""

    #: Bytes that ``rfile`` buffers at most while it looks for the end of a line.
    limit: ClassVar[int] = 65536
    disable_nagle_algorithm: ClassVar[bool] = False

    request: AsyncSocket

    async def setup(self) -> None:
        self.connection = self.request
        if self.disable_nagle_algorithm:
            self.connection.setsockopt(_socket_std.IPPROTO_TCP, _socket_std.TCP_NODELAY, True)
        self.rfile = AsyncReader(self.request, self.limit, limits_of(self.server))
        self.wfile = AsyncWriter(self.request)

    async def start_tls(self, tls: Served, *, buffered: bytes = b"") -> None:
        """As :meth:`StreamRequestHandler.start_tls`, awaited."""
        await super().start_tls(tls, buffered=self.rfile.take_buffered() + buffered)
        self.connection = self.request
        self.rfile.carry_over(self.request)
        self.wfile.carry_over(self.request)


class AsyncDatagramRequestHandler(AsyncRequestHandler[ServerT]):
    """The twin of :class:`DatagramRequestHandler`: ``packet``, and ``wfile`` to write the answer to (not awaited)."""

    async def setup(self) -> None:
        self.packet, self.socket = self.request
        self.rfile = io.BytesIO(self.packet)
        self.wfile = io.BytesIO()

    async def finish(self) -> None:
        wfile = getattr(self, "wfile", None)
        if wfile is not None and (answer := wfile.getvalue()):
            await self.socket.sendto(answer, self.client_address)
