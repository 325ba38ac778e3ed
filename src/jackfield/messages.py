"""Reading messages: the ``rfile`` of a server with limits, which no line and no wait outgrow.

It is ``io.BufferedReader`` with two things more. What a peer may have collected here is bounded. And while a reader
wants a message its socket says so (``asked``), from which whoever looks after deadlines tells a peer that sends nothing
from one that drips.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from .errors import LineTooLongError, MessageTooLargeError

if TYPE_CHECKING:
    from .limits import Limits

__all__ = ["BUFFER_SIZE", "MessageReader"]


#: Half of io's own: of all that an idle connection on a green thread costs, most is this buffer.
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

    def _asks(self) -> None:
        """A message is wanted."""
        self._sock.asked = self._base

    def _has(self) -> None:
        """It is there; or nothing more comes. What came with it, and is another's, is in the buffer."""
        sock = self._sock
        sock.asked = None
        self._base = sock.received

    def readline(self, size: int | None = -1, /) -> bytes:
        limit = self._max_line
        if size is not None and size >= 0:
            limit = None
        elif limit is not None:
            size = limit + 1
        self._asks()
        line = super().readline(-1 if size is None else size)
        self._has()
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
        self._has()
        if everything and limit is not None and data is not None and len(data) > limit:
            raise MessageTooLargeError(f"a message of more than {limit} bytes (max_message)")
        return data

    def readinto(self, buffer: Any, /) -> int:
        self._asks()
        taken = super().readinto(buffer)
        self._has()
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
