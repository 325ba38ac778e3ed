"""Several threads at once, forks, and signal handlers."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from jackfield.admission import Admission, Rate
from jackfield.admission.locks import Guarded
from jackfield.limits import Limits
from jackfield.testing import ManualClock

PEERS = [("192.0.2.7", 1), ("192.0.2.8", 1), ("2001:db8::1", 1, 0, 0), ("2001:db8::2", 1, 0, 0), ("127.0.0.1", 1)]


@pytest.fixture
def hurried() -> Iterator[None]:
    """Threads take turns as often as CPython lets them."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def run_together(works: list[Any]) -> None:
    """Each on a thread of its own, all begun at one time; what one raises is raised here."""
    errors: list[BaseException] = []
    start = threading.Barrier(len(works))

    def run(work: Any) -> None:
        start.wait()
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in errors:
        raise error


def test_several_threads_are_counted_right(hurried: None) -> None:
    cap, cap_per_address = 7, 3
    admission = Admission(Limits.none(max_connections=cap, max_connections_per_address=cap_per_address), ManualClock())
    admitted, refused, seen = [0] * 6, [0] * 6, [0] * 6

    def come_and_go(number: int) -> None:
        mine = []
        for n in range(1500):
            peer = PEERS[(n * 7 + number) % len(PEERS)]
            if admission.admit(peer) is None:
                admitted[number] += 1
                mine.append(peer)
            else:
                refused[number] += 1
            seen[number] = max(seen[number], admission.total, admission.count(PEERS[0]) + cap - cap_per_address)
            if len(mine) > n % 3:
                admission.leave(mine.pop(0))
            if mine and n % 5 == 0 and admission.readmit(mine[-1], PEERS[n % len(PEERS)]) is None:
                mine[-1] = PEERS[n % len(PEERS)]
        for peer in mine:
            admission.leave(peer)

    def change() -> None:
        for n in range(100):
            admission.limits = admission.limits.replace(ipv6_prefix=(64, 128, 48)[n % 3], ipv4_prefix=32)

    run_together([*(lambda number=number: come_and_go(number) for number in range(6)), change])
    assert max(seen) <= cap
    assert admission.total == 0 and not admission._counts and not admission._spread
    assert sum(admitted) + sum(refused) == 9000 and sum(admitted) > 0
    assert sum(admission.refusals.values()) >= sum(refused)


def test_a_rate_is_exact_among_threads(hurried: None) -> None:
    admission = Admission(Limits.none(accept_rate=Rate(1000, 3600)), ManualClock())
    admitted = [0] * 4

    def come(number: int) -> None:
        for _ in range(500):
            admitted[number] += admission.admit(PEERS[0]) is None

    run_together([lambda number=number: come(number) for number in range(4)])
    assert sum(admitted) == admission.total == 1000


def in_child(work: Any) -> int:
    """The exit status of a child that does ``work()``: 0, or 1 where that raises; killed after 10 s."""
    pid = os.fork()
    if pid == 0:
        try:
            signal.alarm(10)
            work()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class Busy(Guarded):
    """Something whose lock another thread holds, until it is told to let go."""

    __slots__ = ("counts", "held", "may_go")

    def __init__(self) -> None:
        super().__init__()
        self.held, self.may_go = threading.Event(), threading.Event()
        self.counts = [0, 0]

    def change(self) -> None:
        with self._lock:
            self.counts[0] += 1
            self.held.set()
            self.may_go.wait()
            self.counts[1] += 1

    def look(self) -> None:
        with self._lock:
            assert self.counts == [1, 1]


before_fork: list[Any] = []


# What was registered last is called first: before a lock is asked for.
os.register_at_fork(before=lambda: [call() for call in before_fork])


def test_a_fork_waits_for_what_another_thread_is_changing() -> None:
    busy = Busy()
    thread = threading.Thread(target=busy.change)
    thread.start()
    busy.held.wait()
    before_fork.append(busy.may_go.set)  # as late as can be; a fork that did not wait would copy half a change
    try:
        assert in_child(busy.look) == 0
    finally:
        before_fork.clear()
    busy.look()
    thread.join()


def test_an_unguarded_lock_does_stay_locked_in_a_child() -> None:
    lock = threading.Lock()
    lock.acquire()

    def look() -> None:
        assert lock.acquire(timeout=0.05)

    assert in_child(look) == 1


def test_a_child_counts_on(hurried: None) -> None:
    admission = Admission(Limits(), ManualClock())
    over = threading.Event()

    def come_and_go() -> None:
        while not over.is_set():
            admission.admit(PEERS[2])
            admission.leave(PEERS[2])

    def look() -> None:
        total = admission.total
        assert total in (0, 1) and admission.count(PEERS[2]) == total
        assert admission.admit(PEERS[0]) is None
        admission.leave(PEERS[0])
        assert in_child(lambda: admission.leave(PEERS[2]) if total else None) == 0

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        assert [in_child(look) for _ in range(10)] == [0] * 10
    finally:
        over.set()
        thread.join()
    assert admission.total == 0


def test_a_signal_handler_may_come_and_go_in_between() -> None:
    admission = Admission(Limits(max_connections=100_000, max_connections_per_address=None), ManualClock())
    handled = 0

    def handle(*_: Any) -> None:
        nonlocal handled
        handled += 1
        assert admission.admit(PEERS[0]) is None
        admission.leave(PEERS[0])

    before = signal.signal(signal.SIGALRM, handle)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
        for _ in range(20_000):
            admission.admit(PEERS[0])
            admission.leave(PEERS[0])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert handled
    assert admission.total == 0 and not admission._counts
