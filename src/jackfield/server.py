"""The native face: one server, several addresses, the mode as a parameter, safe defaults."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from .connections import Connection
from .door import Listener, open_listeners
from .draining import Draining, Spread
from .errors import MisuseError
from .events import Event, Publisher, Subscriber
from .lifecycle import LifeCycle, State
from .limits import Limits
from .modes import Loop, open_loop
from .reactor import current_reactor, in_green, loop_runs_here, offload, run, spawn, watched
from .serving import (
    Aside,
    Drain,
    Ended,
    ProxyRule,
    Reload,
    Rereading,
    ServerInfo,
    Service,
    descriptor_room,
    in_background,
    mode_for,
    server_tls,
)  # fmt: skip

if TYPE_CHECKING:
    from .admission.ledger import Seat
    from .tls import TLS, ServerTLS

_log = logging.getLogger("jackfield.server")

class Server:
    """Serves a handler class on one or more addresses.

    ``addresses`` are texts (``"tcp://127.0.0.1:9999"``, ``":9999"`` for all interfaces and both families,
    ``"udp://:514"``, ``"unix:/run/x.sock"``, ``"unixgram:…"``, ``"fd://3"``), numbers, ``(host, port)`` tuples, open
    sockets (duplicated) or open ``Listener`` objects (taken over); ``tcp://127.0.0.1:9999`` when none is given.

    ``mode``: ``serial``, ``thread``, ``process``, ``green``, ``async``; ``auto`` is async for a handler whose
    ``handle`` is a coroutine function and thread for any other. ``max_threads`` (256), ``max_children`` (40) and
    ``max_connections`` (10,000, or what the descriptor limit leaves) bound what runs at once; clients above it wait in
    the kernel's queue, ``backlog`` long (the kernel cuts it to net.core.somaxconn), and are refused once it was full
    for a second. ``graceful_timeout`` (30 s) is what ``stop()`` gives handlers to finish.

    ``limits`` (:class:`~jackfield.Limits`; its defaults) say who may come in, how many, and how long each may take.
    ``tls`` (:class:`~jackfield.TLS`) makes every connection one of TLS; if one of the addresses is ``tls://…``, those
    of such addresses, whose options may say otherwise (``?cert=a.pem&key=a.key``). With ``proxy_protocol`` (True, or a
    :class:`~jackfield.serving.ProxyRule`) each begins with a PROXY header that says who the client really is. Both are
    done before the handler, in the connection's own unit, within ``limits.handshake_timeout``.

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
        limits: Limits | None = None,
        tls: TLS | ServerTLS | None = None,
        proxy_protocol: ProxyRule | bool = False,
        backlog: int = 65535,
        reuse_port: bool = False,
        graceful_timeout: float = 30.0,
        loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
        name: str | None = None,
    ) -> None:
        self.handler = handler
        self.mode = mode_for(handler, mode)
        self.name = name or getattr(handler, "__qualname__", None) or type(handler).__name__
        self.graceful_timeout = graceful_timeout
        self._targets = addresses or ("tcp://127.0.0.1:9999",)
        self._backlog = backlog
        self._reuse_port = reuse_port
        self._loop_factory = loop_factory
        room = descriptor_room()
        limits = Limits() if limits is None else limits
        if max_connections is not None:
            limits = limits.replace(max_connections=max_connections)
        self._most = min({"thread": max_threads, "process": max_children}.get(self.mode, room), room)
        self._limits = limits
        # Read here, not at the first handshake: a bad certificate is told before anything is opened.
        self._tls = None if tls is None else server_tls(tls)
        self._proxy = ProxyRule() if proxy_protocol is True else proxy_protocol or None
        self._limit = self._limit_of(limits)
        self._events = Publisher()
        self._life = LifeCycle()
        self._draining = Draining()
        self._seat: Seat | None = None
        #: Whoever pops this begins the server, or ends it before it began: list.pop() is whole for threads and signals.
        self._not_begun = [True]
        self._service = self._new_service(())
        self._locations: tuple[str, ...] = ()
        self._loop: Loop | None = None
        self._on_loop_here = False
        self._watched: tuple[int, Callable[[], object]] | None = None
        #: Those asked for, each earlier than those before it.
        self._deadlines: list[float] = []
        self._since = 0.0
        self._stopped = Ended()
        self._error: BaseException | None = None
        self._asides: list[Aside] = []
        #: Until when it may go on with the connections it has, when another process has taken over its addresses.
        self._retired: float | None = None
        self._spread = Spread(lambda connection: self._service.tell(connection))
        self._cut_ones: list[Connection] = []

    def __repr__(self) -> str:
        return f"<Server {self.name} {self.mode} {self.state} on {', '.join(self._locations) or 'nothing yet'}>"

    def _new_service(self, listeners: Iterable[Listener]) -> Service:
        return Service(
            self.handler, self.mode, self._limit, listeners, self, self._limits, self._events, self._proxy, self._tls,
            self._seat,
        )  # fmt: skip

    def _limit_of(self, limits: Limits) -> int:
        return self._most if limits.max_connections is None else min(limits.max_connections, self._most)

    # -- starting ----------------------------------------------------------------------------------------------------

    def bind(self) -> Server:
        """Open the listeners: clients can connect from now on, and wait. StartError, with nothing left open, if one of
        the addresses cannot be had; AddressError if it is none. :meth:`start` and :meth:`serve_forever` do it too."""
        if self._locations or self._life.state is not State.NEW:
            return self
        opened: list[Listener] = []
        try:
            for target in self._targets:
                if isinstance(target, Listener):
                    opened.append(target)
                else:
                    opened += open_listeners(target, backlog=self._backlog, reuse_port=self._reuse_port)
            self._service = self._new_service(opened)
        except BaseException as error:
            for listener in opened:
                listener.close()
            self._error = error
            self._end(State.FAILED)
            raise
        self._locations = tuple(listener.location for listener in opened)
        if not self._not_begun:
            self._service.close_listeners()  # a stop came meanwhile, and may have found nothing to close yet
        return self

    def start(self) -> Server:
        """Bind and serve; returns when it listens. In a coroutine or green thread, modes green and async serve on the
        loop that runs there; everywhere else, and in every other mode, a background thread serves.

        Nothing happens if it serves already, or if a stop came first. MisuseError for one that has served and no longer
        does, or that could not start.
        """
        self.bind()
        if not self._begin():
            self._refuse_a_second_life()
            return self
        if self.mode in ("green", "async") and (in_green() or loop_runs_here()):
            self._on_loop_here = True
            spawn(self._serve)
        else:
            thread = threading.Thread(target=self._serve_in_thread, name=f"jackfield-{self.name}", daemon=True)
            in_background[thread] = self
            thread.start()
        return self

    def serve_forever(self) -> None:
        """Bind, and serve on this thread until stopped. Raises what ended the serving, or kept it from starting, if an
        error did. If it serves already, in the background, this waits for its end."""
        if not in_green() and loop_runs_here():
            raise MisuseError("serve_forever() would hold the loop that runs here; write server.start()")
        if self._life.state is State.SERVING:
            self.wait_stopped()
        elif not self._life.ended:
            self.bind()
            if self._begin():
                self._serve_here()
        if self._error is not None:
            raise self._error

    def also_watch(self, fd: int, then: Callable[[], object] = lambda: None) -> None:
        """Let whatever makes ``fd`` readable end the server's waiting, so that signal handlers are run, and call
        ``then()``; what comes is read and thrown away. ``fd`` is non-blocking and open while the server serves."""
        self._watched = fd, partial(_read_all, fd, then)

    def share_limits(self, seat: Seat) -> None:
        """Before it is bound: its limits are those of all workers that have a seat at the same ledger."""
        self._seat = seat

    def _refuse_a_second_life(self) -> None:
        state = self._life.state
        if self._since and state is not State.SERVING:
            # In silence the caller would believe that it serves.
            raise MisuseError(f"{self.name} has served and is {state.value}: make a new Server") from self._error

    def _begin(self) -> bool:
        if self._life.state is State.FAILED:
            raise MisuseError(f"{self.name} has failed: make a new Server") from self._error
        try:
            self._not_begun.pop()
        except IndexError:
            return False  # stopped before it began
        self._life.move(State.SERVING)
        self._since = time.monotonic()
        _log.info("%s: listening on %s", self.name, ", ".join(self._locations))
        return True

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
        loop = open_loop()
        watch = watched(current_reactor()) if self.mode in ("green", "async") else contextlib.nullcontext()
        try:
            with watch:
                self._service.open_units(loop)
                self._loop = loop
                if self._watched is not None:
                    loop.watch(*self._watched)
                self._serve_until_asked_to_stop(loop)
                drain = Drain(self._service, loop, self._deadline_now, self._cut)
                drain.begin()
                self._life.move(State.DRAINING)
                drain.run()
        except BaseException as error:
            self._error = error
            self._service.close_listeners()
            self._end(State.FAILED)
            raise
        finally:
            self._loop = None
            self._service.guard.end_watch()
            loop.close()
        self._end(State.STOPPED if self._error is None else State.FAILED)

    def _serve_until_asked_to_stop(self, loop: Loop) -> None:
        service = self._service
        while self._deadline is None:
            if self._retired is not None:
                service.close_listeners(datagrams=not service.live)
            looks = [service.attend(loop), self._spread.look()]
            if self._retired is not None:
                looks.append(max(0.0, self._retired - time.monotonic()))
                if not (service.live and looks[-1]):
                    self.stop()
                    return
            elif not service.listeners:
                # Nobody has asked for it: the last listener is gone. With the same patience.
                self._error = service.lost
                self.stop()
                return
            loop.turn(min((look for look in looks if look is not None), default=None))

    # -- stopping ----------------------------------------------------------------------------------------------------

    @property
    def draining(self) -> Draining:
        """True once a stop was asked for, and something to wait for: a handler with a long life ends then."""
        return self._draining

    @property
    def _deadline(self) -> float | None:
        return min(self._deadlines, default=None)

    def stop(self, deadline: float | None = None) -> None:
        """Ask it to stop: it no longer listens, lets handlers finish for ``deadline`` seconds (``graceful_timeout`` if
        None), then cuts what is left. Returns at once; :meth:`wait_stopped` waits.

        From any thread, task, handler or signal handler, before, while and after it serves, any number of times: the
        earliest deadline holds.
        """
        # No lock here, which the frame that a signal handler interrupts might hold: each step is whole by itself.
        now = time.monotonic()
        moment, before = now + (self.graceful_timeout if deadline is None else deadline), self._deadline
        if before is None or moment < before:
            self._deadlines.append(moment)
        self._service.stopping = True
        self._draining.set()
        if self._life.state is State.NEW:
            try:
                self._not_begun.pop()
            except IndexError:
                pass  # start() was faster, and will find the deadline
            else:
                self._service.close_listeners()
                self._end(State.STOPPED)
                return
        self._wake()
        if self.mode == "serial" and not self._life.ended:
            for aside in self._asides:
                aside.wake()
            if not self._asides:
                aside = Aside(self._service, self._deadline_now, self._cut)
                self._asides.append(aside)
                aside.start()
                if self._life.ended:
                    aside.close()  # it ended meanwhile, and may have been through the list before

    def _deadline_now(self) -> float:
        return self._deadline or 0.0

    def _cut(self) -> None:
        """End what has not ended by itself, and say whom that concerns."""
        if not self._service.live:
            return
        self._cut_ones += self.connections
        peers = ", ".join(ascii(connection.peer) for connection in self._cut_ones[:10])
        _log.warning("%s: cuts %d of its handlers that have not finished: %s", self.name, self._service.live, peers)
        self._service.cut()

    @property
    def cut(self) -> list[Connection]:
        """The connections that had not ended at the deadline of a stop, and were cut."""
        return list(self._cut_ones)

    def retire(self, patience: float) -> None:
        """Stop listening, because another process has the same sockets, and let the connections go on for ``patience``
        seconds as if nothing had happened; then, or when the last has ended, :meth:`stop`. Returns at once.

        Those who wait in the kernel's queue are left to the other process.
        """
        moment = time.monotonic() + patience
        self._retired = moment if self._retired is None else min(self._retired, moment)
        self._wake()

    def suspend(self) -> None:
        """Accept nobody until :meth:`resume`; those who connect wait in the kernel's queue. Connections go on."""
        self._hold_back(State.SUSPENDED, True)

    def resume(self) -> None:
        """Accept again."""
        self._hold_back(State.SERVING, False)

    def _hold_back(self, state: State, suspended: bool) -> None:
        if self._life.state in (State.SERVING, State.SUSPENDED) and self._life.state is not state:
            self._life.move(state)
            self._service.suspended = suspended
            self._wake()

    def close_spread(self, seconds: float) -> None:
        """End the connections that there are now, one after the other over ``seconds``, so that their clients do not
        all come back at once. Each ends as at a stop: when it has nothing under way; ``graceful_timeout`` after its
        turn it is closed. Returns at once; clients are accepted as before."""
        self._spread.add(self.connections, seconds, self.graceful_timeout)
        self._wake()

    def _wake(self) -> None:
        loop = self._loop
        if loop is not None:
            loop.wake()

    def wait_stopped(self, timeout: float | None = None) -> bool:
        """Wait until it has stopped; False if ``timeout`` seconds pass first. In a coroutine: ``await stopped()``."""
        if not self._stopped.is_set() and self._on_loop_here and not in_green() and loop_runs_here():
            raise MisuseError("wait_stopped() would hold the loop that has to stop it; write 'await server.stopped()'")
        return self._stopped.wait(timeout)

    def when_stopped(self, then: Callable[[], object]) -> None:
        """Call ``then()`` when it has stopped, on whatever thread; at once if it has. It must not wait."""
        self._stopped.call(then)

    async def stopped(self) -> None:
        """Wait, in a coroutine, until it has stopped."""
        await self._stopped.await_()

    def _end(self, state: State) -> None:
        self._life.move(state)
        for aside in self._asides:
            aside.close()
        self._stopped.set()

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

    def _connection_of(self, sock: Any) -> Connection | None:
        return self._service.guard.connections.of(sock)

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
        if not self._service.listeners:
            raise MisuseError("no address yet, or no more: ask between start() and stop()")
        return self._service.listeners[0].socket.getsockname()

    @property
    def connections(self) -> list[Connection]:
        """The live connections: peer, age, bytes; ``close()`` and ``abort()`` end one."""
        return list(self._service.guard.connections)

    def connection(self, id: int) -> Connection | None:
        """The live connection of that number, as events and the log have it; None if it is over."""
        return next((one for one in self.connections if one.id == id), None)

    @property
    def limits(self) -> Limits:
        """The limits in force. They may be set at any time: they hold at once for those who come, and within a tenth
        of each deadline for those who are there."""
        return self._limits

    @limits.setter
    def limits(self, limits: Limits) -> None:
        self._limits = limits
        self._limit = self._limit_of(limits)
        self._service.hold(limits, self._limit)
        self._wake()  # clients may have been waiting for what is allowed now

    def reload(self) -> Reload:
        """Read again what came from files: lists of peers in ``limits`` and in the rule for PROXY headers
        (``PeerList.from_file()``), and certificates. It holds for those who come from now on; a file that is wrong
        leaves in force what was read before. What came of it is one line in the log, and returned.

        From any thread. MisuseError in a coroutine, which writes ``await jackfield.offload(server.reload)``."""
        if not in_green() and loop_runs_here():
            raise MisuseError("reload() would hold the loop; write 'await jackfield.offload(server.reload)'")
        result: Reload = offload(self._reload)
        return result

    def _reload(self) -> Reload:
        with Rereading(self.name) as again:
            if changes := again.limits(self._limits):
                self.limits = self._limits.replace(**changes)
            self._proxy = again.rule(self._proxy)
            again.entries([self._service.streams.entry, *self._service.streams.entries.values()], self._tls)
        return again.result

    def subscribe(self, subscriber: Subscriber, *kinds: type[Event]) -> Callable[[], None]:
        """Call ``subscriber(event)`` for every event of ``kinds`` (see :mod:`jackfield.events`; all, if none is named);
        returns what ends that. It is called where the event happens, on whatever thread, and must not wait. One that
        raises is dropped and reported."""
        return self._events.subscribe(subscriber, *kinds)

    def info(self) -> ServerInfo:
        """What it is and has done so far."""
        uptime = time.monotonic() - self._since if self._since else 0.0
        return self._service.info(self.name, self.state, self._locations, uptime)


# -- helpers -----------------------------------------------------------------------------------------------------------


def _read_all(fd: int, then: Callable[[], object]) -> None:
    with contextlib.suppress(BlockingIOError):
        while os.read(fd, 4096):
            pass
    then()
