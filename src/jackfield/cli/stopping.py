"""How ``serve`` is told to stop, or to reload: a signal handler only notes the number, and the main thread acts on it.

========  ==================================================================================
INT       orderly the first time; at once the second time, and then the exit code is 130
TERM      orderly the first time, at once the second time
QUIT      at once
HUP       reads again what is in files; as TERM, once, where the terminal has gone away
USR1      opens the log's file again
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
from collections.abc import Callable, Iterable, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any

from jackfield.cli import exits
from jackfield.cli.dial import readable
from jackfield.cli.logs import reopen_logs
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

ENDED = 0
"""In the place of a signal's number: a server has ended (kill(2): the null signal, which is never sent)."""

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1)


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
        self._counting = threading.Lock()
        self._running = 0
        self._told_to_stop = False
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

    def serve_until_stopped(
        self,
        servers: Sequence[Server],
        reload: Callable[[], object] | None = None,
        on_stop: Callable[[str], object] = lambda _: None,
    ) -> int:
        """Wait for running servers to stop, passing on what the signals ask; the exit code. They stop together: where
        one ends by itself, the others are told to, and have as long as after a signal.

        :param reload: what SIGHUP asks for, on a thread of its own; by default ``reload()`` of each server.
        :param on_stop: called with a line that says so each time they are told to stop, and when one has ended itself.
        :raises StuckError: one does not stop: a handler holds on to its thread, or to the loop.
        """
        from jackfield.signals import Reloads, Terminal  # late: it comes with the server, and takes as long to import

        self.hold()
        reloads = Reloads(reload or (lambda: [server.reload() for server in servers]))
        terminal = Terminal(self._old[signal.SIGHUP])
        watchers = [threading.Thread(target=self._tell_when_stopped, args=(server, servers), daemon=True,
                                     name="jackfield-stopped") for server in servers]  # fmt: skip
        self._running = len(watchers)
        for watcher in watchers:
            watcher.start()
        code, asked, asked_at, give_up_at = exits.OK, 0, 0.0, math.inf
        while (signalled := self._next(give_up_at, code)) is not None:
            number, at = signalled
            if number == ENDED:
                if not self._told_to_stop:
                    on_stop("stopping: a server has ended")
                give_up_at = min(give_up_at, time.monotonic() + _graceful(servers) + GIVE_UP)
                continue
            if number == signal.SIGUSR1:
                reopen_logs()
                continue
            if number == signal.SIGHUP:
                if asked or not terminal.gone:
                    # One process serves here; where workers do, it is they who are to be replaced, one by one.
                    reloads.ask()
                    continue
                number = signal.SIGTERM
            if number == asked and at - asked_at < ECHO:
                continue
            self._told_to_stop = True
            if asked or number == signal.SIGQUIT:
                code = exits.INTERRUPTED if asked and number == signal.SIGINT else code
                _log.warning("%s: stopping at once", signal.Signals(number).name)
                # The earliest holds: who presses Ctrl-C again and again must not put the end off each time.
                give_up_at = min(give_up_at, time.monotonic() + GIVE_UP)
                on_stop("stopping at once")
                _stop(servers, 0)
            else:
                asked, asked_at = number, at
                graceful = _graceful(servers)
                give_up_at = min(give_up_at, time.monotonic() + graceful + GIVE_UP)
                _stop(servers)
                connections = sum(server.info().connections for server in servers)
                on_stop(f"stopping: {count_of(connections, 'connection')} may finish within {graceful:g}s")
                _tell_who_may_finish(connections, graceful)
        for watcher in watchers:
            watcher.join()
        reloads.close()
        infos = [server.info() for server in servers]
        connections, datagrams = (sum(getattr(one, name) for one in infos) for name in ("accepted", "datagrams"))
        served = f"{count_of(connections, 'connection')} and {count_of(datagrams, 'datagram')}"
        _log.info("stopped: served %s in %.0f s", served, max(one.uptime for one in infos))
        if any(server.state == "failed" for server in servers):  # its thread has logged by what
            return exits.FAILED
        return code

    def _next(self, give_up_at: float, code: int) -> tuple[int, float] | None:
        """The next signal, and when it came; None once the server has stopped."""
        while True:
            if self._asked:
                return self._asked.popleft()
            if not self._running:
                return None
            left = give_up_at - time.monotonic()
            if left <= 0:
                raise StuckError(code)
            if readable(self._wake_end, None if left == math.inf else left):
                os.read(self._wake_end, 4096)

    def _tell_when_stopped(self, server: Server, servers: Sequence[Server]) -> None:
        server.wait_stopped()
        others = [] if self._told_to_stop else [other for other in servers if not other.draining]
        if others:
            what = "has failed" if server.state == "failed" else "has ended"
            _log.error("%s %s, and with it the others stop: %s", server.name, what, ", ".join(o.name for o in others))
            _stop(others)
        with self._counting:
            self._running -= 1
        self._asked.append((ENDED, time.monotonic()))
        with contextlib.suppress(OSError):  # closed meanwhile, or full of wake-ups: nobody needs this one
            os.write(self._wake, b"\0")

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            self._in_child(number)
        elif self._held or number in (signal.SIGHUP, signal.SIGUSR1):
            self._asked.append((number, time.monotonic()))
        else:
            raise AskedToStop

    def _in_child(self, number: int) -> None:
        """A process that was forked to serve one connection has inherited the handler, but not the main thread's loop.

        A terminal's Ctrl-C, and its going away, reach every process of the group: the parent decides what becomes of
        the children. What is in files is the parent's to read again, too, for those who come from then on.
        """
        if number not in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


def _stop(servers: Iterable[Server], deadline: float | None = None) -> None:
    for server in servers:
        server.stop(deadline)


def _graceful(servers: Iterable[Server]) -> float:
    """Seconds that the connections of all have to finish."""
    return max(server.graceful_timeout for server in servers)


def _tell_who_may_finish(connections: int, graceful_timeout: float) -> None:
    if connections:
        who = count_of(connections, "connection")
        _log.info("stopping: %s may finish within %gs; Ctrl-C again stops at once", who, graceful_timeout)
