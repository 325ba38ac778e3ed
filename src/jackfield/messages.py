"""Reading messages: the ``rfile`` of a server with limits, which no line and no wait outgrow.

It is ``io.BufferedReader`` with three things more. What a peer may have collected here is bounded. While a reader
wants a message its socket says so (``asked``), from which whoever looks after deadlines tells a peer that sends nothing
from one that drips. And a green thread that waits for a message to begin, on TCP without TLS, has no buffer meanwhile.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from .errors import LineTooLongError, MessageTooLargeError

if TYPE_CHECKING:
    from .limits import Limits

__all__ = ["BUFFER_SIZE", "MessageReader"]


#: Half of io's own: where a connection waits within its buffer, most of what it costs is that.
BUFFER_SIZE = 4096


class MessageReader(io.BufferedReader):
    """A buffered reader over ``raw``, the unbuffered file of ``sock``, with the bounds of ``limits``.

    ``readline()`` without a size raises :class:`LineTooLongError` at ``limits.max_line`` bytes without a line's end;
    with a size, the caller has said how much he takes. ``read()`` without a size, and with one above
    ``limits.max_message``, raise :class:`MessageTooLargeError` when that is exceeded.
    """

    def __init__(self, raw: Any, sock: Any, limits: Limits, buffer_size: int = BUFFER_SIZE) -> None:
        super().__init__(raw, buffer_size)
        self._sock = sock
        self._max_line = limits.max_line
        self._max_message = limits.max_message
        #: Bytes of the socket's that are in the buffer now, or in front of it: those of the next message already.
        self._base = sock.received
        #: What it is of them once the buffer is empty; more have come than that where others have taken some, too.
        self._empty_at = sock.received
        self._size = buffer_size

    def _asks(self) -> None:
        """A message is wanted."""
        sock = self._sock
        sock.asked, sock.whole = self._base, self._empty_at
        if self._empty_at == sock.received and sock.tls is None and sock._has_to_wait():
            self._wait_for_more(sock)

    def _wait_for_more(self, sock: Any) -> None:
        """Wait for the first byte without a buffer, as there is nothing in it: of all that an idle connection on a
        green thread costs, most were that, and the frames from here to where it would have to wait else."""
        super().__init__(self.raw, 1)  # in CPython's own tests, too, one is made anew where it stands
        try:
            sock._wait_for_more()
        finally:
            if self._empty_at == sock.received and not self.closed:
                super().__init__(self.raw, self._size)

    def _has(self, size: int) -> None:
        """It is there, and has ``size`` bytes; or nothing more comes. What came with it, and is another's, is in the
        buffer."""
        sock = self._sock
        sock.asked = None
        self._base = sock.received
        self._empty_at += size

    def readline(self, size: int | None = -1, /) -> bytes:
        limit = self._max_line
        if size is not None and size >= 0:
            limit = None
        elif limit is not None:
            size = limit + 1
        self._asks()
        line = super().readline(-1 if size is None else size)
        self._has(len(line))
        if limit is not None and len(line) > limit:
            raise LineTooLongError(f"a line of more than {limit} bytes (max_line)")
        return line

    def read(self, size: int | None = -1, /) -> bytes:
        limit = self._max_message
        everything = size is None or size < 0
        if limit is not None and not everything and size > limit:  # type: ignore[operator]
            raise MessageTooLargeError(f"{size} bytes asked for at one go, more than {limit} (max_message)")
        self._asks()
        data = super().read(limit + 1 if everything and limit is not None else size)
        self._has(len(data or b""))
        if everything and limit is not None and data is not None and len(data) > limit:
            raise MessageTooLargeError(f"a message of more than {limit} bytes (max_message)")
        return data

    def readinto(self, buffer: Any, /) -> int:
        self._asks()
        taken = super().readinto(buffer)
        self._has(taken or 0)
        return taken

    def __next__(self) -> bytes:
        line = self.readline()
        if not line:
            raise StopIteration
        return line

    def readlines(self, hint: int | None = None, /) -> list[bytes]:
        """All lines until the end, or until their total is ``hint`` bytes; each of them, and all together, bounded."""
        lines: list[bytes] = []
        total, most = 0, self._max_message
        while line := self.readline():
            lines.append(line)
            total += len(line)
            if hint and hint > 0 and total >= hint:
                break
            if most is not None and total > most:
                raise MessageTooLargeError(f"lines of more than {most} bytes in all (max_message)")
        return lines
