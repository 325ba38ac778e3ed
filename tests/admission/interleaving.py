"""Workers of one ledger in one thread, that come between one another at every single read and write of what they share.

Each worker is a greenlet, and gives way before each access to the memory and to a lock; who goes on is for the schedule
to say. It can also stop a worker (SIGSTOP) and kill it (SIGKILL) there, with what it holds: a stopped one keeps its
locks, a killed one loses them, as fcntl(2) has it, and the parent wipes its seat a while later.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from greenlet import GreenletExit, getcurrent, greenlet

from jackfield.admission import PeerList, Rate, Refusal
from jackfield.admission.ledger import ROOMS, Ledger
from jackfield.admission.shared import SharedAdmission
from jackfield.admission.turns import PATIENCE, Turns
from jackfield.limits import Limits
from jackfield.testing import ManualClock

PEERS = [("192.0.2.7", 1), ("192.0.2.8", 1), ("192.0.2.9", 1), ("127.0.0.1", 1)]
CAP, CAP_OF = 5, 3
RATE, RATE_OF = Rate(8, 1.0, 9), Rate(4, 1.0, 6)
LIMITS = Limits.none(
    max_connections=CAP, max_connections_per_address=CAP_OF, accept_rate=RATE, accept_rate_per_address=RATE_OF,
    exempt=PeerList(),
)  # fmt: skip

#: What a call may sleep at most: a turn is tried for as often as there are rooms, twice the patience each time.
LONGEST = 2 * PATIENCE * ROOMS + 0.1
MOST_STEPS = 100_000


class Words:
    """Shared memory of which every access is a step; where there are few words, each of them."""

    def __init__(self, world: World, words: memoryview) -> None:
        self.world = world
        self.words = words

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return Words(self.world, self.words[at])  # it is read by what follows
        self.world.step()
        return self.words[at]

    def __setitem__(self, at: Any, value: Any) -> None:
        self.world.step()
        self.words[at] = value

    def tolist(self) -> list[int]:
        self.world.step()
        if len(self.words) > 8:
            return self.words.tolist()
        found = []
        for word in range(len(self.words)):
            self.world.step()
            found.append(self.words[word])
        return found

    def tobytes(self) -> bytes:
        self.world.step()
        return self.words.tobytes()


class Locks:
    """Those of one process."""

    def __init__(self, world: World, process: Process) -> None:
        self.world = world
        self.process = process

    def take(self, number: int) -> bool:
        self.world.step()
        if self.world.nobody_has_any_lock:
            return False
        if self.world.owners.setdefault(number, self.process) is self.process:
            return True
        return self.world.everybody_has_every_lock

    def free(self, number: int) -> None:
        self.world.step()
        if self.world.owners.get(number) is self.process:
            del self.world.owners[number]


class SteppingLedger(Ledger):
    def __init__(self, world: World, slots: int) -> None:
        self.world = world
        super().__init__(slots, 64, locks=Locks(world, Process(world, -1)))

    def view(self, words: memoryview) -> Any:
        return Words(self.world, words)

    def turns(self) -> Turns:
        world = self.world
        locks = Locks(world, world.current)
        return world.turns(self.common, ROOMS, locks, self.copy, now=lambda: world.seconds, sleep=world.sleep)

    def copy(self, room: int, other: int) -> None:
        old, new = self._copies[room], self._copies[other]
        for part in (slice(0, 4), slice(4, len(old) // 2), slice(len(old) // 2, len(old))):
            self.world.step()
            new[part] = old[part]


class Process:
    """A worker: it lets in, lets go and reserves, as ``plan`` says."""

    def __init__(self, world: World, slot: int, plan: list[int] | None = None) -> None:
        self.world = world
        self.slot = slot
        self.plan = plan or []
        self.admission: SharedAdmission | None = None
        self.inside: list[Any] = []
        self.is_dead = self.is_stopped = False
        self.slept = 0.0
        #: What it has read of the clock last.
        self.read = 0.0
        self.greenlet = greenlet(self.live)

    def live(self) -> None:
        self.admission = self.world.kind(self.world.limits, self.world.ledger.join(self.slot), self.world.clock)
        for what in self.plan:
            before = self.slept
            self.do(self.admission, what)
            assert self.slept - before <= LONGEST, "a call waited for too long"

    def do(self, admission: SharedAdmission, what: int) -> None:
        peer = PEERS[what % len(PEERS)]
        if what < 60:
            if admission.admit(peer) is None:
                self.inside.append(peer)
                self.world.note(peer, self.read)
        elif what < 85 and self.inside:
            peer = self.inside.pop(what % len(self.inside))
            admission.leave(peer)
        elif what < 90:
            admission.reserve()
        elif what < 95:
            admission.give_back()
        elif self.inside:
            old = self.inside.pop()
            if (refusal := admission.readmit(old, peer)) is None:
                self.inside.append(peer)
                if peer != old:
                    self.world.let_in.setdefault(peer, []).append(self.read)
            else:
                assert refusal not in (Refusal.LIMIT_CONNECTIONS, Refusal.LIMIT_RATE)
                self.inside.append(old)
            self.world.check()


class Clock(ManualClock):
    """One that knows what each process has read last: by that its verdict was found."""

    def __init__(self, world: World) -> None:
        super().__init__(1000.0)
        self.world = world

    def now(self) -> float:
        time = super().now()
        if getcurrent() is not self.world.hub:
            self.world.current.read = time
        return time


class World:
    """All of it; ``run()`` ends with an AssertionError where a limit was passed."""

    everybody_has_every_lock = nobody_has_any_lock = False

    def __init__(
        self, seed: int, workers: int = 5, *, kind: type[SharedAdmission] = SharedAdmission,
        turns: Callable[..., Turns] = Turns, ledger: Callable[..., SteppingLedger] = SteppingLedger,
        limits: Limits = LIMITS,
    ) -> None:  # fmt: skip
        self.limits = limits
        self.random = random.Random(seed)
        self.kind = kind
        self.turns = turns
        self.clock = Clock(self)
        #: That of waiting for turns.
        self.seconds = 0.0
        self.steps = 0
        self.hub = getcurrent()
        self.owners: dict[int, Process] = {}
        self.let_in: dict[Any, list[float]] = {None: []}
        self.moves = 0
        self.went_alone = 0
        self.over = False
        self.ledger = ledger(self, workers)
        self.processes = [self.born(slot) for slot in range(workers)]

    def born(self, slot: int) -> Process:
        return Process(self, slot, [self.random.randrange(100) for _ in range(self.random.randrange(3, 9))])

    # -- seen from a process -----------------------------------------------------------------------------------------

    def step(self) -> None:
        current = getcurrent()
        if current is not self.hub and not self.over:
            self.steps += 1
            self.hub.switch()
        if self.over and current is not self.hub:
            raise GreenletExit  # it was killed, or the test has ended: it writes no more

    def sleep(self, pause: float) -> None:
        pause = max(pause, 0.004)
        self.seconds += pause
        if getcurrent() is not self.hub:
            self.current.slept += pause
        self.step()

    @property
    def current(self) -> Process:
        return next(process for process in self.processes if process.greenlet is getcurrent())

    def note(self, peer: Any, time: float) -> None:
        self.let_in[None].append(time)
        self.let_in.setdefault(peer, []).append(time)
        self.check()

    def check(self) -> None:
        inside = [peer for process in self.processes for peer in process.inside]
        assert len(inside) <= (self.limits.max_connections or CAP), f"{len(inside)} are in"
        most = self.limits.connections_per_address or CAP
        for peer in PEERS:
            assert inside.count(peer) <= most, f"{inside.count(peer)} of one are in"

    # -- the schedule ------------------------------------------------------------------------------------------------

    def run(self) -> None:
        try:
            self.live()
            self.end()
        finally:
            self.over = True
            for process in self.processes:
                process.greenlet.throw(GreenletExit)

    def live(self) -> None:
        randomly = self.random
        wiping: list[Process] = []
        while self.steps < MOST_STEPS:
            ready = [one for one in self.processes if not one.is_dead and not one.greenlet.dead]
            able = [one for one in ready if not one.is_stopped]
            if not ready and not wiping:
                return
            chance = randomly.random()
            holders = [one for one in self.owners.values() if one in able]
            if chance < 0.03 and holders and len(able) > 1:
                randomly.choice(holders).is_stopped = True
            elif chance < 0.04 and able:
                randomly.choice(able).is_stopped = True
            elif chance < 0.06 or not able:
                for one in ready:
                    one.is_stopped = one.is_stopped and able != [] and randomly.random() < 0.7
            elif chance < 0.065 and ready:
                dead = randomly.choice(holders or ready)
                self.kill(dead)
                wiping.append(dead)
            elif chance < 0.09:
                self.clock.advance(randomly.choice([0.0625, 0.125, 0.25]))
            if wiping and (randomly.random() < 0.05 or not able):
                dead = wiping.pop()
                self.ledger.clear(dead.slot)
                if len(self.processes) < 9:
                    self.processes.append(self.born(dead.slot))
            if able:
                self.go_on(randomly.choice(able), randomly.choice([1, 2, 3, 5, 8, 20, 60]))
        raise AssertionError("it does not end")

    def go_on(self, process: Process, steps: int) -> None:
        for _ in range(steps):
            if process.greenlet.dead or process.is_stopped or process.is_dead:
                return
            process.greenlet.switch()

    def kill(self, process: Process) -> None:
        process.is_dead = True
        process.inside.clear()
        for number in [number for number, owner in self.owners.items() if owner is process]:
            del self.owners[number]

    def end(self) -> None:
        """Everybody goes: it is as if nobody had been there, and the rates were kept."""
        self.nobody_has_any_lock = False
        for process in self.processes:
            if not process.is_dead and process.admission is not None:
                self.moves += process.admission._seat.turns.moves
                for peer in process.inside:
                    process.admission.leave(peer)
                process.admission.give_back()
                assert process.admission.settle(), "it stays alone"
                assert process.admission._total == 0
        assert self.ledger.total == 0, "somebody is still counted"
        cells, live = self.ledger.cells.words, self.ledger.alone.words
        assert not any(cells.tobytes()), "somebody of an address is still counted"
        assert not any(live.tobytes()), "somebody is still said to be alone"
        for peer, times in self.let_in.items() if self.limits.accept_rate else ():
            assert is_within(RATE if peer is None else RATE_OF, times), f"the rate of {peer} was passed"


def is_within(rate: Rate, times: list[float]) -> bool:
    """Whether no stretch has more than ``burst + count * seconds``; all of these are whole in binary."""
    times = sorted(times)
    return all(
        last - first + 1 <= rate.burst + rate.count * (times[last] - times[first]) / rate.seconds
        for first in range(len(times))
        for last in range(first, len(times))
    )
