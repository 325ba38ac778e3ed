"""How ``serve`` is told to stop, or to reload: a signal handler only notes the number, and the main thread acts on it.

========  ==================================================================================
INT       orderly the first time; at once the second time, and then the exit code is 130
TERM      orderly the first time, at once the second time
QUIT      at once
HUP       reads again what is in files; as TERM, once, where the terminal has gone away
========  ==================================================================================
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import threading
import time
from collections import deque
from types import FrameType
from typing import TYPE_CHECKING, Any

from jackfield.cli import exits
from jackfield.cli.dial import readable
from jackfield.cli.text import count_of

if TYPE_CHECKING:
    from jackfield.server import Server

__all__ = ["AskedToStop", "StopSignals", "StuckError"]

_log = logging.getLogger("jackfield.serve")

GIVE_UP = 3.0
"""Seconds that a server has, after it was to cut its handlers, before the process leaves without it.  The server itself
gives them one."""

ECHO = 0.1
"""Seconds within which the same signal again is the same wish told twice: a Ctrl-C reaches the whole process group, and
a wrapper such as timeout(1) passes on what it got as well.  Nobody presses twice as fast."""

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP)


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
        self._asked: deque[tuple[int, float]] = deque()
        self._held = False
        self._stopped = False
        self._wake_end = self._wake = self._old_wake = -1

    def __enter__(self) -> StopSignals:
        # A signal that comes between Python's last look and the system call that waits runs CPython's C handler, which
        # cannot end that call; it only writes to this pipe, and so what has to wait is a poll() of the pipe.
        self._wake_end, self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._old_wake = signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        for number in SIGNALS:
            self._old[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            # Once it has served, the process is on its way out, with an exit code of its own that a signal would take.
            signal.signal(number, signal.SIG_IGN if self._held else handler or signal.SIG_DFL)
        signal.set_wakeup_fd(self._old_wake)
        os.close(self._wake)
        os.close(self._wake_end)

    def hold(self) -> None:
        """Signals no longer raise: from now on they wait for :meth:`serve_until_stopped`."""
        self._held = True

    def serve_until_stopped(self, server: Server, graceful_timeout: float) -> int:
        """Wait for a running server to stop, passing on what the signals ask; the exit code.

        :raises StuckError: it does not stop: a handler holds on to its thread, or to the loop.
        """
        from jackfield.signals import Reloads, Terminal  # late: it comes with the server, and takes as long to import

        self.hold()
        reloads, terminal = Reloads(server.reload), Terminal(self._old[signal.SIGHUP])
        watcher = threading.Thread(target=self._tell_when_stopped, args=(server,), daemon=True, name="stopped")
        watcher.start()
        code, asked, asked_at, give_up_at = exits.OK, 0, 0.0, math.inf
        while (signalled := self._next(give_up_at, code)) is not None:
            number, at = signalled
            if number == signal.SIGHUP:
                if asked or not terminal.gone:
                    # One process serves here; where workers do, it is they who are to be replaced, one by one.
                    reloads.ask()
                    continue
                number = signal.SIGTERM
            if number == asked and at - asked_at < ECHO:
                continue
            if asked or number == signal.SIGQUIT:
                code = exits.INTERRUPTED if asked and number == signal.SIGINT else code
                _log.warning("%s: stopping at once", signal.Signals(number).name)
                # The earliest holds: who presses Ctrl-C again and again must not put the end off each time.
                give_up_at = min(give_up_at, time.monotonic() + GIVE_UP)
                server.stop(0)
            else:
                asked, asked_at = number, at
                give_up_at = time.monotonic() + graceful_timeout + GIVE_UP
                server.stop()
                _tell_who_may_finish(server.info().connections, graceful_timeout)
        watcher.join()
        reloads.close()
        info = server.info()
        served = f"{count_of(info.accepted, 'connection')} and {count_of(info.datagrams, 'datagram')}"
        _log.info("stopped: served %s in %.0f s", served, info.uptime)
        if server.state == "failed":  # its thread has logged by what
            return exits.FAILED
        return code

    def _next(self, give_up_at: float, code: int) -> tuple[int, float] | None:
        """The next signal, and when it came; None once the server has stopped."""
        while True:
            if self._asked:
                return self._asked.popleft()
            if self._stopped:
                return None
            left = give_up_at - time.monotonic()
            if left <= 0:
                raise StuckError(code)
            if readable(self._wake_end, None if left == math.inf else left):
                os.read(self._wake_end, 4096)

    def _tell_when_stopped(self, server: Server) -> None:
        server.wait_stopped()
        self._stopped = True
        with contextlib.suppress(OSError):  # closed meanwhile, or full of wake-ups: nobody needs this one
            os.write(self._wake, b"\0")

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            self._in_child(number)
        elif self._held or number == signal.SIGHUP:
            self._asked.append((number, time.monotonic()))
        else:
            raise AskedToStop

    def _in_child(self, number: int) -> None:
        """A process that was forked to serve one connection has inherited the handler, but not the main thread's loop.

        A terminal's Ctrl-C, and its going away, reach every process of the group: the parent decides what becomes of
        the children. What is in files is the parent's to read again, too, for those who come from then on.
        """
        if number not in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


def _tell_who_may_finish(connections: int, graceful_timeout: float) -> None:
    if connections:
        who = count_of(connections, "connection")
        _log.info("stopping: %s may finish within %gs; Ctrl-C again stops at once", who, graceful_timeout)
