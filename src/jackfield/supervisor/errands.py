"""What a thread that waits is asked for meanwhile: at once, from time to time, and when a descriptor can be read."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import select
import time
from collections.abc import Callable, Iterable

_log = logging.getLogger("jackfield.supervisor")

#: Seconds of one wait at most: poll(2) counts milliseconds in an int.
LONGEST = 86400.0


class Errands:
    """What is asked for may fail, which the log says, and the thread goes on."""

    def __init__(self) -> None:
        self._todo: list[Callable[[], object]] = []
        self._others: dict[int, Callable[[], object]] = {}
        #: When it is due next, how often, and what.
        self._routines: list[tuple[float, float, Callable[[], object]]] = []
        self._bell, self._rings = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def soon(self, what: Callable[[], object]) -> None:
        """Have ``what()`` called by the thread when it does not wait. From anywhere, a signal handler included."""
        self._todo.append(what)
        self.wake()

    def wake(self) -> None:
        """End its waiting."""
        with contextlib.suppress(OSError):  # full of rings: one is enough
            os.write(self._rings, b"\0")

    def every(self, seconds: float, what: Callable[[], object]) -> None:
        """Call ``what()`` so often: once at the beginning, then ``seconds`` after each time."""
        self._routines.append((time.monotonic(), seconds, what))

    def after(self, seconds: float, what: Callable[[], object]) -> None:
        """Call ``what()`` once, ``seconds`` from now."""
        self._routines.append((time.monotonic() + seconds, math.inf, what))

    def watch(self, fd: int, then: Callable[[], object]) -> None:
        """Call ``then()`` whenever ``fd`` can be read, or its other end is closed."""
        self._others[fd] = then

    def unwatch(self, fd: int) -> None:
        """No longer."""
        self._others.pop(fd, None)

    @property
    def rings(self) -> int:
        """What signal.set_wakeup_fd() is to be given."""
        return self._rings

    def wait(self, fds: Iterable[int], due: float | None) -> set[int]:
        """Wait until one of ``fds`` can be read, which are returned, or for an errand, or until ``due`` in monotonic
        seconds (None: for ever)."""
        poll = select.poll()
        for fd in (self._bell, *self._others, *fds):
            poll.register(fd, select.POLLIN)
        moments = [moment for moment, _, _ in self._routines]
        due = min(moments if due is None else [due, *moments], default=None)
        left = None if due is None else min(max(0.0, due - time.monotonic()), LONGEST)
        ready = {fd for fd, _ in poll.poll(None if left is None else int(left * 1000 + 0.999))}
        if self._bell in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._bell, 4096)
        return ready

    def run_errands(self, ready: set[int]) -> None:
        """Those that have come meanwhile."""
        for fd, then in list(self._others.items()):
            if fd in ready:
                _do(then)
        while self._todo:
            _do(self._todo.pop(0))
        now = time.monotonic()
        due = [routine for routine in self._routines if routine[0] <= now]
        if due:
            again = [(now + seconds, seconds, what) for _, seconds, what in due if seconds < math.inf]
            self._routines = [*(routine for routine in self._routines if routine[0] > now), *again]
        for _, _, what in due:
            _do(what)

    def close_in_child(self) -> None:
        """In a forked process: close what is its parent's alone."""
        for fd in (self._bell, self._rings, *self._others):
            os.close(fd)

    def close(self) -> None:
        os.close(self._bell)
        os.close(self._rings)


def _do(what: Callable[[], object]) -> None:
    try:
        what()
    except Exception:
        _log.error("what was asked of the supervisor failed", exc_info=True)
