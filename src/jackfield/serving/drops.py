"""Drops: datagrams that no handler sees, by reason, and one line for the log where a lot of them begins.

That is less than the journal gives a kind (ten records, then one a second): of an episode that lasts for hours nothing
more is to be said, as it is counted in :class:`~jackfield.ServerInfo` by reason.
"""

from __future__ import annotations

import logging
from collections import Counter

from ..clock import MONOTONIC, Clock
from ..events import Reason

__all__ = ["QUIET", "Drops"]

_log = logging.getLogger("jackfield.server")

#: Seconds without a drop of a kind after which the next one is worth a line again.
QUIET = 10.0


class Drops:
    """Counts drops. For the thread that receives; what it has counted may be read from any."""

    def __init__(self, clock: Clock = MONOTONIC) -> None:
        #: Those that the limits or the lack of a unit account for, by reason.
        self.refusals: Counter[Reason] = Counter()
        self._now = clock.now
        #: When the last one of a kind was dropped at a listener: as many entries as there are listeners and kinds.
        self._last: dict[tuple[str, str], float] = {}

    def refuse(self, listener: str, reason: Reason, count: int, text: str) -> None:
        """``count`` datagrams were dropped at ``listener``; ``text`` tells of one of them."""
        self.refusals[reason] += count
        self.tell(listener, reason, text)

    def tell(self, listener: str, kind: str, text: str) -> None:
        """Log ``text`` unless the last drop of the same kind was not long ago."""
        now, last = self._now(), self._last.get((listener, kind))
        self._last[listener, kind] = now
        if last is None or now - last >= QUIET:
            _log.warning("%s: %s (no further line until there were none for %g s)", listener, text, QUIET)
