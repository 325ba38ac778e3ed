"""Where workers come from: a fork, with its end of a link and its row of the board."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from ..errors import StartError
from ..server import Server
from .board import Board
from .link import Link
from .member import Member
from .policy import Recycling
from .shares import Shares
from .worker import FAILED, Worker

_log = logging.getLogger("jackfield.supervisor")

#: Signals that wait while a worker is forked: they would meet the supervisor's handlers in it.
_HELD = (
    signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN,
    signal.SIGTTOU, signal.SIGCHLD,
)  # fmt: skip


def forked(begin: Callable[[], object]) -> int:
    """The pid of a process in which ``begin()`` runs and never returns, with those signals held back; here they are as
    they were. OSError if there is no room for one (EAGAIN, ENOMEM)."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)
    try:
        pid = os.fork()
        if pid == 0:
            begin()
        return pid
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Nursery:
    """Forks workers, which make their servers by ``make_servers(worker)``, so many in each, and numbers them."""

    def __init__(self, make_servers: Callable[[Worker], Sequence[Server]], servers: int) -> None:
        self._make_servers = make_servers
        self._shares = Shares(servers)
        self._board = Board()
        self._numbers = 0
        self._chance = random.Random()

    def fork(
        self,
        family: Iterable[Member],
        begin: Callable[[Worker], object],
        *,
        patience: float,
        graceful_timeout: float,
        recycling: Recycling,
    ) -> Member:
        """A new worker, which has begun.

        :param family: those that there are: what is held of them is closed in the new process.
        :param begin: called in the new process with its worker, to close what else is the supervisor's alone.
        :param patience: seconds without a sign of life after which it is to be killed.
        :raises StartError: there are no descriptors, no memory or no processes left for it.
        """
        now = time.monotonic()
        row = self._board.take(now)
        try:
            ours, theirs = Link.pair()
        except OSError as error:
            self._board.give_back(row)
            raise StartError(f"no worker can be started: {error.strerror}") from error
        slot = self._shares.take()

        def begin_here() -> None:
            ours.close()
            self._begin(family, begin, slot, Worker(
                theirs, self._board, row, patience=patience, graceful_timeout=graceful_timeout,
                number=self._numbers + 1,
            ))  # fmt: skip

        try:
            pid = forked(begin_here)
        except OSError as error:  # EAGAIN, ENOMEM
            ours.close()
            self._board.give_back(row)
            self._shares.give_back(slot)
            raise StartError(f"no worker can be started: {error.strerror}") from error
        finally:
            theirs.close()
        self._numbers += 1
        member = Member(self._numbers, pid, ours, self._board, row, now, recycling.drawn(self._chance))
        member.on_gone = partial(self._shares.give_back, slot)
        return member

    def _begin(
        self, family: Iterable[Member], begin: Callable[[Worker], object], slot: int | None, worker: Worker
    ) -> None:
        """In the new process, which nothing leaves: the frames below are the supervisor's."""
        try:
            signal.set_wakeup_fd(-1)
            for other in family:
                other.let_go()
            begin(worker)
            worker.seats = self._shares.seats(slot)
            worker.run(self._make_servers)
        except BaseException:
            with contextlib.suppress(BaseException):
                _log.critical("a worker could not begin", exc_info=True)
        finally:
            os._exit(FAILED)

    def close(self) -> None:
        """No more of them."""
        self._board.close()
