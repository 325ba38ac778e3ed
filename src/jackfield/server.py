"""The native face: one server, several addresses, the mode as a parameter, safe defaults."""

from __future__ import annotations

import asyncio
import inspect
import logging
import resource
import signal
import socket as _socket_std
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from .connections import Connection, Connections
from .door import AcceptPolicy, Action, Datagram, Listener, accept_batch, open_listeners, receive_batch, reply_socket
from .errors import MisuseError
from .handlers import serve_with
from .lifecycle import LifeCycle, State
from .modes import AsyncCrew, Crew, Greens, Loop, Processes, Serial, Tasks, Threads, open_loop
from .reactor import AsyncWait, Watchdog, blocking_wait, current_reactor, in_green, run, spawn
from .streams import AsyncSocket

_log = logging.getLogger("jackfield.server")

MODES = ("auto", "serial", "thread", "process", "green", "async")

#: Datagrams in work at once; what comes above waits in a queue of 1000.
DATAGRAM_UNITS = {"thread": 64, "green": 1000, "async": 1000}

#: Descriptors left for everything that is not a connection (HAProxy and others keep a like reserve).
RESERVED_DESCRIPTORS = 64

#: Connections or datagrams taken from one listener before the others have their turn.
BUDGET = 64

#: Seconds between being cut and being given up.
CUT_SECONDS = 1.0

#: Ends of a connection that the peer made: no fault of the handler's.
PEER_LEFT = (ConnectionResetError, ConnectionAbortedError, BrokenPipeError)


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What a server is and has done so far. ``uptime`` in seconds since it began to listen."""

    name: str
    mode: str
    state: str
    addresses: tuple[str, ...]
    connections: int
    accepted: int
    refused: int
    handler_errors: int
    datagrams: int
    dropped: int
    uptime: float


class Server:
    """Serves a handler class on one or more addresses.

    ``addresses`` are texts (``"tcp://127.0.0.1:9999"``, ``":9999"`` for all interfaces and both families,
    ``"udp://:514"``, ``"unix:/run/x.sock"``, ``"unixgram:…"``, ``"fd://3"``), numbers, ``(host, port)`` tuples, open
    sockets (duplicated) or open ``Listener`` objects (taken over); ``tcp://127.0.0.1:9999`` when none is given.

    ``mode``: ``serial``, ``thread``, ``process``, ``green``, ``async``; ``auto`` is async for a handler whose ``handle``
    is a coroutine function and thread for any other. ``max_threads`` (256), ``max_children`` (40) and
    ``max_connections`` (10,000, or what the descriptor limit leaves) bound what runs at once; clients above it wait in
    the kernel's queue, ``backlog`` long (the kernel cuts it to net.core.somaxconn). ``graceful_timeout`` (30 s) is what
    ``stop()`` gives handlers to finish.

    The constructor opens nothing. MisuseError for a handler and a mode that do not go together.
    """

    def __init__(
        self,
        handler: Any,
        *addresses: Any,
        mode: str = "auto",
        max_threads: int = 256,
        max_children: int = 40,
        max_connections: int | None = None,
        backlog: int = 65535,
        reuse_port: bool = False,
        graceful_timeout: float = 30.0,
        loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
        name: str | None = None,
    ) -> None:
        self.handler = handler
        self.mode = _mode_for(handler, mode)
        self.name = name or getattr(handler, "__qualname__", None) or type(handler).__name__
        self.graceful_timeout = graceful_timeout
        self._targets = addresses or ("tcp://127.0.0.1:9999",)
        self._backlog = backlog
        self._reuse_port = reuse_port
        self._loop_factory = loop_factory
        room = _descriptor_room()
        most = room if max_connections is None else min(max_connections, room)
        self._limit = min({"thread": max_threads, "process": max_children}.get(self.mode, 10_000), most)
        self._life = LifeCycle()
        self._listeners: list[Listener] = []
        self._policies: dict[Listener, AcceptPolicy] = {}
        self._resume_at: dict[Listener, float] = {}
        self._locations: tuple[str, ...] = ()
        self._connections = Connections()
        self._units: Any = None
        self._crew: Crew | None = None
        self._loop: Loop | None = None
        self._deadline: float | None = None
        self._since = 0.0
        self._refused = self._handler_errors = self._datagrams = self._dropped = 0
        self._stopped = threading.Event()
        self._waits: list[Any] = []
        self._error: BaseException | None = None

    def __repr__(self) -> str:
        return f"<Server {self.name} {self.mode} {self.state} on {', '.join(self._locations) or 'nothing yet'}>"

    # -- starting ----------------------------------------------------------------------------------------------------

    def bind(self) -> Server:
        """Open the listeners: clients can connect from now on, and wait. StartError, with nothing left open, if one of
        the addresses cannot be had; AddressError if it is none. :meth:`start` and :meth:`serve_forever` do it too."""
        if self._listeners or self._life.state is not State.NEW:
            return self
        opened: list[Listener] = []
        try:
            for target in self._targets:
                if isinstance(target, Listener):
                    opened.append(target)
                else:
                    opened += open_listeners(target, backlog=self._backlog, reuse_port=self._reuse_port)
        except BaseException:
            for listener in opened:
                listener.close()
            self._end(State.FAILED)
            raise
        for listener in opened:
            if listener.is_datagram:
                listener.socket.settimeout(None)  # handlers send by it, each waiting in its own way
            self._policies[listener] = AcceptPolicy(name=listener.location)
        self._listeners = opened
        self._locations = tuple(listener.location for listener in opened)
        return self

    def start(self) -> Server:
        """Bind and serve; returns when it listens. In a coroutine or green thread, modes green and async serve on the
        loop that runs there; everywhere else, and in every other mode, a background thread serves."""
        self.bind()
        self._begin()
        if self.mode in ("green", "async") and (in_green() or _loop_runs_here()):
            spawn(self._serve)
        else:
            thread = threading.Thread(target=self._serve_in_thread, name=f"jackfield-{self.name}", daemon=True)
            thread.start()
        return self

    def serve_forever(self) -> None:
        """Bind, and serve on this thread until stopped. Raises what ended the serving, if an error did."""
        if not in_green() and _loop_runs_here():
            raise MisuseError("serve_forever() would hold the loop that runs here; write server.start()")
        if self._life.state is State.SERVING:
            self.wait_stopped()
        elif not self._life.ended:
            self.bind()
            self._begin()
            self._serve_here()
        if self._error is not None:
            raise self._error

    def _begin(self) -> None:
        if not self._life.ended:  # stopped before it began
            self._life.move(State.SERVING)
            self._since = time.monotonic()

    def _serve_in_thread(self) -> None:
        try:
            self._serve_here()
        except BaseException:
            _log.critical("%s: serving ended by an error", self.name, exc_info=True)

    def _serve_here(self) -> None:
        if self.mode in ("green", "async") and not in_green():
            run(self._serve, loop_factory=self._loop_factory)
        else:
            self._serve()

    # -- serving -----------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        watchdog = None
        loop = open_loop()
        try:
            if self.mode in ("green", "async"):
                reactor = current_reactor()
                if reactor.watchdog is None:
                    watchdog = reactor.watchdog = Watchdog(reactor)
            units = self._units = self._make_units(loop)
            units.limit, units.on_room, units.on_idle = self._limit, loop.wake, loop.wake
            self._loop = loop
            while self._deadline is None and self._listeners:
                loop.turn(self._attend(loop))
            self._drain(loop, units)
        except BaseException as error:
            self._error = error
            self._close_listeners()
            self._end(State.FAILED)
            raise
        finally:
            if watchdog is not None:
                reactor.watchdog = None
                watchdog.close()
            self._loop = None
            loop.close()
        self._end(State.STOPPED)

    def _make_units(self, loop: Loop) -> Any:
        if self.mode == "process":
            processes = Processes(loop=loop)
            processes.on_reaped = self._child_ended
            return processes
        units = {"serial": Serial, "thread": Threads, "green": Greens, "async": Tasks}[self.mode]()
        if self.mode != "serial":
            self._crew = (AsyncCrew if self.mode == "async" else Crew)(units, DATAGRAM_UNITS[self.mode])
        return units

    def _attend(self, loop: Loop) -> float | None:
        """Watch the listeners, or leave those alone that are to rest; returns how long until one is to be looked at."""
        now, next_look = time.monotonic(), None
        for listener in self._listeners:
            pause = self._resume_at.get(listener, 0.0) - now
            if pause > 0:
                loop.ignore(listener.fileno())
                next_look = pause if next_look is None else min(pause, next_look)
            elif self._units.full and not listener.is_datagram:
                loop.ignore(listener.fileno())
            else:
                loop.watch(listener.fileno(), partial(self._take_datagrams if listener.is_datagram else self._accept, listener))
        return next_look

    def _accept(self, listener: Listener, budget: int = BUDGET) -> None:
        def next_one() -> tuple[Any, Any]:
            if self._units.full:
                raise BlockingIOError(11, "no room")
            return listener.socket.accept()

        outcome = accept_batch(next_one, partial(self._take, listener), self._policies[listener], budget)
        if outcome.action is Action.CLOSED:
            _log.error("%s: the listening socket is gone (%s)", listener.location, outcome.error)
            self._listeners.remove(listener)
            listener.close()
        elif outcome.pause:
            self._resume_at[listener] = time.monotonic() + outcome.pause

    def _take(self, listener: Listener, taken: tuple[Any, Any]) -> None:
        sock, address = taken
        peer = _readable_peer(address)
        connection = self._connections.enter(sock, peer, listener.location)
        try:
            _prepare(sock)
            self._start_unit(connection, sock, peer)
        except (OSError, RuntimeError) as error:
            # No thread, no process, or the peer is gone already: this connection's end, not the server's.
            self._refused += 1
            _log.warning("%s: cannot serve %s: %s", listener.location, ascii(peer), error)
            self._close(sock)

    def _start_unit(self, connection: Connection, sock: Any, peer: Any) -> None:
        if self.mode == "async":
            self._units.start(self._serve_stream_async, sock, peer)
        elif self.mode == "process":
            self._children[self._units.fork(self._in_child, (partial(self._serve_stream, sock, peer), sock))] = sock
        else:
            self._units.start(self._serve_stream, sock, peer)

    # The same source for serial, thread, process and green.
    def _serve_stream(self, sock: Any, peer: Any) -> None:
        try:
            serve_with(self.handler, sock, peer, self)
        except Exception as error:
            self._failed(peer, error)
        finally:
            self._close(sock)

    async def _serve_stream_async(self, sock: Any, peer: Any) -> None:
        try:
            await self.handler(AsyncSocket(sock), peer, self).run()
        except Exception as error:
            self._failed(peer, error)
        finally:
            self._close(sock)

    def _close(self, sock: Any) -> None:
        """The one place where a connection ends: the peer reads what is on its way, and then the end."""
        try:
            sock.shutdown(_socket_std.SHUT_WR)
        except OSError:
            pass
        sock.close()
        self._connections.leave(sock)

    def _failed(self, peer: Any, error: BaseException) -> None:
        if isinstance(error, PEER_LEFT):
            _log.debug("%s left: %s", ascii(peer), error)
        else:
            self._handler_errors += 1
            _log.error("exception while serving %s", ascii(peer), exc_info=error)

    # -- datagrams ---------------------------------------------------------------------------------------------------

    def _take_datagrams(self, listener: Listener) -> None:
        for datagram in receive_batch(listener.socket, budget=BUDGET):
            self._datagrams += 1
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
            if self._units.full:
                raise RuntimeError("too many children")
            self._units.fork(self._in_child, (partial(self._serve_datagram, listener, datagram), listener.socket))
        else:
            self._serve_datagram(listener, datagram)

    def _serve_datagram(self, listener: Listener, datagram: Datagram) -> None:
        peer = _readable_peer(datagram.peer)
        try:
            serve_with(self.handler, (datagram.data, reply_socket(listener.socket, datagram)), peer, self)
        except Exception as error:
            self._failed(peer, error)

    async def _serve_datagram_async(self, listener: Listener, datagram: Datagram) -> None:
        peer = _readable_peer(datagram.peer)
        try:
            sock = AsyncSocket(reply_socket(listener.socket, datagram))  # type: ignore[arg-type]
            await self.handler((datagram.data, sock), peer, self).run()
        except Exception as error:
            self._failed(peer, error)

    # -- children ----------------------------------------------------------------------------------------------------

    @property
    def _children(self) -> dict[int, Any]:
        """The sockets of the children's connections. The parent holds each until its child has ended, so that it can
        be listed and ended; the children hold none but their own."""
        children: dict[int, Any] = self.__dict__.setdefault("_child_sockets", {})
        return children

    def _child_ended(self, pid: int) -> None:
        sock = self._children.pop(pid, None)
        if sock is not None:
            self._close(sock)

    def _in_child(self, work: Callable[[], None], own: Any) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        self._units.forget()
        for listener in self._listeners:
            if listener.socket is not own:
                listener.socket.close()
        for connection in self._connections:
            if connection.socket is not own and connection.socket is not None:
                connection.socket.close()
        work()

    # -- stopping ----------------------------------------------------------------------------------------------------

    @property
    def draining(self) -> bool:
        """True once a stop was asked for: a handler with a long life ends when it sees it."""
        return self._deadline is not None

    def stop(self, deadline: float | None = None) -> None:
        """Ask it to stop: it no longer listens, lets handlers finish for ``deadline`` seconds (``graceful_timeout`` if
        None), then cuts what is left. Returns at once; :meth:`wait_stopped` waits.

        From any thread, task, handler or signal handler, before, while and after it serves, any number of times: the
        earliest deadline holds.
        """
        moment = time.monotonic() + (self.graceful_timeout if deadline is None else deadline)
        self._deadline = moment if self._deadline is None else min(moment, self._deadline)
        if self._life.state is State.NEW:
            self._close_listeners()
            self._end(State.STOPPED)
            return
        loop = self._loop
        if loop is not None:
            loop.wake()

    def wait_stopped(self, timeout: float | None = None) -> bool:
        """Wait until it has stopped; False if ``timeout`` seconds pass first. In a coroutine: ``await stopped()``."""
        if self._stopped.is_set():
            return True
        wait = blocking_wait()
        self._waits.append(wait)
        if self._stopped.is_set():
            wait.wake()
        wait.wait(timeout)
        return self._stopped.is_set()

    async def stopped(self) -> None:
        """Wait, in a coroutine, until it has stopped."""
        wait = AsyncWait()
        self._waits.append(wait)
        if not self._stopped.is_set():
            await wait.wait()

    def _drain(self, loop: Loop, units: Any) -> None:
        graceful = self._deadline is not None and self._deadline > time.monotonic()
        for listener in list(self._listeners):
            loop.ignore(listener.fileno())
            if graceful and not listener.is_datagram:
                # These have connected, as far as they know: whom there is room for is still served.
                self._accept(listener, budget=self._limit)
        self._close_listeners(datagrams=not units.live)
        self._life.move(State.DRAINING)
        self._wait_idle(loop, units, lambda: self._deadline or 0.0)
        if units.live:
            left = list(self._connections)
            peers = ", ".join(ascii(connection.peer) for connection in left[:10])
            _log.warning("%s: cut %d of its handlers that had not finished: %s", self.name, units.live, peers)
            for connection in left:
                connection.close()
            units.cut()
            given_up = time.monotonic() + CUT_SECONDS
            self._wait_idle(loop, units, lambda: given_up)
            if units.live and isinstance(units, Processes):
                units.kill()
                units.join(CUT_SECONDS)
        self._close_listeners()
        units.close()

    def _wait_idle(self, loop: Loop, units: Any, deadline: Callable[[], float]) -> None:
        """Until no unit runs, or ``deadline()``, which a second stop may move forward, has passed."""
        while units.live:
            left = deadline() - time.monotonic()
            if left <= 0:
                return
            loop.turn(left)

    def _close_listeners(self, *, datagrams: bool = True) -> None:
        for listener in list(self._listeners):
            if datagrams or not listener.is_datagram:
                self._listeners.remove(listener)
                listener.close()

    def _end(self, state: State) -> None:
        self._life.move(state)
        self._stopped.set()
        waits, self._waits = self._waits, []
        for wait in waits:
            wait.wake()

    def __enter__(self) -> Server:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
        self.wait_stopped()

    async def __aenter__(self) -> Server:
        return self.start()

    async def __aexit__(self, *_: object) -> None:
        self.stop()
        await self.stopped()

    # -- what is known -----------------------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """``new``, ``serving``, ``draining``, ``stopped`` or ``failed``."""
        return self._life.state.value

    @property
    def addresses(self) -> list[str]:
        """The real addresses, with their real ports; they stay readable after the end."""
        return list(self._locations)

    @property
    def server_address(self) -> Any:
        """The first address as the socket module gives it: ``("127.0.0.1", 9999)``. MisuseError before it is bound."""
        if not self._listeners:
            raise MisuseError("no address yet, or no more: ask between start() and stop()")
        return self._listeners[0].socket.getsockname()

    @property
    def connections(self) -> list[Connection]:
        """The live connections: peer, age, bytes; ``close()`` and ``abort()`` end one."""
        return list(self._connections)

    def info(self) -> ServerInfo:
        """What it is and has done so far."""
        crew_dropped = self._crew.dropped if self._crew is not None else 0
        return ServerInfo(
            name=self.name,
            mode=self.mode,
            state=self.state,
            addresses=self._locations,
            connections=len(self._connections),
            accepted=self._connections.total,
            refused=self._refused,
            handler_errors=self._handler_errors,
            datagrams=self._datagrams,
            dropped=self._dropped + crew_dropped,
            uptime=time.monotonic() - self._since if self._since else 0.0,
        )


def serve(handler: Any, *addresses: Any, **options: Any) -> None:
    """Serve until SIGINT or SIGTERM: ``Server(handler, *addresses, **options).serve_forever()`` with these signals
    meaning a graceful stop, and a second one now. In other threads than the main one no signals are taken."""
    server = Server(handler, *addresses, **options)
    if threading.current_thread() is not threading.main_thread():
        server.serve_forever()
        return

    def asked(number: int, frame: object) -> None:
        server.stop(0 if server.draining else None)

    before = {number: signal.signal(number, asked) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        server.serve_forever()
    finally:
        for number, action in before.items():
            signal.signal(number, action)


# -- helpers -----------------------------------------------------------------------------------------------------------


def _mode_for(handler: Any, mode: str) -> str:
    if mode not in MODES:
        raise MisuseError(f"no mode {mode!r}: write one of {', '.join(MODES)}")
    is_async = inspect.iscoroutinefunction(getattr(handler, "handle", None))
    if mode == "auto":
        return "async" if is_async else "thread"
    if is_async and mode != "async":
        raise MisuseError(f"{handler!r} is a coroutine handler: serve it with mode='async'")
    if mode == "async" and not is_async:
        raise MisuseError(
            f"{handler!r} is no coroutine handler: derive it from AsyncRequestHandler, or serve it with mode='green'"
        )
    if not callable(handler):
        raise MisuseError(f"{handler!r} is no handler class: derive one from jackfield.BaseRequestHandler")
    return mode


def _descriptor_room() -> int:
    """Connections that the soft limit of descriptors leaves room for."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, soft - RESERVED_DESCRIPTORS) if soft != resource.RLIM_INFINITY else 1_000_000


def _readable_peer(address: Any) -> Any:
    """An IPv4 client of a dual-stack socket is shown as what it is (RFC 4291, 2.5.5.2: ``::ffff:192.0.2.1``)."""
    if isinstance(address, tuple) and len(address) == 4 and address[0].startswith("::ffff:"):
        return address[0][7:], address[1]
    return address


def _prepare(sock: Any) -> None:
    """What every server wants of a TCP connection: answers sent at once, and peers that vanished found out."""
    if sock.family in (_socket_std.AF_INET, _socket_std.AF_INET6):
        sock.setsockopt(_socket_std.IPPROTO_TCP, _socket_std.TCP_NODELAY, 1)
        sock.setsockopt(_socket_std.SOL_SOCKET, _socket_std.SO_KEEPALIVE, 1)


def _loop_runs_here() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


