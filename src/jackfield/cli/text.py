"""How the command writes: one line for a failure, colour only where somebody looks at it, foreign bytes escaped."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

__all__ = ["ALWAYS", "AUTO", "NEVER", "complain", "count_of", "escape", "paint", "printable", "wants_color"]

AUTO, ALWAYS, NEVER = "auto", "always", "never"

_STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}

# Whatever moves a terminal's cursor, changes its state or starts a new line: C0, DEL, C1, Unicode's own line breaks.
# A peer that can write these into a log or a screen can forge what is read there.
_CONTROLS = [*range(0x20), 0x7F, *range(0x80, 0xA0), 0x2028, 0x2029]
_ESCAPES = {code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" for code in _CONTROLS}
_ESCAPES.update({ord("\n"): "\\n", ord("\r"): "\\r", ord("\t"): "\\t"})


def escape(text: str, keep: str = "") -> str:
    """The text on one line, every control character written out (``\\n``, ``\\x1b``) except those in `keep`."""
    table = {code: written for code, written in _ESCAPES.items() if chr(code) not in keep} if keep else _ESCAPES
    # A lone surrogate stands for a byte that was no UTF-8 (PEP 383) and cannot be written to a strict stream.
    return text.translate(table).encode("utf-8", "backslashreplace").decode("utf-8")


def printable(data: bytes, limit: int = 200) -> str:
    """Foreign bytes as one line of text, cut to `limit` characters with a mark where the cut is."""
    text = escape(data[: limit * 4].decode("utf-8", "backslashreplace"))
    return text if len(text) <= limit else f"{text[:limit]}…"


def wants_color(stream: TextIO, choice: str = AUTO) -> bool:
    """Whether to colour what goes to `stream`: as `choice` says; with "auto" on a terminal, unless NO_COLOR is set."""
    if choice != AUTO:
        return choice == ALWAYS
    if os.environ.get("NO_COLOR"):  # no-color.org: set and not empty
        return False
    return bool(os.environ.get("FORCE_COLOR")) or (stream.isatty() and os.environ.get("TERM") != "dumb")


def paint(text: str, style: str, on: bool) -> str:
    """The text in the style named, or as it is when `on` is false."""
    return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if on else text


def count_of(number: int, thing: str) -> str:
    """``1 process``, ``2 processes``."""
    return f"{number} {thing}{'' if number == 1 else 'es' if thing.endswith('s') else 's'}"


def complain(program: str, message: str, color: str = AUTO, style: str = "red") -> None:
    """Write one line on stderr: who complains and of what; with another style, who says what."""
    label = paint(f"{program}:", style, wants_color(sys.stderr, color))
    try:
        print(label, escape(message), file=sys.stderr, flush=True)
    except OSError:
        # Nobody reads stderr any more; the exit code still tells.
        pass
