"""The deadlines of live connections: who has overstayed, and why.

Moving data moves nothing here. Each connection is looked at now and then, more often the shorter its patience is; the
look compares what its socket has counted with what it had counted at the last one. So a deadline costs a message
nothing, and is kept to within a tenth of itself and a quarter of a second.

Only waiting for the peer is the peer's to answer for: while the handler computes, or waits for something else, no
deadline runs but the connection's lifetime.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .connections import Connection, Connections
from .events import Reason
from .reactor.bridges import ready_now

if TYPE_CHECKING:
    from .limits import Limits

#: Seconds: connections that are due within one of these are looked at together.
SLOT = 0.25

#: A look comes after this part of the shortest patience, but not sooner than after so many seconds.
PART = 10
SHORTEST_STEP = 0.1

#: Seconds over which the peer has to take ``min_rate`` bytes a second of an answer: Postfix's measure is a minute.
RATE_WINDOW = 60.0


class Pace:
    """How a connection has moved, from one look to the next."""

    __slots__ = ("asked", "base", "began", "moved", "moved_at", "sent", "window")

    def __init__(self, base: int, now: float) -> None:
        #: Bytes received before the first of the handler's: those of a PROXY header and a TLS handshake.
        self.base = base
        self.moved = -1
        self.moved_at = now
        #: The message under way: how much had come before it, and since when it is seen.
        self.asked: int | None = None
        self.began = now
        #: The answer under way: how much had gone, and since when.
        self.sent = 0
        self.window: float | None = None


class Deadlines:
    """Ends the connections that overstay, when it is asked to :meth:`look`.

    Entering and leaving cost the same however many there are; both from any thread. ``limits`` may be replaced at any
    time and holds from the next look at each connection.
    """

    __slots__ = (
        "_clock", "_connections", "_earliest", "_first", "_hurried", "_limits", "_number", "_slot", "_slots", "_step",
        "_until", "any", "entered", "on_earlier",
    )  # fmt: skip

    def __init__(self, connections: Connections, limits: Limits) -> None:
        self._connections = connections
        self._clock = connections.clock
        #: How many are in, by which it is told whether there is pressure.
        self.entered: Callable[[], int] = lambda: connections.entered
        self.limits = limits
        #: By number of the slot, and in it by id.
        self._slots: dict[int, dict[int, Connection]] = {}
        self._earliest: int | None = None
        #: Called when a connection is due before all that were there.
        self.on_earlier: Callable[[], object] = lambda: None

    @property
    def limits(self) -> Limits:
        return self._limits

    @limits.setter
    def limits(self, limits: Limits) -> None:
        self._limits = limits
        self._step = _step(limits.idle_timeout, limits.first_byte_timeout, limits.send_timeout, limits.message_timeout)
        self._hurried = _step(limits.pressure_idle_timeout, self._step and self._step * PART)
        #: Whether an established connection has any deadline.
        self.any = self._step is not None or limits.connection_lifetime is not None
        #: Seconds from the moment that it is established to the first look at it.
        self._first = min(
            (seconds for seconds in (self._step, limits.connection_lifetime) if seconds is not None), default=0.0
        )
        #: The slot of those that come in these moments, its number, and until when.
        self._slot: dict[int, Connection] = {}
        self._number = 0
        self._until = 0.0

    # -- who is looked at --------------------------------------------------------------------------------------------

    def enter(self, connection: Connection) -> None:
        """Look at ``connection`` from now on."""
        if connection.established:
            if not self.any:
                return
            now = self._clock.now()
            if now < self._until:
                # As _schedule() does it, for nearly all.
                number = connection.due = self._number
                slot = self._slot
                slot[connection.id] = connection
                earliest = self._earliest
                if self._slots.get(number) is slot and earliest is not None and earliest <= number:
                    return
            self._schedule(connection, now + self._first)
            self._number = number = connection.due
            self._slot = self._slots.get(number, {})
            self._until = number * SLOT - self._first
        elif self._limits.handshake_timeout is not None:
            self._schedule(connection, connection.since + self._limits.handshake_timeout)

    def established(self, connection: Connection, received: int) -> None:
        """PROXY header and TLS handshake are done; the handler's time begins with ``received`` bytes."""
        now = self._clock.now()
        connection.established = True
        connection._pace = Pace(received, now)
        if self.any:
            self._schedule(connection, now + self._first)

    def leave(self, connection: Connection) -> None:
        """No longer look at it; nothing happens if it was not looked at."""
        slot = self._slots.get(connection.due)
        if slot is not None:
            slot.pop(connection.id, None)

    def _schedule(self, connection: Connection, due: float) -> None:
        number, slots = int(due / SLOT) + 1, self._slots
        before = connection.due
        connection.due = number
        if before and before != number and (old := slots.get(before)) is not None:
            old.pop(connection.id, None)
        while True:
            slot = slots.get(number)
            if slot is None:
                slot = slots.setdefault(number, {})
            slot[connection.id] = connection
            if slots.get(number) is slot:
                break  # no look has taken the slot away meanwhile, on another thread
        earliest = self._earliest
        if earliest is None or number < earliest:
            self._earliest = number
            self.on_earlier()

    # -- looking -----------------------------------------------------------------------------------------------------

    def look(self) -> float | None:
        """End those that have overstayed; the seconds until the next look, None while there is nobody to look at."""
        earliest = self._earliest
        if earliest is None:
            return None
        if not self._slots.get(earliest):
            earliest = self._find_earliest()  # those who were due have gone
            if earliest is None:
                return None
        now = self._clock.now()
        if earliest * SLOT > now:
            return earliest * SLOT - now
        pressed = self._pressed()
        for number in [number for number in list(self._slots) if number * SLOT <= now]:
            for connection in list(self._slots.pop(number, {}).values()):
                due = self._judge(connection, now, pressed)
                if due is not None:
                    self._schedule(connection, due)
        earliest = self._find_earliest()
        return None if earliest is None else max(0.0, earliest * SLOT - now)

    def _find_earliest(self) -> int | None:
        # Noted before it is looked for, so that whoever enters meanwhile is not overlooked.
        self._earliest = None
        earliest = None
        for number in sorted(self._slots):
            slot = self._slots.get(number, {})
            if not slot:
                self._slots.pop(number, None)
                if slot:
                    self._slots.setdefault(number, {}).update(slot)  # entered between the look and the taking away
            if slot:
                earliest = number
                break
        if earliest is not None and (self._earliest is None or earliest < self._earliest):
            self._earliest = earliest
        return self._earliest

    def _pressed(self) -> bool:
        limits = self._limits
        if limits.max_connections is None or limits.pressure_idle_timeout is None:
            return False
        return self.entered() > limits.pressure * limits.max_connections

    def _judge(self, connection: Connection, now: float, pressed: bool) -> float | None:
        """Ends ``connection``, and None; or when to look again."""
        sock, limits = connection.socket, self._limits
        if sock is None or connection.reason is not None:
            return None
        due = []
        if not connection.established:
            if limits.handshake_timeout is None:
                return None
            due.append(connection.since + limits.handshake_timeout)
            if due[0] <= now:
                connection.abort(Reason.HANDSHAKE_TIMEOUT)
                return None
        if limits.connection_lifetime is not None:
            due.append(connection.since + limits.connection_lifetime)
            if due[-1] <= now:
                connection.close(Reason.LIFETIME)
                return None
        if connection.established and self._step is not None:
            pace = connection._pace
            if pace is None:
                pace = connection._pace = Pace(0, connection.since)
            reason = self._verdict(connection, sock, pace, now, pressed)
            if reason is Reason.IDLE:
                connection.close(reason)
                return None
            if reason is not None:
                connection.abort(reason)
                return None
            due.append(now + (self._hurried if pressed and self._hurried is not None else self._step))
        return min(due, default=None)

    def _verdict(self, connection: Connection, sock: Any, pace: Pace, now: float, pressed: bool) -> Reason | None:
        received, sent = connection.received, connection.sent
        if received + sent != pace.moved:
            pace.moved, pace.moved_at = received + sent, now if pace.moved >= 0 else pace.moved_at
        waits = waits_for_peer(sock)
        if waits is None:
            pace.moved_at, pace.window = now, None
        elif waits:
            pace.window = None
            return self._waiting_for_message(sock, pace, received, now, pressed)
        else:
            return self._waiting_to_send(pace, sent, now)
        return None

    def _waiting_for_message(
        self, sock: Any, pace: Pace, received: int, now: float, pressed: bool
    ) -> Reason | None:
        limits = self._limits
        asked = getattr(sock, "asked", None)
        if asked is None or received <= asked:
            pace.asked = None
        elif asked != pace.asked:
            pace.asked, pace.began = asked, now
        elif limits.message_timeout is not None:
            extra = (received - asked) / limits.min_rate if limits.min_rate else 0.0
            if now - pace.began >= limits.message_timeout + extra:
                return Reason.TOO_SLOW
        patience = limits.first_byte_timeout if received <= pace.base else limits.idle_timeout
        hurried = limits.pressure_idle_timeout
        if pressed and hurried is not None and (patience is None or hurried < patience):
            patience = hurried
        return Reason.IDLE if patience is not None and now - pace.moved_at >= patience else None

    def _waiting_to_send(self, pace: Pace, sent: int, now: float) -> Reason | None:
        limits = self._limits
        if limits.send_timeout is not None and now - pace.moved_at >= limits.send_timeout:
            return Reason.SEND_STALLED
        if pace.window is None:
            pace.window, pace.sent = now, sent
        elif limits.min_rate and now - pace.window >= RATE_WINDOW:
            if (sent - pace.sent) / (now - pace.window) < limits.min_rate:
                return Reason.TOO_SLOW
            pace.window, pace.sent = now, sent
        return None


def _step(*patiences: float | None) -> float | None:
    given = [patience for patience in patiences if patience is not None]
    return max(SHORTEST_STEP, min(given) / PART) if given else None


def waits_for_peer(sock: Any) -> bool | None:
    """Whether somebody waits to receive from the peer (True) or for it to take what is sent (False); None: nobody."""
    channel = getattr(sock, "_registered", None)
    if channel is not None:
        if channel.writer is not None:
            return False
        if channel.reader is not None:
            return True
    waits: bool | None = getattr(sock, "waits", True)
    return waits


class Watch(threading.Thread):
    """Looks at deadlines where no loop does: beside a serial server, and in the process of a connection.

    It waits at a pipe, so that a signal can wake it as well: what is written to ``bell`` (signal.set_wakeup_fd) is
    given to ``heard``.
    """

    def __init__(self, deadlines: Deadlines, heard: Callable[[bytes], object] = lambda numbers: None) -> None:
        super().__init__(name="jackfield-deadlines", daemon=True)
        self._deadlines = deadlines
        self._heard = heard
        self._over = False
        # Reentrant: a signal handler may enter a connection in the midst of another's.
        self._lock = threading.RLock()
        self._reading, self.bell = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        deadlines.on_earlier = self._ring

    def run(self) -> None:
        while True:
            numbers = b""
            with contextlib.suppress(BlockingIOError):
                numbers = os.read(self._reading, 4096)
            if self._over:
                return  # looked at after the bell was emptied: it may have rung for this
            if numbers.strip(b"\0"):
                self._heard(numbers)
            ready_now(self._reading, self._deadlines.look(), reading=True)

    def _ring(self) -> None:
        with self._lock, contextlib.suppress(OSError):  # full: it rings already
            if self.bell >= 0:  # or it is closed, and the number another's
                os.write(self.bell, b"\0")

    def close(self) -> None:
        """End it, and wait for its end."""
        self._over = True
        self._ring()
        self.join()
        with self._lock:
            bell, self.bell = self.bell, -1
        os.close(self._reading)
        os.close(bell)
