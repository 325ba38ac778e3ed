"""``connect`` where no terminal is: a plain byte pipe, both directions at once.

Each direction has a thread of its own that blocks.  Standard input and output are other programs' too, so making them
non-blocking is not ours to do (O_NONBLOCK sits on the open file, which the shell shares), and a pump that waits in
``write`` must never keep the other one from reading: that is how two full pipes wait for each other for ever.
"""

from __future__ import annotations

import errno
import os
import select
import threading
import time
from collections.abc import Callable

from jackfield.cli import exits
from jackfield.cli.conversation import Conversation, HexDump
from jackfield.cli.dial import LONGEST_WAIT, NetworkError, readable

__all__ = ["LINGER", "Pump", "Stdout", "hold_standard_descriptors"]

STDIN, STDOUT = 0, 1

LINGER = 1.0
"""Seconds of silence that end a conversation whose end cannot be seen: datagrams, or ``--send-only``."""

LULL = 0.5
"""Seconds without input after which a peer that has closed its own direction is taken to be gone (socat's -t)."""

TURN = 0.05
"""Seconds between two looks at whether input is still flowing."""


def hold_standard_descriptors() -> None:
    """Open /dev/null in the place of a standard descriptor that is closed.

    The kernel gives out the lowest free number (open(2)), so under ``<&-`` a socket would become standard input.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


class Stdout:
    """Writes bytes to standard output, or their hex dump, all of them and unbuffered."""

    def __init__(self, as_hex: bool = False) -> None:
        self._dump = HexDump() if as_hex else None

    def write(self, data: bytes) -> None:
        """:raises BrokenPipeError: nobody reads any more."""
        rest = memoryview(self._dump(data).encode() if self._dump is not None else data)
        while rest:
            rest = rest[os.write(STDOUT, rest) :]


class Pump:
    """Carries standard input to the line, and the line to standard output, until both are done.

    :param write: is given what comes in, or None to throw it away (``--send-only``).
    :param read_input: whether to read standard input at all (not with ``--recv-only``).
    :param half_close: whether the end of input is told to the other side.
    :param linger: stop after some silence, as nothing more will be sent and the other side's end may not be seen.
    :param idle: seconds without any traffic after which it is a failure; None waits for ever.
    """

    def __init__(
        self,
        conversation: Conversation,
        write: Callable[[bytes], None] | None,
        *,
        read_input: bool = True,
        half_close: bool = True,
        linger: bool = False,
        idle: float | None = None,
    ) -> None:
        self._conversation = conversation
        self._line = conversation.line
        self._write = write
        self._read_input = read_input
        self._half_close = half_close
        self._linger = linger
        self._idle = idle
        self._sending = False
        self._failure: Exception | None = None

    def run(self) -> int:
        """Carry; the exit code.

        :raises NetworkError: the line broke, or was idle too long.
        """
        fed, feeder_end = os.pipe()
        if self._read_input:
            # A daemon: it may be blocked in a read of standard input when everything else is over.
            threading.Thread(target=self._feed, args=(feeder_end,), daemon=True, name="stdin").start()
        try:
            self._carry(fed)
        except BrokenPipeError:
            # Whoever read our output has read enough (`... | head`).  The line's own EPIPE comes as a NetworkError.
            pass
        finally:
            os.close(fed)
            if not self._read_input:
                os.close(feeder_end)
        return exits.OK

    def _feed(self, feeder_end: int) -> None:
        """The sending thread: standard input to the line; then it closes its end of the pipe, which says "done"."""
        try:
            while data := _read_stdin(self._line.largest):
                self._sending = True
                self._conversation.send(data)
                self._sending = False
            if self._half_close:
                self._line.finish()
        except Exception as error:  # shown by the other thread, which decides the exit code
            self._failure = error
        finally:
            self._sending = False
            os.close(feeder_end)

    def _carry(self, fed: int) -> None:
        """The receiving thread, the main one: the line to standard output, until nothing more can come."""
        poll = select.poll()
        poll.register(self._line.fileno(), select.POLLIN)
        if self._read_input:
            poll.register(fed, select.POLLIN)
        feeding, lingering, limit = self._read_input, self._linger, self._idle
        while True:
            if lingering:
                limit = self._idle or LINGER
            ready = {descriptor for descriptor, _ in poll.poll(0 if self._line.ahead else self._until_idle(limit))}
            if self._line.ahead or self._line.fileno() in ready:
                data = self._conversation.receive()
                if data is None:
                    break
                if self._write is not None:
                    self._write(data)
            elif fed in ready:
                self._check_feeder()
                poll.unregister(fed)
                feeding = False
                lingering = self._write is None or not self._line.ends
            elif limit is not None and time.monotonic() - self._conversation.last >= limit:
                if lingering:
                    return
                raise NetworkError(f"nothing passed for {limit:g}s (-i)")
        if feeding:
            self._finish_feeding(fed)

    def _finish_feeding(self, fed: int) -> None:
        """The other side closed its direction, not ours: while input is flowing, it may still be wanted."""
        give_up_at = time.monotonic() + LULL
        while (now := time.monotonic()) < give_up_at:
            if readable(fed, TURN):
                self._check_feeder()
                return
            if self._sending or readable(STDIN):
                give_up_at = now + LULL

    def _check_feeder(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _until_idle(self, limit: float | None) -> float | None:
        """Milliseconds until the line will have been idle for `limit` seconds."""
        if limit is None:
            return None
        left = self._conversation.last + limit - time.monotonic()
        return max(0.0, min(left, LONGEST_WAIT)) * 1000 + 1


def _read_stdin(largest: int) -> bytes:
    while True:
        try:
            return os.read(STDIN, largest)
        except BlockingIOError:
            readable(STDIN, None)  # another program left the open file that we share non-blocking
        except OSError as error:
            if error.errno == errno.EIO:  # a terminal that has hung up, or whose foreground we are not
                return b""
            raise
