"""The gate of a drop-in server: its table of connections, and its ``limits``, if it has any, at work on them."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .connections import Connection, Connections
from .endings import Failures, reason_of, reason_of_exit
from .events import Reason
from .socket import _going_on

if TYPE_CHECKING:
    from .guard import Guard

_log = logging.getLogger("jackfield.server")


def is_unshaken(request: Any) -> bool:
    """Whether ``request`` speaks TLS, by a socket of the ssl module's or of ours, and its handshake is to be done by
    the connection's own unit."""
    return bool(getattr(request, "do_handshake_on_connect", False)) and request.version() is None


class Gate:
    """Every connection of a server comes in by :meth:`enter` and is over with :meth:`leave`.

    ``limits()`` is what the server holds its connections to just now: None for nothing. Anything but a
    :class:`~jackfield.Limits` is none: a program may have an attribute of that name for something else. ``on_room()``
    is called when a connection has ended and there was no room before. ``elsewhere``: each connection is handled by a
    child process, and only handed over here.
    """

    def __init__(self, limits: Callable[[], Any], on_room: Callable[[], object], *, elsewhere: bool = False) -> None:
        self.connections = Connections()
        self._limits = limits
        self._on_room = on_room
        self._elsewhere = elsewhere
        self._guard: Guard | None = None
        self._seen: Any = None
        #: The last connection that came before there were limits.
        self._uncounted = 0
        self._was_full = False
        #: Whether those who come are to be turned away, as :meth:`opens` found it last.
        self.refuses = False
        self._warned = False
        #: Connections that child processes handle, by pid.
        self._handed_over: dict[int, Connection] = {}

    @property
    def guard(self) -> Guard | None:
        """What keeps the limits that are set now; None if there never were any."""
        limits = self._limits()
        if limits is not self._seen:
            self._seen = limits
            self._guard = self._guard_by(limits)
        return self._guard

    def _guard_by(self, limits: Any) -> Guard | None:
        from .guard import Guard  # late: most programs of the old kind have no limits
        from .limits import Limits

        guard = self._guard
        if not isinstance(limits, Limits):
            if guard is None:
                return None
            limits = Limits.none()  # there are connections that it counts
        if guard is None:
            from .events import Publisher

            guard = self._guard = Guard(self.connections, limits, Publisher(), watching=not self._elsewhere)
            self.connections.on_lost = self._account
            self._uncounted = self.connections.total
        else:
            guard.limits = limits
        if not self._elsewhere:
            guard.watch()
        return guard

    def close(self) -> None:
        """Deadlines are no longer looked at; any number of times."""
        if self._guard is not None:
            self._guard.end_watch()

    # -- coming ------------------------------------------------------------------------------------------------------

    def opens(self, has_room: bool) -> bool:
        """Whether to accept: there is room, or there was none for so long that clients are to be told."""
        guard = self.guard
        self._was_full = not has_room or self.full
        self.refuses = guard is not None and guard.refuses(self._was_full)
        return not self._was_full or self.refuses

    @property
    def full(self) -> bool:
        """Whether as many are in as the limits let in."""
        return self._guard is not None and self._guard.full

    @property
    def patience(self) -> float | None:
        """Seconds until :meth:`opens` may change its mind by itself; None if it will not."""
        return self._guard.patience if self._guard is not None else None

    def enter(self, request: Any, client_address: Any, listener: str) -> Connection | None:
        """The connection of ``request``; None: it was turned away, and is closed."""
        guard = self.guard
        if guard is None:
            return self.connections.enter(request, client_address, listener)
        return guard.let_in(request, client_address, listener)

    def turn_away(self, request: Any, client_address: Any, listener: str) -> None:
        """There is no room for ``request``: it is told so, and closed."""
        if self._guard is not None:
            self._guard.turn_away(request, client_address, listener)

    def connection_of(self, request: Any) -> Connection | None:
        """The connection that began as ``request``; None if it is not here."""
        return self.connections.of(_going_on(request))

    # -- the TLS handshake -------------------------------------------------------------------------------------------

    def warn_of_handshakes(self, server_address: Any, advice: str) -> None:
        """Say, once, that this server has to do them where it accepts."""
        if not self._warned:
            self._warned = True
            text = "%s: TLS clients shake hands on the thread that accepts, where a silent one keeps all others waiting"
            _log.warning(f"{text}: %s", server_address, advice)

    def shake(self, request: Any, client_address: Any, failures: Failures) -> bool:
        """The TLS handshake of ``request``, which :func:`is_unshaken`, in its own unit; False: it failed, or took too
        long, and why is decided and accounted for."""
        from .tls.idioms import HANDSHAKE_SECONDS, shake  # late: most programs of the old kind speak no TLS

        connection, guard = self.connections.of(request), self._guard
        if guard is None or connection is None:
            seconds: float | None = HANDSHAKE_SECONDS
        else:
            timeout = guard.limits.handshake_timeout
            seconds = None if timeout is None else timeout - connection.age
        try:
            shake(request, seconds)
        except TimeoutError:
            self.decide(request, reason=Reason.HANDSHAKE_TIMEOUT)
            return False
        except OSError as error:
            self.decide(request, error)
            failures.account(client_address, error, connection)
            return False
        if guard is not None and connection is not None:
            guard.deadlines.established(connection, connection.received)  # the first byte is yet to come
        return True

    # -- going -------------------------------------------------------------------------------------------------------

    def decide(self, request: Any, error: BaseException | None = None, reason: Reason | None = None) -> None:
        """Say why ``request``, still open, comes to its end: for ``reason``, or as ``error`` and its socket tell. What
        was said first holds."""
        if self._guard is None:
            return
        connection = self.connection_of(request)
        if connection is not None and connection.reason is None:
            connection.reason = reason or reason_of(_going_on(request), error)

    def leave(self, request: Any) -> None:
        """``request`` is done with."""
        connection = self.connection_of(request)
        if connection is not None:
            self.connections.remove(connection)
            self._account(connection)

    def _account(self, connection: Connection) -> None:
        guard = self._guard
        if guard is None or connection.id <= self._uncounted:
            return
        if connection.reason is None:
            connection.reason = Reason.HANDLER_RETURNED
        guard.account(connection)
        if self._was_full:
            self._on_room()

    # -- children ----------------------------------------------------------------------------------------------------

    def hand_over(self, request: Any, pid: int) -> None:
        """A child handles ``request`` from now on: it counts until :meth:`child_ended`, whatever is closed here."""
        connection = self.connections.of(request)
        if connection is not None and self._guard is not None:
            self.connections.remove(connection)
            self._handed_over[pid] = connection

    def child_ended(self, pid: int, status: int) -> None:
        """The child was reaped, with that wait status."""
        connection = self._handed_over.pop(pid, None)
        if connection is not None:
            connection.reason = reason_of_exit(os.waitstatus_to_exitcode(status))
            self._account(connection)

    def begin_child(self, request: Any) -> Connection | None:
        """In the child that handles ``request``: deadlines are kept here."""
        connection, guard = self.connections.of(request), self._guard
        if connection is not None and guard is not None:
            guard.watch_one(connection)
            return connection
        return None
