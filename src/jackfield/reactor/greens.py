"""Green threads: blocking-style code that switches to the loop where it would block."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import sys
import threading
from collections.abc import Callable, Coroutine
from types import MethodType
from typing import Any, ClassVar, Final, TypeVar
from weakref import getweakrefcount

from greenlet import GreenletExit as GreenExit
from greenlet import getcurrent, greenlet

from ..errors import MisuseError
from ..journal import standing_journal
from .core import Reactor, current_reactor, loop_runs_here
from .poller import Poller
from .timers import NEVER, Timer
from .waiting import AsyncWait, GreenWait, Wait, blocking_wait

T = TypeVar("T")

_log = logging.getLogger("jackfield.green")
_journal = standing_journal(_log)

#: What a park returns when its deadline passed first.
EXPIRED: Final = object()

#: Seconds that ``run()`` gives the green threads it leaves behind to clean up after themselves.
CLEANUP_SECONDS = 5.0


#: The keyword arguments of nearly all.
_NONE: dict[str, Any] = {}

OnEnd = Callable[["GreenThread", BaseException | None], object]


class GreenThread(greenlet):
    """One green thread: made by :func:`spawn`, not by hand.

    :meth:`join` waits for its end, :meth:`result` asks what it returned, :meth:`kill` ends it where it waits.
    Awaiting it (``await green``) does what ``result()`` does, in a coroutine.
    """

    __slots__ = (
        "_args", "_begun", "_error", "_function", "_joiners", "_killed", "_kwargs", "_on_end", "_timer", "_value",
        "done", "hub", "name", "poller", "reactor", "tag",
    )  # fmt: skip

    #: References to one that nobody else holds, as it counts them at the end of a turn; 0 before they were counted.
    _alone: ClassVar[int] = 0

    def __init__(
        self,
        reactor: Reactor,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        on_end: OnEnd | None = None,
    ) -> None:
        super().__init__(_live, reactor.hub)
        self.reactor = reactor
        self.poller: Poller = reactor.poller
        self.hub = reactor.hub
        self._joiners: list[Wait] | None = None
        self._timer: Timer | None = None
        self._begin(function, args, kwargs, on_end)

    def _begin(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], on_end: OnEnd | None) -> None:
        """All that a life has of its own: one that has ended, and that nobody else holds, may have another."""
        self.name: str = getattr(function, "__qualname__", None) or repr(function)
        #: True once it has returned, raised or been killed.
        self.done = False
        #: What its maker wants to find again at its end.
        self.tag: Any = None
        self._begun = False
        if args and type(function) is MethodType:
            # With arguments in a tuple the interpreter enters a plain function without a C frame, and nothing else.
            function, args = function.__func__, (function.__self__, *args)
        self._function: Callable[..., Any] | None = function
        self._args = args
        self._kwargs = kwargs
        self._value: Any = None
        self._error: BaseException | None = None
        self._killed = False
        #: Told of the end, in place of the log.
        self._on_end = on_end
        # A green thread starts with its maker's context variables, as an asyncio task does, and keeps its own. An empty
        # context is made by the interpreter when the first variable is set.
        self.gr_context = contextvars.copy_context() or None

    def __repr__(self) -> str:
        state = "done" if self.done else "waiting" if self._begun else "starting"
        if getcurrent() is self:
            state = "running"
        return f"<green thread {self.name} at {id(self):#x}, {state}>"

    def _rests(self) -> bool:
        """Whether it is kept for another life. The interpreter maps memory for the frames of each greenlet and gives it
        back with it, which costs more than all else there is to begin and end one."""
        reactor = self.reactor
        references = sys.getrefcount(self)
        if self.name is _count_references.__qualname__ and sys.gettrace() is None and sys.getprofile() is None:
            GreenThread._alone = references  # a debugger may hold the frames, and they this
        # Whoever resumed it otherwise than by its turn holds it too, and so does whoever may still want it: to join it,
        # to kill it, or for a wait that has not been called off.
        if references > GreenThread._alone or self.poller.current is not self:
            return False
        # What somebody keeps for the current greenlet, as for a thread: an attribute of it, or an entry by a weak key.
        if getweakrefcount(self) or self.__dict__:
            return False
        spares = reactor.spares
        if len(spares) >= reactor.most_spares:
            return False
        self._value = None
        spares.append(self)
        return True

    def _take_args(self) -> tuple[Any, ...]:
        """The arguments, which are not held here for as long as it runs."""
        args, self._args = self._args, ()
        return args

    def _take_function(self) -> Callable[..., Any] | None:
        function, self._function = self._function, None
        return function

    def _is_interrupted(self, error: BaseException) -> bool:
        """Whether ``error`` is a Ctrl-C that happened to meet this one: it ends the loop's run, as in a task of
        asyncio's."""
        return isinstance(error, KeyboardInterrupt) and not self._killed

    def _end(self, value: Any, error: BaseException | None) -> None:
        self.done = True
        self._value = value
        self._error = error
        self._function = None
        self._args = ()
        self._kwargs = _NONE
        if self._timer is not None:
            # Its entry may stay in the heap for as long as the longest timeout was; this must not stay with it.
            self._timer.expired, self._timer = _nothing, None
        self.reactor.greens.discard(self)
        joiners, self._joiners = self._joiners, None
        if joiners:
            for joiner in joiners:
                joiner.wake()
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end(self, error)
            if self.tag is not None:
                # Whoever is told by it has the error, which holds the frames of this one, and they this.
                self.tag = self._error = None
        elif not joiners and error is not None and not isinstance(error, (GreenExit, KeyboardInterrupt)):
            _journal.write(
                logging.ERROR, "%s ended with an exception that nobody waited for", self,
                kind="green threads that ended by an error", error=error,
            )  # fmt: skip

    # -- for whoever started it --------------------------------------------------------------------------------------

    def join(self, timeout: float | None = None) -> bool:
        """Wait until it has ended; False if ``timeout`` seconds pass first (None: for ever).

        From a green thread or a plain thread; a coroutine writes ``await green`` instead.
        """
        if self.done:
            return True
        if getcurrent() is self:
            raise MisuseError("a green thread that waits for its own end would wait for ever; join it from another")
        if not in_green() and loop_runs_here():
            raise MisuseError(
                "join() in a coroutine would hold the loop that this green thread runs on; write 'await green'"
            )
        wait = self._joined_by(blocking_wait())
        try:
            wait.wait(timeout)
        finally:
            self._not_joined_by(wait)
        return self.done

    def result(self, timeout: float | None = None) -> Any:
        """What it returned; raises what it raised, GreenExit if it was killed, TimeoutError after ``timeout`` s."""
        if not self.join(timeout):
            raise TimeoutError(f"{self!r} has not ended within {timeout} s")
        if self._error is not None:
            raise self._error
        return self._value

    async def _result(self) -> Any:
        if not self.done:
            wait = self._joined_by(AsyncWait())
            try:
                await wait.wait()
            finally:
                self._not_joined_by(wait)
        return self.result()

    def __await__(self) -> Any:
        return self._result().__await__()

    def _joined_by(self, wait: Any) -> Any:
        if self._joiners is None:
            self._joiners = []
        self._joiners.append(wait)
        if self.done:
            wait.wake()  # it ended on its own thread just before we were on the list
        return wait

    def _not_joined_by(self, wait: Any) -> None:
        if not self.done and self._joiners is not None:
            with contextlib.suppress(ValueError):
                self._joiners.remove(wait)

    def kill(self, error: BaseException | type[BaseException] = GreenExit) -> None:
        """Raise ``error`` in it where it waits; at once if it has not started. Does not wait: ``join()`` does.

        From any thread, any number of times. A green thread that kills itself sees the error raised here.
        """
        if self.done:
            return
        if getcurrent() is self:
            raise error
        if not self._begun and threading.get_ident() == self.reactor.thread_id:
            # Not started. Throwing into it would raise here: greenlet documents it so.
            self._end(None, error() if isinstance(error, type) else error)
            return
        self.reactor.schedule_from_anywhere(_Throw(self, error))

    # -- for what it waits on ----------------------------------------------------------------------------------------

    def park(self, deadline: float | None = None) -> bool:
        """Give the loop its turn until someone calls ``switch()``. False if ``deadline`` (clock seconds) came first.

        Only on the green thread itself. It waits for one thing at a time, so one lazy timer serves all its waits.
        """
        if deadline is None:
            self.hub.switch()
            return True
        timer = self._timer
        if timer is None:
            timer = self._timer = Timer(self._expired)
        self.reactor.arm(timer, deadline)
        try:
            return self.hub.switch() is not EXPIRED
        finally:
            timer.deadline = NEVER

    def _expired(self) -> None:
        self.switch(EXPIRED)

    def pass_turn(self) -> None:
        """Let all others that can run have their turn first."""
        wait = GreenWait(self)
        wait.wake()
        wait.park()


def _live() -> None:
    """What each green thread runs: one life, and another after it if it is kept for that.

    It is there for as long as anything waits, so it is no method and has few variables. For a bound method greenlet
    would keep one more object, and one more frame of C; and from 3.12 on it makes an object of each frame of Python
    that waits, with room for all its variables.
    """
    green: Any = getcurrent()
    while not green.done:  # it may be killed before its first turn
        green._begun = True
        try:
            # So written the interpreter enters a function or method without a C frame, of which each would be copied at
            # each switch; up to 3.11 not with arguments.
            if green._args or green._kwargs:
                green._end(green._function(*green._take_args(), **green._kwargs), None)
            else:
                green._end(green._take_function()(), None)
        except BaseException as error:
            green._end(None, error)
            if green._is_interrupted(error):
                raise
            return
        if not green._rests():
            return
        try:
            green.hub.switch()
        except BaseException as error:
            if not green.done:  # it met the next life before its first line
                green._end(None, error)
            if green._is_interrupted(error):
                raise
            return


class _Throw:
    """A turn in which a green thread is killed."""

    __slots__ = ("error", "green")

    def __init__(self, green: GreenThread, error: BaseException | type[BaseException]) -> None:
        self.green = green
        self.error = error

    def switch(self) -> None:
        green = self.green
        if green.done:
            return
        if not green._begun:
            green.kill(self.error)
            return
        green._killed = True
        green.throw(self.error)


def _nothing() -> None:
    """What a timer calls whose green thread has ended."""


def _count_references() -> None:
    """What the first green thread of a process runs, which nobody holds."""


def in_green() -> bool:
    """True on a green thread of this library."""
    return getcurrent().__class__ is GreenThread


def spawn(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> GreenThread:
    """Start ``function(*args, **kwargs)`` as a green thread of the loop that runs in this thread, and return it.

    From a green thread, a coroutine or a callback. It has its first turn soon, not now. MisuseError where no loop runs.
    An exception that nobody joined for is logged to ``jackfield.green``.
    """
    current = getcurrent()
    return spawn_on(current.reactor if isinstance(current, GreenThread) else current_reactor(), function, args, kwargs)


def spawn_on(
    reactor: Reactor,
    function: Callable[..., Any],
    args: tuple[Any, ...] = (),
    kwargs: dict[str, Any] | None = None,
    on_end: OnEnd | None = None,
) -> GreenThread:
    """:func:`spawn` on a given reactor, on its thread.

    ``on_end(green, error)`` is called by the green thread as the last thing it does; ``error`` is what it ended by.
    """
    spares = reactor.spares
    if spares:
        green = spares.pop()
        green._begin(function, args, kwargs or _NONE, on_end)
    else:
        if not GreenThread._alone:
            reactor.schedule(GreenThread(reactor, _count_references, (), _NONE))
        green = GreenThread(reactor, function, args, kwargs or _NONE, on_end)
    reactor.greens.add(green)
    reactor.schedule(green)
    return green


async def green(function: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
    """Run blocking-style code from a coroutine: ``await green(function, ...)`` gives what it returns.

    Cancelling the wait kills the green thread (it sees GreenExit where it waits) and lets it clean up first.
    """
    thread = spawn(function, *args, **kwargs)
    try:
        return await thread  # type: ignore[no-any-return]
    except asyncio.CancelledError:
        if not thread.done:
            thread.kill()
            with contextlib.suppress(GreenExit):
                await thread
        raise


def run(
    function: Callable[..., T],
    /,
    *args: Any,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
    **kwargs: Any,
) -> T:
    """Run ``function(*args, **kwargs)`` as the first green thread of a loop of its own, and return what it returns.

    ``loop_factory`` makes the host loop, e.g. ``uvloop.new_event_loop``; stock asyncio by default. Green threads and
    tasks it leaves behind are ended when it returns. Ctrl-C raises KeyboardInterrupt in it, where it waits.
    MisuseError if a loop runs in this thread already: there, use ``spawn()`` or ``await green(fn)``.
    """
    if in_green():
        raise MisuseError("run() inside a green thread: call the function, or start another with jackfield.spawn(fn)")
    if loop_runs_here():
        raise MisuseError("run() where a loop runs already: write 'await jackfield.green(fn)' or jackfield.spawn(fn)")
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        first = _First(runner)
        work: Coroutine[Any, Any, T] = first.run(function, args, kwargs)
        while True:
            try:
                return runner.run(work)
            except BaseException as error:
                if first.thread is None or first.thread.done:
                    raise
                # Raised in the loop's own select: see _First.run().
                first.thread.kill(error)
                work = first.go_on()


class _First:
    """The first green thread of a loop made for it, and the coroutine that waits for its end."""

    def __init__(self, runner: asyncio.Runner) -> None:
        self._runner = runner
        self._task: asyncio.Task[Any] | None = None
        self.thread: GreenThread | None = None

    async def run(self, function: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
        reactor = current_reactor()
        self._task = asyncio.current_task()
        self.thread = spawn_on(reactor, function, args, kwargs)
        # What a signal handler raises belongs where the program waits, as it would come out of a plain thread's recv;
        # CPython runs the handler in whatever frame holds the thread, and while all wait that is the loop's.
        reactor.on_interrupt = self.thread.kill
        reactor.loop.set_exception_handler(self._uncaught)
        try:
            while True:
                try:
                    return await self.thread  # type: ignore[no-any-return]
                except asyncio.CancelledError:
                    # The runner cancels its main task on Ctrl-C, and counts that: blocking-style code expects
                    # KeyboardInterrupt. Any other cancellation is the loop's end.
                    if self.thread.done:
                        raise
                    self.thread.kill(KeyboardInterrupt if getattr(self._runner, "_interrupt_count", 0) else GreenExit)
        finally:
            await _end_the_rest(reactor)
            reactor.close()

    def _uncaught(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """uvloop runs signal handlers inside a callback of its own, and reports what they raise."""
        error = context.get("exception")
        if isinstance(error, BaseException) and "_read_from_self" in str(context.get("message")):
            assert self.thread is not None
            self.thread.kill(error)
        else:
            loop.default_exception_handler(context)

    async def go_on(self) -> Any:
        """Wait for what :meth:`run` still does, after an exception has ended the loop's own run."""
        assert self._task is not None
        return await self._task


async def _end_the_rest(reactor: Reactor) -> None:
    for thread in list(reactor.greens):
        thread.kill()
    for task in list(reactor.tasks):
        task.cancel()
    waits = []
    for thread in list(reactor.greens):
        waits.append(thread._joined_by(AsyncWait()).wait())
    rest = [asyncio.ensure_future(wait) for wait in waits] + list(reactor.tasks)
    if not rest:
        return
    _, late = await asyncio.wait(rest, timeout=CLEANUP_SECONDS)
    for waiting in late:
        waiting.cancel()
    for thread in list(reactor.greens):
        _log.warning("%r was told to end and did not within %g s", thread, CLEANUP_SECONDS)
