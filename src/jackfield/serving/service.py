"""The service: what a native server does with its listeners, from the loop that watches them to their end."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from ..connections import Connection, Connections
from ..door import (
    AcceptPolicy,
    Action,
    Listener,
    Outcome,
    Pauses,
    Shedding,
    Spare,
    accept_batch,
    set_stream_options,
)
from ..draining import tell_client
from ..endings import Failures
from ..events import Publisher, Reason
from ..guard import Guard
from ..limits import Limits
from ..modes import Greens, Loop, Processes, Serial, Tasks, Threads
from ..reactor import Reactor, current_reactor
from .children import Children
from .datagrams import Datagrams
from .info import ServerInfo
from .streams import Streams

if TYPE_CHECKING:
    from ..admission.ledger import Seat
    from ..tls import ServerTLS
    from .choices import ProxyRule

_log = logging.getLogger("jackfield.server")

#: Datagrams taken from one listener before the others have their turn.
BUDGET = 64

#: The same for connections, of which each may be a verdict, a PROXY header and a handler that begins: those who are
#: served wait for as long as that takes.
STREAM_BUDGET = 16

#: Connections that may wait in one queue, at most (listen(2): a backlog is cut to net.core.somaxconn, a u16 or more).
LARGEST_QUEUE = 65536


class Service:
    """Takes connections and datagrams from ``listeners`` and runs ``handler`` for each, as units of ``mode``.

    At most ``limit`` units at once; clients above that wait in the kernel's queue, or are refused, as ``limits`` say.
    ``owner`` is what handlers see as their ``server``; ``events`` is told what happens. ``seat``: this is one of
    several workers, and ``limits`` are those of all of them together.
    """

    def __init__(
        self, handler: Any, mode: str, limit: int, listeners: Iterable[Listener], owner: Any, limits: Limits,
        events: Publisher, proxy: ProxyRule | None = None, tls: ServerTLS | None = None, seat: Seat | None = None,
    ) -> None:  # fmt: skip
        self.mode = mode
        self.limit = limit
        self.owner = owner
        self.listeners = list(listeners)
        self.failures = Failures()
        self.children = Children(self.failures, owner._draining)
        shared = None
        if seat is not None:
            from ..admission.shared import SharedAdmission  # late: one process counts for itself

            shared = SharedAdmission(limits, seat)
        self._is_shared = shared is not None
        # Whoever accepts has looked for room before. Asked once more, those would be refused who were accepted at the
        # moment in which another thread lowers the limit.
        self.guard = Guard(
            Connections(elsewhere=mode == "process"), self._limits_here(limits), events,
            watching=mode != "process", shared=shared, room_is_seen_to=True,
        )  # fmt: skip
        self.streams = Streams(handler, mode, owner, self.guard, self.failures, self.children.serve)
        self.children.on_ended = lambda sock, reason: self.streams.close(sock, reason=reason)
        if proxy is not None or tls is not None or any(one.address.asks_for_entry for one in self.listeners):
            from .entry import entries_of  # late: a server without them does without the modules, too

            self.streams.entry, self.streams.entries = entries_of(
                self.listeners, proxy, tls, self.guard, self.streams.entering
            )
        self.datagrams = Datagrams(
            handler, mode, owner, self.failures.account, self.children.fork, limits, self.listeners, seat
        )
        self.stopping = False
        #: Nobody is accepted for the time being.
        self.suspended = False
        #: What took the last listener away, when nobody had asked for a stop.
        self.lost: OSError | None = None
        self.units: Any = None
        self._loop: Loop | None = None
        self._policies = {listener: AcceptPolicy(name=listener.location) for listener in self.listeners}
        self._pauses: Pauses[Listener] = Pauses()
        self.streams.on_freed = self._on_freed
        #: For telling clients when there is no other descriptor; and how each listener's are told.
        self._spare = Spare()
        self._sheddings: dict[Listener, Shedding[tuple[Any, Any]]] = {
            listener: Shedding(self._spare, partial(self.streams.turn_away, listener, reason=Reason.NO_DESCRIPTOR))
            for listener in self.listeners
            if not listener.is_datagram
        }
        #: The number by which the loop watches each listener, as one that was closed no longer tells its own; and what
        #: is to be called when it is ready.
        self._watched: dict[Listener, int] = {}
        self._takes: dict[Listener, Callable[[], None]] = {}
        for listener in self.listeners:
            self._takes[listener] = partial(self._take_datagrams if listener.is_datagram else self.accept, listener)
            if listener.is_datagram:
                listener.socket.settimeout(None)  # handlers send by it, each waiting in its own way
            else:
                set_stream_options(listener.socket, listener.address)

    def open_units(self, loop: Loop) -> None:
        """Make what runs the handlers, on the thread that accepts."""
        self._loop = loop
        reactor: Reactor | None = None
        if self.mode == "process":
            self.units = self.children.open_units(loop, self.listeners, self.guard)
            self.units.in_child = self._in_child
            self.failures.journal.share()
        elif self.mode in ("green", "async"):
            reactor = current_reactor()
            self.units = (Greens if self.mode == "green" else Tasks)(reactor=reactor)
        else:
            self.units = Serial() if self.mode == "serial" else Threads()
        self.streams.open_units(self.units, reactor)
        self.datagrams.open_units(self.units)
        self.units.limit, self.units.on_room, self.units.on_idle = self.limit, loop.wake, self._on_idle
        if self.mode != "process":
            self.failures.journal.on_held = loop.wake  # units write it, while the loop may wait for nothing
        if self._sheddings:
            self._spare.take()
        self._offer_listeners()
        if self.mode == "serial":
            self.guard.watch()  # the loop cannot, while a handler runs on its thread
        elif self.mode == "thread" or (self.streams.any_entry and self.mode != "process"):
            # Units enter connections and establish them, while the loop waits for a later deadline or for nothing.
            self.guard.deadlines.on_earlier = loop.wake

    def _on_idle(self) -> None:
        """The last unit has ended, on whatever thread: only a drain waits for that, and a wake-up is a system call."""
        if self.stopping and self._loop is not None:
            self._loop.wake()

    def _on_freed(self) -> None:
        """A connection has ended, on whatever thread: there is a descriptor for another."""
        if self._pauses.freed() and self._loop is not None:
            self._loop.wake()

    def _in_child(self) -> None:
        """It accepts nobody, and the loop that it would wake is its parent's."""
        self.children.begin_child()
        self._spare.close()
        self._pauses = Pauses()

    @property
    def live(self) -> int:
        """Units that run."""
        return self.units.live if self.units is not None else 0

    def _limits_here(self, limits: Limits) -> Limits:
        """One process cannot have more connections than it may run units."""
        return limits if self._is_shared else limits.replace(max_connections=self.limit)

    @property
    def _full(self) -> bool:
        """Whether there is no room for another client: here, or in all workers together."""
        return bool(self.units.full or (self._is_shared and self.guard.full))

    def hold(self, limits: Limits, limit: int) -> None:
        """Work by ``limits``, and ``limit`` units at most, from now on."""
        self.limit = limit
        self.guard.limits = self._limits_here(limits)
        self.datagrams.limits = limits
        if self.units is not None:
            self.units.limit = limit

    def info(self, name: str, state: str, addresses: tuple[str, ...], uptime: float) -> ServerInfo:
        """What the server of that name is and has done so far."""
        guard, datagrams = self.guard, self.datagrams
        refusals = guard.refusals.copy()
        refusals.update(datagrams.refusals)
        return ServerInfo(
            name=name,
            mode=self.mode,
            state=state,
            addresses=addresses,
            limit=self.limit,
            connections=len(guard.connections),
            accepted=guard.connections.total,
            refused=refusals.total(),
            handler_errors=self.failures.count,
            datagrams=datagrams.received,
            dropped=datagrams.dropped,
            kernel_dropped=datagrams.kernel_dropped,
            withheld=datagrams.withheld,
            ends={reason.value: count for reason, count in guard.ends.copy().items()},
            refusals={reason.value: count for reason, count in refusals.items()},
            uptime=uptime,
        )

    def see_to_children(self) -> float | None:
        """Reap those that no descriptor was left to watch by (pidfd_open(2)), and whose connections hold the ones that
        are missing now; the seconds until that is to be done again, None if there are none."""
        return self.units.look() if isinstance(self.units, Processes) else None

    def attend(self, loop: Loop) -> float | None:
        """Watch the listeners, or leave those alone that are to rest, and look at the deadlines; returns how long until
        something is to be looked at."""
        looks = [] if self.mode in ("serial", "process") else [self.guard.deadlines.look()]
        full = self._full
        refusing = self.guard.refuses(full)
        looks += self.guard.patience, self.failures.journal.look(), self.see_to_children()
        for listener in list(self.listeners):
            fd = listener.fileno()
            pause = self._pauses.left(listener)
            if fd < 0:
                self._gone(listener, OSError(errno.EBADF, os.strerror(errno.EBADF)))
            elif self.suspended:
                loop.ignore(fd)
            elif pause > 0:
                loop.ignore(fd)
                looks.append(pause)
            elif not full or (listener.is_datagram and self.mode != "process") or (
                refusing and not listener.is_datagram
            ):
                loop.watch(fd, self._takes[listener])
                self._watched[listener] = fd
            else:
                loop.ignore(fd)
        return min((look for look in looks if look is not None), default=None)

    def accept(self, listener: Listener, budget: int = STREAM_BUDGET, *, last: bool = False) -> None:
        """Take what waits in the queue of ``listener``, ``budget`` connections at most; once ``stopping`` is set, only
        for the ``last`` time."""
        refusing = full = False
        # Nobody else takes a place meanwhile: where there is room for the whole batch it need not be asked for each.
        roomy = not self._is_shared and self.units.has_room_for(budget)
        accept = listener.socket.accept

        def next_one() -> tuple[Any, Any]:
            nonlocal refusing, full
            if not roomy:
                full = self.units.full or (self._is_shared and not self.guard.reserve())
                refusing = full and self.guard.refuses(True)
            if (full and not refusing) or ((self.stopping or self.suspended) and not last):
                raise BlockingIOError(errno.EAGAIN, "no room")
            return accept()

        def take_or_refuse(taken: tuple[Any, Any]) -> None:
            (self.streams.turn_away if refusing else self.streams.take)(listener, taken)

        take = partial(self.streams.take, listener) if roomy else take_or_refuse

        # Who lets clients wait when there is no room lets them wait for a descriptor as well.
        shedding = self._sheddings[listener] if self.guard.limits.when_full == "refuse" else None
        self._pauses.begin()
        policy = self._policies[listener]
        outcome = accept_batch(next_one, take, policy, budget, shedding=shedding)
        self.guard.give_back()
        self._heed(listener, outcome)

    def _heed(self, listener: Listener, outcome: Outcome) -> None:
        if outcome.action is Action.CLOSED and outcome.error is not None:
            self._gone(listener, outcome.error)
            return
        self._pauses.note(listener, outcome)

    def _gone(self, listener: Listener, error: OSError) -> None:
        """A listener is none any more: the others go on."""
        if listener not in self.listeners:
            return  # told before
        self.listeners.remove(listener)
        self._offer_listeners()
        self.datagrams.close(listener)
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
        """On a thread whose connection has ended, and whose place is still taken."""
        if self.units.live > self.limit:
            return  # the limit was lowered meanwhile: there is no place
        for listener in [] if self.stopping or self.suspended else list(self.listeners):
            if not listener.is_datagram and not self._pauses.left(listener):
                if self._is_shared and not self.guard.reserve():
                    return
                try:
                    taken = listener.socket.accept()
                except OSError:
                    self.guard.give_back()
                    continue  # none waits there; if it is more than that, the loop finds it as well, and sees to it
                self._sheddings[listener].note_well()
                self.streams.take(listener, taken)
                return

    # -- datagrams ---------------------------------------------------------------------------------------------------

    def _take_datagrams(self, listener: Listener) -> None:
        # A process is started for each: what there is no room for waits in the kernel's queue.
        budget = max(0, self.limit - self.units.live) if self.mode == "process" else BUDGET
        policy = self._policies[listener]
        self._pauses.begin()
        failed = self.datagrams.take(listener, budget)
        if failed is None:
            if policy.in_trouble:
                for text in policy.end():
                    _log.warning("%s", text)
            return

        def fail() -> None:
            raise failed

        self._heed(listener, accept_batch(fail, lambda _: None, policy, 1))

    # -- the end -----------------------------------------------------------------------------------------------------

    def tell_handlers(self) -> None:
        """Have ``handle_shutdown`` of the handlers called that define it; in process mode the children do that."""
        self.owner._draining.tell_handlers()

    def tell(self, connection: Connection) -> None:
        """Let ``connection`` end as at a stop."""
        (self.children.tell if self.mode == "process" else tell_client)(connection)

    def turn_away_all(self, listener: Listener) -> None:
        """Let nobody wait in its queue for an answer that will not come: closing the listener would reset them."""
        refuse = partial(self.streams.turn_away, listener, reason=Reason.DRAINED)
        accept_batch(lambda: listener.socket.accept(), refuse, self._policies[listener], LARGEST_QUEUE)

    def close_listeners(self, *, datagrams: bool = True, streams: bool = True) -> None:
        """Stop listening; with ``datagrams`` false, handlers may still answer by the datagram sockets."""
        self._spare.close()
        for listener in list(self.listeners):
            if datagrams if listener.is_datagram else streams:
                self.close_listener(listener)
        if not self.live:
            self.failures.journal.close()

    def close_listener(self, listener: Listener) -> None:
        """Take nothing from ``listener`` any more."""
        with contextlib.suppress(ValueError):
            self.listeners.remove(listener)  # a start and a stop that meet may both be at it
        if self._loop is not None and listener in self._watched:
            self._loop.ignore(self._watched.pop(listener), self._takes[listener])
        self._offer_listeners()
        self.datagrams.close(listener)
        listener.close()

    def cut(self) -> None:
        """End every connection and unit that can be ended from outside."""
        for connection in self.guard.connections:
            connection.close(Reason.DRAINED)
        self.units.cut()
