"""Locks, events and queues that hold between green threads, threads and coroutines alike, at once.

The standard library's would stop the loop when a green thread waits, and asyncio's know neither threads nor a second
loop. One object of this package may be waited for by green threads of several loops, plain threads and coroutines at
the same time; who came first is served first, whatever it is. Make it anywhere, also before any loop runs.

The blocking methods are named as in :mod:`threading` and :mod:`queue`. A coroutine awaits the twin with ``a`` in front:
``aacquire``, ``aget``, ``aput``, ``ajoin``, and of ``wait`` and ``wait_for`` ``await_`` (``await`` itself is a keyword)
and ``await_for``; or it writes ``async with``. What does not have to wait may be called from anywhere. A blocking
method that would have to wait in a coroutine raises :class:`~jackfield.errors.MisuseError`, which shows the twin.

What is handed over is never lost: a waiter that is killed, cancelled or interrupted in the moment in which it was given
a lock, a permit, an item or a notification passes it on to the next; one whose time ran out in that moment keeps it.

A timeout is in seconds. Only :meth:`Event.set` may be called from a signal handler or a finalizer; the others share the
standard library's limit there: interrupted in the middle of an operation, they would wait for themselves.
"""

from .conditions import Condition, Event
from .locks import BoundedSemaphore, Lock, RLock, Semaphore
from .queues import Empty, Full, LifoQueue, PriorityQueue, Queue, ShutDown

__all__ = [
    "BoundedSemaphore",
    "Condition",
    "Empty",
    "Event",
    "Full",
    "LifoQueue",
    "Lock",
    "PriorityQueue",
    "Queue",
    "RLock",
    "Semaphore",
    "ShutDown",
]
