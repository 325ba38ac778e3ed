"""Green: one green thread for each unit, on the reactor of the thread that accepts."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from greenlet import getcurrent

from ..reactor import GreenExit, GreenThread, Reactor, current_reactor, in_green, spawn_on
from .units import Units, report


class Greens(Units[GreenThread]):
    """At most ``limit`` green threads at once (None: as many as memory holds, at some 7 KB each)."""

    def __init__(self, limit: int | None = None, reactor: Reactor | None = None) -> None:
        super().__init__(limit)
        self._reactor = reactor

    def start(self, work: Callable[..., Any], *args: Any) -> None:
        reactor = self._reactor or current_reactor()
        self.add(spawn_on(reactor, self._run, (work, args)))

    def _run(self, work: Callable[..., Any], args: tuple[Any, ...]) -> None:
        try:
            work(*args)
        except GreenExit:
            pass
        except KeyboardInterrupt:
            raise  # Ctrl-C met this one; it is the first green thread's
        except BaseException as error:
            # As a thread would report it; it must not end the loop that serves the others.
            report(error)
        finally:
            self.ended(getcurrent())  # type: ignore[arg-type]

    def join(self, timeout: float | None = None) -> bool:
        if not in_green() and self._reactor is not None and threading.get_ident() == self._reactor.thread_id:
            return not self.live  # the loop that runs them is below us on this very stack
        return super().join(timeout)

    def cut(self) -> None:
        for green in self:
            green.kill()
