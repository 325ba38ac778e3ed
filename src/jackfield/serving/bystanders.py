"""Bystanders: threads that a process has besides those of a server that forks in it.

A fork copies memory and one thread, the one that forks (fork(2)); POSIX promises a child of a process with others
nothing but functions that are async-signal-safe. What another thread had locked at that moment stays locked in the
child, for ever: a child that wants it hangs. CPython makes its own locks anew (``os.register_at_fork``), those of
``logging`` among them, and since 3.12 warns of it, by a DeprecationWarning that nobody is shown by default.
"""

from __future__ import annotations

import os
import threading

from .background import in_background

#: Threads of ours, by name, that run nothing of a user's and hold no lock of theirs.
OURS = frozenset({
    "jackfield-deadlines", "jackfield-farewell", "jackfield-pulse", "jackfield-reload", "jackfield-stopped",
    "jackfield-watchdog",
})  # fmt: skip

#: Modes whose serving thread itself runs no handler.
_RUN_ELSEWHERE = ("process", "thread")


class Bystanders:
    """Looks for them at each fork, on the thread that forks.

    Not counted: that thread, the main one, which is there beside any server in the background, and those of ours that
    run nothing of a user's.
    """

    def __init__(self) -> None:
        self._strangers: set[int] = set()

    def look(self) -> list[str]:
        """Their names. One that Python knows nothing of, such as a C library's, has none, and counts when it is there
        at two looks: one that has just ended for Python is still there for the kernel."""
        known = threading.enumerate()
        names = sorted(ascii(thread.name)[1:-1] for thread in known if self._counts(thread))
        # The main thread's number is the process's; in a forked one Python may still tell that of its parent's.
        numbers = {thread.native_id for thread in known} | {os.getpid(), threading.get_native_id()}
        if None in numbers:
            return names  # one that begins has no number yet, and is there for the kernel
        strangers = _tasks() - numbers
        names += [f"number {number}, not Python's" for number in sorted(strangers & self._strangers)]
        self._strangers = strangers
        return names

    def _counts(self, thread: threading.Thread) -> bool:
        if thread in (threading.current_thread(), threading.main_thread()) or thread.name in OURS:
            return False
        server = in_background.get(thread)
        return server is None or server.mode not in _RUN_ELSEWHERE


def _tasks() -> set[int]:
    """The threads of this process as the kernel counts them (proc(5)); none where it does not tell."""
    try:
        return {int(name) for name in os.listdir("/proc/self/task")}
    except OSError:
        return set()
