"""What passes over a line, seen in both directions: line ends translated, silence measured, tapes kept."""

from __future__ import annotations

import time
from typing import Any, BinaryIO

from jackfield.cli.arguments import UsageError
from jackfield.cli.dial import Line

__all__ = ["Conversation", "CrLf", "HexDump", "Recorder", "open_tape"]


class CrLf:
    """Turns each LF that has no CR before it into CR LF, across the borders of chunks."""

    def __init__(self) -> None:
        self._after_cr = False

    def __call__(self, data: bytes) -> bytes:
        if not data:
            return data
        # A CR at the end of the last chunk belongs to a LF at the start of this one.
        head, rest = (data[:1], data[1:]) if self._after_cr and data[:1] == b"\n" else (b"", data)
        self._after_cr = data.endswith(b"\r")
        return head + rest.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


class HexDump:
    """Shows bytes as ``hexdump -C`` does, one row for each 16, counting on from chunk to chunk."""

    def __init__(self) -> None:
        self._offset = 0

    def __call__(self, data: bytes) -> str:
        rows = []
        for start in range(0, len(data), 16):
            row = data[start : start + 16]
            halves = f"{row[:8].hex(' '):23}  {row[8:].hex(' '):23}"
            shown = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in row)
            rows.append(f"{self._offset + start:08x}  {halves}  |{shown}|\n")
        self._offset += len(data)
        return "".join(rows)


class Recorder:
    """Keeps both directions as JSON lines: seconds since the start, ``sent`` or ``received``, and the bytes.

    The bytes are under ``text`` where they are UTF-8, and else under ``base64``.
    """

    def __init__(self, tape: BinaryIO) -> None:
        self._tape = tape
        self._started = time.monotonic()

    def __call__(self, way: str, data: bytes) -> None:
        import json  # only a recorded conversation pays for it

        entry: dict[str, Any] = {"at": round(time.monotonic() - self._started, 6), "way": way}
        try:
            entry["text"] = data.decode()
        except UnicodeDecodeError:
            import base64

            entry["base64"] = base64.b64encode(data).decode()
        # One unbuffered write for each record: the two directions are two threads, and a crash loses nothing.
        self._tape.write(json.dumps(entry).encode() + b"\n")


def open_tape(path: str, flag: str) -> BinaryIO:
    """Open a file to write what passes; unbuffered.

    :raises UsageError: it cannot be written.
    """
    try:
        return open(path, "wb", buffering=0)
    except OSError as error:
        raise UsageError(f"{flag} {path}: {error.strerror}") from error


class Conversation:
    """A line with the listeners on it.  One thread may send while another receives.

    :ivar last: when anything passed last, on the monotonic clock.
    """

    def __init__(
        self, line: Line, crlf: bool = False, output: BinaryIO | None = None, record: BinaryIO | None = None
    ) -> None:
        """:param output: is given what comes in; :param record: is given both directions, by a :class:`Recorder`."""
        self.line = line
        self.last = time.monotonic()
        self._crlf = CrLf() if crlf else None
        self._output = output
        self._record = Recorder(record) if record is not None else None

    def send(self, data: bytes) -> None:
        """Send all of it.

        :raises NetworkError: the line broke.
        """
        if self._crlf is not None:
            data = self._crlf(data)
        if self._record is not None:
            self._record("sent", data)  # first: the other thread may have the answer before this one goes on
        self.line.send(data)
        self.last = time.monotonic()

    def receive(self) -> bytes | None:
        """What has come; None once the other side has closed; ``b""`` for what was none of it, as TLS's own records.

        :raises NetworkError: the line broke.
        """
        data = self.line.receive()
        if data == b"" and self.line.ends:  # an empty datagram is one, but no part of a stream is empty
            return data
        self.last = time.monotonic()
        if data is not None:
            if self._output is not None:
                self._output.write(data)
            if self._record is not None:
                self._record("received", data)
        return data
