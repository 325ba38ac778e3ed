"""A million addresses through the table that remembers them, in a process of its own and without a socket.

    python benchmarks/reliability_attacks/addresses.py 1000000

says in one line of JSON how long the verdicts on one honest address took meanwhile, and beside it alone; and what a
verdict costs in processor time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))
import verdicts
from processes import cpu_seconds, memory

from jackfield.admission import Admission, PeerList, Rate
from jackfield.limits import Limits
from reliability_attacks.honest import in_ms, percentile

HONEST = ("203.0.113.7", 4711)

#: Verdicts on strangers between two on the honest one.
EVERY = 100


def strangers(count: int) -> Any:
    """So many distinct addresses."""
    for number in range(count):
        yield (f"{number >> 16 & 255 or 1}.{number >> 8 & 255}.{number & 255}.{number >> 24 or 7}", 1024)


def measured(count: int) -> dict[str, Any]:
    """Each comes, breaks a rule, and goes."""
    admission = Admission(Limits(accept_rate_per_address=Rate(10**9)))  # so that the rates are looked at as well
    lost = 0

    def ask() -> float:
        nonlocal lost
        began = time.perf_counter()
        refused = admission.admit(HONEST) is not None
        took = time.perf_counter() - began
        lost += refused
        if not refused:
            admission.leave(HONEST)
        return took

    alone = [ask() for _ in range(10_000)]
    before, spent = memory(os.getpid()), cpu_seconds(os.getpid())
    beside = []
    for number, peer in enumerate(strangers(count)):
        if admission.admit(peer) is None:
            admission.leave(peer)
        admission.offend(peer, "handshake_timeout")
        if number % EVERY == 0:
            beside.append(ask())
    return {
        "attackers": count,
        "remembered": admission.remembered,
        "memory_mib": (memory(os.getpid()) - before) / 2**20,
        "cpu_seconds": cpu_seconds(os.getpid()) - spent,
        **costs(),
        "alone": told(alone, 0),
        "beside": told(beside, lost),
    }


def costs() -> dict[str, float]:
    """Of the quickest of several runs over 20,000 addresses each: microseconds of processor time to admit one and for
    one to leave, by default limits; the same by one of two workers that count together; and to look one up in 10,000
    networks, the slower one of IPv4 and IPv6."""
    peers = verdicts.some_peers(verdicts.CALLS)
    admitting, leaving = verdicts.of_each(Admission(Limits(max_connections=verdicts.CALLS)), peers)
    together = verdicts.of_a_worker(peers)
    networks = PeerList(verdicts.ten_thousand_networks())
    return {
        "admit_us": admitting, "leave_us": leaving, "admit_together_us": together[0], "leave_together_us": together[1],
        "networks_us": max(verdicts.of_a_look_up(networks, family) for family in (4, 6)),
    }  # fmt: skip


def told(taken: list[float], lost: int) -> dict[str, Any]:
    return {
        "answered": len(taken), "lost": lost, "errors": {}, "p50_ms": in_ms(percentile(taken, 0.5)),
        "p99_ms": in_ms(percentile(taken, 0.99)), "max_ms": in_ms(max(taken)),
    }  # fmt: skip


def million(most: int, timeout: float) -> dict[str, Any]:
    """The same in a process of its own."""
    command = [sys.executable, __file__, str(min(verdicts.FLOOD, most))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    print(json.dumps(measured(int(sys.argv[1]))))
