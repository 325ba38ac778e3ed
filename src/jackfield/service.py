"""The service: what a native server does with those who come, from accept to the one end of each connection."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket as _socket_std
import time
from collections.abc import Callable, Iterable
from functools import partial
from operator import itemgetter, length_hint
from typing import Any

from .connections import Connection, Connections
from .door import AcceptPolicy, Action, Datagram, Listener, Outcome, accept_batch, receive_batch, reply_socket
from .handlers import AsyncRequestHandler, BaseRequestHandler, life_of, prepared, run_handler, serve_with, work_of
from .modes import AsyncBatchCrew, Batch, Crew, GreenCrew, Greens, Loop, Processes, Serial, Tasks, Threads
from .reactor import GreenExit, Reactor, current_reactor
from .streams import AsyncSocket

_log = logging.getLogger("jackfield.server")

#: Datagrams in work at once; what comes above waits in a queue of 1000.
DATAGRAM_UNITS = {"thread": 64, "green": 1000, "async": 1000}

#: Connections or datagrams taken from one listener before the others have their turn.
BUDGET = 64

#: Ends of a connection that the peer made: no fault of the handler's.
PEER_LEFT = (ConnectionResetError, ConnectionAbortedError, BrokenPipeError)


_is_truncated = itemgetter(Datagram._fields.index("truncated"))

#: Being cut, and Ctrl-C.
GOES_ITS_WAY = (GreenExit, asyncio.CancelledError, KeyboardInterrupt)


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
        self.connections = Connections(elsewhere=mode == "process")
        self.refused = self.handler_errors = self.datagrams = self._dropped = 0
        self.stopping = False
        #: What took the last listener away, when nobody had asked for a stop.
        self.lost: OSError | None = None
        self.units: Any = None
        self._serve = self._serve_stream  # one object for all
        self._loop: Loop | None = None
        self._crew: Crew | None = None
        #: Where green threads and coroutines wait.
        self._reactor: Reactor | None = None
        self._policies = {listener: AcceptPolicy(name=listener.location) for listener in self.listeners}
        self._resume_at: dict[Listener, float] = {}
        #: The number by which the loop watches each listener, as one that was closed no longer tells its own; and what
        #: is to be called when it is ready.
        self._watched: dict[Listener, int] = {}
        self._takes: dict[Listener, Callable[[], None]] = {}
        #: The sockets of the children's connections, by pid. The parent holds each until its child has ended, so that
        #: it can be listed and ended; the children hold none but their own.
        self._children: dict[int, Any] = {}
        for listener in self.listeners:
            self._takes[listener] = partial(self._take_datagrams if listener.is_datagram else self.accept, listener)
            if listener.is_datagram:
                listener.socket.settimeout(None)  # handlers send by it, each waiting in its own way
            else:
                _prepare(listener.socket)

    def open_units(self, loop: Loop) -> None:
        """Make what runs the handlers, on the thread that accepts."""
        self._loop = loop
        if self.mode == "process":
            self.units = Processes(loop=loop)
            self.units.on_reaped = self._child_ended
        else:
            if self.mode in ("green", "async"):
                self._reactor = current_reactor()
                self.units = (Greens if self.mode == "green" else Tasks)(reactor=self._reactor)
            else:
                self.units = Serial() if self.mode == "serial" else Threads()
            if self.mode != "serial":
                kind = {"thread": Crew, "green": GreenCrew, "async": AsyncBatchCrew}[self.mode]
                self._crew = kind(self.units, DATAGRAM_UNITS[self.mode])
        if self.mode == "async":
            self.units.on_end = self._coroutine_ended
        self.units.limit, self.units.on_room, self.units.on_idle = self.limit, loop.wake, self._on_idle
        self._offer_listeners()

    def _on_idle(self) -> None:
        """The last unit has ended, on whatever thread: only a drain waits for that, and a wake-up is a system call."""
        if self.stopping and self._loop is not None:
            self._loop.wake()

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
        for listener in list(self.listeners):
            fd = listener.fileno()
            pause = self._resume_at.get(listener, 0.0) - now
            if fd < 0:
                self._gone(listener, OSError(errno.EBADF, os.strerror(errno.EBADF)))
            elif pause > 0:
                loop.ignore(fd)
                next_look = pause if next_look is None else min(pause, next_look)
            elif self.units.full and (self.mode == "process" or not listener.is_datagram):
                loop.ignore(fd)
            else:
                loop.watch(fd, self._takes[listener])
                self._watched[listener] = fd
        return next_look

    def accept(self, listener: Listener, budget: int = BUDGET, *, last: bool = False) -> None:
        """Take what waits in the queue of ``listener``, ``budget`` connections at most; once ``stopping`` is set, only
        for the ``last`` time."""

        def next_one() -> tuple[Any, Any]:
            if self.units.full or (self.stopping and not last):
                raise BlockingIOError(errno.EAGAIN, "no room")
            return listener.socket.accept()

        self._heed(
            listener, accept_batch(next_one, partial(self._take, listener), self._policies[listener], budget)
        )

    def _heed(self, listener: Listener, outcome: Outcome) -> None:
        if outcome.action is Action.CLOSED and outcome.error is not None:
            self._gone(listener, outcome.error)
        elif outcome.pause:
            self._resume_at[listener] = time.monotonic() + outcome.pause

    def _gone(self, listener: Listener, error: OSError) -> None:
        """A listener is none any more: the others go on."""
        if listener not in self.listeners:
            return  # told before
        self.listeners.remove(listener)
        self._offer_listeners()
        if self._loop is not None and listener in self._watched:
            # Before it is closed: the number may be another file's at once.
            self._loop.ignore(self._watched.pop(listener), self._takes[listener])
        listener.close()
        if not self.listeners:
            self.lost = error
        rest = "the others go on" if self.listeners else "there is no other, so serving ends"
        _log.error("%s: the listening socket is gone (%s); %s", listener.location, error, rest)

    def _offer_listeners(self) -> None:
        """Threads take their next connection from the listeners that there are now. When this returns, none of them is
        at one that was there before."""
        if isinstance(self.units, Threads):
            self.units.offer(self._take_another)

    def _take_another(self) -> None:
        """On a thread whose connection has ended."""
        for listener in [] if self.stopping else list(self.listeners):
            if not listener.is_datagram and self._resume_at.get(listener, 0.0) <= time.monotonic():
                try:
                    taken = listener.socket.accept()
                except OSError:
                    continue  # none waits there; if it is more than that, the loop finds it as well, and sees to it
                self._take(listener, taken)
                return

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
        if self._reactor is not None:
            sock._join_accepted(self._reactor.poller)
        if self.mode == "async":
            self._start_coroutine(sock, peer)
        elif self.mode == "process":
            self._children[self.units.fork(self._in_child, (partial(self._serve_stream, sock, peer), sock))] = sock
        else:
            self.units.start(self._serve, sock, peer)

    # The same source for serial, thread, process and green.
    def _serve_stream(self, sock: Any, peer: Any) -> None:
        try:
            handler = prepared(self.handler, sock, peer, self.owner)
            if handler is not None:
                # One frame less on the stack of a green thread, where each costs at every switch.
                work = work_of(handler)
                work()
        except BaseException as error:
            self._failed(peer, error)
        finally:
            self._close(sock)

    def _start_coroutine(self, sock: Any, peer: Any) -> None:
        """The same for async. The handler's own coroutine is the unit: one around it would cost at every message."""
        try:
            coro = life_of(self.handler(AsyncSocket(sock, self._reactor), peer, self.owner))
        except Exception as error:
            self._coroutine_ended(sock, error)
        else:
            self.units.run(coro, sock)

    def _coroutine_ended(self, sock: Any, error: BaseException | None) -> None:
        try:
            if error is not None and not isinstance(error, GOES_ITS_WAY):
                self._failed(self.connections.peer_of(sock), error)
        finally:
            self._close(sock)

    def _close(self, sock: Any) -> None:
        """The one place where a connection ends: the peer reads what is on its way, and then the end."""
        try:
            sock.shutdown(_socket_std.SHUT_WR)
        except OSError:
            pass  # the peer was faster
        sock.close()
        self.connections.leave(sock)

    def _failed(self, peer: Any, error: BaseException) -> None:
        """Every end of a handler is accounted for. SystemExit ends its handler; being cut and Ctrl-C go their way."""
        if isinstance(error, GOES_ITS_WAY):
            raise error
        if isinstance(error, PEER_LEFT) or (isinstance(error, OSError) and error.errno == errno.ENOTCONN):
            # ENOTCONN: of a call on a connection whose reset another call was told.
            _log.debug("%s left: %s", ascii(peer), error)
        else:
            self.handler_errors += 1
            _log.error("exception while serving %s", ascii(peer), exc_info=error)

    # -- datagrams ---------------------------------------------------------------------------------------------------

    def _take_datagrams(self, listener: Listener) -> None:
        # A process is started for each: what there is no room for waits in the kernel's queue.
        budget = max(0, self.limit - self.units.live) if self.mode == "process" else BUDGET
        policy = self._policies[listener]
        batch: list[Datagram] = []
        failed = None
        try:
            batch += receive_batch(listener.socket, budget=budget)  # an error leaves what came before it
        except OSError as error:
            failed = error  # of the receiving: no descriptor or memory, or no socket any more
        if batch:
            self.datagrams += len(batch)
            self._serve_batch(listener, self._whole(listener, batch))
        if failed is None:
            if policy.in_trouble:
                for text in policy.end():
                    _log.warning("%s", text)
            return

        def fail() -> None:
            assert failed is not None
            raise failed

        self._heed(listener, accept_batch(fail, lambda _: None, policy, 1))

    def _whole(self, listener: Listener, batch: list[Datagram]) -> list[Datagram]:
        """Half of a message is worse than none."""
        if not any(map(_is_truncated, batch)):
            return batch
        for datagram in batch:
            if datagram.truncated:
                self._dropped += 1
                _log.warning("%s: dropped a datagram larger than %d bytes", listener.location, len(datagram.data))
        return [datagram for datagram in batch if not datagram.truncated]

    def _serve_batch(self, listener: Listener, batch: list[Datagram]) -> None:
        def lost(_: Datagram, error: BaseException) -> None:
            self._dropped += 1
            _log.warning("%s: dropped a datagram: %s", listener.location, error)

        if self.mode == "serial":
            self._serve_in_turn(listener, batch)
        elif self.mode == "thread":
            assert self._crew is not None
            for datagram in batch:
                try:
                    self._crew.submit(datagram.peer, self._serve_in_turn, listener, [datagram])
                except (OSError, RuntimeError) as error:
                    lost(datagram, error)
        elif self.mode == "process":
            for datagram in batch:
                try:
                    work = partial(self._serve_in_turn, listener, [datagram])
                    self.units.fork(self._in_child, (work, listener.socket))
                except (OSError, RuntimeError) as error:
                    lost(datagram, error)
        elif isinstance(self._crew, GreenCrew | AsyncBatchCrew):
            channel = getattr(listener.socket, "_channel", None)
            if channel is not None:
                channel.streak = 0  # the others had their turn since the last batch
            self._crew.take(Batch(batch, self._datagram_work(listener), self._datagram_failed, lost))

    def _serve_in_turn(self, listener: Listener, batch: list[Datagram]) -> None:
        work = self._datagram_work(listener)
        items = iter(batch)
        try:
            for datagram in items:
                try:
                    work(datagram)
                except BaseException as error:
                    self._datagram_failed(datagram, error)
        finally:
            self._dropped += length_hint(items)  # Ctrl-C: those that were read and that nobody serves now

    def _datagram_failed(self, datagram: Datagram, error: BaseException) -> None:
        self._failed(_readable_peer(datagram.peer), error)

    def _datagram_work(self, listener: Listener) -> Callable[[Datagram], Any]:
        """What runs the handler for one datagram of ``listener``; the coroutine that does, for async."""
        sock, handler, owner = listener.socket, self.handler, self.owner
        shared = AsyncSocket(sock) if self.mode == "async" else None  # type: ignore[arg-type]
        base = BaseRequestHandler if shared is None else AsyncRequestHandler
        plain = _is_plain(handler, base)
        only_handle = plain and handler.setup is base.setup and handler.finish is base.finish
        new = object.__new__

        def work(datagram: Datagram) -> Any:
            data, peer, _, local = datagram
            if type(peer) is not tuple or len(peer) != 2:  # no IPv4 address
                peer = _readable_peer(peer)
            if local is None:
                answering: Any = sock if shared is None else shared
            else:
                answering = reply_socket(sock, datagram)
                if shared is not None:
                    answering = AsyncSocket(answering)
            if not plain:
                if shared is None:
                    return serve_with(handler, (data, answering), peer, owner)
                return handler((data, answering), peer, owner).run()
            # What the base class's __init__ does, written out.
            made = new(handler)
            made.request = (data, answering)
            made.client_address = peer
            made.server = owner
            if only_handle:
                return made.handle()
            return run_handler(made) if shared is None else made.run()

        return work

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
        signal.set_wakeup_fd(-1)  # that of the parent's loop, which this process's signals are not to wake
        self.units.forget()
        self.handler_errors = 0  # the parent has counted its own; this process's exit code tells of its handler
        for listener in self.listeners:
            if listener.socket is not own:
                listener.socket.close()
        self.connections.elsewhere = False
        for connection in self.connections:
            sock = connection.socket
            if sock is not None and sock is not own:
                sock.close()
        work()
        if self.handler_errors:
            raise SystemExit(1)

    # -- the end -----------------------------------------------------------------------------------------------------

    def close_listeners(self, *, datagrams: bool = True) -> None:
        """Stop listening; with ``datagrams`` false, handlers may still answer by the datagram sockets."""
        for listener in list(self.listeners):
            if datagrams or not listener.is_datagram:
                with contextlib.suppress(ValueError):
                    self.listeners.remove(listener)  # a start and a stop that meet may both be at it
                self._offer_listeners()
                listener.close()

    def cut(self) -> None:
        """End every connection and unit that can be ended from outside."""
        for connection in self.connections:
            connection.close()
        self.units.cut()


def _is_plain(handler: Any, base: type) -> bool:
    """Whether making one, and running it, is what ``base`` does, and nothing else."""
    return (
        isinstance(handler, type)
        and issubclass(handler, base)
        and handler.__new__ is object.__new__
        and handler.__init__ is base.__init__  # type: ignore[misc]
        and getattr(handler, "run", None) is getattr(base, "run", None)
    )


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
