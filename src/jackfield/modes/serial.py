"""Serial: one unit at a time, on the thread that accepts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .units import Units


class Serial(Units[object]):
    """Runs the work where it is called. The others wait in the kernel's queue meanwhile."""

    def start(self, work: Callable[..., Any], *args: Any) -> None:
        unit = object()
        self.add(unit)
        try:
            work(*args)
        finally:
            self.ended(unit)
