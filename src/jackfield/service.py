"""The service: what a native server does with those who come, from accept to the one end of each connection."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import signal
import socket as _socket_std
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from .connections import Connection, Connections
from .door import AcceptPolicy, Action, Datagram, Listener, accept_batch, receive_batch, reply_socket
from .handlers import serve_with
from .modes import AsyncCrew, Crew, Greens, Loop, Processes, Serial, Tasks, Threads
from .reactor import GreenExit
from .streams import AsyncSocket

_log = logging.getLogger("jackfield.server")

#: Datagrams in work at once; what comes above waits in a queue of 1000.
DATAGRAM_UNITS = {"thread": 64, "green": 1000, "async": 1000}

#: Connections or datagrams taken from one listener before the others have their turn.
BUDGET = 64

#: Ends of a connection that the peer made: no fault of the handler's.
PEER_LEFT = (ConnectionResetError, ConnectionAbortedError, BrokenPipeError)


class Service:
    """Takes connections and datagrams from ``listeners`` and runs ``handler`` for each, as units of ``mode``.

    At most ``limit`` units at once; clients above that wait in the kernel's queue. ``owner`` is what handlers see as
    their ``server``.
    """

    def __init__(self, handler: Any, mode: str, limit: int, listeners: Iterable[Listener], owner: Any) -> None:
        self.handler = handler
        self.mode = mode
        self.limit = limit
        self.owner = owner
        self.listeners = list(listeners)
        self.connections = Connections()
        self.refused = self.handler_errors = self.datagrams = self._dropped = 0
        self.stopping = False
        self.units: Any = None
        self._crew: Crew | None = None
        self._policies = {listener: AcceptPolicy(name=listener.location) for listener in self.listeners}
        self._resume_at: dict[Listener, float] = {}
        #: The sockets of the children's connections, by pid. The parent holds each until its child has ended, so that
        #: it can be listed and ended; the children hold none but their own.
        self._children: dict[int, Any] = {}
        for listener in self.listeners:
            if listener.is_datagram:
                listener.socket.settimeout(None)  # handlers send by it, each waiting in its own way
            else:
                _prepare(listener.socket)

    def open_units(self, loop: Loop) -> None:
        """Make what runs the handlers, on the thread that accepts."""
        if self.mode == "process":
            self.units = Processes(loop=loop)
            self.units.on_reaped = self._child_ended
        else:
            self.units = {"serial": Serial, "thread": Threads, "green": Greens, "async": Tasks}[self.mode]()
            if self.mode != "serial":
                self._crew = (AsyncCrew if self.mode == "async" else Crew)(self.units, DATAGRAM_UNITS[self.mode])
        self.units.limit, self.units.on_room, self.units.on_idle = self.limit, loop.wake, loop.wake

    @property
    def live(self) -> int:
        """Units that run."""
        return self.units.live if self.units is not None else 0

    @property
    def dropped(self) -> int:
        """Datagrams dropped: because too many waited, were too large, or could not be given to a unit."""
        return self._dropped + (self._crew.dropped if self._crew is not None else 0)

    def attend(self, loop: Loop) -> float | None:
        """Watch the listeners, or leave those alone that are to rest; returns how long until one is to be looked at."""
        now, next_look = time.monotonic(), None
        for listener in self.listeners:
            pause = self._resume_at.get(listener, 0.0) - now
            if pause > 0:
                loop.ignore(listener.fileno())
                next_look = pause if next_look is None else min(pause, next_look)
            elif self.units.full and (self.mode == "process" or not listener.is_datagram):
                loop.ignore(listener.fileno())
            else:
                take = self._take_datagrams if listener.is_datagram else self.accept
                loop.watch(listener.fileno(), partial(take, listener))
        return next_look

    def accept(self, listener: Listener, budget: int = BUDGET, *, last: bool = False) -> None:
        """Take what waits in the queue of ``listener``, ``budget`` connections at most; once ``stopping`` is set, only
        for the ``last`` time."""

        def next_one() -> tuple[Any, Any]:
            if self.units.full or (self.stopping and not last):
                raise BlockingIOError(errno.EAGAIN, "no room")
            return listener.socket.accept()

        outcome = accept_batch(next_one, partial(self._take, listener), self._policies[listener], budget)
        if outcome.action is Action.CLOSED:
            _log.error("%s: the listening socket is gone (%s)", listener.location, outcome.error)
            self.listeners.remove(listener)
            listener.close()
        elif outcome.pause:
            self._resume_at[listener] = time.monotonic() + outcome.pause

    def _take(self, listener: Listener, taken: tuple[Any, Any]) -> None:
        sock, address = taken
        peer = _readable_peer(address)
        connection = self.connections.enter(sock, peer, listener.location)
        try:
            self._start_unit(connection, sock, peer)
        except (OSError, RuntimeError) as error:
            # No thread, no process, or the peer is gone already: this connection's end, not the server's.
            self.refused += 1
            _log.warning("%s: cannot serve %s: %s", listener.location, ascii(peer), error)
            self._close(sock)

    def _start_unit(self, connection: Connection, sock: Any, peer: Any) -> None:
        if self.mode == "async":
            self.units.start(self._serve_stream_async, sock, peer)
        elif self.mode == "process":
            self._children[self.units.fork(self._in_child, (partial(self._serve_stream, sock, peer), sock))] = sock
        else:
            self.units.start(self._serve_stream, sock, peer)

    # The same source for serial, thread, process and green.
    def _serve_stream(self, sock: Any, peer: Any) -> None:
        try:
            serve_with(self.handler, sock, peer, self.owner)
        except BaseException as error:
            self._failed(peer, error)
        finally:
            self._close(sock)

    async def _serve_stream_async(self, sock: Any, peer: Any) -> None:
        try:
            await self.handler(AsyncSocket(sock), peer, self.owner).run()
        except BaseException as error:
            self._failed(peer, error)
        finally:
            self._close(sock)

    def _close(self, sock: Any) -> None:
        """The one place where a connection ends: the peer reads what is on its way, and then the end."""
        with contextlib.suppress(OSError):
            sock.shutdown(_socket_std.SHUT_WR)
        sock.close()
        self.connections.leave(sock)

    def _failed(self, peer: Any, error: BaseException) -> None:
        """Every end of a handler is accounted for. SystemExit ends its handler; being cut and Ctrl-C go their way."""
        if isinstance(error, (GreenExit, asyncio.CancelledError, KeyboardInterrupt)):
            raise error
        if isinstance(error, PEER_LEFT):
            _log.debug("%s left: %s", ascii(peer), error)
        else:
            self.handler_errors += 1
            _log.error("exception while serving %s", ascii(peer), exc_info=error)

    # -- datagrams ---------------------------------------------------------------------------------------------------

    def _take_datagrams(self, listener: Listener) -> None:
        # A process is started for each: what there is no room for waits in the kernel's queue.
        budget = max(0, self.limit - self.units.live) if self.mode == "process" else BUDGET
        for datagram in receive_batch(listener.socket, budget=budget):
            self.datagrams += 1
            if datagram.truncated:
                self._dropped += 1
                _log.warning("%s: dropped a datagram larger than %d bytes", listener.location, len(datagram.data))
                continue
            try:
                self._submit(listener, datagram)
            except (OSError, RuntimeError) as error:
                self._dropped += 1
                _log.warning("%s: dropped a datagram: %s", listener.location, error)

    def _submit(self, listener: Listener, datagram: Datagram) -> None:
        if self._crew is not None:
            serve = self._serve_datagram_async if self.mode == "async" else self._serve_datagram
            self._crew.submit(datagram.peer, serve, listener, datagram)
        elif self.mode == "process":
            self.units.fork(self._in_child, (partial(self._serve_datagram, listener, datagram), listener.socket))
        else:
            self._serve_datagram(listener, datagram)

    def _serve_datagram(self, listener: Listener, datagram: Datagram) -> None:
        peer = _readable_peer(datagram.peer)
        try:
            serve_with(self.handler, (datagram.data, reply_socket(listener.socket, datagram)), peer, self.owner)
        except BaseException as error:
            self._failed(peer, error)

    async def _serve_datagram_async(self, listener: Listener, datagram: Datagram) -> None:
        peer = _readable_peer(datagram.peer)
        try:
            sock = AsyncSocket(reply_socket(listener.socket, datagram))  # type: ignore[arg-type]
            await self.handler((datagram.data, sock), peer, self.owner).run()
        except BaseException as error:
            self._failed(peer, error)

    # -- children ----------------------------------------------------------------------------------------------------

    def _child_ended(self, pid: int, status: int) -> None:
        self.handler_errors += status != 0
        sock = self._children.pop(pid, None)
        if sock is not None:
            self._close(sock)

    def _in_child(self, work: Callable[[], None], own: Any) -> None:
        # A terminal's Ctrl-C goes to every process in its foreground; how the children end is the parent's to say.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self.units.forget()
        for listener in self.listeners:
            if listener.socket is not own:
                listener.socket.close()
        for connection in self.connections:
            if connection.socket is not own and connection.socket is not None:
                connection.socket.close()
        work()
        if self.handler_errors:
            raise SystemExit(1)

    # -- the end -----------------------------------------------------------------------------------------------------

    def close_listeners(self, *, datagrams: bool = True) -> None:
        """Stop listening; with ``datagrams`` false, handlers may still answer by the datagram sockets."""
        for listener in list(self.listeners):
            if datagrams or not listener.is_datagram:
                self.listeners.remove(listener)
                listener.close()

    def cut(self) -> None:
        """End every connection and unit that can be ended from outside."""
        for connection in self.connections:
            connection.close()
        self.units.cut()


def _readable_peer(address: Any) -> Any:
    """An IPv4 client of a dual-stack socket is shown as what it is (RFC 4291, 2.5.5.2: ``::ffff:192.0.2.1``)."""
    if isinstance(address, tuple) and len(address) == 4 and address[0].startswith("::ffff:"):
        return address[0][7:], address[1]
    return address


#: Options of every TCP connection: answers are sent at once, and a peer that vanished is found out: idle after 60 s and
#: three probes 10 s apart, in the midst of an answer after 30 s without a sign of life (tcp(7)).
_TCP_OPTIONS = {
    "TCP_NODELAY": 1,
    "TCP_KEEPIDLE": 60,
    "TCP_KEEPINTVL": 10,
    "TCP_KEEPCNT": 3,
    "TCP_USER_TIMEOUT": 30_000,
}


def _prepare(sock: Any) -> None:
    """Set them on a listening socket: what accept(2) returns inherits them on Linux, at no cost for each connection."""
    if sock.family in (_socket_std.AF_INET, _socket_std.AF_INET6):
        sock.setsockopt(_socket_std.SOL_SOCKET, _socket_std.SO_KEEPALIVE, 1)
        for name, value in _TCP_OPTIONS.items():
            option = getattr(_socket_std, name, None)
            if option is not None:
                with contextlib.suppress(OSError):
                    sock.setsockopt(_socket_std.IPPROTO_TCP, option, value)
