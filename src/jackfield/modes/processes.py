"""Processes: one forked process for each unit."""

from __future__ import annotations

import logging
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from ..journal import Journal, standing_journal
from .loops import Loop
from .units import Units

_log = logging.getLogger("jackfield.process")
_journal = standing_journal(_log)

#: Seconds between two looks at children that no descriptor was left to watch by.
UNWATCHED_STEP = 0.1


class Processes(Units[int]):
    """At most ``limit`` children at once.

    Each child is waited for by its own pid and never by ``waitpid(-1)``, which would take the exit codes of children
    that the application started. It is reaped as soon as it ends: its pidfd becomes readable then (pidfd_open(2)), and
    the loop that accepts watches it. Without pidfds (before Linux 5.3, other systems) :meth:`look` and :meth:`reap` do.
    """

    def __init__(self, limit: int | None = None, loop: Loop | None = None) -> None:
        super().__init__(limit)
        self._loop = loop
        self._pidfds: dict[int, int] = {}
        #: Children whose end nobody would tell of: there are no pidfds, or no descriptor was left for one.
        self._unwatched: set[int] = set()
        #: Run in the child before the work: to close what it must not hold, such as the listeners.
        self.in_child: Callable[[], object] | None = None
        self._journal = _journal
        #: Called with the pid of each that was reaped, and its wait status: 0 if all went well.
        self.on_reaped: Callable[[int, int], object] | None = None

    def start(self, work: Callable[..., Any], *args: Any) -> None:
        self.fork(work, args)

    def fork(self, work: Callable[..., Any], args: tuple[Any, ...] = (), *, holds_term: bool = False) -> int:
        """Run ``work(*args)`` in a child and return its pid. The child's exit code is 0, or 1 if the work raised.

        A SIGTERM that comes before the child is prepared waits: it would meet the parent's handler. ``holds_term``: it
        waits until ``work`` calls :func:`let_term_in`.
        """
        for stream in (sys.stdout, sys.stderr):
            # What is in a buffer at the fork is written twice, once by each process.
            try:
                stream.flush()
            except (AttributeError, OSError, ValueError):
                pass
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        try:
            pid = os.fork()
            if pid == 0:
                self._child(work, args, holds_term)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self.watch(pid)
        return pid

    def tell_by(self, journal: Journal) -> None:
        """Children that fail say so out of the allowance of ``journal``: all of them together, where it is shared
        before they are forked."""
        self._journal = journal.beside(_log)

    def watch(self, pid: int) -> None:
        """Count ``pid``, a child of this process, among the units."""
        self.add(pid)
        self._watch_pidfd(pid)

    def _watch_pidfd(self, pid: int) -> None:
        if self._loop is None:
            return
        try:
            pidfd = os.pidfd_open(pid)
        except (AttributeError, OSError):
            self._unwatched.add(pid)
            return
        self._unwatched.discard(pid)
        self._pidfds[pid] = pidfd
        self._loop.watch(pidfd, lambda: self._reap_one(pid))

    def look(self) -> float | None:
        """See to the children that the loop could not watch; returns the seconds until that is to be done again, None
        if there are none."""
        for pid in list(self._unwatched):
            if not self._reap_one(pid):
                self._watch_pidfd(pid)
        return UNWATCHED_STEP if self._unwatched else None

    def watch_on(self, loop: Loop | None) -> None:
        """Children are reaped by ``loop`` from now on; None: no longer by any."""
        for pidfd in self._pidfds.values():
            if self._loop is not None:
                self._loop.ignore(pidfd)
            os.close(pidfd)
        self._pidfds.clear()
        self._loop = loop
        for pid in self:
            self._watch_pidfd(pid)

    def _child(self, work: Callable[..., Any], args: tuple[Any, ...], holds_term: bool) -> None:
        status = 1
        try:
            if self.in_child is not None:
                self.in_child()
            if not holds_term:
                let_term_in()
            work(*args)
            status = 0
        except SystemExit as leaving:
            status = leaving.code if isinstance(leaving.code, int) else 0 if leaving.code is None else 1
        except BaseException as error:
            kind = "processes of handlers that failed"
            self._journal.write(logging.ERROR, "a handler's process failed", kind=kind, error=error)
        finally:
            try:
                for stream in (sys.stdout, sys.stderr):
                    stream.flush()
            finally:
                # Not sys.exit: the parent's clean-up (atexit, open files, other threads' locks) is not the child's.
                os._exit(status & 0xFF)

    # -- reaping -----------------------------------------------------------------------------------------------------

    def reap(self) -> None:
        """Take the exit codes of those that have ended."""
        for pid in self:
            self._reap_one(pid)

    def _reap_one(self, pid: int, options: int = os.WNOHANG) -> bool:
        try:
            reaped, status = os.waitpid(pid, options)
        except ChildProcessError:
            reaped, status = pid, 0  # somebody else waited for it, e.g. with SIGCHLD ignored
        if reaped != pid:
            return False
        self._unwatched.discard(pid)
        pidfd = self._pidfds.pop(pid, None)
        if pidfd is not None:
            if self._loop is not None:
                self._loop.ignore(pidfd)
            os.close(pidfd)
        self.ended(pid)
        if self.on_reaped is not None:
            self.on_reaped(pid, status)
        return True

    def join(self, timeout: float | None = None) -> bool:
        deadline = None if timeout is None else time.monotonic() + timeout
        for pid in self:
            if deadline is None:
                self._reap_one(pid, 0)
            elif not self._reap_by(pid, deadline):
                return False
        return True

    def _reap_by(self, pid: int, deadline: float) -> bool:
        pidfd = self._pidfds.get(pid)
        pause = 0.001
        while not self._reap_one(pid):
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            if pidfd is not None:
                poll = select.poll()
                poll.register(pidfd, select.POLLIN)
                poll.poll(int(left * 1000 + 0.999))
            else:
                time.sleep(min(left, pause))
                pause = min(2 * pause, 0.05)
        return True

    def cut(self) -> None:
        for pid in self:
            try:
                os.kill(pid, signal.SIGTERM)
            except ProcessLookupError:
                pass

    def kill(self) -> None:
        """SIGKILL to those that did not take ``cut()``'s hint."""
        for pid in self:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def forget(self) -> None:
        """In a child: the parent's children are not its own."""
        for pidfd in self._pidfds.values():
            os.close(pidfd)
        self._pidfds.clear()
        self._unwatched.clear()
        self._live.clear()

    def close(self) -> None:
        self.reap()


def let_term_in() -> None:
    """In a child: a SIGTERM that waits, or comes, is taken from now on."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
