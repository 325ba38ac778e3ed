"""Threads: one operating-system thread for each unit."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from .units import Units, report


class Threads(Units[threading.Thread]):
    """At most ``limit`` threads at once (None: as many as the system gives)."""

    def __init__(self, limit: int | None = None, *, daemon: bool = True) -> None:
        super().__init__(limit)
        self.daemon = daemon

    def start(self, work: Callable[..., Any], *args: Any) -> None:
        thread = threading.Thread(target=self._run, args=(work, args), daemon=self.daemon)
        self.add(thread)
        try:
            thread.start()
        except BaseException:
            self.ended(thread)
            raise

    def _run(self, work: Callable[..., Any], args: tuple[Any, ...]) -> None:
        try:
            work(*args)
        except BaseException as error:
            # Reported before the unit counts as ended: whoever joins may look at what was reported.
            report(error)
        finally:
            self.ended(threading.current_thread())

    def join(self, timeout: float | None = None) -> bool:
        deadline = None if timeout is None else time.monotonic() + timeout
        threads = [thread for thread in self if thread is not threading.current_thread()]
        if not super().join(timeout) and deadline is not None:
            return False
        for thread in threads:
            # It has left its work and only has to leave the interpreter.
            thread.join(None if deadline is None else max(0.1, deadline - time.monotonic()))
        return True
