"""The inner loop: which descriptors are ready, and who waits for them.

This is the one module with a native twin in view, so it is small and knows neither asyncio nor greenlet. A waiter is
any object with a ``switch()``: a green thread, a driven coroutine, a one-shot callback.

Readiness is a hint, never a promise: whoever is resumed tries its system call again and waits again on ``EAGAIN``.
That makes three awkward facts of epoll(7) harmless: an event may be stale (the descriptor was closed and reused within
one batch), may be shared (another process reads the same open file), and may be reported twice.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from typing import Protocol

from ..errors import MisuseError
from .readiness import ERR, ET, HUP, IN, OUT, PRI, RDHUP, open_set

#: Events taken from the kernel at one go, and how often the set is polled again before the host loop has its turn.
#: Eight rounds let a busy server answer what arrived while it was answering, and keep asyncio's own cost (some ten
#: microseconds a turn) to a few percent of a batch.
BATCH = 512
ROUNDS = 8

_READ = IN | RDHUP | PRI | HUP | ERR
_WRITE = OUT | HUP | ERR
_STICKY = RDHUP | PRI | HUP | ERR
_REGISTER = IN | OUT | RDHUP | PRI | ET


class Waiter(Protocol):
    """Whoever is resumed: by ``switch()``, from the hub."""

    def switch(self) -> object: ...


class Channel:
    """What is known of one registered descriptor, and who waits for it.

    ``readable`` and ``writable`` are hints that an operation may succeed. A read shorter than asked proves a stream's
    kernel buffer empty, so the reader may clear ``readable`` without a second call; after ``hangup`` (end of stream,
    error or urgent data, which epoll announces once) it must not.
    """

    __slots__ = ("borrowers", "fd", "hangup", "lent", "poller", "readable", "reader", "streak", "writable", "writer")

    def __init__(self, fd: int, poller: Poller) -> None:
        self.fd = fd
        #: The set it is registered in; None once forgotten.
        self.poller: Poller | None = poller
        self.readable = True
        self.writable = True
        self.hangup = False
        self.reader: Waiter | None = None
        self.writer: Waiter | None = None
        #: Those who wait for the bare descriptor, and whether the channel is there for them only.
        self.borrowers = 0
        self.lent = False
        #: Operations in a row that did not wait, so that whoever never waits can give the others a turn.
        self.streak = 0

    def claim_reader(self, waiter: Waiter) -> None:
        """``waiter`` is resumed when the descriptor may be read. MisuseError if another waits already."""
        if self.reader is not None:
            raise _conflict(self.fd, "read", self.reader, waiter)
        self.reader = waiter

    def claim_writer(self, waiter: Waiter) -> None:
        """``waiter`` is resumed when the descriptor may be written. MisuseError if another waits already."""
        if self.writer is not None:
            raise _conflict(self.fd, "write", self.writer, waiter)
        self.writer = waiter


def _conflict(fd: int, verb: str, first: object, second: object) -> MisuseError:
    return MisuseError(
        f"{second!r} would {verb} descriptor {fd} while {first!r} waits to {verb} it; "
        f"let one of them {verb} and hand the data on by a jackfield.sync.Queue, or give each a socket of its own"
    )


class Poller:
    """An edge-triggered set and the queue of those who can run at once.

    ``fileno()`` is readable whenever ``dispatch()`` has something to do for a descriptor, so one registration with a
    host loop stands for them all (an epoll set may be a member of another: epoll(7), question 5).
    """

    def __init__(self, schedule: Callable[[Waiter], None]) -> None:
        """``schedule`` gives a waiter a turn, from any thread."""
        self._schedule = schedule
        self._ready = open_set()
        self.channels: dict[int, Channel] = {}
        self.runnable: deque[Waiter] = deque()
        self._undelivered: list[tuple[int, int]] = []
        #: True while ``dispatch()`` runs: what becomes runnable meanwhile needs no wake-up of the host loop.
        self.dispatching = False
        #: Who has the turn, and in which round: the watchdog tells a loop that is held from one that is busy by them.
        self.current: Waiter | None = None
        self.rounds = 0

    def fileno(self) -> int:
        return self._ready.fileno()

    def register(self, fd: int) -> Channel:
        """The channel of ``fd``, registered once for both directions. PermissionError for what cannot be polled."""
        try:
            self._ready.register(fd, _REGISTER)
        except FileExistsError:
            # Two socket objects for one descriptor share its channel: what either knew of it no longer holds.
            channel = self.channels.get(fd)
            if channel is not None:
                channel.readable = channel.writable = True
                return channel
            self._ready.modify(fd, _REGISTER)
        # An older channel under this number is that of a descriptor closed without our knowing: the kernel dropped it.
        channel = self.channels[fd] = Channel(fd, self)
        return channel

    def forget(self, channel: Channel) -> None:
        """Unregister before the descriptor is closed, and resume whoever waits: their next call says that it is closed.

        A close alone does not leave the set while a duplicate or a forked child holds the same open file: epoll(7).
        """
        if self.channels.get(channel.fd) is channel:
            del self.channels[channel.fd]
            try:
                self._ready.unregister(channel.fd)
            except (OSError, ValueError):
                pass  # closed already, by whoever owned the number
        channel.poller = None
        channel.readable = channel.writable = True
        if channel.reader is not None or channel.writer is not None:
            self._schedule(_Wake(channel))

    def dispatch(self) -> bool:
        """Resume all who can run, poll, resume all who became ready; a few rounds. True if some are left to run."""
        waiter: Waiter | None
        runnable, channels, poll = self.runnable, self.channels, self._ready.poll
        self.dispatching = True
        undelivered = iter(self._undelivered)
        try:
            for _ in range(ROUNDS):
                self.rounds += 1
                # Only those that are here now: one that yields runs again after the others had their events.
                for _ in range(len(runnable)):
                    self.current = waiter = runnable.popleft()
                    waiter.switch()
                events = self._undelivered or poll(0, BATCH)
                self._undelivered = []
                if not events:
                    if runnable:
                        continue
                    return False
                undelivered = iter(events)
                for fd, mask in undelivered:
                    channel = channels.get(fd)
                    if channel is None:
                        continue
                    if mask & _STICKY:
                        channel.hangup = True
                    if mask & _READ:
                        channel.readable = True
                        waiter = channel.reader
                        if waiter is not None:
                            channel.reader = None
                            self.current = waiter
                            waiter.switch()
                    # An edge tells all that holds now, so most events of a reader say that it could write as well.
                    if (not channel.writable or channel.writer is not None) and mask & _WRITE:
                        channel.writable = True
                        waiter = channel.writer
                        if waiter is not None:
                            channel.writer = None
                            self.current = waiter
                            waiter.switch()
            return bool(runnable)
        except BaseException:
            # A signal handler may raise in this very frame; each edge is told once, so the rest must not be lost.
            self._undelivered = list(undelivered)
            raise
        finally:
            self.dispatching = False
            self.current = None

    @contextlib.contextmanager
    def giving_turns(self) -> Iterator[None]:
        """Turns are given by someone else than ``dispatch()``, which then sees to what became runnable."""
        self.dispatching = True
        self.rounds += 1
        try:
            yield
        finally:
            self.dispatching = False

    @property
    def closed(self) -> bool:
        return self._ready.closed

    def close(self) -> None:
        for channel in self.channels.values():
            channel.poller = None
        self.channels.clear()
        self.runnable.clear()
        self._ready.close()


class _Wake:
    """A turn for whoever still waits on a forgotten channel."""

    __slots__ = ("channel",)

    def __init__(self, channel: Channel) -> None:
        self.channel = channel

    def switch(self) -> None:
        channel = self.channel
        reader, channel.reader = channel.reader, None
        if reader is not None:
            reader.switch()
        writer, channel.writer = channel.writer, None
        if writer is not None:
            writer.switch()
