"""A rollover: new workers first, and when all of them are ready, the old ones retire."""

from __future__ import annotations

from collections.abc import Iterable

from .life import WorkerState
from .member import Member


class Rollover:
    """New workers and those whose places they take: all of them at a reload, one for one that is worn out, nobody's at
    the start. If one of the new cannot begin, none of them stays, and nobody retires."""

    def __init__(self, reason: str, replaces: Iterable[Member] = ()) -> None:
        self.reason = reason
        self.replaces = list(replaces)
        self.members: list[Member] = []
        #: Why not all of the new could be started at all.
        self.problem: str | None = None
        #: Whether another, larger one, or the end, has made it needless: nobody is told that it came to nothing.
        self.abandoned = False

    @property
    def failure(self) -> str | None:
        """Why it came to nothing, once one of the new has ended, or is being ended, before all were ready."""
        ended = (WorkerState.STOPPING, WorkerState.KILLED, WorkerState.GONE)
        first = next((member for member in self.members if member.state in ended), None)
        if first is None:
            return self.problem
        return self.problem or first.failure or "it ended before it was ready"

    @property
    def complete(self) -> bool:
        """All of them serve, or have done and have been told to retire since."""
        return all(member.state in (WorkerState.SERVING, WorkerState.RETIRING) for member in self.members)
