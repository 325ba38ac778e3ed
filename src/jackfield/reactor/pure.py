"""The inner loop in Python: which descriptors are ready, and who waits for them.

The native twin (``native/`` in the source tree) does the same in C; :mod:`.twin` chooses. So this module is small and
knows neither asyncio nor greenlet: a waiter is any object with a ``switch()``, be it a green thread, a driven coroutine
or a one-shot callback.

Readiness is a hint, never a promise: whoever is resumed tries its system call again and waits again on ``EAGAIN``.
That makes three awkward facts of epoll(7) harmless: an event may be stale (the descriptor was closed and reused within
one batch), may be shared (another process reads the same open file), and may be reported twice.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Protocol

from ..errors import MisuseError
from .readiness import ERR, HUP, IN, OUT, PRI, RDHUP, ReadySet

if TYPE_CHECKING:
    from .poller import Poller

#: Events taken from the kernel at one go, and how often the set is polled again before the host loop has its turn.
#: Eight rounds let a busy server answer what arrived while it was answering, and keep asyncio's own cost (some ten
#: microseconds a turn) to a few percent of a batch.
BATCH = 512
ROUNDS = 8

#: Operations in a row that may succeed without waiting before the others have their turn. A peer that always has data
#: would otherwise keep its green thread running for ever.
STREAK = 64

#: What the kernel tells of nearly every message: bytes have come, and there is room for an answer.
_MESSAGE = IN | OUT
_READ = IN | RDHUP | PRI | HUP | ERR
_WRITE = OUT | HUP | ERR
_STICKY = RDHUP | PRI | HUP | ERR


class Waiter(Protocol):
    """Whoever is resumed: by ``switch()``, from the hub."""

    def switch(self) -> object: ...


class Channel:
    """What is known of one registered descriptor, and who waits for it.

    ``readable`` and ``writable`` are hints that an operation may succeed. Where ``short_is_empty`` is set, a read
    shorter than asked proves the kernel's buffer empty, so the reader may clear ``readable`` without a second call;
    after ``hangup`` (end of stream, error or urgent data, which epoll announces once) it must not.
    """

    __slots__ = (
        "borrowers", "fd", "hangup", "large", "lent", "poller", "readable", "reader", "short_is_empty", "streak",
        "writable", "writer",
    )  # fmt: skip

    def __init__(self, fd: int, poller: Poller) -> None:
        self.fd = fd
        #: The set it is registered in; None once forgotten.
        self.poller: Poller | None = poller
        self.readable = True
        self.writable = True
        self.hangup = False
        #: Whether messages have come that are larger than what a read asks for at first.
        self.large = False
        #: Whoever registers a stream of the internet says so.
        self.short_is_empty = False
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
            raise conflict(self.fd, "read", self.reader, waiter)
        self.reader = waiter

    def claim_writer(self, waiter: Waiter) -> None:
        """``waiter``, to whom ``writable`` was not true, is resumed when the descriptor may be written. MisuseError if
        another waits already."""
        if self.writer is not None:
            raise conflict(self.fd, "write", self.writer, waiter)
        self.writer = waiter

    def tell(self, mask: int) -> bool:
        """Note what an event tells of the end; whether it tells that a read may succeed."""
        if mask & _STICKY:
            self.hangup, self.short_is_empty = True, False
        return mask & _READ != 0


def conflict(fd: int, verb: str, first: object, second: object) -> MisuseError:
    """Two waiters for one direction."""
    return MisuseError(
        f"{second!r} would {verb} descriptor {fd} while {first!r} waits to {verb} it; "
        f"let one of them {verb} and hand the data on by a jackfield.sync.Queue, or give each a socket of its own"
    )


class Core:
    """The queue of those who can run, and the loop that resumes them."""

    def __init__(self, ready: ReadySet) -> None:
        self._poll = ready.poll
        #: By descriptor. To be read only, and in the native twin a copy.
        self.channels: dict[int, Channel] = {}
        self.runnable: deque[Waiter] = deque()
        self._undelivered: list[tuple[int, int]] = []
        #: True while ``dispatch()`` runs: what becomes runnable meanwhile needs no wake-up of the host loop.
        self.dispatching = False
        #: Who has the turn, and in which round: the watchdog tells a loop that is held from one that is busy by them.
        self.current: Waiter | None = None
        self.rounds = 0

    def find(self, fd: int) -> Channel | None:
        """Whose the events of ``fd`` are."""
        return self.channels.get(fd)

    def enter(self, channel: Channel) -> None:
        """Events of its descriptor are for ``channel`` from now on."""
        self.channels[channel.fd] = channel

    def leave(self, channel: Channel) -> bool:
        """Events of its descriptor are for nobody. False if they were not for ``channel``."""
        if self.channels.get(channel.fd) is not channel:
            return False
        del self.channels[channel.fd]
        return True

    def clear(self) -> None:
        """Forget all, at the end."""
        self.channels.clear()
        self.runnable.clear()

    def dispatch(self) -> bool:
        """Resume all who can run, poll, resume all who became ready; a few rounds. True if some are left to run."""
        waiter: Waiter | None
        runnable, channels, poll = self.runnable, self.channels, self._poll
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
                    try:
                        channel = channels[fd]
                    except KeyError:
                        continue  # of a descriptor that an earlier one of this batch has closed
                    if mask == _MESSAGE or channel.tell(mask):
                        channel.readable = True
                        waiter = channel.reader
                        if waiter is not None:
                            channel.reader = None
                            self.current = waiter
                            waiter.switch()
                    # An edge tells all that holds now, so most events of a reader say that it could write as well.
                    if not channel.writable and mask & _WRITE:
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
