"""Streams: the way of one connection, from the hands of accept to its one end, as a unit of the server's mode."""

from __future__ import annotations

import logging
import socket as _socket_std
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from ..admission import Admission
from ..connections import Connection, Connections
from ..deadlines import Deadlines
from ..door import Listener, readable_peer
from ..events import ConnectionEnded, ConnectionRefused, ConnectionStarted, Publisher, Reason
from ..handlers import life_of, prepared, work_of
from ..limits import Limits
from ..reactor import Reactor
from ..streams import AsyncSocket
from .endings import GOES_ITS_WAY, Failures, reason_of

if TYPE_CHECKING:
    from .entry import Entry

_log = logging.getLogger("jackfield.server")


class Streams:
    """Lets connections in, runs the handler for each, and ends it: once, with a reason.

    ``fork(work, socket)`` runs ``work()`` in a child process that holds no other connection than that of ``socket``.
    """

    def __init__(
        self, handler: Any, mode: str, owner: Any, limits: Limits, events: Publisher, failures: Failures,
        fork: Callable[[Callable[[], None], Any], object],
    ) -> None:  # fmt: skip
        self.handler = handler
        self.mode = mode
        self.owner = owner
        self.events = events
        self.failures = failures
        self.connections = Connections(elsewhere=mode == "process")
        self.admission = Admission(limits)
        self.deadlines = Deadlines(self.connections, limits)
        #: What comes before the handler; None where a connection is its handler's at once.
        self.entry: Entry | None = None
        #: Connections by how they ended, and clients by why they were turned away.
        self.ends: Counter[Reason] = Counter()
        self.refusals: Counter[Reason] = Counter()
        self.units: Any = None
        self._reactor: Reactor | None = None
        self._fork = fork

    def open_units(self, units: Any, reactor: Reactor | None) -> None:
        """Handlers run as ``units`` from now on; green threads and coroutines wait in ``reactor``."""
        self.units = units
        self._reactor = reactor
        if self.mode == "async":
            units.on_end = self._coroutine_ended

    @property
    def limits(self) -> Limits:
        """What holds from now on: at once for those who come, and from the next look at each who is there."""
        return self.admission.limits

    @limits.setter
    def limits(self, limits: Limits) -> None:
        self.admission.limits = limits
        self.deadlines.limits = limits

    # -- coming in ---------------------------------------------------------------------------------------------------

    def take(self, listener: Listener, taken: tuple[Any, Any]) -> None:
        """Serve whom accept has given, unless the limits turn it away."""
        sock, address = taken
        peer = readable_peer(address)
        refusal = self.admission.admit(peer)
        if refusal is not None:
            self.turn_away(listener, taken, Reason(refusal.value))
            return
        if self.entry is not None and self.entry.full:
            self.admission.leave(peer)
            self.turn_away(listener, taken, Reason.LIMIT_HANDSHAKES)
            return
        connection = self.connections.enter(sock, peer, listener.location)
        if self.entry is not None:
            self.entry.begin(connection)
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
            self.close(sock)

    def turn_away(
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
        serve = self._serve if self.entry is None else self._serve_entering
        if self._reactor is not None:
            sock._join_accepted(self._reactor.poller)
        if self.mode == "async":
            if self.entry is None:
                self._start_coroutine(sock, peer)
            else:
                self.units.run(self._run_entering(self.entry, connection, sock), sock)
        elif self.mode == "process":
            self._fork(partial(serve, sock, peer), sock)
        else:
            self.units.start(serve, sock, peer)

    # -- being served ------------------------------------------------------------------------------------------------

    # The same source for serial, thread, process and green.
    def _serve(self, sock: Any, peer: Any) -> None:
        ended_by: BaseException | None = None
        try:
            handler = prepared(self.handler, sock, peer, self.owner)
            if handler is not None:
                # One frame less on the stack of a green thread, where each costs at every switch.
                work = work_of(handler)
                work()
        except BaseException as error:
            ended_by = error
            self.failures.account(peer, error, self.connections.of(sock))
        finally:
            self.close(sock, ended_by)
            ended_by = None  # whose traceback has this frame, and so holds all that the connection had

    def _serve_entering(self, sock: Any, peer: Any) -> None:
        """The same where a PROXY header or a TLS handshake comes first."""
        connection = self.connections.of(sock)
        assert connection is not None and self.entry is not None
        try:
            handed = self.entry.let_in(connection, sock)
        except BaseException as error:
            self._not_let_in(connection, sock, error)
        else:
            self._serve(handed, connection.peer)

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
                self.failures.account(connection.peer if connection is not None else None, error, connection)
        finally:
            self.close(sock, error)

    async def _run_entering(self, entry: Entry, connection: Connection, sock: Any) -> None:
        try:
            handed = await entry.alet_in(connection, sock)
        except BaseException as error:
            self._not_let_in(connection, sock, error)
            return
        ended_by: BaseException | None = None
        try:
            await life_of(self.handler(entry.for_coroutine(handed, self._reactor), connection.peer, self.owner))
        except BaseException as error:
            ended_by = error
            self.failures.account(connection.peer, error, connection)
        finally:
            self.close(handed, ended_by)
            ended_by = None

    # -- the one end -------------------------------------------------------------------------------------------------

    def _not_let_in(self, connection: Connection, sock: Any, error: BaseException) -> None:
        if connection.reason is None:
            connection.reason = reason_of(sock, error)
        try:
            if not isinstance(error, TimeoutError):
                self.failures.account(connection.peer, error, connection)
        finally:
            self._end(connection, sock, error)

    def close(self, sock: Any, error: BaseException | None = None, reason: Reason | None = None) -> None:
        """The one place where a connection ends: the peer reads what is on its way, and then the end. ``reason`` is why
        where nobody has decided that before and it cannot be told from ``error`` and the socket."""
        connection = self.connections.of(sock)
        if connection is None:
            sock.close()
            return
        if connection.reason is None:
            connection.reason = reason
        self._end(connection, sock, error)

    def _end(self, connection: Connection, sock: Any, error: BaseException | None) -> None:
        if connection.reason is None:
            connection.reason = reason_of(sock, error)
        self.deadlines.leave(connection)
        if self.entry is not None:
            self.entry.leave(connection)
        self.admission.leave(connection.peer)
        self.admission.offend(connection.peer, connection.reason.value)
        self.ends[connection.reason] += 1
        if self.events.wanted:
            self.events.publish(
                ConnectionEnded(
                    connection.listener, connection.peer, connection.id, connection.reason, connection.received,
                    connection.sent, connection.age, error,
                )
            )  # fmt: skip
        try:
            sock.shutdown(_socket_std.SHUT_WR)
        except OSError:
            pass  # the peer was faster
        sock.close()
        self.connections.remove(connection)
