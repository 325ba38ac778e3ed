"""Turns: of several processes one at a time changes what they share, and one that is stopped in its turn, or killed,
does not keep the others for longer than a moment.

A lock of the kernel's that dies with its holder (fcntl(2), record locks) is let go of when that one is killed, but not
when it is stopped: SIGSTOP, a debugger, the freezer of a cgroup. Nor can it be taken away, since whoever is stopped
between a look and a write writes when it goes on. So here the place is taken away, not the lock: what is shared lies in
one of several *rooms*, each with a lock of its own. Whoever waits in vain copies the room into one that nobody holds,
and says that this is the one from now on. The one who was stopped goes on in a room that nobody looks at any more,
finds that out when its turn ends, and does its work once more in the right one.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Callable
from typing import Any, Protocol

__all__ = ["PATIENCE", "FileLocks", "Locks", "Turns"]

_log = logging.getLogger("jackfield.server")

#: Seconds after which whoever has a turn is taken to be stopped. A turn is some 10 microseconds of work; one that the
#: scheduler has put aside has the processor again within a few of its slices (3 ms each, sched(7)).
PATIENCE = 0.05

#: Seconds between two tries, at most; they begin with none.
LONGEST_PAUSE = 0.001

# The words that all agree on: whether somebody copies a room just now; and how often a room was left behind, times the
# rooms there are, plus the number of the one that is used now. With the number alone, somebody who was stopped when the
# lock was let go of, and before this was looked at, would not see that the room was left and come back to.
_MOVING, _PLACE = 0, 1

#: Words that :class:`Turns` needs.
WORDS = 2


class Locks(Protocol):
    """Numbered locks between processes; one that dies lets go of its own."""

    def take(self, number: int) -> bool:
        """Whether it is ours now; never waits."""

    def free(self, number: int) -> None:
        """It is ours no more."""


class FileLocks:
    """Bytes of a file without a name, each a lock: traditional record locks, which belong to the process and are let go
    of by the kernel when it dies (fcntl(2)); a child that is forked has none of them.

    The kernel also lets go of all of them when the process closes *any* descriptor of that file, so nobody is to
    duplicate this one.

    :raises OSError: the system gives no file.
    """

    __slots__ = ("_fd",)

    def __init__(self) -> None:
        if hasattr(os, "memfd_create"):
            self._fd = os.memfd_create("jackfield-turns")
        else:
            import tempfile  # late: Linux does without

            with tempfile.TemporaryFile() as file:
                self._fd = os.dup(file.fileno())

    def take(self, number: int) -> bool:
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        except OSError:  # EAGAIN or EACCES: another process has it; ENOLCK: the kernel has no room for one more
            return False
        return True

    def free(self, number: int) -> None:
        fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, number)

    def close(self) -> None:
        """Give the file back; any number of times."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class Turns:
    """Who may change what is shared, for one process; not for several of its threads at a time.

    :param words: :data:`WORDS` whole numbers that all processes share, zero at first.
    :param rooms: how many there are. Each process that is stopped in its turn keeps one from being used.
    :param copy: copies what is in the first room into the second.

    What is done in a turn may end at any step, when its process is killed or the room is left behind, and may then be
    done again: each single write must leave something that can be right.

    .. note:: The writes of one process must be seen by the others in their order. On x86 they are; elsewhere the system
       calls between them, each of which takes locks of the kernel's, order them in practice.
    """

    def __init__(
        self, words: Any, rooms: int, locks: Locks, copy: Callable[[int, int], None],
        *, now: Callable[[], float] = time.monotonic, sleep: Callable[[float], object] = time.sleep,
    ) -> None:  # fmt: skip
        self._words = words
        self._rooms = rooms
        self._locks = locks
        self._copy = copy
        self._now = now
        self._sleep = sleep
        #: Whether the last wait was in vain: then it is tried again, at each turn, without waiting.
        self._hopeless = False
        #: Rooms that this process has left behind, with whoever was stopped in them.
        self.moves = 0

    @property
    def room(self) -> int:
        """The number of the room that all look at."""
        return int(self._words[_PLACE]) % self._rooms

    def take(self) -> int | None:
        """The place whose room, ``place % rooms``, may be changed now, until :meth:`give`.

        None: every room is held by somebody who was stopped in it, or somebody was stopped while copying one. It waits
        for twice :data:`PATIENCE` at most, and not at all while the last one was in vain.
        """
        place = int(self._words[_PLACE])
        room = place % self._rooms
        if self._locks.take(room):
            if not self._words[_MOVING] and self._words[_PLACE] == place:
                self._hopeless = False
                return place
            self._locks.free(room)
        return self._wait()

    def give(self, place: int) -> bool:
        """The turn is over. False: the room was left behind meanwhile, and nothing that was done in it counts."""
        # The lock first. The system call stands between our last write and this look, as another one stands between
        # the mover's word and its first look at the room; so either that one sees the write, or we see the word.
        self._locks.free(place % self._rooms)
        return not self._words[_MOVING] and bool(self._words[_PLACE] == place)

    def _wait(self) -> int | None:
        patience = 0.0 if self._hopeless else PATIENCE
        began, waited_for, pause = self._now(), int(self._words[_PLACE]), 0.0
        last = began + 2 * patience
        while True:
            place = int(self._words[_PLACE])
            if self._locks.take(place % self._rooms):
                if not self._is_moving() and self._words[_PLACE] == place:
                    self._hopeless = False
                    return place
                self._locks.free(place % self._rooms)
            now = self._now()
            if place != waited_for:
                began, waited_for = now, place  # somebody has moved: whoever holds this one has only just begun
            if now - began >= patience or now >= last:
                moved = self._move(place)
                if moved is not None:
                    self._hopeless = False
                    return moved
                if now >= last:
                    self._despair()
                    return None
            self._sleep(pause)
            pause = min(2 * pause + 1e-5, LONGEST_PAUSE)

    def _is_moving(self) -> bool:
        """Whether somebody copies a room; one who was killed at it does not."""
        if not self._words[_MOVING]:
            return False
        if not self._locks.take(self._rooms):
            return True
        self._words[_MOVING] = 0
        self._locks.free(self._rooms)
        return False

    def _move(self, place: int) -> int | None:
        """Leave ``place`` behind, with whoever is in its room; the one that is ours then, None if there is none."""
        mover, room = self._rooms, place % self._rooms
        if not self._locks.take(mover):
            return None
        found = None
        try:
            if self._words[_PLACE] != place:
                return None
            self._words[_MOVING] = 1
            if self._locks.take(room):
                found = room  # just now it was let go of
            else:
                found = next((other for other in range(self._rooms) if other != room and self._locks.take(other)), None)
                if found is not None:
                    self._copy(room, found)
                    place += self._rooms - room + found
                    self._words[_PLACE] = place
            self._words[_MOVING] = 0
        except BaseException:
            self._words[_MOVING] = 0
            if found is not None:
                self._locks.free(found)
            raise
        finally:
            self._locks.free(mover)
        if found is None:
            return None
        if found != room:
            self.moves += 1
            if self.moves == 1:
                _log.warning("a process was stopped, or had no processor, for %g s while it counted clients; the others"
                             " go on without it", PATIENCE)  # fmt: skip
        return place

    def _despair(self) -> None:
        if not self._hopeless:
            self._hopeless = True
            _log.warning("every place where clients are counted is held by a process that was stopped: each process"
                         " keeps to its own share of the limits until one goes on or ends")  # fmt: skip
