"""The units a socket check runs its bodies in: threads, or green threads on one thread.

The checks are written once, as blocking-style code. What differs is only how several bodies run at the same
time, how one waits for another, and whether one can be killed from outside.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Protocol

from ..reactor import in_green, run, sleep, spawn
from .suite import NotPromised

__all__ = ["GreenUnits", "Signal", "ThreadUnits", "Unit", "Units"]

TOGETHER_SECONDS = 45.0
"""How long `Units.together` waits for its bodies before it calls them hung."""


class Signal(Protocol):
    """What one unit tells another with: the part of `threading.Event` that the checks use."""

    def set(self) -> Any: ...

    def is_set(self) -> bool: ...

    def wait(self, timeout: float | None = None) -> bool: ...


class Unit(ABC):
    """One body that runs beside others."""

    @abstractmethod
    def join(self, timeout: float) -> Any:
        """Wait for the body's end and return its result; raise what it raised, or TimeoutError after `timeout` s."""

    @abstractmethod
    def kill(self) -> None:
        """End the body from outside, wherever it waits. Raises NotPromised where units cannot be killed."""


class Units(ABC):
    """A way to run several bodies at the same time."""

    name: str
    can_kill: bool

    @abstractmethod
    def enter(self, body: Callable[[], Any]) -> Any:
        """Run `body` as the first unit and return its result."""

    @abstractmethod
    def start(self, body: Callable[[], Any]) -> Unit:
        """Start `body` beside the unit that calls."""

    @abstractmethod
    def signal(self) -> Signal:
        """A fresh, unset event that works between these units."""

    @abstractmethod
    def sleep(self, seconds: float) -> None:
        """Let other units run for `seconds`."""

    def together(self, *bodies: Callable[[], Any], timeout: float = TOGETHER_SECONDS) -> list[Any]:
        """Run `bodies` at the same time; return their results in order when all have ended.

        The first exception of any body is raised at once (the others are killed where that can be done).
        AssertionError names the bodies that still run after `timeout` seconds.
        """
        ended = self.signal()
        results: dict[int, Any] = {}
        raised: list[BaseException] = []

        def guarded(index: int, body: Callable[[], Any]) -> None:
            try:
                results[index] = body()
            except BaseException as error:  # kept for the caller of together, which raises it
                raised.append(error)
            if raised or len(results) == len(bodies):
                ended.set()

        units = [self.start(lambda i=i, body=body: guarded(i, body)) for i, body in enumerate(bodies)]  # type: ignore[misc]
        in_time = ended.wait(timeout) if bodies else True
        if raised or not in_time:
            if self.can_kill:
                for unit in units:
                    unit.kill()
            if raised:
                raise raised[0]
            names = ", ".join(getattr(b, "__name__", repr(b)) for i, b in enumerate(bodies) if i not in results)
            raise AssertionError(f"after {timeout:g} s still running: {names}")
        for unit in units:
            unit.join(timeout)
        return [results[index] for index in range(len(bodies))]


class _Thread(Unit):
    def __init__(self, body: Callable[[], Any]) -> None:
        self._result: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(body,), daemon=True)
        self._thread.start()

    def _run(self, body: Callable[[], Any]) -> None:
        try:
            self._result = body()
        except BaseException as error:  # kept for join, which raises it
            self._error = error

    def join(self, timeout: float) -> Any:
        self._thread.join(timeout)
        if self._thread.is_alive():
            raise TimeoutError(f"the thread still runs after {timeout:g} s")
        if self._error is not None:
            raise self._error
        return self._result

    def kill(self) -> None:
        raise NotPromised("a thread cannot be killed")


class ThreadUnits(Units):
    """Each body in a thread of its own."""

    name = "threads"
    can_kill = False

    def enter(self, body: Callable[[], Any]) -> Any:
        return body()

    def start(self, body: Callable[[], Any]) -> Unit:
        return _Thread(body)

    def signal(self) -> Signal:
        return threading.Event()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class _Green(Unit):
    def __init__(self, body: Callable[[], Any]) -> None:
        self._green = spawn(body)

    def join(self, timeout: float) -> Any:
        self._green.join(timeout)
        if not self._green.done:
            raise TimeoutError(f"the green thread still runs after {timeout:g} s")
        return self._green.result()

    def kill(self) -> None:
        self._green.kill()


class GreenUnits(Units):
    """Each body in a green thread, all on the one thread that called `enter`.

    `loop_factory` makes the host loop (None: stock asyncio; ``uvloop.new_event_loop`` works too).
    """

    name = "green threads"
    can_kill = True

    def __init__(self, loop_factory: Callable[[], Any] | None = None) -> None:
        self._loop_factory = loop_factory

    def enter(self, body: Callable[[], Any]) -> Any:
        return run(body, loop_factory=self._loop_factory)

    def start(self, body: Callable[[], Any]) -> Unit:
        return _Green(body)

    def signal(self) -> Signal:
        from jackfield.sync import Event

        return Event()

    def sleep(self, seconds: float) -> None:
        sleep(seconds)

    def together(self, *bodies: Callable[[], Any], timeout: float = TOGETHER_SECONDS) -> list[Any]:
        together = super().together
        if in_green():
            return together(*bodies, timeout=timeout)
        result: list[Any] = self.enter(lambda: together(*bodies, timeout=timeout))
        return result
