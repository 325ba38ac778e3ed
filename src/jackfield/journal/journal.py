"""The one gate to the log for what peers bring about: it escapes, cuts and holds back, and never raises.

Without it a peer writes the log: by what it sends, which errors quote (CVE-2020-7694, CVE-2024-45808: escapes that
steer the terminal of who reads it, lines that nobody logged), and by how often it sends it (CVE-2025-47287,
CVE-2025-69230: a log that fills the disk, and the loop that writes it).
"""

from __future__ import annotations

import dataclasses
import logging
import weakref
from collections.abc import Callable
from typing import Any

from greenlet import getcurrent

from ..clock import MONOTONIC, Clock
from .escaping import BORNE, fit, one_line, said, size
from .tallies import Held, Tallies
from .tracebacks import traceback_lines

__all__ = ["MESSAGE", "MOST", "OVERHEAD", "Incident", "Journal"]

#: Bytes of a record's first line, and of a record.
MESSAGE, MOST = 512, 8 * 1024

#: Bytes that a formatter is taken to add to a record: the time, the level, the logger.
OVERHEAD = 80


@dataclasses.dataclass(slots=True, eq=False, repr=False)
class Incident:
    """What a record is about, for handlers that do more than write text: ``record.incident``.

    ``kind`` of what happened, ``peer`` as the server knows it, ``error`` with its traceback or None. The error is the
    record's own, and let go of with it; what goes to another process (pickle) goes without the error.
    """

    kind: str
    peer: Any = None
    error: BaseException | None = None
    #: Whether a handler failed to write it.
    lost: bool = False

    def __repr__(self) -> str:
        return f"<Incident of {self.kind!a}>"  # formatters that write all that a record has write this too

    def __reduce__(self) -> Any:
        return Incident, (self.kind, self.peer)


class Journal:
    """Writes to ``logger`` what happens because of peers.

    Of each kind 10 records or 12 KiB at once, then one record and 1 KiB a second; the rest is counted, and told in one
    line before the next record, by :meth:`look` or by :meth:`tell`. A record has 8 KiB at most: one line of text, and
    the lines of a traceback, each of which begins with two blanks, with every character that is not printable escaped.

    A record carries its traceback as text (``exc_text``, which every formatter that derives from the standard
    library's appends) and no ``exc_info``, from which a formatter would make the raw one again; ``record.incident`` has
    the error itself.
    """

    def __init__(self, logger: logging.Logger, *, clock: Clock = MONOTONIC) -> None:
        self._logger = logger
        self._clock = clock
        self._tallies = Tallies()
        #: The green threads, and plain threads, that are writing.
        self._writing: set[Any] = set()
        #: Called when the first record is held back: from then on :meth:`look` has something to tell, in a while.
        self.on_held: Callable[[], object] | None = None

    # -- writing -----------------------------------------------------------------------------------------------------

    def write(
        self, level: int, text: str, *args: object, kind: str, error: BaseException | None = None, peer: Any = None
    ) -> bool:
        """Log ``text % args``, and the traceback of ``error`` where there is one; False if that was held back or lost.

        ``kind`` is what counts together: a few words in ASCII, the same for all of a kind. ``args`` are for ``%s``. Of
        what a handler of the log raises, only what is no ``Exception`` goes on its way.
        """
        if not self._logger.isEnabledFor(level):
            return False
        unit = getcurrent()
        if unit in self._writing:
            # A handler of the log has brought this about: writing it would bring about the next.
            self._tallies.lose()
            return False
        self._writing.add(unit)
        try:
            before = self._begin(kind, level)
            return before is not None and self._write(before, level, text, args, error, peer)
        except BORNE:
            return False  # no memory or stack is left, not even for a count
        finally:
            self._writing.discard(unit)

    def _begin(self, kind: str, level: int) -> Held | None:
        first = not self._tallies.holds
        before = self._tallies.take(kind, level, self._clock.now())
        if before is None and first and self.on_held is not None:
            try:
                self.on_held()
            except BORNE:
                pass  # the loop that it wakes is closed, and what is held back is told at the end
        return before

    def _write(
        self, before: Held, level: int, text: str, args: tuple[object, ...], error: BaseException | None, peer: Any
    ) -> bool:
        try:
            told = self._summary(before) if before.count else ""
            message = one_line(text % tuple(map(said, args)) if args else text, MESSAGE)
            lines = traceback_lines(error) if error is not None else []
            used = size(message) + OVERHEAD + (len(told) + OVERHEAD if told else 0)
            wanted = min(MOST, used + sum(size(line) + 1 for line in lines))
            granted = self._tallies.settle(before.kind, wanted)
            lines = fit(lines, granted - used)
        except BORNE:
            self._tallies.lose()
            return False
        if told:
            self._hand_over(level, told, Incident(before.kind))
        return self._hand_over(level, message, Incident(before.kind, peer, error), "\n".join(lines))

    def _hand_over(self, level: int, message: str, incident: Incident, trace: str = "") -> bool:
        logger = self._logger
        try:
            filename, line, function, _ = logger.findCaller(stacklevel=4)
            record = logger.makeRecord(logger.name, level, filename, line, message, (), None, function)
            record.exc_text = trace or None
            record.__dict__["incident"] = incident
            _listen_to(logger)
            logger.handle(record)
        except BORNE:
            incident.lost = True
        if incident.lost:
            self._tallies.lose()
        return not incident.lost

    # -- what was held back ------------------------------------------------------------------------------------------

    def look(self) -> float | None:
        """Tell what was held back, as far as there is room for it again; returns the seconds until there is for the
        rest, None where nothing is held back. Cheap then."""
        if not self._tallies.holds or getcurrent() in self._writing:
            return None
        found, delay = self._tallies.due(self._clock.now())
        self._tell(found)
        return delay

    def _tell(self, found: list[Held]) -> None:
        unit = getcurrent()
        self._writing.add(unit)
        try:
            for held in found:
                self._hand_over(held.level, self._summary(held), Incident(held.kind))
        finally:
            self._writing.discard(unit)

    @staticmethod
    def _summary(held: Held) -> str:
        return f"... {held.count} more of these: {held.kind}"

    def beside(self, logger: logging.Logger) -> Journal:
        """One that writes to ``logger``, out of the same allowance, also between processes if this one is shared before
        the fork. What it holds back is told by this one."""
        other = Journal(logger, clock=self._clock)
        other._tallies, other._writing = self._tallies, self._writing
        return other

    # -- forks, and the end ------------------------------------------------------------------------------------------

    def share(self) -> None:
        """Let processes that are forked from now on draw on the same allowance, and count together: one descriptor.

        Where there is none to be had, each of them has its own.
        """
        try:
            self._tallies.share()
        except OSError:
            pass

    def tell(self) -> None:
        """Tell at once all that is held back: nothing may come any more before which it could be told."""
        if self._tallies.holds and getcurrent() not in self._writing:
            self._tell(self._tallies.rest())

    def close(self) -> None:
        """Tell what is held back, and give back what :meth:`share` took. It may be written to afterwards; any number of
        times. What was suppressed and lost stays known."""
        self.tell()
        self._tallies.close()

    # -- what is known -----------------------------------------------------------------------------------------------

    @property
    def suppressed(self) -> int:
        """Records that were held back, told of or not."""
        return sum(self._tallies.suppressed().values())

    @property
    def suppressed_by_kind(self) -> dict[str, int]:
        """The same by kind."""
        return self._tallies.suppressed()

    @property
    def lost(self) -> int:
        """Records that could not be written: a full disk, a handler of the log that failed, or that brought about a
        record while it wrote one. What a handler fails with on a thread of its own (QueueListener) is not seen."""
        return self._tallies.lost


def _listen_to(logger: logging.Logger) -> None:
    """Hear of it when a handler that a record of ``logger`` goes to cannot write it."""
    found = []
    step: logging.Logger | None = logger
    while step is not None:
        found += step.handlers
        step = step.parent if step.propagate else None
    if not found and logging.lastResort is not None:
        found.append(logging.lastResort)
    for handler in found:
        if "handleError" not in vars(handler):
            _hear(handler)


def _hear(handler: logging.Handler) -> None:
    # logging swallows what a handler meets, and tells nobody but the handler itself, by calling its handleError(). An
    # attribute of that one object is where it can be heard; then the handler does what it always did.
    who = weakref.ref(handler)

    def handle_error(record: logging.LogRecord) -> None:
        incident = getattr(record, "incident", None)
        if isinstance(incident, Incident):
            incident.lost = True
        one = who()
        if one is not None:
            type(one).handleError(one, record)

    handler.handleError = handle_error  # type: ignore[method-assign]
