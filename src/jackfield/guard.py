"""The guard: the limits of a server at work on its connections, from the verdict at accept to the account."""

from __future__ import annotations

import socket as _socket_std
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .admission import Admission
from .admission.addresses import AddressTable, Keys
from .admission.locks import Guarded
from .admission.penalties import PenaltyBook
from .connections import Connection, Connections
from .deadlines import Deadlines, Watch
from .events import ConnectionEnded, ConnectionRefused, ConnectionStarted, Publisher, Reason
from .limits import Limits
from .reactor.twin import native

if TYPE_CHECKING:
    from .admission.shared import SharedAdmission

#: Seconds after which a worker that finds the whole server full looks again whether a connection of another one has
#: ended, which nobody tells it.
LOOK = 0.05


class Guard(Guarded):
    """Says of each client whether it may come in, watches how long each stays, counts both, and tells of them.

    Any thread may call. ``watching``: deadlines are kept here; a server whose handlers are in other processes leaves
    them to those. ``shared``: what counts over all workers, where this is one of several.
    """

    __slots__ = (
        "_full_since", "_offences", "_saw_full", "_shared", "_watch", "_watching", "admission", "connections",
        "deadlines", "ends", "events", "refusals",
    )  # fmt: skip

    def __init__(
        self, connections: Connections, limits: Limits, events: Publisher, *, watching: bool = True,
        shared: SharedAdmission | None = None, room_is_seen_to: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.connections = connections
        self.admission: Admission = shared or Admission(limits, room_is_seen_to=room_is_seen_to)
        self._shared = shared
        self.deadlines = Deadlines(connections, limits)
        if shared is not None:
            self.deadlines.entered = lambda: shared.total
        self.events = events
        #: Connections by how they ended, and clients by why they were turned away; changed by :meth:`note` alone.
        self.ends: Counter[Reason] = Counter()
        self.refusals: Counter[Reason] = Counter()
        self._watching = watching
        self._watch: Watch | None = None
        self._full_since: float | None = None
        #: Whether the whole server was full when it was asked last.
        self._saw_full = False
        self._offences = _offences(limits)

    @property
    def limits(self) -> Limits:
        """What holds from now on: at once for those who come, and from the next look at each who is there."""
        return self.admission.limits

    @limits.setter
    def limits(self, limits: Limits) -> None:
        self.admission.limits = limits
        self.deadlines.limits = limits
        self._offences = _offences(limits)

    def watch(self) -> None:
        """Have a thread look at the deadlines, where no loop does; any number of times."""
        if self._watch is None:
            self._watch = Watch(self.deadlines)
            self._watch.start()

    def watch_one(self, connection: Connection, heard: Callable[[bytes], object] = lambda numbers: None) -> Watch:
        """The same in the process of ``connection``, of a server that is not ``watching``; ``heard`` is given the
        numbers of the signals that are told by the watch's bell."""
        self._watch = None  # the parent's thread is not here
        watch = Watch(self.deadlines, heard)
        self.deadlines.enter(connection)
        watch.start()
        return watch

    def end_watch(self) -> None:
        """No thread looks at them any more; any number of times."""
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.close()

    # -- coming ------------------------------------------------------------------------------------------------------

    def let_in(
        self, sock: Any, peer: Any, listener: str, unless: Reason | None = None, *, established: bool = True
    ) -> Connection | None:
        """The connection of ``sock``, which counts until :meth:`account`; None: it was turned away, by the limits or,
        where those have nothing against it, for the reason ``unless``, and is closed. ``established``: no PROXY header
        or TLS handshake is to come."""
        refusal = self.admission.admit(peer)
        if refusal is not None:
            self.turn_away(sock, peer, listener, Reason(refusal.value))
            return None
        if unless is not None:
            self.admission.leave(peer)
            self.turn_away(sock, peer, listener, unless)
            return None
        self._full_since = None  # there was room
        connection = self.connections.enter(sock, peer, listener)
        connection.established = established
        if self._watching:
            self.deadlines.enter(connection)
        if self.events.wanted:
            self.events.publish(ConnectionStarted(listener, peer, connection.id))
        return connection

    def turn_away(self, sock: Any, peer: Any, listener: str, reason: Reason = Reason.LIMIT_CONNECTIONS) -> None:
        """Before it is a connection. Whom there is no room for is told, if there is something to tell."""
        self.note(self.refusals, reason)
        try:
            if self.limits.refusal and (reason.value.startswith("limit") or reason is Reason.NO_DESCRIPTOR):
                # What fits in a new connection's send buffer goes without waiting.
                sock.setblocking(False)
                sock.send(self.limits.refusal)
                sock.shutdown(_socket_std.SHUT_WR)
        except OSError:
            pass  # the peer was faster
        sock.close()
        if self.events.wanted:
            self.events.publish(ConnectionRefused(listener, peer, reason))

    def note(self, counter: Counter[Reason], reason: Reason) -> None:
        """One more of ``counter``, :attr:`ends` or :attr:`refusals`.

        A first one is not a step by itself: Counter answers for what it does not have in Python, and between the answer
        and the sum another thread may count its own first one.
        """
        with self._lock:
            counter[reason] += 1

    # -- being full --------------------------------------------------------------------------------------------------

    @property
    def full(self) -> bool:
        """Whether as many are in as may be, in all workers."""
        most = self.limits.max_connections
        full = most is not None and self.admission.total >= most
        self._saw_full = full
        return full

    def reserve(self) -> bool:
        """Before somebody is accepted: whether there is a place. Where there are several workers it is kept for the
        next that is let in, so that no other worker takes it in between, until :meth:`give_back`: when those who waited
        have been accepted."""
        if self._shared is None:
            return not self.full
        reserved = self._shared.reserve()
        self._saw_full = not reserved
        return reserved

    def give_back(self) -> None:
        """The place that was reserved, if there is one, is not needed for now."""
        if self._shared is not None:
            self._shared.give_back()

    def refuses(self, full: bool) -> bool:
        """Whether those who come are to be turned away: there was no room for longer than they are to be left waiting
        for it. ``full``: there is none now."""
        if not full or self.limits.when_full != "refuse":
            self._full_since = None
            return False
        now = self.connections.clock.now()
        if self._full_since is None:
            self._full_since = now
        return now - self._full_since >= self.limits.full_patience

    @property
    def patience(self) -> float | None:
        """Seconds until :meth:`refuses` may change its mind by itself, or :attr:`full` may, as another worker has room
        again; None if neither will."""
        looks = []
        if self._full_since is not None:
            looks.append(max(0.0, self._full_since + self.limits.full_patience - self.connections.clock.now()))
        if self._shared is not None:
            if self._saw_full:
                looks.append(LOOK)
            if not self._shared.settle():
                looks.append(LOOK)
        return min(looks, default=None) or None

    # -- going -------------------------------------------------------------------------------------------------------

    def account(self, connection: Connection, error: BaseException | None = None) -> None:
        """``connection``, whose ``reason`` is known by now, is over; ``error`` is what its handler let out. Its socket
        is still open: what it has counted is told."""
        assert connection.reason is not None
        self.deadlines.leave(connection)
        self.admission.leave(connection.peer)
        if connection.reason in self._offences:
            self.admission.offend(connection.peer, connection.reason.value)
        self.note(self.ends, connection.reason)
        if self.events.wanted:
            self.events.publish(
                ConnectionEnded(
                    connection.listener, connection.peer, connection.id, connection.reason, connection.received,
                    connection.sent, connection.age, error,
                )
            )  # fmt: skip


def _offences(limits: Limits) -> frozenset[str]:
    """The reasons that cost an address something."""
    seconds = {} if limits.penalties is None else limits.penalties.seconds
    return frozenset(kind for kind, cost in seconds.items() if cost)


if native is not None:
    native.install_guard(
        Guard, Admission, Keys, PenaltyBook, AddressTable, Connections, Connection, Deadlines, Publisher
    )
