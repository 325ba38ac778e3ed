"""What a server can be told, and how people write it: durations and sizes."""

from __future__ import annotations

import math
import re

__all__ = ["parse_duration", "parse_size"]

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_BYTES = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30}

# ASCII digits only; float() and int() take much more ("1_0", "+1", "1e3", "nan", the digits of every script).
_DURATION = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,18})?)(ms|s|m|h)?")
_SIZE = re.compile(r"([0-9]{1,18})([kKmMgG]?)")

# A lock waits at most threading.TIMEOUT_MAX, 292 years on Linux; nobody means more than a hundred.
_LONGEST = 100 * 366 * 86400.0
# What the kernel takes for a length or an offset (off_t, ssize_t).
_LARGEST = 2**63 - 1


def parse_duration(value: str | int | float) -> float:
    """Seconds, from ``"500ms"``, ``"5s"``, ``"2m"``, ``"1h"`` or a bare number of seconds (``"5"``, ``5``, ``0.5``).

    Upper-case units, signs and blanks are refused: a duration has one spelling.

    :raises ValueError: it is no duration, or not from 0 to a hundred years; one line that says what to write.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value) if abs(value) <= _LONGEST else math.inf  # an int may be too large for a float
    else:
        match = _DURATION.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            raise ValueError(f"no duration: {_show(value)}: write e.g. 500ms, 5s, 2m or 1h (a bare number is seconds)")
        seconds = float(match[1]) * _SECONDS[match[2] or "s"]
    if not 0 <= seconds <= _LONGEST:  # false for nan as well
        raise ValueError(f"a duration is from 0 to 100 years, not {_show(value)}: write e.g. 500ms, 5s, 2m or 1h")
    return seconds


def parse_size(value: str | int) -> int:
    """Bytes, from ``"64k"``, ``"1M"``, ``"2G"`` (powers of 1024, either case) or a bare number of bytes.

    :raises ValueError: it is no size, or does not fit in 63 bits; one line that says what to write.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    else:
        match = _SIZE.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            raise ValueError(f"no size: {_show(value)}: write e.g. 64k, 1M or a whole number of bytes")
        size = int(match[1]) * _BYTES[match[2].lower()]
    if not 0 <= size <= _LARGEST:
        raise ValueError(f"a size is from 0 to 2^63 - 1 bytes, not {_show(value)}: write e.g. 64k, 1M or 2G")
    return size


def _show(value: object) -> str:
    if isinstance(value, int) and abs(value) > _LARGEST:
        return "a number beyond that"  # Python refuses to write out thousands of digits
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
