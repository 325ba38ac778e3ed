"""From one world into another: sleep, blocking calls, coroutines, readiness; each right wherever it is called."""

from __future__ import annotations

import asyncio
import os
import select
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from greenlet import getcurrent

from ..errors import ClosedSocketError, MisuseError
from .core import loop_runs_here
from .greens import GreenThread
from .waiting import GreenWait

T = TypeVar("T")

#: Threads that run offloaded calls, for the whole process. They wait for slow machines, not for processors, so there
#: are more of them than the library's default for an executor (processors + 4).
OFFLOAD_THREADS = 64


def sleep(seconds: float) -> Any:
    """Wait ``seconds``. A green thread gives the others their turn; a plain thread blocks; a coroutine awaits this."""
    current = getcurrent()
    if current.__class__ is GreenThread:
        if seconds <= 0:
            current.pass_turn()
        else:
            GreenWait(current).wait(seconds)
        return None
    if loop_runs_here():
        return asyncio.sleep(seconds)
    time.sleep(max(0.0, seconds))
    return None


def offload(function: Callable[..., T], /, *args: Any, **kwargs: Any) -> Any:
    """Run a call that blocks (a file, a computation, a library that knows nothing of us) without holding the loop.

    In a green thread: in a thread of a pool, and this returns its result or raises what it raised. In a coroutine: the
    same, awaited (``await offload(fn)``). In a plain thread there is no loop to hold, so the call is simply made.
    A green thread that is killed meanwhile leaves the call running: a thread cannot be stopped from outside.
    """
    current = getcurrent()
    if current.__class__ is GreenThread:
        future = _pool().submit(function, *args, **kwargs)
        del args, kwargs  # the traceback of an error keeps this frame, and must not keep what it was given
        return _joined(current, future)
    if loop_runs_here():
        return asyncio.wrap_future(_pool().submit(function, *args, **kwargs))
    return function(*args, **kwargs)


def _joined(green: GreenThread, future: Future[T]) -> T:
    wait = GreenWait(green)
    future.add_done_callback(lambda _: wait.wake())
    try:
        wait.wait()
    except BaseException:
        future.cancel()
        raise
    return future.result()


def await_(awaitable: Awaitable[T]) -> T:
    """Run async code from blocking-style code: the result of ``awaitable``, or what it raised.

    In a green thread it runs on the loop that hosts it, as a task; a kill cancels the task. In a plain thread it runs
    on one background loop that all plain threads of the process share, so that a client object made there (a
    connection pool) can be used again. MisuseError in a coroutine, which can say ``await``.
    """
    current = getcurrent()
    if current.__class__ is GreenThread:
        task = asyncio.ensure_future(awaitable, loop=current.reactor.loop)
        wait = GreenWait(current)
        task.add_done_callback(lambda _: wait.wake())
        try:
            wait.wait()
        except BaseException:
            task.cancel()
            raise
        return task.result()
    if loop_runs_here():
        close = getattr(awaitable, "close", None)
        if close is not None:
            close()
        raise MisuseError("await_() in a coroutine would hold the loop that has to run it; write 'await ...'")
    return asyncio.run_coroutine_threadsafe(_awaited(awaitable), _background_loop()).result()


async def _awaited(awaitable: Awaitable[T]) -> T:
    return await awaitable


# -- readiness of any descriptor -------------------------------------------------------------------------------------


def wait_readable(file: Any, timeout: float | None = None) -> None:
    """Wait until ``file`` (a descriptor, or anything with ``fileno()``) may be read; TimeoutError after ``timeout`` s.

    Cooperative in a green thread, by poll(2) in a plain one. A regular file is always ready.
    """
    _wait_ready(file, timeout, reading=True)


def wait_writable(file: Any, timeout: float | None = None) -> None:
    """Wait until ``file`` may be written; as :func:`wait_readable`."""
    _wait_ready(file, timeout, reading=False)


def _wait_ready(file: Any, timeout: float | None, *, reading: bool) -> None:
    fd = file if isinstance(file, int) else file.fileno()
    if fd < 0:
        raise ClosedSocketError()
    green = getcurrent()
    if ready_now(fd, reading=reading) or (
        _wait_green(green, fd, timeout, reading=reading)
        if isinstance(green, GreenThread)
        else ready_now(fd, timeout, reading=reading)
    ):
        return
    raise TimeoutError("timed out")


def ready_now(fd: int, timeout: float | None = 0.0, *, reading: bool) -> bool:
    """poll(2) one descriptor, blocking this thread for at most ``timeout`` seconds (None: for ever)."""
    poll = select.poll()
    poll.register(fd, select.POLLIN | select.POLLPRI if reading else select.POLLOUT)
    return bool(poll.poll(None if timeout is None else max(0, int(timeout * 1000 + 0.999))))


def _wait_green(green: GreenThread, fd: int, timeout: float | None, *, reading: bool) -> bool:
    poller = green.reactor.poller
    found = poller.find(fd)
    channel = found or poller.register(fd)
    channel.borrowers += 1
    channel.lent = channel.lent or found is None
    deadline = None if timeout is None else green.reactor.clock.now() + timeout
    try:
        while True:
            # The hint may stem from before: only an edge from now on, or the kernel's own word, counts.
            if reading:
                channel.readable = False
                channel.claim_reader(green)
            else:
                channel.writable = False
                channel.claim_writer(green)
            try:
                if not green.park(deadline):
                    return False
            finally:
                if channel.reader is green:
                    channel.reader = None
                if channel.writer is green:
                    channel.writer = None
            if channel.poller is None:
                raise ClosedSocketError()
            if ready_now(fd, reading=reading):
                return True
    finally:
        # A descriptor that is not a socket of ours may be closed without our knowing: the last one out forgets it.
        channel.borrowers -= 1
        if channel.lent and not channel.borrowers and channel.poller is not None:
            poller.forget(channel)


# -- what a process has one of ---------------------------------------------------------------------------------------

_lock = threading.Lock()
_executor: ThreadPoolExecutor | None = None
_loop: asyncio.AbstractEventLoop | None = None


def _pool() -> ThreadPoolExecutor:
    global _executor
    with _lock:
        if _executor is None:
            _executor = ThreadPoolExecutor(OFFLOAD_THREADS, thread_name_prefix="jackfield-offload")
        return _executor


def _background_loop() -> asyncio.AbstractEventLoop:
    global _loop
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="jackfield-loop", daemon=True).start()
        return _loop


def _after_fork() -> None:
    # Their threads did not come along; and the lock may have been held by one of them.
    global _executor, _loop, _lock
    _executor, _loop, _lock = None, None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
