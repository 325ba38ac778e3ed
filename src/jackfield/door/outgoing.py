"""Replies of one batch of datagrams, gathered and sent at its end by one call of the kernel (sendmmsg(2)).

A reply that is sent alone wakes the client it is for, which has read it and sleeps again by the time the next one
comes: on a busy server most of what a datagram costs is such wake-ups. Of those that leave together most find their
client awake.

Nothing waits longer than for the batch: whoever runs the handlers sends what was gathered as soon as one of them waits,
and a handler that blocks without anybody's knowing (``time.sleep``, a long sum) is noticed by a thread that looks every
few milliseconds while there are batches.
"""

from __future__ import annotations

import contextlib
import errno
import threading
import time
from _socket import socket as _Raw
from array import array
from collections.abc import Callable
from typing import Any

from jackfield.reactor.patience import DONTWAIT
from jackfield.reactor.twin import native

__all__ = ["Outgoing"]

#: Bytes of a reply that is worth gathering: what a packet of Ethernet carries, several times over. A larger one takes
#: the kernel longer than the waking of its client.
LONGEST = 8192

#: Replies gathered at most: as many as the native twin sends at one go.
MOST = 64

#: Seconds between two looks for a handler that blocks: what was gathered before it leaves after two of them, and what
#: the interpreter takes to let another thread run (sys.getswitchinterval(), 5 ms).
TICK = 0.005

#: Looks without a batch after which nobody looks any more, until the next one.
QUIET = 20

#: A reply: its bytes, whom it is for, the ancillary data that say from which address (None: the socket's own), and the
#: socket by which to send it if there is something to think about.
Reply = tuple[bytes, Any, Any, Any]

#: What is where in the state.
BATCHES, IN_HAND, OVER = range(3)
HELD_UP = -1


class Outgoing:
    """The replies by ``socket`` that wait for the end of the batch in hand, in the order in which they were given.

    ``socket`` is one of this package's. ``failed(peer, error)`` is told of one that could not be sent, as it would be
    of a handler that lets that error out.
    """

    __slots__ = ("_failed", "_lock", "_shut", "_watch", "free", "peer", "pending", "socket", "state")

    def __init__(self, socket: Any, failed: Callable[[Any, BaseException], object]) -> None:
        self.socket = socket
        self.pending: list[Reply] = []
        #: Whose datagram a handler has in hand; to others, and while this is None, nothing is gathered.
        self.peer: Any = None
        #: Hosts whose replies no limit has a say in.
        self.free: set[str] = set()
        #: Batches so far, whether one is in hand, and whether the socket was closed: numbers that the native twin of
        #: the look reads while another thread has the interpreter.
        self.state = array("q", (0, 0, 0))
        self._failed = failed
        self._lock = threading.RLock()
        self._watch: _Watch | None = None
        self._shut = False

    def open(self, free: set[str]) -> bool:
        """The handlers of a batch come next, and :attr:`peer` may be set; False if their replies leave one by one.
        ``free`` are hosts whose replies no limit has a say in."""
        watch = self._watch
        self.state[BATCHES] += 1
        if (watch is None or not watch.is_alive()) and not self._look():  # also in a child that a handler has forked
            return False
        self.free = free
        self.state[IN_HAND] = 1
        return True

    def close(self) -> None:
        """From now on nothing is gathered; what was is still to be sent."""
        self.peer = None
        self.state[IN_HAND] = 0

    def send(self) -> bool:
        """Send what was gathered without waiting, from any thread; False if something is left."""
        return not self.pending or not _send_gathered(self.socket, self.pending, self._lock)

    def finish(self) -> None:
        """Send what was gathered, and wait for that in the way of whoever calls."""
        while not self.send():
            with contextlib.suppress(IndexError):  # another thread has sent it
                data, peer, _, through = self.pending.pop(0)
                try:
                    through.sendto(data, peer)
                except OSError as error:
                    self._failed(peer, error)

    async def afinish(self, asocket: Callable[[Any], Any]) -> None:
        """The same for a coroutine; ``asocket(socket)`` is one whose ``sendto`` is awaited."""
        while not self.send():
            with contextlib.suppress(IndexError):
                data, peer, _, through = self.pending.pop(0)
                try:
                    await asocket(through).sendto(data, peer)
                except OSError as error:
                    self._failed(peer, error)

    # -- the look for a handler that blocks --------------------------------------------------------------------------

    def _look(self) -> bool:
        """See to it that somebody looks; False where the system gives no thread, or the socket was closed."""
        with self._lock:
            if self._shut:
                return False
            if self._watch is None or not self._watch.is_alive():
                watch = _Watch(self)
                try:
                    watch.start()
                except RuntimeError:
                    return False
                self._watch = watch
        return True

    def unwatched(self, seen: int) -> None:
        """The thread that looked ends, having seen ``seen`` batches; another takes its place if there were more."""
        self._watch = None
        if self.state[BATCHES] != seen:
            self._look()

    def shut(self) -> None:
        """The socket is about to be closed; any number of times."""
        with self._lock:
            self._shut = True
            self.close()
            self.state[OVER] = 1
            watch, self._watch = self._watch, None
        self.send()
        if watch is not None and watch is not threading.current_thread():
            watch.join()  # it looks within a tick


class _Watch(threading.Thread):
    """Sends what a handler that blocks holds up."""

    def __init__(self, outgoing: Outgoing) -> None:
        super().__init__(name="jackfield-replies", daemon=True)
        self._outgoing = outgoing

    def run(self) -> None:
        outgoing, state = self._outgoing, self._outgoing.state
        while (seen := wait_held_up(state, TICK, QUIET)) == HELD_UP:
            outgoing.send()
        if not state[OVER]:
            outgoing.unwatched(seen)


def _wait_held_up(state: array[int], tick: float, quiet: int) -> int:
    """Look every ``tick`` seconds, until one batch is in hand at two looks: :data:`HELD_UP`; or ``quiet`` looks have
    found none, or the socket was closed: how many batches there were."""
    seen, still = state[BATCHES], 0
    while still < quiet and not state[OVER]:
        time.sleep(tick)
        batches = state[BATCHES]
        if batches != seen:
            seen, still = batches, 0
        elif state[IN_HAND]:
            return HELD_UP
        else:
            still += 1
    return seen


# The native one holds up nobody: it looks without the interpreter, which a handler would have to give it in between.
wait_held_up = _wait_held_up if native is None else native.wait_held_up


def _send_gathered(sock: Any, pending: list[Reply], lock: Any) -> int:
    """Send from the front of ``pending`` what the kernel takes; 0, or the number of the error that the first one left
    met."""
    if native is not None:
        met: int = native.send_gathered(sock, pending)
        return met
    with lock:
        while pending:
            try:
                reply = pending.pop(0)
            except IndexError:
                break
            data, peer, control, _ = reply
            try:
                if control is None:
                    sock.sent += _Raw.sendto(sock, data, DONTWAIT, peer)
                else:
                    sock.sent += _Raw.sendmsg(sock, [data], [control], DONTWAIT, peer)
            except OSError as error:
                pending.insert(0, reply)
                return error.errno or errno.EIO
    return 0
