"""Children: the processes of process mode, what each of them holds, and how it says what its connection ended by."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable
from typing import Any

from ..connections import Connections
from ..deadlines import Deadlines, Watch
from ..door import Listener
from ..events import Reason
from ..modes import Loop, Processes
from .endings import Failures

#: The exit code of the process of a connection. 0 is one of datagrams, and anything else a crash.
_EXIT_CODES = {reason: 100 + number for number, reason in enumerate(Reason)}
_REASONS = {0: Reason.HANDLER_RETURNED} | {code: reason for reason, code in _EXIT_CODES.items()}


class Children:
    """Forks a child for each connection, and one for each datagram.

    ``on_ended(socket, reason)`` is called when the child that served ``socket`` has ended.
    """

    def __init__(self, failures: Failures) -> None:
        self.on_ended: Callable[[Any, Reason], object] = lambda sock, reason: None
        self._failures = failures
        self._units: Processes | None = None
        #: By pid. The parent holds each socket until its child has ended, so that the connection can be listed and
        #: ended; the children hold none but their own.
        self._sockets: dict[int, Any] = {}
        self._listeners: Iterable[Listener] = ()
        self._connections: Connections | None = None
        self._deadlines: Deadlines | None = None

    def open_units(
        self, loop: Loop, listeners: Iterable[Listener], connections: Connections, deadlines: Deadlines
    ) -> Processes:
        """What runs the handlers; ``listeners`` and ``connections`` are those of the parent, closed in each child."""
        self._listeners, self._connections, self._deadlines = listeners, connections, deadlines
        self._units = Processes(loop=loop)
        self._units.on_reaped = self._reaped
        return self._units

    def serve(self, work: Callable[[], None], sock: Any) -> None:
        """Run ``work()`` in a child, which ends the connection of ``sock``."""
        self._sockets[self.fork(work, sock)] = sock

    def fork(self, work: Callable[[], None], own: Any) -> int:
        """Run ``work()`` in a child that holds no socket of the server's but ``own``; its pid."""
        assert self._units is not None
        return self._units.fork(self._in_child, (work, own))

    def _reaped(self, pid: int, status: int) -> None:
        code = os.waitstatus_to_exitcode(status)
        reason = _REASONS.get(code, Reason.HANDLER_ERROR)
        self._failures.count += reason is Reason.HANDLER_ERROR
        sock = self._sockets.pop(pid, None)
        if sock is not None:
            self.on_ended(sock, reason)

    def _in_child(self, work: Callable[[], None], own: Any) -> None:
        assert self._units is not None and self._connections is not None and self._deadlines is not None
        # A terminal's Ctrl-C goes to every process in its foreground; how the children end is the parent's to say.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)  # that of the parent's loop, which this process's signals are not to wake
        self._units.forget()
        self._failures.count = 0  # the parent has counted its own; this process's exit code tells of its handler
        for listener in self._listeners:
            if listener.socket is not own:
                listener.socket.close()
        self._connections.elsewhere = False
        for connection in self._connections:
            sock = connection.socket
            if sock is not None and sock is not own:
                sock.close()
        mine = self._connections.of(own)
        if mine is not None:
            watch = Watch(self._deadlines)  # the parent, which cannot see what moves here, watches over none
            self._deadlines.enter(mine)
            watch.start()
        work()
        if mine is not None and mine.reason is not None:
            raise SystemExit(_EXIT_CODES[mine.reason])
        if self._failures.count:
            raise SystemExit(1)
