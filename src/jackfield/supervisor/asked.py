"""What signals ask of a supervisor.

========  =================================================================================
INT       orderly the first time; at once the second time, and then the exit code is 130
TERM      orderly the first time, at once the second time
QUIT      at once
HUP       a reload; as TERM, once, where the terminal has gone away
USR1      the logs are opened again
USR2      an upgrade
TTIN      one worker more
TTOU      one worker less
========  =================================================================================
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from ..signals import Terminal
from .supervisor import Supervisor

_log = logging.getLogger("jackfield.supervisor")

INTERRUPTED = 130

#: Seconds within which the same signal again is the same wish told twice: a wrapper such as timeout(1) passes on what
#: the whole group got as well.
ECHO = 0.1


class Asked:
    """Takes the signals over for as long as its block lasts; to be used in the main thread. A handler only notes the
    number, and the supervisor acts on it between two of its turns."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._old: dict[int, Any] = {}
        self._old_wake = -1
        self._stop_asked: tuple[int, float] | None = None
        #: Whether Ctrl-C was pressed twice.
        self.interrupted = False
        #: Called for USR1, besides what the workers do; and for USR2.
        self.on_reopen: Callable[[], object] = lambda: None
        self.on_upgrade: Callable[[], object] = lambda: _log.warning("no upgrade: nobody has said how")
        self._does: dict[int, Callable[[int, float], object]] = {
            signal.SIGINT: self._stop,
            signal.SIGTERM: self._stop,
            signal.SIGQUIT: self._stop_at_once,
            signal.SIGHUP: self._hang_up,
            signal.SIGUSR1: self._reopen,
            signal.SIGUSR2: lambda number, at: self.on_upgrade(),
            signal.SIGTTIN: lambda number, at: supervisor.scale(supervisor.workers + 1),
            signal.SIGTTOU: lambda number, at: supervisor.scale(supervisor.workers - 1),
        }
        self._terminal: Terminal | None = None

    def __enter__(self) -> Asked:
        self._terminal = Terminal()
        self._old_wake = signal.set_wakeup_fd(self._supervisor.rings, warn_on_full_buffer=False)
        for number in self._does:
            self._old[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(self._old_wake)
        for number, handler in self._old.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        at = time.monotonic()
        self._supervisor.soon(lambda: self._does[number](number, at))

    def _stop(self, number: int, at: float) -> None:
        before, self._stop_asked = self._stop_asked, (number, at)
        if before is None:
            self._supervisor.stop()  # also where it has been asked for otherwise: the earliest deadline holds
        elif before is not None and before[0] == number and at - before[1] < ECHO:
            self._stop_asked = before
        else:
            self.interrupted = self.interrupted or number == signal.SIGINT
            self._stop_at_once(number, at)

    def _stop_at_once(self, number: int, at: float) -> None:
        _log.warning("%s: stopping at once", signal.Signals(number).name)
        self._supervisor.stop(0)

    def _hang_up(self, number: int, at: float) -> None:
        if self._terminal is not None and self._terminal.gone:
            if not self._supervisor.stopping:
                self._supervisor.stop()
        elif not self._supervisor.stopping:
            self._supervisor.reload()

    def _reopen(self, number: int, at: float) -> None:
        self.on_reopen()
        self._supervisor.tell_all(reopen=True)


def workers_for(wanted: int | str) -> int:
    """How many workers ``"auto"`` is: one for each processor that this process may use (sched_getaffinity(2))."""
    if wanted != "auto":
        return int(wanted)
    try:
        return max(1, len(os.sched_getaffinity(0)))
    except AttributeError:
        return os.cpu_count() or 1
