"""How a value that was refused is shown in the one line that says so."""

from __future__ import annotations

__all__ = ["show"]


def show(value: object, most: int = 60) -> str:
    """``value`` in ASCII, without a line's end, cut to ``most`` characters."""
    if isinstance(value, int) and abs(value) >> 64:
        return "a number beyond that"  # Python refuses to write out thousands of digits
    text = ascii(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."
