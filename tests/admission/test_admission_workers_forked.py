"""Limits over real processes: forked from one, in each other's way, stopped and killed with the lock in their hands."""

from __future__ import annotations

import contextlib
import math
import os
import random
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from typing import Any

import pytest

from jackfield.admission import PeerList, Penalties, Rate, Refusal
from jackfield.admission.ledger import NO_TURN, ROOMS, Ledger
from jackfield.admission.shared import SharedAdmission
from jackfield.admission.turns import PATIENCE, FileLocks
from jackfield.limits import Limits

pytestmark = pytest.mark.slow

PEERS = [("192.0.2.7", 1), ("192.0.2.8", 1), ("2001:db8::1", 1, 0, 0), ("2001:db8::2", 1, 0, 0)]
SOMEBODY, OTHER = PEERS[0], PEERS[1]
CAP, CAP_OF = 7, 3

#: Seconds: that something which takes milliseconds may take on a machine that is busy.
LONG = 20.0


class Child:
    """A forked process that does ``work(slot)``; ``say()`` in it is heard by :meth:`hear`."""

    def __init__(self, slot: int, work: Callable[[int, Callable[[str], None]], None]) -> None:
        self.heard = b""
        self.reading, writing = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            code = 1
            try:
                os.close(self.reading)
                work(slot, lambda line: os.write(writing, f"{line}\n".encode()) and None)
                code = 0
            except BaseException as error:
                os.write(writing, f"{error!r}\n".encode())
            finally:
                os._exit(code)
        os.close(writing)
        self.status: int | None = None

    def hear(self, seconds: float = LONG) -> str:
        """The next line; "" when it has ended."""
        while b"\n" not in self.heard:
            ready, _, _ = select.select([self.reading], [], [], seconds)
            assert ready, "the child says nothing"
            if not (more := os.read(self.reading, 65536)):
                return ""
            self.heard += more
        line, _, self.heard = self.heard.partition(b"\n")
        return line.decode()

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait_stopped(self) -> None:
        _, status = os.waitpid(self.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status), status

    def kill(self) -> None:
        if self.status is None:
            self.signal(signal.SIGKILL)
            self.status = os.waitpid(self.pid, 0)[1]

    def end(self) -> None:
        """It has ended by itself, and well."""
        self.status = os.waitpid(self.pid, 0)[1]
        assert self.status == 0, self.hear()


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    made = Ledger(8, 1024)
    yield made
    made.close()


@pytest.fixture
def fork() -> Iterator[Callable[..., Child]]:
    children: list[Child] = []

    def start(slot: int, work: Callable[[int, Callable[[str], None]], None]) -> Child:
        children.append(Child(slot, work))
        return children[-1]

    yield start
    for child in children:
        child.kill()
        os.close(child.reading)


def limits(**more: Any) -> Limits:
    return Limits.none(max_connections=CAP, max_connections_per_address=CAP_OF, exempt=PeerList(), **more)


# --- in each other's way --------------------------------------------------------------------------------------------


class NoLocks(FileLocks):
    """Everybody has every lock."""

    def take(self, number: int) -> bool:
        return True


def come_and_go(
    ledger: Ledger, fork: Callable[..., Child], kind: type[SharedAdmission], calls: int, cap: int = CAP
) -> list[str]:
    """Four workers; what they have seen go wrong. Semaphores of the system's are the witnesses."""
    context = get_context("fork")
    inside = context.Semaphore(cap)
    inside_of = [context.Semaphore(CAP_OF) for _ in range(3)]  # two of PEERS are of one network

    def work(slot: int, say: Callable[[str], None]) -> None:
        randomly = random.Random(slot)
        admission = kind(limits().replace(max_connections=cap), ledger.join(slot))
        mine: list[int] = []

        def go() -> None:
            which = mine.pop(randomly.randrange(len(mine)))
            inside.release()
            inside_of[min(which, 2)].release()
            admission.leave(PEERS[which])

        for _ in range(calls):
            if len(mine) > randomly.randrange(4):
                go()
                continue
            which = randomly.randrange(4)
            if randomly.random() < 0.3:
                admission.reserve()
            if admission.admit(PEERS[which]) is None:
                if not inside.acquire(block=False):
                    say(f"more than {cap}")
                    return
                if not inside_of[min(which, 2)].acquire(block=False):
                    say(f"more than {CAP_OF} of one")
                    return
                mine.append(which)
            admission.give_back()
        while mine:
            go()
        say(f"moves {admission._seat.turns.moves}")

    children = [fork(slot, work) for slot in range(4)]
    return [child.hear() for child in children]


def test_no_cap_is_passed_and_all_goes_back_to_zero(ledger: Ledger, fork: Callable[..., Child]) -> None:
    said = come_and_go(ledger, fork, SharedAdmission, 3000)
    assert all(line.startswith("moves") for line in said), said
    assert ledger.total == 0 and not any(ledger.cells)


class LooksFirst(SharedAdmission):
    """One that shows itself long after it has looked."""

    def _claim_total(self) -> bool:
        if self._max is not None and self._seat.ledger.total >= self._max:
            return False
        time.sleep(0.001)
        self._claims = 1
        self._show_total()
        return True


def test_that_a_cap_is_passed_can_be_seen(fork: Callable[..., Child]) -> None:
    ledger = Ledger(8, 1024, locks=NoLocks())
    try:
        said = come_and_go(ledger, fork, LooksFirst, 500, cap=1)
        assert "more than 1" in said, said
    finally:
        ledger.locks.close()  # type: ignore[attr-defined]


def test_rates_are_exact_over_any_window(ledger: Ledger, fork: Callable[..., Child]) -> None:
    rate, rate_of = Rate(50, 1.0, 10), Rate(15, 1.0, 5)

    def work(slot: int, say: Callable[[str], None]) -> None:
        read: list[float] = []

        class Clock:
            def now(self) -> float:
                read.append(time.monotonic())
                return read[-1]

        admission = SharedAdmission(Limits.none(accept_rate=rate, accept_rate_per_address=rate_of), ledger.join(slot),
                                    Clock())  # fmt: skip
        began = time.monotonic()
        while time.monotonic() - began < 1.0:
            for which in (0, 1, 2, 3):
                read.clear()
                if admission.admit((f"192.0.2.{which}", 1)) is None:
                    say(f"{which} {read[-1]!r}")
        say("")

    times: dict[int, list[float]] = {}
    for child in [fork(slot, work) for slot in range(4)]:
        while line := child.hear():
            which, moment = line.split()
            times.setdefault(int(which), []).append(float(moment))
        child.end()
    everybody = [moment for moments in times.values() for moment in moments]
    # Somebody was let in as soon as it could be: it is no less than the rate, either, but for the end.
    assert len(everybody) >= 10 + 50 * 0.5
    for allowed, moments in [(rate, everybody), *((rate_of, moments) for moments in times.values())]:
        assert most_over(allowed, moments) <= 0, moments


def most_over(rate: Rate, moments: list[float]) -> float:
    """Events too many in the worst of all windows, to within the rounding of a float (monotonic, nanoseconds)."""
    moments = sorted(moments)
    return max(
        math.ceil(last - first + 1 - rate.burst - rate.count * (moments[last] - moments[first]) / rate.seconds - 1e-6)
        for first in range(len(moments))
        for last in range(first, len(moments))
    )


def test_that_a_rate_is_passed_can_be_seen() -> None:
    assert most_over(Rate(10, 1.0, 2), [0.0, 0.0, 0.1]) <= 0
    assert most_over(Rate(10, 1.0, 2), [0.0, 0.0, 0.09]) == 1


# --- killed ---------------------------------------------------------------------------------------------------------


def test_who_is_killed_in_the_midst_of_anything_leaves_nothing(ledger: Ledger, fork: Callable[..., Child]) -> None:
    randomly = random.Random(1)

    def work(slot: int, say: Callable[[str], None]) -> None:
        admission = SharedAdmission(limits(), ledger.join(slot))
        say("begun")
        while True:
            for peer in PEERS:
                if admission.admit(peer) is None and admission.total > 2:
                    admission.leave(peer)

    mine = SharedAdmission(limits(), ledger.join(0))
    assert mine.admit(SOMEBODY) is None
    for _ in range(40):
        child = fork(1, work)
        assert child.hear() == "begun"
        wait_until = time.monotonic() + randomly.uniform(0.0005, 0.004)
        while time.monotonic() < wait_until:
            mine.total  # noqa: B018 (to pass the time)
        child.kill()
        ledger.clear(1)
        assert (mine.total, mine.count(SOMEBODY), mine.count(OTHER)) == (1, 1, 0)
        # Nobody has to wait for a lock of the dead one's, and there is room for as many as there ever was.
        began = time.monotonic()
        assert [mine.admit(OTHER) for _ in range(CAP_OF + 1)] == [None] * CAP_OF + [Refusal.LIMIT_PER_ADDRESS]
        for _ in range(CAP_OF):
            mine.leave(OTHER)
        assert time.monotonic() - began < LONG
    assert mine._seat.turns.moves <= 40


def test_what_is_not_wiped_stays(ledger: Ledger, fork: Callable[..., Child]) -> None:
    def work(slot: int, say: Callable[[str], None]) -> None:
        SharedAdmission(limits(), ledger.join(slot)).admit(SOMEBODY)

    fork(1, work).end()
    assert ledger.total == 1
    ledger.clear(1)
    assert ledger.total == 0


# --- stopped --------------------------------------------------------------------------------------------------------


def stop_in_turn(ledger: Ledger) -> Callable[[int, Callable[[str], None]], None]:
    """A worker that is stopped with the lock in its hands, right after it has let somebody in."""

    def work(slot: int, say: Callable[[str], None]) -> None:
        admission = SharedAdmission(limits(accept_rate=Rate(1000, 60.0)), ledger.join(slot))
        times = 0

        def admit_and_stop(room: Any) -> None:
            nonlocal times
            times += 1
            if times == 1:
                os.kill(os.getpid(), signal.SIGSTOP)

        assert admission.admit(SOMEBODY) is None
        say("in")
        admission._seat.do(admit_and_stop)
        say(f"done {times}, {admission.total} are in")
        say(str(admission.admit(SOMEBODY)))

    return work


def test_who_is_stopped_with_the_lock_keeps_nobody(
    ledger: Ledger, fork: Callable[..., Child], caplog: pytest.LogCaptureFixture
) -> None:
    stopped = fork(1, stop_in_turn(ledger))
    assert stopped.hear() == "in"
    stopped.wait_stopped()
    mine = SharedAdmission(limits(accept_rate=Rate(1000, 60.0)), ledger.join(0))
    waits = []
    for verdict in (None, None, Refusal.LIMIT_PER_ADDRESS):
        began = time.monotonic()
        assert mine.admit(SOMEBODY) is verdict
        waits.append(time.monotonic() - began)
    assert waits[0] >= PATIENCE
    assert mine._seat.turns.moves == 1 and not mine._alone
    assert [record.message.split(",")[0] for record in caplog.records] == ["a process was stopped"]
    stopped.signal(signal.SIGCONT)
    assert stopped.hear() == "done 2, 3 are in", "it did its work once more, in the right room"
    assert stopped.hear() == str(Refusal.LIMIT_PER_ADDRESS)
    stopped.end()
    ledger.clear(1)
    assert mine.total == 2


def test_where_all_rooms_are_held_each_counts_alone_and_no_cap_is_passed(
    ledger: Ledger, fork: Callable[..., Child], caplog: pytest.LogCaptureFixture
) -> None:
    stopped = []
    for slot in range(1, ROOMS + 1):
        stopped.append(fork(slot, stop_in_turn(ledger)))
        assert stopped[-1].hear() == "in"
        stopped[-1].wait_stopped()
    # Three of one address are in; of another there is room for as many, and one more in all.
    first, second = (SharedAdmission(limits(accept_rate=Rate(1000, 60.0)), ledger.join(slot)) for slot in (0, 6))
    began = time.monotonic()
    assert first.admit(SOMEBODY) is Refusal.LIMIT_PER_ADDRESS
    assert first._alone and "its own share" in caplog.text
    assert [first.admit(OTHER), second.admit(OTHER), first.admit(OTHER)] == [None] * 3
    assert second.admit(OTHER) is Refusal.LIMIT_PER_ADDRESS
    began = time.monotonic()
    for _ in range(20):
        assert second.admit(OTHER) is Refusal.LIMIT_PER_ADDRESS
    assert time.monotonic() - began < 20 * PATIENCE, "it does not wait each time"
    assert not first.settle()
    first.ban(OTHER, 60.0)
    assert second.admit(OTHER) is Refusal.LIMIT_PER_ADDRESS, "a ban holds from the next turn on"
    stopped[0].kill()
    ledger.clear(1)
    assert first.settle() and second.settle()
    assert (first.total, second.count(OTHER), first.count(OTHER)) == (5, 3, 3)
    assert second.admit(OTHER) is Refusal.BANNED
    for child in stopped[1:]:
        child.signal(signal.SIGCONT)
        assert child.hear().startswith("done 2")
    assert sum("its own share" in record.message for record in caplog.records) <= 2, "each says it once"


def test_a_mover_that_is_killed_keeps_nobody(ledger: Ledger, fork: Callable[..., Child]) -> None:
    def move_and_die(slot: int, say: Callable[[str], None]) -> None:
        def copy(room: int, other: int) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        ledger.copy = copy  # type: ignore[method-assign]
        ledger.join(slot).do(lambda room: None)

    stopped = fork(1, stop_in_turn(ledger))
    stopped.hear()
    stopped.wait_stopped()
    mover = fork(2, move_and_die)
    assert mover.hear() == ""
    mover.kill()
    assert ledger.common[0] == 1, "it said that it moves"
    seat = ledger.join(0)
    assert seat.do(lambda room: "done") == "done"
    assert ledger.common[0] == 0


# --- what all know --------------------------------------------------------------------------------------------------


def test_a_ban_holds_in_the_next_accept_of_every_worker(ledger: Ledger, fork: Callable[..., Child]) -> None:
    of = Limits.none(penalties=Penalties({"x": 100.0}), exempt=PeerList())
    mine = SharedAdmission(of, ledger.join(0))

    def work(slot: int, say: Callable[[str], None]) -> None:
        admission = SharedAdmission(of, ledger.join(slot))
        say(str(admission.admit(SOMEBODY)))
        admission.offend(OTHER, "x")
        say(f"{admission.unban(SOMEBODY)} {[ban.address for ban in admission.bans()]}")

    mine.ban(SOMEBODY, 60.0)
    child = fork(1, work)
    assert child.hear() == "banned"
    assert child.hear() == "True ['192.0.2.8']"
    assert mine.admit(OTHER) is Refusal.BANNED
    assert mine.admit(SOMEBODY) is None
    assert mine.unban(OTHER) and mine.admit(OTHER) is None


def test_a_process_that_a_worker_forks_counts_nothing(ledger: Ledger, fork: Callable[..., Child]) -> None:
    mine = SharedAdmission(limits(), ledger.join(0))
    assert mine.admit(SOMEBODY) is None

    def work(slot: int, say: Callable[[str], None]) -> None:
        mine.leave(SOMEBODY)
        say(f"{mine._seat.do(lambda room: 1) is NO_TURN}")

    assert fork(1, work).hear() == "True"
    assert mine.total == mine.count(SOMEBODY) == 1


# --- memory ---------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(180)  # they are many
def test_a_hundred_thousand_addresses_stay_within_the_stated_memory(fork: Callable[..., Child]) -> None:
    ledger = Ledger()
    with contextlib.closing(ledger):

        def work(slot: int, say: Callable[[str], None]) -> None:
            admission = SharedAdmission(
                Limits.none(accept_rate_per_address=Rate(1, 60.0), max_connections_per_address=2,
                            penalties=Penalties({"x": 5.0})), ledger.join(slot),
            )  # fmt: skip
            before = shared_memory_of(os.getpid())
            blocks = sys.getallocatedblocks()
            for n in range(100_000):
                peer = (f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}", 1)
                admission.admit(peer)
                admission.leave(peer)
                if n % 4 == 0:
                    admission.offend(peer, "x")
            own = sys.getallocatedblocks() - blocks
            say(f"{shared_memory_of(os.getpid()) - before} {own} {admission.remembered} {admission.total}")

        child = fork(0, work)
        shared, own, remembered, total = map(int, child.hear(150.0).split())
        child.end()
    assert total == 0
    assert remembered <= 4 * (65_536 + 64)
    assert own < 1000, "nothing is kept beside the ledger"
    assert shared < 11 * 2**20, shared


def shared_memory_of(pid: int) -> int:
    """Bytes of shared memory that it has touched: RssShmem, proc_pid_status(5)."""
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssShmem"))


if not sys.platform.startswith("linux"):  # what the tests look at is there
    pytestmark = pytest.mark.skip(reason="memory is read in /proc")
