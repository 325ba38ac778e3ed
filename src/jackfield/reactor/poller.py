"""The poller: the edge-triggered set of one reactor, what is registered in it, and who can run.

The loop itself is :class:`Core`, of which there are two twins: see :mod:`.pure`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from .pure import Waiter
from .readiness import ET, IN, OUT, PRI, RDHUP, open_set
from .twin import Channel, Core

__all__ = ["Channel", "Poller", "Waiter"]

_REGISTER = IN | OUT | RDHUP | PRI | ET


class Poller(Core):
    """An edge-triggered set and the queue of those who can run at once.

    ``fileno()`` is readable whenever ``dispatch()`` has something to do for a descriptor, so one registration with a
    host loop stands for them all (an epoll set may be a member of another: epoll(7), question 5).
    """

    def __init__(self, schedule: Callable[[Waiter], None]) -> None:
        """``schedule`` gives a waiter a turn, from any thread."""
        self._ready = open_set()
        super().__init__(self._ready)
        self._schedule = schedule

    def fileno(self) -> int:
        return self._ready.fileno()

    def register(self, fd: int) -> Channel:
        """The channel of ``fd``, registered once for both directions. PermissionError for what cannot be polled."""
        try:
            self._ready.register(fd, _REGISTER)
        except FileExistsError:
            # Two socket objects for one descriptor share its channel: what either knew of it no longer holds.
            channel = self.find(fd)
            if channel is not None:
                channel.readable, channel.writable = True, channel.writer is None
                return channel
            self._ready.modify(fd, _REGISTER)
        # An older channel under this number is that of a descriptor closed without our knowing: the kernel dropped it.
        channel = Channel(fd, self)
        self.enter(channel)
        return channel

    def forget(self, channel: Channel) -> None:
        """Unregister before the descriptor is closed, and resume whoever waits: their next call says that it is closed.

        A close alone does not leave the set while a duplicate or a forked child holds the same open file: epoll(7).
        """
        if self.leave(channel):
            try:
                self._ready.unregister(channel.fd)
            except (OSError, ValueError):
                pass  # closed already, by whoever owned the number
        channel.poller = None
        channel.readable = channel.writable = True
        if channel.reader is not None or channel.writer is not None:
            self._schedule(_Wake(channel))

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
        self.clear()
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
