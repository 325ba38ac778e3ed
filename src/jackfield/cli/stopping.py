"""How ``serve`` is told to stop: signals, each put in a queue that the main thread works off.

========  ==================================================================================
INT       orderly the first time; at once the second time, and then the exit code is 130
TERM      orderly the first time, at once the second time
QUIT      at once
========  ==================================================================================
"""

from __future__ import annotations

import logging
import math
import os
import queue
import signal
import threading
import time
from types import FrameType
from typing import TYPE_CHECKING, Any

from jackfield.cli import exits

if TYPE_CHECKING:
    from jackfield.server import Server

__all__ = ["AskedToStop", "StopSignals", "StuckError"]

_log = logging.getLogger("jackfield.serve")

GIVE_UP = 3.0
"""Seconds that a server has, after it was to cut its handlers, before the process leaves without it.  The server itself
gives them one."""

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT)


class AskedToStop(KeyboardInterrupt):
    """A signal came before there was a server to stop; whoever passes Ctrl-C on passes this on."""


class StuckError(Exception):
    """The server has not stopped though it was told to and its time is up; the process has to leave without it."""

    def __init__(self, code: int) -> None:
        super().__init__(f"a handler does not return: left behind after {GIVE_UP:g}s")
        self.code = code


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
        self._held = False

    def __enter__(self) -> StopSignals:
        for number in SIGNALS:
            self._old[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def hold(self) -> None:
        """Signals no longer raise: from now on they wait for :meth:`serve_until_stopped`."""
        self._held = True

    def serve_until_stopped(self, server: Server, graceful_timeout: float) -> int:
        """Wait for a running server to stop, passing on what the signals ask; the exit code.

        :raises StuckError: it does not stop: a handler holds on to its thread, or to the loop.
        """
        self.hold()
        threading.Thread(target=self._tell_when_stopped, args=(server,), daemon=True, name="stopped").start()
        code, asked, give_up_at = exits.OK, False, math.inf
        while (number := self._next(give_up_at, code)) is not None:
            if asked or number == signal.SIGQUIT:
                code = exits.INTERRUPTED if asked and number == signal.SIGINT else code
                _log.warning("%s: stopping at once", signal.Signals(number).name)
                give_up_at = time.monotonic() + GIVE_UP
                server.stop(0)
            else:
                asked = True
                give_up_at = time.monotonic() + graceful_timeout + GIVE_UP
                server.stop()
                _tell_who_may_finish(server.info().connections, graceful_timeout)
        info = server.info()
        _log.info("stopped: %d connections and %d datagrams in %.0f s", info.accepted, info.datagrams, info.uptime)
        if server.state == "failed":  # its thread has logged by what
            return exits.FAILED
        return code

    def _next(self, give_up_at: float, code: int) -> int | None:
        """The next signal; None once the server has stopped."""
        try:
            return self._asked.get(timeout=None if give_up_at == math.inf else max(0.0, give_up_at - time.monotonic()))
        except queue.Empty:
            raise StuckError(code) from None

    def _tell_when_stopped(self, server: Server) -> None:
        server.wait_stopped()
        self._asked.put(None)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            self._in_child(number)
        elif self._held:
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


def _tell_who_may_finish(connections: int, graceful_timeout: float) -> None:
    if connections:
        who = "1 connection" if connections == 1 else f"{connections} connections"
        _log.info("stopping: %s may finish within %gs; Ctrl-C again stops at once", who, graceful_timeout)
