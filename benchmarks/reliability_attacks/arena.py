"""What an attack is given: the server, how many attackers this machine allows, and how long it may take."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from .target import Target, Watch

#: What an attack has found, by name. None stands for something that has not happened in time.
Found = dict[str, Any]


@dataclass
class Arena:
    target: Target
    watch: Watch
    #: Attackers are cut to so many: because of descriptors, or because a quick run was asked for.
    most: int
    #: What the row has set for the server.
    setup: dict[str, Any]
    #: By time.monotonic(): when the attack has to be over.
    until: float = field(default_factory=lambda: time.monotonic() + 30.0)

    def many(self, count: int) -> int:
        return min(count, self.most)

    @property
    def left(self) -> float:
        """Seconds that the attack may still take."""
        return max(0.0, self.until - time.monotonic())

    def limit(self, name: str) -> float:
        """Seconds of a limit that the row has set."""
        return float(self.setup["limits"][name])
