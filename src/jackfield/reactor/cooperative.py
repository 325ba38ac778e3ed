"""The cooperative socket: in a plain thread the standard library's socket, in a green thread one that switches.

Three facts carry the design:

- A green thread passes ``MSG_DONTWAIT`` with each call, so the descriptor itself can stay blocking and a plain thread
  that is handed the socket finds it as it expects it (recv(2), send(2)).
- ``accept``, ``connect``, ``sendfile`` and ``splice`` know no such flag, and CPython's timeouts are a poll(2) inside
  the call; where a green thread meets one of these the socket is *switched* once: non-blocking below, while
  ``gettimeout()`` keeps what was set. A plain thread that uses a switched socket waits by poll(2) around the call.
- A timeout is the socket's patience with one call; for ``sendall`` with all of it, as in CPython since 3.5.
"""

from __future__ import annotations

import errno
import os
import select
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
from .twin import native

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from .poller import Channel, Poller

T = TypeVar("T")

# Plain numbers: the module's own are members of an enum, whose every | is a call in Python.
DONTWAIT = int(getattr(_socket_std, "MSG_DONTWAIT", 0))
WAITALL = int(getattr(_socket_std, "MSG_WAITALL", 0))
OOB = int(getattr(_socket_std, "MSG_OOB", 0))
PEEK = int(getattr(_socket_std, "MSG_PEEK", 0))

#: With these the kernel answers at once, even on a blocking socket (recv(2)).
NEVER_WAITS = DONTWAIT | int(getattr(_socket_std, "MSG_ERRQUEUE", 0))

#: No machine has room to receive as much at once.
ABSURD = 1 << 40

_recv = _Raw.recv
_recv_into = _Raw.recv_into
_send = _Raw.send
_family = _Raw.family.__get__
_type = _Raw.type.__get__
_INTERNET = (int(_socket_std.AF_INET), int(_socket_std.AF_INET6))
_STREAM = int(_socket_std.SOCK_STREAM)


def _closed_meanwhile(channel: Channel, error: OSError) -> OSError:
    """The error of a call on a socket, or the one that tells that it was closed while someone waited on it."""
    return ClosedSocketError() if channel.poller is None and error.errno == errno.EBADF else error


class CooperativeSocket(_socket_std.socket):
    """What the drop-in ``socket`` class does differently from its base: how it waits, and what it counts."""

    __slots__ = (
        "_channel", "_patience", "_registered", "_short_is_empty", "_switched", "_user", "_usual", "received", "sent",
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
        self._patience: float | None = _Raw.gettimeout(self)
        self._switched = False
        self._short_is_empty = False
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
        self._short_is_empty = _type(self) == _STREAM and _family(self) in _INTERNET
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
            return operation(flags)
        if deadline is None:
            deadline = self._deadline()
        while True:
            if channel is not None and channel.streak >= STREAK:
                channel.streak = 0
                green.pass_turn()  # type: ignore[attr-defined]
            # Tried first, whatever the hints say: what CPython decides before any system call is decided there.
            try:
                result = operation(flags | DONTWAIT)
            except BlockingIOError:
                pass
            except OSError as error:
                if channel is None:
                    raise
                raise _closed_meanwhile(channel, error)  # noqa: B904
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
        if not ready_now(fd, None if deadline is None else deadline - monotonic(), reading=reading):
            raise TimeoutError("timed out")

    # -- receiving ---------------------------------------------------------------------------------------------------

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        channel: Channel = self._channel  # type: ignore[assignment]  # it is there where _user is
        green: Any = getcurrent()
        if (
            self._user is not green
            or self._usual != bufsize
            or flags
            or channel.readable
            or channel.reader is not None
        ):
            return self._recv_otherwise(bufsize, flags)
        # The way of nearly every message, written out: wait without a deadline, then take what has come.
        channel.reader = green
        channel.streak = 0
        try:
            green.hub.switch()
        except BaseException:
            if channel.reader is green:
                channel.reader = None
            raise
        try:
            data = _recv(self, bufsize, DONTWAIT)
        except BlockingIOError:
            return self._recv_otherwise(bufsize, 0)
        except OSError as error:
            raise _closed_meanwhile(channel, error)  # noqa: B904
        taken = len(data)
        self.received += taken
        if taken < bufsize and channel.short_is_empty:
            channel.readable = False
        return data

    def _lengthen_streak(self, channel: Channel) -> None:
        channel.streak += 1
        if channel.streak >= STREAK:
            # The turn is given up before the next call, not with this one's data in hand.
            self._channel = self._user = None

    def _recv_otherwise(self, bufsize: int, flags: int = 0, /) -> bytes:
        """``recv()`` in full."""
        green = getcurrent()
        if not isinstance(green, GreenThread) and not self._switched:
            data = _recv(self, bufsize, flags)
            self._count(len(data), flags)
            return data
        if isinstance(green, GreenThread) and not flags:
            channel = self._join(green.poller)
            if channel is not None:
                return self._recv_joined(bufsize, channel, green)
        if flags & WAITALL and not flags & (PEEK | DONTWAIT) and isinstance(green, GreenThread):
            buffer = bytearray(bufsize)
            return bytes(memoryview(buffer)[: self._recv_all_into(memoryview(buffer), flags)])
        if flags & OOB and self._patience:
            self._wait_as_cpython()
        data = self._attempt(lambda f: _recv(self, bufsize, f), flags, reading=True)
        self._count(len(data), flags)
        return data

    def _recv_joined(self, bufsize: int, channel: Channel, green: GreenThread) -> bytes:
        """``recv()`` of a green thread, with whatever patience."""
        if channel.streak >= STREAK:
            channel.streak = 0
            green.pass_turn()
        deadline = self._deadline()
        self._user, self._usual = green if deadline is None else None, bufsize if 0 < bufsize < ABSURD else 0
        while True:
            if channel.readable or not 0 < bufsize < ABSURD:  # else CPython answers or refuses at once
                try:
                    data = _recv(self, bufsize, DONTWAIT)
                except BlockingIOError:
                    channel.readable = False
                except OSError as error:
                    raise _closed_meanwhile(channel, error)  # noqa: B904
                else:
                    self.received += len(data)
                    if len(data) < bufsize and channel.short_is_empty:
                        channel.readable = False
                    else:
                        self._lengthen_streak(channel)
                    return data
            self._wait_readable(channel, green, deadline)

    def _count(self, taken: int, flags: int) -> None:
        """Bytes that were only looked at come again, and count then."""
        if not flags & PEEK:
            self.received += taken

    def _wait_as_cpython(self) -> None:
        """With a timeout CPython polls for ordinary data before any call, even one that asks for urgent data."""
        green, deadline = getcurrent(), self._deadline()
        if isinstance(green, GreenThread) and (channel := self._join(green.poller)) is not None:
            poll = select.poll()
            poll.register(channel.fd, select.POLLIN)
            while not poll.poll(0):
                self._wait_readable(channel, green, deadline)

    def recv_into(self, buffer: Buffer, nbytes: int = 0, flags: int = 0) -> int:
        if flags & WAITALL and not flags & (PEEK | DONTWAIT) and isinstance(getcurrent(), GreenThread):
            view = memoryview(buffer).cast("B")
            return self._recv_all_into(view[:nbytes] if nbytes else view, flags)
        taken = self._attempt(lambda f: _recv_into(self, buffer, nbytes, f), flags, reading=True)
        self._count(taken, flags)
        return taken

    def _recv_all_into(self, view: memoryview, flags: int) -> int:
        """MSG_WAITALL for a green thread: the kernel does not wait for all where it may not wait at all."""
        total, deadline = 0, self._deadline()
        while total < len(view):
            rest = view[total:]
            taken = self._attempt(
                lambda f, rest=rest: _recv_into(self, rest, 0, f),  # type: ignore[misc]
                flags & ~WAITALL, reading=True, deadline=deadline,
            )  # fmt: skip
            if not taken:
                break
            total += taken
            self.received += taken
        return total

    def recvfrom(self, bufsize: int, flags: int = 0, /) -> tuple[bytes, Any]:
        result = self._attempt(lambda f: _Raw.recvfrom(self, bufsize, f), flags, reading=True)
        self._count(len(result[0]), flags)
        return result

    def recvfrom_into(self, buffer: Buffer, nbytes: int = 0, flags: int = 0) -> tuple[int, Any]:
        result = self._attempt(lambda f: _Raw.recvfrom_into(self, buffer, nbytes, f), flags, reading=True)
        self._count(result[0], flags)
        return result

    def recvmsg(self, bufsize: int, ancbufsize: int = 0, flags: int = 0, /) -> tuple[bytes, list[Any], int, Any]:
        result = self._attempt(lambda f: _Raw.recvmsg(self, bufsize, ancbufsize, f), flags, reading=True)
        self._count(len(result[0]), flags)
        return result

    def recvmsg_into(self, buffers: Any, ancbufsize: int = 0, flags: int = 0, /) -> tuple[int, list[Any], int, Any]:
        # The buffers may come from an iterator, which a second attempt would find empty.
        buffers = list(buffers)
        result = self._attempt(lambda f: _Raw.recvmsg_into(self, buffers, ancbufsize, f), flags, reading=True)
        self._count(result[0], flags)
        return result

    # -- sending -----------------------------------------------------------------------------------------------------

    def send(self, data: Buffer, flags: int = 0, /) -> int:
        if self._patience is None and not flags and _type(self) == _STREAM and self._waits_itself():
            # send(2): a blocking send on a stream returns when the kernel has taken all of it.
            return self._send_through(data, flags, None)
        taken = self._attempt(lambda f: _send(self, data, f), flags, reading=False)
        self.sent += taken
        return taken

    def sendall(self, data: Buffer, flags: int = 0, /) -> None:
        """Send all of ``data``, or raise; the exception's ``bytes_sent`` tells how much the kernel had taken."""
        channel = self._channel
        if channel is None or not channel.writable or type(data) is not bytes:
            self._sendall_otherwise(data, flags)
            return
        # The way of nearly every answer, written out: bytes, all of which the kernel takes at once.
        try:
            taken = _send(self, data, flags | DONTWAIT)
        except BlockingIOError:
            taken = 0
        except OSError as error:
            error.bytes_sent = 0  # type: ignore[attr-defined]
            raise
        self.sent += taken
        if taken != len(data):
            channel.writable = False
            self._send_from(data, taken, flags)
        elif channel.streak:
            self._lengthen_streak(channel)
        else:
            channel.streak = 1

    def _sendall_otherwise(self, data: Buffer, flags: int = 0, /) -> None:
        """``sendall()`` in full."""
        taken = 0
        if self._patience is None and type(data) is bytes and not self._waits_itself():
            try:
                taken = _send(self, data, flags)
            except OSError as error:
                error.bytes_sent = 0  # type: ignore[attr-defined]
                raise
            self.sent += taken
            if taken == len(data):
                return
        self._send_from(data, taken, flags)

    def _send_from(self, data: Buffer, taken: int, flags: int) -> None:
        """The rest of a ``sendall`` of which the kernel has taken some already."""
        deadline = self._deadline() if self._patience else None
        if not taken:
            self._send_through(data, flags, deadline)
            return
        try:
            self._send_through(memoryview(data)[taken:], flags, deadline)
        except OSError as error:
            error.bytes_sent += taken  # type: ignore[attr-defined]
            raise

    def _waits_itself(self) -> bool:
        return self._switched or isinstance(getcurrent(), GreenThread)

    def _send_through(self, data: Buffer, flags: int, deadline: float | None) -> int:
        if isinstance(data, memoryview) and not data.contiguous:
            _send(self, data, flags | DONTWAIT)  # raises CPython's own BufferError
        with memoryview(data) as whole, whole.cast("B") as view:
            size, total = len(view), 0
            try:
                while True:
                    with view[total:] as rest:
                        taken = self._send_part(rest, flags, deadline)
                    total += taken
                    self.sent += taken
                    if total >= size:
                        return total
                    if deadline is not None and monotonic() >= deadline:
                        raise TimeoutError("timed out")
            except OSError as error:
                error.bytes_sent = total  # type: ignore[attr-defined]
                raise

    def _send_part(self, rest: memoryview, flags: int, deadline: float | None) -> int:
        if deadline is not None and not self._waits_itself():
            # CPython grants each call the whole timeout; the deadline is for all of them.
            self._wait_in_thread(False, deadline)
            return _send(self, rest, flags | DONTWAIT)
        return self._attempt(lambda f: _send(self, rest, f), flags, reading=False, deadline=deadline)

    def sendto(self, data: Buffer, *args: Any) -> int:
        # sendto(data, address) or sendto(data, flags, address), as the standard library has it.
        flags = args[0] if len(args) == 2 and isinstance(args[0], int) else 0
        if len(args) not in (1, 2) or (len(args) == 2 and not isinstance(args[0], int)):
            return _Raw.sendto(self, data, *args)  # raises the standard library's own TypeError
        address = self._resolved(args[-1])
        taken = self._attempt(lambda f: _Raw.sendto(self, data, f, address), flags, reading=False)
        self.sent += taken
        return taken

    def sendmsg(self, buffers: Any, ancdata: Any = (), flags: int = 0, address: Any = None, /) -> int:
        # As with recvmsg_into: both may be iterators.
        buffers, ancdata = list(buffers), list(ancdata)
        if address is not None:
            address = self._resolved(address)
            taken = self._attempt(lambda f: _Raw.sendmsg(self, buffers, ancdata, f, address), flags, reading=False)
        else:
            taken = self._attempt(lambda f: _Raw.sendmsg(self, buffers, ancdata, f), flags, reading=False)
        self.sent += taken
        return taken

    # -- names -------------------------------------------------------------------------------------------------------

    def _resolved(self, address: Any) -> Any:
        """``address`` with its host name looked up, so that no call of the kernel's has to: see ``socket.py``."""
        return address

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

    def detach(self) -> int:
        self._forget()
        return super().detach()


if native is not None:
    native.install_socket(CooperativeSocket, GreenThread, ClosedSocketError, _Raw.__new__(_Raw))
    native.install_sendto(CooperativeSocket, _Raw)
