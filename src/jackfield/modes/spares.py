"""The threads of thread mode, and how one whose unit has ended comes to another.

A thread that waits for one is nowhere to be seen (``threading.enumerate()`` does not list it), holds nothing of its
last unit, and shows nothing of it to the next: one on which anything was left ends instead.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextvars import Context
from typing import Any, ClassVar, NamedTuple

from .traces import Traces
from .units import report

# Where CPython's threading module keeps who runs, by ident. Each step on it is whole by itself.
_listed: dict[int, threading.Thread] = getattr(threading, "_active", {})


#: Seconds in which whoever starts a thread lets go of it. It is as good as always done already.
_MOMENT = 1.0

#: So many wait for as long as they may. Each has some 30 KiB in memory by then: its stack, and what the interpreter and
#: the allocator keep for a thread.
KEPT = 8

#: Seconds that the others wait: while a crowd comes and goes the next one is there by then, and is served in half the
#: time that a new thread takes where the processors are busy.
SURPLUS_SECONDS = 0.05


class Job(NamedTuple):
    """One unit: what to call, and in which context. The others are called on its thread when it has ended."""

    work: Callable[..., Any]
    args: tuple[Any, ...]
    context: Context
    #: Returns what the thread is to run next, in the same unit's place; None if nothing is there.
    more: Callable[[Worker], Job | None]
    #: The place is free.
    ended: Callable[[Worker], object]


class Spares:
    """The threads of one server, ``most`` at most, and those of them that wait: :data:`KEPT` of them for ``seconds`` at
    most, the others for :data:`SURPLUS_SECONDS`."""

    def __init__(self, seconds: float, most: int | None = None) -> None:
        self.seconds = seconds
        self.most = most
        self._closed = False
        # Reentrant, because a server that is collected as garbage closes this, and that may happen anywhere.
        self._lock = threading.RLock()
        self._waiting: dict[Worker, None] = {}
        self._staff: dict[Worker, None] = {}

    @property
    def staff(self) -> list[Worker]:
        """All that have not ended."""
        return list(self._staff)

    @property
    def used(self) -> bool:
        """Whether a thread may run more than one unit."""
        return self.seconds > 0 and not self._closed

    def enter(self, worker: Worker) -> None:
        self._staff[worker] = None

    def leave(self, worker: Worker) -> None:
        self._staff.pop(worker, None)

    def wait(self, worker: Worker) -> Job | None:
        """On the thread of ``worker``: its next job; None if it is to end."""
        with self._lock:
            if not self.used or (self.most is not None and len(self._staff) > self.most):
                return None
            seconds = self.seconds if len(self._waiting) < KEPT else min(self.seconds, SURPLUS_SECONDS)
            self._waiting[worker] = None
        if not worker.bell.acquire(timeout=min(seconds, threading.TIMEOUT_MAX)):
            with self._lock:
                self._waiting.pop(worker, None)
            # Whoever took it out before gave it a job and rang in one step under the lock.
            worker.bell.acquire(blocking=False)
        job, worker.job = worker.job, None
        return job

    def hand(self, job: Job, admit: Callable[[Worker], object], *, daemon: bool) -> bool:
        """Give ``job`` to the one that came last, and tell ``admit`` who that is; False if none of its kind waits."""
        with self._lock:
            while self._waiting:
                worker, _ = self._waiting.popitem()
                bell, fits = worker.bell, worker.daemon == daemon
                try:
                    if fits:
                        worker.job = job
                        admit(worker)
                finally:
                    del worker
                    bell.release()  # without a job it ends
                if fits:
                    return True
        return False

    def close(self) -> None:
        """End those that wait, and let nobody wait any more, until it is opened again."""
        with self._lock:
            self._closed = True
            while self._waiting:
                self._waiting.popitem()[0].bell.release()

    def reopen(self) -> None:
        self._closed = False

    def forget(self) -> None:
        """In a forked child: the lock may be held, and all but one of the threads are the parent's."""
        self._closed = True
        self._lock = threading.RLock()
        self._waiting, self._staff = {}, {}


class Worker(threading.Thread):
    """A thread that runs ``first``, then what comes next, until something was left on it or nothing comes."""

    #: References to a worker that nobody else holds, as it counts them itself; 0 before the first one has.
    references: ClassVar[int] = 0

    def __init__(self, first: Job, spares: Spares, *, daemon: bool) -> None:
        # Named as the standard library's thread of a connection, but not to hold what it runs first for good.
        super().__init__(name=threading.Thread(target=first.work).name, daemon=daemon)
        self.job: Job | None = first
        #: Rings when whoever started it, or gave it a job, holds it no more.
        self.bell = threading.Lock()
        self.bell.acquire()
        #: Held while it looks for its next job by itself. Reentrant for a signal handler that waits for that.
        self.looks = threading.RLock()
        self._spares = spares

    def run(self) -> None:
        traces = Traces(self)
        is_held = True
        if not Worker.references:
            is_held = not self.bell.acquire(timeout=_MOMENT)
            Worker.references = 0 if is_held else sys.getrefcount(self)
        job, self.job = self.job, None
        try:
            while job is not None:
                clean = self._serve(job)
                is_held = is_held and not self.bell.acquire(timeout=_MOMENT)
                more, ended = job.more, job.ended
                job = None  # with all that it held
                references = sys.getrefcount(self)
                clean = clean and not is_held and _is_alone(references) and not traces.left()
                if clean:
                    job = more(self)
                if job is None:
                    self._hide()
                    references = sys.getrefcount(self) + 1  # it is in one place less
                    clean = clean and _is_alone(references)
                    ended(self)
                    del more, ended
                    if clean:
                        job = self._spares.wait(self)
                    self._show()
        finally:
            self._show()  # Thread takes it out itself
            self._spares.leave(self)

    def _serve(self, job: Job) -> bool:
        """Run it; False if it let an error out, by which the thread ends as any other would."""
        try:
            job.context.run(job.work, *job.args)
        except BaseException as error:
            # Reported before the unit counts as ended: whoever joins may look at what was reported.
            report(error)
            return False
        return True

    def _hide(self) -> None:
        _listed.pop(threading.get_ident(), None)

    def _show(self) -> None:
        _listed[threading.get_ident()] = self


def _is_alone(references: int) -> bool:
    """False if somebody keeps a worker, to join it or as a key: to them the connection's thread has to end."""
    Worker.references = min(references, Worker.references)
    return 0 < references == Worker.references
