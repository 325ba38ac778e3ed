"""The supervisor: keeps as many workers as it is told to, replaces them, and ends them. One thread, and no other."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from ..door import Listener
from ..errors import JackfieldError, StartError
from ..server import Server
from . import ears
from .ears import Ears, somebody_waits
from .errands import Errands
from .life import AT_WORK, WorkerState
from .member import Member, describe_exit
from .nursery import Nursery
from .places import Places
from .policy import EARLY, HELD_UP, MOST, NO_ROOM, PACE, RECYCLING_REST, RECYCLING_STEP, REST, Recycling, Restarts
from .rollover import Rollover
from .worker import GIVE_UP, Worker

_log = logging.getLogger("jackfield.supervisor")

#: Exit codes: asked to stop and stopped; the workers do not live.
STOPPED, FAILED = 0, 1

#: The same where a process cannot be watched by a descriptor.
REAPING_STEP = 0.1


class Supervisor(Errands):
    """Keeps ``workers`` processes that serve ``listeners``, which it has opened and they inherit.

    ``make_servers(worker)`` is called in each of them: what it imports is loaded there, so new workers have new code.
    :meth:`run` returns when all is over. The other methods are for the thread that runs, between its turns: a signal
    handler calls :meth:`soon`, which is for any thread.

    :param workers: how many, from 1.
    :param servers: how many ``make_servers`` makes, whose limits are those of all workers together.
    :param graceful_timeout: seconds that connections have at a stop.
    :param worker_timeout: seconds without a sign of life after which a worker is killed.
    :param retire_timeout: seconds that the connections of a worker that was replaced have before they are told to end
        (and then ``graceful_timeout``).
    :param start_timeout: seconds that a worker has to become ready.
    :param recycling: when a worker that is well is replaced.
    """

    def __init__(
        self,
        make_servers: Callable[[Worker], Sequence[Server]],
        listeners: Iterable[Listener],
        *,
        workers: int,
        servers: int = 1,
        graceful_timeout: float = 30.0,
        worker_timeout: float = 30.0,
        retire_timeout: float = 3600.0,
        start_timeout: float = 60.0,
        recycling: Recycling | None = None,
    ) -> None:
        super().__init__()
        self.workers = workers
        self.graceful_timeout = graceful_timeout
        self.worker_timeout = worker_timeout
        self.retire_timeout = retire_timeout
        self.start_timeout = start_timeout
        self.recycling = recycling or Recycling()
        self.members: list[Member] = []
        #: What the last worker that became ready told of its servers: mode, limit and addresses of each.
        self.facts: list[dict[str, Any]] = []
        #: Called when the first workers are ready; before and after a reload (True: it worked); when the end begins.
        self.on_ready: Callable[[], object] = lambda: None
        self.on_reload: Callable[[], object] = lambda: None
        self.on_reloaded: Callable[[bool], object] = lambda worked: None
        self.on_stop: Callable[[], object] = lambda: None
        #: Called with what a worker answers to somebody else than this.
        self.on_answer: Callable[[Member, dict[str, Any]], object] = lambda member, message: None
        #: Called in each new worker, before anything else runs there: to close what is the supervisor's alone.
        self.in_worker: Callable[[], object] = lambda: None
        self.listeners = list(listeners)
        self._ears = Ears(self.listeners)
        self.every(ears.STEP, self._look_at_ears)
        self._places = Places(self.listeners)
        self._nursery = Nursery(make_servers, servers)
        self._restarts = Restarts()
        self._rollovers: list[Rollover] = []
        self._reload: Rollover | None = None
        self._reload_wanted = False
        self._next_reload = 0.0
        self._not_before = self._last_early = self._next_narrowing = 0.0
        self._worn: dict[int, float] = {}
        #: Since when signs of life are waited for: before that this process did not run itself.
        self._awake_since = 0.0
        self._is_ready = self._is_full = False
        #: When the last of those that stop is killed; None while nobody has asked for the end.
        self._ends_at: float | None = None
        self._code = STOPPED

    @property
    def stopping(self) -> bool:
        """Whether the end was asked for."""
        return self._ends_at is not None

    # -- running -----------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Start the workers and see to them until the end; the exit code: 0 asked to stop and stopped, 1 the workers do
        not live. StartError, with nothing left running, if the first ones cannot begin."""
        failure: str | None = None
        try:
            self._roll("the start", self.workers)
            while self.members or not self.stopping:
                self._turn()
                failure = failure or self._see_to_rollovers()
                if failure is not None:
                    self.stop(0)
                self._see_to_members()
                if not self.stopping:
                    self._fill()
        finally:
            self._close()
        if failure is not None:
            raise StartError(failure)
        return self._code

    def _turn(self) -> None:
        links = [member.link.fileno() for member in self.members if not member.is_deaf]
        ends = [member.pidfd for member in self.members if member.pidfd is not None]
        due, began = self._next_due(), time.monotonic()
        ready = self.wait([*links, *ends], due)
        if due is not None and time.monotonic() - max(due, began) > HELD_UP:
            # All were stopped together, this process too: Ctrl-Z, the freezer of a container, a machine that is paused.
            self._awake_since = time.monotonic()
        self.run_errands(ready)
        for member in list(self.members):
            if not member.is_deaf and member.link.fileno() in ready:
                self._hear(member)
        for member in list(self.members):
            if member.pidfd is None or member.pidfd in ready:
                code = member.reap()
                if code is not None:
                    self._lost(member, code)

    def _next_due(self) -> float | None:
        """When there is something to do though nothing happens."""
        dues = [member.due for member in self.members if member.due is not None]
        dues += [self._beat_due(member) for member in self.members if self._is_to_beat(member)]
        now = time.monotonic()
        if self._reload_wanted and self._reload is None and self._is_ready:
            dues.append(self._next_reload)
        if not self.stopping and self._is_ready and self._missing() > 0:
            dues.append(self._not_before)
        if self.recycling.any:
            dues.append(now + RECYCLING_STEP)
            dues += [
                member.since + member.recycling.lifetime
                for member in self.members
                if member.recycling.lifetime is not None and member.state is WorkerState.SERVING
                and member.number not in self._worn and not self._is_replaced(member)
            ]  # fmt: skip
        if any(member.pidfd is None for member in self.members):
            dues.append(now + REAPING_STEP)
        return min(dues, default=None)

    # -- workers that come -------------------------------------------------------------------------------------------

    def _roll(self, reason: str, count: int, replaces: Iterable[Member] = ()) -> Rollover:
        rollover = Rollover(reason, replaces)
        self._rollovers.append(rollover)
        try:
            for number in range(count):
                rollover.members.append(self._spawn(number))
        except StartError as error:
            rollover.problem = str(error)
        return rollover

    def _replace(self, member: Member) -> None:
        """Have another one take its place, and then end it."""
        rollover = self._roll(f"the replacement of worker {member.number}", 0, [member])
        try:
            rollover.members.append(self._spawn(member.place, self._who_take_clients(member)))
        except StartError as error:
            rollover.problem = str(error)

    def _who_take_clients(self, but: Member | None = None) -> list[Member]:
        """Those who are to stay: but one, and those who are to take others' places and have not yet."""
        rolling = self._rolling()
        return [one for one in self.members if one.takes_clients and one is not but and one not in rolling]

    def _spawn(self, place: int, others: Iterable[Member] = ()) -> Member:
        """StartError if the machine has no room for one more."""
        listeners = self._places.of(place, self.workers, others)
        member = self._nursery.fork(
            self.members, partial(self._begin_worker, listeners),
            patience=self.worker_timeout, graceful_timeout=self.graceful_timeout, recycling=self.recycling,
        )  # fmt: skip
        member.place, member.listeners = place, listeners
        member.due = member.since + self.start_timeout
        self.members.append(member)
        return member

    def _begin_worker(self, listeners: frozenset[Listener], worker: Worker) -> None:
        """In the new process: close what is the supervisor's alone."""
        self.close_in_child()
        worker.its_own = self._places.for_worker(listeners)
        self.in_worker()

    def _missing(self) -> int:
        """How many more are to take clients; negative if there are too many."""
        return self.workers - len(self._who_take_clients())

    def _rolling(self) -> set[Member]:
        """Those who are to take the places of others, and have not yet."""
        return {member for rollover in self._rollovers for member in rollover.members}

    def _is_replaced(self, member: Member) -> bool:
        """Whether another is about to take its place."""
        return any(member in rollover.replaces for rollover in self._rollovers)

    def _fill(self) -> None:
        if not self._is_ready:
            return
        missing = self._missing()
        now = time.monotonic()
        if missing > 0 and now >= self._not_before:
            for left in range(missing - 1, -1, -1):
                others = self._who_take_clients()
                try:
                    self._spawn(self._places.free(others), others)
                except StartError as error:
                    _log.error("%s; tried again every %g s", error, NO_ROOM) if not self._is_full else None
                    self._is_full, self._not_before = True, now + NO_ROOM
                    return
                self._is_full = False
                if self._restarts.early:
                    # One at a time, while it is not known whether any can live.
                    self._not_before = now + self._restarts.delay
                    return
                if pause := self._restarts.pause(now, left) if left else 0.0:
                    self._not_before = now + pause
                    return
        spare = self._who_take_clients()
        if missing < 0 and self._places:
            self._narrow(now, spare)
            return
        # Those that have not begun first, then the newest.
        spare.sort(key=lambda one: one.state is WorkerState.STARTING)
        for member in spare[self.workers :] if missing < 0 else []:
            self._dismiss(member)

    def _narrow(self, now: float, spare: list[Member]) -> None:
        """Nobody may go alone, as their sockets would be nobody's: fewer take the places of all."""
        if now >= self._next_narrowing and not any(self._is_replaced(one) for one in spare):
            self._next_narrowing = now + RECYCLING_REST
            self._roll("the change to fewer workers", self.workers, spare)

    def _dismiss(self, member: Member) -> None:
        """It is not needed any more."""
        if member.state is WorkerState.SERVING:
            self._retire(member)
        elif member.state is WorkerState.STARTING:
            member.told = True
            member.stop(self.graceful_timeout)

    # -- workers that are there --------------------------------------------------------------------------------------

    def _hear(self, member: Member) -> None:
        while message := member.link.receive():
            if "ready" in message:
                self.facts, member.has_served = message["ready"], True
                if member.state is WorkerState.STARTING:  # and was not told to stop meanwhile
                    member.move(WorkerState.SERVING)
                    member.due = None
                    _log.debug("%s is ready after %.0f ms", member, (time.monotonic() - member.since) * 1000)
            if "failed" in message:
                member.failure = str(message["failed"])
            if "answer" in message or "past" in message:
                self.on_answer(member, message)
            if "leave" in message:
                self._let_leave(member)
            if "ending" in message and member.state is WorkerState.SERVING:
                self._retire(member)
                self._count_death(member, "the end of one of its servers")
            if message.get("cut"):
                count = message["cut"]
                _log.warning("%s has cut %d connection%s", member, count, "" if count == 1 else "s")
        member.is_deaf = message is None

    def _let_leave(self, member: Member) -> None:
        """Somebody has sent SIGTERM to this worker alone: another takes its place first."""
        if self.stopping or member.state is WorkerState.RETIRING:
            member.due = self._ends_at or member.due  # it has begun, so it has the time that those who serve have
            member.stop(self.graceful_timeout)
        elif member.state is WorkerState.SERVING and not self._is_replaced(member):
            _log.info("%s is replaced: it was sent SIGTERM", member)
            member.patience = 0.0
            self._replace(member)

    def _is_well(self, member: Member, now: float) -> bool:
        return member.state is WorkerState.SERVING and (member.shown.accepted > 0 or now - member.since >= EARLY)

    def _is_to_beat(self, member: Member) -> bool:
        return member.has_served and member.state in AT_WORK

    def _beat_due(self, member: Member) -> float:
        return max(member.shown.beat, self._awake_since) + self.worker_timeout

    def _see_to_members(self) -> None:
        now = time.monotonic()
        for member in list(self.members):
            if self._is_to_beat(member) and self._beat_due(member) <= now:
                _log.error("%s gave no sign of life for %g s: killed, with its stack", member, self.worker_timeout)
                member.abort(now)
            elif member.due is not None and member.due <= now:
                self._overdue(member)
            elif member.state is WorkerState.SERVING and self.recycling.any and not self.stopping:
                self._recycle(member, now)

    def _overdue(self, member: Member) -> None:
        if member.state is WorkerState.STARTING:
            member.failure = f"not ready after {self.start_timeout:g} s"
            member.abort(time.monotonic())
            return
        if member.state is not WorkerState.KILLED:
            _log.error("%s has not ended in time: killed", member)
        member.kill()

    def _recycle(self, member: Member, now: float) -> None:
        if self._worn.get(member.number, 0.0) > now or self._is_replaced(member):
            return
        shown = member.shown
        reason = member.recycling.why(now - member.since, shown.resident, shown.accepted)
        if reason is not None:
            _log.info("%s is replaced: %s", member, reason)
            self._worn[member.number] = now + RECYCLING_REST
            self._replace(member)

    def _retire(self, member: Member) -> None:
        patience = self.retire_timeout if member.patience is None else member.patience
        member.retire(patience, time.monotonic() + patience + self.graceful_timeout + GIVE_UP + 1.0)

    def _lost(self, member: Member, code: int) -> None:
        """It was reaped: what is to follow from that."""
        self.members.remove(member)
        self._worn.pop(member.number, None)
        # Counted by itself as they came; its board is of its last sign of life, which it may not have come to.
        connections = member.died_with or member.shown.connections
        if member.told or self.stopping:
            if code and member.has_served:
                _log.warning("%s ended by %s", member, describe_exit(code))
            return
        why = member.failure or describe_exit(code)
        lost = f", with {connections} connection{'s' * (connections != 1)}" if connections else ""
        if member in self._rolling():
            return  # that is the rollover's affair
        _log.error("%s died after %.1f s, by %s%s", member, time.monotonic() - member.since, why, lost)
        self._count_death(member, why)

    def _look_at_ears(self) -> None:
        if self.stopping:
            return
        if self._ears.look():
            self.reload()  # some workers may have given it up
        elif self._ears.all_deaf:
            _log.critical("nobody can come any more: this ends, to be started anew")
            self._code = FAILED
            self.stop()

    def _count_death(self, member: Member, why: str) -> None:
        self._look_at_ears()  # before another is born deaf
        now = time.monotonic()
        if any(one.since > self._last_early and self._is_well(one, now) for one in self.members):
            self._restarts.lives()
        was_told = self._restarts.too_often
        served = member.shown.accepted + member.died_with
        delay = self._restarts.died(now, now - member.since, served, self.workers, self._missing())
        self._not_before = now + delay
        if self._restarts.too_often and not was_told:
            _log.error("workers die too often: from now on one is replaced every %g s", PACE)
        if self._restarts.early:
            self._last_early = now
        serving = sum(one.state is WorkerState.SERVING for one in self.members)
        if self._restarts.hopeless(self.workers, serving):
            _log.critical("the workers do not live: the last one died by %s. Giving up", why)
            self._code = FAILED
            self.stop(0)

    # -- changing over -----------------------------------------------------------------------------------------------

    def _see_to_rollovers(self) -> str | None:
        """Go on with those that are under way; what kept the first workers from beginning, if something did."""
        now = time.monotonic()
        is_time = self._reload is None and now >= self._next_reload and self._is_ready
        if self._reload_wanted and is_time and not self.stopping:
            self._begin_reload()
        for rollover in list(self._rollovers):
            why = rollover.failure
            if why is None and not rollover.complete:
                continue
            self._rollovers.remove(rollover)
            if why is not None:
                for member in rollover.members if not self.stopping else []:
                    member.told = True
                    self._dismiss(member)  # those that are ready may have had clients
                if not self._is_ready:
                    return None if self.stopping else why
                if not (self.stopping or rollover.abandoned):
                    _log.error("%s failed, and those that serve go on: %s", rollover.reason, why)
            else:
                for member in rollover.replaces:
                    self._dismiss(member)
                if not self._is_ready:
                    self._is_ready = True
                    self.on_ready()
            if rollover is self._reload:
                self._reload, self._next_reload = None, now + REST
                _log.info("%s is done", rollover.reason) if why is None else None
                self.on_reloaded(why is None)
        return None

    def reload(self) -> None:
        """Have new workers take the places of all that there are, once they are ready. However often it is asked for
        while one is under way, or within a second of it, one more follows."""
        self._reload_wanted = True

    def _begin_reload(self) -> None:
        self._reload_wanted = False
        try:
            self.on_reload()
        except Exception as error:
            known = isinstance(error, JackfieldError)
            _log.error("the reload failed, and what serves goes on: %s", error, exc_info=not known)
            self._next_reload = time.monotonic() + REST
            self.on_reloaded(False)
            return
        for rollover in self._rollovers:
            rollover.abandoned = True
        old = [member for member in self.members if member.takes_clients]
        self._reload = self._roll("the reload", self.workers, old)

    def scale(self, workers: int) -> None:
        """Have so many from now on, at least one and at most :data:`MOST`."""
        self.workers = min(max(1, workers), max(MOST, self.workers))
        self._next_narrowing = 0.0
        opened = [] if self.stopping else self._places.grow(self.workers)
        self.listeners += opened
        self._ears.add(opened)
        _log.info("%d worker%s from now on", self.workers, "" if self.workers == 1 else "s")

    def tell_all(self, **message: Any) -> None:
        """Send ``message`` to every worker."""
        for member in self.members:
            member.link.send(**message)

    # -- the end -----------------------------------------------------------------------------------------------------

    def stop(self, deadline: float | None = None) -> None:
        """Stop all workers within ``deadline`` seconds (``graceful_timeout`` if None); the earliest deadline holds."""
        seconds = self.graceful_timeout if deadline is None else deadline
        ends_at = time.monotonic() + seconds + GIVE_UP + 1.0
        is_needed = WorkerState.SERVING not in [one.state for one in self.members] and somebody_waits(self.listeners)
        if not self.stopping:
            self.on_stop()
            for listener in self.listeners:
                if not (listener.is_datagram or listener.shared) and listener.fileno() >= 0:
                    # Nobody is let in any more; those who wait in the queue are the workers' (listen(2)).
                    with contextlib.suppress(OSError):
                        listener.socket.listen(0)
                # The workers close theirs when nobody waits there; one left open here would let somebody in after that.
                listener.close()
        self._ends_at = min(ends_at, self._ends_at or ends_at)
        for member in self.members:
            member.told = True
            member.stop(seconds, is_needed=is_needed)

    def leave(self) -> None:
        """Another supervisor has the listeners: the workers retire, and :meth:`run` returns with the last of them."""
        for member in list(self.members):
            member.told = True
            self._dismiss(member)
        self._ends_at = time.monotonic() + self.retire_timeout + self.graceful_timeout + GIVE_UP + 1.0

    def _close(self) -> None:
        for member in self.members:  # only where something went wrong here
            member.signal(signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(member.pid, 0)
            member.let_go()
        self.members.clear()
        self._nursery.close()
        self.close()
