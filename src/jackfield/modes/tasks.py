"""Async: one driven coroutine for each unit, on the reactor of the thread that accepts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from ..reactor import DrivenTask, Reactor, current_reactor, drive
from .loopunits import LoopUnits
from .units import report


class Tasks(LoopUnits[DrivenTask]):
    """At most ``limit`` coroutines at once (None: as many as memory holds). ``work`` is a coroutine function."""

    def __init__(self, limit: int | None = None, reactor: Reactor | None = None) -> None:
        super().__init__(limit)
        self._reactor = reactor
        #: For those that ``run()`` has started.
        self.on_end: Callable[[Any, BaseException | None], object] = lambda tag, error: None
        self._told = self._task_ended  # one object for all

    def start(self, work: Callable[..., Coroutine[Any, Any, Any]], *args: Any) -> None:
        self.add(drive(work(*args), reactor=self._reactor or current_reactor(), on_end=self._told))

    def run(self, coro: Coroutine[Any, Any, Any], tag: object) -> None:
        """Run ``coro`` itself as a unit; ``on_end(tag, error)`` is told by what it ended, None for a return."""
        reactor = self._reactor or current_reactor()
        # As drive() does it.
        task = DrivenTask(reactor, coro, None, self._told)
        task.tag = tag
        self._live.add(task)
        reactor.schedule(task)

    def _task_ended(self, task: DrivenTask, error: BaseException | None) -> None:
        try:
            if task.tag is not None:
                self.on_end(task.tag, error)
            elif error is not None and not isinstance(error, asyncio.CancelledError):
                report(error)
        finally:
            self.ended(task)

    def cut(self) -> None:
        for task in self:
            task.cancel()
