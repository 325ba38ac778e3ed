"""The drain: how a service that is to stop comes to its end, by a deadline that may move forward meanwhile."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable

from ..door import Listener
from ..draining import STEP, Farewell
from ..modes import Loop, Processes
from ..reactor.bridges import ready_now
from .service import Service

#: Seconds between being cut and being given up.
CUT_SECONDS = 0.4

#: Seconds for what was killed to be gone: on a busy machine it takes its time, and left unreaped it stays a zombie.
KILLED_SECONDS = 10.0


class Drain:
    """Serves those whom the kernel has let in already, tells everybody, waits, and cuts what is left.

    ``deadline()`` is in monotonic seconds. On the thread of ``loop``, whose turns it takes.
    """

    def __init__(self, service: Service, loop: Loop, deadline: Callable[[], float], cut: Callable[[], None]) -> None:
        self._service = service
        self._loop = loop
        self._deadline = deadline
        self._cut = cut
        self._farewell = Farewell(service.guard.connections)

    def begin(self) -> None:
        """No more clients from now on. Those in the kernel's queue have connected, as far as they know, and are served
        where there is room; a server of one at a time sees to that in :meth:`run`."""
        for listener in self._service.listeners:
            self._loop.ignore(listener.fileno())
            if not listener.is_datagram and not listener.shared:
                # A queue of no length lets nobody in (listen(2)), and keeps those who are in it.
                with contextlib.suppress(OSError):
                    listener.socket.listen(0)
        if self._service.mode != "serial":
            self._take_queues()

    def run(self) -> None:
        """To the end, when nothing runs any more and nothing is open."""
        service = self._service
        service.tell_handlers()
        if service.mode == "serial":
            self._take_queues()
        service.close_listeners(datagrams=not service.live, streams=False)
        while (left := self._left()) > 0 and (service.live or self._streams()):
            looks = [left, STEP if self._streams() else None, self._tell(), self._see_to_deadlines()]
            looks.append(service.see_to_children())
            self._loop.turn(min(look for look in looks if look is not None))
            self._take_queues()
        for listener in self._streams():
            service.turn_away_all(listener)
        service.close_listeners(datagrams=False)
        if service.live:
            self._end_those_left()
        service.close_listeners()
        service.units.close()

    def _left(self) -> float:
        return self._deadline() - time.monotonic()

    # -- those who have connected ------------------------------------------------------------------------------------

    def _streams(self) -> list[Listener]:
        """The listeners that are not closed yet: somebody may wait there to be accepted."""
        return [one for one in self._service.listeners if not one.is_datagram and one.fileno() >= 0]

    def _take_queues(self) -> None:
        """Serve whom there is room for (serially, one after the other, here and now); close the listeners at which
        nobody waits any more, and those that somebody else has, too, who takes the rest."""
        service = self._service
        for listener in self._streams():
            if service.mode != "serial":
                if self._left() > 0:
                    service.accept(listener, max(1, service.limit), last=True)
            else:
                while self._left() > 0 and _has_queue(listener):
                    service.accept(listener, 1, last=True)
            if listener.shared or not _has_queue(listener):
                service.close_listener(listener)

    # -- those who are served ----------------------------------------------------------------------------------------

    def _tell(self) -> float | None:
        """Seconds until somebody is to be looked at again."""
        if self._service.mode != "process":
            return self._farewell.look(time.monotonic())
        self._service.children.tell_all()  # each tells its own client, of whom it knows more
        return None

    def _see_to_deadlines(self) -> float | None:
        """Those of connections that others do not look after."""
        service = self._service
        return service.guard.deadlines.look() if service.mode not in ("serial", "process") else None

    # -- those who are left ------------------------------------------------------------------------------------------

    def _end_those_left(self) -> None:
        service = self._service
        self._cut()
        given_up = time.monotonic() + CUT_SECONDS
        while service.live and (left := given_up - time.monotonic()) > 0:
            look = service.see_to_children()
            self._loop.turn(left if look is None else min(left, look))
        if service.live and isinstance(service.units, Processes):
            service.units.kill()
            service.units.join(KILLED_SECONDS)


def _has_queue(listener: Listener) -> bool:
    return listener.fileno() >= 0 and ready_now(listener.fileno(), reading=True)


class Aside(threading.Thread):
    """Tells and cuts beside a serial server, whose loop cannot while a handler runs on its thread: for one handler
    after the other, those of the queue included, until it is closed."""

    def __init__(self, service: Service, deadline: Callable[[], float], cut: Callable[[], None]) -> None:
        super().__init__(name="jackfield-drain", daemon=True)
        self._service = service
        self._deadline = deadline
        self._cut = cut
        self._bell = threading.Event()
        self._over = False

    def run(self) -> None:
        service = self._service
        farewell = Farewell(service.guard.connections)
        service.tell_handlers()
        while not self._over:
            now = time.monotonic()
            left = self._deadline() - now
            if left <= 0 and service.live:
                self._cut()
                return
            farewell.look(now)
            # Another handler may begin at any moment, also just after the deadline: it was accepted before that.
            self._bell.wait(STEP if left <= 0 else min(left, STEP))
            self._bell.clear()

    def wake(self) -> None:
        """The deadline has moved. From anywhere."""
        self._bell.set()

    def close(self) -> None:
        """There is nothing to see to any more. From anywhere."""
        self._over = True
        self._bell.set()
