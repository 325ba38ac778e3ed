"""The guard of one worker among several: what is full, when to look again, and counters that lose nothing."""

from __future__ import annotations

import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from jackfield.admission.ledger import Ledger
from jackfield.admission.shared import SharedAdmission
from jackfield.connections import Connections
from jackfield.events import Publisher, Reason
from jackfield.guard import LOOK, Guard
from jackfield.limits import Limits
from jackfield.testing import ManualClock

PEER = ("192.0.2.7", 1)


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    made = Ledger(4, 1024)
    yield made
    made.close()


@pytest.fixture
def come() -> Iterator[Callable[[Guard], Any]]:
    """A connection of ``PEER``, let in or None."""
    sockets: list[socket.socket] = []

    def let_in(guard: Guard) -> Any:
        sockets.extend(socket.socketpair())
        return guard.let_in(sockets[-1], PEER, "tcp://192.0.2.1:25")

    yield let_in
    for sock in sockets:
        sock.close()


def guards(ledger: Ledger, clock: ManualClock, **limits: Any) -> list[Guard]:
    of = Limits.none(**limits)
    return [
        Guard(Connections(clock), of, Publisher(), watching=False,
              shared=SharedAdmission(of, ledger.join(slot), clock))
        for slot in range(2)
    ]  # fmt: skip


def go(guard: Guard, connection: Any) -> None:
    connection.reason = Reason.PEER_CLOSED
    guard.account(connection)
    guard.connections.remove(connection)


def test_a_worker_that_finds_the_server_full_looks_again_and_only_then(
    ledger: Ledger, come: Callable[[Guard], Any]
) -> None:
    one, other = guards(ledger, ManualClock(), max_connections=1, when_full="wait")
    assert not other.full and other.patience is None
    connection = come(one)
    assert other.full and not other.reserve()
    assert not other.refuses(other.full), "who waits is not refused"
    assert other.patience == LOOK, "nobody tells it when another worker has room"
    assert one.patience is None, "it has not asked"
    go(one, connection)
    assert not other.full and other.patience is None
    assert other.reserve() and one.full
    other.give_back()
    assert not one.full


def test_whoever_is_accepted_has_a_place(ledger: Ledger, come: Callable[[Guard], Any]) -> None:
    one, other = guards(ledger, ManualClock(), max_connections=1, when_full="wait")
    assert one.reserve() and not other.reserve()
    assert come(other) is None and other.refusals == {Reason.LIMIT_CONNECTIONS: 1}
    connection = come(one)
    assert connection is not None
    one.give_back()
    assert one.full, "it is in"
    go(one, connection)
    assert ledger.total == 0


def test_who_is_refused_in_the_end_is_told_by_when(ledger: Ledger, come: Callable[[Guard], Any]) -> None:
    clock = ManualClock()
    one, other = guards(ledger, clock, max_connections=1, when_full="refuse", full_patience=1.0)
    come(one)
    assert not other.refuses(other.full)
    assert other.patience == LOOK
    clock.advance(0.98)
    assert other.patience == pytest.approx(0.02)
    clock.advance(0.02)
    assert other.refuses(other.full)


def test_without_others_nothing_is_reserved(come: Callable[[Guard], Any]) -> None:
    guard = Guard(Connections(ManualClock()), Limits.none(max_connections=1), Publisher(), watching=False)
    assert guard.reserve() and guard.reserve()
    guard.give_back()
    connection = come(guard)
    assert connection is not None and not guard.reserve() and guard.patience is None
    go(guard, connection)


@pytest.mark.parametrize("shared", [True, False])
def test_pressure_is_that_of_the_whole_server(ledger: Ledger, come: Callable[[Guard], Any], shared: bool) -> None:
    clock = ManualClock()
    one, other = guards(ledger, clock, max_connections=4, pressure=0.5, pressure_idle_timeout=5.0)
    if not shared:
        other.deadlines.entered = lambda: other.connections.entered
    for _ in range(3):
        come(one)
    assert other.deadlines._pressed() is shared


# --- counters -------------------------------------------------------------------------------------------------------


@pytest.fixture
def hurried() -> Iterator[None]:
    """Threads take turns as often as CPython lets them."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def lost(note: Callable[[Guard, Counter[Reason], Reason], None], rounds: int) -> int:
    """How many are lost of those that four threads count at the same time."""
    guard = Guard(Connections(ManualClock()), Limits.none(), Publisher(), watching=False)
    reasons = list(Reason)
    threads, counters = 4, [Counter[Reason]() for _ in range(rounds)]
    barrier = threading.Barrier(threads)

    def count() -> None:
        barrier.wait()
        for counter in counters:
            for reason in reasons:
                note(guard, counter, reason)

    running = [threading.Thread(target=count) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return threads * rounds * len(reasons) - sum(counter.total() for counter in counters)


def test_no_end_and_no_refusal_is_lost(hurried: None) -> None:
    assert lost(Guard.note, 300) == 0


def test_that_some_are_lost_can_be_seen(hurried: None) -> None:
    def carelessly(guard: Guard, counter: Counter[Reason], reason: Reason) -> None:
        counter[reason] += 1

    for _ in range(100):
        if lost(carelessly, 300):
            return
    pytest.fail("nothing was lost: is the lock still needed?")
