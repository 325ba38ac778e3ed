"""How much of each kind the log is given: a burst, then a trickle, and a count of the rest.

It is told by values and a moment; nothing here writes. Where handlers run in forked processes, each of which would
begin with a burst of its own, :meth:`Tallies.share` lets all of them draw on the one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import mmap
import os
import select
import struct
import threading
import weakref
from collections.abc import Iterator

__all__ = ["BURST", "BURST_BYTES", "BYTES_RATE", "LEAST", "RATE", "Held", "Tallies"]

#: Records of a kind at once, and how many a second come after that.
BURST, RATE = 10, 1.0

#: Bytes of a kind at once, and a second after that. Ten tracebacks of a usual handler are 8 to 12 KiB; 300 errors whose
#: texts are as long as a peer can make them must stay below 16 KiB with what is said of the rest.
BURST_BYTES, BYTES_RATE = 12 * 1024, 1024.0

#: Bytes that a record takes before it is known how long it is; with fewer left than these none is begun.
LEAST = 1024

#: Kinds told apart. Whoever names more of them shares the last one's tally.
MOST_KINDS = 8
REST = "others"

#: Looks for the lock of all processes, a millisecond apart, before it is done without.
LOOKS = 50

_SLOT = struct.Struct("=40sidddQQ")
_HEAD = struct.Struct("=BQ")  # whether something is held back; records lost


@dataclasses.dataclass(slots=True)
class Tally:
    """What a kind may still take, and what was held back of it."""

    level: int = 0
    records: float = BURST
    room: float = BURST_BYTES
    #: The moment up to which both have grown; below zero before the first.
    at: float = -1.0
    #: Held back and not told yet; and all that was ever held back.
    held: int = 0
    suppressed: int = 0

    def grow(self, now: float) -> None:
        # A clock of another process may be behind by the time it took to get the lock.
        passed = max(0.0, now - self.at) if self.at >= 0 else 0.0
        self.records = min(BURST, self.records + passed * RATE)
        self.room = min(BURST_BYTES, self.room + passed * BYTES_RATE)
        self.at = max(self.at, now)

    @property
    def delay(self) -> float:
        """Seconds until another record may be begun; 0 if one may be now."""
        return max(0.0, (1 - self.records) / RATE, (LEAST - self.room) / BYTES_RATE)


@dataclasses.dataclass(frozen=True, slots=True)
class Held:
    """``count`` records of ``kind`` were held back, the last of them of ``level``."""

    kind: str
    level: int
    count: int


class Tallies:
    """The tallies of all kinds; safe from any thread, across forks, and from signal handlers."""

    def __init__(self) -> None:
        # Reentrant, because Python runs signal handlers between two steps of the thread that has it.
        self._lock = threading.RLock()
        self._kinds: dict[str, Tally] = {}
        self._lost = 0
        self._holds = False
        self._pid = os.getpid()
        self._open = 0
        self._memory: mmap.mmap | None = None
        self._lock_fd = -1
        self._lock_file: tuple[int, int] | None = None
        self._close: weakref.finalize[..., Tallies] | None = None

    # -- taking ------------------------------------------------------------------------------------------------------

    def take(self, kind: str, level: int, now: float) -> Held | None:
        """Begin a record of ``kind``: what was held back before it, to be told now. None: this one is held back."""
        with self._changing():
            name, tally = self._of(kind)
            tally.level = level
            tally.grow(now)
            if tally.delay:
                tally.held += 1
                tally.suppressed += 1
                return None
            tally.records -= 1
            tally.room -= LEAST
            before, tally.held = Held(name, level, tally.held), 0
            return before

    def settle(self, kind: str, wanted: int) -> int:
        """The record begun is of ``wanted`` bytes: how many it may be, which is at least LEAST."""
        with self._changing():
            tally = self._of(kind)[1]
            granted = min(wanted, LEAST + max(0, int(tally.room)))
            tally.room -= granted - LEAST
            return granted

    def due(self, now: float) -> tuple[list[Held], float | None]:
        """What was held back and may be told now; and the seconds until more of it may, None if there is none."""
        if not self.holds:
            return [], None
        found, delays = [], []
        with self._changing():
            for kind, tally in self._kinds.items():
                if not tally.held:
                    continue
                tally.grow(now)
                if tally.delay:
                    delays.append(tally.delay)
                else:
                    tally.records -= 1
                    found.append(Held(kind, tally.level, tally.held))
                    tally.held = 0
        return found, min(delays, default=None)

    def rest(self) -> list[Held]:
        """All that was held back and not told."""
        with self._changing():
            found = [Held(kind, tally.level, tally.held) for kind, tally in self._kinds.items() if tally.held]
            for tally in self._kinds.values():
                tally.held = 0
        return found

    def lose(self) -> None:
        """A record could not be written."""
        with self._changing():
            self._lost += 1

    # -- what is known -----------------------------------------------------------------------------------------------

    @property
    def holds(self) -> bool:
        """Whether something is held back that was not told. Quick: a loop asks at every turn."""
        memory = self._memory
        return self._holds if memory is None else memory[0] != 0

    @property
    def lost(self) -> int:
        with self._changing():
            return self._lost

    def suppressed(self) -> dict[str, int]:
        """By kind, what was ever held back."""
        with self._changing():
            return {kind: tally.suppressed for kind, tally in self._kinds.items()}

    def _of(self, kind: str) -> tuple[str, Tally]:
        tally = self._kinds.get(kind)
        if tally is None:
            if len(self._kinds) >= MOST_KINDS - 1 or not (kind.isascii() and 0 < len(kind) <= 40):
                kind = REST
            tally = self._kinds.setdefault(kind, Tally())
        return kind, tally

    # -- between processes -------------------------------------------------------------------------------------------

    def share(self) -> None:
        """From now on, children that are forked draw on the same tallies. It takes a descriptor until :meth:`close`.

        :raises OSError: there is no descriptor or memory for it; all is as before then.
        """
        if self._memory is not None:
            return
        # Anonymous memory is shared with children (mmap(2), MAP_SHARED) and is no descriptor that one of them could
        # close, and then have as another file's.
        memory = mmap.mmap(-1, _HEAD.size + MOST_KINDS * _SLOT.size)
        # The lock is a record lock (fcntl(2)), because the kernel lets that one go when its holder is killed.
        lock_fd = _nameless_file()
        with self._lock:
            self._memory, self._lock_fd, self._lock_file = memory, lock_fd, _identity(lock_fd)
            self._close = weakref.finalize(self, os.close, lock_fd)
            self._save()

    def close(self) -> None:
        """Keep the tallies to this process again. Any number of times."""
        with self._changing():
            self._memory = None  # given back when nobody looks into it any more
            close, self._close = self._close, None
        if close is not None:
            close()

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        if self._pid != os.getpid():
            self._begin_child()
        with self._lock:
            if self._open:  # a signal handler's, in the middle of the other's change
                yield
                return
            self._open = 1
            locked = self._memory is not None and self._is_lock() and _lock(self._lock_fd)
            try:
                if self._memory is not None:
                    self._load()
                yield
                if self._memory is not None:
                    self._save()
            finally:
                self._open = 0
                self._holds = any(tally.held for tally in self._kinds.values())
                if locked:
                    _unlock(self._lock_fd)

    def _begin_child(self) -> None:
        """A fork copies only the thread that forks: where another had the lock, nobody is left to let it go
        (pthread_atfork(3)), and at most a count is half done."""
        self._pid, self._lock, self._open = os.getpid(), threading.RLock(), 0
        if self._memory is None:
            for tally in self._kinds.values():
                tally.held = 0  # the parent tells of them

    def _is_lock(self) -> bool:
        """False in a child whose handler has closed what it did not open: the number may be a file of its own now."""
        return _identity(self._lock_fd) == self._lock_file

    def _load(self) -> None:
        assert self._memory is not None
        self._kinds = {}  # by their order here, each has its place there
        self._lost = _HEAD.unpack_from(self._memory, 0)[1]
        for number in range(MOST_KINDS):
            name, *values = _SLOT.unpack_from(self._memory, _HEAD.size + number * _SLOT.size)
            if not name[0]:
                break
            self._kinds[name.rstrip(b"\0").decode()] = Tally(*values)

    def _save(self) -> None:
        assert self._memory is not None
        for number, (kind, tally) in enumerate(self._kinds.items()):
            values = (getattr(tally, field.name) for field in dataclasses.fields(tally))
            _SLOT.pack_into(self._memory, _HEAD.size + number * _SLOT.size, kind.encode(), *values)
        _HEAD.pack_into(self._memory, 0, any(tally.held for tally in self._kinds.values()), self._lost)


def _nameless_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("jackfield-journal", os.MFD_CLOEXEC)
    import tempfile  # late: not on Linux

    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _identity(fd: int) -> tuple[int, int] | None:
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _lock(fd: int) -> bool:
    """Nobody waits for long: a child that was stopped (SIGSTOP) may hold it, and a count that is off by one is less
    of a harm than a server that stands."""
    for _ in range(LOOKS):
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except (BlockingIOError, PermissionError):
            select.select([], [], [], 0.001)
        except OSError:
            break
    return False


def _unlock(fd: int) -> None:
    with contextlib.suppress(OSError):
        fcntl.lockf(fd, fcntl.LOCK_UN)
