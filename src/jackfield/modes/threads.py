"""Threads: one operating-system thread for each unit, used again when nothing was left on it."""

from __future__ import annotations

import contextlib
import contextvars
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

from .spares import Job, Spares, Worker
from .units import Units, report

#: Seconds that a thread waits for another unit before it ends; those of Tokio's pool for blocking calls wait as long.
IDLE_SECONDS = 10.0

#: Seconds that closing waits for threads with nothing left to do.
_LEAVE_SECONDS = 1.0

# A new thread has an empty context, or from Python 3.14 on, where asked for, a copy of its starter's.
_new_context: Callable[[], contextvars.Context] = (
    contextvars.copy_context if getattr(sys.flags, "thread_inherit_context", False) else contextvars.Context
)


class Threads(Units[threading.Thread]):
    """At most ``limit`` threads at once (None: as many as the system gives).

    A thread whose unit has ended waits ``idle_seconds`` for another one, or less where several wait already; 0: each
    unit has a thread of its own.
    """

    def __init__(self, limit: int | None = None, *, daemon: bool = True, idle_seconds: float = IDLE_SECONDS) -> None:
        super().__init__(limit)
        self.daemon = daemon
        self.idle_seconds = idle_seconds
        self._look: Callable[[], object] | None = None
        self._lookers: dict[int, Worker] = {}
        self._employ()
        _every.add(self)

    def _employ(self) -> None:
        self._spares = Spares(self.idle_seconds)
        # A server may be dropped without a word.
        weakref.finalize(self, self._spares.close).atexit = False

    def start(self, work: Callable[..., Any], *args: Any) -> None:
        job = Job(work, args, _new_context(), self._next, self.ended)
        spares = self._spares
        if not _exiting:
            spares.seconds, spares.most = self.idle_seconds, self.limit
            spares.reopen()
        # What threading.settrace() and setprofile() set is for threads that start.
        if threading.gettrace() is None and threading.getprofile() is None:
            looker = self._lookers.get(threading.get_ident()) if self._lookers else None
            if looker is not None and looker.job is None and looker.daemon == self.daemon:
                looker.job = job
                return
            if spares.hand(job, self.add, daemon=self.daemon):
                return
        worker = Worker(job, spares, daemon=self.daemon)
        bell = worker.bell
        self.add(worker)
        spares.enter(worker)
        try:
            worker.start()
        except BaseException:
            spares.leave(worker)
            self.ended(worker)
            raise
        finally:
            del worker
            bell.release()

    def offer(self, look: Callable[[], object] | None) -> None:
        """Let a thread whose unit has ended call ``look()`` before it waits. If that calls :meth:`start`, the thread
        runs that unit next, in the place of its last: nobody has to be woken for it. Several may look at once.

        When this returns, nobody is at an earlier ``look`` any more; None is for nobody.
        """
        self._look = look
        for worker in list(self._lookers.values()):
            with worker.looks:
                pass

    def _next(self, worker: Worker) -> Job | None:
        if self._look is None or not self._spares.used:
            return None
        here = threading.get_ident()
        with worker.looks:
            # Whoever changes what there is to look at does that before it asks who looks.
            self._lookers[here] = worker
            try:
                look = self._look
                if look is not None:
                    look()
            except BaseException as error:
                report(error)
            finally:
                self._lookers.pop(here, None)
        job, worker.job = worker.job, None
        return job

    def join(self, timeout: float | None = None) -> bool:
        """As ever; from a unit, for the others. No thread waits for work any more, until the next :meth:`start`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        here = threading.current_thread()
        self._spares.close()
        workers = [worker for worker in self._spares.staff if worker is not here]
        if here not in self._live and not super().join(timeout) and deadline is not None:
            return False
        for worker in workers:
            # It has left its work and only has to leave the interpreter.
            worker.join(None if deadline is None else max(0.1, deadline - time.monotonic()))
        return not self._live.difference((here,))

    def close(self) -> None:
        self._spares.close()
        at_work = set(self)
        deadline = time.monotonic() + _LEAVE_SECONDS
        for worker in self._spares.staff:
            if worker not in at_work and worker is not threading.current_thread():
                worker.join(max(0.0, deadline - time.monotonic()))

    def _forked(self) -> None:
        """In a child, which has of its parent's threads only the one that forked."""
        here = threading.get_ident()
        self._lock = threading.Lock()
        self._live = {thread for thread in self._live if thread.ident == here}
        self._waits, self._room_waits = [], []
        self._look, self._lookers = None, {}
        self._spares.forget()
        self._employ()


_every: weakref.WeakSet[Threads] = weakref.WeakSet()
_exiting = False


def _exit() -> None:
    """The interpreter is about to wait for all threads that are not daemons: none of them is to wait for work."""
    global _exiting
    _exiting = True
    for threads in list(_every):
        threads._spares.close()


def _after_fork() -> None:
    for threads in list(_every):
        threads._forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
# Not for the public, but the one place between the end of the program and that wait; concurrent.futures uses it as
# well. Without it the program would end when the last idle thread does.
with contextlib.suppress(AttributeError, RuntimeError):
    threading._register_atexit(_exit)  # type: ignore[attr-defined]
