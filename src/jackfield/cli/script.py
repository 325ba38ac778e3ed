"""``connect --send TEXT --expect REGEX``: a conversation written down beforehand, as a smoke test."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence

from jackfield.cli import exits
from jackfield.cli.arguments import UsageError
from jackfield.cli.conversation import Conversation
from jackfield.cli.dial import LONGEST_WAIT, NetworkError
from jackfield.cli.text import printable

__all__ = ["Step", "parse_step", "run_script"]

Step = bytes | re.Pattern[bytes]
"""What to send, or what has to come."""

_ESCAPE = re.compile(rb"\\(?:x([0-9A-Fa-f]{2})|(.))", re.DOTALL)
_MEANING = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"0": b"\0", b"e": b"\x1b", b"\\": b"\\"}


def parse_step(flag: str, text: str) -> Step:
    """The step that ``--send TEXT`` or ``--expect REGEX`` means.

    In TEXT, ``\\n \\r \\t \\0 \\e \\\\`` and ``\\xNN`` stand for their bytes.

    :raises UsageError: the text has another escape, or the expression is none.
    """
    raw = text.encode("utf-8", "surrogateescape")
    if flag == "expect":
        try:
            return re.compile(raw)
        except re.error as error:
            raise UsageError(f"--expect {text!r} is no regular expression: {error}") from error

    def mean(found: re.Match[bytes]) -> bytes:
        code, letter = found.groups()
        if code is not None:
            return bytes([int(code, 16)])
        if letter not in _MEANING:
            raise UsageError(f"--send {text!r}: no escape \\{letter.decode()}; a backslash itself is \\\\")
        return _MEANING[letter]

    return _ESCAPE.sub(mean, raw)


def run_script(
    conversation: Conversation,
    steps: Sequence[Step],
    *,
    timeout: float,
    write: Callable[[bytes], None] | None,
) -> int:
    """Go through the steps in order; the exit code.

    Each expectation is looked for after the end of what matched the one before it.

    :param timeout: seconds that each expectation may take to come true.
    :param write: is given all that comes in.
    :raises NetworkError: the line broke, or something expected did not come.
    """
    heard = bytearray()
    said = b""
    for step in steps:
        if isinstance(step, bytes):
            conversation.send(step)
            said = step
            continue
        deadline = time.monotonic() + timeout
        while not (found := step.search(heard)):
            shown = f"/{printable(step.pattern)}/ did not come"
            if not conversation.line.waits(left := deadline - time.monotonic()):
                if left > LONGEST_WAIT:
                    continue
                hint = ""
                if not heard and said and not said.endswith(b"\n"):
                    hint = f"; {printable(said)!r} was sent as it is, without a line's end (\\n)"
                raise NetworkError(f"{shown} within {timeout:g}s; {_describe(heard)}{hint}")
            data = conversation.receive()
            if data is None:
                raise NetworkError(f"{shown} before the other side closed; {_describe(heard)}")
            heard += data
            if write is not None:
                write(data)
        del heard[: found.end()]
    return exits.OK


def _describe(heard: bytearray) -> str:
    return f"came: '{printable(bytes(heard))}'" if heard else "nothing came"
