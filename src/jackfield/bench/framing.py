"""How one message ends and the next begins: making a message of a payload, and finding replies in what comes in.

============= ====================================================================================
name          a message is
============= ====================================================================================
``none``      the payload as it is; only its length, which has to be known, tells where it ends
``line``      the payload and a line feed
``netstring`` its length in digits, a colon, the payload, a comma (D. J. Bernstein, 1997)
``u32``       its length as four bytes, the first the greatest (network byte order), and the payload
============= ====================================================================================
"""

from __future__ import annotations

__all__ = ["ANY", "EXACT", "FRAMINGS", "LARGEST_FRAME", "LINE", "NETSTRING", "U32", "Frame", "FramingError", "framed"]

FRAMINGS = ("none", "line", "netstring", "u32")

EXACT, ANY, LINE, U32, NETSTRING = range(5)
"""How the end of a reply is found: it is so many known bytes, it is whatever comes, or it says so itself. As in
native/loading.c."""

LARGEST_FRAME = 1 << 26
"""Bytes; what claims to be longer is taken for a wrong reply."""

MOST_DIGITS = 8


class FramingError(ValueError):
    """What has come in cannot be the beginning of a reply."""


def framed(payload: bytes, framing: str) -> bytes:
    """The message of a payload.

    :raises ValueError: no message can hold it; one line that says why.
    """
    if framing == "line":
        if b"\n" in payload:
            raise ValueError("a payload with a line feed in it is no line: use --framing netstring or u32")
        return payload + b"\n"
    if framing == "netstring":
        return b"%d:%b," % (len(payload), payload)
    if framing == "u32":
        return len(payload).to_bytes(4, "big") + payload
    return payload


class Frame:
    """The reply that is coming in, of one connection.

    :param reply: with ``EXACT`` what it has to be.
    """

    __slots__ = ("_digits", "_framing", "_got", "_head", "_phase", "_reply")

    def __init__(self, framing: int, reply: bytes) -> None:
        self._framing = framing
        self._reply = reply
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        self._got = self._head = self._digits = 0
        self._phase = "head"

    def take(self, data: memoryview) -> tuple[int, bool]:
        """How many bytes of `data` belong to this reply, and whether it is complete with them; then the next begins.

        :raises FramingError: they cannot belong to it.
        """
        taken, whole = getattr(self, f"_take_{self._framing}")(data)
        if whole:
            self.reset()
        return taken, whole

    def _take_0(self, data: memoryview) -> tuple[int, bool]:
        taken = min(len(self._reply) - self._got, len(data))
        if data[:taken] != self._reply[self._got : self._got + taken]:
            raise FramingError
        self._got += taken
        return taken, self._got == len(self._reply)

    def _take_1(self, data: memoryview) -> tuple[int, bool]:
        return len(data), True

    def _take_2(self, data: memoryview) -> tuple[int, bool]:
        end = bytes(data).find(b"\n")
        taken = end + 1 or len(data)
        self._got += taken
        if self._got > LARGEST_FRAME:
            raise FramingError
        return taken, end >= 0

    def _take_3(self, data: memoryview) -> tuple[int, bool]:
        taken = min(4 - self._digits, len(data))
        for byte in data[:taken]:
            self._head = self._head << 8 | byte
        self._digits += taken
        if self._digits < 4:
            return taken, False
        if self._head > LARGEST_FRAME:
            raise FramingError
        return self._take_body(data, taken)

    def _take_4(self, data: memoryview) -> tuple[int, bool]:
        taken = 0
        while self._phase == "head":
            if taken == len(data):
                return taken, False
            byte = data[taken]
            taken += 1
            if 0x30 <= byte <= 0x39 and self._digits < MOST_DIGITS:
                self._head = self._head * 10 + byte - 0x30
                self._digits += 1
            elif byte == 0x3A and self._digits:
                self._phase = "body"
            else:
                raise FramingError
        taken, whole = self._take_body(data, taken)
        if not whole or taken == len(data):
            return taken, False
        if data[taken] != 0x2C:
            raise FramingError
        return taken + 1, True

    def _take_body(self, data: memoryview, taken: int) -> tuple[int, bool]:
        more = min(self._head - self._got, len(data) - taken)
        self._got += more
        return taken + more, self._got == self._head
