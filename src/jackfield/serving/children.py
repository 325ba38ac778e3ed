"""Children: the processes of process mode, what each of them holds, and how it says what its connection ended by."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections.abc import Callable, Iterable
from typing import Any

from ..connections import Connection
from ..door import Listener
from ..draining import Draining, Farewell, Teller
from ..endings import Failures, exit_code, reason_of_exit
from ..events import Reason
from ..guard import Guard
from ..modes import Loop, Processes, let_term_in
from .bystanders import Bystanders

_log = logging.getLogger("jackfield.process")

#: Names of threads that one line has at most.
_MOST_NAMES = 5


class Children:
    """Forks a child for each connection, and one for each datagram.

    ``on_ended(socket, reason)`` is called when the child that served ``socket`` has ended.
    """

    def __init__(self, failures: Failures, draining: Draining) -> None:
        self.on_ended: Callable[[Any, Reason], object] = lambda sock, reason: None
        self._failures = failures
        self._draining = draining
        #: Who pops this tells of the end: list.pop() is whole for threads and signals.
        self._to_tell = [True]
        self._told_by_watch = False
        #: Those that were told to end.
        self._told: set[int] = set()
        #: In a child, its connection.
        self._own: Connection | None = None
        self._units: Processes | None = None
        #: By pid. The parent holds each socket until its child has ended, so that the connection can be listed and
        #: ended; the children hold none but their own.
        self._sockets: dict[int, Any] = {}
        self._listeners: Iterable[Listener] = ()
        self._guard: Guard | None = None
        #: None once it was told that there are some.
        self._bystanders: Bystanders | None = Bystanders()

    def open_units(self, loop: Loop, listeners: Iterable[Listener], guard: Guard) -> Processes:
        """What runs the handlers; ``listeners`` and the connections of ``guard`` are the parent's, closed in each
        child."""
        self._listeners, self._guard = listeners, guard
        self._units = Processes(loop=loop)
        self._units.on_reaped = self._reaped
        return self._units

    def serve(self, work: Callable[[], None], sock: Any) -> None:
        """Run ``work()`` in a child, which ends the connection of ``sock``."""
        self._sockets[self.fork(work, sock)] = sock

    def fork(self, work: Callable[[], None], own: Any) -> int:
        """Run ``work()`` in a child that holds no socket of the server's but ``own``; its pid."""
        assert self._units is not None
        if self._bystanders is not None and (names := self._bystanders.look()):
            self._bystanders = None
            more = ", …" if len(names) > _MOST_NAMES else ""
            _log.warning(
                "this process has other threads (%s%s) and forks: in a child they are gone, and what they had locked "
                "stays locked (fork(2)); start them in the handler, or serve with mode thread",
                ", ".join(names[:_MOST_NAMES]), more,
            )  # fmt: skip
        return self._units.fork(self._in_child, (work, own), holds_term=True)

    def tell(self, connection: Connection) -> None:
        """Let the child of ``connection`` end it as soon as nothing is under way."""
        sock = connection.socket
        for pid, other in list(self._sockets.items()):
            if other is sock:
                self._tell(pid)

    def tell_all(self) -> None:
        """The same for every child; each is told once, as a second time would end it."""
        for pid in self._units or ():
            self._tell(pid)

    def _tell(self, pid: int) -> None:
        if pid not in self._told:
            self._told.add(pid)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    def _reaped(self, pid: int, status: int) -> None:
        self._told.discard(pid)
        reason = reason_of_exit(os.waitstatus_to_exitcode(status))
        self._failures.count += reason is Reason.HANDLER_ERROR
        sock = self._sockets.pop(pid, None)
        if sock is not None:
            self.on_ended(sock, reason)

    def begin_child(self) -> None:
        """The first thing in a child, before any signal reaches it."""
        # A terminal's Ctrl-C goes to every process in its foreground; how the children end is the parent's to say.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._asked_to_end)
        signal.set_wakeup_fd(-1)  # that of the parent's loop, which this process's signals are not to wake
        self._own = None
        self._to_tell, self._told_by_watch = [True], False

    def _in_child(self, work: Callable[[], None], own: Any) -> None:
        assert self._units is not None and self._guard is not None
        connections = self._guard.connections
        self._units.forget()
        self._guard.events.fall_silent()  # the parent is told by this process's exit code, and tells
        self._failures.count = 0  # the parent has counted its own; this process's exit code tells of its handler
        for listener in self._listeners:
            if listener.socket is not own:
                listener.socket.close()
        connections.elsewhere = False
        for connection in connections:
            sock = connection.socket
            if sock is not None and sock is not own:
                sock.close()
        self._own = mine = connections.of(own)
        if mine is not None:
            # Told by two ways. A signal runs its handler on the main thread, but does not end a system call there that
            # began a moment later, nor where another thread took the signal (signal(7)); the bell wakes the watch.
            signal.set_wakeup_fd(self._guard.watch_one(mine, self._heard).bell, warn_on_full_buffer=False)
            if self._draining:
                Teller(Farewell([mine])).start()  # it was asked to end before this
        let_term_in()
        work()
        if mine is not None and mine.reason is not None:
            raise SystemExit(exit_code(mine.reason))
        if self._failures.count:
            raise SystemExit(1)

    def _asked_to_end(self, number: int, frame: object) -> None:
        """In a child, SIGTERM: its client is told as soon as nothing is under way. The second one ends the child."""
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self._end_soon()

    def _heard(self, numbers: bytes) -> None:
        if signal.SIGTERM in numbers:
            if self._draining:
                # Twice, and the handler's thread has not come to know of either.
                if self._told_by_watch:
                    os._exit(1)
            else:
                self._end_soon()
            self._told_by_watch = True

    def _end_soon(self) -> None:
        try:
            self._to_tell.pop()
        except IndexError:
            return  # the other way was faster
        self._draining.set()
        self._draining.tell_handlers()
        if self._own is not None:
            Teller(Farewell([self._own])).start()
