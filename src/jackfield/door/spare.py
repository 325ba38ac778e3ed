"""A descriptor held in reserve: when there is no other, clients can still be accepted, to be told and closed.

A client in the queue of a server that has no descriptor left believes that it is connected, and waits for as long as
its own patience lasts. For a moment that is the better lot, as descriptors come back when connections end. After
:data:`SHED_AFTER` seconds it is better told, so that it can go elsewhere or come again (libuv and uvloop shed at once;
HAProxy, nginx and OpenSSH have no spare and let it wait).
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from jackfield.clock import MONOTONIC, Clock

__all__ = ["SHED_AFTER", "Shedding", "Spare"]

T = TypeVar("T")

SHED_AFTER = 1.0
"""Seconds without a descriptor after which clients are turned away; until then they wait in the kernel's queue."""

#: What a descriptor given back helps against. Memory (ENOMEM, ENOBUFS) it does not give.
_HELPED = (errno.EMFILE, errno.ENFILE)


def _open() -> int:
    # An open file of its own and not a copy by dup(2): ENFILE is about the open files of the whole machine, of which a
    # copy is none. It needs nothing in the file system, where a chroot may have left nothing.
    if sys.platform == "linux":
        return os.eventfd(0, os.EFD_CLOEXEC)
    return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)


class Spare:
    """One descriptor that is held for nothing but to be given back in need. Opens nothing until :meth:`take`.

    To be used by the one thread that accepts. The number that :meth:`lent` gives back is anybody's: another thread may
    be faster, and then there is no spare until a later :meth:`take` finds a descriptor; nothing else comes of it.

    :param open: gives a descriptor or raises ``OSError``.
    :param close: gives one back.
    """

    def __init__(self, open: Callable[[], int] = _open, close: Callable[[int], object] = os.close) -> None:
        self._open = open
        self._close = close
        self._fd = -1
        self._is_closed = False

    @property
    def held(self) -> bool:
        """Whether there is one to lend."""
        return self._fd >= 0

    def take(self) -> bool:
        """Hold one, if it is not held already and there is one to be had; whether it is held now."""
        if self._fd < 0 and not self._is_closed:
            with contextlib.suppress(OSError):
                self._fd = self._open()
        return self._fd >= 0

    @contextlib.contextmanager
    def lent(self) -> Iterator[None]:
        """For the length of the block there is one descriptor more; then it is taken again, if it can be."""
        self._give()
        try:
            yield
        finally:
            self.take()

    def _give(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self._close(fd)

    def close(self) -> None:
        """Give it back for good; any number of times."""
        self._is_closed = True
        self._give()


class Shedding(Generic[T]):
    """When one listener's clients are turned away for want of descriptors, and how.

    :param spare: the server's; several listeners may share it.
    :param refuse: gets each connection that is turned away; it tells the peer what there is to tell, and closes it.
    :param clock: for ``after``.
    :param after: seconds without a descriptor until the first is turned away.
    """

    def __init__(
        self, spare: Spare, refuse: Callable[[T], object], clock: Clock = MONOTONIC, *, after: float = SHED_AFTER
    ) -> None:
        self.spare = spare
        self.refuse = refuse
        self.after = after
        self._clock = clock
        self._since: float | None = None
        self._last = 0.0
        self._futile_until = 0.0

    def is_due(self, error: OSError) -> bool:
        """Accept failed with ``error``: whether a client is now to be turned away.

        A want of descriptors lasts from its first failure until something was accepted or nobody waited. Where nobody
        asked for ``after`` seconds nobody knows whether it lasted, and the next client waits its time.
        """
        if error.errno not in _HELPED:
            return False
        now = self._clock.now()
        if self._since is None or now - self._last > self.after:
            self._since = now
        self._last = now
        return self.spare.held and now - self._since >= self.after and now >= self._futile_until

    def note_well(self) -> None:
        """A descriptor was to be had, or nobody waits for one. From any thread."""
        self._since = None

    def note_futile(self) -> None:
        """Accept failed with the spare's descriptor too: it is not asked for another ``after`` seconds, because each
        such attempt is one more failing call on top of those that look for the end of the trouble."""
        self._futile_until = self._clock.now() + self.after
