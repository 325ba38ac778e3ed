"""The reactor: one for each thread that serves, hosted by whatever asyncio loop runs there.

It lends the host loop a single descriptor (its own poll set) and a single timer, and borrows its turns. So it runs
alike inside stock asyncio, uvloop and an application's loop that runs already.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from greenlet import getcurrent, greenlet

from ..clock import MONOTONIC
from ..errors import MisuseError
from .poller import Poller, Waiter
from .timers import NEVER, Timer, Timers

if TYPE_CHECKING:
    from .driver import DrivenTask
    from .greens import GreenThread
    from .watchdog import Watchdog

#: Green threads that are kept for other work: a burst of short connections needs as many as it has open at once. Each
#: holds the memory of one that waits.
SPARES = 64


def _take_turns() -> None:
    """What the hub runs: what it is given, each time that it is given a turn.

    It is a greenlet of its own, as from 3.12 on greenlet looks through all frames of who switches at every switch, down
    to the greenlet's first: here that are two, and among the host loop's callbacks all of the loop's and the program's.
    It holds nothing while it waits, so that it goes with its reactor.
    """
    while True:
        getcurrent().parent.switch()()  # type: ignore[union-attr]


def _make_hub() -> greenlet:
    hub = greenlet(_take_turns)
    hub.switch()  # to where it waits for work
    return hub


class Reactor:
    """Readiness and time for the green threads and driven coroutines of one thread.

    Made by :func:`current_reactor`, on the thread whose loop is running. Only :meth:`schedule_from_anywhere` may be
    called from other threads.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.thread_id = threading.get_ident()
        self.poller = Poller(self.schedule_from_anywhere)
        self.clock = MONOTONIC
        #: Gives the turns: where a green thread goes when it waits.
        self.hub = _make_hub()
        #: What ended the last turn, other than its end.
        self._error: BaseException | None = None
        self.greens: set[GreenThread] = set()
        #: Green threads whose work has ended, for another.
        self.spares: list[GreenThread] = []
        self.most_spares = SPARES
        self.tasks: set[DrivenTask] = set()
        self.watchdog: Watchdog | None = None
        #: Who takes what a signal handler raised while the hub had the thread; the host loop if None.
        self.on_interrupt: Callable[[BaseException], object] | None = None
        self._timers = Timers()
        self._host_timer: asyncio.TimerHandle | None = None
        self._host_moment = NEVER
        self._kicked = False
        # A loop tells nobody that it is closed, but lets go of its callbacks then. This one has no other owner: its end
        # is what closes the descriptor with the loop.
        turn = partial(self._turn)
        self._lent_turn = weakref.ref(turn, self._loop_let_go)
        loop.add_reader(self.poller.fileno(), turn)

    def __repr__(self) -> str:
        return f"<Reactor of {self.loop!r}: {len(self.greens)} green threads, {len(self.tasks)} tasks>"

    # -- turns ------------------------------------------------------------------------------------------------------

    def schedule(self, waiter: Waiter) -> None:
        """``waiter`` has its turn soon. On the reactor's own thread only."""
        self.poller.runnable.append(waiter)
        if not self.poller.dispatching:
            self._kick()

    def schedule_from_anywhere(self, waiter: Waiter) -> None:
        """``waiter`` has its turn soon. From any thread; in silence when the loop is closed: nobody waits there."""
        try:
            if threading.get_ident() == self.thread_id:
                self.schedule(waiter)
            else:
                self.poller.runnable.append(waiter)
                self.loop.call_soon_threadsafe(self._turn)
        except RuntimeError:
            if not self.loop.is_closed():
                raise

    def _kick(self) -> None:
        if not self._kicked:
            self._kicked = True
            self.loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._kicked = False
        if self.poller.closed:
            return  # asked for before the end, by another thread perhaps
        self._in_hub(self._dispatch)

    def _dispatch(self) -> None:
        try:
            if self.poller.dispatch():
                self._kick()
        except BaseException as error:
            self._kick()
            self._error = error

    def _in_hub(self, work: Callable[[], None]) -> None:
        """``work()``, which lets nothing out, where turns are given."""
        watchdog = self.watchdog
        if watchdog is not None and watchdog.resting:
            watchdog.rouse()
        hub = self.hub
        hub.parent = getcurrent()
        try:
            hub.switch(work)
        except BaseException as error:
            self._renew_hub()
            self._kick()
            self._error = error
        interrupt, self._error = self._error, None
        if interrupt is not None:
            self._interrupted(interrupt)

    def _renew_hub(self) -> None:
        """A signal handler has raised between two turns, in the hub itself, and that has ended it."""
        if self.hub.dead:
            self.hub = _make_hub()
            for green in self.greens:
                green.hub = green.parent = self.hub

    # -- time -------------------------------------------------------------------------------------------------------

    def arm(self, timer: Timer, deadline: float) -> None:
        """Set ``timer`` to ``deadline`` (seconds of ``clock``)."""
        self._timers.arm(timer, deadline)
        if deadline < self._host_moment:
            self._arm_host()

    def _arm_host(self) -> None:
        moment = self._timers.next()
        if moment == self._host_moment:
            return
        if self._host_timer is not None:
            self._host_timer.cancel()
            self._host_timer = None
        self._host_moment = moment
        if moment != NEVER:
            self._host_timer = self.loop.call_later(max(0.0, moment - self.clock.now()), self._on_time)

    def _on_time(self) -> None:
        self._host_timer, self._host_moment = None, NEVER
        try:
            self._in_hub(self._expire)
        finally:
            self._arm_host()
            if self.poller.runnable:
                self._kick()

    def _expire(self) -> None:
        try:
            with self.poller.giving_turns():
                self._timers.expire(self.clock.now())
        except BaseException as error:
            self._error = error

    def _interrupted(self, error: BaseException) -> None:
        """Nothing raises here but a signal handler that CPython ran in one of these frames, or a Ctrl-C passed on."""
        if self.on_interrupt is None:
            raise error
        self.on_interrupt(error)

    # -- life -------------------------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        return self.loop.is_closed() or self.poller.closed

    def close(self) -> None:
        """Give the host loop its descriptor and timer back. Whoever still waits here waits for ever."""
        if self.poller.closed:
            return
        if self.watchdog is not None:
            self.watchdog.close()
        self.most_spares = 0
        self._end_spares()
        if self._host_timer is not None:
            self._host_timer.cancel()
        if not self.loop.is_closed():
            self.loop.remove_reader(self.poller.fileno())
        self._end()

    def _end_spares(self) -> None:
        spares, self.spares = self.spares, []
        for spare in spares:
            spare.parent = getcurrent()
            spare.switch()  # it returns

    def _loop_let_go(self, _: object) -> None:
        # In the midst of the loop's own end: it is not to be asked for anything more.
        if self.loop.is_closed():
            # A greenlet that is suspended holds itself by its own frames, which the collector does not see into. It can
            # be ended on its own thread only, where a loop nearly always closes.
            if threading.get_ident() == self.thread_id:
                self._end_spares()
            self.spares.clear()
            self._end()

    def _end(self) -> None:
        self.poller.close()
        self.let_go_of_tasks()
        _reactors.forget(self)

    def let_go_of_tasks(self) -> None:
        """Whoever waits here waits for ever, and is not to be held elsewhere for that."""
        for task in self.tasks:
            task.let_go()


class _OfThread(dict[asyncio.AbstractEventLoop, Reactor]):
    """The reactors of one thread. It may end without having closed its loops."""

    def __del__(self) -> None:
        for reactor in self.values():
            reactor.let_go_of_tasks()


class _Reactors(threading.local):
    """The reactors of this thread. A thread runs one loop at a time, so the last one used is nearly always the one."""

    def __init__(self) -> None:
        self.last: Reactor | None = None
        self.all: dict[asyncio.AbstractEventLoop, Reactor] = _OfThread()

    def of(self, loop: asyncio.AbstractEventLoop) -> Reactor:
        reactor = self.all.get(loop)
        if reactor is None or reactor.closed:
            for other in [r for r in self.all.values() if r.closed]:
                other.close()
            reactor = self.all[loop] = Reactor(loop)
        self.last = reactor
        return reactor

    def forget(self, reactor: Reactor) -> None:
        if self.all.get(reactor.loop) is reactor:
            del self.all[reactor.loop]
        if self.last is reactor:
            self.last = None


_reactors = _Reactors()


def loop_runs_here() -> bool:
    """True where an asyncio loop runs in this thread: in a coroutine, a callback, a green thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def current_reactor() -> Reactor:
    """The reactor of the loop that runs in this thread. MisuseError when none runs."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        raise MisuseError(
            "no loop runs in this thread; start blocking-style code with jackfield.run(fn), or call this from a handler"
        ) from None
    last = _reactors.last
    if last is not None and last.loop is loop and not last.poller.closed:
        return last
    return _reactors.of(loop)


def _after_fork() -> None:
    # A forked child shares the parent's epoll sets: what it registered or removed there, the parent would see.
    # Closing this process's copy of the descriptor leaves the set itself to the parent.
    for reactor in _reactors.all.values():
        reactor.poller.close()
        reactor.let_go_of_tasks()
    _reactors.last = None
    _reactors.all = _OfThread()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
