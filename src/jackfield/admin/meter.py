"""The meter: what a server's connections have moved and how long they lasted, for whoever wants to know.

It listens to events, so that a server that nobody looks at counts nothing but what its limits need.
"""

from __future__ import annotations

from typing import Any

from ..admission.locks import Guarded
from ..events import ConnectionEnded, Event
from ..metrics import Histogram

__all__ = ["DURATIONS", "Meter"]

#: Seconds: a probe, an exchange, a session, a device that stays.
DURATIONS = (0.001, 0.01, 0.1, 1.0, 10.0, 60.0, 600.0, 3600.0)


class Meter(Guarded):
    """Counts what has ended since it was made: give it to ``server.subscribe(meter, ConnectionEnded)``."""

    __slots__ = ("_durations", "_errors", "_received", "_sent")

    def __init__(self) -> None:
        super().__init__()
        self._received = self._sent = 0
        self._durations = Histogram(DURATIONS)
        self._errors: dict[str, int] = {}

    def __call__(self, event: Event) -> None:
        if not isinstance(event, ConnectionEnded):
            return
        kind = type(event.error).__name__ if event.error is not None and event.reason == "handler_error" else None
        with self._lock:
            self._received += event.received
            self._sent += event.sent
            self._durations.add(event.duration)
            if kind is not None and (kind in self._errors or len(self._errors) < MOST_ERRORS):
                self._errors[kind] = self._errors.get(kind, 0) + 1

    def read(self) -> dict[str, Any]:
        """The figures: bytes, durations as counts between :data:`DURATIONS` with their sum, errors of handlers by
        type."""
        with self._lock:
            return {
                "received": self._received,
                "sent": self._sent,
                "durations": list(self._durations.counts),
                "seconds": self._durations.sum,
                "errors": dict(self._errors),
            }


#: Types of errors that are told apart: a class that is made anew each time must not fill the memory.
MOST_ERRORS = 100
