"""Several workers of one ledger that look like one :class:`Admission`, so that its tests hold for all of them."""

from __future__ import annotations

import itertools
from typing import Any

from jackfield.admission import Ban, Refusal
from jackfield.admission.addresses import source_of
from jackfield.admission.ledger import Ledger
from jackfield.admission.shared import SharedAdmission
from jackfield.clock import Clock
from jackfield.errors import MisuseError
from jackfield.limits import Limits


class Team:
    """Each call goes to the next worker; who leaves does so where it came in."""

    workers = 3
    kind = SharedAdmission

    def __init__(self, limits: Limits, clock: Clock) -> None:
        # Locks belong to the process, and all workers are in this one: only their order keeps them apart.
        self.ledger = Ledger(self.workers + 1, 1024)
        self.members = [self.kind(limits, self.ledger.join(slot), clock) for slot in range(self.workers)]
        self._next = itertools.cycle(self.members)
        self._homes: list[tuple[Any, SharedAdmission]] = []

    def __del__(self) -> None:
        self.ledger.close()

    def _home(self, peer: Any) -> int:
        for at, (source, _) in enumerate(self._homes):
            if source == source_of(peer):
                return at
        return -1

    def admit(self, peer: Any) -> Refusal | None:
        member = next(self._next)
        refusal = member.admit(peer)
        if refusal is None:
            self._homes.append((source_of(peer), member))
        return refusal

    def leave(self, peer: Any) -> None:
        at = self._home(peer)
        if at < 0:
            for member in self.members:
                member.leave(peer)
            raise MisuseError("call leave: somebody let it go")
        self._homes.pop(at)[1].leave(peer)

    def readmit(self, old_peer: Any, new_peer: Any) -> Refusal | None:
        at = self._home(old_peer)
        if at < 0:
            return self.members[0].readmit(old_peer, new_peer)
        member = self._homes[at][1]
        refusal = member.readmit(old_peer, new_peer)
        if refusal is None:
            self._homes[at] = (source_of(new_peer), member)
        return refusal

    @property
    def limits(self) -> Limits:
        return self.members[0].limits

    @limits.setter
    def limits(self, limits: Limits) -> None:
        for member in self.members:
            member.limits = limits

    def offend(self, peer: Any, kind: str) -> float:
        return next(self._next).offend(peer, kind)

    def ban(self, peer: Any, seconds: float) -> None:
        next(self._next).ban(peer, seconds)

    def unban(self, peer: Any) -> bool:
        return next(self._next).unban(peer)

    def bans(self) -> list[Ban]:
        found = [member.bans() for member in self.members]
        assert found.count(found[0]) == len(found)
        return found[0]

    @property
    def total(self) -> int:
        return next(self._next).total

    def count(self, peer: Any) -> int:
        return next(self._next).count(peer)

    @property
    def remembered(self) -> int:
        return next(self._next).remembered

    @property
    def refusals(self) -> dict[Refusal, int]:
        return {reason: sum(member.refusals[reason] for member in self.members) for reason in Refusal}

    @property
    def _counts(self) -> list[Any]:
        return [key for member in self.members for key in member._counts]

    @property
    def _spread(self) -> list[Any]:
        return [key for member in self.members for key in member._spread]
