"""What a handler may leave on its thread, and whether it has left anything.

A new thread has nothing on it: no thread-local data, no trace function, no attribute that somebody set. CPython takes
all of that off a thread in one way only, by ending it. So a thread is used for another connection only while it can be
told that nothing is there.
"""

from __future__ import annotations

import functools
import gc
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any, ClassVar

from greenlet import getcurrent


class Traces:
    """Of one thread. Made on it, as ``thread``, before anything else runs there.

    Not seen are the thread's own properties in the kernel (signal mask, processors, priority) and what C code keeps for
    each thread in a way of its own. Who holds the Thread object is for the caller to count, whose frames hold it too.
    """

    #: Whether all this works on this interpreter; None before the first has tried.
    _can_tell: ClassVar[bool | None] = None

    def __init__(self, thread: threading.Thread) -> None:
        self._thread = thread
        self._name = thread.name
        self._attributes = frozenset(vars(thread))
        # The greenlet that every thread is to greenlet's users: some keep data by it as by a thread.
        self._green = getcurrent()
        # Python's own guard against endless repr()s puts a list there with the first list that is shown.
        repr([None])
        self._state = _thread_dict()
        self._own_local = threading.local()
        self._own_local.used = True
        self._sentinel = _sentinel_of(self._own_local)
        self._unused = self._count()
        if Traces._can_tell is None:
            Traces._can_tell = _thread_dict_getter() is not None and self._notices_a_local()

    def left(self) -> bool:
        """True if something was left, or nobody can tell. A name that was changed is put back instead."""
        thread = self._thread
        if not self._can_tell or self._count() != self._unused:
            return True
        if sys.gettrace() is not None or sys.getprofile() is not None or not vars(thread).keys() <= self._attributes:
            return True
        if thread.name != self._name:
            thread.name = self._name
        return False

    def _count(self) -> tuple[Any, ...]:
        """Numbers that are the same as long as nothing is left."""
        sentinel = self._sentinel()
        return (
            len(self._state),
            0 if sentinel is None else weakref.getweakrefcount(sentinel),
            # A WeakKeyDictionary by thread is somebody's thread-local data, too.
            weakref.getweakrefcount(self._thread),
            sys.getrefcount(self._green),
            weakref.getweakrefcount(self._green),
            len(vars(self._green)),
            sys.get_asyncgen_hooks(),
            sys.get_coroutine_origin_tracking_depth(),
        )

    def _notices_a_local(self) -> bool:
        """A trial with one: what is counted is the inside of an interpreter, and that of the next one may differ."""
        local = threading.local()
        local.used = True
        noticed = self._count() != self._unused
        del local
        return noticed and self._count() == self._unused


def _sentinel_of(local: threading.local) -> Callable[[], Any]:
    """A weak reference to the sentinel of this thread, whose only ``threading.local`` so far is ``local``.

    Since CPython 3.13 a thread has one such object, and each ``threading.local`` that is used on the thread a weak
    reference to it, in a set. Before, each local has an entry in the thread's dictionary.
    """
    for held in gc.get_referents(local):
        if isinstance(held, set):
            (watch,) = held
            return watch  # type: ignore[no-any-return]
    return lambda: None


def _thread_dict() -> dict[Any, Any]:
    """The dictionary in which CPython and extension modules keep what belongs to this thread."""
    get = _thread_dict_getter()
    if get is None:
        return {}
    import ctypes

    # A borrowed reference (PyThreadState_GetDict): the cast makes one of our own.
    return ctypes.cast(get(), ctypes.py_object).value  # type: ignore[no-any-return]


@functools.cache
def _thread_dict_getter() -> Callable[[], Any] | None:
    try:
        import ctypes

        return ctypes.PYFUNCTYPE(ctypes.c_void_p)(("PyThreadState_GetDict", ctypes.pythonapi))
    except (ImportError, AttributeError):
        return None  # built without ctypes, or no CPython
