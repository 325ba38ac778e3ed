"""Green: one green thread for each unit, on the reactor of the thread that accepts."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from ..reactor import GreenExit, GreenThread, Reactor, current_reactor, in_green, spawn_on
from .loopunits import LoopUnits
from .units import report


class Greens(LoopUnits[GreenThread]):
    """At most ``limit`` green threads at once (None: as many as memory holds, at some 7 KB each)."""

    def __init__(self, limit: int | None = None, reactor: Reactor | None = None) -> None:
        super().__init__(limit)
        self._reactor = reactor
        #: For those that ``run()`` has started.
        self.on_end: Callable[[Any, BaseException | None], object] = lambda tag, error: None
        self._told = self._unit_ended  # one object for all

    def start(self, work: Callable[..., Any], *args: Any) -> None:
        reactor = self._reactor or current_reactor()
        self.add(spawn_on(reactor, work, args, on_end=self._told))

    def run(self, work: Callable[[], Any], tag: object) -> None:
        """Run ``work()`` as a unit; ``on_end(tag, error)`` is told by what it ended, None for a return."""
        green = spawn_on(self._reactor or current_reactor(), work, on_end=self._told)
        green.tag = tag
        self.add(green)

    def _unit_ended(self, green: GreenThread, error: BaseException | None) -> None:
        try:
            if green.tag is not None:
                self.on_end(green.tag, error)
            # A Ctrl-C that met this one is the first green thread's.
            elif error is not None and not isinstance(error, (GreenExit, KeyboardInterrupt)):
                # As a thread would report it; it must not end the loop that serves the others.
                report(error)
        finally:
            self.ended(green)

    def join(self, timeout: float | None = None) -> bool:
        if not in_green() and self._reactor is not None and threading.get_ident() == self._reactor.thread_id:
            return not self.live  # the loop that runs them is below us on this very stack
        return super().join(timeout)

    def cut(self) -> None:
        for green in self:
            green.kill()
