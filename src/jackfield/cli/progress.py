"""How far a load test has come: one line on a terminal that is written over again and again, and nothing elsewhere."""

from __future__ import annotations

import os
import time
from typing import TextIO

from jackfield.bench import Beat, Plan
from jackfield.bench.load import SLOT
from jackfield.cli.text import paint, wants_color

__all__ = ["Progress"]

BAR = 24
BETWEEN = 0.1
"""Seconds between two pictures at least, however many processes tell."""

SLOTS = 1_000_000_000 // SLOT


class Progress:
    """The line; a call for each beat of a process.

    :param stream: None, or no terminal: nothing is shown.
    """

    def __init__(self, plan: Plan, stream: TextIO | None, color: str) -> None:
        shown = stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"
        self._stream = stream if shown else None
        self._plan = plan
        self._color = stream is not None and wants_color(stream, color)
        self._beats: dict[int, list[Beat]] = {}
        self._drawn = 0.0
        self._on_screen = False

    def __call__(self, number: int, beat: Beat) -> None:
        if self._stream is None:
            return
        # A second of them: what is shown as "now" is the last second's.
        self._beats.setdefault(number, []).append(beat)
        del self._beats[number][: -SLOTS - 1]
        if time.monotonic() - self._drawn >= BETWEEN:
            self._drawn = time.monotonic()
            self._draw()

    def clear(self) -> None:
        """Take the line away."""
        if self._stream is not None and self._on_screen:
            self._write("\r\x1b[K")
            self._on_screen = False

    def _draw(self) -> None:
        last = [beats[-1] for beats in self._beats.values()]
        first = [beats[0] for beats in self._beats.values()]
        passed = max(max(new.slot - old.slot for new, old in zip(last, first, strict=True)), 1) / SLOTS
        rate = (sum(beat.replied for beat in last) - sum(beat.replied for beat in first)) / passed
        measured = sum(beat.measured for beat in last) - sum(beat.measured for beat in first)
        spent = sum(beat.spent for beat in last) - sum(beat.spent for beat in first)
        faults = sum(beat.faults for beat in last)
        share, phase = self._how_far(max(beat.slot for beat in last) / SLOTS, last)
        filled = round(BAR * share)
        bar = paint("█" * filled, "cyan", self._color) + paint("░" * (BAR - filled), "dim", self._color)
        wrong = paint(f"{faults} errors", "red", self._color) if faults else "0 errors"
        mean = f"   mean {spent / measured / 1e6:.3f}ms" if measured else ""
        self._write(f"\r\x1b[K{bar} {100 * share:3.0f} % {phase}   {rate:.0f}/s{mean}   {wrong}")
        self._on_screen = True

    def _how_far(self, seconds: float, last: list[Beat]) -> tuple[float, str]:
        plan, before = self._plan, self._plan.ramp + self._plan.warmup
        if plan.requests is not None:
            share = sum(beat.measured for beat in last) / plan.requests
        else:
            share = max(0.0, seconds - before) / (plan.duration or 1.0)
        phase = "ramp   " if seconds < plan.ramp else "warm-up" if seconds < before else f"{seconds - before:5.1f}s "
        return min(share, 1.0), phase

    def _write(self, text: str) -> None:
        assert self._stream is not None
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError:
            self._stream = None  # the terminal is gone; the load test is not
