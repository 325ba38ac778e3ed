"""CPython's test_socket with every test as green threads of one thread.

The test bodies stay as they are.  Only what their module calls ``thread``, ``threading``, ``queue``, ``time``,
``select``, ``sys`` and ``threading_helper`` is replaced by twins that wait cooperatively, and each test runs, set-up
and clean-ups included, as the first green thread of a loop of its own.
"""

import contextlib
import functools
import gc
import linecache
import signal
import sys
import threading
import time
import unittest
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

import jackfield
import jackfield.reactor
import jackfield.sync
from jackfield import GreenThread

# Bound of the wait for a test's client to end; CPython's tests give their threads about as long.
_END_OF_CLIENTS = 30.0

# Green threads of the test that runs.
_spawned: list[GreenThread] = []


class _Twin:
    """A module seen through a few replacements."""

    def __init__(self, original: ModuleType, **replacements: object) -> None:
        self.__dict__.update(replacements)
        self._original = original

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)


def put_in_place(module: ModuleType) -> None:
    """Replace, in the namespace of CPython's test module, whatever would hold the one thread."""
    names = vars(module)
    names["thread"] = _Twin(names["thread"], start_new_thread=_start_new_thread)
    names["threading"] = _Twin(names["threading"], Event=jackfield.sync.Event, Thread=_Thread)
    names["queue"] = _Twin(names["queue"], Queue=jackfield.sync.Queue)
    names["time"] = _Twin(names["time"], sleep=jackfield.sleep)
    names["select"] = _Twin(names["select"], select=_select)
    names["sys"] = _Twin(names["sys"], getrefcount=_getrefcount)
    names["threading_helper"] = _Twin(
        names["threading_helper"],
        wait_threads_exit=_wait_threads_exit,
        threading_setup=_threading_setup,
        threading_cleanup=_threading_cleanup,
    )


def run_as_green(test: unittest.TestCase) -> None:
    """Make *test*, when it is run, a green thread of a loop of its own."""
    test.run = functools.partial(_run, test, test.run)  # type: ignore[method-assign]


def _run(test: unittest.TestCase, run: Callable[[Any], Any], result: unittest.TestResult) -> None:
    _spawned.clear()
    try:
        jackfield.run(run, result)
    except BaseException:
        # What a signal handler raised, in the loop's frame: the test's own clean-ups did not run.
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        result.addError(test, sys.exc_info())
        result.stopTest(test)
        gc.collect()


def _spawn(fn: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> GreenThread:
    def body() -> None:
        # thread.exit() ends a thread without a word.
        with contextlib.suppress(SystemExit):
            fn(*args, **kwargs)

    green = jackfield.spawn(body)
    _spawned.append(green)
    return green


def _start_new_thread(fn: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any] | None = None) -> int:
    return id(_spawn(fn, args, kwargs or {}))


class _Thread:
    """The part of threading.Thread that test_socket uses."""

    def __init__(self, *, target: Callable[..., Any], args: Sequence[Any] = ()) -> None:
        self._target, self._args = target, args

    def start(self) -> None:
        self._green = _spawn(self._target, self._args, {})

    def join(self, timeout: float | None = None) -> None:
        self._green.join(timeout)


@contextlib.contextmanager
def _wait_threads_exit(timeout: float | None = None) -> Iterator[None]:
    try:
        yield
    finally:
        limit = _END_OF_CLIENTS if timeout is None else timeout
        left = [green for green in _spawned if not green.join(limit)]
        if left:
            raise AssertionError(f"still there {limit} s after the test: {left}")


def _threading_setup() -> tuple[()]:
    return ()


def _threading_cleanup() -> None:
    # One thread carried clients and servers.  The only others are the pool's, in which names are resolved.
    others = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
    strangers = [thread for thread in others if not thread.name.startswith("jackfield-offload")]
    if strangers:
        raise AssertionError(f"not on one thread: {strangers}")


def _select(
    readers: Sequence[Any], writers: Sequence[Any], others: Sequence[Any], timeout: float | None = None
) -> tuple[list[Any], list[Any], list[Any]]:
    # test_socket asks about one socket at a time.
    if len(readers) + len(writers) != 1 or others:
        raise NotImplementedError(f"this select() waits for one socket: {readers} {writers} {others}")
    try:
        if readers:
            jackfield.reactor.wait_readable(readers[0], timeout)
        else:
            jackfield.reactor.wait_writable(writers[0], timeout)
    except TimeoutError:
        return [], [], []
    return list(readers), list(writers), []


def _getrefcount(thing: object) -> int:
    """sys.getrefcount(), as soon as every thread in which names are resolved has let go of what it was given.

    concurrent.futures tells of the end of a call just before its thread drops the call and waits for the next one.
    """
    deadline = time.monotonic() + _END_OF_CLIENTS
    while time.monotonic() < deadline and not all(map(_rests, threading.enumerate())):
        jackfield.sleep(0.0005)
    return sys.getrefcount(thing)


def _rests(thread: threading.Thread) -> bool:
    """Whether it is no thread of the pool's, or stands in the line of the pool's loop that waits."""
    if not thread.name.startswith("jackfield-offload"):
        return True
    frame = sys._current_frames().get(thread.ident or 0)
    return frame is None or "get(block=True)" in linecache.getline(frame.f_code.co_filename, frame.f_lineno)
