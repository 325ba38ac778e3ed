"""What a process is made of at this moment, and how late its loops are."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import threading
import time
from collections import deque
from typing import Any

from ..server import Server

__all__ = ["Lags", "runtime"]

_PAGE = os.sysconf("SC_PAGE_SIZE")


def runtime() -> dict[str, Any]:
    """Memory in bytes, processor time in seconds, threads, descriptors, and the garbage collector's runs by
    generation; what a system does not tell is None (proc(5): Linux)."""
    resident = descriptors = None
    with contextlib.suppress(OSError, ValueError):
        with open("/proc/self/statm", "rb") as file:
            resident = int(file.read().split()[1]) * _PAGE
        descriptors = len(os.listdir("/proc/self/fd")) - 1  # without the one that looked
    return {
        "pid": os.getpid(),
        "python": ".".join(map(str, sys.version_info[:3])),
        "resident": resident,
        "cpu": time.process_time(),
        "threads": threading.active_count(),
        "descriptors": descriptors,
        "collections": [generation["collections"] for generation in gc.get_stats()],
    }


class Lags:
    """How late the loop of ``server`` comes to what it is asked: the last samples, in seconds.

    A sample is taken by :meth:`ask`, and is there when the loop has turned; a loop that is held tells so by the age of
    the question that it has not answered.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._samples: deque[float] = deque(maxlen=60)
        self._asked: float | None = None

    def ask(self) -> None:
        """Take a sample, unless one is still waited for."""
        loop = self._server._loop
        if self._asked is None and loop is not None:
            self._asked = time.monotonic()
            loop.ask(self._answered)

    def _answered(self) -> None:
        asked, self._asked = self._asked, None
        if asked is not None:
            self._samples.append(time.monotonic() - asked)

    def read(self) -> dict[str, Any]:
        """The last one, the longest of the last sixty, and for how long an answer has been waited for."""
        asked = self._asked
        return {
            "last": self._samples[-1] if self._samples else None,
            "longest": max(self._samples, default=None),
            "waiting": time.monotonic() - asked if asked is not None else 0.0,
        }
