"""A socket's patience, and its waiting: what lies beneath every call of the cooperative socket that may block.

- A green thread passes ``MSG_DONTWAIT`` with each call, so the descriptor itself can stay blocking and a plain thread
  that is handed the socket finds it as it expects it (recv(2), send(2)).
- ``accept``, ``connect``, ``sendfile`` and ``splice`` know no such flag, and CPython's timeouts are a poll(2) inside
  the call; where a green thread meets one of these the socket is *switched* once: non-blocking below, while
  ``gettimeout()`` keeps what was set. A plain thread that uses a switched socket waits by poll(2) around the call.
"""

from __future__ import annotations

import errno
import os
import socket as _socket_std
from _socket import socket as _Raw
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from greenlet import getcurrent

from ..errors import ClosedSocketError, MisuseError
from .bridges import ready_now
from .greens import GreenThread
from .pure import STREAK

if TYPE_CHECKING:
    from .poller import Channel, Poller

T = TypeVar("T")

# Plain numbers: the module's own are members of an enum, whose every | is a call in Python.
DONTWAIT = int(getattr(_socket_std, "MSG_DONTWAIT", 0))

#: With these the kernel answers at once, even on a blocking socket (recv(2)).
NEVER_WAITS = DONTWAIT | int(getattr(_socket_std, "MSG_ERRQUEUE", 0))

#: Bytes that a read asks for where the messages so far were no larger. CPython allocates what is asked for and shrinks
#: it to what came: up to 512 bytes that is its own allocator's work, a fifth of what malloc and realloc cost.
SMALL = 448

_family = _Raw.family.__get__
type_of = _Raw.type.__get__
_INTERNET = (int(_socket_std.AF_INET), int(_socket_std.AF_INET6))
STREAM = int(_socket_std.SOCK_STREAM)
SHUT_WR = int(_socket_std.SHUT_WR)


def give_way(channel: Channel, green: GreenThread) -> None:
    """Let the others have their turn, if this channel has had many without waiting."""
    if channel.streak >= STREAK:
        channel.streak = 0
        green.pass_turn()


def closed_meanwhile(channel: Channel, error: OSError) -> OSError:
    """The error of a call on a socket, or the one that tells that it was closed while someone waited on it."""
    return ClosedSocketError() if channel.poller is None and error.errno == errno.EBADF else error


class PatientSocket(_socket_std.socket):
    """How a socket waits, in whatever thread, and where: its patience and its channel, from beginning to end."""

    __slots__ = (
        "_at_end", "_channel", "_patience", "_registered", "_short_is_empty", "_switched", "_user", "_usual", "asked",
        "proxy", "received", "sent", "waits", "whole",
    )  # fmt: skip

    def __init__(self, family: int = -1, type: int = -1, proto: int = -1, fileno: int | None = None) -> None:
        try:
            super().__init__(family, type, proto, fileno)
        except PermissionError as error:
            if type & 0xF != _socket_std.SOCK_RAW:
                raise
            # raw(7): only a process with this capability may open one. The type and number stay what they were.
            advice = (
                "a raw socket needs the capability CAP_NET_RAW: run as root, or setcap cap_net_raw+ep on the program"
            )
            raise PermissionError(error.errno, f"{error.strerror}: {advice}") from None
        self._begin()

    def _begin(self) -> None:
        #: Bytes taken from the kernel and given to it so far.
        self.received = 0
        self.sent = 0
        #: The PROXY header that a connection began with, if it did.
        self.proxy: Any = None
        #: While a reader of messages wants the next one: the bytes that had come before it.
        self.asked: int | None = None
        #: And how many of them it has given out: what is between is the beginning of that message.
        self.whole = 0
        #: While a plain thread waits in a call on it: True to receive, False to send.
        self.waits: bool | None = None
        self._patience: float | None = _Raw.gettimeout(self)
        self._switched = False
        self._short_is_empty = False
        #: Whether it is known, without asking the kernel, that the peer has ended its side and all of it was read.
        self._at_end = False
        #: The channel, when a green thread may use it without another thought; and the channel to give back at the end.
        self._channel: Channel | None = None
        self._registered: Channel | None = None
        #: The green thread that may wait in ``_channel`` without a deadline, and the size it may ask for: looked at
        #: once, and not again for each message. Set only while ``_channel`` is.
        self._user: Any = None
        self._usual = 0

    # -- patience ----------------------------------------------------------------------------------------------------

    def settimeout(self, value: float | None, /) -> None:
        try:
            _Raw.settimeout(self, value)
        finally:
            # CPython stores the timeout before the system call that may fail.
            self._patience = _Raw.gettimeout(self)
            self._switched = False
            self._channel = self._user = None

    def gettimeout(self) -> float | None:
        return self._patience

    @property
    def timeout(self) -> float | None:
        return self._patience

    def setblocking(self, flag: bool, /) -> None:
        self.settimeout(None if flag else 0.0)

    def getblocking(self) -> bool:
        return self._patience != 0.0

    def _deadline(self) -> float | None:
        return None if self._patience is None else monotonic() + self._patience

    # -- waiting -----------------------------------------------------------------------------------------------------

    def _switch(self) -> None:
        """Non-blocking below; the patience stays."""
        if not self._switched and self._patience != 0.0:
            _Raw.settimeout(self, 0.0)
            self._switched = True

    def _join(self, poller: Poller) -> Channel | None:
        """The channel by which to wait for this socket in ``poller``; None for a non-blocking one: it never waits."""
        if self._channel is not None and self._channel.poller is poller:
            return self._channel
        if self._patience == 0.0:
            return None
        fd = self.fileno()
        if fd < 0:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        old = self._registered
        if old is not None and old.poller is not None and old.poller is not poller:
            for other in (old.reader, old.writer):
                if other is not None:
                    raise MisuseError(
                        f"this thread would use a socket on which {other!r} of another thread waits; "
                        "keep a connection on one thread, or hand it over when nobody waits on it"
                    )
            old.poller.forget(old)
        fresh = poller.find(fd) is None
        channel = old if old is not None and old.poller is not None else poller.register(fd)
        if self._patience is not None:
            self._switch()
        # Stream sockets of the internet: a short read has emptied the buffer. Others stop at a record, at passed
        # descriptors or at a change of credentials (unix(7)), with more behind it.
        accepted = self._short_is_empty
        self._short_is_empty = type_of(self) == STREAM and _family(self) in _INTERNET
        channel.short_is_empty = self._short_is_empty and not channel.hangup
        if fresh and accepted:
            # Registering reports what is there already as an edge of its own, so there is no need to try first. (On a
            # socket that is not connected there is: it has an error to tell, and no edge.)
            channel.readable = False
        channel.lent = False
        if old is not None and old is not channel:
            self.received, self.sent = self.received, self.sent  # the native twin counts in the channel, which goes
        self._registered = self._channel = channel
        return channel

    def _join_accepted(self, poller: Poller) -> None:
        """:meth:`_join` of a socket that was accepted just now, before anybody uses it."""
        if self._patience is not None or not self._short_is_empty:
            return  # the first who waits sees to it
        self._registered = self._channel = channel = poller.register(self.fileno())
        channel.short_is_empty = not channel.hangup
        channel.readable = False  # what is there already is reported as an edge

    def _wait_readable(self, channel: Channel, green: GreenThread, deadline: float | None) -> None:
        channel.claim_reader(green)
        channel.streak = 0
        try:
            if not green.park(deadline):
                raise TimeoutError("timed out")
        finally:
            if channel.reader is green:
                channel.reader = None

    def _has_to_wait(self) -> bool:
        """Whether a green thread that wants to read, and is this one, would have to wait, as far as is known without
        asking the kernel. False where it has a timeout, which is told of in another way by each who reads."""
        channel = self._channel
        if channel is None or channel.readable or self._patience is not None:
            return False
        green = getcurrent()
        return isinstance(green, GreenThread) and green.poller is channel.poller

    def _wait_for_more(self) -> None:
        """Wait until there may be something to read, where it :meth:`_has_to_wait`."""
        channel = self._channel
        assert channel is not None
        self._wait_readable(channel, getcurrent(), None)  # type: ignore[arg-type]

    def _wait_writable(self, channel: Channel, green: GreenThread, deadline: float | None) -> None:
        channel.claim_writer(green)
        channel.streak = 0
        try:
            if not green.park(deadline):
                raise TimeoutError("timed out")
        finally:
            if channel.writer is green:
                channel.writer = None

    def _attempt(
        self, operation: Callable[[int], T], flags: int = 0, *, reading: bool, deadline: float | None = None
    ) -> T:
        """``operation(flags)`` until it no longer says EAGAIN, waiting as whoever calls has to wait.

        ``deadline`` (monotonic seconds) replaces the socket's patience where several calls share one.
        """
        green = getcurrent()
        if self._patience == 0.0 or (flags & NEVER_WAITS and self._patience is None):
            return operation(flags)
        channel = self._join(green.poller) if isinstance(green, GreenThread) else None
        if channel is None and not self._switched:
            self.waits = reading
            try:
                return operation(flags)
            finally:
                self.waits = None
        if deadline is None:
            deadline = self._deadline()
        while True:
            if channel is not None:
                give_way(channel, green)  # type: ignore[arg-type]
            # Tried first, whatever the hints say: what CPython decides before any system call is decided there.
            try:
                result = operation(flags | DONTWAIT)
            except BlockingIOError:
                pass
            except OSError as error:
                if channel is None:
                    raise
                raise closed_meanwhile(channel, error)  # noqa: B904
            else:
                if channel is not None:
                    channel.streak += 1
                return result
            if channel is None:
                self._wait_in_thread(reading, deadline)
            elif reading:
                channel.readable = False
                self._wait_readable(channel, green, deadline)  # type: ignore[arg-type]
            else:
                channel.writable = False
                self._wait_writable(channel, green, deadline)  # type: ignore[arg-type]

    def _wait_in_thread(self, reading: bool, deadline: float | None) -> None:
        """A plain thread on a switched socket."""
        fd = self.fileno()
        if fd < 0:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        self.waits = reading
        try:
            if not ready_now(fd, None if deadline is None else deadline - monotonic(), reading=reading):
                raise TimeoutError("timed out")
        finally:
            self.waits = None

    def _lengthen_streak(self, channel: Channel) -> None:
        channel.streak += 1
        if channel.streak >= STREAK:
            # The turn is given up before the next call, not with this one's data in hand.
            self._channel = self._user = None

    def _waits_itself(self) -> bool:
        return self._switched or isinstance(getcurrent(), GreenThread)

    # -- the end -----------------------------------------------------------------------------------------------------

    def _forget(self) -> None:
        # The native twin counts in the channel, which goes.
        self.received, self.sent = self.received, self.sent
        channel, self._registered, self._channel, self._user = self._registered, None, None, None
        if channel is not None and channel.poller is not None:
            channel.poller.forget(channel)

    def _real_close(self) -> None:
        self._forget()
        super()._real_close()  # type: ignore[misc]

    def _end(self) -> None:
        """The end of a connection: the peer reads what is on its way, and then the end, whoever else has the socket."""
        try:
            self.shutdown(SHUT_WR)
        except OSError:
            pass  # the peer was faster
        self.close()

    def detach(self) -> int:
        self._forget()
        return super().detach()
