"""How ``serve`` is told to stop: signals, each put in a queue that the main thread works off.

========  ==================================================================================
INT       orderly the first time; at once the second time, and then the exit code is 130
TERM      orderly the first time, at once the second time
QUIT      at once
========  ==================================================================================
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import threading
from types import FrameType
from typing import TYPE_CHECKING, Any

from jackfield.cli import exits

if TYPE_CHECKING:
    from jackfield.server import Server

__all__ = ["AskedToStop", "StopSignals"]

_log = logging.getLogger("jackfield.serve")

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT)


class AskedToStop(BaseException):
    """A signal came before the server was there to be stopped."""


class StopSignals:
    """Takes the signals over for as long as its block lasts; to be used in the main thread.

    They are installed even where they were ignored: a background job of a non-interactive shell inherits SIGINT as
    ignored (POSIX, "Asynchronous Lists"), and a server that cannot be interrupted hangs its script.
    """

    def __init__(self) -> None:
        self._process = os.getpid()
        self._old: dict[int, Any] = {}
        # put() of a SimpleQueue may interrupt itself, which no lock-based queue survives in a signal handler.
        self._asked: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._serving = False

    def __enter__(self) -> StopSignals:
        for number in SIGNALS:
            self._old[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def serve_until_stopped(self, server: Server, graceful_timeout: float) -> int:
        """Wait for a running server to stop, passing on what the signals ask; the exit code."""
        self._serving = True
        threading.Thread(target=self._tell_when_stopped, args=(server,), daemon=True, name="stopped").start()
        code, asked = exits.OK, False
        while (number := self._asked.get()) is not None:
            if asked or number == signal.SIGQUIT:
                code = exits.INTERRUPTED if asked and number == signal.SIGINT else code
                _log.warning("%s: stopping at once", signal.Signals(number).name)
                server.stop(0)
            else:
                asked = True
                server.stop()
                if left := server.info().connections:
                    _log.info(
                        "stopping: %d %s may finish within %gs; Ctrl-C again stops at once",
                        left,
                        "connection" if left == 1 else "connections",
                        graceful_timeout,
                    )
        return code

    def _tell_when_stopped(self, server: Server) -> None:
        server.wait_stopped()
        self._asked.put(None)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            self._in_child(number)
        elif self._serving:
            self._asked.put(number)
        else:
            raise AskedToStop

    def _in_child(self, number: int) -> None:
        """A process that was forked to serve one connection has inherited the handler, but not the main thread's loop.

        A terminal's Ctrl-C reaches every process of the group: the parent decides what becomes of the children.
        """
        if number != signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
