"""A worker as its supervisor knows it: a process, where it is in its life, and how it is spoken to."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable

from ..door import Listener
from ..errors import MisuseError
from .board import Board, Shown
from .life import MOVES, WorkerState
from .link import Link
from .policy import Recycling
from .worker import GIVE_UP

#: Seconds that a worker that is stuck has to write its stack to the log before it is killed.
STACK_SECONDS = 1.0


class Member:
    """One worker, from its fork until it was reaped. ``number`` is its own for as long as the supervisor lives."""

    def __init__(
        self, number: int, pid: int, link: Link, board: Board, row: int, since: float, recycling: Recycling
    ) -> None:
        self.number = number
        self.pid = pid
        self.link = link
        self.since = since
        #: When it is to be replaced though it is well.
        self.recycling = recycling
        self.state = WorkerState.STARTING
        #: Which of so many it is, and the listeners that are its own.
        self.place = 0
        self.listeners: frozenset[Listener] = frozenset()
        #: When it is killed if it has not gone on until then; None: never.
        self.due: float | None = None
        #: Why it could not begin, in its own words.
        self.failure: str | None = None
        #: Called when it was reaped: how many connections it had.
        self.on_gone: Callable[[], int] = lambda: 0
        #: The same from then on.
        self.died_with = 0
        #: Seconds that its connections have when it retires, where that is for it to say.
        self.patience: float | None = None
        #: Whether its end was asked for: nobody wonders at it.
        self.told = False
        #: Whether it was ready once: one that was not is ended without a word.
        self.has_served = False
        #: Whether its end of the link is closed, though it may live.
        self.is_deaf = False
        self._board = board
        self._row = row
        self._pidfd: int | None = None
        with contextlib.suppress(AttributeError, OSError):  # before Linux 5.3: it is looked at now and then instead
            self._pidfd = os.pidfd_open(pid)

    def __repr__(self) -> str:
        return f"<Member {self.number}, process {self.pid}, {self.state.value}>"

    def __str__(self) -> str:
        return f"worker {self.number} (process {self.pid})"

    @property
    def pidfd(self) -> int | None:
        """Readable once the process has ended (pidfd_open(2)); None where there is none."""
        return self._pidfd

    @property
    def shown(self) -> Shown:
        """What it shows on the board."""
        return self._board.read(self._row)

    @property
    def takes_clients(self) -> bool:
        """Whether it serves those who come, or is about to."""
        return self.state in (WorkerState.STARTING, WorkerState.SERVING)

    def move(self, to: WorkerState) -> None:
        """MisuseError if it is no move that its state allows."""
        if to not in MOVES[self.state]:
            raise MisuseError(f"a worker that is {self.state.value} cannot become {to.value}")
        self.state = to

    def signal(self, number: int) -> None:
        """Send it a signal; it is not reaped yet, so the number is nobody else's."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def retire(self, patience: float, due: float) -> None:
        """Have it take nobody any more, and end with its last connection, or ``patience`` seconds from now."""
        self.move(WorkerState.RETIRING)
        self.told = True
        self.due = due
        self.link.send(retire=patience)

    def stop(self, deadline: float, *, is_needed: bool = False) -> None:
        """Have it stop within ``deadline`` seconds. One that has not begun leaves at once, unless it ``is_needed``:
        somebody waits whom no other worker serves.

        That it has not said so yet does not mean that it has not begun: clients may have come to it meanwhile. So it is
        asked, and knows.
        """
        if self.state is WorkerState.KILLED:
            return
        if not self.has_served and deadline <= 0:
            self.kill()
            return
        is_starting = self.state is WorkerState.STARTING
        if self.state is not WorkerState.STOPPING:
            self.move(WorkerState.STOPPING)
        # One that only begins has no use for the deadline. It may have missed the signal, too: one that comes just
        # before a system call has its handler run after that, and a target that is being loaded may sleep for ever.
        due = time.monotonic() + GIVE_UP + (0.0 if is_starting and not is_needed else deadline + 1.0)
        self.due = due if is_starting or self.due is None else min(self.due, due)
        asked = self.link.send(stop=deadline)
        if not asked or (is_starting and not is_needed):
            self.signal(signal.SIGTERM)  # as it cannot ask, or not yet, it does as it would without a supervisor

    def abort(self, now: float) -> None:
        """It is stuck: have it write where (SIGABRT, see faulthandler), then kill it."""
        self.move(WorkerState.KILLED)
        self.due = now + STACK_SECONDS
        self.signal(signal.SIGABRT)

    def kill(self) -> None:
        """End it now."""
        if self.state is not WorkerState.KILLED:
            self.move(WorkerState.KILLED)
        self.due = None
        self.signal(signal.SIGKILL)

    def reap(self) -> int | None:
        """Its exit code (negative: the signal that ended it), once it has ended; None before."""
        with contextlib.suppress(ChildProcessError):
            if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                self._end_group()  # before it is reaped: afterwards the number may be another's
        try:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            pid, status = self.pid, 0  # somebody else has waited for it
        if pid != self.pid:
            return None
        self.move(WorkerState.GONE)
        self._board.give_back(self._row)
        self.let_go()
        self.died_with = self.on_gone()
        return os.waitstatus_to_exitcode(status)

    def _end_group(self) -> None:
        """It has ended: have those that it had forked for its clients end, too, when these are served."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getpgid(self.pid) == self.pid:
                os.killpg(self.pid, signal.SIGTERM)

    def let_go(self) -> None:
        """Close what this process holds of it: after its end, or in a process that is not its supervisor."""
        pidfd, self._pidfd = self._pidfd, None
        if pidfd is not None:
            os.close(pidfd)
        self.link.close()


def describe_exit(code: int) -> str:
    """An exit code of :func:`os.waitstatus_to_exitcode` in words."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
