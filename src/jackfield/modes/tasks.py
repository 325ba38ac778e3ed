"""Async: one driven coroutine for each unit, on the reactor of the thread that accepts."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from ..reactor import DrivenTask, Reactor, current_reactor, drive
from ..reactor.driver import Ended
from .units import Units, report


class Tasks(Units[DrivenTask]):
    """At most ``limit`` coroutines at once (None: as many as memory holds). ``work`` is a coroutine function."""

    def __init__(self, limit: int | None = None, reactor: Reactor | None = None) -> None:
        super().__init__(limit)
        self._reactor = reactor

    def start(self, work: Callable[..., Coroutine[Any, Any, Any]], *args: Any) -> None:
        task = drive(work(*args), reactor=self._reactor or current_reactor())
        self.add(task)
        task.add_done_callback(self._task_ended)

    def _task_ended(self, task: DrivenTask) -> None:
        self.ended(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            report(error.__cause__ if isinstance(error, Ended) and error.__cause__ is not None else error)

    def cut(self) -> None:
        for task in self:
            task.cancel()
