"""Streams: the way of one connection, from the hands of accept to its one end, as a unit of the server's mode."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from ..connections import Connection
from ..door import Listener, peer_of
from ..endings import GOES_ITS_WAY, Failures, reason_of
from ..events import Reason
from ..guard import Guard
from ..handlers import is_made_quietly, life_of, prepared, work_of
from ..reactor import Reactor
from ..reactor.poller import Poller
from ..socket import _going_on
from ..streams import AsyncSocket

if TYPE_CHECKING:
    from .entry import Entry



class Streams:
    """Lets connections in, runs the handler for each, and ends it: once, with a reason.

    ``fork(work, socket)`` runs ``work()`` in a child process that holds no other connection than that of ``socket``.
    """

    def __init__(
        self, handler: Any, mode: str, owner: Any, guard: Guard, failures: Failures,
        fork: Callable[[Callable[[], None], Any], object],
    ) -> None:  # fmt: skip
        self.handler = handler
        self.mode = mode
        self.owner = owner
        self.guard = guard
        self.failures = failures
        self.connections = guard.connections
        #: What comes before the handler, and where it is another for one listener; None where a connection is its
        #: handler's at once.
        self.entry: Entry | None = None
        self.entries: dict[Listener, Entry | None] = {}
        #: The connections that are on their way in, by id: however many entries there are, their limit is one.
        self.entering: set[int] = set()
        #: Called, from any thread, when a connection has ended and its descriptor is free.
        self.on_freed: Callable[[], object] = lambda: None
        self.units: Any = None
        self._reactor: Reactor | None = None
        self._poller: Poller | None = None
        #: Starts the unit of a socket and its peer that are let in.
        self._start: Callable[[Any, Any], object]
        self._fork = fork

    def open_units(self, units: Any, reactor: Reactor | None) -> None:
        """Handlers run as ``units`` from now on; green threads and coroutines wait in ``reactor``."""
        self.units = units
        self._reactor = reactor
        self._poller = reactor.poller if reactor is not None else None
        if self.mode == "async":
            units.on_end = self._unit_ended
            self._start = self._start_coroutine
        elif self.mode == "green" and is_made_quietly(self.handler):
            units.on_end = self._unit_ended
            self._start = self._start_green
        elif self.mode == "process":
            units.tell_by(self.failures.journal)
            self._start = self._start_process
        else:
            self._start = partial(units.start, self._serve)

    @property
    def any_entry(self) -> bool:
        """Whether something comes before the handler on any listener."""
        return self.entry is not None or any(self.entries.values())

    # -- coming in ---------------------------------------------------------------------------------------------------

    def take(self, listener: Listener, taken: tuple[Any, Any]) -> None:
        """Serve whom accept has given, unless the limits turn it away."""
        sock, peer = taken
        if type(peer) is not tuple or len(peer) != 2:
            peer = peer_of(sock, peer)  # of IPv4 it is what accept has said
        entry = self.entries.get(listener, self.entry) if self.entries else self.entry
        if entry is None:
            connection = self.guard.let_in(sock, peer, listener.location)
            if connection is None:
                return
        else:
            unless = Reason.LIMIT_HANDSHAKES if entry.full else None
            connection = self.guard.let_in(sock, peer, listener.location, unless, established=False)
            if connection is None:
                return
            try:
                # Not in process mode: what is read of the connection belongs to the child.
                if self.mode != "process" and entry.let_in_at_once(connection, sock):
                    entry, peer = None, connection.peer
                else:
                    entry.begin(connection)
            except Exception as error:
                self._not_let_in(connection, sock, error)
                return
        try:
            if self._poller is not None:
                sock._join_accepted(self._poller)
            if entry is None:
                self._start(sock, peer)
            else:
                self._start_entering(entry, connection, sock, peer)
        except (OSError, RuntimeError) as error:
            # No thread, no process, or the peer is gone already: this connection's end, not the server's.
            self.guard.note(self.guard.refusals, Reason.NO_UNIT)
            connection.reason = Reason.NO_UNIT
            self.failures.journal.write(
                logging.WARNING, "%s: cannot serve %s: %s", listener.location, ascii(peer), error,
                kind="clients that cannot be served", peer=peer,
            )  # fmt: skip
            self.close(sock)

    def turn_away(
        self, listener: Listener, taken: tuple[Any, Any], reason: Reason = Reason.LIMIT_CONNECTIONS
    ) -> None:
        """There is no room for whom accept has given."""
        self.guard.turn_away(taken[0], peer_of(*taken), listener.location, reason)

    def _start_entering(self, entry: Entry, connection: Connection, sock: Any, peer: Any) -> None:
        serve = partial(self._serve_entering, entry)
        if self.mode == "async":
            self.units.run(self._run_entering(entry, connection, sock), sock)
        elif self.mode == "process":
            self._fork(partial(serve, sock, peer), sock)
        else:
            self.units.start(serve, sock, peer)

    def _start_process(self, sock: Any, peer: Any) -> None:
        self._fork(partial(self._serve, sock, peer), sock)

    def begin_handshake(self, connection: Connection) -> bool:
        """A handler begins a TLS handshake on ``connection`` (STARTTLS), which counts with those on their way in until
        :meth:`end_handshake`, or its end. False: as many are there as may be (``max_handshakes``). In mode ``process``
        nobody counts: each is the only one in its process."""
        if self.mode == "process":
            return True
        most = self.guard.limits.handshakes
        if most is not None and len(self.entering) >= most:
            return False
        self.entering.add(connection.id)
        return True

    def end_handshake(self, connection: Connection) -> None:
        self.entering.discard(connection.id)

    # -- being served ------------------------------------------------------------------------------------------------

    # The same source for serial, thread, process and, where making a handler may do anything, green.
    def _serve(self, sock: Any, peer: Any) -> None:
        ended_by: BaseException | None = None
        try:
            handler = prepared(self.handler, sock, peer, self.owner)
            if handler is not None:
                work_of(handler)()  # one frame less on the stack of a green thread, where each costs at every switch
        except BaseException as error:
            ended_by = error
            self.failures.account(peer, error, self.connections.of(_going_on(sock)))
        finally:
            self.close(sock, ended_by)
            ended_by = None  # whose traceback has this frame, and so holds all that the connection had

    def _serve_entering(self, entry: Entry, sock: Any, peer: Any) -> None:
        """The same where a PROXY header or a TLS handshake comes first."""
        connection = self.connections.of(sock)
        assert connection is not None
        try:
            handed = entry.let_in(connection, sock)
        except BaseException as error:
            self._not_let_in(connection, sock, error)
        else:
            self._serve(handed, connection.peer)

    def _start_green(self, sock: Any, peer: Any) -> None:
        """The same for green. The handler's own method is the unit: the frames around it would be looked through at
        every switch, and cost 400 bytes for as long as it waits."""
        self.units.run(work_of(prepared(self.handler, sock, peer, self.owner)), sock)

    def _start_coroutine(self, sock: Any, peer: Any) -> None:
        """The same for async. The handler's own coroutine is the unit: one around it would cost at every message."""
        try:
            coro = life_of(self.handler(AsyncSocket(sock, self._reactor), peer, self.owner))
        except Exception as error:
            self._unit_ended(sock, error)
        else:
            self.units.run(coro, sock)

    def _unit_ended(self, sock: Any, error: BaseException | None) -> None:
        sock = sock._gone_over or sock  # _going_on() of a socket that is ours
        connection = self.connections.of(sock)
        try:
            if error is not None and not isinstance(error, GOES_ITS_WAY):
                self.failures.account(connection.peer if connection is not None else None, error, connection)
        finally:
            if connection is None:
                sock.close()
            else:
                self._end(connection, sock, error)

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
        sock = _going_on(sock)
        connection = self.connections.of(sock)
        if connection is None:
            sock.close()
            return
        if connection.reason is None:
            connection.reason = reason
        self._end(connection, sock, error)

    def _end(self, connection: Connection, sock: Any, error: BaseException | None) -> None:
        if connection.reason is None:
            if error is None and getattr(sock, "_at_end", False):
                connection.reason = Reason.PEER_CLOSED
            else:
                connection.reason = reason_of(sock, error)
        if self.entering:
            self.entering.discard(connection.id)
        self.guard.account(connection, error)
        sock._end()
        self.connections.remove(connection)
        self.on_freed()
