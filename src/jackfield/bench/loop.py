"""The loop of one process: many connections to one address, each asking and checking the replies. The pure twin of
native/loading.c, with the same face and the same figures; TLS is spoken by this one alone.

The rules:

- A *closed* loop asks again as soon as a reply is there; the time of a reply counts from when its request was sent. An
  *open* loop (`rate`) has a time for each request, whatever the replies do: a request that is due goes to the
  connection that has been free for longest, and if none is free waits for one; its time counts from when it was due,
  so that a server which stalls is charged for all that it kept waiting (Gil Tene's coordinated omission, as in wrk2).
- A reply counts where its request was sent, or due, between `warm` and `end`. After `end` nothing new is sent, and what
  is on its way has `timeout` to come.
- A connection that fails is opened again after 10 ms, which doubles up to 1.28 s until it has a reply. One that a
  server ends while nothing is asked of it is no failure.
- All times are nanoseconds of the monotonic clock.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import math
import select
import selectors
import socket as _socket_std
import ssl as _ssl_std
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from jackfield.bench.framing import EXACT, Frame, FramingError
from jackfield.bench.histogram import Histogram

__all__ = ["FAULTS", "Load", "Target"]

FAULTS = ("connect", "closed", "wrong", "timeout", "lost")
"""What can become of a request in place of its reply: nobody took the connection; the connection ended before it; it
was another; it did not come in time, from a stream or, lost, by datagram."""

MILLISECOND = 1_000_000
FIRST_PAUSE = 10 * MILLISECOND
PAUSE_DOUBLINGS = 7
TICK = 10 * MILLISECOND
PIECE = 1 << 18
SAMPLE = 64

_NOT_NOW = (BlockingIOError, InterruptedError, _ssl_std.SSLWantReadError, _ssl_std.SSLWantWriteError)


class Target(NamedTuple):
    """Where to connect to: what the resolver answered; `host` is a number or, of a Unix socket, its name."""

    family: int
    kind: int
    protocol: int
    host: bytes
    port: int = 0
    scope: int = 0

    def sockaddr(self) -> Any:
        """The address as Python's sockets take it."""
        if self.family == _socket_std.AF_INET6:
            return self.host.decode(), self.port, 0, self.scope
        return (self.host.decode(), self.port) if self.family == _socket_std.AF_INET else self.host


class _Link:
    """One connection, open or not."""

    __slots__ = (
        "connecting", "failures", "frame", "moved", "open_at", "queued", "sent", "sock", "unsent", "waiting",
        "wants_room",
    )  # fmt: skip

    def __init__(self, frame: Frame, open_at: int) -> None:
        self.frame = frame
        self.open_at = open_at
        self.sock: Any = None
        self.waiting: collections.deque[int] = collections.deque()
        self.connecting = self.wants_room = self.queued = False
        self.failures = self.moved = self.sent = self.unsent = 0


class Load:
    """See the module.

    :param once: a connection for each request.
    :param depth: how many requests a connection has on its way at most.
    :param budget: how many requests there are from `warm` on; -1 for no end.
    :param end: 0 for no end.
    :param secure: makes a TLS connection, without its handshake, of one that is begun; None speaks plaintext.
    """

    def __init__(
        self, target: tuple[Any, ...], request: bytes, reply: bytes, framing: int, connections: int, depth: int,
        once: bool, rate: float, ramp: int, start: int, warm: int, end: int, budget: int, timeout: int, /,
        secure: Callable[[Any], Any] | None = None,
    ) -> None:  # fmt: skip
        self._target = Target(*target)
        self._streams = self._target.kind == _socket_std.SOCK_STREAM
        self._datagrams = self._target.kind == _socket_std.SOCK_DGRAM
        self._request, self._reply, self._framing = request, reply, framing
        self._unit = len(request) or 1  # what an unsent one counts, if empty as well
        self._requests = memoryview(request * (depth if self._streams else 1))
        self._depth, self._once, self._secure = depth, once, secure
        self._rate, self._ramp, self._start, self._warm, self._end = rate, ramp, start, warm, end
        self._budget, self._timeout = budget, timeout
        self._links = [
            _Link(Frame(framing, reply), start + ramp * index // connections) for index in range(connections)
        ]
        self._line: collections.deque[_Link] = collections.deque()
        self._next_tick = start
        self._issued = 0
        self._next_due = self._due_at(0)
        self._waiting = 0
        self._counts = dict.fromkeys(("asked", "replied", "opened", "sent", "received", *FAULTS), 0)
        self._reasons: dict[str, Any] = {"connect": 0, "closed": 0, "wrong": b""}
        self._histogram = Histogram()
        self._selector = selectors.DefaultSelector()
        self._closed = False

    # -- the face ------------------------------------------------------------------------------------------------------

    def run(self, until: int, /) -> bool:
        """Go on until then at most; whether there is more to do."""
        if not self._closed:
            self._go_on(until)
        return not self._is_over(time.monotonic_ns())

    def close(self) -> None:
        """Close every connection."""
        for link in self._links:
            self._end_link(link, 0)
        self._selector.close()
        self._closed = True

    def counts(self) -> dict[str, Any]:
        """What has happened so far, in numbers."""
        overdue = 0
        until = min(self._end or math.inf, time.monotonic_ns())
        if self._rate > 0 and self._next_due < until:
            overdue = math.ceil((until - self._start - self._ramp / 2) / 1e9 * self._rate - 1e-6) - self._issued
        measured = self._histogram
        return self._counts | {
            "measured": measured.count, "overdue": max(0, overdue), "sum": measured.total(),
            "squares": measured.squares(), "least": measured.least, "most": measured.most,
        }  # fmt: skip

    def buckets(self) -> dict[int, int]:
        """The measured latencies, as :meth:`jackfield.bench.histogram.Histogram.counts` has them."""
        return self._histogram.counts()

    def reasons(self) -> dict[str, Any]:
        """Of the first that failed: the error numbers under ``connect`` and ``closed``, the reply under ``wrong``."""
        return dict(self._reasons)

    # -- what may be asked, and when ---------------------------------------------------------------------------------

    def _may_ask(self, at: int) -> bool:
        return not self._closed and self._budget != 0 and (self._end == 0 or at < self._end)

    def _due_at(self, number: int) -> int:
        """When request `number` of an open loop is due; while it ramps up, the rate grows with the time."""
        if not self._rate:
            return 0
        seconds = self._ramp / 1e9
        if number < self._rate * seconds / 2:
            after = math.sqrt(2 * number * seconds / self._rate)
        else:
            after = seconds / 2 + number / self._rate
        return self._start + int(after * 1e9)

    def _spend(self, at: int) -> None:
        if self._budget > 0 and at >= self._warm:
            self._budget -= 1

    def _issue(self, link: _Link, due: int, now: int) -> None:
        if not link.waiting:
            link.moved = now
        link.waiting.append(due)
        link.unsent += self._unit
        self._waiting += 1
        self._counts["asked"] += 1
        self._spend(now)

    def _stand_in_line(self, link: _Link) -> None:
        if not link.queued and len(link.waiting) < self._depth:
            link.queued = True
            self._line.append(link)

    # -- connections ---------------------------------------------------------------------------------------------------

    def _watch(self, link: _Link) -> None:
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if link.wants_room else 0)
        try:
            self._selector.modify(link.sock, events, link)
        except KeyError:
            self._selector.register(link.sock, events, link)

    def _end_link(self, link: _Link, open_at: int) -> None:
        if link.sock is not None:
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(link.sock)
            link.sock.close()
        self._waiting -= len(link.waiting)
        link.sock = None
        link.connecting = link.wants_room = False
        link.waiting.clear()
        link.frame.reset()
        link.unsent = link.sent = 0
        link.open_at = open_at

    def _fail(self, link: _Link, fault: str, number: int, now: int) -> None:
        """End a connection for a fault, which counts each request that has no reply, or itself."""
        if not link.waiting:
            if not self._may_ask(now):  # nobody wants this connection any more
                self._end_link(link, now)
                return
            self._spend(now)
        self._counts[fault] += len(link.waiting) or 1
        if not self._reasons.get(fault, True):
            self._reasons[fault] = number
        self._pause(link, now)

    def _pause(self, link: _Link, now: int) -> None:
        self._end_link(link, now + (FIRST_PAUSE << link.failures))
        link.failures = min(link.failures + 1, PAUSE_DOUBLINGS)

    def _fail_by(self, link: _Link, error: OSError, now: int) -> None:
        refused = link.connecting or error.errno == errno.ECONNREFUSED
        # The number of an error of TLS is OpenSSL's own, and would be read as the kernel's.
        number = errno.EPROTO if isinstance(error, _ssl_std.SSLError) else error.errno or errno.EPROTO
        self._fail(link, "connect" if refused else "closed", number, now)

    def _open(self, link: _Link, now: int, due: int) -> None:
        target = self._target
        try:
            link.sock = sock = _socket_std.socket(target.family, target.kind, target.protocol)
            sock.setblocking(False)
            if self._streams and target.family != _socket_std.AF_UNIX and not self._once:
                sock.setsockopt(_socket_std.IPPROTO_TCP, _socket_std.TCP_NODELAY, 1)
            if self._datagrams and target.family == _socket_std.AF_UNIX:
                sock.bind("")  # a name of the kernel's choice (unix(7), autobind), or nobody could answer
            number = sock.connect_ex(target.sockaddr())
            if number not in (0, errno.EINPROGRESS):
                raise OSError(number, "")
            if self._secure is not None:
                link.sock = self._secure(sock)
        except OSError as error:
            link.connecting = True
            self._fail_by(link, error, now)
            return
        link.connecting = number != 0 or self._secure is not None
        self._counts["opened"] += not link.connecting
        link.moved = now
        if self._once:
            self._issue(link, due, now)
        link.wants_room = link.connecting or self._once
        self._watch(link)
        if not link.connecting:
            self._push(link, now) if self._once else self._fill(link, now)

    def _finish_connecting(self, link: _Link, now: int) -> None:
        try:
            number = link.sock.getsockopt(_socket_std.SOL_SOCKET, _socket_std.SO_ERROR)
            if number:
                raise OSError(number, "")
            if self._secure is not None:
                link.sock.do_handshake()
        except _NOT_NOW as wanted:
            wants_room = isinstance(wanted, _ssl_std.SSLWantWriteError)
            if wants_room != link.wants_room:
                link.wants_room = wants_room
                self._watch(link)
            return
        except OSError as error:
            self._fail_by(link, error, now)
            return
        link.connecting = False
        self._counts["opened"] += 1
        if not self._once:
            self._fill(link, now)
        if link.sock is not None:
            self._push(link, now)

    def _push(self, link: _Link, now: int) -> None:
        """Send what is to be sent as far as the kernel takes it."""
        while link.unsent:
            size = min(link.unsent, len(self._requests) - link.sent) if self._streams else len(self._request)
            try:
                taken = link.sock.send(self._requests[link.sent : link.sent + size])
            except _NOT_NOW:
                break
            except OSError as error:
                self._fail_by(link, error, now)
                return
            self._counts["sent"] += taken
            link.unsent -= taken if self._streams else self._unit
            link.sent = (link.sent + taken) % len(self._request) if self._streams else 0
            if taken < size:
                break
        wants_room = link.unsent > 0
        if wants_room != link.wants_room:
            link.wants_room = wants_room
            self._watch(link)

    def _fill(self, link: _Link, now: int) -> None:
        if self._rate > 0:
            if not self._once:
                self._stand_in_line(link)
            return
        while len(link.waiting) < self._depth and self._may_ask(now):
            self._issue(link, now, now)
        self._push(link, now)

    # -- replies -------------------------------------------------------------------------------------------------------

    def _complete(self, link: _Link, now: int) -> None:
        began = link.waiting.popleft()
        link.moved = now
        link.failures = 0
        self._waiting -= 1
        self._counts["replied"] += 1
        if began >= self._warm and (self._end == 0 or began < self._end):
            self._histogram.record(now - began)

    def _take(self, link: _Link, data: bytes, now: int) -> bool:
        """Check what has come in; False if that has ended the connection."""
        at, view = 0, memoryview(data)
        try:
            if not self._streams:
                if not link.waiting or (self._framing == EXACT and data != self._reply):
                    raise FramingError
                self._complete(link, now)
                return True
            while at < len(view):
                if not link.waiting:
                    raise FramingError  # nobody has asked
                taken, whole = link.frame.take(view[at:])
                at += taken
                if whole:
                    self._complete(link, now)
        except FramingError:
            if self._counts["wrong"] == 0:
                self._reasons["wrong"] = data[at : at + SAMPLE]
            self._fail(link, "wrong", 0, now)
            return False
        return True

    def _receive(self, link: _Link, now: int) -> None:
        try:
            data = link.sock.recv(PIECE)
            while self._secure is not None and link.sock.pending():
                data += link.sock.recv(PIECE)  # decrypted already: nothing would tell of it
        except _NOT_NOW:
            return
        except OSError as error:
            self._fail_by(link, error, now)
            return
        if not data and not self._datagrams:
            if link.waiting:
                self._fail(link, "closed", 0, now)
            else:
                self._pause(link, now)  # nothing was asked of it: servers do end idle connections
            return
        self._counts["received"] += len(data)
        waiting = len(link.waiting)
        now = time.monotonic_ns()
        if not self._take(link, data, now) or len(link.waiting) == waiting:
            return
        if not self._once:
            self._fill(link, now)
        elif not link.waiting:
            self._end_link(link, 0)
            if self._rate > 0:
                self._stand_in_line(link)
            elif self._may_ask(now):
                self._open(link, now, now)

    # -- the loop ------------------------------------------------------------------------------------------------------

    def _look_around(self, now: int) -> None:
        """Open what is to be opened by now, and give up what has waited too long."""
        for link in self._links:
            if link.sock is None:
                if link.open_at > now or not self._may_ask(now):
                    continue
                if self._once and self._rate > 0:
                    self._stand_in_line(link)
                else:
                    self._open(link, now, now)
            elif (link.waiting or link.connecting) and now - link.moved >= self._timeout:
                late = "lost" if self._datagrams else "timeout"
                self._fail(link, "connect" if link.connecting else late, errno.ETIMEDOUT, now)
                link.open_at = now  # it has waited long enough

    def _hand_out(self, now: int) -> int | None:
        """Give each request that is due to whoever can take it, in turn; when the next is due, if anybody could."""
        while self._line:
            if not (self._may_ask(now) and self._may_ask(self._next_due)):
                return None
            if self._next_due > now:
                return self._next_due
            link = self._line.popleft()
            link.queued = False
            if self._once:
                if link.sock is None:
                    self._open(link, now, self._next_due)
                else:
                    continue
            elif link.sock is None or link.connecting:
                continue  # ended while it stood in line
            else:
                self._issue(link, self._next_due, now)
                self._stand_in_line(link)
                self._push(link, now)
            self._issued += 1
            self._next_due = self._due_at(self._issued)
        return None

    def _is_over(self, now: int) -> bool:
        return self._closed or (not self._may_ask(now) and self._waiting == 0)

    def _ready(self, seconds: float) -> list[tuple[Any, int]]:
        # epoll_wait(2) counts in milliseconds, select(2) in microseconds, and an epoll can be waited for itself.
        if seconds > 0 and self._rate > 0:
            select.select([self._selector.fileno()], [], [], seconds)
            seconds = 0
        return self._selector.select(seconds)

    def _go_on(self, until: int) -> None:
        while (now := time.monotonic_ns()) < until and not self._is_over(now):
            if now >= self._next_tick:
                self._look_around(now)
                self._next_tick = now + TICK
            wake = min(self._next_tick, until)
            if self._rate > 0 and (due := self._hand_out(now)) is not None:
                wake = min(wake, due)
            if self._end > now:
                wake = min(wake, self._end)
            for key, events in self._ready(max(0, wake - time.monotonic_ns()) / 1e9):
                link = key.data
                if link.sock is None:
                    continue  # ended earlier in this batch
                now = time.monotonic_ns()
                if link.connecting:
                    self._finish_connecting(link, now)
                    continue
                if events & selectors.EVENT_WRITE:
                    self._push(link, now)
                if link.sock is not None and events & selectors.EVENT_READ:
                    self._receive(link, now)
