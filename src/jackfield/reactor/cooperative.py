"""The cooperative socket: in a plain thread the standard library's socket, in a green thread one that switches.

How it waits is :mod:`.patience`; here is what it does between the waits. A timeout is the socket's patience with one
call; for ``sendall`` with all of it, as in CPython since 3.5.
"""

from __future__ import annotations

import fcntl
import select
import socket as _socket_std
import sys
import termios
from _socket import socket as _Raw
from time import monotonic
from typing import TYPE_CHECKING, Any

from greenlet import getcurrent

from ..errors import ClosedSocketError
from .greens import GreenThread
from .patience import DONTWAIT, SMALL, STREAM, PatientSocket, closed_meanwhile, give_way, type_of
from .twin import native

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from .poller import Channel

WAITALL = int(getattr(_socket_std, "MSG_WAITALL", 0))
OOB = int(getattr(_socket_std, "MSG_OOB", 0))
PEEK = int(getattr(_socket_std, "MSG_PEEK", 0))

#: No machine has room to receive as much at once.
ABSURD = 1 << 40

_recv = _Raw.recv
_recv_into = _Raw.recv_into
_send = _Raw.send


class CooperativeSocket(PatientSocket):
    """What the drop-in ``socket`` class does differently from its base: how it waits, and what it counts."""

    __slots__ = ()

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
        asked = SMALL if channel.short_is_empty and not channel.large and bufsize > SMALL else bufsize
        try:
            data = _recv(self, asked, DONTWAIT)
        except BlockingIOError:
            return self._recv_otherwise(bufsize, 0)
        except OSError as error:
            raise closed_meanwhile(channel, error)  # noqa: B904
        taken = len(data)
        self.received += taken
        if taken < asked:
            if channel.short_is_empty:
                channel.readable = False
        elif asked < bufsize:
            return data + self._recv_more(bufsize - taken, channel)
        return data

    def _recv_more(self, room: int, channel: Channel) -> bytes:
        """The rest of a message that is larger than it was taken for: what has come, and no error or end behind it, as
        the kernel tells of an error once, and one call would have left it for the next."""
        channel.large = True
        there = int.from_bytes(fcntl.ioctl(self.fileno(), termios.FIONREAD, bytes(4)), sys.byteorder)
        if not there:
            return b""
        data = _recv(self, min(room, there), DONTWAIT)
        self.received += len(data)
        return data

    def _recv_otherwise(self, bufsize: int, flags: int = 0, /) -> bytes:
        """``recv()`` in full."""
        green = getcurrent()
        if not isinstance(green, GreenThread) and not self._switched:
            self.waits = True
            try:
                data = _recv(self, bufsize, flags)
            finally:
                self.waits = None
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
        give_way(channel, green)
        deadline = self._deadline()
        self._user, self._usual = green if deadline is None else None, bufsize if 0 < bufsize < ABSURD else 0
        while True:
            if channel.readable or not 0 < bufsize < ABSURD:  # else CPython answers or refuses at once
                try:
                    data = _recv(self, bufsize, DONTWAIT)
                except BlockingIOError:
                    channel.readable = False
                except OSError as error:
                    raise closed_meanwhile(channel, error)  # noqa: B904
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
        if not flags and buffer.__class__ is memoryview and 0 < taken < (nbytes or buffer.nbytes):
            channel = self._channel  # of a file's reader, which has to know whether there is more
            if channel is not None and channel.short_is_empty:
                channel.readable = False
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
        if self._patience is None and not flags and type_of(self) == STREAM and self._waits_itself():
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
            self.waits = False
            try:
                taken = _send(self, data, flags)
            except OSError as error:
                error.bytes_sent = 0  # type: ignore[attr-defined]
                raise
            finally:
                self.waits = None
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


if native is not None:
    native.install_socket(CooperativeSocket, GreenThread, ClosedSocketError, _Raw.__new__(_Raw))
    native.install_sendto(CooperativeSocket, _Raw)
