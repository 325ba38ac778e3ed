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
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from ..admission import Admission
from ..connections import Connection, Connections
from ..deadlines import Deadlines, Watch
from ..door import AcceptPolicy, Action, Listener, Outcome, accept_batch, readable_peer, set_stream_options
from ..events import ConnectionEnded, ConnectionRefused, ConnectionStarted, Publisher, Reason
from ..handlers import life_of, prepared, work_of
from ..limits import Limits
from ..modes import Greens, Loop, Processes, Serial, Tasks, Threads
from ..reactor import GreenExit, Reactor, current_reactor
from ..streams import AsyncSocket
from ..tls import TLS, ServerTLS
from .datagrams import Datagrams
from .endings import is_departure, reason_of
from .entry import Entry, ProxyRule, RefusedError, async_socket, entry_of

_log = logging.getLogger("jackfield.server")

#: Connections or datagrams taken from one listener before the others have their turn.
BUDGET = 64

#: Being cut, and Ctrl-C.
GOES_ITS_WAY = (GreenExit, asyncio.CancelledError, KeyboardInterrupt)


#: How the process of a connection says what it ended by; 0 is one of datagrams.
_EXIT_CODES = {reason: 100 + number for number, reason in enumerate(Reason)}
_REASONS = {0: Reason.HANDLER_RETURNED} | {code: reason for reason, code in _EXIT_CODES.items()}


class Service:
    """Takes connections and datagrams from ``listeners`` and runs ``handler`` for each, as units of ``mode``.

    At most ``limit`` units at once; clients above that wait in the kernel's queue, or are refused, as ``limits`` say.
    ``owner`` is what handlers see as their ``server``; ``events`` is told what happens.
    """

    def __init__(
        self, handler: Any, mode: str, limit: int, listeners: Iterable[Listener], owner: Any, limits: Limits,
        events: Publisher, proxy: ProxyRule | bool | None = None, tls: TLS | ServerTLS | None = None,
    ) -> None:  # fmt: skip
        self.handler = handler
        self.events = events
        self.mode = mode
        self.limit = limit
        self.owner = owner
        self.listeners = list(listeners)
        self.connections = Connections(elsewhere=mode == "process")
        self.admission = Admission(limits)
        self.deadlines = Deadlines(self.connections, limits)
        self.entry = entry_of(proxy, tls, self.admission, self.connections, self.deadlines)
        #: Connections whose PROXY header or TLS handshake is not done, by id.
        self.entering: set[int] = set()
        self.datagrams = Datagrams(handler, mode, owner, self._failed, self._fork)
        #: Connections by how they ended, and clients by why they were turned away.
        self.ends: Counter[Reason] = Counter()
        self.refusals: Counter[Reason] = Counter()
        self.handler_errors = 0
        self.stopping = False
        self._full_since: float | None = None
        self._watch: Watch | None = None
        #: What took the last listener away, when nobody had asked for a stop.
        self.lost: OSError | None = None
        self.units: Any = None
        # One object for all.
        self._serve = self._serve_stream if self.entry is None else self._serve_entering
        self._loop: Loop | None = None
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
                set_stream_options(listener.socket)

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
            self.datagrams.open_units(self.units)
        if self.mode == "async":
            self.units.on_end = self._coroutine_ended
        self.units.limit, self.units.on_room, self.units.on_idle = self.limit, loop.wake, self._on_idle
        self._offer_listeners()
        if self.mode == "serial":
            self._watch = Watch(self.deadlines)  # the loop cannot, while a handler runs on its thread
            self._watch.start()
        elif self.mode == "thread" or self.entry is not None:
            # Units enter connections and establish them, while the loop waits for a later deadline or for nothing.
            self.deadlines.on_earlier = loop.wake

    def end_watch(self) -> None:
        """No deadline is looked at any more; any number of times."""
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.close()

    def _on_idle(self) -> None:
        """The last unit has ended, on whatever thread: only a drain waits for that, and a wake-up is a system call."""
        if self.stopping and self._loop is not None:
            self._loop.wake()

    @property
    def live(self) -> int:
        """Units that run."""
        return self.units.live if self.units is not None else 0

    @property
    def limits(self) -> Limits:
        """What holds from now on: at once for those who come, and from the next look at each who is there."""
        return self.admission.limits

    @limits.setter
    def limits(self, limits: Limits) -> None:
        self.admission.limits = limits
        self.deadlines.limits = limits

    @property
    def refused(self) -> int:
        """Clients that were turned away before their handler was called."""
        return sum(self.refusals.values())

    def attend(self, loop: Loop) -> float | None:
        """Watch the listeners, or leave those alone that are to rest, and look at the deadlines; returns how long until
        something is to be looked at."""
        now = time.monotonic()
        looks = [] if self.mode in ("serial", "process") else [self.deadlines.look()]
        refusing = self._is_refusing(now)
        if self._full_since is not None and not refusing and self.limits.when_full == "refuse":
            looks.append(self._full_since + self.limits.full_patience - now)
        for listener in list(self.listeners):
            fd = listener.fileno()
            pause = self._resume_at.get(listener, 0.0) - now
            if fd < 0:
                self._gone(listener, OSError(errno.EBADF, os.strerror(errno.EBADF)))
            elif pause > 0:
                loop.ignore(fd)
                looks.append(pause)
            elif not self.units.full or (listener.is_datagram and self.mode != "process") or (
                refusing and not listener.is_datagram
            ):
                loop.watch(fd, self._takes[listener])
                self._watched[listener] = fd
            else:
                loop.ignore(fd)
        return min((look for look in looks if look is not None), default=None)

    def _is_refusing(self, now: float) -> bool:
        """Full for longer than clients are to be left waiting for their turn."""
        if not self.units.full or self.limits.when_full != "refuse":
            self._full_since = None
            return False
        if self._full_since is None:
            self._full_since = now
        return now - self._full_since >= self.limits.full_patience

    def accept(self, listener: Listener, budget: int = BUDGET, *, last: bool = False) -> None:
        """Take what waits in the queue of ``listener``, ``budget`` connections at most; once ``stopping`` is set, only
        for the ``last`` time."""
        refusing = self.units.full and self._is_refusing(time.monotonic())

        def next_one() -> tuple[Any, Any]:
            if (self.units.full and not refusing) or (self.stopping and not last):
                raise BlockingIOError(errno.EAGAIN, "no room")
            return listener.socket.accept()

        take = partial(self._turn_away if refusing else self._take, listener)
        self._heed(listener, accept_batch(next_one, take, self._policies[listener], budget))

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
        peer = readable_peer(address)
        refusal = self.admission.admit(peer)
        if refusal is not None:
            self._turn_away(listener, taken, Reason(refusal.value))
            return
        most = self.limits.handshakes if self.entry is not None else None
        if most is not None and len(self.entering) >= most:
            self.admission.leave(peer)
            self._turn_away(listener, taken, Reason.LIMIT_HANDSHAKES)
            return
        connection = self.connections.enter(sock, peer, listener.location)
        if self.entry is not None:
            connection.established = False
            self.entering.add(connection.id)
        if self.mode != "process":
            self.deadlines.enter(connection)
        if self.events.wanted:
            self.events.publish(ConnectionStarted(listener.location, peer, connection.id))
        try:
            self._start_unit(connection, sock, peer)
        except (OSError, RuntimeError) as error:
            # No thread, no process, or the peer is gone already: this connection's end, not the server's.
            self.refusals[Reason.NO_UNIT] += 1
            connection.reason = Reason.NO_UNIT
            _log.warning("%s: cannot serve %s: %s", listener.location, ascii(peer), error)
            self._close(sock)

    def _turn_away(
        self, listener: Listener, taken: tuple[Any, Any], reason: Reason = Reason.LIMIT_CONNECTIONS
    ) -> None:
        """Before it is a connection. Whom there is no room for is told, if there is something to tell."""
        sock, peer = taken[0], readable_peer(taken[1])
        self.refusals[reason] += 1
        try:
            if self.limits.refusal and reason.value.startswith("limit"):
                # What fits in a new connection's send buffer goes without waiting.
                sock.setblocking(False)
                sock.send(self.limits.refusal)
                sock.shutdown(_socket_std.SHUT_WR)
        except OSError:
            pass  # the peer was faster
        sock.close()
        if self.events.wanted:
            self.events.publish(ConnectionRefused(listener.location, peer, reason))

    def _start_unit(self, connection: Connection, sock: Any, peer: Any) -> None:
        if self._reactor is not None:
            sock._join_accepted(self._reactor.poller)
        if self.mode == "async":
            if self.entry is None:
                self._start_coroutine(sock, peer)
            else:
                self.units.run(self._run_entering(self.entry, connection, sock), sock)
        elif self.mode == "process":
            self._children[self._fork(partial(self._serve, sock, peer), sock)] = sock
        else:
            self.units.start(self._serve, sock, peer)

    # The same source for serial, thread, process and green.
    def _serve_stream(self, sock: Any, peer: Any) -> None:
        ended_by: BaseException | None = None
        try:
            handler = prepared(self.handler, sock, peer, self.owner)
            if handler is not None:
                # One frame less on the stack of a green thread, where each costs at every switch.
                work = work_of(handler)
                work()
        except BaseException as error:
            ended_by = error
            self._failed(peer, error, self.connections.of(sock))
        finally:
            self._close(sock, ended_by)
            ended_by = None  # whose traceback has this frame, and so holds all that the connection had

    def _serve_entering(self, sock: Any, peer: Any) -> None:
        """The same where a PROXY header or a TLS handshake comes first."""
        connection = self.connections.of(sock)
        assert connection is not None and self.entry is not None
        try:
            handed = self.entry.let_in(connection, sock, self.deadlines)
        except BaseException as error:
            self._not_let_in(connection, sock, error)
        else:
            self.entering.discard(connection.id)
            self._serve_stream(handed, connection.peer)

    async def _run_entering(self, entry: Entry, connection: Connection, sock: Any) -> None:
        try:
            handed = await entry.alet_in(connection, sock)
        except BaseException as error:
            self._not_let_in(connection, sock, error)
            return
        self.entering.discard(connection.id)
        ended_by: BaseException | None = None
        try:
            await life_of(self.handler(async_socket(handed, AsyncSocket, self._reactor), connection.peer, self.owner))
        except BaseException as error:
            ended_by = error
            self._failed(connection.peer, error, connection)
        finally:
            self._close(handed, ended_by)
            ended_by = None

    def _not_let_in(self, connection: Connection, sock: Any, error: BaseException) -> None:
        if isinstance(error, RefusedError):
            connection.reason = error.reason
        if connection.reason is None:
            connection.reason = reason_of(sock, error)
        try:
            if not isinstance(error, TimeoutError):
                self._failed(connection.peer, error, connection)
        finally:
            self._end(connection, sock, error)

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
            connection = self.connections.of(sock)
            if error is not None and not isinstance(error, GOES_ITS_WAY):
                self._failed(connection.peer if connection is not None else None, error, connection)
        finally:
            self._close(sock, error)

    def _close(self, sock: Any, error: BaseException | None = None) -> None:
        """The one place where a connection ends: the peer reads what is on its way, and then the end."""
        connection = self.connections.of(sock)
        if connection is None:
            sock.close()
        else:
            self._end(connection, sock, error)

    def _end(self, connection: Connection, sock: Any, error: BaseException | None) -> None:
        if connection.reason is None:
            connection.reason = reason_of(sock, error)
        self.deadlines.leave(connection)
        self.entering.discard(connection.id)
        self.admission.leave(connection.peer)
        self.admission.offend(connection.peer, connection.reason.value)
        self.ends[connection.reason] += 1
        if self.events.wanted:
            self._tell_end(connection, sock, error)
        try:
            sock.shutdown(_socket_std.SHUT_WR)
        except OSError:
            pass  # the peer was faster
        sock.close()
        self.connections.remove(connection)

    def _tell_end(self, connection: Connection, sock: Any, error: BaseException | None) -> None:
        assert connection.reason is not None
        self.events.publish(
            ConnectionEnded(
                connection.listener, connection.peer, connection.id, connection.reason, connection.received,
                connection.sent, connection.age, error,
            )
        )  # fmt: skip

    def _failed(self, peer: Any, error: BaseException, connection: Connection | None = None) -> None:
        """Every end of a handler is accounted for. SystemExit ends its handler; being cut and Ctrl-C go their way."""
        if isinstance(error, GOES_ITS_WAY):
            raise error
        if is_departure(error):
            _log.debug("%s left: %s", ascii(peer), error)
        elif connection is not None and connection.reason is not None and isinstance(error, OSError):
            # What a handler meets in the connection that was taken from under it.
            _log.debug("%s was ended (%s): %s", ascii(peer), connection.reason, error)
        else:
            self.handler_errors += 1
            _log.error("exception while serving %s", ascii(peer), exc_info=error)

    # -- datagrams ---------------------------------------------------------------------------------------------------

    def _take_datagrams(self, listener: Listener) -> None:
        # A process is started for each: what there is no room for waits in the kernel's queue.
        budget = max(0, self.limit - self.units.live) if self.mode == "process" else BUDGET
        policy = self._policies[listener]
        failed = self.datagrams.take(listener, budget)
        if failed is None:
            if policy.in_trouble:
                for text in policy.end():
                    _log.warning("%s", text)
            return

        def fail() -> None:
            raise failed

        self._heed(listener, accept_batch(fail, lambda _: None, policy, 1))

    # -- children ----------------------------------------------------------------------------------------------------

    def _fork(self, work: Callable[[], None], own: Any) -> int:
        pid: int = self.units.fork(self._in_child, (work, own))
        return pid

    def _child_ended(self, pid: int, status: int) -> None:
        code = os.waitstatus_to_exitcode(status)
        reason = _REASONS.get(code, Reason.HANDLER_ERROR)
        self.handler_errors += code not in _REASONS or reason is Reason.HANDLER_ERROR
        sock = self._children.pop(pid, None)
        if sock is not None:
            connection = self.connections.of(sock)
            if connection is not None and connection.reason is None:
                connection.reason = reason
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
        # Of this process's own connection; the parent has none.
        self.deadlines = Deadlines(self.connections, self.limits)
        mine = self.connections.of(own)
        if mine is not None:
            self.deadlines.enter(mine)
            Watch(self.deadlines).start()
        work()
        if mine is not None and mine.reason is not None:
            raise SystemExit(_EXIT_CODES[mine.reason])
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
            connection.close(Reason.DRAINED)
        self.units.cut()
