"""What a verdict costs: admitting and leaving, with lists, with rates, and under a flood of addresses.

    .venv/bin/python benchmarks/verdicts.py

Prints the best of several short runs (microseconds of processor time a call), and what is remembered after a flood of a
million addresses, with the memory that 150,000 of them take, which is more than twice what a table holds.  Half a
minute on one processor, without a socket.
"""

from __future__ import annotations

import random
import sys
import time
import tracemalloc
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from jackfield.admission import Admission, DatagramGuard, PeerList, Penalties, Rate
from jackfield.admission.ledger import Ledger
from jackfield.admission.shared import SharedAdmission
from jackfield.limits import Limits

#: The processor time of this thread: none of it is anybody else's, however busy the machine is.
CLOCK = time.thread_time

RUNS = 7
CALLS = 20_000
FLOOD = 1_000_000

randomly = random.Random(1)


def some_peers(count: int, family: int = 4) -> list[tuple[str, int]]:
    """Addresses of the public net, as texts, the way a socket gives them."""
    if family == 4:
        return [(str(IPv4Address(0x0B000000 + randomly.randrange(0x60000000))), 1024 + n % 60000) for n in range(count)]
    return [
        (str(IPv6Address((0x2001 << 112) + randomly.getrandbits(112))), 1024 + n % 60000, 0, 0)  # type: ignore[misc]
        for n in range(count)
    ]


def best(work: Callable[[], object], calls: int) -> float:
    """Microseconds a call, of the quickest run: what else the machine does, to its caches say, can only add to it."""
    times = []
    for _ in range(RUNS):
        began = CLOCK()
        work()
        times.append(CLOCK() - began)
    return min(times) / calls * 1e6


def say(what: str, figure: str) -> None:
    print(f"{what:<58}{figure:>16}")


def of_each(admission: Any, peers: list[tuple[str, int]]) -> tuple[float, float]:
    """Microseconds to admit one of ``peers`` and for one to leave: of each thousand of them the quickest run."""
    parts = [peers[at : at + 1000] for at in range(0, len(peers), 1000)]
    admitting, leaving = [float("inf")] * len(parts), [float("inf")] * len(parts)

    def timed(call: Callable[[Any], object], best_of: list[float]) -> None:
        for number, part in enumerate(parts):
            began = CLOCK()
            for peer in part:
                call(peer)
            best_of[number] = min(best_of[number], CLOCK() - began)

    for _ in range(RUNS):
        timed(admission.admit, admitting)
        timed(admission.leave, leaving)
    assert admission.total == 0 and not any(admission.refusals.values())
    return sum(admitting) / len(peers) * 1e6, sum(leaving) / len(peers) * 1e6


def admit_and_leave(what: str, limits: Limits, peers: list[tuple[str, int]]) -> None:
    admitting, leaving = of_each(Admission(limits), peers)
    say(what, f"{admitting:.2f} + {leaving:.2f} us")


def of_a_worker(peers: list[tuple[str, int]]) -> tuple[float, float]:
    """The same by a worker that counts together with another one, in memory that both have."""
    ledger = Ledger(3, 65_536)
    try:
        return of_each(SharedAdmission(Limits(max_connections=len(peers)), ledger.join(0)), peers)
    finally:
        ledger.close()


def ten_thousand_networks() -> list[str]:
    networks = [f"{128 + n // 100}.{n % 100 * 2}.{randomly.randrange(256)}.0/24" for n in range(9_000)]
    networks += [f"2001:db8:{n:x}::/48" for n in range(1_000)]
    assert len(networks) == 10_000
    return networks


def of_a_look_up(peers: PeerList, family: int) -> float:
    """Microseconds to see that an address is in none of the networks."""
    asked = some_peers(CALLS, family)
    return best(lambda: [peer in peers for peer in asked], CALLS)


def lists() -> PeerList:
    """10,000 networks: how long they take to read, and to look one up in."""
    networks = ten_thousand_networks()
    say("reading 10,000 networks", f"{best(lambda: PeerList(networks), 1) / 1000:.1f} ms")
    peers = PeerList(networks)
    for family in (4, 6):
        say(f"peer in 10,000 networks, IPv{family}", f"{of_a_look_up(peers, family):.2f} us")
    return peers


def flood(what: str, limits: Limits, *, offend: bool = False) -> None:
    """A million addresses, each of which comes and goes once."""
    admission = Admission(limits)

    def come_and_go(count: int) -> None:
        for n in range(count):
            peer = (f"{n >> 16 & 255 or 1}.{n >> 8 & 255}.{n & 255}.{n >> 24 or 7}", 1024)
            if admission.admit(peer) is None:
                admission.leave(peer)
            if offend:
                admission.offend(peer, "handshake_timeout")

    began = CLOCK()
    come_and_go(FLOOD)
    seconds = CLOCK() - began
    remembered = admission.remembered
    del admission
    # Again under the eyes of tracemalloc, which makes it slow, with as many as the tables hold and some more.
    tracemalloc.start()
    admission = Admission(limits)
    before = tracemalloc.get_traced_memory()[0]
    come_and_go(150_000)
    memory = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    say(what, f"{seconds / FLOOD * 1e6:.2f} us")
    say("    addresses remembered after it, and their memory", f"{remembered} {memory / 2**20:.1f} MiB")


def main() -> None:
    print(f"Python {sys.version.split()[0]}; microseconds a call, admit + leave")
    admit_and_leave("default limits, IPv4", Limits(max_connections=CALLS), some_peers(CALLS))
    admit_and_leave("default limits, IPv6", Limits(max_connections=CALLS), some_peers(CALLS, 6))
    admit_and_leave("default limits, one address", Limits(max_connections=CALLS), some_peers(1) * (CALLS // 4))
    say("default limits, two workers that count together", "{:.2f} + {:.2f} us".format(*of_a_worker(some_peers(CALLS))))
    admit_and_leave("no limits", Limits.none(), some_peers(CALLS))
    networks = lists()
    admit_and_leave("deny with 10,000 networks", Limits(max_connections=CALLS, deny=networks), some_peers(CALLS))
    rates = Limits(max_connections=CALLS, accept_rate=Rate(10**9), accept_rate_per_address=Rate(1000))
    admit_and_leave("both rates", rates, some_peers(CALLS))
    guard = DatagramGuard(Limits())
    peers = some_peers(CALLS)
    say("datagram: admit", f"{best(lambda: [guard.admit(peer, 100) for peer in peers], CALLS):.2f} us")
    guard.limits = Limits(reply_rate_per_address=Rate(10**9))
    say("datagram: may_reply", f"{best(lambda: [guard.may_reply(peer, 1) for peer in peers], CALLS):.2f} us")
    print(f"{FLOOD:,} addresses, one connection each")
    flood("default limits", Limits())
    flood("with a rate for each address", Limits(accept_rate_per_address=Rate.parse("10/h")))
    flood("each breaks a rule", Limits(), offend=True)
    flood("each is banned for it", Limits(penalties=Penalties({"handshake_timeout": 600.0})), offend=True)


if __name__ == "__main__":
    main()
