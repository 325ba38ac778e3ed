"""Outcomes on the standard library against outcomes on ours: what is wrong.  No I/O here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Status = Literal["passed", "failed", "skipped"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one test ended; ``detail`` is the traceback or the reason for the skip."""

    status: Status
    detail: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Run:
    """One whole run.  Keys of ``outcomes`` are test names such as ``test_socket.BasicTCPTest.testRecv``."""

    outcomes: Mapping[str, Outcome] = field(default_factory=dict)
    # Classes after which CPython's own check found threads left behind.
    littering: frozenset[str] = frozenset()

    def names(self, status: Status) -> set[str]:
        return {name for name, outcome in self.outcomes.items() if outcome.status == status}


def complaints(baseline: Run, ours: Run, excused: Mapping[str, str] | None = None) -> list[str]:
    """Return one text for each thing that is worse on ours than on the standard library.

    *excused* maps a test's name to the reason why it may fail on ours.  An excuse is itself held to account: it must
    name a test that passes on the standard library and does not pass on ours.
    """
    excused = excused or {}
    found: list[str] = []
    passing = baseline.names("passed")
    if not passing:
        found.append("no test passed on the standard library: the harness compares nothing")
    for name in sorted(passing):
        outcome = ours.outcomes.get(name)
        if name in excused:
            if outcome is not None and outcome.status == "passed":
                found.append(f"{name}: passes, so its exception is stale ({excused[name]})")
        elif outcome is None:
            found.append(f"{name}: ran on the standard library, did not run on ours")
        elif outcome.status == "skipped":
            found.append(f"{name}: ran on the standard library, skipped on ours: {outcome.detail}")
        elif outcome.status == "failed":
            found.append(f"{name}: passes on the standard library, fails on ours\n{outcome.detail}")
    for name in sorted(set(excused) - passing):
        found.append(f"{name}: an exception for a test that does not pass on the standard library is stale")
    for name in sorted(ours.littering - baseline.littering):
        found.append(f"{name}: leaves threads behind on ours, not on the standard library")
    return found
