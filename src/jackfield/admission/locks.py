"""A lock that a fork does not leave locked."""

from __future__ import annotations

import os
import threading
import weakref

__all__ = ["Guarded"]


class Guarded:
    """Something whose state is changed under ``self._lock``.

    A fork copies only the thread that forks.  Where another thread held a lock at that moment, nobody is left in the
    child to let it go, and what it guards stays half changed (pthread_atfork(3)).  So whoever forks first takes the
    locks of all guarded objects, as the standard library's logging does, and the child begins with new ones.

    It is the reentrant kind, because Python runs signal handlers between two steps of the main thread: one that ends
    connections, or forks, while that thread holds the lock would wait for itself for ever.  What such a handler finds
    must then be right at every step; CPython 3.11 to 3.13 runs handlers only at calls and at jumps backwards, so state
    is changed in statements without either: ``counts[key] += 1``.
    """

    __slots__ = ("__weakref__", "_lock")

    def __init__(self) -> None:
        self._lock = threading.RLock()
        with _all_lock:
            _all.add(self)


_all: weakref.WeakSet[Guarded] = weakref.WeakSet()
_all_lock = threading.RLock()
_taken: list[Guarded] = []


def _before_fork() -> None:
    _all_lock.acquire()
    guarded = list(_all)
    for one in guarded:
        one._lock.acquire()
    _taken.extend(guarded)


def _after_in_parent() -> None:
    for one in _taken:
        one._lock.release()
    _taken.clear()
    _all_lock.release()


def _after_in_child() -> None:
    global _all_lock
    for one in _taken:
        one._lock = threading.RLock()
    _taken.clear()
    _all_lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
