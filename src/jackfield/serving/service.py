"""The service: what a native server does with its listeners, from the loop that watches them to their end."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from ..deadlines import Watch
from ..door import AcceptPolicy, Action, Listener, Outcome, accept_batch, set_stream_options
from ..events import Publisher, Reason
from ..limits import Limits
from ..modes import Greens, Loop, Serial, Tasks, Threads
from ..reactor import Reactor, current_reactor
from .children import Children
from .datagrams import Datagrams
from .endings import Failures
from .info import ServerInfo
from .streams import Streams

if TYPE_CHECKING:
    from ..tls import ServerTLS
    from .choices import ProxyRule

_log = logging.getLogger("jackfield.server")

#: Connections or datagrams taken from one listener before the others have their turn.
BUDGET = 64


class Service:
    """Takes connections and datagrams from ``listeners`` and runs ``handler`` for each, as units of ``mode``.

    At most ``limit`` units at once; clients above that wait in the kernel's queue, or are refused, as ``limits`` say.
    ``owner`` is what handlers see as their ``server``; ``events`` is told what happens.
    """

    def __init__(
        self, handler: Any, mode: str, limit: int, listeners: Iterable[Listener], owner: Any, limits: Limits,
        events: Publisher, proxy: ProxyRule | None = None, tls: ServerTLS | None = None,
    ) -> None:  # fmt: skip
        self.mode = mode
        self.limit = limit
        self.listeners = list(listeners)
        self.failures = Failures()
        self.children = Children(self.failures)
        self.streams = Streams(
            handler, mode, owner, limits.replace(max_connections=limit), events, self.failures, self.children.serve
        )
        self.children.on_ended = lambda sock, reason: self.streams.close(sock, reason=reason)
        if proxy is not None or tls is not None:
            from .entry import Entry  # late: a server without them does without the modules, too

            streams = self.streams
            streams.entry = Entry(proxy, tls, streams.admission, streams.connections, streams.deadlines)
        self.datagrams = Datagrams(handler, mode, owner, self.failures.account, self.children.fork)
        self.stopping = False
        self._full_since: float | None = None
        self._watch: Watch | None = None
        #: What took the last listener away, when nobody had asked for a stop.
        self.lost: OSError | None = None
        self.units: Any = None
        self._loop: Loop | None = None
        self._policies = {listener: AcceptPolicy(name=listener.location) for listener in self.listeners}
        self._resume_at: dict[Listener, float] = {}
        #: The number by which the loop watches each listener, as one that was closed no longer tells its own; and what
        #: is to be called when it is ready.
        self._watched: dict[Listener, int] = {}
        self._takes: dict[Listener, Callable[[], None]] = {}
        for listener in self.listeners:
            self._takes[listener] = partial(self._take_datagrams if listener.is_datagram else self.accept, listener)
            if listener.is_datagram:
                listener.socket.settimeout(None)  # handlers send by it, each waiting in its own way
            else:
                set_stream_options(listener.socket)

    def open_units(self, loop: Loop) -> None:
        """Make what runs the handlers, on the thread that accepts."""
        self._loop = loop
        streams = self.streams
        reactor: Reactor | None = None
        if self.mode == "process":
            self.units = self.children.open_units(loop, self.listeners, streams.connections, streams.deadlines)
        elif self.mode in ("green", "async"):
            reactor = current_reactor()
            self.units = (Greens if self.mode == "green" else Tasks)(reactor=reactor)
        else:
            self.units = Serial() if self.mode == "serial" else Threads()
        streams.open_units(self.units, reactor)
        self.datagrams.open_units(self.units)
        self.units.limit, self.units.on_room, self.units.on_idle = self.limit, loop.wake, self._on_idle
        self._offer_listeners()
        if self.mode == "serial":
            self._watch = Watch(streams.deadlines)  # the loop cannot, while a handler runs on its thread
            self._watch.start()
        elif self.mode == "thread" or (streams.entry is not None and self.mode != "process"):
            # Units enter connections and establish them, while the loop waits for a later deadline or for nothing.
            streams.deadlines.on_earlier = loop.wake

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

    def hold(self, limits: Limits, limit: int) -> None:
        """Work by ``limits``, and ``limit`` units at most, from now on."""
        self.limit = limit
        self.streams.limits = limits.replace(max_connections=limit)
        if self.units is not None:
            self.units.limit = limit

    def info(self, name: str, state: str, addresses: tuple[str, ...], uptime: float) -> ServerInfo:
        """What the server of that name is and has done so far."""
        streams = self.streams
        return ServerInfo(
            name=name,
            mode=self.mode,
            state=state,
            addresses=addresses,
            limit=self.limit,
            connections=len(streams.connections),
            accepted=streams.connections.total,
            refused=streams.refusals.total(),
            handler_errors=self.failures.count,
            datagrams=self.datagrams.received,
            dropped=self.datagrams.dropped,
            ends={reason.value: count for reason, count in streams.ends.items()},
            refusals={reason.value: count for reason, count in streams.refusals.items()},
            uptime=uptime,
        )

    def attend(self, loop: Loop) -> float | None:
        """Watch the listeners, or leave those alone that are to rest, and look at the deadlines; returns how long until
        something is to be looked at."""
        now = time.monotonic()
        looks = [] if self.mode in ("serial", "process") else [self.streams.deadlines.look()]
        refusing = self._is_refusing(now)
        if self._full_since is not None and not refusing:
            looks.append(self._full_since + self.streams.limits.full_patience - now)
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
        if not self.units.full or self.streams.limits.when_full != "refuse":
            self._full_since = None
            return False
        if self._full_since is None:
            self._full_since = now
        return now - self._full_since >= self.streams.limits.full_patience

    def accept(self, listener: Listener, budget: int = BUDGET, *, last: bool = False) -> None:
        """Take what waits in the queue of ``listener``, ``budget`` connections at most; once ``stopping`` is set, only
        for the ``last`` time."""
        refusing = self.units.full and self._is_refusing(time.monotonic())

        def next_one() -> tuple[Any, Any]:
            if (self.units.full and not refusing) or (self.stopping and not last):
                raise BlockingIOError(errno.EAGAIN, "no room")
            return listener.socket.accept()

        take = partial(self.streams.turn_away if refusing else self.streams.take, listener)
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
                self.streams.take(listener, taken)
                return

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
        for connection in self.streams.connections:
            connection.close(Reason.DRAINED)
        self.units.cut()
