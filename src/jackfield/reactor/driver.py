"""The coroutine driver: a coroutine resumed straight from readiness.

An asyncio task that waits for a socket costs a Future, a callback, a loop turn and a context switch each time. A driven
task waits in the channel itself and is resumed by ``send()`` from the poll loop. To asyncio it is a task all the same:
it is registered, entered and left by the extension points the standard library has for that purpose
(``asyncio.tasks._register_task``, ``_enter_task``, ``_leave_task``), so ``all_tasks``, ``current_task``, ``timeout``,
``TaskGroup`` and cancellation work inside it, and when the coroutine awaits an ordinary future, that future resumes it.
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
from asyncio.tasks import _enter_task, _leave_task
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any, Final

from .core import Reactor, current_reactor
from .twin import native

# In which set asyncio's all_tasks() finds a task. From 3.12 on there is one for tasks that began without a turn of the
# loop's, as these do, and that are taken out at their end: it costs an idle connection 80 bytes less than a weak one.
_register: Any = getattr(asyncio.tasks, "_register_eager_task", asyncio.tasks._register_task)
_unregister: Any = getattr(asyncio.tasks, "_unregister_eager_task", asyncio.tasks._unregister_task)

_names = itertools.count(1)


class _Parked:
    def __repr__(self) -> str:
        return "PARKED"


#: What an awaitable of ours yields when it has put the running task where readiness will find it.
PARKED: Final = _Parked()


def _find_current_tasks() -> dict[Any, Any] | None:
    """The dictionary in which asyncio keeps the current task of each loop, up to 3.13; None where it has another place.

    Entering and leaving a task by it costs a third of what the two functions cost that do nothing else.
    """
    tasks: dict[Any, Any] | None = getattr(asyncio.tasks, "_current_tasks", None)
    if type(tasks) is not dict:
        return None
    loop: Any = object()
    _enter_task(loop, loop)
    try:
        return tasks if tasks.get(loop) is loop else None
    finally:
        _leave_task(loop, loop)


_current_tasks: Final = _find_current_tasks()

_set_result = asyncio.Future.set_result

OnEnd = Callable[["DrivenTask", BaseException | None], object]


class DrivenTask(asyncio.Future[Any]):
    """A coroutine driven by the reactor, with the interface of :class:`asyncio.Task`. Made by :func:`drive`."""

    __slots__ = (
        "_cancel_requests", "_context", "_coro", "_due", "_ended", "_home", "_interrupt", "_name", "_on_end",
        "_reactor", "_send", "_waiting_on", "tag",
    )  # fmt: skip

    def __init__(
        self,
        reactor: Reactor,
        coro: Coroutine[Any, Any, Any],
        name: str | None = None,
        on_end: OnEnd | None = None,
    ) -> None:
        self._home = loop = reactor.loop
        super().__init__(loop=loop)
        self._reactor = reactor
        self._coro = coro
        self._send = coro.send if native is None else None
        self._ended = False
        self._on_end = on_end
        #: What its maker wants to find again at its end.
        self.tag: object = None
        self._context = contextvars.copy_context()
        self._name = name
        #: Raised in the coroutine at its next step: a cancellation it has not met yet, or the answer to a bad yield.
        self._interrupt: BaseException | None = None
        self._cancel_requests = 0
        #: A turn of its own is on the way; another one would find it waiting elsewhere.
        self._due = True
        self._waiting_on: asyncio.Future[Any] | None = None
        _register(self)
        reactor.tasks.add(self)

    def __repr__(self) -> str:
        state = "done" if self.done() else "pending"
        return f"<driven task {self.get_name()} {state} {self._coro!r}>"

    # -- one step ----------------------------------------------------------------------------------------------------

    def switch(self) -> None:
        """Resume the coroutine until it waits again."""
        if self._ended:
            return
        self._due = False
        loop = self._home
        if _current_tasks is not None:
            _current_tasks[loop] = self
        else:
            _enter_task(loop, self)  # type: ignore[arg-type]
        try:
            if self._interrupt is None:
                yielded = self._context.run(self._send or self._coro.send, None)
            else:
                interrupt, self._interrupt = self._interrupt, None
                yielded = self._context.run(self._coro.throw, interrupt)
        except StopIteration as stop:
            self._returned(stop.value)
        except BaseException as error:
            self._raised(error)
        else:
            if yielded is not PARKED:
                self._wait_for(yielded)
        finally:
            if _current_tasks is not None:
                del _current_tasks[loop]
            else:
                _leave_task(loop, self)  # type: ignore[arg-type]

    def _returned(self, value: Any) -> None:
        interrupt = self._interrupt
        self._ended = True
        self._reactor.tasks.discard(self)
        _unregister(self)
        self._waiting_on = None
        if interrupt is None:
            _set_result(self, value)
        else:
            super().cancel(*interrupt.args[:1])  # it cancelled itself and then returned
        # As in _tell(): most return, and a call costs as much as all the rest.
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end(self, interrupt)

    def _raised(self, error: BaseException) -> None:
        self._finish()
        if isinstance(error, asyncio.CancelledError):
            super().cancel(*error.args[:1])
        else:
            # SystemExit too: a handler cannot end the loop that serves the others. Ctrl-C can.
            super().set_exception(error if isinstance(error, Exception) else Ended(error))
            if self._on_end is not None:
                self._log_traceback = False  # whoever is told of the end has it
        self._tell(error)
        if isinstance(error, KeyboardInterrupt):
            raise error

    def _wait_for(self, yielded: Any) -> None:
        """Do what asyncio's own task does with a yielded value."""
        blocking = getattr(yielded, "_asyncio_future_blocking", None)
        if blocking:
            yielded._asyncio_future_blocking = False
            yielded.add_done_callback(self._resume, context=self._context)
            self._waiting_on = yielded
            if self._interrupt is not None and yielded.cancel(*self._interrupt.args[:1]):
                self._interrupt = None
        else:
            if yielded is not None:
                self._interrupt = RuntimeError(f"{self!r} got a bad yield: {yielded!r}")
            # A bare yield is asyncio.sleep(0): all that the host loop has ready comes first.
            self._due = True
            self._loop.call_soon(self._reactor.schedule, self, context=self._context)

    def _resume(self, future: asyncio.Future[Any]) -> None:
        self._waiting_on = None
        self._due = True
        self._reactor.schedule(self)

    def _tell(self, error: BaseException | None) -> None:
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end(self, error)

    def _finish(self) -> None:
        self._ended = True
        self._reactor.tasks.discard(self)
        _unregister(self)
        self._waiting_on = None

    def let_go(self) -> None:
        """Its loop is no more: nobody resumes it, and asyncio need not hold it."""
        _unregister(self)

    # -- the interface of asyncio.Task -------------------------------------------------------------------------------

    def cancel(self, msg: Any | None = None) -> bool:
        """Ask it to end: CancelledError is raised where it waits. False if it has ended already."""
        if self.done():
            return False
        self._cancel_requests += 1
        if self._waiting_on is not None and self._waiting_on.cancel(msg=msg):
            return True
        self._interrupt = asyncio.CancelledError() if msg is None else asyncio.CancelledError(msg)
        if not self._due:
            self._reactor.schedule_from_anywhere(_CancelTurn(self))
        return True

    def cancelling(self) -> int:
        return self._cancel_requests

    def uncancel(self) -> int:
        if self._cancel_requests > 0:
            self._cancel_requests -= 1
            if self._cancel_requests == 0 and isinstance(self._interrupt, asyncio.CancelledError):
                self._interrupt = None
        return self._cancel_requests

    def get_coro(self) -> Coroutine[Any, Any, Any]:
        return self._coro

    def get_context(self) -> contextvars.Context:
        return self._context

    def get_name(self) -> str:
        if self._name is None:
            self._name = f"Jackfield-{next(_names)}"
        return self._name

    def set_name(self, value: object) -> None:
        self._name = str(value)

    def get_stack(self, *, limit: int | None = None) -> list[FrameType]:
        """The innermost frame of the suspended coroutine, as asyncio's own gives it; empty when it has ended."""
        frame = getattr(self._coro, "cr_frame", None)
        return [frame] if frame is not None and not self.done() and limit != 0 else []

    def set_result(self, result: Any) -> None:
        raise RuntimeError("a task does not support set_result")

    def set_exception(self, exception: Any) -> None:
        raise RuntimeError("a task does not support set_exception")


if native is not None:
    native.install_task(
        DrivenTask, asyncio.Future, PARKED, _enter_task, _leave_task, _register, _unregister, _current_tasks
    )


class Ended(Exception):
    """A future refuses to carry SystemExit and KeyboardInterrupt on, so they travel inside this."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(f"the coroutine raised {error!r}")
        self.__cause__ = error


class _CancelTurn:
    """A turn in which a task meets its cancellation, unless it met it on another way already."""

    __slots__ = ("_task",)

    def __init__(self, task: DrivenTask) -> None:
        self._task = task

    def switch(self) -> None:
        task = self._task
        if task._interrupt is not None and task._waiting_on is None and not task._due:
            task.switch()


def drive(
    coro: Coroutine[Any, Any, Any],
    *,
    name: str | None = None,
    reactor: Reactor | None = None,
    on_end: OnEnd | None = None,
) -> DrivenTask:
    """Start ``coro`` as a driven task of the loop that runs in this thread (or of ``reactor``, on its thread).

    ``on_end(task, error)`` is called at once when it has ended, where a done callback waits for a turn of the host
    loop; ``error`` is what it ended by, CancelledError included, None for a return.
    """
    reactor = reactor or current_reactor()
    task = DrivenTask(reactor, coro, name, on_end)
    reactor.schedule(task)
    return task
